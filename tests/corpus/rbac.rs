//! Istio's documents of `authz` against the filters that Istio makes of them (`envoy-rbac-expected`): both are asked about requests that
//! are made of what the filters look at, each as it is wanted and with one thing changed.
//!
//! The filters' matchers are Envoy's and are read here by a few lines of their own. Names in the corpus that no certificate, host or
//! path can bear are given ones that can, in documents and filters alike.

use std::{collections::BTreeMap, net::IpAddr, path::Path};

use certs::id::{SpiffeId, TrustDomain};
use http::{HeaderMap, HeaderName, HeaderValue};
use policy::{
    Spec,
    authorize::{Authorizer, Decision, Head, Live, Peer, Token},
    kinds::PathNormalization,
    normalize, parse,
};
use regex::Regex;
use serde_json::Value;

use crate::corpus;

/// Documents and their filters; this mesh's trust domain and its other names, as in Istio's test.
struct Case {
    documents: &'static str,
    filters: &'static [&'static str],
    trust_domains: &'static [&'static str],
}

const fn case(documents: &'static str, filters: &'static [&'static str]) -> Case {
    Case { documents, filters, trust_domains: &["td1"] }
}

const CASES: [Case; 14] = [
    case("http-allow-empty-rule", &["http-allow-empty-rule-out"]),
    case("http-allow-full-rule", &["http-allow-full-rule-out"]),
    case("http-allow-path", &["http-allow-path-out"]),
    case("http-deny-empty-rule", &["http-deny-empty-rule-out"]),
    case("http-dry-run-allow-and-deny", &["http-dry-run-allow-and-deny-out1", "http-dry-run-allow-and-deny-out2"]),
    case("http-dry-run-mix", &["http-dry-run-mix-out"]),
    case("http-multiple-policies", &["http-multiple-policies-out"]),
    Case {
        trust_domains: &["td1", "foobar"],
        ..case("http-simple-policy-principal-with-wildcard", &["http-simple-policy-principal-with-wildcard-out"])
    },
    case("http-single-policy", &["http-single-policy-out"]),
    Case {
        trust_domains: &["some-trustdomain", "some-td"],
        ..case("http-td-aliases-source-principal", &["http-td-aliases-source-principal-out"])
    },
    case("tcp-allow-both-http-tcp", &["tcp-allow-both-http-tcp-out"]),
    case("tcp-audit-both-http-tcp", &["tcp-audit-both-http-tcp-out"]),
    case("tcp-deny-both-http-tcp", &["tcp-deny-both-http-tcp-out"]),
    case("tcp-dry-run-mix", &["tcp-dry-run-mix-out"]),
];

/// Documents of action CUSTOM for connections, and the filter that marks those about which Istio asks.
const ASKING: Case = case("tcp-custom-both-http-tcp", &["tcp-custom-both-http-tcp-out1"]);

/// What a filter can look at.
#[derive(Debug, Clone, PartialEq)]
struct Request {
    principal: Option<String>,
    method: String,
    host: String,
    path: String,
    headers: BTreeMap<String, String>,
    claims: BTreeMap<String, String>,
    address: IpAddr,
    original: IpAddr,
    destination: IpAddr,
    port: u16,
    server_name: Option<String>,
}

impl Default for Request {
    fn default() -> Self {
        let address = IpAddr::from([11, 11, 11, 11]);
        Self {
            principal: None,
            method: "ODD".into(),
            host: "other".into(),
            path: "/other".into(),
            headers: BTreeMap::new(),
            claims: BTreeMap::new(),
            address,
            original: address,
            destination: address,
            port: 1,
            server_name: None,
        }
    }
}

impl Request {
    /// The same with one thing as it is in another request, for each thing.
    fn neighbours(&self, other: &Self) -> Vec<Self> {
        let (one, other) = (self.clone(), other.clone());
        vec![
            Self { principal: other.principal, ..one.clone() },
            Self { method: other.method, ..one.clone() },
            Self { host: other.host, ..one.clone() },
            Self { path: other.path, ..one.clone() },
            Self { headers: other.headers, ..one.clone() },
            Self { claims: other.claims, ..one.clone() },
            Self { address: other.address, ..one.clone() },
            Self { original: other.original, ..one.clone() },
            Self { destination: other.destination, ..one.clone() },
            Self { port: other.port, ..one.clone() },
            Self { server_name: other.server_name, ..one },
        ]
    }

    /// What our code says; `None` if the proxy would not come so far: the caller's name, the host or the path cannot be.
    fn decide(&self, authorizer: &Authorizer, is_http: bool) -> Option<Decision> {
        let identity: Option<SpiffeId> = match &self.principal {
            Some(text) => Some(text.parse().ok()?),
            None => None,
        };
        let peer = Peer {
            identity: identity.as_ref(),
            address: Some(self.address),
            original_address: Some(self.original),
            server_name: self.server_name.as_deref(),
            destination: Some(self.destination),
            port: self.port,
        };
        if !is_http {
            return Some(authorizer.decide_connection(&peer));
        }
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            headers.insert(name.parse::<HeaderName>().ok()?, HeaderValue::from_str(value).ok()?);
        }
        let claims = self.claims.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str())));
        let token = Token { claims: claims.collect(), space_delimited: Vec::new() };
        let head = Head {
            method: &self.method,
            scheme: "http",
            host: &normalize::host(&self.host, 80).ok()?,
            path: &normalize::path(&self.path, PathNormalization::Base)
                .ok()
                .filter(|path| path.as_str() == self.path)?,
            query: None,
            called: None,
            headers: &headers,
            token: (!self.claims.is_empty()).then_some(&token),
        };
        Some(authorizer.decide(&peer, &head))
    }
}

