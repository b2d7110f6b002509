//! Requests that turn their connection into a tunnel (WebSocket): passed on when the application agrees. By HTTP/2 a caller asks with
//! an extended CONNECT (RFC 8441), which becomes what HTTP/1.1 asks before anything looks at it.

use super::{
    context::Context,
    exchange::Exchange,
    failure::Cause,
    http::ResponseBody,
    inbound::Standing,
    listen,
    streams::Tunnel,
    tcp::{self, silence},
};
use crate::{
    clock,
    http1::{Upgraded, server::OnUpgrade},
    mesh::stream::VirtualStream,
};
use aws_lc_rs::digest;
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use futures_util::future::BoxFuture;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{CONNECTION, CONTENT_LENGTH, HOST, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE},
    request::Parts,
};
use hyper_util::rt::TokioIo;
use std::{
    any::Any,
    sync::{Arc, atomic::AtomicU64},
};
use tokio_util::{either::Either, sync::CancellationToken};

/// The one protocol that an extended CONNECT may ask for.
const WEBSOCKET: &str = "websocket";
/// What a server puts behind the key of a WebSocket, to show that it knows what it is asked (RFC 6455, 1.3).
const WEBSOCKET_GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The caller's connection, or its stream, once its protocol has changed.
pub(super) enum Caller {
    Http1(OnUpgrade),
    Http2(hyper::upgrade::OnUpgrade),
}

/// An extended CONNECT that became a request of HTTP/1.1.
pub(super) struct Extended {
    /// By HTTP/2 there is none: this one is the proxy's.
    key: String,
}

impl Extended {
    /// Makes of an extended CONNECT for a WebSocket the request that HTTP/1.1 has for it; any other request stays what it is.
    pub(super) fn of<B>(request: &mut Request<B>, random: impl FnOnce() -> u128) -> Option<Self> {
        if *request.method() != Method::CONNECT {
            return None;
        }
        let protocol = request.extensions().get::<hyper::ext::Protocol>()?;
        if !protocol.as_str().eq_ignore_ascii_case(WEBSOCKET) {
            return None;
        }
        let host = HeaderValue::from_str(request.uri().authority()?.as_str()).ok()?;
        let key = BASE64.encode(random().to_be_bytes());
        *request.method_mut() = Method::GET;
        *request.version_mut() = Version::HTTP_11;
        let headers = request.headers_mut();
        // One that differs from the authority is refused later.
        headers.entry(HOST).or_insert(host);
        headers.insert(SEC_WEBSOCKET_KEY, HeaderValue::from_str(&key).ok()?);
        mark(headers, HeaderValue::from_static(WEBSOCKET));
        Some(Self { key })
    }

    /// Judges the answer: by HTTP/2 any success would mean that the protocol has changed.
    ///
    /// # Errors
    /// It is one and the protocol has not, or the server does not know what it was asked.
    pub(super) fn judge(&self, status: StatusCode, headers: &HeaderMap) -> Result<(), Cause> {
        if status == StatusCode::SWITCHING_PROTOCOLS {
            let wanted = accept(self.key.as_bytes());
            let shown = headers.get(SEC_WEBSOCKET_ACCEPT).map(HeaderValue::as_bytes);
            return if shown == Some(wanted.as_bytes()) { Ok(()) } else { Err(Cause::UpstreamProtocol) };
        }
        if status.is_success() { Err(Cause::UpstreamProtocol) } else { Ok(()) }
    }

    /// The answer as HTTP/2 has it.
    pub(super) fn answer<B>(response: &mut Response<B>) {
        *response.status_mut() = StatusCode::OK;
        for name in [CONNECTION, UPGRADE, SEC_WEBSOCKET_ACCEPT, CONTENT_LENGTH] {
            response.headers_mut().remove(name);
        }
    }
}

impl Caller {
    /// Of a request, `extended` if it was an extended CONNECT.
    pub(super) fn of<B>(request: &mut Request<B>, extended: bool) -> Self {
        if extended { Self::Http2(hyper::upgrade::on(request)) } else { Self::Http1(OnUpgrade::of(request)) }
    }

