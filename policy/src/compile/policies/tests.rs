//! How policies of hosts, subsets and ports come together.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::{
    kinds::{Algorithm, Balance, ClientTls, ClientTlsMode, ConnectionPool, LoadBalancer, OutlierDetection},
    parse,
};

/// The policies of `trafficPolicy` of the rule and of its subset, both in YAML; empty: none.
fn merged(top: &str, own: &str) -> ClusterPolicies {
    let line = |policy: &str| if policy.is_empty() { String::new() } else { format!(", trafficPolicy: {policy}") };
    let text = format!(
        "{{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {{name: r}}, spec: {{host: a{}, subsets: [{{name: s{}}}]}}}}",
        line(top),
        line(own)
    );
    let parsed = parse::yaml("f.yaml", &text, "default");
    assert!(parsed.is_valid(), "{text}: {:#?}", parsed.problems);
    let rule = parsed.documents[0].document.spec.destination_rule().unwrap().clone();
    let subset = rule.subsets[0].policy.as_ref();
    Table::default().policies("a", "s", rule.policy.as_ref(), subset)
}

fn on(policies: &ClusterPolicies, port: u16) -> &ClusterPolicy {
    policies.ports.iter().find(|(own, _)| *own == port).map_or(&policies.common, |(_, policy)| policy)
}

fn balance(policy: &ClusterPolicy) -> Balance {
    match policy.load_balancer.algorithm {
        Algorithm::Simple(balance) => balance,
        Algorithm::Passthrough | Algorithm::ConsistentHash(_) => panic!("simple"),
    }
}

#[test]
fn without_a_rule_all_is_default() {
    assert_eq!(*merged("", "").common, ClusterPolicy::default());
    let default = ClusterPolicy::default();
    assert_eq!(balance(&default), Balance::LeastRequest);
    assert_eq!(default.connection_pool.tcp.connect_timeout, None, "the mesh says it");
    assert_eq!(default.connection_pool.http.idle_timeout, Some(Duration::from_secs(3_600)));
    assert!(default.outlier_detection.is_none() && default.tls.is_none() && default.retry_budget.is_none());
}

#[test]
fn a_ports_entry_replaces_all_four_blocks() {
    let policies = merged(
        "{loadBalancer: {simple: RANDOM}, connectionPool: {tcp: {maxConnections: 7}}, outlierDetection: {}, tls: {mode: SIMPLE},
          proxyProtocol: {version: V2}, retryBudget: {percent: 50},
          portLevelSettings: [{port: {number: 80}, loadBalancer: {simple: ROUND_ROBIN}}, {port: {number: 80}, tls: {mode: DISABLE}}]}",
        "",
    );
    let own = on(&policies, 80);
    assert_eq!(balance(own), Balance::RoundRobin);
    assert_eq!(own.connection_pool, ConnectionPool::default());
    assert!(own.outlier_detection.is_none() && own.tls.is_none());
    // What no entry can hold stays.
    assert!(own.proxy_protocol.is_some() && own.retry_budget.is_some_and(|budget| budget.per_million == 500_000));
    let other = on(&policies, 81);
    assert_eq!((balance(other), other.connection_pool.tcp.max_connections), (Balance::Random, Some(7)));
    assert!(other.outlier_detection.is_some() && other.tls.is_some());
}

#[test]
fn a_subsets_blocks_replace_whole_blocks() {
    let top = "{loadBalancer: {simple: RANDOM}, connectionPool: {tcp: {maxConnections: 7}}, tls: {mode: SIMPLE},
        tunnel: {targetHost: a.example, targetPort: 443}}";
    let policies = merged(top, "{connectionPool: {http: {maxRetries: 2}}, tls: {mode: DISABLE}}");
    let both = &policies.common;
    assert_eq!(balance(both), Balance::Random);
    assert_eq!((both.connection_pool.tcp.max_connections, both.connection_pool.http.max_retries), (None, Some(2)));
    assert_eq!(both.tls.as_ref().map(|tls| tls.mode), Some(ClientTlsMode::Disable));
    assert_eq!(both.tunnel.as_ref().map(|tunnel| tunnel.target_port), Some(443));
    let own = "{tunnel: {targetHost: b.example, targetPort: 8443, protocol: POST}}";
    assert_eq!(merged(top, own).common.tunnel.as_ref().map(|tunnel| tunnel.target_port), Some(8443));
}

#[test]
fn a_subsets_entry_for_a_port_inherits_no_block() {
    let top = "{loadBalancer: {simple: RANDOM}, tls: {mode: SIMPLE},
        portLevelSettings: [{port: {number: 80}, loadBalancer: {simple: ROUND_ROBIN}}]}";
    // The entry of the subset stands above the entry of the host, and leaves nothing of it.
    let policies = merged(top, "{portLevelSettings: [{port: {number: 80}, outlierDetection: {}}]}");
    let own = on(&policies, 80);
    assert_eq!(balance(own), Balance::LeastRequest);
    assert!(own.tls.is_none() && own.outlier_detection.is_some());
    // On another port the subset says nothing: the host's own.
    assert_eq!((balance(on(&policies, 81)), on(&policies, 81).tls.is_some()), (Balance::Random, true));
    // Without an entry of its own, the subset's blocks stand above the host's entry.
    let policies = merged(top, "{tls: {mode: DISABLE}}");
    let own = on(&policies, 80);
    assert_eq!(
        (balance(own), own.tls.as_ref().map(|tls| tls.mode)),
        (Balance::RoundRobin, Some(ClientTlsMode::Disable))
    );
}

