//! What is known of a peer and its request, and whether it meets some values: surely, or perhaps.
//!
//! Most attributes have one value, and both answers are the same. They differ for a header with several values, a path with
//! parameters and what cannot be read: `perhaps` is true if any reading meets a value, `surely` only if every reading does.

use std::{cell::OnceCell, net::IpAddr};

use certs::id::{SpiffeId, Subject};
use http::header::HeaderValue;
use serde_json::Value as Json;

use super::{Head, Peer, Token};
use crate::kinds::{Attribute, TextPattern, Value};

/// What is known of a peer and its request.
pub(super) struct Facts<'a> {
    peer: &'a Peer<'a>,
    head: Option<&'a Head<'a>>,
    trust_domains: &'a [String],
    /// The identity as a principal, once for each name of its trust domain.
    principals: OnceCell<Vec<String>>,
    /// The authority in every form that means it, and for what forbids in every form that may be meant by it.
    hosts: [OnceCell<Vec<String>>; 2],
}

/// How much a match must be worth.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sure {
    Perhaps,
    Surely,
}

/// A path's two readings, with the parameters of its segments and without. What permits must meet both, unless it names parameters.
fn both(sure: Sure, with: bool, without: bool, names_parameters: bool) -> bool {
    match sure {
        Sure::Perhaps => with || without,
        Sure::Surely => with && (without || names_parameters),
    }
}

impl<'a> Facts<'a> {
    pub(super) fn new(peer: &'a Peer<'a>, head: Option<&'a Head<'a>>, trust_domains: &'a [String]) -> Self {
        Self { peer, head, trust_domains, principals: OnceCell::new(), hosts: Default::default() }
    }

    pub(super) fn is_http(&self) -> bool {
        self.head.is_some()
    }

    /// True if the attribute is there and every reading of it meets one of the values.
    pub(super) fn surely(&self, attribute: &Attribute, values: &[Value]) -> bool {
        self.meets(attribute, values, Sure::Surely)
    }

    /// True if some reading of the attribute meets one of the values, or it cannot be read.
    pub(super) fn perhaps(&self, attribute: &Attribute, values: &[Value]) -> bool {
        !values.is_empty() && self.meets(attribute, values, Sure::Perhaps)
    }

    fn meets(&self, attribute: &Attribute, values: &[Value], sure: Sure) -> bool {
        let account = || self.peer.identity.and_then(SpiffeId::account);
        match attribute {
            Attribute::Principal => self.principals().iter().any(|name| filled(values, name)),
            Attribute::TrustDomain => self.trust_domains().any(|name| filled(values, name)),
            Attribute::Namespace => account().is_some_and(|account| namespace(values, account.namespace())),
            Attribute::ServiceAccount => account().is_some_and(|own| named(values, own.namespace(), own.account())),
            Attribute::SourceIp => address(values, self.peer.address),
            Attribute::RemoteIp => address(values, self.peer.original_address.or(self.peer.address)),
            Attribute::DestinationIp => address(values, self.peer.destination),
            Attribute::DestinationPort => {
                values.iter().any(|value| matches!(value, Value::Port(port) if *port == self.peer.port))
            }
            Attribute::ServerName => self.peer.server_name.is_some_and(|name| filled(values, name)),
            // Whatever a filter of Envoy's might have said: nobody knows.
            Attribute::EnvoyFilter(_) => sure == Sure::Perhaps,
            Attribute::Host
            | Attribute::Method
            | Attribute::Path
            | Attribute::Header(_)
            | Attribute::RequestPrincipal
            | Attribute::Audience
            | Attribute::Presenter
            | Attribute::Claim(_) => self.head.is_some_and(|head| self.request_meets(head, attribute, values, sure)),
        }
    }

