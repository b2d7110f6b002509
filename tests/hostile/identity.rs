//! Stolen keys, spent tokens, wrong clocks (A60, A63, A66, A67, A71). What needs no process is in `certs/tests/all/attacks.rs`
//! (A56-A58, A61, A62, A68-A70); A55 is in `headers.rs`, A59 in `strangers.rs`, A65 in `misdirected.rs`; what a whole stolen
//! directory is good for is in `stolen.rs`.

use std::time::Duration;

use harness::{
    PATIENCE,
    cluster::{Cluster, Plan, Service},
    eventually, eventually_within, http, now,
    process::Skein,
};

use crate::pair;

fn alone() -> Cluster {
    let skein = Skein::at(env!("CARGO_BIN_EXE_skein-under-test"));
    Cluster::start(skein, &[("web", Plan::with([Service::client("shop/web")]))])
}

fn status(cluster: &Cluster) -> Result<u16, String> {
    http::get(cluster.node("web").outbound(), "reviews", "/").map(|answer| answer.status).map_err(|e| e.to_string())
}

/// A60: a stolen node is itself until it is evicted, and nothing afterwards, on live connections too.
#[test]
fn a60_a_stolen_node_is_nothing_after_its_eviction() {
    let mut cluster = pair();
    eventually("it is served", || if status(&cluster)? == 200 { Ok(()) } else { Err("not yet".into()) });
    // The same directory on another machine: the same node, and nobody else.
    let stolen = cluster.path().join("stolen");
    let copied = std::process::Command::new("cp").args(["-rp"]).arg(&cluster.node("reviews").dir).arg(&stolen).status();
    assert!(copied.expect("cp runs").success());
    cluster.on("web", &["evict", "reviews"]).expect_code(0);
    let evicted = now();
    eventually_within("live connections are closed", Duration::from_secs(5), || match status(&cluster) {
        Ok(200) => Err("still served".into()),
        Ok(_) | Err(_) => Ok(()),
    });
    assert!(evicted.elapsed() < PATIENCE);
    // The thief starts it again, in the place of the first.
    cluster.kill("reviews");
    std::fs::remove_dir_all(&cluster.node("reviews").dir).expect("it is ours");
    std::fs::rename(&stolen, &cluster.node("reviews").dir).expect("it is ours");
    let _ = cluster.try_run("reviews");
    let members = eventually("the thief is refused", || {
        let members = cluster.json("web", &["members"]).to_string();
        if cluster.log("reviews").is_empty() { Err(members) } else { Ok(members) }
    });
    assert!(!members.contains("\"alive\"") || cluster.alive("web") == 1, "{members}");
    assert_eq!(cluster.healthy("web", "shop/reviews"), 0);
    // A new invitation lets the machine in again.
    cluster.kill("reviews");
    let plan = Plan::with([Service::version("shop/reviews", "v1")]);
    let token = cluster.invite("reviews", &plan, &["--replace"]);
    let data = cluster.node("reviews").dir.join("data");
    std::fs::remove_dir_all(&data).expect("it is ours");
    cluster.join_with("reviews", &token).expect_code(0);
    cluster.run("reviews");
    cluster.wait_endpoints("shop/reviews", 1);
}

/// A63: a clock that is off by more than certificates are backdated and tolerated keeps its node out, on whichever side it errs, and
/// being right again heals it.
#[test]
fn a63_a_clock_that_is_wrong_is_refused_and_heals() {
    for (offset, said) in [("12m", "refused by web"), ("-12m", "no leaf")] {
        let mut cluster = alone();
        let plan = Plan::with([Service::version("shop/reviews", "v1")]);
        cluster.join("reviews", &plan);
        cluster.clock_offset = offset.to_owned();
        let _ = cluster.try_run("reviews");
        cluster.clock_offset.clear();
        eventually("the node says what is wrong", || {
            let status = cluster.json("reviews", &["status"])["problems"].to_string();
            let told = status.contains(said) || cluster.log("reviews").contains(said);
            if told { Ok(()) } else { Err(format!("{offset}: {status}\n{}", cluster.log("reviews"))) }
        });
        assert_eq!(cluster.healthy("web", "shop/reviews"), 0, "{offset}");
        cluster.kill("reviews");
        cluster.run("reviews");
        cluster.wait_endpoints("shop/reviews", 1);
    }
}

/// A66: a token that was redeemed is nobody else's.
#[test]
fn a66_a_token_with_another_key_is_refused() {
    let mut cluster = alone();
    let plan = Plan::with([Service::version("shop/reviews", "v1")]);
    let token = cluster.invite("reviews", &plan, &[]);
    cluster.prepare_only("reviews", &plan);
    cluster.join_with("reviews", &token).expect_code(0);
    cluster.prepare_only("thief", &plan);
    let config = cluster.node("thief").config();
    let text =
        std::fs::read_to_string(&config).expect("it was written").replace("name = \"thief\"", "name = \"reviews\"");
    std::fs::write(&config, text).expect("it is ours");
    let file = cluster.file("again.token", &token);
    let refused = cluster.on("thief", &["join", "--token-file", &file.to_string_lossy(), "-o", "json"]);
    assert_eq!((refused.code, refused.error()["error"]["code"].as_str()), (5, Some("token_spent")), "{refused:?}");
    assert!(cluster.log("web").contains("a spent token was shown with another key"), "{}", cluster.log("web"));
}

/// A67: an expired token is refused, and says so.
#[test]
fn a67_an_expired_token_is_refused() {
    let mut cluster = alone();
    let plan = Plan::with([Service::version("shop/reviews", "v1")]);
    let token = cluster.invite("reviews", &plan, &["--ttl", "1s"]);
    cluster.prepare_only("reviews", &plan);
    std::thread::sleep(Duration::from_millis(1_100));
    let file = cluster.file("late.token", &token);
    let refused = cluster.on("reviews", &["join", "--token-file", &file.to_string_lossy(), "-o", "json"]);
    assert_eq!((refused.code, refused.error()["error"]["code"].as_str()), (5, Some("token_expired")), "{refused:?}");
}

/// A71: the enroller dies between the redemption and what comes after it; the same keys get the same certificate, others none.
#[test]
fn a71_a_killed_enroller_remembers_what_it_redeemed() {
    let mut cluster = alone();
    let plan = Plan::with([Service::version("shop/reviews", "v1")]);
    let token = cluster.invite("reviews", &plan, &[]);
    cluster.prepare_only("reviews", &plan);
    cluster.join_with("reviews", &token).expect_code(0);
    let data = cluster.node("reviews").dir.join("data");
    let first = std::fs::read_to_string(data.join("ca.pem")).expect("it joined");
    cluster.kill("web");
    cluster.run("web");
    // As if the reply had been lost: the keys are there, the rest is not.
    for name in ["node.json", "ca.pem", "store.redb"] {
        std::fs::remove_file(data.join(name)).expect("join wrote it");
    }
    cluster.join_with("reviews", &token).expect_code(0);
    assert_eq!(std::fs::read_to_string(data.join("ca.pem")).expect("it joined again"), first);
    for name in ["node.json", "ca.key", "record.key"] {
        std::fs::remove_file(data.join(name)).expect("join wrote it");
    }
    let file = cluster.file("again.token", &token);
    let refused = cluster.on("reviews", &["join", "--token-file", &file.to_string_lossy(), "-o", "json"]);
    assert_eq!(refused.error()["error"]["code"], "token_spent", "{refused:?}");
}
