//! Actions of an `HTTPRoute` and their parts.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};

use super::{DestinationHost, HttpMatch, Pattern, StringMatch, destination::decode_weighted};
use crate::{
    codes,
    decode::{At, Fields},
    headers::{HeaderOps, Side},
    normalize,
};

/// `HTTPRouteDestination`.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpRouteDestination {
    /// Where.
    pub destination: DestinationHost,
    /// Share among the route's destinations; absent is 0.
    pub weight: u32,
    /// Header operations for this destination.
    pub headers: RouteHeaders,
}

/// `Headers`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RouteHeaders {
    /// On the request.
    pub request: Arc<HeaderOps>,
    /// On the response.
    pub response: Arc<HeaderOps>,
}

/// `HTTPRewrite`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Rewrite {
    /// What replaces the path or a part of it.
    pub uri: Option<UriRewrite>,
    /// What replaces the authority.
    pub authority: Option<String>,
}

/// How a path is rewritten.
#[derive(Debug, Clone, PartialEq)]
pub enum UriRewrite {
    /// The matched prefix is replaced; the whole path after an exact or regex match.
    Matched(String),
    /// Every match in the path (without query) is replaced; the text uses `${1}` for groups.
    Regex(Pattern, String),
}

/// `HTTPRedirect`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Redirect {
    /// Replaces the whole path.
    pub uri: Option<String>,
    /// Replaces the matched prefix.
    pub prefix_rewrite: Option<String>,
    /// Replaces the host.
    pub authority: Option<String>,
    /// What the port becomes.
    pub port: RedirectPort,
    /// Replaces the scheme.
    pub scheme: Option<String>,
    /// 301 if not given.
    pub code: u16,
}

/// The port of a redirect's Location.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RedirectPort {
    /// The request's, where the host or the scheme is not replaced.
    #[default]
    Unset,
    /// This one.
    Number(u16),
    /// The scheme's default: left out.
    ProtocolDefault,
    /// The one that the request arrived on.
    Request,
}

/// `HTTPDirectResponse`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectResponse {
    /// 200 to 599.
    pub status: u16,
    /// At most 1 MiB.
    pub body: Arc<[u8]>,
    /// True if the body was given as a string: then the answer is `text/plain`.
    pub text: bool,
}

/// Bytes of a direct response's body at most.
const MAX_BODY: usize = 1 << 20;
/// Bytes of a direct response's body that are worth a warning.
const LARGE_BODY: usize = 100 * 1024;

impl HttpRouteDestination {
    pub(super) fn decode_list(at: &At<'_>, namespace: &str) -> Vec<Self> {
        let headers = |fields: &Fields<'_>| {
            fields.get("headers").map(|headers| RouteHeaders::decode(&headers)).unwrap_or_default()
        };
        decode_weighted(at, namespace, headers, |headers, destination, weight| Self { destination, weight, headers })
    }
}

impl RouteHeaders {
    pub(super) fn decode(at: &At<'_>) -> Self {
        let Some(fields) = at.fields() else { return Self::default() };
        let operations =
            |name, side| fields.get(name).map(|at| Arc::new(HeaderOps::decode(&at, side))).unwrap_or_default();
        let decoded =
            Self { request: operations("request", Side::Request), response: operations("response", Side::Response) };
        fields.finish();
        decoded
    }
}

/// A path that replaces one, perhaps with a query; an empty one is none.
fn target(fields: &Fields<'_>, name: &'static str) -> Option<String> {
    let at = fields.get(name)?;
    let text = at.text().filter(|text| !text.is_empty())?;
    if !text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        at.error_hint(
            codes::TARGET,
            format!("`{}` is not a path", text.escape_debug()),
            "write blanks, `#` and letters beyond ASCII as `%20`, `%23` and so on",
        );
    } else if !text.starts_with('/') {
        let message = format!("the path `{text}` does not begin with `/`");
        at.warn(codes::PATH_WITHOUT_SLASH, message, format!("write /{text}"));
        return Some(format!("/{text}"));
    }
    Some(text.to_owned())
}

/// An authority that replaces one; an empty one is none.
fn authority(fields: &Fields<'_>) -> Option<String> {
    let at = fields.get("authority")?;
    let text = at.text().filter(|text| !text.is_empty())?;
    if normalize::host(text, 80).is_err() {
        at.error_hint(
            codes::TARGET,
            format!("`{}` is not an authority", text.escape_debug()),
            "write HOST or HOST:PORT",
        );
    }
    Some(text.to_owned())
}

impl Rewrite {
    pub(super) fn decode(at: &At<'_>) -> Option<Self> {
        let fields = at.fields()?;
        let (uri, authority) = (target(&fields, "uri"), authority(&fields));
        let regex = fields.get("uriRegexRewrite").map(|at| decode_regex_rewrite(&at));
        fields.finish();
        if uri.is_some() && regex.is_some() {
            at.error(codes::EXCLUSIVE, "rewrite may only contain one of uri and uriRegexRewrite");
        }
        if uri.is_none() && regex.is_none() && authority.is_none() {
            at.error(codes::EMPTY, "rewrite must specify uri, uriRegexRewrite or authority");
        }
        let uri = match regex {
            Some(regex) => regex,
            None => uri.map(UriRewrite::Matched),
        };
        Some(Self { uri, authority })
    }
}

