//! A seeded network of engines. A link is one as QUIC makes it, in order and with an end that both sides learn of, but
//! with no second try of what was lost: for the engine that is the worse case.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    net::SocketAddr,
    sync::Arc,
};

use certs::{codec::Millis, id::NodeId, verify::Authority};
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{
    dials::Dials,
    population::{Citizen, START},
    queue::{Delivery, Queue},
    twin::{NEWS_PEERS, News, PEERS},
    virtual_time::{Repairer, VirtualTime},
};
use crate::{
    body::{Address, Body},
    engine::{Change, Config, Effect, Engine, Event, Lane, LinkId, Loss, Notice, Own},
    message::Latest,
    notary::{Certificates, Notary},
    record,
    statement::Statement,
    view::MemberState,
};

pub use super::virtual_time::Repair;

/// A link whose peer is silent ends after this.
pub const IDLE_MS: u64 = 2_500;
pub(super) const ROUND_MS: u64 = 1_000;

/// Looks at what is sent, and may change or drop it.
pub type Tap = Box<dyn FnMut(&NodeId, &NodeId, Lane, Arc<[u8]>) -> Option<Arc<[u8]>> + Send>;

/// See the module.
pub struct Network {
    /// The virtual time.
    pub now: Millis,
    /// All processes, also those that ended.
    pub nodes: BTreeMap<NodeId, Host>,
    /// What all believe in.
    pub authority: Arc<Authority>,
    pub(super) notary: Arc<dyn Notary>,
    /// Whose they are, or were.
    pub(super) addresses: BTreeMap<SocketAddr, NodeId>,
    pub(super) queue: Queue,
    wakes: BinaryHeap<Reverse<(Millis, NodeId)>>,
    pub(super) count: u64,
    pub(super) links: BTreeMap<LinkId, (NodeId, NodeId)>,
    pub(super) between: BTreeMap<(NodeId, NodeId), BTreeSet<LinkId>>,
    /// When the last message over a link arrives, towards who accepted it or who dialled it: links keep order.
    arrivals: BTreeMap<(LinkId, bool), Millis>,
    pub(super) random: StdRng,
    /// The least and the most that a message takes, in milliseconds.
    pub latency: (u64, u64),
    /// The share of messages that get lost.
    pub loss: f64,
    /// Whether a dead process's links are reset at once, as by TCP.
    pub resets: bool,
    /// Whether disks keep what engines know of others: for who starts again, and a thousand of them take gigabytes.
    pub disks: bool,
    /// What repairs.
    pub repair: Repair,
    /// The clock of chitchats, where they run.
    pub(super) virtual_time: Option<VirtualTime>,
    /// Whom each does not reach.
    pub(super) cut: BTreeMap<NodeId, BTreeSet<NodeId>>,
    /// Who noticed what, and when.
    pub trace: Vec<(Millis, NodeId, Change)>,
    /// What engines wanted to be known.
    pub notices: Vec<(NodeId, Notice)>,
    /// Messages sent.
    pub sent: u64,
    /// Their bytes by lane, without what the transport adds and without what those sent who do not count.
    pub bytes: BTreeMap<Lane, u64>,
    /// Whose bytes do not count.
    pub(super) uncounted: BTreeSet<NodeId>,
    /// Between engines and the wire.
    pub tap: Option<Tap>,
}

/// One process.
pub struct Host {
    /// Its engine.
    pub engine: Engine,
    /// Who it is.
    pub citizen: Citizen,
    pub(super) repairer: Repairer,
    pub(super) address: SocketAddr,
    /// What its disk holds of the others.
    pub persisted: Vec<u8>,
    /// What its disk holds of its generation.
    pub generation: u64,
    /// What is heard of the moment, of whom, and whether it is demand.
    pub heard: BTreeMap<(NodeId, bool), Statement>,
    /// Whom others accuse, as they said last.
    pub accusing: BTreeMap<NodeId, Vec<Latest>>,
    /// Who was lost, and why.
    pub lost: Vec<(NodeId, Loss)>,
    /// How often something of the moment was told.
    pub told: usize,
    /// False once it was killed.
    pub up: bool,
    pub(super) paused_until: Millis,
    pub(super) dials: Dials,
    round: Millis,
    feed: bool,
    news: News,
    /// When it must tick or start a round, and the earliest time for which it stands in `wakes`.
    wake: Millis,
    listed: Millis,
}

