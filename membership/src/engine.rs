//! The one door to membership: `handle(event, now)` gives effects. One task owns it; nothing here waits or looks at a
//! clock. Ages are counted in steady milliseconds, which advance with `now` but never by more than a step at once: a
//! clock that jumps, or a process that stood still, is no peer's silence.

mod accusations;
mod event;
mod fold;
mod following;
mod outgoing;
mod own;
mod receive;
mod sender;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use certs::{codec::Millis, id::NodeId, verify::Authority};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IteratorRandom};

pub use crate::dial::FULL_MESH;
pub use event::{Change, Config, Effect, Event, Lane, LinkId, Loss, Notice, Own};

use crate::{
    author::Author,
    body::{Body, Identity, Status},
    detector::{Detector, Order, Urgency, Verdict},
    dial::Dialer,
    fetch::{Fetch, NODES_PER_PULL},
    ledger::{Ledger, Now, table_interval},
    links::Links,
    message::{Latest, Message},
    notary::{Certificates, Notary},
    record::{Section, SignedRecord},
    rumor::{self, Audience, Rumor},
    statement::SUSPICIONS,
    view::View,
};

/// Longest time between ticks, in milliseconds; half of it while a member is being checked.
pub const TICK_MS: u64 = 50;
/// The most that one event may advance the steady time.
const STEP_MS: u64 = 250;
/// New members are stored within this time, and so are the first changes after a calm minute.
const PERSIST_MS: u64 = 2_000;
/// Other changes are stored no more often than this: a node that starts with what is a minute old, and finds nobody who knows
/// better, knows what its members said a minute ago. Proofs against members are stored at once.
const PERSIST_EACH_MS: u64 = 60_000;
/// What the gossip carrier is told gathers for this time.
const FEED_MS: u64 = 200;
/// How often round trips are copied into the View.
const RTT_MS: u64 = 1_000;
/// How often a node forgets what others said lately, and in a sparse mesh compares its judgements with those of one peer.
const COMPARE_MS: u64 = 10_000;
/// How often all records of one member are asked for because a peer holds others under the same number.
const DIFFERED_MS: u64 = 5_000;
/// How soon others hear that this node suspects somebody no more who told all that it lives.
const RETRACT_MS: u64 = 1_000;
/// How long a link is kept that nobody here needs.
const HOLD_MS: u64 = 10_000;
/// Time between the announcement of a link's end and the end.
const PARTING_MS: u64 = 500;
/// Peers that are asked what this node lacks.
const SUMMARIES: usize = 3;
/// New records a second that are taken of one member, and at once.
pub(crate) const ORIGIN_RECORDS: (u64, u64) = (50, 300);

/// See the module.
pub struct Engine {
    own: NodeId,
    author: Author,
    ledger: Ledger,
    view: Arc<View>,
    links: Links,
    detector: Detector,
    dialer: Dialer,
    rumor: Rumor,
    fetch: Fetch,
    senders: BTreeMap<NodeId, sender::Sender>,
    origins: BTreeMap<NodeId, sender::Origin>,
    /// Who said something of the moment, to be told at the end of a message.
    heard: BTreeSet<(NodeId, Section)>,
    random: StdRng,
    wall: Millis,
    steady: u64,
    tick_due: u64,
    table_due: u64,
    persist_due: Option<u64>,
    /// When it was stored last.
    persisted: Option<u64>,
    feed_due: Option<u64>,
    /// Whom a summary is still owed.
    owed: BTreeSet<NodeId>,
    rtt_due: u64,
    /// Whose round trips the View shows.
    measured: BTreeSet<NodeId>,
    accusations: accusations::Accusations,
    /// When this node says anew whom it suspects.
    suspicions_due: Option<u64>,
    /// Of whom peers spoke as alive, by which number, and when. It counts once a record of that number is held.
    spoken: BTreeMap<NodeId, ((u64, u64), u64)>,
    /// Whose newer signature the carrier brought, and when: it may be older than an accusation, or the answer to it.
    carried: BTreeMap<NodeId, ((u64, u64), u64)>,
    /// Of whom all records were asked for because a peer holds others under the same number, and when.
    differed: BTreeMap<NodeId, u64>,
    /// When the first link came up.
    met: Option<u64>,
    /// Whether it went on above an earlier run's generation: one run does so once.
    reran: bool,
    /// The longest audit chain that this node is known to have had in an earlier run.
    remembered: u64,
    compare_due: u64,
    /// Links that end soon because nobody here needs them.
    parting: Vec<(NodeId, LinkId, u64)>,
    dial_now: bool,
    leaving: bool,
    out: Vec<Effect>,
}

impl Engine {
    /// Starts with what the disk knew; the first effects come with the first event. `seed` must not be guessable.
    #[must_use]
    pub fn new(config: Config, own: Own, authority: Arc<Authority>, seed: u64, now: Millis) -> Engine {
        Engine::with_notary(config, own, authority, Arc::new(Certificates), seed, now)
    }

