//! What came out of a scenario.

use std::collections::BTreeMap;

use serde::Serialize;

/// A scenario's outcome. Everything but `cpu_us_per_node_round` follows from the scenario alone.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// As in the scenario.
    pub seed: u64,
    /// From a `put` until another node's view had it, over all pairs; none if nothing was put.
    pub spread_ms: Option<Quantiles>,
    /// Pairs where it never came.
    pub unspread: usize,
    /// From a `kill` until another node judged it dead, over all pairs; none if nobody was killed.
    pub detection_ms: Option<Quantiles>,
    /// Pairs where it never was.
    pub undetected: usize,
    /// How often a running node judged another dead that ran and could be reached, directly or over others.
    pub false_deaths: usize,
    /// How often a running node suspected such a node.
    pub false_suspicions: usize,
    /// From the last event until all saw all that run as they are, and nobody else; none if never.
    pub settled_ms: Option<u64>,
    /// Bytes that a running node sent a second, by lane, without what the transport adds.
    pub bytes_per_node_s: BTreeMap<&'static str, u64>,
    /// Links of a node at the end: least, median, most.
    pub links: [usize; 3],
    /// CPU time of a node's engine in a second; none if nobody measured it.
    pub cpu_us_per_node_round: Option<u64>,
    /// Digests of what nodes believe, without their own judgements: one if all believe the same.
    pub state_hashes: Vec<String>,
    /// What became of the first zone's news in the others; none where all nodes are one pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zones: Option<Zones>,
}

/// News between zones.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Zones {
    /// How many there are, the first one included.
    pub count: usize,
    /// From a `put` in the first zone until a node of another had it from two of its bridges, over all such nodes.
    pub spread_ms: Option<Quantiles>,
    /// Nodes and news where it never came.
    pub unspread: usize,
    /// Nodes that believed what only one bridge signed.
    pub deceived: usize,
    /// Links of a bridge beside those within its zone.
    pub bridge_links: usize,
    /// Bytes that the busiest bridge of the first zone sent the others for each of the news.
    pub bytes_per_news: u64,
}

/// Nearest ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Quantiles {
    /// The median.
    pub p50: u64,
    /// Ninety-nine of a hundred took no longer.
    pub p99: u64,
    /// Nothing took longer.
    pub p100: u64,
}

impl Quantiles {
    /// Of samples in any order; none of nothing.
    #[must_use]
    pub fn of(mut samples: Vec<u64>) -> Option<Quantiles> {
        samples.sort_unstable();
        let last = samples.len().checked_sub(1)?;
        let rank = |percent: usize| samples[(samples.len() * percent).div_ceil(100).saturating_sub(1).min(last)];
        Some(Quantiles { p50: rank(50), p99: rank(99), p100: samples[last] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_nearest() {
        assert_eq!(Quantiles::of(Vec::new()), None);
        assert_eq!(Quantiles::of(vec![7]), Some(Quantiles { p50: 7, p99: 7, p100: 7 }));
        let quantiles = Quantiles::of((1..=1_000).rev().collect());
        assert_eq!(quantiles, Some(Quantiles { p50: 500, p99: 990, p100: 1_000 }));
    }
}
