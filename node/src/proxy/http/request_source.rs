//! What the caller of one request sends: read piece by piece by the attempt that sends it on, or ahead of it, and kept for a retry.

use super::{
    ReplayBudget,
    body_copy::Copier,
    budget::{MAX_PIECES, kept},
    grpc_messages::Messages,
    head::{strip_claims, strip_trailers},
    incoming::{Incoming, broken},
    request_body::BodyError,
};
use crate::proxy::failure::Cause;
use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body, Frame, SizeHint};
use std::{
    pin::Pin,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};
use tokio::time::{Sleep, sleep};

/// Most bytes of one request that are kept for a retry, and that are read before somebody sends them.
const REPLAY_LIMIT: usize = 64 * 1024;

/// What came of the next frame, if there is one.
pub(super) type Next = Option<Result<Frame<Bytes>, BodyError>>;

/// How far a caller is with its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) enum Progress {
    /// It sends, or may.
    Sending,
    /// More cannot be taken from it before there is somewhere to send it.
    Held,
    /// It has sent all.
    Complete,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Source {
    /// `None` once it has ended.
    pub(super) incoming: Option<Incoming>,
    pub(super) hint: SizeHint,
    /// What is kept for a retry, or was read ahead.
    pub(super) frames: Vec<Bytes>,
    pub(super) stored: usize,
    /// Was read ahead behind `frames`, and there was no room for it among them.
    pub(super) held: Option<Bytes>,
    /// Nobody reads before there is a connection.
    pub(super) full: bool,
    /// Bytes that the caller has sent.
    pub(super) received: u64,
    pub(super) messages: Option<Messages>,
    /// Frames that are sent are added to `frames`.
    pub(super) keep: bool,
    /// Nothing that was sent is missing in `frames`.
    pub(super) replayable: bool,
    pub(super) trailers: Option<HeaderMap>,
    /// Number of the attempt that may read.
    pub(super) attempt: u32,
    pub(super) failed: Option<Cause>,
    pub(super) patience: Duration,
    idle: Option<Pin<Box<Sleep>>>,
    pub(super) active: bool,
    /// Wait for the end.
    pub(super) waiting: Vec<Waker>,
    /// Who sends it, while that waits for the caller.
    reader: Option<Waker>,
    pub(super) copiers: Vec<Copier>,
    pub(super) budget: ReplayBudget,
}

impl Source {
    /// Of which nothing was read yet. The caller may be silent for `patience`, at most for twice that.
    pub(super) fn new(incoming: Option<Incoming>, keep: bool, budget: &ReplayBudget, patience: Duration) -> Self {
        Self {
            hint: incoming.as_ref().map(Body::size_hint).unwrap_or_default(),
            incoming,
            frames: Vec::new(),
            stored: 0,
            held: None,
            full: false,
            received: 0,
            messages: None,
            keep,
            replayable: true,
            trailers: None,
            attempt: 0,
            failed: None,
            patience,
            idle: None,
            active: true,
            waiting: Vec::new(),
            reader: None,
            copiers: Vec::new(),
            budget: budget.clone(),
        }
    }

    pub(super) fn progress(&self) -> Progress {
        match &self.incoming {
            None => Progress::Complete,
            Some(_) if self.full => Progress::Held,
            Some(_) => Progress::Sending,
        }
    }

    /// True if nothing is left to send behind `frames` but trailers.
    pub(super) fn is_read(&self) -> bool {
        self.incoming.is_none() && self.held.is_none()
    }

    /// The next frame to send behind `frames`.
    pub(super) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Next> {
        let frame = match self.held.take() {
            Some(data) => Frame::data(data),
            None => match ready!(self.poll_incoming(context)) {
                Some(Ok(frame)) => frame,
                ended => return Poll::Ready(ended),
            },
        };
        if let Some(data) = frame.data_ref() {
            self.store(data);
        }
        Poll::Ready(Some(Ok(frame)))
    }

    /// Reads what there is room for, so that the caller comes to its end, or is seen to leave, while there is no connection yet. It is sent
    /// all the same, by whichever attempt is the first to have one. Ready only if the body fails.
    pub(super) fn poll_ahead(&mut self, context: &mut Context<'_>) -> Poll<Cause> {
        while self.held.is_none() && self.incoming.is_some() {
            match ready!(self.poll_incoming(context).map(|next| next.transpose())) {
                Err(BodyError(cause)) => return Poll::Ready(cause),
                Ok(None) => {}
                Ok(Some(frame)) => match frame.into_data() {
                    Ok(data) if self.has_room(&data) => self.frames.push(kept(&data)),
                    Ok(data) => self.held = Some(data),
                    // Nothing follows them.
                    Err(_) => self.end(),
                },
            }
        }
        self.full = true;
        self.failed.map_or(Poll::Pending, Poll::Ready)
    }

