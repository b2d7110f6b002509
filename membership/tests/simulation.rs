//! Whole meshes of pure engines under a seeded network.

mod support;

use std::net::SocketAddr;

use certs::id::NodeId;
use membership::{
    body::{Address, Body, Status},
    engine::{Change, Event},
    view::MemberState,
};
use support::{
    sim::Sim,
    world::{Citizen, World},
};

fn mesh(count: usize, seed: u64) -> (Sim, Vec<Citizen>) {
    let mut world = World::new();
    let citizens: Vec<Citizen> = (0..count).map(|index| world.citizen(&format!("n{index:02}"), 1)).collect();
    (gather(&world, &citizens, seed), citizens)
}

fn gather(world: &World, citizens: &[Citizen], seed: u64) -> Sim {
    let mut sim = Sim::new(world.authority.clone(), seed);
    sim.start(&citizens[0], &[], Vec::new());
    let seed_address = sim.address(&citizens[0].node);
    for citizen in &citizens[1..] {
        sim.start(citizen, &[seed_address], Vec::new());
    }
    sim
}

fn names(citizens: &[Citizen]) -> Vec<NodeId> {
    citizens.iter().map(|citizen| citizen.node.clone()).collect()
}

#[test]
fn meshes_of_all_sizes_form_within_seconds() {
    for count in [1, 2, 4, 10, 32] {
        let (mut sim, _) = mesh(count, 7);
        let took = sim.run_until(5_000, Sim::whole);
        assert!(took.is_some_and(|took| took < 2_000), "{count} nodes took {took:?}: {:#?}", sim.notices);
    }
}

#[test]
fn a_killed_node_is_dead_everywhere_within_two_seconds() {
    for (count, seed) in [(3, 1), (4, 1), (4, 2), (4, 3), (10, 4), (32, 5)] {
        for resets in if count < 32 { &[false, true][..] } else { &[false] } {
            let (mut sim, citizens) = mesh(count, seed);
            sim.resets = *resets;
            sim.run(4_000);
            assert!(sim.whole());
            let victim = citizens[count / 2].node.clone();
            sim.kill(&victim);
            let took = sim.run_until(5_000, |sim| sim.all_see(&victim, MemberState::Dead));
            let limit = if *resets { 1_200 } else { 2_000 };
            assert!(took.is_some_and(|took| took <= limit), "{count} nodes, resets {resets}: {took:?}");
            for other in names(&citizens).iter().filter(|node| **node != victim) {
                assert_eq!(sim.changes(Change::Dead, other), 0, "{other} was judged dead");
            }
        }
    }
}

#[test]
fn half_of_the_mesh_killed_at_once_is_dead_within_three_seconds() {
    for seed in 0..4 {
        let (mut sim, citizens) = mesh(4, seed);
        sim.run(4_000);
        let victims = [citizens[1].node.clone(), citizens[2].node.clone()];
        victims.iter().for_each(|victim| sim.kill(victim));
        let took = sim.run_until(5_000, |sim| victims.iter().all(|victim| sim.all_see(victim, MemberState::Dead)));
        assert!(took.is_some_and(|took| took < 3_000), "{took:?}");
        assert_eq!(sim.state(&citizens[0].node, &citizens[3].node), Some(MemberState::Alive));
    }
}

#[test]
fn the_only_peer_killed_is_dead_within_three_seconds() {
    let (mut sim, citizens) = mesh(2, 3);
    sim.run(3_000);
    sim.kill(&citizens[1].node);
    let took = sim.run_until(5_000, |sim| sim.all_see(&citizens[1].node, MemberState::Dead));
    assert!(took.is_some_and(|took| took < 3_000), "{took:?}");
}

#[test]
fn a_leaving_node_is_known_to_have_left_at_once() {
    let (mut sim, citizens) = mesh(10, 11);
    sim.run(3_000);
    let leaver = citizens[4].node.clone();
    sim.event(&leaver, Event::Publish(vec![Body::Status(Status::Draining)]));
    sim.run(100);
    assert_eq!(sim.state(&citizens[0].node, &leaver), Some(MemberState::Alive));
    sim.event(&leaver, Event::Leaving);
    let took = sim.run_until(1_000, |sim| sim.all_see(&leaver, MemberState::Left));
    assert!(took.is_some_and(|took| took < 100), "{took:?}");
    sim.kill(&leaver);
    sim.run(10_000);
    assert!(sim.all_see(&leaver, MemberState::Left));
    assert_eq!(sim.changes(Change::Dead, &leaver), 0);
}