#[test]
fn equal_policies_of_a_cluster_are_one_object() {
    let top = TrafficPolicy {
        ports: vec![(80, PolicyBlocks::default()), (81, PolicyBlocks::default())],
        ..TrafficPolicy::default()
    };
    let before = Table::default();
    let first = before.policies("a", "", Some(&top), None);
    let same = before.policies("a", "", Some(&top), None);
    assert!(Arc::ptr_eq(&first.common, &same.common) && Arc::ptr_eq(&first.ports[0].1, &same.ports[0].1));
    // Another port, subset or host has an object of its own, whatever its content.
    assert!(!Arc::ptr_eq(&first.ports[0].1, &first.ports[1].1));
    assert!(!Arc::ptr_eq(&first.common, &before.policies("a", "s", Some(&top), None).common));
    assert!(!Arc::ptr_eq(&first.common, &before.policies("b", "", Some(&top), None).common));
    // A change keeps what stayed, and what nobody holds any more is let go.
    let changed = TrafficPolicy {
        ports: vec![(80, PolicyBlocks { tls: Some(Default::default()), ..Default::default() })],
        ..top
    };
    let next = before.policies("a", "", Some(&changed), None);
    assert!(Arc::ptr_eq(&first.common, &next.common));
    assert!(!Arc::ptr_eq(&first.ports[0].1, &next.ports[0].1));
    let policies = || before.known.read().unwrap().values().map(Vec::len).sum::<usize>();
    let held = policies();
    before.forget_unused();
    assert!(policies() < held);
    drop((first, same, next));
    before.forget_unused();
    assert_eq!(policies(), 0);
}

fn blocks() -> impl Strategy<Value = PolicyBlocks> {
    let tls = proptest::option::of(prop_oneof![Just(ClientTlsMode::Disable), Just(ClientTlsMode::Simple)]);
    let random = proptest::option::of(any::<bool>());
    (random, any::<bool>(), tls).prop_map(|(random, outlier, tls)| PolicyBlocks {
        load_balancer: random.map(|random| LoadBalancer {
            algorithm: Algorithm::Simple(if random { Balance::Random } else { Balance::RoundRobin }),
            ..LoadBalancer::default()
        }),
        connection_pool: None,
        outlier_detection: outlier.then(OutlierDetection::default),
        tls: tls.map(|mode| ClientTls { mode, ..ClientTls::default() }),
    })
}

fn traffic_policy() -> impl Strategy<Value = TrafficPolicy> {
    let ports = proptest::collection::btree_map(80_u16..83, blocks(), 0..3);
    (blocks(), ports).prop_map(|(blocks, ports)| TrafficPolicy {
        blocks,
        ports: ports.into_iter().collect(),
        ..TrafficPolicy::default()
    })
}

proptest! {
    /// Block by block, on each port: the first that has a say, asked from the subset's entry down to the host's blocks, where an
    /// entry ends the questions at its level.
    #[test]
    fn each_block_comes_from_one_place(
        top in proptest::option::of(traffic_policy()),
        own in proptest::option::of(traffic_policy()),
        port in 80_u16..84,
    ) {
        let policies = Table::default().policies("a", "s", top.as_ref(), own.as_ref());
        let found = on(&policies, port);
        let entry = own.as_ref().and_then(|own| own.on_port(port));
        let level = |policy: &TrafficPolicy| policy.on_port(port).unwrap_or(&policy.blocks).clone();
        let base = top.as_ref().map(level);
        let tls = match (entry, &own) {
            (Some(entry), _) => entry.tls.clone(),
            (None, Some(own)) if own.blocks.tls.is_some() => own.blocks.tls.clone(),
            (None, _) => base.as_ref().and_then(|base| base.tls.clone()),
        };
        let outlier = match (entry, &own) {
            (Some(entry), _) => entry.outlier_detection.clone(),
            (None, Some(own)) if own.blocks.outlier_detection.is_some() => own.blocks.outlier_detection.clone(),
            (None, _) => base.and_then(|base| base.outlier_detection),
        };
        prop_assert_eq!(&found.tls, &tls);
        prop_assert_eq!(&found.outlier_detection, &outlier);
        // A policy laid over itself is itself.
        if let (Some(top), None) = (&top, &own) {
            let twice = Table::default().policies("a", "s", Some(top), Some(top));
            prop_assert_eq!(on(&twice, port), found);
        }
    }
}
