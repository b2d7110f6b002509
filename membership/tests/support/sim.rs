//! A seeded network of pure engines: latency, loss, partitions, deaths, pauses. Same world and seed, same trace.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

use certs::{
    codec::Millis,
    id::{NodeId, ServiceAccount, ServiceName},
    verify::Authority,
};
use membership::{
    body::{Address, Body, PortRecord, ServiceRecord, Services},
    engine::{Change, Config, Effect, Engine, Event, LinkId, Loss, Notice, Own},
    gossip::Carrier,
    statement::Statement,
    view::MemberState,
};
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{
    memory::Memory,
    world::{Citizen, START},
};

/// A QUIC link whose peer is silent ends after this.
const IDLE_MS: u64 = 2_500;
/// A dial into the void ends after this.
const DIAL_MS: u64 = 3_000;
const ROUND_MS: u64 = 1_000;

pub(crate) struct Sim {
    pub(crate) now: Millis,
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    pub(crate) authority: Arc<Authority>,
    queue: BTreeMap<(Millis, u64), Delivery>,
    count: u64,
    links: BTreeMap<LinkId, (NodeId, NodeId)>,
    /// Where each ordered pair's last message arrives: links keep order.
    arrivals: BTreeMap<(NodeId, NodeId), Millis>,
    random: StdRng,
    pub(crate) latency: (u64, u64),
    pub(crate) loss: f64,
    /// Whether a dead process's links are reset at once, as by TCP.
    pub(crate) resets: bool,
    cut: BTreeSet<(NodeId, NodeId)>,
    pub(crate) trace: Vec<String>,
    pub(crate) notices: Vec<(NodeId, Notice)>,
    pub(crate) sent: u64,
}

pub(crate) struct Node {
    pub(crate) engine: Engine,
    pub(crate) citizen: Citizen,
    carrier: Memory,
    address: SocketAddr,
    pub(crate) persisted: Vec<u8>,
    /// What is heard of the moment, of whom, and whether it is demand.
    pub(crate) heard: BTreeMap<(NodeId, bool), Statement>,
    pub(crate) lost: Vec<(NodeId, Loss)>,
    /// How often something of the moment was told.
    pub(crate) told: usize,
    pub(crate) up: bool,
    paused_until: Millis,
    round: Millis,
    /// When it must tick or start a round.
    wake: Millis,
}

enum Delivery {
    Message { from: NodeId, to: NodeId, link: LinkId, bytes: Arc<[u8]> },
    Event { to: NodeId, event: Box<Event> },
    Dial { from: NodeId, node: Option<NodeId>, address: SocketAddr },
}

impl Sim {
    pub(crate) fn new(authority: Authority, seed: u64) -> Sim {
        let (nodes, queue, links, arrivals, cut) = Default::default();
        Sim {
            now: START + 1_000,
            nodes,
            authority: Arc::new(authority),
            queue,
            count: 0,
            links,
            arrivals,
            random: StdRng::seed_from_u64(seed),
            latency: (1, 5),
            loss: 0.0,
            resets: false,
            cut,
            trace: Vec::new(),
            notices: Vec::new(),
            sent: 0,
        }
    }

    /// Starts (or restarts) a node; generations rise with the clock.
    pub(crate) fn start(&mut self, citizen: &Citizen, peers: &[SocketAddr], last_known: Vec<u8>) {
        let index =
            citizen.node.as_str().bytes().fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        let address = SocketAddr::new(std::net::Ipv4Addr::from(0x0a00_0000 | (index & 0xff_ffff)).into(), 15008);
        let config = Config {
            trust_domain: self.authority.trust_domain.clone(),
            peers: peers.to_vec(),
            last_known: last_known.clone(),
        };
        let own = Own {
            node: citizen.node.clone(),
            record_key: citizen.record_key.clone(),
            generation: membership::record::next_generation(0, 0, self.now, self.random.random()),
            identity: citizen.chain.clone(),
        };
        let engine = Engine::new(config, own, self.authority.clone(), self.random.random(), self.now);
        let node = Node {
            engine,
            citizen: citizen.clone(),
            carrier: Memory::new(self.random.random()),
            address,
            persisted: last_known,
            heard: BTreeMap::new(),
            lost: Vec::new(),
            told: 0,
            up: true,
            paused_until: 0,
            round: self.now + self.random.random_range(0..ROUND_MS),
            wake: self.now,
        };
        self.nodes.insert(citizen.node.clone(), node);
        let started = self.now;
        let body = Address {
            addresses: vec![address],
            locality: "eu/a".to_owned(),
            version: "test".to_owned(),
            wire: (1, 1),
            started,
        };
        self.event(&citizen.node, Event::Publish(Body::Address(body)));
        self.serve(&citizen.node, &[citizen.node.as_str()]);
    }

