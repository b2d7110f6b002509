//! Whom to dial and when. A small mesh is a full one. In a larger one a node keeps links with those that follow it by
//! name, who are its to watch, and with a few at random, over whom news travel; others are dialled when somebody here
//! needs them. Members that are gone are retried for ever, ever more rarely.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use certs::id::NodeId;
use rand::{Rng, rngs::StdRng, seq::IteratorRandom};

use crate::detector::NEIGHBOURS;

/// Members up to which all are linked with all.
pub const FULL_MESH: usize = 32;
/// A sparse mesh is a full one again once it has no more than this.
const FULL_AGAIN: usize = 28;
/// Members that a node of a sparse mesh dials at random; as many dial it.
const RANDOM: usize = 3;
/// The first pause after a failure.
const FIRST_MS: u64 = 250;
/// The longest pause.
const LONGEST_MS: u64 = 10_000;
/// What the higher name of a pair leaves the lower one, so that mostly one of them dials.
const COURTESY_MS: u64 = 150;
/// A dial without answer counts as failed.
const TIMEOUT_MS: u64 = 6_000;
/// Dials in flight.
const IN_FLIGHT: usize = 64;
/// Time between dials of the dead, whoever they are.
const DEAD_MS: u64 = 250;
/// Time between dials of one of them, whether or not the last was answered.
const DEAD_EACH_MS: u64 = 500;
/// The same of one that is dead for long.
const DEAD_LONG_EACH_MS: u64 = 10_000;
/// For long.
const DEAD_LONG_MS: u64 = 15 * 60_000;
/// Of so many dials of the dead, or of a configured address, one goes to an address that a linked member calls its own. Prime: of several
/// addresses each has its turn.
const SELDOM: u32 = 11;
/// How long a link that was asked for is kept.
const DEMAND_MS: u64 = 60_000;
/// A link that ends earlier than this was none: the next dial waits as after a failure.
const STABLE_MS: u64 = 5_000;
/// How often dials of a member start afresh within [`AFRESH_MS`] because it moved or runs anew.
const AFRESH: u32 = 3;
/// See [`AFRESH`]: who moves all the time is dialled no more often than one that fails.
const AFRESH_MS: u64 = 30_000;

/// See the module.
pub(crate) struct Dialer {
    own: NodeId,
    nodes: BTreeMap<NodeId, Target>,
    /// Those of members that left, while their fresh starts are counted ([`AFRESH_MS`]): who comes and goes all the time is dialled no more often for it.
    left: BTreeMap<NodeId, Target>,
    /// Configured addresses; whom they led to last.
    seeds: BTreeMap<SocketAddr, (Target, Option<NodeId>)>,
    sparse: bool,
    /// The random ones.
    chosen: BTreeSet<NodeId>,
    /// Who was asked for, and until when.
    demands: BTreeMap<NodeId, u64>,
    /// Whom this node judged dead, and when.
    dead: BTreeMap<NodeId, u64>,
    /// Who was dead and signed something since: one dial tells.
    revived: BTreeSet<NodeId>,
    dead_due: u64,
}

struct Target {
    addresses: Vec<SocketAddr>,
    /// Failures in a row, links that ended soon among them.
    attempts: u32,
    next: u64,
    /// When the dial in flight began.
    since: Option<u64>,
    /// When its link came up.
    linked: Option<u64>,
    /// How often its dials started afresh, and since when that is counted.
    afresh: (u32, u64),
}

impl Dialer {
    pub(crate) fn new(own: NodeId, seeds: &[SocketAddr]) -> Dialer {
        let (nodes, left, chosen, demands, dead, revived) = Default::default();
        let seeds_by_address = BTreeMap::new();
        let (sparse, dead_due) = (false, 0);
        let mut dialer =
            Dialer { own, nodes, left, seeds: seeds_by_address, sparse, chosen, demands, dead, revived, dead_due };
        dialer.seeds(seeds, 0);
        dialer
    }

