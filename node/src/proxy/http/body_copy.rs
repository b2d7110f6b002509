//! A copy of a request's body, made while the original passes by.

use super::{
    ReplayBudget,
    budget::{self, MAX_PIECES},
};
use bytes::Bytes;
use http::HeaderMap;
use tokio::sync::oneshot;

/// A whole body.
#[derive(Debug, Default)]
pub(in crate::proxy) struct BodyCopy {
    pub(super) frames: Vec<Bytes>,
    pub(super) trailers: Option<HeaderMap>,
    pub(super) kept: Kept,
}

/// Bytes of the node's budget; given back when dropped.
#[derive(Debug, Default)]
pub(super) struct Kept {
    budget: ReplayBudget,
    bytes: usize,
}

/// A copy that may not be whole yet.
#[derive(Debug)]
pub(in crate::proxy) struct Copying(Option<oneshot::Receiver<BodyCopy>>);

/// What makes the copy: long frames are shared with the original.
#[derive(Debug)]
pub(super) struct Copier {
    copy: BodyCopy,
    limit: usize,
    told: oneshot::Sender<BodyCopy>,
}

impl Copying {
    /// Of a request without a body.
    pub(super) const fn empty() -> Self {
        Self(None)
    }

    /// The body once it has passed by; `None` if it was too long, there was no room for it, or it came to no end.
    pub(in crate::proxy) async fn complete(self) -> Option<BodyCopy> {
        match self.0 {
            None => Some(BodyCopy::default()),
            Some(copy) => copy.await.ok(),
        }
    }
}

impl Copier {
    /// Of a body of at most so many bytes, which count in the node's budget as long as the copy is kept.
    pub(super) fn new(limit: usize, budget: ReplayBudget) -> (Self, Copying) {
        let (told, copy) = oneshot::channel();
        let kept = Kept { budget, bytes: 0 };
        (Self { copy: BodyCopy { kept, ..BodyCopy::default() }, limit, told }, Copying(Some(copy)))
    }

    /// Takes a frame; false if the body is too long or comes in too many, or the node keeps too much.
    pub(super) fn take(&mut self, data: &Bytes) -> bool {
        let BodyCopy { kept, frames, .. } = &mut self.copy;
        let fits = kept.bytes + data.len() <= self.limit && frames.len() < MAX_PIECES;
        if !fits || !kept.budget.take(data.len()) {
            return false;
        }
        kept.bytes += data.len();
        frames.push(budget::kept(data));
        true
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

impl Kept {
    /// Who takes the bytes over gives them back.
    pub(super) fn hand_over(mut self) -> usize {
        std::mem::take(&mut self.bytes)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.budget.give(self.bytes);
    }
}
