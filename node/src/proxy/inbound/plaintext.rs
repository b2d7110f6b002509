//! Connections of callers outside the mesh, in plaintext, straight to a service beside this node: at a port of its that the
//! configuration opens for them, or brought here by the kernel. They take the way of peers' requests, with nobody as the caller.
//!
//! PeerAuthentication says whether a port takes them: not where it is STRICT, at once for those that go on when it becomes so.
//! No TLS ends here: who begins it gets the application's own, byte for byte, and none at a port of requests.

use super::{
    REQUEST_ID,
    caller::{self, Caller, Plain},
    observe,
    recognized::Recognized,
    tcp,
};
use crate::{
    config, mesh,
    proxy::{
        connection::{self, Handler},
        context::Context,
        detect::{self, Spoken},
        failure::Cause,
        http::{self as body, Bounds, Incoming, RequestBody, ResponseBody, Side},
        local::LocalPort,
        reply,
        tcp::{Account, End, Side as _, Spans, relay},
        upgrade,
    },
    snapshot::Snapshot,
};
use http::{Request, Response, StatusCode};
use policy::{hosts::Protocol, kinds::MutualTls};
use std::{io, net::SocketAddr, sync::Arc};
use tokio::{net::TcpStream, sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

/// Whoever waits for the server's first word, or begins with half a line, is none that can be told.
const UNTOLD: &str = "what a caller outside speaks stayed unknown: declare `tcp` where it is no HTTP and no TLS";

/// From where and to where a connection goes.
type Ends = (SocketAddr, SocketAddr);

/// Serves one connection of a caller outside the mesh, which called this port at the second of its ends; once `closing`, until the
/// request under way has ended.
pub(in crate::proxy) async fn serve(
    context: Arc<Context>,
    called: &LocalPort,
    stream: TcpStream,
    ends: Ends,
    closing: &CancellationToken,
) {
    // Small answers must not wait for acknowledgements; a socket that refuses this still works.
    drop(stream.set_nodelay(true));
    // From here on no change of the rules is missed.
    let mut changes = context.rules.subscribe();
    let Some(declared) = declared(&context, called) else { return stream.reset() };
    // What not every connection needs for as long as it lives is boxed: most of them wait for their next request.
    let spoken = tokio::select! {
        biased;
        () = shut(&context, called, &mut changes) => return refuse(&context, called, stream, ends, Cause::PlaintextRefused),
        spoken = Box::pin(spoken(&context, declared, &stream)) => spoken,
        () = context.draining() => return,
        () = closing.cancelled() => return stream.reset(),
    };
    let (carries, server_name) = match spoken {
        Ok(Spoken::Http1) => (mesh::Protocol::Http1, None),
        Ok(Spoken::Http2) => (mesh::Protocol::Http2, None),
        Ok(Spoken::Tls(_)) if is_of_requests(declared) => {
            let cause = Cause::BadRequest("TLS at a port without it");
            return refuse(&context, called, stream, ends, cause);
        }
        Ok(Spoken::Tls(name)) => (mesh::Protocol::Tcp, name),
        Ok(Spoken::Bytes) => (mesh::Protocol::Tcp, None),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            let cause = Cause::BadRequest(UNTOLD);
            return refuse(&context, called, stream, ends, cause);
        }
        Err(error) => return tracing::debug!(%error, "a connection in plaintext ended before it said anything"),
    };
    let first = caller(&context, &context.current.load(), called, ends, carries, server_name);
    let Some(caller) = first else { return stream.reset() };
    let requests = |first: Caller| {
        let called = called.clone();
        let again =
            move |context: &Context, snapshot: &Snapshot| self::caller(context, snapshot, &called, ends, carries, None);
        let caller = Arc::new(Recognized::new(first, again));
        Requests { context: Arc::clone(&context), caller, closing: closing.clone() }
    };
    let side = Side::Application;
    match carries {
        mesh::Protocol::Tcp => Box::pin(pass(&context, &caller, stream)).await,
        mesh::Protocol::Http1 => tokio::select! {
            () = connection::serve_http1(&context, stream, side, requests(caller)) => {}
            () = shut(&context, called, &mut changes) => tell_shut(called, ends),
        },
        mesh::Protocol::Http2 => tokio::select! {
            () = Box::pin(connection::serve_http2(&context, stream, side, requests(caller))) => {}
            () = shut(&context, called, &mut changes) => tell_shut(called, ends),
        },
    }
}

/// Finds out what is spoken. Who is outside the mesh has no longer for its first bytes than for a head, and who begins a request and
/// does not go on has begun nothing: taken for bytes it would pass by what the rules say of requests.
async fn spoken(context: &Context, declared: config::Protocol, stream: &TcpStream) -> io::Result<Spoken> {
    let bounds = Bounds::of_applications(&context.limits());
    let by = match declared {
        config::Protocol::Http => Protocol::Http,
        config::Protocol::Http2 => Protocol::Http2,
        config::Protocol::Grpc => Protocol::Grpc,
        config::Protocol::Tls => Protocol::Tls,
        config::Protocol::Sniffed => Protocol::Sniffed,
        // Its server may be the one that speaks first.
        config::Protocol::Tcp => return Ok(Spoken::Bytes),
    };
    let looked = async {
        let spoken = detect::detect_whole(stream, by, &bounds).await?;
        let is_tls = spoken == Spoken::Http1 && detect::begins_tls(stream).await?;
        Ok(if is_tls { Spoken::Tls(None) } else { spoken })
    };
    timeout(bounds.head_time, looked).await?
}