    /// The same, with another's word for what is signed and certified.
    #[must_use]
    pub fn with_notary(
        config: Config,
        own: Own,
        authority: Arc<Authority>,
        notary: Arc<dyn Notary>,
        seed: u64,
        now: Millis,
    ) -> Engine {
        let Config { trust_domain, peers, last_known } = config;
        let mut random = StdRng::seed_from_u64(seed);
        let detector = Detector::new(own.node.clone(), StdRng::seed_from_u64(random.random()));
        let (fetch, rumor, senders, origins, heard, view, out) = Default::default();
        let mut engine = Engine {
            author: Author::new(trust_domain, own.node.clone(), own.record_key, own.generation),
            ledger: Ledger::new(authority, notary),
            links: Links::new(own.node.clone()),
            dialer: Dialer::new(own.node.clone(), &peers),
            own: own.node,
            view,
            detector,
            rumor,
            fetch,
            senders,
            origins,
            heard,
            random,
            wall: now,
            steady: 1,
            tick_due: 1,
            table_due: 1 + table_interval(0),
            persist_due: None,
            persisted: None,
            feed_due: Some(0),
            owed: BTreeSet::new(),
            rtt_due: 0,
            measured: BTreeSet::new(),
            accusations: accusations::Accusations::default(),
            suspicions_due: None,
            spoken: BTreeMap::new(),
            carried: BTreeMap::new(),
            differed: BTreeMap::new(),
            met: None,
            reran: false,
            remembered: 0,
            compare_due: COMPARE_MS,
            parting: Vec::new(),
            dial_now: true,
            leaving: false,
            out,
        };
        let time = engine.now();
        engine.ledger.restore(&last_known, time);
        let known: Vec<NodeId> = engine.ledger.nodes().cloned().collect();
        for node in &known {
            engine.refresh(node);
        }
        let quarantined = engine.follow_quarantine().into_iter();
        engine.out.extend(quarantined.map(|node| Effect::Notice(Notice::Quarantined { node })));
        engine.publish(&Body::Identity(Identity { chain: own.identity }));
        engine.publish(&Body::Status(Status::Up));
        engine.persist_due = None;
        engine
    }

    /// The one door.
    pub fn handle(&mut self, event: Event, now: Millis) -> Vec<Effect> {
        let passed = now.saturating_sub(self.wall);
        self.steady += passed.min(STEP_MS);
        self.wall = now;
        self.detector.stood_still(passed, self.steady);
        match event {
            Event::LinkUp { node, link, dialled } => self.link_up(&node, link, dialled),
            Event::LinkDown { node, link } => self.link_down(&node, link),
            Event::DialFailed { node, address } => {
                self.dialer.failed(node.as_ref(), address, &mut self.random, self.steady);
                if let Some(node) = node.filter(|node| !self.links.linked().contains(node)) {
                    self.detector.refused(&node, self.steady);
                }
            }
            Event::Message { from, link, bytes } => self.receive(&from, link, &bytes),
            Event::DataFailure { node } => {
                let orders = self.detector.failed(&node, self.steady);
                self.obey(orders);
            }
            Event::Tick => self.tick(),
            Event::Publish(bodies) => bodies.iter().for_each(|body| self.publish(body)),
            Event::Authority(authority) => self.judge_by(authority),
            Event::Want(node) => {
                self.dialer.demand(&node, self.steady);
                self.dial_now = true;
            }
            Event::Peers(peers) => self.dialer.seeds(&peers, self.steady),
            Event::Gossip(outgoing) => self.gossip(outgoing),
            Event::Leaving => self.leave(),
        }
        self.settle();
        std::mem::take(&mut self.out)
    }

    /// What is handed over next has waited so long in this process, which is too slow to be a judge of others' silence.
    pub fn waited(&mut self, time: std::time::Duration) {
        let milliseconds = time.as_millis().try_into().unwrap_or(u64::MAX);
        self.detector.stood_still(milliseconds, self.steady);
    }

    /// How long after the last event `Tick` is due, in milliseconds.
    #[must_use]
    pub fn pause(&self) -> u64 {
        let due = [self.rumor.due(), self.fetch.due(), Some(self.tick_due)].into_iter().flatten().min();
        due.map_or(TICK_MS, |due| due.saturating_sub(self.steady)).max(1)
    }

    /// The same by the clock of the last event, for one that nobody sets.
    #[must_use]
    pub fn wake(&self) -> Millis {
        self.wall + self.pause()
    }

    /// All members as this node sees them now.
    #[must_use]
    pub fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// Members that tell at this time which policy they hold; what others told once may be old.
    pub fn speaking(&self) -> impl Iterator<Item = &NodeId> {
        self.ledger.speaking(self.now())
    }

