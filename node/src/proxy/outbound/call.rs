//! Requests that this proxy makes itself, as a service beside this node: they take the way of its application's requests from where
//! those are routed.

use super::{Requests, Speaker, forward};
use crate::{
    clock,
    proxy::{
        context::Context,
        exchange::Exchange,
        failure::Cause,
        http::{self as body, Incoming, ResponseBody},
    },
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use policy::route::Routed;
use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, OnceLock},
};

/// A call that is under way. Its type has a name, because the way leads back to the inbound side, which makes calls.
pub(in crate::proxy) type Calling<'a> =
    Pin<Box<dyn Future<Output = Result<Response<ResponseBody>, Cause>> + Send + 'a>>;

/// Sends a request for `host` along this route; `remote` is the caller on whose account it is made. The route's timeout goes on until
/// the end of the response.
pub(in crate::proxy) fn call<'a>(
    context: &'a Arc<Context>,
    speaker: &'a Arc<Speaker>,
    routed: &'a Routed,
    remote: SocketAddr,
    host: HeaderValue,
    request: Request<Option<Bytes>>,
) -> Calling<'a> {
    Box::pin(async move {
        let snapshot = context.current.load();
        let (parts, body) = request.into_parts();
        let is_head = parts.method == Method::HEAD;
        let (local, came) = (remote, clock::monotonic());
        let mut exchange = Exchange::new(came, body::is_grpc(&parts.headers));
        let speaker = Arc::clone(speaker);
        let requests = Requests {
            context,
            speaker,
            entrance: None,
            remote,
            local,
            dialled: None,
            meant: None,
            came,
            came_at: OnceLock::new(),
            standing: None,
        };
        let (head, incoming) = (forward::Head { parts, host }, Incoming::Own(body));
        let mut outgoing = forward::Outgoing { head, upgrade: None, incoming, user: None };
        match forward::forward(&requests, &snapshot, routed, &mut outgoing, &mut exchange).await {
            Ok(answered) => {
                let idle = context.limits().stream_idle;
                Ok(answered.finish(exchange, is_head, idle, None).0)
            }
            Err(cause) => {
                let answer = cause.answer();
                exchange.flag(answer.flags);
                exchange.answered(answer.status, &HeaderMap::new());
                exchange.ended();
                Err(cause)
            }
        }
    })
}
