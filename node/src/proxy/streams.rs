//! The streams of an HTTP/2 connection, each in a task of its own.
//!
//! hyper asks a response's body for more only while the caller takes what there is. So the body stays with the task of its stream, and hyper
//! gets a [`Kept`] in its place: the task asks it whether it must end also while the caller does not read.

use super::http::{BoxError, ResponseBody};
use crate::tasks::Tasks;
use bytes::Bytes;
use hyper::{
    body::{Body, Frame, SizeHint},
    rt::Executor,
};
use std::{
    cell::RefCell,
    future::poll_fn,
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

thread_local! {
    /// The response of the stream that is being polled.
    static RESPONSE: RefCell<Option<Response>> = const { RefCell::new(None) };
}

/// A response that was given to hyper.
struct Response {
    body: ResponseBody,
    /// It was asked for more last: whatever ends it wakes its task by itself.
    is_asked: bool,
    /// What the stream becomes by it.
    tunnel: Option<Tunnel>,
}

/// Travels with a response that turns its stream into a tunnel: cancelled at the tunnel's end.
#[derive(Debug, Clone)]
pub(super) struct Tunnel(pub(super) CancellationToken);

/// Stands for the body of the stream that is being polled.
#[derive(Debug)]
pub(super) struct Kept(());

/// Keeps a body with the task of the stream that answers with it: the one that is being polled.
pub(super) fn keep(mut response: http::Response<ResponseBody>) -> http::Response<Kept> {
    let tunnel = response.extensions_mut().remove();
    response.map(|body| {
        RESPONSE.set(Some(Response { body, is_asked: false, tunnel }));
        Kept(())
    })
}

impl Body for Kept {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        RESPONSE.with_borrow_mut(|response| match response {
            Some(Response { body, is_asked, .. }) => {
                let frame = Pin::new(body).poll_frame(context);
                *is_asked = frame.is_pending();
                frame
            }
            None => Poll::Ready(Some(Err("a body away from its stream".into()))),
        })
    }

    fn is_end_stream(&self) -> bool {
        RESPONSE.with_borrow(|response| response.as_ref().is_some_and(|response| response.body.is_end_stream()))
    }

    fn size_hint(&self) -> SizeHint {
        RESPONSE.with_borrow(|response| response.as_ref().map_or_else(SizeHint::new, |kept| kept.body.size_hint()))
    }
}

/// Runs the streams of a connection. One in which nothing moves for too long ends although others go on: its caller may have stopped
/// reading, and then nobody asks its body for more. What writes to the caller of a tunnel wakes for that alone, and the tunnel has a time of
/// its own: it ends when that is over, but for the last bytes.
#[derive(Clone)]
pub(super) struct Streams {
    pub(super) tasks: Tasks,
    pub(super) idle: Duration,
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let time = self.idle;
        let tunnel = RESPONSE.with_borrow_mut(|response| response.as_mut()?.tunnel.take());
        if let Some(Tunnel(over)) = tunnel {
            return self.tasks.detach("http2 tunnel", async move {
                tokio::select! {
                    () = stream => {}
                    () = async { over.cancelled().await; sleep(time).await } => {}
                }
            });
        }
        self.tasks.detach("http2", async move {
            let (mut stream, mut idle, mut active) = (pin!(stream), pin!(sleep(time)), false);
            let mut response = None;
            poll_fn(|context| {
                if poll_stream(stream.as_mut(), &mut response, context).is_ready() {
                    return Poll::Ready(());
                }
                let mut is_due = false;
                while idle.as_mut().poll(context).is_ready() {
                    is_due = true;
                    if !std::mem::take(&mut active) {
                        return Poll::Ready(());
                    }
                    idle.set(sleep(time));
                }
                // What else wakes it is life.
                active |= !is_due;
                Poll::Pending
            })
            .await;
        });
    }
}

/// Ready at the end of a stream, or when its response must end: dropped then, it is reset.
fn poll_stream<F: Future<Output = ()>>(
    stream: Pin<&mut F>,
    response: &mut Option<Response>,
    context: &mut Context<'_>,
) -> Poll<()> {
    RESPONSE.with_borrow_mut(|place| {
        // What a stream left there that panicked goes.
        if place.is_some() || response.is_some() {
            *place = response.take();
        }
    });
    let ended = stream.poll(context);
    if RESPONSE.with_borrow(Option::is_some) {
        *response = RESPONSE.take();
    }
    if let Poll::Pending = ended
        && let Some(Response { body, is_asked: false, .. }) = response
    {
        return body.poll_over(context).map(drop);
    }
    ended
}
