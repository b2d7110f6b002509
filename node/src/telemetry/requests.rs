//! Counts, durations and sizes of requests.

use super::{
    Flags,
    connections::{self, Connected},
    labels::{Labels, Pair, Protocol, Summary},
    series::{self, add},
};
use certs::codec::Millis;
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// One combination of labels.
pub(super) type Series = series::Series<Cells>;
/// All series.
pub(super) type Family = series::Family<Cells>;

/// Upper bounds of the buckets (Envoy's defaults): milliseconds of durations, bytes of sizes.
pub const BOUNDS: [f64; 19] = [
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
/// Buckets of a histogram: one for each bound, and one for what exceeds all.
pub const BUCKETS: usize = BOUNDS.len() + 1;

/// What is measured of one request.
#[derive(Debug, Clone, Copy, Default)]
pub struct Measures {
    /// From its head to the end of its response.
    pub duration: Duration,
    /// Bytes of the request's body.
    pub received: u64,
    /// Bytes of the response's body.
    pub sent: u64,
    /// gRPC messages of the request and of the response.
    pub messages: (u64, u64),
}

/// Counts by bucket, not summed up, and the sum of what was observed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Counts {
    pub(super) buckets: [u64; BUCKETS],
    pub(super) sum: u64,
}

impl Counts {
    /// How many were observed.
    pub(super) fn count(&self) -> u64 {
        self.buckets.iter().fold(0, |all, bucket| all.wrapping_add(*bucket))
    }

    /// What is more than before.
    fn since(&self, before: &Self) -> Self {
        let buckets = std::array::from_fn(|bucket| self.buckets[bucket].wrapping_sub(before.buckets[bucket]));
        Self { buckets, sum: self.sum.wrapping_sub(before.sum) }
    }
}

/// One worker's share of a histogram. Only that worker writes.
#[derive(Debug, Default)]
struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    sum: AtomicU64,
}

impl Histogram {
    /// `value` is compared with the bounds, `amount` is summed up.
    fn observe(&self, value: f64, amount: u64) {
        add(&self.buckets[BOUNDS.partition_point(|bound| *bound < value)], 1);
        add(&self.sum, amount);
    }

    fn add_to(&self, counts: &mut Counts) {
        for (total, bucket) in counts.buckets.iter_mut().zip(&self.buckets) {
            *total = total.wrapping_add(bucket.load(Ordering::Relaxed));
        }
        counts.sum = counts.sum.wrapping_add(self.sum.load(Ordering::Relaxed));
    }
}

/// One worker's share of a series; on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct Cells {
    /// Of microseconds.
    durations: Histogram,
    received: Histogram,
    sent: Histogram,
    asked: AtomicU64,
    answered: AtomicU64,
}

impl Cells {
    #[expect(clippy::cast_precision_loss, reason = "neither 285 years nor 9 PB are measured in one request")]
    fn observe(&self, measures: &Measures) {
        let micros = u64::try_from(measures.duration.as_micros()).unwrap_or(u64::MAX);
        self.durations.observe(micros as f64 / 1000.0, micros);
        self.received.observe(measures.received as f64, measures.received);
        self.sent.observe(measures.sent as f64, measures.sent);
        if measures.messages != (0, 0) {
            add(&self.asked, measures.messages.0);
            add(&self.answered, measures.messages.1);
        }
    }
}

impl series::Cells for Cells {
    type Sum = Counts;

    /// Every request has a duration.
    fn add_to(&self, sum: &mut Counts) {
        self.durations.add_to(sum);
    }
}

impl Series {
    fn counts(&self, of: impl Fn(&Cells) -> &Histogram) -> Counts {
        let mut counts = Counts::default();
        self.cells().for_each(|cells| of(cells).add_to(&mut counts));
        counts
    }

    /// Requests by duration; the sum is in microseconds.
    pub(super) fn durations(&self) -> Counts {
        self.sum()
    }

    /// Requests by bytes of their bodies.
    pub(super) fn received(&self) -> Counts {
        self.counts(|cells| &cells.received)
    }

    /// Requests by bytes of their responses' bodies.
    pub(super) fn sent(&self) -> Counts {
        self.counts(|cells| &cells.sent)
    }

    /// gRPC messages of requests and of responses.
    pub(super) fn messages(&self) -> (u64, u64) {
        let all = |of: fn(&Cells) -> &AtomicU64| {
            self.cells().fold(0_u64, |all, cells| all.wrapping_add(of(cells).load(Ordering::Relaxed)))
        };
        (all(|cells| &cells.asked), all(|cells| &cells.answered))
    }
}

impl Family {
    pub(super) fn new(workers: usize) -> Self {
        Self::of(Protocol::Http, workers)
    }

    /// Gives what each series counted since the last sweep, by duration, and forgets those that count no more.
    pub(super) fn sweep(&self, now: Millis, mut each: impl FnMut(&Labels, &Counts)) {
        self.look(now, |labels, before, counts| each(labels, &counts.since(before)));
    }
}

/// Counts the requests and connections of one pair on one worker; remembers the series that it met.
#[derive(Debug)]
pub struct Recorder {
    family: Arc<Family>,
    connections: Arc<connections::Family>,
    worker: usize,
    pair: Arc<Pair>,
    /// Only its worker's requests take the lock, so it is always free.
    known: Mutex<Vec<(Summary, Arc<Series>)>>,
    /// The same of connections.
    opened: Mutex<Vec<(Flags, Connected)>>,
}

impl Recorder {
    pub(super) fn new(
        family: Arc<Family>,
        connections: Arc<connections::Family>,
        worker: usize,
        pair: Arc<Pair>,
    ) -> Self {
        let worker = worker.min(family.workers - 1);
        Self { worker, family, connections, pair, known: Mutex::default(), opened: Mutex::default() }
    }

