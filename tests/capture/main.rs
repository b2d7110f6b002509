//! Transparent capture with the kernel's own nftables, in network namespaces that each test makes for itself: clients that know
//! nothing of the mesh, in it and outside, what is spared, how a capture ends, whoever dies.
//!
//! Needs root, nftables, iproute2, curl, python3 and PostgreSQL:
//! `cargo test -p tests --test capture -- --ignored --test-threads=1`.

mod entries;
mod inbound;
mod place;
#[expect(dead_code, reason = "of these servers only PostgreSQL is needed here")]
#[path = "../databases/server.rs"]
mod server;
mod simulation;

use std::{
    net::Ipv4Addr,
    process::Command,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    time::Duration,
};

use harness::{
    PATIENCE,
    cluster::{Cluster, Plan, Service},
    dns, eventually,
    process::{Output, Skein},
};
use place::{ECHO, GREETS, Lasting, OUTSIDE, OUTSIDE_V6, as_user, curl, greeting, http2, said, within};
use serde_json::Value;
use server::Server;

/// Callers' node `web` and `shop/reviews` on another; further services beside it.
fn mesh(more: Vec<Service>) -> Cluster {
    let names = format!(
        "[dns]\nlisten = \"127.0.0.1:0\"\naddresses = \"{}\"\nupstreams = [\"127.0.0.1:1\"]\nas = \"shop/web\"\n[capture]\nport = 0\nas = \"shop/web\"\n",
        dns::range()
    );
    let web = Plan { extra: names, ..Plan::with([Service::client("shop/web")]) };
    let services = [vec![Service::version("shop/reviews", "v1")], more].concat();
    let skein = Skein::at(env!("CARGO_BIN_EXE_skein-under-test"));
    let cluster = Cluster::start(skein, &[("web", web), ("reviews", Plan::with(services))]);
    cluster.wait_members(PATIENCE);
    cluster.wait_endpoints("shop/reviews", 1);
    cluster
}

/// The statuses that curl of the captured user gets.
fn status_of(words: &[&str]) -> String {
    let mut all = vec!["-sS", "--max-time", "20"];
    let told = ["-o", "/dev/null", "-w", "%{http_code}"];
    // They hold for one request each.
    for (index, part) in words.split(|word| *word == "--next").enumerate() {
        all.extend((index > 0).then_some("--next"));
        all.extend(told.iter().chain(part));
    }
    as_user("curl", &all).expect("an answer")
}

fn address(cluster: &Cluster, name: &str) -> Ipv4Addr {
    eventually("it has an address", || dns::address(cluster.node("web").address("dns"), name))
}

fn capture(cluster: &Cluster, words: &[&str]) -> Output {
    cluster.on("web", &[&["capture"], words, &["-o", "json"]].concat())
}

fn on(cluster: &Cluster) {
    capture(cluster, &["on", "--uid", "65534", "--confirm-within", "5m"]).expect_code(0);
    capture(cluster, &["confirm"]).expect_code(0);
}

fn status(cluster: &Cluster) -> Value {
    capture(cluster, &["status"]).expect_code(0).json()
}

fn redirected(cluster: &Cluster) -> u64 {
    status(cluster)["redirected"].as_u64().unwrap_or_default()
}

fn tables() -> String {
    said(Command::new("nft").args(["list", "tables"])).expect("nft")
}

/// The node says that a capture ended which nobody switched off.
fn is_told(cluster: &Cluster) -> bool {
    let status = cluster.json("web", &["status"]);
    status["problems"].as_array().is_some_and(|all| all.iter().any(|one| one["code"] == "capture_ended"))
}

fn nothing_is_left() {
    eventually("no rule is left", || match tables() {
        none if none.trim().is_empty() => Ok(()),
        some => Err(some),
    });
}

