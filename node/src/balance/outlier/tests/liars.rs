//! The bounds of what reports may cause, with members that lie.

use super::*;

const HEALTHY: fn(&Key) -> bool = |_| true;

fn policy() -> OutlierPolicy {
    OutlierPolicy { max_ejection_percent: 100, ..OutlierPolicy::default() }
}

/// B1: with one liar, two, and all but one.
#[test]
fn no_number_of_liars_takes_anything_from_a_healthy_endpoint() {
    for liars in [1, 2, 99] {
        let mut node = Node::new(policy(), 10);
        for now in (0..120_000).step_by(100) {
            for liar in 0..liars {
                node.report(3, &format!("liar{liar}"), 1_000, now);
            }
            let (_, effects) = node.probe(HEALTHY, now);
            assert_eq!(effects, []);
            for index in 0..10 {
                assert_eq!(node.attempt(index, Outcome::Status(200), now), []);
            }
            // An error now and then is no row.
            if now % 1_000 == 0 {
                assert_eq!(node.attempt(3, Outcome::Status(500), now), []);
            }
            assert_eq!(node.out(), [0; 0]);
        }
    }
}

/// B2: neither praise nor an owner whose check passes keeps an endpoint that answers nothing.
#[test]
fn praise_does_not_keep_a_dead_endpoint() {
    for complaints in [0, 1] {
        let mut node = Node::new(policy(), 3);
        let mut failed = 0;
        for now in (0..20_000).step_by(100) {
            node.report(0, "admirer", 0, now);
            node.report(0, "double", complaints, now);
            assert_eq!(node.probe(HEALTHY, now).1, []);
            if node.out().is_empty() {
                failed += 1;
                node.attempt(0, Outcome::ConnectFailure, now);
            }
        }
        assert_eq!(node.out(), [0]);
        assert_eq!(failed, if complaints == 0 { 5 } else { 2 }, "the policy's own count, or the alert's");
    }
}

/// B3: a node that never called a dead endpoint loses at most one attempt to it if the owner's check fails too.
#[test]
fn an_honest_report_spares_attempts() {
    let mut node = Node::new(policy(), 3);
    node.report(1, "honest", 5, 1_000);
    assert_eq!(node.outliers.witnesses(&key("e001")).collect::<Vec<_>>(), [&key("honest")]);
    let (probed, effects) = node.probe(|_| false, 1_000);
    assert_eq!((probed, effects), (vec![key("e001")], vec![]));
    assert_eq!(node.attempt(1, Outcome::Reset, 1_500).len(), 1);
    assert_eq!(node.out(), [1]);
}

/// B3: and at most two if the check knows nothing of it, though the cluster came after the report.
#[test]
fn without_the_check_two_attempts_are_enough() {
    let mut node = Node::new(policy(), 0);
    let endpoint = key("e000");
    let report = Event::Report { endpoint: endpoint.clone(), reporter: key("honest"), failures: 5 };
    node.outliers.handle(report, 1_000, 0);
    assert_eq!(node.probe(HEALTHY, 2_000).0, [], "an endpoint that is not used is not probed");
    node.endpoints = vec![endpoint.clone()];
    node.tallies = node.outliers.set_cluster(&key("c"), node.policy.clone(), &node.endpoints, 3_000);
    assert_eq!(node.outliers.due(), Some(1_000));
    assert_eq!(node.probe(HEALTHY, 3_000).0, [endpoint]);
    assert_eq!(node.attempt(0, Outcome::Reset, 3_100), []);
    assert_eq!(node.attempt(0, Outcome::Reset, 3_200).len(), 1);
}

#[test]
fn failed_probes_alone_are_enough_while_reports_go_on() {
    let mut node = Node::new(policy(), 2);
    let mut probes = 0;
    for now in (0..10_000).step_by(50) {
        node.report(0, "honest", 5, now);
        probes += node.probe(|_| false, now).0.len();
    }
    assert_eq!((node.out(), probes), (vec![0], 2), "who is out is probed no more");
}

#[test]
fn an_alert_ends() {
    let mut node = Node::new(policy(), 1);
    node.report(0, "liar", 1, 0);
    node.probe(HEALTHY, 0);
    for _ in 0..4 {
        assert_eq!(node.attempt(0, Outcome::Status(500), ALERT_MS), []);
    }
    node.outliers.handle(Event::Tick, ALERT_MS, 0);
    assert_eq!(node.outliers.witnesses(&key("e000")).count(), 0);
}

/// B5: probes of one endpoint do not grow with the number of reporters, and grow ever rarer while they find nothing.
#[test]
fn probes_are_bounded_whatever_the_number_of_reporters() {
    let mut counts = Vec::new();
    for reporters in [1, 100] {
        let mut node = Node::new(policy(), 5);
        let mut probes = 0;
        for now in (0..300_000).step_by(200) {
            for reporter in 0..reporters {
                node.report(0, &format!("r{reporter}"), 9, now);
            }
            probes += node.probe(HEALTHY, now).0.len();
        }
        assert!(node.outliers.witnesses(&key("e000")).count() <= 16);
        counts.push(probes);
    }
    assert_eq!(counts[0], counts[1]);
    assert!(counts[0] <= 15, "five in the first 32 s, then one in 32 s: {counts:?}");
}

