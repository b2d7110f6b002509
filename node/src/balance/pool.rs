//! Circuit breaking: what one node has under way to one cluster (host, port and subset), all its endpoints together, and
//! the limits of Istio's `connectionPool` and `retryBudget`. What meets a limit fails at once (503 `UO`), is not
//! retried and is no outcome for outlier detection.
//!
//! Counts are atomics shared by all workers. Limits come with each question, so that a change of policy needs no new
//! counts; what is above a lowered limit ends by itself.

use super::Millis;
use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
};

/// `connectionPool` and `retryBudget` of a DestinationRule. The default limits nothing: Istio's 0 is `u32::MAX` here.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PoolLimits {
    /// `tcp.maxConnections`.
    pub connections: u32,
    /// `http.http1MaxPendingRequests`, for every version of HTTP.
    pub pending: u32,
    /// `http.http2MaxRequests`, for every version of HTTP.
    pub requests: u32,
    /// `http.maxConcurrentStreams`: requests that share one connection of HTTP/2.
    pub streams_per_connection: u32,
    /// How many retries may be under way.
    pub retries: RetryLimit,
}

/// How many retries may be under way to a cluster at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RetryLimit {
    /// `http.maxRetries`.
    Count(u32),
    /// `retryBudget`, which replaces `maxRetries`.
    Budget {
        /// Of the requests that are under way or pending, or have ended within the interval.
        percent: f64,
        /// Always allowed: `minRetryConcurrency`.
        minimum: u32,
        /// `budgetInterval`; 0 counts no request that has ended.
        interval: Millis,
    },
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Resource {
    /// A connection, from before it is made until it is closed.
    Connections,
    /// A request that waits for a connection.
    Pending,
    /// A request that has its connection, until its response has ended.
    Requests,
    /// A retry, until the head of its response, as Envoy counts them.
    Retries,
}

impl Resource {
    /// All of them.
    pub const ALL: [Resource; 4] = [Resource::Connections, Resource::Pending, Resource::Requests, Resource::Retries];

    /// As metrics and listings name its limit.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Resource::Connections => "connections",
            Resource::Pending => "pending",
            Resource::Requests => "requests",
            Resource::Retries => "retries",
        }
    }
}

/// The limit of a resource is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many {0:?} under way to the cluster")]
pub struct Overflow(pub Resource);

/// One cluster's counts; they outlive snapshots. See the module.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Pool {
    counts: [AtomicU32; 4],
    overflows: [AtomicU64; 4],
    /// Requests that have ended, where a budget looks back at them: by tenths of its interval, the number of the tenth above the
    /// count.
    ended: [AtomicU64; TENTHS],
}

/// Parts of a budget's interval that are forgotten one after the other.
const TENTHS: usize = 10;

/// One unit of a resource; given back when dropped.
#[derive(Debug)]
pub struct Held {
    pool: Arc<Pool>,
    resource: Resource,
}

impl Default for PoolLimits {
    fn default() -> Self {
        PoolLimits {
            connections: u32::MAX,
            pending: u32::MAX,
            requests: u32::MAX,
            streams_per_connection: u32::MAX,
            retries: RetryLimit::Count(u32::MAX),
        }
    }
}

impl PoolLimits {
    /// The same for HTTP/2, where a request takes a stream of a connection: as many as all connections carry together. `None`: no
    /// request waits for one.
    #[must_use]
    pub const fn multiplexed(&self) -> Option<PoolLimits> {
        let connections = self.connections.saturating_mul(self.streams_per_connection);
        if connections == u32::MAX { None } else { Some(PoolLimits { connections, ..*self }) }
    }
}

impl Pool {
    /// Room for one more connection. `first` is true if the endpoint has none yet: then there is room whatever the
    /// limit says, or endpoints beyond it could never be reached.
    ///
    /// # Errors
    /// The limit is met. A request may then wait for one that is there ([`Pool::pending`]); a TCP client is closed.
    pub fn connection(self: &Arc<Self>, limits: &PoolLimits, first: bool) -> Result<Held, Overflow> {
        self.hold(Resource::Connections, if first { u32::MAX } else { limits.connections })
    }

    /// Room for one more request to wait, because no connection is free.
    ///
    /// # Errors
    /// The limit is met.
    pub fn pending(self: &Arc<Self>, limits: &PoolLimits) -> Result<Held, Overflow> {
        self.hold(Resource::Pending, limits.pending)
    }

    /// Room for one more request on a connection.
    ///
    /// # Errors
    /// The limit is met.
    pub fn request(self: &Arc<Self>, limits: &PoolLimits) -> Result<Held, Overflow> {
        self.hold(Resource::Requests, limits.requests)
    }

