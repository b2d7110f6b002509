//! Accusations where most members have no link with most: one liar hides no death, makes nobody dead, and costs others little.

mod support;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use certs::id::NodeId;
use membership::{
    body::Body,
    engine::{Change, Event, Lane},
    message::{Latest, Message},
    record::SignedRecord,
    sim::{network::Network, population::Citizen},
    view::MemberState,
};
use support::crowd::crowd;

const NODES: usize = 40;
const LIAR: usize = 7;
const VICTIM: usize = 20;

struct Scene {
    network: Network,
    citizens: Vec<Citizen>,
    /// By how much accusations name more than the accused has signed.
    beyond: u64,
}

impl Scene {
    fn new(seed: u64) -> Scene {
        let (network, citizens) = crowd(NODES, NODES, seed);
        Scene { network, citizens, beyond: 0 }
    }

    fn node(&self, number: usize) -> NodeId {
        self.citizens[number].node.clone()
    }

    fn state(&self, at: usize, of: usize) -> Option<MemberState> {
        self.network.state(&self.node(at), &self.node(of))
    }

    /// The liar says whom it accuses, each by what it signed last.
    fn accuse(&mut self, accused: &[NodeId]) {
        self.accuse_as(LIAR, accused);
    }

    fn accuse_as(&mut self, liar: usize, accused: &[NodeId]) {
        let signed = |node: &NodeId| self.network.nodes.get(node)?.engine.latest(node);
        let accused = accused.iter().map(|node| {
            let signed =
                signed(node).unwrap_or(Latest { node: node.clone(), generation: 9, sequence: self.network.now });
            Latest { sequence: signed.sequence + self.beyond, ..signed }
        });
        let body = Body::Suspicions(accused.collect());
        self.network.event(&self.node(liar), Event::Publish(vec![body]));
    }

    /// Liars accuse all others, five times a second.
    fn lie(&mut self, liars: &[usize], milliseconds: u64) {
        let all: Vec<NodeId> = (0..NODES).map(|number| self.node(number)).collect();
        for _ in 0..milliseconds / 200 {
            for liar in liars {
                let others: Vec<NodeId> = all.iter().filter(|node| **node != self.node(*liar)).cloned().collect();
                self.accuse_as(*liar, &others);
            }
            self.network.run(200);
        }
    }

    /// Counts what all but the liar send, most urgent or not.
    fn count(&mut self, most: Lane) -> Arc<AtomicU64> {
        let (counted, liar) = (Arc::new(AtomicU64::new(0)), self.node(LIAR));
        let count = counted.clone();
        self.network.tap = Some(Box::new(move |from, _, lane, bytes| {
            if *from != liar && lane <= most {
                count.fetch_add(bytes.len() as u64, Relaxed);
            }
            Some(bytes)
        }));
        counted
    }

    /// Everybody but the liar and the victim.
    fn honest(&self) -> Vec<usize> {
        (0..NODES).filter(|number| ![LIAR, VICTIM].contains(number)).collect()
    }

    fn deaths(&self, since: u64) -> Vec<(NodeId, NodeId)> {
        let later = self.network.trace.iter().filter(|(at, _, _)| *at >= since);
        let deaths = later.filter_map(|(_, by, change)| {
            let Change::Dead(of) = change else { return None };
            (*by != self.node(LIAR)).then(|| (by.clone(), of.clone()))
        });
        deaths.collect()
    }
}

#[test]
fn who_takes_back_what_it_said_hides_no_death() {
    let mut scene = Scene::new(1);
    let victim = scene.node(VICTIM);
    assert!(scene.network.link(&scene.node(LIAR), &victim).is_none(), "or it would judge by itself");
    scene.network.kill(&victim);
    for _ in 0..4 {
        scene.accuse(std::slice::from_ref(&victim));
        scene.network.run(350);
        scene.accuse(&[]);
        scene.network.run(350);
    }
    let alive: Vec<usize> =
        scene.honest().into_iter().filter(|at| scene.state(*at, VICTIM) != Some(MemberState::Dead)).collect();
    assert!(alive.is_empty(), "not dead at {alive:?}");
}

#[test]
fn who_accuses_all_makes_nobody_dead_where_repair_is_slow() {
    let mut scene = Scene::new(2);
    // What is not urgent and not from its author is late, because somebody has filled the queues with it.
    scene.network.tap = Some(Box::new(|from, _, lane, bytes| match Message::decode(&bytes) {
        Ok(Some(Message::Records(records))) if lane > Lane::Health => {
            let own = |bytes: &Vec<u8>| SignedRecord::decode(bytes).is_ok_and(|record| record.node() == from);
            records.iter().all(own).then_some(bytes)
        }
        Ok(Some(Message::Have(_) | Message::Carrier(_))) => None,
        Ok(_) | Err(_) => Some(bytes),
    }));
    let (since, all) = (scene.network.now, (0..NODES).map(|number| scene.node(number)).collect::<Vec<_>>());
    let others: Vec<NodeId> = all.into_iter().filter(|node| *node != scene.node(LIAR)).collect();
    for _ in 0..20 {
        scene.accuse(&others);
        scene.network.run(200);
    }
    assert_eq!(scene.deaths(since), []);
}

