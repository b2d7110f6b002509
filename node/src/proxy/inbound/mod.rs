//! Requests that reach applications beside this node: from other nodes, from this one, and in plaintext from outside the mesh.
//!
//! Who calls is what TLS proves, never what a header says. The caller's service is believed only if the registry knows
//! it on that node under that account; it serves metrics, not authority. Of a caller in plaintext nothing is proven.

mod admission;
mod app;
mod caller;
mod check;
mod limits;
mod message;
mod multiplexed;
mod observe;
mod plaintext;
mod pool;
mod recognized;
mod standing;
mod tcp;
mod told;

pub(super) use admission::{Arriving, Next, Refusal, Told, Verdicts, report};
pub(super) use app::{AppBody, Apps, Terms, Version};
pub(super) use caller::{Caller, Peer, Who};
pub(super) use check::Askers;
pub(super) use limits::{Counted, RATE_LIMITED, counted};
pub(super) use message::{to_http1, to_http2};
pub(super) use plaintext::serve as serve_plaintext;
pub(super) use standing::{AtDoor, Standing, Watch, watch_rules};
pub(super) use tcp::{Arrival, Refused, open};

use super::{
    connection::{self, Handler},
    context::Context,
    direct::Target,
    exchange::Exchange,
    failure::Cause,
    flight::Flight,
    gateway::LetIn,
    http::{self as body, Incoming, RequestBody, ResponseBody, Side, Ties},
    outcome, upgrade,
};
use crate::{clock, config, http1::copy_head, mesh, snapshot::Snapshot};
use caller::Rules;
use certs::id::Subject;
use check::CHECK;
use futures_util::poll;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header::SEC_WEBSOCKET_KEY};
use hyper::body::Body as _;
use policy::token::Verified;
use pool::Pool;
use recognized::Recognized;
use std::{net::SocketAddr, pin::pin, sync::Arc, task::Poll};

/// Bytes of a body that are read while its request waits for room.
const READ_AHEAD: usize = 16 * 1024;
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Serves a stream that another node opened.
pub(super) async fn serve(context: Arc<Context>, incoming: mesh::data::Incoming) {
    let mesh::data::Incoming { peer, local, preface, stream, remote_addr, local_addr } = incoming;
    let (Subject::Service(_), Subject::Service(account)) = (&peer.id.subject, &local.subject) else {
        tracing::debug!(peer = %peer.id, "a data stream between identities that are no services");
        return;
    };
    let (account, protocol) = (account.clone(), preface.protocol);
    let recognize = move |context: &Context, snapshot: &Snapshot| {
        let certificate = Some(peer.leaf);
        let peer = Peer { identity: &peer.id, node: &peer.node, address: remote_addr.ip(), certificate };
        Caller::at(local_addr.ip(), context, snapshot, &peer, &account, &preface)
    };
    let caller = recognize(&context, &context.current.load());
    let requests = |caller| {
        let again = move |context: &Context, snapshot: &Snapshot| Some(recognize(context, snapshot));
        Requests { context: Arc::clone(&context), caller: Arc::new(Recognized::new(caller, again)) }
    };
    match protocol {
        mesh::Protocol::Http1 => connection::serve_http1(&context, stream, Side::Node, requests(caller)).await,
        // Boxed, so that the many that carry HTTP/1.1 need no room for it.
        mesh::Protocol::Http2 => {
            Box::pin(connection::serve_http2(&context, stream, Side::Node, requests(caller))).await
        }
        mesh::Protocol::Tcp => Box::pin(tcp::serve(&context, &caller, stream)).await,
    }
}

/// The requests of one stream.
#[derive(Clone)]
struct Requests {
    context: Arc<Context>,
    caller: Arc<Recognized>,
}

impl Handler for Requests {
    async fn handle(&self, mut request: Request<Incoming>) -> Response<ResponseBody> {
        let on_upgrade = upgrade::Caller::of(&mut request, false);
        let (parts, incoming) = request.into_parts();
        let patience = body::patience(&self.context.limits(), &parts.headers);
        let request = Request::from_parts(parts, RequestBody::once(incoming, &self.context.budget, patience));
        let mut response = answer(&self.context, &self.caller.now(&self.context), request).await;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            upgrade::join(&self.context, on_upgrade, &mut response);
        }
        response
    }

    fn refused(&self, cause: Cause) {
        refused(&self.context, &self.caller.now(&self.context), cause);
    }
}

/// Tells of a head that was refused before there was a request.
fn refused(context: &Context, caller: &Caller, cause: Cause) {
    let mut exchange = Exchange::new(clock::monotonic(), false);
    exchange.between(Arc::clone(&caller.recorder));
    exchange.observe(observe::begin_connection(context, caller));
    exchange.refused(cause);
}

