//! From one root to the next: step by step under load, with nodes that are away or die, at once, and from a root that has expired.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    process::Stdio,
    time::Duration,
};

use harness::{
    PATIENCE,
    cluster::{Cluster, Plan, Service},
    eventually_within, http,
    load::Load,
};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{skein, written};

fn web() -> Plan {
    Plan::with([Service::client("shop/web")])
}

fn reviews() -> Plan {
    Plan::with([Service { account: "reviews".into(), ..Service::version("shop/reviews", "v1") }])
}

/// `first` calls and enrols; `second` and `third` serve.
fn three() -> Cluster {
    let cluster = Cluster::start(skein(), &[("first", web()), ("second", reviews()), ("third", reviews())]);
    cluster.wait_members(PATIENCE);
    cluster.wait_endpoints("shop/reviews", 2);
    cluster
}

fn served(cluster: &Cluster, by: &str, within: Duration) {
    eventually_within(&format!("{by} is served"), within, || {
        let answer = http::get(cluster.node(by).outbound(), "reviews", "/").map_err(|error| error.to_string())?;
        if answer.status == 200 { Ok(()) } else { Err(format!("{answer:?}")) }
    });
}

/// A step that waits for all to follow.
const STEP: [&str; 2] = ["--timeout", "40s"];

fn step(cluster: &Cluster, words: &[&str]) -> Value {
    let told = cluster.json("first", &[&["ca", "rotate"], words, &STEP].concat());
    written(&format!("ca rotate {}", words.join(" ")), &told);
    told
}

fn code(cluster: &Cluster, words: &[&str]) -> String {
    let output = cluster.on("first", &[&["ca", "rotate"], words, &["-o", "json"]].concat());
    assert_ne!(output.code, 0, "{output:?}");
    output.error()["error"]["code"].as_str().unwrap_or_default().to_owned()
}

fn texts(list: &Value) -> Vec<&str> {
    list.as_array().map(|all| all.iter().filter_map(Value::as_str).collect()).unwrap_or_default()
}

/// States of the roots, as the command line shows them.
fn states(cluster: &Cluster) -> Vec<String> {
    let told = cluster.json("first", &["ca", "rotate", "status"]);
    let state = |root: &Value| root["state"].as_str().unwrap_or_default().to_owned();
    told["roots"].as_array().map(|roots| roots.iter().map(state).collect()).unwrap_or_default()
}

/// The bundle that a node believes.
fn bundle(cluster: &Cluster, name: &str) -> String {
    cluster.on(name, &["ca", "bundle"]).expect_code(0).out
}

/// Waits until the third has noted where the second is: what it has not when it dies it cannot know afterwards.
fn knows_the_second(cluster: &Cluster) {
    eventually_within("third has noted where the second is", PATIENCE, || {
        let noted = std::fs::read_to_string(cluster.path().join("third/data/addresses")).unwrap_or_default();
        if noted.contains("second") { Ok(()) } else { Err(noted) }
    });
}

#[test]
fn the_root_changes_in_steps_and_no_request_fails() {
    let cluster = three();
    cluster.on("first", &["ca", "promote", "second"]).expect_code(0);
    served(&cluster, "first", PATIENCE);
    let before = bundle(&cluster, "third");
    let load = Load::start(cluster.node("first").outbound(), "reviews", "/", 50);
    assert_eq!(code(&cluster, &["advance"]), "out_of_turn");
    assert_eq!(code(&cluster, &["finish"]), "out_of_turn");
    let started = step(&cluster, &["start"]);
    assert_eq!((&started["phase"], &started["next"]), (&"distributing".into(), &"skein ca rotate advance".into()));
    assert!(cluster.operator().join("root.next.key").exists());
    assert_eq!(code(&cluster, &["start"]), "out_of_turn");
    assert_eq!(code(&cluster, &["finish"]), "out_of_turn");
    let advanced = step(&cluster, &["advance"]);
    assert_eq!(advanced["phase"], "issuing");
    assert_eq!(texts(&advanced["enrollers"]), ["first", "second"]);
    assert_eq!(code(&cluster, &["advance"]), "out_of_turn");
    assert_eq!(code(&cluster, &["cancel"]), "out_of_turn");
    assert_eq!(cluster.json("third", &["status"])["root"]["phase"], "issuing");
    eventually_within("third shows itself under the new root", PATIENCE, || {
        let shown = cluster.json("third", &["identity", "show", "shop/reviews"]);
        if shown["root_state"] == "issuing" {
            Ok(())
        } else {
            Err(format!("{} {}", shown["root"], shown["root_state"]))
        }
    });
    let checked = cluster.on("first", &["check", "-o", "json"]).json();
    assert!(checked.to_string().contains("root_change"), "{checked}");
    let finished = step(&cluster, &["finish"]);
    assert_eq!((&finished["phase"], texts(&finished["left_behind"]).len()), (&"steady".into(), 0), "{finished}");
    served(&cluster, "first", PATIENCE);
    std::thread::sleep(Duration::from_secs(2));
    let tally = load.stop();
    assert_eq!(tally.failed, 0, "{tally:?}");
    assert!(tally.requests > 100, "{tally:?}");
    assert_eq!(states(&cluster), ["issuing", "withdrawn"]);
    let after = bundle(&cluster, "third");
    assert!(after != before && bundle(&cluster, "first") == after);
    // The new key is the one that certifies, and the operator's bundle the new one.
    assert!(!cluster.operator().join("root.next.key").exists());
    assert_eq!(std::fs::read_to_string(cluster.operator().join("bundle.pem")).expect("it is there"), after);
    cluster.on("first", &["ca", "promote", "third"]).expect_code(0);
    assert_eq!(cluster.json("first", &["members"]).as_array().map(Vec::len), Some(3));
}

