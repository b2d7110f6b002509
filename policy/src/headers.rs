//! Header operations of a route, with the subset of Envoy's formatters that is built.

use std::{borrow::Cow, fmt::Write as _};

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::{codes, decode::At};

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

/// A header value, perhaps with formatters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
    /// The value itself where it has no formatters.
    fixed: Option<HeaderValue>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Format(Format),
}

/// A formatter in a header value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Format {
    /// `%REQ(NAME?OTHER):MAX%`: a header of the request, or another one, cut to a length.
    Request(Lookup),
    /// `%REQ_WITHOUT_QUERY(NAME?OTHER):MAX%`: the same without what follows a `?`.
    RequestWithoutQuery(Lookup),
    /// `%RESP(NAME?OTHER):MAX%`.
    Response(Lookup),
    /// One of the plain words.
    Word(Word),
}

/// A header named by a formatter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lookup {
    name: String,
    other: Option<String>,
    max: Option<usize>,
}

/// Formatters without arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant is Envoy's formatter of that name in capitals")]
pub enum Word {
    DownstreamRemoteAddress,
    DownstreamRemoteAddressWithoutPort,
    DownstreamRemotePort,
    DownstreamLocalAddress,
    DownstreamLocalAddressWithoutPort,
    DownstreamLocalPort,
    UpstreamHost,
    UpstreamRemoteAddress,
    UpstreamRemoteAddressWithoutPort,
    UpstreamRemotePort,
    Protocol,
    StartTime,
    Hostname,
    ResponseCode,
    RouteName,
}

const WORDS: [(&str, Word); 15] = [
    ("DOWNSTREAM_REMOTE_ADDRESS", Word::DownstreamRemoteAddress),
    ("DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", Word::DownstreamRemoteAddressWithoutPort),
    ("DOWNSTREAM_REMOTE_PORT", Word::DownstreamRemotePort),
    ("DOWNSTREAM_LOCAL_ADDRESS", Word::DownstreamLocalAddress),
    ("DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", Word::DownstreamLocalAddressWithoutPort),
    ("DOWNSTREAM_LOCAL_PORT", Word::DownstreamLocalPort),
    ("UPSTREAM_HOST", Word::UpstreamHost),
    ("UPSTREAM_REMOTE_ADDRESS", Word::UpstreamRemoteAddress),
    ("UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", Word::UpstreamRemoteAddressWithoutPort),
    ("UPSTREAM_REMOTE_PORT", Word::UpstreamRemotePort),
    ("PROTOCOL", Word::Protocol),
    ("START_TIME", Word::StartTime),
    ("HOSTNAME", Word::Hostname),
    ("RESPONSE_CODE", Word::ResponseCode),
    ("ROUTE_NAME", Word::RouteName),
];

/// The pseudo headers of a request.
const PSEUDO: [&str; 4] = [":authority", ":method", ":path", ":scheme"];

/// What formatters read. `None` shows as `-`, as in Envoy.
pub trait Facts {
    /// A header of the request as it came; also `host`, `:authority`, `:method`, `:path` and `:scheme`.
    fn request_header(&self, name: &str) -> Option<&str>;
    /// A header of the response; `None` before there is one.
    fn response_header(&self, name: &str) -> Option<&str>;
    /// A plain formatter.
    fn word(&self, word: Word) -> Option<String>;
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
    fn request_header(&self, name: &str) -> Option<&str> {
        self.facts.request_header(name).filter(|_| !self.hides(Side::Request, name))
    }

    fn response_header(&self, name: &str) -> Option<&str> {
        self.facts.response_header(name).filter(|_| !self.hides(Side::Response, name))
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
        at.error(codes::HEADER, format!("`{name}` cannot be changed here"));
        return None;
    }
    let parsed = HeaderName::from_bytes(name.as_bytes());
    if parsed.is_err() {
        at.error(codes::HEADER, format!("`{name}` is not a header name"));
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

impl Template {
    /// The text for these facts. What has no value is left out (in access logs it is `-`).
    fn render(&self, facts: &dyn Facts) -> String {
        let mut out = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Format(format) => out.push_str(format.show(facts).as_deref().unwrap_or_default()),
            }
        }
        out
    }

