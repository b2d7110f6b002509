//! What nodes say of the moment: it reaches everybody at once and nothing that lasts, and who lies harms only itself.

mod support;

use std::sync::Arc;

use certs::{codec, id::NodeId};
use membership::{
    body::{Body, Status, Table},
    engine::{Event, Loss, Notice},
    message::Message,
    record::{Section, SignedRecord},
    statement::{DemandRecord, OUTLIERS, OutlierRecord, Statement},
    view::MemberState,
};
use support::{
    sim::Sim,
    world::{Citizen, World},
};

struct Scene {
    world: World,
    sim: Sim,
    citizens: Vec<Citizen>,
}

fn scene(seed: u64, count: usize) -> Scene {
    let mut world = World::new();
    let citizens: Vec<Citizen> = (0..count).map(|index| world.citizen(&format!("n{index}"), 1)).collect();
    let mut sim = Sim::new(world.authority.clone(), seed);
    sim.start(&citizens[0], &[], Vec::new());
    let first = sim.address(&citizens[0].node);
    citizens[1..].iter().for_each(|citizen| sim.start(citizen, &[first], Vec::new()));
    sim.run(3_000);
    assert!(sim.whole());
    Scene { world, sim, citizens }
}

fn outlier(node: &str, failures: u32) -> OutlierRecord {
    OutlierRecord {
        node: NodeId::new(node).expect("valid"),
        service: "default/reviews".parse().expect("valid"),
        instance: None,
        failures,
        requests: failures,
        latency_us: 0,
    }
}

impl Scene {
    fn node(&self, index: usize) -> NodeId {
        self.citizens[index].node.clone()
    }

    fn publish(&mut self, index: usize, body: Body) {
        let node = self.node(index);
        self.sim.event(&node, Event::Publish(vec![body]));
    }

    fn report(&mut self, index: usize, records: &[OutlierRecord]) {
        self.publish(index, Body::Outliers(records.to_vec()));
    }

    /// What one node heard last of another's requests.
    fn heard(&self, at: usize, of: usize) -> Option<Vec<OutlierRecord>> {
        heard(&self.sim, &self.node(at), &self.node(of))
    }

    fn generation(&self, of: usize) -> u64 {
        self.sim.nodes[&self.node(0)].engine.view().member(&self.node(of)).expect("known").generation
    }

    fn sign(&self, by: usize, generation: u64, section: Section, sequence: u64, body: Vec<u8>) -> Vec<u8> {
        let Citizen { record_key, node, .. } = &self.citizens[by];
        let record =
            SignedRecord::sign(record_key, &self.world.trust_domain, node, generation, section, sequence, body);
        record.expect("fits").bytes().to_vec()
    }

    /// Everybody who is linked with the liar hears it.
    fn say(&mut self, liar: usize, message: &Message) {
        let bytes: Arc<[u8]> = message.encode().into();
        let liar = self.node(liar);
        for citizen in self.citizens.clone() {
            if let Some(link) = self.sim.link(&liar, &citizen.node) {
                self.sim.send(&liar, &citizen.node, link, bytes.clone());
            }
        }
    }
}

fn heard(sim: &Sim, at: &NodeId, of: &NodeId) -> Option<Vec<OutlierRecord>> {
    match sim.nodes[at].heard.get(&(of.clone(), false))? {
        Statement::Outliers(parts) => Some(parts.iter().flat_map(|part| part.iter().cloned()).collect()),
        Statement::Demand(_) | Statement::Suspicions(_) => panic!("demand under the wrong heading"),
    }
}

