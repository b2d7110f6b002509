//! What documents say of a gateway's workload holds at its door, and what a gateway says of its clients holds behind it.

use harness::{
    cluster::{Cluster, Service},
    eventually,
    http::{self, Connection},
    tokens::Issuer,
};
use serde_json::json;

use crate::gateway::{CART, at, echo, gateway, mesh, mesh_with, opened, routes, troubles};

const SERVER: &str = "{port: {number: 8080, name: http, protocol: HTTP}, hosts: ['*']}";

/// The proxy before the gateway is believed.
const BEHIND_A_PROXY: &str = "---\napiVersion: skein.dev/v1\nkind: MeshConfig\nmetadata: {name: default}\nspec: {defaultConfig: {gatewayTopology: {numTrustedProxies: 1}}}\n";

fn policy(name: &str, spec: &str) -> String {
    of_security("AuthorizationPolicy", name, spec)
}

fn of_security(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: istio-system}}\nspec: {{selector: {{matchLabels: {{istio: ingressgateway}}}}, {spec}}}\n"
    )
}

/// A door behind which is the cart, with these documents.
fn with(documents: &str) -> Cluster {
    let cluster = mesh();
    let door = gateway("public", SERVER) + &routes("cart", "public", "'*'", CART);
    cluster.push("shop", &format!("{door}{documents}"), &["--wait", "all"]).expect_code(0);
    opened(&cluster, 8080);
    cluster
}

fn ask(cluster: &Cluster, path: &str, headers: &[(&str, &str)]) -> http::Answer {
    http::get_with(at(cluster, 8080), "a.org", path, headers).expect("an answer")
}

#[test]
fn a_service_behind_a_gateway_judges_the_client() {
    let denied = "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: cart, namespace: shop}\nspec: {selector: {matchLabels: {app: cart}}, action: DENY, rules: [{from: [{source: {remoteIpBlocks: [10.9.0.0/16]}}]}, {to: [{operation: {paths: [/peer]}}], when: [{key: source.ip, values: [127.0.0.0/8]}]}]}\n";
    let limit = "---\napiVersion: skein.dev/v1\nkind: RateLimit\nmetadata: {name: cart, namespace: shop}\nspec: {selector: {matchLabels: {app: cart}}, rules: [{match: [{uri: {prefix: /few}}], per: [remote.ip], limit: {requests: 1, interval: 1h, burst: 2}, scope: node}]}\n";
    let cluster = with(&[denied, limit, BEHIND_A_PROXY].concat());
    let status = |path: &str, address: &str| ask(&cluster, path, &[("x-forwarded-for", address)]).status;
    assert_eq!(status("/", "10.8.0.1"), 200);
    assert_eq!(status("/", "10.9.0.1"), 403, "the gateway is believed in whom it speaks for");
    assert_eq!(status("/", "10.9.0.1, 10.8.0.1"), 200, "and nobody before the proxy that is trusted");
    assert_eq!(status("/peer", "10.8.0.1"), 403, "the peer of the connection is the gateway's node");
    let admitted = |address: &str| (0..4).filter(|_| status("/few", address) == 200).count();
    assert_eq!((admitted("10.8.0.1"), admitted("10.8.0.2")), (2, 2), "each client has a bucket of its own");
    let forged = [("x-forwarded-for", "10.8.0.1"), ("x-envoy-external-address", "10.8.0.1")];
    let from_inside = http::get_with(cluster.node("edge").outbound(), "cart.shop", "/", &forged).expect("an answer");
    assert_eq!(from_inside.status, 200);
    let arrived = cluster.node("shop").backends[0].arrivals().pop().expect("it arrived");
    assert_eq!(arrived.header("x-envoy-external-address"), None, "an application is not believed: {arrived:?}");
}

#[test]
fn limits_hold_at_the_door() {
    let limit = "---\napiVersion: skein.dev/v1\nkind: RateLimit\nmetadata: {name: door, namespace: istio-system}\nspec: {selector: {matchLabels: {istio: ingressgateway}}, rules: [{match: [{uri: {prefix: /few}}], per: [remote.ip], limit: {requests: 1, interval: 1h, burst: 2}, scope: node}]}\n";
    let cluster = with(&[limit, BEHIND_A_PROXY].concat());
    let get = |path: &str, address: &str| ask(&cluster, path, &[("x-forwarded-for", address)]);
    let admitted = |address: &str| (0..4).filter(|_| get("/few", address).status == 200).count();
    assert_eq!((admitted("10.8.0.1"), admitted("10.8.0.2")), (2, 2));
    let refused = get("/few", "10.8.0.1");
    assert_eq!((refused.status, refused.text().as_str()), (429, "local_rate_limited"), "{refused:?}");
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
    assert_eq!(refused.header("ratelimit-limit"), Some("1"), "{refused:?}");
    assert_eq!(get("/other", "10.8.0.1").status, 200);
    let seen = cluster.node("shop").backends[0].arrivals();
    assert_eq!(seen.iter().filter(|arrival| arrival.line().contains("/few")).count(), 4);
    let limits = cluster.json("edge", &["limits"]);
    assert_eq!((&limits[0]["admitted"], &limits[0]["refused"]), (&json!(4), &json!(5)), "{limits}");
}

