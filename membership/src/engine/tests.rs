//! What one peer's messages cost this node, and what is kept of them.

use certs::{
    codec,
    id::TrustDomain,
    sign::{Digest, PublicKey},
    verify::NodeCaFacts,
};

mod accusations;
mod carried;
mod changes;
mod following;
mod later;
mod order;
mod runs;

use super::*;
use crate::{
    body::Policy,
    error::RecordError,
    message::Latest,
    notary::Certificates,
    testing::{Citizen, START, World},
};

/// Counts the signatures and paths that are checked.
#[derive(Debug, Default)]
struct Counting {
    signed: std::sync::atomic::AtomicU64,
    certified: std::sync::atomic::AtomicU64,
}

impl Notary for Counting {
    fn read(&self, bytes: &[u8]) -> Result<Arc<SignedRecord>, RecordError> {
        Certificates.read(bytes)
    }

    fn signed(&self, record: &SignedRecord, mesh: &TrustDomain, key: &PublicKey) -> Result<(), RecordError> {
        self.signed.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Certificates.signed(record, mesh, key)
    }

    fn certified(
        &self,
        node: &NodeId,
        chain: Vec<Vec<u8>>,
        authority: &Authority,
        now: Millis,
    ) -> Result<Arc<NodeCaFacts>, RecordError> {
        self.certified.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Certificates.certified(node, chain, authority, now)
    }
}

/// One engine, and a liar that is linked with it.
struct Scene {
    world: World,
    own: Citizen,
    liar: Citizen,
    other: Citizen,
    /// More members, of whom only what is brought is known.
    crowd: Vec<Citizen>,
    engine: Engine,
    notary: Arc<Counting>,
    now: Millis,
}

const GENERATION: u64 = (START / 1_000) << 24;

fn engine(world: &World, own: &Citizen, notary: Arc<Counting>, peers: Vec<std::net::SocketAddr>) -> Engine {
    let config = Config { trust_domain: world.trust_domain.clone(), peers, last_known: Vec::new() };
    let own = Own {
        node: own.node.clone(),
        record_key: own.record_key.clone(),
        generation: GENERATION,
        identity: own.chain.clone(),
    };
    Engine::with_notary(config, own, Arc::new(world.authority.clone()), notary, 1, START)
}

impl Scene {
    fn new() -> Scene {
        Scene::with(0)
    }

    /// A mesh of so many more.
    fn with(crowd: usize) -> Scene {
        let mut scene = Scene::made(Vec::new(), crowd);
        scene.link();
        scene
    }

    fn link(&mut self) {
        let node = self.liar.node.clone();
        self.event(Event::LinkUp { node, link: LinkId(1), dialled: None });
    }

    /// The same members beside an engine that knows none of them.
    fn again(&self) -> Scene {
        let mut scene = Scene::new();
        (scene.own, scene.liar, scene.other) = (self.own.clone(), self.liar.clone(), self.other.clone());
        scene.engine = engine(&self.world, &scene.own, scene.notary.clone(), Vec::new());
        scene.link();
        scene
    }

    /// Without a link, with configured addresses.
    fn seeded(peers: Vec<std::net::SocketAddr>) -> Scene {
        Scene::made(peers, 0)
    }

    fn made(peers: Vec<std::net::SocketAddr>, crowd: usize) -> Scene {
        let mut world = World::new();
        let (own, liar, other) = (world.citizen("a", 1), world.citizen("b", 1), world.citizen("c", 1));
        let crowd = (0..crowd).map(|number| world.citizen(&format!("x{number}"), 1)).collect();
        let notary = Arc::new(Counting::default());
        let engine = engine(&world, &own, notary.clone(), peers);
        Scene { world, own, liar, other, crowd, engine, notary, now: START }
    }
    fn event(&mut self, event: Event) -> Vec<Effect> {
        self.engine.handle(event, self.now)
    }

    /// The liar says something.
    fn tell(&mut self, message: &Message) -> Vec<Effect> {
        let from = self.liar.node.clone();
        self.event(Event::Message { from, link: LinkId(1), bytes: message.encode() })
    }

    fn pass(&mut self, milliseconds: u64) -> Vec<Effect> {
        let mut effects = Vec::new();
        for _ in 0..milliseconds / TICK_MS {
            self.now += TICK_MS;
            effects.extend(self.event(Event::Tick));
        }
        effects
    }

