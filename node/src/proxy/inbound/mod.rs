//! Requests that reach applications beside this node: from other nodes, and from this one.
//!
//! Who calls is what TLS proves, never what a header says. The caller's service is believed only if the registry knows
//! it on that node under that account; it serves metrics, not authority.

mod app;

pub(super) use app::{AppBody, Apps, Spawn};

use super::{
    connection::{self, Handler},
    context::Context,
    exchange::Exchange,
    failure::Cause,
    http::{self as body, RequestBody, ResponseBody},
    outcome, reply, upgrade,
};
use crate::{
    clock, config,
    mesh::{self, Preface},
    snapshot::Snapshot,
    telemetry::{Pair, Recorder, Reporter, Security, Workload},
};
use bytes::Bytes;
use certs::id::{NodeId, ServiceAccount, ServiceName, SpiffeId, Subject};
use http::{
    HeaderName, HeaderValue, Request, Response, StatusCode, Uri, Version,
    header::{COOKIE, HOST},
    request::Parts,
    uri::PathAndQuery,
};
use hyper::body::Incoming;
use std::{net::IpAddr, sync::Arc};

const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Who calls which service here, and what that means for every request.
#[derive(Debug)]
pub(super) struct Caller {
    service: ServiceName,
    instance: Option<String>,
    port: u16,
    /// The account whose identity this node showed: only a service that has it may be reached.
    account: ServiceAccount,
    client_cert: HeaderValue,
    address: HeaderValue,
    recorder: Arc<Recorder>,
}

/// Who calls, as far as it is proven.
pub(super) struct Peer<'a> {
    pub(super) identity: &'a SpiffeId,
    pub(super) node: &'a NodeId,
    pub(super) address: IpAddr,
}

impl Caller {
    /// `account` is the identity that this node showed.
    pub(super) fn new(
        context: &Context,
        snapshot: &Snapshot,
        peer: &Peer<'_>,
        account: &ServiceAccount,
        preface: &Preface,
    ) -> Self {
        let local = context.local.load();
        let trust_domain = &snapshot.trust_domain;
        let destination = match local.service(&preface.service, preface.instance.as_deref()) {
            Some(service) => Workload::of_service(trust_domain, &service.name, account, &service.labels),
            None => Workload::of_account(trust_domain, account),
        };
        let pair = Pair {
            reporter: Reporter::Destination,
            source: Arc::new(source(snapshot, peer, preface)),
            destination: Arc::new(destination),
            service: policy::hosts::full_name(&preface.service).into(),
            service_name: preface.service.name().into(),
            service_namespace: preface.service.namespace().into(),
            security: Security::MutualTls,
        };
        let by = SpiffeId::service(trust_domain.clone(), account.clone());
        Self {
            service: preface.service.clone(),
            instance: preface.instance.clone(),
            port: preface.port,
            account: account.clone(),
            client_cert: header(&format!("By={by};Subject=\"\";URI={}", peer.identity)),
            address: header(&peer.address.to_string()),
            recorder: Arc::new(context.telemetry.recorder(context.worker, Arc::new(pair))),
        }
    }
}

/// The caller as the registry knows it, if it knows the claimed service there.
fn source(snapshot: &Snapshot, peer: &Peer<'_>, preface: &Preface) -> Workload {
    let Subject::Service(account) = &peer.identity.subject else { return Workload::unknown() };
    let endpoints = snapshot.services.of_peer(peer.node, account);
    let claimed = endpoints.iter().find(|endpoint| Some(&endpoint.id.service) == preface.source.as_ref());
    match claimed {
        Some(known) => Workload::of_service(&snapshot.trust_domain, &known.id.service, account, &known.labels),
        None => Workload::of_account(&snapshot.trust_domain, account),
    }
}

fn header(text: &str) -> HeaderValue {
    // Names, identities and addresses are ASCII.
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("-"))
}

/// Serves a stream that another node opened.
pub(super) async fn serve(context: Arc<Context>, incoming: mesh::data::Incoming) {
    let mesh::data::Incoming { peer, local, preface, stream, remote_addr, local_addr: _ } = incoming;
    let (Subject::Service(_), Subject::Service(account)) = (&peer.id.subject, &local.subject) else {
        tracing::debug!(peer = %peer.id, "a data stream between identities that are no services");
        return;
    };
    let peer = Peer { identity: &peer.id, node: &peer.node, address: remote_addr.ip() };
    let snapshot = context.current.load();
    let caller = Arc::new(Caller::new(&context, &snapshot, &peer, account, &preface));
    drop(snapshot);
    let requests = Requests { context: Arc::clone(&context), caller };
    match preface.protocol {
        mesh::Protocol::Http1 => connection::serve_http1(&context, stream, requests).await,
        mesh::Protocol::Http2 => connection::serve_http2(&context, stream, requests).await,
        // Tunnels and probes are refused by closing; no caller of this version opens them.
        mesh::Protocol::Tcp | mesh::Protocol::Probe => {}
    }
}