impl Network {
    /// An empty network whose nodes check real certificates.
    #[must_use]
    pub fn new(authority: Authority, seed: u64) -> Network {
        Network::with_notary(Arc::new(authority), Arc::new(Certificates), seed)
    }

    /// An empty network whose nodes believe a notary.
    #[must_use]
    pub fn with_notary(authority: Arc<Authority>, notary: Arc<dyn Notary>, seed: u64) -> Network {
        let (nodes, addresses, links, between, arrivals, cut) = Default::default();
        Network {
            now: START + 1_000,
            nodes,
            authority,
            notary,
            addresses,
            queue: Queue::default(),
            wakes: BinaryHeap::new(),
            count: 0,
            links,
            between,
            arrivals,
            random: StdRng::seed_from_u64(seed),
            latency: (1, 5),
            loss: 0.0,
            resets: false,
            disks: true,
            repair: Repair::Twin,
            virtual_time: None,
            cut,
            trace: Vec::new(),
            notices: Vec::new(),
            sent: 0,
            bytes: BTreeMap::new(),
            uncounted: BTreeSet::new(),
            tap: None,
        }
    }

    /// Starts (or restarts) a node; generations rise with the clock.
    ///
    /// # Panics
    /// If the mesh has more nodes than an IPv4 network has addresses.
    pub fn start(&mut self, citizen: &Citizen, peers: &[SocketAddr], last_known: Vec<u8>) {
        let known = self.nodes.get(&citizen.node).map(|host| host.address);
        let address = known.unwrap_or_else(|| self.new_address(&citizen.node));
        let trust_domain = self.authority.trust_domain.clone();
        let config =
            Config { trust_domain: trust_domain.clone(), peers: peers.to_vec(), last_known: last_known.clone() };
        let stored = self.nodes.get(&citizen.node).map_or(0, |host| host.generation);
        let generation = record::next_generation(stored, 0, self.now, self.random.random());
        let own = Own {
            node: citizen.node.clone(),
            record_key: citizen.record_key.clone(),
            generation,
            identity: citizen.chain.clone(),
        };
        let (authority, notary) = (self.authority.clone(), self.notary.clone());
        let engine = Engine::with_notary(config, own, authority, notary, self.random.random(), self.now);
        let repairer = self.repairer(trust_domain);
        let host = Host {
            engine,
            citizen: citizen.clone(),
            repairer,
            address,
            persisted: last_known,
            generation,
            heard: BTreeMap::new(),
            accusing: BTreeMap::new(),
            lost: Vec::new(),
            told: 0,
            up: true,
            paused_until: 0,
            dials: Dials::default(),
            round: self.now + self.random.random_range(0..ROUND_MS),
            feed: true,
            news: News::default(),
            wake: self.now,
            listed: Millis::MAX,
        };
        self.nodes.insert(citizen.node.clone(), host);
        let body = Address {
            addresses: vec![address],
            locality: "eu/a".to_owned(),
            version: "simulated".to_owned(),
            wire: (1, 1),
            started: self.now,
        };
        self.event(&citizen.node, Event::Publish(vec![Body::Address(body)]));
    }

    /// Where a node listens.
    ///
    /// # Panics
    /// If it was never started.
    #[must_use]
    pub fn address(&self, node: &NodeId) -> SocketAddr {
        self.nodes[node].address
    }

    /// Tells an engine something and does what it wants done.
    pub fn event(&mut self, to: &NodeId, event: Event) {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(to).filter(|node| node.up) else { return };
        node.news.published(&event);
        let effects = node.engine.handle(event, now);
        for effect in effects {
            self.effect(to, effect);
        }
        self.list(to);
    }

    /// Notes when a node is due next.
    fn list(&mut self, name: &NodeId) {
        let Some(node) = self.nodes.get_mut(name) else { return };
        node.wake = node.engine.wake().min(node.round).min(node.news.due()).max(node.paused_until);
        if node.wake < node.listed {
            node.listed = node.wake;
            self.wakes.push(Reverse((node.wake, name.clone())));
        }
    }

