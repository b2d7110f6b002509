//! The access log as Telemetry says: on which side, for which requests, and whose lines.

use harness::{PATIENCE, cluster::Cluster, eventually, http};
use serde_json::{Value, json};

use crate::reviews;

fn telemetry(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n---\n"
    )
}

fn push(cluster: &Cluster, text: &str) {
    cluster.push("web", text, &["--wait", "all"]).expect_code(0);
}

fn status(cluster: &Cluster, host: &str, path: &str) -> u16 {
    http::get_with(cluster.node("web").outbound(), host, path, &[("user-agent", "curl")]).expect("an answer").status
}

/// The line about this path that a node wrote to standard output, as JSON.
fn line(cluster: &Cluster, node: &str, path: &str) -> Value {
    let mut found = Value::Null;
    eventually(&format!("a line of {node} about {path}"), || {
        let lines = cluster.node(node).output();
        let line = lines.iter().find(|line| line.contains(&format!("\"{path}\""))).ok_or(format!("{lines:#?}"))?;
        found = serde_json::from_str(line).map_err(|error| error.to_string())?;
        Ok(())
    });
    found
}

fn is_silent(cluster: &Cluster, node: &str, path: &str) {
    let lines = cluster.node(node).output();
    assert!(!lines.iter().any(|line| line.contains(path)), "{node} about {path}: {lines:#?}");
}

#[test]
fn lines_tell_why_a_connection_failed_and_whose_labels_the_endpoint_has() {
    let mut cluster = reviews(&["v1"]);
    let config =
        "apiVersion: skein.dev/v1\nkind: MeshConfig\nmetadata: {name: default}\nspec: {accessLogEncoding: JSON}\n---\n";
    let labelled = "{accessLogging: [{providers: [{name: envoy}], filter: {expression: \"filter_state.upstream_peer.labels['version'] == 'v1'\"}}]}";
    push(&cluster, &(config.to_owned() + &telemetry("istio-system", "mesh", labelled)));
    assert_eq!(status(&cluster, "reviews", "/labelled"), 200);
    let answered = line(&cluster, "web", "/labelled");
    assert_eq!(answered["upstream_transport_failure_reason"], Value::Null, "{answered}");
    is_silent(&cluster, "reviews-v1", "/labelled");

    let failed = "{accessLogging: [{providers: [{name: envoy}], filter: {expression: 'has(upstream.transport_failure_reason)'}}]}";
    push(&cluster, &telemetry("istio-system", "mesh", failed));
    // The application goes; its node has not yet looked.
    cluster.node_mut("reviews-v1").backends.clear();
    assert_eq!(status(&cluster, "reviews", "/gone"), 503);
    let refused = line(&cluster, "reviews-v1", "/gone");
    let reason = refused["upstream_transport_failure_reason"].as_str().unwrap_or_default();
    assert!(reason.contains("refused"), "{refused}");
    assert_eq!(refused["response_flags"], json!("UF"), "{refused}");
}

