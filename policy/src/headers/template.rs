//! Values of headers with the subset of Envoy's formatters that is built.

use std::{borrow::Cow, fmt::Write as _};

use http::HeaderValue;

use crate::{
    codes,
    decode::At,
    operator::{self, TimeFormat},
};

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
    /// `%START_TIME(FORMAT)%`.
    StartTime(TimeFormat),
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
    fn request_header(&self, name: &str) -> Option<Cow<'_, str>>;
    /// A header of the response; `None` before there is one.
    fn response_header(&self, name: &str) -> Option<Cow<'_, str>>;
    /// When the request came, in this format.
    fn start_time(&self, format: &TimeFormat) -> Option<String>;
    /// A plain formatter.
    fn word(&self, word: Word) -> Option<String>;
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

    pub(super) fn parse(text: &str, at: &At<'_>) -> Option<Self> {
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
        let (formatter, after) = operator::split(after).ok_or(Bad::Unbalanced)?;
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
        if let Some(format) = text.strip_prefix("START_TIME(").and_then(|rest| rest.strip_suffix(')')) {
            return TimeFormat::new(format).ok().map(Self::StartTime);
        }
        Lookup::parse(text.strip_prefix("RESP(")?, &[]).map(Self::Response)
    }

    fn show<'f>(&'f self, facts: &'f dyn Facts) -> Option<Cow<'f, str>> {
        match self {
            Self::Request(lookup) => lookup.find(|name| facts.request_header(name)),
            Self::RequestWithoutQuery(lookup) => lookup.find(|name| {
                let value = facts.request_header(name)?;
                let end = value.find('?');
                Some(cut(value, end))
            }),
            Self::Response(lookup) => lookup.find(|name| facts.response_header(name)),
            Self::StartTime(format) => facts.start_time(format).map(Cow::Owned),
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

    fn find<'f>(&'f self, header: impl Fn(&'f str) -> Option<Cow<'f, str>>) -> Option<Cow<'f, str>> {
        let value = header(&self.name).or_else(|| header(self.other.as_deref()?))?;
        let end = self.max.and_then(|max| value.char_indices().nth(max)).map(|(at, _)| at);
        Some(cut(value, end))
    }
}

/// What stands before this place.
fn cut(text: Cow<'_, str>, end: Option<usize>) -> Cow<'_, str> {
    match (text, end) {
        (text, None) => text,
        (Cow::Borrowed(text), Some(end)) => Cow::Borrowed(&text[..end]),
        (Cow::Owned(mut text), Some(end)) => {
            text.truncate(end);
            Cow::Owned(text)
        }
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
                Part::Format(Format::StartTime(format)) => write!(f, "%START_TIME({})%", format.as_str())?,
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
pub(super) mod tests {
    use super::*;

    pub(in crate::headers) struct Fixed;

    impl Facts for Fixed {
        fn request_header(&self, name: &str) -> Option<Cow<'_, str>> {
            match name {
                "x-a" => Some("abcdef".into()),
                ":path" => Some("/p?q".into()),
                // As of what is no text.
                "x-owned" => Some("a\u{fffd}c?d".to_owned().into()),
                _ => None,
            }
        }

        fn response_header(&self, _: &str) -> Option<Cow<'_, str>> {
            None
        }

        fn start_time(&self, format: &TimeFormat) -> Option<String> {
            Some(format!("<{}>", format.as_str()))
        }

        fn word(&self, word: Word) -> Option<String> {
            (word == Word::Protocol).then(|| "HTTP/1.1".to_owned())
        }
    }

    impl Template {
        pub(in crate::headers) fn of(text: &str) -> Self {
            Self { parts: split(text).ok().expect("well formed"), fixed: None }
        }
    }

    fn show(text: &str) -> Option<String> {
        let parts = split(text).ok()?;
        Some(Template { parts, fixed: None }.render(&Fixed))
    }

    #[test]
    fn formatters() {
        assert_eq!(show("100%%").as_deref(), Some("100%"));
        assert_eq!(show("a%REQ(X-A)%b").as_deref(), Some("aabcdefb"));
        assert_eq!(show("%REQ(X-B?X-A):3%").as_deref(), Some("abc"));
        assert_eq!(show("%REQ_WITHOUT_QUERY(X-OWNED)% %REQ(X-OWNED):2%").as_deref(), Some("a\u{fffd}c a\u{fffd}"));
        assert_eq!(show("%REQ(X-B)%").as_deref(), Some(""));
        assert_eq!(show("a%REQ(X-B)%c").as_deref(), Some("ac"));
        assert_eq!(show("%PROTOCOL%").as_deref(), Some("HTTP/1.1"));
        assert_eq!(show("%REQ_WITHOUT_QUERY(X-B?:PATH)% %REQ_WITHOUT_QUERY(X-A):2%").as_deref(), Some("/p ab"));
        assert_eq!(show("%REQ(X-ENVOY-ORIGINAL-PATH?:PATH):2%").as_deref(), Some("/p"));
        assert_eq!(show("t=%START_TIME(%s.%3f)%%PROTOCOL%").as_deref(), Some("t=<%s.%3f>HTTP/1.1"));
        for pseudo in ["%REQ(:AUTHORITY)%", "%REQ(:METHOD)%", "%REQ(:SCHEME)%", "%REQ(X-A?:AUTHORITY)%"] {
            assert!(show(pseudo).is_some(), "{pseudo}");
        }
        for none in ["%REQ(:STATUS)%", "%REQ(:PROTOCOL)%", "%REQ(X-A?:BODY)%", "%RESP(:STATUS)%", "%RESP(X-A?:PATH)%"] {
            assert_eq!(show(none), None, "{none}");
        }
        for bad in [
            "%START_TIME%%",
            "abc%123",
            "%",
            "%x",
            "%DYNAMIC_METADATA(com.test)%",
            "%REQ()%",
            "%REQ(a%",
            "%REQ(a):x%",
            "%START_TIME(%Q)%",
            "%START_TIME(%s",
        ] {
            assert_eq!(show(bad), None, "{bad}");
        }
    }
}
