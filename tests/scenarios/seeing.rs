//! What an operator sees: pages, requests of the whole mesh, events, whom Prometheus should scrape, checks.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use harness::{
    PATIENCE,
    cluster::{Cluster, Plan, Service},
    eventually,
    http::{self, Answer, Connection},
};
use serde_json::{Value, json};

use crate::{reviews, skein, traffic_policy};

const PAGES: [&str; 9] = [
    "/",
    "/services",
    "/services/shop/reviews",
    "/graph",
    "/policy",
    "/nodes",
    "/nodes/web",
    "/events",
    "/explain?url=http%3A%2F%2Freviews.shop%3A9080%2F",
];

/// A caller `web` and two versions of `shop/reviews`, all with a port for scrapers.
fn cluster() -> Cluster {
    let scraped = |plan: Plan| Plan { extra: "[metrics]\nlisten = \"127.0.0.1:0\"\n".to_owned(), ..plan };
    let plans = [
        ("web", scraped(Plan::with([Service::client("shop/web")]))),
        ("v1", scraped(Plan::with([Service::version("shop/reviews", "v1")]))),
        ("v2", scraped(Plan::with([Service::version("shop/reviews", "v2")]))),
    ];
    let cluster = Cluster::start(skein(), &plans);
    cluster.wait_members(PATIENCE);
    cluster.wait_endpoints("shop/reviews", 2);
    cluster
}

fn page(cluster: &Cluster, node: &str, path: &str) -> Answer {
    let at = cluster.node(node).address("admin");
    http::get(at, &at.to_string(), path).expect("an answer")
}

fn send(cluster: &Cluster, host: &str, count: usize) {
    for _ in 0..count {
        http::get(cluster.node("web").outbound(), host, "/").expect("an answer");
    }
}

/// What a node tells of requests, once it holds of the nodes that were heard and of the edges.
fn told(cluster: &Cluster, node: &str, hold: impl Fn(&Value, &[Value]) -> bool) -> Value {
    let mut told = Value::Null;
    eventually("the requests are seen", || {
        told = cluster.json(node, &["top"]);
        if hold(&told["heard"], told["edges"].as_array().expect("edges")) { Ok(()) } else { Err(told.to_string()) }
    });
    told
}

