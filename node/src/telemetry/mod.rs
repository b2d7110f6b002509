//! Metrics of requests by Istio's names and labels, Skein's own gauges beside them, and the access log.
//!
//! The data plane writes without locks into cells of its own worker; `render` sums them. A combination of labels is
//! looked up once per pair of workloads and result and kept in a [`Recorder`].

mod access_log;
mod connections;
mod flags;
mod labels;
mod own;
mod render;
mod requests;
mod series;

pub use access_log::{AccessLog, Entry, LogSide};
pub use connections::Connected;
pub use flags::Flags;
pub use labels::{Pair, Protocol, Reporter, Security, Summary, Workload};
pub use own::{Counter, Gauge, Kind, Sample};
pub use render::Format;
pub use requests::Recorder;

use std::sync::Arc;

/// Every metric of this process; clones share it.
#[derive(Debug, Clone)]
pub struct Telemetry {
    families: Arc<Families>,
    own: Arc<own::Registry>,
}

/// The series that data workers count in.
#[derive(Debug)]
struct Families {
    requests: series::Family<requests::Cells>,
    connections: series::Family<connections::Cells>,
}

impl Families {
    fn new(workers: usize) -> Self {
        Self {
            requests: series::Family::new(workers, Protocol::Http),
            connections: series::Family::new(workers, Protocol::Tcp),
        }
    }
}

impl Telemetry {
    /// For so many data workers.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        let telemetry = Self { families: Arc::new(Families::new(workers)), own: Arc::new(own::Registry::default()) };
        telemetry
            .gauge("istio_build", "Build of this proxy", &[("component", "proxy"), ("tag", env!("CARGO_PKG_VERSION"))])
            .set(1);
        telemetry
    }

    /// Where the worker of that index counts requests and connections between this pair.
    #[must_use]
    pub fn recorder(&self, worker: usize, pair: Arc<Pair>) -> Recorder {
        Recorder::new(Arc::clone(&self.families), worker, pair)
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

    /// The text of `/metrics`.
    #[must_use]
    pub fn render(&self, format: Format) -> String {
        render::render(&self.families, &self.own, format)
    }
}