#[test]
#[ignore = "needs root and nftables"]
fn clients_that_know_nothing_reach_the_mesh_and_all_else() {
    within("clients_that_know_nothing_reach_the_mesh_and_all_else", |_| {
        let server = Server::postgresql();
        let db = Service {
            ports: vec![5432],
            protocol: "postgres".to_owned(),
            target: Some(server.address),
            ..Service::version("shop/db", "v1")
        };
        let cluster = mesh(vec![db, Service::version("shop/ratings", "v1")]);
        cluster.wait_endpoints("shop/db", 1);
        cluster.wait_endpoints("shop/ratings", 1);
        let (reviews, db) = (address(&cluster, "reviews.").to_string(), address(&cluster, "db.").to_string());
        let outside = format!("http://{OUTSIDE}/");
        assert_eq!(curl(&[&outside]).expect("it is reached"), "outside");

        let dry = capture(&cluster, &["on", "--uid", "65534", "--dry-run"]).expect_code(0).json();
        assert!(dry["rules"].as_str().is_some_and(|rules| rules.contains("meta skuid { 65534 }")), "{dry}");
        assert_eq!(tables(), "", "only looked at");
        on(&cluster);
        assert_eq!(status(&cluster)["state"], "on");

        // By the service's address; the node's own listener there is not what answers.
        let before = redirected(&cluster);
        assert!(curl(&[&format!("http://{reviews}:9080/")]).is_ok_and(|body| body.contains("reviews")));
        assert_eq!(redirected(&cluster), before + 1);
        // By the Host, whatever the address; by IPv6, too.
        for host in ["reviews.shop", "reviews.shop.svc.cluster.local:9080"] {
            let header = format!("Host: {host}");
            for to in [format!("http://{OUTSIDE}:9080/"), format!("http://[{OUTSIDE_V6}]:9080/")] {
                assert!(curl(&["-H", &header, &to]).is_ok_and(|body| body.contains("reviews")), "{host} {to}");
            }
        }
        // One connection leads to one of them: what means another is asked again elsewhere.
        let (first, same) = ("Host: reviews.shop", "Host: REVIEWS.shop.svc.cluster.local:9080");
        let to = &format!("http://{OUTSIDE}:9080/");
        assert_eq!(status_of(&["-H", first, to, "--next", "-H", same, to]), "200200");
        for other in ["Host: ratings.shop", "Host: www.example.com"] {
            assert_eq!(status_of(&["-H", first, to, "--next", "-H", other, to]), "200421", "{other}");
        }
        assert!(curl(&["-H", "Host: ratings.shop", to]).is_ok_and(|body| body.contains("ratings")));
        // What is no service goes where it meant to.
        assert_eq!(curl(&[&outside]).expect("it passes"), "outside");
        assert_eq!(curl(&[&format!("http://[{OUTSIDE_V6}]/")]).expect("it passes"), "outside");
        let python =
            format!("import urllib.request; print(urllib.request.urlopen('http://{reviews}:9080/').read().decode())");
        assert!(as_user("/usr/bin/python3", &["-c", &python]).is_ok_and(|body| body.contains("reviews")));
        let psql = server::program("psql");
        let psql = psql.to_str().expect("a path");
        let one = as_user(psql, &["-h", &db, "-p", "5432", "-U", "postgres", "-X", "-A", "-t", "-c", "select 41 + 1"]);
        assert_eq!(one.expect("an answer").trim(), "42");
        // Bytes, at a port where no service is.
        assert_eq!(Lasting::to(OUTSIDE, ECHO).say("hello"), "hello");
        assert!(curl(&[&format!("http://{OUTSIDE}:9/")]).is_err(), "nobody is there");

        // Who calls the port for captured connections itself is brought nowhere, and in no circle.
        let own = cluster.node("web").address("capture");
        assert!(curl(&[&format!("http://{own}/")]).is_err());
        // SSH's port and the node's own user are left alone.
        let before = redirected(&cluster);
        assert_eq!(Lasting::to(OUTSIDE, 22).say("ssh"), "ssh");
        assert_eq!(said(Command::new("curl").args(["-sS", &outside])).expect("it is reached"), "outside");
        assert_eq!(redirected(&cluster), before);

        // An address that a ServiceEntry makes, and that no machine has.
        let entry = format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: shelf, namespace: shop}}\nspec: {{hosts: [shelf.example.com], addresses: [192.0.2.9], ports: [{{number: 80, name: http, protocol: HTTP}}], resolution: STATIC, endpoints: [{{address: {OUTSIDE}}}]}}\n"
        );
        cluster.push("web", &entry, &["--wait", "all"]).expect_code(0);
        eventually("it is reached by its address", || curl(&["http://192.0.2.9/"]).map(drop));
        assert_eq!(curl(&["-H", "Host: shelf.example.com", &outside]).expect("it is reached"), "outside");
        // Of two that may take all of a port the one whose endpoint was dialled is meant.
        let of = |name: &str, address: &str| {
            format!(
                "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{hosts: [{name}.example.com], ports: [{{number: {ECHO}, name: tcp, protocol: TCP}}], resolution: STATIC, endpoints: [{{address: {address}}}]}}\n"
            )
        };
        cluster.push("web", &of("first", "192.0.2.8"), &["--wait", "all"]).expect_code(0);
        cluster.push("web", &of("second", OUTSIDE), &["--wait", "all"]).expect_code(0);
        assert_eq!(Lasting::to(OUTSIDE, ECHO).say("the second"), "the second");
        cluster.on("web", &["policy", "delete", "ServiceEntry", "first", "-n", "shop", "--wait", "all"]).expect_code(0);
        cluster
            .on("web", &["policy", "delete", "ServiceEntry", "second", "-n", "shop", "--wait", "all"])
            .expect_code(0);
        // `resolution: NONE`: where the application meant to go, whatever the host's name means, or though it means nothing.
        let legacy = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: legacy, namespace: shop}\nspec: {hosts: [legacy.example.com], addresses: [10.9.0.0/24], ports: [{number: 7000, name: tcp, protocol: TCP}, {number: 80, name: http, protocol: HTTP}]}\n";
        cluster.push("web", legacy, &["--wait", "all"]).expect_code(0);
        // Nothing leaves the mesh where nothing may.
        let only = "apiVersion: skein.dev/v1\nkind: MeshConfig\nmetadata: {name: default}\nspec: {outboundTrafficPolicy: {mode: REGISTRY_ONLY}}\n";
        cluster.push("web", only, &["--wait", "all"]).expect_code(0);
        // To what speaks HTTP it is said, and nothing else gets an answer.
        assert_eq!(status_of(&[&format!("http://[{OUTSIDE_V6}]/")]), "502");
        assert!(curl(&[&format!("http://{OUTSIDE}:9/")]).is_err());
        assert!(curl(&[&format!("http://{reviews}:9080/")]).is_ok());
        assert!(curl(&["http://192.0.2.9/"]).is_ok(), "it is registered");
        assert_eq!(Lasting::to(OUTSIDE, ECHO).say("where it was dialled"), "where it was dialled");
        assert_eq!(curl(&["-H", "Host: legacy.example.com", &outside]).expect("it is registered"), "outside");
        capture(&cluster, &["off"]).expect_code(0);
        nothing_is_left();
        assert_eq!(curl(&[&outside]).expect("it is reached"), "outside");
    });
}

