//! Metrics of requests by Istio's names and labels, Skein's own gauges beside them, the access log, and spans by OTLP.
//!
//! The data plane writes without locks into cells of its own worker; `render` sums them. A combination of labels is
//! looked up once per pair of workloads and result and kept in a [`Recorder`].

mod access_log;
mod connections;
mod flags;
mod labels;
mod observed;
mod otlp;
mod own;
mod redact;
mod render;
mod requests;
mod series;
mod tap;
pub mod trace;
mod traffic;

pub use access_log::{AccessLog, Entry, LogSide};
pub use connections::Connected;
pub use flags::Flags;
pub use labels::{Pair, Protocol, Reporter, Security, Shape, Summary, Workload};
pub use observed::{Finished, Observed, Own, Sinks};
pub use otlp::{Answer, Environment, Errand, Exporter, collect};
pub use own::{Counter, Gauge, Histogram, Kind, Sample};
pub use redact::Redaction;
pub use render::Format;
pub use requests::{BOUNDS, BUCKETS, Measures, Recorder};
pub(crate) use tap::statuses;
pub use tap::{Losses, MAX_RATE, Namespaces, Tapped, Tapping, Taps, Wanted};
pub use traffic::{Carried, Exchanged, PairConnections, PairTraffic, SLOT, SLOTS, quantile};

use crate::lock::lock;
use crate::{clock, tasks::Tasks};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

/// A version of HTTP as Envoy names it.
#[must_use]
pub fn protocol_name(version: http::Version) -> &'static str {
    match version {
        http::Version::HTTP_09 => "HTTP/0.9",
        http::Version::HTTP_10 => "HTTP/1.0",
        http::Version::HTTP_2 => "HTTP/2",
        http::Version::HTTP_3 => "HTTP/3",
        _ => "HTTP/1.1",
    }
}

/// How often what was counted is looked through: for what pages show, and for what is to be forgotten.
const SWEEP: Duration = Duration::from_secs(5);

/// Every metric of this process; clones share it.
#[derive(Debug, Clone)]
pub struct Telemetry {
    requests: Arc<requests::Family>,
    connections: Arc<connections::Family>,
    own: Arc<own::Registry>,
    traffic: Arc<Mutex<traffic::Traffic>>,
    environment: Arc<Environment>,
    taps: Taps,
    /// Who wants requests gathered, beside what documents say: the node's own collector, and taps.
    busy: Arc<AtomicUsize>,
}

impl Telemetry {
    /// For so many data workers.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        let requests = Arc::new(requests::Family::new(workers));
        let connections = Arc::new(connections::Family::new(workers));
        let busy = Arc::<AtomicUsize>::default();
        let taps = Taps::new(Arc::clone(&busy));
        let (own, traffic, environment) = Default::default();
        let telemetry = Self { requests, connections, own, traffic, environment, taps, busy };
        telemetry
            .gauge("istio_build", "Build of this proxy", &[("component", "proxy"), ("tag", env!("CARGO_PKG_VERSION"))])
            .set(1);
        telemetry.register();
        telemetry
    }

    /// What OpenTelemetry's variables say of this node.
    #[must_use]
    pub fn with_environment(self, environment: Environment) -> Self {
        if environment.takes_spans() {
            self.busy.fetch_add(1, Relaxed);
        }
        Self { environment: Arc::new(environment), ..self }
    }

    /// Who looks at requests as they end.
    #[must_use]
    pub fn taps(&self) -> &Taps {
        &self.taps
    }

    pub(crate) fn busy(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.busy)
    }

    pub(crate) fn environment(&self) -> Arc<Environment> {
        Arc::clone(&self.environment)
    }

    /// What is told of the series themselves.
    #[expect(clippy::cast_precision_loss, reason = "metrics are floating point numbers in Prometheus")]
    fn register(&self) {
        let both = |requests: f64, connections: f64| {
            let of = |family: &str, value| Sample { labels: vec![("family", family.to_owned())], value };
            vec![of("requests", requests), of("connections", connections)]
        };
        let (requests, connections) = (Arc::clone(&self.requests), Arc::clone(&self.connections));
        let length = move || both(requests.length() as f64, connections.length() as f64);
        let help = "Combinations of labels of the metrics of requests, and of connections of bytes";
        self.collect("skein_metric_series", help, Kind::Gauge, length);
        let (requests, connections) = (Arc::clone(&self.requests), Arc::clone(&self.connections));
        let overflowed = move || both(requests.overflowed().count() as f64, connections.overflowed().opened as f64);
        let help = "Requests and connections counted together because their combination of labels found no room";
        self.collect("skein_metric_series_overflowed_total", help, Kind::Counter, overflowed);
    }

    /// Looks through what is counted until the node stops.
    pub async fn run(self, tasks: Tasks) {
        let mut due = tokio::time::interval(SWEEP);
        loop {
            tokio::select! {
                _ = due.tick() => drop(self.exchanged()),
                () = tasks.stopping() => return,
            }
        }
    }

    /// What was asked of whom in the last quarter of an hour, up to now.
    #[must_use]
    pub fn exchanged(&self) -> Exchanged {
        let now = clock::uptime();
        let mut traffic = lock(&self.traffic);
        traffic.take(&self.requests, &self.connections, now);
        traffic.exchanged(now)
    }

    /// Where the worker of that index counts requests and connections between this pair.
    #[must_use]
    pub fn recorder(&self, worker: usize, pair: Arc<Pair>) -> Recorder {
        Recorder::new(Arc::clone(&self.requests), Arc::clone(&self.connections), worker, pair)
    }

    /// A gauge; the same name may be registered with several sets of labels.
    #[must_use]
    pub fn gauge(&self, name: &'static str, help: &'static str, labels: &[(&str, &str)]) -> Gauge {
        self.own.gauge(name, help, labels)
    }

    /// A counter; `name` ends in `_total`.
    #[must_use]
    pub fn counter(&self, name: &'static str, help: &'static str, labels: &[(&str, &str)]) -> Counter {
        self.own.counter(name, help, labels)
    }

    /// How much of something waits.
    #[expect(clippy::cast_precision_loss, reason = "metrics are floating point numbers in Prometheus")]
    pub(crate) fn waiting(&self, name: &'static str, help: &'static str, of: Arc<AtomicUsize>) {
        let sample = move || vec![Sample { labels: Vec::new(), value: of.load(Relaxed) as f64 }];
        self.collect(name, help, Kind::Gauge, sample);
    }

    /// Durations that `of` counts, in seconds; `name` ends in `_seconds`.
    pub fn histogram(&self, name: &'static str, help: &'static str, of: Histogram) {
        self.own.histogram(name, help, of);
    }

    /// A metric whose samples are asked for at each rendering.
    pub fn collect(
        &self,
        name: &'static str,
        help: &'static str,
        kind: Kind,
        samples: impl Fn() -> Vec<Sample> + Send + Sync + 'static,
    ) {
        self.own.collect(name, help, kind, Box::new(samples));
    }

    /// The text of `/metrics`, in pieces of which each is made when it is asked for.
    pub fn render(&self, format: Format) -> impl Iterator<Item = String> + Send + use<> {
        render::pieces(&self.requests, &self.connections, &self.own, format)
    }
}
