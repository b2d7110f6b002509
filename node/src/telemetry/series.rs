//! Series: what is counted of each combination of labels, in cells for each data worker, so that counting is loads and stores; a
//! lock is taken when a combination is new to a worker. Series that nobody has counted for long are forgotten.

use super::{
    Flags,
    labels::{Labels, Pair, Protocol, Reporter, Security, Summary, UNKNOWN, Workload},
};
use crate::lock::lock;
use certs::codec::Millis;
use dashmap::{DashMap, Entry};
use std::{
    fmt::Debug,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

/// Combinations of labels that are kept apart; further ones are counted together.
pub(super) const SERIES_LIMIT: usize = 10_000;
/// A series that nobody has counted for this long is forgotten, in milliseconds.
pub(super) const IDLE: Millis = 15 * 60_000;

/// One worker's share of a series, on cache lines of its own. Only that worker writes.
pub(super) trait Cells: Debug + Default + Send + Sync + 'static {
    /// What tells that something was counted.
    type Sum: Debug + Copy + PartialEq + Default + Send;

    /// Adds what this worker counted.
    fn add_to(&self, sum: &mut Self::Sum);
}

/// Adds to a cell that one worker alone writes.
pub(super) fn add(cell: &AtomicU64, amount: u64) {
    cell.store(cell.load(Relaxed).wrapping_add(amount), Relaxed);
}

/// One combination of labels.
#[derive(Debug)]
pub(super) struct Series<C: Cells> {
    pub(super) labels: Labels,
    cells: Box<[C]>,
    /// Nobody has counted for long: who counts next asks the family for the series.
    retired: AtomicBool,
    /// What the last look saw, and when one last found something new; process uptime in milliseconds.
    looked: Mutex<Option<(C::Sum, Millis)>>,
}

impl<C: Cells> Series<C> {
    fn new(labels: Labels, workers: usize) -> Self {
        let cells = (0..workers.max(1)).map(|_| C::default()).collect();
        Self { labels, cells, retired: AtomicBool::new(false), looked: Mutex::default() }
    }

    /// A worker's share.
    pub(super) fn cell(&self, worker: usize) -> &C {
        &self.cells[worker]
    }

    /// Every worker's share.
    pub(super) fn cells(&self) -> impl Iterator<Item = &C> {
        self.cells.iter()
    }

    /// What all workers counted.
    pub(super) fn sum(&self) -> C::Sum {
        let mut sum = C::Sum::default();
        self.cells().for_each(|cells| cells.add_to(&mut sum));
        sum
    }

    /// True if it may have been forgotten.
    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Relaxed)
    }

    /// What was counted at the last look and now, and whether the series is to be forgotten. It is retired first and forgotten by
    /// a later look, so that no worker still counts in it.
    fn look(&self, now: Millis) -> (C::Sum, C::Sum, bool) {
        let mut looked = lock(&self.looked);
        let sum = self.sum();
        let (before, active) = looked.unwrap_or((C::Sum::default(), now));
        if sum != before || looked.is_none() {
            *looked = Some((sum, now));
            self.retired.store(false, Relaxed);
            return (before, sum, false);
        }
        let idle = now.saturating_sub(active) >= IDLE;
        (before, sum, idle && self.retired.swap(idle, Relaxed))
    }
}

/// All series of one kind.
#[derive(Debug)]
pub(super) struct Family<C: Cells> {
    pub(super) workers: usize,
    known: DashMap<Labels, Arc<Series<C>>>,
    length: AtomicUsize,
    /// Those that find no room, together: what the callers' side saw, and what the servers' did.
    overflow: [Arc<Series<C>>; 2],
}

impl<C: Cells> Family<C> {
    /// None yet, of what this protocol's labels stand for where there is no room for more.
    pub(super) fn of(protocol: Protocol, workers: usize) -> Self {
        let overflow = [Reporter::Source, Reporter::Destination]
            .map(|reporter| Arc::new(Series::new(overflow(protocol, reporter), workers)));
        Self { workers: workers.max(1), known: DashMap::new(), length: AtomicUsize::new(0), overflow }
    }