    fn effect(&mut self, node: &NodeId, effect: Effect) {
        let state = self.nodes.get_mut(node).expect("it acts");
        match effect {
            Effect::Send { to, link, lane, bytes } => self.transmit(node, &to, link, lane, bytes),
            Effect::Dial { node: target, address } => {
                let from = node.clone();
                self.soon(Delivery::Dial { from, node: target, address });
            }
            Effect::CloseLink { node: peer, link } => self.close(link, node, &peer, 0),
            Effect::Close { node: peer } => {
                for link in self.between(node, &peer) {
                    self.close(link, node, &peer, 0);
                }
            }
            Effect::Changed(change) => self.trace.push((self.now, node.clone(), change)),
            Effect::Persist(bytes) if self.disks => state.persisted = bytes,
            Effect::Persist(_) => {}
            Effect::Generation(generation) => state.generation = generation,
            Effect::Deliver { from, bytes } => {
                if state.repairer.deliver(&from, &bytes) {
                    state.news.learned(self.now);
                }
                self.drain(node);
            }
            Effect::Feed if matches!(state.repairer, Repairer::Chitchat(_)) => {
                state.repairer.feed(Arc::new(state.engine.feed()));
            }
            Effect::Feed => {
                state.feed = true;
                state.news.fed(self.now);
            }
            Effect::Remembered(_) => {}
            Effect::Heard { node: author, statement: Statement::Suspicions(parts) } => {
                state.accusing.insert(author, parts.iter().flat_map(|part| part.iter()).cloned().collect());
            }
            Effect::Heard { node: author, statement } => {
                state.told += 1;
                let is_demand = matches!(statement, Statement::Demand(_));
                state.heard.insert((author, is_demand), statement);
            }
            Effect::Lost { node: author, why } => {
                state.heard.retain(|(of, _), _| *of != author);
                state.accusing.remove(&author);
                state.lost.push((author, why));
            }
            Effect::Notice(notice) => self.notices.push((node.clone(), notice)),
        }
    }

    fn drain(&mut self, node: &NodeId) {
        let said = self.nodes.get_mut(node).map(|host| host.repairer.drain()).unwrap_or_default();
        for outgoing in said {
            self.event(node, Event::Gossip(outgoing));
        }
    }

    pub(super) fn between(&self, one: &NodeId, other: &NodeId) -> Vec<LinkId> {
        self.between.get(&pair(one, other)).into_iter().flatten().copied().collect()
    }

    pub(super) fn soon(&mut self, delivery: Delivery) {
        let at = self.now + self.random.random_range(1..=3);
        self.queue.push(at, delivery);
    }

    /// Ends a link; both ends that still run hear of it.
    pub(super) fn close(&mut self, link: LinkId, one: &NodeId, other: &NodeId, after: u64) {
        if self.links.remove(&link).is_none() {
            return;
        }
        for dialled in [false, true] {
            self.arrivals.remove(&(link, dialled));
        }
        if let Some(links) = self.between.get_mut(&pair(one, other)) {
            links.remove(&link);
        }
        for (to, node) in [(one, other), (other, one)] {
            let at = self.now + after + self.random.random_range(1..=3);
            let event = Box::new(Event::LinkDown { node: node.clone(), link });
            self.queue.push(at, Delivery::Event { to: to.clone(), event });
        }
    }

    /// What an engine sends, counted and past the tap.
    fn transmit(&mut self, from: &NodeId, to: &NodeId, link: LinkId, lane: Lane, bytes: Arc<[u8]>) {
        let bytes = match &mut self.tap {
            Some(tap) => tap(from, to, lane, bytes),
            None => Some(bytes),
        };
        if let Some(bytes) = bytes {
            self.sent += 1;
            if !self.uncounted.contains(from) {
                *self.bytes.entry(lane).or_default() += bytes.len() as u64;
            }
            self.send(from, to, link, bytes);
        }
    }

    /// Hands bytes over as if a link's peer had said them.
    pub fn send(&mut self, from: &NodeId, to: &NodeId, link: LinkId, bytes: Arc<[u8]>) {
        let lost = self.loss > 0.0 && self.random.random_bool(self.loss);
        let Some((dialler, _)) = self.links.get(&link) else { return };
        let dialled = dialler == from;
        if lost || self.is_cut(from, to) {
            return;
        }
        let (least, most) = self.latency;
        let at = self.now + self.random.random_range(least..=most);
        let last = self.arrivals.entry((link, dialled)).or_default();
        *last = at.max(*last);
        let at = *last;
        self.queue.push(at, Delivery::Message { from: from.clone(), to: to.clone(), link, bytes });
    }

