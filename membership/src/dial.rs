//! Whom to dial and when: a full mesh; members that are gone are retried for ever, ever more rarely.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use certs::id::NodeId;
use rand::{Rng, rngs::StdRng};

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

/// See the module.
pub(crate) struct Dialer {
    own: NodeId,
    nodes: BTreeMap<NodeId, Target>,
    /// Configured addresses; whom they led to last.
    seeds: BTreeMap<SocketAddr, (Target, Option<NodeId>)>,
}

struct Target {
    addresses: Vec<SocketAddr>,
    attempts: u32,
    next: u64,
    /// When the dial in flight began.
    since: Option<u64>,
}

impl Dialer {
    pub(crate) fn new(own: NodeId, seeds: &[SocketAddr]) -> Dialer {
        let mut dialer = Dialer { own, nodes: BTreeMap::new(), seeds: BTreeMap::new() };
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

    /// A member listens there; its dials start afresh if it moved or runs anew.
    pub(crate) fn learned(&mut self, node: &NodeId, addresses: &[SocketAddr], now: u64) {
        if *node == self.own {
            return;
        }
        let courtesy = if self.own < *node { 0 } else { COURTESY_MS };
        self.nodes.insert(node.clone(), Target::new(addresses.to_vec(), now + courtesy));
    }

    /// A member left or no longer counts.
    pub(crate) fn forget(&mut self, node: &NodeId) {
        self.nodes.remove(node);
    }

    /// A link stands; `address` was dialled for it.
    pub(crate) fn linked(&mut self, node: &NodeId, address: Option<SocketAddr>) {
        if let Some(target) = self.nodes.get_mut(node) {
            (target.attempts, target.since) = (0, None);
        }
        if let Some((target, led_to)) = address.and_then(|address| self.seeds.get_mut(&address)) {
            (target.attempts, target.since) = (0, None);
            *led_to = Some(node.clone());
        }
    }

    /// The last link to a node ended.
    pub(crate) fn unlinked(&mut self, node: &NodeId, now: u64) {
        if let Some(target) = self.nodes.get_mut(node) {
            (target.attempts, target.since) = (0, None);
            target.next = if self.own < *node { now } else { now + COURTESY_MS };
        }
    }

    pub(crate) fn failed(&mut self, node: Option<&NodeId>, address: SocketAddr, random: &mut StdRng, now: u64) {
        let target = match node {
            Some(node) => self.nodes.get_mut(node),
            None => self.seeds.get_mut(&address).map(|(target, _)| target),
        };
        if let Some(target) = target {
            target.failed(random, now);
        }
    }

    /// What to dial now.
    pub(crate) fn tick(
        &mut self,
        linked: &BTreeSet<NodeId>,
        random: &mut StdRng,
        now: u64,
    ) -> Vec<(Option<NodeId>, SocketAddr)> {
        let seeds = self.seeds.values().map(|(target, _)| target);
        let flying = self.nodes.values().chain(seeds).filter(|target| target.since.is_some()).count();
        let mut free = IN_FLIGHT.saturating_sub(flying);
        let mut dials = Vec::new();
        for (name, target) in &mut self.nodes {
            if linked.contains(name) {
                continue;
            }
            if let Some(address) = target.due(&mut free, random, now) {
                dials.push((Some(name.clone()), address));
            }
        }
        // A configured address that a linked member is known by needs no dial of its own.
        let nodes = &self.nodes;
        let known = |address: &SocketAddr| {
            linked.iter().filter_map(|node| nodes.get(node)).any(|target| target.addresses.contains(address))
        };
        for (address, (target, led_to)) in &mut self.seeds {
            let reached = led_to.as_ref().is_some_and(|node| linked.contains(node) || *node == self.own);
            if !reached
                && !known(address)
                && let Some(address) = target.due(&mut free, random, now)
            {
                dials.push((None, address));
            }
        }
        dials
    }
}

impl Target {
    fn new(addresses: Vec<SocketAddr>, next: u64) -> Target {
        Target { addresses, attempts: 0, next, since: None }
    }

    fn due(&mut self, free: &mut usize, random: &mut StdRng, now: u64) -> Option<SocketAddr> {
        if self.since.is_some_and(|since| now.saturating_sub(since) > TIMEOUT_MS) {
            self.failed(random, now);
        }
        if self.since.is_some() || now < self.next || *free == 0 {
            return None;
        }
        let turn = usize::try_from(self.attempts).unwrap_or_default() % self.addresses.len().max(1);
        let address = *self.addresses.get(turn)?;
        *free -= 1;
        self.since = Some(now);
        Some(address)
    }

    fn failed(&mut self, random: &mut StdRng, now: u64) {
        self.since = None;
        let pause = (FIRST_MS << self.attempts.min(8)).min(LONGEST_MS);
        self.attempts = self.attempts.saturating_add(1);
        self.next = now + random.random_range(pause * 3 / 4..=pause);
    }
}