    /// What signs for a member.
    fn author(&self, of: &Citizen) -> Author {
        Author::new(self.world.trust_domain.clone(), of.node.clone(), of.record_key.clone(), GENERATION)
    }

    /// The liar brings what somebody says; gives the bytes that it takes, too.
    fn bring(&mut self, author: &mut Author, body: &Body) -> (Vec<Effect>, usize) {
        let records = author.publish(body).expect("fits");
        let message = Message::Records(records.iter().map(|record| record.bytes().to_vec()).collect());
        (self.tell(&message), message.encode().len())
    }

    /// Signed by the liar, whomever it speaks of.
    fn forge(&self, of: &NodeId, generation: u64, section: Section, sequence: u64, body: Vec<u8>) -> Vec<u8> {
        let (key, mesh) = (&self.liar.record_key, &self.world.trust_domain);
        let record = SignedRecord::sign(key, mesh, of, generation, section, sequence, body);
        record.expect("fits").bytes().to_vec()
    }

    fn checked(&self) -> (u64, u64) {
        let read = |count: &std::sync::atomic::AtomicU64| count.load(std::sync::atomic::Ordering::Relaxed);
        (read(&self.notary.signed), read(&self.notary.certified))
    }
}

#[test]
fn what_a_peer_shows_of_the_reader_itself_costs_the_peer_as_much_as_anything_else() {
    let mut scene = Scene::new();
    let before = scene.checked();
    let own = scene.own.node.clone();
    let digest = Digest::of(b"forged");
    for round in 1..=100_u64 {
        let forged = (1..=200).map(|number| {
            let policy = Policy {
                digest,
                count: 1,
                recent: Vec::new(),
                applied: digest,
                audit: (round * 1_000 + number, digest),
            };
            scene.forge(&own, GENERATION - (1 << 24), Section::POLICY, number, codec::encode(&policy))
        });
        let forged = Message::Records(forged.collect());
        scene.tell(&forged);
    }
    let checks = scene.checked().0 - before.0;
    assert!(checks <= sender::SENDER_RECORDS.1, "{checks} of 20,000");
}

#[test]
fn a_peer_that_pings_without_end_is_answered_at_a_rate_and_keeps_nobody_else_from_an_answer() {
    let mut scene = Scene::new();
    let (liar, other) = (scene.liar.node.clone(), scene.other.node.clone());
    scene.event(Event::LinkUp { node: other.clone(), link: LinkId(2), dialled: None });
    let acks = |effects: &[Effect], of: &NodeId| {
        let is_ack = |effect: &&Effect| {
            let Effect::Send { to, bytes, .. } = effect else { return false };
            to == of && matches!(Message::decode(bytes), Ok(Some(Message::Ack(_))))
        };
        effects.iter().filter(is_ack).count() as u64
    };
    let flood =
        |scene: &mut Scene| -> u64 { (0..50_000).map(|nonce| acks(&scene.tell(&Message::Ping(nonce)), &liar)).sum() };
    assert_eq!(flood(&mut scene), sender::SENDER_MESSAGES.1 + sender::SENDER_SMALL.1);
    scene.pass(1_000);
    assert_eq!(flood(&mut scene), sender::SENDER_MESSAGES.0 + sender::SENDER_SMALL.0);
    let bytes = Message::Ping(1).encode();
    let effects = scene.event(Event::Message { from: other.clone(), link: LinkId(2), bytes });
    assert_eq!(acks(&effects, &other), 1);
}

#[test]
fn certificates_cost_a_peer_more_than_signatures() {
    let mut scene = Scene::new();
    let liar = scene.liar.node.clone();
    let identity = Identity { chain: scene.liar.chain.clone() };
    let before = scene.checked();
    for round in 0..40_u64 {
        let told = (1..=500).map(|number| {
            let sequence = round * 500 + number;
            scene.forge(&liar, GENERATION, Section::IDENTITY, sequence, codec::encode(&identity))
        });
        let told = Message::Records(told.collect());
        scene.tell(&told);
    }
    let checks = scene.checked().1 - before.1;
    assert!(checks <= sender::SENDER_RECORDS.1 / 4, "{checks} of 20,000");
}

