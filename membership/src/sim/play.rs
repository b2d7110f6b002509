//! Plays a scenario and reports.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use certs::{
    codec::Millis,
    id::{NodeId, ServiceAccount},
    sign::Digest,
};

use super::{
    network::{Network, Repair},
    observe::Observer,
    population::{Citizen, Population},
    report::Report,
    scenario::{Happening, Numbers, Scenario, ScenarioError, What},
    zones,
};
use crate::{
    body::{Body, Policy, PortRecord, ServiceRecord, Services},
    engine::Event,
    message::Message,
    record::{Section, SignedRecord},
};

/// Time between looks at the whole mesh, in milliseconds.
const LOOK_MS: u64 = 10;
/// Time between a liar's accusations.
const LIE_MS: u64 = 200;
/// How often a scenario is played of which chance is not all the seed's.
const RUNS: u64 = 10;
/// Addresses that a starting node is configured with.
const SEEDS: usize = 3;

/// Plays a scenario. `cpu` gives the CPU time of this process in microseconds, if somebody wants it measured; `tell` hears again and
/// again how much of the virtual time has passed, and how much there is of it in all.
///
/// # Errors
/// What is wrong with the scenario.
pub fn play(
    scenario: &Scenario,
    cpu: Option<&dyn Fn() -> u64>,
    tell: &mut dyn FnMut(Millis, Millis),
) -> Result<Report, ScenarioError> {
    scenario.check()?;
    let each = scenario.duration.0;
    if scenario.zones > 1 {
        return Ok(zones::play(scenario, cpu, tell));
    }
    let mut once = |scenario: &Scenario, before: u64, runs: u64| {
        Play::new(scenario).run(scenario, cpu, &mut |_, now| tell(before * each + now, runs * each))
    };
    if scenario.repair != Repair::Chitchat {
        return Ok(once(scenario, 0, 1));
    }
    let seeded = |more| Scenario { seed: scenario.seed.wrapping_add(more), ..scenario.clone() };
    let runs = (0..RUNS).map(|run| once(&seeded(run), run, RUNS));
    Ok(Report::of_runs(runs.collect()).expect("there were several"))
}

/// A pool under way.
pub(super) struct Play {
    pub(super) network: Network,
    citizens: Vec<Citizen>,
    seeds: Vec<usize>,
    observer: Observer,
    liars: BTreeSet<NodeId>,
    rumors: bool,
    puts: u64,
}

impl Play {
    pub(super) fn new(scenario: &Scenario) -> Play {
        let Population { citizens, authority, notary } = Population::new(scenario.nodes, scenario.seed);
        let mut network = Network::with_notary(authority, notary, scenario.seed);
        network.latency = (scenario.link.delay.0, scenario.link.delay.0 + scenario.link.jitter.0);
        (network.loss, network.repair) = (scenario.link.loss, scenario.repair);
        network.disks = scenario.events.iter().any(|event| matches!(event.what, What::Restart | What::Join));
        let starters = scenario.starters();
        let first = if starters.is_empty() { (0..scenario.nodes).collect() } else { starters };
        let mut play = Play {
            network,
            citizens,
            seeds: first.into_iter().take(SEEDS).collect(),
            observer: Observer::default(),
            liars: BTreeSet::new(),
            rumors: scenario.rumors,
            puts: 0,
        };
        play.tap();
        play
    }

