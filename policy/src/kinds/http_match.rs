//! `HTTPMatchRequest`: the conditions of a route.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    codes,
    decode::{At, Fields},
    hosts,
    tree::Value,
};

/// Characters of a regular expression at most, as in Istio.
const MAX_REGEX: usize = 1_024;
/// Bytes of a compiled regular expression at most.
const MAX_COMPILED: usize = 1 << 20;

/// A regular expression that must match the whole value. Compiled once, size-capped.
#[derive(Debug, Clone)]
pub struct Pattern {
    source: Arc<str>,
    regex: regex::bytes::Regex,
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

/// `StringMatch`.
#[derive(Debug, Clone, PartialEq)]
pub enum StringMatch {
    /// The whole value.
    Exact(String),
    /// A plain string prefix.
    Prefix(String),
    /// The whole value matches.
    Regex(Pattern),
    /// No value is set, or the magic `regex: "*"`: the value is present.
    Present,
}

/// `HTTPMatchRequest`: all conditions hold.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HttpMatch {
    /// Only for logs.
    pub name: String,
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
    /// The addressed service port.
    pub port: Option<u16>,
    /// Labels of the calling workload.
    pub source_labels: BTreeMap<String, String>,
    /// Namespace of the calling workload.
    pub source_namespace: Option<String>,
    /// Present (then `mesh`): labels and namespace of the source are not looked at, as in Istio.
    pub gateways: Option<Vec<String>>,
}

impl Pattern {
    /// Compiles a pattern that must match the whole value; `fold` ignores case.
    fn whole(source: &str, fold: bool) -> Result<Self, String> {
        Self::compile(source, &format!("^(?s:{source})$"), fold)
    }

    /// Compiles a pattern that may match anywhere.
    fn anywhere(source: &str) -> Result<Self, String> {
        Self::compile(source, source, false)
    }

    fn compile(source: &str, text: &str, fold: bool) -> Result<Self, String> {
        if source.is_empty() {
            return Err("a regular expression must not be empty".into());
        }
        if source.len() > MAX_REGEX {
            return Err(format!("a regular expression has at most {MAX_REGEX} characters"));
        }
        // Alone first, so that nothing escapes the group around it.
        build(source, fold)?;
        Ok(Self { source: source.into(), regex: build(text, fold)? })
    }

    /// True if the pattern matches.
    pub fn is_match(&self, value: &[u8]) -> bool {
        self.regex.is_match(value)
    }

    /// Every match replaced.
    pub fn replace_all(&self, value: &str, with: &str) -> String {
        let replaced = self.regex.replace_all(value.as_bytes(), with.as_bytes());
        String::from_utf8_lossy(&replaced).into_owned()
    }

    /// As it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    pub(super) fn groups(&self) -> usize {
        self.regex.captures_len()
    }

    /// A pattern of a rewrite; complains at `at`.
    pub(super) fn decode_anywhere(at: &At<'_>) -> Option<Self> {
        Self::anywhere(at.text()?).map_err(|error| at.error(codes::REGEX, error)).ok()
    }
}

fn build(text: &str, fold: bool) -> Result<regex::bytes::Regex, String> {
    regex::bytes::RegexBuilder::new(text)
        .case_insensitive(fold)
        .size_limit(MAX_COMPILED)
        .dfa_size_limit(MAX_COMPILED)
        .build()
        .map_err(|error| plain(&error))
}

/// The last line of the error: the others draw the pattern.
fn plain(error: &regex::Error) -> String {
    let text = error.to_string();
    let last = text.lines().last().unwrap_or_default();
    format!("not a regular expression: {}", last.strip_prefix("error: ").unwrap_or(last))
}

/// What a `StringMatch` may be in a place.
#[derive(Clone, Copy, PartialEq, Eq)]
enum In {
    /// The path: an empty prefix is allowed.
    Uri,
    /// Method, scheme, authority.
    Value,
    /// Header or query parameter: `regex: "*"` means present.
    Entry,
}