#[test]
fn names_that_nobody_granted_leave_nothing_behind() {
    let mut scene = Scene::new();
    let name = |kind: &str, number: usize| NodeId::new(&format!("{kind}{number}")).expect("valid");
    for number in 0..300 {
        let latest = |kind: &str| Latest { node: name(kind, number), generation: GENERATION, sequence: 9 };
        let record = scene.forge(&name("r", number), GENERATION, Section::STATUS, 1, codec::encode(&Status::Up));
        scene.tell(&Message::Records(vec![record]));
        scene.tell(&Message::Summary(vec![(latest("s"), true)]));
        scene.tell(&Message::Have(vec![latest("h")]));
        scene.tell(&Message::Probe { nonce: 1, target: name("p", number) });
    }
    let Engine { spoken, origins, carried, differed, senders, .. } = &scene.engine;
    let kept = [spoken.len(), origins.len(), carried.len(), differed.len(), senders.len()];
    assert!(kept.iter().all(|kept| *kept <= 2), "{kept:?}");
    // What a member says of itself is kept for a while only, in a full mesh, too.
    let liar = scene.liar.node.clone();
    let record = scene.forge(&liar, GENERATION, Section::STATUS, 1, codec::encode(&Status::Up));
    scene.tell(&Message::Records(vec![record]));
    assert_eq!(scene.engine.spoken.len(), 1);
    scene.pass(2 * COMPARE_MS + 1_000);
    assert_eq!(scene.engine.spoken.len(), 0);
}

#[test]
fn a_configured_address_of_one_that_is_quarantined_is_dialled_ever_more_rarely() {
    let seed: std::net::SocketAddr = ([10, 0, 0, 1], 1).into();
    let mut scene = Scene::seeded(vec![seed]);
    let (liar, identity) = (scene.liar.node.clone(), Identity { chain: scene.liar.chain.clone() });
    let told = [
        (Section::IDENTITY, 1, codec::encode(&identity)),
        (Section::STATUS, 2, codec::encode(&Status::Up)),
        (Section::STATUS, 2, codec::encode(&Status::Draining)),
    ];
    let told = told.map(|(section, sequence, body)| scene.forge(&liar, GENERATION, section, sequence, body));
    scene.event(Event::LinkUp { node: liar.clone(), link: LinkId(1), dialled: None });
    told.into_iter().for_each(|record| drop(scene.tell(&Message::Records(vec![record]))));
    assert!(scene.engine.ledger.quarantined(&liar));
    let (mut dials, mut link) = (0, 1);
    for _ in 0..2_000 {
        let effects = scene.pass(TICK_MS);
        for effect in effects {
            let Effect::Dial { address, .. } = effect else { continue };
            dials += 1;
            link += 1;
            scene.event(Event::LinkUp { node: liar.clone(), link: LinkId(link), dialled: Some(address) });
            scene.event(Event::LinkDown { node: liar.clone(), link: LinkId(link) });
        }
    }
    assert!((5..40).contains(&dials), "{dials} in 100 s");
    // One that starts on its disk knows it, and tells.
    let (world, own) = (&scene.world, &scene.own);
    let last_known = scene.engine.ledger.persist(&own.node);
    let config = Config { trust_domain: world.trust_domain.clone(), peers: Vec::new(), last_known };
    let (record_key, generation) = (own.record_key.clone(), GENERATION + 1);
    let own = Own { node: own.node.clone(), record_key, generation, identity: own.chain.clone() };
    let mut again = Engine::new(config, own, Arc::new(world.authority.clone()), 1, START);
    let told = again.handle(Event::Tick, START);
    assert!(told.contains(&Effect::Notice(Notice::Quarantined { node: liar.clone() })), "{told:?}");
    let out = again.view().quarantined().get(&liar).copied();
    assert_eq!(out.map(|out| (out.generation, out.sequence)), Some((GENERATION, 2)));
    assert_eq!(again.view().member(&liar), None);
}

#[test]
fn what_changes_all_the_time_is_not_written_all_the_time() {
    let mut scene = Scene::new();
    let identity = Identity { chain: scene.liar.chain.clone() };
    let mut author = scene.author(&scene.liar);
    scene.bring(&mut author, &Body::Identity(identity));
    let mut written = 0;
    for round in 0..150_u64 {
        let status = if round % 2 == 0 { Status::Draining } else { Status::Up };
        scene.bring(&mut author, &Body::Status(status));
        let effects = scene.pass(2_000);
        written += effects.iter().filter(|effect| matches!(effect, Effect::Persist(_))).count();
    }
    assert!((3..10).contains(&written), "{written} times in 300 s");
}