#[test]
fn a_restarted_node_is_back_with_its_new_word() {
    let (mut sim, citizens) = mesh(4, 13);
    sim.run(3_000);
    let node = citizens[2].node.clone();
    for leaves in [false, true] {
        let last_known = sim.nodes[&node].persisted.clone();
        if leaves {
            sim.event(&node, Event::Leaving);
            sim.run(50);
        }
        sim.kill(&node);
        sim.run(if leaves { 1_500 } else { 6_000 });
        let gone = if leaves { MemberState::Left } else { MemberState::Dead };
        assert!(sim.all_see(&node, gone));
        // No configured peers: what the disk knows must do.
        sim.start(&citizens[2], &[], last_known);
        sim.serve(&node, &[node.as_str(), "shared"]);
        let back = |sim: &Sim| sim.whole() && citizens.iter().all(|at| sim.served(&at.node, &node) == 2);
        let took = sim.run_until(3_000, back);
        assert!(took.is_some_and(|took| took < 1_000), "{took:?}");
        sim.serve(&node, &[node.as_str()]);
        sim.run(500);
    }
}

/// Where a node says that another listens.
fn listens(sim: &Sim, at: &NodeId, of: &NodeId) -> Vec<SocketAddr> {
    sim.nodes[at].engine.view().member(of).map(|member| member.addresses.clone()).unwrap_or_default()
}

#[test]
fn the_same_key_at_a_new_address_is_the_same_node_there() {
    let (mut sim, citizens) = mesh(6, 14);
    sim.run(3_000);
    let node = citizens[2].node.clone();
    let generation = sim.nodes[&node].generation;
    // Its machine is replaced: same disk, another address.
    let disk = sim.nodes[&node].persisted.clone();
    sim.kill(&node);
    sim.run(6_000);
    assert!(sim.all_see(&node, MemberState::Dead));
    let second = sim.moves(&node);
    sim.start(&citizens[2], &[], disk);
    let everywhere = |sim: &Sim, address: SocketAddr| {
        sim.whole() && citizens.iter().all(|at| listens(sim, &at.node, &node) == [address])
    };
    let took = sim.run_until(5_000, |sim| everywhere(sim, second));
    assert!(took.is_some_and(|took| took < 1_500), "{took:?}");
    assert!(sim.nodes[&node].generation > generation && sim.nodes[&node].engine.linked() == 5);
    // It moves while it runs, and its links end: they are dialled where it says that it is.
    let third = sim.moves(&node);
    let body = Address {
        addresses: vec![third],
        locality: String::new(),
        version: "moved".to_owned(),
        wire: (1, 1),
        started: sim.now,
    };
    sim.event(&node, Event::Publish(vec![Body::Address(body)]));
    sim.run(100);
    assert!(everywhere(&sim, third));
    let others: Vec<NodeId> = names(&citizens).into_iter().filter(|other| *other != node).collect();
    sim.part(std::slice::from_ref(&node), &others);
    sim.run(6_000);
    assert!(sim.all_see(&node, MemberState::Dead));
    sim.heal();
    let took = sim.run_until(30_000, |sim| everywhere(sim, third) && sim.nodes[&node].engine.linked() == 5);
    assert!(took.is_some(), "{took:?}");
}