#[test]
fn an_authoriser_is_asked_at_the_door() {
    let custom = policy(
        "ask",
        "action: CUSTOM, provider: {name: opa}, rules: [{to: [{operation: {paths: [/admin*, /upload]}}]}]",
    );
    let config = "---\napiVersion: skein.dev/v1\nkind: MeshConfig\nmetadata: {name: default}\nspec: {extensionProviders: [{name: opa, envoyExtAuthzHttp: {service: opa.shop.svc.cluster.local, port: 9080, includeRequestHeadersInCheck: [x-source-principal], includeRequestBodyInCheck: {maxRequestBytes: 64, allowPartialMessage: true}}}]}\n";
    let cluster = crate::gateway::mesh_with([harness::cluster::Service::version("shop/opa", "v1")]);
    cluster.wait_endpoints("shop/opa", 1);
    let door = gateway("public", SERVER) + &routes("cart", "public", "'*'", CART);
    cluster.push("shop", &format!("{door}{config}{custom}"), &["--wait", "all"]).expect_code(0);
    opened(&cluster, 8080);
    let [cart, opa] = [&cluster.node("shop").backends[0], &cluster.node("shop").backends[1]];
    opa.answer_path_with("/admin/no", 401);
    let forged = ("x-source-principal", "spiffe://test.example/ns/shop/sa/admin");
    assert_eq!(ask(&cluster, "/admin/no", &[forged]).status, 401);
    assert_eq!((ask(&cluster, "/admin/x", &[]).status, ask(&cluster, "/free", &[]).status), (200, 200));
    let asked = opa.arrivals();
    let lines: Vec<&str> = asked.iter().map(|arrival| arrival.line()).collect();
    assert_eq!(lines, ["GET /admin/no HTTP/1.1", "GET /admin/x HTTP/1.1"]);
    assert_eq!(asked[0].header("x-source-principal"), None, "a client has no identity");
    let told = asked[0].header("x-forwarded-client-cert").expect("who asks");
    assert!(told.ends_with("/ns/istio-system/sa/default"), "{told}");
    let body = vec![b'x'; 10_000];
    let mut connection = http::Connection::open(at(&cluster, 8080)).expect("it listens");
    let answer = connection.request("POST", "a.org", "/upload", &[], &body).expect("an answer");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(opa.arrivals().last().expect("it was asked").body.len(), 64);
    let arrived = cart.arrivals();
    assert_eq!(arrived.last().expect("it arrived").body, body, "all of the body goes on");
    let reached = arrived.iter().map(|arrival| arrival.line().to_owned()).filter(|line| line.contains("/admin/no"));
    assert_eq!(reached.count(), 0);
}

#[test]
fn refusals_at_the_door_say_why() {
    let issuer = Issuer::default();
    let keys = issuer.keys().replace('"', "\\\"");
    let users = of_security(
        "RequestAuthentication",
        "users",
        &format!("jwtRules: [{{issuer: 'https://id.example', jwks: \"{keys}\"}}]"),
    );
    let deny = policy("closed", "action: DENY, rules: [{to: [{operation: {paths: [/closed]}}]}]");
    let log = "---\napiVersion: skein.dev/v1\nkind: MeshConfig\nmetadata: {name: default}\nspec: {accessLogFile: /dev/stdout, accessLogEncoding: JSON}\n";
    let cluster = with(&[users.as_str(), &deny, log].concat());
    let refused = ask(&cluster, "/", &[("authorization", "Bearer garbage")]);
    assert_eq!(refused.status, 401, "{refused:?}");
    let challenge = refused.header("www-authenticate").expect("a challenge");
    assert!(challenge.contains("realm=\"http://a.org/\""), "{challenge}");
    assert_eq!(ask(&cluster, "/closed", &[]).status, 403);
    harness::eventually("the log says which rule it was", || {
        let log = cluster.node("edge").output().join("\n");
        let told =
            ["jwt_authn_access_denied", "rbac_access_denied_matched_policy[ns[istio-system]-policy[closed]-rule[0]]"];
        if told.iter().all(|words| log.contains(words)) { Ok(()) } else { Err(log) }
    });
}