    fn request_meets(&self, head: &Head<'_>, attribute: &Attribute, values: &[Value], sure: Sure) -> bool {
        match attribute {
            Attribute::Host => self.hosts(head, sure).iter().any(|host| present(values, host)),
            Attribute::Method => present(values, head.method),
            Attribute::Path => {
                let (path, bare) = (head.path.as_str(), head.path.without_parameters());
                let unescaped = head.path.unescaped().filter(|_| sure == Sure::Perhaps);
                values.iter().any(|value| match value {
                    Value::Path(own) => {
                        both(sure, own.is_match(path), own.is_match(bare), own.has_parameters())
                            || unescaped.is_some_and(|path| own.is_match(path))
                    }
                    Value::Text(_)
                    | Value::Namespace(_)
                    | Value::Account { .. }
                    | Value::Addresses(_)
                    | Value::Port(_)
                    | Value::Token(_) => false,
                })
            }
            Attribute::Header(name) => self.header_meets(head, name, values, sure),
            Attribute::RequestPrincipal => head.token.is_some_and(|token| principal(values, token)),
            Attribute::Audience => claim(head.token, &["aud"], values),
            Attribute::Presenter => claim(head.token, &["azp"], values),
            Attribute::Claim(path) => claim(head.token, path, values),
            Attribute::Principal
            | Attribute::Namespace
            | Attribute::ServiceAccount
            | Attribute::TrustDomain
            | Attribute::SourceIp
            | Attribute::RemoteIp
            | Attribute::DestinationIp
            | Attribute::DestinationPort
            | Attribute::ServerName
            | Attribute::EnvoyFilter(_) => false,
        }
    }

    fn header_meets(&self, head: &Head<'_>, name: &str, values: &[Value], sure: Sure) -> bool {
        let with_query = |path: &str| head.query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
        match name {
            ":method" => present(values, head.method),
            ":scheme" => present(values, head.scheme),
            // Case does not count in a host, so it does not count in what it is compared with.
            ":authority" | "host" => {
                self.hosts(head, sure).iter().any(|host| values.iter().any(|value| same_host(value, host)))
            }
            ":path" => {
                let [path, bare] = [head.path.as_str(), head.path.without_parameters()].map(with_query);
                let unescaped = head.path.unescaped().filter(|_| sure == Sure::Perhaps).map(with_query);
                values.iter().filter_map(text).any(|own| {
                    both(sure, own.is_match(&path), own.is_match(&bare), own.has_parameters())
                        || unescaped.as_deref().is_some_and(|path| own.is_match(path))
                })
            }
            _ => lines_meet(head.headers.get_all(name).iter(), values, sure),
        }
    }

    /// The names of the peer's trust domain: all of this mesh's, if it is one of them.
    fn trust_domains(&self) -> impl Iterator<Item = &str> {
        let own = self.peer.identity.map(|identity| identity.trust_domain.as_str());
        let ours = own.is_some_and(|own| self.trust_domains.iter().any(|name| name == own));
        let aliases = self.trust_domains.iter().filter(move |_| ours).map(String::as_str);
        own.filter(move |_| !ours).into_iter().chain(aliases)
    }

    fn principals(&self) -> &[String] {
        self.principals.get_or_init(|| {
            let Some(identity) = self.peer.identity else { return Vec::new() };
            let path = match &identity.subject {
                Subject::Service(account) => format!("/ns/{}/sa/{}", account.namespace(), account.account()),
                Subject::Node(node) => format!("/mesh/node/{node}"),
            };
            self.trust_domains().map(|name| format!("{name}{path}")).collect()
        })
    }

    /// Istio compares the whole authority, so that `hosts: [web]` does not mean `web:8080`. What permits does as Istio; what
    /// forbids must not be got around by writing the port, or another of the service's names.
    fn hosts(&self, head: &Head<'_>, sure: Sure) -> &[String] {
        let [surely, perhaps] = &self.hosts;
        match sure {
            Sure::Surely => surely.get_or_init(|| head.host.spellings().collect()),
            Sure::Perhaps => perhaps.get_or_init(|| head.host.readings(head.called)),
        }
    }
}

fn text(value: &Value) -> Option<&TextPattern> {
    match value {
        Value::Text(pattern) => Some(pattern),
        Value::Namespace(_)
        | Value::Account { .. }
        | Value::Path(_)
        | Value::Addresses(_)
        | Value::Port(_)
        | Value::Token(_) => None,
    }
}

