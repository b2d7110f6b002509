//! `RateLimit`: how many requests a workload takes. Istio has no kind for it.

use std::{fmt, time::Duration};

use http::{HeaderName, HeaderValue};

use super::{HttpMatch, http_route::Scope, target::Target, target::refuse_dry_run};
use crate::{
    codes,
    decode::{At, Fields},
    parse::Metadata,
};

/// `RateLimit`: enforced where requests arrive, before the application.
#[derive(Debug, Clone, PartialEq)]
pub struct RateLimit {
    /// Which workloads.
    pub target: Target,
    /// Each on its own: a request passes if every rule that it matches has room. What is refused gets 429 with `Retry-After`.
    pub rules: Vec<LimitRule>,
}

/// One limit.
#[derive(Debug, Clone, PartialEq)]
pub struct LimitRule {
    /// Line in the pushed file, from 1; 0 if unknown.
    pub line: usize,
    /// Any of them; none is every request.
    pub matches: Vec<HttpMatch>,
    /// Requests that agree in all of these share one bucket; none is one bucket for all.
    pub per: Vec<LimitKey>,
    /// Requests in an interval.
    pub requests: u32,
    /// At least 100 ms: shares of nodes settle in such windows.
    pub interval: Duration,
    /// Requests that may come at once. Default: `requests`.
    pub burst: u32,
    /// Whether all nodes together or each node keeps the limit. Mesh.
    pub scope: LimitScope,
    /// How nodes divide a limit of the mesh. Split.
    pub mode: LimitMode,
    /// Set on the refusal.
    pub response_headers: Vec<(HeaderName, HeaderValue)>,
}

/// What tells callers apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LimitKey {
    /// `source.principal`: the identity of the peer's certificate.
    Principal,
    /// `source.namespace` of that identity.
    Namespace,
    /// `source.serviceAccount` of that identity.
    ServiceAccount,
    /// `source.ip`: the peer's address.
    SourceIp,
    /// `remote.ip`: the original client's address, where a trusted peer tells it.
    RemoteIp,
    /// `request.path`, without query, in normal form.
    Path,
    /// `request.method`.
    Method,
    /// `request.host`, in normal form.
    Host,
    /// `request.headers[NAME]`; requests without it share a bucket.
    Header(HeaderName),
}

/// Who keeps a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitScope {
    /// Each node for itself: two nodes let twice as much through.
    Node,
    /// All nodes of the workload together.
    Mesh,
}

/// How nodes divide a limit of the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitMode {
    /// By demand; within the limit while news travels within 100 ms.
    Split,
    /// A share is lowered before another is raised: within the limit always, with less use of it.
    Hard,
}

/// Rules of a document at most.
const MAX_RULES: usize = 64;
/// Keys of a rule at most.
const MAX_KEYS: usize = 4;
/// Requests in an interval, and of a burst, at most.
const MAX_REQUESTS: i64 = 1_000_000_000;
/// Shares of nodes settle in windows of about this length.
const SHORTEST: Duration = Duration::from_millis(100);
/// Longer than a day is a quota, which must survive a restart; a limit does not.
const LONGEST: Duration = Duration::from_secs(24 * 3_600);
/// Headers that a refusal sets at most.
const MAX_HEADERS: usize = 16;

const KEYS: [(&str, LimitKey); 8] = [
    ("source.principal", LimitKey::Principal),
    ("source.namespace", LimitKey::Namespace),
    ("source.serviceAccount", LimitKey::ServiceAccount),
    ("source.ip", LimitKey::SourceIp),
    ("remote.ip", LimitKey::RemoteIp),
    ("request.path", LimitKey::Path),
    ("request.method", LimitKey::Method),
    ("request.host", LimitKey::Host),
];

impl RateLimit {
    pub(crate) fn decode(spec: &At<'_>, metadata: &Metadata) -> Option<Self> {
        let fields = spec.fields()?;
        let target = Target::decode_selector(&fields);
        let list = fields.get("rules");
        let items = list.as_ref().map(At::items).unwrap_or_default();
        if items.is_empty() {
            spec.error_hint(codes::MISSING, "a RateLimit has at least one rule", "add `rules`");
        }
        if items.len() > MAX_RULES {
            spec.error(codes::RANGE, format!("a RateLimit has at most {MAX_RULES} rules"));
        }
        let rules = items.iter().take(MAX_RULES).filter_map(LimitRule::decode).collect();
        fields.finish();
        refuse_dry_run(spec, metadata);
        Some(Self { target, rules })
    }
}

