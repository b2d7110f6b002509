//! What a push changes beside routes: for those who are called, at gateways, for names that ServiceEntries make. And what nobody
//! can tell here.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use certs::id::NodeId;
use policy::{
    DocumentId, Kind, Spec,
    compile::Compiled,
    history::State,
    hosts,
    kinds::{GatewayName, ServiceEntry, ServiceLocation},
};

use super::{Caller, api};
use crate::snapshot::Snapshot;

/// What changes, in words, and whether plaintext is refused now.
type Difference<'w> = (Vec<&'w str>, bool);

/// What a gateway serves or opens, as a word of [`api::WorkloadChange`].
const GATEWAY: &str = "gateway";

/// What changes for workloads of each service, those with the same changes together. `gateways` are those that change.
pub(super) fn workloads(
    snapshot: &Snapshot,
    (before, after): &(Compiled, Compiled),
    changed: &BTreeSet<DocumentId>,
    gateways: &BTreeSet<GatewayName>,
) -> Vec<api::WorkloadChange> {
    if gateways.is_empty() && !changed.iter().any(speaks_of_workloads) {
        return Vec::new();
    }
    let trust_domain = &snapshot.trust_domain;
    let compare = |namespace: &str, labels: &BTreeMap<String, String>| {
        let [old, new] = [before, after].map(|compiled| compiled.workload(trust_domain, namespace, labels));
        let mut words = new.differences(&old);
        let mut selecting = before.gateways_of(namespace, labels).chain(after.gateways_of(namespace, labels));
        words.extend(selecting.any(|gateway| gateways.contains(&gateway)).then_some(GATEWAY));
        (words, new.mutual_tls.refuse_more_than(&old.mutual_tls))
    };
    let mut compared = HashMap::new();
    let mut rows = Vec::new();
    let mut services: Vec<_> = snapshot.services.iter().collect();
    services.sort_by(|a, b| a.name.cmp(&b.name));
    for service in services {
        let mut here: Vec<(Difference<'_>, BTreeSet<NodeId>)> = Vec::new();
        for endpoint in service.endpoints.iter() {
            let namespace = service.name.namespace();
            let found = compared
                .entry((namespace.to_owned(), endpoint.labels.clone()))
                .or_insert_with(|| compare(namespace, &endpoint.labels));
            if found.0.is_empty() {
                continue;
            }
            match here.iter_mut().find(|(same, _)| same == found) {
                Some((_, nodes)) => drop(nodes.insert(endpoint.id.node.clone())),
                None => here.push((found.clone(), BTreeSet::from([endpoint.id.node.clone()]))),
            }
        }
        rows.extend(here.into_iter().map(|((words, refuses_plaintext), nodes)| api::WorkloadChange {
            service: service.name.to_string(),
            nodes: nodes.into_iter().collect(),
            changes: words.into_iter().map(str::to_owned).collect(),
            refuses_plaintext,
            plaintext: Vec::new(),
        }));
    }
    rows
}

/// True if this is about a gateway.
pub(super) fn opens(change: &api::WorkloadChange) -> bool {
    change.changes.iter().any(|word| word == GATEWAY)
}

/// True if something other than a gateway changes.
pub(super) fn serves(change: &api::WorkloadChange) -> bool {
    change.changes.iter().any(|word| word != GATEWAY)
}

fn speaks_of_workloads(id: &DocumentId) -> bool {
    matches!(
        id.kind,
        Kind::AuthorizationPolicy
            | Kind::PeerAuthentication
            | Kind::RequestAuthentication
            | Kind::Telemetry
            | Kind::RateLimit
            | Kind::MeshConfig
    )
}

/// Who came in plaintext where it will be refused, and how far that was looked at; tells which nodes did not say.
pub(super) fn add_plaintext(
    workloads: &mut [api::WorkloadChange],
    traffic: &api::Traffic,
) -> (Option<api::PlaintextSeen>, Option<String>) {
    let closing: Vec<&mut api::WorkloadChange> = workloads.iter_mut().filter(|one| one.refuses_plaintext).collect();
    if closing.is_empty() {
        return (None, None);
    }
    let mut silent: BTreeSet<NodeId> = BTreeSet::new();
    for change in closing {
        let mut callers: BTreeMap<api::Party, (u64, u64)> = BTreeMap::new();
        for edge in traffic.edges.iter().filter(|edge| edge.security == "none" && edge.service == change.service) {
            callers.entry(edge.from.clone()).or_default().0 += edge.requests;
        }
        for one in traffic.connections.iter().filter(|one| one.security == "none" && one.service == change.service) {
            callers.entry(one.from.clone()).or_default().1 += one.opened.max(one.open);
        }
        let caller = |(from, (requests, connections))| api::PlaintextCaller { from, requests, connections };
        change.plaintext = callers.into_iter().map(caller).collect();
        silent.extend(change.nodes.iter().filter(|node| !traffic.heard.contains(node)).cloned());
    }
    let names: Vec<_> = silent.iter().map(ToString::to_string).collect();
    let unknown = format!("who calls {} in plaintext: no answer from there", names.join(", "));
    let seen = api::PlaintextSeen { window_s: traffic.window_s, left_out: traffic.left_out };
    (Some(seen), (!names.is_empty()).then_some(unknown))
}

/// What becomes of names that ServiceEntries make, for callers who see them.
pub(super) fn names(
    changed: &BTreeSet<DocumentId>,
    states: [&State; 2],
    callers: &BTreeMap<String, Caller>,
) -> Vec<api::RouteChange> {
    let makes_names =
        |id: &DocumentId| matches!(id.kind, Kind::ServiceEntry | Kind::WorkloadEntry | Kind::DestinationRule);
    if !changed.iter().any(makes_names) {
        return Vec::new();
    }
    let entries = states.map(entries);
    let speakers: Vec<&policy::Document> = states
        .into_iter()
        .flat_map(|state| changed.iter().filter_map(|id| state.document(id)))
        .map(|document| &**document)
        .filter(|document| matches!(document.spec, Spec::DestinationRule(_) | Spec::WorkloadEntry(_)))
        .collect();
    let all: BTreeSet<&DocumentId> = entries.iter().flat_map(BTreeMap::keys).copied().collect();
    let mut rows: Vec<api::RouteChange> = Vec::new();
    for id in all {
        let [before, after] = [&entries[0], &entries[1]].map(|entries| entries.get(id));
        let versions = || [before, after].into_iter().flatten();
        let spoken_of =
            || speakers.iter().any(|document| versions().any(|seen| says_something(document, id, seen.entry)));
        if !changed.contains(id) && !spoken_of() {
            continue;
        }
        let hosts: BTreeSet<&String> = versions().flat_map(|seen| &seen.entry.hosts).collect();
        for host in hosts {
            let first = rows.len();
            for (name, caller) in callers {
                let told = |seen: Option<&Seen<'_>>| {
                    let seen = seen.filter(|seen| seen.entry.hosts.contains(host) && seen.by(id, &caller.namespace));
                    seen.map(|seen| described(id, seen.entry))
                };
                let (was, mut becomes) = (told(before), told(after));
                if was.is_none() && becomes.is_none() {
                    continue;
                }
                if was == becomes
                    && let Some(becomes) = &mut becomes
                {
                    becomes.push_str(" (other details)");
                }
                let changes = vec![api::RuleChange { when: "always".to_owned(), before: was, after: becomes }];
                match rows[first..].iter_mut().find(|row| row.changes == changes) {
                    Some(row) => row.from.push(name.clone()),
                    None => rows.push(api::RouteChange { service: host.clone(), from: vec![name.clone()], changes }),
                }
            }
        }
    }
    rows
}

