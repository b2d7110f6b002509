//! Istio's documents of the security kinds: the decisions are Istio's.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use certs::id::{SpiffeId, TrustDomain};
use http::{HeaderMap, HeaderName, HeaderValue};
use policy::{
    Severity, Spec,
    authorize::{Authorizer, Head, Live, Peer, Token},
    kinds::PathNormalization,
    normalize, parse,
};
use serde::Deserialize;

use super::corpus;

/// The AuthorizationPolicies of a text.
fn live(text: &str) -> Vec<Live> {
    let parsed = parse::yaml("corpus", text, "default");
    let errors: Vec<_> = parsed.problems.iter().filter(|problem| problem.severity == Severity::Error).collect();
    assert!(errors.is_empty(), "{errors:#?}");
    let one = |located: parse::Located| {
        let Spec::AuthorizationPolicy(policy) = located.document.spec else { return None };
        Some(Live { id: Arc::new(located.document.id), values: vec![Some(policy)], unreadable: Vec::new() })
    };
    parsed.documents.into_iter().filter_map(one).collect()
}

fn authorizer(text: &str, namespace: &str, labels: &[(&str, &str)], aliases: &[&str]) -> Authorizer {
    let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let aliases: Vec<TrustDomain> = aliases.iter().map(|name| TrustDomain::new(name).unwrap()).collect();
    Authorizer::new(&live(text), namespace, &labels, &TrustDomain::new("prod.example").unwrap(), &aliases)
}

/// A request; the path is matched as Istio's default does.
#[derive(Clone)]
struct Request {
    identity: Option<SpiffeId>,
    address: &'static str,
    method: String,
    host: String,
    path: String,
    headers: HeaderMap,
    token: Option<Token>,
    port: u16,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            identity: None,
            address: "10.0.0.1",
            method: "GET".into(),
            host: "httpbin".into(),
            path: "/".into(),
            headers: HeaderMap::new(),
            token: None,
            port: 80,
        }
    }
}

impl Request {
    fn peer(&self) -> Peer<'_> {
        Peer {
            identity: self.identity.as_ref(),
            address: Some(self.address.parse().unwrap()),
            original_address: None,
            server_name: None,
            destination: Some("10.10.10.10".parse().unwrap()),
            port: self.port,
        }
    }

    fn decision(&self, authorizer: &Authorizer) -> policy::authorize::Decision {
        let (raw, query) = self.path.split_once('?').map_or((&*self.path, None), |(path, query)| (path, Some(query)));
        let head = Head {
            method: &self.method,
            scheme: "http",
            host: &normalize::host(&self.host, 80).unwrap(),
            path: &normalize::path(raw, PathNormalization::Base).unwrap(),
            query,
            called: None,
            headers: &self.headers,
            token: self.token.as_ref(),
        };
        authorizer.decide(&self.peer(), &head)
    }

    fn passes(&self, authorizer: &Authorizer) -> bool {
        self.decision(authorizer).allowed()
    }
}

fn principal(text: &str) -> Option<SpiffeId> {
    Some(format!("spiffe://{text}").parse().unwrap())
}

fn token(issuer: &str, subject: &str) -> Option<Token> {
    let claims = serde_json::json!({"iss": issuer, "sub": subject});
    Some(Token { claims: claims.as_object().unwrap().clone(), space_delimited: Vec::new() })
}

#[derive(Deserialize)]
struct StringMatch {
    field: String,
    pattern: String,
    value: String,
    #[serde(rename = "match")]
    matches: bool,
}