    /// Publishes services of the default namespace.
    pub(crate) fn serve(&mut self, node: &NodeId, names: &[&str]) {
        let services = names.iter().map(|name| service(name)).collect();
        self.event(node, Event::Publish(Body::Services(Services { services })));
    }

    pub(crate) fn address(&self, node: &NodeId) -> SocketAddr {
        self.nodes[node].address
    }

    pub(crate) fn event(&mut self, to: &NodeId, event: Event) {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(to).filter(|node| node.up) else { return };
        let effects = node.engine.handle(event, now);
        node.wake = node.engine.wake().min(node.round);
        for effect in effects {
            self.effect(to, effect);
        }
    }

    fn effect(&mut self, node: &NodeId, effect: Effect) {
        let state = self.nodes.get_mut(node).expect("it acts");
        match effect {
            Effect::Send { to, link, bytes, .. } => {
                self.sent += 1;
                self.send(node, &to, link, bytes);
            }
            Effect::Dial { node: target, address } => {
                let from = node.clone();
                self.later(1, 3, Delivery::Dial { from, node: target, address });
            }
            Effect::CloseLink { node: peer, link } => {
                self.links.remove(&link);
                self.down(link, node, &peer);
            }
            Effect::Close { node: peer } => {
                let gone: Vec<LinkId> = self.between(node, &peer);
                for link in gone {
                    self.links.remove(&link);
                    self.down(link, node, &peer);
                }
            }
            Effect::Changed(change) => self.trace.push(format!("{} {node} {change:?}", self.now - START)),
            Effect::Persist(bytes) => state.persisted = bytes,
            Effect::Deliver { from, bytes } => {
                state.carrier.deliver(&from, &bytes);
                self.drain(node);
            }
            Effect::Feed(feed) => state.carrier.feed(feed),
            Effect::Heard { node: author, statement } => {
                state.told += 1;
                let is_demand = matches!(statement, Statement::Demand(_));
                state.heard.insert((author, is_demand), statement);
            }
            Effect::Lost { node: author, why } => {
                state.heard.retain(|(of, _), _| *of != author);
                state.lost.push((author, why));
            }
            Effect::Notice(notice) => self.notices.push((node.clone(), notice)),
        }
    }

    fn drain(&mut self, node: &NodeId) {
        for outgoing in self.nodes[node].carrier.drain() {
            self.event(node, Event::Gossip(outgoing));
        }
    }

    fn between(&self, one: &NodeId, other: &NodeId) -> Vec<LinkId> {
        let joins = |(a, b): &(NodeId, NodeId)| (a == one && b == other) || (a == other && b == one);
        self.links.iter().filter(|(_, ends)| joins(ends)).map(|(link, _)| *link).collect()
    }

    fn later(&mut self, least: u64, most: u64, delivery: Delivery) {
        let at = self.now + self.random.random_range(least..=most);
        self.count += 1;
        self.queue.insert((at, self.count), delivery);
    }

    fn at(&mut self, at: Millis, delivery: Delivery) {
        self.count += 1;
        self.queue.insert((at, self.count), delivery);
    }

    fn down(&mut self, link: LinkId, one: &NodeId, other: &NodeId) {
        for (to, node) in [(one, other), (other, one)] {
            let event = Box::new(Event::LinkDown { node: node.clone(), link });
            self.later(1, 3, Delivery::Event { to: to.clone(), event });
        }
    }

