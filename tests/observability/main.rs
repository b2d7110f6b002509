//! What operators see, in what they see it with: metrics in a real Prometheus, pages in a real Chromium.
//!
//! Metrics as those read them who come from Istio: Prometheus of Debian scrapes a mesh under way by the configuration that is shipped,
//! and what Istio's dashboards, Kiali and our own dashboards ask for is there.
//!
//! `apt-get install prometheus chromium`, then `cargo test -p tests --test observability -- --ignored` (a name more: only those tests). With `SKEIN_ISTIO_DASHBOARDS=DIR`, a
//! directory with Istio's own `istio-{mesh,service,workload}-dashboard*.json`, every expression of those files is asked for, too.

mod browser;
mod crowd;
mod dashboards;
mod istio;
mod pages;
mod prometheus;
mod rules;
mod world;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use harness::eventually_within;
use serde_json::Value;

use prometheus::Prometheus;
use world::World;

/// For several scrapes, and rates over them.
const PATIENCE: Duration = Duration::from_secs(90);

/// What is shipped.
fn shipped() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../node/deploy/observability")
}

/// Waits until every group of expressions has data: of one expression of a group that is enough.
fn have_data(prometheus: &Prometheus, groups: &BTreeMap<String, Vec<String>>) {
    assert!(!groups.is_empty());
    let mut left: Vec<_> = groups.iter().collect();
    eventually_within("every expression has data", PATIENCE, || {
        left.retain(|(_, expressions)| !expressions.iter().any(|expression| prometheus.has_data(expression)));
        let named: Vec<_> = left.iter().map(|(name, expressions)| format!("{name}: {}", expressions[0])).collect();
        if named.is_empty() { Ok(()) } else { Err(format!("{} without:\n{}", named.len(), named.join("\n"))) }
    });
}

#[test]
#[ignore = "needs Prometheus"]
fn what_istios_dashboards_and_kiali_and_our_own_ask_for_is_there() {
    let world = World::start();
    let prometheus = Prometheus::start(&shipped(), &world.scraped());

    // Told by two nodes, scraped once, with the labels that dashboards choose by.
    eventually_within("all nodes are scraped", PATIENCE, || {
        let targets = prometheus.targets();
        let named: Vec<_> = targets.iter().filter_map(|one| one["labels"]["node"].as_str()).collect();
        let healthy = targets.iter().filter(|one| one["health"] == "up").count();
        if (named.len(), healthy) == (world::NODES.len(), world::NODES.len()) {
            return Ok(());
        }
        Err(format!("{targets:#?}"))
    });
    for target in prometheus.targets() {
        assert_eq!(target["labels"]["mesh"], harness::cluster::TRUST_DOMAIN, "{target}");
        assert_eq!(target["labels"]["locality"], "eu/eu-1a", "{target}");
    }

    have_data(&prometheus, &istio::expressions());
    have_data(&prometheus, &istio::kiali());
    for (metric, absent) in istio::labels() {
        let found = prometheus.query(&format!("topk(1, {metric})")).expect("it parses");
        let labels = found[0]["metric"].as_object().expect("labels");
        for label in istio::LABELS.iter().filter(|label| !absent.contains(label)) {
            assert!(
                labels.get(*label).and_then(Value::as_str).is_some_and(|text| !text.is_empty()),
                "{label}: {found:?}"
            );
        }
    }
    have_data(&prometheus, &dashboards::expressions(&shipped().join("grafana/dashboards")));
    if let Some(dir) = std::env::var_os("SKEIN_ISTIO_DASHBOARDS") {
        have_data(&prometheus, &dashboards::of_istio(&PathBuf::from(dir)));
    }
    let rules = prometheus.rules();
    assert!(rules.len() > 10, "{rules:?}");
    for rule in &rules {
        assert_eq!((&rule["health"], &rule["lastError"]), (&Value::from("ok"), &Value::Null), "{rule}");
    }
    let recorded = ["service:istio_requests:rate5m", "service:istio_requests_failed:ratio_rate5m"];
    let recorded = recorded.map(|name| (name.to_owned(), vec![name.to_owned()]));
    have_data(&prometheus, &recorded.into());

    // Who dies is still a target, and down.
    let (node, world) = ("two", world.without("two"));
    eventually_within("its absence is seen", PATIENCE, || {
        let found = prometheus.query(&format!("up{{node=\"{node}\"}} == 0"))?;
        if found.is_empty() { Err("not yet".to_owned()) } else { Ok(()) }
    });
    eventually_within("an alert waits", PATIENCE, || {
        let found = prometheus.query(&format!("ALERTS{{alertname=\"SkeinNodeDown\", node=\"{node}\"}}"))?;
        if found.is_empty() { Err("not yet".to_owned()) } else { Ok(()) }
    });
    drop(world);
}

#[test]
#[ignore = "needs Prometheus"]
fn promtool_accepts_the_configuration_and_every_alert_is_tested() {
    rules::hold(&shipped());
}

#[test]
fn dashboards_are_whole() {
    dashboards::are_whole(&shipped().join("grafana/dashboards"));
}