#[test]
fn lines_of_both_sides_are_filtered() {
    let cluster = reviews(&["v1"]);
    assert_eq!(status(&cluster, "reviews", "/before"), 200);
    let config =
        "apiVersion: skein.dev/v1\nkind: MeshConfig\nmetadata: {name: default}\nspec: {accessLogEncoding: JSON}\n---\n";
    let errors = "{accessLogging: [{providers: [{name: envoy}], filter: {expression: 'response.code >= 400 || request.url_path == \"/both\"'}}]}";
    push(&cluster, &(config.to_owned() + &telemetry("istio-system", "mesh", errors)));
    assert_eq!((status(&cluster, "reviews", "/good"), status(&cluster, "reviews:9080", "/both?a=b")), (200, 200));
    assert_eq!((status(&cluster, "nobody", "/lost"), status(&cluster, "nobody.shop:99", "/lost2")), (404, 404));
    for (node, cluster_name, host) in [
        ("web", "outbound|9080||reviews.shop.svc.cluster.local", None),
        ("reviews-v1", "inbound|9080||", Some("reviews:9080")),
    ] {
        let line = line(&cluster, node, "/both?a=b");
        for (key, value) in [
            ("response_code", json!(200)),
            ("response_flags", json!("-")),
            ("response_code_details", json!("via_upstream")),
            ("upstream_cluster", json!(cluster_name)),
            ("route_name", json!("default")),
            ("user_agent", json!("curl")),
            ("authority", json!(host.unwrap_or("reviews:9080"))),
        ] {
            assert_eq!(line[key], value, "{node}: {key} in {line}");
        }
        assert!(line["upstream_host"].is_string() && line["request_id"].is_string(), "{node}: {line}");
    }
    let lost = line(&cluster, "web", "/lost");
    assert_eq!((&lost["response_flags"], &lost["response_code_details"]), (&json!("NR"), &json!("route_not_found")));
    assert_eq!((&lost["upstream_cluster"], &lost["requested_server_name"]), (&Value::Null, &Value::Null));
    line(&cluster, "web", "/lost2");

    // The namespace turns one side off, a workload of it the other one on for all it gets.
    let client_off = telemetry("shop", "shop", "{accessLogging: [{match: {mode: CLIENT}, disabled: true}]}");
    let all = "{selector: {matchLabels: {app: reviews}}, accessLogging: [{match: {mode: SERVER}, providers: [{name: envoy}]}]}";
    push(&cluster, &(client_off + &telemetry("shop", "reviews", all)));
    assert_eq!((status(&cluster, "reviews", "/server"), status(&cluster, "nobody", "/unseen")), (200, 404));
    line(&cluster, "reviews-v1", "/server");
    for (node, paths) in
        [("web", &["/before", "/good", "/server", "/unseen"][..]), ("reviews-v1", &["/before", "/good"])]
    {
        paths.iter().for_each(|path| is_silent(&cluster, node, path));
    }
}

#[test]
fn refusals_the_last_lines_and_what_only_the_caller_can_tell() {
    let mut cluster = reviews(&["v1"]);
    for (spec, named) in [
        ("{metrics: [{providers: [{name: stackdriver}]}]}", "`stackdriver`"),
        ("{metrics: [{overrides: [{match: {customMetric: mine}}]}]}", "`mine`"),
        ("{accessLogging: [{providers: [{name: otel}]}]}", "`otel`"),
        ("{accessLogging: [{filter: {expression: 'request.time > 1'}}]}", "`request.time`"),
    ] {
        let refused = cluster.push("web", &telemetry("shop", "a", spec), &[]);
        assert!(refused.code == 2 && refused.err.contains(named), "{spec}: {refused:?}");
    }

    let config = |file: &str| {
        format!(
            "apiVersion: skein.dev/v1\nkind: MeshConfig\nmetadata: {{name: default}}\nspec: {{accessLogFile: {file}, accessLogEncoding: JSON}}\n"
        )
    };
    push(&cluster, &config("/dev/stderr"));
    for _ in 0..100 {
        assert_eq!(status(&cluster, "reviews", "/last"), 200);
    }
    cluster.terminate("reviews-v1");
    let log = cluster.log("reviews-v1");
    assert_eq!(log.matches("\"/last\"").count(), 100, "what a node took is written before it ends");
    cluster.run("reviews-v1");
    cluster.wait_members(PATIENCE);
    cluster.wait_endpoints("shop/reviews", 1);

    push(&cluster, &config("/dev/stdout"));
    let direct = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: reviews, namespace: shop}\nspec: {hosts: [reviews], http: [{name: told, match: [{uri: {prefix: /told}}], directResponse: {status: 410}}, {route: [{destination: {host: reviews}}]}]}\n";
    push(&cluster, direct);
    let mut tunnel = http::Connection::open(cluster.node("web").outbound()).expect("it listens");
    tunnel.send(b"CONNECT nobody:443 HTTP/1.1\r\nhost: nobody:443\r\n\r\n").expect("it is open");
    assert_eq!(tunnel.answer(true).map(|answer| answer.status), Ok(404));
    let refused = line(&cluster, "web", "connection_termination_details\":\"route_not_found");
    assert_eq!((&refused["response_flags"], &refused["response_code"]), (&json!("NR"), &json!(0)), "{refused}");
    assert_eq!(status(&cluster, "reviews", "/told"), 410);
    let told = line(&cluster, "web", "/told");
    assert_eq!((&told["route_name"], &told["response_code_details"]), (&json!("told"), &json!("direct_response")));
    cluster.kill("reviews-v1");
    eventually("the endpoint is out", || match cluster.healthy("web", "shop/reviews") {
        0 => Ok(()),
        left => Err(format!("{left} left")),
    });
    assert_eq!(status(&cluster, "reviews", "/dead"), 503);
    let dead = line(&cluster, "web", "/dead");
    assert_eq!(
        (&dead["response_flags"], &dead["response_code_details"]),
        (&json!("UH"), &json!("no_healthy_upstream"))
    );
    assert_eq!(dead["upstream_cluster"], json!("outbound|9080||reviews.shop.svc.cluster.local"));
}