    /// Replaces the configured addresses.
    pub(crate) fn seeds(&mut self, seeds: &[SocketAddr], now: u64) {
        self.seeds.retain(|address, _| seeds.contains(address));
        for address in seeds {
            self.seeds.entry(*address).or_insert_with(|| (Target::new(vec![*address], now), None));
        }
    }

    /// Whether most members have no link with this node.
    pub(crate) fn is_sparse(&self) -> bool {
        self.sparse
    }

    /// A member listens there; its dials start afresh if it moved or runs anew, unless it does so all the time.
    pub(crate) fn learned(&mut self, node: &NodeId, addresses: &[SocketAddr], now: u64) {
        if *node == self.own {
            return;
        }
        let courtesy = if self.own < *node { 0 } else { COURTESY_MS };
        let before = self.left.remove(node);
        let target = self
            .nodes
            .entry(node.clone())
            .or_insert_with(|| before.unwrap_or_else(|| Target::new(Vec::new(), now + courtesy)));
        target.moved(addresses, now + courtesy, now);
        self.count();
    }

    /// A member left or no longer counts.
    pub(crate) fn forget(&mut self, node: &NodeId) {
        let target = self.nodes.remove(node).map(|target| Target { linked: None, ..target });
        self.left.extend(target.map(|target| (node.clone(), target)));
        self.chosen.remove(node);
        self.demands.remove(node);
        self.dead.remove(node);
        self.revived.remove(node);
        self.count();
    }

    fn count(&mut self) {
        let members = self.nodes.len() + 1;
        self.sparse = members > if self.sparse { FULL_AGAIN } else { FULL_MESH };
    }

    /// This node judged a member.
    pub(crate) fn judged(&mut self, node: &NodeId, dead: bool, now: u64) {
        if dead {
            self.dead.insert(node.clone(), now);
            self.chosen.remove(node);
            self.revived.remove(node);
        } else if self.dead.remove(node).is_some() {
            self.revived.insert(node.clone());
            if let Some(target) = self.nodes.get_mut(node) {
                (target.attempts, target.since, target.next) = (0, None, now);
            }
        }
    }

    /// Somebody here needs a link with a member for a while.
    pub(crate) fn demand(&mut self, node: &NodeId, now: u64) {
        if self.nodes.contains_key(node) {
            self.demands.insert(node.clone(), now + DEMAND_MS);
        }
    }

    /// A link stands; `address` was dialled for it.
    pub(crate) fn linked(&mut self, node: &NodeId, address: Option<SocketAddr>, now: u64) {
        self.revived.remove(node);
        self.left.remove(node);
        if let Some(target) = self.nodes.get_mut(node) {
            target.met(now);
        }
        if let Some((target, led_to)) = address.and_then(|address| self.seeds.get_mut(&address)) {
            target.met(now);
            *led_to = Some(node.clone());
        }
    }

    /// The last link to a node ended.
    pub(crate) fn unlinked(&mut self, node: &NodeId, random: &mut StdRng, now: u64) {
        let courtesy = if self.own < *node { 0 } else { COURTESY_MS };
        let seeds = self.seeds.values_mut().filter(|(_, led_to)| led_to.as_ref() == Some(node));
        for target in self.nodes.get_mut(node).into_iter().chain(seeds.map(|(target, _)| target)) {
            target.ended(courtesy, random, now);
        }
    }

    pub(crate) fn failed(&mut self, node: Option<&NodeId>, address: SocketAddr, random: &mut StdRng, now: u64) {
        let target = match node {
            Some(node) => self.nodes.get_mut(node).or_else(|| self.left.get_mut(node)),
            None => self.seeds.get_mut(&address).map(|(target, _)| target),
        };
        if let Some(target) = target {
            target.failed(random, now);
        }
    }

    /// Whether this node should keep a link with a member.
    pub(crate) fn wants(&self, node: &NodeId, now: u64) -> bool {
        let demanded = self.demands.get(node).is_some_and(|until| now < *until);
        !self.sparse || demanded || self.chosen.contains(node) || self.followers().any(|follower| follower == node)
    }

