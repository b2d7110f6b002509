//! A certified member, or somebody over its link, who lies: only its own word suffers.

mod support;

use std::{collections::BTreeSet, sync::Arc};

use certs::{codec, id::NodeId};
use membership::{
    body::{Body, Identity, Services, Status},
    engine::{Change, Event, LinkId, Notice},
    message::{Latest, Message},
    record::{Section, SignedRecord, next_generation},
    view::MemberState,
};
use support::{
    sim::{Sim, service},
    world::{Citizen, World, grant},
};

/// Time after which a higher generation of one's own is a copy's, and not an earlier run's.
const SETTLED_MS: u64 = 10_000;

struct Scene {
    world: World,
    sim: Sim,
    citizens: Vec<Citizen>,
}

/// Four nodes; `n3` is the liar.
fn scene(seed: u64) -> Scene {
    let mut world = World::new();
    let citizens: Vec<Citizen> = (0..4).map(|index| world.citizen(&format!("n{index}"), 1)).collect();
    let mut sim = Sim::new(world.authority.clone(), seed);
    sim.start(&citizens[0], &[], Vec::new());
    let first = sim.address(&citizens[0].node);
    citizens[1..].iter().for_each(|citizen| sim.start(citizen, &[first], Vec::new()));
    sim.run(2_000);
    assert!(sim.whole());
    Scene { world, sim, citizens }
}

impl Scene {
    fn node(&self, index: usize) -> NodeId {
        self.citizens[index].node.clone()
    }

    /// The liar says something to everybody.
    fn say(&mut self, message: &Message) {
        let bytes: Arc<[u8]> = message.encode().into();
        let liar = self.node(3);
        for index in 0..3 {
            let to = self.node(index);
            if let Some(link) = self.sim.link(&liar, &to) {
                self.sim.send(&liar, &to, link, bytes.clone());
            }
        }
    }

    fn sign(
        &self,
        signer: usize,
        about: usize,
        generation: u64,
        section: Section,
        sequence: u64,
        body: &[u8],
    ) -> Vec<u8> {
        let (key, node) = (&self.citizens[signer].record_key, &self.citizens[about].node);
        let record =
            SignedRecord::sign(key, &self.world.trust_domain, node, generation, section, sequence, body.to_vec());
        record.expect("fits").bytes().to_vec()
    }

    /// The liar accuses 1 beyond all that it signed, and 0 below.
    fn accuse(&mut self, sequence: u64, generation: u64) {
        let accused = vec![
            Latest { node: self.node(1), generation, sequence: u64::MAX },
            Latest { node: self.node(0), generation: self.generation(0), sequence: 0 },
        ];
        let own = self.generation(3);
        let record = self.sign(3, 3, own, Section::SUSPICIONS, sequence, &codec::encode(&accused));
        self.say(&shared(vec![record]));
    }

    fn generation(&self, of: usize) -> u64 {
        self.sim.nodes[&self.node(0)].engine.view().member(&self.node(of)).expect("known").generation
    }

    /// Everybody but the liar is as before: alive, with its one service, at both honest others. What the liar believes is its own affair.
    fn unharmed(&self) {
        let liar = self.node(3);
        for at in 0..3 {
            for of in 0..3 {
                let (at, of) = (self.node(at), self.node(of));
                assert_eq!(self.sim.state(&at, &of), Some(MemberState::Alive), "{of} at {at}");
                assert_eq!(self.sim.served(&at, &of), 1, "services of {of} at {at}");
                let dead = Change::Dead(of.clone());
                let by: Vec<&NodeId> = self
                    .sim
                    .trace
                    .iter()
                    .filter(|(_, by, change)| *change == dead && *by != liar)
                    .map(|(_, by, _)| by)
                    .collect();
                assert_eq!(by, Vec::<&NodeId>::new(), "{of} was dead to them");
            }
        }
    }
}

fn services(names: &[&str]) -> Vec<u8> {
    let services: Vec<_> = names.iter().map(|name| service(name)).collect();
    codec::encode(&services)
}

fn shared(records: Vec<Vec<u8>>) -> Message {
    Message::Records(records)
}

