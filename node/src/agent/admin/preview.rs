//! What a push would change: documents, routes, and the nodes that these concern. Changes nothing.

mod beyond;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use axum::{Json, extract::State as Asked};
use certs::id::NodeId;
use policy::{
    Document, DocumentId, Spec,
    compile::{Compiled, Scope},
    history::State,
    hosts,
    kinds::{GatewayName, HttpAction, HttpRoute, Sidecar},
    parse::Located,
    route::survey::{self, Conditions, Rule},
};

use super::{Admin, action, api, documents, error::Error, push, routes};
use crate::snapshot::Snapshot;

/// What becomes of a host that a Sidecar does not import.
const NOT_SEEN: &str = "not imported: an unknown host";

impl Admin {
    /// `POST /v1/policy/preview`.
    pub(super) async fn preview(
        Asked(admin): Asked<Self>,
        Json(intents): Json<Vec<api::Intent>>,
    ) -> Result<Json<api::Preview>, Error> {
        push::within_quota(&intents)?;
        let snapshot = admin.agent.snapshot();
        let (ids, located) = push::located_all(&intents)?;
        let mut changes = Vec::new();
        let mut rows = Vec::new();
        for (intent, id) in intents.iter().zip(&ids) {
            let row = document(&snapshot.state, intent, id)?;
            if row.change != "unchanged" {
                let document = located.iter().find(|located| located.document.id == *id);
                changes.push((id.clone(), document.map(|located| located.document.clone())));
            }
            rows.push(row);
        }
        let now = admin.agent.now();
        // Compiling a large mesh takes a while; other questions go on meanwhile.
        let work = move || affected(&snapshot, changes, &located, now);
        let mut found = tokio::task::spawn_blocking(work)
            .await
            .map_err(|error| Error::new("failed", format!("the preview broke off: {error}")))?;
        let mut plaintext_seen = None;
        if found.workloads.iter().any(|change| change.refuses_plaintext) {
            let traffic = admin.traffic().await;
            let unknown;
            (plaintext_seen, unknown) = beyond::add_plaintext(&mut found.workloads, &traffic);
            found.not_reckoned.extend(unknown);
        }
        let routed = found.routes.iter().map(|row| row.service.clone());
        let services: BTreeSet<String> = routed.chain(found.workloads.iter().map(|row| row.service.clone())).collect();
        Ok(Json(api::Preview {
            documents: rows,
            services: services.into_iter().collect(),
            nodes: found.nodes,
            routes: found.routes,
            workloads: Some(found.workloads),
            plaintext_seen,
            not_reckoned: Some(found.not_reckoned),
            problems: found.problems.iter().map(push::problem).collect::<Result<_, _>>()?,
        }))
    }
}

/// Whom changes concern, and how.
struct Affected {
    routes: Vec<api::RouteChange>,
    workloads: Vec<api::WorkloadChange>,
    nodes: Vec<api::AffectedNode>,
    not_reckoned: Vec<String>,
    problems: Vec<policy::Problem>,
}

/// What a node has to do with them.
#[derive(Default)]
struct Part {
    calls: bool,
    serves: bool,
    opens: bool,
}

fn affected(
    snapshot: &Snapshot,
    changes: Vec<(DocumentId, Option<Document>)>,
    located: &[Located],
    now: certs::codec::Millis,
) -> Affected {
    let problems = push::complaints(located, &snapshot.state, &*snapshot.services, None, now);
    let changed: BTreeSet<DocumentId> = changes.iter().map(|(id, _)| id.clone()).collect();
    let after = snapshot.state.with(changes, now);
    let states = [&*snapshot.state, &after];
    // Both anew: the one in use keeps a cache of what is asked of it.
    let compiled = (Compiled::build(&snapshot.state, None), Compiled::build(&after, None));
    let everywhere = compiled.0.config().retries != compiled.1.config().retries;
    let (hosts, gateways) = concerned(&changed, states, everywhere);
    let callers = callers(snapshot, &sidecars(&changed, states));
    let (mut routes, mut nodes) = (Vec::new(), BTreeMap::<NodeId, Part>::new());
    let mut services: Vec<_> = snapshot.services.iter().collect();
    services.sort_by(|a, b| a.name.cmp(&b.name));
    for service in services {
        let name = hosts::full_name(&service.name);
        if service.ports.is_empty() || !hosts.iter().any(|host| hosts::covers(host, &name)) {
            continue;
        }
        let rules = |compiled, scope: Scope<'_>| imported(survey::rules(compiled, &service.name, scope));
        let found = of_host(&compiled, &service.name.to_string(), &callers, rules);
        if found.is_empty() {
            continue;
        }
        service.endpoints.iter().for_each(|endpoint| nodes.entry(endpoint.id.node.clone()).or_default().serves = true);
        routes.extend(found);
    }
    let is_service =
        |host: &str| hosts::service_of(host).is_some_and(|service| snapshot.services.get(&service).is_some());
    for host in hosts.iter().filter(|host| !is_service(host)) {
        let rules = |compiled, scope: Scope<'_>| Some(survey::rules_of_name(compiled, host, scope));
        routes.extend(of_host(&compiled, host, &callers, rules));
    }
    routes.extend(beyond::names(&changed, states, &callers));
    let told = routes.iter().flat_map(|row| &row.from).filter_map(|from| callers.get(from));
    for node in told.flat_map(|caller| &caller.nodes) {
        nodes.entry(node.clone()).or_default().calls = true;
    }
    let workloads = beyond::workloads(snapshot, &compiled, &changed, &gateways);
    for change in &workloads {
        for node in &change.nodes {
            let part = nodes.entry(node.clone()).or_default();
            part.opens |= beyond::opens(change);
            part.serves |= beyond::serves(change);
        }
    }
    let node = |(node, Part { calls, serves, opens })| api::AffectedNode { node, calls, serves, opens };
    let nodes = nodes.into_iter().map(node).collect();
    Affected { routes, workloads, nodes, not_reckoned: beyond::not_reckoned(&changed), problems }
}