    pub(crate) fn is_cut(&self, one: &NodeId, other: &NodeId) -> bool {
        self.cut.contains(&(one.clone(), other.clone())) || self.cut.contains(&(other.clone(), one.clone()))
    }

    /// Hands bytes over as if a link's peer had said them.
    pub(crate) fn send(&mut self, from: &NodeId, to: &NodeId, link: LinkId, bytes: Arc<[u8]>) {
        if !self.links.contains_key(&link) || self.is_cut(from, to) || self.random.random_bool(self.loss) {
            return;
        }
        let (least, most) = self.latency;
        let at = self.now + self.random.random_range(least..=most);
        let last = self.arrivals.entry((from.clone(), to.clone())).or_default();
        *last = at.max(*last);
        let at = *last;
        self.at(at, Delivery::Message { from: from.clone(), to: to.clone(), link, bytes });
    }

    /// A link between two nodes, for hostile messages.
    pub(crate) fn link(&self, one: &NodeId, other: &NodeId) -> Option<LinkId> {
        self.between(one, other).first().copied()
    }

    fn dial(&mut self, from: &NodeId, node: Option<NodeId>, address: SocketAddr) {
        let fail = |wait: u64| (wait, Event::DialFailed { node: node.clone(), address });
        let target =
            self.nodes.iter().find(|(_, node)| node.address == address).map(|(name, node)| (name.clone(), node.up));
        let (wait, event) = match target {
            Some((name, true)) if !self.is_cut(from, &name) && node.as_ref().is_none_or(|node| *node == name) => {
                self.count += 1;
                let link = LinkId(self.count);
                self.links.insert(link, (from.clone(), name.clone()));
                let accepted = Event::LinkUp { node: from.clone(), link, dialled: None };
                self.later(1, 3, Delivery::Event { to: name.clone(), event: Box::new(accepted) });
                (2, Event::LinkUp { node: name, link, dialled: Some(address) })
            }
            Some((name, _)) if self.is_cut(from, &name) => fail(DIAL_MS),
            _ => fail(2),
        };
        let at = self.now + wait;
        self.at(at, Delivery::Event { to: from.clone(), event: Box::new(event) });
    }

    /// Stops a process without a word.
    pub(crate) fn kill(&mut self, victim: &NodeId) {
        self.nodes.get_mut(victim).expect("known").up = false;
        let wait = if self.resets { 1 } else { IDLE_MS };
        let lost: Vec<_> = self
            .links
            .iter()
            .filter(|(_, (a, b))| a == victim || b == victim)
            .map(|(link, ends)| (*link, ends.clone()))
            .collect();
        for (link, (a, b)) in lost {
            self.links.remove(&link);
            let to = if a == *victim { b } else { a };
            let at = self.now + wait;
            let event = Box::new(Event::LinkDown { node: victim.clone(), link });
            self.at(at, Delivery::Event { to, event });
        }
    }

    /// Lets nothing pass between two groups.
    pub(crate) fn part(&mut self, left: &[NodeId], right: &[NodeId]) {
        for one in left {
            for other in right {
                self.cut.insert((one.clone(), other.clone()));
                for link in self.between(one, other) {
                    self.links.remove(&link);
                    let at = self.now + IDLE_MS;
                    for (to, node) in [(one, other), (other, one)] {
                        let event = Box::new(Event::LinkDown { node: node.clone(), link });
                        self.at(at, Delivery::Event { to: to.clone(), event });
                    }
                }
            }
        }
    }

    pub(crate) fn heal(&mut self) {
        self.cut.clear();
    }

    /// A process that does not run for a while: what comes waits in its sockets.
    pub(crate) fn pause(&mut self, node: &NodeId, milliseconds: u64) {
        self.nodes.get_mut(node).expect("known").paused_until = self.now + milliseconds;
    }

    pub(crate) fn run(&mut self, milliseconds: u64) {
        self.run_until(milliseconds, |_| false);
    }

