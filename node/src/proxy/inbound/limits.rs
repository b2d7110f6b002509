//! How often a service may be called: a request must find room in each rule of each RateLimit that it meets. A limit is this
//! node's own, or its share of one that all nodes of the service keep together; what is counted outlives changes of policy that
//! leave a rule alone.

use super::{
    super::failure::Cause,
    admission::{Arriving, Refusal},
};
use crate::{
    balance::rate::{Counts, Limit, Limits, MeshRule, Refused, Room},
    snapshot::Snapshot,
};
use certs::{
    id::{ServiceName, SpiffeId},
    sign::Digest,
};
use http::{HeaderMap, HeaderName, HeaderValue, Uri, header::RETRY_AFTER, request::Parts};
use policy::{
    compile::{Workload, WorkloadLimit},
    kinds::{LimitKey, LimitRule, PathNormalization},
    normalize,
    route::{self, Request},
};
use std::{borrow::Cow, sync::Arc};

pub(in crate::proxy) const RATE_LIMITED: HeaderName = HeaderName::from_static("x-envoy-ratelimited");
const LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("ratelimit-reset");

/// Where a rule is counted.
#[derive(Debug)]
pub(in crate::proxy) struct Counted {
    counts: Arc<Counts>,
    /// This node's share, where all nodes keep the limit together.
    mesh: Option<Arc<MeshRule>>,
}

/// Where a workload's limits are counted, in their order.
pub(in crate::proxy) fn counted(
    snapshot: &Snapshot,
    service: &ServiceName,
    instance: Option<&str>,
    workload: &Workload,
) -> Vec<Counted> {
    // Until the agent counts those that share, nobody is overlooked.
    let nodes = snapshot.services.get(service).map_or(1, |service| service.nodes().len());
    let of = |limit: &WorkloadLimit| Counted {
        counts: snapshot.limits.counts(&limit.id_at(service, instance)),
        mesh: snapshot.limits.mesh(limit, service, nodes),
    };
    workload.limits.iter().map(of).collect()
}

impl Arriving<'_> {
    /// Lets the request in if every limit that it may meet has room for it; if one has not, it uses up nothing of the others. Gives
    /// the limit that has least room left; `None` if the request meets none.
    ///
    /// # Errors
    /// 429.
    pub(super) fn find_room(
        &self,
        limits: &Limits,
        workload: &Workload,
        counted: &[Counted],
        parts: &Parts,
        now_micros: u64,
    ) -> Result<Option<Quota>, Refusal> {
        let uri = normal(&parts.uri);
        let request = Request {
            method: &parts.method,
            uri: &uri,
            authority: self.host.to_str().map_err(|_| Cause::BadRequest("not a host"))?,
            scheme: self.scheme,
            headers: &parts.headers,
            source: &self.who.source,
            fixed: None,
            token: None,
            own_port: None,
        };
        let mut taken: Vec<(Bucket<'_>, &Counts)> = Vec::new();
        let mut least: Option<Quota> = None;
        for (limit, counted) in workload.limits.iter().zip(counted) {
            if !route::may_meet(&limit.rule.matches, &request, self.who.port, &self.who.labels) {
                continue;
            }
            let bucket = self.bucket(limit, counted, &request);
            let room = bucket.admit(limits, now_micros).map_err(|refused| {
                taken.iter().for_each(|(bucket, _)| bucket.give_back(limits));
                counted.counts.refuse();
                refusal(limit, refused)
            })?;
            if least.as_ref().is_none_or(|least| room.remaining < least.room.remaining) {
                least = Some(Quota { requests: limit.rule.requests, room });
            }
            taken.push((bucket, &counted.counts));
        }
        taken.iter().for_each(|(_, counts)| counts.admit());
        Ok(least)
    }

    fn bucket<'v>(&'v self, limit: &WorkloadLimit, counted: &'v Counted, request: &Request<'v>) -> Bucket<'v> {
        let values: Vec<_> = limit.rule.per.iter().map(|key| self.value(key, request)).collect();
        match &counted.mesh {
            Some(rule) => Bucket::Mesh { rule, key: number(&values) },
            None => Bucket::Node {
                place: limit.id_at(&self.who.service, self.who.instance.as_deref()),
                values,
                pace: Limit::of(&limit.rule),
            },
        }
    }

    /// What tells this caller or request from others; empty where there is no such thing.
    fn value<'v>(&'v self, key: &LimitKey, request: &Request<'v>) -> Cow<'v, [u8]> {
        let identity = self.who.identity.as_ref();
        let account = identity.and_then(SpiffeId::account);
        let text = |text: String| Cow::Owned(text.into_bytes());
        match key {
            LimitKey::Principal => text(identity.map(SpiffeId::uri).unwrap_or_default()),
            LimitKey::Namespace => Cow::Borrowed(account.map_or("", |account| account.namespace()).as_bytes()),
            LimitKey::ServiceAccount => text(account.map(ToString::to_string).unwrap_or_default()),
            LimitKey::SourceIp => text(self.who.address.to_string()),
            LimitKey::RemoteIp => text(self.original.unwrap_or(self.who.address).to_string()),
            // Copied: the normal form does not outlive the look at it.
            LimitKey::Path => text(request.uri.path().to_owned()),
            LimitKey::Method => Cow::Borrowed(request.method.as_str().as_bytes()),
            LimitKey::Host => {
                let host = normalize::host(request.authority, self.own_port()).map(|host| host.to_string());
                text(host.unwrap_or_else(|_| request.authority.to_ascii_lowercase()))
            }
            LimitKey::Header(name) => header(request.headers, name),
        }
    }
}

/// A limit that a request met, and what it left.
#[derive(Debug, Clone, Copy)]
pub(in crate::proxy) struct Quota {
    requests: u32,
    room: Room,
}

