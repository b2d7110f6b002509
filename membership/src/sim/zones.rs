//! A mesh of several pools as it is designed: in each the three usable members with the lowest names are its bridges, by each node's own
//! View; they tell the bridges of other zones what is new in theirs, signed, and readers take what two of three signed.
//!
//! What is played is the engine in each zone, and between zones this file: no node does it. Zones judge only their own members, so each is
//! played by itself, the first one first; what its bridges told comes to the others at its time. Nothing comes back.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use certs::{
    codec::{self, Millis},
    id::{NodeId, TrustDomain},
    sign::{Digest, PublicKey},
};
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{
    network::{Host, Network},
    play::Play,
    report::{Quantiles, Report, Zones},
    scenario::{Link, Scenario, What},
};
use crate::{
    body::{Body, Policy},
    engine::{Change, Event},
    record::{Section, SignedRecord},
};

/// Bridges of a zone.
const BRIDGES: usize = 3;
/// Bridges that must have signed the same.
const WITNESSES: usize = 2;
/// The first section that no build of today knows.
const SUMMARY: Section = Section(0x600);
/// What a lying bridge makes up instead of the truth.
const MADE_UP: u64 = 1 << 40;

/// What one bridge of the first zone told the others.
struct Told {
    at: u64,
    record: Arc<SignedRecord>,
    key: PublicKey,
}

/// News of the first zone: when it was put, and who waits for it.
type News = BTreeMap<u64, u64>;

/// Plays all zones, one after the other; the report is that of the first, with what became of its news.
pub(super) fn play(scenario: &Scenario, cpu: Option<&dyn Fn() -> u64>, tell: &mut dyn FnMut(Millis, Millis)) -> Report {
    let mut home = Home::new(scenario);
    let first = scenario.zone(0);
    let each = scenario.duration.0;
    let all = each * scenario.zones as u64;
    let mut report = Play::new(&first).run(&first, cpu, &mut |network, now| {
        home.look(network, now);
        tell(now, all);
    });
    let Home { told, news, .. } = &home;
    let mut abroad = Abroad { waits: 0, took: Vec::new(), deceived: 0 };
    for zone in 1..scenario.zones {
        let scenario = scenario.zone(zone);
        let mut reader = Reader::new(told, &scenario);
        let other = Play::new(&scenario).run(&scenario, None, &mut |network, now| {
            reader.look(network, now);
            tell(each * zone as u64 + now, all);
        });
        reader.end(news, &mut abroad);
        report.false_deaths += other.false_deaths;
        report.false_suspicions += other.false_suspicions;
        report.undetected += other.undetected;
    }
    let busiest = told.iter().fold(BTreeMap::<&NodeId, u64>::new(), |mut sent, told| {
        *sent.entry(told.record.node()).or_default() += told.record.bytes().len() as u64;
        sent
    });
    let receivers = (BRIDGES * (scenario.zones - 1)) as u64;
    report.zones = Some(Zones {
        count: scenario.zones,
        spread_ms: Quantiles::of(abroad.took),
        unspread: abroad.waits,
        deceived: abroad.deceived,
        bridge_links: BRIDGES * (scenario.zones - 1),
        bytes_per_news: busiest.values().max().map_or(0, |bytes| bytes * receivers / news.len().max(1) as u64),
    });
    report
}

/// Those of a zone's nodes that are its bridges by their own View.
fn bridges(network: &Network) -> Vec<NodeId> {
    let is_bridge = |name: &NodeId, host: &Host| {
        let usable = host.engine.view().members().values().filter(|member| member.usable());
        usable.take(BRIDGES).any(|member| member.id == *name)
    };
    let running = network.nodes.iter().filter(|(_, host)| host.up);
    running.filter(|(name, host)| is_bridge(name, host)).map(|(name, _)| name.clone()).collect()
}

/// The first zone: its bridges tell what is new in their View.
struct Home {
    trust_domain: Option<TrustDomain>,
    told: Vec<Told>,
    news: News,
    /// What each bridge has told, so that one that becomes a bridge tells all.
    said: BTreeMap<NodeId, BTreeSet<u64>>,
    /// When each `lie` begins, and of whom.
    liars: Vec<(u64, BTreeSet<NodeId>)>,
    sequence: u64,
    lies: Vec<(u64, BTreeSet<usize>)>,
}

impl Home {
    fn new(scenario: &Scenario) -> Home {
        let lies = scenario.events.iter().filter(|event| event.what == What::Lie);
        let lies = lies.map(|event| (event.at.0, event.nodes.0.clone())).collect();
        let (trust_domain, told, news, said, liars, sequence) = Default::default();
        Home { trust_domain, told, news, said, liars, sequence, lies }
    }

