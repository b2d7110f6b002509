//! Requests of applications beside this node: which service they mean, the route they take, the answer they get.

mod affinity;
mod attempt;
mod by_name;
mod call;
mod connect;
mod cors;
mod facts;
mod foreign;
mod forward;
mod grpc_timeout;
mod local;
mod marks;
mod mirror;
mod observe;
mod outside;
mod pass;
mod speaker;
mod tcp;
mod transport;
mod way;

use super::{
    capture::{LedBy, Meant},
    connection::{self, Handler},
    context::Context,
    detect::{self, Spoken},
    exchange::Exchange,
    failure::Cause,
    flight::Flight,
    gateway::{Admitted, Entrance, Way},
    http::{self as body, Bounds, Incoming, ResponseBody, Side, Ties},
    inbound::{REQUEST_ID, Standing, Told, Watch},
    listen, reply, upgrade,
};
use crate::{clock, snapshot::Snapshot, telemetry::Flags};
use arc_swap::ArcSwap;
use certs::codec::Millis;
use cors::Verdict;
use facts::RequestFacts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, request::Parts};
use hyper::body::Body as _;
use marks::Marks;
use policy::{
    kinds::{Abort, Fault},
    route::{self, Action, Routed},
};
use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

pub(super) use call::OwnWay;
pub(super) use mirror::Mirrors;
pub(super) use observe::begin_connection;
pub(super) use speaker::Speaker;
pub(super) use tcp::{Ends, pass};

/// Serves one connection of an application. A captured one meant to go to a place of its own, and its requests lead where they say,
/// if that place does not tell.
pub(super) async fn serve(
    context: Arc<Context>,
    speaker: Arc<ArcSwap<Speaker>>,
    stream: TcpStream,
    remote: SocketAddr,
    captured: Option<(SocketAddr, Option<Arc<LedBy>>)>,
) {
    listen::tune(&stream);
    let bounds = Bounds::of_applications(&context.limits());
    let (declared, patience) = {
        let current = context.current.read();
        (speaker.load().declared(&current), current.compiled.config().protocol_detection_timeout)
    };
    // What not every connection needs for as long as it lives is boxed: most of them wait for their next request.
    let found = tokio::select! {
        found = Box::pin(detect::detect(&stream, declared, patience, &bounds)) => found,
        () = context.draining() => return,
    };
    let (original, led_by) = captured.map_or((None, None), |(original, led_by)| (Some(original), led_by));
    let nowhere = || SocketAddr::from(([0, 0, 0, 0], speaker.load().port));
    let local = original.or_else(|| stream.local_addr().ok()).unwrap_or_else(nowhere);
    // A service's own address is no place of a server's: this node listens there.
    let dialled = original.filter(|to| !to.ip().to_canonical().is_loopback());
    let requests =
        |speaker| Connection { context: Arc::clone(&context), speaker, entrance: None, remote, local, dialled, led_by };
    let server_name = match found {
        Ok(Spoken::Http1) => {
            return connection::serve_http1(&context, stream, Side::Application, requests(speaker)).await;
        }
        Ok(Spoken::Http2) => {
            return Box::pin(connection::serve_http2(&context, stream, Side::Application, requests(speaker))).await;
        }
        Ok(Spoken::Bytes) => None,
        Ok(Spoken::Tls(name)) => Some(name.unwrap_or_default()),
        Err(error) => return tracing::debug!(%error, "connection ended before a request"),
    };
    let ends = tcp::Ends { remote, local, dialled };
    Box::pin(tcp::serve(&context, &speaker.load_full(), stream, ends, server_name.as_deref())).await;
}