    /// Every series, those of the overflow last if they were used.
    pub(super) fn series(&self) -> Vec<Arc<Series<C>>> {
        let mut all: Vec<_> = self.known.iter().map(|entry| Arc::clone(entry.value())).collect();
        all.extend(self.overflow.iter().filter(|series| series.sum() != C::Sum::default()).cloned());
        all
    }

    /// How many combinations of labels are kept.
    pub(super) fn length(&self) -> usize {
        self.length.load(Relaxed)
    }

    /// True if who counts asks for the series anew: it may have been forgotten, or it is the overflow's and there is room again.
    pub(super) fn is_past(&self, series: &Arc<Series<C>>) -> bool {
        let has_room = || self.length() < SERIES_LIMIT;
        series.is_retired() || self.overflow.iter().any(|over| Arc::ptr_eq(over, series)) && has_room()
    }

    /// What was counted of combinations of labels that found no room.
    pub(super) fn overflowed(&self) -> C::Sum {
        let mut sum = C::Sum::default();
        self.overflow.iter().flat_map(|series| series.cells()).for_each(|cells| cells.add_to(&mut sum));
        sum
    }

    /// Gives of each series that counted since the last look what it had counted then and has now; forgets those that count no more.
    pub(super) fn look(&self, now: Millis, mut each: impl FnMut(&Labels, &C::Sum, &C::Sum)) {
        for series in self.series() {
            let (before, sum, forgotten) = series.look(now);
            if sum != before {
                each(&series.labels, &before, &sum);
            }
            let unused = |_: &Labels, known: &Arc<Series<C>>| known.is_retired();
            if forgotten && self.known.remove_if(&series.labels, unused).is_some() {
                self.length.fetch_sub(1, Relaxed);
            }
        }
    }

    /// The series of these labels, begun at zero if there is none.
    pub(super) fn find(&self, labels: &Labels) -> Arc<Series<C>> {
        self.find_or(labels, || Arc::new(Series::new(labels.clone(), self.workers)))
    }

    /// The series in whose place a retired one counts: itself, taken back, where nobody began it anew.
    pub(super) fn take_back(&self, series: &Arc<Series<C>>) -> Arc<Series<C>> {
        self.find_or(&series.labels, || Arc::clone(series))
    }

    fn find_or(&self, labels: &Labels, make: impl FnOnce() -> Arc<Series<C>>) -> Arc<Series<C>> {
        // The map's own lock is held while a series is taken back into use, so that it is not forgotten meanwhile.
        let used = |series: &Arc<Series<C>>| {
            series.retired.store(false, Relaxed);
            Arc::clone(series)
        };
        if let Some(series) = self.known.get(labels) {
            return used(&series);
        }
        match self.known.entry(labels.clone()) {
            Entry::Occupied(known) => used(known.get()),
            Entry::Vacant(_) if self.length.fetch_add(1, Relaxed) >= SERIES_LIMIT => {
                self.length.fetch_sub(1, Relaxed);
                let [source, destination] = &self.overflow;
                match labels.pair.reporter {
                    Reporter::Source => used(source),
                    Reporter::Destination => used(destination),
                }
            }
            Entry::Vacant(free) => used(&free.insert(make())),
        }
    }
}

/// The labels of what no longer fits, as this side saw it.
pub(super) fn overflow(protocol: Protocol, reporter: Reporter) -> Labels {
    let word: Arc<str> = Arc::from("overflow");
    let unknown = Arc::new(Workload::unknown());
    let pair = Pair {
        reporter,
        source: Arc::clone(&unknown),
        destination: unknown,
        service: Arc::clone(&word),
        service_name: word,
        service_namespace: Arc::from(UNKNOWN),
        security: Security::Unknown,
    };
    let summary = Summary { protocol, code: 0, grpc_status: None, flags: Flags::default() };
    Labels { pair: Arc::new(pair), summary, shape: None }
}
