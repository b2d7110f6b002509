//! What nodes say of the requests and connections that they saw, and the one picture that this makes. A node is believed only about
//! those that its own services sent or took. Pure.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use certs::{codec::Millis, id::NodeId};
use membership::body::ServiceRecord;
use serde::{Deserialize, Serialize};

use super::{Unheard, admin::api};
use crate::telemetry::{
    BUCKETS, Carried, Exchanged, Pair as Names, PairConnections, PairTraffic, Protocol, Reporter, SLOT, SLOTS,
    Security, Workload, quantile,
};

/// Pairs of one node that are looked at.
const PAIRS: usize = 2_000;
/// Bytes of a name that is taken.
const NAME: usize = 253;
/// Kinds of failure of one pair that are taken.
const FAILURES: usize = 16;
/// Slots that rates are of: two whole ones and the one under way.
const RECENT: usize = 3;

/// What one node saw.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// How long its newest slot has lasted, in milliseconds.
    pub partial: Millis,
    /// How far back it counts, in milliseconds.
    pub span: Millis,
    /// Requests of pairs that it had no room for.
    pub left_out: u64,
    /// In any order.
    pub pairs: Vec<Pair>,
    /// Connections of bytes, in any order.
    pub connections: Vec<Connections>,
}

/// Who called whom, as one side saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ends {
    /// Whether the caller's proxy saw it, or the server's.
    pub by_caller: bool,
    /// The caller.
    pub from: Party,
    /// The server.
    pub to: Party,
    /// Namespace of the service that was addressed; empty if it is none.
    pub namespace: String,
    /// Its name, or the host.
    pub service: String,
    /// Whether it came over mutual TLS, where that is known.
    pub mutual_tls: Option<bool>,
}

/// What connections of bytes between one pair of workloads carried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connections {
    /// Between whom.
    pub ends: Ends,
    /// Those that go on.
    pub open: u64,
    /// Connections that came, those of them that led nowhere, bytes to the caller, bytes from it; the newest slot first.
    pub slots: Vec<(u64, u64, u64, u64)>,
}

/// What one pair of workloads exchanged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    /// Between whom.
    pub ends: Ends,
    /// Whether it was gRPC.
    pub grpc: bool,
    /// Requests and failed ones, the newest slot first.
    pub slots: Vec<(u64, u64)>,
    /// By duration.
    pub buckets: Vec<u64>,
    /// What failed how.
    pub failures: Vec<(String, u64)>,
}

/// One side. What is not known is `unknown`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Party {
    /// Its namespace.
    pub namespace: String,
    /// Its service.
    pub service: String,
    /// Its label `version`.
    pub version: String,
}

impl Party {
    fn of(workload: &Workload) -> Self {
        // A workload is named after its service, and after its version if it has one.
        let suffix = format!("-{}", workload.version);
        let service = workload.workload.strip_suffix(&suffix).unwrap_or(&workload.workload);
        Self {
            namespace: workload.namespace.to_string(),
            service: service.to_owned(),
            version: workload.version.to_string(),
        }
    }

    fn is_short(&self) -> bool {
        [&self.namespace, &self.service, &self.version].into_iter().all(|name| name.len() <= NAME)
    }

    /// One of these services, in whatever version: which one a node ran a quarter of an hour ago, its records do not say any more.
    fn is_of(&self, services: &[ServiceRecord]) -> bool {
        let mut names = services.iter().map(|known| &known.service);
        names.any(|name| name.namespace() == self.namespace && name.name() == self.service)
    }
}

impl From<Party> for api::Party {
    fn from(party: Party) -> Self {
        let Party { namespace, service, version } = party;
        Self { namespace, service, version }
    }
}

impl Said {
    /// What this node saw.
    #[must_use]
    pub fn of(seen: Exchanged) -> Self {
        let Exchanged { partial, span, pairs, connections, left_out } = seen;
        let (pairs, connections) = (pairs.into_iter().map(Pair::of), connections.into_iter().map(Connections::of));
        Self { partial, span, left_out, pairs: pairs.collect(), connections: connections.collect() }
    }
}

impl Ends {
    fn of(pair: &Names) -> Self {
        let is_service = &*pair.service_namespace != "unknown";
        Self {
            by_caller: pair.reporter == Reporter::Source,
            from: Party::of(&pair.source),
            to: Party::of(&pair.destination),
            namespace: if is_service { pair.service_namespace.to_string() } else { String::new() },
            service: pair.service_name.to_string(),
            mutual_tls: match pair.security {
                Security::Unknown => None,
                Security::MutualTls => Some(true),
                Security::Plain => Some(false),
            },
        }
    }

