//! Limits that nodes keep together, with the statements between them carried by hand.

use super::{
    backend::{Backend, ok},
    client::{get, with},
    world::{Entry, World},
};
use crate::{
    balance::{
        Key,
        rate::{MeshRule, Shares, WINDOW_MS},
    },
    clock,
};
use std::{collections::BTreeSet, sync::Arc, time::Duration};

fn limit(rules: &str) -> String {
    format!(
        "apiVersion: skein.dev/v1\nkind: RateLimit\nmetadata: {{name: reviews, namespace: default}}\nspec: {{selector: {{matchLabels: {{app: reviews}}}}, rules: [{rules}]}}\n"
    )
}

/// A caller, and two nodes that serve; each application answers with its version.
fn world(rules: &str) -> (World, [Backend; 2]) {
    let backends = ["v1", "v2"].map(Backend::named);
    let entries = vec![Entry::new(1, "reviews", "v1", &backends[0]), Entry::new(2, "reviews", "v2", &backends[1])];
    let mut world = World::new(3, entries);
    world.push(&limit(rules));
    (world, backends)
}

/// The gates of the one rule at a node.
fn rule(world: &World, node: usize) -> Arc<MeshRule> {
    let snapshot = world.seen_by(node);
    let service = "default/reviews".parse().unwrap();
    let endpoints = &snapshot.services.get(&service).unwrap().endpoints;
    let workload = snapshot.compiled.workload(&snapshot.trust_domain, "default", &endpoints[0].labels);
    snapshot.limits.mesh(&workload.limits[0], &service, 2).unwrap()
}

fn let_in(world: &World, path: &str, of: usize) -> usize {
    (0..of).filter(|_| get(world.nodes[0].outbound, "reviews", path).status == 200).count()
}

#[test]
fn two_nodes_together_let_in_one_limit() {
    let (world, _backends) = world("{limit: {requests: 1, interval: 1h, burst: 8}}");
    assert_eq!(let_in(&world, "/", 80), 8, "four on each");
    let refused = get(world.nodes[0].outbound, "reviews", "/");
    let wait: u64 = refused.header("retry-after").and_then(|text| text.parse().ok()).unwrap();
    assert!((3_000..=3_600).contains(&wait), "{wait}");
    assert_eq!((refused.status, refused.header("ratelimit-limit")), (429, Some("1")));
    assert_eq!(rule(&world, 1).number(), rule(&world, 2).number(), "they know what they speak of");
    assert_eq!((rule(&world, 1).nodes(), rule(&world, 0).keys()), (2, 0));
}

#[test]
fn who_is_let_in_is_told_what_is_left() {
    let few = "{match: [{uri: {prefix: /few}}], scope: node, limit: {requests: 1, interval: 1h, burst: 2}}";
    let backend = Backend::scripted(|arrived| match arrived.line().contains("/own") {
        true => b"HTTP/1.1 200 x\r\nRateLimit-Limit: 7\r\nContent-Length: 0\r\n\r\n".to_vec(),
        false => ok("v1"),
    });
    let mut world = World::new(2, vec![Entry::new(1, "reviews", "v1", &backend)]);
    let told = |world: &World, path: &str| {
        let answer = get(world.nodes[0].outbound, "reviews", path);
        let header = |name: &str| answer.header(name).map(str::to_owned);
        (answer.status, header("ratelimit-limit"), header("ratelimit-remaining"), header("ratelimit-reset"))
    };
    assert_eq!(told(&world, "/few"), (200, None, None, None), "without a limit there is nothing to tell");
    world.push(&limit(&format!("{{scope: node, limit: {{requests: 1, interval: 1h, burst: 9}}}}, {few}")));
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(told(&world, "/"), (200, text("1"), text("8"), text("3600")));
    assert_eq!(told(&world, "/few"), (200, text("1"), text("1"), text("3600")), "the rule with least room");
    assert_eq!(told(&world, "/own"), (200, text("7"), None, None), "the application's own word stands");
    let (status, _, remaining, _) = told(&world, "/few");
    assert_eq!((status, remaining), (200, text("0")));
    assert_eq!(told(&world, "/few").0, 429);
}

#[test]
fn a_caller_that_may_be_a_limited_workload_is_limited() {
    let backend = Backend::named("v1");
    let entry = |service| Entry::new(1, service, "v1", &backend);
    let mut world = World::new(2, vec![entry("reviews"), entry("ratings")]);
    // The caller is `web`; the registry knows its labels on both nodes.
    world.push(&limit(
        "{match: [{sourceLabels: {app: web}}], scope: node, limit: {requests: 1, interval: 1h, burst: 1}},
          {match: [{sourceLabels: {app: ratings}}], scope: node, limit: {requests: 1, interval: 1h, burst: 3}}",
    ));
    for node in [0, 1] {
        let status = || get(world.nodes[node].outbound, "reviews", "/").status;
        // Node 0 calls first and uses up what `web` has; `ratings` has an account of its own, so nobody takes `web` for it.
        assert_eq!(status(), if node == 0 { 200 } else { 429 });
        assert_eq!(status(), 429);
    }
}

#[test]
fn one_rule_that_refuses_takes_nothing_of_the_other() {
    let rules = "{match: [{uri: {prefix: /few}}], limit: {requests: 1, interval: 1h, burst: 2}}";
    let all = "{limit: {requests: 1, interval: 1h, burst: 8}}";
    let (world, _backends) = world(&format!("{all}, {rules}"));
    assert_eq!(let_in(&world, "/few", 40), 2);
    assert_eq!(let_in(&world, "/", 80), 6);
}

#[test]
fn callers_are_told_apart() {
    let (world, _backends) = world("{per: ['request.headers[x-user]'], limit: {requests: 1, interval: 1h, burst: 4}}");
    let let_in = |user: &str| {
        let header = format!("x-user: {user}\r\n");
        (0..40).filter(|_| with(world.nodes[0].outbound, "reviews", "/", &header).status == 200).count()
    };
    assert_eq!((let_in("ann"), let_in("ben"), let_in("ann")), (4, 4, 0));
    assert_eq!(rule(&world, 1).keys() + rule(&world, 2).keys(), 4);
}

#[test]
fn what_is_said_moves_the_shares_of_requests() {
    let (world, backends) = world("{limit: {requests: 1000, interval: 1s}}");
    let names: Vec<Key> = ["n1", "n2"].map(Key::from).to_vec();
    let all: BTreeSet<Key> = names.iter().cloned().collect();
    let mut shares: Vec<Shares> = names.iter().cloned().map(Shares::new).collect();
    for (node, shares) in shares.iter_mut().enumerate() {
        shares.set_rules(vec![(rule(&world, node + 1), all.clone())], clock::uptime());
    }
    drop(backends);
    let deadline = clock::monotonic() + Duration::from_secs(30);
    while rule(&world, 1).share() < 0.9 || rule(&world, 2).share() > 0.1 {
        assert!(clock::monotonic() < deadline, "{} {}", rule(&world, 1).share(), rule(&world, 2).share());
        // Only one of them is asked, whatever the application answers.
        for _ in 0..50 {
            let _ = rule(&world, 1).admit(1, clock::uptime_micros());
        }
        std::thread::sleep(Duration::from_millis(WINDOW_MS));
        for from in 0..2 {
            if let Some(statement) = shares[from].close_window(clock::uptime()) {
                shares[1 - from].heard(&names[from], statement, clock::uptime());
            }
        }
    }
}
