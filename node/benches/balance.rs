//! What a choice of endpoint costs, and what its tables cost to build.

use std::{hint::black_box, sync::Arc};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use node::balance::{
    Algorithm, Ask, BalancePolicy, Client, DEFAULT_MAGLEV, DEFAULT_RING, Dice, Host, LoadBalancer, Locality, Tried,
};

const SIZES: [u32; 3] = [10, 100, 1_000];

const ALGORITHMS: [(&str, Algorithm); 6] = [
    ("least_request", Algorithm::LeastRequest),
    ("round_robin", Algorithm::RoundRobin),
    ("random", Algorithm::Random),
    ("peak_ewma", Algorithm::PeakEwma),
    ("ring_hash", Algorithm::RingHash { minimum_size: DEFAULT_RING }),
    ("maglev", Algorithm::Maglev { table_size: DEFAULT_MAGLEV }),
];

/// `weight` gives each its weight by its number.
fn hosts(count: u32, weight: impl Fn(u32) -> u32) -> Vec<Host> {
    let host = |number| Host {
        id: format!("node{number}/default/app").into(),
        weight: weight(number),
        locality: Locality::new("eu/a"),
        labels: Arc::default(),
        healthy: true,
        load: Arc::default(),
        tally: Some(Arc::default()),
    };
    (0..count).map(host).collect()
}

fn build(hosts: &[Host], algorithm: Algorithm) -> LoadBalancer {
    let policy = BalancePolicy { algorithm, detects_outliers: true, ..BalancePolicy::default() };
    LoadBalancer::new(hosts.to_vec(), &policy, &Client::default(), 1)
}

fn pick(criterion: &mut Criterion) {
    for (kind, weight) in [("equal", (|_| 1) as fn(u32) -> u32), ("weighted", |number| 1 + number % 7)] {
        let mut group = criterion.benchmark_group(format!("pick_{kind}"));
        for (name, algorithm) in ALGORITHMS {
            for size in SIZES {
                let balancer = build(&hosts(size, weight), algorithm);
                let mut dice = Dice::new(7);
                group.bench_function(BenchmarkId::new(name, size), |bencher| {
                    bencher.iter(|| {
                        let random = dice.next();
                        let ask = Ask { tried: &Tried::NONE, leave: false, hash: Some(random), random, now: 1_000 };
                        black_box(balancer.pick(black_box(&ask)))
                    });
                });
            }
        }
        group.finish();
    }
}

fn tables(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("build");
    group.sample_size(20);
    for (name, algorithm) in ALGORITHMS {
        for size in SIZES {
            let hosts = hosts(size, |_| 1);
            group.bench_function(BenchmarkId::new(name, size), |bencher| {
                bencher.iter(|| black_box(build(black_box(&hosts), algorithm)));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, pick, tables);
criterion_main!(benches);