#[test]
fn strings_match_as_the_table_says() {
    let Some(root) = corpus() else { return };
    let text = std::fs::read_to_string(root.join("tables/authz-string-match.json")).unwrap();
    let table: Vec<StringMatch> = serde_json::from_str(&text).unwrap();
    for StringMatch { field, pattern, value, matches } in &table {
        let mut request = Request::default();
        match field.as_str() {
            "paths" => request.path.clone_from(value),
            "hosts" => request.host.clone_from(value),
            "methods" => request.method.clone_from(value),
            "principals" if !value.starts_with('<') => request.identity = principal(value),
            "namespaces" => request.identity = principal(&format!("cluster.local/ns/{value}/sa/a")),
            "requestPrincipals" if !value.starts_with('<') => {
                let (issuer, subject) = value.split_once(' ').unwrap();
                request.token = token(&issuer["iss=".len()..], &subject["sub=".len()..]);
            }
            "request.headers[x]" => {
                request.headers.insert("x", HeaderValue::from_str(value).unwrap());
            }
            _ => assert!(value.starts_with('<'), "an unknown field: {field}"),
        }
        let rule = match field.as_str() {
            "paths" | "hosts" | "methods" => format!("{{to: [{{operation: {{{field}: ['{pattern}']}}}}]}}"),
            "request.headers[x]" => format!("{{when: [{{key: '{field}', values: ['{pattern}']}}]}}"),
            _ => format!("{{from: [{{source: {{{field}: ['{pattern}']}}}}]}}"),
        };
        let text = format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: a}}\nspec: {{rules: [{rule}]}}\n"
        );
        assert_eq!(request.passes(&authorizer(&text, "default", &[], &[])), *matches, "{field} {pattern} {value}");
    }
    assert!(table.len() > 15);
}

#[derive(Deserialize)]
struct Scenario {
    config: String,
    calls: Vec<Call>,
}

#[derive(Deserialize)]
struct Call {
    request: CallRequest,
    expect: Expect,
}

#[derive(Deserialize)]
struct CallRequest {
    from: Option<String>,
    to: Option<String>,
    path: Option<String>,
    method: Option<String>,
    port: Option<u16>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Expect {
    status: Option<u16>,
    connection: Option<String>,
}

/// What a request of the scenarios with tokens means once RequestAuthentication has looked at it; `None` is its 401.
fn verified(headers: &BTreeMap<String, String>) -> Option<Option<Token>> {
    match headers.get("authorization").map(String::as_str) {
        Some("Bearer <INVALID>") => None,
        Some(_) => Some(token("testing@secure.istio.io", "testing@secure.istio.io")),
        None => Some(None),
    }
}

fn run(name: &str, scenario: &Scenario) -> usize {
    let config = scenario.config.replace("<JWKS_UNDER_TEST>", r#"{\"keys\": [{\"kty\": \"RSA\"}]}"#);
    for call in &scenario.calls {
        let app = call.request.to.as_deref().unwrap_or(if name.contains("tcp") { "tcp-echo" } else { "httpbin" });
        let namespace = if call.request.to.is_some() { "default" } else { "foo" };
        let authorizer = authorizer(&config, namespace, &[("app", app)], &[]);
        let account = call.request.from.as_deref().unwrap_or("sleep");
        let request = Request {
            identity: principal(&format!("prod.example/ns/{namespace}/sa/bookinfo-{account}")),
            path: call.request.path.clone().unwrap_or("/".into()),
            method: call.request.method.clone().unwrap_or("GET".into()),
            port: call.request.port.unwrap_or(80),
            headers: call
                .request
                .headers
                .iter()
                .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap()))
                .collect(),
            ..Request::default()
        };
        let what = format!("{name}: {} {}:{}", request.method, request.path, request.port);
        match (call.expect.status, call.expect.connection.as_deref()) {
            (Some(status), _) => {
                let found = match verified(&call.request.headers) {
                    None => 401,
                    Some(token) => match (Request { token, ..request }).passes(&authorizer) {
                        true => 200,
                        false => 403,
                    },
                };
                assert_eq!(found, status, "{what}");
            }
            (None, Some(connection)) => {
                assert_eq!(authorizer.decide_connection(&request.peer()).allowed(), connection == "ok", "{what}");
            }
            (None, None) => panic!("{what}: nothing is expected"),
        }
    }
    scenario.calls.len()
}

#[test]
fn scenarios_end_as_istio_says() {
    let Some(root) = corpus() else { return };
    let mut calls = 0;
    for entry in std::fs::read_dir(root.join("scenarios")).unwrap() {
        let file = entry.unwrap().path();
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        if name.starts_with("authz-") || name.starts_with("jwt-") {
            let scenario: Scenario = serde_saphyr::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
            calls += run(&name, &scenario);
        }
    }
    println!("{calls} calls of scenarios decided");
    assert!(calls > 30);
}

