//! The timeout of a route: it runs from the end of the request, as Envoy's does, to the end of the response.

use super::http::Completion;
use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::time::{Sleep, sleep};

/// Ready when the time is over.
#[derive(Debug)]
pub(super) struct Deadline {
    timeout: Duration,
    request: Completion,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Deadline {
    /// So long after the request's body has come to its end.
    pub(super) const fn new(timeout: Duration, request: Completion) -> Self {
        Self { timeout, request, sleep: None }
    }
}

impl Future for Deadline {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.sleep.is_none() {
            ready!(self.request.poll_complete(context));
        }
        let timeout = self.timeout;
        self.sleep.get_or_insert_with(|| Box::pin(sleep(timeout))).as_mut().poll(context)
    }
}
