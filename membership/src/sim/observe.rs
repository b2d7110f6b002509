//! What a play is judged by.

use std::collections::{BTreeMap, BTreeSet};

use certs::{codec::Millis, id::NodeId, sign::Digest};

use super::{
    network::{Host, Network},
    report::{Quantiles, Report},
};
use crate::{
    engine::{Change, Lane},
    view::{Member, MemberState},
};

/// How long a node must run before its death would be a false one at somebody who has not heard of its new run, or if nobody has met
/// that yet.
const MET_MS: u64 = 3_000;

/// See the module.
#[derive(Default)]
pub(super) struct Observer {
    /// Whose views do not count.
    pub(super) liars: BTreeSet<NodeId>,
    started: BTreeMap<NodeId, Millis>,
    /// Whose present run somebody has seen alive.
    met: BTreeSet<NodeId>,
    /// Which part of the mesh a node is in; everybody in the same while nothing is cut.
    parts: BTreeMap<NodeId, usize>,
    puts: Vec<Awaited>,
    kills: Vec<Awaited>,
    spread: Vec<u64>,
    detected: Vec<u64>,
    false_deaths: usize,
    false_suspicions: usize,
    last_event: Millis,
    settled: Option<u64>,
    /// The pair that differed last: it is looked at first, and then whoever comes after it.
    differs: Option<(NodeId, NodeId)>,
    /// Bytes sent before those that count, and those that do once no more are counted.
    before: BTreeMap<Lane, u64>,
    counted: Option<BTreeMap<Lane, u64>>,
    /// How long nodes ran meanwhile: those whose bytes count, and all.
    node_ms: u64,
    all_ms: u64,
}

/// What everybody should notice.
struct Awaited {
    of: NodeId,
    /// Of a put.
    number: u64,
    since: Millis,
    by: BTreeSet<NodeId>,
}

impl Observer {
    pub(super) fn started(&mut self, node: &NodeId, now: Millis) {
        self.started.insert(node.clone(), now);
        self.met.remove(node);
        self.kills.iter_mut().filter(|kill| kill.of == *node).for_each(|kill| kill.by.clear());
    }

    pub(super) fn happened(&mut self, now: Millis) {
        (self.last_event, self.settled) = (now, None);
    }

    pub(super) fn put(&mut self, network: &Network, node: &NodeId, number: u64) {
        let (of, since, by) = (node.clone(), network.now, self.watchers(network, node));
        self.puts.push(Awaited { of, number, since, by });
    }

    pub(super) fn killed(&mut self, network: &Network, node: &NodeId) {
        let (of, since, by) = (node.clone(), network.now, self.watchers(network, node));
        self.kills.push(Awaited { of, number: 0, since, by });
        for awaited in self.puts.iter_mut().chain(&mut self.kills) {
            awaited.by.remove(node);
        }
    }

    /// Everybody whose view counts, but one.
    fn watchers(&self, network: &Network, but: &NodeId) -> BTreeSet<NodeId> {
        let running = network.nodes.iter().filter(|(_, host)| host.up).map(|(node, _)| node);
        running.filter(|node| *node != but && !self.liars.contains(*node)).cloned().collect()
    }

    /// The paths changed.
    pub(super) fn parted(&mut self, network: &Network) {
        self.parts.clear();
        let nodes: Vec<&NodeId> = network.nodes.keys().collect();
        let mut part = 0;
        for first in &nodes {
            if self.parts.contains_key(*first) {
                continue;
            }
            part += 1;
            self.parts.insert((*first).clone(), part);
            let mut reached = vec![*first];
            while let Some(one) = reached.pop() {
                for other in &nodes {
                    let open = !network.is_cut(one, other) && !network.is_cut(other, one);
                    if open && !self.parts.contains_key(*other) {
                        self.parts.insert((*other).clone(), part);
                        reached.push(other);
                    }
                }
            }
        }
    }

    /// Bytes count from here on.
    pub(super) fn measure(&mut self, network: &Network) {
        self.before.clone_from(&network.bytes);
        (self.node_ms, self.all_ms) = (0, 0);
    }

    /// Bytes count up to here.
    pub(super) fn measured(&mut self, network: &Network) {
        self.counted.get_or_insert_with(|| {
            let before = |lane: &Lane| self.before.get(lane).copied().unwrap_or(0);
            network.bytes.iter().map(|(lane, bytes)| (*lane, bytes - before(lane))).collect()
        });
    }

    /// Reads what happened in the last `span` milliseconds; `last`: no event is to come.
    pub(super) fn look(&mut self, network: &mut Network, span: u64, last: bool) {
        for (at, by, change) in std::mem::take(&mut network.trace) {
            self.noticed(network, at, &by, &change);
        }
        if self.counted.is_none() {
            let running = || network.nodes.iter().filter(|(_, host)| host.up);
            let honest = running().filter(|(node, _)| !self.liars.contains(*node)).count();
            self.node_ms += span * honest as u64;
            self.all_ms += span * running().count() as u64;
        }
        if last && self.settled.is_none() && self.agree(network) {
            self.settled = Some(network.now - self.last_event);
        }
    }

