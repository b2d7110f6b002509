//! Attempts: endpoint after endpoint until one answers, the conditions of retry are used up, or time is over.

use super::{
    Answered, Requests,
    affinity::Affinity,
    attempt::{Attempt, Try, Way},
    by_name::Brought,
    grpc_timeout,
    marks::Marks,
    mirror,
};
use crate::{
    balance::{Ask, Tried},
    clock,
    proxy::{
        deadline::Deadline,
        exchange::Exchange,
        failure::Cause,
        flight::Flight,
        http::{self as body, Incoming, Upload},
        inbound::RATE_LIMITED,
        reply::{GRPC_STATUS, OVERLOADED},
        upgrade,
    },
    snapshot::{Carries, Snapshot},
    telemetry::Flags,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, Version, request::Parts, uri::PathAndQuery};
use policy::{
    authorize::Token,
    headers::Side,
    hosts::split_authority,
    retry::{Outcome, Retries},
    route::{Destination, Routed},
};
use std::{sync::Arc, time::Duration};

pub(super) const ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");
/// Milliseconds that most answers take, as they are written.
const SHORT_TIMES: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
const SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");

/// A request as the application sent it, hop-by-hop headers stripped. Its head becomes in its place what each attempt sends.
pub(super) struct Outgoing {
    pub(super) head: Head,
    pub(super) upgrade: Option<HeaderValue>,
    /// Nothing once it is being sent.
    pub(super) incoming: Incoming,
    /// What was verified of its user at a gateway, for its routes.
    pub(super) user: Option<Arc<Token>>,
}