#[test]
fn only_so_many_probes_are_under_way_and_lost_ones_give_their_place_back() {
    let mut node = Node::new(policy(), 100);
    for index in 0..100 {
        node.report(index, "r", 1, 0);
    }
    assert_eq!(node.outliers.handle(Event::Tick, 1, 0).len(), MAX_PROBES);
    assert_eq!(node.outliers.handle(Event::Tick, 2, 0), []);
    assert_eq!(node.outliers.due(), Some(1 + PROBE_MS), "waiting for a place is no busy loop");
    assert_eq!(node.outliers.handle(Event::Tick, 1 + PROBE_MS, 0).len(), MAX_PROBES);
    // The answer to one that was given up counts for nothing, and so does one that nobody asked for.
    for endpoint in [key("e000"), key("e099"), key("stranger")] {
        for _ in 0..9 {
            let event = Event::Probed { endpoint: endpoint.clone(), healthy: false };
            assert_eq!(node.outliers.handle(event, 2 + PROBE_MS, 0), []);
        }
    }
}

/// A member with many endpoints reports them, or has them reported, all at once; its name comes first.
#[test]
fn one_owner_leaves_room_for_the_probes_of_others() {
    let mut node = Node::new(policy(), 0);
    node.endpoints = (0..100).map(|number| key(&format!("a/shop/s{number:03}"))).collect();
    node.endpoints.extend((0..40).map(|number| key(&format!("n{number:02}/shop/cart"))));
    node.tallies = node.outliers.set_cluster(&key("c"), node.policy.clone(), &node.endpoints, 0);
    (0..100).for_each(|index| node.report(index, "liar", 1, 0));
    // What came later waits longer; names do not count.
    (100..140).for_each(|index| node.report(index, "honest", 1, u64::try_from(240 - index).unwrap()));
    let begins = |node: &mut Node, now: Millis| {
        let begun = node.outliers.handle(Event::Tick, now, 0).into_iter().map(|effect| {
            let Effect::Probe { endpoint } = effect else { panic!("{effect:?}") };
            endpoint
        });
        begun.collect::<Vec<_>>()
    };
    let begun = begins(&mut node, 200);
    let of_owner = begun.iter().filter(|endpoint| endpoint.starts_with("a/")).count();
    assert_eq!((of_owner, begun.len()), (MAX_PROBES_OF_OWNER, MAX_PROBES));
    let longest: Vec<Key> = (12..40).rev().map(|number| key(&format!("n{number:02}/shop/cart"))).collect();
    assert_eq!(begun[MAX_PROBES_OF_OWNER..], longest);
    // A place that becomes free is for who may take it.
    let healthy = |endpoint: &Key| Event::Probed { endpoint: endpoint.clone(), healthy: true };
    node.outliers.handle(healthy(&longest[0]), 210, 0);
    assert_eq!(begins(&mut node, 210), [key("n11/shop/cart")]);
    node.outliers.handle(healthy(&begun[0]), 220, 0);
    assert_eq!(begins(&mut node, 220), [key("a/shop/s004")]);
    assert!(node.outliers.due().unwrap() > 220, "waiting for a place is no busy loop");
}

/// With room left, what waits only for its owner's places wakes nobody.
#[test]
fn an_owner_whose_probes_are_under_way_is_waited_for() {
    let mut node = Node::new(policy(), 0);
    node.endpoints = (0..9).map(|number| key(&format!("a/shop/s{number}"))).collect();
    node.tallies = node.outliers.set_cluster(&key("c"), node.policy.clone(), &node.endpoints, 0);
    (0..9).for_each(|index| node.report(index, "liar", 1, 0));
    assert_eq!(node.outliers.handle(Event::Tick, 1, 0).len(), MAX_PROBES_OF_OWNER);
    assert_eq!(node.outliers.due(), Some(1 + PROBE_MS));
}

#[test]
fn what_an_owner_says_of_its_own_endpoint_is_no_reason_to_look() {
    let mut node = Node::new(policy(), 0);
    node.endpoints = vec![key("a/shop/cart"), key("ab/shop/cart")];
    node.tallies = node.outliers.set_cluster(&key("c"), node.policy.clone(), &node.endpoints, 0);
    (0..2).for_each(|index| node.report(index, "a", 9, 0));
    assert_eq!(node.outliers.witnesses(&key("a/shop/cart")).count(), 0);
    assert_eq!(node.probe(HEALTHY, 1).0, [key("ab/shop/cart")]);
}

