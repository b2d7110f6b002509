//! `HTTPMatchRequest`: the conditions of a route.

mod cover;

use std::{collections::BTreeMap, sync::Arc};

use super::{GatewayName, StringMatch, http_route::Scope, string_match::In};
use crate::{
    codes,
    decode::{At, Fields},
    hosts, normalize,
    tree::Value,
};

/// `HTTPMatchRequest`: all conditions hold.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HttpMatch {
    /// Only for logs.
    pub name: Option<Arc<str>>,
    /// On the path without the query string.
    pub uri: Option<StringMatch>,
    /// `uri` exact and prefix ignore case.
    pub ignore_uri_case: bool,
    /// `:scheme`.
    pub scheme: Option<StringMatch>,
    /// `:method`.
    pub method: Option<StringMatch>,
    /// `:authority` as sent, with its port.
    pub authority: Option<StringMatch>,
    /// Header (lower case, or a pseudo header) and what its joined value must be.
    pub headers: Vec<(String, StringMatch)>,
    /// Header and what its joined value must not be; a missing header counts as empty, except for `Present`.
    pub without_headers: Vec<(String, StringMatch)>,
    /// Query parameter and what its first decoded value must be.
    pub query_params: Vec<(String, StringMatch)>,
    /// `@request.auth.claims` among the headers: the way to a claim of the verified token, and what it or one of its items must be.
    pub claims: Vec<(Vec<String>, StringMatch)>,
    /// The same among `withoutHeaders`.
    pub without_claims: Vec<(Vec<String>, StringMatch)>,
    /// The addressed service port.
    pub port: Option<u16>,
    /// Labels of the calling workload.
    pub source_labels: BTreeMap<String, String>,
    /// Namespace of the calling workload.
    pub source_namespace: Option<String>,
    /// Instead of the VirtualService's own. Present: labels and namespace of the source are not looked at, as in Istio.
    pub gateways: Option<Vec<GatewayName>>,
}

impl HttpMatch {
    pub(super) fn decode(at: &At<'_>, scope: &Scope<'_>) -> Option<Self> {
        let fields = at.fields()?;
        let fold = fields.get("ignoreUriCase").and_then(|fold| fold.boolean()).unwrap_or(false);
        let matches =
            |name, place| fields.get(name).and_then(|at| StringMatch::decode(&at, place, fold && place == In::Uri));
        let (mut headers, mut without_headers) = (Entries::new(scope), Entries::new(scope));
        headers.read(&fields, "headers", Null::Refused);
        without_headers.read(&fields, "withoutHeaders", Null::Present);
        let mut query_params = Entries::new(scope);
        query_params.read(&fields, "queryParams", Null::Present);
        let decoded = Self {
            name: fields
                .get("name")
                .and_then(|name| name.text().map(Arc::from))
                .filter(|name: &Arc<str>| !name.is_empty()),
            uri: matches("uri", In::Uri),
            ignore_uri_case: fold,
            scheme: matches("scheme", In::Value),
            method: matches("method", In::Value),
            authority: matches("authority", In::Value),
            headers: headers.named,
            without_headers: without_headers.named,
            query_params: query_params.named,
            claims: headers.claims,
            without_claims: without_headers.claims,
            port: match_port(&fields),
            source_labels: fields.get("sourceLabels").map(|labels| labels.labels()).unwrap_or_default(),
            source_namespace: source_namespace(&fields),
            gateways: match_gateways(&fields, scope.namespace),
        };
        decoded.warn_of_vain(&fields);
        fields.ignored(&["statPrefix"]);
        fields.finish();
        Some(decoded)
    }

    /// Conditions that no request meets, unless MeshConfig says otherwise of paths.
    fn warn_of_vain(&self, fields: &Fields<'_>) {
        if let (Some(at), Some(StringMatch::Exact(path) | StringMatch::Prefix(path))) = (fields.get("uri"), &self.uri) {
            let whole = matches!(self.uri, Some(StringMatch::Exact(_)));
            // The last segment of a prefix may go on.
            let segments = if whole { path } else { path.rsplit_once('/').map_or("", |(before, _)| before) };
            let not_normal = segments.split('/').any(|segment| matches!(segment, "." | ".."))
                || normalize::unreserved_undone(path) != *path;
            let (message, hint) = if path.contains('?') {
                ("the query is no part of the path: nothing matches", "match queryParams")
            } else if path.contains('#') {
                ("no request has `#` in its path: nothing matches", "leave it out")
            } else if !path.starts_with('/') && !path.is_empty() && path != "*" {
                ("each path begins with `/`: nothing matches", "write it with the `/`")
            } else if not_normal {
                (
                    "paths are matched in normal form: nothing matches unless MeshConfig says so",
                    "write it without `.` and `..`, and letters, digits, `-`, `.`, `_` and `~` without escapes",
                )
            } else {
                ("", "")
            };
            if !message.is_empty() {
                at.warn(codes::WITHOUT_EFFECT, message, hint);
            }
        }
        if let (Some(at), Some(StringMatch::Exact(method))) = (fields.get("method"), &self.method)
            && method.bytes().any(|byte| byte.is_ascii_lowercase())
        {
            let hint = format!("write {}", method.to_ascii_uppercase());
            at.warn(codes::WITHOUT_EFFECT, format!("no request has the method `{method}`"), hint);
        }
    }

