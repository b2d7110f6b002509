//! Counts, durations and sizes of requests.

use super::{
    Flags,
    connections::{self, Connected},
    labels::{Labels, Pair, Protocol, Shape, Summary},
    series::{self, add},
};
use crate::lock::lock;
use certs::codec::Millis;
use policy::compile::MetricRule;
use std::{
    sync::{
        Arc, Mutex,
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

    /// Adds what one worker counted.
    fn take(&mut self, buckets: &Buckets, sum: &AtomicU64) {
        for (total, bucket) in self.buckets.iter_mut().zip(buckets) {
            *total = total.wrapping_add(bucket.load(Ordering::Relaxed));
        }
        self.sum = self.sum.wrapping_add(sum.load(Ordering::Relaxed));
    }

    /// Adds others.
    pub(super) fn add(&mut self, other: &Self) {
        for (total, more) in self.buckets.iter_mut().zip(other.buckets) {
            *total = total.wrapping_add(more);
        }
        self.sum = self.sum.wrapping_add(other.sum);
    }

    /// What is more than before.
    fn since(&self, before: &Self) -> Self {
        let buckets = std::array::from_fn(|bucket| self.buckets[bucket].wrapping_sub(before.buckets[bucket]));
        Self { buckets, sum: self.sum.wrapping_sub(before.sum) }
    }
}

/// Counts of a histogram.
type Buckets = [AtomicU64; BUCKETS];

/// The bounds for whole numbers of thousandths, so that comparing needs no floating point.
const THOUSANDTHS: [u64; BOUNDS.len()] = thousandths();

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the bounds are small and positive")]
const fn thousandths() -> [u64; BOUNDS.len()] {
    let mut bounds = [0; BOUNDS.len()];
    let mut place = 0;
    while place < bounds.len() {
        bounds[place] = (BOUNDS[place] * 1_000.0) as u64;
        place += 1;
    }
    bounds
}

/// Where a number of thousandths counts. Most bodies are empty, and cost nothing.
fn bucket(thousandths: u64) -> usize {
    if thousandths == 0 { 0 } else { THOUSANDTHS.partition_point(|bound| *bound < thousandths) }
}

/// One worker's share of a series; on cache lines of its own. What every request touches stands together, first. Only that worker
/// writes.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub(super) struct Cells {
    /// Microseconds.
    duration_sum: AtomicU64,
    received_sum: AtomicU64,
    sent_sum: AtomicU64,
    asked: AtomicU64,
    answered: AtomicU64,
    durations: Buckets,
    received: Buckets,
    sent: Buckets,
}

impl Cells {
    /// Of what no metric is offered only durations are counted, of which pages tell.
    fn observe(&self, measures: &Measures, is_offered: bool) {
        let micros = u64::try_from(measures.duration.as_micros()).unwrap_or(u64::MAX);
        add(&self.duration_sum, micros);
        add(&self.durations[bucket(micros)], 1);
        if !is_offered {
            return;
        }
        add(&self.received_sum, measures.received);
        add(&self.sent_sum, measures.sent);
        add(&self.received[bucket(measures.received.saturating_mul(1_000))], 1);
        add(&self.sent[bucket(measures.sent.saturating_mul(1_000))], 1);
        if measures.messages != (0, 0) {
            add(&self.asked, measures.messages.0);
            add(&self.answered, measures.messages.1);
        }
    }
}

impl Cells {
    fn all(&self) -> impl Iterator<Item = &AtomicU64> {
        let sums = [&self.duration_sum, &self.received_sum, &self.sent_sum, &self.asked, &self.answered];
        sums.into_iter().chain(&self.durations).chain(&self.received).chain(&self.sent)
    }
}

impl series::Cells for Cells {
    type Sum = Counts;

    const METRICS: &'static [&'static str] = &[
        "istio_requests_total",
        "istio_request_duration_milliseconds",
        "istio_request_bytes",
        "istio_response_bytes",
        "istio_request_messages_total",
        "istio_response_messages_total",
    ];

    /// Every request has a duration.
    fn add_to(&self, sum: &mut Counts) {
        sum.take(&self.durations, &self.duration_sum);
    }

    fn take(&self, other: &Self) {
        self.all().zip(other.all()).for_each(|(own, other)| add(own, other.load(Ordering::Relaxed)));
    }
}

impl Series {
    fn counts(&self, of: impl Fn(&Cells) -> (&Buckets, &AtomicU64)) -> Counts {
        let mut counts = Counts::default();
        for cells in self.cells() {
            let (buckets, sum) = of(cells);
            counts.take(buckets, sum);
        }
        counts
    }

    /// Requests by duration; the sum is in microseconds.
    pub(super) fn durations(&self) -> Counts {
        self.sum()
    }

    /// Requests by bytes of their bodies.
    pub(super) fn received(&self) -> Counts {
        self.counts(|cells| (&cells.received, &cells.received_sum))
    }