impl Quota {
    /// Tells the caller, unless the application tells of limits of its own.
    pub(in crate::proxy) fn tell(self, headers: &mut HeaderMap) {
        if [LIMIT, REMAINING, RESET].iter().any(|name| headers.contains_key(name)) {
            return;
        }
        headers.insert(LIMIT, HeaderValue::from(self.requests));
        headers.insert(REMAINING, HeaderValue::from(self.room.remaining));
        headers.insert(RESET, HeaderValue::from(self.room.full_after.div_ceil(1_000)));
    }
}

/// The requests that share a limit's room with this one.
enum Bucket<'v> {
    /// On this node.
    Node { place: Vec<u8>, values: Vec<Cow<'v, [u8]>>, pace: Limit },
    /// In the mesh.
    Mesh { rule: &'v MeshRule, key: u64 },
}

impl Bucket<'_> {
    fn admit(&self, limits: &Limits, now_micros: u64) -> Result<Room, Refused> {
        match self {
            Self::Node { place, values, pace } => limits.admit(&key(place, values), pace, now_micros),
            Self::Mesh { rule, key } => rule.admit(*key, now_micros),
        }
    }

    fn give_back(&self, limits: &Limits) {
        match self {
            Self::Node { place, values, pace } => limits.give_back(&key(place, values), pace),
            Self::Mesh { rule, key } => rule.give_back(*key),
        }
    }
}

fn key<'k>(place: &'k [u8], values: &'k [Cow<'_, [u8]>]) -> Vec<&'k [u8]> {
    std::iter::once(place).chain(values.iter().map(|value| &**value)).collect()
}

/// The same for the same values on every node, and nobody finds values that have the number of others.
fn number(values: &[Cow<'_, [u8]>]) -> u64 {
    if values.is_empty() {
        return 1;
    }
    let mut bytes = Vec::with_capacity(values.iter().map(|value| value.len() + 8).sum());
    for value in values {
        bytes.extend_from_slice(&(value.len() as u64).to_be_bytes());
        bytes.extend_from_slice(value);
    }
    Digest::of(&bytes).first_u64()
}

/// All lines of a header as one value.
fn header<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Cow<'h, [u8]> {
    let mut lines = headers.get_all(name).iter().map(HeaderValue::as_bytes);
    let first = lines.next().unwrap_or_default();
    let rest: Vec<&[u8]> = lines.collect();
    if rest.is_empty() {
        Cow::Borrowed(first)
    } else {
        Cow::Owned([&[first], rest.as_slice()].concat().join(&b","[..]))
    }
}

/// The target with its path in normal form and without `;parameters`, whatever the application makes of the path: no spelling gets
/// around a limit.
fn normal(uri: &Uri) -> Cow<'_, Uri> {
    let path = normalize::path(uri.path(), PathNormalization::Strict)
        .or_else(|_| normalize::path(uri.path(), PathNormalization::DecodeAndMergeSlashes));
    let Ok(path) = path else { return Cow::Borrowed(uri) };
    let path = path.without_parameters();
    if path == uri.path() {
        return Cow::Borrowed(uri);
    }
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    format!("{path}{query}").parse().map_or(Cow::Borrowed(uri), Cow::Owned)
}

/// 429, with what the caller is told of when to come again.
fn refusal(limit: &WorkloadLimit, refused: Refused) -> Refusal {
    let LimitRule { requests, response_headers, .. } = &limit.rule;
    let seconds = HeaderValue::from(refused.after.div_ceil(1_000).max(1));
    let mut headers: HeaderMap = response_headers.iter().cloned().collect();
    headers.insert(RETRY_AFTER, seconds.clone());
    headers.insert(RATE_LIMITED, HeaderValue::from_static("true"));
    headers.insert(LIMIT, HeaderValue::from(*requests));
    headers.insert(REMAINING, HeaderValue::from(0));
    headers.insert(RESET, seconds);
    let details = format!("local_rate_limited[{} rules[{}]]", limit.document, limit.index);
    Refusal { details: Some(details), headers: Some(Box::new(headers)), ..Cause::RateLimited.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_a_path_are_one() {
        for (sent, wanted) in [
            ("/a/b?x=%2F", "/a/b?x=%2F"),
            ("//a/./c/../b?x", "/a/b?x"),
            ("/%61/b", "/a/b"),
            ("/a%2fb", "/a/b"),
            ("/a\\b", "/a/b"),
            ("/a;x=1/b;y?q=;", "/a/b?q=;"),
            ("/x/..;/a/b", "/a/b"),
        ] {
            assert_eq!(normal(&sent.parse().unwrap()).to_string(), wanted, "{sent}");
        }
    }

    #[test]
    fn keys_of_the_mesh_are_told_apart() {
        let number = |values: &[&'static str]| {
            let values: Vec<Cow<'_, [u8]>> = values.iter().map(|value| Cow::Borrowed(value.as_bytes())).collect();
            number(&values)
        };
        assert_eq!(number(&["a", "b"]), number(&["a", "b"]));
        let all = [number(&[]), number(&[""]), number(&["a", "b"]), number(&["ab", ""]), number(&["b", "a"])];
        assert_eq!(all.iter().collect::<std::collections::BTreeSet<_>>().len(), all.len());
    }

    #[test]
    fn header_lines_are_one_value() {
        let mut headers = HeaderMap::new();
        let name = HeaderName::from_static("x-user");
        assert_eq!(&*header(&headers, &name), b"");
        headers.append(&name, HeaderValue::from_static("a"));
        assert_eq!(&*header(&headers, &name), b"a");
        headers.append(&name, HeaderValue::from_static("b"));
        assert_eq!(&*header(&headers, &name), b"a,b");
    }
}
