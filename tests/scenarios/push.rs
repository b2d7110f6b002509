//! What a push refuses, what it waits for, and what it leaves alone.

use harness::{
    cluster::{Cluster, Plan, Service},
    process::Output,
};
use serde_json::{Value, json};

use crate::{reviews, skein, subsets, virtual_service, written};

const TO_V1: &str = "  - route:\n    - destination: {host: reviews, subset: v1}\n";

fn named(text: &str, name: &str) -> String {
    text.replacen("  name: reviews\n", &format!("  name: {name}\n"), 1)
}

fn documents(cluster: &Cluster) -> Value {
    cluster.json("web", &["policy", "list"])
}

fn refused(output: &Output, exit: i32, code: &str, words: &[&str]) {
    assert_eq!(output.code, exit, "{output:?}");
    let error = output.error();
    assert_eq!(error["error"]["code"], code, "{output:?}");
    for word in words {
        assert!(error.to_string().contains(word), "`{word}` is not in {error}");
    }
}

#[test]
fn a_document_that_another_one_overrules_is_refused_unless_allowed() {
    let cluster = reviews(&["v1"]);
    cluster.push("web", &subsets(&["v1"]), &["--wait", "all"]).expect_code(0);
    cluster.push("web", &virtual_service(TO_V1), &[]).expect_code(0);
    let before = documents(&cluster);

    let second = named(&virtual_service(TO_V1), "newer");
    let output = cluster.push("reviews-v1", &second, &[]);
    let words = ["SKN0305", "shop/newer", "shop/reviews", "pushed by", "--allow SKN0305", "spec.hosts[0]"];
    refused(&output, 2, "invalid_document", &words);
    let again = named(&subsets(&["v1"]), "newer");
    refused(
        &cluster.push("reviews-v1", &again, &[]),
        2,
        "invalid_document",
        &["SKN0308", "shop/newer", "shop/reviews"],
    );
    assert_eq!(documents(&cluster), before, "nothing half done");

    cluster.push("reviews-v1", &second, &["--allow", "SKN0305", "--wait", "all"]).expect_code(0);
    // The older one may go on changing: it is in effect.
    cluster.push("web", &virtual_service(TO_V1), &["--again"]).expect_code(0);
}

#[test]
fn a_folder_counts_as_a_whole_or_not_at_all() {
    let cluster = reviews(&["v1"]);
    let before = documents(&cluster);
    let folder = cluster.path().join("folder");
    std::fs::create_dir_all(folder.join("deeper")).expect("a directory");
    std::fs::write(folder.join("a.yaml"), subsets(&["v1"])).expect("a file");
    std::fs::write(folder.join("deeper/b.yaml"), virtual_service(TO_V1).replace("v1}", "v7}")).expect("a file");
    let folder = folder.to_string_lossy().into_owned();
    let output = cluster.on("web", &["policy", "push", &folder, "-o", "json"]);
    refused(&output, 2, "invalid_document", &["SKN0302", "b.yaml:11"]);
    assert_eq!(documents(&cluster), before, "nothing half done");
    cluster.on("web", &["policy", "apply", &folder, "--allow", "SKN0302"]).expect_code(0);
    let listed = documents(&cluster);
    let of = |kind: &str| {
        let found = listed.as_array().and_then(|all| all.iter().find(|document| document["kind"] == kind)).cloned();
        found.unwrap_or_else(|| panic!("no {kind} in {listed}"))
    };
    assert_eq!(of("VirtualService")["changeset"], of("DestinationRule")["changeset"], "{listed}");
}