/// A ServiceEntry in effect.
struct Seen<'s> {
    entry: &'s ServiceEntry,
    /// Its signers have no role where its hosts live.
    confined: bool,
}

impl Seen<'_> {
    /// True if callers in the namespace see it.
    fn by(&self, id: &DocumentId, namespace: &str) -> bool {
        if self.confined { id.namespace == namespace } else { self.entry.export_to.includes(namespace) }
    }
}

fn entries(state: &State) -> BTreeMap<&DocumentId, Seen<'_>> {
    let entries = state.effective().filter_map(|(id, value)| {
        let Spec::ServiceEntry(entry) = &value.document.as_ref().ok()?.spec else { return None };
        Some((id, Seen { entry, confined: value.confined }))
    });
    entries.collect()
}

/// True if the document is an endpoint that this ServiceEntry selects, or says how its hosts are called.
fn says_something(document: &policy::Document, id: &DocumentId, entry: &ServiceEntry) -> bool {
    if let Spec::DestinationRule(rule) = &document.spec {
        return entry.hosts.iter().any(|host| hosts::covers(&rule.host, host));
    }
    let Spec::WorkloadEntry(workload) = &document.spec else { return false };
    document.id.namespace == id.namespace && entry.selects(&workload.endpoint.labels)
}

fn described(id: &DocumentId, entry: &ServiceEntry) -> String {
    let place = match entry.location {
        ServiceLocation::External => "outside the mesh",
        ServiceLocation::Internal => "a part of the mesh",
    };
    let ports = entry.ports.iter().map(|port| match port.protocol {
        Some(protocol) => format!("{}/{}", port.number, protocol.as_str()),
        None => port.number.to_string(),
    });
    let ports: Vec<_> = ports.collect();
    let (ports, resolution, listed) = (ports.join(", "), entry.resolution.as_str(), entry.endpoints.len());
    format!("{place} by {id}, ports {ports}, resolution {resolution}, {listed} endpoints listed")
}