fn decode_regex_rewrite(at: &At<'_>) -> Option<UriRewrite> {
    let fields = at.fields()?;
    let pattern = fields.required("match").and_then(|at| Pattern::decode_anywhere(&at));
    let text = fields.required("rewrite").and_then(|at| {
        let text = at.filled_text()?;
        let groups = pattern.as_ref().map_or(usize::MAX, Pattern::groups);
        let converted = groups_to_braces(text, groups);
        if converted.is_none() {
            at.error_hint(
                codes::REGEX,
                "the rewrite names a group that the match lacks",
                "groups are \\1 to \\9, \\0 is all, \\\\ is a backslash",
            );
        }
        converted
    });
    fields.finish();
    Some(UriRewrite::Regex(pattern?, text?))
}

/// RE2's `\1` as `${1}`; `None` for a group that does not exist, or another escape.
fn groups_to_braces(text: &str, groups: usize) -> Option<String> {
    let mut out = String::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '$' => out.push_str("$$"),
            '\\' => match letters.next()? {
                '\\' => out.push('\\'),
                digit => {
                    let group = digit.to_digit(10).filter(|group| (*group as usize) < groups)?;
                    out.push_str(&format!("${{{group}}}"));
                }
            },
            other => out.push(other),
        }
    }
    Some(out)
}

impl Redirect {
    pub(super) fn decode(at: &At<'_>, matches: &[HttpMatch]) -> Option<Self> {
        let fields = at.fields()?;
        let (uri, prefix_rewrite) = (target(&fields, "uri"), target(&fields, "prefixRewrite"));
        let authority = authority(&fields);
        let scheme = fields.get("scheme").and_then(|at| at.word(&[("http", "http"), ("https", "https"), ("", "")]));
        let scheme = scheme.filter(|scheme| !scheme.is_empty()).map(str::to_owned);
        let port = decode_redirect_port(&fields);
        let code = fields.get("redirectCode").map(|at| decode_redirect_code(&at)).unwrap_or(Some(301))?;
        fields.finish();
        if uri.is_some() && prefix_rewrite.is_some() {
            at.error(codes::EXCLUSIVE, "uri and prefixRewrite exclude each other");
        }
        let by_prefix = |condition: &HttpMatch| matches!(condition.uri, Some(StringMatch::Prefix(_)));
        if prefix_rewrite.is_some() && !matches.iter().all(by_prefix) {
            at.error(codes::EXCLUSIVE, "prefixRewrite needs a uri prefix in each match");
        }
        let nothing = uri.is_none() && prefix_rewrite.is_none() && authority.is_none() && scheme.is_none();
        if nothing && port == RedirectPort::Unset {
            at.error_as_istio(codes::EMPTY, "redirect must specify URI, authority, scheme, or port", "");
        }
        Some(Self { uri, prefix_rewrite, authority, port, scheme, code })
    }
}

fn decode_redirect_port(fields: &Fields<'_>) -> RedirectPort {
    let number = fields.get("port").and_then(|port| port.port());
    let derived = fields.get("derivePort").and_then(|derive| {
        derive.word(&[
            ("FROM_PROTOCOL_DEFAULT", RedirectPort::ProtocolDefault),
            ("FROM_REQUEST_PORT", RedirectPort::Request),
        ])
    });
    if fields.has("port") && fields.has("derivePort") {
        fields.at.error(codes::EXCLUSIVE, "port and derivePort exclude each other");
    }
    number.map(RedirectPort::Number).or(derived).unwrap_or_default()
}

fn decode_redirect_code(at: &At<'_>) -> Option<u16> {
    let code = u16::try_from(at.integer(0..=399)?).ok()?;
    match code {
        0 => Some(301),
        301 | 302 | 303 | 307 | 308 => Some(code),
        300..=399 => {
            at.warn(
                codes::REDIRECT_CODE,
                format!("{code} passes Istio's validation and does nothing"),
                "use 301, 302, 303, 307 or 308",
            );
            Some(code)
        }
        _ => {
            at.error(codes::RANGE, format!("redirect code {code} is not within 300 to 399"));
            None
        }
    }
}

impl DirectResponse {
    pub(super) fn decode(at: &At<'_>) -> Option<Self> {
        let fields = at.fields()?;
        let status = fields.required("status").and_then(|status| status.integer(200..=600));
        let (mut body, mut text) = (Vec::new(), false);
        if let Some(at) = fields.get("body") {
            let own = at.fields()?;
            if own.has("string") && own.has("bytes") {
                at.error(codes::EXCLUSIVE, "string and bytes exclude each other");
            }
            if let Some(string) = own.get("string") {
                body = string.text()?.as_bytes().to_vec();
                text = true;
            }
            if let Some(bytes) = own.get("bytes") {
                let decoded = STANDARD.decode(bytes.text()?);
                if decoded.is_err() {
                    bytes.error(codes::WRONG_TYPE, "not base64");
                }
                body = decoded.ok()?;
            }
            own.finish();
            if body.len() > MAX_BODY {
                at.error(codes::RANGE, format!("the body has {} bytes; the limit is 1 MiB", body.len()));
            } else if body.len() > LARGE_BODY {
                at.warn(codes::LARGE_BODY, "the body has more than 100 KiB", "let a service answer");
            }
        }
        fields.finish();
        Some(Self { status: u16::try_from(status?).ok()?, body: body.into(), text })
    }
}