#[test]
fn what_stands_as_it_is_written_is_not_pushed_again() {
    let cluster = reviews(&["v1", "v2"]);
    let both = |subset: &[&str]| format!("{}---\n{}", subsets(subset), virtual_service(TO_V1));
    let log = || cluster.json("web", &["policy", "log"]).as_array().map_or(0, Vec::len);
    let rows = |output: &Value| -> Vec<(String, u64, bool)> {
        let row = |row: &Value| {
            (
                row["kind"].as_str().unwrap_or_default().to_owned(),
                row["version"].as_u64().unwrap_or(0),
                row["unchanged"] == true,
            )
        };
        output["documents"].as_array().into_iter().flatten().map(row).collect()
    };
    let row = |kind: &str, version, unchanged| (kind.to_owned(), version, unchanged);
    let (rules, routes) = ("DestinationRule", "VirtualService");
    let first = cluster.push("web", &both(&["v1"]), &["--wait", "all"]).expect_code(0).json();
    let before = log();

    // At another node, spelled another way: nothing is signed, and those who have it are named as after a push.
    let other = format!("# a comment\n{}", both(&["v1"]));
    let again = cluster.push("reviews-v1", &other, &["--wait", "all"]).expect_code(0).json();
    assert_eq!((&again["unchanged"], &again["changeset"]), (&Value::Bool(true), &first["changeset"]), "{again}");
    assert_eq!(rows(&again), [row(rules, 1, true), row(routes, 1, true)]);
    let names = |output: &Value, field: &str| {
        let mut names: Vec<_> = output[field].as_array().into_iter().flatten().map(Value::to_string).collect();
        names.sort();
        names
    };
    for field in ["durable", "applied"] {
        assert_eq!(names(&again, field).len(), 3, "{again}");
        assert_eq!(names(&again, field), names(&first, field));
    }
    let dry = cluster.push("web", &both(&["v1"]), &["--dry-run"]).expect_code(0).json();
    assert_eq!((&dry["unchanged"], &dry["dry_run"]), (&Value::Bool(true), &Value::Bool(true)), "{dry}");
    assert_eq!(log(), before);

    // What changed is one changeset of its own, and may be reverted without the rest.
    let part = cluster.push("web", &both(&["v1", "v2"]), &["--wait", "all"]).expect_code(0).json();
    assert_eq!(rows(&part), [row(rules, 2, false), row(routes, 1, true)], "{part}");
    assert_eq!((log(), &part["unchanged"]), (before + 1, &Value::Null));
    let id = part["changeset"].as_str().expect("an id");
    let shown = cluster.json("web", &["policy", "show", id]);
    assert_eq!(shown["changes"].as_array().map(Vec::len), Some(1), "{shown}");
    // Both stand now by two changesets.
    let again = cluster.push("web", &both(&["v1", "v2"]), &["--wait", "all"]).expect_code(0).json();
    assert_eq!((&again["changeset"], names(&again, "applied").len()), (&part["changeset"], 3), "{again}");
    assert_eq!(log(), before + 1);

    // Whoever wants it signed again says so; and what may end by itself does not stand.
    let signed = cluster.push("web", &both(&["v1", "v2"]), &["--again", "--wait", "all"]).expect_code(0).json();
    assert_eq!(rows(&signed), [row(rules, 3, false), row(routes, 2, false)]);
    let trial = subsets(&["v2"]);
    cluster.push("web", &trial, &["--confirm-within", "1h", "--allow", "SKN0302", "--wait", "all"]).expect_code(0);
    let kept = cluster.push("web", &trial, &["--allow", "SKN0302", "--wait", "all"]).expect_code(0).json();
    assert_eq!(rows(&kept), [row(rules, 5, false)], "{kept}");
    let file = cluster.file("table.yaml", &trial).to_string_lossy().into_owned();
    let table = cluster.on("web", &["policy", "push", &file, "--allow", "SKN0302"]).expect_code(0).out.clone();
    assert!(table.contains("version 5, unchanged\nnothing was pushed: "), "{table}");
}

#[test]
fn a_dry_run_says_what_would_be_and_changes_nothing() {
    let cluster = reviews(&["v1"]);
    let before = documents(&cluster);
    let output = cluster.push("web", &subsets(&["v1"]), &["--dry-run", "--message", "try"]).expect_code(0).json();
    assert_eq!(output["dry_run"], true, "{output}");
    assert_eq!(output["documents"][0]["version"], 1, "{output}");
    assert_eq!(output["durable"], Value::Array(Vec::new()), "{output}");
    refused(
        &cluster.push("web", &virtual_service(TO_V1), &["--dry-run"]),
        2,
        "invalid_document",
        &["SKN0302", "neither the mesh nor this push"],
    );
    assert_eq!(documents(&cluster), before);
}