#[test]
fn metrics_lose_and_gain_labels_on_one_side() {
    let cluster = reviews(&["v1"]);
    let spec = "{metrics: [{providers: [{name: prometheus}], overrides: [\
        {match: {mode: CLIENT}, tagOverrides: {response_flags: {operation: REMOVE}}}, \
        {match: {metric: REQUEST_COUNT, mode: CLIENT}, tagOverrides: {host: {value: request.host}, \
          class: {value: \"string(response.code / 100) + 'xx'\"}}}, \
        {match: {metric: REQUEST_SIZE, mode: CLIENT}, disabled: true}]}]}";
    assert_eq!(status(&cluster, "reviews", "/before"), 200);
    push(&cluster, &telemetry("istio-system", "mesh", spec));
    for path in ["/a", "/b"] {
        assert_eq!(status(&cluster, "reviews", path), 200);
    }
    let metrics = |node: &str| {
        let address = cluster.node(node).address("admin");
        http::get(address, &address.to_string(), "/metrics").expect("metrics").text()
    };
    let text = metrics("web");
    let lines = |text: &str, start: &str| {
        text.lines().filter(|line| line.starts_with(start)).map(str::to_owned).collect::<Vec<_>>()
    };
    let counts = lines(&text, "istio_requests_total{reporter=\"source\"");
    let shaped = |line: &&String| line.contains("class=\"2xx\",host=\"reviews\"") && !line.contains("response_flags");
    assert!(counts.iter().find(shaped).is_some_and(|line| line.ends_with(" 2")), "{counts:#?}");
    let durations = lines(&text, "istio_request_duration_milliseconds_count{reporter=\"source\"");
    let of = |has: bool| durations.iter().find(|line| line.contains("response_flags") == has).cloned();
    assert!(of(false).is_some_and(|line| line.ends_with(" 2") && !line.contains("host=")), "{durations:#?}");
    assert!(of(true).is_some_and(|line| line.ends_with(" 1")), "{durations:#?}");
    let sizes = lines(&text, "istio_request_bytes_count{reporter=\"source\"");
    assert!(
        sizes.len() == 1 && sizes[0].ends_with(" 1"),
        "what came before stays, what is off is not counted: {sizes:#?}"
    );
    let server = lines(&metrics("reviews-v1"), "istio_requests_total{reporter=\"destination\"");
    assert!(server.iter().all(|line| line.contains("response_flags") && !line.contains("class=")), "{server:#?}");
    let names = |line: &String| line.rsplit_once(' ').map(|(labels, _)| labels.to_owned());
    let all: Vec<String> = text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect();
    let unique: std::collections::BTreeSet<_> = all.iter().filter_map(names).collect();
    assert_eq!(unique.len(), all.len(), "no combination of labels stands twice");
}
