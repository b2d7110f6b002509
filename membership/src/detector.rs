//! Who is alive: each node's own judgement, from what it hears over links, from probes, and from relays that probe for
//! it. What others say only makes it look. All times are the engine's milliseconds, which stand still while this
//! process does, so that its own pauses are nobody's silence (after Lifeguard, Dadgar et al. 2017).
//!
//! In a sparse mesh most members have no link with this node. Those that have one check; the rest wait for the accused to
//! answer its accusers with a signature that it did not have before.

mod accusations;
mod check;
mod looks;
mod peer;

use std::collections::{BTreeMap, BTreeSet};

use certs::id::NodeId;
use rand::{Rng, rngs::StdRng, seq::IndexedRandom};

pub(crate) use self::{accusations::ACCUSED, looks::Look};
use self::{
    accusations::Answer,
    check::Check,
    looks::{LOOKS, QUESTION_MS},
    peer::{BEAT_MS, End, Heard, Peer, Setting},
};
use crate::{accusers::Accusers, limit::Bucket};

/// Members that watch a node all the time: the two before it by name probe it, and the two after it, which it probes, miss its probes. In a
/// sparse mesh a node probes all those that it dialled, who are the four after it and some at random, so that one whose watchers end with it
/// is watched, too.
pub(crate) const NEIGHBOURS: usize = 4;
/// Relays that a check asks.
const RELAYS: usize = 2;
/// How often relays are believed between two signs of life that nobody can make up.
const HEARSAY: u32 = 3;
/// How long a lost link may be a mere reconnection before others hear of it.
const RECONNECT_MS: u64 = 200;
/// How long a probe for another may take.
const RELAYED_MS: u64 = 1_600;
/// Probes for others in flight.
const RELAYED: usize = 1_024;
/// Probes a second that one member may ask for.
const RELAY_RATE: u64 = 50;
/// Time between questions about those of whom others do not listen to this node any more: they pass such a one on now and then.
const VAIN_MS: u64 = 6_000;
/// How long the first of them waits for others: those that die together are not all found silent at once.
const GATHER_MS: u64 = 250;
/// The least that this process must have stood still to call itself slow.
const SLOW_MS: u64 = 150;
/// The most that it counts against itself.
const HEALTH_MOST: u32 = 4;
/// Time after which one of that is forgiven.
const HEALTH_MS: u64 = 10_000;

/// What the detector wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Order {
    /// Send a ping.
    Ping { to: NodeId, nonce: u64 },
    /// Ask a linked member to ping another.
    Ask { relay: NodeId, target: NodeId, nonce: u64 },
    /// Tell one who asked that the other answered.
    Answer { to: NodeId, target: NodeId, nonce: u64 },
    /// Tell everyone whom this node suspects now.
    Suspicions(Urgency),
    /// Dial a member: few accuse it, and it has not answered them.
    Dial(NodeId),
    /// The judgement changed.
    Judge(NodeId, Verdict),
}

/// How soon others hear whom this node suspects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// It suspects more than before, or found alive by itself whom others may be about to judge by its word.
    Now,
    /// It suspects fewer, and those who heard it know.
    Later,
}

/// The judgement of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Alive,
    Suspect,
    Dead,
}

/// See the module.
pub(crate) struct Detector {
    own: NodeId,
    /// When in each [`BEAT_MS`] its probes go out.
    phase: u64,
    peers: BTreeMap<NodeId, Peer>,
    linked: BTreeSet<NodeId>,
    /// Who is being checked.
    checking: BTreeSet<NodeId>,
    /// Whom this node has told everyone that it suspects.
    announced: BTreeSet<NodeId>,
    /// Whom it judged dead and still accuses: for those who heard it later, or because others see it alive; since when.
    questions: BTreeMap<NodeId, u64>,
    /// Probes made for others: own nonce to who asked with which nonce, and when.
    relayed: BTreeMap<u64, (NodeId, NodeId, u64, u64)>,
    askers: BTreeMap<NodeId, Bucket>,
    accusers: Accusers,
    sparse: bool,
    /// Since when most of those whom it was linked with are out of reach.
    cut_since: Option<u64>,
    /// At how many it may look because of that.
    looks: Bucket,
    /// When it may ask again about one of whom others do not listen to it.
    vain_due: u64,
    /// Since when there is such a one to ask about.
    vain_since: Option<u64>,
    /// Somebody owes an answer: then ticks come sooner.
    waits: bool,
    /// How slow this process lately was, and since when it counts so.
    health: u32,
    health_since: u64,
    random: StdRng,
}

