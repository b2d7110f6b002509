//! The expressions of Grafana's dashboards, with its variables filled in, and the form of our own.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use serde_json::Value;

use crate::{istio, world};

/// What stands for Grafana's variables: the longer names first. Services are filled in apart, for each of some.
const VARIABLES: &[(&str, &str)] = &[
    ("$__rate_interval", "30s"),
    ("$namespace", ".*"),
    ("$workload", ".*"),
    ("$datasource", ""),
    ("$srccluster", ".*"),
    ("$dstcluster", ".*"),
    ("$service", ".*"),
    ("$dstsvc", ".*"),
    ("$srcns", ".*"),
    ("$srcwl", ".*"),
    ("$dstns", ".*"),
    ("$dstwl", ".*"),
    ("$mesh", ".*"),
    ("$node", "two"),
    ("$qrep", "source|destination"),
];

fn filled(expression: &str) -> String {
    VARIABLES.iter().fold(expression.to_owned(), |text, (name, value)| text.replace(name, value))
}

fn files(dir: &Path, wanted: impl Fn(&str) -> bool) -> Vec<(String, Value)> {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let names = entries.map_while(Result::ok).map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<_> = names.filter(|name| name.ends_with(".json") && wanted(name)).collect();
    names.sort();
    let read = |name: String| {
        let text = fs::read_to_string(dir.join(&name)).expect("it was just listed");
        let board = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        (name, board)
    };
    let found: Vec<_> = names.into_iter().map(read).collect();
    assert!(!found.is_empty(), "no dashboard in {}", dir.display());
    found
}

fn panels(board: &Value) -> Vec<&Value> {
    let list = |value: &'static str, of: &'_ Value| of[value].as_array().map_or(0, Vec::len);
    let mut all = Vec::new();
    for panel in board["panels"].as_array().into_iter().flatten() {
        all.push(panel);
        if list("panels", panel) > 0 {
            all.extend(panel["panels"].as_array().into_iter().flatten());
        }
    }
    all
}

/// Title and expression of every target.
fn targets(board: &Value) -> Vec<(String, String)> {
    let of = |panel: &Value| -> Vec<(String, String)> {
        let title = panel["title"].as_str().unwrap_or_default().to_owned();
        let expressions = panel["targets"].as_array().into_iter().flatten().filter_map(|one| one["expr"].as_str());
        expressions.map(|expression| (title.clone(), expression.to_owned())).collect()
    };
    panels(board).into_iter().flat_map(of).collect()
}

/// Every expression of our own dashboards, each for itself.
pub(crate) fn expressions(dir: &Path) -> BTreeMap<String, Vec<String>> {
    let mut groups = BTreeMap::new();
    for (file, board) in files(dir, |_| true) {
        for (number, (title, expression)) in targets(&board).into_iter().enumerate() {
            groups.insert(format!("{file}: {title} ({number})"), vec![filled(&expression)]);
        }
        for variable in board["templating"]["list"].as_array().into_iter().flatten() {
            let Some(metric) = variable["definition"].as_str().and_then(|text| text.strip_prefix("label_values("))
            else {
                continue;
            };
            let (metric, label) = metric.trim_end_matches(')').rsplit_once(", ").expect("a metric and a label");
            groups.insert(format!("{file}: ${label}"), vec![format!("count by ({label}) ({})", filled(metric))]);
        }
    }
    groups
}

/// Every expression of Istio's own dashboards. What its panels show once with mutual TLS and once without is one group.
pub(crate) fn of_istio(dir: &Path) -> BTreeMap<String, Vec<String>> {
    let wanted = |name: &str| ["istio-mesh", "istio-service", "istio-workload"].iter().any(|one| name.starts_with(one));
    let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (file, board) in files(dir, wanted) {
        for (title, expression) in targets(&board) {
            let group = groups.entry(format!("{file}: {title}: {}", istio::with_mutual_tls(&expression))).or_default();
            // A service is named exactly; one that speaks HTTP has no bytes of connections, and the other way round.
            group.extend(
                world::SERVICES.map(|service| filled(&expression.replace("=\"$service\"", &format!("=\"{service}\"")))),
            );
        }
    }
    groups
}

/// What Grafana needs of a dashboard, and what a person needs of its panels.
pub(crate) fn are_whole(dir: &Path) {
    let mut uids = BTreeSet::new();
    for (file, board) in files(dir, |_| true) {
        let uid = board["uid"].as_str().unwrap_or_default().to_owned();
        assert!(format!("{uid}.json") == file && uids.insert(uid), "{file}: its uid is its name");
        assert!(board["title"].is_string() && board["schemaVersion"].is_u64(), "{file}");
        let (mut ids, mut taken) = (BTreeSet::new(), BTreeSet::new());
        for panel in panels(&board) {
            let title = panel["title"].as_str().unwrap_or_default();
            assert!(!title.is_empty() && ids.insert(panel["id"].as_u64()), "{file}: {panel}");
            let at = |name: &str| panel["gridPos"][name].as_u64().expect("a place");
            assert!(at("x") + at("w") <= 24, "{file}: {title} is too wide");
            for x in at("x")..at("x") + at("w") {
                for y in at("y")..at("y") + at("h") {
                    assert!(taken.insert((x, y)), "{file}: {title} lies over another panel");
                }
            }
            let mut references = BTreeSet::new();
            for target in panel["targets"].as_array().into_iter().flatten() {
                assert!(references.insert(target["refId"].as_str()), "{file}: {title}");
                assert_eq!(target["datasource"]["uid"], "${datasource}", "{file}: {title}");
                let left = filled(target["expr"].as_str().expect("an expression"));
                assert!(!left.contains('$'), "{file}: {title}: a variable without a value: {left}");
            }
            assert!(panel["type"] == "row" || !references.is_empty(), "{file}: {title} asks for nothing");
        }
    }
}