/// Documents of which this node cannot tell whom they concern, and why.
pub(super) fn not_reckoned(changed: &BTreeSet<DocumentId>) -> Vec<String> {
    let why = |id: &DocumentId| match id.kind {
        Kind::WorkloadGroup => Some("only nodes themselves know whose services name it in skein.toml"),
        Kind::RoleSet | Kind::Revocation => Some("rights are not reckoned; every node heeds it"),
        Kind::NodeGrant => Some("rights are not reckoned; the node of this name heeds it, and whoever meets it"),
        Kind::Confirmation => Some("what it keeps is in effect already"),
        Kind::Unknown(_) => Some("this build does not know the kind"),
        Kind::VirtualService
        | Kind::DestinationRule
        | Kind::ServiceEntry
        | Kind::WorkloadEntry
        | Kind::Gateway
        | Kind::Sidecar
        | Kind::AuthorizationPolicy
        | Kind::PeerAuthentication
        | Kind::RequestAuthentication
        | Kind::Telemetry
        | Kind::RateLimit
        | Kind::MeshConfig => None,
    };
    changed.iter().filter_map(|id| Some(format!("{id}: {}", why(id)?))).collect()
}

#[cfg(test)]
mod tests {
    use policy::parse;

    use super::{super::tests::nothing, *};

    fn document(text: &str) -> (DocumentId, Option<policy::Document>) {
        let mut parsed = parse::yaml("f", text, "shop");
        assert!(parsed.is_valid(), "{:?}", parsed.problems);
        let document = parsed.documents.remove(0).document;
        (document.id.clone(), Some(document))
    }

    const ENTRY: &str = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: bank, namespace: shop}\nspec: {hosts: [bank.example], ports: [{name: https, number: 443, protocol: TLS}], resolution: DNS, exportTo: [.]}\n";
    const RULE: &str = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: bank, namespace: shop}\nspec: {host: bank.example}\n";

    #[test]
    fn a_name_outside_concerns_who_sees_it() {
        let caller = |name: &str| (name.to_owned(), Caller { namespace: name.to_owned(), ..Caller::default() });
        let callers = ["shop", "web"].map(caller).into();
        let before = nothing();
        let entry = document(ENTRY);
        let changed = BTreeSet::from([entry.0.clone()]);
        let with = before.with(vec![entry], 2);
        let rows = names(&changed, [&before, &with], &callers);
        assert_eq!(
            (rows.len(), rows[0].service.as_str(), &rows[0].from),
            (1, "bank.example", &vec!["shop".to_owned()])
        );
        assert_eq!(rows[0].changes[0].before, None);
        let after = rows[0].changes[0].after.as_deref();
        assert_eq!(
            after,
            Some("outside the mesh by ServiceEntry shop/bank, ports 443/TLS, resolution DNS, 0 endpoints listed")
        );
        let rule = document(RULE);
        let changed = BTreeSet::from([rule.0.clone()]);
        let ruled = with.with(vec![rule], 3);
        let rows = names(&changed, [&with, &ruled], &callers);
        assert!(
            rows[0].changes[0].after.as_deref().is_some_and(|after| after.ends_with("(other details)")),
            "{rows:?}"
        );
        assert!(names(&BTreeSet::new(), [&with, &ruled], &callers).is_empty());
    }

    #[test]
    fn those_who_come_in_plaintext_are_named_where_it_is_refused() {
        let party =
            |service: &str| api::Party { namespace: "shop".into(), service: service.into(), version: "v1".into() };
        let edge = |from: &str, security: &str| api::Edge {
            from: party(from),
            to: party("cart"),
            service: "shop/cart".into(),
            protocol: "http".into(),
            security: security.into(),
            requests: 7,
            failed: 0,
            rate: 0.0,
            failing: 0.0,
            p50_ms: None,
            p90_ms: None,
            p99_ms: None,
            slots: Vec::new(),
            buckets: Vec::new(),
            failures: BTreeMap::new(),
        };
        let node = |name: &str| NodeId::new(name).unwrap();
        let traffic = api::Traffic {
            node: node("a"),
            window_s: 900,
            slot_s: 15,
            heard: vec![node("a")],
            silent: vec![node("b"), node("elsewhere")],
            other_version: Vec::new(),
            unasked: 1,
            left_out: 3,
            edges: vec![edge("cron", "none"), edge("web", "mutual_tls")],
            connections: Vec::new(),
        };
        let change = |refuses_plaintext| api::WorkloadChange {
            service: "shop/cart".into(),
            nodes: ["a", "b", "c"].map(node).into(),
            changes: vec!["mutual TLS".into()],
            refuses_plaintext,
            plaintext: Vec::new(),
        };
        let mut rows = [change(true)];
        let (seen, unknown) = add_plaintext(&mut rows, &traffic);
        assert_eq!(seen, Some(api::PlaintextSeen { window_s: 900, left_out: 3 }));
        assert_eq!(rows[0].plaintext, [api::PlaintextCaller { from: party("cron"), requests: 7, connections: 0 }]);
        let unknown = unknown.unwrap();
        assert!(unknown.contains("calls b, c in"), "those of the workloads that did not answer: {unknown}");
        let mut rows = [change(false)];
        assert_eq!(add_plaintext(&mut rows, &traffic), (None, None));
        assert_eq!(rows[0].plaintext, []);
    }
}