#[test]
fn who_was_away_while_the_root_changed_finds_back_and_so_does_who_died_in_the_middle() {
    let mut cluster = three();
    cluster.kill("third");
    step(&cluster, &["start"]);
    // The operator's machine and a node die between two steps.
    cluster.kill("second");
    cluster.run("second");
    cluster.wait_endpoints("shop/reviews", 1);
    step(&cluster, &["advance"]);
    cluster.kill("first");
    cluster.run("first");
    eventually_within("second is linked again", PATIENCE, || match cluster.alive("first") {
        2 => Ok(()),
        seen => Err(format!("{seen}; {}", cluster.log("first"))),
    });
    // A node that starts takes whom it knew for alive until it has looked.
    eventually_within("first knows that third is away", PATIENCE, || {
        let told = cluster.json("first", &["ca", "rotate", "status"]);
        if texts(&told["away"]) == ["third"] { Ok(()) } else { Err(told.to_string()) }
    });
    let finished = step(&cluster, &["finish"]);
    assert_eq!(texts(&finished["away"]), ["third"], "{finished}");
    // It knows neither the root nor anybody certified under it.
    cluster.run("third");
    eventually_within("third is back", Duration::from_secs(60), || match cluster.healthy("first", "shop/reviews") {
        2 => Ok(()),
        seen => Err(format!("{seen} seen; {}", cluster.log("third"))),
    });
    assert_eq!(bundle(&cluster, "third"), bundle(&cluster, "first"));
    // An operator who was away, too: by a directory from before.
    let old = cluster.path().join("old");
    std::fs::create_dir(&old).expect("the temporary directory is writable");
    for name in ["operator.key", "mesh.toml"] {
        std::fs::copy(cluster.operator().join(name), old.join(name)).expect("it is there");
    }
    let known = std::fs::read_to_string(old.join("mesh.toml")).expect("it is there");
    let known: String =
        known.lines().filter(|line| !line.starts_with("role_set")).map(|line| format!("{line}\n")).collect();
    std::fs::write(old.join("mesh.toml"), known).expect("writable");
    let withdrawn = std::fs::read_dir(cluster.operator()).expect("it is there").filter_map(Result::ok);
    let withdrawn = withdrawn.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let withdrawn = withdrawn.filter(|name| name.starts_with("root.") && name != "root.key").collect::<Vec<_>>();
    let [withdrawn] = withdrawn.as_slice() else { panic!("{withdrawn:?}") };
    let pem = std::fs::read_to_string(cluster.operator().join(withdrawn)).expect("it is there");
    let end = pem.find("-----BEGIN PRIVATE").expect("a key follows the certificate");
    std::fs::write(old.join("bundle.pem"), &pem[..end]).expect("writable");
    let at = format!("{}:15008", cluster.node("second").ip);
    let mesh = cluster.json("first", &["operator", "list", "--node", &at, "--operator", &old.to_string_lossy()]);
    assert!(mesh.to_string().contains("operator"), "{mesh}");
    assert_eq!(std::fs::read_to_string(old.join("bundle.pem")).expect("it is there"), bundle(&cluster, "first"));
}

/// A request whose body goes on until this is dropped.
fn endless(cluster: &Cluster) -> TcpStream {
    let mut stream = TcpStream::connect(cluster.node("first").outbound()).expect("the node runs");
    let begin = b"POST / HTTP/1.1\r\nHost: reviews\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    stream.write_all(begin).expect("it takes a request");
    stream
}