    /// Runs until `done`; gives the milliseconds it took, or `None` after the limit.
    pub(crate) fn run_until(&mut self, milliseconds: u64, done: impl Fn(&Sim) -> bool) -> Option<u64> {
        let begin = self.now;
        while self.now <= begin + milliseconds {
            if done(self) {
                return Some(self.now - begin);
            }
            self.step();
        }
        None
    }

    fn step(&mut self) {
        let delivery = self.queue.first_key_value().map(|((at, _), _)| *at);
        let due = |node: &Node| node.wake.max(node.paused_until);
        let wake = self.nodes.values().filter(|node| node.up).map(due).min();
        let Some(next) = [delivery, wake].into_iter().flatten().min() else {
            self.now += 1;
            return;
        };
        self.now = self.now.max(next);
        // Sockets are read before timers fire, as the owner of an engine must do it.
        while let Some(((at, count), delivery)) = self.queue.pop_first() {
            if at > self.now {
                self.queue.insert((at, count), delivery);
                break;
            }
            self.deliver(delivery);
        }
        let due: Vec<NodeId> = self
            .nodes
            .iter()
            .filter(|(_, node)| node.up && due(node) <= self.now)
            .map(|(name, _)| name.clone())
            .collect();
        for name in due {
            let node = &self.nodes[&name];
            if node.round <= self.now {
                node.carrier.round();
                self.nodes.get_mut(&name).expect("just read").round = self.now + ROUND_MS;
                self.drain(&name);
            }
            self.event(&name, Event::Tick);
        }
    }

    fn deliver(&mut self, delivery: Delivery) {
        let to = match &delivery {
            Delivery::Message { to, .. } | Delivery::Event { to, .. } | Delivery::Dial { from: to, .. } => to.clone(),
        };
        let wakes = self.nodes.get(&to).map_or(0, |node| node.paused_until);
        if wakes > self.now {
            return self.at(wakes, delivery);
        }
        match delivery {
            Delivery::Message { from, to, link, bytes } => {
                if self.links.contains_key(&link) {
                    self.event(&to, Event::Message { from, link, bytes: bytes.to_vec() });
                }
            }
            Delivery::Event { to, event } => self.event(&to, *event),
            Delivery::Dial { from, node, address } => self.dial(&from, node, address),
        }
    }

    /// How a node sees another.
    pub(crate) fn state(&self, at: &NodeId, of: &NodeId) -> Option<MemberState> {
        self.nodes[at].engine.view().member(of).map(|member| member.state)
    }

    /// Whether all running nodes see exactly the running ones alive, and the rest in `rest`.
    pub(crate) fn all_see(&self, of: &NodeId, state: MemberState) -> bool {
        let others = self.nodes.iter().filter(|(name, node)| node.up && *name != of);
        others.map(|(name, _)| self.state(name, of)).all(|seen| seen == Some(state))
    }

    pub(crate) fn whole(&self) -> bool {
        let up = || self.nodes.iter().filter(|(_, node)| node.up).map(|(name, _)| name);
        up().all(|at| up().all(|of| self.state(at, of) == Some(MemberState::Alive) && self.served(at, of) > 0))
    }

    /// How many services a node sees at another.
    pub(crate) fn served(&self, at: &NodeId, of: &NodeId) -> usize {
        self.nodes[at].engine.view().member(of).map_or(0, |member| member.services.len())
    }

    /// All changes of one sort, anywhere.
    pub(crate) fn changes(&self, change: fn(NodeId) -> Change, of: &NodeId) -> usize {
        let sought = format!(" {:?}", change(of.clone()));
        self.trace.iter().filter(|line| line.ends_with(&sought)).count()
    }
}

pub(crate) fn service(name: &str) -> ServiceRecord {
    let service: ServiceName = format!("default/{name}").parse().expect("valid");
    ServiceRecord {
        instance: None,
        account: ServiceAccount::default_of(&service),
        service,
        labels: BTreeMap::from([("app".to_owned(), name.to_owned())]),
        ports: vec![PortRecord { name: "http".to_owned(), number: 80, protocol: "http".to_owned() }],
        weight: 1,
    }
}
