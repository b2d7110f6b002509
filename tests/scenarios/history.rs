//! Looking back: documents as they were, what changed, what conflicts, and what goes into version control.

use harness::{
    PATIENCE,
    cluster::{Cluster, Plan, Service},
    eventually,
};
use serde_json::Value;

use crate::{reviews, skein, subsets, virtual_service, written};

fn with_timeout(timeout: &str) -> String {
    virtual_service(&format!("  - timeout: {timeout}\n    route:\n    - destination: {{host: reviews}}\n"))
}

fn id(pushed: &Value) -> String {
    pushed["changeset"].as_str().expect("an id").to_owned()
}

fn timeout(document: &Value) -> &str {
    document["spec"]["http"][0]["timeout"].as_str().unwrap_or_default()
}

#[test]
fn a_document_is_shown_as_it_was_and_compared() {
    let cluster = reviews(&["v1"]);
    let first = id(&cluster.push("web", &with_timeout("1s"), &["--message", "one"]).expect_code(0).json());
    let second = id(&cluster.push("web", &with_timeout("2s"), &["--wait", "all"]).expect_code(0).json());
    let gone = ["policy", "delete", "VirtualService", "reviews", "-n", "shop", "--wait", "all"];
    let third = id(&cluster.json("web", &gone));

    let show = |at: &str| {
        let words = ["policy", "show", "VirtualService", "reviews", "-n", "shop", "--at", at, "-o", "json"];
        cluster.on("reviews-v1", &words)
    };
    for (at, wanted) in [(&first, "1s"), (&second, "2s")] {
        let shown = show(at).expect_code(0).json();
        assert_eq!((timeout(&shown["document"]), &shown["summary"]["changeset"]), (wanted, &Value::from(at.as_str())));
    }
    let log = cluster.json("reviews-v1", &["policy", "log", "--document", "vs/reviews", "-n", "shop"]);
    let log: Vec<&Value> = log.as_array().expect("a list").iter().collect();
    let ids: Vec<&str> = log.iter().filter_map(|entry| entry["changeset"].as_str()).collect();
    assert_eq!(ids, [&third, &second, &first]);
    let time = log[1]["time"].as_str().expect("a time");
    assert_eq!(timeout(&show(time).expect_code(0).json()["document"]), "2s");
    for (at, word) in [(third.as_str(), "there is no"), ("24h", "there is no"), ("feedfeed", "no changeset")] {
        let absent = show(at);
        assert_eq!(absent.code, 1, "{absent:?}");
        assert!(absent.err.contains(word) && absent.err.contains("not_found"), "{absent:?}");
    }
    let nobody = cluster.json("web", &["policy", "log", "--author", "nobody"]);
    assert_eq!(nobody, Value::Array(Vec::new()));
    let all = cluster.json("web", &["policy", "log", "--since", "1h", "--author", "operator"]);
    assert!(all.as_array().is_some_and(|all| all.len() >= 3), "{all}");

    let diff = |words: &[&str]| {
        let all: Vec<&str> =
            ["policy", "diff"].into_iter().chain(words.iter().copied()).chain(["-n", "shop"]).collect();
        cluster.json("web", &all)
    };
    let changed = diff(&[&second]);
    assert_eq!((&changed[0]["change"], changed.as_array().map(Vec::len)), (&Value::from("changed"), Some(1)));
    let text = changed[0]["diff"].as_str().expect("a diff");
    let has = |sign: char, word: &str| text.lines().any(|line| line.starts_with(sign) && line.contains(word));
    assert!(has('-', "timeout: 1s") && has('+', "timeout: 2s"), "{text}");
    assert_eq!(diff(&[&first])[0]["change"], "set");
    assert_eq!(diff(&["vs", "reviews"])[0]["change"], "deleted", "the last change");
    assert_eq!(diff(&[&first, &second])[0]["change"], "changed");
    assert_eq!(diff(&["vs", "reviews", &first, &first])[0]["change"], "unchanged");
    assert_eq!(diff(&["vs", "reviews", "24h", &second])[0]["change"], "set");

    // What is shown can be pushed again.
    let text = cluster.on("web", &["policy", "show", "vs", "reviews", "-n", "shop", "--at", &first]).expect_code(0).out;
    assert!(text.starts_with("# version 1 of changeset "), "{text}");
    cluster.push("web", &text, &[]).expect_code(0);
    let document = cluster.json("web", &["policy", "get", "vs", "reviews", "-n", "shop"]);
    assert_eq!(timeout(&document), "1s");
}

