//! What is known to exist and is not held: asked of those who spoke of it, then of others. Bounded by the number of
//! members, because only granted names get here.

use std::collections::{BTreeMap, BTreeSet};

use certs::id::NodeId;
use rand::{rngs::StdRng, seq::IteratorRandom};

use crate::message::Latest;

/// Time after which somebody else is asked, in milliseconds.
const RETRY_MS: u64 = 500;
/// Time within which a record that was announced should come by itself.
const EXPECTED_MS: u64 = 20;
/// Time after which somebody else is asked for what an accused member may have answered, [`URGENT`] times: whoever is asked may not hear
/// this node, and an answer is waited for a few hundred milliseconds.
const URGENT_MS: u64 = 80;
/// See [`URGENT_MS`].
const URGENT: u32 = 4;
/// Questions before a want rests until it is heard of again.
const ATTEMPTS: u32 = 6;
/// Members asked for in one message.
pub(crate) const NODES_PER_PULL: usize = 64;

/// How long what a member claims to hold of another counts for nothing after it did not come.
const VAIN_MS: u64 = 60_000;
/// How long one that was asked and brought nothing in time is asked after others.
const SILENT_MS: u64 = 60_000;
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
    /// Who brought nothing in time when it was asked, and until when that is remembered.
    silent: BTreeMap<NodeId, u64>,
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
    /// Somebody waits for it.
    urgent: bool,
    /// The highest number that was announced.
    announced: (u64, u64),
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

    /// Whom to ask now: who is known to have it before others, and in turn with them if it was silent lately.
    fn next(
        &mut self,
        linked: &BTreeSet<NodeId>,
        silent: &BTreeMap<NodeId, u64>,
        random: &mut StdRng,
    ) -> Option<NodeId> {
        self.sources.retain(|source| linked.contains(source));
        let order = |source: &&NodeId| (silent.contains_key(*source), self.times_asked(source));
        let first = self.sources.iter().min_by_key(order).cloned();
        let others = linked.iter().filter(|peer| !self.asked.contains(*peer));
        let lively = others.clone().filter(|peer| !silent.contains_key(*peer)).choose(random);
        let peer = match (first, lively) {
            (Some(first), Some(other)) if silent.contains_key(&first) && self.asked.len() % 2 == 1 => other.clone(),
            (Some(first), _) => first,
            (None, Some(other)) => other.clone(),
            (None, None) => others.choose(random).or_else(|| linked.iter().choose(random))?.clone(),
        };
        self.sources.retain(|source| *source != peer);
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

    /// The same, and the records are on their way: `source` is asked if they do not come soon, and others soon after if it is `urgent`.
    pub(crate) fn expect(&mut self, latest: &Latest, source: &NodeId, urgent: bool, now: u64) {
        let Latest { node, generation, sequence } = latest;
        let due = now + EXPECTED_MS;
        if self.is_vain(source, node, now) {
            return;
        }
        let want = self.wanted(node, due);
        want.announced = want.announced.max((*generation, *sequence));
        if want.offered(source, true) {
            (want.due, want.attempts) = (want.due.min(due), want.attempts.min(ATTEMPTS - 1));
            want.urgent |= urgent;
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

    /// Whether a peer announced as fresh what a member signed under this number, and it has not come since.
    pub(crate) fn expects(&self, node: &NodeId, rank: (u64, u64)) -> bool {
        self.wants.get(node).is_some_and(|want| want.announced >= rank)
    }

    /// Nothing of it is lacking any more; `from` brought the last of it.
    pub(crate) fn have(&mut self, node: &NodeId, from: Option<&NodeId>) {
        let want = self.wants.remove(node);
        if let Some(from) = from.filter(|from| want.is_some_and(|want| want.asked.contains(from))) {
            self.silent.remove(from);
        }
    }

    /// A link is none any more.
    pub(crate) fn unlinked(&mut self, node: &NodeId) {
        self.silent.remove(node);
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
        self.silent.retain(|_, until| now < *until);
        let silent = &mut self.silent;
        self.wants.retain(|node, want| {
            if now < want.due {
                return true;
            }
            silent.extend(want.asked.last().map(|peer| (peer.clone(), now + SILENT_MS)));
            if want.attempts >= ATTEMPTS {
                vain.extend(std::mem::take(&mut want.claimants).into_iter().map(|source| (source, node.clone())));
                return false;
            }
            want.attempts += 1;
            let urgent = want.urgent && want.attempts <= URGENT;
            want.due = now + if urgent { URGENT_MS } else { RETRY_MS * u64::from(want.attempts) };
            if let Some(peer) = want.next(linked, silent, random) {
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
    fn who_does_not_answer_is_asked_after_those_who_do() {
        let linked: BTreeSet<NodeId> = (0..40).map(|index| node(&format!("p{index:02}"))).collect();
        let answers = |peer: &NodeId| peer.as_str() >= "p30";
        let mut fetch = Fetch::default();
        let mut took = Vec::new();
        for round in 0..60 {
            let (of, begin) = (node(&format!("m{round}")), 1_000 + round * 1_000);
            fetch.want(&of, linked.iter().nth(round as usize % 40), begin);
            let answered = (begin..begin + 20_000).step_by(20).find(|now| {
                let peers = pulls(&mut fetch, &linked, &of, *now);
                peers.iter().find(|peer| answers(peer)).is_some_and(|peer| {
                    fetch.have(&of, Some(peer));
                    true
                })
            });
            took.extend(answered.map(|now| now - begin));
        }
        assert!(took.len() == 60 && took[30..].iter().all(|took| *took <= 520), "{took:?}");
        assert!(fetch.silent.keys().all(|peer| !answers(peer)));
    }

    #[test]
    fn what_an_accused_may_have_answered_is_asked_of_many_while_it_counts() {
        let linked: BTreeSet<NodeId> = (0..6).map(|index| node(&format!("p{index}"))).collect();
        let latest = Latest { node: node("m"), generation: 1, sequence: 1 };
        for (urgent, asked) in [(true, 4..=5), (false, 1..=1)] {
            let mut fetch = Fetch::default();
            linked.iter().for_each(|peer| fetch.expect(&latest, peer, urgent, 1_000));
            let mut peers = BTreeSet::new();
            (1_000..1_400).step_by(20).for_each(|now| peers.extend(pulls(&mut fetch, &linked, &latest.node, now)));
            assert!(asked.contains(&peers.len()), "{peers:?} within what an answer may take, urgent: {urgent}");
        }
    }

    #[test]
    fn claims_of_what_does_not_come_keep_nobody_from_those_who_have_it() {
        let (liar, honest, of) = (node("liar"), node("honest"), node("m"));
        let linked: BTreeSet<NodeId> = (0..20).map(|index| node(&format!("p{index}"))).collect();
        let linked: BTreeSet<NodeId> = linked.into_iter().chain([liar.clone(), honest.clone()]).collect();
        let mut fetch = Fetch::default();
        let latest = Latest { node: of.clone(), generation: 1, sequence: 1 };
        let (mut told, mut asked) = (Vec::new(), 0);
        for now in (0..60_000).step_by(20) {
            if now % 1_000 == 0 {
                fetch.claimed(&of, &liar, now);
            }
            if now == 10_100 {
                fetch.expect(&latest, &honest, false, now);
            }
            let peers = pulls(&mut fetch, &linked, &of, now);
            asked += peers.iter().filter(|peer| **peer == liar).count();
            told.extend(peers.into_iter().filter(|peer| *peer == honest).map(|_| now));
        }
        assert!(told.iter().any(|at| (10_100..10_200).contains(at)), "{told:?}");
        assert!(asked < 8, "the liar was asked {asked} times in a minute");
    }
}
