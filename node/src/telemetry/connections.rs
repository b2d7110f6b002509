//! What is counted of connections that carry bytes: Istio's TCP metrics. Bytes are counted as they go, not at the end.

use super::series::{Series, add};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// One worker's share of a series; on a cache line of its own. Only that worker writes.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct Cells {
    opened: AtomicU64,
    closed: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
}

/// Connections and bytes of a series, over all workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Totals {
    pub(super) opened: u64,
    pub(super) closed: u64,
    pub(super) sent: u64,
    pub(super) received: u64,
}

impl Series<Cells> {
    pub(super) fn totals(&self) -> Totals {
        self.cells().fold(Totals::default(), |sum, cells| Totals {
            opened: sum.opened.wrapping_add(cells.opened.load(Relaxed)),
            closed: sum.closed.wrapping_add(cells.closed.load(Relaxed)),
            sent: sum.sent.wrapping_add(cells.sent.load(Relaxed)),
            received: sum.received.wrapping_add(cells.received.load(Relaxed)),
        })
    }
}

/// Where one worker counts a connection between a pair.
#[derive(Debug, Clone)]
pub struct Connected {
    series: Arc<Series<Cells>>,
    worker: usize,
}

impl Connected {
    pub(super) fn new(series: Arc<Series<Cells>>, worker: usize) -> Self {
        Self { series, worker }
    }

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
        self.series.of(self.worker)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{Families, Flags, Protocol, requests::Recorder, series::overflow};

    #[test]
    fn flags_part_series_and_workers_share_them() {
        let families = Arc::new(Families::new(2));
        let pair = overflow(Protocol::Tcp).pair;
        for worker in 0..2 {
            let recorder = Recorder::new(Arc::clone(&families), worker, Arc::clone(&pair));
            let open = recorder.connection(Flags::NONE);
            open.opened();
            open.sent(5);
            open.received(7);
            recorder.connection(Flags::DC).closed();
        }
        let totals: Vec<Totals> = families.connections.series().map(|series| series.totals()).collect();
        let open = Totals { opened: 2, closed: 0, sent: 10, received: 14 };
        assert_eq!(totals, [open, Totals { closed: 2, ..Totals::default() }]);
    }
}
