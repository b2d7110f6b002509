//! Attempts: endpoint after endpoint until one answers, the conditions of retry are used up, or time is over.

use super::{Answered, RequestFacts, Requests};
use crate::{
    balance::Tried,
    clock,
    mesh::{self, data::Call},
    proxy::{
        cluster::{Cluster, Member},
        context::Context,
        deadline::Deadline,
        exchange::Exchange,
        failure::Cause,
        http::{self as body, RequestBody, Upload},
        inbound::{self, Caller, Peer},
        outcome, upgrade,
    },
    snapshot::{InFlight, Snapshot},
    telemetry::Flags,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, request::Parts, uri::PathAndQuery};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use policy::{
    retry::Outcome,
    route::{Destination, Routed},
};
use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Instant,
};

const ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");
const ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");
const SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");
/// Virtual connections that may turn out to be closed before one attempt counts as failed.
const STALE_LIMIT: u32 = 3;

/// A request as the application sent it, hop-by-hop headers stripped.
pub(super) struct Outgoing {
    pub(super) parts: Parts,
    pub(super) host: HeaderValue,
    pub(super) upgrade: Option<HeaderValue>,
    pub(super) incoming: Incoming,
}

/// Forwards a request along its route.
pub(super) async fn forward(
    context: &Context,
    requests: &Requests<'_>,
    snapshot: &Arc<Snapshot>,
    routed: &Routed,
    outgoing: Outgoing,
    exchange: &mut Exchange,
) -> Result<Answered, Cause> {
    let route = &routed.route;
    let destination = route.choose(context.random()).ok_or(Cause::NoRoute)?;
    let cluster = context
        .cluster(snapshot, &requests.speaker, route, destination, routed.port)
        .inspect_err(|_| requests.count_service(routed, exchange))?;
    exchange.between(Arc::clone(&cluster.nobody));
    let Outgoing { parts, host, upgrade, incoming } = outgoing;
    // What formatters of the response may ask about.
    let asked = (!route.response_headers.is_empty() || !destination.response_headers.is_empty()).then(|| parts.clone());
    let head = head(requests, routed, destination, parts, host)?;
    let retries = &route.retries;
    let upload = Upload::new(incoming, retries.attempts > 0, &context.budget);
    let mut deadline = route.timeout.map(|timeout| Deadline::new(timeout, upload.completion()));
    let mut attempts = Attempts { context, requests, snapshot, routed, cluster: &cluster, upload: &upload, exchange };
    let response = match &mut deadline {
        None => attempts.run(head, upgrade).await?,
        Some(deadline) => tokio::select! {
            biased;
            response = attempts.run(head, upgrade) => response?,
            () = deadline => return Err(Cause::RouteTimeout),
        },
    };
    let Attempted { mut response, member, flight } = response;
    if let Some(asked) = asked {
        let given = response.headers().clone();
        let facts = RequestFacts {
            response: Some((response.status(), &given)),
            upstream: Some(cluster.members[member].endpoint.address),
            ..requests.facts(routed, &asked)
        };
        destination.response_headers.apply(response.headers_mut(), &facts);
        route.response_headers.apply(response.headers_mut(), &facts);
    }
    Ok(Answered::Endpoint(response, deadline, flight))
}

/// The request after rewrite and header operations, with its authority.
struct Head {
    parts: Parts,
    host: HeaderValue,
}

fn head(
    requests: &Requests<'_>,
    routed: &Routed,
    destination: &Destination,
    mut parts: Parts,
    mut host: HeaderValue,
) -> Result<Head, Cause> {
    let route = &routed.route;
    let path = routed.path(&parts.uri);
    let rewritten = match parts.uri.path_and_query() {
        Some(known) if known.as_str() == path => None,
        Some(_) | None => Some(PathAndQuery::try_from(&*path).map_err(|_| Cause::BadRequest("not a path"))?),
    };
    parts.headers.remove(ORIGINAL_PATH);
    if let Some(path) = rewritten {
        if let Some(original) = parts.uri.path_and_query().and_then(|path| HeaderValue::from_str(path.as_str()).ok()) {
            parts.headers.insert(ORIGINAL_PATH, original);
        }
        parts.uri = path.into();
    }
    if let Some(authority) = routed.authority() {
        host = HeaderValue::from_str(authority).map_err(|_| Cause::BadRequest("not a host"))?;
    }
    if !destination.request_headers.is_empty() || !route.request_headers.is_empty() {
        let given = parts.clone();
        let facts = requests.facts(routed, &given);
        for operations in [&destination.request_headers, &route.request_headers] {
            operations.apply(&mut parts.headers, &facts);
            if let Some(authority) = &operations.authority {
                host = HeaderValue::try_from(authority.render(&facts)).map_err(|_| Cause::BadRequest("not a host"))?;
            }
        }
    }
    Ok(Head { parts, host })
}