#[test]
fn reports_of_what_is_not_used_fill_no_memory() {
    let mut node = Node::new(policy(), 1);
    for number in 0..2 * MAX_ALERTS {
        let endpoint = key(&format!("stranger{number}"));
        node.outliers.handle(Event::Report { endpoint, reporter: key("liar"), failures: 1 }, 0, 0);
    }
    assert_eq!(node.outliers.alarm.len(), MAX_ALERTS);
    node.report(0, "honest", 1, 0);
    assert_eq!(node.probe(HEALTHY, 0).0, [key("e000")], "what is used always finds room");
    let late = Event::Report { endpoint: key("other"), reporter: key("liar"), failures: 1 };
    node.outliers.handle(late, ALERT_MS, 0);
    assert_eq!(node.outliers.alarm.len(), 1, "what is over makes room");
}

#[test]
fn nodes_do_not_probe_all_at_once() {
    let begin = |random: u64| {
        let mut node = Node::new(policy(), 1);
        let endpoint = Arc::clone(&node.endpoints[0]);
        node.outliers.handle(Event::Report { endpoint, reporter: key("r"), failures: 1 }, 0, random);
        node.outliers.due().unwrap()
    };
    let begins: BTreeSet<Millis> = (0..1_000u64).map(|node| begin(node * 7_919)).collect();
    assert!(begins.len() > 200 && *begins.last().unwrap() < SPREAD_MS);
}

#[test]
fn few_nodes_need_not_wait_for_one_another() {
    for (members, longest) in [(0, 1), (20, 20), (5_000, SPREAD_MS)] {
        let mut node = Node::new(policy(), 1);
        node.outliers.set_members(members);
        let endpoint = Arc::clone(&node.endpoints[0]);
        node.outliers.handle(Event::Report { endpoint, reporter: key("r"), failures: 1 }, 0, u64::MAX / 7);
        assert!(node.outliers.due().unwrap() < longest);
    }
}

/// Sharing is switched off while alerts hold and a probe is under way.
#[test]
fn silence_ends_what_reports_began() {
    let mut node = Node::new(policy(), 2);
    node.report(0, "r", 3, 0);
    assert_eq!(node.outliers.handle(Event::Tick, 0, 0).len(), 1);
    node.outliers.hush();
    let late = Event::Probed { endpoint: Arc::clone(&node.endpoints[0]), healthy: false };
    assert_eq!(node.outliers.handle(late, 1, 0), []);
    for _ in 0..4 {
        assert_eq!(node.attempt(0, Outcome::Status(500), 2), []);
    }
    assert_eq!(node.attempt(0, Outcome::Status(500), 2).len(), 1, "the policy's own count");
    assert_eq!(node.outliers.witnesses(&key("e000")).count(), 0);
}

/// In a small mesh: what the probe of an endpoint found that nobody here called counts once somebody does.
#[test]
fn few_members_look_ahead() {
    for (members, threshold, lost) in [(FEW_MEMBERS, 5, 1), (FEW_MEMBERS, 1, 1), (FEW_MEMBERS + 1, 5, 2)] {
        let policy = OutlierPolicy { consecutive_errors: threshold, ..policy() };
        let mut node = Node::new(policy, 0);
        node.outliers.set_members(members);
        let endpoint = key("e000");
        let report = Event::Report { endpoint: endpoint.clone(), reporter: key("honest"), failures: 5 };
        node.outliers.handle(report, 1_000, 0);
        assert_eq!(node.probe(|_| false, 1_500).0.len(), usize::from(members == FEW_MEMBERS));
        node.endpoints = vec![endpoint];
        for _ in 0..2 {
            // A second time it is the same cluster: nothing is counted twice.
            node.tallies = node.outliers.set_cluster(&key("c"), node.policy.clone(), &node.endpoints, 2_000);
        }
        for attempt in 1..=lost {
            assert_eq!(node.attempt(0, Outcome::Status(500), 2_100).len(), usize::from(attempt == lost));
        }
    }
}

/// As in B1, with an endpoint that nobody here has called: reports alone count for nothing.
#[test]
fn who_looks_ahead_believes_what_it_saw() {
    let mut node = Node::new(policy(), 0);
    node.outliers.set_members(3);
    for liar in 0..99 {
        let report = Event::Report { endpoint: key("e000"), reporter: key(&format!("liar{liar}")), failures: 9 };
        node.outliers.handle(report, 1_000, 0);
    }
    assert_eq!(node.probe(HEALTHY, 1_500).0.len(), 1);
    node.endpoints = vec![key("e000")];
    node.tallies = node.outliers.set_cluster(&key("c"), node.policy.clone(), &node.endpoints, 2_000);
    assert_eq!(node.attempt(0, Outcome::Status(500), 2_100), []);
    assert_eq!(node.attempt(0, Outcome::Status(200), 2_200), []);
    assert_eq!(node.attempt(0, Outcome::Status(500), 2_300), []);
}