fn document(root: &Path, name: &str, aliases: &[&str]) -> Authorizer {
    let text = std::fs::read_to_string(root.join("authz").join(name)).unwrap();
    authorizer(&text, "foo", &[("app", "httpbin"), ("version", "v1")], aliases)
}

/// Chosen requests against the filters that Istio makes of the documents (`envoy-rbac-expected`).
#[test]
fn decisions_are_those_of_istios_filters() {
    let Some(root) = corpus() else { return };
    let from = |text: &str| Request { identity: principal(text), ..Request::default() };
    let plain = Request::default();

    assert!(plain.passes(&document(&root, "http-allow-empty-rule-in.yaml", &[])));
    assert!(!plain.passes(&document(&root, "http-deny-empty-rule-in.yaml", &[])));

    let aliased = document(&root, "http-td-aliases-source-principal-in.yaml", &["some-td"]);
    assert!(
        from("some-td/ns/istio-system/sa/any").passes(&aliased) && !from("some-td/ns/foo/sa/all-td").passes(&aliased)
    );

    let full = document(&root, "http-allow-full-rule-in.yaml", &[]);
    assert!(
        from("prod.example/ns/my-ns/sa/my-sa").passes(&full) && from("prod.example/ns/foo/sa/sa-only").passes(&full)
    );
    assert!(!from("prod.example/ns/other/sa/sa-only").passes(&full) && !plain.passes(&full));

    let several = document(&root, "http-multiple-policies-in.yaml", &[]);
    let odd = Request { method: "PUT".into(), host: "x.com".into(), path: "/x".into(), port: 81, ..Request::default() };
    assert!(!odd.passes(&several));
    for allowed in [
        Request { method: "POST".into(), ..odd.clone() },
        Request { path: "/v2".into(), ..odd.clone() },
        Request { host: "HTTPBIN.org".into(), ..odd.clone() },
        Request { port: 90, ..odd.clone() },
        Request { identity: principal("prod.example/ns/namespaces1/sa/a"), ..odd.clone() },
        Request { address: "5.6.7.8", ..odd.clone() },
        Request {
            headers: HeaderMap::from_iter([(HeaderName::from_static("x-abc"), HeaderValue::from_static("abc2"))]),
            ..odd.clone()
        },
        Request { token: token("requestPrincipals1", ""), ..odd.clone() },
    ] {
        assert!(allowed.passes(&several), "{} {} {}", allowed.method, allowed.host, allowed.path);
    }

    let mixed = document(&root, "http-dry-run-mix-in.yaml", &[]);
    let at = |path: &str| Request { path: path.into(), ..Request::default() };
    assert!(at("/another").passes(&mixed) && !at("/allow").passes(&mixed));
    assert!(at("/allow").decision(&mixed).dry_run.unwrap().allowed);
    assert!(!at("/another").decision(&mixed).dry_run.unwrap().allowed);

    // On TCP only the last rule is left.
    let tcp_allow = document(&root, "tcp-allow-both-http-tcp-in.yaml", &[]);
    let connects = |authorizer: &Authorizer, identity: &str, port: u16| {
        let request = Request { port, ..from(identity) };
        authorizer.decide_connection(&request.peer()).allowed()
    };
    assert!(connects(&tcp_allow, "prod.example/ns/ns-1/sa/a", 80));
    for (identity, port) in [("ns-1", 8080), ("ns-2", 9090), ("ns-2", 80)] {
        assert!(!connects(&tcp_allow, &format!("prod.example/ns/{identity}/sa/a"), port), "{identity} {port}");
    }
    // The second rule has nothing left but `any`: every connection is denied, by the first rule already.
    let tcp_deny = document(&root, "tcp-deny-both-http-tcp-in.yaml", &[]);
    let denied = tcp_deny.decide_connection(&plain.peer());
    assert_eq!(
        denied.details().as_deref(),
        Some("rbac_access_denied_matched_policy[ns[foo]-policy[httpbin-deny]-rule[0]]")
    );

    let tried = document(&root, "tcp-dry-run-mix-in.yaml", &[]);
    assert!(connects(&tried, "prod.example/ns/a/sa/a", 9000) && !connects(&tried, "prod.example/ns/a/sa/a", 80));
}
