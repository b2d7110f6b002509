//! One connection that carries HTTP requests to this proxy: from an application, or from another node.

use super::{
    context::Context,
    failure::Cause,
    http::{Bounds, FrameGuard, Incoming, ReplayBudget, ResponseBody, Side, Windowed, is_grpc},
    reply,
    streams::{Kept, Streams, keep},
};
use crate::http1::{self, HeadLimits, server};
use http::{Request, Response, StatusCode};
use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{convert::Infallible, pin::pin, task};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
};

/// Streams that we had to reset on one connection; then it ends.
const RESETS: usize = 100;
/// Most bytes of one HTTP/2 connection that wait to be read.
const MAX_WINDOW: u32 = 16 * 1024 * 1024;

/// Answers the requests of one connection.
pub(super) trait Handler: Clone + Send + Sync + 'static {
    /// Answers one request.
    fn handle(&self, request: Request<Incoming>) -> impl Future<Output = Response<ResponseBody>> + Send;

    /// What could not be read as a request was refused for this cause.
    fn refused(&self, cause: Cause);

    /// Resolves when no further request is wanted of it.
    fn closed(&self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }
}

/// Serves HTTP/1 until the connection ends; when the node drains, or policy changes the bounds of connections, until the request
/// under way has ended.
pub(super) async fn serve_http1<I, H>(context: &Context, io: I, side: Side, handler: H)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Handler,
{
    let (mut rules, bounds) = (context.rules.subscribe(), Bounds::of(side, &context.limits()));
    let head = HeadLimits { bytes: bounds.head, lines: bounds.lines };
    let limits = server::Limits { head, head_time: bounds.head_time, idle: bounds.idle };
    let watched = handler.clone();
    let closing = async {
        tokio::select! {
            biased;
            () = closing(context, &mut rules, side, bounds) => {}
            () = watched.closed() => {}
        }
    };
    if let Err(error) = server::serve(io, limits, &Http1(handler), closing).await {
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
    let watched = handler.clone();
    let window = bounds.window(context.budget.left());
    let service = service(handler, window, context.budget.clone());
    let streams = Streams { tasks: context.tasks.clone(), idle: bounds.idle };
    let mut builder = http2::Builder::new(streams);
    if side == Side::Application {
        // A WebSocket (RFC 8441). Between nodes it travels by HTTP/1.1.
        builder.enable_connect_protocol();
    }
    let connection = builder
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(bounds.head).unwrap_or(u32::MAX))
        .max_concurrent_streams(bounds.streams)
        .max_pending_accept_reset_streams(bounds.pending_resets)
        .max_local_error_reset_streams(RESETS)
        // Together the streams get what they could get each: one that nobody reads does not stop the others.
        .initial_stream_window_size(window)
        .initial_connection_window_size(window.saturating_mul(bounds.streams).min(MAX_WINDOW))
        .serve_connection(TokioIo::new(FrameGuard::new(io, bounds)), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = closing(context, &mut rules, side, bounds) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        () = watched.closed() => {
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

/// A handler of requests that come by HTTP/1.
struct Http1<H>(H);

impl<H: Handler> server::Service for Http1<H> {
    type Body = ResponseBody;

    fn answer(&self, request: Request<server::Body>) -> impl Future<Output = Response<ResponseBody>> + Send {
        self.0.handle(request.map(Incoming::Http1))
    }

    fn poll_over(&self, body: &mut ResponseBody, context: &mut task::Context<'_>) -> task::Poll<http1::BoxError> {
        body.poll_over(context)
    }

    fn refused(&self, status: StatusCode, why: &'static str) {
        self.0.refused(match status {
            StatusCode::URI_TOO_LONG => Cause::UriTooLong,
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => Cause::HeadersTooLarge,
            StatusCode::NOT_IMPLEMENTED => Cause::Unsupported(why),
            _ => Cause::BadRequest(why),
        });
    }
}

/// A handler as hyper calls it. What a stream may hold is `window`; a request for which the node has no room is refused.
fn service<H: Handler>(
    handler: H,
    window: u32,
    budget: ReplayBudget,
) -> impl hyper::service::HttpService<hyper::body::Incoming, ResBody = Kept, Error = Infallible, Future: Send> + Send {
    hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
        let (handler, budget) = (handler.clone(), budget.clone());
        async move {
            let (parts, body) = request.into_parts();
            let response = match Windowed::new(body, window, &budget) {
                // Boxed, because hyper and the task around it each move the stream's future more than once.
                Ok(body) => Box::pin(handler.handle(Request::from_parts(parts, Incoming::Http2(body)))).await,
                Err(_) => {
                    handler.refused(Cause::Overflow);
                    reply::failure(Cause::Overflow, is_grpc(&parts.headers))
                }
            };
            Ok::<_, Infallible>(keep(response))
        }
    })
}