#[test]
fn every_node_shows_the_whole_mesh() {
    let mut cluster = cluster();
    send(&cluster, "reviews.shop:9080", 40);
    send(&cluster, "nobody.shop", 3);
    // Asked of a node that neither called nor, alone, served.
    let sum = |edges: &[Value], of: &str| -> u64 {
        edges.iter().filter(|edge| edge["service"] == of).map(|edge| edge["requests"].as_u64().unwrap_or(0)).sum()
    };
    let answer = told(&cluster, "v1", |heard, edges| {
        let mut served = edges.iter().filter(|edge| edge["service"] == "shop/reviews");
        let all = sum(edges, "shop/reviews") == 40 && sum(edges, "BlackHoleCluster") == 3;
        all && served.all(|edge| edge["security"] == "mutual_tls") && heard.as_array().map(Vec::len) == Some(3)
    });
    assert_eq!((answer["heard"].as_array().map(Vec::len), &answer["silent"]), (Some(3), &json!([])));
    assert_eq!(sum(answer["edges"].as_array().expect("edges"), "BlackHoleCluster"), 3, "{answer}");
    let edge = answer["edges"]
        .as_array()
        .expect("edges")
        .iter()
        .find(|edge| edge["to"]["version"] == "v2")
        .expect("v2 is called");
    assert_eq!(
        (&edge["from"], &edge["failed"]),
        (&json!({"namespace": "shop", "service": "web", "version": "unknown"}), &json!(0))
    );
    assert!(edge["p99_ms"].as_f64().is_some() && edge["rate"].as_f64().is_some_and(|rate| rate > 0.0), "{edge}");

    for path in PAGES {
        let answer = page(&cluster, "v1", path);
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        let policy = answer.header("content-security-policy").expect("a policy");
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{path}: {policy}");
        let text = answer.text();
        assert!(
            !text.contains("style=\"") && !text.contains(" onclick") && text.matches("<script").count() == 1,
            "{path}"
        );
    }
    let service = page(&cluster, "v1", "/services/shop/reviews").text();
    assert!(
        service.contains(">v1<") && service.contains(">v2<") && service.contains("/services/shop/web"),
        "{service}"
    );
    let graph = page(&cluster, "v2", "/graph").text();
    assert!(graph.contains("over mutual TLS") && graph.contains("2 of 2 healthy"), "{graph}");
    assert_eq!(page(&cluster, "v1", "/services/shop/nothing").status, 404);
    assert_eq!(page(&cluster, "v1", "/policy/changesets/%3Cscript%3E").status, 400);

    // What cannot be read is answered by a page as well.
    let unreadable = page(&cluster, "v1", "/services?page=x");
    let says = (unreadable.status, unreadable.header("content-security-policy").is_some());
    assert!(says == (400, true) && unreadable.text().contains("bad_request"), "{}", unreadable.text());

    // Nobody else's page, and nobody who changes anything.
    let at = cluster.node("v1").address("admin");
    assert_eq!(http::get(at, "evil.example", "/").expect("an answer").status, 403);
    let origin = [("origin", "http://evil.example")];
    assert_eq!(http::get_with(at, &at.to_string(), "/graph", &origin).expect("an answer").status, 403);
    let image = [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "image")];
    assert_eq!(http::get_with(at, &at.to_string(), "/events", &image).expect("an answer").status, 403);
    let posted = Connection::open(at).expect("it listens").request("POST", &at.to_string(), "/", &[], b"x=y");
    assert!(matches!(posted.expect("an answer").status, 403 | 405));

    let text = page(&cluster, "web", "/metrics").text();
    for (name, holds) in [
        ("istio_request_bytes_bucket{", "reporter=\"source\""),
        ("istio_response_bytes_sum{", "destination_version=\"v1\""),
        ("skein_members{state=\"alive\"}", " 3"),
        ("skein_endpoints{service=\"shop/reviews\"", "health=\"healthy\"} 2"),
        ("skein_certificate_expiry_timestamp_seconds{certificate=\"node_ca\"}", " "),
        ("skein_certificate_life_seconds{certificate=\"node_ca\"}", " "),
        ("process_open_fds", " "),
        ("skein_policy_apply_seconds_bucket{le=\"+Inf\"}", " "),
        ("skein_membership_waiting", " "),
        ("skein_mesh_connections{peer=\"v1\",conversation=\"data\",direction=\"outbound\"", " "),
        ("skein_mesh_connections{peer=\"v2\",conversation=\"peer\"", "transport=\"quic\"} 1"),
        ("skein_mesh_requests{peer=\"v1\"}", " 0"),
        ("skein_mesh_streams{peer=\"v1\"}", " "),
    ] {
        assert!(text.lines().any(|line| line.starts_with(name) && line.contains(holds)), "{name} in\n{text}");
    }

    // Prometheus asks for it compressed, in less than a fifth of the bytes.
    let at = cluster.node("web").address("admin");
    let zipped = http::get_with(at, &at.to_string(), "/metrics", &[("accept-encoding", "gzip")]).expect("an answer");
    let (mut whole, coded) = (String::new(), zipped.header("content-encoding").map(str::to_owned));
    flate2::read::GzDecoder::new(&zipped.body[..]).read_to_string(&mut whole).expect("it is whole");
    assert_eq!((coded.as_deref(), zipped.header("vary")), (Some("gzip"), Some("accept, accept-encoding")));
    assert!(whole.contains("skein_members{state=\"alive\"} 3") && whole.len() > 5 * zipped.body.len());

    // A node dies: everybody who is left tells of it, and what it served is still seen.
    cluster.kill("v2");
    let dead = |cluster: &Cluster| {
        let events = cluster.json("v1", &["events", "--since", "1h"]);
        let found = events.as_array().expect("events").iter().find(|one| one["kind"] == "member_dead").cloned();
        found.filter(|one| one["seen_by"] == json!(["v1", "web"]))
    };
    eventually("both saw it die", || dead(&cluster).map(drop).ok_or_else(|| "not yet".to_owned()));
    let event = dead(&cluster).expect("it was there");
    assert_eq!(event["subject"], "v2");
    assert!(cluster.json("v1", &["events", "--since", "0s"]).as_array().is_some_and(Vec::is_empty));
    let left = json!(["v1", "web"]);
    told(&cluster, "v1", |heard, edges| *heard == left && sum(edges, "shop/reviews") == 40);
    eventually("the first page says it", || {
        let text = page(&cluster, "v1", "/").text();
        if text.contains("missing: v2") { Ok(()) } else { Err(text) }
    });
    let targets = cluster_targets(&cluster, "web");
    let nodes: Vec<&str> = targets.iter().filter_map(|target| target["labels"]["node"].as_str()).collect();
    assert_eq!(nodes, ["v1", "web"], "a node that was never asked while it lived is not known: {targets:?}");
}

