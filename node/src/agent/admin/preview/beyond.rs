//! What a push changes beside routes: for those who are called, at gateways, for names that ServiceEntries make. And what nobody
//! can tell here.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use certs::id::NodeId;
use policy::{
    DocumentId, Kind, Spec,
    compile::Compiled,
    history::State,
    hosts,
    kinds::{ExportTo, GatewayName, ServiceEntry, ServiceLocation},
};

use super::{Caller, api};
use crate::snapshot::Snapshot;

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
        let mut here: Vec<((Vec<&str>, bool), BTreeSet<NodeId>)> = Vec::new();
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

/// Who came in plaintext where it will be refused; tells which nodes did not say.
pub(super) fn add_plaintext(workloads: &mut [api::WorkloadChange], traffic: &api::Traffic) -> Option<String> {
    let closing: Vec<&mut api::WorkloadChange> = workloads.iter_mut().filter(|one| one.refuses_plaintext).collect();
    if closing.is_empty() {
        return None;
    }
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
    }
    let names: Vec<_> = traffic.silent.iter().map(ToString::to_string).collect();
    (!names.is_empty()).then(|| format!("who calls {} in plaintext: no answer from there", names.join(", ")))
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
    let all = states.into_iter().flat_map(entries).map(|(id, _, _)| id);
    let touched: BTreeSet<&DocumentId> = all.filter(|id| touches(changed, states, id)).collect();
    let mut rows: Vec<api::RouteChange> = Vec::new();
    for id in touched {
        let [before, after] = states.map(|state| entries(state).find(|(other, _, _)| *other == id));
        let hosts: BTreeSet<&String> =
            [&before, &after].into_iter().flatten().flat_map(|(_, entry, _)| &entry.hosts).collect();
        for host in hosts {
            for (name, caller) in callers {
                let seen = |found: &Option<(&DocumentId, &ServiceEntry, ExportTo)>| {
                    let (id, entry, export_to) = found.as_ref()?;
                    (entry.hosts.contains(host) && export_to.includes(&caller.namespace)).then(|| described(id, entry))
                };
                let (was, mut becomes) = (seen(&before), seen(&after));
                if was.is_none() && becomes.is_none() {
                    continue;
                }
                if was == becomes
                    && let Some(becomes) = &mut becomes
                {
                    becomes.push_str(" (other endpoints or traffic policy)");
                }
                let changes = vec![api::RuleChange { when: "always".to_owned(), before: was, after: becomes }];
                match rows.iter_mut().find(|row| row.service == *host && row.changes == changes) {
                    Some(row) => row.from.push(name.clone()),
                    None => rows.push(api::RouteChange { service: host.clone(), from: vec![name.clone()], changes }),
                }
            }
        }
    }
    rows
}

/// The ServiceEntries in effect, and who sees each.
fn entries(state: &State) -> impl Iterator<Item = (&DocumentId, &ServiceEntry, ExportTo)> {
    state.effective().filter_map(|(id, value)| {
        let Spec::ServiceEntry(entry) = &value.document.as_ref().ok()?.spec else { return None };
        let own = || ExportTo::Namespaces([id.namespace.clone()].into());
        Some((id, &**entry, if value.confined { own() } else { entry.export_to.clone() }))
    })
}

/// True if one of the documents is this ServiceEntry, an endpoint that it selects, or says how its hosts are called.
fn touches(changed: &BTreeSet<DocumentId>, states: [&State; 2], id: &DocumentId) -> bool {
    let about = |state: &State, entry: &ServiceEntry| {
        changed.iter().filter_map(|one| state.document(one)).any(|document| match &document.spec {
            Spec::DestinationRule(rule) => entry.hosts.iter().any(|host| hosts::covers(&rule.host, host)),
            Spec::WorkloadEntry(workload) => {
                let labels = &workload.endpoint.labels;
                let selects = |wanted: &BTreeMap<String, String>| {
                    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
                };
                document.id.namespace == id.namespace && entry.selector.as_ref().is_some_and(selects)
            }
            Spec::VirtualService(_)
            | Spec::ServiceEntry(_)
            | Spec::WorkloadGroup(_)
            | Spec::Gateway(_)
            | Spec::Sidecar(_)
            | Spec::AuthorizationPolicy(_)
            | Spec::PeerAuthentication(_)
            | Spec::RequestAuthentication(_)
            | Spec::Telemetry(_)
            | Spec::RateLimit(_)
            | Spec::MeshConfig(_)
            | Spec::RoleSet(_)
            | Spec::NodeGrant(_)
            | Spec::Revocation(_)
            | Spec::Confirmation => false,
        })
    };
    changed.contains(id)
        || states.into_iter().any(|state| {
            let entry = entries(state).find(|(other, _, _)| *other == id);
            entry.is_some_and(|(_, entry, _)| states.into_iter().any(|state| about(state, entry)))
        })
}

fn described(id: &DocumentId, entry: &ServiceEntry) -> String {
    let place = match entry.location {
        ServiceLocation::External => "outside the mesh",
        ServiceLocation::Internal => "a part of the mesh",
    };
    let ports: Vec<_> = entry.ports.iter().map(|port| port.number.to_string()).collect();
    format!("{place} by {id}, ports {}, {} endpoints listed", ports.join(", "), entry.endpoints.len())
}

/// Documents of which this node cannot tell whom they concern, and why.
pub(super) fn not_reckoned(changed: &BTreeSet<DocumentId>) -> Vec<String> {
    let why = |id: &DocumentId| match id.kind {
        Kind::WorkloadGroup => Some("only nodes themselves know whose services name it in skein.toml"),
        Kind::RoleSet | Kind::Revocation => Some("rights are not reckoned; every node heeds it"),
        Kind::NodeGrant => Some("rights are not reckoned; the node of this name heeds it, and whoever meets it"),
        Kind::Confirmation => Some("what it keeps is in effect already"),
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
        assert_eq!(after, Some("outside the mesh by ServiceEntry shop/bank, ports 443, 0 endpoints listed"));
        let rule = document(RULE);
        let changed = BTreeSet::from([rule.0.clone()]);
        let ruled = with.with(vec![rule], 3);
        let rows = names(&changed, [&with, &ruled], &callers);
        assert!(
            rows[0].changes[0].after.as_deref().is_some_and(|after| after.ends_with("traffic policy)")),
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
            silent: vec![node("b")],
            unasked: 0,
            left_out: 0,
            edges: vec![edge("cron", "none"), edge("web", "mutual_tls")],
            connections: Vec::new(),
        };
        let change = |refuses_plaintext| api::WorkloadChange {
            service: "shop/cart".into(),
            nodes: vec![node("a")],
            changes: vec!["mutual TLS".into()],
            refuses_plaintext,
            plaintext: Vec::new(),
        };
        let mut rows = [change(true)];
        let unknown = add_plaintext(&mut rows, &traffic);
        assert_eq!(rows[0].plaintext, [api::PlaintextCaller { from: party("cron"), requests: 7, connections: 0 }]);
        assert!(unknown.is_some_and(|unknown| unknown.contains('b')));
        let mut rows = [change(false)];
        assert_eq!((add_plaintext(&mut rows, &traffic), rows[0].plaintext.len()), (None, 0));
    }
}