    /// Those that follow this node by name, round the end, and are not dead.
    fn followers(&self) -> impl Iterator<Item = &NodeId> {
        let after = self.nodes.range(self.own.clone()..);
        let before = self.nodes.range(..self.own.clone());
        after.chain(before).map(|(node, _)| node).filter(|node| !self.dead.contains_key(*node)).take(NEIGHBOURS)
    }

    /// What to dial now.
    pub(crate) fn tick(
        &mut self,
        linked: &BTreeSet<NodeId>,
        random: &mut StdRng,
        now: u64,
    ) -> Vec<(Option<NodeId>, SocketAddr)> {
        self.demands.retain(|_, until| now < *until);
        self.left.retain(|_, target| now < target.afresh.1 + AFRESH_MS);
        let mut dials = self.wanted(linked, random, now);
        dials.extend(self.lost(linked, random, now));
        // A configured address that a linked member is known by needs no dial of its own, nor does any once a sparse mesh
        // is reached.
        let nodes = &self.nodes;
        for (address, (target, led_to)) in &mut self.seeds {
            let reached = led_to.as_ref().is_some_and(|node| linked.contains(node) || *node == self.own);
            let met = self.sparse && led_to.is_some() && !linked.is_empty();
            // But anybody may say that an address is its own.
            let waits = reached || met || is_known(nodes, linked, address) && target.passes(random, now);
            if !waits
                && dials.len() < IN_FLIGHT
                && let Some(address) = target.due(random, now)
            {
                dials.push((None, address));
            }
        }
        dials
    }

    /// Those with whom a link should stand and does not.
    fn wanted(
        &mut self,
        linked: &BTreeSet<NodeId>,
        random: &mut StdRng,
        now: u64,
    ) -> Vec<(Option<NodeId>, SocketAddr)> {
        let mut wanted: Vec<NodeId> = if self.sparse {
            self.choose(random);
            let wanted: BTreeSet<&NodeId> = self.followers().chain(&self.chosen).chain(self.demands.keys()).collect();
            wanted.into_iter().filter(|node| !linked.contains(*node)).cloned().collect()
        } else {
            let missing = self.nodes.keys().filter(|node| !linked.contains(*node) && !self.dead.contains_key(*node));
            missing.cloned().collect()
        };
        if wanted.is_empty() {
            return Vec::new();
        }
        // Who waits longest comes first: those that do not answer hold up nobody whose name comes later.
        wanted.sort_by_key(|node| self.nodes.get(node).map_or(u64::MAX, |target| target.next));
        let flying = self.nodes.values().chain(self.left.values()).filter(|target| target.since.is_some()).count();
        let mut free = IN_FLIGHT.saturating_sub(flying);
        let mut dials = Vec::new();
        for node in wanted {
            let due =
                if free > 0 { self.nodes.get_mut(&node).and_then(|target| target.due(random, now)) } else { None };
            if let Some(address) = due {
                free -= 1;
                dials.push((Some(node), address));
            }
        }
        dials
    }

    /// Fills up the random ones.
    fn choose(&mut self, random: &mut StdRng) {
        if self.chosen.len() >= RANDOM {
            return;
        }
        let followers: BTreeSet<NodeId> = self.followers().cloned().collect();
        let free = self.nodes.keys().filter(|node| {
            !self.dead.contains_key(*node) && !self.chosen.contains(*node) && !followers.contains(*node)
        });
        let more = free.choose_multiple(random, RANDOM - self.chosen.len());
        let more: Vec<NodeId> = more.into_iter().cloned().collect();
        self.chosen.extend(more);
    }

