//! A request's body on its way to an endpoint: streamed, never copied, and kept for a retry while it is small.

use super::{
    ReplayBudget,
    ahead::Ahead,
    body_copy::{BodyCopy, Copier, Copying},
    grpc_messages::Messages,
    incoming::Incoming,
    request_source::{Next, Progress, Source},
};
use crate::lock::lock;
use crate::proxy::failure::Cause;
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use std::{
    fmt,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

/// Why a body ended before its end.
#[derive(Debug)]
pub(in crate::proxy) struct BodyError(pub(in crate::proxy) Cause);

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "request body: {:?}", self.0)
    }
}

impl std::error::Error for BodyError {}

/// The body of one request, from which each attempt gets a [`RequestBody`].
#[derive(Debug)]
pub(in crate::proxy) struct Upload(Option<Arc<Mutex<Source>>>);

impl Upload {
    /// `keep`: retries are possible, so the beginning is kept. The caller may be silent for `patience`, at most for twice that.
    pub(in crate::proxy) fn new(incoming: Incoming, keep: bool, budget: &ReplayBudget, patience: Duration) -> Self {
        if incoming.is_end_stream() {
            return Self(None);
        }
        Self(Some(Arc::new(Mutex::new(Source::new(Some(incoming), keep, budget, patience)))))
    }

    /// A body that is at hand as a copy of another.
    pub(in crate::proxy) fn again(copy: BodyCopy, budget: &ReplayBudget) -> Self {
        let BodyCopy { frames, trailers, kept } = copy;
        if frames.is_empty() && trailers.is_none() {
            return Self(None);
        }
        let length: usize = frames.iter().map(Bytes::len).sum();
        // Nobody is waited for.
        let mut source = Source::new(None, false, budget, Duration::MAX);
        if trailers.is_none() {
            source.hint = SizeHint::with_exact(length as u64);
        }
        (source.frames, source.stored, source.trailers) = (frames, kept.hand_over(), trailers);
        Self(Some(Arc::new(Mutex::new(source))))
    }

    /// A copy of the body, made while an attempt sends it; none of more bytes than the limit. To be called before the first
    /// attempt.
    pub(in crate::proxy) fn copy(&self, limit: usize) -> Copying {
        let Some(source) = &self.0 else { return Copying::empty() };
        let mut source = lock(source);
        let (copier, copying) = Copier::new(limit, source.budget.clone());
        source.copiers.push(copier);
        copying
    }

    /// The body for the next attempt, which ends the one before. `None` if what was sent is no longer at hand.
    pub(in crate::proxy) fn attempt(&self) -> Option<RequestBody> {
        let Some(source) = &self.0 else { return Some(RequestBody(None)) };
        let mut locked = lock(source);
        if !locked.replayable || locked.failed.is_some() {
            return None;
        }
        locked.attempt += 1;
        let (attempt, hint) = (locked.attempt, locked.hint);
        Some(RequestBody(Some(Sending {
            source: Arc::clone(source),
            attempt,
            next: 0,
            ended: false,
            hint,
            ahead: None,
        })))
    }

    /// True if all that was sent is still at hand.
    pub(in crate::proxy) fn is_replayable(&self) -> bool {
        self.0.as_ref().is_none_or(|source| {
            let source = lock(source);
            source.replayable && source.failed.is_none()
        })
    }

    /// A response came: there will be no further attempt, nothing is kept any more, and the caller may be silent for `patience`.
    pub(in crate::proxy) fn commit(&self, patience: Duration) {
        if let Some(source) = &self.0 {
            lock(source).keep = false;
        }
        self.completion().answered(patience);
    }

    /// Tells of the end of the caller's side.
    pub(in crate::proxy) fn completion(&self) -> Completion {
        Completion(self.0.clone())
    }
}

/// Tells whether a request's body was sent to its end. By default it was.
#[derive(Debug, Clone, Default)]
pub(in crate::proxy) struct Completion(Option<Arc<Mutex<Source>>>);

impl Completion {
    /// True once the caller has sent all of it.
    pub(in crate::proxy) fn is_complete(&self) -> bool {
        self.0.as_ref().is_none_or(|source| lock(source).incoming.is_none())
    }

    /// How far the caller is; the task hears of it once that has sent all.
    pub(in crate::proxy) fn progress(&self, context: &Context<'_>) -> Progress {
        let Some(source) = &self.0 else { return Progress::Complete };
        let mut source = lock(source);
        let progress = source.progress();
        let is_known = || source.waiting.iter().any(|waiting| waiting.will_wake(context.waker()));
        if progress != Progress::Complete && !is_known() {
            source.waiting.push(context.waker().clone());
        }
        progress
    }

    /// True once nothing more is taken from the caller: all has come, or what has cannot be sent yet.
    pub(in crate::proxy) fn rests(&self) -> bool {
        self.0.as_ref().is_none_or(|source| lock(source).progress() != Progress::Sending)
    }

    /// Reads the body while there is no connection to send it on, as far as there is room for it. Never ready unless the body fails. Not to
    /// be polled once an attempt's body is.
    pub(in crate::proxy) async fn read_ahead(&self) -> Cause {
        match &self.0 {
            None => std::future::pending().await,
            Some(source) => std::future::poll_fn(|context| lock(source).poll_ahead(context)).await,
        }
    }

    /// The response has begun: from now on the caller may be silent for `patience`.
    pub(in crate::proxy) fn answered(&self, patience: Duration) {
        if let Some(source) = &self.0 {
            let mut source = lock(source);
            source.patience = patience;
            // The pause that is being measured ends, so that the next one is of the new length.
            source.active = true;
        }
    }

