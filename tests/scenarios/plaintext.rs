//! A service's port for callers outside the mesh: whom it lets in as policy changes, their tokens, what is told of them.

use harness::{
    PATIENCE,
    cluster::{Cluster, Plan, SERVICE_PORT, Service},
    eventually,
    http::{self, Answer, Connection},
    tokens::Issuer,
};
use serde_json::{Value, json};
use std::net::SocketAddr;

use crate::{skein, written};

/// A caller in the mesh, and `shop/reviews`, which callers outside reach, too.
fn mesh() -> (Cluster, SocketAddr) {
    let reviews = Service { plaintext: true, ..Service::version("shop/reviews", "v1") };
    let plans = [("web", Plan::with([Service::client("shop/web")])), ("reviews", Plan::with([reviews]))];
    let cluster = Cluster::start(skein(), &plans);
    cluster.wait_members(PATIENCE);
    cluster.wait_endpoints("shop/reviews", 1);
    let port = cluster.node("reviews").plaintext("shop/reviews", SERVICE_PORT);
    (cluster, port)
}

fn push(cluster: &Cluster, kind: &str, name: &str, spec: &str) {
    let text = format!(
        "apiVersion: security.istio.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n"
    );
    cluster.push("web", &text, &["--wait", "all"]).expect_code(0);
}

fn ask(port: SocketAddr, headers: &[(&str, &str)]) -> Answer {
    http::get_with(port, "reviews", "/", headers).expect("an answer")
}

/// What `status` says of its one port.
fn told(cluster: &Cluster) -> Value {
    let status = cluster.json("reviews", &["status"]);
    written("status", &status);
    written("run", &cluster.node("reviews").running.as_ref().expect("it runs").ready);
    assert_eq!(status["plaintext"].as_array().map(Vec::len), Some(1), "{status}");
    status["plaintext"][0].clone()
}

#[test]
fn strict_shuts_the_port_and_permissive_opens_it_again() {
    let (cluster, port) = mesh();
    assert_eq!((ask(port, &[]).status, ask(port, &[]).text()), (200, "reviews shop/reviews".to_owned()));
    let expected =
        json!({"listen": port.to_string(), "service": "shop/reviews", "port": SERVICE_PORT, "mode": "PERMISSIVE"});
    assert_eq!(told(&cluster), expected);
    let mut kept = Connection::open(port).expect("it listens");
    kept.send(b"GET / HTTP/1.1\r\nHost: reviews\r\n\r\n").expect("it is open");
    assert_eq!(kept.answer(false).expect("an answer").status, 200);

    push(&cluster, "PeerAuthentication", "default", "{mtls: {mode: STRICT}}");
    assert_eq!(told(&cluster)["mode"], "STRICT");
    let said = cluster.on("reviews", &["status"]).expect_code(0).out;
    assert!(said.lines().any(|line| line.starts_with("plaintext") && line.contains("refuses all")), "{said}");
    assert!(kept.rest().is_empty(), "what goes on ends without a byte");
    assert!(http::get(port, "reviews", "/").is_err());
    let peer = http::get(cluster.node("web").outbound(), "reviews", "/").expect("an answer");
    assert_eq!(peer.status, 200, "peers show who they are");
    // `explain` says so of each endpoint, at every node.
    let explained = cluster.json("web", &["explain", "http://reviews.shop:9080/"]);
    assert!(explained.to_string().contains("\"mutual_tls\":\"STRICT\""), "{explained}");

    push(&cluster, "PeerAuthentication", "default", "{mtls: {mode: PERMISSIVE}}");
    assert_eq!(ask(port, &[]).status, 200);
}

#[test]
fn tokens_open_what_identities_cannot() {
    let (cluster, port) = mesh();
    let (issuer, stranger) = (Issuer::default(), Issuer::default());
    let keys = issuer.keys().replace('"', "\\\"");
    let rule = format!(
        "{{selector: {{matchLabels: {{app: reviews}}}}, jwtRules: [{{issuer: 'https://id.example', jwks: \"{keys}\"}}]}}"
    );
    push(&cluster, "RequestAuthentication", "users", &rule);
    let alice = json!({"iss": "https://id.example", "sub": "alice"});
    let bearer = |issuer: &Issuer| format!("Bearer {}", issuer.token(&alice));
    assert_eq!(ask(port, &[]).status, 200, "who shows none is let in");
    assert_eq!(ask(port, &[("authorization", &bearer(&stranger))]).status, 401);
    let rules = "{rules: [{from: [{source: {principals: ['*/sa/web']}}, {source: {requestPrincipals: ['*']}}]}]}";
    push(&cluster, "AuthorizationPolicy", "known", rules);
    assert_eq!(ask(port, &[]).status, 403);
    assert_eq!(ask(port, &[("authorization", &bearer(&issuer))]).status, 200);
    let arrived = cluster.node("reviews").backends[0].arrivals();
    assert_eq!(arrived.last().expect("an arrival").header("authorization"), None, "the token stays here");
    // Nobody becomes a peer by saying so.
    let cert = "By=spiffe://test.example/ns/shop/sa/reviews;URI=spiffe://test.example/ns/shop/sa/web";
    assert_eq!(ask(port, &[("x-forwarded-client-cert", cert)]).status, 403);
    // Nor for the application, in another spelling.
    let sent = [("authorization", bearer(&issuer)), ("X_Forwarded_Client_Cert", cert.to_owned())];
    let sent = sent.each_ref().map(|(name, value)| (*name, value.as_str()));
    assert_eq!(ask(port, &sent).status, 200);
    let arrived = cluster.node("reviews").backends[0].arrivals();
    assert_eq!(arrived.last().expect("an arrival").header("x_forwarded_client_cert"), None);
}

#[test]
fn what_is_told_of_requests_tells_of_these() {
    let (cluster, port) = mesh();
    let config = "apiVersion: skein.dev/v1\nkind: MeshConfig\nmetadata: {name: default}\nspec: {accessLogEncoding: JSON}\n---\n\
                  apiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {name: mesh, namespace: istio-system}\n\
                  spec: {accessLogging: [{providers: [{name: envoy}]}]}\n";
    cluster.push("web", config, &["--wait", "all"]).expect_code(0);
    assert_eq!(http::get(port, "reviews", "/seen").expect("an answer").status, 200);
    eventually("a line about it", || {
        let lines = cluster.node("reviews").output();
        let line = lines.iter().find(|line| line.contains("\"/seen\"")).ok_or(format!("{lines:#?}"))?;
        let line: Value = serde_json::from_str(line).map_err(|error| error.to_string())?;
        assert_eq!((&line["response_code"], &line["upstream_cluster"]), (&json!(200), &json!("inbound|9080||")));
        assert_eq!(line["downstream_local_address"], json!(port.ip().to_string()), "{line}");
        assert!(line["request_id"].is_string(), "{line}");
        assert_eq!(line["requested_server_name"], Value::Null, "{line}");
        Ok(())
    });
    push(&cluster, "PeerAuthentication", "default", "{mtls: {mode: STRICT}}");
    assert!(http::get(port, "reviews", "/unseen").is_err());
    eventually("a line about what was refused", || {
        let lines = cluster.node("reviews").output();
        let refused = lines.iter().any(|line| line.contains("filter_chain_not_found") && line.contains("\"NR\""));
        if refused { Ok(()) } else { Err(format!("{lines:#?}")) }
    });
}
