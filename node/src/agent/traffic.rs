//! What nodes say of the requests that they saw, and the one picture that this makes. A node is believed only about requests that its
//! own services sent or took. Pure.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use certs::{codec::Millis, id::NodeId};
use membership::body::ServiceRecord;
use serde::{Deserialize, Serialize};

use super::admin::api;
use crate::telemetry::{
    BUCKETS, Exchanged, PairTraffic, Protocol, Reporter, SLOT, SLOTS, Security, Workload, quantile,
};

/// Pairs of one node that are looked at.
const PAIRS: usize = 2_000;
/// Bytes of a name that is taken.
const NAME: usize = 253;
/// Kinds of failure of one pair that are taken.
const FAILURES: usize = 16;

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
}

/// What one pair of workloads exchanged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
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

    /// One of these services, in one of their versions.
    fn is_of(&self, services: &[ServiceRecord]) -> bool {
        services.iter().any(|known| {
            let version = known.labels.get("version").filter(|version| !version.is_empty());
            known.service.namespace() == self.namespace
                && known.service.name() == self.service
                && version.map_or("unknown", String::as_str) == self.version
        })
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
        let Exchanged { partial, span, pairs, left_out } = seen;
        Self { partial, span, left_out, pairs: pairs.into_iter().map(Pair::of).collect() }
    }
}

impl Pair {
    fn of(seen: PairTraffic) -> Self {
        let PairTraffic { pair, protocol, slots, buckets, failures } = seen;
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
            grpc: protocol == Protocol::Grpc,
            slots: slots.to_vec(),
            buckets: buckets.to_vec(),
            failures: failures.into_iter().collect(),
        }
    }

    /// Whether a node that runs these services may say it.
    fn is_believed(&self, services: &[ServiceRecord]) -> bool {
        let own = if self.by_caller { &self.from } else { &self.to };
        let short = [&self.namespace, &self.service].into_iter().all(|name| name.len() <= NAME);
        let failures = self.failures.len() <= FAILURES && self.failures.iter().all(|(how, _)| how.len() <= NAME);
        let sized = self.slots.len() <= SLOTS && self.buckets.len() <= BUCKETS;
        short && failures && sized && self.from.is_short() && self.to.is_short() && own.is_of(services)
    }
}

/// Puts together what nodes say.
#[derive(Debug, Default)]
pub struct Picture {
    edges: HashMap<(Party, Party, String, String), Both>,
    left_out: u64,
    span: Millis,
    heard: BTreeSet<NodeId>,
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
        for pair in believed {
            let both = self.edges.entry((pair.from, pair.to, pair.namespace, pair.service)).or_default();
            both.grpc |= pair.grpc;
            both.mutual_tls = match (both.mutual_tls, pair.mutual_tls) {
                // One request in clear is what one has to know of.
                (Some(false), _) | (_, Some(false)) => Some(false),
                (known, new) => known.or(new),
            };
            let seen = if pair.by_caller { &mut both.caller } else { &mut both.server };
            for (all, more) in seen.slots.iter_mut().zip(&pair.slots) {
                *all = (all.0.saturating_add(more.0), all.1.saturating_add(more.1));
            }
            seen.buckets.iter_mut().zip(pair.buckets).for_each(|(all, more)| *all = all.saturating_add(more));
            for (how, count) in pair.failures {
                let known = seen.failures.entry(how).or_default();
                *known = known.saturating_add(count);
            }
            let minute =
                pair.slots.iter().take(3).fold((0.0, 0.0), |all, slot| (all.0 + slot.0 as f64, all.1 + slot.1 as f64));
            seen.rate += minute.0 / seconds;
            seen.failing += minute.1 / seconds;
        }
        self.left_out = self.left_out.saturating_add(said.left_out);
    }

    /// The whole, for `node`; `silent` are those alive that did not answer.
    #[must_use]
    pub fn traffic(self, node: NodeId, silent: Vec<NodeId>) -> api::Traffic {
        let mut edges: Vec<api::Edge> = self.edges.into_iter().map(|(names, both)| edge(names, both)).collect();
        edges.sort_by(|a, b| (&a.from, &a.service, &a.to).cmp(&(&b.from, &b.service, &b.to)));
        api::Traffic {
            node,
            window_s: self.span / 1_000,
            slot_s: SLOT / 1_000,
            heard: self.heard.into_iter().collect(),
            silent,
            left_out: self.left_out,
            edges,
        }
    }
}

