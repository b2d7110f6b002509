//! Stolen keys, spent tokens, wrong clocks, a root that changes (A60, A63, A64, A66, A67, A71). What needs no process is in
//! `certs/tests/all/attacks.rs` (A56-A58, A61, A62, A68-A70); A55 is in `headers.rs`, A59 in `strangers.rs`, A68 and the rest of A67 in `tokens.rs`,
//! A65 in `misdirected.rs`; what a whole stolen directory is good for, its live connections and tickets (A60, A61), is in `stolen.rs`.

use std::time::Duration;

use certs::{
    ca::{CaKey, Enroller},
    grant::NodeGrant,
    id::{NodeId, TrustDomain},
    root::Root,
    sign::SigningKey,
};
use harness::{
    PATIENCE,
    cluster::{Cluster, Plan, Service, TRUST_DOMAIN},
    eventually, eventually_within, http,
    load::Load,
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

/// Cases that mostly wait, each with a mesh of its own.
fn all_at_once<T: Send, const N: usize>(cases: [T; N], run: impl Fn(T) + Sync) {
    let run = &run;
    std::thread::scope(|scope| cases.map(|case| scope.spawn(move || run(case))).map(drop));
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
    eventually("live connections are closed", || match status(&cluster) {
        Ok(200) => Err("still served".into()),
        Ok(_) | Err(_) => Ok(()),
    });
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
    all_at_once([("12m", "refused by web"), ("-12m", "no leaf")], |(offset, said)| {
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
    });
}

/// A63: ten minutes are just what certificates are backdated by and what is tolerated, together: whether its peers let it in or not, the
/// node's clock is named, and being right again heals it.
#[test]
fn a63_a_clock_ten_minutes_off_is_named_and_heals() {
    all_at_once(["10m", "-10m"], |offset| {
        let mut cluster = alone();
        cluster.join("reviews", &Plan::with([Service::version("shop/reviews", "v1")]));
        cluster.clock_offset = offset.to_owned();
        let _ = cluster.try_run("reviews");
        cluster.clock_offset.clear();
        eventually_within("the node names its clock", Duration::from_secs(40), || {
            let told = cluster.json("reviews", &["status"])["problems"].to_string();
            let log = cluster.log("reviews");
            let words = ["clock_", "refused by web", "no leaf"];
            let is_told = words.iter().any(|word| told.contains(word) || log.contains(word));
            if is_told { Ok(()) } else { Err(format!("{offset}: {told}\n{log}")) }
        });
        cluster.kill("reviews");
        cluster.run("reviews");
        cluster.wait_endpoints("shop/reviews", 1);
        eventually("it is well again", || {
            let told = cluster.json("reviews", &["status"])["problems"].to_string();
            if told.contains("clock_") { Err(told) } else { Ok(()) }
        });
    });
}

/// A clock that is off by less than what is refused is named, and a node that is cut off for it says so.
#[test]
fn a63_a_clock_that_drifts_is_reported_against_its_peers() {
    all_at_once([("-3m", "clock_drift"), ("3m", "clock_drift"), ("-15m", "clock_behind")], |(offset, wanted)| {
        let mut cluster = alone();
        cluster.join("reviews", &Plan::with([Service::version("shop/reviews", "v1")]));
        cluster.clock_offset = offset.to_owned();
        let _ = cluster.try_run("reviews");
        cluster.clock_offset.clear();
        let told = eventually_within("the node names its clock", Duration::from_secs(40), || {
            let status = cluster.json("reviews", &["status"]);
            if status["problems"].to_string().contains(wanted) {
                Ok(status)
            } else {
                Err(format!("{offset}: {status}"))
            }
        });
        assert_eq!(told["clock"]["bound_ms"], 60_000);
        if wanted == "clock_drift" {
            let drift = told["clock"]["drift_ms"].as_i64().expect("one peer has answered");
            assert!((120_000..240_000).contains(&drift.abs()) && (drift < 0) == offset.starts_with('-'), "{told}");
            let checked = cluster.on("reviews", &["check", "-o", "json"]);
            assert!(checked.out.contains("clock_drift"), "{checked:?}");
        }
        assert!(cluster.json("web", &["status"])["problems"].to_string().find(wanted).is_none_or(|_| offset != "-15m"));
    });
}

/// A64: the root changes under load and nothing fails; who holds the withdrawn root's key is nobody then.
#[test]
fn a64_a_root_is_rotated_under_load_and_the_old_one_proves_nothing() {
    let mut cluster = pair();
    let load = Load::start(cluster.node("web").outbound(), "reviews", "/", 50);
    for step in ["start", "advance", "finish"] {
        cluster.on("web", &["ca", "rotate", step, "--timeout", "40s"]).expect_code(0);
    }
    let tally = load.stop();
    assert!(tally.failed == 0 && tally.requests > 50, "{tally:?}");
    // The thief has the old root's key and the machine of reviews, and puts a CA key of its own in the place of that node's.
    cluster.kill("reviews");
    let old = std::fs::read_dir(cluster.operator()).expect("init made it").filter_map(Result::ok);
    let old = old.map(|entry| entry.path()).find(|path| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        name.starts_with("root.") && name != "root.key"
    });
    let pem = std::fs::read_to_string(old.expect("the old key stays under its own name")).expect("it is ours");
    let data = cluster.node("reviews").dir.join("data");
    forge(&pem, &data);
    let _ = cluster.try_run("reviews");
    eventually_within("the enroller refuses to renew it", Duration::from_secs(60), || {
        let log = cluster.log("reviews");
        if log.contains("known with another CA key") { Ok(()) } else { Err(log) }
    });
    // The one that was killed may not be missed yet; the thief does not come in its place.
    eventually("reviews is gone", || match cluster.healthy("web", "shop/reviews") {
        0 => Ok(()),
        healthy => Err(healthy.to_string()),
    });
    assert_ne!(status(&cluster), Ok(200));
}