/// What meets the node's own limits is no DestinationRule's, and has no other place where it is told.
#[test]
fn what_happens_on_the_mesh_port_is_counted() {
    let cluster = reviews(&["v1"]);
    assert_eq!(http::get(cluster.node("web").outbound(), "reviews", "/").expect("an answer").status, 200);
    let mut stranger = TcpStream::connect(cluster.node("web").address("mesh")).expect("it listens");
    stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("it is open");
    let counted = |text: &str, series: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.and_then(|value| value.parse::<f64>().ok()).ok_or_else(|| format!("no {series} in\n{text}"))
    };
    eventually("both are counted", || {
        let text = page(&cluster, "web", "/metrics").text();
        for limit in ["requests", "waiting", "streams", "connections", "descriptors"] {
            assert_eq!(counted(&text, &format!("skein_mesh_overflows_total{{limit=\"{limit}\"}}"))?, 0.0);
        }
        for counter in [
            "skein_mesh_dials_total{result=\"tcp\"}",
            "skein_mesh_dials_total{result=\"failed\"}",
            "skein_mesh_udp_blocked_total",
            "skein_mesh_accepted_total",
            "skein_mesh_address_proofs_total",
            "skein_mesh_refusals_total",
            "skein_mesh_renewed_connections_total",
            "skein_mesh_revoked_connections_total",
        ] {
            counted(&text, counter)?;
        }
        let happened = ["skein_mesh_dials_total{result=\"quic\"}", "skein_mesh_handshake_failures_total"];
        let counts = happened.map(|series| counted(&text, series));
        if counts.iter().all(|count| count.as_ref().is_ok_and(|count| *count > 0.0)) {
            Ok(())
        } else {
            Err(format!("{counts:?}"))
        }
    });
}

fn cluster_targets(cluster: &Cluster, node: &str) -> Vec<Value> {
    let at = cluster.node(node).address("metrics");
    let answer = http::get(at, &at.to_string(), "/v1/prometheus-targets").expect("an answer");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let targets: Value = serde_json::from_slice(&answer.body).expect("JSON");
    targets.as_array().expect("a list").clone()
}

#[test]
fn prometheus_is_told_of_all_nodes_and_of_one_that_died() {
    let mut cluster = cluster();
    let of = |targets: &[Value]| -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        targets.iter().map(|one| (text(&one["labels"]["node"]), text(&one["labels"]["__meta_skein_state"]))).collect()
    };
    let pair = |node: &str, state: &str| (node.to_owned(), state.to_owned());
    let alive = [pair("v1", "alive"), pair("v2", "alive"), pair("web", "alive")];
    eventually("all are told", || {
        let told = of(&cluster_targets(&cluster, "v1"));
        if told == alive { Ok(()) } else { Err(format!("{told:?}")) }
    });
    let targets = cluster_targets(&cluster, "web");
    let web = targets.iter().find(|target| target["labels"]["node"] == "web").expect("web");
    assert_eq!(web["targets"], json!([cluster.node("web").address("metrics").to_string()]));
    assert_eq!(web["labels"]["mesh"], harness::cluster::TRUST_DOMAIN);
    cluster.kill("v2");
    eventually("it is told as dead", || {
        let told = of(&cluster_targets(&cluster, "v1"));
        if told.contains(&pair("v2", "dead")) { Ok(()) } else { Err(format!("{told:?}")) }
    });
}

