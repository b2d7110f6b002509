//! The life of identities: short leafs under load, grants that shrink, enrollers and operators that come and go, and 400 days.

use std::{path::Path, time::Duration};

use harness::{
    PATIENCE,
    cluster::{Cluster, Plan, Service},
    eventually, eventually_within, http,
    load::Load,
};

use crate::skein;

fn web() -> Plan {
    Plan::with([Service::client("shop/web")])
}

fn reviews() -> Plan {
    Plan::with([Service { account: "reviews".into(), ..Service::version("shop/reviews", "v1") }])
}

fn pair() -> Cluster {
    let cluster = Cluster::start(skein(), &[("first", web()), ("second", reviews())]);
    cluster.wait_endpoints("shop/reviews", 1);
    cluster
}

fn served(cluster: &Cluster, by: &str) {
    eventually_within(&format!("{by} is served"), PATIENCE, || {
        let answer = http::get(cluster.node(by).outbound(), "reviews", "/").map_err(|error| error.to_string())?;
        if answer.status == 200 { Ok(()) } else { Err(format!("{answer:?}")) }
    });
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[test]
fn leafs_of_ten_seconds_are_swapped_and_no_request_fails() {
    let cluster = pair();
    let config =
        "apiVersion: skein.dev/v1\nkind: MeshConfig\nmetadata: {name: default}\nspec: {certificates: {leaf: 10s}}\n";
    let ends = || {
        let all = cluster.json("second", &["identity", "list"]);
        let service = all.as_array().and_then(|all| {
            all.iter().find(|one| one["id"].as_str().is_some_and(|id| id.ends_with("/sa/reviews"))).cloned()
        });
        service.and_then(|one| one["not_after"].as_str().map(str::to_owned)).unwrap_or_default()
    };
    let long = ends();
    cluster.push("first", config, &["--wait", "all"]).expect_code(0);
    let first = eventually("the shorter life counts at once", || {
        let now = ends();
        if now < long { Ok(now) } else { Err(now) }
    });
    let load = Load::start(cluster.node("first").outbound(), "reviews", "/", 100);
    let mut seen = vec![first];
    eventually_within("two further leafs", Duration::from_secs(60), || {
        let now = ends();
        if seen.last() != Some(&now) {
            seen.push(now);
        }
        if seen.len() > 2 { Ok(()) } else { Err(format!("{seen:?}")) }
    });
    let tally = load.stop();
    assert_eq!(tally.failed, 0, "{tally:?}");
    assert!(tally.requests > 100, "{tally:?}");
}

#[test]
fn a_grant_that_shrinks_closes_what_lives_by_it() {
    let cluster = pair();
    served(&cluster, "first");
    let wrong = cluster.on("first", &["grant", "second", "--remove", "shop/other", "-o", "json"]);
    assert_eq!(wrong.error()["error"]["code"], "not_found", "{wrong:?}");
    cluster.on("first", &["grant", "second", "--remove", "shop/reviews=reviews"]).expect_code(0);
    eventually("requests no longer reach it", || {
        let answer = http::get(cluster.node("first").outbound(), "reviews", "/").map_err(|error| error.to_string())?;
        if answer.status == 200 { Err(format!("{answer:?}")) } else { Ok(()) }
    });
    assert_eq!(cluster.healthy("first", "shop/reviews"), 0);
    cluster.on("first", &["grant", "second", "shop/reviews=reviews"]).expect_code(0);
    served(&cluster, "first");
}

#[test]
fn enrollers_are_made_by_promotion_and_by_files_and_outlive_the_first() {
    let mut cluster = pair();
    let operator = cluster.operator();
    // Without the root's key: by files.
    let root = operator.join("root.key");
    let vault = cluster.path().join("vault");
    std::fs::create_dir(&vault).expect("the temporary directory is writable");
    for name in ["root.key", "bundle.pem", "mesh.toml"] {
        std::fs::copy(operator.join(name), vault.join(name)).expect("init wrote it");
    }
    cluster.on("first", &["ca", "promote", "second"]).expect_code(0);
    std::fs::remove_file(&root).expect("it is there");
    let refused = cluster.on("first", &["ca", "promote", "second", "-o", "json"]);
    assert_eq!(refused.error()["error"]["code"], "no_root", "{refused:?}");
    // By the second alone, from the invitation on.
    cluster.kill("first");
    let third = Plan::with([Service { account: "ratings".into(), ..Service::version("shop/ratings", "v1") }]);
    let invited = cluster.on("second", &["invite", "third", "--service", "shop/ratings=ratings", "--enroller"]);
    let token = invited.expect_code(0).out;
    cluster.prepare_only("third", &third);
    cluster.join_with("third", &token).expect_code(0);
    cluster.run("third");
    cluster.wait_members(PATIENCE);
    let told = cluster.json("third", &["status"]);
    assert!(told["problems"].to_string().contains("enroller_uncertified"), "{told}");
    let request = cluster.file("third.csr", &cluster.on("third", &["ca", "csr"]).expect_code(0).out);
    let signed = cluster.on("third", &["ca", "sign", &text(&request), "--operator", &text(&vault)]);
    let certificate = cluster.file("third.pem", &signed.expect_code(0).out);
    // Another node's key is another node's.
    let wrong = cluster.on("second", &["ca", "renew", "--certificate", &text(&certificate), "-o", "json"]);
    assert_eq!(wrong.code, 2, "{wrong:?}");
    cluster.on("third", &["ca", "renew", "--certificate", &text(&certificate)]).expect_code(0);
    let told = cluster.json("third", &["status"]);
    assert!(!told["problems"].to_string().contains("enroller_uncertified"), "{told}");
    // And the third lets a fourth in.
    cluster.kill("second");
    let token = cluster.on("third", &["invite", "fourth", "--no-service"]).expect_code(0).out;
    cluster.prepare_only("fourth", &Plan::default());
    cluster.join_with("fourth", &token).expect_code(0);
}

#[test]
fn a_lost_laptop_is_taken_out_by_the_recovery_key() {
    let cluster = Cluster::start(skein(), &[("first", web())]);
    let route = |number: u32| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: v{number}, namespace: shop}}\nspec: {{hosts: [reviews-{number}], http: [{{directResponse: {{status: 200}}}}]}}\n"
        )
    };
    let new = |dir: &str| {
        let dir = cluster.path().join(dir);
        let made = cluster.json("first", &["operator", "new", &text(&dir)]);
        (text(&dir), made["public_key"].as_str().expect("a key").to_owned())
    };
    // Two operators govern together.
    let (bob, key) = new("bob");
    let added = cluster.json("first", &["operator", "add", "bob", &key]);
    // Of two who govern both sign, also that there are two.
    assert_eq!(added["proposal"], true, "{added}");
    let id = added["changeset"].as_str().expect("an id");
    // Over the net: a node lets the key in that operators want to add, to sign that and for nothing else.
    let node = cluster.node("first").address("mesh").to_string();
    let remote = ["--operator", &bob, "--node", &node, "-o", "json"];
    let asked = |words: &[&str]| cluster.on("first", &[words, &remote].concat());
    let listed = asked(&["policy", "list"]);
    assert_eq!(listed.error()["error"]["code"], "forbidden", "{listed:?}");
    let stranger = new("stranger").0;
    let refused = cluster.on("first", &["policy", "sign", id, "--operator", &stranger, "--node", &node, "-o", "json"]);
    assert_eq!(refused.error()["error"]["code"], "role_missing", "{refused:?}");
    asked(&["policy", "sign", id]).expect_code(0);
    asked(&["policy", "list"]).expect_code(0);
    let told = cluster.on("first", &["operator", "add", "dan", &new("dan").1]).expect_code(0);
    assert!(told.err.contains("dan is no operator yet") && told.err.contains("--recovery"), "{told:?}");
    cluster.push("first", &route(1), &["--operator", &bob]).expect_code(0);
    // The laptop with operator.key is gone; bob alone is not enough.
    let alone = cluster.json("first", &["operator", "add", "eve", &new("eve").1, "--operator", &bob]);
    assert_eq!(alone["proposal"], true, "{alone}");
    // recovery.key comes from where it was stored, and suffices.
    let safe = cluster.path().join("safe");
    std::fs::create_dir(&safe).expect("the temporary directory is writable");
    for name in ["recovery.key", "bundle.pem", "mesh.toml"] {
        std::fs::copy(cluster.operator().join(name), safe.join(name)).expect("init wrote it");
    }
    let safe = text(&safe);
    let recovered = ["operator", "remove", "operator", "--recovery", "--operator", &safe];
    cluster.on("first", &recovered).expect_code(0);
    let thief = cluster.push("first", &route(2), &[]);
    assert_eq!(thief.code, 5, "{thief:?}");
    cluster.push("first", &route(3), &["--operator", &bob]).expect_code(0);
    // What the lost key signed before stays.
    let listed = cluster.json("first", &["policy", "list"]).to_string();
    assert!(listed.contains("v1") && listed.contains("v3") && !listed.contains("v2"), "{listed}");
    let grants = cluster.json("first", &["status"]);
    assert_eq!(grants["members"]["expected"], 1, "{grants}");
    let operators = cluster.json("first", &["operator", "list"]).to_string();
    assert!(operators.contains("bob") && !operators.contains("\"operator\""), "{operators}");
    // Unlike what bob's key has signed, if its owner is a thief: that goes with it, and the node stays.
    let (carl, key) = new("carl");
    cluster.on("first", &["operator", "add", "carl", &key, "--recovery", "--operator", &safe]).expect_code(0);
    let removed = ["operator", "remove", "bob", "--void", "documents", "--recovery", "--operator", &safe];
    let told = cluster.on("first", &removed).expect_code(0);
    assert!(told.err.contains("2 changesets that bob signed stop counting"), "{told:?}");
    eventually("what bob pushed is gone", || {
        let listed = cluster.json("first", &["policy", "list", "--operator", &carl]).to_string();
        if listed.contains("VirtualService") { Err(listed) } else { Ok(()) }
    });
    assert_eq!(cluster.json("first", &["status"])["members"]["expected"], 1);
}

