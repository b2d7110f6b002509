//! Where a request shows a token: headers, query parameters, cookies.

use std::borrow::Cow;

use http::{
    HeaderMap, HeaderName, HeaderValue, Uri,
    header::{AUTHORIZATION, COOKIE},
    request::Parts,
    uri::PathAndQuery,
};
use percent_encoding::percent_decode_str;

use super::Shown;
use crate::kinds::TokenRule;

/// What stands before a token in `Authorization`.
const BEARER: &str = "Bearer ";
/// The query parameter that is looked at where a rule names no place.
const ACCESS_TOKEN: &str = "access_token";

/// One place.
pub(super) enum Place<'r> {
    /// A header, and what stands before the token in it.
    Header(&'r HeaderName, &'r str),
    Param(&'r str),
    Cookie(&'r str),
}

impl<'r> Place<'r> {
    /// Those of a rule; Istio's two where it names none.
    pub(super) fn all(rule: &'r TokenRule) -> Vec<Place<'r>> {
        let headers = rule.from_headers.iter().map(|(name, prefix)| Place::Header(name, prefix));
        let params = rule.from_params.iter().map(|name| Place::Param(name));
        let cookies = rule.from_cookies.iter().map(|name| Place::Cookie(name));
        let named: Vec<_> = headers.chain(params).chain(cookies).collect();
        if named.is_empty() { vec![Place::Header(&AUTHORIZATION, BEARER), Place::Param(ACCESS_TOKEN)] } else { named }
    }

    /// Adds what is shown here. A header without the prefix shows nothing.
    pub(super) fn find<'h>(&self, headers: &'h HeaderMap, uri: &'h Uri, found: &mut Vec<Shown<'h>>) {
        match self {
            Self::Header(name, prefix) => {
                let values = headers.get_all(*name).iter();
                found.extend(values.filter_map(|value| after(value, prefix)).map(|token| Shown { token }));
            }
            Self::Param(name) => {
                let pairs = uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
                let tokens = pairs.filter(|(key, _)| decoded(key) == *name).map(|(_, token)| Shown { token });
                found.extend(tokens);
            }
            Self::Cookie(name) => {
                let values = cookies(headers).filter_map(|cookie| value_of(cookie, name));
                found.extend(values.map(|value| Shown { token: text(value) }));
            }
        }
    }

    /// Takes out what is shown here.
    pub(super) fn clear(&self, parts: &mut Parts) {
        match self {
            Self::Header(name, prefix) => {
                let kept: Vec<HeaderValue> = {
                    let values = parts.headers.get_all(*name).iter();
                    values.filter(|value| after(value, prefix).is_none()).cloned().collect()
                };
                parts.headers.remove(*name);
                for value in kept {
                    parts.headers.append((*name).clone(), value);
                }
            }
            Self::Param(name) => {
                let Some(query) = parts.uri.query() else { return };
                let named = |pair: &&str| decoded(pair.split_once('=').map_or(*pair, |(key, _)| key)) == *name;
                if !query.split('&').any(|pair| named(&pair)) {
                    return;
                }
                let kept: Vec<&str> = query.split('&').filter(|pair| !named(pair)).collect();
                let path = parts.uri.path();
                let target = if kept.is_empty() { path.to_owned() } else { format!("{path}?{}", kept.join("&")) };
                // What was part of a target is one.
                if let Ok(target) = PathAndQuery::try_from(target) {
                    let mut uri = std::mem::take(&mut parts.uri).into_parts();
                    uri.path_and_query = Some(target);
                    parts.uri = Uri::from_parts(uri).unwrap_or_default();
                }
            }
            Self::Cookie(name) => {
                let kept: Vec<&[u8]> =
                    cookies(&parts.headers).filter(|cookie| value_of(cookie, name).is_none()).collect();
                let joined = HeaderValue::from_bytes(&kept.join(&b"; "[..])).ok().filter(|joined| !joined.is_empty());
                parts.headers.remove(COOKIE);
                parts.headers.extend(joined.map(|joined| (COOKIE, joined)));
            }
        }
    }
}

/// Each cookie, its name and value.
fn cookies(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let pairs = headers.get_all(COOKIE).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    pairs.map(<[u8]>::trim_ascii).filter(|pair| !pair.is_empty())
}

/// The value of a cookie of this name.
fn value_of<'h>(cookie: &'h [u8], name: &str) -> Option<&'h [u8]> {
    let equals = cookie.iter().position(|byte| *byte == b'=')?;
    (cookie[..equals].trim_ascii() == name.as_bytes()).then_some(&cookie[equals + 1..])
}

/// The token in a header's value.
fn after<'h>(value: &'h HeaderValue, prefix: &str) -> Option<&'h str> {
    value.as_bytes().strip_prefix(prefix.as_bytes()).map(text)
}

/// What is no text is no token, and is shown as one that cannot be read.
fn text(value: &[u8]) -> &str {
    std::str::from_utf8(value).unwrap_or_default().trim()
}

fn decoded(text: &str) -> Cow<'_, str> {
    percent_decode_str(text).decode_utf8_lossy()
}