    /// The highest number held of a member: what an accusation of it names.
    #[must_use]
    pub fn latest(&self, node: &NodeId) -> Option<Latest> {
        self.ledger.latest(node)
    }

    /// Members with an open link.
    #[must_use]
    pub fn linked(&self) -> usize {
        self.links.linked().len()
    }

    /// What is believed now.
    #[must_use]
    pub fn authority(&self) -> &Arc<Authority> {
        self.ledger.authority()
    }

    fn now(&self) -> Now {
        Now { wall: self.wall, steady: self.steady }
    }

    fn link_up(&mut self, node: &NodeId, link: LinkId, dialled: Option<std::net::SocketAddr>) {
        self.dialer.linked(node, dialled, self.steady);
        if *node == self.own {
            self.out.push(Effect::CloseLink { node: node.clone(), link });
            return;
        }
        if self.ledger.quarantined(node) {
            self.expel(node);
            // Its end is no link's: whoever configured its address dials it ever more rarely.
            return self.dialer.unlinked(node, &mut self.random, self.steady);
        }
        for link in self.links.up(node, link, dialled.is_some(), self.steady) {
            self.out.push(Effect::CloseLink { node: node.clone(), link });
        }
        self.met.get_or_insert(self.steady);
        self.sender(node).summarised = false;
        let orders = self.detector.linked(node, dialled.is_some(), self.steady);
        self.obey(orders);
        self.feed_soon();
        // It may run anew, on an older disk: what it said last says what it knew.
        if let Some(record) = self.ledger.records(node).and_then(|records| records.get(&Section::POLICY)) {
            let message = Message::Records(vec![record.bytes().to_vec()]);
            self.send(node, Lane::Rest, &message);
        }
        let own = self.author.records().filter(|record| record.section().base() != Section::SUSPICIONS);
        let own: Vec<Arc<SignedRecord>> = own.cloned().collect();
        for (peer, lane, bytes) in rumor::messages(node, &own) {
            self.send_bytes(&peer, lane, bytes);
        }
        self.summarise(node, true);
        let proofs: Vec<Message> = self.ledger.proofs().flat_map(receive::proof).collect();
        for proof in &proofs {
            self.send(node, Lane::Rest, proof);
        }
    }

    fn link_down(&mut self, node: &NodeId, link: LinkId) {
        let parted = self.links.is_parting(node, link);
        if self.links.down(node, link) {
            self.detector.unlinked(node, parted, self.steady);
            self.fetch.unlinked(node);
            self.dialer.unlinked(node, &mut self.random, self.steady);
            self.dial_now = true;
            self.feed_soon();
        }
    }

    fn tick(&mut self) {
        self.tick_due = self.steady + if self.detector.is_busy() { TICK_MS / 2 } else { TICK_MS };
        self.owed_summaries();
        self.detector.sparse(self.dialer.is_sparse());
        let orders = self.detector.tick(self.steady);
        self.obey(orders);
        self.dial_now = true;
        self.accusations_due();
        if self.dialer.is_sparse() {
            self.thin_out();
        }
        if self.steady >= self.compare_due {
            self.compare();
        }
        if self.steady >= self.table_due {
            // As its readers reckon: the View shows those that were evicted, too.
            let pause = table_interval(self.ledger.authority().grants.len());
            self.table_due = self.steady + pause - self.random.random_range(0..=pause / 10);
            self.own_table();
            if self.ledger.expired(self.wall) {
                self.judge_by(self.ledger.authority().clone());
            }
        }
        if self.steady >= self.rtt_due {
            self.rtt_due = self.steady + RTT_MS;
            self.copy_rtts();
        }
        if self.feed_due.is_some_and(|due| self.steady >= due) {
            self.feed_due = None;
            self.out.push(Effect::Feed);
        }
        if self.persist_due.is_some_and(|due| self.steady >= due) {
            self.persist();
        }
    }

    /// What follows from any event: whatever became due goes out.
    fn settle(&mut self) {
        if self.suspicions_due.is_some_and(|due| self.steady >= due) {
            self.suspicions_due = None;
            let suspected = self.detector.suspicions();
            let latest = suspected.iter().filter_map(|node| self.ledger.latest(node)).take(SUSPICIONS).collect();
            self.publish(&Body::Suspicions(latest));
            self.rumor.hasten();
        }
        let (own, linked, sparse) = (&self.own, self.links.linked(), self.dialer.is_sparse());
        let told = self.rumor.take(&Audience { own, linked, sparse }, &mut self.random, self.steady);
        for (peer, lane, bytes) in told {
            self.send_bytes(&peer, lane, bytes);
        }
        for (peer, nodes) in self.fetch.take(self.links.linked(), &mut self.random, self.steady) {
            for nodes in nodes.chunks(NODES_PER_PULL) {
                let wants = nodes.iter().map(|node| (node.clone(), self.ledger.lacking(node))).collect();
                self.send(&peer, Lane::Rest, &Message::Pull(wants));
            }
        }
        if std::mem::take(&mut self.dial_now) && !self.leaving {
            for (node, address) in self.dialer.tick(self.links.linked(), &mut self.random, self.steady) {
                self.out.push(Effect::Dial { node, address });
            }
        }
    }

