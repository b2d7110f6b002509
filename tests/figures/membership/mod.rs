//! The figures of membership: three real nodes, a hundred and a thousand simulated ones. `figures membership` plays minutes;
//! `figures membership-long` plays the hours of loss, starts thirty real nodes, and parts three of them where it is root.

mod parted;
mod real;

use std::fmt::Write as _;

use harness::process::Skein;
use serde_json::Value;

use crate::Figure;

/// What chitchat does by itself at a round a second, measured before this was built: 100 and 1,000 nodes.
const ALONE_SPREAD: [&str; 2] = ["chitchat alone: 2.2 s", "chitchat alone: 2.1 s and more"];
const ALONE_KILL: [&str; 2] = ["chitchat alone: 8.8 s", "chitchat alone: 10.9 s"];
const ALONE_BYTES: [&str; 2] = ["chitchat alone: 36 kB/s", "chitchat alone: 354 kB/s"];

/// Shares of messages that get lost.
const LOSSES: [f64; 2] = [0.05, 0.2];

const LINK: &str = "link = { delay = \"1ms\", jitter = \"1ms\" }";

pub(crate) fn figures(skein: &Skein) -> Vec<Figure> {
    crate::rooms(&[
        ("real", &|| real::figures(skein)),
        ("ten", &|| real::ten(skein)),
        ("hundred", &|| {
            let mut all = simulated(skein, 0, 100, [20.0, 3_000.0, 1_000.0, 15_000.0, 2_000.0]);
            all.push(joins(skein));
            all
        }),
        ("thousand", &|| simulated(skein, 1, 1_000, [50.0, 4_000.0, 1_500.0, 100_000.0, 3_000.0])),
        ("lossy", &|| LOSSES.map(|loss| lossy(skein, 100, loss, "5m")).into()),
        ("repaired", &|| vec![repaired(skein, 3, 2_000.0)]),
        ("long", &later),
    ])
}

/// What takes hours of virtual time, thirty processes, or root.
pub(crate) fn long(skein: &Skein) -> Vec<Figure> {
    crate::rooms(&[
        ("three", &|| LOSSES.map(|loss| lossy(skein, 3, loss, "1h")).into()),
        ("hundred", &|| LOSSES.map(|loss| lossy(skein, 100, loss, "1h")).into()),
        ("thousand", &|| LOSSES.map(|loss| lossy(skein, 1_000, loss, "1h")).into()),
        ("repaired", &|| vec![repaired(skein, 100, 3_000.0)]),
        ("thirty", &|| real::thirty(skein)),
        ("parted", &|| parted::figures(skein)),
    ])
}

/// What only [`long`] measures, so that nobody takes the short table for all of it.
fn later() -> Vec<Figure> {
    let because = "`figures -- membership-long` measures it";
    let deaths = |id: String| Figure::not_measured(id, "deaths", 0.0, because);
    let mut all = Vec::new();
    for loss in LOSSES {
        all.extend([3, 100, 1_000].map(|nodes| deaths(lossy_id(nodes, loss, "1h"))));
        all.push(deaths(parted::lossy_id(loss)));
    }
    all.push(Figure::not_measured("repair_p100_100_chitchat", "ms", 3_000.0, because));
    all.push(Figure::not_measured(parted::HEAL, "ms", 1_000.0, because));
    all.push(Figure::not_measured(real::REST_RESIDENT, "MiB", 25.0, because));
    all.push(Figure::not_measured(real::REST_CPU, "% of a core", 1.0, because));
    all
}