#[test]
fn a_push_waits_for_those_it_was_told_to() {
    let mut cluster = Cluster::start(
        skein(),
        &[
            ("first", Plan::with([Service::version("shop/reviews", "v1")])),
            ("second", Plan::with([Service::client("shop/web")])),
        ],
    );
    cluster.wait_members(harness::PATIENCE);
    let names = |pushed: &Value, field: &str| pushed[field].as_array().map(Vec::len);
    let local = cluster.push("first", &subsets(&["v1"]), &["--wait", "local"]).expect_code(0).json();
    assert_eq!(local["durable"][0], "first", "{local}");
    let all = cluster.push("first", &subsets(&["v1", "v2"]), &["--wait", "all"]).expect_code(0).json();
    assert_eq!((names(&all, "durable"), names(&all, "applied")), (Some(2), Some(2)), "{all}");
    cluster.kill("second");
    // Two nodes cannot have it: it is printed, kept, and the exit code says that it is not where it shall be.
    let two = cluster.push("first", &subsets(&["v2"]), &["--wait", "2", "--timeout", "3s"]);
    refused(&two, 4, "not_converged", &["skein wait --changeset"]);
    assert_eq!(names(&two.json(), "durable"), Some(1), "{two:?}");
    let short = two.json()["changeset"].as_str().expect("an id").get(..12).expect("long").to_owned();
    cluster.push("first", &subsets(&["v1"]), &["--wait", "1", "--expect-parent", &short]).expect_code(0);
    let stale = cluster.push("first", &subsets(&["v1"]), &["--wait", "1", "--expect-parent", &short]);
    refused(&stale, 5, "stale_parent", &["was set by"]);
}

#[test]
fn programs_are_told_what_people_are_told() {
    let cluster = reviews(&["v1"]);
    // The operator may push to `shop` alone.
    let mut set = cluster.json("web", &["policy", "get", "RoleSet", "default", "-n", "istio-system"]);
    let own = set["spec"]["roles"][0]["keys"][0].clone();
    set["spec"].as_object_mut().expect("a spec").remove("bundle");
    set["spec"]["roles"] = json!([
        {"name": "admin", "keys": [own], "threshold": 1, "namespaces": ["*"], "kinds": ["*"],
         "verbs": ["view", "invite", "evict", "roles"]},
        {"name": "shop", "keys": [own], "threshold": 1, "namespaces": ["shop"], "kinds": ["*"], "verbs": ["view", "push"]},
    ]);
    set["spec"]["keeps"] = json!([]);
    cluster.push("web", &set.to_string(), &["--wait", "all"]).expect_code(0);

    let elsewhere = |timeout: &str| {
        virtual_service(&format!("  - route:\n    - destination: {{host: reviews}}\n    timeout: {timeout}\n"))
            .replace("  - reviews\n", "  - ledger.bank.svc.cluster.local\n")
    };
    let codes = |said: &Value| -> Vec<String> {
        written("policy push", said);
        let problems = said["problems"].as_array().unwrap_or_else(|| panic!("no problems in {said}"));
        problems.iter().filter_map(|problem| problem["code"].as_str().map(str::to_owned)).collect()
    };
    let has = |said: &Value| codes(said).iter().any(|code| code == "SKN0333");
    let dry = cluster.push("web", &elsewhere("1s"), &["--dry-run"]).expect_code(0).json();
    assert!(has(&dry), "{dry}");
    let first = cluster.push("web", &elsewhere("1s"), &[]).expect_code(0).json();
    assert!(has(&first), "{first}");
    let again = cluster.push("web", &elsewhere("1s"), &[]).expect_code(0).json();
    assert!(again["unchanged"] == true && has(&again), "{again}");
    let second = cluster.push("web", &elsewhere("2s"), &[]).expect_code(0).json();
    let id = second["changeset"].as_str().expect("an id");
    let reverted = cluster.json("web", &["policy", "revert", id]);
    assert!(has(&reverted), "{reverted}");
    let told = cluster.on("web", &["policy", "revert", reverted["changeset"].as_str().expect("an id")]);
    assert!(told.expect_code(0).err.contains("SKN0333"), "people are told, too");
    let deleted = cluster.json("web", &["policy", "delete", "vs", "reviews", "-n", "shop"]);
    assert_eq!(codes(&deleted), Vec::<String>::new(), "{deleted}");
}

