//! The simulated mesh: nodes, a network that parts, loses and reorders, and virtual time. Everything follows from the seed.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
};

use certs::sign::Digest;
use policy::changeset::{self, ChangesetId};

use crate::{
    hostile::{self, Forgeries},
    node::{Crash, Node},
    operators::{Operators, id_of},
    random::Random,
};

/// Virtual start, milliseconds.
const START: u64 = 1_700_000_000_000;
/// Receipts that a push waits for, its own node's included; one fewer nodes lose their disks.
pub(crate) const RECEIPTS: usize = 3;
/// Changesets that one answer gives.
const ANSWER: usize = 24;

#[derive(Debug, Clone)]
enum Message {
    /// The digest of what the sender holds.
    Offer(Digest),
    /// The ids of what it holds.
    Have(Vec<ChangesetId>),
    Fetch(Vec<ChangesetId>),
    Give(Vec<Vec<u8>>),
    /// The sender has this on disk.
    Receipt(ChangesetId),
}

#[derive(Debug)]
enum Event {
    Deliver { from: usize, to: usize, message: Message },
    Tick(usize),
    Restart(usize),
    Act,
    Part,
}

impl Event {
    /// What tells it from others, in a line.
    fn line(&self) -> String {
        let Event::Deliver { from, to, message } = self else { return format!("{self:?}") };
        let what = match message {
            Message::Offer(digest) => format!("offer {digest}"),
            Message::Have(ids) => format!("have {} from {:?}", ids.len(), ids.first()),
            Message::Fetch(ids) => format!("fetch {} from {:?}", ids.len(), ids.first()),
            Message::Give(given) => format!("give {:?}", given.iter().map(Vec::len).collect::<Vec<_>>()),
            Message::Receipt(id) => format!("receipt {id}"),
        };
        format!("{from} {to} {what}")
    }
}

pub(crate) struct Plan {
    pub(crate) nodes: usize,
    pub(crate) hostile: usize,
    pub(crate) actions: usize,
}

pub(crate) struct World {
    pub(crate) now: u64,
    pub(crate) nodes: Vec<Node>,
    hostile: usize,
    pub(crate) random: Random,
    pub(crate) operators: Operators,
    pub(crate) forgeries: Forgeries,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    events: BTreeMap<u64, Event>,
    next_event: u64,
    genesis: Vec<u8>,
    /// Which side of the partition each node is on.
    sides: Vec<usize>,
    loss: usize,
    crashes: bool,
    actions: usize,
    /// Who pushed what, and whose receipts came.
    waiting: BTreeMap<ChangesetId, (usize, BTreeSet<usize>)>,
    pub(crate) acknowledged: BTreeSet<ChangesetId>,
    losses: usize,
    /// Digest of everything that happened, in order.
    pub(crate) trace: Digest,
    pub(crate) counts: BTreeMap<&'static str, usize>,
}

impl World {
    pub(crate) fn new(seed: u64, plan: &Plan) -> Self {
        let mut random = Random::new(seed);
        let mut operators = Operators::new(&mut random);
        let genesis = operators.genesis(START);
        let mut world = Self {
            now: START,
            nodes: (0..plan.nodes).map(|_| Node::new(&genesis, START)).collect(),
            hostile: plan.hostile,
            random,
            operators,
            forgeries: Forgeries::default(),
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            next_event: 0,
            genesis,
            sides: vec![0; plan.nodes],
            loss: 10,
            crashes: true,
            actions: plan.actions,
            waiting: BTreeMap::new(),
            acknowledged: BTreeSet::new(),
            losses: RECEIPTS - 1,
            trace: Digest([0; 32]),
            counts: BTreeMap::new(),
        };
        for node in 0..plan.nodes {
            let after = world.random.next() % 2_000;
            world.schedule(after, Event::Tick(node));
        }
        world.schedule(100, Event::Act);
        world.schedule(5_000, Event::Part);
        world
    }

    pub(crate) fn is_hostile(&self, node: usize) -> bool {
        node < self.hostile
    }

    pub(crate) fn honest(&self) -> std::ops::Range<usize> {
        self.hostile..self.nodes.len()
    }

    pub(crate) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn schedule(&mut self, after: u64, event: Event) {
        self.next_event += 1;
        self.events.insert(self.next_event, event);
        self.queue.push(Reverse((self.now + after, self.next_event)));
    }