    /// One of those that are dead, or were: so many a second, however many there are.
    fn lost(
        &mut self,
        linked: &BTreeSet<NodeId>,
        random: &mut StdRng,
        now: u64,
    ) -> Option<(Option<NodeId>, SocketAddr)> {
        if now < self.dead_due || self.dead.is_empty() && self.revived.is_empty() {
            return None;
        }
        let nodes = &self.nodes;
        let due = |node: &&NodeId| !linked.contains(*node) && nodes.get(*node).is_some_and(|target| now >= target.next);
        let node = self.revived.iter().chain(self.dead.keys()).filter(due).choose(random)?.clone();
        self.dead_due = now + DEAD_MS;
        let long = self.dead.get(&node).is_some_and(|since| now.saturating_sub(*since) >= DEAD_LONG_MS);
        let target = self.nodes.get_mut(&node)?;
        target.attempts = target.attempts.wrapping_add(1);
        target.next = now + if long { DEAD_LONG_EACH_MS } else { DEAD_EACH_MS };
        let turn = usize::try_from(target.attempts).unwrap_or_default() % target.addresses.len().max(1);
        let (address, seldom) = (*target.addresses.get(turn)?, target.attempts.is_multiple_of(SELDOM));
        // Where somebody else is linked it mostly is not; but anybody may say that an address is its own.
        let may_be = seldom || !is_known(&self.nodes, linked, &address);
        may_be.then_some((Some(node), address))
    }
}

/// Whether a linked member is known by an address.
fn is_known(nodes: &BTreeMap<NodeId, Target>, linked: &BTreeSet<NodeId>, address: &SocketAddr) -> bool {
    linked.iter().filter_map(|node| nodes.get(node)).any(|target| target.addresses.contains(address))
}

impl Target {
    fn new(addresses: Vec<SocketAddr>, next: u64) -> Target {
        Target { addresses, attempts: 0, next, since: None, linked: None, afresh: (0, 0) }
    }

    /// It is to be dialled there, `next` at the earliest if its dials start afresh.
    fn moved(&mut self, addresses: &[SocketAddr], next: u64, now: u64) {
        self.addresses = addresses.to_vec();
        let (count, since) = &mut self.afresh;
        if now.saturating_sub(*since) >= AFRESH_MS {
            (*count, *since) = (0, now);
        }
        if *count < AFRESH {
            *count += 1;
            (self.attempts, self.since, self.next) = (0, None, next);
        }
    }

    fn met(&mut self, now: u64) {
        self.since = None;
        self.linked.get_or_insert(now);
    }

    /// Its link ended; one that did so soon counts as a failure from the second on.
    fn ended(&mut self, courtesy: u64, random: &mut StdRng, now: u64) {
        self.since = None;
        let lived = self.linked.take().is_none_or(|since| now.saturating_sub(since) >= STABLE_MS);
        let pause = match self.attempts.checked_sub(1) {
            Some(before) if !lived => pause(before, random),
            Some(_) | None => 0,
        };
        self.attempts = if lived { 0 } else { self.attempts.saturating_add(1) };
        self.next = now + pause.max(courtesy);
    }

    /// Lets its turn go by, unless that is the one of [`SELDOM`] that does not.
    fn passes(&mut self, random: &mut StdRng, now: u64) -> bool {
        let passes = self.since.is_none() && now >= self.next && !self.attempts.wrapping_add(1).is_multiple_of(SELDOM);
        if passes {
            self.next = now + pause(self.attempts, random);
            self.attempts = self.attempts.wrapping_add(1);
        }
        passes
    }

    fn due(&mut self, random: &mut StdRng, now: u64) -> Option<SocketAddr> {
        if self.since.is_some_and(|since| now.saturating_sub(since) > TIMEOUT_MS) {
            self.failed(random, now);
        }
        if self.since.is_some() || now < self.next {
            return None;
        }
        let turn = usize::try_from(self.attempts).unwrap_or_default() % self.addresses.len().max(1);
        let address = *self.addresses.get(turn)?;
        self.since = Some(now);
        Some(address)
    }

    fn failed(&mut self, random: &mut StdRng, now: u64) {
        // Of several dials of a dead member any may come back.
        let Some(_) = self.since.take() else { return };
        self.next = now + pause(self.attempts, random);
        self.attempts = self.attempts.saturating_add(1);
    }
}

/// How long to wait after so many failures and one more.
fn pause(failures: u32, random: &mut StdRng) -> u64 {
    let pause = (FIRST_MS << failures.min(8)).min(LONGEST_MS);
    random.random_range(pause * 3 / 4..=pause)
}

#[cfg(test)]
mod tests;