    /// Plays it to its end; `each` sees the network after every look's time and before what happened is read, with the time since the
    /// beginning.
    pub(super) fn run(
        mut self,
        scenario: &Scenario,
        cpu: Option<&dyn Fn() -> u64>,
        each: &mut dyn FnMut(&mut Network, u64),
    ) -> Report {
        let mut events = scenario.events.clone();
        events.sort_by_key(|event| event.at);
        let begin = self.network.now;
        let at = |offset: u64| begin + offset;
        // Until something happens, that all start is the last event.
        self.observer.happened(begin);
        let (mut spent, mut until) = (0, None);
        for number in scenario.starters() {
            self.start(number);
        }
        let mut events = events.into_iter().peekable();
        let mut now = 0;
        while now < scenario.duration.0 {
            while let Some(event) = events.next_if(|event| event.at.0 <= now) {
                self.happen(&event, at(event.at.0));
            }
            if now == scenario.measure_from.0 / LOOK_MS * LOOK_MS {
                self.observer.measure(&self.network);
                spent = cpu.map_or(0, |cpu| cpu());
            }
            if scenario.measure_to.is_some_and(|to| now == to.0 / LOOK_MS * LOOK_MS) {
                self.observer.measured(&self.network);
                until = cpu.map(|cpu| cpu());
            }
            now += LOOK_MS;
            while let Some(event) = events.next_if(|event| event.at.0 < now) {
                self.happen(&event, at(event.at.0));
            }
            self.lie(now);
            self.network.run_to(at(now));
            each(&mut self.network, now);
            self.observer.look(&mut self.network, LOOK_MS, events.peek().is_none());
        }
        let spent = cpu.map(|cpu| until.unwrap_or_else(cpu).saturating_sub(spent));
        self.observer.report(&self.network, scenario.seed, spent)
    }

    fn happen(&mut self, event: &Happening, at: Millis) {
        self.network.run_to(at);
        let nodes = self.names(&event.nodes);
        match event.what {
            What::Join => event.nodes.0.iter().for_each(|number| self.start(*number)),
            What::Kill => {
                for node in nodes.iter().filter(|node| self.runs(node)).cloned().collect::<Vec<_>>() {
                    self.network.kill(&node);
                    self.observer.killed(&self.network, &node);
                }
            }
            What::Restart => {
                for (number, node) in event.nodes.0.iter().zip(&nodes) {
                    if self.runs(node) {
                        self.network.kill(node);
                    }
                    self.start(*number);
                }
            }
            What::Pause => {
                for node in nodes.iter().filter(|node| self.runs(node)).cloned().collect::<Vec<_>>() {
                    self.network.pause(&node, event.lasts.0);
                }
            }
            What::Block => {
                let (from, to) = (self.names(&event.from), self.names(&event.to));
                self.network.block(&from, &to);
                self.observer.parted(&self.network);
            }
            What::Partition => {
                let rest: Vec<NodeId> =
                    self.network.nodes.keys().filter(|node| !nodes.contains(node)).cloned().collect();
                self.network.part(&nodes, &rest);
                self.observer.parted(&self.network);
            }
            What::Heal => {
                self.network.heal();
                self.observer.parted(&self.network);
            }
            What::Put => nodes.iter().for_each(|node| self.put(node)),
            What::Follow => nodes.iter().for_each(|node| self.follow(node)),
            What::Lie => {
                self.observer.liars.extend(nodes.iter().cloned());
                self.network.uncounted.extend(nodes.iter().cloned());
                self.liars.extend(nodes);
                self.tap();
            }
        }
        self.observer.happened(self.network.now);
    }

    fn names(&self, numbers: &Numbers) -> Vec<NodeId> {
        numbers.0.iter().map(|number| self.citizens[*number].node.clone()).collect()
    }

    fn runs(&self, node: &NodeId) -> bool {
        self.network.nodes.get(node).is_some_and(|host| host.up)
    }

    fn start(&mut self, number: usize) {
        let citizen = self.citizens[number].clone();
        let disk = self.network.nodes.get(&citizen.node).map(|host| host.persisted.clone()).unwrap_or_default();
        let seeds: Vec<SocketAddr> = self
            .seeds
            .iter()
            .filter_map(|seed| self.network.nodes.get(&self.citizens[*seed].node))
            .map(|host| host.address)
            .collect();
        self.network.start(&citizen, &seeds, disk);
        self.network.event(&citizen.node, Event::Publish(vec![Body::Services(served(&citizen.node))]));
        self.observer.started(&citizen.node, self.network.now);
    }