impl StringMatch {
    fn decode(at: &At<'_>, place: In, fold: bool) -> Option<Self> {
        let fields = at.fields()?;
        let given = ["exact", "prefix", "regex"].iter().filter(|name| fields.has(name)).count();
        let (exact, prefix, regex) = (fields.get("exact"), fields.get("prefix"), fields.get("regex"));
        fields.finish();
        if given > 1 {
            at.error(codes::EXCLUSIVE, "only one of exact, prefix and regex may be set");
            return None;
        }
        if let Some(exact) = exact {
            return Some(Self::Exact(exact.text()?.to_owned()));
        }
        if let Some(prefix) = prefix {
            let text = if place == In::Uri { prefix.text()? } else { prefix.filled_text()? };
            return Some(Self::Prefix(text.to_owned()));
        }
        let Some(regex) = regex else { return Some(Self::Present) };
        let source = regex.text()?;
        if source == "*" && place == In::Entry {
            return Some(Self::Present);
        }
        match Pattern::whole(source, fold) {
            Ok(pattern) => Some(Self::Regex(pattern)),
            Err(error) => {
                regex.error(codes::REGEX, error);
                None
            }
        }
    }

    /// True if a value that is there matches.
    pub fn is_match(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => value == exact.as_bytes(),
            Self::Prefix(prefix) => value.starts_with(prefix.as_bytes()),
            Self::Regex(pattern) => pattern.is_match(value),
            Self::Present => true,
        }
    }
}

impl HttpMatch {
    pub(super) fn decode(at: &At<'_>) -> Option<Self> {
        let fields = at.fields()?;
        let fold = fields.get("ignoreUriCase").and_then(|fold| fold.boolean()).unwrap_or(false);
        let matches =
            |name, place| fields.get(name).and_then(|at| StringMatch::decode(&at, place, fold && place == In::Uri));
        let decoded = Self {
            name: fields.get("name").and_then(|name| name.text().map(str::to_owned)).unwrap_or_default(),
            uri: matches("uri", In::Uri),
            ignore_uri_case: fold,
            scheme: matches("scheme", In::Value),
            method: matches("method", In::Value),
            authority: matches("authority", In::Value),
            headers: entries(&fields, "headers", Null::Refused),
            without_headers: entries(&fields, "withoutHeaders", Null::Present),
            query_params: entries(&fields, "queryParams", Null::Present),
            port: fields
                .get("port")
                .and_then(|port| port.integer(0..=65_535))
                .and_then(|port| u16::try_from(port).ok())
                .filter(|port| *port != 0),
            source_labels: fields.get("sourceLabels").map(|labels| labels.labels()).unwrap_or_default(),
            source_namespace: source_namespace(&fields),
            gateways: fields.get("gateways").map(|gateways| {
                super::virtual_service::only_mesh(&gateways);
                gateways.text_list().iter().map(|(name, _)| (*name).to_owned()).collect()
            }),
        };
        fields.ignored(&["statPrefix"]);
        fields.finish();
        Some(decoded)
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

fn source_namespace(fields: &Fields<'_>) -> Option<String> {
    let at = fields.get("sourceNamespace")?;
    let namespace = at.text()?;
    if namespace.is_empty() {
        return None;
    }
    if !hosts::is_dns_label(namespace) {
        at.error(codes::NAME, format!("`{namespace}` is not a namespace"));
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

/// Headers or query parameters; header names in lower case, sorted by name.
fn entries(fields: &Fields<'_>, field: &'static str, null: Null) -> Vec<(String, StringMatch)> {
    let Some(map) = fields.get(field) else { return Vec::new() };
    let mut entries = Vec::new();
    for (name, at) in map.entries() {
        let is_header = field != "queryParams";
        if is_header && !header_name(name, &at) {
            continue;
        }
        if at.node.value == Value::Null && null == Null::Refused {
            at.error(codes::WRONG_TYPE, format!("header match {name} cannot be null"));
            continue;
        }
        let decoded = if null == Null::Present && at.is_null() {
            Some(StringMatch::Present)
        } else {
            StringMatch::decode(&at, In::Entry, false)
        };
        let name = if is_header { name.to_ascii_lowercase() } else { name.to_owned() };
        entries.extend(decoded.map(|decoded| (name, decoded)));
    }
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    entries
}

fn header_name(name: &str, at: &At<'_>) -> bool {
    if name.starts_with("@request.auth.claims") {
        at.unbuilt("routing by claims");
        return false;
    }
    let pseudo = matches!(name, ":method" | ":path" | ":authority" | ":scheme");
    let valid = pseudo || http::HeaderName::from_bytes(name.to_ascii_lowercase().as_bytes()).is_ok();
    if !valid {
        at.error(codes::HEADER, format!("`{name}` is not a header name"));
    }
    valid
}