    /// The header's value, `None` if it is empty; what no header can hold is left out.
    pub fn value(&self, facts: &dyn Facts) -> Option<HeaderValue> {
        if let Some(fixed) = &self.fixed {
            return Some(fixed.clone()).filter(|value| !value.is_empty());
        }
        let mut text = self.render(facts);
        text.retain(|letter| !letter.is_control());
        HeaderValue::try_from(text).ok().filter(|value| !value.is_empty())
    }

    fn parse(text: &str, at: &At<'_>) -> Option<Self> {
        if text.chars().any(|letter| letter.is_control() && letter != '\t') {
            at.error(codes::HEADER, "control characters cannot stand in a header");
            return None;
        }
        let parts = match split(text) {
            Ok(parts) => parts,
            Err(Bad::Unbalanced) => {
                at.error_hint(
                    codes::HEADER,
                    format!("header value configuration {text} is invalid"),
                    "write a percent sign as %%",
                );
                return None;
            }
            Err(Bad::Unknown(formatter)) => {
                at.unbuilt(format!("formatter %{formatter}%"));
                return None;
            }
        };
        let fixed = match parts.as_slice() {
            [] => Some(HeaderValue::from_static("")),
            [Part::Text(text)] => HeaderValue::from_str(text).ok(),
            _ => None,
        };
        Some(Self { parts, fixed })
    }
}

/// Why a value is no template.
enum Bad {
    Unbalanced,
    Unknown(String),
}

fn split(text: &str) -> Result<Vec<Part>, Bad> {
    let mut parts = Vec::new();
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        plain.push_str(before);
        if let Some(after) = after.strip_prefix('%') {
            plain.push('%');
            rest = after;
            continue;
        }
        let (formatter, after) = after.split_once('%').ok_or(Bad::Unbalanced)?;
        if !is_formatter(formatter) {
            return Err(Bad::Unbalanced);
        }
        if !plain.is_empty() {
            parts.push(Part::Text(std::mem::take(&mut plain)));
        }
        parts.push(Part::Format(Format::parse(formatter).ok_or_else(|| Bad::Unknown(formatter.to_owned()))?));
        rest = after;
    }
    plain.push_str(rest);
    if !plain.is_empty() {
        parts.push(Part::Text(plain));
    }
    Ok(parts)
}

/// `WORD`, `WORD(...)`, `WORD(...):N`.
fn is_formatter(text: &str) -> bool {
    let word = text.split(['(', ':']).next().unwrap_or_default();
    !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_' || byte.is_ascii_digit())
}

impl Format {
    fn parse(text: &str) -> Option<Self> {
        if let Some((_, word)) = WORDS.iter().find(|(name, _)| *name == text) {
            return Some(Self::Word(*word));
        }
        if let Some(rest) = text.strip_prefix("REQ(") {
            return Lookup::parse(rest, &PSEUDO).map(Self::Request);
        }
        if let Some(rest) = text.strip_prefix("REQ_WITHOUT_QUERY(") {
            return Lookup::parse(rest, &PSEUDO).map(Self::RequestWithoutQuery);
        }
        Lookup::parse(text.strip_prefix("RESP(")?, &[]).map(Self::Response)
    }

    fn show<'f>(&'f self, facts: &'f dyn Facts) -> Option<Cow<'f, str>> {
        match self {
            Self::Request(lookup) => lookup.find(|name| facts.request_header(name)).map(Cow::Borrowed),
            Self::RequestWithoutQuery(lookup) => lookup
                .find(|name| Some(facts.request_header(name)?.split('?').next().unwrap_or_default()))
                .map(Cow::Borrowed),
            Self::Response(lookup) => lookup.find(|name| facts.response_header(name)).map(Cow::Borrowed),
            Self::Word(word) => facts.word(*word).map(Cow::Owned),
        }
    }
}