/// `*` is any value, also an empty one.
fn present(values: &[Value], found: &str) -> bool {
    values.iter().filter_map(text).any(|pattern| pattern.is_match(found))
}

/// `*` is any value that is not empty.
fn filled(values: &[Value], found: &str) -> bool {
    values.iter().filter_map(text).any(|pattern| pattern.is_match_filled(found))
}

fn same_host(value: &Value, host: &str) -> bool {
    text(value).is_some_and(|pattern| pattern.clone().lower_case().is_match(host))
}

fn namespace(values: &[Value], found: &str) -> bool {
    values.iter().any(|value| matches!(value, Value::Namespace(own) if own.is_match(found)))
}

fn named(values: &[Value], found_namespace: &str, found_name: &str) -> bool {
    let same = |value: &Value| matches!(value, Value::Account { namespace, name } if namespace == found_namespace && name == found_name);
    values.iter().any(same)
}

fn address(values: &[Value], found: Option<IpAddr>) -> bool {
    let inside = |found| values.iter().any(|value| matches!(value, Value::Addresses(range) if range.contains(found)));
    found.is_some_and(inside)
}

/// Header lines: each alone and all joined by commas, as Envoy sees them. What forbids also looks at the items of lists, since a
/// sender may write one line or several.
fn lines_meet<'v>(lines: impl Iterator<Item = &'v HeaderValue>, values: &[Value], sure: Sure) -> bool {
    let mut texts = Vec::new();
    for line in lines {
        match std::str::from_utf8(line.as_bytes()) {
            Ok(text) => texts.push(text),
            // It might be anything to its reader.
            Err(_) => return sure == Sure::Perhaps,
        }
    }
    let joined = if texts.len() > 1 { Some(texts.join(",")) } else { None };
    let mut readings = texts.iter().copied().chain(joined.as_deref());
    match sure {
        Sure::Surely => !texts.is_empty() && readings.all(|reading| present(values, reading)),
        Sure::Perhaps => {
            let items = texts.iter().flat_map(|text| text.split(',')).map(str::trim);
            readings.any(|reading| present(values, reading)) || { items }.any(|item| present(values, item))
        }
    }
}

fn principal(values: &[Value], token: &Token) -> bool {
    let (issuer, subject) =
        (token.claims.get("iss").and_then(Json::as_str), token.claims.get("sub").and_then(Json::as_str));
    let (Some(issuer), Some(subject)) = (issuer, subject) else { return false };
    values.iter().any(|value| matches!(value, Value::Token(own) if own.is_match(issuer, subject)))
}

/// Claims whose text is a list separated by spaces (RFC 8693, 4.2), whatever a rule says.
const SPACE_DELIMITED: [&str; 2] = ["scope", "permission"];

/// A claim that is a string, or a list that has one of the values.
fn claim<S: AsRef<str>>(token: Option<&Token>, path: &[S], values: &[Value]) -> bool {
    token.is_some_and(|token| token.any_of(path, |text| filled(values, text)))
}

impl Token {
    /// True if a claim is a string that passes, or a list, one of whose strings does.
    pub(crate) fn any_of<S: AsRef<str>>(&self, path: &[S], passes: impl Fn(&str) -> bool) -> bool {
        let Some((first, rest)) = path.split_first() else { return false };
        let first = first.as_ref();
        let found = rest.iter().try_fold(self.claims.get(first), |at, key| at.map(|at| at.get(key.as_ref())));
        let Some(found) = found.flatten() else { return false };
        let split = rest.is_empty()
            && (SPACE_DELIMITED.contains(&first) || self.space_delimited.iter().any(|name| name == first));
        match found {
            Json::String(text) => passes(text) || (split && text.split(' ').any(passes)),
            Json::Array(items) => items.iter().filter_map(Json::as_str).any(passes),
            Json::Null | Json::Bool(_) | Json::Number(_) | Json::Object(_) => false,
        }
    }
}
