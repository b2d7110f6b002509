//! What must have arrived before connections close: the last answers of a node that drains.
//!
//! Closing a QUIC connection throws away what was not delivered yet, and its callers cannot tell a lost answer from a request that
//! nobody read. So a draining node waits until the peers have all that it answered, and only then says [`Code::Drained`]: a caller
//! that got nothing may be sure that nobody read its request, and may try elsewhere whatever the method.

use crate::lock::lock;
use std::{
    sync::{
        Arc, Mutex,
        atomic::{
            AtomicBool, AtomicUsize,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    time::{Duration, Instant},
};

use futures_util::FutureExt;

use super::error::Code;
use crate::clock::monotonic;

/// How long peers have to take the last answers.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// After this a peer has heard that a stream was given up, or is not reached at all.
const HEARD: Duration = Duration::from_secs(10);

/// Of the streams that other nodes opened. Shared by them and their mesh.
#[derive(Debug, Default)]
pub(super) struct Farewell {
    draining: AtomicBool,
    /// Streams that somebody serves.
    open: AtomicUsize,
    /// A stream was given up after it was read: whether its caller has heard of that is not known.
    cut: Mutex<Option<Instant>>,
    /// The latest that ended well; whether the peer has everything is not known yet.
    last: Mutex<Vec<quinn::SendStream>>,
}

/// One stream that somebody serves, until it is dropped.
#[derive(Debug)]
pub(super) struct Served(Arc<Farewell>);

impl Farewell {
    /// A stream came.
    pub(super) fn serve(self: &Arc<Self>) -> Served {
        self.open.fetch_add(1, Relaxed);
        Served(Arc::clone(self))
    }

    pub(super) fn drain(&self) {
        self.draining.store(true, Relaxed);
    }

    pub(super) fn undrain(&self) {
        self.draining.store(false, Relaxed);
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// Waits until the peers have the last answers, but no longer than they may take, and says what connections may end with.
    pub(super) async fn say(&self) -> Code {
        // Before the last answers are taken: a stream that ends meanwhile adds to them.
        let all_ended = self.open.load(Acquire) == 0;
        let taken = async {
            loop {
                let last = std::mem::take(&mut *lock(&self.last));
                if last.is_empty() {
                    return;
                }
                for stream in &last {
                    // Also if the peer stopped it or the connection ended: it wants no more then.
                    let _ = stream.stopped().await;
                }
            }
        };
        let all = tokio::time::timeout(LAST_ANSWERS, taken).await.is_ok();
        let cut = lock(&self.cut).is_some_and(|at| monotonic().duration_since(at) < HEARD);
        if all && all_ended && self.is_draining() && !cut { Code::Drained } else { Code::Stopping }
    }
}

impl Served {
    /// The stream ended as it should; what was written may still be on its way.
    pub(super) fn ended(&self, stream: quinn::SendStream) {
        let mut last = lock(&self.0.last);
        last.retain(|stream| stream.stopped().now_or_never().is_none());
        last.push(stream);
    }

    /// The stream was given up in the middle.
    pub(super) fn cut(&self) {
        *lock(&self.0.cut) = Some(monotonic());
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Release);
    }
}