/// Each request of HTTP/2 is decided for itself, whatever the connection's address: clients that wait for settings cannot be looked at first.
#[test]
#[ignore = "needs root and nftables"]
fn requests_of_http2_reach_the_mesh_by_their_authority() {
    within("requests_of_http2_reach_the_mesh_by_their_authority", |_| {
        let cluster = mesh(vec![Service::version("shop/ratings", "v1")]);
        cluster.wait_endpoints("shop/ratings", 1);
        on(&cluster);
        let asked = ["reviews.shop", "www.example.com:9080", "ratings.shop.svc.cluster.local:9080"];
        let told = http2(OUTSIDE, 9080, &asked).expect("answers");
        assert!(told[0].contains("reviews") && told[1] == "outside" && told[2].contains("ratings"), "{told:?}");
        let told = as_user("curl", &["-sS", "--http2-prior-knowledge", &format!("http://{OUTSIDE}:9080/")]);
        assert_eq!(told.expect("it passes"), "outside", "its authority is where it was dialled");
        let only = "apiVersion: skein.dev/v1\nkind: MeshConfig\nmetadata: {name: default}\nspec: {outboundTrafficPolicy: {mode: REGISTRY_ONLY}}\n";
        cluster.push("web", only, &["--wait", "all"]).expect_code(0);
        let told = http2(OUTSIDE, 9080, &asked).expect("answers");
        assert!(told[0].contains("reviews") && told[1] == "-" && told[2].contains("ratings"), "{told:?}");
        capture(&cluster, &["off", "--now"]).expect_code(0);
        nothing_is_left();
    });
}

