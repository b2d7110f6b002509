//! One request, or connection of bytes, of which more is told than counts: a line of the access log, a span, what a tap shows. What is known of it is
//! gathered once; who tells of it looks when it is over.

use super::{
    AccessLog, Entry, Errand, Exporter, LogSide, Pair, Summary, Taps, Telemetry, Workload, otlp::LOGS_EXPORT,
    trace::Open,
};
use crate::{config::SpeakerName, tasks::Tasks};
use policy::{
    compile::{LogOutput, LogRule, TraceRule},
    kinds::{CollectorPlace, MeshConfig, TelemetryProvider},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::sync::mpsc;

/// Who tells of requests. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Sinks {
    /// Lines on the process's own streams.
    pub log: AccessLog,
    /// Spans and lines for collectors.
    pub exporter: Exporter,
    /// Who looks at requests as they end.
    pub taps: Taps,
    /// This node's name.
    node: Arc<str>,
    busy: Arc<AtomicUsize>,
}

impl Sinks {
    /// Those of a node.
    #[must_use]
    pub fn new(telemetry: &Telemetry, tasks: &Tasks, node: &str, errands: mpsc::Sender<Errand>) -> Self {
        Self {
            log: AccessLog::new(telemetry, tasks),
            exporter: Exporter::new(telemetry, tasks, node, errands),
            taps: telemetry.taps().clone(),
            node: Arc::from(node),
            busy: telemetry.busy(),
        }
    }

    /// True if requests are to be gathered whatever documents say.
    #[must_use]
    pub fn are_busy(&self) -> bool {
        self.busy.load(Relaxed) > 0
    }
}

/// See the module.
#[derive(Debug)]
pub struct Observed {
    /// Who tells of it.
    pub sinks: Sinks,
    /// What is known of it.
    pub entry: Entry,
    /// The service beside this node that sends it or gets it.
    pub own: Own,
    /// Says how the mesh's own lines look.
    pub config: Arc<MeshConfig>,
    /// It gets lines in the access log, as far as this wants them.
    pub log: Option<Arc<[LogRule]>>,
    /// It gets a span.
    pub span: Option<(Open, Arc<TraceRule>)>,
}

/// A service beside this node.
#[derive(Debug, Clone)]
pub struct Own {
    /// As metrics call it.
    pub workload: Arc<Workload>,
    /// As the configuration calls it.
    pub speaker: SpeakerName,
}

/// A request that is over.
#[derive(Debug)]
pub struct Finished {
    /// What is known of it.
    pub observed: Observed,
    /// How it ended.
    pub summary: Summary,
    /// From its begin to its end.
    pub duration: Duration,
    /// Between whom it was, if that came to be known.
    pub pair: Option<Arc<Pair>>,
    /// Collectors that get a line.
    pub lines: Vec<Arc<TelemetryProvider>>,
}

impl Observed {
    /// It is over.
    pub fn end(self, summary: Summary, duration: Duration, pair: Option<Arc<Pair>>) {
        if self.sinks.taps.is_open() {
            let (taps, node) = (&self.sinks.taps, &self.sinks.node);
            taps.show(node, &self.entry, &summary, duration, pair.as_deref());
        }
        let mut lines = Vec::new();
        for rule in self.log.iter().flat_map(|rules| &**rules) {
            if !self.entry.is_wanted(rule.filter.as_ref(), &summary, duration) {
                continue;
            }
            match &rule.output {
                LogOutput::Stream(file, format) => {
                    let line = self.entry.line(&self.config.access_log, format, &summary, duration);
                    self.sinks.log.write(*file, line);
                }
                // What a collector is told of its own exports would be told by the next one, without an end.
                LogOutput::Collector(provider) if self.is_told_to(provider) => {}
                LogOutput::Collector(provider) => lines.push(Arc::clone(provider)),
            }
        }
        if self.span.is_some() || !lines.is_empty() {
            let exporter = self.sinks.exporter.clone();
            exporter.take(Finished { observed: self, summary, duration, pair, lines });
        }
    }

    /// Whether it is itself an export of lines that came to the service in the mesh which is this collector.
    fn is_told_to(&self, provider: &TelemetryProvider) -> bool {
        let place = provider.kind.collector().map(|collector| &collector.place);
        let is_here = matches!(place, Some(CollectorPlace::Service(service)) if *service == self.own.speaker.service);
        is_here && self.entry.side == LogSide::Server && self.entry.path == LOGS_EXPORT
    }
}
