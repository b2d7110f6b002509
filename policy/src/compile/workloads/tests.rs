//! Tests of what documents say of workloads.

use std::collections::BTreeSet;

use super::*;
use crate::{
    authorize::{Head, Peer},
    compile::Compiled,
    history::Absent,
    kinds::{MutualTls, PathNormalization},
    normalize,
    testing::Mesh,
};

fn policy(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n---\n"
    )
}

fn of(compiled: &Compiled, namespace: &str, app: &str) -> Arc<Workload> {
    let labels = BTreeMap::from([("app".to_owned(), app.to_owned())]);
    compiled.workload(&TrustDomain::new("prod.example").unwrap(), namespace, &labels)
}

fn passes(workload: &Workload, path: &str) -> bool {
    let identity = "spiffe://prod.example/ns/shop/sa/cart".parse().unwrap();
    let peer = Peer {
        identity: Some(&identity),
        address: None,
        original_address: None,
        server_name: None,
        destination: None,
        port: 80,
    };
    let head = Head {
        method: "GET",
        scheme: "http",
        host: &normalize::host("web", 80).unwrap(),
        path: &normalize::path(path, PathNormalization::Strict).unwrap(),
        query: None,
        called: None,
        headers: &http::HeaderMap::new(),
        token: None,
    };
    workload.authorizer.decide(&peer, &head).allowed()
}

#[test]
fn a_workload_has_the_policies_of_its_namespace_and_the_root() {
    let mut mesh = Mesh::new();
    mesh.push(&policy(
        "shop",
        "a",
        "{selector: {matchLabels: {app: web}}, action: DENY, rules: [{to: [{operation: {paths: [/a]}}]}]}",
    ));
    let state = mesh.push(&policy("istio-system", "b", "{action: DENY, rules: [{to: [{operation: {paths: [/b]}}]}]}"));
    let compiled = Compiled::build(&state, None);
    let (web, other, elsewhere) =
        (of(&compiled, "shop", "web"), of(&compiled, "shop", "x"), of(&compiled, "bank", "web"));
    assert_eq!([passes(&web, "/a"), passes(&web, "/b"), passes(&web, "/c")], [false, false, true]);
    assert_eq!([passes(&other, "/a"), passes(&other, "/b")], [true, false]);
    assert_eq!([passes(&elsewhere, "/a"), passes(&elsewhere, "/b")], [true, false]);
    assert!(Arc::ptr_eq(&web, &of(&compiled, "shop", "web")), "asked twice, made once");
}

#[test]
fn what_is_not_touched_stays_the_same() {
    let mut mesh = Mesh::new();
    let state = mesh.push(&policy("shop", "a", "{selector: {matchLabels: {app: web}}, rules: [{}]}"));
    let first = Arc::new(Compiled::build(&state, None));
    let (web, other) = (of(&first, "shop", "web"), of(&first, "shop", "x"));
    let state = mesh.push(&policy("shop", "b", "{selector: {matchLabels: {app: x}}, rules: [{}]}"));
    let second = Arc::new(Compiled::build(&state, Some(&first)));
    assert!(Arc::ptr_eq(&web, &of(&second, "shop", "web")));
    assert!(!Arc::ptr_eq(&other, &of(&second, "shop", "x")) && !of(&second, "shop", "x").authorizer.is_open());
    let state = mesh.push(&policy("shop", "a", "{selector: {matchLabels: {app: web}}}"));
    let third = Compiled::build(&state, Some(&second));
    assert!(passes(&web, "/") && !passes(&of(&third, "shop", "web"), "/"));
}

#[test]
fn two_sides_of_a_partition_are_both_heard() {
    let allow =
        |paths: &str| policy("shop", "a", &format!("{{rules: [{{to: [{{operation: {{paths: [{paths}]}}}}]}}]}}"));
    let mut mesh = Mesh::new();
    let before = mesh.push(&allow("/a, /b"));
    mesh.push(&allow("/a, /both"));
    let state = mesh.push_apart(&allow("/b, /both"), &before);
    assert_eq!(state.conflicts.len(), 1);
    let web = of(&Compiled::build(&state, None), "shop", "web");
    assert_eq!(["/a", "/b", "/both"].map(|path| passes(&web, path)), [false, false, true]);
    // A push that names both settles it.
    let web = of(&Compiled::build(&mesh.push(&allow("/a")), None), "shop", "web");
    assert_eq!(["/a", "/b", "/both"].map(|path| passes(&web, path)), [true, false, false]);
}

/// A state in which this document came from a newer build, and nothing older stands in its place.
fn from_the_future(mesh: &mut Mesh, text: &str, id: &DocumentId) -> State {
    let mut state = State::clone(&mesh.push(text));
    let mut live = Live::clone(&state.documents[id]);
    live.values[0].document = Err(Absent::Unreadable([].into()));
    (live.blind, live.in_force, live.effective) = (live.values.clone(), Vec::new(), None);
    state.documents.insert(id.clone(), Arc::new(live));
    state
}