    /// Requests by bytes of their responses' bodies.
    pub(super) fn sent(&self) -> Counts {
        self.counts(|cells| (&cells.sent, &cells.sent_sum))
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

/// What is counted in one way under one rule, and where.
type Known<Way, Cells> = (Way, Option<Arc<MetricRule>>, Cells);

/// Counts the requests and connections of one pair on one worker; remembers the series that it met.
#[derive(Debug)]
pub struct Recorder {
    family: Arc<Family>,
    connections: Arc<connections::Family>,
    worker: usize,
    pair: Arc<Pair>,
    /// Only its worker's requests take the lock, so it is always free.
    known: Mutex<Vec<Known<Summary, Arc<Series>>>>,
    /// The same of connections.
    opened: Mutex<Vec<Known<Flags, Connected>>>,
}

/// Series of one pair that a recorder remembers; policy that changes often would have it remember any number.
const KNOWN: usize = 256;

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

    /// One request ended so; its metrics differ from Istio's as the shape says.
    pub fn record(&self, summary: Summary, measures: &Measures, shape: Option<Shape>) {
        let labels = |shape| Labels { pair: Arc::clone(&self.pair), summary, shape };
        let is_offered = shape.as_ref().is_none_or(|shape| shape.rule.offers());
        // What every request may say differently is not remembered.
        if shape.as_ref().is_some_and(|shape| !shape.values.is_empty()) {
            return self.family.find(&labels(shape)).cell(self.worker).observe(measures, is_offered);
        }
        let mut known = lock(&self.known);
        let rule = shape.as_ref().map(|shape| &shape.rule);
        let position = match known.iter().position(|(seen, of, _)| *seen == summary && is_same(of.as_ref(), rule)) {
            Some(position) => {
                if self.family.is_past(&known[position].2) {
                    known[position].2 = self.family.find(&labels(shape));
                }
                position
            }
            None => {
                if known.len() >= KNOWN {
                    known.clear();
                }
                let rule = rule.cloned();
                known.push((summary, rule, self.family.find(&labels(shape))));
                known.len() - 1
            }
        };
        known[position].2.cell(self.worker).observe(measures, is_offered);
    }

    /// A connection of bytes that has these flags so far. It is counted by what is then said of it.
    #[must_use]
    pub fn connection(&self, flags: Flags, shape: Option<&Shape>) -> Connected {
        let summary = Summary { protocol: Protocol::Tcp, code: 0, grpc_status: None, flags };
        let labels = || Labels { pair: Arc::clone(&self.pair), summary, shape: shape.cloned() };
        let connected = || Connected::new(&self.connections, &labels(), self.worker);
        if shape.is_some_and(|shape| !shape.values.is_empty()) {
            return connected();
        }
        let rule = shape.map(|shape| &shape.rule);
        let mut opened = lock(&self.opened);
        let found = opened.iter_mut().find(|(seen, of, _)| *seen == flags && is_same(of.as_ref(), rule));
        if let Some((_, _, known)) = found {
            if known.is_past() {
                *known = connected();
            }
            return known.clone();
        }
        if opened.len() >= KNOWN {
            opened.clear();
        }
        let connected = connected();
        opened.push((flags, rule.cloned(), connected.clone()));
        connected
    }
}

fn is_same(one: Option<&Arc<MetricRule>>, other: Option<&Arc<MetricRule>>) -> bool {
    match (one, other) {
        (None, None) => true,
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (None, Some(_)) | (Some(_), None) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{
        Reporter,
        series::{IDLE, SERIES_LIMIT, overflow, testing::rule},
    };

    fn pair(service: &str) -> Arc<Pair> {
        let mut labels = overflow(Protocol::Http, Reporter::Source);
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
            recorder.record(summary(200), &took(Duration::from_micros(500)), None);
            recorder.record(summary(200), &Measures { received: 3, sent: 70, ..took(Duration::from_millis(7)) }, None);
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
        recorder.record(summary(200), &took(Duration::from_millis(1)), None);
        recorder.record(summary(200), &took(Duration::from_micros(1001)), None);
        recorder.record(summary(200), &took(Duration::from_secs(7200)), None);
        let counts = family.series()[0].durations();
        assert_eq!((counts.buckets[1], counts.buckets[2], counts.buckets[BUCKETS - 1]), (1, 1, 1));
    }

    #[test]
    fn what_exceeds_the_limit_is_counted_together() {
        let family = Arc::new(Family::new(1));
        for service in 0..SERIES_LIMIT + 5 {
            let mut pair = pair(&service.to_string());
            if service >= SERIES_LIMIT + 3 {
                Arc::make_mut(&mut pair).reporter = Reporter::Destination;
            }
            let recorder = Recorder::new(Arc::clone(&family), no_connections(), 0, pair);
            recorder.record(summary(200), &took(Duration::ZERO), None);
        }
        assert_eq!((family.length(), family.series().len()), (SERIES_LIMIT, SERIES_LIMIT + 2));
        let over = &family.series()[SERIES_LIMIT..];
        assert!(over.iter().all(|series| &*series.labels.pair.service == "overflow"));
        let counts: Vec<_> =
            over.iter().map(|series| (series.labels.pair.reporter, series.durations().count())).collect();
        assert_eq!(counts, [(Reporter::Source, 3), (Reporter::Destination, 2)], "sums by reporter stay right");
        assert_eq!(family.overflowed().count(), 5);
    }

    #[test]
    fn what_no_metric_tells_takes_no_room_and_is_not_in_the_overflow() {
        let (family, off) = (Arc::new(Family::new(1)), Shape { rule: rule("{disabled: true}"), values: Vec::new() });
        let count = |service: usize, shape: Option<&Shape>| {
            let recorder = Recorder::new(Arc::clone(&family), no_connections(), 0, pair(&service.to_string()));
            recorder.record(summary(200), &took(Duration::ZERO), shape.cloned());
        };
        (0..SERIES_LIMIT + 3).for_each(|service| count(service, Some(&off)));
        assert_eq!((family.length(), family.series().len()), (0, 0));
        let mut seen = 0;
        family.sweep(0, |_, counts| seen += counts.count());
        assert_eq!(seen, SERIES_LIMIT as u64 + 3, "pages tell of all");
        assert_eq!(family.overflowed().count(), 3, "they have so much room, too");
        (0..SERIES_LIMIT).for_each(|service| count(service, None));
        assert_eq!(family.length(), SERIES_LIMIT);
        count(SERIES_LIMIT, None);
        let over = family.series().into_iter().filter(|series| &*series.labels.pair.service == "overflow");
        assert_eq!(over.map(|series| series.durations().count()).collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn who_found_no_room_finds_it_once_others_are_forgotten() {
        let (family, connections) = (Arc::new(Family::new(1)), no_connections());
        let recorder = |name: &str| Recorder::new(Arc::clone(&family), Arc::clone(&connections), 0, pair(name));
        let count = |recorder: &Recorder| {
            recorder.record(summary(200), &took(Duration::ZERO), None);
            recorder.connection(Flags::NONE, None).opened();
        };
        (0..SERIES_LIMIT).for_each(|service| count(&recorder(&service.to_string())));
        let late = recorder("late");
        count(&late);
        let sweep = |now| {
            family.sweep(now, |_, _| {});
            connections.look(now, |_, _, _| {});
        };
        [0, IDLE, IDLE + 1].into_iter().for_each(sweep);
        assert_eq!((family.length(), connections.length()), (0, 0));
        count(&late);
        let of_late = |labels: &Labels| &*labels.pair.service == "late";
        assert_eq!(family.series().iter().filter(|series| of_late(&series.labels)).count(), 1);
        assert_eq!(connections.series().iter().filter(|series| of_late(&series.labels)).count(), 1);
        assert_eq!(
            (family.overflowed().count(), connections.overflowed().opened),
            (1, 1),
            "what was counted there stays"
        );
    }

    #[test]
    fn series_that_nobody_counts_are_forgotten_and_begin_anew() {
        let family = Arc::new(Family::new(1));
        let recorder = Recorder::new(Arc::clone(&family), no_connections(), 0, pair("a"));
        recorder.record(summary(200), &took(Duration::ZERO), None);
        let sweep = |now| {
            let mut fresh = 0;
            family.sweep(now, |_, counts| fresh += counts.count());
            (fresh, family.length())
        };
        assert_eq!(sweep(0), (1, 1));
        assert_eq!(sweep(IDLE - 1), (0, 1));
        assert_eq!(sweep(IDLE), (0, 1), "retired, and still there for a worker that is counting");
        assert_eq!(sweep(IDLE + 1), (0, 0));
        recorder.record(summary(200), &took(Duration::ZERO), None);
        assert_eq!(sweep(IDLE + 2), (1, 1), "it begins at zero, as Prometheus expects of a series that comes back");
        assert_eq!(family.series()[0].durations().count(), 1);
    }

    #[test]
    fn a_retired_series_that_is_used_again_stays() {
        let family = Arc::new(Family::new(1));
        let recorder = Recorder::new(Arc::clone(&family), no_connections(), 0, pair("a"));
        recorder.record(summary(200), &took(Duration::ZERO), None);
        let sweep = |now| family.sweep(now, |_, _| {});
        sweep(0);
        sweep(IDLE);
        recorder.record(summary(200), &took(Duration::ZERO), None);
        sweep(IDLE + 1);
        sweep(IDLE + 2);
        assert_eq!((family.length(), family.series()[0].durations().count()), (1, 2));
    }
}
