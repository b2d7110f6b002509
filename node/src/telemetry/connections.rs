//! What is counted of connections that carry bytes: Istio's TCP metrics. Bytes are counted as they go, not at the end.

use super::{
    Protocol,
    labels::Labels,
    requests::{SERIES_LIMIT, overflow},
};
use dashmap::{DashMap, Entry};
use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
};

/// One worker's share of a series; on a cache line of its own. Only that worker writes.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Cells {
    opened: AtomicU64,
    closed: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
}

fn add(cell: &AtomicU64, amount: u64) {
    cell.store(cell.load(Relaxed).wrapping_add(amount), Relaxed);
}

/// One combination of labels.
#[derive(Debug)]
pub(super) struct Series {
    pub(super) labels: Labels,
    cells: Box<[Cells]>,
}

/// Connections and bytes of a series, over all workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Totals {
    pub(super) opened: u64,
    pub(super) closed: u64,
    pub(super) sent: u64,
    pub(super) received: u64,
}

impl Series {
    fn new(labels: Labels, workers: usize) -> Self {
        Self { labels, cells: (0..workers.max(1)).map(|_| Cells::default()).collect() }
    }

    pub(super) fn totals(&self) -> Totals {
        self.cells.iter().fold(Totals::default(), |sum, cells| Totals {
            opened: sum.opened.wrapping_add(cells.opened.load(Relaxed)),
            closed: sum.closed.wrapping_add(cells.closed.load(Relaxed)),
            sent: sum.sent.wrapping_add(cells.sent.load(Relaxed)),
            received: sum.received.wrapping_add(cells.received.load(Relaxed)),
        })
    }
}

/// All series. A lock is taken when a combination of labels is new to a worker.
#[derive(Debug)]
pub(super) struct Family {
    workers: usize,
    known: DashMap<Labels, Arc<Series>>,
    length: AtomicUsize,
    /// Those that find no room, together.
    overflow: Arc<Series>,
}

impl Family {
    pub(super) fn new(workers: usize) -> Self {
        let mut labels = overflow();
        labels.summary.protocol = Protocol::Tcp;
        let overflow = Arc::new(Series::new(labels, workers));
        Self { workers, known: DashMap::new(), length: AtomicUsize::new(0), overflow }
    }

    /// Every series, the overflow last if it was used.
    pub(super) fn series(&self) -> Vec<Arc<Series>> {
        let mut all: Vec<_> = self.known.iter().map(|entry| Arc::clone(entry.value())).collect();
        all.extend((self.overflow.totals() != Totals::default()).then(|| Arc::clone(&self.overflow)));
        all
    }

    /// Where a worker counts a connection with these labels.
    pub(super) fn find(&self, labels: &Labels, worker: usize) -> Connected {
        let worker = worker.min(self.workers.max(1) - 1);
        let known = self.known.get(labels).map(|series| Arc::clone(&series));
        let series = known.unwrap_or_else(|| match self.known.entry(labels.clone()) {
            Entry::Occupied(known) => Arc::clone(known.get()),
            Entry::Vacant(_) if self.length.fetch_add(1, Relaxed) >= SERIES_LIMIT => {
                self.length.fetch_sub(1, Relaxed);
                Arc::clone(&self.overflow)
            }
            Entry::Vacant(free) => Arc::clone(&free.insert(Arc::new(Series::new(labels.clone(), self.workers)))),
        });
        Connected { series, worker }
    }
}

/// Where one worker counts a connection between a pair.
#[derive(Debug, Clone)]
pub struct Connected {
    series: Arc<Series>,
    worker: usize,
}

impl Connected {
    /// It is there.
    pub fn opened(&self) {
        add(&self.cells().opened, 1);
    }

    /// It is over.
    pub fn closed(&self) {
        add(&self.cells().closed, 1);
    }

    /// Bytes went from the server to the caller.
    pub fn sent(&self, bytes: u64) {
        add(&self.cells().sent, bytes);
    }

    /// Bytes came from the caller for the server.
    pub fn received(&self, bytes: u64) {
        add(&self.cells().received, bytes);
    }

    fn cells(&self) -> &Cells {
        &self.series.cells[self.worker]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{Flags, Summary};

    fn labels(flags: Flags) -> Labels {
        let mut labels = overflow();
        labels.summary = Summary { protocol: Protocol::Tcp, code: 0, grpc_status: None, flags };
        labels
    }

    #[test]
    fn flags_part_series_and_workers_share_them() {
        let family = Family::new(2);
        for worker in 0..2 {
            let open = family.find(&labels(Flags::NONE), worker);
            open.opened();
            open.sent(5);
            open.received(7);
            family.find(&labels(Flags::DC), worker).closed();
        }
        let mut totals: Vec<Totals> = family.series().iter().map(|series| series.totals()).collect();
        totals.sort_by_key(|totals| totals.closed);
        let open = Totals { opened: 2, closed: 0, sent: 10, received: 14 };
        assert_eq!(totals, [open, Totals { closed: 2, ..Totals::default() }]);
    }
}
