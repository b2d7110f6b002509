//! Getting in: once, with what was granted, and with nothing kept.

use harness::{
    cluster::{Cluster, Plan, Service, TRUST_DOMAIN},
    eventually,
};

use crate::skein;

fn mesh_of_one() -> Cluster {
    Cluster::start(skein(), &[("first", Plan::with([Service::client("shop/web")]))])
}

fn reviews() -> Plan {
    Plan::with([Service::version("shop/reviews", "v1")])
}

#[test]
fn where_a_token_leads_is_said_before_and_after() {
    let mut cluster = mesh_of_one();
    let invited = cluster.on("first", &["invite", "second", "--no-service", "-o", "json"]).expect_code(0);
    let at = invited.json()["addresses"][0].as_str().expect("an address").to_owned();
    assert!(invited.err.contains(&format!("second will call first at {at}")), "{invited:?}");
    // The whole mesh is on this machine, as its configuration says.
    assert!(!invited.err.contains("warning"), "{invited:?}");
    let token = invited.json()["token"].as_str().expect("a token").to_owned();
    cluster.kill("first");
    cluster.prepare_only("second", &Plan::default());
    let refused = cluster.join_with("second", &token);
    assert!(refused.err.contains(&at) && refused.err.contains("[mesh] advertise at first"), "{refused:?}");
}

