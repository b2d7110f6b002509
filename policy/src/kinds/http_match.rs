//! `HTTPMatchRequest`: the conditions of a route.

use std::{collections::BTreeMap, sync::Arc};

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