/// Puts a node CA into a state directory that the root certifies by an enroller CA in the enroller's name.
fn forge(root: &str, data: &std::path::Path) {
    let (mesh, now) = (TrustDomain::new(TRUST_DOMAIN).expect("a name"), node::clock::wall());
    let root = Root::from_pem(&mesh, root).expect("a root's key");
    let (enroller_key, ca_key) = (CaKey::generate(), CaKey::generate());
    let web = NodeId::new("web").expect("a name");
    let certificate = root.issue_enroller(&web, 1, &enroller_key.spki(), now).expect("the key is whole");
    let enroller = Enroller::new(&mesh, vec![certificate], enroller_key).expect("it is its own");
    let record = std::fs::read_to_string(data.join("record.key")).expect("the node made it");
    let record = SigningKey::from_pem(&record).expect("a key");
    let grant = NodeGrant {
        node: NodeId::new("reviews").expect("a name"),
        epoch: 1,
        services: vec!["shop/reviews".parse().expect("a service")],
        token_hash: None,
        redeemer: None,
        token_expires: None,
        enroller: false,
        retired: false,
    };
    let chain = enroller.issue_node_unchecked(&ca_key.spki(), &grant.certified(record.public()), now).expect("a chain");
    std::fs::write(data.join("ca.key"), ca_key.to_pem().as_bytes()).expect("it is ours");
    std::fs::write(data.join("ca.pem"), certs::root::bundle_to_pem(&chain)).expect("it is ours");
}

/// A66: a token that was redeemed is nobody else's.
#[test]
fn a66_a_token_with_another_key_is_refused() {
    let mut cluster = alone();
    let plan = Plan::with([Service::version("shop/reviews", "v1")]);
    let token = cluster.invite("reviews", &plan, &[]);
    cluster.prepare_only("reviews", &plan);
    cluster.join_with("reviews", &token).expect_code(0);
    join_again(&mut cluster, &plan, &token);
    assert!(cluster.log("web").contains("a spent token was shown with another key"), "{}", cluster.log("web"));
    let events = cluster.json("web", &["events"]).to_string();
    assert!(events.contains("token_reused") && events.contains("asks to join as reviews"), "{events}");
}

/// A second machine shows the token of `reviews`, and is told that it is spent.
fn join_again(cluster: &mut Cluster, plan: &Plan, token: &str) {
    cluster.prepare_only("thief", plan);
    let config = cluster.node("thief").config();
    let text =
        std::fs::read_to_string(&config).expect("it was written").replace("name = \"thief\"", "name = \"reviews\"");
    std::fs::write(&config, text).expect("it is ours");
    let file = cluster.file("again.token", token);
    let refused = cluster.on("thief", &["join", "--token-file", &file.to_string_lossy(), "-o", "json"]);
    assert_eq!((refused.code, refused.error()["error"]["code"].as_str()), (5, Some("token_spent")), "{refused:?}");
}

/// A66: the same where the enroller's disk is put back to what it was before, and nobody has seen the machine that joined.
#[test]
fn a66_a_token_is_not_redeemed_again_from_a_backup() {
    let mut cluster = alone();
    cluster.join("third", &Plan::default());
    cluster.run("third");
    cluster.wait_members(PATIENCE);
    let copy = |from: &std::path::Path, to: &std::path::Path| {
        let copied = std::process::Command::new("cp").arg("-rp").arg(from).arg(to).status();
        assert!(copied.expect("cp runs").success());
    };
    let (data, backup) = (cluster.node("web").dir.join("data"), cluster.path().join("backup"));
    cluster.terminate("web");
    copy(&data, &backup);
    cluster.run("web");
    cluster.wait_members(PATIENCE);
    let plan = Plan::with([Service::version("shop/reviews", "v1")]);
    let token = cluster.invite("reviews", &plan, &[]);
    cluster.prepare_only("reviews", &plan);
    cluster.join_with("reviews", &token).expect_code(0);
    let entries = cluster.json("web", &["policy", "audit", "log"]).as_array().map_or(0, Vec::len);
    eventually("the third has heard of it", || {
        let admin = cluster.node("third").address("admin");
        let heads = http::get(admin, &admin.to_string(), "/v1/policy/audit/heads").map_err(|e| e.to_string())?.text();
        if heads.contains(&format!("\"count\":{entries}")) { Ok(()) } else { Err(format!("{entries}: {heads}")) }
    });
    cluster.kill("web");
    std::fs::remove_dir_all(&data).expect("it is ours");
    copy(&backup, &data);
    cluster.run("web");
    join_again(&mut cluster, &plan, &token);
    let events = cluster.json("web", &["events"]).to_string();
    assert!(events.contains("store_rolled_back") && events.contains("token_burnt"), "{events}");
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