#[test]
fn a_report_reaches_all_at_once_and_changes_nothing_that_lasts() {
    let mut scene = scene(1, 12);
    let nodes: Vec<NodeId> = (1..12).map(|index| scene.node(index)).collect();
    let views: Vec<_> = nodes.iter().map(|node| scene.sim.nodes[node].engine.view().clone()).collect();
    let (trace, persisted) = (scene.sim.trace.len(), scene.sim.nodes[&nodes[0]].persisted.clone());
    let expected = vec![outlier("n3", 1)];
    scene.report(0, &expected);
    let author = scene.node(0);
    let took = scene
        .sim
        .run_until(1_000, |sim| nodes.iter().all(|node| heard(sim, node, &author).as_deref() == Some(&expected[..])));
    assert!(took.is_some_and(|took| took <= 20), "{took:?}");
    // Everybody was told once, though several passed it on.
    scene.sim.run(4_000);
    assert!(nodes.iter().all(|node| scene.sim.nodes[node].told == 1));
    assert_eq!(scene.sim.trace.len(), trace, "no change of the View");
    let rtts_aside = |node: &NodeId, before: &Arc<membership::view::View>| {
        let now = scene.sim.nodes[node].engine.view();
        now.members().values().zip(before.members().values()).all(|(now, before)| {
            (&now.services, &now.health, now.generation, now.state)
                == (&before.services, &before.health, before.generation, before.state)
        })
    };
    assert!(nodes.iter().zip(&views).all(|(node, view)| rtts_aside(node, view)));
    assert_eq!(scene.sim.nodes[&nodes[0]].persisted, persisted, "nothing is stored");
    // Replaced whole, and emptied.
    for last in [vec![outlier("n5", 2), outlier("n6", 1)], vec![]] {
        scene.report(0, &last);
        scene.sim.run(100);
        assert!((1..12).all(|at| scene.heard(at, 0).as_deref() == Some(&last[..])));
    }
    // Demand stands beside it.
    let demand = DemandRecord { limit: [1; 16], demand: 5_000, given: vec![(author.clone(), 7)] };
    scene.publish(0, Body::Demand(vec![demand.clone()]));
    scene.sim.run(100);
    for node in &nodes {
        let told = scene.sim.nodes[node].heard.get(&(author.clone(), true));
        assert_eq!(told, Some(&Statement::Demand(vec![vec![demand.clone()].into()])));
    }
}

#[test]
fn parts_are_told_together() {
    let mut scene = scene(2, 4);
    let many: Vec<OutlierRecord> = (0..300).map(|index| outlier(&format!("x{index}"), 1)).collect();
    scene.report(0, &many);
    scene.sim.run(200);
    assert!((1..4).all(|at| scene.heard(at, 0).as_ref() == Some(&many)));
    scene.report(0, &many[..1]);
    scene.sim.run(200);
    assert!((1..4).all(|at| scene.heard(at, 0).as_deref() == Some(&many[..1])));
}

#[test]
fn who_is_linked_later_hears_the_latest() {
    let mut scene = scene(3, 3);
    scene.report(0, &[outlier("n1", 4)]);
    scene.sim.run(500);
    let late = scene.world.citizen("late", 1);
    let authority = Arc::new(scene.world.authority.clone());
    for index in 0..3 {
        let node = scene.node(index);
        scene.sim.event(&node, Event::Authority(authority.clone()));
    }
    scene.sim.authority = authority;
    let first = [scene.sim.address(&scene.node(1))];
    scene.sim.start(&late, &first, Vec::new());
    scene.sim.run(3_000);
    assert_eq!(heard(&scene.sim, &late.node, &scene.node(0)), Some(vec![outlier("n1", 4)]));
}