    /// Runs until every action is done and some time beyond.
    pub(crate) fn run(&mut self) {
        while self.actions > 0 {
            self.step();
        }
    }

    /// No partition, no loss, everybody up: until all honest nodes hold the same and lack nothing; unless `whole`, proposals that some
    /// hold back are no difference.
    ///
    /// # Panics
    /// If that does not come about in an hour of virtual time.
    pub(crate) fn heal(&mut self, whole: bool) {
        (self.loss, self.crashes) = (0, false);
        self.sides.fill(0);
        for node in 0..self.nodes.len() {
            if !self.nodes[node].up {
                self.nodes[node].restart();
            }
        }
        let limit = self.now + 3_600_000;
        while !self.agreed(whole) {
            assert!(self.now < limit, "the mesh does not come to agree: {:?}", self.counts);
            let until = self.now + 5_000;
            while self.now < until {
                self.step();
            }
        }
    }

    /// Lets time pass in which nothing happens.
    pub(crate) fn sleep(&mut self, span: u64) {
        let later = self.now + span;
        let queue = std::mem::take(&mut self.queue);
        self.queue = queue.into_iter().map(|Reverse((at, event))| Reverse((at + span, event))).collect();
        self.now = later;
    }

    fn agreed(&self, whole: bool) -> bool {
        let mut honest = self.honest().map(|node| &self.nodes[node]);
        let first = &honest.next().expect("somebody is honest").history;
        let (digest, state) = (first.digest(), first.state(self.now).digest);
        // Where a key has more proposals open than a node keeps, which of them it keeps depends on what came first: then what counts
        // is one all the same.
        let same = |history: &policy::history::History| {
            history.digest() == digest || (!whole && history.state(self.now).digest == state)
        };
        honest.all(|node| same(&node.history)) && self.honest().all(|node| self.nodes[node].wanted(self.now).is_empty())
    }

    fn step(&mut self) {
        let Reverse((at, number)) = self.queue.pop().expect("nodes tick for ever");
        let event = self.events.remove(&number).expect("each is queued once");
        self.now = self.now.max(at);
        self.record(&event);
        match event {
            Event::Tick(node) => self.tick(node),
            Event::Restart(node) => self.nodes[node].restart(),
            Event::Deliver { from, to, message } => {
                if self.nodes[to].up && self.sides[from] == self.sides[to] {
                    self.deliver(from, to, message);
                }
            }
            Event::Act if self.actions > 0 => {
                self.actions -= 1;
                self.act();
                let after = 200 + self.random.next() % 2_000;
                self.schedule(after, Event::Act);
            }
            Event::Part if self.actions > 0 => {
                self.part();
                self.schedule(20_000, Event::Part);
            }
            Event::Act | Event::Part => {}
        }
    }

    fn record(&mut self, event: &Event) {
        let mut bytes = self.trace.0.to_vec();
        bytes.extend(format!("{} {}", self.now, event.line()).into_bytes());
        self.trace = Digest::of(&bytes);
    }

    /// The mesh falls into up to three parts, or comes together; now and then a disk is lost for good.
    fn part(&mut self) {
        let parts = 1 + self.random.below(3);
        for side in 0..self.sides.len() {
            self.sides[side] = self.random.below(parts);
        }
        if self.losses > 0 && self.random.percent(30) {
            self.losses -= 1;
            let lost = self.hostile + self.random.below(self.nodes.len() - self.hostile);
            self.nodes[lost] = Node::new(&self.genesis, self.now);
            self.count("disks lost");
        }
    }

    fn tick(&mut self, node: usize) {
        self.schedule(2_000, Event::Tick(node));
        if !self.nodes[node].up {
            return;
        }
        let peer = self.random.below(self.nodes.len());
        let offer = Message::Offer(self.nodes[node].history.digest());
        self.send(node, peer, offer);
        // Rarely, as it costs a look at everything.
        let wanted = if self.random.percent(20) { self.nodes[node].wanted(self.now) } else { Vec::new() };
        if !wanted.is_empty() {
            self.send(node, peer, Message::Fetch(wanted));
        }
        if self.is_hostile(node) {
            let lie = Message::Have(self.forgeries.0.keys().copied().collect());
            self.send(node, peer, lie);
        }
    }

