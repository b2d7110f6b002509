//! What a demonstration found, as `-o json` prints it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::traffic::Tally;

/// The summary. Everything is counted and timed by the client, not by the proxies.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    /// Whether every step held.
    pub(super) ok: bool,
    pub(super) nodes: usize,
    /// From the start of the last nodes until every node saw every other one alive.
    pub(super) convergence_ms: u64,
    pub(super) pushes: Vec<Push>,
    pub(super) steps: Vec<Step>,
    pub(super) failover: Failover,
}

/// One push.
#[derive(Debug, Serialize)]
pub(super) struct Push {
    pub(super) document: String,
    /// The node that it was pushed to.
    pub(super) node: String,
    /// From the start of the command until the last node had it.
    pub(super) to_all_ms: u64,
}

/// Some requests.
#[derive(Debug, Serialize)]
pub(super) struct Step {
    pub(super) name: String,
    pub(super) requests: u64,
    pub(super) failed: u64,
    /// Pages by the version of reviews in them.
    pub(super) split: BTreeMap<String, u64>,
}

/// A node that serves reviews is killed under load.
#[derive(Debug, Default, Serialize)]
pub(super) struct Failover {
    pub(super) requests: u64,
    pub(super) failed: u64,
    /// Requests that the mesh tried again, unseen by the client but for a header.
    pub(super) retried: u64,
    /// From the kill until no node had the endpoint any more.
    pub(super) removed_everywhere_ms: u64,
}

impl Step {
    /// A step from what the client saw.
    pub(super) fn new(name: &str, tally: &Tally) -> Self {
        let Tally { requests, failed, ref split, .. } = *tally;
        Self { name: name.to_owned(), requests, failed, split: split.clone() }
    }
}

/// Whole milliseconds.
pub(super) fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
