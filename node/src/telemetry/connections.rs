//! What is counted of connections that carry bytes: Istio's TCP metrics. Bytes are counted as they go, not at the end.

use super::{
    Protocol,
    labels::Labels,
    series::{self, add},
};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// One combination of labels.
pub(super) type Series = series::Series<Cells>;
/// All series.
pub(super) type Family = series::Family<Cells>;

/// One worker's share of a series; on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct Cells {
    opened: AtomicU64,
    nowhere: AtomicU64,
    closed: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
}

/// Connections and bytes of a series, over all workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Totals {
    pub(super) opened: u64,
    /// Those of them that led nowhere: no metric tells of it, and not each has a flag.
    pub(super) nowhere: u64,
    pub(super) closed: u64,
    pub(super) sent: u64,
    pub(super) received: u64,
}

impl Cells {
    fn all(&self) -> [&AtomicU64; 5] {
        [&self.opened, &self.nowhere, &self.closed, &self.sent, &self.received]
    }
}

impl series::Cells for Cells {
    type Sum = Totals;

    const METRICS: &'static [&'static str] = &[
        "istio_tcp_connections_opened_total",
        "istio_tcp_connections_closed_total",
        "istio_tcp_sent_bytes_total",
        "istio_tcp_received_bytes_total",
    ];

    fn add_to(&self, sum: &mut Totals) {
        let sums = [&mut sum.opened, &mut sum.nowhere, &mut sum.closed, &mut sum.sent, &mut sum.received];
        for (cell, sum) in self.all().into_iter().zip(sums) {
            *sum = sum.wrapping_add(cell.load(Relaxed));
        }
    }

    fn take(&self, other: &Self) {
        self.all().into_iter().zip(other.all()).for_each(|(own, other)| add(own, other.load(Relaxed)));
    }
}

impl Family {
    pub(super) fn new(workers: usize) -> Self {
        Self::of(Protocol::Tcp, workers)
    }
}

/// Where one worker counts a connection between a pair.
#[derive(Debug, Clone)]
pub struct Connected {
    family: Arc<Family>,
    series: Arc<Series>,
    worker: usize,
}

impl Connected {
    /// Where that worker counts a connection with these labels.
    pub(super) fn new(family: &Arc<Family>, labels: &Labels, worker: usize) -> Self {
        Self { family: Arc::clone(family), series: family.find(labels), worker }
    }

    /// True if the next connection is counted elsewhere; this one stays where it began.
    pub(super) fn is_past(&self) -> bool {
        self.family.is_past(&self.series)
    }

    /// It is there.
    pub fn opened(&self) {
        self.count(|cells| &cells.opened, 1);
    }

    /// It came and led nowhere, which is all that there was of it.
    pub fn led_nowhere(&self) {
        self.opened();
        self.count(|cells| &cells.nowhere, 1);
        self.closed();
    }

    /// It is over.
    pub fn closed(&self) {
        self.count(|cells| &cells.closed, 1);
    }

    /// Bytes went from the server to the caller.
    pub fn sent(&self, bytes: u64) {
        self.count(|cells| &cells.sent, bytes);
    }

    /// Bytes came from the caller for the server.
    pub fn received(&self, bytes: u64) {
        self.count(|cells| &cells.received, bytes);
    }

    /// A connection may be silent for longer than its series is kept.
    fn count(&self, of: impl Fn(&Cells) -> &AtomicU64, amount: u64) {
        if self.series.is_retired() {
            add(of(self.family.take_back(&self.series).cell(self.worker)), amount);
        } else {
            add(of(self.series.cell(self.worker)), amount);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{
        Flags, Reporter, Summary,
        series::{IDLE, overflow},
    };

    fn labels(flags: Flags) -> Labels {
        let summary = Summary { protocol: Protocol::Tcp, code: 0, grpc_status: None, flags };
        Labels { summary, ..overflow(Protocol::Tcp, Reporter::Source) }
    }

    #[test]
    fn flags_part_series_and_workers_share_them() {
        let family = Arc::new(Family::new(2));
        for worker in 0..2 {
            let open = Connected::new(&family, &labels(Flags::NONE), worker);
            open.opened();
            open.sent(5);
            open.received(7);
            Connected::new(&family, &labels(Flags::DC), worker).closed();
        }
        let mut totals: Vec<Totals> = family.series().iter().map(|series| series.sum()).collect();
        totals.sort_by_key(|totals| totals.closed);
        let open = Totals { opened: 2, sent: 10, received: 14, ..Totals::default() };
        assert_eq!(totals, [open, Totals { closed: 2, ..Totals::default() }]);
    }
    #[test]
    fn series_without_connections_are_forgotten_and_silent_ones_come_back() {
        let family = Arc::new(Family::new(1));
        let (silent, gone) = (Connected::new(&family, &labels(Flags::NONE), 0), labels(Flags::UF));
        silent.opened();
        Connected::new(&family, &gone, 0).opened();
        let sweep = |now| family.look(now, |_, _, _| {});
        for now in [0, IDLE, IDLE + 1] {
            sweep(now);
        }
        assert_eq!(family.length(), 0);
        silent.closed();
        let shown: Vec<Totals> = family.series().iter().map(|series| series.sum()).collect();
        assert_eq!(shown, [Totals { opened: 1, closed: 1, ..Totals::default() }], "it counts on from where it was");
        for now in [IDLE + 2, 2 * IDLE + 2, 2 * IDLE + 3] {
            sweep(now);
        }
        // Another one began meanwhile.
        Connected::new(&family, &labels(Flags::NONE), 0).opened();
        silent.sent(7);
        let shown: Vec<Totals> = family.series().iter().map(|series| series.sum()).collect();
        assert_eq!(
            shown,
            [Totals { opened: 1, sent: 7, ..Totals::default() }],
            "all is counted in the one that is shown"
        );
    }
}