/// Sends one request to the application and gives its answer, or ours with the cause in `x-skein-outcome`.
pub(super) async fn answer(
    context: &Arc<Context>,
    caller: &Caller,
    mut request: Request<RequestBody>,
) -> Response<ResponseBody> {
    let (grpc, sent) = (body::is_grpc(request.headers()), request.body().completion());
    let is_head = request.method() == Method::HEAD;
    let mut exchange = Exchange::new(clock::monotonic(), grpc);
    exchange.between(Arc::clone(&caller.recorder));
    exchange.uploads(sent.clone());
    exchange.observe(observe::begin(context, caller, &mut request));
    let mut told = Told::default();
    match forward(context, caller, request, &mut exchange, &mut told).await {
        Ok((mut response, standing, flight)) => {
            told.mark(response.headers_mut());
            exchange.answered(response.status(), response.headers());
            let idle = context.limits().stream_idle;
            sent.answered(idle);
            let watch = Some(Watch::new(standing, sent));
            response.map(|source| ResponseBody::relay(source, Ties { exchange, deadline: None, flight, watch, idle }))
        }
        Err(refusal) => {
            tracing::debug!(service = %caller.who.service, ?refusal, "request failed");
            let cause = refusal.cause;
            let mut response = refusal.answer(&mut exchange);
            told.mark(response.headers_mut());
            outcome::set(response.headers_mut(), cause);
            exchange.answered(response.status(), response.headers());
            ResponseBody::tied(response, is_head, exchange)
        }
    }
}

async fn forward(
    context: &Arc<Context>,
    caller: &Caller,
    request: Request<RequestBody>,
    exchange: &mut Exchange,
    told: &mut Told,
) -> Result<(Response<body::Source>, Standing, Option<Flight>), Refusal> {
    let (mut parts, mut request_body) = request.into_parts();
    let (came, nested) = (parts.version, parts.headers.contains_key(CHECK));
    if came == http::Version::HTTP_10 {
        return Err(Cause::OldVersion.into());
    }
    let host = body::authority(&parts, &caller.bounds(context))?;
    let upgrade = upgrade::asked(&parts).filter(|_| request_body.is_end_stream());
    body::strip_hop_by_hop(&mut parts.headers);
    let original = caller.tell(&context.current.read(), &mut parts.headers);
    body::join_cookies(&mut parts.headers);
    parts.headers.entry(FORWARDED_PROTO).or_insert(HeaderValue::from_static("http"));
    parts.headers.entry(REQUEST_ID).or_insert_with(|| context.request_id());
    let arriving = Arriving { who: &caller.who, port: 0, host: &host, scheme: "http", original };
    // From here on no change of the rules is missed.
    let changes = context.rules.subscribe();
    let (port, token) = loop {
        match admitted(context, caller, &arriving, &mut parts, told, nested)? {
            Step::Forward(port, token) => break (port, token),
            // Boxed, so that the many requests about which nobody is asked need no room for it.
            Step::Ask(due) => {
                Box::pin(told.outside.ask(context, &arriving, due, &mut parts, &mut request_body)).await?;
            }
        }
    };
    let version = port.pool.version(port.version, came);
    to_http1(&mut parts, &host);
    let asked = upgrade.clone();
    let user = token.as_ref().map(|verified| Arc::clone(&verified.token));
    let mut standing = Standing::new((context, changes), (&caller.who, original), (parts, host), token, came);
    let flight = match port.pool.is_limited() {
        true => Box::pin(room(&port.pool, version, &mut request_body, &mut standing)).await?,
        false => None,
    };
    let admitted = standing.admitted();
    // What carries it on is said in a copy of its own, where it differs from what was judged.
    let own = match (version, upgrade) {
        (Version::Http1, None) => None,
        (Version::Http1, Some(upgrade)) => {
            let mut parts = copy_head(&admitted.parts);
            upgrade::mark(&mut parts.headers, upgrade);
            Some(parts)
        }
        (Version::Http2, upgrade) => {
            let mut parts = copy_head(&admitted.parts);
            if upgrade.as_ref().is_some_and(upgrade::is_websocket) {
                upgrade::to_connect(&mut parts);
            }
            to_http2(&mut parts, &admitted.host, "http")?;
            Some(parts)
        }
    };
    // It is judged once, where that is known who sent it.
    let is_gateway = context.current.is_door(port.target);
    let word = is_gateway.then(|| {
        let (door, address, standing) = (port.target, caller.who.address, standing.clone());
        context.clients.word(LetIn { door, address, user, standing })
    });
    let word = word.flatten();
    let own = match &word {
        None => own,
        Some(word) => {
            let mut parts = own.unwrap_or_else(|| copy_head(&admitted.parts));
            word.mark(&mut parts.headers);
            Some(parts)
        }
    };
    exchange.reaches(port.target);
    let head = own.as_ref().unwrap_or(&admitted.parts);
    let target =
        if is_gateway { Target::own_gateway(port.target, &context.clients) } else { Target::plain(port.target) };
    let mut response = tokio::select! {
        biased;
        response = context.apps.send(&target, version, head, request_body, &port.pool.terms, None) => {
            response.map_err(|failure| exchange.failed_below(failure))?
        }
        () = standing.forbidden() => return Err(Cause::Denied.into()),
    };
    if head.method == Method::CONNECT {
        upgrade::connected(&mut response, admitted.parts.headers.get(SEC_WEBSOCKET_KEY))?;
    }
    let upgraded = upgrade::answered(&response, asked.as_ref())?;
    body::strip_hop_by_hop(response.headers_mut());
    body::strip_own(response.headers_mut());
    if let Some(upgraded) = upgraded {
        upgrade::mark(response.headers_mut(), upgraded);
        response.extensions_mut().insert(standing.clone());
        if let Some(flight) = flight {
            // It is under way until the tunnel ends.
            upgrade::Held::attach(flight, &mut response);
        }
        return Ok((response.map(body::Source::App), standing, None));
    }
    Ok((response.map(body::Source::App), standing, flight))
}

