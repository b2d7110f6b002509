//! Requests of one connection, answered one after the other, all in the connection's own task.

use super::{
    BoxError, Upgraded,
    decoder::{Decoded, Decoder},
    encoder::Out,
    head::{Framing, keeps_alive},
    reply::{self, Asked},
    request::{HeadLimits, Refused, RequestHead},
    wire::{Shared, Source, Timers, linger, shared},
};
use crate::lock::lock;
use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http::{
    Request, Response, StatusCode, Version,
    header::{EXPECT, UPGRADE},
};
use http_body::{Body as _, Frame, SizeHint};
use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{
            AtomicBool,
            Ordering::{Acquire, Release},
        },
    },
    task::{Context, Poll, Wake, Waker, ready},
    time::Duration,
};
use tokio::sync::oneshot;

pub use super::client::Io;

/// What a connection may ask.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Of a head.
    pub head: HeadLimits,
    /// Longest time from the first byte of a head to its last.
    pub head_time: Duration,
    /// Shortest silence after which the connection ends (it may last twice as long).
    pub idle: Duration,
}

/// Answers requests.
pub trait Service: Sync {
    /// The bodies of its responses.
    type Body: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Unpin + Send;

    /// Answers one request. Dropped when the caller goes away before.
    fn answer(&self, request: Request<Body>) -> impl Future<Output = Response<Self::Body>> + Send;

    /// Why a response must end, once it must. While the caller does not read, its body is not asked for more, but this is.
    fn poll_over(&self, body: &mut Self::Body, cx: &mut Context<'_>) -> Poll<BoxError> {
        let _ = (body, cx);
        Poll::Pending
    }

    /// A head was refused with this status before there was a request.
    fn refused(&self, status: StatusCode, why: &'static str) {
        let _ = (status, why);
    }
}

/// The body of a request. Whoever polls it reads from the connection; dropped before its end, it ends the connection with the
/// response.
pub struct Body {
    source: Option<(Arc<dyn Source>, u64)>,
    left: Option<u64>,
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Body").field("left", &self.left).finish_non_exhaustive()
    }
}

/// The connection of a request that asked for another protocol, once its answer was 101; of a CONNECT, once it succeeded.
#[derive(Debug)]
pub struct OnUpgrade(Option<oneshot::Receiver<Upgraded>>);

/// Travels with a request that asks for another protocol.
#[derive(Debug, Clone)]
struct Ticket(Arc<std::sync::Mutex<Option<oneshot::Receiver<Upgraded>>>>);

impl OnUpgrade {
    /// Of a request; the first who asks gets the connection.
    pub fn of<B>(request: &mut Request<B>) -> Self {
        let ticket: Option<Ticket> = request.extensions_mut().remove();
        Self(ticket.and_then(|Ticket(ticket)| lock(&ticket).take()))
    }

    /// The connection; `None` if its protocol does not change.
    pub async fn connection(self) -> Option<Upgraded> {
        self.0?.await.ok()
    }
}

/// Why a connection ended otherwise than in order.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller went away, or was silent for too long.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The caller was refused.
    #[error("refused a request: {0}")]
    Refused(&'static str),
    /// A response broke off.
    #[error("a response broke off: {0}")]
    Response(BoxError),
}

/// Serves until the connection ends; once `closing` is ready, until the request under way has ended.
///
/// # Errors
/// The end was not in order.
pub async fn serve<I: Io>(
    io: I,
    limits: Limits,
    service: &impl Service,
    closing: impl Future<Output = ()>,
) -> Result<(), Error> {
    let wire = shared(io);
    let mut timers = Timers::new(limits.head_time, limits.idle);
    let closing = pin!(closing);
    let mut closing = Closing::new(closing);
    let mut count = 0;
    loop {
        let head = poll_fn(|cx| {
            let polled = lock(&wire).poll_request(limits.head, &mut timers, cx);
            // Between two requests nothing is lost.
            if polled.is_pending() && !timers.is_within_head() && closing.poll(cx) {
                return Poll::Ready(Ok(None));
            }
            polled
        });
        let head = match head.await {
            Ok(Some(head)) => head,
            Ok(None) => return end(&wire).await,
            Err(Error::Refused(_)) => return refuse(&wire, service).await,
            Err(error) => return Err(error),
        };
        count += 1;
        let (request, asked, upgrades) = begin(&wire, head, count);
        let response = {
            // Boxed, so that a connection that waits for its next request keeps no room for it; made in its place, not moved there.
            let mut answering = Box::into_pin(Box::write(Box::new_uninit(), service.answer(request)));
            poll_fn(|cx| match answering.as_mut().poll(cx) {
                Poll::Ready(response) => Poll::Ready(Ok(response)),
                Poll::Pending => lock(&wire).poll_gone(&mut timers, cx).map(Err),
            })
            .await?
        };
        let closes = poll_fn(|cx| Poll::Ready(closing.poll(cx))).await;
        let is_upgrade = response.status() == StatusCode::SWITCHING_PROTOCOLS || asked.opens_tunnel(response.status());
        let goes_on = respond(&wire, (service, response), asked, closes, &mut timers).await?;
        if is_upgrade {
            if let (Some(upgrades), Some(upgraded)) = (upgrades, lock(&wire).upgraded()) {
                // Nobody may want it any more.
                drop(upgrades.send(upgraded));
            }
            return Ok(());
        }
        if !goes_on || !poll_fn(|cx| lock(&wire).poll_body_end(&mut timers, cx)).await {
            end(&wire).await?;
            if !lock(&wire).is_read() {
                linger(&wire).await;
            }
            return Ok(());
        }
    }
}