/// Everything off, and on again so many days later.
fn later(cluster: &mut Cluster, days: u32) {
    for name in ["second", "first"] {
        assert!(cluster.terminate(name).is_some_and(|status| status.success()), "{name}: {}", cluster.log(name));
    }
    cluster.clock_offset = format!("{days}d");
    for name in ["first", "second"] {
        // A node whose CA has ended is ready once it is renewed.
        cluster.run(name);
    }
    for name in ["first", "second"] {
        eventually_within(&format!("{name} sees the service on day {days}"), PATIENCE, || {
            match cluster.healthy(name, "shop/reviews") {
                1 => Ok(()),
                seen => Err(format!("{seen} seen; {}", cluster.log("second"))),
            }
        });
    }
    served(cluster, "first");
}

#[test]
fn a_mesh_lives_to_day_400() {
    let mut cluster = pair();
    let expires = |cluster: &Cluster, name: &str, field: &str| {
        cluster.json(name, &["status"])["certificates"][field].as_str().unwrap_or_default().to_owned()
    };
    let first = expires(&cluster, "second", "node_ca_expires");
    // Past half of its life: renewed over the link.
    later(&mut cluster, 25);
    eventually("the node CA is renewed", || {
        let now = expires(&cluster, "second", "node_ca_expires");
        if now > first { Ok(()) } else { Err(now) }
    });
    assert_eq!(cluster.json("first", &["status"])["clock_offset_ms"], 25_i64 * 86_400_000);
    // Off for so long that it has ended: renewed by its key.
    later(&mut cluster, 80);
    later(&mut cluster, 320);
    let told = cluster.json("first", &["status"]);
    assert!(told["problems"].to_string().contains("enroller_old"), "{told}");
    let before = expires(&cluster, "first", "enroller_ca_expires");
    cluster.on("first", &["ca", "renew", "first"]).expect_code(0);
    assert!(expires(&cluster, "first", "enroller_ca_expires") > before);
    later(&mut cluster, 400);
}