#[test]
fn a_policy_that_nobody_can_read_lets_nobody_in() {
    let mut mesh = Mesh::new();
    let selected = "{selector: {matchLabels: {app: web}}, rules: [{}]}";
    let id = |namespace: &str, name: &str| DocumentId::new(Kind::AuthorizationPolicy, namespace, name);
    let state = from_the_future(&mut mesh, &policy("shop", "a", selected), &id("shop", "a"));
    let compiled = Arc::new(Compiled::build(&state, None));
    let web = of(&compiled, "shop", "web");
    assert!(!web.authorizer.is_open() && !passes(&web, "/"));
    assert!(passes(&of(&compiled, "shop", "x"), "/") && passes(&of(&compiled, "bank", "web"), "/"));

    let mut mesh = Mesh::new();
    let state = from_the_future(&mut mesh, &policy("istio-system", "a", "{rules: [{}]}"), &id("istio-system", "a"));
    let everywhere = Compiled::build(&state, Some(&compiled));
    assert!(!passes(&of(&everywhere, "bank", "any"), "/"));
    // What can be read opens again.
    let state = mesh.push(&policy("istio-system", "a", "{rules: [{}]}"));
    assert!(passes(&of(&Compiled::build(&state, Some(&Arc::new(everywhere))), "bank", "any"), "/"));

    let mut mesh = Mesh::new();
    let audit = policy("shop", "a", "{action: AUDIT, rules: [{}]}");
    let state = from_the_future(&mut mesh, &audit, &id("shop", "a"));
    assert!(passes(&of(&Compiled::build(&state, None), "shop", "web"), "/"));
}

#[test]
fn a_peer_authentication_that_nobody_can_read_keeps_plaintext_out() {
    let text = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: a, namespace: shop}\nspec: {mtls: {mode: PERMISSIVE}}\n";
    let id = DocumentId::new(Kind::PeerAuthentication, "shop", "a");
    let compiled = Compiled::build(&from_the_future(&mut Mesh::new(), text, &id), None);
    assert_eq!(of(&compiled, "shop", "web").mutual_tls.on(80), MutualTls::Strict);
    assert_eq!(of(&compiled, "bank", "web").mutual_tls.on(80), MutualTls::Permissive);
    assert!(passes(&of(&compiled, "shop", "web"), "/"));
}

#[test]
fn what_stands_in_for_an_unreadable_value_keeps_plaintext_out() {
    let mode = |mode: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: a, namespace: shop}}\nspec: {{mtls: {{mode: {mode}}}}}\n"
        )
    };
    let mut mesh = Mesh::new();
    let before = State::nothing();
    mesh.push(&mode("STRICT"));
    let mut state = State::clone(&mesh.push_apart(&mode("PERMISSIVE"), &before));
    let id = DocumentId::new(Kind::PeerAuthentication, "shop", "a");
    let mut live = Live::clone(&state.documents[&id]);
    live.in_force.sort_by_key(|value| value.json.contains("STRICT"));
    // As if the strict value were an ancestor of one from a newer build.
    live.values.clone_from(&live.in_force);
    live.values[1].document = Err(Absent::Unreadable([].into()));
    live.effective = live.in_force.first().cloned();
    state.documents.insert(id, Arc::new(live));
    assert_eq!(of(&Compiled::build(&state, None), "shop", "web").mutual_tls.on(80), MutualTls::Strict);
}

#[test]
fn whether_a_limit_selects_a_workload_is_known_without_making_it() {
    let mut mesh = Mesh::new();
    let limit = |namespace: &str, name: &str, selector: &str| {
        format!(
            "apiVersion: skein.dev/v1\nkind: RateLimit\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
             spec: {{{selector}rules: [{{limit: {{requests: 5, interval: 1s}}}}]}}\n---\n"
        )
    };
    let only = "selector: {matchLabels: {app: a}}, ";
    let all = [
        limit("shop", "all", ""),
        limit("shop", "a", only),
        limit("istio-system", "root", only),
        limit("else", "all", ""),
    ];
    let compiled = Compiled::build(&mesh.push(&all.concat()), None);
    let ids = [("shop", "all"), ("shop", "a"), ("istio-system", "root"), ("else", "all")]
        .map(|(namespace, name)| DocumentId::new(Kind::RateLimit, namespace, name));
    let labels = |app: &str| BTreeMap::from([("app".to_owned(), app.to_owned())]);
    let mut asked = Vec::new();
    for (namespace, app) in [("shop", "a"), ("shop", "b"), ("else", "a"), ("istio-system", "a")] {
        let found: Vec<_> = ids.iter().filter(|id| compiled.is_limited_by(id, namespace, &labels(app))).collect();
        asked.push((namespace, app, found));
    }
    assert!(compiled.workloads.known.read().unwrap().is_empty(), "no workload was made");
    assert!(asked.iter().any(|(_, _, found)| found.len() == 3));
    for (namespace, app, found) in asked {
        let workload = of(&compiled, namespace, app);
        let limits: BTreeSet<&DocumentId> = workload.limits.iter().map(|limit| &*limit.document).collect();
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), limits, "{namespace} {app}");
    }
}
