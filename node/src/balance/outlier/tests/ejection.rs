//! Sweeps, times and the cap.

use super::*;
use proptest::prelude::*;

#[test]
fn an_ejection_lasts_the_base_times_the_count_and_ends_at_a_sweep() {
    let mut node = Node::new(eager(3), 2);
    let effects = node.fail(0, 1_000);
    let ejection = Ejection { cluster: key("c"), endpoint: key("e000"), why: Why::Errors, times: 1, until: 31_000 };
    assert_eq!(effects, [Effect::Ejected(ejection.clone())]);
    assert_eq!(node.outliers.ejections().collect::<Vec<_>>(), [ejection]);
    // Sweeps come every ten seconds; the one at 30 s is a second too early.
    let returned = Effect::Returned { cluster: key("c"), endpoint: key("e000") };
    let swept: Vec<_> = (1..=4).map(|sweep| node.outliers.handle(Event::Tick, sweep * 10_000, 0)).collect();
    assert_eq!(swept, [vec![], vec![], vec![], vec![returned]]);
    assert!(node.out().is_empty());
    // The sweep that lets it return does not forgive; out again before the next, it stays twice as long.
    let Some(Effect::Ejected(again)) = node.fail(0, 45_000).pop() else { panic!("three errors in a row") };
    assert_eq!((again.times, again.until), (2, 105_000));
}

#[test]
fn each_sweep_in_forgives_one_ejection() {
    let mut node = Node::new(eager(1), 2);
    for times in 1..=3 {
        let since = Millis::from(times) * 1_000_000;
        let Some(Effect::Ejected(ejection)) = node.fail(0, since).pop() else { panic!("one error is enough") };
        assert_eq!(ejection.times, times);
        let late = ejection.until + 10_000;
        assert_eq!(node.outliers.handle(Event::Tick, late, 0).len(), 1);
    }
    for sweep in 0..2 {
        node.outliers.handle(Event::Tick, 4_000_000 + sweep * 10_000, 0);
    }
    let Some(Effect::Ejected(ejection)) = node.fail(0, 5_000_000).pop() else { panic!("one error is enough") };
    assert_eq!(ejection.times, 2, "3 less 2 plus 1");
}

#[test]
fn no_ejection_is_longer_than_five_minutes_or_the_base() {
    for (base, longest) in [(30_000, 300_000), (120_000, 300_000), (400_000, 400_000)] {
        let mut node = Node::new(OutlierPolicy { base_ejection: base, ..eager(1) }, 2);
        let mut now = 0;
        for _ in 0..20 {
            let Some(Effect::Ejected(ejection)) = node.fail(0, now).pop() else { panic!("one error is enough") };
            assert!(ejection.until - now <= longest);
            now = ejection.until + 20_000;
            assert_eq!(node.outliers.handle(Event::Tick, now, 0).len(), 1);
        }
        let Some(Effect::Ejected(ejection)) = node.fail(0, now).pop() else { panic!("one error is enough") };
        assert_eq!(ejection.until - now, longest);
        assert!(ejection.times <= 12, "the count stops where it lengthens nothing: {}", ejection.times);
    }
}

#[test]
fn the_cap_spares_and_the_count_begins_anew() {
    let mut node = Node::new(OutlierPolicy { max_ejection_percent: 50, ..eager(2) }, 3);
    assert!(matches!(node.fail(0, 0)[..], [Effect::Ejected(_)]));
    let spared = |again| Effect::Spared { cluster: key("c"), endpoint: key("e001"), why: Why::Errors, again };
    assert_eq!(node.fail(1, 0), vec![spared(false)], "two of three are more than half");
    assert_eq!(node.attempt(1, Outcome::Status(500), 0), []);
    assert_eq!(node.attempt(1, Outcome::Status(500), 0), [spared(true)]);
    assert_eq!(node.out(), [0]);
}

#[test]
fn who_fails_and_stays_in_is_named_until_it_has_done_well_or_may_go_out() {
    let mut node = Node::new(OutlierPolicy { max_ejection_percent: 50, ..eager(1) }, 3);
    let spared = |node: &Node| node.outliers.spared().map(|one| one.endpoint.to_string()).collect::<Vec<_>>();
    node.fail(0, 0);
    node.fail(1, 0);
    let one = node.outliers.spared().next().unwrap();
    assert_eq!((&*one.endpoint, one.why, one.until), ("e001", Why::Errors, 30_000));
    assert_eq!(one.reason(), "maxEjectionPercent 50 lets no more than 1 of 3 endpoints go out");
    let none = Spared { percent: 10, ..one };
    assert_eq!(none.reason(), "maxEjectionPercent 10 lets none of 3 endpoints go out");
    node.fail(1, 25_000);
    node.outliers.handle(Event::Tick, 30_000, 0);
    assert_eq!(spared(&node), [""; 0], "the first one is back: this one may go out when it fails again");
    node.fail(0, 30_001);
    assert_eq!(spared(&node), ["e001"]);
    node.outliers.handle(Event::Tick, 60_000, 0);
    assert_eq!((spared(&node), node.out()), (vec![], vec![0]), "it has done well since");
    node.fail(1, 60_001);
    assert_eq!(spared(&node), ["e001"]);
    node.outliers.handle(Event::Tick, 100_000, 0);
    assert!(matches!(node.fail(1, 100_001)[..], [Effect::Ejected(_)]));
    assert_eq!((spared(&node), node.out()), (vec![], vec![1]));
}