#[test]
fn a_chain_is_judged_as_a_handshake_does_and_as_openssl_does() {
    let cluster = pair();
    let shown = cluster.json("second", &["identity", "show", "shop/reviews"]);
    let chain = shown["chain"].as_str().expect("a chain");
    let file = text(&cluster.file("chain.pem", chain));
    let bundle = text(&cluster.file("bundle.pem", &cluster.on("second", &["ca", "bundle"]).expect_code(0).out));
    let places: Vec<_> =
        shown["certificates"].as_array().into_iter().flatten().map(|one| one["certificate"].clone()).collect();
    assert_eq!(places, ["leaf", "node CA", "enroller CA"], "{shown}");
    let judged = |more: &[&str]| {
        let mut words = vec!["identity", "verify", &file, "--bundle", &bundle, "-o", "json"];
        words.extend(more);
        cluster.on("second", &words)
    };
    let id = "spiffe://test.example/ns/shop/sa/reviews";
    for good in [&["--role", "client"][..], &["--role", "server", "--expect", id]] {
        let verdict = judged(good).expect_code(0).json();
        assert_eq!((verdict["valid"].as_bool(), verdict["id"].as_str()), (Some(true), Some(id)), "{verdict}");
    }
    for (bad, why) in [
        (&["--expect", "spiffe://test.example/ns/shop/sa/web"][..], "expected"),
        (&["--at", "2099-01-01T00:00:00Z"], "ended"),
        (&["--at", "2001-01-01T00:00:00Z"], "not valid before"),
        (&["--trust-domain", "other.example"], "trust domain"),
    ] {
        let output = judged(bad);
        assert_eq!(output.code, 5, "{output:?}");
        let verdict = output.json();
        assert_eq!(verdict["valid"], false);
        assert!(verdict["reason"].as_str().is_some_and(|reason| reason.contains(why)), "{bad:?}: {verdict}");
    }
    openssl(&file, &bundle);
}