/// A server outside that speaks first is reached at a port at which the mesh has a service of undeclared protocol, if that is none that
/// its caller may call, or its first word is waited for no longer than `protocolDetectionTimeout`.
#[test]
#[ignore = "needs root and nftables"]
fn a_server_outside_may_speak_first() {
    within("a_server_outside_may_speak_first", |_| {
        let tenant =
            Service { ports: vec![GREETS], protocol: "undeclared".to_owned(), ..Service::version("tenant/db", "v1") };
        let cluster = mesh(vec![tenant]);
        cluster.wait_endpoints("tenant/db", 1);
        on(&cluster);
        assert!(greeting(OUTSIDE, 2).is_err(), "its client is waited for");
        let patience = "apiVersion: skein.dev/v1\nkind: MeshConfig\nmetadata: {name: default}\nspec: {protocolDetectionTimeout: 100ms}\n";
        cluster.push("web", patience, &["--wait", "all"]).expect_code(0);
        assert_eq!(greeting(OUTSIDE, 20).expect("it is not waited for long").trim(), "welcome");
        let words = ["policy", "delete", "MeshConfig", "default", "--wait", "all"];
        cluster.on("web", &words).expect_code(0);
        assert!(greeting(OUTSIDE, 2).is_err(), "its client is waited for again");
        let narrow = "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: default, namespace: shop}\nspec: {egress: [{hosts: ['./*']}]}\n";
        cluster.push("web", narrow, &["--wait", "all"]).expect_code(0);
        assert_eq!(greeting(OUTSIDE, 20).expect("nobody is waited for").trim(), "welcome");
        capture(&cluster, &["off", "--now"]).expect_code(0);
        nothing_is_left();
    });
}

#[test]
#[ignore = "needs root and nftables"]
fn a_capture_ends_whoever_dies() {
    within("a_capture_ends_whoever_dies", |_| {
        let mut cluster = mesh(Vec::new());
        let outside = format!("http://{OUTSIDE}/");
        let passes = || eventually("it is reached", || curl(&[&outside]).map(drop));
        // Nobody confirms.
        capture(&cluster, &["on", "--uid", "65534", "--confirm-within", "2s"]).expect_code(0);
        assert_eq!(status(&cluster)["state"], "unconfirmed");
        nothing_is_left();
        let late = capture(&cluster, &["confirm"]).expect_code(1);
        assert_eq!(late.error()["error"]["code"], "not_found");
        passes();
        // Who confirms keeps it beyond the time for that.
        capture(&cluster, &["on", "--uid", "65534", "--confirm-within", "3s"]).expect_code(0);
        capture(&cluster, &["confirm"]).expect_code(0);
        std::thread::sleep(Duration::from_secs(20));
        assert_eq!(status(&cluster)["state"], "on");
        assert!(!is_told(&cluster), "and by now the node would tell of the one before, had that been lost");
        // The node is killed.
        on(&cluster);
        passes();
        cluster.kill("web");
        nothing_is_left();
        passes();
        // It is back, and tells that nothing is captured any more.
        cluster.run("web");
        eventually("the node tells of it", || if is_told(&cluster) { Ok(()) } else { Err("not yet".to_owned()) });
        // It stops in order.
        on(&cluster);
        eventually("it is told no more", || if is_told(&cluster) { Err("it is".to_owned()) } else { Ok(()) });
        passes();
        cluster.terminate("web");
        nothing_is_left();
        passes();
        // A service manager stops it, and its guard with it: at once, though the node does not answer it.
        cluster.run("web");
        on(&cluster);
        let signal_guard = |signal: &str| {
            let of = format!("{} capture guard", cluster.node("web").config().display());
            let guard = said(Command::new("pgrep").args(["-f", &of])).expect("a guard");
            // It may have begun only just now.
            eventually("it takes the signal", || {
                let status =
                    std::fs::read_to_string(format!("/proc/{}/status", guard.trim())).map_err(|e| e.to_string())?;
                let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap_or_default();
                let caught = u64::from_str_radix(caught.trim(), 16).unwrap_or_default();
                if caught >> 14 & 1 == 1 { Ok(()) } else { Err(status.clone()) }
            });
            said(Command::new("kill").args([signal, guard.trim()])).expect("it is ours");
        };
        signal_guard("-TERM");
        nothing_is_left();
        passes();
        eventually("the node tells of it", || if is_told(&cluster) { Ok(()) } else { Err("not yet".to_owned()) });
        let noted = |times: usize| {
            eventually("what ended is noted, and what ended as it should is not", || {
                let events = cluster.json("web", &["events"]).to_string();
                match events.matches("\"capture_ended\"").count() {
                    count if count == times => Ok(()),
                    other => Err(format!("{other} times")),
                }
            });
        };
        noted(1);
        // Its guard is killed, and the kernel lets go by itself.
        on(&cluster);
        signal_guard("-9");
        eventually("the kernel lets go", || match status(&cluster)["state"].as_str() {
            Some("ending") => Ok(()),
            other => Err(format!("{other:?}")),
        });
        passes();
        // The node tells, until somebody says what is meant.
        eventually("the node tells of it", || if is_told(&cluster) { Ok(()) } else { Err("not yet".to_owned()) });
        noted(2);
        capture(&cluster, &["off"]).expect_code(0);
        nothing_is_left();
        assert!(!is_told(&cluster));
    });
}