    fn look(&mut self, network: &Network, now: u64) {
        if self.liars.len() < self.lies.len() {
            let names: Vec<&NodeId> = network.nodes.keys().collect();
            let named = |numbers: &BTreeSet<usize>| {
                numbers.iter().filter_map(|number| names.get(*number).map(|name| (*name).clone())).collect()
            };
            self.liars = self.lies.iter().map(|(at, numbers)| (*at, named(numbers))).collect();
        }
        for (at, by, change) in &network.trace {
            if let Change::Policy(of) = change
                && by == of
                && let Some(number) = count(&network.nodes[by], of)
            {
                self.news.entry(number).or_insert(now - (network.now - at));
            }
        }
        if self.news.is_empty() {
            return;
        }
        let domain = self.trust_domain.get_or_insert_with(|| network.authority.trust_domain.clone()).clone();
        for bridge in bridges(network) {
            let host = &network.nodes[&bridge];
            let lies = self.liars.iter().any(|(at, liars)| *at <= now && liars.contains(&bridge));
            let known: BTreeSet<u64> = if lies {
                [MADE_UP].into()
            } else {
                let members = host.engine.view().members().keys();
                members.filter_map(|of| count(host, of)).collect()
            };
            let said = self.said.entry(bridge.clone()).or_default();
            for number in known.difference(&said.clone()) {
                said.insert(*number);
                self.sequence += 1;
                let (key, body) = (&host.citizen.record_key, codec::encode(number));
                let record = SignedRecord::sign(key, &domain, &bridge, host.generation, SUMMARY, self.sequence, body);
                let Ok(record) = record else { continue };
                self.told.push(Told { at: now, record: Arc::new(record), key: key.public() });
            }
        }
    }
}

/// The number of the last news that a node sees another hold.
fn count(host: &Host, of: &NodeId) -> Option<u64> {
    host.engine.view().member(of)?.policy.as_ref().map(|policy| policy.count)
}

/// Another zone: its bridges take what two of the first one's signed, and say so in their zone.
struct Reader<'a> {
    told: &'a [Told],
    link: Link,
    random: StdRng,
    /// Since when a node has been a bridge, and what has come to it: (when, what of `told`).
    since: BTreeMap<NodeId, u64>,
    due: Vec<(u64, NodeId, usize)>,
    /// How much of `told` is on its way to a bridge.
    sent: BTreeMap<NodeId, usize>,
    /// Who signed which number, as a bridge has it.
    witnesses: BTreeMap<(NodeId, u64), BTreeSet<NodeId>>,
    said: BTreeMap<NodeId, u64>,
    /// When a node had a number from two bridges of its zone.
    had: BTreeMap<(NodeId, u64), u64>,
    running: BTreeSet<NodeId>,
}

/// What all other zones found.
struct Abroad {
    waits: usize,
    took: Vec<u64>,
    deceived: usize,
}

impl<'a> Reader<'a> {
    fn new(told: &'a [Told], scenario: &Scenario) -> Reader<'a> {
        let (since, due, sent, witnesses, said, had, running) = Default::default();
        let random = StdRng::seed_from_u64(scenario.seed);
        Reader { told, link: scenario.between, random, since, due, sent, witnesses, said, had, running }
    }

    fn look(&mut self, network: &mut Network, now: u64) {
        self.noticed(network, now);
        if self.told.first().is_none_or(|told| told.at > now) {
            return;
        }
        let domain = network.authority.trust_domain.clone();
        for bridge in bridges(network) {
            let since = *self.since.entry(bridge.clone()).or_insert(now);
            let sent = self.sent.entry(bridge.clone()).or_default();
            // Whoever became a bridge is told all that was said before.
            while let Some(told) = self.told.get(*sent).filter(|told| told.at <= now) {
                let delay = self.link.delay.0 + self.random.random_range(0..=self.link.jitter.0);
                self.due.push((told.at.max(since) + delay, bridge.clone(), *sent));
                *sent += 1;
            }
        }
        let (due, later) = std::mem::take(&mut self.due).into_iter().partition(|(at, ..)| *at <= now);
        self.due = later;
        let due: Vec<(u64, NodeId, usize)> = due;
        for (_, bridge, index) in due {
            let Told { record, key, .. } = &self.told[index];
            let number = codec::decode::<u64, 16>(record.body()).ok();
            let Some(number) = number.filter(|_| record.verify(&domain, key).is_ok()) else { continue };
            let witnesses = self.witnesses.entry((bridge.clone(), number)).or_default();
            witnesses.insert(record.node().clone());
            let said = self.said.get(&bridge).copied();
            if witnesses.len() >= WITNESSES && said < Some(number) {
                self.said.insert(bridge.clone(), number);
                let digest = Digest::of(&number.to_be_bytes());
                let policy =
                    Policy { digest, count: number, recent: vec![digest], applied: digest, audit: (0, digest) };
                network.event(&bridge, Event::Publish(vec![Body::Policy(policy)]));
            }
        }
        self.noticed(network, now);
    }

    /// Who sees two of its bridges say what they were told.
    fn noticed(&mut self, network: &Network, now: u64) {
        let begin: Millis = network.now - now;
        for (at, by, change) in &network.trace {
            let Change::Policy(_) = change else { continue };
            let host = &network.nodes[by];
            let mut seen: Vec<u64> = self.said.keys().filter_map(|bridge| count(host, bridge)).collect();
            seen.sort_unstable_by(|one, other| other.cmp(one));
            if let Some(number) = seen.get(WITNESSES - 1) {
                self.had.entry((by.clone(), *number)).or_insert(at - begin);
            }
        }
        self.running = network.nodes.iter().filter(|(_, host)| host.up).map(|(name, _)| name.clone()).collect();
    }

    fn end(self, news: &News, abroad: &mut Abroad) {
        for node in &self.running {
            for (number, put) in news {
                // A later number stands for all before it.
                let had = self.had.range((node.clone(), *number)..=(node.clone(), u64::MAX));
                match had.filter(|((_, number), _)| *number < MADE_UP).map(|(_, at)| *at).min() {
                    Some(at) => abroad.took.push(at.saturating_sub(*put)),
                    None => abroad.waits += 1,
                }
            }
            abroad.deceived += usize::from(self.had.contains_key(&(node.clone(), MADE_UP)));
        }
    }
}