/// One edge, as the reporter saw it that saw more of it: of a node that died the other side knows.
fn edge((from, to, namespace, service): (Party, Party, String, String), both: Both) -> api::Edge {
    let count = |seen: &Seen| seen.slots.iter().fold(0_u64, |all, slot| all.saturating_add(slot.0));
    let seen = if count(&both.caller) >= count(&both.server) { &both.caller } else { &both.server };
    let quantile = |q| quantile(&seen.buckets, q);
    api::Edge {
        from: from.into(),
        to: to.into(),
        service: if namespace.is_empty() { service } else { format!("{namespace}/{service}") },
        protocol: if both.grpc { "grpc" } else { "http" }.to_owned(),
        security: match both.mutual_tls {
            Some(true) => "mutual_tls",
            Some(false) => "none",
            None => "unknown",
        }
        .to_owned(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use certs::id::{ServiceAccount, ServiceName};

    fn records(services: &[(&str, &str)]) -> Arc<[ServiceRecord]> {
        let record = |(name, version): &(&str, &str)| ServiceRecord {
            instance: None,
            service: ServiceName::new("shop", name).unwrap(),
            account: ServiceAccount::new("shop", name).unwrap(),
            labels: BTreeMap::from([("version".to_owned(), (*version).to_owned())]),
            ports: Vec::new(),
            weight: 1,
        };
        services.iter().map(record).collect()
    }

    fn party(service: &str, version: &str) -> Party {
        Party { namespace: "shop".into(), service: service.into(), version: version.into() }
    }

    fn said(by_caller: bool, requests: u64) -> Said {
        let pair = Pair {
            by_caller,
            from: party("web", "v1"),
            to: party("cart", "v2"),
            namespace: "shop".into(),
            service: "cart".into(),
            mutual_tls: (!by_caller).then_some(true),
            grpc: false,
            slots: vec![(requests, 1)],
            buckets: vec![0, 0, requests],
            failures: vec![("503 UH".into(), 1)],
        };
        Said { partial: 0, span: 10_000, left_out: 0, pairs: vec![pair] }
    }

    fn node(name: &str) -> NodeId {
        NodeId::new(name).unwrap()
    }

    #[test]
    fn both_sides_make_one_edge_and_who_saw_more_counts() {
        let mut picture = Picture::default();
        picture.add(node("a"), &records(&[("web", "v1")]), said(true, 20));
        picture.add(node("b"), &records(&[("cart", "v2")]), said(false, 30));
        let traffic = picture.traffic(node("a"), vec![node("c")]);
        assert_eq!((traffic.heard.len(), traffic.edges.len(), traffic.window_s), (2, 1, 10));
        let edge = &traffic.edges[0];
        assert_eq!((edge.requests, edge.failed, &*edge.security, &*edge.service), (30, 1, "mutual_tls", "shop/cart"));
        assert_eq!((edge.rate, edge.p50_ms, edge.slots[0]), (3.0, Some(3.0), [30, 1]));
    }

    #[test]
    fn several_nodes_of_a_service_add_up() {
        let mut picture = Picture::default();
        for name in ["a", "b"] {
            picture.add(node(name), &records(&[("web", "v1")]), said(true, 20));
        }
        let edge = &picture.traffic(node("a"), Vec::new()).edges[0];
        assert_eq!((edge.requests, edge.rate, edge.failures["503 UH"]), (40, 4.0, 2));
    }

    #[test]
    fn a_node_speaks_of_its_own_services_only() {
        let edges = |services: &[(&str, &str)], said: Said| {
            let mut picture = Picture::default();
            picture.add(node("a"), &records(services), said);
            picture.traffic(node("a"), Vec::new()).edges.len()
        };
        assert_eq!(edges(&[("web", "v1")], said(true, 1)), 1);
        assert_eq!(edges(&[("cart", "v2")], said(true, 1)), 0, "it does not call as web");
        assert_eq!(edges(&[("web", "v1")], said(false, 1)), 0, "it does not serve cart");
        assert_eq!(edges(&[("web", "v9")], said(true, 1)), 0, "it is another version");
        let mut long = said(true, 1);
        long.pairs[0].to.service = "x".repeat(NAME + 1);
        assert_eq!(edges(&[("web", "v1")], long), 0);
        let mut vast = said(true, u64::MAX);
        vast.pairs.push(vast.pairs[0].clone());
        assert_eq!(edges(&[("web", "v1")], vast), 1, "numbers beyond all bounds do no harm");
        let many = Said { pairs: vec![said(true, 1).pairs[0].clone(); PAIRS + 1], ..said(true, 1) };
        let mut picture = Picture::default();
        picture.add(node("a"), &records(&[("web", "v1")]), many);
        assert_eq!(picture.traffic(node("a"), Vec::new()).edges[0].requests, PAIRS as u64);
    }

    #[test]
    fn a_party_is_named_after_its_service() {
        let labels = BTreeMap::from([("version".to_owned(), "v1".to_owned()), ("app".to_owned(), "x".to_owned())]);
        let domain = certs::id::TrustDomain::new("t.example").unwrap();
        let (name, account) = (ServiceName::new("shop", "web").unwrap(), ServiceAccount::new("shop", "web").unwrap());
        let workload = Workload::of_service(&domain, &name, &account, &labels);
        assert_eq!(Party::of(&workload), party("web", "v1"));
        assert_eq!(Party::of(&Workload::unknown()).service, "unknown");
    }
}