    /// Whether a node that runs these services may speak of it.
    fn are_believed(&self, services: &[ServiceRecord]) -> bool {
        let own = if self.by_caller { &self.from } else { &self.to };
        let short = [&self.namespace, &self.service].into_iter().all(|name| name.len() <= NAME);
        short && self.from.is_short() && self.to.is_short() && own.is_of(services)
    }
}

impl Connections {
    fn of(seen: PairConnections) -> Self {
        let slot = |slot: Carried| (slot.opened, slot.failed, slot.sent, slot.received);
        Self { ends: Ends::of(&seen.pair), open: seen.open, slots: seen.slots.map(slot).to_vec() }
    }

    fn is_believed(&self, services: &[ServiceRecord]) -> bool {
        self.slots.len() <= SLOTS && self.ends.are_believed(services)
    }
}

impl Pair {
    fn of(seen: PairTraffic) -> Self {
        let PairTraffic { pair, protocol, slots, buckets, failures } = seen;
        Self {
            ends: Ends::of(&pair),
            grpc: protocol == Protocol::Grpc,
            slots: slots.to_vec(),
            buckets: buckets.to_vec(),
            failures: failures.into_iter().collect(),
        }
    }

    /// Whether a node that runs these services may say it.
    fn is_believed(&self, services: &[ServiceRecord]) -> bool {
        let failures = self.failures.len() <= FAILURES && self.failures.iter().all(|(how, _)| how.len() <= NAME);
        let sized = self.slots.len() <= SLOTS && self.buckets.len() <= BUCKETS;
        failures && sized && self.ends.are_believed(services)
    }
}

/// Puts together what nodes say.
#[derive(Debug, Default)]
pub struct Picture {
    edges: HashMap<Edge, Both>,
    connections: HashMap<Edge, Streams>,
    left_out: u64,
    span: Millis,
    heard: BTreeSet<NodeId>,
}

/// Caller, server, namespace and name of the service.
type Edge = (Party, Party, String, String);

/// Both reporters of connections between one pair.
#[derive(Debug, Default)]
struct Streams {
    caller: Flow,
    server: Flow,
    mutual_tls: Option<bool>,
}

/// Connections as one side saw them.
#[derive(Debug, Default, Clone, Copy)]
struct Flow {
    open: u64,
    opened: u64,
    failed: u64,
    sent: u64,
    received: u64,
    /// Connections, bytes to the caller and bytes from it, a second.
    rates: [f64; 3],
}

impl Flow {
    fn add(&mut self, said: &Connections, seconds: f64) {
        self.open = self.open.saturating_add(said.open);
        for (number, slot) in said.slots.iter().enumerate() {
            self.opened = self.opened.saturating_add(slot.0);
            self.failed = self.failed.saturating_add(slot.1);
            self.sent = self.sent.saturating_add(slot.2);
            self.received = self.received.saturating_add(slot.3);
            if number < RECENT {
                let more = [slot.0, slot.2, slot.3].map(|count| count as f64 / seconds);
                self.rates.iter_mut().zip(more).for_each(|(all, more)| *all += more);
            }
        }
    }
}

/// One request in clear is what one has to know of.
fn security(known: Option<bool>, new: Option<bool>) -> Option<bool> {
    match (known, new) {
        (Some(false), _) | (_, Some(false)) => Some(false),
        (known, new) => known.or(new),
    }
}

/// The word for it.
fn security_word(mutual_tls: Option<bool>) -> String {
    let word = match mutual_tls {
        Some(true) => "mutual_tls",
        Some(false) => "none",
        None => "unknown",
    };
    word.to_owned()
}

/// Both reporters of one edge.
#[derive(Debug, Default)]
struct Both {
    caller: Seen,
    server: Seen,
    mutual_tls: Option<bool>,
    grpc: bool,
}

#[derive(Debug, Default)]
struct Seen {
    slots: [(u64, u64); SLOTS],
    buckets: [u64; BUCKETS],
    failures: BTreeMap<String, u64>,
    rate: f64,
    failing: f64,
}

