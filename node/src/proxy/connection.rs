//! One connection that carries HTTP requests to this proxy: from an application, or from another node.

use super::{
    context::Context,
    http::{Bounds, FrameGuard, Guard, ResponseBody, Side, UpgradeAnswer},
    inbound::Spawn,
};
use http::{Request, Response, StatusCode, header::UPGRADE};
use hyper::{
    body::{Body, Incoming},
    server::conn::{http1, http2},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{convert::Infallible, pin::pin};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
};

/// Streams that we had to reset on one connection; then it ends.
const RESETS: usize = 100;
/// Smallest buffer that hyper's HTTP/1 works with, bytes.
const SMALLEST_BUFFER: usize = 8 * 1024;
/// Most bytes of one HTTP/2 connection that wait to be read.
const MAX_WINDOW: u32 = 16 * 1024 * 1024;
/// Header lines for which hyper needs no memory of its own.
const USUAL_LINES: usize = 100;

/// Answers the requests of one connection.
pub(super) trait Handler: Clone + Send + Sync + 'static {
    /// Answers one request.
    fn handle(&self, request: Request<Incoming>) -> impl Future<Output = Response<ResponseBody>> + Send;
}

/// Serves HTTP/1 until the connection ends; when the node drains, or policy changes the bounds of connections, until the request
/// under way has ended.
pub(super) async fn serve_http1<I, H>(context: &Context, io: I, side: Side, handler: H)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Handler,
{
    let (mut rules, bounds) = (context.rules.subscribe(), Bounds::of(side, &context.limits()));
    let answer = UpgradeAnswer::default();
    let service = service(handler, Some(answer.clone()));
    let mut builder = http1::Builder::new();
    builder.max_buf_size(bounds.head.max(SMALLEST_BUFFER));
    if bounds.lines != USUAL_LINES {
        builder.max_headers(bounds.lines);
    }
    let connection = builder.serve_connection(TokioIo::new(Guard::new(io, answer, bounds)), service).with_upgrades();
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = closing(context, &mut rules, side, bounds) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "HTTP/1 connection ended");
    }
}

/// As [`serve_http1`], for HTTP/2.
pub(super) async fn serve_http2<I, H>(context: &Context, io: I, side: Side, handler: H)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Handler,
{
    let (mut rules, bounds) = (context.rules.subscribe(), Bounds::of(side, &context.limits()));
    let service = service(handler, None);
    let connection = http2::Builder::new(Spawn(context.tasks.clone()))
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(bounds.head).unwrap_or(u32::MAX))
        .max_concurrent_streams(bounds.streams)
        .max_pending_accept_reset_streams(bounds.pending_resets)
        .max_local_error_reset_streams(RESETS)
        // Together the streams get what they could get each: one that nobody reads does not stop the others.
        .initial_stream_window_size(bounds.window)
        .initial_connection_window_size(bounds.window.saturating_mul(bounds.streams).min(MAX_WINDOW))
        .serve_connection(TokioIo::new(FrameGuard::new(io, bounds)), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = closing(context, &mut rules, side, bounds) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "HTTP/2 connection ended");
    }
}

/// Resolves when the connection must end after what is under way.
async fn closing(context: &Context, rules: &mut watch::Receiver<u64>, side: Side, bounds: Bounds) {
    let others = async {
        // An error means that no rules come any more.
        while rules.changed().await.is_ok() {
            if Bounds::of(side, &context.limits()) != bounds {
                return;
            }
        }
        std::future::pending().await
    };
    tokio::select! {
        () = context.draining() => {}
        () = others => {}
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