    /// The next frame from the caller.
    fn poll_incoming(&mut self, context: &mut Context<'_>) -> Poll<Next> {
        let Some(incoming) = &mut self.incoming else { return Poll::Ready(None) };
        let Poll::Ready(frame) = Pin::new(incoming).poll_frame(context) else {
            if !self.reader.as_ref().is_some_and(|reader| reader.will_wake(context.waker())) {
                self.reader = Some(context.waker().clone());
            }
            return self.poll_idle(context);
        };
        self.active = true;
        match frame {
            Some(Ok(frame)) => Poll::Ready(Some(Ok(self.took(frame)))),
            Some(Err(error)) => Poll::Ready(Some(Err(self.fail(broken(&error))))),
            None => {
                self.end();
                Poll::Ready(None)
            }
        }
    }

    fn took(&mut self, frame: Frame<Bytes>) -> Frame<Bytes> {
        let frame = match frame.into_data() {
            Ok(data) => {
                self.received += data.len() as u64;
                self.messages.iter_mut().for_each(|messages| messages.pass(&data));
                self.copiers.retain_mut(|copier| copier.take(&data));
                Frame::data(data)
            }
            Err(frame) => {
                let mut trailers = frame.into_trailers().unwrap_or_default();
                strip_trailers(&mut trailers);
                // What is said of a way belongs into heads.
                strip_claims(&mut trailers);
                self.copiers.iter_mut().for_each(|copier| copier.take_trailers(&trailers));
                self.trailers = Some(trailers.clone());
                Frame::trailers(trailers)
            }
        };
        if self.incoming.as_ref().is_some_and(Body::is_end_stream) {
            self.end();
        }
        frame
    }

    /// Keeps what is sent, if it is to be kept.
    fn store(&mut self, data: &Bytes) {
        if self.keep && self.replayable && self.has_room(data) {
            self.frames.push(kept(data));
        } else {
            self.replayable = false;
            self.keep = false;
        }
    }

    /// Takes room for a further frame, if there is any.
    fn has_room(&mut self, data: &Bytes) -> bool {
        let fits = self.stored + data.len() <= REPLAY_LIMIT && self.frames.len() < MAX_PIECES;
        let has_room = fits && self.budget.take(data.len());
        if has_room {
            self.stored += data.len();
        }
        has_room
    }

    fn poll_idle(&mut self, context: &mut Context<'_>) -> Poll<Next> {
        loop {
            let patience = self.patience;
            let idle = self.idle.get_or_insert_with(|| Box::pin(sleep(patience)));
            if idle.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            if !std::mem::take(&mut self.active) {
                return Poll::Ready(Some(Err(self.fail(Cause::RequestTimeout))));
            }
            self.idle = None;
        }
    }

    pub(super) fn fail(&mut self, cause: Cause) -> BodyError {
        self.failed = Some(cause);
        self.held = None;
        self.end();
        BodyError(cause)
    }

    fn end(&mut self) {
        self.incoming = None;
        let whole = self.failed.is_none();
        self.copiers.drain(..).filter(|_| whole).for_each(Copier::end);
        self.waiting.drain(..).chain(self.reader.take()).for_each(Waker::wake);
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.budget.give(self.stored);
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Upload, *};
    use futures_util::poll;
    use http_body_util::BodyExt as _;
    use std::pin::pin;

    const PATIENCE: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn what_was_read_ahead_is_sent_by_the_first_attempt_that_can() {
        for (length, keep, kept) in [
            (5, true, 5),
            (5, false, 5),
            (REPLAY_LIMIT, true, REPLAY_LIMIT),
            (REPLAY_LIMIT + 1, true, 0),
            (REPLAY_LIMIT + 1, false, 0),
        ] {
            let budget = ReplayBudget::default();
            let data: Bytes = (0..length).map(|number| (number % 251) as u8).collect();
            let upload = Upload::new(Incoming::Own(Some(data.clone())), keep, &budget, PATIENCE);
            assert!(!upload.completion().rests(), "nobody has read");
            drop(upload.attempt().expect("an attempt"));
            assert!(poll!(pin!(upload.completion().read_ahead())).is_pending(), "it has not failed");
            assert!(upload.completion().rests() && upload.is_replayable(), "{length}: nothing was sent");
            assert_eq!(budget.taken(), kept, "{length}");
            let body = upload.attempt().expect("a further attempt");
            assert_eq!(body.collect().await.expect("a body").to_bytes(), data);
            assert_eq!(upload.is_replayable(), length <= REPLAY_LIMIT, "{length}");
            assert_eq!(upload.completion().received().0, length as u64, "{length}");
            drop(upload);
            assert_eq!(budget.taken(), 0, "{length}");
        }
    }
}