#[test]
fn one_that_slept_catches_up_with_all_that_happened() {
    for (count, sleeps) in [(6, 700_000), (34, 160_000)] {
        let (mut sim, citizens) = mesh(count, 16);
        sim.run(5_000);
        let (sleeper, awake) = (citizens[1].node.clone(), citizens[0].node.clone());
        sim.pause(&sleeper, sleeps);
        sim.run(60_000);
        // Others change, leave, die, and run anew; nobody waits for the sleeper.
        let [changed, left, dead, anew] = [2, 3, 4, 5].map(|index: usize| citizens[index].node.clone());
        sim.serve(&changed, &[changed.as_str(), "shared"]);
        sim.event(&left, Event::Leaving);
        sim.run(100);
        [&left, &dead, &anew].into_iter().for_each(|node| sim.kill(node));
        sim.run(30_000);
        let disk = sim.nodes[&anew].persisted.clone();
        sim.start(&citizens[5], &[], disk);
        sim.serve(&anew, &["shared"]);
        sim.run(sleeps - 140_000);
        assert_eq!(sim.state(&awake, &sleeper), Some(MemberState::Dead));
        let seen = |sim: &Sim, at: &NodeId| -> Vec<(NodeId, u64, MemberState, usize)> {
            let members = sim.nodes[at].engine.view().members().values();
            let seen =
                members.map(|member| (member.id.clone(), member.generation, member.state, member.services.len()));
            seen.collect()
        };
        let same = |sim: &Sim| seen(sim, &sleeper) == seen(sim, &awake);
        let took = sim.run_until(90_000, |sim| sim.state(&awake, &sleeper) == Some(MemberState::Alive) && same(sim));
        assert!(took.is_some(), "{:?}\n{:?}", seen(&sim, &sleeper), seen(&sim, &awake));
        let states = [&changed, &left, &dead, &anew].map(|of| sim.state(&sleeper, of));
        let expected = [MemberState::Alive, MemberState::Left, MemberState::Dead, MemberState::Alive].map(Some);
        assert_eq!(states, expected);
        assert_eq!((sim.served(&sleeper, &changed), sim.served(&sleeper, &anew)), (2, 1));
    }
}

#[test]
fn one_started_alone_does_not_wait_for_those_it_knows_from_disk() {
    let (mut sim, citizens) = mesh(4, 15);
    sim.run(3_000);
    let lone = citizens[0].node.clone();
    let last_known = sim.nodes[&lone].persisted.clone();
    for citizen in &citizens {
        sim.kill(&citizen.node);
    }
    sim.run(1_000);
    sim.start(&citizens[0], &[], last_known);
    let dead = |sim: &Sim| citizens[1..].iter().all(|of| sim.state(&lone, &of.node) == Some(MemberState::Dead));
    let took = sim.run_until(6_000, dead);
    assert!(took.is_some_and(|took| took < 1_500), "{took:?}");
}

#[test]
fn a_quick_restart_replaces_the_old_run_although_its_links_still_stand() {
    let (mut sim, citizens) = mesh(4, 17);
    sim.run(3_000);
    let node = citizens[1].node.clone();
    sim.kill(&node);
    sim.run(300);
    let peers = [sim.address(&citizens[0].node)];
    sim.start(&citizens[1], &peers, Vec::new());
    sim.serve(&node, &[node.as_str(), "shared"]);
    let took = sim.run_until(3_000, |sim| citizens.iter().all(|at| sim.served(&at.node, &node) == 2));
    assert!(took.is_some_and(|took| took < 500), "{took:?}");
    sim.run(6_000);
    assert!(sim.whole());
    assert_eq!(sim.changes(Change::Dead, &node), 0);
}

#[test]
fn a_split_mesh_heals_by_itself() {
    let (mut sim, citizens) = mesh(10, 19);
    sim.run(3_000);
    let all = names(&citizens);
    let (left, right) = all.split_at(5);
    sim.part(left, right);
    let parted = |sim: &Sim| left.iter().all(|at| right.iter().all(|of| sim.state(at, of) == Some(MemberState::Dead)));
    let took = sim.run_until(6_000, parted);
    assert!(took.is_some_and(|took| took < 3_500), "{took:?}");
    assert!(left.iter().all(|at| left.iter().all(|of| sim.state(at, of) == Some(MemberState::Alive))));
    sim.run(60_000);
    sim.serve(&left[0], &[left[0].as_str(), "shared"]);
    sim.heal();
    let took = sim.run_until(30_000, |sim| sim.whole() && right.iter().all(|at| sim.served(at, &left[0]) == 2));
    assert!(took.is_some_and(|took| took < 14_000), "{took:?}");
}

