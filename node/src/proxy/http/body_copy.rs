//! A copy of a request's body, made while the original passes by.

use bytes::Bytes;
use http::HeaderMap;
use tokio::sync::oneshot;

/// A whole body.
#[derive(Debug, Default)]
pub(in crate::proxy) struct BodyCopy {
    pub(super) frames: Vec<Bytes>,
    pub(super) trailers: Option<HeaderMap>,
}

/// A copy that may not be whole yet.
#[derive(Debug)]
pub(in crate::proxy) struct Copying(Option<oneshot::Receiver<BodyCopy>>);

/// What makes the copy: the frames themselves are shared with the original.
#[derive(Debug)]
pub(super) struct Copier {
    copy: BodyCopy,
    stored: usize,
    limit: usize,
    told: oneshot::Sender<BodyCopy>,
}

impl Copying {
    /// Of a request without a body.
    pub(super) const fn empty() -> Self {
        Self(None)
    }

    /// The body once it has passed by; `None` if it was too long or came to no end.
    pub(in crate::proxy) async fn complete(self) -> Option<BodyCopy> {
        match self.0 {
            None => Some(BodyCopy::default()),
            Some(copy) => copy.await.ok(),
        }
    }
}

impl Copier {
    /// Of a body of at most so many bytes.
    pub(super) fn new(limit: usize) -> (Self, Copying) {
        let (told, copy) = oneshot::channel();
        (Self { copy: BodyCopy::default(), stored: 0, limit, told }, Copying(Some(copy)))
    }

    /// Takes a frame; false if the body is too long.
    pub(super) fn take(&mut self, data: &Bytes) -> bool {
        self.stored += data.len();
        self.copy.frames.push(data.clone());
        self.stored <= self.limit
    }

    pub(super) fn take_trailers(&mut self, trailers: &HeaderMap) {
        self.copy.trailers = Some(trailers.clone());
    }

    /// The body has come to its end.
    pub(super) fn end(self) {
        // Nobody waits for it any more.
        drop(self.told.send(self.copy));
    }
}
