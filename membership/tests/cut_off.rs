//! A node, or a few, that a sparse mesh is out of reach for: they see that soon, and find back.

mod support;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use certs::id::NodeId;
use membership::{
    engine::{Change, Event},
    message::Message,
    sim::network::Network,
    view::MemberState,
};
use support::crowd::crowd;

const NODES: usize = 40;

/// Who sees whom otherwise than alive, or dead across the cut.
fn wrong(
    network: &Network,
    by: &[NodeId],
    nodes: &[NodeId],
    one: &[NodeId],
    other: &[NodeId],
) -> Vec<(NodeId, NodeId)> {
    let across = |a: &NodeId, b: &NodeId| one.contains(a) && other.contains(b) || one.contains(b) && other.contains(a);
    let pairs = by.iter().flat_map(|by| nodes.iter().map(move |of| (by, of)));
    let as_is = |by: &NodeId, of: &NodeId| {
        let expected = if across(by, of) { MemberState::Dead } else { MemberState::Alive };
        network.state(by, of) == Some(expected)
    };
    pairs.filter(|(by, of)| !as_is(by, of)).map(|(by, of)| (by.clone(), of.clone())).collect()
}

#[test]
fn a_small_side_sees_within_seconds_that_it_is_alone_and_finds_back() {
    let (mut network, citizens) = crowd(NODES, NODES, 1);
    let nodes: Vec<NodeId> = citizens.into_iter().map(|citizen| citizen.node).collect();
    for size in [1, 3] {
        let (few, rest) = nodes.split_at(size);
        network.part(few, rest);
        network.run(5_000);
        let left = wrong(&network, few, &nodes, few, rest);
        assert!(left.is_empty(), "{size}: {} are seen as they were: {left:?}", left.len());
        assert_eq!(wrong(&network, rest, &nodes, few, rest), [], "{size}");
        network.heal();
        network.run(6_000);
        assert_eq!(wrong(&network, &nodes, &nodes, &[], &[]), [], "{size}");
    }
}

/// Most of a mesh does not hear one node, which hears all: it accuses many, and soon nobody passes on what it says.
#[test]
fn one_that_most_do_not_hear_takes_nobody_for_dead() {
    for seed in [0, 2, 4] {
        let (mut network, citizens) = crowd(60, 60, seed);
        let nodes: Vec<NodeId> = citizens.into_iter().map(|citizen| citizen.node).collect();
        let since = network.now;
        network.block(&nodes[..1], &nodes[1..10]);
        network.run(6_000);
        network.block(&nodes[..1], &nodes[10..40]);
        network.run(54_000);
        let later = network.trace.iter().filter(|(at, by, _)| *at >= since && *by == nodes[0]);
        let dead: Vec<&Change> =
            later.map(|(_, _, change)| change).filter(|change| matches!(change, Change::Dead(_))).collect();
        assert!(dead.is_empty(), "seed {seed}: {dead:?}");
    }
}

/// A path breaks between two without a link: no link's end tells, and nobody else sees it. A data connection that fails does.
#[test]
fn who_cannot_connect_to_one_without_a_link_dials_it_and_asks_relays() {
    let (mut network, citizens) = crowd(NODES, NODES, 1);
    let nodes: Vec<NodeId> = citizens.into_iter().map(|citizen| citizen.node).collect();
    let one = nodes[0].clone();
    let other = nodes.iter().skip(1).find(|other| network.link(&one, other).is_none()).expect("a sparse mesh").clone();
    network.part(std::slice::from_ref(&one), std::slice::from_ref(&other));
    let (asked, since) = (Arc::new(AtomicUsize::new(0)), network.now);
    let (count, asks, about) = (asked.clone(), one.clone(), other.clone());
    network.tap = Some(Box::new(move |from, _, _, bytes| {
        if let Ok(Some(Message::Probe { target, .. })) = Message::decode(&bytes) {
            count.fetch_add(usize::from(*from == asks && target == about), Relaxed);
        }
        Some(bytes)
    }));
    // Connections are tried again and again.
    for _ in 0..50 {
        network.event(&one, Event::DataFailure { node: other.clone() });
        network.run(100);
    }
    assert!(asked.load(Relaxed) > 0, "no relay was asked");
    // They reach it.
    network.run(5_000);
    assert_eq!(wrong(&network, &nodes, &nodes, &[], &[]), []);
    let dead = network.trace.iter().filter(|(at, _, change)| *at >= since && matches!(change, Change::Dead(_)));
    assert_eq!(dead.count(), 0);
}
