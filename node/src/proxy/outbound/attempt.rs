//! One attempt: room within the cluster's limits, a connection, the endpoint's answer, and what that says of the endpoint.

use super::{
    Speaker,
    forward::Head,
    transport::{GONE, LATE, transport},
};
use crate::{
    balance::{Millis, PoolLimits, outlier::Outcome},
    clock,
    http1::copy_head,
    mesh::{self, data::Call},
    proxy::{
        cluster::{Cluster, Member, Reach, Served},
        context::Context,
        deadline::within,
        direct::Proxied,
        failure::{self, Cause, TransportReason},
        flight::{self, Flight, Room},
        http::{self as body, Completion, RequestBody, Windowed},
        inbound::{self, Caller, Peer, RATE_LIMITED},
        outcome,
        reply::GRPC_STATUS,
        upgrade,
    },
    snapshot::{Connection, Endpoint, Instance, Snapshot, Wanted},
};
use futures_util::poll;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header::RETRY_AFTER, request::Parts};
use http_body_util::{BodyExt, Empty};
use hyper::body::Body as _;
use std::{
    convert::Infallible,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    task::Poll,
    time::Duration,
};

const ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");
/// Virtual connections that may turn out to be closed before one attempt counts as failed.
const STALE_LIMIT: u32 = 3;

/// From a caller to a cluster, as far as all attempts of one request share it.
#[derive(Clone, Copy)]
pub(super) struct Way<'a> {
    pub(super) context: &'a Arc<Context>,
    pub(super) speaker: &'a Speaker,
    pub(super) snapshot: &'a Arc<Snapshot>,
    pub(super) cluster: &'a Cluster,
    /// What was looked up to know where it goes.
    pub(super) by: Option<&'a Wanted>,
    pub(super) grpc: bool,
    /// How it travels between nodes.
    pub(super) protocol: mesh::Protocol,
    /// The request has a time limit of its own.
    pub(super) timed: bool,
    /// What goes ahead of its connection to an endpoint outside, which is then nobody else's.
    pub(super) proxied: Option<Proxied>,
}

/// An attempt as its route sees it.
pub(super) struct Try<'t> {
    /// The member's position.
    pub(super) position: usize,
    /// Microseconds of uptime when it began.
    pub(super) began: u64,
    /// `perTryTimeout`: it runs from when the attempt has its connection and the caller has sent all, as Envoy's does.
    pub(super) limit: Option<Duration>,
    /// Tells of the end of the caller's side.
    pub(super) sent: &'t Completion,
    /// Set while the endpoint has the request: what waits for room or a connection says nothing of the endpoint.
    pub(super) with_endpoint: &'t mut bool,
    /// What the endpoint's node said beside a failure.
    pub(super) told: &'t mut Option<Box<HeaderMap>>,
    /// What the transport said where the attempt failed.
    pub(super) transport: &'t mut Option<TransportReason>,
}

/// How one attempt ended.
pub(super) type Attempt = Result<(Response<body::Source>, Flight), Cause>;

