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
    sim::{
        network::Network,
        population::{Citizen, Population},
    },
    view::MemberState,
};

const NODES: usize = 40;
const LIAR: usize = 7;
const VICTIM: usize = 20;

struct Scene {
    network: Network,
    citizens: Vec<Citizen>,
}

impl Scene {
    fn new(seed: u64) -> Scene {
        let Population { citizens, authority, notary } = Population::new(NODES, seed);
        let mut network = Network::with_notary(authority, notary, seed);
        network.latency = (1, 2);
        network.start(&citizens[0], &[], Vec::new());
        let first = [network.address(&citizens[0].node)];
        citizens[1..].iter().for_each(|citizen| network.start(citizen, &first, Vec::new()));
        network.run(15_000);
        let scene = Scene { network, citizens };
        assert!((0..NODES).all(|at| (0..NODES).all(|of| scene.state(at, of) == Some(MemberState::Alive))));
        scene
    }

    fn node(&self, number: usize) -> NodeId {
        self.citizens[number].node.clone()
    }

    fn state(&self, at: usize, of: usize) -> Option<MemberState> {
        self.network.state(&self.node(at), &self.node(of))
    }

    /// The liar says whom it accuses, each beyond all that it has signed.
    fn accuse(&mut self, accused: &[NodeId]) {
        let liar = self.node(LIAR);
        let generation = |node: &NodeId| self.network.nodes.get(node).map_or(9, |host| host.generation);
        let accused = accused.iter().map(|node| Latest {
            node: node.clone(),
            generation: generation(node),
            sequence: (1 << 40) + self.network.now,
        });
        let body = Body::Suspicions(accused.collect());
        self.network.event(&liar, Event::Publish(body));
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
    let (passed_on, liar) = (Arc::new(AtomicU64::new(0)), scene.node(LIAR));
    let counted = passed_on.clone();
    scene.network.tap = Some(Box::new(move |from, _, lane, bytes| {
        if *from != liar && lane == Lane::Liveness {
            counted.fetch_add(bytes.len() as u64, Relaxed);
        }
        Some(bytes)
    }));
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