const fn is_of_requests(declared: config::Protocol) -> bool {
    match declared {
        config::Protocol::Http | config::Protocol::Http2 | config::Protocol::Grpc => true,
        config::Protocol::Tcp | config::Protocol::Tls | config::Protocol::Sniffed => false,
    }
}

/// What the port speaks, if it is there.
fn declared(context: &Context, called: &LocalPort) -> Option<config::Protocol> {
    context.local.load().find(called).map(|(_, port)| port.protocol)
}

fn caller(
    context: &Context,
    snapshot: &Snapshot,
    called: &LocalPort,
    (remote, local): Ends,
    carries: mesh::Protocol,
    server_name: Option<String>,
) -> Option<Caller> {
    let services = context.local.load();
    let (service, _) = services.find(called)?;
    let ends = (remote.ip(), local.ip());
    let plain = Plain { service, port: called.number, ends, carries, server_name };
    Some(Caller::plaintext(context, snapshot, plain))
}

/// Resolves when PeerAuthentication keeps plaintext from the port.
async fn shut(context: &Context, called: &LocalPort, changes: &mut watch::Receiver<u64>) {
    loop {
        if is_shut(context, called) {
            return;
        }
        if changes.changed().await.is_err() {
            // No rules come any more.
            return std::future::pending().await;
        }
    }
}

fn is_shut(context: &Context, called: &LocalPort) -> bool {
    let (snapshot, local) = (context.current.load(), context.local.load());
    // A service that is gone says nothing of the connections that it still has.
    local.find(called).is_some_and(|(service, port)| {
        caller::workload(&snapshot, service).mutual_tls.on(port.target.port()) == MutualTls::Strict
    })
}

fn tell_shut(called: &LocalPort, (remote, _): Ends) {
    tracing::info!(service = %called.service, %remote, "ended a connection in plaintext: mutual TLS is required now");
}

/// Breaks a connection off before anything of it was served.
fn refuse(context: &Context, called: &LocalPort, stream: TcpStream, ends: Ends, cause: Cause) {
    if let Some(caller) = caller(context, &context.current.load(), called, ends, mesh::Protocol::Tcp, None) {
        tracing::debug!(service = %called.service, remote = %ends.0, ?cause, "a connection in plaintext was refused");
        let mut account = Account::new(observe::begin_connection(context, &caller));
        account.between(Arc::clone(&caller.recorder));
        account.failed(cause, None);
    }
    stream.reset();
}

/// Passes bytes on to the application, if they are let in.
async fn pass(context: &Context, caller: &Caller, stream: TcpStream) {
    let Ok(arrival) = tcp::open(context, caller).await else { return stream.reset() };
    let (application, account, denied) = arrival.split();
    let until = async {
        tokio::select! {
            end = denied => end,
            () = context.cut() => End::Stopped,
        }
    };
    let spans = Spans { idle: Some(context.limits().stream_idle), whole: None };
    relay(&context.budget, (stream, application), &mut [account], spans, until).await;
}

/// The requests of one connection.
#[derive(Clone)]
struct Requests {
    context: Arc<Context>,
    caller: Arc<Recognized>,
    closing: CancellationToken,
}

impl Handler for Requests {
    async fn handle(&self, mut request: Request<Incoming>) -> Response<ResponseBody> {
        let extended = upgrade::Extended::of(&mut request, || self.context.random_bits());
        let on_upgrade = upgrade::Caller::of(&mut request, extended.is_some());
        let grpc = body::is_grpc(request.headers());
        let (mut parts, incoming) = request.into_parts();
        body::strip_claims(&mut parts.headers);
        parts.headers.insert(REQUEST_ID, self.context.request_id());
        let patience = body::patience(&self.context.limits(), &parts.headers);
        let request = Request::from_parts(parts, RequestBody::once(incoming, &self.context.budget, patience));
        let mut response = super::answer(&self.context, &self.caller.now(&self.context), request).await;
        // What nodes tell each other is not for callers outside.
        body::strip_own(response.headers_mut());
        if let Some(extended) = &extended
            && let Err(cause) = extended.judge(response.status(), response.headers())
        {
            response = reply::failure(cause, grpc);
        }
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            upgrade::join(&self.context, on_upgrade, &mut response);
            if extended.is_some() {
                upgrade::Extended::answer(&mut response);
            }
        }
        response
    }

    fn refused(&self, cause: Cause) {
        super::refused(&self.context, &self.caller.now(&self.context), cause);
    }

    async fn closed(&self) {
        self.closing.cancelled().await;
    }
}