    async fn connection(self) -> Option<Either<Upgraded, TokioIo<hyper::upgrade::Upgraded>>> {
        match self {
            Self::Http1(upgrade) => upgrade.connection().await.map(Either::Left),
            Self::Http2(upgrade) => upgrade.await.ok().map(TokioIo::new).map(Either::Right),
        }
    }
}

/// The protocol that a request asks for: the first that it names. Only a GET may ask, and the caller looks whether it has a body: bytes
/// of one would stand before those of the tunnel. Another HTTP is never taken up, and whoever names it beside others gets none of them:
/// its requests would pass by the rules.
pub(super) fn asked(parts: &Parts) -> Option<HeaderValue> {
    parts.headers.get(UPGRADE)?;
    let named = tokens(&parts.headers, CONNECTION).any(|name| name.eq_ignore_ascii_case(b"upgrade"));
    let may = parts.method == Method::GET && parts.version == Version::HTTP_11 && named;
    if !may || tokens(&parts.headers, UPGRADE).any(is_http) {
        return None;
    }
    HeaderValue::from_bytes(tokens(&parts.headers, UPGRADE).next()?).ok()
}

/// The items of a list, in however many lines.
fn tokens(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &[u8]> {
    let items = headers.get_all(name).into_iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    items.map(<[u8]>::trim_ascii).filter(|item| !item.is_empty())
}

/// `h2c`, `h2`, `HTTP/2.0` and their like.
fn is_http(protocol: &[u8]) -> bool {
    let name = protocol.split(|byte| *byte == b'/').next().unwrap_or(protocol).trim_ascii();
    [&b"h2c"[..], b"h2", b"http"].iter().any(|http| name.eq_ignore_ascii_case(http))
}

/// Travels with a 101: what the tunnel occupies until its end.
#[derive(Debug, Clone)]
pub(super) struct Held(#[expect(dead_code, reason = "it is held")] Arc<dyn Any + Send + Sync>);

impl Held {
    /// Gives it to a 101, beside what that holds already.
    pub(super) fn attach<B>(held: impl Send + Sync + 'static, response: &mut Response<B>) {
        let before = response.extensions_mut().remove::<Self>();
        response.extensions_mut().insert(Self(Arc::new((held, before))));
    }
}

/// Says in a message that its connection changes protocol.
pub(super) fn mark(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
}

/// True for the protocol that HTTP/2 has a way of its own to ask for.
pub(super) fn is_websocket(protocol: &HeaderValue) -> bool {
    protocol.as_bytes().eq_ignore_ascii_case(WEBSOCKET.as_bytes())
}

/// Makes of a request for a WebSocket the extended CONNECT that HTTP/2 has for it, but for its target's form.
pub(super) fn to_connect(parts: &mut Parts) {
    parts.method = Method::CONNECT;
    parts.headers.remove(SEC_WEBSOCKET_KEY);
    parts.extensions.insert(hyper::ext::Protocol::from_static(WEBSOCKET));
}

/// Makes of the answer to an extended CONNECT what HTTP/1.1 has for it; `key` is the one of the request.
///
/// # Errors
/// It is a success of which nobody knows what it means.
pub(super) fn connected<B>(response: &mut Response<B>, key: Option<&HeaderValue>) -> Result<(), Cause> {
    if response.status() == StatusCode::OK {
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().remove(CONTENT_LENGTH);
        mark(response.headers_mut(), HeaderValue::from_static(WEBSOCKET));
        let accept = key.map(|key| HeaderValue::try_from(accept(key.as_bytes())));
        response.headers_mut().extend(accept.and_then(Result::ok).map(|accept| (SEC_WEBSOCKET_ACCEPT, accept)));
        return Ok(());
    }
    if response.status().is_success() { Err(Cause::UpstreamProtocol) } else { Ok(()) }
}

/// What a server answers to the key of a WebSocket.
fn accept(key: &[u8]) -> String {
    let input = [key, WEBSOCKET_GUID.as_bytes()].concat();
    BASE64.encode(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &input))
}

/// Undoes [`mark`].
pub(super) fn unmark(headers: &mut HeaderMap) {
    headers.remove(CONNECTION);
    headers.remove(UPGRADE);
}

/// Checks a 101 against what was asked, before hop-by-hop headers are stripped.
///
/// # Errors
/// Nobody asked, or for another protocol.
pub(super) fn answered<B>(response: &Response<B>, asked: Option<&HeaderValue>) -> Result<Option<HeaderValue>, Cause> {
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(None);
    }
    let asked = asked.ok_or(Cause::UpstreamProtocol)?;
    let mut taken = tokens(response.headers(), UPGRADE);
    let is_same = taken.next().is_some_and(|taken| taken.eq_ignore_ascii_case(asked.as_bytes()));
    if is_same && taken.next().is_none() { Ok(Some(asked.clone())) } else { Err(Cause::UpstreamProtocol) }
}

