//! The whole choice: algorithms by their effect on many requests, priorities and places by their shares.

mod algorithms;
mod places;

use std::{collections::BTreeMap, sync::Arc};

use super::*;

/// A host `name` of weight 1 in a locality.
pub(super) fn host(name: &str, locality: &str) -> Host {
    Host {
        id: name.into(),
        weight: 1,
        locality: Locality::new(locality),
        labels: Arc::default(),
        healthy: true,
        load: Arc::default(),
        tally: None,
    }
}

pub(super) fn weighted(weights: &[u32]) -> Vec<Host> {
    let named = weights.iter().enumerate();
    named.map(|(index, weight)| Host { weight: *weight, ..host(&format!("node{index:04}/default/app"), "") }).collect()
}

pub(super) fn policy(algorithm: Algorithm) -> BalancePolicy {
    BalancePolicy { algorithm, ..BalancePolicy::default() }
}

pub(super) fn build(hosts: &[Host], policy: &BalancePolicy) -> LoadBalancer {
    LoadBalancer::new(hosts.to_vec(), policy, &Client::default(), 0)
}

pub(super) const NONE_TRIED: &Tried = &Tried::NONE;

pub(super) fn ask(random: u64) -> Ask<'static> {
    Ask { tried: NONE_TRIED, leave: false, hash: None, random: random.wrapping_mul(0x9E37_79B9_7F4A_7C15), now: 1 }
}

/// How many of so many requests each host gets.
pub(super) fn counts(balancer: &LoadBalancer, requests: u64) -> Vec<u64> {
    counts_at(balancer, requests, 1)
}

pub(super) fn counts_at(balancer: &LoadBalancer, requests: u64, now: Millis) -> Vec<u64> {
    let mut counts = vec![0; balancer.hosts().len()];
    for request in 0..requests {
        counts[balancer.pick(&Ask { now, ..ask(request) }).expect("somebody is healthy")] += 1;
    }
    counts
}

/// Percent of 10,000 requests by name, without those that get none.
pub(super) fn percents(balancer: &LoadBalancer) -> BTreeMap<String, u64> {
    let counts = counts(balancer, 10_000).into_iter().map(|count| (count + 50) / 100);
    let named = balancer.hosts().iter().map(|host| host.id.to_string()).zip(counts);
    named.filter(|(_, percent)| *percent > 0).collect()
}
