//! Skein's own gauges and counters, registered by whoever owns what they count.

use crate::lock::lock;
use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

/// A value that rises and falls.
#[derive(Debug, Clone, Default)]
pub struct Gauge(Arc<AtomicI64>);

impl Gauge {
    /// Replaces the value.
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Adds, or takes away.
    pub fn add(&self, change: i64) {
        self.0.fetch_add(change, Ordering::Relaxed);
    }

    /// The value.
    #[must_use]
    pub fn value(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A value that only rises.
#[derive(Debug, Clone, Default)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    /// Adds.
    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    /// The value.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper bounds of a histogram's buckets, seconds: from what a laptop needs to fold a push to what somebody waits for.
const BOUNDS: [f64; 12] = [0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// How long something took, by how often.
#[derive(Debug, Clone, Default)]
pub struct Histogram(Arc<Times>);

#[derive(Debug, Default)]
struct Times {
    /// The last is for what took longer than all bounds.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
}

impl Histogram {
    /// It took so long.
    pub fn observe(&self, took: Duration) {
        let bucket = BOUNDS.iter().position(|bound| took.as_secs_f64() <= *bound).unwrap_or(BOUNDS.len());
        self.0.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.0.micros.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    #[expect(clippy::cast_precision_loss, reason = "metrics are floating point numbers in Prometheus")]
    fn lines(&self) -> Vec<Line> {
        let mut below = 0;
        let mut lines: Vec<Line> = Vec::with_capacity(BOUNDS.len() + 3);
        for (place, bucket) in self.0.buckets.iter().enumerate() {
            below += bucket.load(Ordering::Relaxed);
            let bound = BOUNDS.get(place).map_or_else(|| "+Inf".to_owned(), ToString::to_string);
            lines.push(("_bucket", vec![("le".to_owned(), bound)], below as f64));
        }
        lines.push(("_sum", Vec::new(), self.0.micros.load(Ordering::Relaxed) as f64 / 1e6));
        lines.push(("_count", Vec::new(), below as f64));
        lines
    }
}

/// What a collected metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Rises and falls.
    Gauge,
    /// Only rises; the name ends in `_total`.
    Counter,
    /// Durations in seconds; the name ends in `_seconds`.
    Histogram,
}

/// One value of a collected metric.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Names and values.
    pub labels: Vec<(&'static str, String)>,
    /// The value.
    pub value: f64,
}

type Collect = Box<dyn Fn() -> Vec<Sample> + Send + Sync>;

enum Source {
    Gauge(Gauge),
    Counter(Counter),
    Histogram(Histogram),
    Collect(Collect),
}

struct Metric {
    help: &'static str,
    kind: Kind,
    sources: Vec<(Vec<(String, String)>, Source)>,
}

#[derive(Default)]
pub(super) struct Registry(Mutex<BTreeMap<&'static str, Metric>>);

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Registry").finish_non_exhaustive()
    }
}

/// A metric as it is shown.
pub(super) struct Shown {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) kind: Kind,
    pub(super) lines: Vec<Line>,
}

/// What follows the name, labels and value.
pub(super) type Line = (&'static str, Vec<(String, String)>, f64);

impl Registry {
    pub(super) fn gauge(&self, name: &'static str, help: &'static str, labels: &[(&str, &str)]) -> Gauge {
        let gauge = Gauge::default();
        self.add(name, help, Kind::Gauge, labels, Source::Gauge(gauge.clone()));
        gauge
    }

    pub(super) fn counter(&self, name: &'static str, help: &'static str, labels: &[(&str, &str)]) -> Counter {
        let counter = Counter::default();
        self.add(name, help, Kind::Counter, labels, Source::Counter(counter.clone()));
        counter
    }

    pub(super) fn histogram(&self, name: &'static str, help: &'static str, of: Histogram) {
        self.add(name, help, Kind::Histogram, &[], Source::Histogram(of));
    }

    pub(super) fn collect(&self, name: &'static str, help: &'static str, kind: Kind, collect: Collect) {
        self.add(name, help, kind, &[], Source::Collect(collect));
    }

    fn add(&self, name: &'static str, help: &'static str, kind: Kind, labels: &[(&str, &str)], source: Source) {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut metrics = lock(&self.0);
        let metric = metrics.entry(name).or_insert_with(|| Metric { help, kind, sources: Vec::new() });
        // Registered again (a listener came back): the newer one counts.
        metric.sources.retain(|(known, _)| *known != labels);
        metric.sources.push((labels, source));
    }

    /// All metrics by name.
    #[expect(clippy::cast_precision_loss, reason = "metrics are floating point numbers in Prometheus")]
    pub(super) fn shown(&self) -> Vec<Shown> {
        let metrics = lock(&self.0);
        let shown = metrics.iter().map(|(name, metric)| {
            let mut lines = Vec::new();
            for (labels, source) in &metric.sources {
                match source {
                    Source::Gauge(gauge) => lines.push(("", labels.clone(), gauge.value() as f64)),
                    Source::Counter(counter) => lines.push(("", labels.clone(), counter.value() as f64)),
                    Source::Histogram(histogram) => lines.extend(histogram.lines()),
                    Source::Collect(collect) => lines.extend(collect().into_iter().map(|sample| {
                        let labels = sample.labels.into_iter().map(|(name, value)| (name.to_owned(), value));
                        ("", labels.collect(), sample.value)
                    })),
                }
            }
            Shown { name, help: metric.help, kind: metric.kind, lines }
        });
        shown.collect()
    }
}
