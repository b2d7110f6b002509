//! What an authoriser that lets a request in changes in it, and in its response.

use super::super::super::http::is_proxys;
use http::{HeaderMap, HeaderName, HeaderValue, request::Parts, uri::PathAndQuery};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use policy::headers::spelling;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Headers of the request.
    pub(super) request: Vec<Change>,
    /// Headers that are taken from the request.
    pub(super) removed: Vec<HeaderName>,
    /// Headers of the response.
    pub(super) response: Vec<Change>,
    /// Query parameters that get this value.
    pub(super) query_set: Vec<(String, String)>,
    /// Query parameters that are taken away.
    pub(super) query_removed: Vec<String>,
}

/// One header line.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) name: HeaderName,
    pub(super) value: HeaderValue,
    pub(super) way: Way,
}

/// What happens to lines of that name that are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// They are replaced.
    Set,
    /// They stay.
    Append,
    /// They stay, and nothing is added.
    AddIfAbsent,
    /// They are replaced; where there are none, nothing is added.
    OverwriteIfPresent,
}

/// What need not be encoded in a query.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

impl Changes {
    /// Changes the request.
    ///
    /// # Errors
    /// Its query would be none.
    pub(super) fn apply(&self, parts: &mut Parts) -> Result<(), http::Error> {
        for name in self.removed.iter().filter(|name| !is_proxys(name.as_str())) {
            spelling::remove(&mut parts.headers, name);
        }
        // What a caller sends under another spelling would be read beside the authoriser's word.
        for Change { name, value, way } in &self.request {
            if matches!(way, Way::Set | Way::OverwriteIfPresent) && spelling::remove(&mut parts.headers, name) {
                parts.headers.insert(name, value.clone());
            }
        }
        apply(&self.request, &mut parts.headers);
        if !(self.query_set.is_empty() && self.query_removed.is_empty()) {
            let path = self.path(parts.uri.path(), parts.uri.query().unwrap_or_default());
            let mut uri = std::mem::take(&mut parts.uri).into_parts();
            uri.path_and_query = Some(PathAndQuery::try_from(path)?);
            parts.uri = http::Uri::from_parts(uri)?;
        }
        Ok(())
    }

    /// The path with the query as it becomes. Parameters that nothing is said of stay as they were written.
    fn path(&self, path: &str, query: &str) -> String {
        let name = |pair: &str| decoded(pair.split_once('=').map_or(pair, |(name, _)| name));
        let mut set: Vec<Option<&(String, String)>> = self.query_set.iter().map(Some).collect();
        let mut pairs: Vec<String> = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let name = name(pair);
            if self.query_removed.contains(&name) {
                continue;
            }
            if self.query_set.iter().any(|(set, _)| *set == name) {
                // The first one gets the value, further ones go.
                let first = set.iter_mut().find(|one| one.is_some_and(|(set, _)| *set == name));
                pairs.extend(first.and_then(Option::take).map(encoded));
            } else {
                pairs.push(pair.to_owned());
            }
        }
        pairs.extend(set.into_iter().flatten().map(encoded));
        if pairs.is_empty() { path.to_owned() } else { format!("{path}?{}", pairs.join("&")) }
    }
}

fn decoded(text: &str) -> String {
    percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()
}

fn encoded((name, value): &(String, String)) -> String {
    format!("{}={}", utf8_percent_encode(name, QUERY), utf8_percent_encode(value, QUERY))
}

/// Changes headers, one line after the other.
pub(super) fn apply(changes: &[Change], headers: &mut HeaderMap) {
    for Change { name, value, way } in changes {
        match (way, headers.contains_key(name)) {
            (Way::Set, _) | (Way::OverwriteIfPresent, true) => {
                headers.insert(name, value.clone());
            }
            (Way::Append, _) | (Way::AddIfAbsent, false) => {
                headers.append(name, value.clone());
            }
            (Way::AddIfAbsent, true) | (Way::OverwriteIfPresent, false) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn change(name: &'static str, value: &'static str, way: Way) -> Change {
        Change { name: HeaderName::from_static(name), value: HeaderValue::from_static(value), way }
    }

    #[test]
    fn headers_change_as_they_are_told_to() {
        let changes = Changes {
            request: vec![
                change("a", "2", Way::Set),
                change("a", "3", Way::Append),
                change("b", "2", Way::AddIfAbsent),
                change("c", "2", Way::OverwriteIfPresent),
                change("d", "2", Way::OverwriteIfPresent),
                change("e", "2", Way::AddIfAbsent),
            ],
            removed: vec![HeaderName::from_static("f"), HeaderName::from_static("host")],
            ..Changes::default()
        };
        let request = Request::get("/").header("a", "1").header("b", "1").header("c", "1").header("f", "1");
        let (mut parts, ()) = request.header("host", "h").body(()).unwrap().into_parts();
        changes.apply(&mut parts).unwrap();
        let all = |name: &str| -> Vec<&str> {
            parts.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
        };
        assert_eq!([all("a"), all("b"), all("c")], [vec!["2", "3"], vec!["1"], vec!["2"]]);
        assert_eq!([all("d"), all("e"), all("f"), all("host")], [vec![], vec!["2"], vec![], vec!["h"]]);
    }

    #[test]
    fn what_is_overwritten_is_so_in_every_spelling() {
        let changes = Changes {
            request: vec![change("x-user", "alice", Way::OverwriteIfPresent), change("x-role", "none", Way::Set)],
            ..Changes::default()
        };
        let request = Request::get("/").header("x_user", "root").header("x_role", "admin");
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        changes.apply(&mut parts).unwrap();
        let mut all: Vec<_> =
            parts.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        all.sort_unstable();
        assert_eq!(all, [("x-role", "none"), ("x-user", "alice")]);
    }

    #[test]
    fn queries_change_as_they_are_told_to() {
        let changes = Changes {
            query_set: vec![("a b".into(), "x&y".into()), ("new".into(), "1".into())],
            query_removed: vec!["token".into()],
            ..Changes::default()
        };
        let after = |uri: &str| {
            let (mut parts, ()) = Request::get(uri).body(()).unwrap().into_parts();
            changes.apply(&mut parts).unwrap();
            parts.uri.to_string()
        };
        assert_eq!(after("/p"), "/p?a%20b=x%26y&new=1");
        assert_eq!(after("/p?k=%2F&token=s&a+b=1&tok%65n&a%20b=2&last"), "/p?k=%2F&a%20b=x%26y&last&new=1");
        let remove = Changes { query_removed: vec!["token".into()], ..Changes::default() };
        let (mut parts, ()) = Request::get("/p?token=1").body(()).unwrap().into_parts();
        remove.apply(&mut parts).unwrap();
        assert_eq!(parts.uri, "/p");
    }
}