    /// From now on gRPC messages are counted.
    pub(in crate::proxy) fn count_messages(&self) {
        self.0.iter().for_each(|source| lock(source).messages = Some(Messages::default()));
    }

    /// Bytes that the caller has sent so far, and gRPC messages, if those are counted.
    pub(in crate::proxy) fn received(&self) -> (u64, u64) {
        let counts = |source: &Source| (source.received, source.messages.map_or(0, |messages| messages.count()));
        self.0.as_ref().map_or((0, 0), |source| counts(&lock(source)))
    }

    /// Nobody wants it any more: what has not been sent is not sent.
    pub(in crate::proxy) fn cut(&self) {
        if let Some(source) = &self.0 {
            let mut source = lock(source);
            if !source.is_read() {
                source.fail(Cause::Denied);
            }
        }
    }

    /// Why the caller's side of the body failed, if it did.
    pub(in crate::proxy) fn failure(&self) -> Option<Cause> {
        self.0.as_ref().and_then(|source| lock(source).failed)
    }
}

/// What one attempt sends.
#[derive(Debug)]
pub(in crate::proxy) struct RequestBody(Option<Sending>);

#[derive(Debug)]
struct Sending {
    source: Arc<Mutex<Source>>,
    attempt: u32,
    /// Kept frames that were sent.
    next: usize,
    ended: bool,
    hint: SizeHint,
    /// What was read before it was sent.
    ahead: Option<Box<Ahead>>,
}

/// The beginning of a body.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::proxy) struct Beginning {
    pub(in crate::proxy) bytes: Bytes,
    /// It is all of the body.
    pub(in crate::proxy) is_whole: bool,
}

impl RequestBody {
    /// A body that is sent once, without being kept.
    pub(in crate::proxy) fn once(incoming: Incoming, budget: &ReplayBudget, patience: Duration) -> Self {
        Upload::new(incoming, false, budget, patience).attempt().unwrap_or(Self(None))
    }

    /// Tells of the end of the caller's side.
    pub(in crate::proxy) fn completion(&self) -> Completion {
        Completion(self.0.as_ref().map(|sending| Arc::clone(&sending.source)))
    }
}

impl Sending {
    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Next> {
        let mut source = lock(&self.source);
        if source.attempt != self.attempt {
            return Poll::Ready(Some(Err(BodyError(Cause::PerTryTimeout))));
        }
        source.full = false;
        if let Some(data) = source.frames.get(self.next) {
            self.next += 1;
            return Poll::Ready(Some(Ok(Frame::data(data.clone()))));
        }
        if source.is_read() {
            let trailers = if self.ended { None } else { source.trailers.clone() };
            self.ended = true;
            return Poll::Ready(match source.failed {
                Some(cause) => Some(Err(BodyError(cause))),
                None => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
            });
        }
        if !source.keep && !source.frames.is_empty() {
            let stored = std::mem::take(&mut source.stored);
            source.budget.give(stored);
            source.frames = Vec::new();
            source.replayable = false;
            self.next = 0;
        }
        let frame = source.poll_next(context);
        self.next = source.frames.len();
        if matches!(&frame, Poll::Ready(Some(Ok(frame))) if frame.is_trailers()) {
            self.ended = true;
        }
        frame
    }

    /// True if the source has nothing more to send.
    fn is_over(&self) -> bool {
        let source = lock(&self.source);
        source.is_read()
            && source.failed.is_none()
            && self.next >= source.frames.len()
            && (self.ended || source.trailers.is_none())
    }

    /// See [`RequestBody::read_ahead`].
    fn poll_ahead(&mut self, limit: usize, context: &mut Context<'_>) -> Poll<Result<Beginning, Cause>> {
        let mut ahead = self.ahead.take().unwrap_or_default();
        let read = loop {
            // One byte more tells a body that is longer from one that just fits.
            if ahead.bytes() > limit || self.is_over() {
                break Poll::Ready(Ok(()));
            }
            match self.poll_frame(context) {
                Poll::Pending => break Poll::Pending,
                Poll::Ready(None) => break Poll::Ready(Ok(())),
                Poll::Ready(Some(Err(BodyError(cause)))) => break Poll::Ready(Err(cause)),
                Poll::Ready(Some(Ok(frame))) => {
                    let budget = lock(&self.source).budget.clone();
                    if !ahead.add(frame, &budget) {
                        break Poll::Ready(Err(Cause::Overflow));
                    }
                }
            }
        };
        let beginning = read.map_ok(|()| Beginning { bytes: ahead.beginning(limit), is_whole: ahead.bytes() <= limit });
        self.ahead = Some(ahead);
        beginning
    }
}

impl RequestBody {
    /// Waits until more than `limit` bytes of the body have come, or all of it, and gives its first `limit` bytes. They are still
    /// sent with the rest.
    ///
    /// # Errors
    /// The body failed, or the node keeps too much of such bodies: the request cannot be forwarded.
    pub(in crate::proxy) async fn read_ahead(&mut self, limit: usize) -> Result<Beginning, Cause> {
        match &mut self.0 {
            None => Ok(Beginning { bytes: Bytes::new(), is_whole: true }),
            Some(sending) => std::future::poll_fn(|context| sending.poll_ahead(limit, context)).await,
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(sending) = &mut self.0 else { return Poll::Ready(None) };
        if let Some(frame) = sending.ahead.as_mut().and_then(|ahead| ahead.next()) {
            return Poll::Ready(Some(Ok(frame)));
        }
        sending.poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.0
            .as_ref()
            .is_none_or(|sending| sending.ahead.as_ref().is_none_or(|ahead| ahead.is_empty()) && sending.is_over())
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(|| SizeHint::with_exact(0), |sending| sending.hint)
    }
}