fn document(state: &State, intent: &api::Intent, id: &DocumentId) -> Result<api::DocumentChange, Error> {
    let live = state.documents.get(id);
    let value = live.and_then(|live| live.effective.as_ref());
    let before = value.map(|value| documents::json(&value.json)).transpose()?;
    let after = intent.content.as_deref().map(documents::json).transpose()?;
    let change = match (&before, &after) {
        (None, Some(_)) => "set",
        (Some(_), None) => "deleted",
        (Some(before), Some(after)) if before != after => "changed",
        (Some(_), Some(_)) | (None, None) => "unchanged",
    };
    Ok(api::DocumentChange {
        kind: id.kind.to_string(),
        namespace: id.namespace.clone(),
        name: id.name.clone(),
        change: change.to_owned(),
        changeset: value.map(|value| value.changeset.to_string()),
        before,
        after,
    })
}

/// Hosts whose routes these documents may change: their own, and those of VirtualServices that route to a host of theirs; and the
/// Gateways of such VirtualServices. All of them if every route changes `everywhere`.
fn concerned(
    changed: &BTreeSet<DocumentId>,
    states: [&State; 2],
    everywhere: bool,
) -> (BTreeSet<String>, BTreeSet<GatewayName>) {
    let (mut hosts, mut gateways) = (BTreeSet::new(), BTreeSet::new());
    hosts.extend(everywhere.then(|| "*".to_owned()));
    let mut hides = false;
    for state in states {
        for document in changed.iter().filter_map(|id| state.document(id)) {
            if let Some(service) = document.spec.virtual_service() {
                hosts.extend(service.hosts.iter().cloned());
            }
            hosts.extend(document.spec.destination_rule().map(|rule| rule.host.clone()));
            if let Spec::ServiceEntry(entry) = &document.spec {
                hosts.extend(entry.hosts.iter().cloned());
            }
            // It may hide or show any.
            hides |= matches!(document.spec, Spec::Sidecar(_));
            if document.id.kind == policy::Kind::Gateway {
                let DocumentId { namespace, name, .. } = document.id.clone();
                gateways.insert(GatewayName::Gateway { namespace, name });
            }
        }
    }
    let mut through = BTreeSet::new();
    for state in states {
        let documents = state.effective().filter_map(|(_, value)| value.document.as_ref().ok());
        let services = documents.filter_map(|document| Some((&document.id, document.spec.virtual_service()?)));
        for (id, service) in services {
            let destinations = service.http.iter().filter_map(|route| match &route.action {
                HttpAction::Route(destinations) => Some(destinations),
                HttpAction::Redirect(_) | HttpAction::Direct(_) | HttpAction::Delegate { .. } => None,
            });
            let l4 = service.tls.iter().map(|rule| &rule.route).chain(service.tcp.iter().map(|rule| &rule.route));
            let l4 = l4.flatten().map(|one| &one.destination.host);
            let mut names = destinations.flatten().map(|one| &one.destination.host).chain(l4);
            let delegates = |route: &HttpRoute| match &route.action {
                HttpAction::Delegate { to, .. } => changed.contains(&to.id()),
                HttpAction::Route(_) | HttpAction::Redirect(_) | HttpAction::Direct(_) => false,
            };
            if changed.contains(id)
                || names.any(|name| hosts.iter().any(|host| hosts::covers(host, name)))
                || service.http.iter().any(delegates)
            {
                through.extend(service.hosts.iter().cloned());
                gateways.extend(service.gateways.iter().filter(|place| **place != GatewayName::Mesh).cloned());
            } else if hides {
                through.extend(service.hosts.iter().cloned());
            }
        }
    }
    hosts.extend(through);
    hosts.extend(hides.then(|| "*".to_owned()));
    (hosts, gateways)
}