#[test]
fn accusing_those_who_cannot_answer_costs_the_accuser_alone() {
    let mut scene = Scene::new(3);
    let victim = scene.node(VICTIM);
    scene.network.kill(&victim);
    scene.network.run(10_000);
    let passed_on = scene.count(Lane::Liveness);
    scene.network.run(4_000);
    let quiet = passed_on.swap(0, Relaxed);
    let mut named: Vec<NodeId> =
        (0..100).map(|number| NodeId::new(&format!("nobody-of-this-mesh-{number}")).expect("valid")).collect();
    named.push(victim);
    for _ in 0..200 {
        scene.accuse(&named);
        scene.network.run(20);
    }
    let noisy = passed_on.load(Relaxed);
    assert!(noisy < quiet * 2, "{noisy} bytes against {quiet}");
}

#[test]
fn one_that_accuses_all_all_the_time_costs_all_others_less_than_rest_does() {
    for beyond in [0, 1 << 40] {
        let mut scene = Scene::new(4);
        scene.beyond = beyond;
        let liar = scene.node(LIAR);
        for other in scene.honest() {
            let other = scene.node(other);
            scene.network.event(&liar, Event::Want(other));
        }
        scene.network.run(5_000);
        let sent = scene.count(Lane::Rest);
        scene.network.run(15_000);
        let (quiet, since) = (sent.swap(0, Relaxed), scene.network.now);
        // All answer it at first, and once they have nobody listens to it.
        scene.lie(&[LIAR], 5_000);
        let first = sent.swap(0, Relaxed);
        scene.lie(&[LIAR], 15_000);
        let noisy = sent.load(Relaxed);
        assert!(first < quiet * 3 && noisy < quiet * 2, "{first}, then {noisy} bytes against {quiet}, {beyond} beyond");
        assert_eq!(scene.deaths(since), []);
    }
}

#[test]
fn what_was_said_before_a_node_started_makes_nobody_dead_there() {
    let mut scene = Scene::new(5);
    let (since, node) = (scene.network.now, scene.node(5));
    let others: Vec<NodeId> = (0..NODES).filter(|number| *number != LIAR).map(|number| scene.node(number)).collect();
    scene.accuse(&others);
    scene.network.run(3_000);
    restart(&mut scene, 5);
    scene.network.run(10_000);
    let deaths: Vec<(NodeId, NodeId)> = scene.deaths(since).into_iter().filter(|(_, of)| *of != node).collect();
    assert_eq!(deaths, []);
}

#[test]
fn some_who_lie_make_nobody_dead_to_one_that_starts_meanwhile() {
    let mut scene = Scene::new(6);
    let liars: Vec<usize> = [LIAR].into_iter().chain(36..NODES).collect();
    let (since, node) = (scene.network.now, scene.node(5));
    scene.lie(&liars, 4_000);
    restart(&mut scene, 5);
    scene.lie(&liars, 5_000);
    let liars: Vec<NodeId> = liars.iter().map(|number| scene.node(*number)).collect();
    let deaths = scene.deaths(since).into_iter().filter(|(by, of)| *of != node && !liars.contains(by));
    assert_eq!(deaths.collect::<Vec<_>>(), []);
}

#[test]
fn no_number_of_accusers_makes_those_dead_who_answer() {
    for liars in [13, 26] {
        let mut scene = Scene::new(8);
        let (since, liars) = (scene.network.now, (NODES - liars..NODES).collect::<Vec<usize>>());
        scene.lie(&liars, 8_000);
        let liars: Vec<NodeId> = liars.iter().map(|number| scene.node(*number)).collect();
        let deaths = scene.deaths(since).into_iter().filter(|(by, _)| !liars.contains(by));
        assert_eq!(deaths.collect::<Vec<_>>(), []);
    }
}

fn restart(scene: &mut Scene, number: usize) {
    let (citizen, first) = (scene.citizens[number].clone(), scene.network.address(&scene.node(0)));
    scene.network.kill(&citizen.node);
    let disk = scene.network.nodes[&citizen.node].persisted.clone();
    scene.network.start(&citizen, &[first], disk);
}

#[test]
fn one_that_stands_still_again_and_again_is_left_more_time() {
    let mut scene = Scene::new(7);
    let victim = scene.node(VICTIM);
    let mut deaths = Vec::new();
    for _ in 0..12 {
        let since = scene.network.now;
        scene.network.pause(&victim, 1_000);
        scene.network.run(5_000);
        deaths.push(scene.deaths(since).len());
    }
    assert!(deaths[0] > 0, "{deaths:?}");
    assert_eq!(deaths[5..], [0; 7], "{deaths:?}");
    scene.network.kill(&victim);
    scene.network.run(20_000);
    assert_eq!(alive(&scene), [], "it was left more time, and is dead");
}

fn alive(scene: &Scene) -> Vec<usize> {
    scene.honest().into_iter().filter(|at| scene.state(*at, VICTIM) != Some(MemberState::Dead)).collect()
}

/// Whoever watches it was wrong about it three times.
#[test]
fn one_that_stood_still_three_times_and_dies_is_seen_dead() {
    for (seed, milliseconds) in [(7, 450), (8, 600), (9, 750)] {
        let mut scene = Scene::new(seed);
        let victim = scene.node(VICTIM);
        for _ in 0..3 {
            scene.network.pause(&victim, milliseconds);
            scene.network.run(8_000);
        }
        scene.network.kill(&victim);
        scene.network.run(15_000);
        assert_eq!(alive(&scene), [], "seed {seed}, {milliseconds} ms");
    }
}
