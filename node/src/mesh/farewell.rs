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
/// Streams of one worker that are kept before it is asked which of them are with their peers.
const LATEST: usize = 64;

/// Of the streams that other nodes opened. Shared by them and their mesh.
#[derive(Debug, Default)]
pub(super) struct Farewell {
    draining: AtomicBool,
    /// Streams that somebody serves.
    open: AtomicUsize,
    /// A stream was given up after it was read: whether its caller has heard of that is not known.
    cut: Mutex<Option<Instant>>,
    /// Of each worker, so that none waits for another.
    latest: Mutex<Vec<Arc<Mutex<Latest>>>>,
}

/// The latest streams that ended well; whether the peers have everything is not known yet.
#[derive(Debug)]
pub(super) struct Latest<T = quinn::SendStream> {
    streams: Vec<T>,
    /// How many there may be before they are looked through.
    most: usize,
}

/// One stream that somebody serves, until it is dropped.
#[derive(Debug)]
pub(super) struct Served {
    farewell: Arc<Farewell>,
    latest: Arc<Mutex<Latest>>,
}

impl Farewell {
    /// Where the streams of one worker go that ended well.
    pub(super) fn worker(&self) -> Arc<Mutex<Latest>> {
        let latest = Arc::default();
        lock(&self.latest).push(Arc::clone(&latest));
        latest
    }

    /// A stream came to that worker.
    pub(super) fn serve(self: &Arc<Self>, latest: &Arc<Mutex<Latest>>) -> Served {
        self.open.fetch_add(1, Relaxed);
        Served { farewell: Arc::clone(self), latest: Arc::clone(latest) }
    }

    pub(super) fn drain(&self) {
        self.draining.store(true, Relaxed);
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
                let workers = lock(&self.latest).clone();
                let taken = workers.iter().flat_map(|latest| std::mem::take(&mut lock(latest).streams));
                let last: Vec<quinn::SendStream> = taken.collect();
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

impl<T> Latest<T> {
    /// Lets those go that are with their peers, now and then: to ask takes a lock of each one's connection.
    fn add(&mut self, stream: T, is_on_its_way: impl FnMut(&T) -> bool) {
        self.streams.push(stream);
        if self.streams.len() > self.most {
            self.streams.retain(is_on_its_way);
            self.most = LATEST.max(2 * self.streams.len());
        }
    }
}

impl<T> Default for Latest<T> {
    fn default() -> Self {
        Self { streams: Vec::new(), most: LATEST }
    }
}

impl Served {
    /// The stream ended as it should; what was written may still be on its way.
    pub(super) fn ended(&self, stream: quinn::SendStream) {
        lock(&self.latest).add(stream, |stream| stream.stopped().now_or_never().is_none());
    }

    /// The stream was given up in the middle.
    pub(super) fn cut(&self) {
        *lock(&self.farewell.cut) = Some(monotonic());
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.farewell.open.fetch_sub(1, Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_that_peers_have_go_and_each_is_asked_about_a_few_times() {
        let mut latest = Latest::default();
        (0..10_000).for_each(|number| latest.add(number, |_| false));
        assert!(latest.streams.len() <= LATEST);
        let (mut latest, mut asked) = (Latest::default(), 0);
        let mut is_on_its_way = |_: &i32| {
            asked += 1;
            true
        };
        (0..10_000).for_each(|number| latest.add(number, &mut is_on_its_way));
        assert_eq!(latest.streams.len(), 10_000, "what may be lost is waited for");
        assert!(asked <= 20_000, "{asked}");
    }
}
