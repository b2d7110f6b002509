//! Every mistake gets a clear word: what, where, what to do; and nothing is half done.

use std::os::unix::fs::PermissionsExt;

use harness::{
    cluster::{Cluster, Plan, Service},
    eventually, http,
    process::Output,
};
use nix::sys::signal::Signal;

use crate::skein;

fn mesh_of_one() -> Cluster {
    Cluster::start(skein(), &[("first", Plan::with([Service::version("shop/reviews", "v1")]))])
}

fn refuses(cluster: &Cluster, text: &str, code: i32, words: &[&str]) {
    let before = cluster.json("first", &["policy", "list"]);
    let output = cluster.push("first", text, &[]);
    assert_eq!(output.code, code, "{text}\n{output:?}");
    let said = format!("{}{}", output.out, output.err);
    for word in words {
        assert!(said.contains(word), "`{word}` is not in {output:?}");
    }
    assert_eq!(before, cluster.json("first", &["policy", "list"]), "nothing half done");
}

fn says(output: &Output, code: i32, error: &str, words: &[&str]) {
    assert_eq!(output.code, code, "{output:?}");
    let found = output.error();
    assert_eq!(found["error"]["code"], error, "{output:?}");
    let all = found.to_string();
    for word in words {
        assert!(all.contains(word), "`{word}` is not in {output:?}");
    }
    assert!(found["error"]["hint"].as_str().is_some_and(|hint| !hint.is_empty()), "a hint: {output:?}");
}

const HEAD: &str = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: reviews\n  namespace: shop\nspec:\n  hosts:\n  - reviews\n";

#[test]
fn documents() {
    let cluster = mesh_of_one();
    refuses(&cluster, &format!("{HEAD}  htpp:\n  - route: []\n"), 2, &["htpp", "9"]);
    refuses(
        &cluster,
        &format!("{HEAD}  http:\n  - route:\n    - destination: {{host: reviews}}\n      weight: heavy\n"),
        2,
        &["weight", "12"],
    );
    refuses(
        &cluster,
        &format!("{HEAD}  http:\n  - route:\n    - destination: {{host: reviews}}\n      weight: -1\n"),
        2,
        &["weight", "12"],
    );
    refuses(
        &cluster,
        &format!("{HEAD}  http:\n  - timeout: soon\n    route:\n    - destination: {{host: reviews}}\n"),
        2,
        &["timeout", "10"],
    );
    refuses(
        &cluster,
        &format!("{HEAD}  http:\n  - route:\n    - destination: {{host: reviews, subset: v7}}\n"),
        2,
        &["v7"],
    );
    refuses(&cluster, &format!("{HEAD}  http:\n  - route:\n    - destination: {{host: nobody}}\n"), 2, &["nobody"]);
    refuses(&cluster, "kind: VirtualService\n  name: [\n", 2, &["2"]);
    refuses(
        &cluster,
        "apiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\nmetadata: {name: x}\nspec: {}\n",
        2,
        &["EnvoyFilter"],
    );
    refuses(
        &cluster,
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: x}\nspec: {selector: {a: b}, servers: [{port: {number: 1, name: a, protocol: UDP}, hosts: ['*']}]}\n",
        2,
        &["a server of UDP", "not supported"],
    );
}

#[test]
fn a_foreign_signature_is_refused() {
    let ours = mesh_of_one();
    let theirs = mesh_of_one();
    let text = format!("{HEAD}  http:\n  - route:\n    - destination: {{host: reviews}}\n");
    let file = ours.file("vs.yaml", &text);
    let theirs_operator = theirs.operator().to_string_lossy().into_owned();
    let output =
        ours.on("first", &["policy", "push", &file.to_string_lossy(), "--operator", &theirs_operator, "-o", "json"]);
    assert_eq!(output.code, 5, "{output:?}");
    let code = output.error()["error"]["code"].as_str().unwrap_or_default().to_owned();
    assert!(["bad_signature", "role_missing"].contains(&code.as_str()), "{output:?}");
    assert!(!ours.json("first", &["policy", "list"]).to_string().contains("VirtualService"));
}

#[test]
fn a_stale_parent_is_refused() {
    let cluster = mesh_of_one();
    let text = |timeout: &str| {
        format!("{HEAD}  http:\n  - timeout: {timeout}\n    route:\n    - destination: {{host: reviews}}\n")
    };
    let first = cluster.push("first", &text("1s"), &[]).expect_code(0).json();
    let parent = first["changeset"].as_str().expect("an id").to_owned();
    cluster.push("first", &text("2s"), &[]).expect_code(0);
    let output = cluster.push("first", &text("3s"), &["--expect-parent", &parent]);
    says(&output, 5, "stale_parent", &[]);
}