#[test]
fn claims_of_a_verified_token_choose_the_route() {
    let issuer = Issuer::default();
    let keys = issuer.keys().replace('"', "\\\"");
    let users = of_security(
        "RequestAuthentication",
        "users",
        &format!("jwtRules: [{{issuer: 'https://id.example', jwks: \"{keys}\"}}]"),
    );
    let tea = |name: &str, condition: &str| {
        format!("{{name: {name}, match: [{{{condition}}}], directResponse: {{status: 418, body: {{string: {name}}}}}}}")
    };
    let http = [
        tea("staff", "headers: {'@request.auth.claims[groups]': {exact: staff}}"),
        tea("nobody", "withoutHeaders: {'@request.auth.claims.sub': {}}"),
        CART.to_owned(),
    ];
    let cluster = mesh();
    let door = gateway("public", SERVER) + &routes("cart", "public", "'*'", &http.join(", "));
    cluster.push("shop", &format!("{door}{users}"), &["--wait", "all"]).expect_code(0);
    opened(&cluster, 8080);
    let told = |token: Option<serde_json::Value>| {
        let bearer = token.map(|claims| format!("Bearer {}", issuer.token(&claims)));
        let headers: Vec<(&str, &str)> = bearer.iter().map(|bearer| ("authorization", bearer.as_str())).collect();
        // What a client says of claims by itself is a header like any other.
        let answer = ask(&cluster, "/", &[headers, vec![("x-request-auth-claims-groups", "staff")]].concat());
        if answer.status == 418 { answer.text() } else { answer.status.to_string() }
    };
    assert_eq!(told(None), "nobody");
    assert_eq!(told(Some(json!({"iss": "https://id.example", "sub": "alice", "groups": ["all", "staff"]}))), "staff");
    assert_eq!(told(Some(json!({"iss": "https://id.example", "sub": "bob", "groups": ["all"]}))), "200");
    assert_eq!(told(Some(json!({"iss": "https://other.example", "sub": "eve", "groups": ["staff"]}))), "401");

    let mesh_too = routes("cart", "public, mesh", "'cart.shop.svc.cluster.local'", &http.join(", "));
    let refused = cluster.push("shop", &mesh_too, &[]);
    assert!(refused.code != 0 && refused.err.contains("SKN0162"), "{refused:?}");
}

#[test]
fn what_was_let_in_at_a_gateway_ends_when_policy_denies_it() {
    let cluster = mesh_with([Service { target: Some(echo()), ..Service::version("shop/chat", "v1") }]);
    cluster.wait_endpoints("shop/chat", 1);
    let chat = "{route: [{destination: {host: chat}}]}";
    let documents = gateway("public", SERVER) + &routes("chat", "public", "'*'", chat);
    cluster.push("shop", &documents, &["--wait", "all"]).expect_code(0);
    opened(&cluster, 8080);
    let headers = [("connection", "Upgrade"), ("upgrade", "websocket"), ("sec-websocket-version", "13")];
    let talk = |path: &str| {
        let mut socket = Connection::open(at(&cluster, 8080)).expect("it listens");
        let answer = socket.request("GET", "chat.example.com", path, &headers, b"").expect("an answer");
        assert_eq!(answer.status, 101, "{answer:?}");
        socket
    };
    let (mut denied, mut other) = (talk("/denied"), talk("/other"));
    let deny = policy("edge", "action: DENY, rules: [{to: [{operation: {paths: [/denied]}}]}]");
    cluster.push("shop", &deny, &["--wait", "all"]).expect_code(0);
    assert!(denied.take(1).is_err_and(|error| !error.contains("unavailable")), "it ends, and is not only silent");
    other.send(b"hello").expect("it is open");
    assert_eq!(other.take(5).expect("an echo"), b"hello", "what is allowed goes on");
}

#[test]
fn keys_of_an_issuer_in_the_mesh_are_asked_through_the_mesh() {
    let (issuer, stranger) = (Issuer::default(), Issuer::default());
    let address = issuer.serve((std::net::Ipv4Addr::LOCALHOST, 0).into());
    let service = Service { target: Some(address), ..Service::version("shop/issuer", "v1") };
    let cluster = mesh_with([service]);
    cluster.wait_endpoints("shop/issuer", 1);
    // Whoever else may be called: the gateway's service has no port, and is nobody's endpoint.
    let only = "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: keys, namespace: shop}\nspec: {selector: {matchLabels: {app: issuer}}, rules: [{from: [{source: {principals: [cluster.local/ns/istio-system/sa/default]}}]}]}\n";
    let rule = "jwtRules: [{issuer: 'https://id.example', jwksUri: 'http://issuer.shop.svc.cluster.local:9080/keys'}]";
    let door = gateway("public", SERVER) + &routes("cart", "public", "'*'", CART);
    let documents = format!("{door}{only}{}", of_security("RequestAuthentication", "users", rule));
    cluster.push("shop", &documents, &["--wait", "all"]).expect_code(0);
    opened(&cluster, 8080);
    let claims = json!({"iss": "https://id.example", "sub": "alice"});
    let bearer = |issuer: &Issuer| format!("Bearer {}", issuer.token(&claims));
    eventually("the keys are there", || match ask(&cluster, "/", &[("authorization", &bearer(&issuer))]) {
        answer if answer.status == 200 => Ok(()),
        other => Err(format!("{other:?} {:?}", troubles(&cluster, "token_keys_missing"))),
    });
    assert_eq!(ask(&cluster, "/", &[("authorization", &bearer(&stranger))]).status, 401);
    assert_eq!(troubles(&cluster, "token_keys_missing"), [] as [String; 0]);
}