/// An answer that is passed on, and by whom.
struct Attempted {
    response: Response<body::Source>,
    member: usize,
    flight: InFlight,
}

/// How one attempt ended.
type Attempt = Result<(Response<body::Source>, InFlight), Cause>;

struct Attempts<'a> {
    context: &'a Context,
    requests: &'a Requests<'a>,
    snapshot: &'a Arc<Snapshot>,
    routed: &'a Routed,
    cluster: &'a Cluster,
    upload: &'a Upload,
    exchange: &'a mut Exchange,
}

impl Attempts<'_> {
    async fn run(&mut self, head: Head, upgrade: Option<HeaderValue>) -> Result<Attempted, Cause> {
        let retries = &self.routed.route.retries;
        let method = head.parts.method.clone();
        let mut tried = Tried::default();
        let mut attempt = 0;
        loop {
            let position = self.cluster.pick(&tried, self.context.random())?;
            let member = &self.cluster.members[position];
            if retries.ignore_previous {
                tried.add(position);
            }
            let body = self.upload.attempt().ok_or_else(|| self.body_failure())?;
            let request = self.request(&head, upgrade.clone(), member, attempt + 1, body)?;
            self.exchange.between(Arc::clone(&member.recorder));
            let began = clock::monotonic();
            let result = self.attempt(member, request).await;
            if !self.may_retry(&method, &result) {
                return self.passed_on(result, began, position, upgrade.is_some());
            }
            if attempt >= retries.attempts {
                self.exchange.flag(Flags::URX);
                return self.passed_on(result, began, position, upgrade.is_some());
            }
            drop(result);
            attempt += 1;
            tokio::time::sleep(retries.backoff(attempt, self.context.random())).await;
        }
    }

    /// One attempt, within the time of one.
    async fn attempt(&self, member: &Member, request: Request<RequestBody>) -> Attempt {
        let flight = member.endpoint.stats.begin();
        let sent = async {
            if member.endpoint.local { Ok(self.here(member, request).await) } else { self.there(member, request).await }
        };
        let result = match self.routed.route.retries.per_try_timeout {
            None => sent.await,
            Some(limit) => tokio::time::timeout(limit, sent).await.unwrap_or(Err(Cause::PerTryTimeout)),
        };
        let result = result.and_then(|response| match outcome::get(response.headers()) {
            Some(cause) => Err(cause),
            None => Ok(response),
        });
        if let Err(cause) = &result
            && cause.is_endpoints_fault()
        {
            member.endpoint.stats.failed();
        }
        Ok((result?, flight))
    }

    /// An endpoint on this node: in process, through the same door as any other caller's request.
    async fn here(&self, member: &Member, request: Request<RequestBody>) -> Response<body::Source> {
        let caller = member.caller.get_or_init(|| {
            let peer = Peer {
                identity: &self.requests.speaker.identity,
                node: &self.snapshot.node,
                address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            };
            Caller::new(self.context, self.snapshot, &peer, &member.endpoint.account, &member.preface)
        });
        inbound::answer(self.context, caller, request).await.map(|body| body::Source::Here(Box::new(body)))
    }

    async fn there(&self, member: &Member, request: Request<RequestBody>) -> Result<Response<body::Source>, Cause> {
        let endpoint = &member.endpoint;
        let call = Call {
            source: &self.requests.speaker.identity,
            node: &endpoint.id.node,
            address: endpoint.address,
            identity: &member.identity,
            preface: &member.preface,
        };
        let completion = self.upload.completion();
        let mut request = request.map(|body| mesh::lease::Body::new(body.map_err(Into::into)));
        let mut stale = 0;
        loop {
            let lease = tokio::select! {
                biased;
                lease = self.context.mesh.open(&call) => lease.map_err(|error| self.failed(member, &error, &completion))?,
                // Nobody waits out the dialling of a node that is known to be dead by now.
                () = endpoint.stats.went_out() => return Err(Cause::ConnectFailure),
            };
            match lease.send(request).await {
                Ok(response) => return Ok(response.map(body::Source::Mesh)),
                Err(mesh::lease::SendError { error, request: Some(unsent) }) if stale < STALE_LIMIT => {
                    tracing::debug!(%error, "a kept connection had ended");
                    stale += 1;
                    request = *unsent;
                }
                Err(mesh::lease::SendError { error, request: _ }) => {
                    return Err(self.failed(member, &error, &completion));
                }
            }
        }
    }

    /// What a failure between nodes means here; the agent hears of those that speak of the node.
    fn failed(&self, member: &Member, error: &mesh::Error, request: &body::Completion) -> Cause {
        tracing::debug!(endpoint = %member.endpoint.id, %error, "attempt failed");
        match error {
            mesh::Error::Connect { .. } | mesh::Error::NeverSent(_) => {
                self.context.report_failure(&member.endpoint.id.node);
                Cause::ConnectFailure
            }
            mesh::Error::ResetBefore(_) | mesh::Error::ResetAfter(_) => {
                self.context.report_failure(&member.endpoint.id.node);
                Cause::ConnectionTermination
            }
            mesh::Error::WrongPeer { .. } | mesh::Error::Unwelcome { .. } => Cause::ConnectFailure,
            mesh::Error::NoIdentity(_) => Cause::NoIdentity,
            mesh::Error::Stopping => Cause::Draining,
            mesh::Error::Overflow(_) => Cause::Overflow,
            mesh::Error::Refused => Cause::RefusedStream,
            mesh::Error::Protocol(_) => Cause::UpstreamProtocol,
            mesh::Error::RequestBody(_) => request.failure().unwrap_or(Cause::BadRequest("request body broken off")),
        }
    }

    /// The head for one attempt.
    fn request(
        &self,
        head: &Head,
        upgrade: Option<HeaderValue>,
        member: &Member,
        attempt: u32,
        body: RequestBody,
    ) -> Result<Request<RequestBody>, Cause> {
        let mut parts = head.parts.clone();
        // Ours would tell the endpoint's connection of the caller's.
        parts.extensions = http::Extensions::new();
        parts.headers.insert(ATTEMPT_COUNT, HeaderValue::from(attempt));
        match member.preface.protocol {
            mesh::Protocol::Http2 => inbound::to_http2(&mut parts, &head.host)?,
            mesh::Protocol::Http1 | mesh::Protocol::Tcp | mesh::Protocol::Probe => {
                inbound::to_http1(&mut parts, head.host.clone());
                if let Some(upgrade) = upgrade {
                    upgrade::mark(&mut parts.headers, upgrade);
                }
            }
        }
        Ok(Request::from_parts(parts, body))
    }

    fn may_retry(&self, method: &Method, result: &Attempt) -> bool {
        let outcome = match result {
            Ok((response, _)) => answer(response),
            Err(cause) => match cause.outcome() {
                Some(outcome) => outcome,
                None => return false,
            },
        };
        self.routed.route.retries.attempts > 0
            && self.routed.route.retries.retriable(method, outcome)
            && self.upload.is_replayable()
    }

    fn passed_on(&self, result: Attempt, began: Instant, member: usize, asked: bool) -> Result<Attempted, Cause> {
        let (mut response, flight) = result?;
        self.upload.commit();
        let upgraded = upgrade::answered(&response, asked)?;
        let headers = response.headers_mut();
        body::strip_hop_by_hop(headers);
        body::strip_own(headers);
        if let Some(upgraded) = upgraded {
            upgrade::mark(headers, upgraded);
        }
        let time = clock::monotonic().duration_since(began).as_millis();
        headers.insert(SERVICE_TIME, HeaderValue::from(u64::try_from(time).unwrap_or(u64::MAX)));
        Ok(Attempted { response, member, flight })
    }

    /// There is nothing to send any more.
    fn body_failure(&self) -> Cause {
        self.upload.completion().failure().unwrap_or(Cause::ConnectionTermination)
    }
}

/// What an endpoint's answer means for retries.
fn answer(response: &Response<body::Source>) -> Outcome {
    let has = |headers: &HeaderMap, name: &str| headers.contains_key(name);
    let headers = response.headers();
    Outcome::Answer {
        status: response.status().as_u16(),
        grpc: headers.get("grpc-status").and_then(|status| status.to_str().ok()?.parse().ok()),
        rate_limited: has(headers, "x-envoy-ratelimited"),
        overloaded: has(headers, "x-envoy-overloaded"),
    }
}