/// The Sidecars among these documents, as they were and as they become.
fn sidecars(changed: &BTreeSet<DocumentId>, states: [&State; 2]) -> Vec<(String, Arc<Sidecar>)> {
    let documents = states.into_iter().flat_map(|state| changed.iter().filter_map(move |id| state.document(id)));
    let sidecar = |document: &Arc<Document>| {
        let Spec::Sidecar(sidecar) = &document.spec else { return None };
        Some((document.id.namespace.clone(), sidecar.clone()))
    };
    documents.filter_map(sidecar).collect()
}

/// The rules of a service; a service that is seen has at least its default route.
fn imported(rules: Vec<Rule<'_>>) -> Option<Vec<Rule<'_>>> {
    (!rules.is_empty()).then_some(rules)
}

/// Workloads that call alike, and the nodes that run some of them.
#[derive(Default)]
struct Caller {
    namespace: String,
    labels: Arc<BTreeMap<String, String>>,
    nodes: BTreeSet<NodeId>,
}

/// Callers by what they are called: a namespace, or a service that one of these Sidecars selects.
fn callers(snapshot: &Snapshot, sidecars: &[(String, Arc<Sidecar>)]) -> BTreeMap<String, Caller> {
    let mut callers: BTreeMap<String, Caller> = BTreeMap::new();
    for service in snapshot.services.iter() {
        let namespace = service.name.namespace();
        for endpoint in service.endpoints.iter() {
            let selects = |(own, sidecar): &(String, Arc<Sidecar>)| {
                own == namespace && sidecar.selector.is_some() && sidecar.selects(&endpoint.labels)
            };
            let chosen = sidecars.iter().any(selects);
            let (name, labels) = if chosen {
                (service.name.to_string(), Arc::clone(&endpoint.labels))
            } else {
                (namespace.to_owned(), Arc::default())
            };
            let begin = || Caller { namespace: namespace.to_owned(), labels, nodes: BTreeSet::new() };
            callers.entry(name).or_insert_with(begin).nodes.insert(endpoint.id.node.clone());
        }
    }
    callers
}

/// What changes for a service or another host, callers with the same changes together. `rules` gives those of a caller
/// who sees it.
fn of_host<'c>(
    (before, after): &'c (Compiled, Compiled),
    host: &str,
    callers: &BTreeMap<String, Caller>,
    rules: impl Fn(&'c Compiled, Scope<'_>) -> Option<Vec<Rule<'c>>>,
) -> Vec<api::RouteChange> {
    let mut rows: Vec<api::RouteChange> = Vec::new();
    for (name, caller) in callers {
        let rules = |compiled: &'c Compiled| rules(compiled, compiled.scope_of(&caller.namespace, &caller.labels));
        let changes = match (rules(before), rules(after)) {
            (Some(before), Some(after)) => compare(&before, &after),
            (None, None) => continue,
            (before, after) => {
                let seen = |seen: bool| Some(if seen { "seen" } else { NOT_SEEN }.to_owned());
                let (before, after) = (seen(before.is_some()), seen(after.is_some()));
                vec![api::RuleChange { when: "always".to_owned(), before, after }]
            }
        };
        if changes.is_empty() {
            continue;
        }
        match rows.iter_mut().find(|row| row.changes == changes) {
            Some(row) => row.from.push(name.clone()),
            None => {
                let (service, from) = (host.to_owned(), vec![name.clone()]);
                rows.push(api::RouteChange { service, from, changes });
            }
        }
    }
    rows
}

