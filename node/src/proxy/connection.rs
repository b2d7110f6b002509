//! One connection that carries HTTP requests to this proxy: from an application, or from another node.

use super::{
    context::Context,
    http::{Guard, HEAD_LIMIT, ResponseBody, UpgradeAnswer},
    inbound::Spawn,
};
use http::{Request, Response, StatusCode, header::UPGRADE};
use hyper::{
    body::{Body, Incoming},
    server::conn::{http1, http2},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{convert::Infallible, pin::pin};
use tokio::io::{AsyncRead, AsyncWrite};

/// Streams that we had to reset on one connection; then it ends.
const RESETS: usize = 100;

/// Answers the requests of one connection.
pub(super) trait Handler: Clone + Send + Sync + 'static {
    /// Answers one request.
    fn handle(&self, request: Request<Incoming>) -> impl Future<Output = Response<ResponseBody>> + Send;
}

/// Serves HTTP/1 until the connection ends; when the node drains, until the request under way has ended.
pub(super) async fn serve_http1<I, H>(context: &Context, io: I, handler: H)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Handler,
{
    let answer = UpgradeAnswer::default();
    let service = service(handler, Some(answer.clone()));
    let connection = http1::Builder::new()
        .max_buf_size(HEAD_LIMIT)
        .serve_connection(TokioIo::new(Guard::new(io, answer)), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = context.draining() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "HTTP/1 connection ended");
    }
}

/// As [`serve_http1`], for HTTP/2.
pub(super) async fn serve_http2<I, H>(context: &Context, io: I, handler: H)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Handler,
{
    let service = service(handler, None);
    let limits = context.current.read().compiled.config().limits;
    let connection = http2::Builder::new(Spawn(context.tasks.clone()))
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(HEAD_LIMIT).unwrap_or(u32::MAX))
        .max_concurrent_streams(limits.streams)
        .max_pending_accept_reset_streams(usize::try_from(limits.pending_resets).unwrap_or(usize::MAX))
        .max_local_error_reset_streams(RESETS)
        .serve_connection(TokioIo::new(io), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = context.draining() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "HTTP/2 connection ended");
    }
}

/// A handler as hyper calls it. `upgrades` hears how each request that asks for an upgrade was answered.
fn service<H: Handler>(
    handler: H,
    upgrades: Option<UpgradeAnswer>,
) -> impl hyper::service::HttpService<Incoming, ResBody = ResponseBody, Error = Infallible, Future: Send> + Send {
    hyper::service::service_fn(move |request: Request<Incoming>| {
        let handler = handler.clone();
        let asks = request.headers().contains_key(UPGRADE) && request.body().is_end_stream();
        let upgrades = upgrades.clone().filter(|_| asks);
        async move {
            let response = handler.handle(request).await;
            if let Some(upgrades) = upgrades {
                upgrades.set(response.status() == StatusCode::SWITCHING_PROTOCOLS);
            }
            Ok::<_, Infallible>(response)
        }
    })
}