#[test]
fn what_is_under_way_on_the_old_root_goes_on_by_the_new_one() {
    let cluster = Cluster::start(skein(), &[("first", web()), ("second", reviews())]);
    cluster.wait_endpoints("shop/reviews", 1);
    served(&cluster, "first", PATIENCE);
    let mut request = endless(&cluster);
    for word in ["start", "advance", "finish"] {
        step(&cluster, &[word]);
        request.write_all(b"5\r\nhello\r\n").expect("it goes on");
        // New requests go their way beside it.
        served(&cluster, "first", PATIENCE);
    }
    assert_eq!(states(&cluster), ["issuing", "withdrawn"]);
    request.write_all(b"0\r\n\r\n").expect("it ends");
    request.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut answer = [0; 12];
    request.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 200");
    let whole = |arrival: &harness::backend::Arrival| arrival.body == b"hello".repeat(4);
    assert!(cluster.node("second").backends[0].arrivals().iter().any(whole));
}

#[test]
fn who_is_left_behind_by_force_is_named_and_finds_back() {
    let cluster = Cluster::start(skein(), &[("first", web()), ("second", reviews())]);
    cluster.wait_endpoints("shop/reviews", 1);
    served(&cluster, "first", PATIENCE);
    step(&cluster, &["start"]);
    step(&cluster, &["advance"]);
    // It lives, is not heard, and cannot have renewed anything.
    let second = cluster.node("second").running.as_ref().expect("it runs");
    second.signal(Signal::SIGSTOP);
    let finished = cluster.on("first", &["ca", "rotate", "finish", "--force", "--timeout", "1s", "-o", "json"]);
    // What is cut need not say in time that it has it.
    assert!([0, 4].contains(&finished.code), "{finished:?}");
    let finished = finished.json();
    assert_eq!(finished["phase"], "steady", "{finished}");
    let named = ["left_behind", "cut", "away"].map(|field| texts(&finished[field])).concat();
    assert!(named.contains(&"second"), "{finished}");
    second.signal(Signal::SIGCONT);
    served(&cluster, "first", Duration::from_secs(60));
    assert_eq!(states(&cluster), ["issuing", "withdrawn"]);
}

/// Begins a step and kills the command line after so long.
fn interrupted(cluster: &Cluster, word: &str, after: Duration) {
    let mut command = cluster.command("first");
    command.args(["ca", "rotate", word]).args(STEP).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().expect("skein can be started");
    std::thread::sleep(after);
    // It may have come to its end already.
    let _ = child.kill();
    child.wait().expect("it ends");
}

#[test]
fn a_command_line_that_dies_at_any_moment_loses_neither_the_change_nor_a_key() {
    let cluster = Cluster::start(skein(), &[("first", web()), ("second", reviews())]);
    cluster.wait_endpoints("shop/reviews", 1);
    // What a dying command has sent may be on its way still.
    let phase = || {
        eventually_within("the phase is told", PATIENCE, || {
            let told = cluster.on("first", &["ca", "rotate", "status", "-o", "json"]);
            let phase = (told.code == 0).then(|| told.json()["phase"].as_str().map(str::to_owned)).flatten();
            phase.ok_or_else(|| format!("{told:?}"))
        })
    };
    for (word, wanted) in [("start", "distributing"), ("advance", "issuing"), ("finish", "steady")] {
        for millis in [10, 30, 60, 100, 150, 250] {
            if phase() != wanted {
                interrupted(&cluster, word, Duration::from_millis(millis));
            }
        }
        eventually_within(&format!("{word} comes to its end"), Duration::from_secs(90), || {
            if phase() == wanted {
                return Ok(());
            }
            Err(format!("{:?}", cluster.on("first", &[&["ca", "rotate", word], &STEP[..]].concat())))
        });
    }
    assert_eq!(states(&cluster), ["issuing", "withdrawn"]);
    served(&cluster, "first", PATIENCE);
    // The key that is left certifies.
    cluster.on("first", &["ca", "renew", "first"]).expect_code(0);
    let bundled = std::fs::read_to_string(cluster.operator().join("bundle.pem")).expect("it is there");
    assert_eq!(bundled, bundle(&cluster, "second"));
}