#[test]
fn it_ends_with_its_author_and_nobody_pulls_for_it() {
    let mut scene = scene(4, 4);
    for index in 0..3 {
        scene.report(index, &[outlier("n3", 2)]);
    }
    scene.sim.run(500);
    // One runs anew: what it said before is over, though it says nothing new.
    let (one, peers) = (scene.citizens[1].clone(), [scene.sim.address(&scene.node(0))]);
    scene.sim.kill(&one.node);
    scene.sim.run(1_000);
    scene.sim.start(&one, &peers, Vec::new());
    scene.sim.run(3_000);
    let lost = |scene: &Scene, of: usize| {
        let lost = scene.sim.nodes[&scene.node(3)].lost.iter();
        lost.filter(|(node, _)| *node == scene.node(of)).map(|(_, why)| *why).collect::<Vec<_>>()
    };
    assert!(matches!(lost(&scene, 1)[..], [Loss::Restarted] | [Loss::Dead, Loss::Restarted]), "{:?}", lost(&scene, 1));
    assert_eq!((scene.heard(3, 1), scene.heard(3, 0)), (None, Some(vec![outlier("n3", 2)])));
    // One leaves.
    let leaver = scene.node(2);
    scene.sim.event(&leaver, Event::Leaving);
    scene.sim.run(500);
    assert_eq!((lost(&scene, 2), scene.heard(3, 2)), (vec![Loss::Left], None));
    scene.sim.kill(&leaver);
    // One is cut off, and comes back with the same to say.
    let (cut, rest) = ([scene.node(0)], [scene.node(1), scene.node(3)]);
    scene.sim.part(&cut, &rest);
    scene.sim.run(20_000);
    assert_eq!(scene.sim.state(&rest[1], &cut[0]), Some(MemberState::Dead));
    assert_eq!((lost(&scene, 0), scene.heard(3, 0)), (vec![Loss::Dead], None));
    scene.sim.heal();
    let back = scene.sim.run_until(90_000, |sim| sim.state(&rest[1], &cut[0]) == Some(MemberState::Alive));
    assert!(back.is_some());
    scene.sim.run(100);
    assert_eq!(scene.heard(3, 0), Some(vec![outlier("n3", 2)]));
    // One is evicted.
    scene.world.authority.revocations.evict(cut[0].clone(), 1);
    let authority = Arc::new(scene.world.authority.clone());
    scene.sim.event(&rest[1], Event::Authority(authority));
    assert_eq!((lost(&scene, 0), scene.heard(3, 0)), (vec![Loss::Dead, Loss::Evicted], None));
}

/// That a member is out of reach is not its end: who keeps something for it must hear of the end, too.
#[test]
fn the_end_of_a_dead_member_is_told() {
    let mut scene = scene(10, 4);
    let at = scene.node(3);
    let lost = |scene: &Scene, of: &NodeId| {
        let lost = scene.sim.nodes[&at].lost.iter();
        lost.filter(|(node, _)| node == of).map(|(_, why)| *why).collect::<Vec<_>>()
    };
    let dies = |scene: &mut Scene, of: &NodeId| {
        scene.sim.kill(of);
        let dead = scene.sim.run_until(30_000, |sim| sim.state(&at, of) == Some(MemberState::Dead));
        assert!(dead.is_some());
        assert_eq!(lost(scene, of), [Loss::Dead]);
    };
    // One runs anew.
    let (one, peers) = (scene.citizens[1].clone(), [scene.sim.address(&scene.node(0))]);
    dies(&mut scene, &one.node);
    scene.sim.start(&one, &peers, Vec::new());
    let back = scene.sim.run_until(90_000, |sim| sim.state(&at, &one.node) == Some(MemberState::Alive));
    assert!(back.is_some());
    assert_eq!(lost(&scene, &one.node), [Loss::Dead, Loss::Restarted]);
    // One is evicted.
    let two = scene.node(2);
    dies(&mut scene, &two);
    scene.world.authority.revocations.evict(two.clone(), 1);
    let authority = Arc::new(scene.world.authority.clone());
    scene.sim.event(&at, Event::Authority(authority));
    assert_eq!(lost(&scene, &two), [Loss::Dead, Loss::Evicted]);
    scene.sim.run(5_000);
    assert_eq!(lost(&scene, &two), [Loss::Dead, Loss::Evicted], "told once");
}

