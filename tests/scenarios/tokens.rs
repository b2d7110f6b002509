//! Tokens of end users: whom RequestAuthentication believes, and what AuthorizationPolicy makes of it.

use std::net::{Ipv4Addr, SocketAddr};

use harness::{
    PATIENCE,
    cluster::{Cluster, Plan, Service},
    eventually,
    http::{self, Answer},
    tokens::{Issuer, KeyServer},
};
use serde_json::json;

use crate::skein;

fn mesh() -> Cluster {
    let cluster = Cluster::start(
        skein(),
        &[
            ("web", Plan::with([Service::client("shop/web")])),
            ("reviews", Plan::with([Service::version("shop/reviews", "v1")])),
        ],
    );
    cluster.wait_members(PATIENCE);
    cluster.wait_endpoints("shop/reviews", 1);
    cluster
}

fn authentication(rule: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: users, namespace: shop}}\nspec: {{selector: {{matchLabels: {{app: reviews}}}}, jwtRules: [{rule}]}}\n---\n"
    )
}

const REQUIRE: &str = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: users, namespace: shop}\nspec: {rules: [{from: [{source: {requestPrincipals: ['https://id.example/alice']}}], when: [{key: 'request.auth.claims[groups]', values: [staff]}]}]}\n---\n";

fn ask(cluster: &Cluster, path: &str, headers: &[(&str, &str)]) -> Answer {
    http::get_with(cluster.node("web").outbound(), "reviews", path, headers).expect("an answer")
}

fn with_token(cluster: &Cluster, token: &str) -> Answer {
    ask(cluster, "/", &[("authorization", &format!("Bearer {token}"))])
}

#[test]
fn a_token_opens_what_policy_closes_and_never_reaches_the_application() {
    let (cluster, issuer, stranger) = (mesh(), Issuer::default(), Issuer::default());
    let keys = issuer.keys().replace('"', "\\\"");
    let rule = format!(
        "{{issuer: 'https://id.example', audiences: [shop], jwks: \"{keys}\", outputClaimToHeaders: [{{header: x-user, claim: sub}}]}}"
    );
    cluster.push("web", &(authentication(&rule) + REQUIRE), &["--wait", "all"]).expect_code(0);
    let alice = json!({"iss": "https://id.example", "sub": "alice", "aud": "shop", "groups": ["staff", "all"]});
    let claims = |name: &str, value: serde_json::Value| {
        let mut claims = alice.clone();
        claims[name] = value;
        claims
    };

    let denied = ask(&cluster, "/", &[]);
    assert_eq!((denied.status, denied.text().as_str()), (403, "RBAC: access denied"), "no token: {denied:?}");
    let allowed = with_token(&cluster, &issuer.token(&alice));
    assert_eq!(allowed.status, 200, "{allowed:?}");
    let arrived = cluster.node("reviews").backends[0].arrivals();
    let arrived = arrived.last().expect("an arrival");
    assert_eq!((arrived.header("x-user"), arrived.header("authorization")), (Some("alice"), None), "{arrived:?}");
    let by_query = ask(&cluster, &format!("/a?access_token={}&b=1", issuer.token(&alice)), &[("x-user", "root")]);
    assert_eq!(by_query.status, 200, "{by_query:?}");
    let arrived = cluster.node("reviews").backends[0].arrivals();
    let arrived = arrived.last().expect("an arrival");
    assert_eq!((arrived.line(), arrived.header("x-user")), ("GET /a?b=1 HTTP/1.1", Some("alice")), "{arrived:?}");

    let before = cluster.node("reviews").backends[0].arrivals().len();
    for (token, status, text) in [
        (issuer.token(&claims("sub", json!("bob"))), 403, "RBAC: access denied"),
        (issuer.token(&claims("groups", json!(["all"]))), 403, "RBAC: access denied"),
        (issuer.token(&claims("aud", json!("depot"))), 403, "Audiences in Jwt are not allowed"),
        (issuer.token(&claims("exp", json!(1_000))), 401, "Jwt is expired"),
        (issuer.token(&claims("iss", json!("https://other.example"))), 401, "Jwt issuer is not configured"),
        (stranger.token(&alice), 401, "Jwt verification fails"),
        ("garbage".to_owned(), 401, "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections"),
    ] {
        let refused = with_token(&cluster, &token);
        assert_eq!((refused.status, refused.text().as_str()), (status, text), "{refused:?}");
        if status == 401 {
            let challenge = "Bearer realm=\"http://reviews/\", error=\"invalid_token\"";
            assert_eq!(refused.header("www-authenticate"), Some(challenge), "{refused:?}");
        }
        assert_eq!(refused.header("x-skein-outcome"), None, "{refused:?}");
    }
    assert_eq!(cluster.node("reviews").backends[0].arrivals().len(), before, "none reached the application");
    let grpc = [("content-type", "application/grpc"), ("te", "trailers"), ("authorization", "Bearer x")];
    let grpc = ask(&cluster, "/", &grpc);
    assert_eq!((grpc.status, grpc.header("grpc-status")), (200, Some("16")), "{grpc:?}");
}