#[test]
fn forged_records_of_others_change_nothing() {
    let mut scene = scene(1);
    let generation = scene.generation(1);
    let forged = [
        scene.sign(3, 1, generation, Section::SERVICES, 99, &services(&[])),
        scene.sign(3, 1, generation + 1, Section::STATUS, 99, &codec::encode(&Status::Left)),
        scene.sign(3, 1, generation, Section::TABLE, 99, &[0]),
        scene.sign(3, 1, u64::MAX, Section::TABLE, u64::MAX, &[0]),
        scene.sign(
            3,
            1,
            generation,
            Section::IDENTITY,
            99,
            &codec::encode(&Identity { chain: scene.citizens[3].chain.clone() }),
        ),
    ];
    for record in forged {
        scene.say(&shared(vec![record]));
        scene.sim.run(200);
    }
    scene.unharmed();
    let blamed = |notice: &Notice| matches!(notice, Notice::Misbehaved { node, .. } if *node == scene.node(3));
    assert!(scene.sim.notices.iter().any(|(_, notice)| blamed(notice)));
}

#[test]
fn a93_yesterdays_records_are_ignored() {
    let mut scene = scene(2);
    let generation = scene.generation(1);
    // What the node itself signed earlier, in this run and in one before.
    let replayed = vec![
        scene.sign(1, 1, generation, Section::SERVICES, 1, &services(&[])),
        scene.sign(1, 1, generation - (1 << 24), Section::STATUS, 900, &codec::encode(&Status::Left)),
        scene.sign(1, 1, generation - (1 << 24), Section::SERVICES, 901, &services(&[])),
    ];
    scene.say(&shared(replayed));
    scene.sim.run(1_000);
    scene.unharmed();
}

#[test]
fn services_and_accounts_beyond_the_grant_are_dropped() {
    let mut scene = scene(3);
    let liar = scene.node(3);
    let mut stolen = service("n3");
    stolen.account = "default/n1".parse().expect("valid");
    let services = vec![service("n1"), stolen, service("shared")];
    scene.sim.event(&liar, Event::Publish(vec![Body::Services(Services { services })]));
    scene.sim.run(500);
    scene.unharmed();
    for at in 0..3 {
        assert_eq!(scene.sim.served(&scene.node(at), &liar), 1, "only the shared one");
    }
}

#[test]
fn a94_a_generation_far_in_the_future_is_refused() {
    let mut scene = scene(4);
    let ahead = next_generation(0, 0, scene.sim.now + 400 * 86_400_000, 0);
    let record = scene.sign(3, 3, ahead, Section::STATUS, 1, &codec::encode(&Status::Left));
    scene.say(&shared(vec![record]));
    scene.sim.run(500);
    assert!(scene.sim.all_see(&scene.node(3), MemberState::Alive));
    scene.unharmed();
}

#[test]
fn a92_who_contradicts_itself_is_quarantined_everywhere() {
    let mut scene = scene(5);
    let liar = scene.node(3);
    let generation = scene.generation(3);
    // One half of the contradiction to each of two nodes.
    for (index, names) in [(0, &["n3"][..]), (1, &[][..])] {
        let record = scene.sign(3, 3, generation, Section::SERVICES, 500, &services(names));
        let bytes: Arc<[u8]> = shared(vec![record]).encode().into();
        let to = scene.node(index);
        let link = scene.sim.link(&liar, &to).expect("linked");
        scene.sim.send(&liar, &to, link, bytes);
    }
    let honest: Vec<NodeId> = (0..3).map(|index| scene.node(index)).collect();
    let took = scene.sim.run_until(10_000, |sim| honest.iter().all(|at| sim.state(at, &liar).is_none()));
    assert!(took.is_some_and(|took| took < 1_000), "{took:?}");
    scene.sim.run(5_000);
    scene.unharmed();
    assert!(honest.iter().all(|at| scene.sim.state(at, &liar).is_none()), "it must not come back");
    let is_out = |scene: &Scene, at: &NodeId| {
        let out = scene.sim.nodes[at].engine.view().quarantined().get(&liar).copied();
        out.map(|out| (out.epoch, out.generation, out.sequence))
    };
    assert!(honest.iter().all(|at| is_out(&scene, at) == Some((1, generation, 500))), "and is shown for what it is");
    // Who joins later is told; who is invited anew is a member again.
    let fresh = scene.world.citizen("fresh", 1);
    let tell = |scene: &mut Scene| {
        let authority = Arc::new(scene.world.authority.clone());
        for at in &honest {
            scene.sim.event(at, Event::Authority(authority.clone()));
        }
        scene.sim.authority = authority;
    };
    tell(&mut scene);
    let peers = [scene.sim.address(&honest[0])];
    scene.sim.start(&fresh, &peers, Vec::new());
    scene.sim.run(3_000);
    assert_eq!(scene.sim.state(&honest[2], &fresh.node), Some(MemberState::Alive));
    assert_eq!(scene.sim.state(&fresh.node, &liar), None);
    let again = scene.world.citizen("n3", 2);
    tell(&mut scene);
    scene.sim.start(&again, &peers, Vec::new());
    scene.sim.run(3_000);
    assert!(honest.iter().all(|at| scene.sim.state(at, &liar) == Some(MemberState::Alive)));
    assert!(honest.iter().all(|at| is_out(&scene, at).is_none()));
}

