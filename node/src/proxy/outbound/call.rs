//! Requests that this proxy makes itself, as a service beside this node: they take the way of its application's requests from where
//! those are routed.

use super::{Requests, Speaker, forward, observe};
use crate::{
    clock, config,
    proxy::{
        context::Context,
        exchange::Exchange,
        failure::Cause,
        http::{self as body, Incoming, ResponseBody},
    },
};
use bytes::Bytes;
use certs::id::ServiceName;
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use policy::route::{self, Route, Routed};
use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, OnceLock},
    time::Duration,
};

/// A call that is under way. Its type has a name, because the way leads back to the inbound side, which makes calls.
pub(in crate::proxy) type Calling<'a> =
    Pin<Box<dyn Future<Output = Result<Response<ResponseBody>, Cause>> + Send + 'a>>;

/// How a service beside this node is spoken for by the node itself, towards one port of another.
#[derive(Debug)]
pub(in crate::proxy) struct OwnWay {
    speaker: Arc<Speaker>,
    routed: Routed,
}

impl OwnWay {
    /// Requests go by the rules of `from` and have so much time, until the end of their responses. `None` if that service is no longer
    /// beside this node.
    pub(in crate::proxy) fn new(
        context: &Context,
        from: &config::SpeakerName,
        (to, port): (&ServiceName, u16),
        timeout: Duration,
    ) -> Option<Self> {
        let (snapshot, local) = (context.current.read(), context.local.load());
        let speaker = Speaker::new(&local, &snapshot, &context.locality, from, None, 0)?;
        let plain = route::to_service(&snapshot.compiled, to, port, from.service.namespace());
        let timed = Route { timeout: Some(timeout), ..Route::clone(&plain.route) };
        Some(Self { speaker: Arc::new(speaker), routed: Routed { route: Arc::new(timed), ..plain } })
    }

    /// Sends a request for `host`; `remote` is the caller on whose account it is made.
    pub(in crate::proxy) fn call<'a>(
        &'a self,
        context: &'a Arc<Context>,
        remote: SocketAddr,
        host: HeaderValue,
        request: Request<Option<Bytes>>,
    ) -> Calling<'a> {
        Box::pin(call(context, self, remote, host, request))
    }
}

async fn call(
    context: &Arc<Context>,
    own: &OwnWay,
    remote: SocketAddr,
    host: HeaderValue,
    request: Request<Option<Bytes>>,
) -> Result<Response<ResponseBody>, Cause> {
    let snapshot = context.current.load();
    let (parts, body) = request.into_parts();
    let is_head = parts.method == Method::HEAD;
    let (local, came) = (remote, clock::monotonic());
    let mut exchange = Exchange::new(came, body::is_grpc(&parts.headers));
    let requests = Requests {
        context,
        speaker: Arc::clone(&own.speaker),
        entrance: None,
        remote,
        local,
        dialled: None,
        meant: None,
        passes: None,
        came,
        came_at: OnceLock::new(),
        standing: None,
    };
    exchange.observe(observe::begin_own(&requests, &snapshot, &parts));
    let (head, incoming) = (forward::Head { parts, host }, Incoming::Own(body));
    let mut outgoing = forward::Outgoing { head, upgrade: None, incoming, user: None };
    let to = (own.routed.route.choose(|| context.random()), None);
    match forward::forward(&requests, &snapshot, &own.routed, to, &mut outgoing, &mut exchange).await {
        Ok(answered) => {
            let idle = context.limits().stream_idle;
            Ok(answered.finish(exchange, is_head, idle, None).0)
        }
        Err(cause) => {
            let answer = cause.answer();
            exchange.flag(answer.flags);
            exchange.details(cause.details());
            exchange.answered(answer.status, &HeaderMap::new());
            exchange.ended();
            Err(cause)
        }
    }
}