#[test]
fn events_outlive_processes_and_machines() {
    let mut cluster = cluster();
    // Something that one node alone notes: the check of its own service.
    let service = "[[service]]\nname = \"extra\"\nnamespace = \"shop\"\nports = [{ name = \"http\", port = 80, protocol = \"http\", \
                   target = \"127.0.0.1:9\" }]\n";
    cluster.on("web", &["grant", "v2", "shop/extra", "--wait", "all"]).expect_code(0);
    let file = cluster.file("extra.toml", service);
    cluster.on("v2", &["service", "add", &file.to_string_lossy()]).expect_code(0);
    let noted = |cluster: &Cluster, node: &str, more: &[&str]| {
        let events = cluster.json(node, &[&["events"], more].concat());
        let is_it = |one: &&Value| one["subject"].as_str().is_some_and(|of| of.contains("shop/extra"));
        events.as_array().expect("events").iter().find(is_it).cloned().ok_or_else(|| events.to_string())
    };
    let first = eventually("it is noted", || noted(&cluster, "v2", &["--here"]));
    assert_eq!((&first["seen_by"], &first["kept_by"]), (&json!(["v2"]), &json!([])));
    // What is to survive is on the disks of both keepers.
    for keeper in ["v1", "web"] {
        let file = cluster.node(keeper).dir.join("data/events");
        eventually(&format!("{keeper} keeps it"), || {
            let text = std::fs::read_to_string(&file).map_err(|error| error.to_string())?;
            if text.contains("shop/extra") { Ok(()) } else { Err(text) }
        });
    }
    cluster.kill("v2");
    let gone = eventually("others tell of it", || {
        let row = noted(&cluster, "web", &[])?;
        if row["kept_by"] == json!(["v1", "web"]) { Ok(row) } else { Err(row.to_string()) }
    });
    assert_eq!(
        (&gone["time"], &gone["message"], &gone["seen_by"]),
        (&first["time"], &first["message"], &json!(["v2"]))
    );
    // Nobody's memory is left but the disks'.
    for name in ["web", "v1"] {
        cluster.kill(name);
    }
    cluster.run("web");
    eventually("it is told from the disk", || {
        let row = noted(&cluster, "web", &[])?;
        if row["kept_by"] == json!(["web"]) { Ok(()) } else { Err(row.to_string()) }
    });
    cluster.run("v2");
    assert_eq!(noted(&cluster, "v2", &["--here"]).expect("it is on its own disk")["time"], first["time"]);
    cluster.wait_members(PATIENCE);
    let back = eventually("it speaks for itself again", || {
        let row = noted(&cluster, "web", &[])?;
        if row["kept_by"] == json!([]) { Ok(row) } else { Err(row.to_string()) }
    });
    assert_eq!(back["time"], first["time"]);
}

/// What nodes note of one thing is one event, also where their clocks are far apart, once a node knows how far its own is.
#[test]
fn what_nodes_note_by_clocks_that_differ_is_one_event() {
    let mut cluster = reviews(&["v1", "v2"]);
    assert!(cluster.terminate("reviews-v2").is_some_and(|status| status.success()));
    cluster.clock_offset = "100s".to_owned();
    cluster.run("reviews-v2");
    cluster.clock_offset = String::new();
    cluster.wait_endpoints("shop/reviews", 2);
    let mut turn = 0;
    eventually("all note a push at the same time", || {
        turn += 1;
        let rule = traffic_policy(&format!("{{outlierDetection: {{consecutive5xxErrors: {turn}}}}}"));
        let pushed = cluster.push("web", &rule, &["--wait", "all"]).expect_code(0).json();
        let id = pushed["changeset"].as_str().expect("an id").to_owned();
        let events = cluster.json("web", &["events"]);
        let events = events.as_array().expect("events");
        let of_it: Vec<_> = events.iter().filter(|event| event["subject"] == id.as_str()).collect();
        let seen = of_it.first().and_then(|event| event["seen_by"].as_array()).map_or(0, Vec::len);
        if of_it.len() == 1 && seen == 3 { Ok(()) } else { Err(format!("{of_it:?}")) }
    });
}

#[test]
fn checks_have_names_before_and_after_joining() {
    let listed = crate::skein().command().args(["check", "--list", "-o", "json"]).output().expect("it runs");
    let listed: Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    let ids: Vec<&str> = listed.as_array().expect("a list").iter().filter_map(|one| one["id"].as_str()).collect();
    assert!(ids.len() >= 40, "{}", ids.len());
    let cluster = Cluster::start(skein(), &[("first", Plan::with([Service::version("shop/reviews", "v1")]))]);
    let checked = cluster.on("first", &["check", "-o", "json", "--fail-if-expiring", "30d"]);
    let found = checked.expect_code(0).json();
    let of =
        |id: &str| found.as_array().expect("findings").iter().find(|one| one["id"] == id).cloned().unwrap_or_default();
    for (id, verdict) in [
        ("configuration.valid", "ok"),
        ("keys.permissions", "ok"),
        ("applications.answer", "ok"),
        ("node.answers", "ok"),
        ("trust.expiring", "ok"),
        ("trust.enrollers", "warning"),
        ("operator.root_key", "warning"),
        ("mesh.members", "ok"),
    ] {
        assert_eq!(of(id)["verdict"], verdict, "{id}: {found}");
    }
    for one in found.as_array().expect("findings") {
        assert!(ids.contains(&one["id"].as_str().unwrap_or_default()), "{one}");
    }
    let expiring = cluster.on("first", &["check", "--fail-if-expiring", "4000d", "-o", "json"]);
    assert_eq!(
        (expiring.code, &*expiring.error()["error"]["code"].to_string()),
        (1, "\"certificate_expiring\""),
        "{expiring:?}"
    );
    assert_eq!(cluster.on("first", &["check", "--strict"]).code, 3);
}