impl Way<'_> {
    /// Sends a request to a member and notes how that ended.
    pub(super) async fn attempt(&self, mut one: Try<'_>, head: &Parts, body: RequestBody) -> Attempt {
        let (position, began) = (one.position, one.began);
        let result = self.answer(&mut one, head, body).await;
        *one.with_endpoint = false;
        match &result {
            Ok((response, _)) => self.answered(position, response, began),
            Err(cause) => self.failed(position, *cause, began),
        }
        result
    }

    async fn answer(&self, one: &mut Try<'_>, head: &Parts, body: RequestBody) -> Attempt {
        let member = &self.cluster.members[one.position];
        let stats = member.instance.stats();
        let active = stats.begin();
        let room = self.room(member, one.sent).await?;
        let response = match &member.reach {
            Reach::Mesh(served) if served.endpoint.local => {
                *one.with_endpoint = true;
                // Boxed, so that the many requests to other nodes need no room for it.
                let here = Box::into_pin(Box::write(Box::new_uninit(), self.here(served, head, body)));
                within(one.limit, one.sent, here).await.ok_or(Cause::PerTryTimeout)?
            }
            Reach::Mesh(served) => self.there(served, head, body, one).await?,
            Reach::Outside(_) => Box::pin(self.outside(self.address(member, 0), head, body, one)).await?,
        };
        match outcome::get(response.headers()) {
            Some(cause) => {
                *one.told = outcome::beside(response.into_parts().0.headers);
                Err(cause)
            }
            None => Ok((response, Flight::new(active, room))),
        }
    }

    /// Makes of a head what one attempt sends.
    ///
    /// # Errors
    /// The authority cannot stand in HTTP/2's target.
    pub(super) fn prepare(&self, head: &mut Head, upgrade: Option<&HeaderValue>, attempt: u32) -> Result<(), Cause> {
        let Head { parts, host } = head;
        let count = if attempt == 1 { HeaderValue::from_static("1") } else { HeaderValue::from(attempt) };
        parts.headers.insert(ATTEMPT_COUNT, count);
        match self.protocol {
            mesh::Protocol::Http2 => {
                // Another protocol than WebSocket may be left unheeded (RFC 9110, 7.8).
                upgrade::unmark(&mut parts.headers);
                inbound::to_http2(parts, host, if self.speaks_tls() { "https" } else { "http" })
            }
            mesh::Protocol::Http1 | mesh::Protocol::Tcp => {
                inbound::to_http1(parts, host);
                if let Some(upgrade) = upgrade {
                    upgrade::mark(&mut parts.headers, upgrade.clone());
                }
                Ok(())
            }
        }
    }

    /// An attempt failed, or was given up.
    pub(super) fn failed(&self, position: usize, cause: Cause, began: u64) {
        let stats = self.cluster.members[position].instance.stats();
        if cause.is_endpoints_fault() {
            stats.failed();
        }
        let Some(outcome) = told(cause) else { return };
        if self.cluster.table.times_requests {
            let now = clock::uptime_micros();
            stats.load().failed(now.saturating_sub(began), now / 1_000);
        }
        self.note(position, outcome, began);
    }

    fn answered<B>(&self, position: usize, response: &Response<B>, began: u64) {
        let status = self.status(response);
        let load = self.cluster.members[position].instance.stats().load();
        if let Some(wish) = slowed(status, response) {
            load.slow(wish, clock::uptime());
        }
        if self.cluster.table.times_requests {
            let now = clock::uptime_micros();
            load.answered(now.saturating_sub(began), now / 1_000);
        }
        self.note(position, Outcome::Status(status), began);
    }

    /// Counts for outlier detection, where the policy has it.
    pub(super) fn note(&self, position: usize, outcome: Outcome, began: u64) {
        let table = &self.cluster.table;
        let Some(policy) = &table.outliers else { return };
        let host = &table.balancer.hosts()[position];
        let now = clock::uptime();
        if policy.is_error(outcome) {
            let instance = &self.cluster.members[position].instance;
            self.context.circuits.erred(instance, clock::uptime_micros().saturating_sub(began));
        }
        if let Some(why) = host.tally.as_ref().and_then(|tally| tally.note(outcome, policy, now)) {
            self.context.circuits.tripped(&self.cluster.circuit, &host.id, why, now, self.context.random());
        }
    }

    /// The status as outlier detection counts it: of gRPC what its status maps to, where it stands in the headers.
    fn status<B>(&self, response: &Response<B>) -> u16 {
        let grpc = self.grpc.then(|| response.headers().get(GRPC_STATUS)).flatten();
        let grpc = grpc.and_then(|status| status.to_str().ok()?.parse().ok());
        grpc.map_or(response.status().as_u16(), failure::grpc_to_http)
    }

    /// Room within the cluster's limits, where it has any.
    async fn room(&self, member: &Member, sent: &Completion) -> Result<Option<Room>, Cause> {
        let Some(limits) = &self.cluster.table.limits else { return Ok(None) };
        // One connection each endpoint gets whatever the limit says.
        let connection = match self.protocol {
            mesh::Protocol::Http2 => match limits.multiplexed() {
                Some(streams) => {
                    Some(Box::pin(self.connection(&streams, member, limits.streams_per_connection, sent)).await?)
                }
                None => None,
            },
            mesh::Protocol::Http1 | mesh::Protocol::Tcp => {
                Some(Box::pin(self.connection(limits, member, 1, sent)).await?)
            }
        };
        let mut room = Room::new(Arc::clone(&self.cluster.circuit), connection);
        if room.admit(limits) { Ok(Some(room)) } else { Err(Cause::Overflow) }
    }

    /// One of the connections that the cluster may have; waits for one as long as not too many wait, and as its request has time:
    /// one whose time does not run waits as long as a connection may take to open. The endpoint has `own` whatever the limit says.
    async fn connection(
        &self,
        limits: &PoolLimits,
        member: &Member,
        own: u32,
        sent: &Completion,
    ) -> Result<Connection, Cause> {
        let runs = || self.timed && sent.rests();
        let patience = async {
            if !runs() {
                tokio::time::sleep(self.cluster.connect_timeout).await;
            }
            // It began meanwhile, perhaps.
            if runs() {
                std::future::pending::<()>().await;
            }
        };
        let given_up = async {
            tokio::select! {
                () = lost(&member.instance) => Cause::ConnectFailure,
                () = patience => Cause::Overflow,
                cause = sent.read_ahead() => cause,
            }
        };
        let endpoint = Some((member.instance.stats().key(), own));
        flight::connection(&self.cluster.circuit, limits, endpoint, given_up).await
    }

    /// An endpoint on this node: in process, through the same door as any other caller's request.
    async fn here(&self, member: &Served, head: &Parts, body: RequestBody) -> Response<body::Source> {
        let request = Request::from_parts(copy_head(head), body);
        let caller = self.caller(member);
        inbound::answer(self.context, caller, request).await.map(|body| body::Source::Here(Box::new(body)))
    }

    /// This caller as an endpoint on this node sees it.
    pub(super) fn caller<'m>(&self, member: &'m Served) -> &'m Caller {
        member.caller.get_or_init(|| {
            // The address at which other nodes would see this one. It is unknown only while the node joins.
            let address = Some(member.endpoint.address.ip()).filter(|address| !address.is_unspecified());
            let address = address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
            let peer = Peer { identity: &self.speaker.identity, node: &self.snapshot.node, address, certificate: None };
            Caller::new(self.context, self.snapshot, &peer, &member.endpoint.account, member.preface(self.protocol))
        })
    }

    async fn there(
        &self,
        member: &Served,
        head: &Parts,
        body: RequestBody,
        one: &mut Try<'_>,
    ) -> Result<Response<body::Source>, Cause> {
        let sent = one.sent;
        let mut body = boxed(body);
        let mut stale = 0;
        loop {
            let lease = self.lease(member, sent, one.transport).await?;
            *one.with_endpoint = true;
            match within(one.limit, sent, lease.send(head, body)).await.ok_or(Cause::PerTryTimeout)? {
                Ok(response) => {
                    let window = if self.protocol == mesh::Protocol::Http2 { mesh::lease::RESPONSE_WINDOW } else { 0 };
                    let (parts, body) = response.into_parts();
                    let body = Windowed::new(body, window, &self.context.budget).map_err(|_| Cause::Overflow)?;
                    return Ok(Response::from_parts(parts, body::Source::Mesh(Box::new(body))));
                }
                Err(mesh::lease::SendError { error, body: Some(unsent) }) if stale < STALE_LIMIT => {
                    tracing::debug!(%error, "a kept connection had ended");
                    stale += 1;
                    body = unsent;
                    *one.with_endpoint = false;
                }
                Err(mesh::lease::SendError { error, body: _ }) => {
                    *one.transport = transport(&error);
                    return Err(self.cause(member, &error, sent));
                }
            }
        }
    }

    /// A virtual connection. Who waits for one to be made counts as pending, as in Envoy.
    async fn lease(
        &self,
        member: &Served,
        sent: &Completion,
        said: &mut Option<TransportReason>,
    ) -> Result<mesh::lease::Lease, Cause> {
        let (endpoint, call) = (&member.endpoint, self.call(member));
        if let Some(lease) = self.context.mesh.kept(&call) {
            return Ok(lease.under(self.cluster.terms));
        }
        let mut open = Box::pin(self.context.mesh.open(&call));
        let lease = match poll!(open.as_mut()) {
            Poll::Ready(lease) => lease,
            Poll::Pending => {
                let pool = &self.cluster.circuit.pool;
                let pending = self.cluster.table.limits.as_ref().map(|limits| pool.pending(limits)).transpose();
                let _pending = pending.map_err(|_| Cause::Overflow)?;
                tokio::select! {
                    biased;
                    lease = open => lease,
                    // Nobody waits out the dialling of a node that is known to be dead by now.
                    () = gone(endpoint) => {
                        *said = Some(GONE.into());
                        return Err(Cause::ConnectFailure);
                    }
                    () = tokio::time::sleep(self.cluster.connect_timeout) => {
                        *said = Some(LATE.into());
                        return Err(Cause::ConnectFailure);
                    }
                    cause = sent.read_ahead() => return Err(cause),
                }
            }
        };
        let lease = lease.map_err(|error| {
            *said = transport(&error);
            self.cause(member, &error, sent)
        })?;
        Ok(lease.under(self.cluster.terms))
    }

    /// How a member on another node is reached.
    pub(super) fn call<'c>(&'c self, member: &'c Served) -> Call<'c> {
        Call {
            source: &self.speaker.identity,
            node: &member.endpoint.id.node,
            address: member.endpoint.address,
            identity: &member.identity,
            preface: member.preface(self.protocol),
            patience: self.cluster.connect_timeout,
            pings: self.cluster.pings,
        }
    }

    fn cause(&self, member: &Served, error: &mesh::Error, sent: &Completion) -> Cause {
        let failed = || sent.failure().unwrap_or(Cause::BadRequest("request body broken off"));
        self.unreached(member, error).unwrap_or_else(failed)
    }

    /// What a failure between nodes means here, `None` if it is the caller's own; the agent hears of those that speak of the node.
    pub(super) fn unreached(&self, member: &Served, error: &mesh::Error) -> Option<Cause> {
        tracing::debug!(endpoint = %member.endpoint.id, %error, "attempt failed");
        Some(match error {
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
            mesh::Error::RequestBody(_) => return None,
        })
    }
}