impl Detector {
    pub(crate) fn new(own: NodeId, random: StdRng) -> Detector {
        // Nodes that start together shall not beat together.
        let phase = own.as_str().bytes().fold(0, |sum, byte| (sum * 31 + u64::from(byte)) % BEAT_MS);
        let (peers, linked, checking, announced, questions, relayed, askers) = Default::default();
        Detector {
            own,
            phase,
            peers,
            linked,
            checking,
            announced,
            questions,
            relayed,
            askers,
            accusers: Accusers::default(),
            sparse: false,
            cut_since: None,
            looks: Bucket::new(LOOKS.0, LOOKS.1, 0),
            vain_due: 0,
            vain_since: None,
            waits: false,
            health: 0,
            health_since: 0,
            random,
        }
    }

    /// Whether most members have no link with this node.
    pub(crate) fn sparse(&mut self, sparse: bool) {
        self.sparse = sparse;
    }

    /// This process stood still so long: it mistrusts its own timeouts for a while.
    pub(crate) fn stood_still(&mut self, milliseconds: u64, now: u64) {
        let lately = self.health > 0 && now.saturating_sub(self.health_since) < SLOW_MS;
        if milliseconds >= SLOW_MS && !lately {
            self.health = (self.health + 1).min(HEALTH_MOST);
            self.health_since = now;
        }
    }

    /// A member is known, or runs anew: until somebody reaches it, it is only suspected, and what was said of its earlier run is not
    /// said of this one. Whoever said it was not wrong: that run has ended.
    pub(crate) fn learned(&mut self, node: &NodeId, now: u64) -> Option<Order> {
        if *node == self.own {
            return None;
        }
        // Its link may stand already; it then looked like a member that came back from the dead.
        self.accusers.forgive(node);
        let mut peer = Peer::new(now, Verdict::Suspect);
        peer.check = Some(Box::new(Check::own(now)));
        self.checking.insert(node.clone());
        self.peers.insert(node.clone(), peer);
        self.says_no_more(node)
    }

    /// A member left: nothing is said of it any more. What its own word is worth stays: it may come back at once.
    pub(crate) fn left(&mut self, node: &NodeId) -> Option<Order> {
        self.peers.remove(node);
        self.checking.remove(node);
        self.askers.remove(node);
        self.accusers.forgive(node);
        self.says_no_more(node)
    }

    /// A member no longer counts.
    pub(crate) fn forget(&mut self, node: &NodeId) -> Option<Order> {
        self.accusers.forget(node);
        self.left(node)
    }

    /// A member signed something in a new run: nobody was wrong who doubted the last one.
    pub(crate) fn reran(&mut self, node: &NodeId) {
        let Some(peer) = self.peers.get_mut(node) else { return };
        peer.check = None;
        self.checking.remove(node);
    }

    /// Takes back what this node says of a member in public.
    fn says_no_more(&mut self, node: &NodeId) -> Option<Order> {
        let said = [self.announced.remove(node), self.questions.remove(node).is_some()];
        said.contains(&true).then_some(Order::Suspicions(Urgency::Later))
    }

    /// A link stands; `dialled` by this node, which then is the one to watch it in a sparse mesh.
    pub(crate) fn linked(&mut self, node: &NodeId, dialled: bool, now: u64) -> Vec<Order> {
        self.linked.insert(node.clone());
        self.cut_since = None;
        let peer = self.peers.entry(node.clone()).or_insert_with(|| Peer::new(now, Verdict::Suspect));
        (peer.linked, peer.met) = (true, true);
        peer.dialled |= dialled;
        peer.last_ping = None;
        self.heard(node, now)
    }

    /// The last link ended. With `parted` it was only not needed any more, and says nothing.
    pub(crate) fn unlinked(&mut self, node: &NodeId, parted: bool, now: u64) {
        self.linked.remove(node);
        self.askers.remove(node);
        let Some(peer) = self.peers.get_mut(node) else { return };
        (peer.linked, peer.dialled) = (false, false);
        peer.pings.clear();
        if parted && self.sparse {
            return;
        }
        peer.evidence = true;
        let calm = self.sparse && now < peer.calm_until;
        if peer.verdict != Verdict::Dead && !calm && !peer.is_doubted() {
            // Leaves time to reconnect, whenever it last spoke.
            peer.heard = peer.heard.max(now.saturating_sub(RECONNECT_MS));
            peer.doubt(now);
            self.checking.insert(node.clone());
        }
    }

    /// Anything that came over a link is a sign of life.
    pub(crate) fn heard(&mut self, node: &NodeId, now: u64) -> Vec<Order> {
        let Some(peer) = self.peers.get_mut(node) else { return Vec::new() };
        (peer.heard, peer.hearsay) = (now, 0);
        (peer.evidence, peer.refused) = (false, false);
        self.absolve(node, Answer::ToThis, now)
    }