#[test]
fn people_see_the_place_of_what_the_mesh_refuses_and_how_to_allow_it() {
    let cluster = reviews(&["v1"]);
    let text = virtual_service(
        "  - route:\n    - destination:\n        host:    nobody\n  - route:\n    - destination: {host: reviews, subset: v7}\n",
    );
    let file = cluster.file("r.yaml", &text).to_string_lossy().into_owned();
    let refused = cluster.on("web", &["policy", "push", &file]).expect_code(2).err;
    let place = |word: &str| {
        let (number, line) = text.lines().enumerate().find(|(_, line)| line.contains(word)).expect("it is there");
        format!("{file}:{}:{}", number + 1, line.find(word).expect("it is there") + 1)
    };
    let nobody = place("nobody");
    for word in ["error[SKN0301]", "error[SKN0302]", nobody.as_str(), "^^^^^^", "--allow SKN0301,SKN0302"] {
        assert!(refused.contains(word), "`{word}` is not in {refused}");
    }
    let wrong = cluster.on("web", &["policy", "push", &file, "--allow", "SKN301"]).expect_code(2).err;
    assert!(wrong.contains("did you mean SKN0301?"), "{wrong}");
    let deployment = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\nspec: {}\n";
    let file = cluster.file("d.yaml", deployment).to_string_lossy().into_owned();
    let refused = cluster.on("web", &["policy", "push", &file]).expect_code(2).err;
    assert!(refused.contains("error[SKN0006]") && refused.contains("d.yaml:1"), "{refused}");
    let twice = cluster.on("web", &["policy", "push", &file, &file]).expect_code(2).err;
    assert!(twice.contains("SKN0006"), "{twice}");
}

#[test]
fn a_revert_takes_nothing_newer_back_unless_told_to() {
    let cluster = reviews(&["v1"]);
    let log = || cluster.json("web", &["policy", "log"]).as_array().map(Vec::len).expect("a list");
    let id = |pushed: &Value| pushed["changeset"].as_str().expect("an id").to_owned();
    let route = |timeout: &str| {
        virtual_service(&format!("  - route:\n    - destination: {{host: reviews}}\n    timeout: {timeout}\n"))
    };
    let push = |timeout: &str| {
        id(&cluster.push("web", &route(timeout), &["--wait", "all", "--message", timeout]).expect_code(0).json())
    };
    let (first, second, third) = (push("1s"), push("2s"), push("3s"));
    let output = cluster.on("web", &["policy", "revert", &first, "-o", "json"]);
    refused(
        &output,
        5,
        "stale_parent",
        &[second.as_str(), third.as_str(), "(2s)", "--over", "VirtualService shop/reviews"],
    );
    let before = log();
    let newest = cluster.json("web", &["policy", "revert", &third, "--wait", "all"]);
    let timeout = || {
        let document = cluster.json("web", &["policy", "get", "vs", "shop/reviews"]);
        document["spec"]["http"][0]["timeout"].as_str().map(str::to_owned)
    };
    assert_eq!((timeout().as_deref(), log()), (Some("2s"), before + 1), "{newest}");
    // The same again: it is so.
    let again = cluster.json("web", &["policy", "revert", &third, "--wait", "all"]);
    written("policy revert", &again);
    assert_eq!((&again["unchanged"], log()), (&Value::Bool(true), before + 1), "{again}");
    // What the second one said holds again, so that it is the next to go; and back again.
    cluster.on("web", &["policy", "revert", &second, "--wait", "all"]).expect_code(0);
    assert_eq!((timeout().as_deref(), log()), (Some("1s"), before + 2));
    push("4s");
    // All of it goes at once, if that is meant; and then the document is no more, which is so the second time.
    let over = cluster.on("web", &["policy", "revert", &first, "--over", "--wait", "all"]).expect_code(0);
    assert!(over.out.contains("deleted VirtualService shop/reviews") && over.err.contains(&second), "{over:?}");
    let gone = cluster.on("web", &["policy", "revert", &first]).expect_code(0);
    assert!(gone.out.contains("nothing was pushed") && log() == before + 4, "{gone:?}");
}
