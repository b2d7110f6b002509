//! What each algorithm does with many requests.

use super::*;
use proptest::prelude::*;

const ALL: [Algorithm; 6] = [
    Algorithm::LeastRequest,
    Algorithm::RoundRobin,
    Algorithm::Random,
    Algorithm::PeakEwma,
    Algorithm::RingHash { minimum_size: DEFAULT_RING },
    Algorithm::Maglev { table_size: 251 },
];

/// So many requests under way.
fn busy(host: &Host, requests: usize) -> Vec<Active> {
    (0..requests).map(|_| host.load.begin()).collect()
}

fn near(counts: &[u64], due: &[f64]) {
    let (sum, total) = (counts.iter().sum::<u64>() as f64, due.iter().sum::<f64>());
    for (count, due) in counts.iter().zip(due) {
        let (share, due) = (*count as f64 / sum, due / total);
        assert!((share - due).abs() < 0.02, "{counts:?}: {share} instead of {due}");
    }
}

#[test]
fn without_hosts_there_is_no_choice() {
    for algorithm in ALL {
        assert_eq!(build(&[], &policy(algorithm)).pick(&ask(1)), None);
        assert_eq!(build(&weighted(&[0, 0]), &policy(algorithm)).pick(&ask(1)), None, "a weight of 0 takes none");
    }
}

#[test]
fn all_algorithms_follow_weights() {
    // Places of a ring lie by chance, so it takes many to be even.
    let ring = Algorithm::RingHash { minimum_size: 1 << 15 };
    let maglev = Algorithm::Maglev { table_size: DEFAULT_MAGLEV };
    for algorithm in [Algorithm::LeastRequest, Algorithm::RoundRobin, Algorithm::Random, ring, maglev] {
        for weights in [vec![1; 5], vec![5, 1, 0, 4], (1..=40).collect::<Vec<u32>>()] {
            let due: Vec<f64> = weights.iter().map(|weight| f64::from(*weight)).collect();
            near(&counts(&build(&weighted(&weights), &policy(algorithm)), 50_000), &due);
        }
    }
}

#[test]
fn round_robin_meets_all_in_each_round() {
    let balancer = build(&weighted(&[3, 1, 6]), &policy(Algorithm::RoundRobin));
    for round in 1..50 {
        assert_eq!(counts(&balancer, 10), [3, 1, 6], "round {round}");
    }
}

#[test]
fn least_request_prefers_the_idle() {
    let hosts = weighted(&[1, 1, 1]);
    let _busy = [busy(&hosts[0], 10), busy(&hosts[2], 10)];
    near(&counts(&build(&hosts, &BalancePolicy::default()), 30_000), &[1.0 / 6.0, 2.0 / 3.0, 1.0 / 6.0]);
}

#[test]
fn unequal_weights_are_divided_by_what_is_under_way() {
    let hosts = weighted(&[3, 1]);
    let _busy = busy(&hosts[0], 5);
    near(&counts(&build(&hosts, &BalancePolicy::default()), 30_000), &[0.5, 1.0]);
    // The same for many hosts, by a sample: half of them are busy and get a quarter of the others'.
    let weights: Vec<u32> = (0..100).map(|index| 1 + index % 2).collect();
    let hosts = weighted(&weights);
    let _busy: Vec<_> = hosts[..50].iter().map(|host| busy(host, 3)).collect();
    let counts = counts(&build(&hosts, &BalancePolicy::default()), 50_000);
    let (first, second) = (counts[..50].iter().sum::<u64>() as f64, counts[50..].iter().sum::<u64>() as f64);
    assert!((0.2..0.32).contains(&(first / second)), "{}", first / second);
}

#[test]
fn peak_ewma_prefers_the_fast_and_tries_the_unknown() {
    let hosts = weighted(&[1, 1, 1]);
    for (host, latency) in hosts.iter().zip([1_000, 5_000, 50_000]) {
        host.load.answered(latency, 1);
    }
    let balancer = build(&hosts, &policy(Algorithm::PeakEwma));
    near(&counts(&balancer, 30_000), &[2.0 / 3.0, 1.0 / 3.0, 0.0]);
    let mut more = hosts.clone();
    more.push(host("new", ""));
    near(&counts(&build(&more, &policy(Algorithm::PeakEwma)), 30_000), &[1.0 / 3.0, 1.0 / 6.0, 0.0, 0.5]);
    // A load of ten makes the fast one slower than the middle one.
    let _busy = busy(&hosts[0], 10);
    near(&counts(&balancer, 30_000), &[1.0 / 3.0, 2.0 / 3.0, 0.0]);
}

