//! Istio's documents of `authz` and the filters that Istio makes of them (`envoy-rbac-expected`), by Envoy's meaning of those.
//!
//! The filters' matchers are Envoy's and are read here by a few lines of their own. Names in the corpus that no certificate, host,
//! path or method can bear are given ones that can, in documents and filters alike.

mod envoy;
mod requests;

use std::{collections::BTreeMap, net::IpAddr, path::Path};

use regex::{Captures, Regex};
use serde_json::Value;

pub use {envoy::without_envoy, requests::requests};

/// Documents and their filters; this mesh's trust domain and its other names, as in Istio's test.
#[derive(Debug)]
pub struct Case {
    /// The file, without `-in.yaml`.
    pub documents: &'static str,
    /// The files of what Istio makes of them, without `.yaml`.
    pub filters: &'static [&'static str],
    /// The mesh's own name first.
    pub trust_domains: &'static [&'static str],
}

const fn case(documents: &'static str, filters: &'static [&'static str]) -> Case {
    Case { documents, filters, trust_domains: &["td1"] }
}

/// Documents whose filters say who is let in.
pub static CASES: [Case; 14] = [
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
pub static ASKING: Case = case("tcp-custom-both-http-tcp", &["tcp-custom-both-http-tcp-out1"]);

/// Documents of the corpus that stand in no list.
///
/// # Panics
/// When the corpus is not what it says it is.
pub fn unlisted(root: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(root.join("authz")).expect("a folder of documents");
    let files = entries.map(|entry| entry.expect("a file").file_name().to_string_lossy().into_owned());
    let known = |name: &str| CASES.iter().chain([&ASKING]).any(|case| case.documents == name);
    files.filter(|file| file.strip_suffix("-in.yaml").is_some_and(|name| !known(name))).collect()
}

impl Case {
    /// The documents as Istio's test has them, but for their names.
    ///
    /// # Panics
    /// When the corpus is not what it says it is.
    pub fn text(&self, root: &Path) -> String {
        let file = root.join(format!("authz/{}-in.yaml", self.documents));
        possible(&std::fs::read_to_string(file).expect("documents of a case"))
    }

    /// The filters that Istio makes of them, with further changes of their text.
    ///
    /// # Panics
    /// When the corpus is not what it says it is.
    pub fn filters(&self, root: &Path, change: impl Fn(&str) -> String) -> Vec<Filter> {
        self.filters.iter().map(|name| Filter::read(root, name, &change)).collect()
    }

    /// True if the filters look at requests, false if at connections.
    pub fn is_http(&self) -> bool {
        self.documents.starts_with("http")
    }
}

/// What a filter can look at.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The URI in the caller's certificate, if it shows one.
    pub principal: Option<String>,
    /// Of the request.
    pub method: String,
    /// The authority.
    pub host: String,
    /// Without a query.
    pub path: String,
    /// By name in lower case.
    pub headers: BTreeMap<String, String>,
    /// Of its token; without any there is no token.
    pub claims: BTreeMap<String, String>,
    /// Of the connection's other end.
    pub address: IpAddr,
    /// Of the client, as proxies tell it.
    pub original: IpAddr,
    /// Of the connection's own end.
    pub destination: IpAddr,
    /// Of the application.
    pub port: u16,
    /// That TLS was asked for.
    pub server_name: Option<String>,
}

impl Request {
    /// One that no rule means, from an address to an address.
    pub fn odd(address: IpAddr, destination: IpAddr, port: u16) -> Self {
        Self {
            principal: None,
            method: "ODD".into(),
            host: "other".into(),
            path: "/other".into(),
            headers: BTreeMap::new(),
            claims: BTreeMap::new(),
            address,
            original: address,
            destination,
            port,
            server_name: None,
        }
    }
}

/// Names that can be.
fn possible(text: &str) -> String {
    let text = text.replace("\\[", "[").replace("\\]", "]");
    let principal = pattern(r#"(["/ ]|spiffe://)rule\[(\d)\]-from\[(\d)\]-principal\[(\d)\]"#);
    let text = principal.replace_all(&text, |found: &Captures<'_>| match &found[1] {
        // Part of a longer name.
        "/" if !found[0].starts_with("spiffe") => {
            format!("/rule{}-from{}-principal{}", &found[2], &found[3], &found[4])
        }
        before => format!("{before}td1/ns/rule{}-from{}-ns{}/sa/a", &found[2], &found[3], &found[4]),
    });
    let text = pattern(r#"("|spiffe://)principals(\d)"#).replace_all(&text, "${1}td1/ns/principals$2/sa/a");
    let path = pattern(r#"(["/ ])rule\[(\d)\]-to\[(\d)\]-path\[(\d)\]"#);
    let text = path.replace_all(&text, "$1/rule$2-to$3-path$4");
    let text = pattern(r"\[(\d)\]").replace_all(&text, "$1");
    let method = pattern(r#"([\s"*])(-?(?:\w+-)*method\d?(?:-\w+)*-?)([\s"*])"#);
    let great = |found: &Captures<'_>| format!("{}{}{}", &found[1], found[2].to_ascii_uppercase(), &found[3]);
    method.replace_all(&text, great).into_owned()
}

fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("a pattern")
}

/// What a filter enforces and what it tries.
#[derive(Debug)]
pub struct Filter {
    /// Who is let in.
    pub enforced: Option<Rules>,
    /// Who would be, or is marked.
    pub tried: Option<Rules>,
}

/// Rules for denial or permission, or marks.
#[derive(Debug)]
pub struct Rules {
    action: String,
    policies: Vec<Value>,
}

impl Filter {
    fn read(root: &Path, name: &str, change: impl Fn(&str) -> String) -> Self {
        let file = root.join(format!("authz/envoy-rbac-expected/{name}.yaml"));
        let text = std::fs::read_to_string(file).expect("a filter of a case");
        let filter: Value = serde_saphyr::from_str(&change(&possible(&text))).expect("a filter");
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
    /// True if some policy means the request.
    pub fn is_met(&self, request: &Request) -> bool {
        let any = |policy: &Value, key: &str| list(&policy[key]).iter().any(|one| holds(one, request));
        self.policies.iter().any(|policy| any(policy, "permissions") && any(policy, "principals"))
    }

    /// True if they only count what they mean.
    pub fn only_log(&self) -> bool {
        self.action == "LOG"
    }
}

/// What some filters say of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Said {
    /// It is let in.
    pub allowed: bool,
    /// It would be, were the rules on trial in force; `None` if there are none.
    pub tried: Option<bool>,
    /// Rules that only count mean it.
    pub logged: bool,
}

impl Said {
    /// What these say together.
    pub fn of(filters: &[Filter], request: &Request) -> Self {
        let enforced = || filters.iter().filter_map(|filter| filter.enforced.as_ref());
        let logged = enforced().any(|rules| rules.only_log() && rules.is_met(request));
        let tried = together(filters.iter().filter_map(|filter| filter.tried.as_ref()), request);
        Self { allowed: together(enforced(), request).unwrap_or(true), tried, logged }
    }
}

/// `None` if there are no rules.
fn together<'r>(rules: impl Iterator<Item = &'r Rules>, request: &Request) -> Option<bool> {
    let mut all = rules.filter(|rules| !rules.only_log()).peekable();
    all.peek()?;
    Some(all.all(|rules| rules.is_met(request) == (rules.action == "ALLOW")))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn written(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("not a text: {value}"))
}

/// Name and content of a matcher.
fn only(value: &Value) -> (&str, &Value) {
    let object = value.as_object().unwrap_or_else(|| panic!("not a matcher: {value}"));
    let found = object.iter().find(|(key, _)| *key != "name" || object.len() == 1);
    found.map_or_else(|| panic!("not a matcher: {value}"), |(key, inner)| (key.as_str(), inner))
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
            let found = match written(&inner["name"]) {
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
    list(value.get("rules").or_else(|| value.get("ids")).expect("parts of a matcher"))
}

/// The claim of a token that metadata is about; `None` for what a filter of Envoy's says.
fn claim(metadata: &Value) -> Option<&str> {
    let path = list(&metadata["path"]);
    (metadata["filter"] == "envoy.filters.http.jwt_authn").then(|| written(&path[1]["key"]))
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

/// The way in which texts are compared, and with what.
fn comparison(matcher: &Value) -> (&str, &Value) {
    let found = matcher.as_object().and_then(|object| object.iter().find(|(key, _)| *key != "ignoreCase"));
    found.map_or_else(|| panic!("not a matcher of texts: {matcher}"), |(key, wanted)| (key.as_str(), wanted))
}

fn text_meets(matcher: &Value, found: &str) -> bool {
    let fold = matcher["ignoreCase"] == true;
    let case = |text: &str| if fold { text.to_ascii_lowercase() } else { text.to_owned() };
    let (key, wanted) = comparison(matcher);
    let (found, own) = (case(found), case(wanted.as_str().unwrap_or_default()));
    match key {
        "exact" => found == own,
        "prefix" => found.starts_with(&own),
        "suffix" => found.ends_with(&own),
        "safeRegex" => pattern(&format!("^(?:{})$", written(&wanted["regex"]))).is_match(&found),
        other => panic!("a new matcher of texts: {other}"),
    }
}

fn template(matcher: &Value) -> Regex {
    let text = regex::escape(written(&matcher["typedConfig"]["pathTemplate"]));
    pattern(&format!("^{}$", text.replace(r"\*\*", ".*").replace(r"\*", "[^/]+")))
}

/// The first address of a range.
fn first(range: &Value) -> IpAddr {
    written(&range["addressPrefix"]).parse().expect("an address")
}

fn within(range: &Value, address: IpAddr) -> bool {
    let bits = |address: IpAddr| match address {
        IpAddr::V4(address) => u32::from(address),
        IpAddr::V6(_) => panic!("only of version 4"),
    };
    let length = range["prefixLen"].as_u64().and_then(|length| u32::try_from(length).ok()).expect("a length");
    let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
    bits(first(range)) & mask == bits(address) & mask
}