#[test]
fn root_is_told_who_may_join_in_a_directory_of_the_nodes_user() {
    if !nix::unistd::geteuid().is_root() {
        // Nobody else is refused for that reason.
        return;
    }
    let mut cluster = mesh_of_one();
    let token = cluster.invite("second", &reviews(), &[]);
    cluster.prepare_only("second", &reviews());
    let data = cluster.node("second").dir.join("data");
    std::fs::create_dir_all(&data).expect("it is ours");
    std::fs::set_permissions(&data, std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("it is ours");
    std::os::unix::fs::chown(&data, Some(1), None).expect("root may");
    let config = cluster.node("second").config().to_string_lossy().into_owned();
    let refused = cluster.join_with("second", &token);
    let wanted = format!("sudo -u daemon skein --config {config} join");
    assert!(refused.err.contains("key_permissions") && refused.err.contains(&wanted), "{refused:?}");
    // Nothing is amiss there, and a look changes nothing.
    let found = cluster.on("second", &["check", "-o", "json"]).json().to_string();
    assert!(!found.contains("key_permissions"), "{found}");
    assert_eq!(std::fs::read_dir(&data).expect("it is there").count(), 0);
}

#[test]
fn a_token_works_once() {
    let mut cluster = mesh_of_one();
    let token = cluster.invite("second", &reviews(), &[]);
    cluster.prepare_only("second", &reviews());
    cluster.join_with("second", &token).expect_code(0);
    cluster.prepare_only("thief", &reviews());
    let file = cluster.path().join("thief/skein.toml");
    let text = std::fs::read_to_string(&file).expect("written").replace("name = \"thief\"", "name = \"second\"");
    std::fs::write(&file, text).expect("writable");
    let refused = cluster.join_with("thief", &token);
    assert_eq!(refused.code, 5, "{refused:?}");
    assert!(refused.err.contains("token"), "{refused:?}");
    let data = cluster.path().join("second/data");
    let kept = std::fs::read_dir(data).expect("a directory").map_while(Result::ok).any(|entry| {
        std::fs::read(entry.path())
            .is_ok_and(|bytes| bytes.windows(token.len()).any(|window| window == token.as_bytes()))
    });
    assert!(!kept, "after joining no token is kept");
}

#[test]
fn an_expired_or_mangled_token_is_refused() {
    let mut cluster = mesh_of_one();
    let token = cluster.invite("second", &reviews(), &["--ttl", "1s"]);
    std::thread::sleep(std::time::Duration::from_millis(1500));
    cluster.prepare_only("second", &reviews());
    let expired = cluster.join_with("second", &token);
    assert_eq!(expired.code, 5, "{expired:?}");
    assert!(expired.err.contains("expired"), "{expired:?}");
    // Nobody is told to start what never was.
    let problems = cluster.json("first", &["status"])["problems"].clone();
    let missing = problems.as_array().and_then(|all| all.iter().find(|problem| problem["code"] == "members_missing"));
    let hint = missing.and_then(|missing| missing["hint"].as_str()).unwrap_or_default();
    assert!(hint.starts_with("second was invited and did not join in time"), "{problems}");
    let mangled = cluster.join_with("second", "skein1.AAAA");
    assert!(mangled.code == 2 || mangled.code == 5, "{mangled:?}");
    assert!(mangled.err.contains("token"), "{mangled:?}");
}

#[test]
fn what_is_not_granted_cannot_be_registered() {
    let mut cluster = mesh_of_one();
    let token = cluster.invite("second", &reviews(), &[]);
    let more = Plan::with([Service::version("shop/reviews", "v1"), Service::version("bank/vault", "v1")]);
    cluster.prepare_only("second", &more);
    cluster.join_with("second", &token).expect_code(0);
    // What it was granted goes on.
    cluster.run("second");
    cluster.wait_endpoints("shop/reviews", 1);
    let log = cluster.log("second");
    assert!(log.contains("skein grant second bank/vault=default"), "{log}");
    assert_eq!(cluster.healthy("first", "bank/vault"), 0);
    // Whichever node is asked knows what is amiss at another.
    eventually("it is known elsewhere", || {
        let said = cluster.json("first", &["status", "--mesh"]);
        let mut problems = said["problems"].as_array().into_iter().flatten();
        let found = problems.any(|one| one["code"] == "not_granted" && one["nodes"] == serde_json::json!(["second"]));
        if found && said["certificates"].as_array().is_some_and(|all| all.len() == 2) {
            Ok(())
        } else {
            Err(said.to_string())
        }
    });
    let text = cluster.on("first", &["status", "--mesh"]).expect_code(0).out;
    assert!(text.contains("at second: ") && text.contains("heard         2 nodes"), "{text}");
    let checked = cluster.on("first", &["check", "-o", "json"]).json();
    let mut found = checked.as_array().into_iter().flatten();
    let verdict = found.find(|one| one["id"] == "mesh.problems").map(|one| one["verdict"].clone());
    assert_eq!(verdict, Some("warning".into()), "{checked}");
    cluster.on("first", &["grant", "second", "bank/vault"]).expect_code(0);
    cluster.wait_endpoints("bank/vault", 1);
}

#[test]
fn a_node_of_another_mesh_stays_out() {
    let mut ours = mesh_of_one();
    let theirs = Cluster::start(skein(), &[("first", Plan::with([Service::client("shop/web")]))]);
    let token = theirs.invite("second", &reviews(), &[]);
    // Same trust domain name, another root: the token names another genesis.
    ours.prepare_only("second", &reviews());
    ours.join_with("second", &token).expect_code(0);
    let members = ours.json("first", &["members"]);
    assert_eq!(
        members.as_array().map(Vec::len),
        Some(1),
        "it joined the mesh of its token, {TRUST_DOMAIN} by name: {members}"
    );
}

#[test]
fn an_evicted_node_is_out_and_stays_out() {
    let mut cluster = mesh_of_one();
    cluster.join("second", &reviews());
    cluster.run("second");
    cluster.wait_endpoints("shop/reviews", 1);
    cluster.on("first", &["evict", "second"]).expect_code(0);
    let again = cluster.json("first", &["evict", "second"]);
    assert_eq!(again["unchanged"], true, "nothing is signed twice: {again}");
    harness::eventually("the evicted node's endpoint is gone", || {
        let seen = cluster.healthy("first", "shop/reviews");
        if seen == 0 { Ok(()) } else { Err(format!("{seen} seen")) }
    });
    let outbound = cluster.node("first").outbound();
    let answer = harness::http::get(outbound, "reviews", "/").expect("an answer");
    assert_ne!(answer.status, 200, "{answer:?}");
    harness::eventually("it is told why nobody talks to it", || {
        let status = cluster.json("second", &["status"]);
        let told = status["problems"].to_string().contains("refused by first") && status["members"]["seen"] == 1;
        if told { Ok(()) } else { Err(status.to_string()) }
    });
    // Others hang up after the handshake: that must not count as having met them again.
    let met = || cluster.log("second").matches("first is alive").count();
    let before = met();
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!(met(), before, "{}", cluster.log("second"));
}

#[test]
fn a_node_is_called_by_name_as_soon_as_it_runs() {
    let mut cluster = mesh_of_one();
    // The operator's last call is the invitation, before the node was there.
    cluster.join("second", &reviews());
    cluster.run("second");
    let listed = harness::eventually("the mesh tells the operator of it", || {
        let said = cluster.on("first", &["members", "--node", "second", "-o", "json"]);
        if said.code == 0 { Ok(said.json()) } else { Err(format!("{said:?}")) }
    });
    let own = listed.as_array().and_then(|all| all.iter().find(|member| member["self"] == true)).cloned();
    assert_eq!(own.expect("it answers itself")["name"], "second", "{listed}");
    let stranger = cluster.on("first", &["members", "--node", "third", "-o", "json"]);
    assert_eq!(stranger.error()["error"]["code"], "not_found", "{stranger:?}");
}

#[test]
fn the_enroller_is_not_shut_out_by_accident() {
    let mut cluster = mesh_of_one();
    cluster.join("second", &reviews());
    cluster.run("second");
    cluster.wait_endpoints("shop/reviews", 1);
    for words in [vec!["evict", "first", "-o", "json"], vec!["leave", "-o", "json"]] {
        let refused = cluster.on("first", &words);
        assert_eq!(refused.code, 5, "{refused:?}");
        assert_eq!(refused.error()["error"]["code"], "enroller_needed", "{refused:?}");
    }
    cluster.wait_endpoints("shop/reviews", 1);
}

#[test]
fn an_eviction_asked_of_the_evicted_reaches_the_others() {
    let mut cluster = mesh_of_one();
    cluster.join("second", &reviews());
    cluster.run("second");
    cluster.wait_endpoints("shop/reviews", 1);
    cluster.on("second", &["evict", "second"]).expect_code(0);
    harness::eventually("the others know", || {
        let members = cluster.json("first", &["members"]).to_string();
        if members.contains("evicted") { Ok(()) } else { Err(members) }
    });
}

#[test]
fn a_machine_that_reaches_no_enroller_joins_by_files() {
    let mut cluster = mesh_of_one();
    let token = cluster.file("second.token", &cluster.invite("second", &reviews(), &[]));
    cluster.prepare_only("second", &reviews());
    let path = |path: std::path::PathBuf| path.to_string_lossy().into_owned();
    let token = path(token);
    let asked = cluster.on("second", &["ca", "csr"]).expect_code(0).out;
    assert!(asked.starts_with("node second\ntrust_domain test.example\nrecord_key ed25519:"), "{asked}");
    let half = cluster.on("second", &["ca", "csr", "--name", "second"]);
    assert_eq!(half.code, 2, "{half:?}");
    let other = cluster.on("second", &["ca", "csr", "--name", "third", "--trust-domain", "test.example", "-o", "json"]);
    assert_eq!(other.error()["error"]["code"], "bad_config", "{other:?}");
    // Asked again, it asks for the same keys.
    let again =
        cluster.on("second", &["ca", "csr", "--name", "second", "--trust-domain", "test.example"]).expect_code(0).out;
    assert_eq!(again.lines().take(3).collect::<Vec<_>>(), asked.lines().take(3).collect::<Vec<_>>());
    let request = path(cluster.file("second.csr", &asked));
    // Not without a token, and not by another node's.
    let refused = cluster.on("first", &["ca", "sign", &request, "-o", "json"]);
    assert_eq!(refused.error()["error"]["code"], "usage", "{refused:?}");
    let other = path(cluster.file("third.token", &cluster.invite("third", &reviews(), &[])));
    let refused = cluster.on("first", &["ca", "sign", &request, "--token-file", &other, "-o", "json"]);
    assert_eq!(refused.error()["error"]["code"], "token_invalid", "{refused:?}");
    let signed = cluster.on("first", &["ca", "sign", &request, "--token-file", &token]).expect_code(0);
    let genesis = signed.err.split_once("--genesis ").expect("it says which mesh it is").1.trim().to_owned();
    let known = std::fs::read_to_string(cluster.operator().join("mesh.toml")).expect("init made it");
    assert!(known.contains(&genesis), "an operator can look it up: {known}");
    let signed = signed.out;
    let enrolment = path(cluster.file("second.enrolment", &signed));
    // Whoever had the file in hand could have put another mesh into it.
    let untold = cluster.on("second", &["join", "--enrolment", &enrolment, "-o", "json"]);
    assert!(untold.error()["error"]["code"] == "usage" && untold.err.contains("--genesis"), "{untold:?}");
    let own = "0".repeat(64);
    let changed = path(cluster.file("changed.enrolment", &signed.replacen(&genesis, &own, 1)));
    for (file, wanted) in [(&enrolment, &own), (&changed, &genesis)] {
        let refused = cluster.on("second", &["join", "--enrolment", file, "--genesis", wanted, "-o", "json"]);
        assert_eq!(refused.error()["error"]["code"], "wrong_trust_domain", "{refused:?}");
    }
    let refused = cluster.on("second", &["join", "--enrolment", &changed, "--genesis", &own, "-o", "json"]);
    assert!(refused.code != 0 && refused.err.contains("another mesh"), "nor does its policy begin so: {refused:?}");
    // Another machine, or other keys, get nothing by it.
    cluster.prepare_only("thief", &reviews());
    let refused = cluster.on("thief", &["join", "--enrolment", &enrolment, "--genesis", &genesis, "-o", "json"]);
    assert_eq!(refused.error()["error"]["code"], "token_invalid", "{refused:?}");
    let file = cluster.path().join("thief/skein.toml");
    let text = std::fs::read_to_string(&file).expect("written").replace("name = \"thief\"", "name = \"second\"");
    std::fs::write(&file, text).expect("writable");
    let refused = cluster.on("thief", &["join", "--enrolment", &enrolment, "--genesis", &genesis, "-o", "json"]);
    assert!(refused.code != 0 && refused.err.contains("the key is another one's"), "{refused:?}");
    // Nor do damaged ones.
    for (damage, text) in
        [("cut", signed[..signed.len() / 2].to_owned()), ("other", signed.replacen("\"node\"", "\"nobody\"", 1))]
    {
        let damaged = path(cluster.file("damaged.enrolment", &text));
        let refused = cluster.on("second", &["join", "--enrolment", &damaged, "--genesis", &genesis, "-o", "json"]);
        assert_eq!(refused.error()["error"]["code"], "bad_request", "{damage}: {refused:?}");
    }
    cluster.on("second", &["join", "--enrolment", &enrolment, "--genesis", &genesis]).expect_code(0);
    let twice = cluster.on("second", &["join", "--enrolment", &enrolment, "--genesis", &genesis, "-o", "json"]);
    assert_eq!(twice.error()["error"]["code"], "already_exists", "{twice:?}");
    // The token is spent; the node needs none.
    cluster.run("second");
    cluster.wait_endpoints("shop/reviews", 1);
    let spent = cluster.join_with("thief", &std::fs::read_to_string(&token).expect("written"));
    assert_eq!(spent.code, 5, "{spent:?}");
    let kept = std::fs::read_to_string(cluster.path().join("second/data/ca.pem")).expect("it joined");
    assert!(signed.contains(kept.lines().nth(1).expect("a certificate")), "{kept}");
}

#[test]
fn the_name_of_a_machine_that_was_off_for_months_is_given_away_only_by_replace() {
    let mut cluster = mesh_of_one();
    cluster.join("second", &reviews());
    cluster.run("second");
    cluster.wait_members(harness::PATIENCE);
    for name in ["second", "first"] {
        assert!(cluster.terminate(name).is_some_and(|status| status.success()), "{name}: {}", cluster.log(name));
    }
    cluster.clock_offset = "70d".to_owned();
    cluster.run("first");
    eventually("nobody sees the second any more", || {
        let members = cluster.json("first", &["members", "--all"]);
        if members.as_array().is_some_and(|all| all.len() == 1) { Ok(()) } else { Err(members.to_string()) }
    });
    let refused = cluster.on("first", &["invite", "second", "--no-service", "-o", "json"]);
    assert_eq!(refused.error()["error"]["code"], "already_exists", "{refused:?}");
    // What it ran need not be said again, on a day when nobody may know it.
    let replaced = cluster.on("first", &["invite", "second", "--replace"]).expect_code(0);
    assert!(replaced.err.contains("may run what it might before: shop/reviews"), "{replaced:?}");
    let nobody = cluster.on("first", &["invite", "third", "--replace"]).expect_code(2);
    assert!(nobody.err.contains("it is not said what third may run"), "{nobody:?}");
    // It has not joined under the grant of now: a token that nobody used is made again.
    cluster.invite("second", &reviews(), &[]);
}
