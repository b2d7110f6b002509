//! Scenarios as `skein sim run` plays them, small enough for every run of the tests.

use membership::sim::{play::play, report::Report, scenario::Scenario};

fn report(text: &str) -> Report {
    let scenario: Scenario = toml::from_str(text).expect("a scenario");
    play(&scenario, None).expect("makes sense")
}

const HEAD: &str = "nodes = 40\nlink = { delay = \"1ms\", jitter = \"1ms\" }\n";

#[test]
fn the_same_seed_gives_the_same_report() {
    let text = |seed: u64| {
        format!(
            "{HEAD}seed = {seed}\nduration = \"8s\"\n[[event]]\nat = \"4s\"\ndo = \"put\"\nnodes = 3\n\
             [[event]]\nat = \"5s\"\ndo = \"kill\"\nnodes = 7\n"
        )
    };
    let first = report(&text(1));
    assert_eq!(first, report(&text(1)));
    assert_ne!(first.bytes_per_node_s, report(&text(2)).bytes_per_node_s);
}

#[test]
fn a_sparse_mesh_hears_news_and_deaths() {
    let report = report(&format!(
        "{HEAD}duration = \"14s\"\n[[event]]\nat = \"5s\"\ndo = \"put\"\nnodes = 3\n\
         [[event]]\nat = \"10s\"\ndo = \"kill\"\nnodes = 7\n"
    ));
    assert_eq!((report.unspread, report.undetected, report.false_deaths), (0, 0, 0), "{report:?}");
    assert_eq!(report.state_hashes.len(), 1, "{report:?}");
    assert!(report.settled_ms.is_some() && report.links[2] < 39, "{report:?}");
}

#[test]
fn without_rumors_repair_brings_everything() {
    let report =
        report(&format!("{HEAD}rumors = false\nduration = \"14s\"\n[[event]]\nat = \"5s\"\ndo = \"put\"\nnodes = 3\n"));
    assert_eq!(report.unspread, 0, "{report:?}");
    assert!(report.spread_ms.is_some_and(|spread| spread.p50 > 100), "no rumor told it: {report:?}");
}

#[test]
fn a_partition_heals_to_one_state() {
    let report = report(&format!(
        "{HEAD}duration = \"30s\"\n[[event]]\nat = \"5s\"\ndo = \"partition\"\nnodes = \"0-14\"\n\
         [[event]]\nat = \"15s\"\ndo = \"put\"\nnodes = [3, 20]\n[[event]]\nat = \"20s\"\ndo = \"heal\"\n"
    ));
    assert_eq!(report.false_deaths, 0, "{report:?}");
    assert!(report.settled_ms.is_some() && report.state_hashes.len() == 1, "{report:?}");
}

#[test]
fn a_fifth_of_all_messages_lost_kills_nobody() {
    let report = report("nodes = 40\nduration = \"30s\"\nlink = { jitter = \"20ms\", loss = 0.2 }\n");
    assert_eq!(report.false_deaths, 0, "{report:?}");
}

#[test]
fn a_path_blocked_one_way_kills_nobody() {
    let report = report(&format!(
        "{HEAD}duration = \"25s\"\n[[event]]\nat = \"5s\"\ndo = \"block\"\nfrom = 0\nto = \"1-9\"\n\
         [[event]]\nat = \"20s\"\ndo = \"heal\"\n"
    ));
    assert_eq!(report.false_deaths, 0, "{report:?}");
}

#[test]
fn all_restart_at_once_and_find_each_other() {
    let report =
        report(&format!("{HEAD}duration = \"20s\"\n[[event]]\nat = \"8s\"\ndo = \"restart\"\nnodes = \"0-39\"\n"));
    assert!(report.settled_ms.is_some() && report.state_hashes.len() == 1, "{report:?}");
}
