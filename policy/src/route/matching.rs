//! The conditions of a rule on one request.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use http::HeaderMap;
use percent_encoding::percent_decode_str;

use super::{Request, Source, UriMatched};
use crate::kinds::{HttpMatch, StringMatch};

/// True if the static conditions hold: where they do not, the condition does not exist for this caller.
pub(super) fn applies(condition: &HttpMatch, port: u16, source: &Source) -> bool {
    if condition.port.is_some_and(|own| own != port) {
        return false;
    }
    // Naming gateways (others than the mesh were left out when compiling) voids the conditions on the source, as in Istio.
    if condition.gateways.is_some() {
        return true;
    }
    let labels = condition.source_labels.iter().all(|(key, value)| source.labels.get(key) == Some(value));
    labels && condition.source_namespace.as_ref().is_none_or(|namespace| *namespace == source.namespace)
}

/// As [`applies`] for a caller who is known by its namespace, and may have any of these sets of labels; none: whatever labels.
pub(super) fn may_apply(
    condition: &HttpMatch,
    port: u16,
    namespace: &str,
    labels: &[Arc<BTreeMap<String, String>>],
) -> bool {
    let wanted = &condition.source_labels;
    let has = |own: &Arc<BTreeMap<String, String>>| wanted.iter().all(|(key, value)| own.get(key) == Some(value));
    condition.port.is_none_or(|own| own == port)
        && condition.source_namespace.as_ref().is_none_or(|own| own == namespace)
        && (labels.is_empty() || labels.iter().any(has))
}

/// How the path was matched, if every condition on the request holds.
pub(super) fn holds(condition: &HttpMatch, request: &Request<'_>) -> Option<UriMatched> {
    let matched = match &condition.uri {
        None => UriMatched::Nothing,
        Some(uri) => uri_matched(uri, request.uri.path(), condition.ignore_uri_case)?,
    };
    let value = |wanted: &Option<StringMatch>, value: &str| {
        wanted.as_ref().is_none_or(|wanted| wanted.is_match(value.as_bytes()))
    };
    let claim = |path: &[String], wanted: &StringMatch| {
        request.token.is_some_and(|token| token.any_of(path, |text| wanted.is_match(text.as_bytes())))
    };
    let all = condition.claims.iter().all(|(path, wanted)| claim(path, wanted))
        && !condition.without_claims.iter().any(|(path, unwanted)| claim(path, unwanted))
        && value(&condition.method, request.method.as_str())
        && value(&condition.scheme, request.scheme)
        && value(&condition.authority, request.authority)
        && condition
            .headers
            .iter()
            .all(|(name, wanted)| header(request, name).is_some_and(|found| wanted.is_match(&found)))
        && condition.without_headers.iter().all(|(name, unwanted)| is_without(request, name, unwanted))
        && condition
            .query_params
            .iter()
            .all(|(name, wanted)| query(request, name).is_some_and(|found| wanted.is_match(&found)));
    all.then_some(matched)
}

fn uri_matched(uri: &StringMatch, path: &str, fold: bool) -> Option<UriMatched> {
    match uri {
        StringMatch::Exact(exact) => {
            let same = if fold { path.eq_ignore_ascii_case(exact) } else { path == exact };
            same.then_some(UriMatched::Whole)
        }
        StringMatch::Prefix(prefix) => {
            let head = path.as_bytes().get(..prefix.len())?;
            let same = if fold { head.eq_ignore_ascii_case(prefix.as_bytes()) } else { head == prefix.as_bytes() };
            // A prefix may end inside a character only if it folds, and then the path is not cut there.
            (same && path.is_char_boundary(prefix.len())).then_some(UriMatched::Prefix(prefix.len()))
        }
        StringMatch::Regex(pattern) => pattern.is_match(path.as_bytes()).then_some(UriMatched::Whole),
        StringMatch::Present => Some(UriMatched::Nothing),
    }
}

/// A missing header counts as empty, except for the form that asks for absence.
fn is_without(request: &Request<'_>, name: &str, unwanted: &StringMatch) -> bool {
    let found = header(request, name);
    match unwanted {
        StringMatch::Present => found.is_none(),
        StringMatch::Exact(_) | StringMatch::Prefix(_) | StringMatch::Regex(_) => {
            !unwanted.is_match(&found.unwrap_or_default())
        }
    }
}

/// A header's lines joined by commas; pseudo headers and Host come from the head.
fn header<'r>(request: &Request<'r>, name: &str) -> Option<Cow<'r, [u8]>> {
    match name {
        ":method" => Some(Cow::Borrowed(request.method.as_str().as_bytes())),
        ":scheme" => Some(Cow::Borrowed(request.scheme.as_bytes())),
        ":authority" | "host" => Some(Cow::Borrowed(request.authority.as_bytes())),
        ":path" => Some(Cow::Borrowed(request.uri.path_and_query().map_or("/", |path| path.as_str()).as_bytes())),
        _ => joined(request.headers, name),
    }
}

fn joined<'r>(headers: &'r HeaderMap, name: &str) -> Option<Cow<'r, [u8]>> {
    let mut lines = headers.get_all(name).iter();
    let first = lines.next()?.as_bytes();
    let mut value = Cow::Borrowed(first);
    for line in lines {
        let all = value.to_mut();
        all.push(b',');
        all.extend_from_slice(line.as_bytes());
    }
    Some(value)
}

/// The first occurrence of a query parameter, decoded.
fn query<'r>(request: &Request<'r>, name: &str) -> Option<Cow<'r, [u8]>> {
    let pairs = request.uri.query()?.split('&');
    let mut pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let (_, value) = pairs.find(|(key, _)| percent_decode_str(key).eq(name.bytes()))?;
    Some(percent_decode_str(value).into())
}