impl Picture {
    /// Adds what a node says that runs these services.
    pub fn add(&mut self, node: NodeId, services: &Arc<[ServiceRecord]>, said: Said) {
        self.heard.insert(node);
        self.span = self.span.max(said.span.min(SLOT * SLOTS as Millis));
        let believed = said.pairs.into_iter().take(PAIRS).filter(|pair| pair.is_believed(services));
        // The minute that rates are of: two whole slots and the one under way, or as long as the node counts.
        let seconds = (said.partial.min(SLOT) + 2 * SLOT).min(said.span).max(1_000) as f64 / 1_000.0;
        for said in said.connections.into_iter().take(PAIRS).filter(|said| said.is_believed(services)) {
            let Ends { by_caller, from, to, namespace, service, mutual_tls } = said.ends.clone();
            let both = self.connections.entry((from, to, namespace, service)).or_default();
            both.mutual_tls = security(both.mutual_tls, mutual_tls);
            let flow = if by_caller { &mut both.caller } else { &mut both.server };
            flow.add(&said, seconds);
        }
        for pair in believed {
            let Ends { by_caller, from, to, namespace, service, mutual_tls } = pair.ends;
            let both = self.edges.entry((from, to, namespace, service)).or_default();
            both.grpc |= pair.grpc;
            both.mutual_tls = security(both.mutual_tls, mutual_tls);
            let seen = if by_caller { &mut both.caller } else { &mut both.server };
            for (all, more) in seen.slots.iter_mut().zip(&pair.slots) {
                *all = (all.0.saturating_add(more.0), all.1.saturating_add(more.1));
            }
            seen.buckets.iter_mut().zip(pair.buckets).for_each(|(all, more)| *all = all.saturating_add(more));
            for (how, count) in pair.failures {
                let known = seen.failures.entry(how).or_default();
                *known = known.saturating_add(count);
            }
            let minute = pair
                .slots
                .iter()
                .take(RECENT)
                .fold((0.0, 0.0), |all, slot| (all.0 + slot.0 as f64, all.1 + slot.1 as f64));
            seen.rate += minute.0 / seconds;
            seen.failing += minute.1 / seconds;
        }
        self.left_out = self.left_out.saturating_add(said.left_out);
    }

    /// The whole, for `node`.
    #[must_use]
    pub fn traffic(self, node: NodeId, unheard: Unheard) -> api::Traffic {
        let mut edges: Vec<api::Edge> = self.edges.into_iter().map(|(names, both)| edge(names, both)).collect();
        edges.sort_by(|a, b| (&a.from, &a.service, &a.to).cmp(&(&b.from, &b.service, &b.to)));
        let mut connections: Vec<api::Connections> =
            self.connections.into_iter().map(|(names, both)| streams(names, &both)).collect();
        connections.sort_by(|a, b| (&a.from, &a.service, &a.to).cmp(&(&b.from, &b.service, &b.to)));
        api::Traffic {
            node,
            window_s: self.span / 1_000,
            slot_s: SLOT / 1_000,
            heard: self.heard.into_iter().collect(),
            silent: unheard.silent,
            other_version: unheard.other_version,
            unasked: unheard.unasked,
            left_out: self.left_out,
            edges,
            connections,
        }
    }
}

/// One edge, as the reporter saw it that saw more of it: of a node that died the other side knows.
fn edge((from, to, namespace, service): Edge, both: Both) -> api::Edge {
    let count = |seen: &Seen| seen.slots.iter().fold(0_u64, |all, slot| all.saturating_add(slot.0));
    let seen = if count(&both.caller) >= count(&both.server) { &both.caller } else { &both.server };
    let quantile = |q| quantile(&seen.buckets, q);
    api::Edge {
        from: from.into(),
        to: to.into(),
        service: if namespace.is_empty() { service } else { format!("{namespace}/{service}") },
        protocol: if both.grpc { "grpc" } else { "http" }.to_owned(),
        security: security_word(both.mutual_tls),
        requests: count(seen),
        failed: seen.slots.iter().fold(0_u64, |all, slot| all.saturating_add(slot.1)),
        rate: seen.rate,
        failing: seen.failing,
        p50_ms: quantile(0.5),
        p90_ms: quantile(0.9),
        p99_ms: quantile(0.99),
        slots: seen.slots.map(|(requests, failed)| [requests, failed]).to_vec(),
        buckets: seen.buckets.to_vec(),
        failures: seen.failures.clone(),
    }
}

/// The connections of one pair, as the reporter saw them that saw more.
fn streams((from, to, namespace, service): Edge, both: &Streams) -> api::Connections {
    let amount = |flow: &Flow| (flow.opened.max(flow.open), flow.sent.saturating_add(flow.received));
    let flow = if amount(&both.caller) >= amount(&both.server) { both.caller } else { both.server };
    let [rate, sent_rate, received_rate] = flow.rates;
    api::Connections {
        from: from.into(),
        to: to.into(),
        service: if namespace.is_empty() { service } else { format!("{namespace}/{service}") },
        security: security_word(both.mutual_tls),
        open: flow.open,
        opened: flow.opened,
        failed: flow.failed,
        sent: flow.sent,
        received: flow.received,
        rate,
        sent_rate,
        received_rate,
    }
}

#[cfg(test)]
mod tests;