    /// True if the condition holds for every request, as Istio sees it: it ends the list.
    pub fn is_catch_all(&self) -> bool {
        let anywhere = match &self.uri {
            Some(StringMatch::Prefix(prefix)) => prefix == "/" || prefix.is_empty(),
            Some(StringMatch::Regex(pattern)) => pattern.source() == ".*",
            Some(StringMatch::Present) | None => true,
            Some(StringMatch::Exact(_)) => false,
        };
        anywhere
            && *self
                == Self {
                    uri: self.uri.clone(),
                    name: self.name.clone(),
                    ignore_uri_case: self.ignore_uri_case,
                    ..Self::default()
                }
    }
}

/// `port` of a condition: 0 is any.
pub(super) fn match_port(fields: &Fields<'_>) -> Option<u16> {
    let port = fields.get("port").and_then(|port| port.integer(0..=65_535));
    port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0)
}

/// `gateways` of a condition; an empty list counts as absent.
pub(super) fn match_gateways(fields: &Fields<'_>, namespace: &str) -> Option<Vec<GatewayName>> {
    let names = fields.get("gateways").map(|at| GatewayName::decode_list(&at, namespace));
    names.filter(|names| !names.is_empty())
}

/// `sourceNamespace` of a condition.
pub(super) fn source_namespace(fields: &Fields<'_>) -> Option<String> {
    let at = fields.get("sourceNamespace")?;
    let namespace = at.text()?;
    if namespace.is_empty() {
        return None;
    }
    if !hosts::is_dns_label(namespace) {
        at.error_as_istio(codes::NAME, format!("sourceNamespace match {namespace} is invalid"), "write a DNS label");
        return None;
    }
    Some(namespace.to_owned())
}

/// What null means as an entry's value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Null {
    Refused,
    Present,
}

/// Headers or query parameters, sorted by name; header names in lower case.
struct Entries<'s> {
    scope: &'s Scope<'s>,
    named: Vec<(String, StringMatch)>,
    claims: Vec<(Vec<String>, StringMatch)>,
}

impl<'s> Entries<'s> {
    fn new(scope: &'s Scope<'s>) -> Self {
        Self { scope, named: Vec::new(), claims: Vec::new() }
    }

    fn read(&mut self, fields: &Fields<'_>, field: &'static str, null: Null) {
        let Some(map) = fields.get(field) else { return };
        for (name, at) in map.entries() {
            let is_header = field != "queryParams";
            let claim = claim_path(name).filter(|_| is_header);
            if is_header && claim.is_none() && !header_name(name, &at) {
                continue;
            }
            if at.node.value == Value::Null && null == Null::Refused {
                at.error_as_istio(codes::WRONG_TYPE, format!("header match {name} cannot be null"), "write {} instead");
                continue;
            }
            let decoded = if null == Null::Present && at.is_null() {
                Some(StringMatch::Present)
            } else {
                StringMatch::decode(&at, In::Entry, false)
            };
            let Some(decoded) = decoded else { continue };
            match claim {
                Some(claim) => {
                    self.check_claim(name, &at);
                    self.claims.push((claim, decoded));
                }
                None if is_header => self.named.push((name.to_ascii_lowercase(), decoded)),
                None => self.named.push((name.to_owned(), decoded)),
            }
        }
        self.named.sort_by(|a, b| a.0.cmp(&b.0));
    }

    /// Tokens are verified where a request enters: a caller's own proxy knows none.
    fn check_claim(&self, name: &str, at: &At<'_>) {
        if !self.scope.only_gateways {
            let message = format!("JWT claim based routing (key: {name}) is only supported for gateway");
            at.error_as_istio(codes::CLAIM_ROUTE, message, "name gateways without `mesh`, or match a header");
        }
    }
}

/// `@request.auth.claims.a.b` or `@request.auth.claims[a][b]` as the way to the claim.
fn claim_path(name: &str) -> Option<Vec<String>> {
    const CLAIMS: &str = "@request.auth.claims";
    let rest = name.get(CLAIMS.len()..).filter(|_| name[..CLAIMS.len()].eq_ignore_ascii_case(CLAIMS))?;
    let path: Vec<String> = match rest.strip_prefix('.') {
        Some(dotted) => dotted.split('.').map(str::to_owned).collect(),
        None => rest.strip_prefix('[')?.strip_suffix(']')?.split("][").map(str::to_owned).collect(),
    };
    path.iter().all(|part| !part.is_empty()).then_some(path)
}

fn header_name(name: &str, at: &At<'_>) -> bool {
    let pseudo = matches!(name, ":method" | ":path" | ":authority" | ":scheme");
    let valid = pseudo || http::HeaderName::from_bytes(name.to_ascii_lowercase().as_bytes()).is_ok();
    if !valid {
        at.error_as_istio(codes::HEADER, format!("header name {name} is not a valid header name"), "");
    }
    valid
}

#[cfg(test)]
mod tests {
    use super::claim_path;

    #[test]
    fn claims_have_a_way() {
        let path = |name| claim_path(name).map(|path| path.join("/"));
        assert_eq!(path("@request.auth.claims.a.b").as_deref(), Some("a/b"));
        assert_eq!(path("@request.auth.claims[a.x][b]").as_deref(), Some("a.x/b"));
        assert_eq!(path("@Request.Auth.Claims.a").as_deref(), Some("a"));
        for none in [
            "@request.auth.claims",
            "@request.auth.claims.",
            "@request.auth.claims[a",
            "@request.auth.claims[]",
            "é@request.auth.claimsx",
            "x",
        ] {
            assert_eq!(path(none), None, "{none}");
        }
    }
}
