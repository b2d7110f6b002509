//! What is known to exist and is not held: asked of those who spoke of it, then of others. Bounded by the number of
//! members, because only granted names get here.

use std::collections::{BTreeMap, BTreeSet};

use certs::id::NodeId;
use rand::{rngs::StdRng, seq::IteratorRandom};

/// Time after which somebody else is asked, in milliseconds.
const RETRY_MS: u64 = 500;
/// Time within which a record that was announced should come by itself.
const EXPECTED_MS: u64 = 20;
/// Questions before a want rests until it is heard of again.
const ATTEMPTS: u32 = 6;
/// Members asked for in one message.
pub(crate) const NODES_PER_PULL: usize = 64;

/// See the module.
#[derive(Default)]
pub(crate) struct Fetch {
    wants: BTreeMap<NodeId, Want>,
    /// No want is due before.
    earliest: u64,
}

struct Want {
    source: Option<NodeId>,
    attempts: u32,
    next: u64,
}

impl Fetch {
    /// Records of `node` are lacking, and `source` has them.
    pub(crate) fn want(&mut self, node: &NodeId, source: Option<&NodeId>, now: u64) {
        self.earliest = self.earliest.min(now);
        let fresh = Want { source: None, attempts: 0, next: now };
        let want = self.wants.entry(node.clone()).or_insert(fresh);
        if source.is_some() {
            want.source = source.cloned();
        }
    }

    /// Records of `node` are on their way; if they do not come soon, `source` has them.
    pub(crate) fn expect(&mut self, node: &NodeId, source: &NodeId, now: u64) {
        self.earliest = self.earliest.min(now + EXPECTED_MS);
        let fresh = Want { source: Some(source.clone()), attempts: 0, next: now + EXPECTED_MS };
        self.wants.entry(node.clone()).or_insert(fresh);
    }

    /// Whether records of it were asked for.
    pub(crate) fn wants(&self, node: &NodeId) -> bool {
        self.wants.contains_key(node)
    }

    /// Nothing of it is lacking any more.
    pub(crate) fn have(&mut self, node: &NodeId) {
        self.wants.remove(node);
    }

    pub(crate) fn due(&self) -> Option<u64> {
        (!self.wants.is_empty()).then_some(self.earliest)
    }

    /// Whom to ask for what.
    pub(crate) fn take(
        &mut self,
        linked: &BTreeSet<NodeId>,
        random: &mut StdRng,
        now: u64,
    ) -> BTreeMap<NodeId, Vec<NodeId>> {
        let mut asks: BTreeMap<NodeId, Vec<NodeId>> = BTreeMap::new();
        if self.due().is_none_or(|due| now < due) {
            return asks;
        }
        self.wants.retain(|node, want| {
            if now < want.next {
                return true;
            }
            if want.attempts >= ATTEMPTS {
                return false;
            }
            want.attempts += 1;
            want.next = now + RETRY_MS * u64::from(want.attempts);
            let known = want.source.take().filter(|source| linked.contains(source));
            if let Some(peer) = known.or_else(|| linked.iter().choose(random).cloned()) {
                asks.entry(peer).or_default().push(node.clone());
            }
            true
        });
        self.earliest = self.wants.values().map(|want| want.next).min().unwrap_or(u64::MAX);
        asks
    }
}