/// A node left on the other side of a split; on this side it died first.
#[test]
fn a_dead_member_that_left_is_told_to_have_left() {
    let mut scene = scene(11, 4);
    let (rest, leaver) = ([scene.node(2), scene.node(3)], scene.node(1));
    let sides = [scene.node(0), leaver.clone()];
    scene.sim.part(&sides, &rest);
    let dead = scene.sim.run_until(30_000, |sim| sim.state(&rest[1], &leaver) == Some(MemberState::Dead));
    assert!(dead.is_some());
    scene.sim.event(&leaver, Event::Leaving);
    scene.sim.run(500);
    scene.sim.kill(&leaver);
    scene.sim.heal();
    let left = scene.sim.run_until(90_000, |sim| sim.state(&rest[1], &leaver) == Some(MemberState::Left));
    assert!(left.is_some());
    let lost: Vec<Loss> =
        scene.sim.nodes[&rest[1]].lost.iter().filter(|(node, _)| *node == leaver).map(|(_, why)| *why).collect();
    assert_eq!(lost, [Loss::Dead, Loss::Left]);
}

#[test]
fn a_table_that_lists_it_makes_nobody_ask_for_it() {
    let mut scene = scene(5, 4);
    let generation = scene.generation(3);
    scene.sim.run(5_000);
    let quiet = scene.sim.sent;
    scene.sim.run(5_000);
    let quiet = scene.sim.sent - quiet;
    let held = [Section::IDENTITY, Section::ADDRESS, Section::STATUS, Section::SERVICES, Section::OUTLIERS];
    let entries =
        held.into_iter().map(|section| (section, if section == Section::OUTLIERS { 700 } else { 1 })).collect();
    let record = scene.sign(3, generation, Section::TABLE, 800, codec::encode(&Table { entries }));
    let noisy = scene.sim.sent;
    scene.say(3, &Message::Records(vec![record]));
    scene.sim.run(5_000);
    assert!(scene.sim.sent - noisy < quiet * 11 / 10 + 40, "{} against {quiet}", scene.sim.sent - noisy);
}

/// Counts that no requests give, endpoints of nodes that nobody knows, too many of them, another's name.
#[test]
fn lies_are_refused_or_stand_under_the_liars_name() {
    let mut scene = scene(6, 4);
    let generation = scene.generation(3);
    let bad = [
        codec::encode(&vec![OutlierRecord { requests: 0, ..outlier("n1", u32::MAX) }]),
        codec::encode(&vec![OutlierRecord { failures: 0, requests: 0, ..outlier("n", 0) }; OUTLIERS + 1]),
        vec![0xff; 900],
    ];
    for (sequence, body) in (900..).zip(bad) {
        let record = scene.sign(3, generation, Section::OUTLIERS, sequence, body);
        scene.say(3, &Message::Records(vec![record]));
    }
    let demand = DemandRecord { limit: [0; 16], demand: u64::MAX, given: vec![] };
    let record = scene.sign(3, generation, Section::DEMAND, 950, codec::encode(&vec![demand]));
    scene.say(3, &Message::Records(vec![record]));
    // In the name of another, and by its own key under another's name.
    let Citizen { node, .. } = &scene.citizens[1];
    let forged = SignedRecord::sign(
        &scene.citizens[3].record_key,
        &scene.world.trust_domain,
        node,
        scene.generation(1),
        Section::OUTLIERS,
        960,
        codec::encode(&vec![outlier("n2", 9)]),
    );
    scene.say(3, &Message::Records(vec![forged.expect("fits").bytes().to_vec()]));
    scene.sim.run(500);
    assert!((0..3).all(|at| scene.sim.nodes[&scene.node(at)].heard.is_empty()));
    let liar = scene.node(3);
    let blamed = |notice: &Notice| matches!(notice, Notice::Misbehaved { node, .. } if *node == liar);
    assert!(scene.sim.notices.iter().any(|(_, notice)| blamed(notice)));
    // What is well formed is told as the liar's word, whomever it accuses.
    let accused = vec![outlier("n1", u32::MAX), outlier("nobody", 1)];
    scene.report(3, &accused);
    scene.sim.run(500);
    let record = scene.sign(3, generation, Section::OUTLIERS, 990, codec::encode(&accused));
    scene.say(3, &Message::Records(vec![record]));
    scene.sim.run(500);
    assert!((0..3).all(|at| scene.heard(at, 3).as_ref() == Some(&accused)));
    assert!((0..3).all(|at| scene.sim.state(&scene.node(at), &scene.node(1)) == Some(MemberState::Alive)));
}

