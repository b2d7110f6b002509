//! Counts and durations of requests. One series is one combination of labels, with cells for each data worker, so that
//! counting is a load and a store; the lock is taken by data workers alone, when a combination is new to them.

use super::labels::{Labels, Pair, Reporter, Security, Summary, UNKNOWN, Workload};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

/// Combinations of labels that are kept apart; further ones are counted together.
pub(super) const SERIES_LIMIT: usize = 10_000;

/// Upper bounds of the buckets in milliseconds (Envoy's defaults).
pub(super) const BOUNDS_MS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1000.0,
    2500.0,
    5000.0,
    10000.0,
    30000.0,
    60000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];
const BUCKETS: usize = BOUNDS_MS.len() + 1;

/// One worker's share of a series; on cache lines of its own. Only that worker writes.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Cells {
    buckets: [AtomicU64; BUCKETS],
    sum_micros: AtomicU64,
}

impl Cells {
    fn add(cell: &AtomicU64, amount: u64) {
        cell.store(cell.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
    }

    fn observe(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        #[expect(clippy::cast_precision_loss, reason = "a duration of 285 years is not measured")]
        let millis = micros as f64 / 1000.0;
        let bucket = BOUNDS_MS.partition_point(|bound| *bound < millis);
        Self::add(&self.buckets[bucket], 1);
        Self::add(&self.sum_micros, micros);
    }
}

/// One combination of labels.
#[derive(Debug)]
pub(super) struct Series {
    pub(super) labels: Labels,
    cells: Box<[Cells]>,
}

impl Series {
    fn new(labels: Labels, workers: usize) -> Self {
        Self { labels, cells: (0..workers.max(1)).map(|_| Cells::default()).collect() }
    }

    /// Requests per bucket (not summed up) and the sum in microseconds, over all workers.
    pub(super) fn totals(&self) -> ([u64; BUCKETS], u64) {
        let mut buckets = [0u64; BUCKETS];
        let mut sum = 0u64;
        for cells in &self.cells {
            for (total, cell) in buckets.iter_mut().zip(&cells.buckets) {
                *total = total.wrapping_add(cell.load(Ordering::Relaxed));
            }
            sum = sum.wrapping_add(cells.sum_micros.load(Ordering::Relaxed));
        }
        (buckets, sum)
    }
}

const CHUNK: usize = 256;
const CHUNKS: usize = SERIES_LIMIT.div_ceil(CHUNK);
type Chunk = Box<[OnceLock<Arc<Series>>]>;

/// All series. Readers walk `chunks` without a lock.
#[derive(Debug)]
pub(super) struct Family {
    workers: usize,
    index: Mutex<HashMap<Labels, Arc<Series>>>,
    chunks: [OnceLock<Chunk>; CHUNKS],
    length: AtomicUsize,
    overflow: Arc<Series>,
}

impl Family {
    pub(super) fn new(workers: usize) -> Self {
        Self {
            workers,
            index: Mutex::new(HashMap::new()),
            chunks: std::array::from_fn(|_| OnceLock::new()),
            length: AtomicUsize::new(0),
            overflow: Arc::new(Series::new(overflow(), workers)),
        }
    }

    /// Every series in order of creation, the overflow last if it was used.
    pub(super) fn series(&self) -> impl Iterator<Item = &Arc<Series>> {
        let length = self.length.load(Ordering::Acquire);
        let overflow = (length >= SERIES_LIMIT).then_some(&self.overflow);
        (0..length).filter_map(|slot| self.chunks[slot / CHUNK].get()?[slot % CHUNK].get()).chain(overflow)
    }

    fn find(&self, labels: &Labels) -> Arc<Series> {
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
fn overflow() -> Labels {
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
    let summary =
        Summary { protocol: super::Protocol::Http, code: 0, grpc_status: None, flags: super::Flags::default() };
    Labels { pair: Arc::new(pair), summary }
}

/// Counts the requests of one pair on one worker; remembers the series that it met.
#[derive(Debug)]
pub struct Recorder {
    family: Arc<Family>,
    worker: usize,
    pair: Arc<Pair>,
    /// Only its worker's requests take the lock, so it is always free.
    known: Mutex<Vec<(Summary, Arc<Series>)>>,
}

impl Recorder {
    pub(super) fn new(family: Arc<Family>, worker: usize, pair: Arc<Pair>) -> Self {
        Self { worker: worker.min(family.workers.max(1) - 1), family, pair, known: Mutex::new(Vec::new()) }
    }

    /// One request ended so after that time.
    pub fn record(&self, summary: Summary, duration: Duration) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let position = known.iter().position(|(seen, _)| *seen == summary).unwrap_or_else(|| {
            let series = self.family.find(&Labels { pair: Arc::clone(&self.pair), summary });
            known.push((summary, series));
            known.len() - 1
        });
        known[position].1.cells[self.worker].observe(duration);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{Flags, Protocol};

    fn pair(service: &str) -> Arc<Pair> {
        let mut labels = overflow();
        Arc::make_mut(&mut labels.pair).service = Arc::from(service);
        labels.pair
    }

    fn summary(code: u16) -> Summary {
        Summary { protocol: Protocol::Http, code, grpc_status: None, flags: Flags::NONE }
    }

    #[test]
    fn workers_share_a_series() {
        let family = Arc::new(Family::new(2));
        for worker in 0..2 {
            let recorder = Recorder::new(Arc::clone(&family), worker, pair("a"));
            recorder.record(summary(200), Duration::from_micros(500));
            recorder.record(summary(200), Duration::from_millis(7));
        }
        let series: Vec<_> = family.series().collect();
        assert_eq!(series.len(), 1);
        let (buckets, sum) = series[0].totals();
        assert_eq!((buckets[0], buckets[3], buckets.iter().sum::<u64>(), sum), (2, 2, 4, 15_000));
    }

    #[test]
    fn bounds_are_inclusive() {
        let family = Arc::new(Family::new(1));
        let recorder = Recorder::new(Arc::clone(&family), 0, pair("a"));
        recorder.record(summary(200), Duration::from_millis(1));
        recorder.record(summary(200), Duration::from_micros(1001));
        recorder.record(summary(200), Duration::from_secs(7200));
        let (buckets, _) = family.series().next().expect("one series").totals();
        assert_eq!((buckets[1], buckets[2], buckets[BUCKETS - 1]), (1, 1, 1));
    }

    #[test]
    fn what_exceeds_the_limit_is_counted_together() {
        let family = Arc::new(Family::new(1));
        for service in 0..SERIES_LIMIT + 5 {
            let recorder = Recorder::new(Arc::clone(&family), 0, pair(&service.to_string()));
            recorder.record(summary(200), Duration::ZERO);
        }
        assert_eq!(family.series().count(), SERIES_LIMIT + 1);
        let last = family.series().last().expect("series");
        assert_eq!(&*last.labels.pair.service, "overflow");
        assert_eq!(last.totals().0.iter().sum::<u64>(), 5);
    }
}
