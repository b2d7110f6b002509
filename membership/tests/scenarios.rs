//! Scenarios as `skein sim run` plays them, small enough for every run of the tests.

use membership::sim::{play::play, report::Report, scenario::Scenario};

fn report(text: &str) -> Report {
    let scenario: Scenario = toml::from_str(text).expect("a scenario");
    play(&scenario, None, &mut |_, _| {}).expect("makes sense")
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
    // News begin rounds of their own, and the slowest of ten seeds takes 2.3 s; by those of each second it took twice as long.
    assert!(report.spread_ms.is_some_and(|spread| spread.p100 < 3_000), "{report:?}");
}

#[test]
fn chitchat_itself_brings_everything_in_virtual_time() {
    let report = report(
        "nodes = 8\nduration = \"12s\"\nrumors = false\nrepair = \"chitchat\"\n[[event]]\nat = \"6s\"\ndo = \"put\"\nnodes = 3\n",
    );
    assert_eq!((report.unspread, report.false_deaths), (0, 0), "{report:?}");
    assert!(report.spread_ms.is_some_and(|spread| spread.p50 > 20), "no rumor told it: {report:?}");
    let runs = report.runs.as_ref().expect("chance is not all the seed's");
    assert_eq!(runs.count, 10);
    assert!(runs.spread_p100_ms.is_some_and(|spread| spread.p100 < 2_000), "{report:?}");
}

#[test]
fn chitchat_itself_plays_in_one_zone_of_few() {
    let refused = |nodes: usize, more: &str| {
        let text = format!("nodes = {nodes}\nduration = \"1s\"\nrepair = \"chitchat\"\n{more}");
        toml::from_str::<Scenario>(&text).expect("TOML").check().expect_err("refused").to_string()
    };
    assert!(refused(201, "").contains("200"));
    assert!(refused(100, "zones = 2\n").contains("one zone"));
    assert!(toml::from_str::<Scenario>("nodes = 3\nduration = \"1s\"\nrepair = \"swim\"\n").is_err());
}

#[test]
fn bytes_are_counted_within_the_window_alone() {
    let bytes = |window: &str| {
        let dies = "[[event]]\nat = \"10s\"\ndo = \"kill\"\nnodes = \"7-12\"\n";
        let report = report(&format!("{HEAD}duration = \"14s\"\nmeasure_from = \"5s\"\n{window}{dies}"));
        report.bytes_per_node_s["liveness"]
    };
    let (rest, all) = (bytes("measure_to = \"10s\"\n"), bytes(""));
    assert!(rest > 0 && all > rest * 3 / 2, "{rest} at rest, {all} with deaths");
    let text = format!("{HEAD}duration = \"9s\"\nmeasure_from = \"5s\"\nmeasure_to = \"5s\"\n");
    let refused = toml::from_str::<Scenario>(&text).expect("TOML").check().expect_err("refused").to_string();
    assert!(refused.contains("measure_to"), "{refused}");
}

#[test]
fn what_happens_after_the_last_look_has_happened() {
    let dies = |at: &str| format!("{HEAD}duration = \"10s\"\n[[event]]\nat = \"{at}\"\ndo = \"kill\"\nnodes = 7\n");
    let report = report(&dies("9995ms"));
    assert_eq!((report.undetected, report.settled_ms), (39, None), "nobody had the time to see it: {report:?}");
}