    fn send(&mut self, from: usize, to: usize, message: Message) {
        if from == to || self.random.percent(self.loss) {
            return;
        }
        // Whatever takes longer is overtaken.
        let after = 1 + self.random.next() % 400;
        if self.random.percent(self.loss / 3) {
            self.schedule(after * 3, Event::Deliver { from, to, message: message.clone() });
        }
        self.schedule(after, Event::Deliver { from, to, message });
    }

    fn deliver(&mut self, from: usize, to: usize, message: Message) {
        match message {
            Message::Offer(digest) => {
                if self.nodes[to].history.digest() != digest {
                    let ids = self.nodes[to].history.ids().copied().collect();
                    self.send(to, from, Message::Have(ids));
                }
            }
            Message::Have(ids) => {
                let mut lacking = self.nodes[to].lacking(&ids, self.now);
                self.random.shuffle(&mut lacking);
                if !lacking.is_empty() {
                    self.send(to, from, Message::Fetch(lacking));
                }
            }
            Message::Fetch(ids) => {
                let mut held: Vec<Vec<u8>> = ids.iter().filter_map(|id| self.held(to, id)).take(ANSWER).collect();
                if self.is_hostile(to) {
                    held = hostile::answer(&mut self.random, held);
                }
                self.send(to, from, Message::Give(held));
            }
            Message::Give(given) => self.take(from, to, &given),
            Message::Receipt(id) => {
                if let Some((pusher, nodes)) = self.waiting.get_mut(&id)
                    && *pusher == to
                {
                    nodes.insert(from);
                    if nodes.len() >= RECEIPTS {
                        self.acknowledged.insert(id);
                    }
                }
            }
        }
    }

    fn held(&self, node: usize, id: &ChangesetId) -> Option<Vec<u8>> {
        let forged = self.is_hostile(node).then(|| self.forgeries.0.get(id)).flatten();
        forged.cloned().or_else(|| self.nodes[node].history.bytes(id).map(|bytes| bytes.to_vec()))
    }

    fn take(&mut self, from: usize, to: usize, given: &[Vec<u8>]) {
        let crash = self.crash();
        let learned = self.nodes[to].learn(given, self.now, crash);
        self.restart_later(to);
        if !self.nodes[to].up {
            return;
        }
        for id in &learned.fresh {
            let whole = self.nodes[to].history.get(id).is_none_or(|entry| entry.whole);
            if let Some((pusher, _)) = self.waiting.get(id).filter(|_| whole && !self.is_hostile(to)).cloned() {
                self.send(to, pusher, Message::Receipt(*id));
            }
        }
        let mut next = self.nodes[to].lacking(&learned.missing, self.now);
        if !next.is_empty() {
            // References first, then what referred to them.
            next.extend(given.iter().filter(|bytes| changeset::decode(bytes).is_ok()).map(|bytes| id_of(bytes)));
            self.send(to, from, Message::Fetch(next));
        } else if !learned.fresh.is_empty() {
            let offer = Message::Offer(self.nodes[to].history.digest());
            self.send(to, from, offer);
        }
    }

    fn crash(&mut self) -> Option<Crash> {
        if !self.crashes || !self.random.percent(1) {
            return None;
        }
        self.count("crashes");
        Some(if self.random.percent(50) { Crash::BeforeCommit } else { Crash::AfterCommit })
    }

    fn restart_later(&mut self, node: usize) {
        if !self.nodes[node].up {
            let after = 500 + self.random.next() % 10_000;
            self.schedule(after, Event::Restart(node));
        }
    }

    /// Pushes to a node, as an operator does.
    pub(crate) fn push(&mut self, node: usize, bytes: &[u8]) -> bool {
        let crash = self.crash();
        let pushed = self.nodes[node].push(bytes, self.now, crash);
        self.restart_later(node);
        match pushed {
            Ok(Some(id)) => {
                self.waiting.insert(id, (node, BTreeSet::from([node])));
                self.count("pushed");
                true
            }
            Ok(None) => false,
            Err(_) => {
                self.count("refused");
                false
            }
        }
    }

    /// A new member that knows the genesis alone.
    pub(crate) fn join(&mut self) -> usize {
        self.nodes.push(Node::new(&self.genesis, self.now));
        self.sides.push(0);
        let node = self.nodes.len() - 1;
        self.schedule(1, Event::Tick(node));
        node
    }
}
