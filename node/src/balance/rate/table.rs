//! The buckets and counts of this node's limits. They live beside the snapshot, so that a change of policy that leaves a rule alone
//! leaves its buckets alone.

use crate::lock::lock;
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use certs::id::ServiceName;
use policy::{
    compile::WorkloadLimit,
    kinds::{LimitMode, LimitScope},
};

use super::{Buckets, Limit, MeshRule, Mode, Refused, Room};

/// Keys that may be short of full at once; 16 bytes each, taken when the first limit is met.
const KEYS: usize = 65_536;
/// Rules whose counts are kept; with more, those that nobody uses go.
const MAX_RULES: usize = 10_000;
/// Rules of the mesh whose gates are kept; with more, those that nobody uses go.
const MAX_MESH_RULES: usize = 1_000;

/// See the module. Shared by all workers.
#[derive(Debug)]
pub struct Limits {
    seed: u64,
    buckets: OnceLock<Buckets>,
    counts: Mutex<HashMap<RuleId, Arc<Counts>>>,
    mesh: Mutex<HashMap<u64, Arc<MeshRule>>>,
}

/// A rule at a workload; whoever asks chooses the bytes.
pub type RuleId = Box<[u8]>;

/// How a rule decided since the node started.
#[derive(Debug, Default)]
pub struct Counts {
    admitted: AtomicU64,
    refused: AtomicU64,
}

impl Limits {
    /// Nothing is used up yet. `seed`: a random number.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed, buckets: OnceLock::new(), counts: Mutex::default(), mesh: Mutex::default() }
    }

    /// Lets in a request of the key that these parts make up, or not.
    ///
    /// # Errors
    /// The key's bucket is empty.
    pub fn admit(&self, key: &[&[u8]], limit: &Limit, now_micros: u64) -> Result<Room, Refused> {
        self.buckets().admit(key, limit, now_micros)
    }

    /// Takes back that a request of this key was let in: another limit refused it.
    pub fn give_back(&self, key: &[&[u8]], limit: &Limit) {
        self.buckets().give_back(key, limit);
    }

    fn buckets(&self) -> &Buckets {
        self.buckets.get_or_init(|| Buckets::new(KEYS, self.seed))
    }

    /// The gates of a limit at a service where all nodes keep it together; `None` where each node keeps its own. `nodes`:
    /// how many share it as far as is known, should it begin now.
    #[must_use]
    pub fn mesh(&self, limit: &WorkloadLimit, service: &ServiceName, nodes: usize) -> Option<Arc<MeshRule>> {
        let rule = &limit.rule;
        if rule.scope == LimitScope::Node {
            return None;
        }
        let mode = match rule.mode {
            LimitMode::Split => Mode::Split,
            LimitMode::Hard => Mode::Hard,
        };
        Some(self.mesh_rule(limit.number_at(service), Limit::of(rule), mode, !rule.per.is_empty(), nodes))
    }

    fn mesh_rule(&self, number: u64, limit: Limit, mode: Mode, keyed: bool, nodes: usize) -> Arc<MeshRule> {
        let mut mesh = lock(&self.mesh);
        if let Some(known) = mesh.get(&number) {
            return known.clone();
        }
        if mesh.len() >= MAX_MESH_RULES {
            mesh.retain(|_, known| Arc::strong_count(known) > 1);
        }
        let begin = || Arc::new(MeshRule::new(number, limit, mode, keyed, nodes, self.seed));
        mesh.entry(number).or_insert_with(begin).clone()
    }

    /// Forgets the rules of the mesh that nobody uses.
    pub fn tidy_mesh(&self) {
        let mut mesh = lock(&self.mesh);
        mesh.retain(|_, known| Arc::strong_count(known) > 1);
    }

    /// The counts of a rule, begun at zero.
    #[must_use]
    pub fn counts(&self, rule: &[u8]) -> Arc<Counts> {
        let mut counts = lock(&self.counts);
        if let Some(known) = counts.get(rule) {
            return known.clone();
        }
        if counts.len() >= MAX_RULES {
            counts.retain(|_, known| Arc::strong_count(known) > 1);
        }
        counts.entry(rule.into()).or_default().clone()
    }
}

impl Counts {
    /// A request was let in, by this rule and all others.
    pub fn admit(&self) {
        self.admitted.fetch_add(1, Relaxed);
    }

    /// This rule let a request not in.
    pub fn refuse(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    /// Requests that were let in.
    #[must_use]
    pub fn admitted(&self) -> u64 {
        self.admitted.load(Relaxed)
    }

    /// Those that were not.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_kept_by_rule_and_what_nobody_uses_makes_room() {
        let limits = Limits::new(7);
        let counts = limits.counts(b"a");
        counts.admit();
        (0..3).for_each(|_| counts.refuse());
        assert_eq!((limits.counts(b"a").admitted(), limits.counts(b"a").refused()), (1, 3));
        for rule in 0..MAX_RULES {
            drop(limits.counts(&rule.to_le_bytes()));
        }
        assert_eq!(limits.counts(b"a").refused(), 3, "somebody uses it");
        assert!(limits.counts.lock().unwrap().len() <= MAX_RULES);
    }
}
