//! A mesh of real processes, put through what a user does to it and what the world does to it.

mod authorization;
mod bad_input;
mod balancing;
mod breaking;
mod clocks;
mod closing;
mod contract;
mod demo;
mod discovery;
mod dns;
mod dns_hosts;
mod enrolment;
mod explain;
mod failover;
mod gateway;
mod gateway_bytes;
mod gateway_conflicts;
mod gateway_grpc;
mod gateway_policy;
mod gateway_tls;
mod groups;
mod health;
mod history;
mod identity;
mod istio;
mod keys;
mod leaving;
mod limits;
mod lint;
mod members;
mod mesh_config;
mod mirroring;
mod outliers;
mod outside;
mod outside_bytes;
mod outside_names;
mod partition;
mod plaintext;
mod plan;
mod policy;
mod proposals;
mod push;
mod recovery;
mod restart;
mod rotation;
mod routing;
mod seeing;
mod sidecar;
mod tap;
mod tcp;
mod telemetry;
mod tokens;
mod tracing;
mod transport;
mod trial;
mod workers;
mod workload;

use harness::{
    cluster::{Cluster, Plan, Service},
    contract::Contract,
    process::Skein,
};
use serde_json::Value;

/// The `skein` that cargo built for these tests.
fn skein() -> Skein {
    Skein::at(env!("CARGO_BIN_EXE_skein-under-test"))
}

/// What a command printed is what `node/docs/json.md` says that it prints.
fn written(line: &str, value: &Value) {
    let complaints = Contract::read().complaints(line, value);
    assert!(complaints.is_empty(), "{complaints:#?}");
}

/// A client node `web` and one node for each given version of `shop/reviews`, all running.
fn reviews(versions: &[&str]) -> Cluster {
    let mut plans = vec![("web".to_owned(), Plan::with([Service::client("shop/web")]))];
    for version in versions {
        plans.push((format!("reviews-{version}"), Plan::with([Service::version("shop/reviews", version)])));
    }
    let plans: Vec<(&str, Plan)> = plans.iter().map(|(name, plan)| (name.as_str(), plan.clone())).collect();
    let cluster = Cluster::start(skein(), &plans);
    cluster.wait_members(harness::PATIENCE);
    cluster.wait_endpoints("shop/reviews", versions.len());
    cluster
}

/// The DestinationRule that names a subset for each version.
fn subsets(versions: &[&str]) -> String {
    let mut text = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata:\n  name: reviews\n  namespace: shop\nspec:\n  host: reviews\n  subsets:\n".to_owned();
    for version in versions {
        text.push_str(&format!("  - name: {version}\n    labels:\n      version: {version}\n"));
    }
    text
}

/// A VirtualService `reviews` in `shop` with the given `http` block, indented by two.
fn virtual_service(http: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: reviews\n  namespace: shop\nspec:\n  hosts:\n  - reviews\n  http:\n{http}"
    )
}

/// The DestinationRule `reviews` in `shop` with this trafficPolicy, in YAML's flow style.
fn traffic_policy(policy: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata:\n  name: reviews\n  namespace: shop\nspec:\n  host: reviews\n  trafficPolicy: {policy}\n"
    )
}
