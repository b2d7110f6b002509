//! What promtool says of the configuration and the rules, and whether their tests are of every alert.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use serde_json::Value;

use crate::prometheus::program;

/// Checks everything that is shipped for Prometheus.
pub(crate) fn hold(shipped: &Path) {
    promtool(shipped, &["check", "config", "prometheus.yml"]);
    let rules = ["rules/nodes.yml", "rules/traffic.yml"];
    promtool(shipped, &[&["check", "rules", "--lint=all", "--lint-fatal"], &rules[..]].concat());
    let tests = ["rules/tests/nodes.yml", "rules/tests/traffic.yml"];
    promtool(shipped, &[&["test", "rules"], &tests[..]].concat());

    let mut alerts = BTreeSet::new();
    for rule in rules.iter().flat_map(|file| groups(shipped, file)) {
        let Some(alert) = rule["alert"].as_str() else { continue };
        for field in ["/labels/severity", "/annotations/summary", "/annotations/description"] {
            assert!(rule.pointer(field).is_some_and(Value::is_string), "{alert} has no {field}");
        }
        alerts.insert(alert.to_owned());
    }
    let (mut fires, mut silent) = (BTreeSet::new(), BTreeSet::new());
    for test in tests.iter().flat_map(|file| tests_of(shipped, file)) {
        let name = test["alertname"].as_str().expect("a name").to_owned();
        let expected = test["exp_alerts"].as_array().is_some_and(|all| !all.is_empty());
        if expected {
            fires.insert(name)
        } else {
            silent.insert(name)
        };
    }
    assert_eq!(fires, alerts, "each alert is seen to fire");
    assert_eq!(silent.union(&fires).count(), alerts.len());
}

fn promtool(shipped: &Path, words: &[&str]) {
    let output =
        Command::new(program("promtool")).args(words).current_dir(shipped).output().expect("it can be started");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{words:?}: {}{}", text(&output.stdout), text(&output.stderr));
}

fn yaml(shipped: &Path, file: &str) -> Value {
    let text = fs::read_to_string(shipped.join(file)).expect("it is shipped");
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

fn groups(shipped: &Path, file: &str) -> Vec<Value> {
    list(&yaml(shipped, file)["groups"]).iter().flat_map(|group| list(&group["rules"])).collect()
}

fn tests_of(shipped: &Path, file: &str) -> Vec<Value> {
    list(&yaml(shipped, file)["tests"]).iter().flat_map(|test| list(&test["alert_rule_test"])).collect()
}