/// One connection of an application.
#[derive(Clone)]
struct Connection {
    context: Arc<Context>,
    /// Replaced when the configuration changes, so that kept connections follow.
    speaker: Arc<ArcSwap<Speaker>>,
    /// Where clients outside the mesh came in.
    entrance: Option<Arc<Entrance>>,
    remote: SocketAddr,
    local: SocketAddr,
    /// Of a captured connection: where the application meant to go.
    dialled: Option<SocketAddr>,
    /// How its requests say where they lead, if that place does not tell.
    led_by: Option<Arc<LedBy>>,
}

impl Handler for Connection {
    async fn handle(&self, mut request: Request<Incoming>) -> Response<ResponseBody> {
        let extended = upgrade::Extended::of(&mut request, || self.context.random_bits());
        if request.method() == Method::CONNECT && request.version() < Version::HTTP_2 && self.entrance.is_none() {
            // Boxed, so that the many other requests need no room for it.
            return Box::pin(connect::answer(self, request)).await;
        }
        let on_upgrade = upgrade::Caller::of(&mut request, extended.is_some());
        let is_head = request.method() == Method::HEAD;
        let came = clock::monotonic();
        let mut exchange = Exchange::new(came, body::is_grpc(request.headers()));
        let (remote, local, dialled) = (self.remote, self.local, self.dialled);
        let (entrance, context) = (self.entrance.as_ref(), &self.context);
        let (speaker, meant, passes) = match self.led_by.as_deref() {
            None => (self.speaker.load_full(), None, None),
            Some(LedBy::First(meant)) => (self.speaker.load_full(), Some(meant), None),
            Some(LedBy::Each(captured, original)) => match captured.speaker_of(context, &request, *original) {
                Some(Some(speaker)) => (speaker, None, None),
                // What is meant for the mesh never leaves it in clear.
                Some(None) => (self.speaker.load_full(), None, None),
                None => {
                    let speaker = self.speaker.load_full();
                    let passes = (!speaker.stays_inside(&context.current.read())).then_some(*original);
                    (speaker, None, passes)
                }
            },
        };
        let mut requests = Requests {
            context,
            speaker,
            entrance,
            remote,
            local,
            dialled,
            meant,
            passes,
            came,
            came_at: OnceLock::new(),
            standing: None,
        };
        let mut answered = requests.answer(request, &mut exchange).await;
        if let (Some(extended), Ok(given)) = (&extended, &answered)
            && let Err(cause) = given.judged_by(extended)
        {
            answered = Err(cause);
        }
        let answered = answered.unwrap_or_else(|cause| requests.failed(cause, &mut exchange));
        let idle = self.context.limits().stream_idle;
        let (mut response, flight) = answered.finish(exchange, is_head, idle, requests.standing.clone());
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            upgrade::join_holding(&self.context, on_upgrade, &mut response, flight, requests.standing);
            if extended.is_some() {
                upgrade::Extended::answer(&mut response);
            }
        } else if let Some(entrance) = &self.entrance {
            entrance.answered(&self.context);
        }
        response
    }

    fn refused(&self, cause: Cause) {
        let speaker = self.speaker.load();
        let mut exchange = Exchange::new(clock::monotonic(), false);
        exchange.between(self.context.recorder(speaker.to_nothing()));
        let ends = tcp::Ends { remote: self.remote, local: self.local, dialled: self.dialled };
        let snapshot = self.context.current.load();
        exchange.observe(observe::begin_connection(&self.context, &speaker, &snapshot, ends, None));
        exchange.refused(cause);
    }

    async fn closed(&self) {
        match &self.entrance {
            Some(entrance) => entrance.closed(&self.context).await,
            None => std::future::pending().await,
        }
    }
}

/// Serves a connection of a client outside the mesh: its requests are those of the gateway's service.
pub(super) async fn serve_client<I>(
    context: &Arc<Context>,
    io: I,
    entrance: Entrance,
    is_http2: bool,
    (remote, local): (SocketAddr, SocketAddr),
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (speaker, entrance) = (Arc::clone(entrance.speaker()), Some(Arc::new(entrance)));
    let requests =
        Connection { context: Arc::clone(context), speaker, entrance, remote, local, dialled: None, led_by: None };
    if is_http2 {
        Box::pin(connection::serve_http2(context, io, Side::Application, requests)).await;
    } else {
        connection::serve_http1(context, io, Side::Application, requests).await;
    }
}