/// Where openssl is installed, it agrees: on the service's own DNS name and on no other.
fn openssl(chain: &str, bundle: &str) {
    let verify = |name: &str| {
        let mut command = std::process::Command::new("openssl");
        command.args([
            "verify",
            "-x509_strict",
            "-CAfile",
            bundle,
            "-untrusted",
            chain,
            "-verify_hostname",
            name,
            chain,
        ]);
        command.output().ok()
    };
    let Some(own) = verify("reviews.shop.test.example") else {
        assert!(std::env::var_os("CI").is_none(), "openssl is missing in CI");
        eprintln!("skipped: needs openssl");
        return;
    };
    assert!(own.status.success(), "{}", String::from_utf8_lossy(&own.stderr));
    let other = verify("web.shop.test.example").expect("it ran before");
    assert!(!other.status.success(), "{}", String::from_utf8_lossy(&other.stdout));
}

#[test]
fn a_grant_that_no_certificate_holds_is_refused() {
    let cluster = pair();
    let services: Vec<String> = (0..300).map(|n| format!("shop/service-number-{n}=account-number-{n}")).collect();
    let mut words = vec!["grant", "second", "-o", "json"];
    words.extend(services.iter().map(String::as_str));
    let refused = cluster.on("first", &words);
    assert_eq!((refused.code, refused.error()["error"]["code"].as_str()), (2, Some("usage")), "{refused:?}");
    assert!(refused.err.contains("300") || refused.err.contains("301"), "{refused:?}");
    let mut words = vec!["invite", "third"];
    words.extend(services.iter().flat_map(|service| ["--service", service.as_str()]));
    assert_eq!(cluster.on("first", &words).code, 2);
    served(&cluster, "first");
}

/// Whoever has the machine that a rebuilt one replaced, or its disk, is no node to operators either.
#[test]
fn an_operator_believes_no_machine_whose_name_another_one_has() {
    let cluster = pair();
    let door = cluster.node("second").address("mesh").to_string();
    cluster.on("first", &["members", "--node", &door]).expect_code(0);
    cluster.invite("second", &reviews(), &["--replace"]);
    let known = std::fs::read_to_string(cluster.operator().join("mesh.toml")).expect("init made it");
    assert!(known.contains("[out.ended]\nsecond = 1\n"), "{known}");
    let refused = cluster.on("first", &["members", "--node", &door, "-o", "json"]);
    assert_eq!(refused.error()["error"]["code"], "unverified_node", "{refused:?}");
    assert!(refused.err.contains("Ended"), "{refused:?}");
    // Another operator's machine learns it of the mesh.
    let copy = cluster.path().join("elsewhere");
    let copied = std::process::Command::new("cp").arg("-rp").arg(cluster.operator()).arg(&copy).status();
    assert!(copied.expect("cp runs").success());
    let before =
        known.split_once("[out.ended]").map(|(before, _)| before.to_owned()).expect("it is the last but the nodes");
    let nodes = known.find("[[node]]").map(|at| known[at..].to_owned()).unwrap_or_default();
    std::fs::write(copy.join("mesh.toml"), before + &nodes).expect("it is ours");
    let copy = copy.to_string_lossy();
    cluster.on("first", &["members", "--operator", &copy]).expect_code(0);
    let refused = cluster.on("first", &["members", "--operator", &copy, "--node", &door, "-o", "json"]);
    assert_eq!(refused.error()["error"]["code"], "unverified_node", "{refused:?}");
}

#[test]
fn a_machine_that_left_and_one_before_a_rebuild_can_be_evicted() {
    let mut cluster = pair();
    cluster.on("second", &["leave"]).expect_code(0);
    cluster.kill("second");
    let token = cluster.invite("second", &reviews(), &["--replace"]);
    std::fs::remove_dir_all(cluster.node("second").dir.join("data")).expect("it is ours");
    cluster.join_with("second", &token).expect_code(0);
    cluster.run("second");
    served(&cluster, "first");
    // What the first machine had counts no more, for ever; the second one goes on.
    cluster.on("first", &["evict", "second", "--epoch", "1", "--wait", "all"]).expect_code(0);
    served(&cluster, "first");
    let early = cluster.on("first", &["evict", "second", "--epoch", "3", "-o", "json"]);
    assert_eq!((early.code, early.error()["error"]["code"].as_str()), (2, Some("usage")), "{early:?}");
    cluster.on("second", &["leave"]).expect_code(0);
    cluster.on("first", &["evict", "second"]).expect_code(0);
    let unknown = cluster.on("first", &["evict", "nobody", "-o", "json"]);
    assert_eq!(unknown.error()["error"]["code"], "not_found", "{unknown:?}");
}