#[test]
fn loss_of_one_path_kills_nobody() {
    let (mut sim, citizens) = mesh(4, 23);
    sim.run(3_000);
    sim.part(&[citizens[0].node.clone()], &[citizens[1].node.clone()]);
    sim.run(30_000);
    for citizen in &citizens {
        assert_eq!(sim.changes(Change::Dead, &citizen.node), 0, "{:#?}", sim.trace);
    }
}

#[test]
fn nobody_dies_of_latency_loss_and_pauses() {
    for seed in 0..2 {
        let (mut sim, citizens) = mesh(10, 100 + seed);
        (sim.latency, sim.loss) = ((1, 120), 0.03);
        sim.run(5_000);
        for round in 0..60 {
            sim.pause(&citizens[round % 10].node, 500 + 10 * seed);
            sim.run(1_000);
        }
        sim.run(4_000);
        assert!(sim.whole());
        for citizen in &citizens {
            assert_eq!(sim.changes(Change::Dead, &citizen.node), 0, "{}", citizen.node);
        }
    }
}

#[test]
fn a_process_that_stood_still_blames_nobody() {
    let (mut sim, citizens) = mesh(4, 29);
    sim.run(3_000);
    sim.pause(&citizens[0].node, 20_000);
    sim.run(40_000);
    assert!(sim.whole());
    let blamed = |(_, by, change): &&(_, NodeId, Change)| *by == citizens[0].node && matches!(change, Change::Dead(_));
    let died: Vec<_> = sim.trace.iter().filter(blamed).collect();
    // Its links ended meanwhile; it may find others gone only if they stay so.
    assert!(died.is_empty(), "{died:#?}");
}

#[test]
fn every_change_arrives_everywhere_in_spite_of_loss() {
    let (mut sim, citizens) = mesh(10, 31);
    sim.run(3_000);
    sim.loss = 0.3;
    let node = citizens[3].node.clone();
    sim.serve(&node, &[node.as_str(), "shared"]);
    let took = sim.run_until(30_000, |sim| citizens.iter().all(|at| sim.served(&at.node, &node) == 2));
    assert!(took.is_some_and(|took| took < 15_000), "{took:?}");
}

#[test]
fn news_takes_one_hop() {
    let (mut sim, citizens) = mesh(32, 37);
    sim.run(5_000);
    assert!(sim.whole());
    let node = citizens[9].node.clone();
    sim.serve(&node, &[node.as_str(), "shared"]);
    let took = sim.run_until(1_000, |sim| citizens.iter().all(|at| sim.served(&at.node, &node) == 2));
    assert!(took.is_some_and(|took| took <= 30), "{took:?}");
}

#[test]
fn same_seed_same_trace() {
    let mut world = World::new();
    let citizens: Vec<Citizen> = (0..10).map(|index| world.citizen(&format!("n{index:02}"), 1)).collect();
    let run = |seed: u64| {
        let mut sim = gather(&world, &citizens, seed);
        sim.loss = 0.02;
        sim.run(3_000);
        sim.kill(&citizens[3].node);
        sim.run(5_000);
        (sim.trace.clone(), sim.sent)
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn an_idle_mesh_is_quiet() {
    let (mut sim, _) = mesh(10, 41);
    sim.run(5_000);
    let before = sim.sent;
    sim.run(10_000);
    // 4 neighbours probed four times a second, 5 others once, each answered; one carrier message a second.
    let per_node_second = (sim.sent - before) / 100;
    assert!(per_node_second < 50, "{per_node_second} messages a second and node");
}

#[test]
fn ticks_are_due_however_busy_an_engine_is() {
    let (mut sim, citizens) = mesh(2, 43);
    sim.run(1_000);
    let (node, other) = (citizens[0].node.clone(), citizens[1].node.clone());
    let due = sim.nodes[&node].engine.wake();
    for _ in 0..20 {
        sim.now += 10;
        sim.event(&node, Event::DataFailure { node: other.clone() });
    }
    assert!(sim.nodes[&node].engine.wake() <= sim.now + 1, "due at {due}, now {}", sim.now);
}
