//! A copy of a request's body, made while the original passes by.

use super::{
    ReplayBudget,
    budget::{self, MAX_PIECES},
};
use crate::lock::lock;
use bytes::Bytes;
use http::HeaderMap;
use std::sync::{Arc, Mutex};
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

/// A copy that may not be whole yet. Dropped, it lets go what was kept so far, however long the original is silent.
#[derive(Debug)]
pub(in crate::proxy) struct Copying(Option<Waiting>);

#[derive(Debug)]
struct Waiting {
    copy: Arc<Mutex<Option<BodyCopy>>>,
    whole: oneshot::Receiver<()>,
}

/// What makes the copy: long frames are shared with the original.
#[derive(Debug)]
pub(in crate::proxy) struct Copier {
    /// `None` once nobody waits for it.
    copy: Arc<Mutex<Option<BodyCopy>>>,
    limit: usize,
    told: oneshot::Sender<()>,
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
            Some(mut waiting) => {
                (&mut waiting.whole).await.ok()?;
                lock(&waiting.copy).take()
            }
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        drop(lock(&self.copy).take());
    }
}

impl Copier {
    /// Of a body of at most so many bytes, which count in the node's budget as long as the copy is kept.
    pub(in crate::proxy) fn new(limit: usize, budget: ReplayBudget) -> (Self, Copying) {
        let (told, whole) = oneshot::channel();
        let kept = Kept { budget, bytes: 0 };
        let copy = Arc::new(Mutex::new(Some(BodyCopy { kept, ..BodyCopy::default() })));
        let waiting = Waiting { copy: Arc::clone(&copy), whole };
        (Self { copy, limit, told }, Copying(Some(waiting)))
    }

    /// Takes a frame; false if the body is too long or comes in too many, the node keeps too much, or nobody waits for it any more.
    pub(in crate::proxy) fn take(&mut self, data: &Bytes) -> bool {
        let mut copy = lock(&self.copy);
        let Some(BodyCopy { kept, frames, .. }) = &mut *copy else { return false };
        let fits = kept.bytes + data.len() <= self.limit && frames.len() < MAX_PIECES;
        if !fits || !kept.budget.take(data.len()) {
            return false;
        }
        kept.bytes += data.len();
        frames.push(budget::kept(data));
        true
    }

    pub(super) fn take_trailers(&mut self, trailers: &HeaderMap) {
        if let Some(copy) = &mut *lock(&self.copy) {
            copy.trailers = Some(trailers.clone());
        }
    }

    /// The body has come to its end.
    pub(in crate::proxy) fn end(self) {
        // An error: nobody waits for it any more.
        let _ = self.told.send(());
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