    fn put(&mut self, node: &NodeId) {
        if !self.runs(node) {
            return;
        }
        self.puts += 1;
        self.observer.put(&self.network, node, self.puts);
        self.follow(node);
    }

    /// A node says that it holds the last policy.
    fn follow(&mut self, node: &NodeId) {
        if !self.runs(node) {
            return;
        }
        let digest = Digest::of(&self.puts.to_be_bytes());
        let body = Policy { digest, count: self.puts, recent: vec![digest], applied: digest, audit: (0, digest) };
        self.network.event(node, Event::Publish(vec![Body::Policy(body)]));
    }

    /// A liar accuses all that it knows, each by what it signed last, as if it had heard nothing since.
    fn lie(&mut self, now: Millis) {
        if !now.is_multiple_of(LIE_MS) {
            return;
        }
        for liar in self.liars.clone() {
            let Some(host) = self.network.nodes.get(&liar).filter(|host| host.up) else { continue };
            let others = host.engine.view().members().values().filter(|member| member.id != liar);
            let signed = |node: &NodeId| self.network.nodes.get(node)?.engine.latest(node);
            let body = Body::Suspicions(others.filter_map(|member| signed(&member.id)).collect());
            self.network.event(&liar, Event::Publish(vec![body]));
        }
    }

    /// What liars and lost rumors do to messages.
    fn tap(&mut self) {
        if self.liars.is_empty() && self.rumors {
            return;
        }
        let (liars, rumors) = (self.liars.clone(), self.rumors);
        // Who asked whom, and how often without an answer so far: an answer is no rumor, and what follows it is one again.
        let mut asked: BTreeMap<(NodeId, NodeId), u32> = BTreeMap::new();
        self.network.tap = Some(Box::new(move |from, to, _, bytes| {
            let lies = liars.contains(from);
            if rumors && !lies {
                return Some(bytes);
            }
            let decoded = Message::decode(&bytes);
            if let Ok(Some(Message::Records(records))) = &decoded {
                let of = |bytes: &[u8]| SignedRecord::decode(bytes).ok();
                if lies {
                    let own = |bytes: &&Vec<u8>| of(bytes).is_some_and(|record| record.node() == from);
                    let own: Vec<Vec<u8>> = records.iter().filter(own).cloned().collect();
                    return (!own.is_empty()).then(|| Message::Records(own).encode().into());
                }
                let open = asked.get_mut(&(to.clone(), from.clone())).filter(|open| **open > 0);
                let answers = open.map(|open| *open -= 1).is_some();
                let mut read = records.iter().filter_map(|bytes| of(bytes));
                let told = answers || read.all(|record| record.section() != Section::POLICY);
                return told.then_some(bytes);
            }
            if !rumors {
                match &decoded {
                    Ok(Some(Message::Have(_))) => return None,
                    Ok(Some(Message::Pull(_))) => *asked.entry((from.clone(), to.clone())).or_default() += 1,
                    Ok(_) | Err(_) => {}
                }
            }
            match decoded {
                Ok(Some(Message::Probed { nonce, target, .. })) if lies => {
                    Some(Message::Probed { nonce, target, reached: false }.encode().into())
                }
                Ok(_) | Err(_) => Some(bytes),
            }
        }));
    }
}

fn served(node: &NodeId) -> Services {
    let service = Population::service(node);
    let record = ServiceRecord {
        instance: None,
        account: ServiceAccount::default_of(&service),
        labels: [("app".to_owned(), node.to_string()), ("version".to_owned(), "v1".to_owned())].into(),
        service,
        ports: vec![PortRecord { name: "http".to_owned(), number: 80, protocol: "http".to_owned() }],
        weight: 1,
    };
    Services { services: vec![record] }
}