    /// Between whom.
    #[must_use]
    pub fn pair(&self) -> &Arc<Pair> {
        &self.pair
    }

    /// One request ended so.
    pub fn record(&self, summary: Summary, measures: &Measures) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let find = || self.family.find(&Labels { pair: Arc::clone(&self.pair), summary });
        let position = match known.iter().position(|(seen, _)| *seen == summary) {
            Some(position) => {
                if known[position].1.is_retired() {
                    known[position].1 = find();
                }
                position
            }
            None => {
                known.push((summary, find()));
                known.len() - 1
            }
        };
        known[position].1.cell(self.worker).observe(measures);
    }

    /// A connection of bytes that has these flags so far. It is counted by what is then said of it.
    #[must_use]
    pub fn connection(&self, flags: Flags) -> Connected {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, connected)) = opened.iter().find(|(seen, _)| *seen == flags) {
            return connected.clone();
        }
        let summary = Summary { protocol: Protocol::Tcp, code: 0, grpc_status: None, flags };
        let connected =
            Connected::new(&self.connections, &Labels { pair: Arc::clone(&self.pair), summary }, self.worker);
        opened.push((flags, connected.clone()));
        connected
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::series::{IDLE, SERIES_LIMIT, overflow};

    fn pair(service: &str) -> Arc<Pair> {
        let mut labels = overflow(Protocol::Http);
        Arc::make_mut(&mut labels.pair).service = Arc::from(service);
        labels.pair
    }

    fn summary(code: u16) -> Summary {
        Summary { protocol: Protocol::Http, code, grpc_status: None, flags: Flags::NONE }
    }

    fn no_connections() -> Arc<connections::Family> {
        Arc::new(connections::Family::new(1))
    }

    fn took(duration: Duration) -> Measures {
        Measures { duration, ..Measures::default() }
    }

    #[test]
    fn workers_share_a_series() {
        let family = Arc::new(Family::new(2));
        for worker in 0..2 {
            let recorder = Recorder::new(Arc::clone(&family), no_connections(), worker, pair("a"));
            recorder.record(summary(200), &took(Duration::from_micros(500)));
            recorder.record(summary(200), &Measures { received: 3, sent: 70, ..took(Duration::from_millis(7)) });
        }
        let series = family.series();
        assert_eq!(series.len(), 1);
        let durations = series[0].durations();
        assert_eq!((durations.buckets[0], durations.buckets[3], durations.count(), durations.sum), (2, 2, 4, 15_000));
        let (received, sent) = (series[0].received(), series[0].sent());
        assert_eq!((received.buckets[0], received.buckets[2], received.sum), (2, 2, 6));
        assert_eq!((sent.buckets[6], sent.sum), (2, 140));
    }

    #[test]
    fn bounds_are_inclusive() {
        let family = Arc::new(Family::new(1));
        let recorder = Recorder::new(Arc::clone(&family), no_connections(), 0, pair("a"));
        recorder.record(summary(200), &took(Duration::from_millis(1)));
        recorder.record(summary(200), &took(Duration::from_micros(1001)));
        recorder.record(summary(200), &took(Duration::from_secs(7200)));
        let counts = family.series()[0].durations();
        assert_eq!((counts.buckets[1], counts.buckets[2], counts.buckets[BUCKETS - 1]), (1, 1, 1));
    }

    #[test]
    fn what_exceeds_the_limit_is_counted_together() {
        let family = Arc::new(Family::new(1));
        for service in 0..SERIES_LIMIT + 5 {
            let recorder = Recorder::new(Arc::clone(&family), no_connections(), 0, pair(&service.to_string()));
            recorder.record(summary(200), &took(Duration::ZERO));
        }
        assert_eq!((family.length(), family.series().len()), (SERIES_LIMIT, SERIES_LIMIT + 1));
        let last = family.series().pop().expect("series");
        assert_eq!(&*last.labels.pair.service, "overflow");
        assert_eq!((last.durations().count(), family.overflowed().count()), (5, 5));
    }

    #[test]
    fn series_that_nobody_counts_are_forgotten_and_begin_anew() {
        let family = Arc::new(Family::new(1));
        let recorder = Recorder::new(Arc::clone(&family), no_connections(), 0, pair("a"));
        recorder.record(summary(200), &took(Duration::ZERO));
        let sweep = |now| {
            let mut fresh = 0;
            family.sweep(now, |_, counts| fresh += counts.count());
            (fresh, family.length())
        };
        assert_eq!(sweep(0), (1, 1));
        assert_eq!(sweep(IDLE - 1), (0, 1));
        assert_eq!(sweep(IDLE), (0, 1), "retired, and still there for a worker that is counting");
        assert_eq!(sweep(IDLE + 1), (0, 0));
        recorder.record(summary(200), &took(Duration::ZERO));
        assert_eq!(sweep(IDLE + 2), (1, 1), "it begins at zero, as Prometheus expects of a series that comes back");
        assert_eq!(family.series()[0].durations().count(), 1);
    }

    #[test]
    fn a_retired_series_that_is_used_again_stays() {
        let family = Arc::new(Family::new(1));
        let recorder = Recorder::new(Arc::clone(&family), no_connections(), 0, pair("a"));
        recorder.record(summary(200), &took(Duration::ZERO));
        let sweep = |now| family.sweep(now, |_, _| {});
        sweep(0);
        sweep(IDLE);
        recorder.record(summary(200), &took(Duration::ZERO));
        sweep(IDLE + 1);
        sweep(IDLE + 2);
        assert_eq!((family.length(), family.series()[0].durations().count()), (1, 2));
    }
}
