//! What people ask of the mesh's members: whom one reaches and how fast, who is missing, whether there is room for more.

use std::fmt::Write as _;

use harness::{
    PATIENCE,
    cluster::{Cluster, Plan, Service},
    eventually,
};
use serde_json::Value;

use crate::{reviews, skein};

/// Nodes that one mesh takes.
const POOL: usize = 1_000;

#[test]
fn ping_shows_the_path_and_says_who_does_not_answer() {
    let mut cluster = reviews(&["v1"]);
    let asked = cluster.json("web", &["ping", "reviews-v1", "--count", "3"]);
    assert_eq!((&asked["sent"], &asked["lost"]), (&3.into(), &0.into()), "{asked}");
    let (least, most) = (asked["rtt_ms"]["min"].as_f64(), asked["rtt_ms"]["max"].as_f64());
    assert!(least.is_some() && least <= most, "{asked}");
    let pings = asked["pings"].as_array().expect("each question");
    assert!(
        pings.len() == 3 && pings.iter().all(|ping| ["quic", "tcp"].contains(&ping["carrier"].as_str().unwrap_or(""))),
        "{asked}"
    );
    // Of two nodes one dialled; the other sees the port that the dialler got.
    let is_address = |remote: &str| remote.parse::<std::net::SocketAddr>().is_ok();
    assert!(pings.iter().all(|ping| ping["remote"].as_str().is_some_and(is_address)), "{asked}");
    let text = cluster.on("web", &["ping", "reviews-v1", "--count", "1"]).expect_code(0).out;
    assert!(text.contains("reviews-v1"), "{text}");

    cluster.kill("reviews-v1");
    eventually("nobody answers any more", || {
        let silent = cluster.on("web", &["ping", "reviews-v1", "--count", "1", "-o", "json"]);
        if silent.code == 0 {
            return Err(format!("{silent:?}"));
        }
        assert_eq!(silent.error()["error"]["code"], "unreachable", "{silent:?}");
        Ok(())
    });
    let unknown = cluster.on("web", &["ping", "nobody", "--count", "1", "-o", "json"]);
    assert_ne!(unknown.code, 0, "{unknown:?}");
}

#[test]
fn of_one_member_it_is_told_who_says_what_on_which_path_since_when() {
    let mut cluster = reviews(&["v1"]);
    cluster.on("reviews-v1", &["drain"]).expect_code(0);
    let detail = eventually("its owner's word arrives", || {
        let detail = cluster.json("web", &["members", "reviews-v1"]);
        let says = detail["reports"][1]["says"].as_str().unwrap_or_default().to_owned();
        if says.starts_with("draining, 1 service, ") { Ok(detail) } else { Err(detail.to_string()) }
    });
    let [judgement, word] = [0, 1].map(|row| &detail["reports"][row]);
    assert_eq!(
        (&judgement["by"], &judgement["says"], &word["by"]),
        (&"web".into(), &"alive".into(), &"reviews-v1".into())
    );
    let path = format!("{}", word["path"]);
    assert!(path.contains("over its link with this node (") && judgement["path"] == word["path"], "{detail}");
    // It has said so since it drains, not since it runs.
    assert!(detail["started"].as_str() < judgement["since"].as_str(), "{detail}");
    assert!(judgement["since"].as_str() < word["since"].as_str(), "{detail}");
    cluster.kill("reviews-v1");
    eventually("no link brings its word any more", || {
        let detail = cluster.json("web", &["members", "reviews-v1"]);
        let path = detail["reports"][1]["path"].as_str().unwrap_or_default();
        let told = path.starts_with("passed on by others: no link with this node since ");
        if told { Ok(()) } else { Err(detail.to_string()) }
    });
    let text = cluster.on("web", &["members", "reviews-v1"]).expect_code(0).out;
    assert!(text.contains("HOW IT COMES HERE") && text.contains("passed on by others"), "{text}");
}

/// Whom each row reaches, by names; none of a node that is not alive.
fn reached(rows: &Value) -> Vec<(String, Option<Vec<String>>)> {
    let rows = rows.as_array().expect("a list").iter();
    let names = |row: &Value| row.as_object().map(|reaches| reaches.keys().cloned().collect());
    rows.map(|row| (row["name"].as_str().unwrap_or_default().to_owned(), names(&row["reaches"]))).collect()
}

