//! The history of policy in a mesh of hundreds of nodes that part, lose, reorder, crash and lie: after healing all honest nodes have
//! one state, nothing acknowledged is lost, and a second, independently written verifier comes to the same. One seed, one run.
//!
//! `SKEIN_SIM=SEEDS` runs that many seeds with 200 nodes each; `SKEIN_SIM_SEED=N` begins elsewhere, to run one again.

mod actions;
mod hostile;
mod node;
mod operators;
mod random;
mod verifier;
mod world;

use std::collections::BTreeMap;

use certs::sign::Digest;
use policy::{
    Kind,
    changeset::PROPOSAL_LIFE,
    history::{History, RETENTION},
};

use crate::{
    verifier::Verdict,
    world::{Plan, World},
};

/// What a node itself makes of what it holds, in the verifier's terms.
fn own_word(history: &History, now: u64) -> Verdict {
    let state = history.state(now);
    let documents = || state.documents.iter().filter(|(id, _)| id.kind == Kind::VirtualService);
    let live = documents().map(|(id, live)| {
        let mut values: Vec<Digest> = live.values.iter().map(|value| value.changeset.0).collect();
        values.sort_unstable();
        (id.clone(), values)
    });
    let effective = documents().filter_map(|(id, live)| Some((id.clone(), live.effective.as_ref()?.changeset.0)));
    Verdict {
        role_set: (state.role_set.number, Some(state.role_set.changeset.0)),
        live: live.collect(),
        effective: effective.collect(),
        unauthorised: Vec::new(),
    }
}

/// All honest nodes hold and say the same, and so does the verifier; everything acknowledged is there.
fn judge(world: &World, seed: u64) {
    let now = world.now;
    let first = &world.nodes[world.honest().start].history;
    let all = first.ids().map(|id| &**first.bytes(id).expect("what is kept has bytes"));
    let verdict = verifier::judge(all, now);
    let differs = |ours: &Verdict| {
        let lines = [format!("{:?}", ours.role_set), format!("{:?}", verdict.role_set)];
        format!("seed {seed}: {lines:?}\n{:?}\n{:?}", ours.effective, verdict.effective)
    };
    for node in world.honest() {
        let history = &world.nodes[node].history;
        let ours = own_word(history, now);
        assert_eq!(history.state(now).digest, first.state(now).digest, "seed {seed}: node {node}");
        assert!(ours == verdict, "{}\n{ours:#?}\n{verdict:#?}", differs(&ours));
        // A key's proposals beyond its quota wait with those who took them, until others end.
        let waits = |id: &policy::changeset::ChangesetId| {
            world.honest().any(|other| world.nodes[other].history.proposal(id, now).is_some())
        };
        for id in &world.acknowledged {
            assert!(history.contains(id) || waits(id), "seed {seed}: node {node} lost {id}, which was acknowledged");
        }
    }
}

/// A whole life of a mesh; gives its trace and what happened how often.
fn live(seed: u64, plan: &Plan) -> (Digest, BTreeMap<&'static str, usize>) {
    let mut world = World::new(seed, plan);
    world.run();
    world.heal(false);
    judge(&world, seed);
    // Proposals that nobody signed end; what sync held back of one key is taken.
    world.sleep(PROPOSAL_LIFE + 60_000);
    world.heal(true);
    judge(&world, seed);
    // Old bodies go on some nodes; those restart, and a new member learns from all.
    world.sleep(RETENTION);
    for node in world.honest().step_by(2) {
        let now = world.now;
        if world.nodes[node].forget(now) > 0 {
            world.count("nodes that forgot");
        }
        world.nodes[node].restart();
    }
    world.join();
    world.heal(true);
    judge(&world, seed);
    let acknowledged = world.acknowledged.len();
    world.counts.insert("acknowledged", acknowledged);
    (world.trace, world.counts)
}

#[test]
fn all_honest_nodes_come_to_one_state_whatever_happened() {
    let plan = Plan { nodes: 24, hostile: 4, actions: 110 };
    let mut total: BTreeMap<&str, usize> = BTreeMap::new();
    for seed in 1..=3 {
        for (what, count) in live(seed, &plan).1 {
            *total.entry(what).or_default() += count;
        }
    }
    for what in [
        "pushed",
        "refused",
        "acknowledged",
        "proposed",
        "approved",
        "confirmed",
        "reverted",
        "role sets",
        "forged",
        "crashes",
        "disks lost",
        "nodes that forgot",
    ] {
        assert!(total.get(what).is_some_and(|count| *count > 0), "`{what}` never happened: {total:?}");
    }
}

#[test]
fn one_seed_is_one_run() {
    let plan = Plan { nodes: 10, hostile: 2, actions: 40 };
    assert_eq!(live(7, &plan), live(7, &plan));
    assert_ne!(live(7, &plan).0, live(8, &plan).0);
}

#[test]
fn many_seeds_with_hundreds_of_nodes() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let Some(seeds) = number("SKEIN_SIM") else {
        println!("skipped: SKEIN_SIM=SEEDS runs that many seeds with 200 nodes");
        return;
    };
    let first = number("SKEIN_SIM_SEED").unwrap_or(100);
    for seed in first..first + seeds {
        let (trace, counts) = live(seed, &Plan { nodes: 200, hostile: 30, actions: 300 });
        println!("seed {seed}: {trace} {counts:?}");
    }
}