    fn noticed(&mut self, network: &Network, at: Millis, by: &NodeId, change: &Change) {
        match change {
            Change::Policy(of) => {
                let number = network.nodes[by].engine.view().member(of).and_then(|member| member.policy.as_ref());
                let Some(number) = number.map(|policy| policy.count) else { return };
                for put in self.puts.iter_mut().filter(|put| put.of == *of && put.number <= number) {
                    if put.by.remove(by) {
                        self.spread.push(at - put.since);
                    }
                }
            }
            Change::Dead(of) => {
                for kill in self.kills.iter_mut().filter(|kill| kill.of == *of) {
                    if kill.by.remove(by) {
                        self.detected.push(at - kill.since);
                    }
                }
                let met = self.met.contains(of) && self.knows_run(network, by, of);
                let wrong = (met || self.has_run(of, at)) && self.wrong(network, at, by, of);
                self.false_deaths += usize::from(wrong);
            }
            Change::Suspect(of) => {
                // Who has just started knows of the others from its disk only.
                let wrong = self.has_run(by, at) && self.has_run(of, at) && self.wrong(network, at, by, of);
                self.false_suspicions += usize::from(wrong);
            }
            Change::Alive(of) => {
                if self.knows_run(network, by, of) {
                    self.met.insert(of.clone());
                }
            }
            Change::Left(_)
            | Change::Evicted(_)
            | Change::Gone(_)
            | Change::Member(_)
            | Change::Status(_)
            | Change::Services(_)
            | Change::Health(_) => {}
        }
    }

    fn wrong(&self, network: &Network, at: Millis, by: &NodeId, of: &NodeId) -> bool {
        // One that stands still is no better than dead.
        let runs = network.nodes.get(of).is_some_and(|host| host.up && host.paused_until <= at);
        runs && !self.liars.contains(by) && self.parts.get(by) == self.parts.get(of)
    }

    /// Whether a node speaks of another's present run.
    fn knows_run(&self, network: &Network, by: &NodeId, of: &NodeId) -> bool {
        let run = |at: &NodeId| Some(network.nodes.get(at)?.engine.view().member(of)?.generation);
        network.nodes.get(of).is_some_and(|host| host.up) && run(by) == run(of)
    }

    fn has_run(&self, node: &NodeId, at: Millis) -> bool {
        self.started.get(node).is_some_and(|started| at >= started + MET_MS)
    }

    /// Whether all see what is.
    fn agree(&mut self, network: &Network) -> bool {
        // Begins where it ended last: those before agreed then, and mostly still do.
        let last = self.differs.take();
        let counts = |by: &NodeId| network.nodes[by].up && !self.liars.contains(by);
        if let Some((by, of)) = last.as_ref().filter(|(by, of)| counts(by) && !sees(network, &network.nodes[by], of)) {
            self.differs = Some((by.clone(), of.clone()));
            return false;
        }
        let first = last.map(|(by, _)| by);
        let is_before = |by: &NodeId| first.as_ref().is_some_and(|first| by < first);
        let (before, after): (Vec<_>, Vec<_>) = network.nodes.iter().partition(|(by, _)| is_before(by));
        for (by, host) in after.into_iter().chain(before).filter(|(by, _)| counts(by)) {
            if let Some(of) = network.nodes.keys().find(|of| !sees(network, host, of)) {
                self.differs = Some((by.clone(), of.clone()));
                return false;
            }
        }
        true
    }

    pub(super) fn report(mut self, network: &Network, seed: u64, spent: Option<u64>) -> Report {
        self.measured(network);
        let running = network.nodes.iter().filter(|(by, host)| host.up && !self.liars.contains(*by));
        let hashes: BTreeSet<String> = running.clone().map(|(_, host)| state(host)).collect();
        let mut degrees: Vec<usize> = running.map(|(_, host)| host.engine.linked()).collect();
        degrees.sort_unstable();
        let rank = |numerator: usize| degrees.get((degrees.len().max(1) - 1) * numerator / 2).copied().unwrap_or(0);
        let per_s = |of: u64, node_ms: u64| (of * 1_000).checked_div(node_ms).unwrap_or(0);
        let bytes = self.counted.iter().flatten().map(|(lane, bytes)| (lane.word(), per_s(*bytes, self.node_ms)));
        let bytes = bytes.collect();
        let left = |all: &[Awaited]| all.iter().map(|awaited| awaited.by.len()).sum();
        Report {
            seed,
            unspread: left(&self.puts),
            undetected: left(&self.kills),
            spread_ms: Quantiles::of(self.spread),
            detection_ms: Quantiles::of(self.detected),
            false_deaths: self.false_deaths,
            false_suspicions: self.false_suspicions,
            settled_ms: self.settled,
            bytes_per_node_s: bytes,
            links: [rank(0), rank(1), rank(2)],
            cpu_us_per_node_round: spent.map(|spent| per_s(spent, self.all_ms)),
            state_hashes: hashes.into_iter().collect(),
            zones: None,
            runs: None,
        }
    }
}

/// Whether a node sees another as it is: alive with what it says of itself, or gone.
fn sees(network: &Network, host: &Host, of: &NodeId) -> bool {
    let seen = host.engine.view().member(of);
    let own = &network.nodes[of];
    if !own.up {
        return seen.is_none_or(|member| !member.usable());
    }
    let said = |member: &Member| (member.generation, member.policy.as_ref().map(|policy| policy.count));
    let truth = own.engine.view().member(of);
    seen.zip(truth).is_some_and(|(seen, truth)| {
        seen.state == MemberState::Alive && said(seen) == said(truth) && seen.services.len() == truth.services.len()
    })
}

/// What a node believes that others say.
fn state(host: &Host) -> String {
    let mut text = String::new();
    for member in host.engine.view().members().values() {
        let policy = member.policy.as_ref().map(|policy| policy.digest);
        let said = (&member.id, member.generation, member.status, &member.addresses, policy, &member.services);
        text.push_str(&format!("{said:?}\n"));
    }
    Digest::of(text.as_bytes()).to_string()
}