    /// It signed something newer than what was known before; `told` if a peer just said so, and not the carrier, which
    /// may bring what is seconds old.
    pub(crate) fn vouched(&mut self, node: &NodeId, told: bool, now: u64) -> Vec<Order> {
        let Some(peer) = self.peers.get_mut(node) else { return Vec::new() };
        if peer.verdict == Verdict::Dead && !peer.linked && !(self.sparse && told) {
            return Vec::new();
        }
        (peer.vouched, peer.hearsay) = (now, 0);
        peer.refuted(now);
        self.absolve(node, Answer::ToAll, now)
    }

    /// A linked member sees it alive. Where most have no link that is enough for one of which nothing else is known.
    pub(crate) fn spoken(&mut self, node: &NodeId, now: u64) -> Vec<Order> {
        let Some(peer) = self.peers.get_mut(node) else { return Vec::new() };
        let unchecked = peer.check.as_ref().is_some_and(|check| check.told().is_none());
        if !self.sparse || peer.verdict != Verdict::Suspect || !unchecked || peer.evidence {
            return Vec::new();
        }
        peer.vouched = now;
        self.absolve(node, Answer::ToAll, now)
    }

    /// An answer to a ping: a round trip, or news for one who asked.
    pub(crate) fn acked(&mut self, node: &NodeId, nonce: u64, now: u64) -> Vec<Order> {
        if let Some((target, to, nonce, _)) = self.relayed.remove(&nonce) {
            let answers = target == *node;
            return answers.then_some(Order::Answer { to, target, nonce }).into_iter().collect();
        }
        if let Some(peer) = self.peers.get_mut(node) {
            peer.acked(nonce, now);
        }
        Vec::new()
    }

    /// A linked member asks to probe another.
    pub(crate) fn asked(&mut self, from: &NodeId, target: &NodeId, nonce: u64, now: u64) -> Vec<Order> {
        let bucket = self.askers.entry(from.clone()).or_insert_with(|| Bucket::new(RELAY_RATE, RELAY_RATE, now));
        if !bucket.take(now) || self.relayed.len() >= RELAYED || !self.linked.contains(target) {
            return Vec::new();
        }
        let own = self.random.random();
        self.relayed.insert(own, (target.clone(), from.clone(), nonce, now));
        vec![Order::Ping { to: target.clone(), nonce: own }]
    }

    /// A relay's answer, to whichever round it was asked in: a slow one may be asked again before it has answered, so the number is not
    /// compared.
    pub(crate) fn answered(&mut self, relay: &NodeId, target: &NodeId, reached: bool, now: u64) -> Vec<Order> {
        let Some(peer) = self.peers.get_mut(target) else { return Vec::new() };
        let asked = peer.check.as_mut().is_some_and(|check| check.waiting.remove(relay));
        if !asked || !reached || peer.hearsay >= HEARSAY {
            return Vec::new();
        }
        peer.hearsay += 1;
        peer.vouched = now;
        self.absolve(target, Answer::ToThis, now)
    }

    /// Whether anybody is being checked, or owes an answer: then time counts.
    pub(crate) fn is_busy(&self) -> bool {
        self.waits || !self.checking.is_empty()
    }

    pub(crate) fn verdict(&self, node: &NodeId) -> Option<Verdict> {
        self.peers.get(node).map(|peer| peer.verdict)
    }

    /// Smoothed round trip in microseconds, and the share of probes that got no answer.
    pub(crate) fn path(&self, node: &NodeId) -> Option<(u64, f64)> {
        self.peers.get(node).filter(|peer| peer.linked).and_then(Peer::path)
    }