#[test]
fn errors_that_end_while_it_is_out_are_forgotten() {
    let mut node = Node::new(eager(3), 1);
    node.fail(0, 0);
    assert_eq!(node.fail(0, 5), [], "it is out already");
    node.attempt(0, Outcome::Status(500), 6);
    node.attempt(0, Outcome::Status(500), 7);
    assert_eq!(node.outliers.handle(Event::Tick, 40_000, 0).len(), 1);
    assert_eq!(node.attempt(0, Outcome::Status(500), 40_001), [], "one error after the return is one");
}

#[test]
fn a_change_of_policy_or_neighbours_keeps_what_is_known() {
    let mut node = Node::new(eager(3), 3);
    node.fail(1, 0);
    node.attempt(0, Outcome::Status(500), 0);
    node.attempt(0, Outcome::Status(500), 0);
    let stricter = Arc::new(OutlierPolicy { base_ejection: 60_000, ..eager(3) });
    let endpoints = [key("e001"), key("e000"), key("new")];
    let tallies = node.outliers.set_cluster(&key("c"), Arc::clone(&stricter), &endpoints, 10);
    assert!(Arc::ptr_eq(&tallies[0], &node.tallies[1]) && Arc::ptr_eq(&tallies[1], &node.tallies[0]));
    assert!(tallies[0].is_ejected() && !tallies[2].is_ejected());
    assert_eq!(node.outliers.ejections().next().unwrap().until, 60_000);
    assert_eq!(tallies[1].note(Outcome::Status(500), &stricter, 20), Some(Why::Errors), "the third in a row");
}

#[test]
fn who_leaves_makes_room_and_who_loses_the_policy_returns() {
    let mut node = Node::new(OutlierPolicy { max_ejection_percent: 50, ..eager(1) }, 3);
    node.fail(0, 0);
    let policy = Arc::clone(&node.policy);
    node.outliers.set_cluster(&key("c"), policy, &[key("e001"), key("e002")], 1);
    assert!(!node.tallies[0].is_ejected());
    assert!(matches!(node.fail(1, 2)[..], [Effect::Ejected(_)]));
    node.outliers.remove_cluster(&key("c"));
    assert!(node.out().is_empty());
    assert_eq!(node.outliers.ejections().count(), 0);
    assert_eq!(node.outliers.due(), None);
    assert_eq!(node.fail(2, 3), [], "a late word of a cluster that is gone");
}

#[test]
fn the_same_endpoint_counts_for_each_cluster_by_itself() {
    let mut node = Node::new(eager(1), 1);
    let other = node.outliers.set_cluster(&key("d"), Arc::new(eager(5)), &node.endpoints.clone(), 0);
    node.fail(0, 0);
    assert!(node.tallies[0].is_ejected() && !other[0].is_ejected());
}

proptest! {
    /// B4: whatever attempts, reports, probes and times come in any order, no more are out than the cap allows.
    #[test]
    fn no_mix_of_events_exceeds_the_cap(
        count in 1usize..30,
        percent in 0u8..=100,
        steps in proptest::collection::vec((0usize..30, 0u8..6, 0u64..20_000, any::<bool>()), 0..400),
    ) {
        let mut node = Node::new(OutlierPolicy { max_ejection_percent: percent, ..eager(2) }, count);
        let mut now = 0;
        for (index, action, elapsed, healthy) in steps {
            let index = index % count;
            match action {
                0 => node.report(index, "liar", 1, now),
                1 => now += elapsed,
                2 => { node.probe(|_| healthy, now); }
                _ => { node.attempt(index, Outcome::Status(503), now); }
            }
            prop_assert!(node.out().len() * 100 <= usize::from(percent) * count);
            prop_assert_eq!(node.outliers.ejections().count(), node.out().len());
        }
        // Left alone, all return.
        node.outliers.handle(Event::Tick, now + 400_000, 0);
        prop_assert!(node.out().is_empty());
    }
}
