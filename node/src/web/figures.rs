//! Sums over edges: the golden signals of a service, and how they went in the last quarter of an hour.

use std::{collections::BTreeMap, fmt::Write as _};

use maud::{Markup, html};

use super::words;
use crate::{
    agent::admin::api::Edge,
    telemetry::{SLOTS, quantile},
};

/// Requests, failures and durations of some edges together.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Golden {
    pub(super) requests: u64,
    pub(super) failed: u64,
    pub(super) rate: f64,
    pub(super) failing: f64,
    slots: Vec<[u64; 2]>,
    buckets: Vec<u64>,
    pub(super) failures: BTreeMap<String, u64>,
}

impl Golden {
    pub(super) fn of<'e>(edges: impl IntoIterator<Item = &'e Edge>) -> Self {
        let mut sum = Self::default();
        edges.into_iter().for_each(|edge| sum.add(edge));
        sum
    }

    pub(super) fn add(&mut self, edge: &Edge) {
        self.requests = self.requests.saturating_add(edge.requests);
        self.failed = self.failed.saturating_add(edge.failed);
        self.rate += edge.rate;
        self.failing += edge.failing;
        self.slots.resize(self.slots.len().max(edge.slots.len()).min(SLOTS), [0; 2]);
        for (all, more) in self.slots.iter_mut().zip(&edge.slots) {
            *all = [all[0].saturating_add(more[0]), all[1].saturating_add(more[1])];
        }
        self.buckets.resize(self.buckets.len().max(edge.buckets.len()), 0);
        self.buckets.iter_mut().zip(&edge.buckets).for_each(|(all, more)| *all = all.saturating_add(*more));
        for (how, count) in &edge.failures {
            let known = self.failures.entry(how.clone()).or_default();
            *known = known.saturating_add(*count);
        }
    }

    pub(super) fn quantile(&self, q: f64) -> Option<f64> {
        quantile(&self.buckets, q)
    }

    /// How bad it is: `good`, `doubt` from one failure in a hundred on, `bad` from one in ten on; `idle` without requests.
    pub(super) fn class(&self) -> &'static str {
        match (self.requests, self.failed) {
            (0, _) => "idle",
            (all, failed) if failed.saturating_mul(10) >= all => "bad",
            (all, failed) if failed.saturating_mul(100) >= all => "doubt",
            _ => "good",
        }
    }

    /// Rate, failures and durations as cells of a row.
    pub(super) fn cells(&self) -> Markup {
        html! {
            td.number data-label="Rate" { (words::rate(self.rate)) }
            td class={ "number " (self.class()) } data-label="Failed" { (words::share(self.failed, self.requests)) }
            td.number data-label="p50" { (words::millis(self.quantile(0.5))) }
            td.number data-label="p99" { (words::millis(self.quantile(0.99))) }
            td.spark data-label="15 min" { (self.spark()) }
        }
    }

    /// The heads of these cells.
    pub(super) fn heads() -> Markup {
        html! {
            th.number scope="col" { "Rate" }
            th.number scope="col" { "Failed" }
            th.number scope="col" { "p50" }
            th.number scope="col" { "p99" }
            th scope="col" { "15 min" }
        }
    }

    /// A bar for each slot, the oldest first; what failed stands out.
    pub(super) fn spark(&self) -> Markup {
        const HEIGHT: f64 = 24.0;
        let most = self.slots.iter().map(|slot| slot[0]).max().unwrap_or(0).max(1) as f64;
        let bars = |which: usize| {
            let mut path = String::new();
            for (age, slot) in self.slots.iter().enumerate().filter(|(_, slot)| slot[which] > 0) {
                let height = (slot[which] as f64 / most * HEIGHT).max(1.0);
                // Writing to a string does not fail.
                let _ = write!(path, "M{} 24v-{height:.1}h3v{height:.1}z", (SLOTS - 1 - age.min(SLOTS - 1)) * 4);
            }
            path
        };
        let title = format!("{} requests, {} failed, in the last 15 minutes", self.requests, self.failed);
        html! {
            svg.bars viewBox="0 0 120 24" width="120" height="24" role="img" aria-label=(title) {
                title { (title) }
                path.base d="M0 23.5h120" {}
                path.all d=(bars(0)) {}
                path.failed d=(bars(1)) {}
            }
        }
    }

    /// What failed how, the most frequent first.
    pub(super) fn how(&self) -> Vec<(&str, u64)> {
        let mut all: Vec<_> = self.failures.iter().map(|(how, count)| (how.as_str(), *count)).collect();
        all.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        all
    }
}

#[cfg(test)]
pub(super) fn edge(from: (&str, &str), to: (&str, &str), requests: u64, failed: u64) -> Edge {
    use crate::agent::admin::api::Party;
    let party = |(service, version): (&str, &str)| {
        let (namespace, service) = service.split_once('/').unwrap_or(("unknown", service));
        Party { namespace: namespace.into(), service: service.into(), version: version.into() }
    };
    Edge {
        from: party(from),
        to: party(to),
        service: to.0.to_owned(),
        protocol: "http".into(),
        security: "mutual_tls".into(),
        requests,
        failed,
        rate: requests as f64 / 10.0,
        failing: failed as f64 / 10.0,
        p50_ms: None,
        p90_ms: None,
        p99_ms: None,
        slots: vec![[requests, failed]],
        buckets: vec![0, 0, requests],
        failures: if failed > 0 { BTreeMap::from([("503 UH".to_owned(), failed)]) } else { BTreeMap::new() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_add_up() {
        let edges = [edge(("s/a", ""), ("s/c", ""), 90, 1), edge(("s/b", ""), ("s/c", ""), 10, 0)];
        let sum = Golden::of(&edges);
        assert_eq!((sum.requests, sum.failed, sum.rate, sum.class()), (100, 1, 10.0, "doubt"));
        assert_eq!((sum.quantile(0.5), sum.how()), (Some(3.0), vec![("503 UH", 1)]));
        assert_eq!(Golden::default().class(), "idle");
        assert_eq!(Golden::of(&edges[1..]).class(), "good");
    }

    #[test]
    fn the_newest_slot_stands_at_the_right() {
        let svg = Golden::of(&[edge(("s/a", ""), ("s/c", ""), 4, 2)]).spark().into_string();
        assert!(svg.contains("M116 24v-24.0h3") && svg.contains("M116 24v-12.0h3"), "{svg}");
    }

    #[test]
    fn edges_of_strange_length_do_no_harm() {
        let mut odd = edge(("s/a", ""), ("s/c", ""), u64::MAX, u64::MAX);
        (odd.slots, odd.buckets) = (vec![[u64::MAX; 2]; 1_000], vec![1; 1_000]);
        let sum = Golden::of([&odd, &odd]);
        sum.spark();
        assert_eq!(sum.class(), "bad");
    }
}