#[test]
#[ignore = "needs root and nftables"]
fn a_hundred_times_on_and_off_no_connection_breaks() {
    within("a_hundred_times_on_and_off_no_connection_breaks", |_| {
        let cluster = mesh(Vec::new());
        let reviews = address(&cluster, "reviews.");
        let to = [format!("http://{OUTSIDE}/"), format!("http://{reviews}:9080/")];
        let mut before = Lasting::to(OUTSIDE, ECHO);
        assert_eq!(before.say("before"), "before");
        on(&cluster);
        let mut captured = Lasting::to(OUTSIDE, ECHO);
        assert_eq!(captured.say("captured"), "captured");
        let (done, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for to in &to {
                let (done, asked) = (&done, &asked);
                scope.spawn(move || {
                    while !done.load(SeqCst) {
                        curl(&[to]).unwrap_or_else(|error| panic!("{to}: {error}"));
                        asked.fetch_add(1, SeqCst);
                    }
                });
            }
            for round in 0..100 {
                let line = format!("round {round}");
                capture(&cluster, &["off"]).expect_code(0);
                assert_eq!((before.say(&line), captured.say(&line)), (line.clone(), line.clone()));
                on(&cluster);
                assert_eq!((before.say(&line), captured.say(&line)), (line.clone(), line));
            }
            done.store(true, SeqCst);
        });
        assert!(asked.load(SeqCst) > 100, "{} requests", asked.load(SeqCst));
        assert!(redirected(&cluster) > 0 || status(&cluster)["state"] == "on");
        drop(captured);
        capture(&cluster, &["off", "--now"]).expect_code(0);
        nothing_is_left();
        assert_eq!(before.say("after"), "after");
    });
}

#[test]
#[ignore = "needs root and nftables"]
fn what_cannot_be_done_is_said() {
    within("what_cannot_be_done_is_said", |_| {
        let mut cluster = mesh(Vec::new());
        let refused = |words: &[&str], with: &str| {
            let output = capture(&cluster, words);
            let told = output.error()["error"].to_string();
            assert!(output.code != 0 && told.contains(with), "{words:?}: {output:?}");
            assert_eq!(tables(), "");
        };
        refused(&["on", "--uid", "no-such-user"], "there is no user");
        refused(&["on", "--uid", "0"], "the node's own");
        refused(&["on", "--confirm-within", "0s"], "--confirm-within");
        refused(&["confirm"], "nothing is captured");
        refused(&["on", "--inbound"], "inbound_port = 15006");
        let both = capture(&cluster, &["on", "--inbound-only", "--uid", "65534"]).expect_code(2);
        assert!(
            both.err.contains("--inbound-only"),
            "whose processes it is, nobody knows of another machine: {both:?}"
        );
        // Without the program, and without the privilege.
        let mut without = cluster.command("web");
        let without =
            without.args(["capture", "on", "--uid", "65534"]).env("PATH", "/nowhere").output().expect("skein");
        assert!(String::from_utf8_lossy(&without.stderr).contains("apt-get install nftables"), "{without:?}");
        let mut lesser = Command::new("setpriv");
        lesser.args(["--bounding-set", "-net_admin", "--inh-caps", "-net_admin"]);
        let skein = cluster.command("web");
        lesser.arg(skein.get_program()).args(skein.get_args()).args(["capture", "on", "--uid", "65534"]);
        let lesser = lesser.output().expect("setpriv of util-linux");
        assert!(String::from_utf8_lossy(&lesser.stderr).contains("only root may"), "{lesser:?}");
        // A node that takes no captured connections, and none at all.
        let off = cluster.on("reviews", &["capture", "on", "-o", "json"]).expect_code(2);
        assert!(off.error()["error"]["hint"].as_str().is_some_and(|hint| hint.contains("[capture]")), "{off:?}");
        cluster.kill("web");
        let gone = capture(&cluster, &["on"]).expect_code(1);
        assert_eq!(gone.error()["error"]["code"], "unreachable");
    });
}
