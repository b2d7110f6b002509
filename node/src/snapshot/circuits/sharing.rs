//! What goes between the circuits and other nodes: endpoints that begin to fail and probes to make go out, reports and
//! answers come in.

use crate::lock::lock;
use std::sync::{Arc, atomic::Ordering::Relaxed};

use certs::codec::Millis;
use dashmap::DashMap;
use tokio::sync::{Notify, mpsc, watch};

use super::{AtomicBool, AtomicU64, Circuits, Endpoint, Event, Instance, Key, Mutex};
use crate::balance::outlier::MAX_PROBES;

/// Endpoints that began to fail and are not watched yet; the next error of one that found no room tells of it again.
const SUSPECTS: usize = 256;

/// The ends of what goes out; for one task.
#[derive(Debug)]
pub struct Outlets {
    /// Endpoints that begin to fail: to be watched until [`super::super::EndpointStats::unwatch`].
    pub suspects: mpsc::Receiver<Arc<Endpoint>>,
    /// Endpoints whose owner is to be asked; answered by [`Circuits::probed`].
    pub probes: mpsc::Receiver<Key>,
}

impl Circuits {
    /// No circuits yet. Who drops the outlets shares nothing.
    #[must_use]
    pub fn new() -> (Self, Outlets) {
        let (suspects, suspected) = mpsc::channel(SUSPECTS);
        let (probes, wanted) = mpsc::channel(MAX_PROBES);
        let circuits = Self {
            by_key: DashMap::new(),
            outliers: Mutex::default(),
            ejections: AtomicU64::new(0),
            spared: AtomicU64::new(0),
            news: Notify::new(),
            changes: watch::Sender::new(0),
            shares: AtomicBool::new(true),
            suspects,
            probes,
        };
        (circuits, Outlets { suspects: suspected, probes: wanted })
    }

    /// An attempt at an endpoint under outlier detection failed after `micros`. Of endpoints outside the mesh nobody else is told: their
    /// names may mean others to other nodes, and no owner could be asked.
    pub fn erred(&self, instance: &Instance, micros: u64) {
        let Instance::Mesh(endpoint) = instance else { return };
        let is_new = self.shares.load(Relaxed) && endpoint.stats.erred(micros);
        if is_new && self.suspects.try_send(Arc::clone(endpoint)).is_err() {
            endpoint.stats.unwatch();
        }
    }

    /// Another node says which endpoints it saw failing, and how often.
    pub fn reported(&self, reporter: &Key, failing: &[(Key, u32)], now: Millis, random: u64) {
        if !self.shares.load(Relaxed) {
            return;
        }
        for (endpoint, failures) in failing {
            let (endpoint, reporter) = (Key::clone(endpoint), Key::clone(reporter));
            let report = Event::Report { endpoint, reporter, failures: *failures };
            // A report has no effects by itself. Each takes the lock anew: no request waits for the whole list of a peer.
            let _ = lock(&self.outliers).handle(report, now, random);
        }
        self.news.notify_one();
    }

    /// A probe has ended: `healthy` unless the owner found the endpoint failing, or should have answered and did not.
    pub fn probed(&self, endpoint: Key, healthy: bool, now: Millis, random: u64) {
        let effects = lock(&self.outliers).handle(Event::Probed { endpoint, healthy }, now, random);
        self.apply(effects);
        self.news.notify_one();
    }

    /// True if the owner that was asked last found it failing.
    #[cfg(test)]
    pub(crate) fn found_failing(&self, endpoint: &Key) -> bool {
        lock(&self.outliers).found_failing(endpoint)
    }

    /// Whether this node reports and listens to reports, and how many nodes may hear of one together.
    pub fn share(&self, shares: bool, members: usize) {
        let before = self.shares.swap(shares, Relaxed);
        let mut outliers = lock(&self.outliers);
        outliers.set_members(members);
        if before && !shares {
            outliers.hush();
        }
    }
}
