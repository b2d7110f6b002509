//! What one member says of others in a mesh in which most have no link with most: reasons to look, and no more.

mod support;

use std::collections::BTreeMap;

use certs::id::NodeId;
use membership::{
    engine::Change,
    message::Message,
    sim::{network::Network, population::Citizen},
    view::MemberState,
};
use support::crowd::crowd;

const NODES: usize = 40;

struct Scene {
    network: Network,
    citizens: Vec<Citizen>,
}

impl Scene {
    /// All but the last run, and know each other.
    fn new(seed: u64) -> Scene {
        let (network, citizens) = crowd(NODES, NODES - 1, seed);
        Scene { network, citizens }
    }

    fn start(&mut self, number: usize) {
        let citizen = self.citizens[number].clone();
        let first = self.citizens[0].node.clone();
        let peers = if number == 0 { Vec::new() } else { vec![self.network.address(&first)] };
        self.network.start(&citizen, &peers, Vec::new());
    }

    fn node(&self, number: usize) -> NodeId {
        self.citizens[number].node.clone()
    }

    fn state(&self, at: usize, of: usize) -> Option<MemberState> {
        self.network.state(&self.node(at), &self.node(of))
    }

    /// From now on the summaries of one say what it likes of who lives.
    fn lies(&mut self, liar: usize, of: impl Fn(&NodeId) -> Option<bool> + Send + 'static) {
        let liar = self.node(liar);
        self.network.tap = Some(Box::new(move |from, _, _, bytes| match Message::decode(&bytes) {
            Ok(Some(Message::Summary(entries))) if *from == liar => {
                let entries = entries.into_iter().map(|(latest, alive)| {
                    let alive = of(&latest.node).unwrap_or(alive);
                    (latest, alive)
                });
                Some(Message::Summary(entries.collect()).encode().into())
            }
            Ok(_) | Err(_) => Some(bytes),
        }));
    }

    fn noticed(&self, since: u64) -> BTreeMap<&'static str, usize> {
        let mut noticed = BTreeMap::new();
        for (_, _, change) in self.network.trace.iter().filter(|(at, _, _)| *at >= since) {
            let what = match change {
                Change::Suspect(_) => "suspect",
                Change::Dead(_) => "dead",
                Change::Alive(_)
                | Change::Left(_)
                | Change::Evicted(_)
                | Change::Gone(_)
                | Change::Member(_)
                | Change::Status(_)
                | Change::Services(_)
                | Change::Health(_)
                | Change::Policy(_) => continue,
            };
            *noticed.entry(what).or_default() += 1;
        }
        noticed
    }
}

#[test]
fn a_summary_that_calls_everybody_dead_makes_nobody_suspect_anybody() {
    let mut scene = Scene::new(1);
    let since = scene.network.now;
    scene.lies(7, |_| Some(false));
    scene.network.run(40_000);
    assert_eq!(scene.noticed(since), BTreeMap::new());
    // Whoever looked because of it is still believed.
    let victim = scene.node(20);
    scene.network.kill(&victim);
    scene.network.run(1_500);
    for at in (0..NODES - 1).filter(|at| *at != 20) {
        assert_eq!(scene.state(at, 20), Some(MemberState::Dead), "at {at}");
    }
}

#[test]
fn a_summary_that_calls_the_dead_alive_keeps_nobody_alive() {
    let mut scene = Scene::new(2);
    let victim = scene.node(20);
    scene.network.kill(&victim);
    scene.network.run(5_000);
    // Its only seed is the liar: all that it hears at first is the liar's word.
    scene.lies(0, |_| Some(true));
    scene.start(NODES - 1);
    scene.network.run(30_000);
    for at in (0..NODES).filter(|at| *at != 20) {
        assert_eq!(scene.state(at, 20), Some(MemberState::Dead), "at {at}");
        assert_eq!(scene.state(at, NODES - 1), Some(MemberState::Alive), "at {at}");
    }
}