    /// A link between two nodes, for hostile messages.
    #[must_use]
    pub fn link(&self, one: &NodeId, other: &NodeId) -> Option<LinkId> {
        self.between.get(&pair(one, other))?.first().copied()
    }

    /// Runs for a time.
    pub fn run(&mut self, milliseconds: u64) {
        self.run_to(self.now + milliseconds);
    }

    /// Runs up to this time, and what is due then.
    pub fn run_to(&mut self, time: Millis) {
        while self.due().is_some_and(|due| due <= time) {
            self.step();
        }
        self.now = self.now.max(time);
    }

    fn due(&self) -> Option<Millis> {
        let wake = self.wakes.peek().map(|Reverse((at, _))| *at);
        [self.queue.due(), wake, self.virtual_time.as_ref().map(VirtualTime::due)].into_iter().flatten().min()
    }

    /// Lets chitchats go on up to now, and says what they say.
    fn gossip(&mut self) {
        let Some(virtual_time) = &mut self.virtual_time else { return };
        virtual_time.advance(self.now);
        let running = |host: &Host| host.up && host.paused_until <= self.now;
        let names: Vec<NodeId> =
            self.nodes.iter().filter(|(_, host)| running(host)).map(|(name, _)| name.clone()).collect();
        for name in names {
            self.drain(&name);
        }
    }

    /// Goes to the next time at which anything is due, and does all that is due then.
    pub fn step(&mut self) {
        let Some(next) = self.due() else {
            self.now += 1;
            return;
        };
        self.now = self.now.max(next);
        self.gossip();
        // Sockets are read before timers fire, as the owner of an engine must do it.
        while let Some(delivery) = self.queue.pop(self.now) {
            self.deliver(delivery);
        }
        let mut due = Vec::new();
        while self.wakes.peek().is_some_and(|Reverse((at, _))| *at <= self.now) {
            due.extend(self.wakes.pop().map(|Reverse((_, name))| name));
        }
        for name in due {
            self.wake(&name);
        }
    }

    fn wake(&mut self, name: &NodeId) {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(name) else { return };
        node.listed = Millis::MAX;
        if !node.up {
            return;
        }
        if node.wake.max(node.paused_until) <= now {
            let (round, news) = (node.round <= now, node.news.take(now));
            if round || news {
                node.round = if round { now + ROUND_MS } else { node.round };
                if matches!(node.repairer, Repairer::Twin(_)) {
                    if std::mem::take(&mut node.feed) {
                        node.repairer.feed(Arc::new(node.engine.feed()));
                    }
                    node.repairer.round(if round { PEERS } else { NEWS_PEERS });
                    self.drain(name);
                }
            }
            self.event(name, Event::Tick);
        } else {
            self.list(name);
        }
    }

    fn deliver(&mut self, (place, delivery): (u64, Delivery)) {
        let to = match &delivery {
            Delivery::Message { to, .. } | Delivery::Event { to, .. } | Delivery::Dial { from: to, .. } => to.clone(),
            Delivery::Silence { one, .. } => one.clone(),
        };
        let wakes = self.nodes.get(&to).map_or(0, |node| node.paused_until);
        if wakes > self.now {
            return self.queue.put_off(wakes, (place, delivery));
        }
        match delivery {
            Delivery::Message { from, link, bytes, .. } => {
                if self.links.contains_key(&link) {
                    self.event(&to, Event::Message { from, link, bytes: bytes.to_vec() });
                }
            }
            Delivery::Event { event, .. } => {
                let event = self.dialled(&to, *event);
                self.event(&to, event);
            }
            Delivery::Dial { from, node, address } => self.dial(&from, node, address),
            Delivery::Silence { link, one, other } => {
                if self.is_cut(&one, &other) || self.is_cut(&other, &one) {
                    self.close(link, &one, &other, 0);
                }
            }
        }
    }

    /// How a node sees another.
    ///
    /// # Panics
    /// If `at` was never started.
    #[must_use]
    pub fn state(&self, at: &NodeId, of: &NodeId) -> Option<MemberState> {
        self.nodes[at].engine.view().member(of).map(|member| member.state)
    }
}

pub(super) fn pair(one: &NodeId, other: &NodeId) -> (NodeId, NodeId) {
    let (one, other) = if one < other { (one, other) } else { (other, one) };
    (one.clone(), other.clone())
}