#[test]
fn a_node_whose_root_was_withdrawn_while_nobody_can_renew_it_says_so() {
    let mut cluster = three();
    knows_the_second(&cluster);
    cluster.kill("third");
    cluster.json("first", &["ca", "rotate", "start", "--emergency"]);
    eventually_within("second is back", Duration::from_secs(60), || match cluster.healthy("first", "shop/reviews") {
        1 => Ok(()),
        seen => Err(format!("{seen} seen; {}", cluster.log("second"))),
    });
    cluster.kill("first");
    // From the second it hears of the new root, and the second enrols nobody.
    cluster.run("third");
    eventually_within("third says why no connection opens", Duration::from_secs(60), || {
        let told = cluster.json("third", &["status"]);
        let problems = told["problems"].to_string();
        if problems.contains("certificate_withdrawn") { Ok(()) } else { Err(told.to_string()) }
    });
    assert_eq!(cluster.healthy("second", "shop/reviews"), 1);
    cluster.run("first");
    eventually_within("third is back", Duration::from_secs(60), || match cluster.healthy("first", "shop/reviews") {
        2 => Ok(()),
        seen => Err(format!("{seen} seen; {}", cluster.log("third"))),
    });
    let told = cluster.json("third", &["status"])["problems"].to_string();
    assert!(!told.contains("certificate_withdrawn"), "{told}");
}

#[test]
fn a_change_that_has_not_begun_to_certify_is_given_up() {
    let cluster = three();
    let before = bundle(&cluster, "third");
    step(&cluster, &["start"]);
    let told = cluster.json("first", &["ca", "rotate", "cancel"]);
    written("ca rotate cancel", &told);
    assert_eq!(told["phase"], "steady");
    assert_eq!(code(&cluster, &["cancel"]), "out_of_turn");
    assert!(!cluster.operator().join("root.next.key").exists());
    eventually_within("third trusts the old root alone", PATIENCE, || {
        let now = bundle(&cluster, "third");
        if now == before { Ok(()) } else { Err(now) }
    });
    served(&cluster, "first", PATIENCE);
}

#[test]
fn a_change_in_which_an_enroller_certifies_already_is_given_up_once_that_is_undone() {
    let mut cluster = three();
    cluster.on("first", &["ca", "promote", "second"]).expect_code(0);
    step(&cluster, &["start"]);
    // An `advance` that broke off: one of two enrollers has the new root.
    let request = cluster.on("first", &["ca", "csr"]).expect_code(0).out;
    let request = cluster.file("first.csr", &request).to_string_lossy().into_owned();
    let signed = cluster.on("first", &["ca", "sign", &request, "--next"]).expect_code(0).out;
    let signed = cluster.file("first.pem", &signed).to_string_lossy().into_owned();
    cluster.on("first", &["ca", "renew", "--certificate", &signed]).expect_code(0);
    let told = cluster.json("first", &["status"])["problems"].to_string();
    assert!(told.contains("enroller_early"), "{told}");
    // Who joins meanwhile rests on it.
    cluster.join("fourth", &reviews());
    cluster.run("fourth");
    cluster.wait_members(PATIENCE);
    let refused = cluster.on("first", &["ca", "rotate", "cancel", "-o", "json"]);
    let error = &refused.error()["error"];
    assert_eq!((refused.code, &error["code"]), (5, &"refused".into()), "{refused:?}");
    assert!(error["hint"].as_str().is_some_and(|hint| hint.contains("skein ca renew first")), "{refused:?}");
    assert!(!error["message"].to_string().contains("second"), "it has the old one: {refused:?}");
    cluster.on("first", &["ca", "renew", "first"]).expect_code(0);
    let told = step(&cluster, &["cancel"]);
    assert_eq!((&told["phase"], texts(&told["left_behind"]).len()), (&"steady".into(), 0), "{told}");
    assert_eq!(states(&cluster), ["issuing", "withdrawn"]);
    eventually_within("fourth is renewed under the root that stays", Duration::from_secs(60), || {
        let shown = cluster.on("fourth", &["identity", "show", "shop/reviews", "-o", "json"]);
        let state = (shown.code == 0).then(|| shown.json()["root_state"].clone());
        if state == Some("issuing".into()) { Ok(()) } else { Err(format!("{shown:?} {}", cluster.log("fourth"))) }
    });
    eventually_within("fourth is served", PATIENCE, || match cluster.healthy("first", "shop/reviews") {
        3 => Ok(()),
        seen => Err(format!("{seen} seen; {}", cluster.log("fourth"))),
    });
    served(&cluster, "first", PATIENCE);
    // Another change goes its way.
    step(&cluster, &["start"]);
    step(&cluster, &["advance"]);
    step(&cluster, &["finish"]);
}

