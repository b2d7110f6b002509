//! Who is alive: each node's own judgement, from what it hears over links, from probes, and from relays that probe for
//! it. What others say only makes it look. All times are the engine's milliseconds, which stand still while this
//! process does, so that its own pauses are nobody's silence (after Lifeguard, Dadgar et al. 2017).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use certs::id::NodeId;
use rand::{Rng, rngs::StdRng, seq::IndexedRandom};

use crate::{accusers::Accusers, limit::Bucket};

/// Members that a node probes all the time: those that follow it by name.
const NEIGHBOURS: usize = 4;
/// Time between probes of a neighbour.
const PROBE_MS: u64 = 250;
/// Time between probes of any other linked member.
const KEEP_ALIVE_MS: u64 = 1_000;
/// Time between probes of a member in doubt.
const DOUBT_PROBE_MS: u64 = 100;
/// Unanswered probes over this time put in doubt.
const DOUBT_MS: u64 = 300;
/// Over this time they start a check, and the others are told.
const SUSPECT_MS: u64 = 700;
/// The same once a data connection failed as well.
const SUSPECT_FAILED_MS: u64 = 400;
/// How long a data connection's failure counts.
const FAILURE_MS: u64 = 3_000;
/// What a check leaves a member to refute it, at least.
const REFUTE_MS: u64 = 400;
/// A silence over a standing link that means death, if the check found nothing.
const DEAD_MS: u64 = 1_600;
/// The same once the link is down, or a data connection failed as well.
const DEAD_UNLINKED_MS: u64 = 800;
/// The same when this node rather doubts itself.
const DEAD_SELF_DOUBT_MS: u64 = 2_400;
/// Patience with members of whom this node only heard: a link to them may be on its way.
const UNMET_MS: u64 = 2_000;
/// The same while there is nobody to ask about them.
const ALONE_MS: u64 = 5_000;
/// Relays that a check asks.
const RELAYS: usize = 2;
/// How often relays are believed between two signs of life that nobody can make up.
const HEARSAY: u32 = 3;
/// Time after which other relays are asked.
const RELAY_MS: u64 = 400;
/// How long a lost link may be a mere reconnection before others hear of it.
const RECONNECT_MS: u64 = 200;
/// Probes in flight that are remembered for each member.
const PINGS: usize = 16;
/// Probes for others in flight.
const RELAYED: usize = 1_024;
/// Probes a second that one member may ask for.
const RELAY_RATE: u64 = 50;
/// The most that a smoothed round trip may claim, in milliseconds.
const RTT_MAX_MS: u64 = 60_000;

/// What the detector wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Order {
    /// Send a ping.
    Ping { to: NodeId, nonce: u64 },
    /// Ask a linked member to ping another.
    Ask { relay: NodeId, target: NodeId, nonce: u64 },
    /// Answer one who asked.
    Answer { to: NodeId, target: NodeId, nonce: u64, reached: bool },
    /// Tell everyone that a member is silent.
    Accuse(NodeId),
    /// The judgement changed.
    Judge(NodeId, Verdict),
}

/// The judgement of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Alive,
    Suspect,
    Dead,
}

struct Peer {
    linked: bool,
    /// Was linked once in this run.
    met: bool,
    verdict: Verdict,
    /// The last sign of life over a link, or when it was first known, linked or unlinked.
    heard: u64,
    /// The last sign of life by others: a relay's word, or a newer signature.
    vouched: u64,
    /// Relays believed since its last own sign of life.
    hearsay: u32,
    failed: Option<u64>,
    last_ping: Option<u64>,
    /// When the first probe since the last sign of life went out: before it, a silence means nothing.
    asked: Option<u64>,
    pings: VecDeque<(u64, u64)>,
    rtt: Option<u64>,
    check: Option<Check>,
}

struct Check {
    since: u64,
    accuser: Option<NodeId>,
    announced: bool,
    asked: u64,
    /// Relays asked in this round that have not answered.
    waiting: BTreeSet<NodeId>,
}

/// See the module.
pub(crate) struct Detector {
    own: NodeId,
    peers: BTreeMap<NodeId, Peer>,
    linked: BTreeSet<NodeId>,
    /// Probes made for others: own nonce to who asked with which nonce, and when.
    relayed: BTreeMap<u64, (NodeId, NodeId, u64, u64)>,
    askers: BTreeMap<NodeId, Bucket>,
    accusers: Accusers,
    random: StdRng,
}