/// The requests of one stream.
#[derive(Clone)]
struct Requests {
    context: Arc<Context>,
    caller: Arc<Caller>,
}

impl Handler for Requests {
    async fn handle(&self, mut request: Request<Incoming>) -> Response<ResponseBody> {
        let on_upgrade = hyper::upgrade::on(&mut request);
        let (parts, incoming) = request.into_parts();
        let request = Request::from_parts(parts, RequestBody::once(incoming, &self.context.budget));
        let mut response = answer(&self.context, &self.caller, request).await;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            upgrade::join(&self.context, on_upgrade, &mut response);
        }
        response
    }
}

/// Sends one request to the application and gives its answer, or ours with the cause in `x-skein-outcome`.
pub(super) async fn answer(
    context: &Context,
    caller: &Caller,
    request: Request<RequestBody>,
) -> Response<ResponseBody> {
    let grpc = body::is_grpc(request.headers());
    let mut exchange = Exchange::new(clock::monotonic(), grpc);
    exchange.between(Arc::clone(&caller.recorder));
    match forward(context, caller, request).await {
        Ok(response) => {
            exchange.answered(response.status(), response.headers());
            response.map(|source| ResponseBody::relay(source, exchange, None, None))
        }
        Err(cause) => {
            tracing::debug!(service = %caller.service, ?cause, "request failed");
            exchange.flag(cause.answer().flags);
            let mut response = reply::failure(cause, grpc);
            outcome::set(response.headers_mut(), cause);
            exchange.answered(response.status(), response.headers());
            response.map(|body| body.with(exchange))
        }
    }
}

async fn forward(
    context: &Context,
    caller: &Caller,
    request: Request<RequestBody>,
) -> Result<Response<body::Source>, Cause> {
    let (mut parts, request_body) = request.into_parts();
    let host = body::authority(&parts)?;
    let local = context.local.load();
    let port = local.port(&caller.service, caller.instance.as_deref(), &caller.account, caller.port);
    let (target, protocol) = port.map(|(_, port)| (port.target, port.protocol)).ok_or(Cause::NotServedHere)?;
    drop(local);
    let upgrade = upgrade::asked(&parts);
    let asked = upgrade.is_some();
    body::strip_hop_by_hop(&mut parts.headers);
    body::strip_identity(&mut parts.headers);
    parts.headers.insert(body::FORWARDED_CLIENT_CERT, caller.client_cert.clone());
    parts.headers.insert(body::FORWARDED_FOR, caller.address.clone());
    parts.headers.entry(FORWARDED_PROTO).or_insert(HeaderValue::from_static("http"));
    parts.headers.entry(REQUEST_ID).or_insert_with(|| context.request_id());
    match protocol {
        config::Protocol::Http => to_http1(&mut parts, host),
        config::Protocol::Http2 | config::Protocol::Grpc => to_http2(&mut parts, &host)?,
    }
    if let Some(upgrade) = upgrade {
        upgrade::mark(&mut parts.headers, upgrade);
    }
    let mut response = context.apps.send(target, protocol, Request::from_parts(parts, request_body)).await?;
    let upgraded = upgrade::answered(&response, asked)?;
    body::strip_hop_by_hop(response.headers_mut());
    body::strip_own(response.headers_mut());
    if let Some(upgraded) = upgraded {
        upgrade::mark(response.headers_mut(), upgraded);
    }
    Ok(response.map(body::Source::App))
}

/// A request as HTTP/1.1 carries it: path in the request line, authority in `Host`, one `Cookie` line.
pub(super) fn to_http1(parts: &mut Parts, host: HeaderValue) {
    if parts.version == Version::HTTP_2 {
        join_cookies(parts);
    }
    parts.version = Version::HTTP_11;
    parts.headers.insert(HOST, host);
    if parts.uri.authority().is_some() {
        let path = parts.uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
        parts.uri = Uri::from(path);
    }
}

/// A request as HTTP/2 carries it: the authority in the target.
///
/// # Errors
/// The authority cannot stand in a target.
pub(super) fn to_http2(parts: &mut Parts, host: &HeaderValue) -> Result<(), Cause> {
    parts.version = Version::HTTP_2;
    parts.headers.remove(HOST);
    let path = parts.uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
    let uri = Uri::builder().scheme("http").authority(host.as_bytes()).path_and_query(path);
    parts.uri = uri.build().map_err(|_| Cause::BadRequest("not a host"))?;
    Ok(())
}

/// HTTP/2 may cut `Cookie` into lines; HTTP/1 must have one (RFC 9113 8.2.3).
fn join_cookies(parts: &mut Parts) {
    let lines: Vec<&[u8]> = parts.headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if lines.len() > 1
        && let Ok(joined) = HeaderValue::from_maybe_shared(Bytes::from(lines.join(&b"; "[..])))
    {
        parts.headers.insert(COOKIE, joined);
    }
}
