//! What holds in the whole mesh, as MeshConfig says: the access log, retries, the form of paths.

use harness::{cluster::Cluster, eventually, http};
use serde_json::{Value, json};

use crate::reviews;

fn config(spec: &str) -> String {
    format!("apiVersion: skein.dev/v1\nkind: MeshConfig\nmetadata: {{name: default}}\nspec: {spec}\n")
}

fn push(cluster: &Cluster, text: &str) {
    cluster.push("web", text, &["--wait", "all"]).expect_code(0);
}

fn get(cluster: &Cluster, path: &str) -> http::Answer {
    http::get_with(cluster.node("web").outbound(), "reviews", path, &[("user-agent", "curl"), ("x-request-id", "7")])
        .expect("an answer")
}

/// The first line of the endpoint's log that has this in it.
fn line(cluster: &Cluster, with: &str) -> String {
    let mut found = String::new();
    eventually(&format!("a line with {with}"), || {
        let log = cluster.log("reviews-v1");
        found = log.lines().find(|line| line.contains(with)).ok_or_else(|| log.clone())?.to_owned();
        Ok(())
    });
    found
}

#[test]
fn the_access_log_is_off_then_istios_text_then_json() {
    let cluster = reviews(&["v1"]);
    assert_eq!(get(&cluster, "/off").status, 200);
    push(&cluster, &config("{accessLogFile: /dev/stderr}"));
    assert_eq!(get(&cluster, "/text?a=b").status, 200);
    let text = line(&cluster, "/text");
    assert!(text.contains("\"GET /text?a=b HTTP/1.1\" 200 - via_upstream - \"-\" 0 23 "), "{text}");
    assert!(text.contains("\"curl\" \"7\" \"reviews\" \"127."), "{text}");
    assert!(text.contains(" inbound|9080|| - "), "{text}");
    let deny = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: deny, namespace: shop}\nspec: {action: DENY, rules: [{to: [{operation: {paths: [/no]}}]}]}\n";
    push(&cluster, deny);
    push(&cluster, &config("{accessLogFile: /dev/stderr, accessLogEncoding: JSON}"));
    assert_eq!(get(&cluster, "/no").status, 403);
    let denied: Value = serde_json::from_str(&line(&cluster, "\"/no\"")).expect("JSON");
    for (key, value) in [
        ("response_code", json!(403)),
        ("response_flags", json!("-")),
        ("response_code_details", json!("rbac_access_denied_matched_policy[ns[shop]-policy[deny]-rule[0]]")),
        ("method", json!("GET")),
        ("bytes_sent", json!(19)),
        ("upstream_host", json!(null)),
        ("user_agent", json!("curl")),
    ] {
        assert_eq!(denied[key], value, "{key} in {denied}");
    }
    push(
        &cluster,
        &config(
            "{accessLogFile: /dev/stderr, accessLogFormat: 'mine %REQ(:PATH)% %RESPONSE_CODE% %DOWNSTREAM_PEER_URI_SAN%'}",
        ),
    );
    assert_eq!(get(&cluster, "/mine").status, 200);
    assert_eq!(line(&cluster, "mine /mine"), "mine /mine 200 spiffe://test.example/ns/shop/sa/default");
    push(&cluster, &config("{}"));
    assert_eq!(get(&cluster, "/off").status, 200);
    push(&cluster, &config("{accessLogFile: /dev/stderr}"));
    assert_eq!(get(&cluster, "/end").status, 200);
    line(&cluster, "/end");
    assert!(!cluster.log("reviews-v1").contains("/off"), "nothing is written while it is off");
    // Istio's own default: proxy ports stay shut for all that.
    push(&cluster, &config("{outboundTrafficPolicy: {mode: ALLOW_ANY}}"));
    let outside = http::get(cluster.node("web").outbound(), "www.example.com", "/").expect("an answer");
    assert_eq!(outside.status, 404, "{outside:?}");
}

#[test]
fn retries_of_the_mesh_are_those_of_routes_that_say_nothing() {
    let cluster = reviews(&["v1"]);
    let backend = &cluster.node("reviews-v1").backends[0];
    backend.answer_with(503);
    let tries = || {
        backend.forget();
        assert_eq!(get(&cluster, "/").status, 503);
        backend.arrivals().iter().filter(|arrived| arrived.header("x-request-id") == Some("7")).count()
    };
    assert_eq!(tries(), 1, "Istio's default does not retry an answer");
    push(&cluster, &config("{defaultHttpRetryPolicy: {attempts: 3, retryOn: 5xx}}"));
    assert_eq!(tries(), 4);
    push(&cluster, &config("{}"));
    assert_eq!(tries(), 1);
}

#[test]
fn the_form_of_paths_is_the_meshes_choice() {
    let cluster = reviews(&["v1"]);
    let deny = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: deny, namespace: shop}\nspec: {action: DENY, rules: [{to: [{operation: {paths: [/no]}}]}]}\n";
    push(&cluster, deny);
    let statuses = |cluster: &Cluster| ["//no", "/a%2fb", "/x/../no"].map(|path| get(cluster, path).status);
    assert_eq!(statuses(&cluster), [403, 400, 403]);
    push(&cluster, &config("{pathNormalization: {normalization: BASE}}"));
    assert_eq!(statuses(&cluster), [200, 200, 403], "as in Istio: slashes are not merged, and escapes stay");
    push(&cluster, &config("{pathNormalization: {normalization: DECODE_AND_MERGE_SLASHES}}"));
    assert_eq!(statuses(&cluster), [403, 200, 403]);
    let arrived = cluster.node("reviews-v1").backends[0].arrivals();
    assert!(arrived.iter().any(|arrived| arrived.line() == "GET /a/b HTTP/1.1"), "what was judged is forwarded");
}