/// Names that can be.
fn possible(text: &str) -> String {
    let text = text.replace("\\[", "[").replace("\\]", "]");
    let principal = Regex::new(r#"(["/ ]|spiffe://)rule\[(\d)\]-from\[(\d)\]-principal\[(\d)\]"#).unwrap();
    let text = principal.replace_all(&text, |found: &regex::Captures<'_>| match &found[1] {
        // Part of a longer name.
        "/" if !found[0].starts_with("spiffe") => {
            format!("/rule{}-from{}-principal{}", &found[2], &found[3], &found[4])
        }
        before => format!("{before}td1/ns/rule{}-from{}-ns{}/sa/a", &found[2], &found[3], &found[4]),
    });
    let path = Regex::new(r#"(["/ ])rule\[(\d)\]-to\[(\d)\]-path\[(\d)\]"#).unwrap();
    let text = path.replace_all(&text, "$1/rule$2-to$3-path$4");
    Regex::new(r"\[(\d)\]").unwrap().replace_all(&text, "$1").into_owned()
}

/// What a filter enforces and what it tries: rules for denial or permission, or marks.
struct Filter {
    enforced: Option<Rules>,
    tried: Option<Rules>,
}

struct Rules {
    action: String,
    policies: Vec<Value>,
}

impl Filter {
    fn read(root: &Path, name: &str) -> Self {
        let text = std::fs::read_to_string(root.join(format!("authz/envoy-rbac-expected/{name}.yaml"))).unwrap();
        let filter: Value = serde_saphyr::from_str(&possible(&text)).unwrap();
        let rules = |key: &str| {
            let rules = filter["typedConfig"].get(key)?;
            let policies = rules.get("policies").and_then(Value::as_object);
            let policies = policies.map(|policies| policies.values().cloned().collect()).unwrap_or_default();
            Some(Rules { action: rules.get("action").and_then(Value::as_str).unwrap_or("ALLOW").to_owned(), policies })
        };
        Self { enforced: rules("rules"), tried: rules("shadowRules") }
    }
}

impl Rules {
    fn is_met(&self, request: &Request) -> bool {
        let any = |policy: &Value, key: &str| list(&policy[key]).iter().any(|one| holds(one, request));
        self.policies.iter().any(|policy| any(policy, "permissions") && any(policy, "principals"))
    }
}

/// What the filters say together: `None` if there is none of them.
fn said<'r>(rules: impl Iterator<Item = &'r Rules>, request: &Request) -> Option<bool> {
    let mut all = rules.filter(|rules| rules.action != "LOG").peekable();
    all.peek()?;
    Some(all.all(|rules| rules.is_met(request) == (rules.action == "ALLOW")))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Name and content of a matcher.
fn only(value: &Value) -> (&str, &Value) {
    let object = value.as_object().unwrap_or_else(|| panic!("not a matcher: {value}"));
    let (key, inner) = object.iter().find(|(key, _)| *key != "name" || object.len() == 1).unwrap();
    (key, inner)
}

/// Envoy's permissions and principals.
fn holds(matcher: &Value, request: &Request) -> bool {
    let (key, inner) = only(matcher);
    match key {
        "any" => true,
        "andRules" | "andIds" => parts(inner).iter().all(|one| holds(one, request)),
        "orRules" | "orIds" => parts(inner).iter().any(|one| holds(one, request)),
        "notRule" | "notId" => !holds(inner, request),
        "header" => {
            let found = match inner["name"].as_str().unwrap() {
                ":authority" => Some(&request.host),
                ":method" => Some(&request.method),
                name => request.headers.get(&name.to_ascii_lowercase()),
            };
            found.is_some_and(|found| inner.get("presentMatch").is_some() || text_meets(&inner["stringMatch"], found))
        }
        "urlPath" => text_meets(&inner["path"], &request.path),
        "uriTemplate" => template(inner).is_match(&request.path),
        "destinationPort" => inner.as_u64() == Some(request.port.into()),
        "destinationIp" => within(inner, request.destination),
        "directRemoteIp" | "sourceIp" => within(inner, request.address),
        "remoteIp" => within(inner, request.original),
        "requestedServerName" => text_meets(inner, request.server_name.as_deref().unwrap_or_default()),
        "authenticated" => request.principal.as_deref().is_some_and(|own| text_meets(&inner["principalName"], own)),
        "metadata" => claim(inner)
            .and_then(|name| request.claims.get(name))
            .is_some_and(|found| value_meets(&inner["value"], found)),
        other => panic!("a new matcher: {other}"),
    }
}

fn parts(value: &Value) -> &[Value] {
    list(value.get("rules").or_else(|| value.get("ids")).unwrap())
}

/// The claim of a token that metadata is about; `None` for what a filter of Envoy's says.
fn claim(metadata: &Value) -> Option<&str> {
    let path = list(&metadata["path"]);
    (metadata["filter"] == "envoy.filters.http.jwt_authn").then(|| path[1]["key"].as_str().unwrap())
}

fn value_meets(value: &Value, found: &str) -> bool {
    match only(value) {
        ("stringMatch", inner) => text_meets(inner, found),
        // All claims here are texts.
        ("listMatch", _) => false,
        ("orMatch", inner) => list(&inner["valueMatchers"]).iter().any(|one| value_meets(one, found)),
        (other, _) => panic!("a new matcher of values: {other}"),
    }
}

fn text_meets(matcher: &Value, found: &str) -> bool {
    let fold = matcher["ignoreCase"] == true;
    let case = |text: &str| if fold { text.to_ascii_lowercase() } else { text.to_owned() };
    let object = matcher.as_object().unwrap();
    let (key, wanted) = object.iter().find(|(key, _)| *key != "ignoreCase").unwrap();
    let (found, own) = (case(found), case(wanted.as_str().unwrap_or_default()));
    match key.as_str() {
        "exact" => found == own,
        "prefix" => found.starts_with(&own),
        "suffix" => found.ends_with(&own),
        "safeRegex" => Regex::new(&format!("^(?:{})$", wanted["regex"].as_str().unwrap())).unwrap().is_match(&found),
        other => panic!("a new matcher of texts: {other}"),
    }
}

fn template(matcher: &Value) -> Regex {
    let text = regex::escape(matcher["typedConfig"]["pathTemplate"].as_str().unwrap());
    Regex::new(&format!("^{}$", text.replace(r"\*\*", ".*").replace(r"\*", "[^/]+"))).unwrap()
}

fn within(range: &Value, address: IpAddr) -> bool {
    let bits = |address: IpAddr| match address {
        IpAddr::V4(address) => u32::from(address),
        IpAddr::V6(_) => panic!("only of version 4"),
    };
    let first = bits(range["addressPrefix"].as_str().unwrap().parse().unwrap());
    let length = u32::try_from(range["prefixLen"].as_u64().unwrap()).unwrap();
    let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
    first & mask == bits(address) & mask
}

/// Changes the request so that the matcher is met, by its choice of the given number where there are several.
fn meet(matcher: &Value, request: &mut Request, choice: usize) {
    let (key, inner) = only(matcher);
    let address = || inner["addressPrefix"].as_str().unwrap().parse().unwrap();
    match key {
        "andRules" | "andIds" => parts(inner).iter().for_each(|one| meet(one, request, choice)),
        "orRules" | "orIds" => meet(&parts(inner)[choice % parts(inner).len()], request, choice),
        "header" => {
            let wanted = inner.get("stringMatch").map_or("anything".to_owned(), example);
            match inner["name"].as_str().unwrap() {
                ":authority" => request.host = wanted,
                ":method" => request.method = wanted,
                name => drop(request.headers.insert(name.to_ascii_lowercase(), wanted)),
            }
        }
        "urlPath" => {
            let wanted = example(&inner["path"]);
            request.path = if wanted.starts_with('/') { wanted } else { format!("/{wanted}") };
        }
        "uriTemplate" => {
            let template = inner["typedConfig"]["pathTemplate"].as_str().unwrap();
            request.path = template.replace("**", "x/y").replace('*', "x");
        }
        "destinationPort" => request.port = u16::try_from(inner.as_u64().unwrap()).unwrap(),
        "destinationIp" => request.destination = address(),
        "directRemoteIp" | "sourceIp" => request.address = address(),
        "remoteIp" => request.original = address(),
        "requestedServerName" => request.server_name = Some(example(inner)),
        "authenticated" => request.principal = Some(caller(&example(&inner["principalName"]))),
        "metadata" => {
            if let Some(name) = claim(inner) {
                let mut value = &inner["value"];
                while let ("orMatch", several) = only(value) {
                    let several: Vec<&Value> =
                        list(&several["valueMatchers"]).iter().filter(|one| one.get("listMatch").is_none()).collect();
                    value = several[choice % several.len()];
                }
                request.claims.insert(name.to_owned(), example(&value["stringMatch"]));
            }
        }
        // What must not be met is not met by the other things of a request; that it is met comes by `forbidden`.
        "any" | "notRule" | "notId" => {}
        other => panic!("a new matcher: {other}"),
    }
}

/// A text that meets the matcher.
fn example(matcher: &Value) -> String {
    let object = matcher.as_object().unwrap();
    let (key, wanted) = object.iter().find(|(key, _)| *key != "ignoreCase").unwrap();
    match key.as_str() {
        "prefix" => format!("{}x", wanted.as_str().unwrap()),
        "suffix" => format!("x{}", wanted.as_str().unwrap()),
        "safeRegex" => {
            let text = wanted["regex"].as_str().unwrap().replace("(.+/|)", "").replace("(/.+)?", "");
            text.replace(".*", "x").replace(".+", "x")
        }
        _ => wanted.as_str().unwrap().to_owned(),
    }
}

/// An identity near to the example of one.
fn caller(example: &str) -> String {
    if let Some(namespace) = example.split_once("/ns/").filter(|_| !example.contains("/sa/")).map(|(_, rest)| rest) {
        return format!("spiffe://td1/ns/{}/sa/a", namespace.split('/').next().unwrap());
    }
    if example == "x" { "spiffe://td1/ns/x/sa/x".to_owned() } else { example.to_owned() }
}

/// Everything within that must not be met.
fn forbidden<'v>(matcher: &'v Value, found: &mut Vec<&'v Value>) {
    match only(matcher) {
        ("notRule" | "notId", inner) => found.push(inner),
        ("andRules" | "andIds" | "orRules" | "orIds", inner) => {
            parts(inner).iter().for_each(|one| forbidden(one, found));
        }
        _ => {}
    }
}

