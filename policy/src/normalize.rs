//! The one form in which a path and a host are matched by authorization, and what is refused because it has no such form.
//!
//! What is decided here is what must be forwarded: a proxy that matches one spelling and forwards another can be talked around.

use std::{borrow::Cow, fmt, net::Ipv6Addr};

use certs::id::ServiceName;
use http::Uri;

use crate::{hosts, kinds::PathNormalization};

/// Why a request has no normal form: 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The path does not begin with `/`.
    #[error("the path does not begin with /")]
    Relative,
    /// A control character, also an escaped one.
    #[error("the path holds a control character")]
    Control,
    /// `#`: a fragment is no part of a request.
    #[error("the path holds #")]
    Fragment,
    /// `\`, `%5C` or `%2F`: servers differ in whether these separate segments.
    #[error("the path holds a backslash, or an escaped slash or backslash")]
    Separator,
    /// `%` without two hexadecimal digits.
    #[error("the path holds a broken escape")]
    Escape,
    /// `;` in a `.` or `..` segment: servers differ in whether it is one.
    #[error("the path holds a dot segment with parameters")]
    DotParameters,
    /// The decoded bytes are not UTF-8.
    #[error("the decoded path is not UTF-8")]
    NotUtf8,
    /// Not `HOST` or `HOST:PORT`.
    #[error("the authority is not HOST or HOST:PORT")]
    Authority,
}

/// A path (without query) in normal form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NormalPath<'a> {
    path: Cow<'a, str>,
    bare: Option<String>,
    unescaped: Option<String>,
}

impl NormalPath<'_> {
    /// The path: what is matched and forwarded.
    pub fn as_str(&self) -> &str {
        &self.path
    }

    /// The path without the `;parameters` of its segments, as many applications read it: what rules are matched against as well.
    pub fn without_parameters(&self) -> &str {
        self.bare.as_deref().unwrap_or(&self.path)
    }

    /// The path with the escapes of `@`, `:` and their like undone, as nearly every application reads it, where it has such: what
    /// rules that keep somebody out are matched against as well.
    pub fn unescaped(&self) -> Option<&str> {
        self.unescaped.as_deref()
    }
}

/// The normal form of a path; what follows a `?` is left out.
///
/// # Errors
/// [`Refused`], which is 400. Only [`PathNormalization::Strict`] refuses more than control characters and `#`.
pub fn path(raw: &str, level: PathNormalization) -> Result<NormalPath<'_>, Refused> {
    let raw = raw.split_once('?').map_or(raw, |(path, _)| path);
    forwardable(raw)?;
    if raw == "*" {
        return Ok(NormalPath { path: Cow::Borrowed(raw), bare: None, unescaped: None });
    }
    if !raw.starts_with('/') {
        return Err(Refused::Relative);
    }
    if level == PathNormalization::Strict {
        check_strictly(raw)?;
    }
    if is_plain(raw) {
        return Ok(NormalPath { path: Cow::Borrowed(raw), bare: None, unescaped: None });
    }
    let mut path = escapes(raw);
    if level == PathNormalization::DecodeAndMergeSlashes {
        path = path.replace("%2F", "/").replace("%5C", "\\");
    }
    if level != PathNormalization::None {
        path = path.replace('\\', "/");
    }
    // Before dot segments are resolved: `/.;/../admin` must not lose its first segment unseen.
    if level == PathNormalization::Strict && path.split('/').any(is_dot_with_parameters) {
        return Err(Refused::DotParameters);
    }
    let path = segments(&path, level);
    let bare = path.contains(';').then(|| {
        let kept: Vec<&str> =
            path.split('/').map(|segment| segment.split_once(';').map_or(segment, |(name, _)| name)).collect();
        segments(&kept.join("/"), level)
    });
    let unescaped = path.contains('%').then(|| without_escapes(&path, is_in_segment)).filter(|read| *read != path);
    Ok(NormalPath { path: Cow::Owned(path), bare, unescaped })
}