impl LimitRule {
    fn decode(at: &At<'_>) -> Option<Self> {
        let fields = at.fields()?;
        let list = fields.get("match");
        let items = list.as_ref().map(At::items).unwrap_or_default();
        let matches = items.iter().filter_map(decode_match).collect();
        let per = decode_keys(&fields);
        let limit = fields.required("limit").and_then(|limit| decode_limit(&limit));
        let scopes = [("node", LimitScope::Node), ("mesh", LimitScope::Mesh)];
        let scope = fields.get("scope").map_or(Some(LimitScope::Mesh), |scope| scope.word(&scopes));
        let modes = [("split", LimitMode::Split), ("hard", LimitMode::Hard)];
        let mode = fields.get("mode").map(|mode| (mode.word(&modes), mode));
        if let (Some(LimitScope::Node), Some((Some(_), mode))) = (scope, &mode) {
            mode.error_hint(codes::EXCLUSIVE, "`mode` says how nodes divide a limit of the mesh", "leave it out");
        }
        let response_headers = fields.get("responseHeaders").map(|map| decode_headers(&map)).unwrap_or_default();
        fields.finish();
        let mode = mode.map_or(Some(LimitMode::Split), |(mode, _)| mode)?;
        let (requests, interval, burst) = limit?;
        Some(Self { line: at.line(), matches, per, requests, interval, burst, scope: scope?, mode, response_headers })
    }
}

/// `HTTPMatchRequest`, but for what only makes sense at the caller.
fn decode_match(at: &At<'_>) -> Option<HttpMatch> {
    let fields = at.fields()?;
    if let Some(gateways) = fields.get("gateways") {
        let hint = "a RateLimit acts where requests arrive; select the gateway's workload instead";
        gateways.error_hint(codes::NOT_IN_ISTIO, "`gateways` may not stand in a RateLimit", hint);
    }
    // A match that names no gateway has no name to expand.
    HttpMatch::decode(at, &Scope { namespace: "", delegate: false, only_gateways: false })
}

fn decode_keys(fields: &Fields<'_>) -> Vec<LimitKey> {
    let Some(list) = fields.get("per") else { return Vec::new() };
    let items = list.text_list();
    if items.len() > MAX_KEYS {
        list.error(codes::RANGE, format!("`per` has at most {MAX_KEYS} items"));
    }
    let mut keys = Vec::new();
    for (text, at) in &items {
        let Some(key) = read_key(text) else {
            let known: Vec<&str> = KEYS.iter().map(|(word, _)| *word).chain(["request.headers[NAME]"]).collect();
            at.error_hint(
                codes::ATTRIBUTE,
                format!("`{text}` tells no callers apart"),
                format!("one of {}", known.join(", ")),
            );
            continue;
        };
        if keys.contains(&key) {
            at.error(codes::DUPLICATE, format!("`{text}` stands twice"));
        }
        keys.push(key);
    }
    keys
}

fn read_key(text: &str) -> Option<LimitKey> {
    if let Some((_, key)) = KEYS.iter().find(|(word, _)| *word == text) {
        return Some(key.clone());
    }
    let name = text.strip_prefix("request.headers[")?.strip_suffix(']')?;
    HeaderName::from_bytes(name.to_ascii_lowercase().as_bytes()).ok().map(LimitKey::Header)
}

impl fmt::Display for LimitKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match KEYS.iter().find(|(_, key)| key == self) {
            Some((word, _)) => f.write_str(word),
            None => match self {
                Self::Header(name) => write!(f, "request.headers[{name}]"),
                Self::Principal
                | Self::Namespace
                | Self::ServiceAccount
                | Self::SourceIp
                | Self::RemoteIp
                | Self::Path
                | Self::Method
                | Self::Host => Ok(()),
            },
        }
    }
}

/// `requests`, `interval`, `burst`.
fn decode_limit(at: &At<'_>) -> Option<(u32, Duration, u32)> {
    let fields = at.fields()?;
    let number = |at: &At<'_>| at.integer(1..=MAX_REQUESTS).and_then(|number| u32::try_from(number).ok());
    let requests = fields.required("requests").and_then(|requests| number(&requests));
    let interval = fields.required("interval").and_then(|interval| {
        let duration = interval.duration()?;
        let possible = (SHORTEST..=LONGEST).contains(&duration);
        if !possible {
            interval.error(codes::RANGE, "the interval of a limit is within 100ms to 24h");
        }
        possible.then_some(duration)
    });
    let burst = fields.get("burst").map(|burst| number(&burst));
    fields.finish();
    let requests = requests?;
    Some((requests, interval?, burst.unwrap_or(Some(requests))?))
}