/// The same where nobody passes on what it was told: the two halves never meet but by repair.
#[test]
fn a92_who_contradicts_itself_is_found_by_repair_alone() {
    let mut scene = scene(15);
    let (liar, generation) = (scene.node(3), scene.generation(3));
    let mut asked: BTreeSet<(NodeId, NodeId)> = BTreeSet::new();
    let teller = liar.clone();
    scene.sim.tap = Some(Box::new(move |from, to, _, bytes| {
        match Message::decode(&bytes) {
            Ok(Some(Message::Pull(_))) => drop(asked.insert((from.clone(), to.clone()))),
            // Rumors are not heard; answers are.
            Ok(Some(Message::Records(_))) if *from != teller && !asked.contains(&(to.clone(), from.clone())) => {
                return None;
            }
            Ok(_) | Err(_) => {}
        }
        Some(bytes)
    }));
    for (index, names) in [(0, &["n3"][..]), (1, &[][..])] {
        let record = scene.sign(3, 3, generation, Section::SERVICES, 500, &services(names));
        let to = scene.node(index);
        let link = scene.sim.link(&liar, &to).expect("linked");
        scene.sim.send(&liar, &to, link, shared(vec![record]).encode().into());
    }
    let honest: Vec<NodeId> = (0..3).map(|index| scene.node(index)).collect();
    let took = scene.sim.run_until(20_000, |sim| honest.iter().all(|at| sim.state(at, &liar).is_none()));
    assert!(took.is_some_and(|took| took < 10_000), "{took:?}");
    scene.unharmed();
}

#[test]
fn a_made_up_proof_convicts_nobody() {
    let mut scene = scene(6);
    let generation = scene.generation(1);
    let one = scene.sign(3, 1, generation, Section::SERVICES, 500, &services(&["n1"]));
    let other = scene.sign(3, 1, generation, Section::SERVICES, 500, &services(&[]));
    scene.say(&Message::Proof(one, other));
    let one = scene.sign(1, 1, generation, Section::SERVICES, 500, &services(&["n1"]));
    let other = scene.sign(1, 1, generation, Section::SERVICES, 501, &services(&[]));
    scene.say(&Message::Proof(one.clone(), other));
    scene.say(&Message::Proof(one.clone(), one));
    scene.sim.run(500);
    scene.unharmed();
}

#[test]
fn accusations_kill_nobody_and_are_soon_ignored() {
    let mut scene = scene(7);
    let generation = scene.generation(1);
    for round in 0..200 {
        scene.accuse(1_000 + round, generation);
        scene.sim.run(20);
    }
    scene.unharmed();
    let before = scene.sim.sent;
    scene.sim.run(2_000);
    let quiet = scene.sim.sent - before;
    for round in 0..100 {
        scene.accuse(2_000 + round, generation);
        scene.sim.run(20);
    }
    let noisy = scene.sim.sent - before - quiet;
    assert!(noisy < quiet * 2 + 300 + 200, "{noisy} messages against {quiet}");
}