#[test]
fn a_node_joins_once() {
    let join = |at: u8, nodes: &str| format!("[[event]]\nat = \"{at}s\"\ndo = \"join\"\nnodes = {nodes}\n");
    let check = |events: &str| {
        let text = format!("{HEAD}duration = \"10s\"\n{events}");
        toml::from_str::<Scenario>(&text).expect("TOML").check()
    };
    check(&(join(1, "\"3-5\"") + &join(2, "6"))).expect("different ones");
    let refused = check(&(join(1, "\"3-5\"") + &join(2, "[6, 4]"))).expect_err("refused").to_string();
    assert!(refused.contains("event 2: nodes") && refused.contains("4 joins once"), "{refused}");
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

/// Of these seeds some had an answer that the carrier brought before it was told, or that was asked of one who could not hear the question.
#[test]
fn a_path_blocked_to_ever_more_kills_nobody() {
    for (nodes, last, seed, duration) in [(48, 31, 18, 22), (60, 39, 2, 62), (60, 39, 81, 22)] {
        let report = report(&format!(
            "nodes = {nodes}\nseed = {seed}\nduration = \"{duration}s\"\nlink = {{ jitter = \"1ms\" }}\n\
             [[event]]\nat = \"10s\"\ndo = \"block\"\nfrom = 0\nto = \"1-9\"\n\
             [[event]]\nat = \"16s\"\ndo = \"block\"\nfrom = 0\nto = \"10-{last}\"\n"
        ));
        assert_eq!(report.false_deaths, 0, "{nodes} nodes, seed {seed}: {report:?}");
    }
}

#[test]
fn one_that_is_out_of_reach_for_half_a_second_again_and_again_is_not_dead() {
    for seed in 0..4 {
        let events = (0..4).map(|round| {
            let at = |milliseconds: u64| format!("{}ms", 10_000 + round * 4_000 + milliseconds);
            happens(&at(0), "partition", "7") + &format!("[[event]]\nat = \"{}\"\ndo = \"heal\"\n", at(500))
        });
        let report = report(&format!("{HEAD}seed = {seed}\nduration = \"30s\"\n{}", events.collect::<String>()));
        assert_eq!(report.false_deaths, 0, "seed {seed}: {report:?}");
    }
}

/// A node that was out of reach twice, then of half of the mesh: those that watch it were wrong about it before, and others heard that.
#[test]
fn one_that_half_of_the_mesh_lost_after_two_short_gaps_is_not_dead() {
    let blocks = |at: &str, from: &str| format!("[[event]]\nat = \"{at}\"\ndo = \"block\"\nfrom = {from}\nto = 7\n");
    let all = "[\"0-6\", \"8-39\"]";
    let gap = |begin: u64| {
        let end = begin + 600;
        blocks(&format!("{begin}ms"), all) + &format!("[[event]]\nat = \"{end}ms\"\ndo = \"heal\"\n")
    };
    let events = [gap(8_000), gap(11_000), blocks("16s", "\"8-27\"")].concat();
    let report = report(&format!("{HEAD}seed = 0\nduration = \"38s\"\n{events}"));
    assert_eq!(report.false_deaths, 0, "{report:?}");
}

#[test]
fn one_that_stands_still_for_half_a_second_is_not_dead_and_then_dies() {
    let pauses = (0..3).map(|round| happens(&format!("{}s", 8 + round * 5), "pause", "7\nfor = \"450ms\""));
    let events = pauses.collect::<String>() + &happens("25s", "kill", "7");
    let report = report(&format!("{HEAD}duration = \"45s\"\n{events}"));
    assert_eq!((report.false_deaths, report.undetected), (0, 0), "{report:?}");
}

#[test]
fn a_third_that_lies_kills_nobody_hides_no_death_and_keeps_no_news_back() {
    let report = report(&format!(
        "{HEAD}duration = \"20s\"\n[[event]]\nat = \"5s\"\ndo = \"lie\"\nnodes = \"28-39\"\n\
         [[event]]\nat = \"8s\"\ndo = \"put\"\nnodes = \"0-2\"\n[[event]]\nat = \"10s\"\ndo = \"kill\"\nnodes = 10\n"
    ));
    assert_eq!((report.false_deaths, report.undetected, report.unspread), (0, 0, 0), "{report:?}");
}

/// After a push every node says that it holds it, too: its peers need to know, and all others hear it by repair.
#[test]
fn that_all_follow_is_heard_by_all_and_not_told_by_all_to_all() {
    let events = [happens("5s", "put", "3"), happens("8s", "follow", "\"0-79\"")];
    let measured = "measure_from = \"8s\"\nmeasure_to = \"10s\"\n";
    let link = "link = { delay = \"1ms\", jitter = \"1ms\" }\n";
    let report = report(&format!("nodes = 80\nduration = \"20s\"\n{measured}{link}{}", events.concat()));
    assert_eq!((report.unspread, report.false_deaths, report.state_hashes.len()), (0, 0, 1), "{report:?}");
    assert!(report.settled_ms.is_some_and(|settled| settled < 3_000), "{report:?}");
    // 61,841 where each passes on whatever it hears.
    assert!(report.bytes_per_node_s["policy"] < 10_000, "{report:?}");
}

#[test]
fn all_restart_at_once_and_find_each_other() {
    let report =
        report(&format!("{HEAD}duration = \"20s\"\n[[event]]\nat = \"8s\"\ndo = \"restart\"\nnodes = \"0-39\"\n"));
    assert!(report.settled_ms.is_some() && report.state_hashes.len() == 1, "{report:?}");
}

#[test]
fn what_one_that_starts_knows_from_its_disk_is_no_false_suspicion() {
    let report =
        report(&format!("{HEAD}duration = \"12s\"\n[[event]]\nat = \"8s\"\ndo = \"restart\"\nnodes = \"0-3\"\n"));
    assert_eq!((report.false_suspicions, report.false_deaths), (0, 0), "{report:?}");
}

const ZONES: &str = "nodes = 24\nzones = 3\nduration = \"16s\"\nlink = { delay = \"1ms\", jitter = \"1ms\" }\nbetween = { delay = \"20ms\" }\n";

fn happens(at: &str, what: &str, nodes: &str) -> String {
    format!("[[event]]\nat = \"{at}\"\ndo = \"{what}\"\nnodes = {nodes}\n")
}

#[test]
fn news_of_one_zone_reach_all_others_also_when_a_bridge_dies() {
    let events = [happens("5s", "put", "[5, 7]"), happens("8s", "kill", "0"), happens("8100ms", "put", "6")];
    let report = report(&format!("{ZONES}{}", events.concat()));
    let zones = report.zones.clone().expect("three zones");
    assert_eq!((zones.count, zones.bridge_links, zones.unspread, zones.deceived), (3, 6, 0, 0), "{report:?}");
    let spread = zones.spread_ms.expect("sixteen nodes and three news");
    assert!(spread.p50 >= 20 && spread.p100 < 3_000, "one way between zones takes 20 ms: {report:?}");
    assert_eq!((report.unspread, report.false_deaths), (0, 0), "{report:?}");
}

#[test]
fn what_one_bridge_makes_up_is_believed_by_nobody_and_keeps_nothing_back() {
    let events = [happens("5s", "lie", "1"), happens("8s", "put", "6")];
    let report = report(&format!("{ZONES}{}", events.concat()));
    let zones = report.zones.clone().expect("three zones");
    assert_eq!((zones.unspread, zones.deceived), (0, 0), "{report:?}");
}

#[test]
fn what_makes_no_sense_among_zones_is_refused() {
    for (text, word) in [
        (ZONES.replace("zones = 3", "zones = 5"), "as many in each zone"),
        (ZONES.replace("zones = 3", "zones = 0"), "zones"),
        (format!("{ZONES}{}", happens("5s", "put", "8")), "of the first zone"),
        (format!("{ZONES}{}", happens("5s", "partition", "1")), "for one pool"),
        ("nodes = 5000\nduration = \"1s\"\n".to_owned(), "a larger mesh is `zones`"),
    ] {
        let scenario: Scenario = toml::from_str(&text).expect("a scenario");
        let said = play(&scenario, None, &mut |_, _| {}).expect_err("refused").to_string();
        assert!(said.contains(word), "{said}");
    }
}

#[test]
fn nodes_stand_still_for_a_moment_and_no_longer() {
    let text =
        |lasts: &str| format!("{HEAD}duration = \"9s\"\n{}", happens("8s", "pause", &format!("7\nfor = \"{lasts}\"")));
    let check = |lasts: &str| toml::from_str::<Scenario>(&text(lasts)).expect("TOML").check();
    assert!(check("999ms").is_ok());
    let refused = check("1s").expect_err("refused").to_string();
    assert!(refused.contains("below 1s"), "{refused}");
}