impl Detector {
    pub(crate) fn new(own: NodeId, random: StdRng) -> Detector {
        let (peers, linked, relayed, askers) = Default::default();
        Detector { own, peers, linked, relayed, askers, accusers: Accusers::default(), random }
    }

    /// A member is known, or runs anew: until somebody reaches it, it is only suspected.
    pub(crate) fn learned(&mut self, node: &NodeId, now: u64) {
        if *node == self.own || self.linked.contains(node) {
            return;
        }
        let mut peer = Peer::new(now, Verdict::Suspect);
        peer.check = Some(Check::new(now, None));
        self.peers.insert(node.clone(), peer);
    }

    /// A member left, or no longer counts.
    pub(crate) fn forget(&mut self, node: &NodeId) {
        self.peers.remove(node);
        self.askers.remove(node);
        self.accusers.forget(node);
    }

    pub(crate) fn linked(&mut self, node: &NodeId, now: u64) -> Vec<Order> {
        self.linked.insert(node.clone());
        let peer = self.peers.entry(node.clone()).or_insert_with(|| Peer::new(now, Verdict::Suspect));
        (peer.linked, peer.met) = (true, true);
        peer.last_ping = None;
        self.heard(node, now)
    }

    pub(crate) fn unlinked(&mut self, node: &NodeId, now: u64) {
        self.linked.remove(node);
        self.askers.remove(node);
        if let Some(peer) = self.peers.get_mut(node) {
            peer.linked = false;
            peer.asked = None;
            peer.pings.clear();
            if peer.verdict != Verdict::Dead && peer.check.is_none() {
                // Leaves time to reconnect, whenever it last spoke.
                peer.heard = peer.heard.max(now.saturating_sub(RECONNECT_MS));
                peer.check = Some(Check::new(now, None));
            }
        }
    }

    /// Anything that came over a link is a sign of life.
    pub(crate) fn heard(&mut self, node: &NodeId, now: u64) -> Vec<Order> {
        let Some(peer) = self.peers.get_mut(node) else { return Vec::new() };
        (peer.heard, peer.hearsay) = (now, 0);
        self.absolve(node, now)
    }

    /// It signed something newer than what was known before.
    pub(crate) fn vouched(&mut self, node: &NodeId, now: u64) -> Vec<Order> {
        let Some(peer) = self.peers.get_mut(node) else { return Vec::new() };
        if peer.verdict == Verdict::Dead && !peer.linked {
            return Vec::new();
        }
        (peer.vouched, peer.hearsay) = (now, 0);
        self.absolve(node, now)
    }

    fn absolve(&mut self, node: &NodeId, now: u64) -> Vec<Order> {
        let Some(peer) = self.peers.get_mut(node) else { return Vec::new() };
        (peer.failed, peer.asked) = (None, None);
        if let Some(accuser) = peer.check.take().and_then(|check| check.accuser) {
            self.accusers.refuted(&accuser, now);
        }
        if std::mem::replace(&mut peer.verdict, Verdict::Alive) == Verdict::Alive {
            return Vec::new();
        }
        vec![Order::Judge(node.clone(), Verdict::Alive)]
    }

    /// An answer to a ping: a round trip, or news for one who asked.
    pub(crate) fn acked(&mut self, node: &NodeId, nonce: u64, now: u64) -> Vec<Order> {
        if let Some((target, to, nonce, _)) = self.relayed.remove(&nonce) {
            let reached = target == *node;
            return vec![Order::Answer { to, target, nonce, reached }];
        }
        let Some(peer) = self.peers.get_mut(node) else { return Vec::new() };
        if let Some((_, sent)) = peer.pings.iter().find(|(known, _)| *known == nonce) {
            let sample = now.saturating_sub(*sent).min(RTT_MAX_MS);
            peer.rtt = Some(peer.rtt.map_or(sample, |rtt| (rtt * 7 + sample) / 8));
            peer.pings.clear();
        }
        Vec::new()
    }

    /// A linked member asks to probe another.
    pub(crate) fn asked(&mut self, from: &NodeId, target: &NodeId, nonce: u64, now: u64) -> Vec<Order> {
        let bucket = self.askers.entry(from.clone()).or_insert_with(|| Bucket::new(RELAY_RATE, RELAY_RATE, now));
        if !bucket.take(now) || self.relayed.len() >= RELAYED {
            return Vec::new();
        }
        if !self.linked.contains(target) {
            return vec![Order::Answer { to: from.clone(), target: target.clone(), nonce, reached: false }];
        }
        let own = self.random.random();
        self.relayed.insert(own, (target.clone(), from.clone(), nonce, now));
        vec![Order::Ping { to: target.clone(), nonce: own }]
    }