/// A body in the one form that connections between nodes take; most are empty, and cost nothing.
fn boxed(body: RequestBody) -> mesh::lease::Body {
    if body.is_end_stream() {
        return mesh::lease::Body::new(Empty::new().map_err(|never: Infallible| match never {}));
    }
    mesh::lease::Body::new(body.map_err(Into::into))
}

/// Waits until an endpoint goes out; of one outside the mesh nobody says so.
pub(super) async fn lost(instance: &Instance) {
    match instance {
        Instance::Mesh(endpoint) => gone(endpoint).await,
        Instance::Outside(_) => std::future::pending().await,
    }
}

/// One that was out before is there because of a panic: it may answer all the same.
async fn gone(endpoint: &Endpoint) {
    if endpoint.stats.is_out() {
        return std::future::pending().await;
    }
    endpoint.stats.went_out().await;
}

/// What a failure tells of the endpoint; `None` if it tells nothing: this node's own limits, or the caller's doing.
fn told(cause: Cause) -> Option<Outcome> {
    match cause {
        Cause::ConnectFailure => Some(Outcome::ConnectFailure),
        Cause::PerTryTimeout | Cause::RouteTimeout => Some(Outcome::Timeout),
        Cause::ResetBeforeRequest | Cause::ConnectionTermination | Cause::RefusedStream | Cause::UpstreamProtocol => {
            Some(Outcome::Reset)
        }
        Cause::BadRequest(_)
        | Cause::HeadersTooLarge
        | Cause::UriTooLong
        | Cause::OldVersion
        | Cause::Unsupported(_)
        | Cause::RequestTimeout
        | Cause::NoRoute
        | Cause::Misdirected
        | Cause::ForeignHost
        | Cause::NotInRegistry
        | Cause::NoCluster
        | Cause::NoRewrite
        | Cause::NoHealthy
        | Cause::Unresolved
        | Cause::Overflow
        | Cause::NoWebSocket
        | Cause::Abort(_)
        | Cause::AbortGrpc(_)
        | Cause::NoIdentity
        | Cause::Draining
        | Cause::NotServedHere
        | Cause::PlaintextRefused
        | Cause::Denied
        | Cause::RateLimited
        | Cause::DeniedOutside
        | Cause::NoVerdict(_)
        | Cause::BodyTooLarge
        | Cause::Unauthenticated(_) => None,
    }
}

