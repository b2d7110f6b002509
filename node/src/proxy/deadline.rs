//! The timeout of a route: it runs from the end of the request, as Envoy's does, to the end of the response.

use super::http::{Completion, Progress};
use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::{Sleep, sleep};

/// Ready when the time is over.
#[derive(Debug)]
pub(super) struct Deadline {
    timeout: Duration,
    request: Completion,
    /// The time that runs, and how far the caller was when it began.
    running: Option<(Progress, Pin<Box<Sleep>>)>,
}

impl Deadline {
    /// So long after the request's body has come to its end; so long, too, while no more of it can be taken, because there is no connection.
    pub(super) const fn new(timeout: Duration, request: Completion) -> Self {
        Self { timeout, request, running: None }
    }
}

impl Future for Deadline {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let is_last = matches!(self.running, Some((Progress::Complete, _)));
        let progress = if is_last { Progress::Complete } else { self.request.progress(context) };
        if progress == Progress::Sending {
            self.running = None;
            return Poll::Pending;
        }
        let timeout = self.timeout;
        // What ran while nothing could be taken is not the time of the answer.
        drop(self.running.take_if(|(since, _)| *since != progress));
        let (_, running) = self.running.get_or_insert_with(|| (progress, Box::pin(sleep(timeout))));
        running.as_mut().poll(context)
    }
}

/// `None` if the time is over, which runs from the end of the caller's side on.
pub(super) async fn within<T>(
    limit: Option<Duration>,
    sent: &Completion,
    answer: impl Future<Output = T>,
) -> Option<T> {
    let Some(limit) = limit else { return Some(answer.await) };
    tokio::select! {
        biased;
        answer = answer => Some(answer),
        () = Deadline::new(limit, sent.clone()) => None,
    }
}
