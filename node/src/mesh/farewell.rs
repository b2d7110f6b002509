//! What must have arrived before connections close: the last answers of a node that drains.
//!
//! Closing a QUIC connection throws away what was not delivered yet, and its callers cannot tell a lost answer from a request that
//! nobody read. So a draining node waits until the peers have all that it answered, and only then says [`Code::Drained`]: a caller
//! that got nothing may be sure that nobody read its request, and may try elsewhere whatever the method.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use super::{error::Code, lock};

/// How long peers have to take the last answers.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// Of the streams that other nodes opened. Shared by them and their mesh.
#[derive(Debug, Default)]
pub(super) struct Farewell {
    draining: AtomicBool,
    /// Streams that somebody serves.
    open: AtomicUsize,
    /// A stream was given up after it was read, since this node drains: not every request has had its answer.
    cut: AtomicBool,
    /// Ended well since this node drains; whether the peer has everything is not known yet.
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
        self.cut.store(false, Relaxed);
        lock(&self.last).clear();
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// Waits until the peers have the last answers, but no longer than they may take, and says what connections may end with.
    pub(super) async fn say(&self) -> Code {
        let taken = async {
            loop {
                let mut last = std::mem::take(&mut *lock(&self.last));
                if last.is_empty() {
                    return;
                }
                for stream in &mut last {
                    // Also if the peer stopped it or the connection ended: it wants no more then.
                    let _ = stream.stopped().await;
                }
            }
        };
        let all = tokio::time::timeout(LAST_ANSWERS, taken).await.is_ok();
        let well = all && self.is_draining() && self.open.load(Relaxed) == 0 && !self.cut.load(Relaxed);
        if well { Code::Drained } else { Code::Stopping }
    }
}

impl Served {
    /// The stream ended as it should; what was written may still be on its way.
    pub(super) fn ended(&self, stream: quinn::SendStream) {
        if self.0.is_draining() {
            lock(&self.0.last).push(stream);
        }
    }

    /// The stream was given up in the middle.
    pub(super) fn cut(&self) {
        if self.0.is_draining() {
            self.0.cut.store(true, Relaxed);
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}