/// How long an endpoint asks to get less, `Some(None)` if it does not say: by 429, or by 503 with `Retry-After`. What a limit of
/// callers refuses says nothing of how much the endpoint can take.
fn slowed<B>(status: u16, response: &Response<B>) -> Option<Option<Millis>> {
    let unavailable = status == StatusCode::SERVICE_UNAVAILABLE.as_u16();
    if status != StatusCode::TOO_MANY_REQUESTS.as_u16() && !unavailable || response.headers().contains_key(RATE_LIMITED)
    {
        return None;
    }
    let wish = response.headers().get(RETRY_AFTER);
    let wanted = wish.and_then(|wish| wait(wish.to_str().ok()?, clock::wall()));
    (!unavailable || wish.is_some()).then_some(wanted)
}

/// `Retry-After`: seconds, or a date (RFC 9110, 10.2.3); `now` is wall time.
fn wait(wish: &str, now: Millis) -> Option<Millis> {
    if let Ok(seconds) = wish.parse::<u64>() {
        return Some(seconds.saturating_mul(1_000));
    }
    let date = jiff::fmt::rfc2822::parse(wish).ok()?.timestamp().as_millisecond();
    Some(Millis::try_from(date).unwrap_or_default().saturating_sub(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_for_less_says_for_how_long() {
        let asked = |status: u16, after: Option<&'static str>| {
            let mut response = Response::new(());
            response.headers_mut().extend(after.map(|after| (RETRY_AFTER, HeaderValue::from_static(after))));
            slowed(status, &response)
        };
        assert_eq!(asked(200, Some("1")), None);
        assert_eq!(asked(429, None), Some(None));
        assert_eq!(asked(429, Some("7")), Some(Some(7_000)));
        assert_eq!(asked(503, None), None, "a failure by itself is outlier detection's");
        assert_eq!(asked(503, Some("2")), Some(Some(2_000)));
        assert_eq!(asked(429, Some("Fri, 31 Dec 1999 23:59:59 GMT")), Some(Some(0)), "that is over");
        assert_eq!(wait("Fri, 31 Dec 1999 23:59:59 GMT", 946_684_790_000), Some(9_000));
        assert_eq!((wait("tomorrow", 0), wait("-1", 0)), (None, None));
        let mut limited = Response::new(());
        limited.headers_mut().insert("x-envoy-ratelimited", HeaderValue::from_static("true"));
        assert_eq!(slowed(429, &limited), None, "a limit of one caller says nothing to others");
    }

    #[test]
    fn this_nodes_own_doing_is_no_outcome() {
        for cause in [Cause::Overflow, Cause::Abort(500), Cause::NoIdentity, Cause::RequestTimeout, Cause::NoHealthy] {
            assert_eq!(told(cause), None, "{cause:?}");
        }
        assert_eq!(told(Cause::RouteTimeout), Some(Outcome::Timeout));
    }
}
