//! Runs of one node whose generations do not rise: its disk was restored, or its clock is no longer ahead.

mod support;

use membership::{
    engine::{Change, Notice},
    record::next_generation,
    view::MemberState,
};
use support::{
    sim::Sim,
    world::{Citizen, World},
};

const DAY_MS: u64 = 86_400_000;

fn mesh(seed: u64) -> (Sim, Vec<Citizen>) {
    let mut world = World::new();
    let citizens: Vec<Citizen> = (0..4).map(|index| world.citizen(&format!("n{index}"), 1)).collect();
    let mut sim = Sim::new(world.authority.clone(), seed);
    sim.start(&citizens[0], &[], Vec::new());
    let first = sim.address(&citizens[0].node);
    citizens[1..].iter().for_each(|citizen| sim.start(citizen, &[first], Vec::new()));
    sim.run(2_000);
    assert!(sim.whole());
    (sim, citizens)
}

#[test]
fn one_that_ran_under_a_higher_generation_goes_on_above_it() {
    let (mut sim, citizens) = mesh(1);
    let (node, peers) = (citizens[2].node.clone(), [sim.address(&citizens[0].node)]);
    // A run whose clock is a month ahead.
    sim.kill(&node);
    sim.run(3_000);
    sim.nodes.get_mut(&node).expect("started").generation = next_generation(0, 0, sim.now + 30 * DAY_MS, 0);
    sim.start(&citizens[2], &peers, Vec::new());
    sim.run(12_000);
    let ahead = sim.nodes[&node].generation;
    assert!(sim.whole());
    // Its clock is set right, and its disk is that of before.
    sim.kill(&node);
    sim.run(3_000);
    sim.nodes.get_mut(&node).expect("started").generation = 0;
    sim.start(&citizens[2], &peers, Vec::new());
    sim.serve(&node, &[node.as_str(), "shared"]);
    assert!(sim.nodes[&node].generation < ahead);
    let took = sim.run_until(5_000, |sim| citizens.iter().all(|at| sim.served(&at.node, &node) == 2));
    assert!(took.is_some_and(|took| took < 1_500), "{took:?}");
    assert!(sim.nodes[&node].generation > ahead, "and the next run knows");
    let copies = sim.notices.iter().filter(|(_, notice)| matches!(notice, Notice::Clone { .. })).count();
    assert_eq!(copies, 0);
    // What it says later counts, too, and it runs on.
    sim.serve(&node, &[node.as_str()]);
    sim.run(20_000);
    assert!(citizens.iter().all(|at| sim.served(&at.node, &node) == 1));
    assert!(sim.all_see(&node, MemberState::Alive) && sim.changes(Change::Dead, &node) <= 6);
}

/// Each time its process was dead, and whoever said so was right: a new run answers nothing that was said of the last one.
#[test]
fn one_that_is_killed_again_and_again_is_seen_dead_as_soon_as_the_first_time() {
    let (mut sim, citizens) = mesh(1);
    let (node, peers) = (citizens[2].node.clone(), [sim.address(&citizens[0].node)]);
    for round in 0..6 {
        sim.kill(&node);
        let others = || citizens.iter().filter(|other| other.node != node);
        let took = sim.run_until(8_000, |sim| others().all(|at| sim.state(&at.node, &node) == Some(MemberState::Dead)));
        assert!(took.is_some_and(|took| took < 1_200), "kill {round}: {took:?}");
        sim.start(&citizens[2], &peers, Vec::new());
        sim.run(1_500);
        assert!(sim.whole());
    }
}
