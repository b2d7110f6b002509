//! Bodies that come by HTTP/2. Their senders may have a window's worth on the way that nobody reads: while a reader is behind, that
//! window counts in the node's budget. One that waits for its sender costs nothing, and so do streams that are quiet.

use super::ReplayBudget;
use crate::http1::BoxError;
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use std::{
    pin::Pin,
    task::{Context, Poll},
};

/// A body, and what it may hold at once.
#[derive(Debug)]
pub(in crate::proxy) struct Windowed<B> {
    body: B,
    /// None: nothing of it waits to be read.
    budget: Option<ReplayBudget>,
    window: usize,
    /// The window is counted.
    is_counted: bool,
}

/// The node holds so many bytes that nobody reads that it takes no more of them.
#[derive(Debug, thiserror::Error)]
#[error("too many bytes wait on this node")]
pub(in crate::proxy) struct Full;

/// The sender reset the stream in the middle and calls that no error (RFC 9113, 8.1), which hyper takes for an end.
#[derive(Debug, thiserror::Error)]
#[error("the stream was reset before its end")]
struct Cut;

impl<B: Body> Windowed<B> {
    /// A body of which nothing was read yet.
    ///
    /// # Errors
    /// The node has no room for it.
    pub(in crate::proxy) fn new(body: B, window: u32, budget: &ReplayBudget) -> Result<Self, Full> {
        // One whose length is known never has more on its way than that.
        let most = body.size_hint().upper().unwrap_or(u64::MAX).min(window.into());
        let window = usize::try_from(most).unwrap_or(usize::MAX);
        if window == 0 || body.is_end_stream() {
            return Ok(Self { body, budget: None, window, is_counted: false });
        }
        if budget.take(window) {
            Ok(Self { body, budget: Some(budget.clone()), window, is_counted: true })
        } else {
            Err(Full)
        }
    }
}

impl<B> Windowed<B> {
    fn give_back(&mut self) {
        if std::mem::take(&mut self.is_counted)
            && let Some(budget) = &self.budget
        {
            budget.give(self.window);
        }
    }
}

impl<B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin> Body for Windowed<B> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if frame.is_pending() || self.body.is_end_stream() {
            self.give_back();
        } else if !self.is_counted {
            // Whoever reads is busy with this frame, and more may come.
            self.is_counted = self.budget.as_ref().is_some_and(|budget| budget.take(self.window));
            if self.budget.is_some() && !self.is_counted {
                return Poll::Ready(Some(Err(Full.into())));
            }
        }
        if matches!(frame, Poll::Ready(None)) && !self.body.is_end_stream() {
            return Poll::Ready(Some(Err(Cut.into())));
        }
        frame.map(|frame| frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> Drop for Windowed<B> {
    fn drop(&mut self) {
        self.give_back();
    }
}