/// Forwards a request along its route.
pub(super) async fn forward(
    requests: &Requests<'_>,
    snapshot: &Arc<Snapshot>,
    routed: &Routed,
    (destination, marks): (Option<&Destination>, Option<&Marks<'_>>),
    outgoing: &mut Outgoing,
    exchange: &mut Exchange,
) -> Result<Answered, Cause> {
    let (context, route) = (requests.context, &routed.route);
    let destination = destination.ok_or(Cause::NoRoute)?;
    let Outgoing { head, upgrade, incoming, user: _ } = outgoing;
    let (incoming, came) = (std::mem::replace(incoming, Incoming::Own(None)), head.parts.version);
    let config = snapshot.compiled.config();
    let patience = body::patience(&config.limits, &head.parts.headers);
    let before = rewrite(requests, routed, destination, head);
    let before = before.inspect_err(|_| requests.count_service(routed, exchange))?;
    let names = [requests.speaker.fixed_host(), head.host.to_str().ok().map(|host| split_authority(host).0)];
    let brought = Brought { port: routed.port, dialled: requests.dialled, names, account: requests.account() };
    let placed = context.place(snapshot, &requests.speaker, destination, brought).await;
    let placed = placed.inspect_err(|_| requests.count_service(routed, exchange))?;
    let cluster = context
        .cluster(snapshot, &requests.speaker, route, destination, (routed.port, placed.at), carries(came))
        .inspect_err(|_| requests.count_service(routed, exchange))?;
    exchange.between(Arc::clone(&cluster.nobody));
    let hash = cluster.consistent_hash();
    // As in Envoy, what the application sent counts, not what the route makes of it.
    let key = before.as_deref().unwrap_or(head);
    let affinity = hash
        .map(|hash| Affinity::of(hash, (&key.parts, &key.host), requests.remote, context.random()))
        .unwrap_or_default();
    drop(before);
    let grpc = exchange.is_grpc();
    let upload = Upload::new(incoming, route.retries.attempts > 0, &context.budget, patience);
    if !route.mirrors.is_empty() && upgrade.is_none() {
        mirror::copy(requests, routed, head, &upload);
    }
    exchange.goes_to(&cluster.circuit.cluster);
    exchange.uploads(upload.completion());
    let time = if grpc { grpc_timeout::of(&head.parts.headers, route.timeout) } else { route.timeout };
    let mut deadline = time.map(|timeout| Deadline::new(timeout, upload.completion()));
    let protocol = cluster.protocol(came, upgrade.as_ref());
    let (speaker, timed) = (&requests.speaker, time.is_some());
    let proxied = cluster.proxied(requests.remote, requests.dialled.unwrap_or(requests.local));
    let by = placed.by.as_ref();
    let way = Way { context, speaker, snapshot, cluster: &cluster, by, grpc, protocol, timed, proxied };
    let time = time.filter(|_| grpc);
    let (upload, hash) = (&upload, affinity.hash);
    let (attempt, with_endpoint, told) = ((0, 0), false, None);
    let mut attempts = Attempts { way, routed, hash, time, upload, exchange, attempt, with_endpoint, told };
    let upgrade = upgrade.as_ref();
    let response = match &mut deadline {
        None => attempts.run(head, upgrade).await,
        Some(deadline) => tokio::select! {
            biased;
            response = attempts.run(head, upgrade) => response,
            () = deadline => {
                attempts.timed_out();
                return Err(Cause::RouteTimeout);
            }
        },
    };
    let Attempted { mut response, member, flight } = match (response, attempts.told.take()) {
        (Ok(response), _) => response,
        (Err(cause), None) => return Err(cause),
        // This node answers, and what the called one gives to every response stands beside it.
        (Err(cause), Some(told)) => {
            let mut answered = requests.failed(cause, attempts.exchange);
            for (name, value) in told.iter() {
                answered.headers_mut().append(name.clone(), value.clone());
            }
            let status = answered.status();
            if let Some(marks) = marks {
                marks.mark(requests, status, answered.headers_mut(), None);
            }
            return Ok(answered);
        }
    };
    if let Some(marks) = marks {
        let upstream = attempts.way.address(&cluster.members[member], routed.port);
        marks.mark(requests, response.status(), response.headers_mut(), Some(upstream));
    }
    affinity.mark(response.headers_mut());
    Ok(Answered::Endpoint(response, deadline, Some(flight)))
}

/// A port that declares no protocol is spoken to as the application speaks.
pub(super) fn carries(version: Version) -> Carries {
    if version == Version::HTTP_2 { Carries::Http2 } else { Carries::Http1 }
}

/// A request's head and authority.
pub(super) struct Head {
    pub(super) parts: Parts,
    pub(super) host: HeaderValue,
}

/// Applies rewrite and header operations; gives the head as it was if they may have changed it.
fn rewrite(
    requests: &Requests<'_>,
    routed: &Routed,
    destination: &Destination,
    head: &mut Head,
) -> Result<Option<Box<Head>>, Cause> {
    let (Head { parts, host }, route) = (head, &routed.route);
    let operations = [&destination.request_headers, &route.request_headers];
    // As in Istio the route's own authority goes before the destination's.
    let of_route = routed.authority().is_some() || route.request_headers.authority.is_some();
    let path = routed.path(&parts.uri);
    let rewritten = match parts.uri.path_and_query() {
        Some(known) if known.as_str() == path => None,
        Some(_) | None => Some(PathAndQuery::try_from(&*path).map_err(|_| Cause::NoRewrite)?),
    };
    let operates = operations.iter().any(|operations| !operations.is_empty());
    let changes = operates || rewritten.is_some() || routed.authority().is_some();
    let before = changes.then(|| Box::new(Head { parts: parts.clone(), host: host.clone() }));
    if let Some(path) = rewritten {
        if let Some(original) = parts.uri.path_and_query().and_then(|path| HeaderValue::from_str(path.as_str()).ok()) {
            parts.headers.insert(ORIGINAL_PATH, original);
        }
        parts.uri = path.into();
    }
    if let Some(authority) = routed.authority() {
        *host = HeaderValue::from_str(authority).map_err(|_| Cause::NoRewrite)?;
    }
    // Formatters see the request before it is rewritten.
    if let Some(before) = before.as_deref().filter(|_| operates) {
        let facts = requests.facts(routed, &before.parts, &before.host);
        for (place, operations) in operations.into_iter().enumerate() {
            operations.apply(Side::Request, &mut parts.headers, &facts);
            let authority = operations.authority.as_ref().filter(|_| place > 0 || !of_route);
            if let Some(authority) = authority.and_then(|authority| authority.value(&facts)) {
                *host = authority;
            }
        }
    }
    Ok(before)
}

/// An answer that is passed on, and by whom.
struct Attempted {
    response: Response<body::Source>,
    member: usize,
    flight: Flight,
}

struct Attempts<'a> {
    way: Way<'a>,
    routed: &'a Routed,
    hash: Option<u64>,
    /// How long a gRPC call may take.
    time: Option<Duration>,
    upload: &'a Upload,
    exchange: &'a mut Exchange,
    /// The member of the latest attempt, and when it began.
    attempt: (usize, u64),
    /// That member has the request, and its answer is awaited.
    with_endpoint: bool,
    /// What that member's node said beside a failure.
    told: Option<Box<HeaderMap>>,
}