    /// A relay's answer.
    pub(crate) fn answered(&mut self, relay: &NodeId, target: &NodeId, reached: bool, now: u64) -> Vec<Order> {
        let Some(peer) = self.peers.get_mut(target) else { return Vec::new() };
        let asked = peer.check.as_mut().is_some_and(|check| check.waiting.remove(relay));
        if !asked || !reached || peer.hearsay >= HEARSAY {
            return Vec::new();
        }
        peer.hearsay += 1;
        peer.vouched = now;
        self.absolve(target, now)
    }

    /// Somebody finds a member silent; true if that starts a check.
    pub(crate) fn accused(&mut self, from: &NodeId, node: &NodeId, now: u64) -> bool {
        if self.accusers.ignored(from, now) {
            return false;
        }
        let Some(peer) = self.peers.get_mut(node) else { return false };
        if peer.verdict == Verdict::Dead || peer.check.is_some() {
            return false;
        }
        peer.check = Some(Check::new(now, Some(from.clone())));
        peer.last_ping = None;
        true
    }

    /// A data connection failed: a reason to look at once.
    pub(crate) fn failed(&mut self, node: &NodeId, now: u64) {
        if let Some(peer) = self.peers.get_mut(node)
            && peer.failed.is_none_or(|failed| now.saturating_sub(failed) > PROBE_MS)
        {
            peer.failed = Some(now);
            peer.last_ping = None;
        }
    }

    /// A dial failed. Of a member that was never met in this run that is as telling as a failed data connection: one started
    /// alone does not wait for those that it knows from disk only.
    pub(crate) fn refused(&mut self, node: &NodeId, now: u64) {
        if self.peers.get(node).is_some_and(|peer| !peer.met) {
            self.failed(node, now);
        }
    }

    pub(crate) fn verdict(&self, node: &NodeId) -> Option<Verdict> {
        self.peers.get(node).map(|peer| peer.verdict)
    }

    /// Smoothed round trip in milliseconds.
    pub(crate) fn rtt(&self, node: &NodeId) -> Option<u64> {
        self.peers.get(node).filter(|peer| peer.linked).and_then(|peer| peer.rtt)
    }

    pub(crate) fn tick(&mut self, now: u64) -> Vec<Order> {
        let mut orders = Vec::new();
        self.relayed.retain(|_, (_, _, _, asked)| now.saturating_sub(*asked) <= DEAD_MS);
        let neighbours = self.neighbours();
        let doubt = self.doubts_itself(now);
        let Detector { peers, linked, random, .. } = self;
        for (name, peer) in peers {
            peer.probe(name, neighbours.contains(name), random, now, &mut orders);
            if peer.suspicious(now) && peer.check.is_none() {
                peer.check = Some(Check::new(now, None));
            }
            if peer.verdict != Verdict::Dead {
                peer.ask(name, linked, random, now, &mut orders);
                let patience = peer.patience(doubt, linked.is_empty(), now);
                peer.judge(name, patience, now, &mut orders);
            }
        }
        orders
    }

    /// The linked members that follow this one by name, round the end.
    fn neighbours(&self) -> BTreeSet<NodeId> {
        let after = self.linked.iter().filter(|node| **node > self.own);
        let before = self.linked.iter().filter(|node| **node < self.own);
        after.chain(before).take(NEIGHBOURS).cloned().collect()
    }

    /// When most members are silent at once, this node is the likelier culprit.
    fn doubts_itself(&self, now: u64) -> bool {
        let (mut all, mut silent) = (0_usize, 0_usize);
        for peer in self.peers.values().filter(|peer| peer.met && peer.verdict != Verdict::Dead) {
            all += 1;
            silent += usize::from(!peer.linked || peer.unanswered(now) >= DOUBT_MS);
        }
        silent * 2 > all && all > 1
    }
}

impl Peer {
    fn new(now: u64, verdict: Verdict) -> Peer {
        let (rtt, failed, check) = (None, None, None);
        let (linked, met, vouched, hearsay, asked, last_ping, pings) = Default::default();
        Peer { linked, met, verdict, heard: now, vouched, hearsay, failed, last_ping, asked, pings, rtt, check }
    }

