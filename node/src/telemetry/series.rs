//! Series: combinations of labels, each with cells for each data worker, so that counting is a load and a store. A lock is
//! taken by data workers alone, when a combination is new to them.

use super::labels::{Labels, Pair, Protocol, Reporter, Security, Summary, UNKNOWN, Workload};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

/// Combinations of labels that are kept apart; further ones are counted together.
pub(super) const SERIES_LIMIT: usize = 10_000;

/// Adds to a cell that one worker alone writes.
pub(super) fn add(cell: &AtomicU64, amount: u64) {
    cell.store(cell.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
}

/// One combination of labels.
#[derive(Debug)]
pub(super) struct Series<C> {
    pub(super) labels: Labels,
    cells: Box<[C]>,
}

impl<C: Default> Series<C> {
    fn new(labels: Labels, workers: usize) -> Self {
        Self { labels, cells: (0..workers.max(1)).map(|_| C::default()).collect() }
    }

    /// A worker's share. Only that worker writes.
    pub(super) fn of(&self, worker: usize) -> &C {
        &self.cells[worker.min(self.cells.len() - 1)]
    }

    /// Everybody's.
    pub(super) fn cells(&self) -> impl Iterator<Item = &C> {
        self.cells.iter()
    }
}

const CHUNK: usize = 256;
const CHUNKS: usize = SERIES_LIMIT.div_ceil(CHUNK);
type Chunk<C> = Box<[OnceLock<Arc<Series<C>>>]>;

/// All series of one kind. Readers walk `chunks` without a lock.
#[derive(Debug)]
pub(super) struct Family<C> {
    workers: usize,
    index: Mutex<HashMap<Labels, Arc<Series<C>>>>,
    chunks: [OnceLock<Chunk<C>>; CHUNKS],
    length: AtomicUsize,
    overflow: Arc<Series<C>>,
}

impl<C: Default> Family<C> {
    /// For so many workers; what no longer fits is counted as of this protocol.
    pub(super) fn new(workers: usize, protocol: Protocol) -> Self {
        Self {
            workers,
            index: Mutex::new(HashMap::new()),
            chunks: std::array::from_fn(|_| OnceLock::new()),
            length: AtomicUsize::new(0),
            overflow: Arc::new(Series::new(overflow(protocol), workers)),
        }
    }

    /// Every series in order of creation, the overflow last if it was used.
    pub(super) fn series(&self) -> impl Iterator<Item = &Arc<Series<C>>> {
        let length = self.length.load(Ordering::Acquire);
        let overflow = (length >= SERIES_LIMIT).then_some(&self.overflow);
        (0..length).filter_map(|slot| self.chunks[slot / CHUNK].get()?[slot % CHUNK].get()).chain(overflow)
    }

    /// The series of a combination, begun if need be.
    pub(super) fn find(&self, labels: &Labels) -> Arc<Series<C>> {
        let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(series) = index.get(labels) {
            return Arc::clone(series);
        }
        let slot = index.len();
        if slot >= SERIES_LIMIT {
            return Arc::clone(&self.overflow);
        }
        let series = Arc::new(Series::new(labels.clone(), self.workers));
        index.insert(labels.clone(), Arc::clone(&series));
        let chunk = self.chunks[slot / CHUNK].get_or_init(|| (0..CHUNK).map(|_| OnceLock::new()).collect());
        // The slot is free: slots are handed out once each, under the lock.
        drop(chunk[slot % CHUNK].set(Arc::clone(&series)));
        self.length.store(slot + 1, Ordering::Release);
        series
    }
}

/// The labels of what no longer fits.
pub(super) fn overflow(protocol: Protocol) -> Labels {
    let word: Arc<str> = Arc::from("overflow");
    let unknown = Arc::new(Workload::unknown());
    let pair = Pair {
        reporter: Reporter::Source,
        source: Arc::clone(&unknown),
        destination: unknown,
        service: Arc::clone(&word),
        service_name: word,
        service_namespace: Arc::from(UNKNOWN),
        security: Security::Unknown,
    };
    let summary = Summary { protocol, code: 0, grpc_status: None, flags: super::Flags::default() };
    Labels { pair: Arc::new(pair), summary }
}