#[test]
fn an_old_word_does_not_come_back() {
    let mut scene = scene(7, 4);
    let generation = scene.generation(0);
    scene.report(0, &[outlier("n1", 1)]);
    scene.sim.run(100);
    let old = [(generation, 1), (generation - (1 << 24), 9_999)];
    for (generation, sequence) in old {
        let record = scene.sign(0, generation, Section::OUTLIERS, sequence, codec::encode(&vec![outlier("n2", 9)]));
        scene.say(3, &Message::Records(vec![record]));
        scene.sim.run(100);
    }
    assert!((1..3).all(|at| scene.heard(at, 0) == Some(vec![outlier("n1", 1)])));
    // Of a heading under which this run has said nothing.
    let record =
        scene.sign(0, generation - (1 << 24), Section::DEMAND, 9_999, codec::encode(&Vec::<DemandRecord>::new()));
    scene.say(3, &Message::Records(vec![record]));
    scene.sim.run(100);
    assert!((1..3).all(|at| scene.sim.nodes[&scene.node(at)].heard.len() == 1));
}

#[test]
fn two_words_under_one_number_convict() {
    let mut scene = scene(8, 4);
    let generation = scene.generation(3);
    for node in ["n1", "n2"] {
        let record = scene.sign(3, generation, Section::OUTLIERS, 900, codec::encode(&vec![outlier(node, 1)]));
        scene.say(3, &Message::Records(vec![record]));
    }
    scene.sim.run(1_000);
    let liar = scene.node(3);
    assert!((0..3).all(|at| scene.sim.state(&scene.node(at), &liar).is_none()));
    assert!((0..3).all(|at| scene.sim.nodes[&scene.node(at)].lost.contains(&(liar.clone(), Loss::Gone))));
}

/// A liar says ten times what a member may: its own word comes late, others' does not.
#[test]
fn a_flood_harms_only_its_author() {
    let mut scene = scene(9, 5);
    let generation = scene.generation(4);
    let mut sequence = 1_000;
    for round in 0..12 {
        let flood: Vec<Vec<u8>> = (0..40)
            .map(|index| {
                sequence += 1;
                let section = Section(Section::OUTLIERS.0 + index % Section::PARTS);
                scene.sign(4, generation, section, sequence, codec::encode(&vec![outlier("n1", 1); 40]))
            })
            .collect();
        scene.say(4, &Message::Records(flood));
        if round == 8 {
            let expected = vec![outlier("n2", 1)];
            scene.report(0, &expected);
            let (author, nodes) = (scene.node(0), [scene.node(1), scene.node(2), scene.node(3)]);
            let took = scene.sim.run_until(1_000, |sim| {
                nodes.iter().all(|node| heard(sim, node, &author).as_deref() == Some(&expected[..]))
            });
            assert!(took.is_some_and(|took| took < 50), "{took:?}");
        }
        scene.sim.run(100);
    }
    // However much comes, each message is told once.
    let told = scene.sim.nodes[&scene.node(1)].told;
    assert!(told <= 12 * 4 + 300 / 40 + 10, "{told}");
    assert!((0..4).all(|at| scene.sim.state(&scene.node(at), &scene.node(1)) == Some(MemberState::Alive)));
    // Its own status is what now comes late.
    scene.publish(4, Body::Status(Status::Draining));
    scene.sim.run(5_000);
    assert!(scene.sim.whole());
}