    pub(crate) fn tick(&mut self, now: u64) -> Vec<Order> {
        let mut orders = Vec::new();
        self.relayed.retain(|_, (_, _, _, asked)| now.saturating_sub(*asked) <= RELAYED_MS);
        if self.health > 0 && now.saturating_sub(self.health_since) >= HEALTH_MS {
            self.health -= 1;
            self.health_since = now;
        }
        let asked = self.questions.len();
        self.questions.retain(|_, since| now.saturating_sub(*since) < RELAYED_MS);
        if self.questions.len() < asked {
            orders.push(Order::Suspicions(Urgency::Later));
        }
        let (following, preceding) = if self.sparse { Default::default() } else { self.neighbours() };
        // Only checks ask.
        let (all, silent) = if self.is_busy() { self.silent(now) } else { (0, 0) };
        let loss = if self.checking.is_empty() { 0.0 } else { self.loss() };
        let is_cut_off = self.is_cut_off(all, silent, now);
        if is_cut_off {
            orders.extend(self.unlinked_looks(now));
        }
        let setting = Setting {
            sparse: self.sparse,
            alone: self.linked.is_empty(),
            // When most members are silent at once, this node is the likelier culprit.
            doubts_itself: silent * 2 > all && all > 1 && !is_cut_off,
            health: self.health,
            loss,
            phase: self.phase,
        };
        self.waits = false;
        let unheard = self.accusers.ignored_all(&self.own, now);
        let may_ask = now >= self.vain_due && self.vain_since.is_some_and(|since| now >= since + GATHER_MS);
        let (mut waits, mut asked) = (false, false);
        // Whoever is neither linked nor checked only waits, unless everybody ought to be linked.
        let looked_at: Vec<NodeId> = if self.sparse {
            self.linked.union(&self.checking).cloned().collect()
        } else {
            self.peers.keys().cloned().collect()
        };
        for name in looked_at {
            let Some(peer) = self.peers.get_mut(&name) else { continue };
            self.waits |= peer.owes(now);
            let end = match self.sparse {
                true if peer.dialled => End::Probes,
                true => End::Awaits,
                false if following.contains(&name) => End::Probes,
                false if preceding.contains(&name) => End::Awaits,
                false => End::Idle,
            };
            if let Some(nonce) = peer.probe(end, &setting, &mut self.random, now) {
                orders.push(Order::Ping { to: name.clone(), nonce });
            }
            if peer.suspicious(&setting, now) {
                peer.doubt(now);
                self.checking.insert(name.clone());
            }
            if peer.verdict == Verdict::Dead {
                continue;
            }
            if peer.asks(&setting, now) {
                let relays = relays(&name, &self.linked, self.sparse, &mut self.random);
                for relay in relays {
                    let nonce = self.random.random();
                    peer.check.iter_mut().for_each(|check| check.waiting.extend([relay.clone()]));
                    orders.push(Order::Ask { relay, target: name.clone(), nonce });
                }
            }
            // Nobody passes on what a node says that was wrong too often, so that no answer comes of it; of one about whom it was wrong
            // it is passed on now and then.
            let heard = match (unheard, self.accusers.ignored(&self.own, &name, now)) {
                _ if !self.sparse => Heard::Always,
                (true, _) => Heard::Never,
                (false, true) => Heard::Seldom { may_ask },
                (false, false) => Heard::Always,
            };
            let judged = peer.judge(&setting, heard, now);
            if judged.announce && self.announced.insert(name.clone()) {
                orders.push(Order::Suspicions(Urgency::Now));
                asked |= matches!(heard, Heard::Seldom { .. });
            }
            waits |= judged.waits;
            if judged.look {
                orders.push(Order::Dial(name.clone()));
            }
            if let Some(verdict) = judged.verdict {
                if verdict == Verdict::Dead {
                    self.checking.remove(&name);
                    // The accusation stands until all who heard it have judged.
                    if self.announced.remove(&name) {
                        self.questions.insert(name.clone(), now);
                    }
                }
                orders.push(Order::Judge(name, verdict));
            }
        }
        self.vain_since = if waits { self.vain_since.or(Some(now)) } else { None };
        self.vain_due = if asked { now + VAIN_MS } else { self.vain_due };
        orders
    }

    fn loss(&self) -> f64 {
        let losses = self.linked.iter().filter_map(|node| self.peers.get(node)).map(Peer::loss);
        losses.sum::<f64>() / self.linked.len().max(1) as f64
    }

    /// Whom this node probes, and whose probes it misses: the linked members next after it by name, and next before it, round the end.
    fn neighbours(&self) -> (BTreeSet<NodeId>, BTreeSet<NodeId>) {
        let after = || self.linked.iter().filter(|node| **node > self.own);
        let before = || self.linked.iter().filter(|node| **node < self.own);
        let following = after().chain(before()).take(NEIGHBOURS / 2).cloned();
        let preceding = before().rev().chain(after().rev()).take(NEIGHBOURS / 2).cloned();
        (following.collect(), preceding.collect())
    }

    /// How many are known by own experience, and how many of them are silent.
    fn silent(&self, now: u64) -> (usize, usize) {
        let (mut all, mut silent) = (0_usize, 0_usize);
        let alive = self.peers.values().filter(|peer| peer.met && peer.verdict != Verdict::Dead);
        for peer in alive.filter(|peer| !self.sparse || peer.linked || peer.evidence) {
            all += 1;
            silent += usize::from(!peer.linked || peer.is_late(now));
        }
        (all, silent)
    }
}

/// Who may reach a member: anybody where all are linked, else those next to it by name.
fn relays(target: &NodeId, linked: &BTreeSet<NodeId>, sparse: bool, random: &mut StdRng) -> Vec<NodeId> {
    if sparse {
        let after = linked.iter().filter(|node| *node > target);
        let before = linked.iter().rev().filter(|node| *node < target);
        return after.take(1).chain(before.take(1)).cloned().collect();
    }
    let others: Vec<&NodeId> = linked.iter().filter(|other| *other != target).collect();
    others.choose_multiple(random, RELAYS).map(|relay| (*relay).clone()).collect()
}

#[cfg(test)]
mod tests;