/// A request's way through this proxy.
struct Requests<'a> {
    context: &'a Arc<Context>,
    speaker: Arc<Speaker>,
    entrance: Option<&'a Arc<Entrance>>,
    /// Who sends it; a gateway's client, as far as the proxies before it are believed.
    remote: SocketAddr,
    /// Where the application came in.
    local: SocketAddr,
    /// Where it meant to go, if the kernel brought it here.
    dialled: Option<SocketAddr>,
    /// What the first request of its connection meant, if that decided where they lead.
    meant: Option<&'a Meant>,
    /// It means nothing of the mesh and goes on to there, where its connection meant to go.
    passes: Option<SocketAddr>,
    /// When the request came; in wall time once somebody asks.
    came: Instant,
    came_at: OnceLock<Millis>,
    /// What was let in at a gateway.
    standing: Option<Standing>,
}

/// A response before its body is tied to the end of the exchange.
enum Answered {
    /// Made here.
    Here(Box<Response<ResponseBody>>),
    /// An endpoint's; the route's timeout goes on until its end.
    Endpoint(Response<body::Source>, Option<super::deadline::Deadline>, Option<Flight>),
}

impl Answered {
    fn headers_mut(&mut self) -> &mut HeaderMap {
        match self {
            Self::Here(response) => response.headers_mut(),
            Self::Endpoint(response, _, _) => response.headers_mut(),
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Here(response) => response.status(),
            Self::Endpoint(response, _, _) => response.status(),
        }
    }

    fn judged_by(&self, extended: &upgrade::Extended) -> Result<(), Cause> {
        match self {
            Self::Here(response) => extended.judge(response.status(), response.headers()),
            Self::Endpoint(response, _, _) => extended.judge(response.status(), response.headers()),
        }
    }

    /// The response as it goes to the caller. A request is under way until the end of its body, or of the tunnel that it
    /// became: then its flight is given.
    fn finish(
        self,
        mut exchange: Exchange,
        is_head: bool,
        idle: Duration,
        standing: Option<Standing>,
    ) -> (Response<ResponseBody>, Option<Flight>) {
        match self {
            Self::Here(response) => {
                exchange.answered(response.status(), response.headers());
                (ResponseBody::tied(*response, is_head, exchange), None)
            }
            Self::Endpoint(response, deadline, flight) => {
                exchange.answered(response.status(), response.headers());
                let is_tunnel = response.status() == StatusCode::SWITCHING_PROTOCOLS;
                let (of_body, of_tunnel) = if is_tunnel { (None, flight) } else { (flight, None) };
                let watch = standing.map(|standing| Watch::new(standing, exchange.upload()));
                let ties = Ties { exchange, deadline, flight: of_body, watch, idle };
                (response.map(|source| ResponseBody::relay(source, ties)), of_tunnel)
            }
        }
    }
}

