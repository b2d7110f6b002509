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

/// How long what a member claims to hold of another counts for nothing after it did not come.
const VAIN_MS: u64 = 60_000;
/// Members that are known to have something, of one want.
const SOURCES: usize = 8;
/// Such claims that are remembered.
const VAIN: usize = 4_096;

/// See the module.
#[derive(Default)]
pub(crate) struct Fetch {
    wants: BTreeMap<NodeId, Want>,
    /// Who claimed to hold something of whom that nobody had, and until when that is remembered.
    vain: BTreeMap<(NodeId, NodeId), u64>,
    /// No want is due before.
    earliest: u64,
}

#[derive(Default)]
struct Want {
    /// Who is asked next, whoever was asked least first; then anybody. [`SOURCES`] at most.
    sources: Vec<NodeId>,
    /// Who was asked, and has not brought it.
    asked: Vec<NodeId>,
    /// Who claimed to hold it.
    claimants: Vec<NodeId>,
    attempts: u32,
    due: u64,
}

impl Want {
    /// Somebody has it; one that only `claims` so is remembered. Who was asked twice in vain is not asked first again.
    fn offered(&mut self, source: &NodeId, claims: bool) -> bool {
        let taken = self.sources.len() < SOURCES && !self.sources.contains(source) && self.times_asked(source) < 2;
        if taken {
            self.sources.push(source.clone());
            self.claimants.extend(claims.then(|| source.clone()));
        }
        taken
    }

    fn times_asked(&self, peer: &NodeId) -> usize {
        self.asked.iter().filter(|asked| *asked == peer).count()
    }

    /// Whom to ask now.
    fn next(&mut self, linked: &BTreeSet<NodeId>, random: &mut StdRng) -> Option<NodeId> {
        self.sources.retain(|source| linked.contains(source));
        let first = self.sources.iter().min_by_key(|source| self.times_asked(source)).cloned();
        self.sources.retain(|source| Some(source) != first.as_ref());
        let others = linked.iter().filter(|peer| !self.asked.contains(*peer));
        let peer = match first {
            Some(first) => first,
            None => others.choose(random).or_else(|| linked.iter().choose(random))?.clone(),
        };
        self.asked.push(peer.clone());
        Some(peer)
    }
}

impl Fetch {
    /// Records of `node` are lacking, and `source` has them.
    pub(crate) fn want(&mut self, node: &NodeId, source: Option<&NodeId>, now: u64) {
        let want = self.wanted(node, now);
        if let Some(source) = source {
            want.offered(source, false);
        }
    }

    /// `source` says that it holds more of `node` than is held here. Who said so in vain is not heard for a while.
    pub(crate) fn claimed(&mut self, node: &NodeId, source: &NodeId, now: u64) {
        if !self.is_vain(source, node, now) {
            self.wanted(node, now).offered(source, true);
        }
    }

    /// The same, and the records are on their way: `source` is asked if they do not come soon.
    pub(crate) fn expect(&mut self, node: &NodeId, source: &NodeId, now: u64) {
        let due = now + EXPECTED_MS;
        if self.is_vain(source, node, now) {
            return;
        }
        let want = self.wanted(node, due);
        if want.offered(source, true) {
            (want.due, want.attempts) = (want.due.min(due), want.attempts.min(ATTEMPTS - 1));
        }
    }

    /// What is wanted of a node, from `due` on if nothing was until now.
    fn wanted(&mut self, node: &NodeId, due: u64) -> &mut Want {
        self.earliest = self.earliest.min(due);
        self.wants.entry(node.clone()).or_insert_with(|| Want { due, ..Want::default() })
    }

    fn is_vain(&self, source: &NodeId, node: &NodeId, now: u64) -> bool {
        self.vain.get(&(source.clone(), node.clone())).is_some_and(|until| now < *until)
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
        let mut vain = Vec::new();
        self.wants.retain(|node, want| {
            if now < want.due {
                return true;
            }
            if want.attempts >= ATTEMPTS {
                vain.extend(std::mem::take(&mut want.claimants).into_iter().map(|source| (source, node.clone())));
                return false;
            }
            want.attempts += 1;
            want.due = now + RETRY_MS * u64::from(want.attempts);
            if let Some(peer) = want.next(linked, random) {
                asks.entry(peer).or_default().push(node.clone());
            }
            true
        });
        self.vain.retain(|_, until| now < *until);
        let room = VAIN.saturating_sub(self.vain.len());
        self.vain.extend(vain.into_iter().take(room).map(|claim| (claim, now + VAIN_MS)));
        self.earliest = self.wants.values().map(|want| want.due).min().unwrap_or(u64::MAX);
        asks
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn node(name: &str) -> NodeId {
        NodeId::new(name).expect("valid")
    }

    /// Whom the pulls of one member went to.
    fn pulls(fetch: &mut Fetch, linked: &BTreeSet<NodeId>, of: &NodeId, now: u64) -> Vec<NodeId> {
        let mut random = StdRng::seed_from_u64(now);
        let asks = fetch.take(linked, &mut random, now);
        asks.into_iter().filter(|(_, nodes)| nodes.contains(of)).map(|(peer, _)| peer).collect()
    }

    #[test]
    fn claims_of_what_does_not_come_keep_nobody_from_those_who_have_it() {
        let (liar, honest, of) = (node("liar"), node("honest"), node("m"));
        let linked: BTreeSet<NodeId> = (0..20).map(|index| node(&format!("p{index}"))).collect();
        let linked: BTreeSet<NodeId> = linked.into_iter().chain([liar.clone(), honest.clone()]).collect();
        let mut fetch = Fetch::default();
        let (mut told, mut asked) = (Vec::new(), 0);
        for now in (0..60_000).step_by(20) {
            if now % 1_000 == 0 {
                fetch.claimed(&of, &liar, now);
            }
            if now == 10_100 {
                fetch.expect(&of, &honest, now);
            }
            let peers = pulls(&mut fetch, &linked, &of, now);
            asked += peers.iter().filter(|peer| **peer == liar).count();
            told.extend(peers.into_iter().filter(|peer| *peer == honest).map(|_| now));
        }
        assert!(told.iter().any(|at| (10_100..10_200).contains(at)), "{told:?}");
        assert!(asked < 8, "the liar was asked {asked} times in a minute");
    }
}