/// The target of a request in the form in which it is routed and forwarded, whether or not a rule looks at paths; `None` if that is the
/// one that it has. Two spellings are one where every server reads them so (RFC 3986, 6.2.2): dot segments and escapes of unreserved
/// characters. Where the level is Istio's, more is as Istio has it; [`PathNormalization::Strict`] leaves the rest as it came, and refuses
/// only what no reading is safe of.
///
/// # Errors
/// [`Refused::DotParameters`] if a dot segment stands beside one with parameters and the level is [`PathNormalization::Strict`].
pub fn target(uri: &Uri, level: PathNormalization) -> Result<Option<Uri>, Refused> {
    let raw = uri.path();
    if level == PathNormalization::None || is_routable(raw.as_bytes()) || !raw.starts_with('/') {
        return Ok(None);
    }
    let mut path = unreserved_undone(raw);
    if level == PathNormalization::DecodeAndMergeSlashes {
        path = path.replace("%2F", "/").replace("%2f", "/").replace("%5C", "\\").replace("%5c", "\\");
    }
    let strict = level == PathNormalization::Strict;
    if !strict {
        path = path.replace('\\', "/");
    }
    // To merge slashes makes another resource of some (`/fetch/https://a.example`), so that is for rules to ask for.
    let resolved = segments(&path, if strict { PathNormalization::Base } else { level });
    if strict && resolved != path && path.split('/').any(is_dot_with_parameters) {
        return Err(Refused::DotParameters);
    }
    if resolved == raw {
        return Ok(None);
    }
    let target = match uri.query() {
        Some(query) => format!("{resolved}?{query}"),
        None => resolved,
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(target.try_into().map_err(|_| Refused::Control)?);
    Uri::from_parts(parts).map(Some).map_err(|_| Refused::Relative)
}

/// True if every level leaves the path as it is for routes: what nearly all paths are.
fn is_routable(raw: &[u8]) -> bool {
    let mut before = 0;
    raw.iter().all(|byte| {
        let special = matches!(byte, b'%' | b'\\') || before == b'/' && matches!(byte, b'/' | b'.');
        before = *byte;
        !special
    })
}

/// Escapes of unreserved characters decoded, once; all else as it came. What follows a `%` that begins no escape stays: decoded, it could
/// make one of it.
pub(crate) fn unreserved_undone(raw: &str) -> String {
    let mut undone = String::with_capacity(raw.len());
    let mut stray = None;
    let mut rest = raw;
    while let Some((before, after)) = rest.split_once('%') {
        undone.push_str(before);
        rest = after;
        let broken_before = stray.is_some_and(|stray| undone.len() - stray <= 2);
        match escaped(after.as_bytes()) {
            Some(byte) if is_unreserved(byte) && !broken_before => {
                undone.push(char::from(byte));
                rest = &after[2..];
            }
            Some(_) => {
                undone.push('%');
                undone.push_str(&after[..2]);
                rest = &after[2..];
            }
            None => {
                stray = Some(undone.len());
                undone.push('%');
            }
        }
    }
    undone.push_str(rest);
    undone
}

/// Refuses what no request may hold, whether or not a rule looks at paths.
///
/// # Errors
/// A control character or `#`.
pub fn forwardable(raw: &str) -> Result<(), Refused> {
    match raw.bytes().find(|byte| byte.is_ascii_control() || *byte == b'#') {
        Some(b'#') => Err(Refused::Fragment),
        Some(_) => Err(Refused::Control),
        None => Ok(()),
    }
}

/// True if every level leaves the path as it is.
fn is_plain(raw: &str) -> bool {
    raw.bytes().all(|byte| byte == b'/' || byte != b';' && is_in_segment(byte))
        && !raw.contains("//")
        && !raw.contains("/.")
}

/// What may stand in a segment of a path as it is (`pchar` of RFC 3986, 3.3).
fn is_in_segment(byte: u8) -> bool {
    is_unreserved(byte) || b"!$&'()*+,;=:@".contains(&byte)
}

/// What is never escaped (RFC 3986, 2.3).
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// What [`PathNormalization::Strict`] refuses.
fn check_strictly(raw: &str) -> Result<(), Refused> {
    if raw.contains('\\') {
        return Err(Refused::Separator);
    }
    let mut decoded = Vec::with_capacity(raw.len());
    let mut rest = raw.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        if first != b'%' {
            decoded.push(first);
            rest = after;
            continue;
        }
        let byte = escaped(after).ok_or(Refused::Escape)?;
        match byte {
            b'/' | b'\\' => return Err(Refused::Separator),
            _ if byte.is_ascii_control() => return Err(Refused::Control),
            _ => decoded.push(byte),
        }
        rest = &after[2..];
    }
    std::str::from_utf8(&decoded).map(|_| ()).map_err(|_| Refused::NotUtf8)
}

/// `.;x` or `..;x`.
fn is_dot_with_parameters(segment: &str) -> bool {
    segment.split_once(';').is_some_and(|(name, _)| name == "." || name == "..")
}

/// The byte that two hexadecimal digits mean.
fn escaped(digits: &[u8]) -> Option<u8> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let [high, low, ..] = digits else { return None };
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

/// Escapes of unreserved characters decoded, the digits of the others in upper case, and what may not stand in a path as it is, such
/// as letters beyond ASCII, escaped: a rule and a request may write `é` either way. Once: `%252e` stays. A broken escape becomes an
/// escaped `%`. Backslashes are the levels' to judge.
pub(crate) fn escapes(text: &str) -> String {
    without_escapes(text, is_unreserved)
}