/// A signal that is looked at again and again, and polled only when it has asked for that: every request looks twice, and it comes once.
struct Closing<F> {
    signal: F,
    is_ready: bool,
    told: Arc<Told>,
}

/// Whether a signal has to be polled, and who looks at it.
struct Told {
    is_due: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Told {
    fn wake(self: Arc<Self>) {
        self.is_due.store(true, Release);
        self.task.wake();
    }
}

impl<F: Future<Output = ()> + ?Sized> Closing<Pin<&mut F>> {
    fn new(signal: Pin<&mut F>) -> Closing<Pin<&mut F>> {
        let told = Told { is_due: AtomicBool::new(true), task: AtomicWaker::new() };
        Closing { signal, is_ready: false, told: Arc::new(told) }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> bool {
        // First: what is told after the look wakes this task.
        self.told.task.register(cx.waker());
        if !self.is_ready && self.told.is_due.swap(false, Acquire) {
            let waker = Waker::from(Arc::clone(&self.told));
            self.is_ready = self.signal.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        }
        self.is_ready
    }
}

/// Makes a request of its head, and says what its response depends on.
fn begin<I: Io>(
    wire: &Shared<I>,
    head: RequestHead,
    count: u64,
) -> (Request<Body>, Asked, Option<oneshot::Sender<Upgraded>>) {
    let decoder = match head.framing {
        Framing::Open => Decoder::Done,
        Framing::Length(length) => Decoder::length(length),
        Framing::Chunked => Decoder::CHUNKED,
    };
    let goes_on = keeps_alive(head.version, &head.headers);
    let asked = Asked::of(&head.method, head.version, &head.headers, goes_on);
    let upgrades = (asked.is_connect() || head.headers.contains_key(UPGRADE)) && decoder.is_done();
    let continues = head.version == Version::HTTP_11
        && head.headers.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    lock(wire).begin(decoder, continues, asked.is_connect(), count);
    let source = (!decoder.is_done()).then(|| (Arc::clone(wire) as Arc<dyn Source>, count));
    let mut request = Request::new(Body { source, left: decoder.left() });
    (*request.method_mut(), *request.uri_mut(), *request.version_mut()) = (head.method, head.uri, head.version);
    *request.headers_mut() = head.headers;
    let told = upgrades.then(|| {
        let (told, upgraded) = oneshot::channel();
        request.extensions_mut().insert(Ticket(Arc::new(std::sync::Mutex::new(Some(upgraded)))));
        told
    });
    (request, asked, told)
}

/// Sends a response; true if the connection may go on.
async fn respond<I: Io, S: Service>(
    wire: &Shared<I>,
    (service, response): (&S, Response<S::Body>),
    asked: Asked,
    closes: bool,
    timers: &mut Timers,
) -> Result<bool, Error> {
    let (parts, body) = response.into_parts();
    // A caller that is answered before it has sent everything is told that this is the end.
    let closes = poll_fn(|cx| {
        let mut wire = lock(wire);
        wire.begin_response();
        Poll::Ready(closes || wire.is_unread(cx))
    })
    .await;
    let (mut encoder, goes_on) = {
        let mut wire = lock(wire);
        let framed = reply::write_head(wire.out(), &parts, &body, asked, closes);
        framed.map_err(|bad| Error::Response(bad.into()))?
    };
    let mut body = encoder.is_some().then_some(body);
    poll_fn(|cx| {
        loop {
            let mut waits = false;
            while let Some(source) = &mut body
                && lock(wire).out().has_room()
            {
                // Nothing is locked here: the source may look at the request.
                let Poll::Ready(frame) = Pin::new(&mut *source).poll_frame(cx) else {
                    waits = true;
                    break;
                };
                let frame = frame.transpose().map_err(|error| Error::Response(error.into()))?;
                let is_last = source.is_end_stream();
                let ended = take(&mut encoder, lock(wire).out(), frame, is_last);
                // Nor here: what is dropped may hold the request's body.
                if ended.map_err(|bad| Error::Response(bad.into()))? {
                    // Of HTTP/2 the end may stand right behind the last byte: who takes it leaves an orderly stream.
                    if !source.is_end_stream() {
                        let _ = Pin::new(source).poll_frame(cx);
                    }
                    body = None;
                }
            }
            let mut wire = lock(wire);
            match wire.poll_write(cx)? {
                Poll::Pending => {
                    let gone = wire.poll_gone(timers, cx).map(|gone| Err(Error::Io(gone)));
                    // It may let go of the request's body.
                    drop(wire);
                    let over = body.as_mut().map_or(Poll::Pending, |body| service.poll_over(body, cx));
                    return if let Poll::Ready(why) = over { Poll::Ready(Err(Error::Response(why))) } else { gone };
                }
                Poll::Ready(()) if body.is_none() => return Poll::Ready(Ok(())),
                Poll::Ready(()) if waits => return wire.poll_gone(timers, cx).map(|gone| Err(Error::Io(gone))),
                Poll::Ready(()) => {}
            }
        }
    })
    .await?;
    Ok(goes_on)
}

/// Adds a frame of a response; true if that was its end.
fn take(
    encoder: &mut Option<super::encoder::Encoder>,
    out: &mut Out,
    frame: Option<Frame<Bytes>>,
    is_last: bool,
) -> Result<bool, &'static str> {
    let Some(encoder) = encoder else { return Ok(true) };
    let trailers = match frame.map(Frame::into_data) {
        Some(Ok(data)) => {
            encoder.data(out, data)?;
            // What ends it goes behind what waits.
            if !(encoder.is_full() || is_last && out.has_room()) {
                return Ok(false);
            }
            None
        }
        Some(Err(frame)) => frame.into_trailers().ok(),
        None => None,
    };
    encoder.end(out, trailers.as_ref())?;
    Ok(true)
}

/// Answers what could not be read, and ends the connection.
async fn refuse<I: Io>(wire: &Shared<I>, service: &impl Service) -> Result<(), Error> {
    let Refused(status, why) = lock(wire).refusal();
    service.refused(status, why);
    reply::write_refusal(lock(wire).out(), status);
    poll_fn(|cx| lock(wire).poll_write(cx)).await?;
    end(wire).await?;
    linger(wire).await;
    Err(Error::Refused(why))
}

/// Ends the connection in order.
async fn end<I: Io>(wire: &Shared<I>) -> Result<(), Error> {
    Ok(poll_fn(|cx| lock(wire).poll_end(cx)).await?)
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some((source, count)) = &self.source else { return Poll::Ready(None) };
        let decoded = ready!(source.poll_body(*count, cx));
        let over = |body: &mut Self| body.source = None;
        Poll::Ready(match decoded {
            Ok((Decoded::Data(data), left)) => {
                self.left = left;
                if left == Some(0) {
                    over(&mut self);
                }
                Some(Ok(Frame::data(data)))
            }
            Ok((Decoded::Trailers(trailers), _)) => {
                over(&mut self);
                Some(Ok(Frame::trailers(trailers)))
            }
            Ok((Decoded::End | Decoded::More, _)) => {
                over(&mut self);
                None
            }
            Err(error) => {
                over(&mut self);
                Some(Err(error))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.source.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.source, self.left) {
            (None, _) => SizeHint::with_exact(0),
            (Some(_), left) => left.map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if let Some((source, count)) = &self.source {
            source.leave(*count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn a_signal_is_polled_when_it_has_asked_for_that() {
        let (send, signal) = oneshot::channel::<()>();
        let (mut signal, mut polls) = (pin!(signal), 0);
        let signal = pin!(poll_fn(|cx| {
            polls += 1;
            signal.as_mut().poll(cx).map(drop)
        }));
        let mut closing = Closing::new(signal);
        for _ in 0..3 {
            assert!(!poll_fn(|cx| Poll::Ready(closing.poll(cx))).await);
        }
        let mut send = Some(send);
        // Who looks is woken by it.
        poll_fn(|cx| {
            let is_ready = closing.poll(cx);
            if let Some(send) = send.take() {
                let _ = send.send(());
            }
            if is_ready { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        assert!(poll_fn(|cx| Poll::Ready(closing.poll(cx))).await, "it stays");
        assert_eq!(polls, 2);
    }
}