/// Requests that meet a rule in several ways, then with one thing as in no rule, and with one thing that the rule forbids.
fn requests(filters: &[Filter]) -> Vec<Request> {
    let mut all = vec![Request::default()];
    for rules in filters.iter().flat_map(|filter| [&filter.enforced, &filter.tried]).flatten() {
        for policy in &rules.policies {
            for permission in list(&policy["permissions"]) {
                for principal in list(&policy["principals"]) {
                    for choice in 0..6 {
                        let mut request = Request::default();
                        meet(permission, &mut request, choice);
                        meet(principal, &mut request, choice);
                        all.extend(request.neighbours(&Request::default()));
                        let mut never = Vec::new();
                        forbidden(permission, &mut never);
                        forbidden(principal, &mut never);
                        for matcher in never {
                            let mut bad = request.clone();
                            meet(matcher, &mut bad, choice);
                            all.push(bad);
                        }
                        all.push(request);
                    }
                }
            }
        }
    }
    all
}

fn authorizer(root: &Path, case: &Case) -> Authorizer {
    let text = std::fs::read_to_string(root.join(format!("authz/{}-in.yaml", case.documents))).unwrap();
    let parsed = parse::yaml(case.documents, &possible(&text), "default");
    let documents: Vec<Live> = parsed
        .documents
        .into_iter()
        .map(|located| {
            let Spec::AuthorizationPolicy(policy) = located.document.spec else { panic!("another kind") };
            Live { id: located.document.id.into(), values: vec![Some(policy)], unreadable: Vec::new() }
        })
        .collect();
    let labels = [("app", "httpbin"), ("version", "v1")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    let names: Vec<TrustDomain> = case.trust_domains.iter().map(|name| TrustDomain::new(name).unwrap()).collect();
    Authorizer::new(&documents, "foo", &labels.into(), &names[0], &names[1..])
}

#[test]
fn every_filter_of_istios_decides_as_we_do() {
    let Some(root) = corpus() else { return };
    let (mut decided, mut left_out, mut wrong) = (0, 0, Vec::new());
    for case in &CASES {
        let filters: Vec<Filter> = case.filters.iter().map(|name| Filter::read(&root, name)).collect();
        let (authorizer, is_http) = (authorizer(&root, case), case.documents.starts_with("http"));
        let (mut allowed, mut refused) = (0, 0);
        for request in requests(&filters) {
            let Some(decision) = request.decide(&authorizer, is_http) else {
                left_out += 1;
                continue;
            };
            let enforced = said(filters.iter().filter_map(|filter| filter.enforced.as_ref()), &request);
            let tried = said(filters.iter().filter_map(|filter| filter.tried.as_ref()), &request);
            let ours = (decision.allowed(), decision.dry_run.map(|verdict| verdict.allowed));
            if ours != (enforced.unwrap_or(true), tried) {
                wrong.push(format!("{}: {ours:?}, Istio {enforced:?} {tried:?}: {request:?}", case.documents));
            }
            *(if ours.0 { &mut allowed } else { &mut refused }) += 1;
            decided += 1;
        }
        println!("authz {}: {allowed} allowed, {refused} refused, as Istio's filters do", case.documents);
    }
    assert!(wrong.is_empty(), "{} of {decided}:\n{}", wrong.len(), wrong[..wrong.len().min(5)].join("\n"));
    println!("{decided} decisions on {} documents, {left_out} requests that cannot be", CASES.len());
    assert!(decided > 1_000);
}

#[test]
fn connections_about_which_istio_asks_are_refused() {
    let Some(root) = corpus() else { return };
    let (authorizer, filter) = (authorizer(&root, &ASKING), Filter::read(&root, ASKING.filters[0]));
    let marks = filter.tried.as_ref().expect("Istio marks by a filter on trial");
    let (mut marked, mut others) = (0, 0);
    for request in requests(std::slice::from_ref(&filter)) {
        let Some(decision) = request.decide(&authorizer, false) else { continue };
        assert_eq!(decision.allowed(), !marks.is_met(&request), "{request:?}");
        *(if decision.allowed() { &mut others } else { &mut marked }) += 1;
    }
    println!("authz {}: {marked} refused, {others} allowed", ASKING.documents);
    assert!(marked > 0);
}

#[test]
fn every_document_is_in_a_list() {
    let Some(root) = corpus() else { return };
    let names: Vec<&str> = CASES.iter().chain([&ASKING]).map(|case| case.documents).collect();
    for entry in std::fs::read_dir(root.join("authz")).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        let known = file.strip_suffix("-in.yaml").is_none_or(|name| names.contains(&name));
        assert!(known, "{file} is in no list");
    }
}