/// The same; what escapes are `undone` is the caller's to say.
fn without_escapes(text: &str, undone: impl Fn(u8) -> bool) -> String {
    let mut normal = String::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        let stays = match (first, escaped(after)) {
            (b'%', Some(byte)) => {
                rest = &after[2..];
                if undone(byte) {
                    normal.push(char::from(byte));
                    continue;
                }
                byte
            }
            // A `%` that begins no escape is one itself: left alone, it could begin one with what is decoded behind it.
            (b'%', None) => first,
            _ if is_in_segment(first) || matches!(first, b'/' | b'\\') => {
                normal.push(char::from(first));
                continue;
            }
            _ => first,
        };
        normal.push('%');
        for digit in [stays >> 4, stays & 15] {
            normal.push(char::from(b"0123456789ABCDEF"[usize::from(digit)]));
        }
    }
    normal
}

/// Slashes merged and dot segments resolved, as far as the level says. The root has no parent: `/..` is `/`.
fn segments(path: &str, level: PathNormalization) -> String {
    let (merges, resolves) = match level {
        PathNormalization::Strict | PathNormalization::MergeSlashes | PathNormalization::DecodeAndMergeSlashes => {
            (true, true)
        }
        PathNormalization::Base => (false, true),
        PathNormalization::None => (false, false),
    };
    let mut kept: Vec<&str> = Vec::new();
    let mut directory = false;
    for segment in path.split('/').skip(1) {
        // What the last segment leaves behind: a path that ends in `/` or in a dot segment ends in `/`.
        directory = false;
        match segment {
            "." if resolves => directory = true,
            ".." if resolves => {
                kept.pop();
                directory = true;
            }
            "" if merges => directory = true,
            _ => kept.push(segment),
        }
    }
    if directory {
        kept.push("");
    }
    format!("/{}", kept.join("/"))
}

/// An authority in normal form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NormalHost {
    host: String,
    port: Option<u16>,
    default_port: u16,
}

impl NormalHost {
    /// The forms that mean this authority: without its port and with it, where it is the default one.
    pub(crate) fn spellings(&self) -> impl Iterator<Item = String> + '_ {
        let short = self.port.is_none().then(|| self.host.clone());
        let port = self.port.unwrap_or(self.default_port);
        short.into_iter().chain([format!("{}:{port}", self.host)])
    }

    /// All that somebody who wants to keep this host out may have written for it: every name of the service that was called, if
    /// this is one of them, each without a port, with the one that was sent, with the service's, and with the default one.
    pub(crate) fn readings(&self, called: Option<(&ServiceName, u16)>) -> Vec<String> {
        let aliases = called.map(|(service, _)| hosts::aliases(service)).unwrap_or_default();
        let names = if aliases.contains(&self.host) { aliases } else { vec![self.host.clone()] };
        let mut ports = vec![self.port.unwrap_or(self.default_port), self.default_port];
        ports.extend(called.map(|(_, port)| port));
        ports.sort_unstable();
        ports.dedup();
        let with_ports = |name: String| {
            let with: Vec<String> = ports.iter().map(|port| format!("{name}:{port}")).collect();
            [name].into_iter().chain(with)
        };
        names.into_iter().flat_map(with_ports).collect()
    }
}

impl fmt::Display for NormalHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}:{port}", self.host),
            None => f.write_str(&self.host),
        }
    }
}

/// The normal form of an authority: lower case, no trailing dot, no default port, IPv6 as RFC 5952 writes it.
///
/// # Errors
/// [`Refused::Authority`] for user information, empty labels, a port that is none, and letters that no host has.
pub fn host(authority: &str, default_port: u16) -> Result<NormalHost, Refused> {
    let refused = Err(Refused::Authority);
    let (name, port) = match authority.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        Some(_) | None => (authority, None),
    };
    let port = match port {
        Some(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => match text.parse::<u16>() {
            Ok(port) if port > 0 => Some(port),
            Ok(_) | Err(_) => return refused,
        },
        Some(_) => return refused,
        None => None,
    };
    let host = if let Some(address) = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        let Ok(address) = address.parse::<Ipv6Addr>() else { return refused };
        format!("[{address}]")
    } else {
        let name = name.strip_suffix('.').unwrap_or(name);
        let letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if !name.split('.').all(|label| !label.is_empty() && label.bytes().all(letter)) {
            return refused;
        }
        name.to_ascii_lowercase()
    };
    Ok(NormalHost { host, port: port.filter(|port| *port != default_port), default_port })
}

#[cfg(test)]
mod tests;