/// Plays a scenario in a process of its own.
fn play(skein: &Skein, scenario: &str) -> Value {
    let dir = tempfile::tempdir().expect("a directory for the scenario");
    let file = dir.path().join("scenario.toml");
    std::fs::write(&file, scenario).expect("a scenario on disk");
    let output = skein.command().args(["sim", "run", "-o", "json"]).arg(&file).output().expect("skein starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("a report")
}

fn event(at: &str, what: &str, nodes: &str) -> String {
    let nodes = if nodes.is_empty() { String::new() } else { format!("nodes = {nodes}\n") };
    format!("[[event]]\nat = \"{at}\"\ndo = \"{what}\"\n{nodes}")
}

/// A quantile, or infinity where it never came.
fn quantile(report: &Value, field: &str, missing: &str, quantile: &str) -> f64 {
    match report[missing].as_u64() {
        Some(0) => report[field][quantile].as_f64().unwrap_or(f64::INFINITY),
        _ => f64::INFINITY,
    }
}

fn bytes(report: &Value) -> f64 {
    let lanes = report["bytes_per_node_s"].as_object().expect("lanes");
    lanes.values().filter_map(Value::as_f64).sum()
}

fn simulated(skein: &Skein, size: usize, nodes: usize, bounds: [f64; 5]) -> Vec<Figure> {
    let [spread, repair, kill, rest, heal] = bounds;
    // A thousand need longer to find each other at once, which nobody asks of them.
    let (begin, later) = if nodes > 100 { (40, 10) } else { (20, 5) };
    // Bytes are those of rest: after the news, and before somebody dies.
    let rest_window = format!("measure_from = \"{}s\"\nmeasure_to = \"{}s\"\n", begin + later, begin + 20);
    let head = format!("nodes = {nodes}\n{LINK}\n");
    let mut puts = String::new();
    for number in 0..20 {
        puts.push_str(&event(&format!("{}ms", begin * 1_000 + number * 100), "put", &(number * 3).to_string()));
    }
    let died = play(
        skein,
        &format!(
            "{head}{rest_window}duration = \"{}s\"\n{puts}{}",
            begin + 25,
            event(&format!("{}s", begin + 20), "kill", "50")
        ),
    );
    let silent = play(
        skein,
        &format!("{head}rumors = false\nduration = \"{}s\"\n{}", begin + 15, event(&format!("{begin}s"), "put", "7")),
    );
    let half = nodes * 2 / 5;
    let parted = play(
        skein,
        &format!(
            "nodes = {nodes}\nduration = \"{}s\"\n{LINK}\n{}{}{}",
            begin + 640,
            event(&format!("{begin}s"), "partition", &format!("\"0-{}\"", half - 1)),
            event(&format!("{}s", begin + 300), "put", &format!("[1, {half}]")),
            event(&format!("{}s", begin + 600), "heal", ""),
        ),
    );
    let settled = parted["settled_ms"].as_f64().unwrap_or(f64::INFINITY);
    let one_state = parted["state_hashes"].as_array().is_some_and(|states| states.len() == 1);
    let id = |name: &str| format!("{name}_{nodes}");
    vec![
        Figure::at_most(
            id("spread_p99"),
            quantile(&died, "spread_ms", "unspread", "p99"),
            "ms",
            spread,
            ALONE_SPREAD[size],
        ),
        Figure::at_most(
            id("repair_p100"),
            quantile(&silent, "spread_ms", "unspread", "p100"),
            "ms",
            repair,
            "all rumors lost, chitchat's twin alone",
        ),
        Figure::at_most(
            id("kill_p100"),
            quantile(&died, "detection_ms", "undetected", "p100"),
            "ms",
            kill,
            ALONE_KILL[size],
        ),
        Figure::at_most(
            id("false_deaths"),
            died["false_deaths"].as_f64().unwrap_or(f64::INFINITY),
            "deaths",
            0.0,
            "in the same run",
        ),
        Figure::at_most(id("bytes_per_node_s"), bytes(&died), "B/s", rest, ALONE_BYTES[size]),
        Figure::at_most(
            id("heal"),
            if one_state { settled } else { f64::INFINITY },
            "ms",
            heal,
            "from the end of a partition of 10 min until all see one state",
        ),
    ]
}

fn joins(skein: &Skein) -> Figure {
    let report = play(skein, &format!("nodes = 100\nduration = \"10s\"\n{LINK}\n{}", event("0s", "join", "\"0-99\"")));
    let settled = report["settled_ms"].as_f64().unwrap_or(f64::INFINITY);
    Figure::at_most("join_100", settled, "ms", 1_000.0, "100 nodes start at once, until all see all")
}

/// What is fresh reaches all by chitchat itself, the very carrier of real nodes: the worst of ten runs.
fn repaired(skein: &Skein, nodes: usize, bound: f64) -> Figure {
    let head = format!("nodes = {nodes}\nduration = \"30s\"\nrumors = false\nrepair = \"chitchat\"\n{LINK}\n");
    let report = play(skein, &format!("{head}{}", event("15s", "put", "1")));
    let took = quantile(&report, "spread_ms", "unspread", "p100");
    Figure::at_most(
        format!("repair_p100_{nodes}_chitchat"),
        took,
        "ms",
        bound,
        "all rumors lost, chitchat itself in virtual time",
    )
}

fn lossy(skein: &Skein, nodes: usize, loss: f64, duration: &str) -> Figure {
    let mut scenario = format!("nodes = {nodes}\nduration = \"{duration}\"\nrepair = false\n");
    // Writing to a string does not fail.
    let _ = writeln!(scenario, "link = {{ delay = \"1ms\", jitter = \"20ms\", loss = {loss} }}");
    let report = play(skein, &scenario);
    let deaths = report["false_deaths"].as_f64().unwrap_or(f64::INFINITY);
    let how = format!("{duration} in which {}% of all messages get lost and nobody sends one again", loss * 100.0);
    Figure::at_most(lossy_id(nodes, loss, duration), deaths, "deaths", 0.0, how)
}

fn lossy_id(nodes: usize, loss: f64, duration: &str) -> String {
    format!("false_deaths_{nodes}_loss_{}_{duration}", loss * 100.0)
}