#[test]
fn one_key_goes_to_one_host_on_all_nodes() {
    for algorithm in &ALL[4..] {
        let hosts = weighted(&[1, 2, 3, 4, 5]);
        let reversed: Vec<Host> = hosts.iter().rev().cloned().collect();
        let (here, there) = (build(&hosts, &policy(*algorithm)), build(&reversed, &policy(*algorithm)));
        let mut met = std::collections::BTreeSet::new();
        for key in 0..200u32 {
            let hash = Some(hash(&key.to_le_bytes()));
            let chosen = |balancer: &LoadBalancer, random| {
                let position = balancer.pick(&Ask { hash, ..ask(random) }).unwrap();
                balancer.hosts()[position].id.clone()
            };
            let home = chosen(&here, 1);
            assert!((2..20).all(|random| chosen(&there, random) == home));
            met.insert(home);
        }
        assert_eq!(met.len(), 5);
    }
}

#[test]
fn a_new_host_warms_up() {
    let warmup = Some(Warmup { duration: 10_000, minimum_percent: 10, aggression: 1.0 });
    for algorithm in [Algorithm::LeastRequest, Algorithm::RoundRobin] {
        let hosts = weighted(&[1, 1, 1, 1]);
        hosts[3].load.arrived(1_000);
        let balancer = build(&hosts, &BalancePolicy { warmup, ..policy(algorithm) });
        for (now, share) in [(1_000, 0.1), (6_000, 0.5), (11_000, 1.0)] {
            near(&counts_at(&balancer, 20_000, now), &[1.0, 1.0, 1.0, share]);
        }
        // When all are new, all are alike.
        hosts.iter().for_each(|host| host.load.arrived(20_000));
        near(&counts_at(&balancer, 20_000, 20_001), &[1.0; 4]);
    }
    let hosts = weighted(&[1, 1]);
    hosts[1].load.arrived(1_000);
    near(&counts_at(&build(&hosts, &BalancePolicy { warmup, ..policy(Algorithm::Random) }), 20_000, 1_000), &[1.0; 2]);
}

#[test]
fn who_answers_429_gets_less_and_is_never_ejected() {
    for algorithm in [Algorithm::LeastRequest, Algorithm::RoundRobin, Algorithm::Random] {
        let hosts = weighted(&[1, 1, 1]);
        hosts[0].load.slow(Some(2_000), 0);
        let balancer = build(&hosts, &policy(algorithm));
        near(&counts_at(&balancer, 20_000, 1_000), &[0.1, 1.0, 1.0]);
        near(&counts_at(&balancer, 20_000, 2_000), &[1.0; 3]);
        hosts.iter().for_each(|host| host.load.slow(None, 3_000));
        near(&counts_at(&balancer, 20_000, 3_001), &[1.0; 3]);
    }
}

#[test]
fn what_went_out_since_is_never_chosen() {
    for algorithm in ALL {
        let hosts = weighted(&[1; 20]);
        let balancer = build(&hosts, &policy(algorithm));
        hosts.iter().skip(1).for_each(|host| host.load.set_out(true));
        let mut tried = Tried::default();
        for _ in 0..2 {
            for request in 0..50 {
                assert_eq!(balancer.pick(&Ask { tried: &tried, ..ask(request) }), Some(0), "{algorithm:?}");
            }
            // One that was tried is still better than one that is out.
            tried.add(0);
        }
        hosts[0].load.set_out(true);
        assert_eq!(balancer.pick(&ask(0)), None);
        hosts[7].load.set_out(false);
        assert_eq!(balancer.pick(&ask(0)), Some(7));
    }
}

#[test]
fn unhealthy_hosts_are_not_in_the_tables() {
    let mut hosts = weighted(&[1, 1, 1]);
    hosts[1].healthy = false;
    for algorithm in ALL {
        assert_eq!(counts(&build(&hosts, &policy(algorithm)), 300)[1], 0);
    }
}

proptest! {
    #[test]
    fn tried_hosts_are_avoided_while_another_is_left(
        weights in proptest::collection::vec(1u32..5, 2..24),
        skipped in proptest::collection::vec(0usize..24, 0..8),
        (random, hash) in (any::<u64>(), any::<Option<u64>>()),
    ) {
        let hosts = weighted(&weights);
        let mut tried = Tried::default();
        skipped.iter().for_each(|position| tried.add(*position));
        let all_tried = (0..hosts.len()).all(|position| tried.contains(position));
        for algorithm in ALL {
            let balancer = build(&hosts, &policy(algorithm));
            let chosen = balancer.pick(&Ask { tried: &tried, hash, ..ask(random) }).expect("all are healthy");
            prop_assert!(chosen < hosts.len());
            prop_assert!(all_tried || !tried.contains(chosen), "{:?}", algorithm);
        }
    }
}
