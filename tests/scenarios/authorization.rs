//! Who may call whom, as AuthorizationPolicies say.

use harness::{
    PATIENCE,
    cluster::{Cluster, Plan, Service},
    eventually, http,
};
use serde_json::json;

use crate::skein;

/// `web` and `intruder` call; `reviews` serves, and its node has a client of its own.
fn mesh() -> Cluster {
    let account = |name: &str, account: &str| Service { account: account.to_owned(), ..Service::client(name) };
    let cluster = Cluster::start(
        skein(),
        &[
            ("web", Plan::with([account("shop/web", "web")])),
            ("intruder", Plan::with([account("shop/intruder", "intruder")])),
            ("reviews", Plan::with([account("shop/near", "near"), Service::version("shop/reviews", "v1")])),
        ],
    );
    cluster.wait_members(PATIENCE);
    cluster.wait_endpoints("shop/reviews", 1);
    cluster
}

fn policy(name: &str, annotations: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: shop, annotations: {{{annotations}}}}}\nspec: {spec}\n---\n"
    )
}

const ALLOW_WEB: &str = "{selector: {matchLabels: {app: reviews}}, rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}]}]}";

fn status(cluster: &Cluster, from: &str, path: &str) -> u16 {
    http::get(cluster.node(from).outbound(), "reviews", path).expect("an answer").status
}

#[test]
fn allow_and_deny_by_identity_near_and_far() {
    let cluster = mesh();
    for from in ["web", "intruder", "reviews"] {
        assert_eq!(status(&cluster, from, "/"), 200, "without policy everybody may: {from}");
    }
    cluster.push("web", &policy("allow-web", "", ALLOW_WEB), &["--wait", "all"]).expect_code(0);
    let kept = cluster.node("intruder").outbound();
    let mut kept = http::Connection::open(kept).expect("the proxy listens");
    assert_eq!(status(&cluster, "web", "/"), 200);
    let denied = kept.request("GET", "reviews", "/", &[("x-user", "a")], b"").expect("an answer");
    assert_eq!((denied.status, denied.text().as_str()), (403, "RBAC: access denied"), "{denied:?}");
    assert_eq!(denied.header("x-skein-outcome"), None, "{denied:?}");
    assert_eq!(status(&cluster, "reviews", "/"), 403, "a caller on the same node is judged like any other");
    let grpc = http::get_with(
        cluster.node("intruder").outbound(),
        "reviews",
        "/",
        &[("content-type", "application/grpc"), ("te", "trailers")],
    )
    .expect("an answer");
    assert_eq!((grpc.status, grpc.header("grpc-status")), (200, Some("7")), "{grpc:?}");

    let before = cluster.node("reviews").backends[0].arrivals().len();
    for _ in 0..20 {
        assert_eq!(status(&cluster, "intruder", "/"), 403);
    }
    assert_eq!(cluster.node("reviews").backends[0].arrivals().len(), before, "none reached the application");
    assert_eq!(status(&cluster, "web", "/"), 200, "refusals are no failures of the endpoint");
    let metrics = http::get(cluster.node("reviews").address("admin"), "localhost", "/metrics").expect("metrics").text();
    let labels = ["\"403\"", "reporter=\"destination\"", "sa/intruder\"", "response_flags=\"-\""];
    let counted =
        |line: &str| line.starts_with("istio_requests_total{") && labels.iter().all(|label| line.contains(label));
    assert!(metrics.lines().any(counted), "refusals are counted:\n{metrics}");
    assert!(!metrics.contains("skein_authorization_denied_total 0\n"), "{metrics}");

    let narrower = "{action: DENY, rules: [{to: [{operation: {paths: [/admin*], methods: [GET]}}]}]}";
    cluster.push("intruder", &policy("no-admin", "", narrower), &["--wait", "all"]).expect_code(0);
    assert_eq!((status(&cluster, "web", "/admin/x"), status(&cluster, "web", "/x")), (403, 200), "deny goes first");
    let plain = "{selector: {matchLabels: {app: reviews}}, rules: [{}]}";
    cluster.push("web", &policy("allow-web", "", plain), &["--wait", "all"]).expect_code(0);
    let again = kept.request("GET", "reviews", "/", &[], b"").expect("the connection was kept");
    assert_eq!(again.status, 200, "a change holds for the next request of a kept connection");
    cluster.on("web", &["policy", "delete", "AuthorizationPolicy", "allow-web", "-n", "shop"]).expect_code(0);
    eventually("the deletion arrives", || match status(&cluster, "intruder", "/x") {
        200 => Ok(()),
        other => Err(other.to_string()),
    });
}