/// Rules with the same conditions are compared; the others came or went.
fn compare(before: &[Rule<'_>], after: &[Rule<'_>]) -> Vec<api::RuleChange> {
    let mut left: Vec<(String, &Rule<'_>)> = after.iter().map(|rule| (conditions(rule), rule)).collect();
    let (mut changes, mut kept) = (Vec::new(), Vec::new());
    for old in before {
        let when = conditions(old);
        let found = left.iter().position(|(other, _)| *other == when).map(|place| left.remove(place).1);
        let was = action::action(&old.route);
        match found {
            None => changes.push(api::RuleChange { when, before: Some(was), after: None }),
            Some(new) => {
                let mut becomes = action::action(&new.route);
                if was == becomes {
                    let parts = action::difference(&old.route, &new.route);
                    kept.push(when.clone());
                    if parts.is_empty() {
                        continue;
                    }
                    becomes.push_str(&format!(" (other {})", parts.join(", ")));
                }
                changes.push(api::RuleChange { when, before: Some(was), after: Some(becomes) });
            }
        }
    }
    let came = left.into_iter().map(|(when, rule)| (when, action::action(&rule.route)));
    changes.extend(came.map(|(when, becomes)| api::RuleChange { when, before: None, after: Some(becomes) }));
    let order =
        |rules: &[Rule<'_>]| rules.iter().map(conditions).filter(|when| kept.contains(when)).collect::<Vec<_>>();
    let (old, new) = (order(before), order(after));
    if old != new {
        let (before, after) = (Some(old.join("; ")), Some(new.join("; ")));
        changes.push(api::RuleChange { when: "in this order".to_owned(), before, after });
    }
    changes
}

fn conditions(rule: &Rule<'_>) -> String {
    match rule.conditions {
        Conditions::Requests(when) => routes::any(when, "", routes::conditions),
        Conditions::Tls(when) => routes::any(when, "tls ", routes::tls_conditions),
        Conditions::Bytes(when) => routes::any(when, "tcp ", routes::l4_conditions),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use certs::id::ServiceName;
    use policy::parse;

    use super::*;

    const RULE: &str = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: b, namespace: shop}\nspec: {host: b, subsets: [{name: v1, labels: {version: v1}}]}\n";
    const ROUTES: &str = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a, namespace: shop}\nspec:\n  hosts: [a]\n  http:\n  - match: [{uri: {prefix: /x}}]\n    route: [{destination: {host: a}}]\n  - route: [{destination: {host: b, subset: v1}}]\n";

    pub(super) fn nothing() -> Arc<State> {
        crate::testing::state("")
    }

    fn changes(text: &str) -> Vec<(DocumentId, Option<Document>)> {
        let parsed = parse::yaml("f", text, "default");
        assert!(parsed.is_valid(), "{:?}", parsed.problems);
        parsed.documents.into_iter().map(|one| (one.document.id.clone(), Some(one.document))).collect()
    }

    fn told(before: &State, after: &State) -> Vec<(String, Option<String>, Option<String>)> {
        let compiled = (Compiled::build(before, None), Compiled::build(after, None));
        let service = ServiceName::new("shop", "a").unwrap();
        let rules = |compiled, scope: Scope<'_>| imported(survey::rules(compiled, &service, scope));
        let caller = |name: &str| (name.to_owned(), Caller { namespace: name.to_owned(), ..Caller::default() });
        let rows = of_host(&compiled, "shop/a", &["shop", "web"].map(caller).into(), rules);
        assert!(rows.len() < 2, "both callers see the same: {rows:?}");
        let changes = rows.into_iter().flat_map(|row| row.changes);
        changes.map(|change| (change.when, change.before, change.after)).collect()
    }

    #[test]
    fn rules_are_compared_by_their_conditions() {
        let empty = nothing();
        let both = empty.with(changes(&format!("{RULE}---\n{ROUTES}")), 2);
        let own = "a.shop.svc.cluster.local";
        let to_b = |rest: &str| Some(format!("b.shop.svc.cluster.local v1{rest}"));
        let found = told(&empty, &both);
        let wanted = [
            ("always".to_owned(), Some(own.to_owned()), to_b("")),
            ("path=/x*".to_owned(), None, Some(own.to_owned())),
        ];
        assert_eq!(found, wanted);
        // Of what the route reads nothing changes, and yet others answer.
        let relabelled = both.with(changes(&RULE.replace("version: v1", "version: v2")), 3);
        let found = told(&both, &relabelled);
        assert_eq!(found, [("always".to_owned(), to_b(""), to_b(" (other endpoints or traffic policy)"))]);
        let without = both.with(vec![(DocumentId::new(policy::Kind::DestinationRule, "shop", "b"), None)], 3);
        assert_eq!(told(&both, &without)[0].2, to_b(" (no such subset: 503)"));
        assert_eq!(told(&both, &both), []);
    }

    #[test]
    fn a_rule_concerns_the_hosts_that_route_to_its_host() {
        let both = nothing().with(changes(&format!("{RULE}---\n{ROUTES}")), 2);
        let rule = BTreeSet::from([DocumentId::new(policy::Kind::DestinationRule, "shop", "b")]);
        let (hosts, _) = concerned(&rule, [&both, &both], false);
        assert_eq!(Vec::from_iter(hosts), ["a.shop.svc.cluster.local", "b.shop.svc.cluster.local"]);
    }
}