impl Lookup {
    /// What follows `REQ(`; of names with a colon only these `pseudo` ones are known.
    fn parse(text: &str, pseudo: &[&str]) -> Option<Self> {
        let (names, max) = text.rsplit_once(')')?;
        let max = match max.strip_prefix(':') {
            Some(digits) => Some(digits.parse().ok()?),
            None if max.is_empty() => None,
            None => return None,
        };
        let (name, other) = match names.split_once('?') {
            Some((name, other)) => (name, Some(other.to_ascii_lowercase())),
            None => (names, None),
        };
        let name = name.to_ascii_lowercase();
        let is_known = |name: &str| !name.starts_with(':') || pseudo.contains(&name);
        let valid = !name.is_empty() && names.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'(');
        (valid && is_known(&name) && other.as_deref().is_none_or(is_known)).then_some(Self { name, other, max })
    }

    fn find<'f>(&'f self, header: impl Fn(&'f str) -> Option<&'f str>) -> Option<&'f str> {
        let value = header(&self.name).or_else(|| header(self.other.as_deref()?))?;
        let cut = self.max.and_then(|max| value.char_indices().nth(max)).map_or(value.len(), |(at, _)| at);
        Some(&value[..cut])
    }
}

impl std::fmt::Display for Template {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for part in &self.parts {
            match part {
                Part::Text(text) => f.write_str(&text.replace('%', "%%"))?,
                Part::Format(Format::Word(word)) => {
                    let name = WORDS.iter().find(|(_, own)| own == word).map_or("", |(name, _)| name);
                    write!(f, "%{name}%")?;
                }
                Part::Format(Format::Request(lookup)) => write!(f, "%REQ({lookup}%")?,
                Part::Format(Format::RequestWithoutQuery(lookup)) => write!(f, "%REQ_WITHOUT_QUERY({lookup}%")?,
                Part::Format(Format::Response(lookup)) => write!(f, "%RESP({lookup}%")?,
            }
        }
        Ok(())
    }
}

impl std::fmt::Display for Lookup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)?;
        if let Some(other) = &self.other {
            write!(f, "?{other}")?;
        }
        f.write_char(')')?;
        if let Some(max) = self.max {
            write!(f, ":{max}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;

    impl Facts for Fixed {
        fn request_header(&self, name: &str) -> Option<&str> {
            match name {
                "x-a" => Some("abcdef"),
                ":path" => Some("/p?q"),
                _ => None,
            }
        }

        fn response_header(&self, _: &str) -> Option<&str> {
            None
        }

        fn word(&self, word: Word) -> Option<String> {
            (word == Word::Protocol).then(|| "HTTP/1.1".to_owned())
        }
    }

    fn show(text: &str) -> Option<String> {
        let parts = split(text).ok()?;
        Some(Template { parts, fixed: None }.render(&Fixed))
    }

    #[test]
    fn what_comes_out_empty_changes_nothing_and_what_is_removed_is_seen_no_more() {
        let template = |text: &str| Template { parts: split(text).ok().expect("well formed"), fixed: None };
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

    #[test]
    fn formatters() {
        assert_eq!(show("100%%").as_deref(), Some("100%"));
        assert_eq!(show("a%REQ(X-A)%b").as_deref(), Some("aabcdefb"));
        assert_eq!(show("%REQ(X-B?X-A):3%").as_deref(), Some("abc"));
        assert_eq!(show("%REQ(X-B)%").as_deref(), Some(""));
        assert_eq!(show("a%REQ(X-B)%c").as_deref(), Some("ac"));
        assert_eq!(show("%PROTOCOL%").as_deref(), Some("HTTP/1.1"));
        assert_eq!(show("%REQ_WITHOUT_QUERY(X-B?:PATH)% %REQ_WITHOUT_QUERY(X-A):2%").as_deref(), Some("/p ab"));
        assert_eq!(show("%REQ(X-ENVOY-ORIGINAL-PATH?:PATH):2%").as_deref(), Some("/p"));
        for pseudo in ["%REQ(:AUTHORITY)%", "%REQ(:METHOD)%", "%REQ(:SCHEME)%", "%REQ(X-A?:AUTHORITY)%"] {
            assert!(show(pseudo).is_some(), "{pseudo}");
        }
        for none in ["%REQ(:STATUS)%", "%REQ(:PROTOCOL)%", "%REQ(X-A?:BODY)%", "%RESP(:STATUS)%", "%RESP(X-A?:PATH)%"] {
            assert_eq!(show(none), None, "{none}");
        }
        for bad in
            ["%START_TIME%%", "abc%123", "%", "%x", "%DYNAMIC_METADATA(com.test)%", "%REQ()%", "%REQ(a%", "%REQ(a):x%"]
        {
            assert_eq!(show(bad), None, "{bad}");
        }
    }
}
