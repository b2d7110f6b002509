//! Header operations of a route.

pub mod spelling;
mod template;

use std::{borrow::Cow, sync::Arc};

use http::{HeaderMap, HeaderName};

pub use self::template::{Facts, Format, Lookup, Template, Word};
use crate::{codes, decode::At, operator::TimeFormat};

/// `HeaderOperations`: removals first, then `set`, then `add`, each in the order of names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HeaderOps {
    /// Overwritten or created.
    pub set: Vec<(HeaderName, Template)>,
    /// Appended.
    pub add: Vec<(HeaderName, Template)>,
    /// All lines deleted.
    pub remove: Vec<HeaderName>,
    /// `Host` or `:authority` among the operations: the request's authority becomes this.
    pub authority: Option<Template>,
}

/// Which message the operations are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// What goes to the service.
    Request,
    /// What comes back.
    Response,
}

/// Facts of a message without the headers that are removed from it: as in Envoy they are gone before formatters look.
struct Without<'a> {
    facts: &'a dyn Facts,
    removed: &'a [HeaderName],
    side: Side,
}

impl Without<'_> {
    fn hides(&self, side: Side, name: &str) -> bool {
        self.side == side && self.removed.iter().any(|removed| removed.as_str().eq_ignore_ascii_case(name))
    }
}

impl Facts for Without<'_> {
    fn request_header(&self, name: &str) -> Option<Cow<'_, str>> {
        self.facts.request_header(name).filter(|_| !self.hides(Side::Request, name))
    }

    fn response_header(&self, name: &str) -> Option<Cow<'_, str>> {
        self.facts.response_header(name).filter(|_| !self.hides(Side::Response, name))
    }

    fn start_time(&self, format: &TimeFormat) -> Option<String> {
        self.facts.start_time(format)
    }

    fn word(&self, word: Word) -> Option<String> {
        self.facts.word(word)
    }
}

impl HeaderOps {
    /// True if there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty() && self.authority.is_none()
    }

    /// Applies removals, `set` and `add` to the headers of this side; the authority is the caller's to apply. A value that comes out
    /// empty changes nothing, as in Envoy.
    pub fn apply(&self, side: Side, headers: &mut HeaderMap, facts: &dyn Facts) {
        for name in &self.remove {
            headers.remove(name);
        }
        let facts = &Without { facts, removed: &self.remove, side };
        for (name, template) in &self.set {
            if let Some(value) = template.value(facts) {
                headers.insert(name.clone(), value);
            }
        }
        for (name, template) in &self.add {
            if let Some(value) = template.value(facts) {
                headers.append(name.clone(), value);
            }
        }
    }

    /// These operations and then others, as one step: all removals come first. The authority that is set first stays.
    pub(crate) fn followed_by(self: Arc<Self>, then: Arc<Self>) -> Arc<Self> {
        if then.is_empty() {
            return self;
        }
        if self.is_empty() {
            return then;
        }
        let mut both = Arc::unwrap_or_clone(self);
        both.set.extend_from_slice(&then.set);
        both.add.extend_from_slice(&then.add);
        both.remove.extend_from_slice(&then.remove);
        both.authority = both.authority.or_else(|| then.authority.clone());
        Arc::new(both)
    }

    /// Headers among these that a called node takes from gateways only: who calls and for whom.
    pub(crate) fn of_way(&self) -> impl Iterator<Item = &str> {
        let written = self.set.iter().chain(&self.add).map(|(name, _)| name.as_str());
        written.filter(|name| OF_WAY.contains(name))
    }

    pub(crate) fn decode(at: &At<'_>, side: Side) -> Self {
        let mut operations = Self::default();
        let Some(fields) = at.fields() else { return operations };
        for (field, into_set) in [("set", true), ("add", false)] {
            let Some(map) = fields.get(field) else { continue };
            for (name, value) in map.entries() {
                let Some(template) = value.text().and_then(|text| Template::parse(text, &value)) else { continue };
                if is_authority(name) && side == Side::Request {
                    if operations.authority.replace(template).is_some() {
                        value.error(codes::EXCLUSIVE, "the authority is set twice");
                    }
                } else if let Some(name) = header_name(name, &value).filter(|name| may_be_written(name, &value)) {
                    let list = if into_set { &mut operations.set } else { &mut operations.add };
                    list.push((name, template));
                }
            }
        }
        if let Some(list) = fields.get("remove") {
            operations.remove = list.text_list().iter().filter_map(|(name, at)| header_name(name, at)).collect();
        }
        fields.finish();
        for list in [&mut operations.set, &mut operations.add] {
            list.sort_by(|a, b| a.0.as_str().cmp(b.0.as_str()));
        }
        operations
    }
}

fn is_authority(name: &str) -> bool {
    name.eq_ignore_ascii_case("host") || name == ":authority"
}

/// A name that an operation may touch: neither Host nor a pseudo header.
fn header_name(name: &str, at: &At<'_>) -> Option<HeaderName> {
    if is_authority(name) || name.starts_with(':') {
        let hint = if is_authority(name) {
            "set it in `headers.request` of a route, or by `rewrite.authority`; it cannot be removed"
        } else {
            "the proxy says it: method and scheme stay, `rewrite.uri` changes the path"
        };
        at.error_hint(codes::HEADER, format!("`{name}` cannot be changed here"), hint);
        return None;
    }
    let parsed = HeaderName::from_bytes(name.as_bytes());
    if parsed.is_err() {
        at.error_hint(codes::HEADER, format!("`{name}` is not a header name"), "take letters, digits and `-`");
    }
    parsed.ok()
}

/// What a called node says itself, unless a gateway calls: else any caller could say it.
const OF_WAY: [&str; 5] =
    ["forwarded", "x-envoy-external-address", "x-forwarded-client-cert", "x-forwarded-for", "x-real-ip"];

/// What frames a message or concerns one connection: the proxy says it, by what it sends.
const FRAMING: [&str; 8] =
    ["connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"];

/// A name whose value an operation may give; to remove is harmless.
fn may_be_written(name: &HeaderName, at: &At<'_>) -> bool {
    let name = name.as_str();
    let hint = if FRAMING.contains(&name) {
        "leave it out: the proxy frames what it sends, and passes upgrades on by itself"
    } else if name.starts_with("x-skein-") {
        "take another name: these are what nodes tell each other"
    } else {
        return true;
    };
    at.error_hint(codes::HEADER, format!("`{name}` cannot be written here"), hint);
    false
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::{template::tests::Fixed, *};

    #[test]
    fn what_comes_out_empty_changes_nothing_and_what_is_removed_is_seen_no_more() {
        let template = |text: &str| Template::of(text);
        let name = HeaderName::from_static;
        let operations = HeaderOps {
            set: vec![
                (name("x-kept"), template("%REQ(X-B)%")),
                (name("x-new"), template("%REQ(X-A)%")),
                (name("x-mixed"), template("a%REQ(X-B)%")),
            ],
            add: vec![(name("x-added"), template("%REQ(X-B)%"))],
            remove: vec![name("x-a")],
            authority: None,
        };
        let came = || HeaderMap::from_iter([(name("x-kept"), HeaderValue::from_static("client"))]);
        let mut headers = came();
        operations.apply(Side::Request, &mut headers, &Fixed);
        assert_eq!(
            (&headers["x-kept"], &headers["x-mixed"], headers.len()),
            (&"client".parse().unwrap(), &"a".parse().unwrap(), 2)
        );
        let mut headers = came();
        operations.apply(Side::Response, &mut headers, &Fixed);
        assert_eq!(headers["x-new"], "abcdef", "it is removed from the response");
    }
}