#[test]
fn lying_relays_do_not_keep_the_dead_alive_for_long() {
    let mut scene = scene(8);
    let victim = scene.node(1);
    scene.sim.kill(&victim);
    let honest = [scene.node(0), scene.node(2)];
    let generation = scene.generation(1);
    let mut took = 0;
    while !honest.iter().all(|at| scene.sim.state(at, &victim) == Some(MemberState::Dead)) {
        // Unasked answers, and a record that is older than the accusation.
        scene.say(&Message::Probed { nonce: 7, target: victim.clone(), reached: true });
        let old = scene.sign(1, 1, generation, Section::SERVICES, 1, &services(&["n1"]));
        scene.say(&shared(vec![old]));
        scene.sim.run(50);
        took += 50;
        assert!(took < 6_000);
    }
}

/// Ten thousand updates a second of one member: others' changes take at most twice as long as without.
#[test]
fn a95_a_flood_costs_others_nothing() {
    let mut scene = scene(9);
    let generation = scene.generation(3);
    let (mut sequence, mut services) = (1_000, 1);
    let node = scene.node(1);
    let all: Vec<NodeId> = (0..3).map(|index| scene.node(index)).collect();
    let mut spread = |scene: &mut Scene, floods: bool| {
        let mut sum = 0;
        for _ in 0..20 {
            if floods {
                let flood = (0..500).map(|_| {
                    sequence += 1;
                    scene.sign(3, 3, generation, Section::HEALTH, sequence, &[0])
                });
                let flood = shared(flood.collect());
                scene.say(&flood);
            }
            services = 3 - services;
            scene.sim.serve(&node, &["n1", "shared"][..services]);
            let took = scene.sim.run_until(1_000, |sim| all.iter().all(|at| sim.served(at, &node) == services));
            let took = took.expect("it comes");
            sum += took;
            scene.sim.run(50_u64.saturating_sub(took));
        }
        sum
    };
    let (quiet, flooded) = (spread(&mut scene, false), spread(&mut scene, true));
    assert!(quiet > 0 && flooded <= quiet * 2, "{flooded} ms with the flood, {quiet} without, over 20 changes");
    // Each node relays of the flood what one member may say, no more.
    assert!(scene.sim.sent < 20_000, "{}", scene.sim.sent);
}

#[test]
fn a89_unknown_names_cost_nothing_and_are_fetched_once_granted() {
    let mut scene = scene(10);
    let mut names = Vec::new();
    for index in 0..200 {
        let stranger = scene.world.issue(&grant(&format!("x{index}"), 1, &[], false));
        let key = &stranger.record_key;
        let body = codec::encode(&Identity { chain: stranger.chain.clone() });
        let (td, generation) = (&scene.world.trust_domain, scene.generation(0));
        let record = SignedRecord::sign(key, td, &stranger.node, generation, Section::IDENTITY, 1, body).expect("fits");
        scene.say(&shared(vec![record.bytes().to_vec()]));
        names.push(stranger.node);
    }
    scene.sim.run(1_000);
    scene.unharmed();
    assert_eq!(scene.sim.nodes[&scene.node(0)].engine.view().members().len(), 4);
    // A new node: it is everybody's member only where its grant has arrived, and fetched where it arrives late.
    let fresh = scene.world.citizen("fresh", 1);
    let late = scene.node(2);
    let authority = Arc::new(scene.world.authority.clone());
    for index in 0..2 {
        let node = scene.node(index);
        scene.sim.event(&node, Event::Authority(authority.clone()));
    }
    scene.sim.authority = authority.clone();
    let peers = [scene.sim.address(&scene.node(0))];
    scene.sim.start(&fresh, &peers, Vec::new());
    scene.sim.run(2_000);
    assert_eq!(scene.sim.state(&scene.node(0), &fresh.node), Some(MemberState::Alive));
    assert_eq!(scene.sim.state(&late, &fresh.node), None);
    scene.sim.event(&late, Event::Authority(authority));
    let took = scene.sim.run_until(3_000, |sim| sim.state(&late, &fresh.node) == Some(MemberState::Alive));
    // One peer is told what is held, and tells, once a second at most.
    assert!(took.is_some_and(|took| took < 1_500), "{took:?}");
}

