//! Counters of endpoints as this node sees them: they outlive snapshots, and all workers share them.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
};

use certs::codec::Millis;
use dashmap::DashMap;
use tokio::sync::Notify;

use super::EndpointId;
use crate::balance::{Active, Key, Load};

/// Counters of one endpoint, and the news that it is out, for requests that hold an older snapshot.
#[derive(Debug, Default)]
pub struct EndpointStats {
    key: Key,
    load: Arc<Load>,
    total: AtomicU64,
    failures: AtomicU64,
    errors: AtomicU32,
    error_micros: AtomicU64,
    watched: AtomicBool,
    news: Notify,
}

impl EndpointStats {
    /// Of an endpoint that no table lists.
    pub(super) fn unlisted(key: &str) -> Arc<Self> {
        Arc::new(Self { key: key.into(), ..Self::default() })
    }

    /// The endpoint's id as text.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// What the choice of an endpoint reads.
    #[must_use]
    pub fn load(&self) -> &Arc<Load> {
        &self.load
    }

    /// Counts a request as active until the guard is dropped.
    #[must_use]
    pub fn begin(&self) -> InFlight {
        self.total.fetch_add(1, Relaxed);
        InFlight { _active: self.load.begin() }
    }

    /// Counts a failure on the endpoint's account.
    pub fn failed(&self) {
        self.failures.fetch_add(1, Relaxed);
    }

    /// Counts an error of outlier detection, for the report to others. True if nobody watches the endpoint yet: whoever is
    /// told so has it watched.
    pub fn erred(&self, micros: u64) -> bool {
        self.errors.fetch_add(1, Relaxed);
        self.error_micros.fetch_add(micros, Relaxed);
        !self.watched.swap(true, Relaxed)
    }

    /// Errors since they were last taken.
    #[must_use]
    pub fn errors(&self) -> u32 {
        self.errors.load(Relaxed)
    }

    /// Errors since the last call and how long they took together, in microseconds.
    pub fn take_errors(&self) -> (u32, u64) {
        (self.errors.swap(0, Relaxed), self.error_micros.swap(0, Relaxed))
    }

    /// Nobody watches it any more: the next error asks for it again. False if there is one already.
    pub fn unwatch(&self) -> bool {
        self.watched.store(false, Relaxed);
        self.errors.load(Relaxed) == 0
    }

    /// Notes whether the newest snapshot has it as unhealthy, or not at all. One that comes back warms up anew.
    pub fn set_out(&self, out: bool, now: Millis) {
        let before = self.load.is_out();
        self.load.set_out(out);
        if out {
            self.news.notify_waiters();
        } else if before {
            self.load.arrived(now);
        }
    }

    /// True if no attempt should begin there, whatever the snapshot of the request says.
    #[must_use]
    pub fn is_out(&self) -> bool {
        self.load.is_out()
    }

    /// Waits until it is out.
    pub async fn went_out(&self) {
        loop {
            let news = self.news.notified();
            if self.is_out() {
                return;
            }
            news.await;
        }
    }

    /// Requests under way.
    #[must_use]
    pub fn active(&self) -> u32 {
        self.load.active()
    }

    /// Requests begun since the node started.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total.load(Relaxed)
    }

    /// Failures since the node started.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failures.load(Relaxed)
    }
}

/// A request under way.
#[derive(Debug)]
pub struct InFlight {
    _active: Active,
}

/// The counters of all endpoints, keyed by endpoint: whoever builds a snapshot takes them from here.
#[derive(Debug, Default)]
pub struct StatsTable {
    by_endpoint: DashMap<EndpointId, Arc<EndpointStats>>,
    /// Of endpoints that no node serves.
    outside: DashMap<Key, Arc<EndpointStats>>,
}

impl StatsTable {
    /// The counters of an endpoint, begun at zero; its warm-up begins with them.
    #[must_use]
    pub fn of(&self, endpoint: &EndpointId, now: Millis) -> Arc<EndpointStats> {
        if let Some(stats) = self.by_endpoint.get(endpoint) {
            return stats.clone();
        }
        let begin = || {
            let stats = EndpointStats { key: endpoint.to_string().into(), ..EndpointStats::default() };
            stats.load.arrived(now);
            Arc::new(stats)
        };
        self.by_endpoint.entry(endpoint.clone()).or_insert_with(begin).clone()
    }

    /// The counters of an endpoint that no node serves, by its key.
    #[must_use]
    pub fn of_outside(&self, key: &str, now: Millis) -> Arc<EndpointStats> {
        if let Some(stats) = self.outside.get(key) {
            return stats.clone();
        }
        let stats = EndpointStats::unlisted(key);
        stats.load.arrived(now);
        self.outside.entry(Key::clone(&stats.key)).or_insert(stats).clone()
    }

    /// Forgets those of which nobody knows any more. Who still calls one keeps its counters.
    pub fn keep_outside(&self) {
        self.outside.retain(|_, stats| Arc::strong_count(stats) > 1);
    }

    /// Forgets an endpoint that is gone; false while it has requests under way.
    pub fn forget(&self, endpoint: &EndpointId, now: Millis) -> bool {
        if let Some(stats) = self.by_endpoint.get(endpoint) {
            stats.set_out(true, now);
        }
        self.by_endpoint.remove_if(endpoint, |_, stats| stats.active() == 0);
        !self.by_endpoint.contains_key(endpoint)
    }
}

#[cfg(test)]
mod tests {
    use certs::id::{NodeId, ServiceName};

    use super::*;
    use crate::balance::Warmup;

    fn id() -> EndpointId {
        let (node, service) = (NodeId::new("a").unwrap(), ServiceName::new("default", "reviews").unwrap());
        EndpointId { node, service, instance: None }
    }

    #[test]
    fn counters_survive_snapshots_and_end_with_their_endpoint() {
        let table = StatsTable::default();
        let flight = table.of(&id(), 1).begin();
        assert!(!table.forget(&id(), 1));
        assert_eq!(table.of(&id(), 1).active(), 1);
        drop(flight);
        assert!(table.forget(&id(), 1));
        assert_eq!(table.of(&id(), 1).total(), 0);
    }

    #[test]
    fn who_comes_back_warms_up_anew() {
        let table = StatsTable::default();
        let (stats, warmup) =
            (table.of(&id(), 1_000), Warmup { duration: 1_000, minimum_percent: 10, aggression: 1.0 });
        let share = |now| (stats.load().share(Some(&warmup), now) * 100.0).round();
        assert_eq!((share(1_500), share(2_000)), (50.0, 100.0));
        stats.set_out(false, 5_000);
        assert_eq!(share(5_000), 100.0, "it was never gone");
        stats.set_out(true, 6_000);
        stats.set_out(false, 7_000);
        assert_eq!((share(7_500), share(8_000)), (50.0, 100.0));
    }
}