    /// How long it may be silent before it is dead.
    fn patience(&self, doubt: bool, alone: bool, now: u64) -> u64 {
        if !self.met && self.vouched == 0 && !self.failed_lately(now) {
            return if alone { ALONE_MS } else { UNMET_MS };
        }
        match (doubt, self.linked && !self.failed_lately(now)) {
            (true, _) => DEAD_SELF_DOUBT_MS,
            (false, true) => DEAD_MS,
            (false, false) => DEAD_UNLINKED_MS,
        }
    }

    fn silence(&self, now: u64) -> u64 {
        now.saturating_sub(self.heard.max(self.vouched))
    }

    /// For how long it has not answered what it was asked.
    fn unanswered(&self, now: u64) -> u64 {
        self.asked.map_or(0, |asked| now.saturating_sub(asked))
    }

    fn failed_lately(&self, now: u64) -> bool {
        self.failed.is_some_and(|failed| now.saturating_sub(failed) <= FAILURE_MS)
    }

    fn probe(&mut self, name: &NodeId, neighbour: bool, random: &mut StdRng, now: u64, orders: &mut Vec<Order>) {
        let doubted = self.check.is_some() || self.failed_lately(now) || self.unanswered(now) >= DOUBT_MS;
        let pause = match (doubted, neighbour || self.asked.is_some()) {
            (true, _) => DOUBT_PROBE_MS,
            (false, true) => PROBE_MS,
            (false, false) => KEEP_ALIVE_MS,
        };
        if !self.linked || self.last_ping.is_some_and(|last| now < last + pause) {
            return;
        }
        let nonce = random.random();
        if self.pings.len() >= PINGS {
            self.pings.pop_front();
        }
        self.pings.push_back((nonce, now));
        self.asked.get_or_insert(now);
        self.last_ping = Some(now);
        orders.push(Order::Ping { to: name.clone(), nonce });
    }

    fn suspicious(&self, now: u64) -> bool {
        let limit = if self.failed_lately(now) { SUSPECT_FAILED_MS } else { SUSPECT_MS };
        let over_relays = !self.linked && self.silence(now) >= KEEP_ALIVE_MS;
        self.verdict != Verdict::Dead && (over_relays || self.unanswered(now) >= limit)
    }

    fn ask(
        &mut self,
        name: &NodeId,
        linked: &BTreeSet<NodeId>,
        random: &mut StdRng,
        now: u64,
        orders: &mut Vec<Order>,
    ) {
        let Some(check) = &mut self.check else { return };
        if check.asked != 0 && now.saturating_sub(check.asked) < RELAY_MS {
            return;
        }
        check.asked = now.max(1);
        let others: Vec<&NodeId> = linked.iter().filter(|other| *other != name).collect();
        let relays: Vec<&NodeId> = others.choose_multiple(random, RELAYS).copied().collect();
        check.waiting.clear();
        for relay in relays {
            check.waiting.insert(relay.clone());
            orders.push(Order::Ask { relay: relay.clone(), target: name.clone(), nonce: random.random() });
        }
    }

    fn judge(&mut self, name: &NodeId, patience: u64, now: u64, orders: &mut Vec<Order>) {
        let (silence, asked) = (self.silence(now), self.unanswered(now));
        let limit = if self.failed_lately(now) { SUSPECT_FAILED_MS } else { SUSPECT_MS };
        let Some(check) = &mut self.check else { return };
        let checked = now.saturating_sub(check.since);
        let own = if self.linked { asked >= SUSPECT_FAILED_MS } else { checked >= RECONNECT_MS };
        if own && !check.announced {
            check.announced = true;
            orders.push(Order::Accuse(name.clone()));
            if self.verdict == Verdict::Alive {
                self.verdict = Verdict::Suspect;
                orders.push(Order::Judge(name.clone(), Verdict::Suspect));
            }
        }
        let asked_enough = !self.linked || asked >= limit;
        if checked >= REFUTE_MS && silence >= patience && asked_enough {
            self.verdict = Verdict::Dead;
            self.check = None;
            orders.push(Order::Judge(name.clone(), Verdict::Dead));
        }
    }
}

impl Check {
    fn new(since: u64, accuser: Option<NodeId>) -> Check {
        Check { since, accuser, announced: false, asked: 0, waiting: BTreeSet::new() }
    }
}