#[test]
fn evicted_and_narrowed_nodes_lose_what_they_had() {
    let mut scene = scene(11);
    let (evicted, narrowed) = (scene.node(3), scene.node(2));
    scene.world.authority.revocations.evict(evicted.clone(), 1);
    scene.world.grant(&grant("n2", 1, &["default/shared"], false));
    let authority = Arc::new(scene.world.authority.clone());
    for index in 0..3 {
        let node = scene.node(index);
        scene.sim.event(&node, Event::Authority(authority.clone()));
    }
    scene.sim.authority = authority;
    scene.sim.run(10);
    for index in 0..2 {
        assert_eq!(scene.sim.state(&scene.node(index), &evicted), Some(MemberState::Evicted));
        assert_eq!(scene.sim.served(&scene.node(index), &evicted), 0);
        assert_eq!(scene.sim.served(&scene.node(index), &narrowed), 0);
    }
    scene.sim.run(10_000);
    assert_eq!(scene.sim.state(&scene.node(0), &evicted), Some(MemberState::Evicted));
    // Invited anew, with a higher epoch, it is back.
    let again = scene.world.citizen("n3", 2);
    let authority = Arc::new(scene.world.authority.clone());
    for index in 0..3 {
        let node = scene.node(index);
        scene.sim.event(&node, Event::Authority(authority.clone()));
    }
    scene.sim.authority = authority;
    let peers = [scene.sim.address(&scene.node(0))];
    scene.sim.start(&again, &peers, Vec::new());
    scene.sim.run(3_000);
    assert_eq!(scene.sim.state(&scene.node(1), &evicted), Some(MemberState::Alive));
    assert_eq!(scene.sim.served(&scene.node(1), &evicted), 1);
}

#[test]
fn a_copy_of_a_node_is_noticed_by_the_original() {
    let mut scene = scene(12);
    scene.sim.run(SETTLED_MS);
    let generation = scene.generation(1);
    let record = scene.sign(1, 1, generation + (5 << 24), Section::STATUS, 1, &codec::encode(&Status::Up));
    scene.say(&shared(vec![record]));
    scene.sim.run(100);
    let clone = (scene.node(1), Notice::Clone { generation: generation + (5 << 24) });
    assert!(scene.sim.notices.contains(&clone), "{:?}", scene.sim.notices);
    // Who does not hold the key cannot stop it so.
    let before = scene.sim.notices.len();
    let record = scene.sign(3, 0, scene.generation(0) + (5 << 24), Section::STATUS, 1, &codec::encode(&Status::Up));
    scene.say(&shared(vec![record]));
    scene.sim.run(100);
    let clones = scene.sim.notices[before..].iter().filter(|(_, notice)| matches!(notice, Notice::Clone { .. }));
    assert_eq!(clones.count(), 0);
}

#[test]
fn a_copy_that_others_met_is_told_to_the_original() {
    let mut scene = scene(14);
    scene.sim.run(SETTLED_MS);
    let generation = scene.generation(1) + (5 << 24);
    let record = scene.sign(1, 1, generation, Section::STATUS, 1, &codec::encode(&Status::Up));
    // Only one other node hears of the later one.
    let (liar, other) = (scene.node(3), scene.node(0));
    let link = scene.sim.link(&liar, &other).expect("they are linked");
    scene.sim.send(&liar, &other, link, shared(vec![record]).encode().into());
    scene.sim.run(100);
    let clone = (scene.node(1), Notice::Clone { generation });
    assert!(scene.sim.notices.contains(&clone), "{:?}", scene.sim.notices);
}

#[test]
fn no_bytes_panic() {
    let mut scene = scene(13);
    let (from, to) = (scene.node(3), scene.node(0));
    let mut bytes = Message::Ping(1).encode();
    for round in 0..2_000_usize {
        let index = round % bytes.len();
        bytes[index] = bytes[index].wrapping_add(u8::try_from(round % 251).expect("small"));
        if round % 7 == 0 {
            bytes.push(u8::try_from(round % 256).expect("small"));
        }
        let event = Event::Message { from: from.clone(), link: LinkId(1), bytes: bytes.clone() };
        scene.sim.event(&to, event);
    }
    for kind in 0..=12_u16 {
        for body in [vec![], vec![0xff; 40], vec![0xfd; 9]] {
            let envelope = codec::encode(&certs::codec::Envelope { version: 1, kind, body });
            scene.sim.event(&to, Event::Message { from: from.clone(), link: LinkId(1), bytes: envelope });
        }
    }
    scene.sim.run(500);
    scene.unharmed();
}