#[test]
fn keys_are_fetched_and_what_keeps_them_away_is_told() {
    let (cluster, issuer) = (mesh(), Issuer::default());
    // Nobody else has that port there.
    let address = std::net::SocketAddr::new(cluster.node("reviews").ip, 15090);
    let name = format!("http://{address}");
    let rule = format!("{{issuer: '{name}', forwardOriginalToken: true}}");
    cluster.push("web", &authentication(&rule), &["--wait", "all"]).expect_code(0);
    let token = issuer.token(&json!({"iss": name, "sub": "alice"}));
    let refused = with_token(&cluster, &token);
    assert_eq!((refused.status, refused.text().as_str()), (401, "Jwks remote fetch is failed"), "{refused:?}");
    assert_eq!(ask(&cluster, "/", &[]).status, 200, "who shows no token needs none");
    eventually("the problem is told", || {
        let status = cluster.on("reviews", &["status", "-o", "json"]).json();
        let problems = status["problems"].as_array().cloned().unwrap_or_default();
        if problems.iter().any(|problem| problem["code"] == "token_keys_missing") {
            Ok(())
        } else {
            Err(status.to_string())
        }
    });
    issuer.serve(address);
    eventually("the keys are fetched", || match with_token(&cluster, &token) {
        answer if answer.status == 200 => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let arrived = cluster.node("reviews").backends[0].arrivals();
    assert_eq!(arrived.last().and_then(|last| last.header("authorization")), Some(&*format!("Bearer {token}")));
    let status = cluster.on("reviews", &["status", "-o", "json"]).json();
    assert!(!status["problems"].to_string().contains("token_keys_missing"), "{status}");
}

/// An issuer changes its key: nobody restarts anything, and what it withdrew counts no more.
#[test]
fn keys_follow_their_issuer_and_outlive_its_absence() {
    let (cluster, old, new, never) = (mesh(), Issuer::named("old"), Issuer::named("new"), Issuer::named("never"));
    let server = KeyServer::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), &old);
    let rule = format!("{{issuer: 'https://id.example', jwksUri: 'http://{}/keys'}}", server.address);
    cluster.push("web", &(authentication(&rule) + REQUIRE), &["--wait", "all"]).expect_code(0);
    let alice = json!({"iss": "https://id.example", "sub": "alice", "groups": ["staff"]});
    let status = |issuer: &Issuer| with_token(&cluster, &issuer.token(&alice)).status;
    let becomes = |what: &str, issuer: &Issuer, wanted: u16| {
        eventually(what, || match status(issuer) {
            status if status == wanted => Ok(()),
            status => Err(status.to_string()),
        });
    };
    becomes("the keys are fetched", &old, 200);
    // A token that names a key which nobody has seen has the keys fetched again, half a minute after the last time at the soonest.
    server.serves(Some(&new));
    becomes("a new key counts", &new, 200);
    assert_eq!(status(&old), 401, "the old one is not among them any more");
    // While the issuer is away the keys of before count.
    server.serves(None);
    let before = server.asked();
    eventually("it is asked in vain", || {
        let refused = status(&never);
        if server.asked() > before { Ok(()) } else { Err(refused.to_string()) }
    });
    assert_eq!((status(&new), status(&never)), (200, 401));
    server.serves(Some(&never));
    becomes("it is back", &never, 200);
}

/// A short name means another issuer in each namespace, and what one says counts in no other; nor is who asks left to chance.
#[test]
fn issuers_of_two_namespaces_are_two_although_their_names_are_one() {
    let (dev, prod) = (Issuer::default(), Issuer::default());
    let served = |namespace: &str, issuer: &Issuer| {
        let target = Some(issuer.serve(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))));
        Service { target, ..Service::version(&format!("{namespace}/keycloak"), "v1") }
    };
    let services = [
        Service::version("dev/api", "v1"),
        Service::version("prod/api", "v1"),
        Service { account: "asker".to_owned(), ..Service::version("prod/worker", "v1") },
    ];
    let issuers = [served("dev", &dev), served("prod", &prod)];
    let plans = [Plan::with([Service::client("shop/web")]), Plan::with(services), Plan::with(issuers)];
    let cluster = Cluster::start(skein(), &["web", "apis", "issuers"].into_iter().zip(plans).collect::<Vec<_>>());
    cluster.wait_members(PATIENCE);
    for service in ["dev/api", "prod/api", "prod/worker", "dev/keycloak", "prod/keycloak"] {
        cluster.wait_endpoints(service, 1);
    }
    let authentication = |namespace: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: users, namespace: {namespace}}}\nspec: {{jwtRules: [{{issuer: 'https://id.example', jwksUri: 'http://keycloak:9080/keys'}}]}}\n---\n"
        )
    };
    // The service that comes first may not ask.
    let only = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: keys, namespace: prod}\nspec: {selector: {matchLabels: {app: keycloak}}, rules: [{from: [{source: {principals: [cluster.local/ns/prod/sa/asker]}}]}]}\n";
    let documents = authentication("dev") + &authentication("prod") + only;
    cluster.push("web", &documents, &["--wait", "all"]).expect_code(0);
    let claims = json!({"iss": "https://id.example", "sub": "alice"});
    let bearers = [&dev, &prod].map(|issuer| format!("Bearer {}", issuer.token(&claims)));
    let status = |host: &str, bearer: &str| {
        let headers = [("authorization", bearer)];
        http::get_with(cluster.node("web").outbound(), host, "/", &headers).expect("an answer").status
    };
    for (host, bearer) in ["api.dev", "api.prod"].into_iter().zip(&bearers) {
        eventually("the keys are fetched", || match status(host, bearer) {
            200 => Ok(()),
            other => Err(format!("{host}: {other} {}", cluster.log("apis"))),
        });
    }
    assert_eq!(
        ["api.dev", "api.prod"].map(|host| bearers.each_ref().map(|bearer| status(host, bearer))),
        [[200, 401], [401, 200]]
    );
}