/// Headers that carry the answer's framing or the refusal's own word are not to be set.
const OWN_HEADERS: [&str; 5] = ["connection", "content-length", "retry-after", "transfer-encoding", "upgrade"];

fn decode_headers(at: &At<'_>) -> Vec<(HeaderName, HeaderValue)> {
    let mut headers = Vec::new();
    let entries = at.entries();
    if entries.len() > MAX_HEADERS {
        at.error(codes::RANGE, format!("responseHeaders has at most {MAX_HEADERS} entries"));
    }
    for (name, value) in entries {
        let Some(text) = value.text() else { continue };
        let read =
            HeaderName::from_bytes(name.to_ascii_lowercase().as_bytes()).ok().zip(HeaderValue::from_str(text).ok());
        match read {
            Some((name, _)) if OWN_HEADERS.contains(&name.as_str()) => {
                value.error(codes::HEADER, format!("`{name}` is not to be set"));
            }
            Some(header) => headers.push(header),
            None => {
                value.error(codes::HEADER, format!("`{name}` is not a header name, or its value is none of a header"))
            }
        }
    }
    headers
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{Severity, Spec, parse};

    fn read(spec: &str) -> parse::Parsed {
        let head = "apiVersion: skein.dev/v1\nkind: RateLimit\nmetadata: {name: r}\n";
        parse::yaml("f", &format!("{head}spec: {spec}\n"), "default")
    }

    fn limit(spec: &str) -> Arc<RateLimit> {
        let parsed = read(spec);
        let document = parsed.documents.first().unwrap_or_else(|| panic!("{spec}: {:#?}", parsed.problems));
        let Spec::RateLimit(limit) = &document.document.spec else { panic!() };
        limit.clone()
    }

    #[test]
    fn every_field_is_read() {
        let read = limit(
            "{selector: {matchLabels: {app: reviews}}, rules: [{match: [{uri: {prefix: /}}], \
             per: [source.principal, 'request.headers[X-User]'], limit: {requests: 100, interval: 1s, burst: 20}, \
             scope: node, responseHeaders: {x-limited-by: r}}]}",
        );
        let rule = &read.rules[0];
        assert_eq!((rule.requests, rule.interval, rule.burst), (100, Duration::from_secs(1), 20));
        assert_eq!(
            rule.per.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["source.principal", "request.headers[x-user]"]
        );
        assert_eq!((rule.scope, rule.matches.len(), rule.response_headers.len()), (LimitScope::Node, 1, 1));
        let plain = &limit("{rules: [{limit: {requests: 5, interval: 1m}, mode: hard}]}").rules[0];
        assert_eq!((plain.burst, plain.scope, plain.mode), (5, LimitScope::Mesh, LimitMode::Hard));
        assert!(plain.per.is_empty() && plain.matches.is_empty());
    }

    #[test]
    fn what_is_not_valid_says_so() {
        let rule = |text: &str| format!("{{rules: [{{limit: {{requests: 5, interval: 1s}}, {text}}}]}}");
        for (code, spec) in [
            (codes::MISSING, "{}".to_owned()),
            (codes::MISSING, "{rules: [{}]}".to_owned()),
            (codes::RANGE, "{rules: [{limit: {requests: 0, interval: 1s}}]}".to_owned()),
            (codes::RANGE, "{rules: [{limit: {requests: 1, interval: 10ms}}]}".to_owned()),
            (codes::MISSING, "{rules: [{limit: {requests: 1}}]}".to_owned()),
            (codes::RANGE, "{rules: [{limit: {requests: 1, interval: 1s, burst: 0}}]}".to_owned()),
            (codes::WORD, rule("scope: cluster")),
            (codes::WORD, rule("mode: soft")),
            (codes::EXCLUSIVE, rule("scope: node, mode: hard")),
            (codes::ATTRIBUTE, rule("per: [source.name]")),
            (codes::ATTRIBUTE, rule("per: ['request.headers[a b]']")),
            (codes::DUPLICATE, rule("per: [request.path, request.path]")),
            (codes::NOT_IN_ISTIO, rule("match: [{gateways: [mesh]}]")),
            (codes::HEADER, rule("responseHeaders: {content-length: '0'}")),
            (codes::HEADER, rule("responseHeaders: {'a b': c}")),
            (codes::UNKNOWN_FIELD, rule("limits: {}")),
        ] {
            let parsed = read(&spec);
            let error = |problem: &&crate::Problem| problem.severity == Severity::Error;
            let found: Vec<&str> = parsed.problems.iter().filter(error).map(|problem| problem.code).collect();
            assert_eq!(found, [code], "{spec}: {:#?}", parsed.problems);
        }
    }
}
