//! Skein's own gauges and counters, registered by whoever owns what they count.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
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

/// What a collected metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Rises and falls.
    Gauge,
    /// Only rises; the name ends in `_total`.
    Counter,
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
    /// Labels and value.
    pub(super) values: Vec<(Vec<(String, String)>, f64)>,
}

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

    pub(super) fn collect(&self, name: &'static str, help: &'static str, kind: Kind, collect: Collect) {
        self.add(name, help, kind, &[], Source::Collect(collect));
    }

    fn add(&self, name: &'static str, help: &'static str, kind: Kind, labels: &[(&str, &str)], source: Source) {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut metrics = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let metric = metrics.entry(name).or_insert_with(|| Metric { help, kind, sources: Vec::new() });
        // Registered again (a listener came back): the newer one counts.
        metric.sources.retain(|(known, _)| *known != labels);
        metric.sources.push((labels, source));
    }

    /// All metrics by name.
    #[expect(clippy::cast_precision_loss, reason = "metrics are floating point numbers in Prometheus")]
    pub(super) fn shown(&self) -> Vec<Shown> {
        let metrics = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let shown = metrics.iter().map(|(name, metric)| {
            let mut values = Vec::new();
            for (labels, source) in &metric.sources {
                match source {
                    Source::Gauge(gauge) => values.push((labels.clone(), gauge.value() as f64)),
                    Source::Counter(counter) => values.push((labels.clone(), counter.value() as f64)),
                    Source::Collect(collect) => values.extend(collect().into_iter().map(|sample| {
                        let labels = sample.labels.into_iter().map(|(name, value)| (name.to_owned(), value));
                        (labels.collect(), sample.value)
                    })),
                }
            }
            Shown { name, help: metric.help, kind: metric.kind, values }
        });
        shown.collect()
    }
}