    /// In a sparse mesh: ends links that nobody here needs.
    fn thin_out(&mut self) {
        let now = self.steady;
        for (node, link) in self.links.dialled(HOLD_MS, now) {
            if !self.dialer.wants(&node, now) && !self.links.is_parting(&node, link) {
                self.send_over(&node, link, Lane::Liveness, &Message::Parting);
                self.links.parting(&node, link);
                self.parting.push((node, link, now + PARTING_MS));
            }
        }
        let (due, later) = std::mem::take(&mut self.parting).into_iter().partition(|(_, _, due)| now >= *due);
        self.parting = later;
        let due: Vec<(NodeId, LinkId, u64)> = due;
        self.out.extend(due.into_iter().map(|(node, link, _)| Effect::CloseLink { node, link }));
    }

    /// Forgets what others said lately; in a sparse mesh compares judgements with a peer.
    fn compare(&mut self) {
        let now = self.steady;
        self.compare_due = now + COMPARE_MS - self.random.random_range(0..=COMPARE_MS / 4);
        self.spoken.retain(|_, (_, at)| now.saturating_sub(*at) < COMPARE_MS);
        self.carried.retain(|_, (_, at)| now.saturating_sub(*at) < COMPARE_MS);
        self.accusations.expire(now);
        self.differed.retain(|_, at| now.saturating_sub(*at) < DIFFERED_MS);
        if self.dialer.is_sparse()
            && let Some(peer) = self.links.linked().iter().choose(&mut self.random).cloned()
        {
            self.summarise(&peer, false);
        }
    }

    fn judge_by(&mut self, authority: Arc<Authority>) {
        let before = self.ledger.authority().clone();
        let now = self.now();
        let (changed, gone) = self.ledger.rejudge(authority, now);
        let own: Vec<Arc<SignedRecord>> = self.author.records().cloned().collect();
        for record in &own {
            self.offer_own(record);
        }
        let own = self.own.clone();
        for node in changed.iter().chain(&gone).chain([&own]) {
            self.refresh(node);
        }
        self.follow_quarantine();
        let authority = self.ledger.authority().clone();
        let strangers = self.links.linked().iter().filter(|node| !authority.grants.contains_key(*node));
        for node in strangers.cloned().collect::<Vec<_>>() {
            self.expel(&node);
        }
        if authority.grants.keys().any(|node| !before.grants.contains_key(node)) {
            let some = self.links.linked().iter().cloned().choose_multiple(&mut self.random, SUMMARIES);
            for peer in some {
                self.summarise(&peer, true);
            }
        }
        self.feed_soon();
    }

    fn obey(&mut self, orders: impl IntoIterator<Item = Order>) {
        for order in orders {
            match order {
                Order::Ping { to, nonce } => self.send(&to, Lane::Liveness, &Message::Ping(nonce)),
                Order::Ask { relay, target, nonce } => {
                    self.send(&relay, Lane::Liveness, &Message::Probe { nonce, target });
                }
                Order::Answer { to, target, nonce } => {
                    self.send(&to, Lane::Liveness, &Message::Probed { nonce, target, reached: true });
                }
                Order::Suspicions(urgency) => {
                    let due = self.steady + if urgency == Urgency::Now { 0 } else { RETRACT_MS };
                    self.suspicions_due = Some(self.suspicions_due.map_or(due, |earlier| earlier.min(due)));
                }
                Order::Dial(node) => {
                    self.dialer.demand(&node, self.steady);
                    self.dial_now = true;
                }
                Order::Judge(node, verdict) => {
                    self.dialer.judged(&node, verdict == Verdict::Dead, self.steady);
                    self.refresh(&node);
                }
            }
        }
    }

    fn feed_soon(&mut self) {
        self.feed_due.get_or_insert(self.steady + FEED_MS);
    }

    fn persist_soon(&mut self) {
        let earliest = self.persisted.map_or(0, |at| at + PERSIST_EACH_MS);
        self.persist_by((self.steady + PERSIST_MS).max(earliest));
    }

    fn persist_by(&mut self, due: u64) {
        self.persist_due = Some(self.persist_due.map_or(due, |earlier| earlier.min(due)));
    }

    fn persist(&mut self) {
        (self.persist_due, self.persisted) = (None, Some(self.steady));
        self.out.push(Effect::Persist(self.ledger.persist(&self.own)));
    }
}

#[cfg(test)]
mod tests;
