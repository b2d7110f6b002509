//! Counts and durations of requests, and what is counted of connections that carry bytes.

use super::{
    connections::Connected,
    labels::{Labels, Pair, Protocol, Summary},
    series::{Series, add},
};
use crate::telemetry::Flags;
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

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
pub(super) struct Cells {
    buckets: [AtomicU64; BUCKETS],
    sum_micros: AtomicU64,
}

impl Cells {
    fn observe(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        #[expect(clippy::cast_precision_loss, reason = "a duration of 285 years is not measured")]
        let millis = micros as f64 / 1000.0;
        let bucket = BOUNDS_MS.partition_point(|bound| *bound < millis);
        add(&self.buckets[bucket], 1);
        add(&self.sum_micros, micros);
    }
}

impl Series<Cells> {
    /// Requests per bucket (not summed up) and the sum in microseconds, over all workers.
    pub(super) fn totals(&self) -> ([u64; BUCKETS], u64) {
        let mut buckets = [0u64; BUCKETS];
        let mut sum = 0u64;
        for cells in self.cells() {
            for (total, cell) in buckets.iter_mut().zip(&cells.buckets) {
                *total = total.wrapping_add(cell.load(Ordering::Relaxed));
            }
            sum = sum.wrapping_add(cells.sum_micros.load(Ordering::Relaxed));
        }
        (buckets, sum)
    }
}

/// Counts the requests and connections of one pair on one worker; remembers the series that it met.
#[derive(Debug)]
pub struct Recorder {
    families: Arc<super::Families>,
    worker: usize,
    pair: Arc<Pair>,
    /// Only its worker's requests take the lock, so it is always free.
    known: Mutex<Vec<(Summary, Arc<Series<Cells>>)>>,
    /// The same of connections.
    connections: Mutex<Vec<(Flags, Connected)>>,
}

impl Recorder {
    pub(super) fn new(families: Arc<super::Families>, worker: usize, pair: Arc<Pair>) -> Self {
        Self { families, worker, pair, known: Mutex::default(), connections: Mutex::default() }
    }

    /// One request ended so after that time.
    pub fn record(&self, summary: Summary, duration: Duration) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let position = known.iter().position(|(seen, _)| *seen == summary).unwrap_or_else(|| {
            let series = self.families.requests.find(&Labels { pair: Arc::clone(&self.pair), summary });
            known.push((summary, series));
            known.len() - 1
        });
        known[position].1.of(self.worker).observe(duration);
    }

    /// A connection of bytes that has these flags so far. It is counted by what is then said of it.
    #[must_use]
    pub fn connection(&self, flags: Flags) -> Connected {
        let mut known = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, connected)) = known.iter().find(|(seen, _)| *seen == flags) {
            return connected.clone();
        }
        let summary = Summary { protocol: Protocol::Tcp, code: 0, grpc_status: None, flags };
        let series = self.families.connections.find(&Labels { pair: Arc::clone(&self.pair), summary });
        let connected = Connected::new(series, self.worker);
        known.push((flags, connected.clone()));
        connected
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{
        Families,
        series::{SERIES_LIMIT, overflow},
    };

    fn pair(service: &str) -> Arc<Pair> {
        let mut labels = overflow(Protocol::Http);
        Arc::make_mut(&mut labels.pair).service = Arc::from(service);
        labels.pair
    }

    fn summary(code: u16) -> Summary {
        Summary { protocol: Protocol::Http, code, grpc_status: None, flags: Flags::NONE }
    }

    #[test]
    fn workers_share_a_series() {
        let family = Arc::new(Families::new(2));
        for worker in 0..2 {
            let recorder = Recorder::new(Arc::clone(&family), worker, pair("a"));
            recorder.record(summary(200), Duration::from_micros(500));
            recorder.record(summary(200), Duration::from_millis(7));
        }
        let series: Vec<_> = family.requests.series().collect();
        assert_eq!(series.len(), 1);
        let (buckets, sum) = series[0].totals();
        assert_eq!((buckets[0], buckets[3], buckets.iter().sum::<u64>(), sum), (2, 2, 4, 15_000));
    }

    #[test]
    fn bounds_are_inclusive() {
        let family = Arc::new(Families::new(1));
        let recorder = Recorder::new(Arc::clone(&family), 0, pair("a"));
        recorder.record(summary(200), Duration::from_millis(1));
        recorder.record(summary(200), Duration::from_micros(1001));
        recorder.record(summary(200), Duration::from_secs(7200));
        let (buckets, _) = family.requests.series().next().expect("one series").totals();
        assert_eq!((buckets[1], buckets[2], buckets[BUCKETS - 1]), (1, 1, 1));
    }

    #[test]
    fn what_exceeds_the_limit_is_counted_together() {
        let family = Arc::new(Families::new(1));
        for service in 0..SERIES_LIMIT + 5 {
            let recorder = Recorder::new(Arc::clone(&family), 0, pair(&service.to_string()));
            recorder.record(summary(200), Duration::ZERO);
        }
        assert_eq!(family.requests.series().count(), SERIES_LIMIT + 1);
        let last = family.requests.series().last().expect("series");
        assert_eq!(&*last.labels.pair.service, "overflow");
        assert_eq!(last.totals().0.iter().sum::<u64>(), 5);
    }
}