impl Attempts<'_> {
    async fn run(&mut self, head: &mut Head, upgrade: Option<&HeaderValue>) -> Result<Attempted, Cause> {
        let (way, retries) = (self.way, &self.routed.route.retries);
        let (context, cluster) = (way.context, way.cluster);
        let method = head.parts.method.clone();
        // A key's requests stay together, also when they fail.
        let avoid_tried = retries.ignore_previous && cluster.consistent_hash().is_none();
        let (mut tried, mut attempt, mut _room) = (Tried::default(), 0, None);
        let first = clock::uptime_micros();
        let mut began = first;
        loop {
            let (random, now) = (context.random(), began / 1_000);
            let ask = Ask { tried: &tried, leave: retries.remote_localities, hash: self.hash, random, now };
            let position = cluster.pick(&ask)?;
            if avoid_tried {
                tried.add(position);
            }
            let body = self.upload.attempt().ok_or_else(|| self.body_failure())?;
            way.prepare(head, upgrade, attempt + 1)?;
            let limit = retries.per_try_timeout;
            if let Some(time) = self.time {
                grpc_timeout::set(&mut head.parts.headers, time, began.saturating_sub(first), limit);
            }
            self.exchange.between(Arc::clone(&cluster.members[position].recorder));
            self.exchange.reaches(way.address(&cluster.members[position], self.routed.port));
            self.exchange.reaches_labelled(cluster.members[position].instance.labels());
            let sent = self.upload.completion();
            self.attempt = (position, began);
            self.told = None;
            let (with_endpoint, told, mut said) = (&mut self.with_endpoint, &mut self.told, None);
            let one = Try { position, began, limit, sent: &sent, with_endpoint, told, transport: &mut said };
            let result = way.attempt(one, &head.parts, body).await;
            self.exchange.transport(said);
            if !self.may_retry(&method, &result) {
                return self.passed_on(result, began, position, upgrade);
            }
            if attempt >= retries.attempts {
                self.exchange.flag(Flags::URX);
                return self.passed_on(result, began, position, upgrade);
            }
            // The retry before has ended.
            _room = None;
            match cluster
                .table
                .limits
                .as_ref()
                .map(|limits| cluster.circuit.pool.retry(limits, clock::uptime()))
                .transpose()
            {
                Ok(room) => _room = room,
                Err(_) => {
                    self.exchange.flag(Flags::UO);
                    return self.passed_on(result, began, position, upgrade);
                }
            }
            drop(result);
            attempt += 1;
            tokio::time::sleep(retries.backoff(attempt, context.random())).await;
            began = clock::uptime_micros();
        }
    }

    /// The route's timeout came: that goes to the account of the endpoint that did not answer.
    fn timed_out(&self) {
        if self.with_endpoint {
            let (position, began) = self.attempt;
            self.way.failed(position, Cause::RouteTimeout, began);
        }
    }

    fn may_retry(&self, method: &Method, result: &Attempt) -> bool {
        let retries = &self.routed.route.retries;
        let outcome = match result {
            _ if retries.attempts == 0 => None,
            Ok((response, _)) => answer(response, retries),
            Err(cause) => cause.outcome(),
        };
        outcome.is_some_and(|outcome| retries.retriable(method, outcome)) && self.upload.is_replayable()
    }

    fn passed_on(
        &self,
        result: Attempt,
        began: u64,
        member: usize,
        asked: Option<&HeaderValue>,
    ) -> Result<Attempted, Cause> {
        let (mut response, flight) = result?;
        self.upload.commit(self.way.snapshot.compiled.config().limits.stream_idle);
        let upgraded = upgrade::answered(&response, asked)?;
        let headers = response.headers_mut();
        body::strip_hop_by_hop(headers);
        body::strip_own(headers);
        if let Some(upgraded) = upgraded {
            upgrade::mark(headers, upgraded);
        }
        let time = clock::uptime_micros().saturating_sub(began) / 1_000;
        let short = usize::try_from(time).ok().and_then(|time| SHORT_TIMES.get(time));
        headers
            .insert(SERVICE_TIME, short.map_or_else(|| HeaderValue::from(time), |text| HeaderValue::from_static(text)));
        Ok(Attempted { response, member, flight })
    }

    /// There is nothing to send any more.
    fn body_failure(&self) -> Cause {
        self.upload.completion().failure().unwrap_or(Cause::ConnectionTermination)
    }
}

/// What an endpoint's answer means for retries; nothing if none is tried that is like it.
fn answer(response: &Response<body::Source>, retries: &Retries) -> Option<Outcome> {
    let (headers, status) = (response.headers(), response.status().as_u16());
    let grpc = headers.get(GRPC_STATUS).and_then(|status| status.to_str().ok()?.parse().ok());
    retries.concerns(status, grpc).then(|| Outcome::Answer {
        status,
        grpc,
        rate_limited: headers.contains_key(RATE_LIMITED),
        overloaded: headers.contains_key(OVERLOADED),
    })
}