    /// Room for one more retry, beside its place as a request.
    ///
    /// # Errors
    /// The limit is met: the failure goes to the caller.
    pub fn retry(self: &Arc<Self>, limits: &PoolLimits, now: Millis) -> Result<Held, Overflow> {
        self.hold(Resource::Retries, self.retry_limit(limits.retries, now))
    }

    /// Notes that a request has ended, where the retry budget looks back at them.
    pub fn ended(&self, limit: RetryLimit, now: Millis) {
        let Some(tenth) = tenth(limit, now) else { return };
        // Another remainder's count is of an interval before, and begins anew.
        let _ = self.ended[tenth as usize % TENTHS].fetch_update(Relaxed, Relaxed, |slot| {
            let (number, count) = unpack(slot);
            Some(pack(tenth, if number == tenth { count.saturating_add(1) } else { 1 }))
        });
    }

    /// How many are held.
    #[must_use]
    pub fn count(&self, resource: Resource) -> u32 {
        self.counts[resource as usize].load(Relaxed)
    }

    /// How often the limit was met since the node started.
    #[must_use]
    pub fn overflows(&self, resource: Resource) -> u64 {
        self.overflows[resource as usize].load(Relaxed)
    }

    fn retry_limit(&self, limit: RetryLimit, now: Millis) -> u32 {
        match limit {
            RetryLimit::Count(count) => count,
            RetryLimit::Budget { percent, minimum, interval: _ } => {
                let base = f64::from(self.count(Resource::Requests))
                    + f64::from(self.count(Resource::Pending))
                    + self.lately(limit, now);
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
                let share = (percent / 100.0 * base) as u32;
                share.max(minimum)
            }
        }
    }

    /// Requests that have ended within the budget's interval.
    fn lately(&self, limit: RetryLimit, now: Millis) -> f64 {
        let Some(tenth) = tenth(limit, now) else { return 0.0 };
        let slots = self.ended.iter().map(|slot| unpack(slot.load(Relaxed)));
        slots
            .filter(|(number, _)| (tenth.wrapping_sub(*number) as usize) < TENTHS)
            .map(|(_, count)| f64::from(count))
            .sum()
    }

    fn hold(self: &Arc<Self>, resource: Resource, limit: u32) -> Result<Held, Overflow> {
        let count = &self.counts[resource as usize];
        let taken = count.fetch_update(Relaxed, Relaxed, |held| (held < limit).then(|| held + 1));
        if taken.is_err() {
            self.overflows[resource as usize].fetch_add(1, Relaxed);
            return Err(Overflow(resource));
        }
        Ok(Held { pool: Arc::clone(self), resource })
    }
}

/// The number of this tenth of a budget's interval; `None` if it has none. Zero is never one: that is what slots begin with.
fn tenth(limit: RetryLimit, now: Millis) -> Option<u32> {
    let RetryLimit::Budget { interval, .. } = limit else { return None };
    if interval == 0 {
        return None;
    }
    let number = now / (interval / TENTHS as Millis).max(1);
    Some(u32::try_from(number % Millis::from(u32::MAX)).unwrap_or_default() + 1)
}

fn pack(tenth: u32, count: u32) -> u64 {
    u64::from(tenth) << 32 | u64::from(count)
}

#[expect(clippy::cast_possible_truncation, reason = "each half is one number")]
const fn unpack(slot: u64) -> (u32, u32) {
    ((slot >> 32) as u32, slot as u32)
}