#[test]
fn a_matrix_shows_whom_each_node_reaches() {
    let mut cluster = reviews(&["v1", "v2"]);
    let all = ["reviews-v1", "reviews-v2", "web"];
    let but = |name: &str| all.iter().filter(|other| **other != name).map(|other| (*other).to_owned()).collect();
    let whole: Vec<(String, Option<Vec<String>>)> = all.map(|name| (name.to_owned(), Some(but(name)))).into();
    eventually("everybody reaches everybody", || {
        let rows = reached(&cluster.json("web", &["members", "--reach"]));
        if rows == whole { Ok(()) } else { Err(format!("{rows:?}")) }
    });
    cluster.kill("reviews-v2");
    eventually("it reaches nobody that does not run", || {
        let rows = reached(&cluster.json("reviews-v1", &["members", "--reach"]));
        let of = |name: &str| rows.iter().find(|row| row.0 == name).and_then(|row| row.1.clone());
        let left = |one: &str| Some(vec![one.to_owned()]);
        let parted = of("reviews-v2").is_none() && of("web") == left("reviews-v1") && of("reviews-v1") == left("web");
        if parted { Ok(()) } else { Err(format!("{rows:?}")) }
    });
    let text = cluster.on("web", &["members", "--reach"]).expect_code(0).out;
    assert!(text.lines().count() == 6 && text.contains(" n/a") && text.contains("A row reaches"), "{text}");
}

#[test]
fn status_says_how_many_of_the_nodes_it_sees_and_who_is_missing() {
    let names = ["n1", "n2", "n3", "n4", "n5", "n6", "n7"];
    let plans = names.map(|name| (name, Plan::with([Service::client("shop/web")])));
    let mut cluster = Cluster::start(skein(), &plans);
    cluster.wait_members(PATIENCE);
    for name in &names[3..] {
        cluster.kill(name);
    }
    for name in &names[..3] {
        eventually("it misses four", || {
            let status = cluster.json(name, &["status"]);
            let problems = status["problems"].as_array().cloned().unwrap_or_default();
            let missing = problems.iter().find(|problem| problem["code"] == "members_missing");
            let said = missing.and_then(|missing| missing["message"].as_str()).unwrap_or_default();
            let counted = status["members"]["seen"] == 3 && status["members"]["expected"] == 7;
            let named = said == "you see 3 of 7 nodes; missing: n4, n5, n6, n7";
            if counted && named { Ok(()) } else { Err(status.to_string()) }
        });
    }
    let text = cluster.on("n1", &["status"]).expect_code(0).out;
    assert!(text.contains("you see 3 of 7 nodes") && text.contains("3 of 7 seen"), "{text}");
    // Who comes back is missed no more.
    for name in &names[3..] {
        cluster.run(name);
    }
    cluster.wait_members(PATIENCE);
    let status = cluster.json("n1", &["status"]);
    assert!(!status["problems"].to_string().contains("members_missing"), "{status}");
}

/// Grants for nodes that nobody ever starts, as one changeset.
fn grants(numbers: std::ops::Range<usize>) -> String {
    let mut text = String::new();
    for number in numbers {
        let name = format!("far-{number:04}");
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "---\napiVersion: skein.dev/v1\nkind: NodeGrant\nmetadata: {{name: {name}}}\nspec: {{node: {name}, epoch: 1, services: []}}\n"
        );
    }
    text
}

#[test]
fn a_mesh_warns_when_it_is_nearly_full_and_takes_nobody_beyond_its_limit() {
    let first = Plan::with([Service::client("shop/web")]);
    let mut cluster = Cluster::start(skein(), &[("first", first.clone())]);
    let problem = |cluster: &Cluster| {
        let status = cluster.json("first", &["status"]);
        let problems = status["problems"].as_array().cloned().unwrap_or_default();
        problems.into_iter().find(|problem| problem["code"] == "mesh_nearly_full")
    };
    // One short of four fifths.
    cluster.push("first", &grants(0..POOL / 5 * 4 - 2), &["--wait", "local", "--timeout", "60s"]).expect_code(0);
    assert_eq!(problem(&cluster), None);
    let listed = |cluster: &Cluster| cluster.on("first", &["members"]).expect_code(0).out;
    assert!(!listed(&cluster).contains("granted"), "{}", listed(&cluster));
    cluster.push("first", &grants(POOL / 5 * 4 - 2..POOL - 2), &["--wait", "local", "--timeout", "60s"]).expect_code(0);
    let told = problem(&cluster).expect("it is nearly full");
    assert!(told["message"].as_str().is_some_and(|said| said.contains("999 nodes are granted")), "{told}");
    // By who is granted, as there: none of them was ever seen, so that the list has one row.
    assert!(listed(&cluster).contains("\n999 nodes are granted, and one mesh takes 1000"), "{}", listed(&cluster));
    let checked = cluster.on("first", &["check", "-o", "json"]);
    assert!(checked.out.contains("mesh.size"), "{checked:?}");
    // The thousandth is let in, the next one is not, and is told why.
    cluster.join("last", &first);
    let token = cluster.invite("beyond", &first, &[]);
    cluster.prepare_only("beyond", &first);
    let refused = cluster.join_with("beyond", &token);
    let said = "1001 nodes are granted and one mesh takes 1000";
    assert!(refused.code != 0 && refused.err.contains(said) && refused.err.contains("same token"), "{refused:?}");
    // Room is made by who is gone; the same token, which was never spent, now holds.
    cluster.on("first", &["evict", "far-0000", "--wait", "local"]).expect_code(0);
    cluster.join_with("beyond", &token).expect_code(0);
}
