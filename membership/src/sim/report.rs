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
    /// How often a node that has run for three seconds suspected such a node: before, it suspects all that it knows from its disk.
    pub false_suspicions: usize,
    /// From the last event until all saw all that run as they are, and nobody else; none if never.
    pub settled_ms: Option<u64>,
    /// Bytes that a running node which does not lie sent a second, by lane, without what the transport adds.
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
    /// What several runs of one scenario differed in, where chance has a say that no seed has. All else is then the worst of them:
    /// numbers of what should not be are added up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runs: Option<Runs>,
}

/// Several runs, with the seeds that follow the scenario's.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Runs {
    /// How many.
    pub count: usize,
    /// Of each run's longest spread.
    pub spread_p100_ms: Option<Quantiles>,
    /// Of each run's latest detection.
    pub detection_p100_ms: Option<Quantiles>,
    /// Of the times after which all saw all; none if one run never came to that.
    pub settled_ms: Option<Quantiles>,
}

impl Report {
    /// One of several runs; none of none.
    #[must_use]
    pub fn of_runs(runs: Vec<Report>) -> Option<Report> {
        let worst = |of: fn(&Report) -> Option<Quantiles>| {
            let all: Vec<Quantiles> = runs.iter().filter_map(of).collect();
            let most = |rank: fn(&Quantiles) -> u64| all.iter().map(rank).max();
            Some(Quantiles { p50: most(|of| of.p50)?, p99: most(|of| of.p99)?, p100: most(|of| of.p100)? })
        };
        let latest = |of: fn(&Report) -> Option<Quantiles>| {
            Quantiles::of(runs.iter().filter_map(of).map(|quantiles| quantiles.p100).collect())
        };
        let settled: Option<Vec<u64>> = runs.iter().map(|run| run.settled_ms).collect();
        let sum = |of: fn(&Report) -> usize| runs.iter().map(of).sum();
        let lanes = runs.iter().flat_map(|run| run.bytes_per_node_s.keys().copied());
        let bytes = |lane: &str| runs.iter().filter_map(|run| run.bytes_per_node_s.get(lane)).max().copied();
        let mut hashes: Vec<String> = runs.iter().max_by_key(|run| run.state_hashes.len())?.state_hashes.clone();
        hashes.sort_unstable();
        let first = runs.first()?;
        Some(Report {
            seed: first.seed,
            spread_ms: worst(|run| run.spread_ms),
            unspread: sum(|run| run.unspread),
            detection_ms: worst(|run| run.detection_ms),
            undetected: sum(|run| run.undetected),
            false_deaths: sum(|run| run.false_deaths),
            false_suspicions: sum(|run| run.false_suspicions),
            settled_ms: settled.as_ref().and_then(|all| all.iter().max().copied()),
            bytes_per_node_s: lanes.filter_map(|lane| Some((lane, bytes(lane)?))).collect(),
            links: first.links,
            cpu_us_per_node_round: runs.iter().filter_map(|run| run.cpu_us_per_node_round).max(),
            state_hashes: hashes,
            zones: None,
            runs: Some(Runs {
                count: runs.len(),
                spread_p100_ms: latest(|run| run.spread_ms),
                detection_p100_ms: latest(|run| run.detection_ms),
                settled_ms: settled.and_then(Quantiles::of),
            }),
        })
    }
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