/// Room in front of an application that has limits. A request waits for it as long as its caller does, whose end is seen once all of the
/// body has come: one that is too long to be kept meanwhile waits no longer than a connection may take to open.
async fn room(
    pool: &Pool,
    version: Version,
    body: &mut RequestBody,
    standing: &mut Standing,
) -> Result<Option<Flight>, Cause> {
    let given_up = async {
        match body.read_ahead(READ_AHEAD).await {
            Ok(beginning) if beginning.is_whole => std::future::pending().await,
            Ok(_) => {
                tokio::time::sleep(pool.terms.connect).await;
                Cause::Overflow
            }
            Err(cause) => cause,
        }
    };
    let mut room = pin!(pool.room(version, given_up));
    if let Poll::Ready(room) = poll!(room.as_mut()) {
        return room;
    }
    tokio::select! {
        biased;
        () = standing.forbidden() => Err(Cause::Denied),
        room = room => room,
    }
}

/// What happens next to a request that nothing forbids so far.
enum Step {
    /// Of this user.
    Forward(Application, Option<Verified>),
    Ask(check::Due),
}

/// Where the request goes if it is let in by what holds now, or who must be asked first.
fn admitted(
    context: &Context,
    caller: &Caller,
    arriving: &Arriving<'_>,
    parts: &mut http::request::Parts,
    told: &mut Told,
    nested: bool,
) -> Result<Step, Refusal> {
    let (snapshot, local, who) = (context.current.read(), context.local.load(), &caller.who);
    let port = local.port(&who.service, who.instance.as_deref(), &who.account, who.port);
    let (service, port) = port.ok_or(Cause::NotServedHere)?;
    let version = version(port.protocol, who.carries).ok_or(Cause::NotServedHere)?;
    let arriving = Arriving { port: port.target.port(), ..*arriving };
    caller.look(context, &snapshot, &local, service, |Rules { barred, workload, counted, pool }| {
        if let Some(cause) = barred {
            return Err((*cause).into());
        }
        match arriving.next(context, &snapshot, (workload, counted), parts, told, nested)? {
            Next::Ask(due) => Ok(Step::Ask(due)),
            Next::Go(token) => {
                let (target, pool) = (port.target, Arc::clone(pool));
                Ok(Step::Forward(Application { target, version, pool }, token))
            }
        }
    })
}

/// What the application is spoken to in, if its port takes requests: as declared, else as the caller was spoken to.
const fn version(declared: config::Protocol, carries: mesh::Protocol) -> Option<Version> {
    match (declared, carries) {
        (config::Protocol::Http, _) | (config::Protocol::Sniffed, mesh::Protocol::Http1) => Some(Version::Http1),
        (config::Protocol::Http2 | config::Protocol::Grpc, _) | (config::Protocol::Sniffed, mesh::Protocol::Http2) => {
            Some(Version::Http2)
        }
        (config::Protocol::Tcp | config::Protocol::Tls | config::Protocol::Sniffed, _) => None,
    }
}

/// An application's port.
struct Application {
    target: SocketAddr,
    version: Version,
    /// How connections to it are used, and what may be under way.
    pool: Arc<Pool>,
}