#[test]
fn an_export_is_one_file_a_document_and_can_be_pushed() {
    let cluster = reviews(&["v1"]);
    let foreign = with_timeout("1s").replace("metadata:\n", "metadata:\n  uid: \"7\"\n  generation: 3\n");
    cluster.push("web", &format!("{foreign}---\n{}", subsets(&["v1"])), &[]).expect_code(0);
    let dir = cluster.path().join("export");
    let dir = dir.to_string_lossy().into_owned();
    let written = cluster.json("web", &["policy", "export", "--dir", &dir]);
    assert_eq!(written["files"].as_array().map(Vec::len), Some(2), "{written}");
    let file = std::fs::read_to_string(format!("{dir}/shop/virtualservice-reviews.yaml")).expect("written");
    assert!(file.starts_with("apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: reviews\n"));
    assert!(!file.contains("uid") && !file.contains("generation"), "{file}");
    let all = cluster.on("web", &["policy", "export"]).expect_code(0).out;
    // In the order of the kinds' words.
    assert!(all.contains("DestinationRule") && all.find("DestinationRule") < all.find("VirtualService"), "{all}");
    // A note on what is gone; nothing is deleted by itself.
    cluster.on("web", &["policy", "delete", "VirtualService", "reviews", "-n", "shop"]).expect_code(0);
    let output = cluster.on("web", &["policy", "export", "--dir", &dir]).expect_code(0);
    assert!(output.err.contains("virtualservice-reviews.yaml is of no document in effect"), "{output:?}");
    cluster.on("web", &["policy", "push", &dir]).expect_code(0);
    assert_eq!(timeout(&cluster.json("web", &["policy", "get", "vs", "reviews", "-n", "shop"])), "1s");
}

#[test]
fn pushes_on_two_sides_of_a_partition_are_shown_and_settled() {
    let mut cluster = Cluster::start(
        skein(),
        &[
            ("one", Plan::with([Service::version("shop/reviews", "v1")])),
            ("two", Plan::with([Service::client("shop/web")])),
        ],
    );
    cluster.wait_members(PATIENCE);
    assert!(cluster.on("one", &["policy", "conflicts"]).expect_code(0).out.contains("nothing to settle"));
    cluster.kill("two");
    cluster.push("one", &with_timeout("1s"), &["--wait", "local", "--message", "here"]).expect_code(0);
    cluster.kill("one");
    cluster.run("two");
    let allowed = ["--wait", "local", "--message", "there", "--allow", "SKN0301"];
    cluster.push("two", &with_timeout("2s"), &allowed).expect_code(0);
    cluster.run("one");
    cluster.wait_members(PATIENCE);
    for name in ["one", "two"] {
        eventually(&format!("{name} shows the conflict"), || {
            let conflicts = cluster.json(name, &["policy", "conflicts"]);
            if conflicts.as_array().map(Vec::len) == Some(1) { Ok(()) } else { Err(conflicts.to_string()) }
        });
    }
    let conflicts = cluster.json("one", &["policy", "conflicts"]);
    written("policy conflicts", &conflicts);
    let conflict = conflicts[0].clone();
    assert_eq!((&conflict["conflict"], &conflict["name"]), (&Value::from("values"), &Value::from("reviews")));
    let values = conflict["values"].as_array().expect("a list");
    assert_eq!(values.len(), 2, "{conflict}");
    let loser = values.iter().find(|value| value["in_effect"] == false).expect("one loses");
    assert_eq!(loser["authors"][0], "operator", "{conflict}");
    let text = cluster.on("two", &["policy", "conflicts"]).expect_code(0).out;
    for word in [
        "has 2 live values",
        "here",
        "there",
        "in effect",
        "settle it: skein policy show VirtualService reviews -n shop",
    ] {
        assert!(text.contains(word), "`{word}` is not in {text}");
    }
    // As the text says: the loser shall hold.
    let loser = loser["changeset"].as_str().expect("an id");
    let words = ["policy", "show", "VirtualService", "reviews", "-n", "shop", "--at", loser];
    let chosen = cluster.on("one", &words).expect_code(0).out;
    cluster.push("one", &chosen, &["--wait", "all"]).expect_code(0);
    for name in ["one", "two"] {
        assert_eq!(cluster.json(name, &["policy", "conflicts"]), Value::Array(Vec::new()));
        let document = cluster.json(name, &["policy", "get", "vs", "reviews", "-n", "shop"]);
        assert!(chosen.contains(&format!("timeout: {}", timeout(&document))), "{document} {chosen}");
    }
}
