//! The hard limit: whatever is late, the shares together are never more than the whole.

use super::*;
use crate::balance::rate::escrow::{Escrow, GIFTS};
use proptest::prelude::*;
use std::collections::BTreeMap;

const LIMIT: Limit = Limit { requests: 1_000, interval: 1_000, burst: 100 };

#[test]
fn a_partition_moves_no_share_across_and_doubles_none() {
    let mut mesh = Mesh::new(6, LIMIT, Mode::Hard);
    mesh.latency = 3_000;
    let halves = |from: usize, to: usize| (from < 3) == (to < 3);
    let rates = [[900.0, 100.0, 0.0, 0.0, 0.0, 100.0], [0.0, 0.0, 500.0, 900.0, 900.0, 0.0]];
    for second in 0..40usize {
        for _ in 0..1_000 {
            mesh.step(&rates[second / 5 % 2], |from, to| second % 10 < 5 || halves(from, to));
            assert!(mesh.sum_of_shares() <= 1.0 + 1e-9, "{}", mesh.sum_of_shares());
        }
    }
    mesh.latency = WINDOW_MS;
    for _ in 0..8_000 {
        mesh.step(&rates[0], |_, _| true);
    }
    assert!(mesh.sum_of_shares() > 0.95, "{}", mesh.sum_of_shares());
}

#[test]
fn nobody_can_give_what_it_does_not_hold() {
    let [a, b, liar]: [Key; 3] = ["a".into(), "b".into(), "liar".into()];
    let nodes: BTreeSet<Key> = [&a, &b, &liar].map(Arc::clone).into();
    let mut escrow = Escrow::default();
    escrow.heard(&liar, BTreeMap::from([(Arc::clone(&b), u64::MAX), ("stranger".into(), 5)]));
    assert!((escrow.share(&a, &nodes) - 1.0 / 3.0).abs() < 1e-9);
    let mut friend = Escrow::default();
    friend.heard(&liar, BTreeMap::from([(Arc::clone(&b), u64::MAX)]));
    assert!((friend.share(&b, &nodes) - 2.0 / 3.0).abs() < 1e-9, "its own and the liar's");
}

#[test]
fn liars_who_pretend_to_give_each_other_give_only_what_they_hold() {
    let [v, w, one, two]: [Key; 4] = ["v".into(), "w".into(), "one".into(), "two".into()];
    let nodes: BTreeSet<Key> = [&v, &w, &one, &two].map(Arc::clone).into();
    for (cycle, gift) in [(1_000_000_000_000_000, 1_000_000_000_000_000), (u64::MAX, 9_000_000), (u64::MAX, u64::MAX)] {
        let mut escrow = Escrow::default();
        escrow.heard(&one, BTreeMap::from([(Arc::clone(&two), cycle)]));
        escrow.heard(&two, BTreeMap::from([(Arc::clone(&one), cycle), (Arc::clone(&v), gift)]));
        let credited = escrow.share(&v, &nodes);
        assert!(credited < 0.76, "its own and what the two began with: {credited}");
        assert!((escrow.share(&w, &nodes) - 0.25).abs() < 1e-9);
    }
}

#[test]
fn whoever_gave_and_got_for_long_is_believed_and_no_lie_of_others_costs_it_anything() {
    let [a, b, c, one, two]: [Key; 5] = ["a".into(), "b".into(), "c".into(), "one".into(), "two".into()];
    let nodes: BTreeSet<Key> = [&a, &b, &c, &one, &two].map(Arc::clone).into();
    let mut escrow = Escrow::default();
    // A cycle of a thousand equal shares, of which half a share stays with each receiver on the way.
    escrow.heard(&a, BTreeMap::from([(Arc::clone(&b), 1_000_500_000)]));
    escrow.heard(&b, BTreeMap::from([(Arc::clone(&c), 1_000_000_000)]));
    escrow.heard(&c, BTreeMap::from([(Arc::clone(&a), 1_000_000_000)]));
    for _ in 0..2 {
        assert!((escrow.held_by(&b, &one, &nodes) - 1.5).abs() < 1e-6);
        assert!((escrow.held_by(&a, &one, &nodes) - 0.5).abs() < 1e-6);
        escrow.heard(&one, BTreeMap::from([(Arc::clone(&two), u64::MAX)]));
        escrow.heard(&two, BTreeMap::from([(Arc::clone(&one), u64::MAX), (Arc::clone(&c), u64::MAX)]));
    }
}

#[test]
fn who_leaves_takes_its_gifts_along() {
    let [a, b, c]: [Key; 3] = ["a".into(), "b".into(), "c".into()];
    let nodes: BTreeSet<Key> = [&a, &b, &c].map(Arc::clone).into();
    let mut escrow = Escrow::default();
    let targets = BTreeMap::from([(Arc::clone(&a), 0.0), (Arc::clone(&b), 0.5), (Arc::clone(&c), 0.5)]);
    assert!(escrow.give(&a, &targets));
    assert!(!escrow.give(&a, &targets), "it has nothing left");
    assert!(escrow.share(&a, &nodes) < 0.001);
    let rest: BTreeSet<Key> = [&a, &b].map(Arc::clone).into();
    escrow.retain(&rest);
    assert!((escrow.share(&a, &rest) - 0.25).abs() < 0.001, "what the one that left had been given comes back");
}

#[test]
fn gifts_go_to_few_so_that_what_is_said_of_them_fits() {
    let names: Vec<Key> = (0..100).map(|number| format!("n{number}").into()).collect();
    let targets = names.iter().map(|name| (Arc::clone(name), if **name == *"n0" { 0.001 } else { 0.999 / 99.0 }));
    let mut escrow = Escrow::default();
    assert!(escrow.give(&names[0], &targets.collect()));
    assert_eq!(escrow.given().len(), GIFTS);
    let given: u64 = escrow.given().values().sum();
    assert!(given > 0 && given < 1_000_000, "{given}");
}

proptest! {
    /// Gifts by any targets, heard in order but as late as you like.
    #[test]
    fn the_sum_is_never_more_than_the_whole(
        steps in proptest::collection::vec((0usize..4, 0usize..4, proptest::array::uniform4(0u32..10)), 0..150),
    ) {
        let names: Vec<Key> = (0..4).map(|number| format!("n{number}").into()).collect();
        let nodes: BTreeSet<Key> = names.iter().cloned().collect();
        let mut escrows: Vec<Escrow> = names.iter().map(|_| Escrow::default()).collect();
        // What each has said, and how far each other has heard it.
        let mut said: Vec<Vec<BTreeMap<Key, u64>>> = vec![vec![BTreeMap::new()]; 4];
        let mut heard = [[0usize; 4]; 4];
        for (one, other, weights) in steps {
            if one == other {
                let total: u32 = weights.iter().sum::<u32>().max(1);
                let part = |weight: &u32| f64::from(*weight) / f64::from(total);
                let targets = names.iter().cloned().zip(weights.iter().map(part)).collect();
                if escrows[one].give(&names[one], &targets) {
                    said[one].push(escrows[one].given().clone());
                }
            } else {
                heard[one][other] = (heard[one][other] + 1).min(said[other].len() - 1);
                let news = said[other][heard[one][other]].clone();
                escrows[one].heard(&names[other], news);
            }
            let sum: f64 = (0..4).map(|node| escrows[node].share(&names[node], &nodes)).sum();
            prop_assert!(sum <= 1.0 + 1e-9, "{sum}");
        }
    }
}