/// Joins the caller's connection with that of a 101 response, as soon as both are free. Where the server is beside this node, the
/// tunnel ends when policy denies it.
pub(super) fn join(context: &Context, caller: Caller, response: &mut Response<ResponseBody>) {
    join_holding(context, caller, response, (), None);
}

/// As [`join`]; `held` is dropped when the tunnel has ended, which is also when what was admitted at a gateway is denied. Until then the
/// request lasts, and what goes through the tunnel are its bytes. A node that stops gives it the time to drain.
pub(super) fn join_holding(
    context: &Context,
    caller: Caller,
    response: &mut Response<ResponseBody>,
    held: impl Send + 'static,
    admitted: Option<Standing>,
) {
    // By HTTP/2 the stream of an application becomes the tunnel.
    let by_http2 = hyper::upgrade::on(&mut *response);
    let server = Upgraded::take(response);
    let standing = response.extensions_mut().remove::<Standing>();
    let flight = response.extensions_mut().remove::<Held>();
    // Silence in both directions after which the tunnel ends.
    let idle = context.limits().stream_idle;
    let (place, budget, cutting) = (listen::place(), context.budget.clone(), context.cutting.clone());
    let mut lasting = Lasting { exchanges: response.body_mut().take_exchanges(), received: 0, sent: 0 };
    let over = CancellationToken::new();
    if let Caller::Http2(_) = &caller {
        response.extensions_mut().insert(Tunnel(over.clone()));
    }
    let over = over.drop_guard();
    let tunnel = async move {
        let _held = (held, flight, place, over);
        let server = match server {
            Some(server) => Some(Either::Left(server)),
            None => by_http2.await.ok().map(TokioIo::new).map(Either::Right),
        };
        let (Some(caller), Some(server)) = (caller.connection().await, server) else {
            tracing::debug!("a connection ended before its protocol changed");
            return;
        };
        let by_caller = match &caller {
            Either::Left(caller) => lost(caller),
            Either::Right(_) => never(),
        };
        let by_server = match &server {
            Either::Left(server) => lost(server),
            Either::Right(_) => never(),
        };
        let lost = futures_util::future::select(by_caller, by_server);
        let (mut caller, mut server) = (caller, server);
        let active = AtomicU64::new(clock::uptime());
        let Lasting { received, sent, .. } = &mut lasting;
        let both = tcp::join(&budget, &mut caller, &mut server, &active, (received, sent));
        let forbidden = async |standing: Option<Standing>| match standing {
            Some(mut standing) => standing.forbidden().await,
            None => std::future::pending().await,
        };
        tokio::select! {
            ended = both => match ended {
                Ok(()) => return,
                Err(error) => tracing::debug!(%error, "upgraded connection ended"),
            },
            () = forbidden(standing) => {}
            () = forbidden(admitted) => {}
            () = cutting.cancelled() => {}
            _ = lost => {}
            () = silence(&active, Some(idle)) => tracing::debug!("nothing went over an upgraded connection for too long"),
        }
        give_up(caller);
        give_up(server);
    };
    context.tasks.detach("upgraded connection", context.open.track_future(tunnel));
}

/// Requests that last as long as the tunnel, and the bytes that went through it from the caller and to it.
struct Lasting {
    exchanges: [Option<Exchange>; 2],
    received: u64,
    sent: u64,
}