#[test]
fn configuration() {
    let mut cluster = mesh_of_one();
    let file = cluster.node("first").config();
    let text = std::fs::read_to_string(&file).expect("written");
    std::fs::write(&file, text.replace("[runtime]", "[runtime]\nworkrs = 2")).expect("writable");
    let output = cluster.on("first", &["run", "-o", "json"]);
    assert_eq!(output.code, 2, "{output:?}");
    assert!(output.err.contains("workrs") && output.err.contains("skein.toml"), "{output:?}");
    std::fs::write(&file, &text).expect("writable");

    let output = cluster.on("first", &["run", "-o", "json"]);
    assert_eq!(output.code, 1, "it runs already: {output:?}");
    cluster.kill("first");
    let ip = cluster.node("first").ip;
    let taken = std::net::TcpListener::bind((ip, 15001)).expect("free now");
    let output = cluster.on("first", &["run", "-o", "json"]);
    let line = text.lines().position(|line| line.contains("15001")).expect("it is there") + 1;
    says(&output, 1, "address_in_use", &["15001", &format!("skein.toml:{line}:"), "[[outbound]] http"]);
    drop(taken);

    let key = cluster.node("first").dir.join("data/ca.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).expect("ours");
    let output = cluster.on("first", &["run", "-o", "json"]);
    says(&output, 1, "key_permissions", &["ca.key", "chmod"]);
}

#[test]
fn before_joining_and_beyond_reach() {
    let mut cluster = mesh_of_one();
    let plan = Plan::with([Service::client("shop/web")]);
    cluster.prepare_only("second", &plan);
    let output = cluster.on("second", &["run", "-o", "json"]);
    says(&output, 2, "not_joined", &["join"]);
    let output = cluster.on("first", &["members", "--node", "127.0.0.1:1", "-o", "json", "--timeout", "2s"]);
    says(&output, 1, "unreachable", &["127.0.0.1:1"]);
    let output = cluster.on("first", &["no-such-command"]);
    assert_eq!(output.code, 2, "{output:?}");
    // Nobody runs here, nobody ever joined: that is said, and not that something does not answer.
    let mut fresh = cluster.command("second");
    let elsewhere = cluster.path().join("nobody");
    let output = fresh.args(["status", "-o", "json", "--operator"]).arg(elsewhere).output().expect("it starts");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && text.contains("not_joined") && text.contains("skein join"), "{text}");
}

#[test]
fn commands_say_what_they_cannot_mean() {
    let cluster = mesh_of_one();
    let output = cluster.on("first", &["ping", "first", "-o", "json"]);
    says(&output, 2, "usage", &["first is the node that is asked"]);
    let output = cluster.on("first", &["tap", "--status", "9xx", "-o", "json"]);
    says(&output, 2, "usage", &["9xx", "5xx"]);
    assert_eq!(cluster.on("first", &["tap", "--limit", "0"]).code, 2);
    // What is taken back is said to go.
    let text = format!("{HEAD}  http:\n  - route:\n    - destination: {{host: reviews}}\n");
    let pushed = cluster.push("first", &text, &[]).expect_code(0).json();
    let id = pushed["changeset"].as_str().expect("an id");
    let shown = cluster.on("first", &["policy", "revert", id, "--dry-run"]).expect_code(0).out;
    assert!(shown.contains("deleted VirtualService shop/reviews"), "{shown}");
    // Why nobody is let in is said, and nothing of addresses at which no rule looks.
    let only = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: get-only, namespace: shop}\n\
                spec: {action: ALLOW, rules: [{to: [{operation: {methods: [GET]}}]}]}\n";
    cluster.push("first", only, &["--wait", "all"]).expect_code(0);
    let denied = cluster.json("first", &["explain", "-X", "POST", "http://reviews:9080/"]);
    let note = denied["authorization"]["note"].as_str().unwrap_or_default();
    assert!(denied["authorization"]["verdict"] == "deny" && note.contains("shop/get-only"), "{denied}");
    let allowed = cluster.json("first", &["explain", "http://reviews:9080/"]);
    assert!(allowed["authorization"]["note"].is_null(), "{allowed}");
}

#[test]
fn a_reload_that_failed_is_a_problem_until_one_succeeds() {
    let cluster = mesh_of_one();
    let node = cluster.node("first");
    let file = node.config();
    let before = std::fs::read_to_string(&file).expect("a configuration");
    let told = || -> Vec<String> {
        let status = cluster.json("first", &["status"]);
        let problems = status["problems"].as_array().expect("a list");
        problems.iter().filter_map(|problem| problem["code"].as_str().map(str::to_owned)).collect()
    };
    let reload = |text: &str, is_told: bool| {
        std::fs::write(&file, text).expect("a file");
        node.running.as_ref().expect("it runs").signal(Signal::SIGHUP);
        eventually("the reload is judged", || {
            let codes = told();
            if codes.iter().any(|code| code == "not_reloaded") == is_told { Ok(()) } else { Err(format!("{codes:?}")) }
        });
    };
    // The command line can read it, and the node must be started anew for it.
    reload(&before.replace("workers = 2", "workers = 3"), true);
    reload(&before, false);
}

#[test]
fn a_host_with_a_port_that_cannot_be_is_refused_and_explained_so() {
    let cluster = mesh_of_one();
    for host in ["reviews:99999", "reviews:abc", "reviews:0"] {
        let answer = http::get(cluster.node("first").outbound(), host, "/").expect("an answer");
        assert_eq!(answer.status, 400, "{host}");
    }
    let output = cluster.on("first", &["explain", "http://reviews:99999/", "-o", "json"]);
    says(&output, 2, "usage", &["reviews:99999"]);
    let absent = cluster.json("first", &["explain", "tcp://reviews:81"]);
    assert!(absent["answer"].to_string().contains("has no port 81"), "{absent}");
    let requests = cluster.json("first", &["explain", "tcp://reviews:9080"]);
    assert!(requests["answer"].to_string().contains("carries requests"), "{requests}");
}