#[test]
fn callers_of_one_account_name_are_told_apart_by_namespace() {
    let web = |name: &str| Plan::with([Service { account: "web".to_owned(), ..Service::client(name) }]);
    let reviews = Plan::with([Service::version("shop/reviews", "v1")]);
    let cluster =
        Cluster::start(skein(), &[("shop", web("shop/web")), ("depot", web("depot/web")), ("reviews", reviews)]);
    cluster.wait_members(PATIENCE);
    cluster.wait_endpoints("shop/reviews", 1);
    for (source, expected) in [
        ("namespaces: [shop]", [200, 403]),
        ("namespaces: [de*]", [403, 200]),
        ("notNamespaces: [shop]", [403, 200]),
        ("principals: ['*/sa/web']", [200, 200]),
        ("notPrincipals: [cluster.local/ns/depot/sa/web]", [200, 403]),
        // A bare name is one of the policy's own namespace.
        ("serviceAccounts: [web]", [200, 403]),
        ("serviceAccounts: [depot/web]", [403, 200]),
        ("notServiceAccounts: [web, depot/web]", [403, 403]),
    ] {
        let spec = format!("{{rules: [{{from: [{{source: {{{source}}}}}]}}]}}");
        cluster.push("shop", &policy("some", "", &spec), &["--wait", "all"]).expect_code(0);
        let seen = ["shop", "depot"]
            .map(|from| http::get(cluster.node(from).outbound(), "reviews.shop", "/").expect("an answer").status);
        assert_eq!(seen, expected, "{source}");
    }
}

#[test]
fn explain_says_what_the_endpoint_does() {
    let cluster = mesh();
    let both = policy("allow-web", "", ALLOW_WEB)
        + &policy(
            "no-admin",
            "",
            "{action: DENY, rules: [{to: [{operation: {paths: [/x]}}]}, {to: [{operation: {paths: [/admin]}}]}]}",
        );
    cluster.push("web", &both, &["--wait", "all"]).expect_code(0);
    for node in ["web", "intruder", "reviews"] {
        let asked = |from: &str, path: &str| {
            cluster.json(node, &["explain", &format!("http://reviews.shop:9080{path}"), "--from", from])
        };
        for (from, path, verdict, document, rule) in [
            ("shop/web", "/", "allow", json!("AuthorizationPolicy shop/allow-web"), json!("rules[0]")),
            ("shop/web", "//admin", "deny", json!("AuthorizationPolicy shop/no-admin"), json!("rules[1]")),
            ("shop/intruder", "/", "deny", json!(null), json!(null)),
        ] {
            let explained = asked(from, path);
            let said = &explained["authorization"];
            assert_eq!(
                (&said["verdict"], &said["document"], &said["rule"]),
                (&json!(verdict), &document, &rule),
                "{node} {from} {path}: {explained}"
            );
            assert_eq!(explained["answer"]["status"] == 403, verdict == "deny", "{explained}");
        }
    }
    assert_eq!(
        [status(&cluster, "web", "/"), status(&cluster, "web", "//admin"), status(&cluster, "intruder", "/")],
        [200, 403, 403]
    );
}