impl Drop for Lasting {
    fn drop(&mut self) {
        for exchange in self.exchanges.iter_mut().flatten() {
            exchange.tunnelled(self.received, self.sent);
        }
    }
}

/// Ends one side in the middle. Another node must not take it for the end of a direction: then it would go on taking what is sent in the
/// other one.
fn give_up<H>(side: Either<Upgraded, H>) {
    let Either::Left(upgraded) = side else { return };
    let is_boxed = upgraded.carrier::<Box<VirtualStream>>().is_some();
    let stream = if is_boxed { upgraded.into_carrier().map(|stream: Box<_>| *stream) } else { upgraded.into_carrier() };
    if let Some(stream) = stream {
        VirtualStream::reset(stream);
    }
}

/// Resolves when the connection between nodes under it is closed, where there is one: while what came of it finds no taker, nobody
/// reads it.
fn lost(upgraded: &Upgraded) -> BoxFuture<'static, ()> {
    let boxed = || upgraded.carrier::<Box<VirtualStream>>().map(AsRef::as_ref);
    upgraded.carrier::<VirtualStream>().or_else(boxed).map_or_else(never, VirtualStream::lost)
}

fn never() -> BoxFuture<'static, ()> {
    Box::pin(std::future::pending())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connect(protocol: &'static str) -> Request<()> {
        let request = Request::connect("http://chat.shop:80/room?x=1").version(Version::HTTP_2);
        request.extension(hyper::ext::Protocol::from_static(protocol)).body(()).unwrap()
    }

    #[test]
    fn an_extended_connect_becomes_a_request_for_a_websocket() {
        let mut request = connect("websocket");
        assert!(Extended::of(&mut request, || 7).is_some());
        let (parts, ()) = request.into_parts();
        assert_eq!((&parts.method, parts.uri.path(), parts.uri.query()), (&Method::GET, "/room", Some("x=1")));
        assert_eq!(
            (parts.headers[HOST].as_bytes(), asked(&parts)),
            (&b"chat.shop:80"[..], Some("websocket".parse().unwrap()))
        );
        let mut other = connect("connect-udp");
        assert!(Extended::of(&mut other, || 7).is_none() && *other.method() == Method::CONNECT);
        let mut plain = Request::connect("chat.shop:80").body(()).unwrap();
        assert!(Extended::of(&mut plain, || 7).is_none());
    }

    #[test]
    fn an_application_is_asked_by_extended_connect() {
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        let request = Request::get("/room?x=1").header(SEC_WEBSOCKET_KEY, &key).body(()).unwrap();
        let (mut parts, ()) = request.into_parts();
        to_connect(&mut parts);
        assert_eq!((&parts.method, parts.headers.len()), (&Method::CONNECT, 0));
        let answered = |status: u16| {
            let mut response = Response::builder().status(status).body(()).unwrap();
            connected(&mut response, Some(&key)).map(|()| (response.status().as_u16(), response.headers().clone()))
        };
        let (status, headers) = answered(200).unwrap();
        assert_eq!(status, 101);
        assert_eq!(headers[SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(headers[UPGRADE], "websocket");
        assert_eq!(headers[CONNECTION], "upgrade");
        assert_eq!(answered(204), Err(Cause::UpstreamProtocol));
        assert_eq!(answered(404).map(|(status, _)| status), Ok(404));
    }

    #[test]
    fn only_a_server_that_knows_websockets_changes_the_protocol() {
        // The example of RFC 6455, 1.3.
        let extended = Extended { key: "dGhlIHNhbXBsZSBub25jZQ==".to_owned() };
        let judged = |status: u16, accept: &'static str| {
            let headers = HeaderMap::from_iter([(SEC_WEBSOCKET_ACCEPT, HeaderValue::from_static(accept))]);
            extended.judge(StatusCode::from_u16(status).unwrap(), &headers)
        };
        assert_eq!(judged(101, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), Ok(()));
        assert_eq!(judged(101, "other"), Err(Cause::UpstreamProtocol));
        assert_eq!((judged(200, ""), judged(404, "")), (Err(Cause::UpstreamProtocol), Ok(())));
    }
}