impl Requests<'_> {
    async fn answer(&mut self, request: Request<Incoming>, exchange: &mut Exchange) -> Result<Answered, Cause> {
        let context = self.context;
        let (mut parts, incoming) = request.into_parts();
        let snapshot = context.current.load();
        let config = snapshot.compiled.config();
        let host = body::authority(&parts, &Bounds::of_applications(&config.limits));
        let upgrade = upgrade::asked(&parts).filter(|_| incoming.is_end_stream());
        body::strip_hop_by_hop(&mut parts.headers);
        let let_in = self.entrance.and_then(|_| context.clients.let_in(&mut parts.headers, self.local));
        match (self.entrance, &let_in) {
            (None, _) => body::strip_identity(&mut parts.headers),
            (Some(_), Some(let_in)) => self.remote = SocketAddr::new(let_in.address, 0),
            (Some(entrance), None) => {
                entrance.receive(&mut parts.headers, self.remote.ip(), &config.gateways);
                // Behind a proxy that is believed the client has no port that anybody knows.
                if let Some(client) = entrance.external(&parts.headers).filter(|client| *client != self.remote.ip()) {
                    self.remote = SocketAddr::new(client, 0);
                }
            }
        }
        parts.headers.remove(forward::ORIGINAL_PATH);
        body::join_cookies(&mut parts.headers);
        parts.headers.entry(REQUEST_ID).or_insert_with(|| context.request_id());
        exchange.observe(observe::begin(self, &snapshot, &mut parts));
        let host = if parts.version == Version::HTTP_10 { Err(Cause::OldVersion) } else { host };
        let host = host.and_then(|host| body::normalize_path(&mut parts, config.path_normalization).map(|()| host));
        let host = host.inspect_err(|_| self.unrouted(exchange))?;
        let Some(entrance) = self.entrance else {
            let head = forward::Head { parts, host };
            let mut request = forward::Outgoing { head, upgrade, incoming, user: None };
            return self.admitted(&snapshot, &mut request, exchange).await;
        };
        let mut told = Told::default();
        let admitted = match let_in {
            Some(let_in) => entrance.take(let_in, incoming),
            None => entrance.admit(context, (&mut parts, incoming), &host, self.local.ip(), &mut told).await,
        };
        let answered = match admitted {
            Ok(Admitted { body: incoming, user, mut standing }) => {
                self.standing = Some(standing.clone());
                let mut request = forward::Outgoing { head: forward::Head { parts, host }, upgrade, incoming, user };
                tokio::select! {
                    biased;
                    answered = self.admitted(&snapshot, &mut request, exchange) => answered,
                    () = standing.forbidden() => Err(Cause::Denied),
                }
            }
            Err(refusal) => {
                tracing::debug!(gateway = %self.speaker.service, ?refusal, "a client's request was refused");
                self.unrouted(exchange);
                Ok(Answered::Here(Box::new(refusal.answer(exchange))))
            }
        };
        let mut answered = answered.unwrap_or_else(|cause| self.failed(cause, exchange));
        told.mark(answered.headers_mut());
        Ok(answered)
    }

    /// Sends a request along its way.
    async fn admitted(
        &self,
        snapshot: &Arc<Snapshot>,
        request: &mut forward::Outgoing,
        exchange: &mut Exchange,
    ) -> Result<Answered, Cause> {
        if let Some(original) = self.passes {
            return pass::pass(self, snapshot, original, request, exchange).await;
        }
        let way = self.way(snapshot, request).map_err(|missed| {
            if missed.cause == Cause::NotInRegistry {
                exchange.takes("block_all");
            }
            match &missed.host {
                Some(host) => exchange.between(self.context.recorder(self.speaker.to_service(host))),
                None => self.unrouted(exchange),
            }
            missed.cause
        })?;
        let routed = match way {
            Way::Route(routed) => routed,
            Way::Answer(response) => {
                self.unrouted(exchange);
                return Ok(Answered::Here(response));
            }
        };
        exchange.takes(&routed.name());
        let destination = routed.route.choose(|| self.context.random());
        let forwards = matches!(routed.route.action, Action::Forward(_));
        let marks = if forwards { Marks::of(&routed, destination, &request.head) } else { None };
        if let Some(fault) = routed.route.fault.as_ref().filter(|_| forwards) {
            self.count_service(&routed, exchange);
            if let Err(cause) = self.inject(fault, exchange).await {
                return self.failed_there(cause, marks.as_deref(), exchange);
            }
        }
        let verdict = cors::judge(&routed.route, &request.head.parts);
        if let Verdict::Preflight(response) = verdict {
            self.count_service(&routed, exchange);
            return Ok(Answered::Here(response));
        }
        let answered = match &routed.route.action {
            Action::Forward(_) => {
                let to = (destination, marks.as_deref());
                let forwarded = forward::forward(self, snapshot, &routed, to, request, exchange).await;
                forwarded.or_else(|cause| self.failed_there(cause, marks.as_deref(), exchange))
            }
            Action::Redirect(redirect) => {
                let response = self.redirect(&routed, redirect, &request.head);
                Ok(self.local(&routed, request, (response, &[]), exchange))
            }
            Action::Direct(direct) => {
                Ok(self.local(&routed, request, (local::respond(direct), &direct.body), exchange))
            }
        };
        match verdict {
            Verdict::Allowed(policy, origin) => {
                let mut answered = answered.unwrap_or_else(|cause| self.failed(cause, exchange));
                cors::mark(policy, origin, answered.headers_mut());
                Ok(answered)
            }
            Verdict::Silent | Verdict::Preflight(_) => answered,
        }
    }

    /// The namespace of the caller for whom a gateway speaks.
    fn account(&self) -> Option<&str> {
        self.standing.as_ref()?.who().namespace()
    }

    /// The answer to a request that failed.
    fn failed(&self, cause: Cause, exchange: &mut Exchange) -> Answered {
        tracing::debug!(service = %self.speaker.service, ?cause, "request failed");
        exchange.flag(cause.answer().flags);
        exchange.details(cause.details());
        Answered::Here(Box::new(reply::failure(cause, exchange.is_grpc())))
    }

    /// What the request came by, or what a proxy that is believed says of it.
    fn scheme(&self, parts: &Parts) -> &'static str {
        self.entrance.map_or("http", |entrance| entrance.scheme(&parts.headers))
    }

    fn policy_request<'r>(&'r self, parts: &'r Parts, host: &'r HeaderValue) -> Result<route::Request<'r>, Cause> {
        Ok(route::Request {
            method: &parts.method,
            uri: &parts.uri,
            authority: host.to_str().map_err(|_| Cause::BadRequest("not a host"))?,
            scheme: self.scheme(parts),
            headers: &parts.headers,
            source: &self.speaker.source,
            fixed: self.speaker.fixed.clone(),
            token: None,
            own_port: Some(self.speaker.port),
        })
    }

    /// Counts a request that named no service.
    fn unrouted(&self, exchange: &mut Exchange) {
        exchange.between(self.context.recorder(self.speaker.to_nothing()));
    }

    /// Delay first, then abort; drawn independently. Neither is retried, and the route's timeout does not see them.
    async fn inject(&self, fault: &Fault, exchange: &mut Exchange) -> Result<(), Cause> {
        if let Some(delay) = fault.delay(self.context.random()) {
            exchange.flag(Flags::DI);
            tokio::time::sleep(delay).await;
        }
        match fault.abort(self.context.random()) {
            None => Ok(()),
            Some(Abort::Http(status)) => Err(Cause::Abort(status)),
            Some(Abort::Grpc(status)) => Err(Cause::AbortGrpc(status)),
        }
    }

    /// Counts a request that was answered without an endpoint.
    fn count_service(&self, routed: &Routed, exchange: &mut Exchange) {
        exchange.between(self.context.recorder(self.speaker.to_service(&routed.host)));
    }

    fn facts<'r>(&self, routed: &'r Routed, head: &'r Parts, host: &'r HeaderValue) -> RequestFacts<'r> {
        let came = || {
            let since = clock::monotonic().duration_since(self.came).as_millis();
            clock::wall().saturating_sub(Millis::try_from(since).unwrap_or(0))
        };
        RequestFacts {
            head,
            host,
            remote: self.remote,
            local: self.local,
            came: *self.came_at.get_or_init(came),
            upstream: None,
            route: routed.name(),
            scheme: self.scheme(head),
            response: None,
        }
    }
}