impl Drop for Held {
    fn drop(&mut self) {
        self.pool.counts[self.resource as usize].fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn limits(limit: u32) -> PoolLimits {
        PoolLimits {
            connections: limit,
            pending: limit,
            requests: limit,
            streams_per_connection: limit,
            retries: RetryLimit::Count(limit),
        }
    }

    #[test]
    fn each_resource_has_its_own_limit_and_room_comes_back() {
        let (pool, limits) = (Arc::new(Pool::default()), limits(2));
        type Hold = fn(&Arc<Pool>, &PoolLimits) -> Result<Held, Overflow>;
        let ways: [(Resource, Hold); 4] = [
            (Resource::Connections, |pool, limits| pool.connection(limits, false)),
            (Resource::Pending, Pool::pending),
            (Resource::Requests, Pool::request),
            (Resource::Retries, |pool, limits| pool.retry(limits, 0)),
        ];
        let mut all = Vec::new();
        for (resource, hold) in ways {
            let held = [hold(&pool, &limits).unwrap(), hold(&pool, &limits).unwrap()];
            assert_eq!(hold(&pool, &limits).unwrap_err(), Overflow(resource));
            assert_eq!((pool.count(resource), pool.overflows(resource)), (2, 1));
            all.push((resource, held));
        }
        for (resource, [first, second]) in all {
            drop(first);
            assert_eq!((pool.count(resource), pool.overflows(resource)), (1, 1));
            drop(second);
            assert_eq!(pool.count(resource), 0);
        }
    }

    #[test]
    fn an_endpoint_without_a_connection_gets_one_past_the_limit() {
        let (pool, limits) = (Arc::new(Pool::default()), limits(1));
        let held = [pool.connection(&limits, true).unwrap(), pool.connection(&limits, true).unwrap()];
        assert!(pool.connection(&limits, false).is_err());
        assert_eq!(pool.count(Resource::Connections), 2);
        let [first, _second] = held;
        drop(first);
        assert!(pool.connection(&limits, false).is_err(), "what is past the limit counts");
    }

    #[test]
    fn nothing_is_limited_by_default() {
        let (pool, limits) = (Arc::new(Pool::default()), PoolLimits::default());
        let held: Vec<Held> = (0..5_000).map(|_| pool.retry(&limits, 0).unwrap()).collect();
        assert_eq!(pool.count(Resource::Retries), 5_000);
        drop(held);
    }

    #[test]
    fn connections_of_http2_carry_many_requests() {
        assert_eq!(limits(3).multiplexed(), Some(PoolLimits { connections: 9, ..limits(3) }));
        assert_eq!(PoolLimits { connections: 3, ..PoolLimits::default() }.multiplexed(), None, "streams without end");
        assert_eq!(PoolLimits { streams_per_connection: 3, ..PoolLimits::default() }.multiplexed(), None);
    }

    #[test]
    fn a_retry_budget_is_a_share_of_what_is_under_way_or_waits() {
        let pool = Arc::new(Pool::default());
        let limits = PoolLimits {
            retries: RetryLimit::Budget { percent: 20.0, minimum: 3, interval: 0 },
            ..PoolLimits::default()
        };
        let fill =
            |pool: &Arc<Pool>| std::iter::from_fn(|| pool.retry(&limits, 0).ok()).take(1_000).collect::<Vec<_>>();
        assert_eq!(fill(&pool).len(), 3, "the minimum, though nothing is under way");
        let requests: Vec<Held> = (0..20).map(|_| pool.request(&limits).unwrap()).collect();
        let pending: Vec<Held> = (0..4).map(|_| pool.pending(&limits).unwrap()).collect();
        assert_eq!(fill(&pool).len(), 4, "a fifth of 24, rounded down");
        drop((requests, pending));
        assert_eq!(fill(&pool).len(), 3);
    }

    #[test]
    fn threads_together_stay_within_the_limit() {
        let (pool, limits) = (Arc::new(Pool::default()), limits(5));
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let pool = Arc::clone(&pool);
                std::thread::spawn(move || {
                    for _ in 0..2_000 {
                        let _held = pool.request(&limits);
                        assert!(pool.count(Resource::Requests) <= 5);
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(pool.count(Resource::Requests), 0);
    }

    proptest! {
        /// Whatever is taken and given back under whatever limits, the count is that of the guards.
        #[test]
        fn the_count_is_what_is_held(steps in proptest::collection::vec((any::<bool>(), 0u32..6), 0..200)) {
            let pool = Arc::new(Pool::default());
            let mut held = Vec::new();
            for (take, limit) in steps {
                if take {
                    let room = held.len() < limit as usize;
                    let more = pool.request(&limits(limit));
                    prop_assert_eq!(more.is_ok(), room);
                    held.extend(more.ok());
                } else {
                    held.pop();
                }
                prop_assert_eq!(pool.count(Resource::Requests) as usize, held.len());
            }
        }
    }

    #[test]
    fn a_budget_with_an_interval_counts_requests_that_have_ended() {
        let pool = Arc::new(Pool::default());
        let retries = RetryLimit::Budget { percent: 20.0, minimum: 1, interval: 10_000 };
        let room = |now| pool.retry_limit(retries, now);
        assert_eq!(room(0), 1);
        (0..50).for_each(|_| pool.ended(retries, 500));
        (0..50).for_each(|_| pool.ended(retries, 5_500));
        assert_eq!((room(5_500), room(9_900)), (20, 20));
        assert_eq!((room(10_000), room(15_000)), (10, 1), "tenth after tenth is forgotten");
        pool.ended(retries, 100_500);
        assert_eq!(pool.lately(retries, 100_500), 1.0, "a slot of long ago begins anew");
        pool.ended(RetryLimit::Count(3), 0);
        assert_eq!(pool.lately(RetryLimit::Count(3), 0), 0.0);
    }
}