#[test]
fn a_stolen_root_is_replaced_at_once_and_nodes_come_back_by_themselves() {
    let cluster = three();
    let elsewhere = cluster.on("first", &["ca", "rotate", "start", "--emergency", "--node", "second", "-o", "json"]);
    assert_eq!(elsewhere.error()["error"]["code"], "usage", "{elsewhere:?}");
    let plain = cluster.on("second", &["ca", "rotate", "start", "--emergency", "-o", "json"]);
    assert_eq!(plain.error()["error"]["code"], "not_an_enroller", "{plain:?}");
    let valid = cluster.on("first", &["ca", "rotate", "start", "--offline", "-o", "json"]);
    assert_eq!(valid.error()["error"]["code"], "refused", "{valid:?}");
    let done = cluster.json("first", &["ca", "rotate", "start", "--emergency"]);
    written("ca rotate start", &done);
    assert_eq!((&done["phase"], texts(&done["cut"])), (&"steady".into(), vec!["second", "third"]), "{done}");
    eventually_within("all are back", Duration::from_secs(60), || match cluster.healthy("first", "shop/reviews") {
        2 => Ok(()),
        seen => Err(format!("{seen} seen; {} {}", cluster.log("first"), cluster.log("third"))),
    });
    cluster.wait_members(PATIENCE);
    served(&cluster, "first", PATIENCE);
    assert_eq!(states(&cluster), ["issuing", "withdrawn"]);
}

#[test]
fn a_mesh_whose_root_has_expired_recovers() {
    let mut cluster = three();
    for name in ["third", "second", "first"] {
        assert!(cluster.terminate(name).is_some_and(|status| status.success()), "{name}: {}", cluster.log(name));
    }
    // Ten years and a month.
    cluster.clock_offset = "3680d".to_owned();
    for name in ["first", "second", "third"] {
        cluster.run(name);
    }
    let told = cluster.json("first", &["status"]);
    assert!(told["problems"].to_string().contains("root_expired"), "{told}");
    cluster.json("first", &["ca", "rotate", "start", "--offline"]);
    eventually_within("all are back", Duration::from_secs(90), || match cluster.healthy("first", "shop/reviews") {
        2 => Ok(()),
        seen => Err(format!("{seen} seen; {}", cluster.log("third"))),
    });
    served(&cluster, "first", PATIENCE);
}

#[test]
fn who_was_off_while_another_became_the_enroller_is_let_back() {
    let mut cluster = three();
    knows_the_second(&cluster);
    cluster.kill("third");
    cluster.on("first", &["ca", "promote", "second"]).expect_code(0);
    eventually_within("second has it on disk", PATIENCE, || {
        let told = cluster.json("second", &["status"])["certificates"]["enroller_ca_expires"].to_string();
        if told.contains('T') { Ok(()) } else { Err(told) }
    });
    // The only enroller that the third knows never comes back, and its certificate ends.
    cluster.kill("first");
    assert!(cluster.terminate("second").is_some_and(|status| status.success()));
    cluster.clock_offset = "40d".to_owned();
    cluster.run("second");
    cluster.run("third");
    eventually_within("third is back", Duration::from_secs(60), || match cluster.healthy("second", "shop/reviews") {
        2 => Ok(()),
        seen => Err(format!("{seen} seen; {}", cluster.log("third"))),
    });
}

#[test]
fn an_enroller_whose_ca_has_ended_comes_back_by_another_one() {
    let mut cluster = three();
    cluster.on("first", &["ca", "promote", "second"]).expect_code(0);
    // The first enroller's machine is off for more than a year; the second one is renewed meanwhile.
    assert!(cluster.terminate("first").is_some_and(|status| status.success()));
    for name in ["second", "third"] {
        assert!(cluster.terminate(name).is_some_and(|status| status.success()));
    }
    cluster.clock_offset = "340d".to_owned();
    cluster.run("second");
    cluster.run("third");
    eventually_within("second has renewed itself", PATIENCE, || match cluster.alive("second") {
        2 => Ok(()),
        seen => Err(format!("{seen}; {}", cluster.log("third"))),
    });
    cluster.on("second", &["ca", "renew", "second"]).expect_code(0);
    for name in ["second", "third"] {
        assert!(cluster.terminate(name).is_some_and(|status| status.success()));
    }
    cluster.clock_offset = "380d".to_owned();
    for name in ["second", "third", "first"] {
        cluster.run(name);
    }
    eventually_within("the first is back", Duration::from_secs(60), || match cluster.alive("second") {
        3 => Ok(()),
        seen => Err(format!("{seen}; {}", cluster.log("first"))),
    });
    served(&cluster, "first", PATIENCE);
    let told = cluster.json("first", &["status"]);
    assert!(told["problems"].to_string().contains("enroller_expired"), "{told}");
}