#[test]
fn an_external_authoriser_is_asked_and_named() {
    let services = [Service::version("shop/reviews", "v1"), Service::version("shop/opa", "v1")];
    let caller = Plan::with([Service { account: "web".to_owned(), ..Service::client("shop/web") }]);
    let cluster = Cluster::start(skein(), &[("web", caller), ("reviews", Plan::with(services))]);
    cluster.wait_members(PATIENCE);
    cluster.wait_endpoints("shop/reviews", 1);
    cluster.wait_endpoints("shop/opa", 1);
    let custom = "{selector: {matchLabels: {app: reviews}}, action: CUSTOM, provider: {name: opa}, rules: [{}]}";
    let custom = policy("ask-opa", "", custom);
    let refused = cluster.push("web", &custom, &[]);
    assert!(refused.code == 2 && refused.err.contains("SKN0334"), "nobody could be asked: {refused:?}");
    let config = "apiVersion: skein.dev/v1\nkind: MeshConfig\nmetadata: {name: default}\nspec:\n  extensionProviders:\n  - name: opa\n    \
                  envoyExtAuthzHttp: {service: opa.shop.svc.cluster.local, port: 9080}\n---\n";
    cluster.push("web", &format!("{config}{custom}"), &["--wait", "all"]).expect_code(0);
    let opa = &cluster.node("reviews").backends[1];
    opa.answer_path_with("/admin", 401);
    assert_eq!((status(&cluster, "web", "/x"), status(&cluster, "web", "/admin")), (200, 401));
    let asked = opa.arrivals();
    assert_eq!(asked.last().map(|arrival| arrival.line().to_owned()).as_deref(), Some("GET /admin HTTP/1.1"));
    let caller = asked.last().and_then(|arrival| arrival.header("x-source-principal").map(str::to_owned));
    assert!(caller.is_some_and(|caller| caller.ends_with("/ns/shop/sa/web")));
    let lines: Vec<_> =
        cluster.node("reviews").backends[0].arrivals().iter().map(|one| one.line().to_owned()).collect();
    assert_eq!(lines.iter().filter(|line| line.contains("/admin")).count(), 0, "{lines:?}");
    let explained = cluster.json("web", &["explain", "http://reviews.shop:9080/admin"]);
    let wanted = json!([{"provider": "opa", "document": "AuthorizationPolicy shop/ask-opa", "rule": "rules[0]"}]);
    assert_eq!(explained["authorization"]["asks"], wanted, "{explained}");
    assert_eq!(explained["authorization"]["verdict"], "allow", "{explained}");
}

#[test]
fn a_trial_is_counted_and_changes_nothing() {
    let cluster = mesh();
    let trial = policy("trial", "istio.io/dry-run: 'true'", ALLOW_WEB);
    let audit = policy("audit", "", "{action: AUDIT, rules: [{to: [{operation: {paths: [/secret]}}]}]}");
    cluster.push("web", &(trial + &audit), &["--wait", "all"]).expect_code(0);
    for (from, path) in [("web", "/"), ("intruder", "/"), ("intruder", "/secret")] {
        assert_eq!(status(&cluster, from, path), 200);
    }
    let metrics = http::get(cluster.node("reviews").address("admin"), "localhost", "/metrics").expect("metrics").text();
    for line in [
        "skein_authorization_dry_run_total{result=\"allowed\"} 1",
        "skein_authorization_dry_run_total{result=\"denied\"} 2",
        "skein_authorization_audited_total 1",
        "skein_authorization_denied_total 0",
    ] {
        assert!(metrics.lines().any(|own| own == line), "{line} in\n{metrics}");
    }
    let log = cluster.log("reviews");
    assert!(log.contains("an AUDIT policy matches") && log.contains("AuthorizationPolicy shop/audit"), "{log}");
}

#[test]
fn peer_authentication_comes_to_mutual_tls_between_nodes_whatever_it_says() {
    let cluster = mesh();
    let document = |mode: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: default, namespace: istio-system}}\nspec: {{mtls: {{mode: {mode}}}}}\n"
        )
    };
    let shown = || cluster.json("web", &["explain", "http://reviews/"])["endpoints"][0]["mutual_tls"].clone();
    assert_eq!(shown(), "PERMISSIVE");
    cluster.push("web", &document("STRICT"), &["--wait", "all"]).expect_code(0);
    assert_eq!((shown(), status(&cluster, "web", "/")), (json!("STRICT"), 200));
    let file = cluster.file("disable.yaml", &document("DISABLE"));
    let words = ["policy", "push", &file.to_string_lossy(), "--wait", "all"];
    let told = cluster.on("web", &words).expect_code(0);
    assert!(told.err.contains("traffic between nodes is always mutual TLS"), "{told:?}");
    assert_eq!((shown(), status(&cluster, "web", "/")), (json!("DISABLE"), 200));
    let arrived = cluster.node("reviews").backends[0].arrivals();
    let shown = arrived.last().and_then(|arrived| arrived.header("x-forwarded-client-cert"));
    assert!(shown.is_some_and(|shown| shown.contains("spiffe://")), "who calls is known all the same: {shown:?}");
}
