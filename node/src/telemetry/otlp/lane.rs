//! Lanes: what goes to one collector, gathered until it is worth an export, one export at a time.

use super::{
    Counters, Environment, Errand, Queued, Signal,
    messages::{
        ExportLogs, ExportTraces, KeyValue, LogRecord, Resource, ResourceLogs, ResourceSpans, Scope, ScopeLogs,
        ScopeSpans, Span,
    },
    of,
    send::{Client, Failed, Route, Through},
    spans,
    target::{self, Target},
};
use crate::{config::SpeakerName, tasks::Tasks, telemetry::observed::Own};
use bytes::Bytes;
use certs::id::ServiceName;
use policy::kinds::{Collector, CollectorPlace, LineFormat, TelemetryKind, TelemetryProvider};
use prost::Message as _;
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::sync::mpsc;

/// Items that make a lane worth an export at once.
const FULL: usize = 512;
/// Items of a lane that wait while an export is under way.
const LIMIT: usize = 2_048;
/// How long items wait for others to go with them.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);
/// Bytes of items in one message: collectors refuse messages of more than 4 MiB, gRPC's default, and all of such a one is lost.
const MESSAGE: usize = 3 << 20;
/// Looks in a row that find nothing to send to a provider before its connection is given up: five minutes.
const QUIET: u32 = 300;
/// Pauses before an export is tried again.
const PAUSES: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(2)];

/// Whom to, and in whose name where that matters.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    signal: Signal,
    /// `None` for the node's own collector.
    provider: Option<Arc<str>>,
    speaker: Option<SpeakerName>,
}

/// How items are gathered.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Batching {
    /// How long they wait for others.
    pub(super) delay: Duration,
    /// For an export with all its attempts; `None`: as long as each of them may take.
    pub(super) patience: Option<Duration>,
    /// Items that wait at most.
    pub(super) queue: usize,
    /// Items of one export at most.
    pub(super) most: usize,
    /// Items that are worth an export at once.
    pub(super) full: usize,
}

impl Default for Batching {
    fn default() -> Self {
        Self { delay: INTERVAL, patience: None, queue: LIMIT, most: usize::MAX, full: FULL }
    }
}

#[derive(Debug)]
struct Lane {
    batching: Batching,
    /// As policy named it when the lane began.
    provider: Option<Arc<TelemetryProvider>>,
    route: Route,
    /// What becomes one message each, the oldest first.
    batches: VecDeque<Batch>,
    /// `None` while an export is under way.
    client: Option<Client>,
    /// Looks in a row that found nothing to send.
    quiet: u32,
}

#[derive(Debug, Default)]
struct Batch {
    services: BTreeMap<ServiceName, Gathered>,
    count: usize,
    size: usize,
}

#[derive(Debug)]
struct Gathered {
    resource: Vec<KeyValue>,
    spans: Vec<Span>,
    records: Vec<LogRecord>,
}

/// All lanes.
pub(super) struct Lanes {
    node: String,
    environment: Arc<Environment>,
    pub(super) counters: Counters,
    waiting: Arc<AtomicUsize>,
    errands: mpsc::Sender<Errand>,
    tasks: Tasks,
    lanes: HashMap<Key, Lane>,
    /// Why an export failed last.
    pub(super) trouble: Option<String>,
}

/// An export that is over.
pub(super) struct Sent {
    key: Key,
    provider: Option<Arc<TelemetryProvider>>,
    client: Client,
    count: usize,
    size: usize,
    result: Result<u64, Failed>,
}

type Sending = Pin<Box<dyn Future<Output = Sent>>>;

impl Lanes {
    pub(super) fn new(
        (node, environment): (String, Arc<Environment>),
        (counters, waiting): (Counters, Arc<AtomicUsize>),
        (errands, tasks): (mpsc::Sender<Errand>, Tasks),
    ) -> Self {
        Self { node, environment, counters, waiting, errands, tasks, lanes: HashMap::new(), trouble: None }
    }

    /// How long spans for the node's own collector wait for others.
    pub(super) fn delay(&self) -> Duration {
        self.environment.batching.delay
    }

    /// Takes up what is told of a request.
    pub(super) fn add(&mut self, Queued { finished, size }: Queued) {
        if let Some((_, rule)) = &finished.observed.span
            && let Some(span) = spans::span(&finished, &self.node)
        {
            let own = &finished.observed.own;
            self.gather(Signal::Traces, rule.provider.as_ref(), own, span.encoded_len(), |gathered| {
                gathered.spans.push(span)
            });
        }
        let default = LineFormat::default();
        for provider in &finished.lines {
            let format = match &provider.kind {
                TelemetryKind::LogCollector(log) => &log.format,
                TelemetryKind::Spans(_) | TelemetryKind::LogStream(..) | TelemetryKind::Prometheus => &default,
            };
            let record = spans::record(&finished, format);
            let own = &finished.observed.own;
            self.gather(Signal::Logs, Some(provider), own, record.encoded_len(), |gathered| {
                gathered.records.push(record)
            });
        }
        // From here on the encoded form counts.
        self.waiting.fetch_sub(size, Relaxed);
    }

    fn gather(
        &mut self,
        signal: Signal,
        provider: Option<&Arc<TelemetryProvider>>,
        own: &Own,
        size: usize,
        put: impl FnOnce(&mut Gathered),
    ) {
        let through = |provider: &&Arc<TelemetryProvider>| {
            let place = provider.kind.collector().map(|collector| &collector.place);
            matches!(place, Some(CollectorPlace::Service(_)))
        };
        let speaker = provider.filter(through).map(|_| own.speaker.clone());
        let key = Key { signal, provider: provider.map(|provider| Arc::clone(&provider.name)), speaker };
        if self.lanes.get(&key).is_none_or(|lane| lane.provider.as_ref() != provider) {
            let Some(route) = self.route(provider, own) else {
                return of(&self.counters.failed, signal).add(1);
            };
            self.renew(key.clone(), provider.cloned(), route);
        }
        let (node, environment) = (&self.node, &self.environment);
        let Some(lane) = self.lanes.get_mut(&key).filter(|lane| lane.count() < lane.batching.queue) else {
            return of(&self.counters.full, signal).add(1);
        };
        let resource = || resource(own, provider, node, environment);
        let begin = || Gathered { resource: resource(), spans: Vec::new(), records: Vec::new() };
        let batch = lane.batch(size);
        put(batch.services.entry(own.speaker.service.clone()).or_insert_with(begin));
        batch.count += 1;
        batch.size += size;
        self.waiting.fetch_add(size, Relaxed);
    }

    /// What was gathered under another word of policy goes where the new one says.
    fn renew(&mut self, key: Key, provider: Option<Arc<TelemetryProvider>>, route: Route) {
        match self.lanes.get_mut(&key) {
            Some(lane) => {
                (lane.provider, lane.route) = (provider, route);
                lane.client = lane.client.take().map(|_| Client::default());
            }
            None => {
                let batching = if provider.is_none() { self.environment.batching } else { Batching::default() };
                let (batches, client) = (VecDeque::new(), Some(Client::default()));
                self.lanes.insert(key, Lane { batching, provider, route, batches, client, quiet: 0 });
            }
        }
    }

    fn route(&self, provider: Option<&Arc<TelemetryProvider>>, own: &Own) -> Option<Route> {
        let Some(provider) = provider else { return self.environment.traces.clone().map(Arc::new).map(Route::Direct) };
        let collector = provider.kind.collector()?;
        let variable = |name: &str| std::env::var(name).ok();
        if let Some(target) = Target::of(collector, variable) {
            return Some(Route::Direct(Arc::new(target)));
        }
        let Collector { place: CollectorPlace::Service(service), port, protocol, timeout, headers } = collector else {
            return None;
        };
        Some(Route::Mesh(Arc::new(Through {
            errands: self.errands.clone(),
            speaker: own.speaker.clone(),
            service: service.clone(),
            port: *port,
            path: target::path(protocol),
            headers: target::headers(headers, variable),
            timeout: *timeout,
        })))
    }

    /// The exports of lanes that are worth one at once.
    pub(super) fn full(&mut self) -> Vec<Sending> {
        self.due(|lane| lane.is_due(lane.batching.full))
    }

    /// The exports of all lanes in which something waits.
    pub(super) fn all(&mut self) -> Vec<Sending> {
        self.due(|lane| lane.is_due(1))
    }

    /// The same of the node's own collector.
    pub(super) fn own(&mut self) -> Vec<Sending> {
        self.due(|lane| lane.provider.is_none() && lane.is_due(1))
    }

    /// The same of providers. One to whom nothing went for long may be one that policy forgot.
    pub(super) fn providers(&mut self) -> Vec<Sending> {
        self.lanes.retain(|_, lane| {
            let quiet = lane.batches.is_empty() && lane.client.is_some() && lane.provider.is_some();
            lane.quiet = if quiet { lane.quiet + 1 } else { 0 };
            lane.quiet < QUIET
        });
        self.due(|lane| lane.provider.is_some() && lane.is_due(1))
    }

    fn due(&mut self, is_due: impl Fn(&Lane) -> bool) -> Vec<Sending> {
        let tasks = &self.tasks;
        let due = self.lanes.iter_mut().filter(|(_, lane)| is_due(lane));
        due.filter_map(|(key, lane)| lane.export(key.clone(), tasks.clone())).collect()
    }

    /// Takes back what an export used.
    pub(super) fn sent(&mut self, sent: Sent) {
        let Sent { key, provider, client, count, size, result } = sent;
        let (signal, count) = (key.signal, count as u64);
        match result {
            Ok(refused) => {
                of(&self.counters.refused, signal).add(refused.min(count));
                of(&self.counters.exported, signal).add(count.saturating_sub(refused));
                if refused > 0 {
                    self.trouble = Some("the collector refused some".to_owned());
                }
            }
            Err(failed) => {
                of(&self.counters.failed, signal).add(count);
                self.trouble = Some(failed.why);
            }
        }
        if let Some(lane) = self.lanes.get_mut(&key) {
            // A connection to where policy does not send any more is of no use.
            lane.client = Some(if lane.provider == provider { client } else { Client::default() });
        }
        self.waiting.fetch_sub(size, Relaxed);
    }
}

impl Lane {
    fn count(&self) -> usize {
        self.batches.iter().map(|batch| batch.count).sum()
    }

    /// Where an item of this size goes.
    fn batch(&mut self, size: usize) -> &mut Batch {
        let most = self.batching.most;
        if self.batches.back().is_none_or(|last| last.size + size > MESSAGE || last.count >= most) {
            self.batches.push_back(Batch::default());
        }
        let last = self.batches.len() - 1;
        &mut self.batches[last]
    }

    /// Whether so much waits, or as much as a message holds.
    fn is_due(&self, least: usize) -> bool {
        self.batches.len() > 1 || self.batches.front().is_some_and(|batch| batch.count >= least)
    }

    /// Sends the oldest batch, if none is under way.
    fn export(&mut self, key: Key, tasks: Tasks) -> Option<Sending> {
        let mut client = self.client.take()?;
        let Some(Batch { services, count, size }) = self.batches.pop_front() else {
            self.client = Some(client);
            return None;
        };
        let (signal, route, provider) = (key.signal, self.route.clone(), self.provider.clone());
        let message = encode(signal, services.into_values());
        let patience = self.batching.patience;
        Some(Box::pin(async move {
            let attempts = async {
                let mut result = client.send(&route, signal, &message, &tasks).await;
                for pause in PAUSES {
                    if !result.as_ref().is_err_and(|failed| failed.again) || tasks.is_stopping() {
                        break;
                    }
                    tokio::time::sleep(pause).await;
                    result = client.send(&route, signal, &message, &tasks).await;
                }
                result
            };
            let result = match patience {
                None => attempts.await,
                Some(patience) => {
                    let why = || format!("it took longer than {patience:?} (OTEL_BSP_EXPORT_TIMEOUT)");
                    let in_time = tokio::time::timeout(patience, attempts).await;
                    // What came halfway is of no use to the next one.
                    in_time.unwrap_or_else(|_| {
                        client = Client::default();
                        Err(Failed { again: false, why: why() })
                    })
                }
            };
            Sent { key, provider, client, count, size, result }
        }))
    }
}

fn encode(signal: Signal, services: impl Iterator<Item = Gathered>) -> Bytes {
    let scope = || Some(Scope { name: "skein".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() });
    match signal {
        Signal::Traces => {
            let of = |Gathered { resource: attributes, spans, .. }| ResourceSpans {
                resource: Some(Resource { attributes }),
                scope_spans: vec![ScopeSpans { scope: scope(), spans }],
            };
            ExportTraces { resource_spans: services.map(of).collect() }.encode_to_vec().into()
        }
        Signal::Logs => {
            let of = |Gathered { resource: attributes, records, .. }| ResourceLogs {
                resource: Some(Resource { attributes }),
                scope_logs: vec![ScopeLogs { scope: scope(), log_records: records }],
            };
            ExportLogs { resource_logs: services.map(of).collect() }.encode_to_vec().into()
        }
    }
}

/// The environment has a word in what goes to its own collector, and where the provider wants it.
fn resource(
    own: &Own,
    provider: Option<&Arc<TelemetryProvider>>,
    node: &str,
    environment: &Environment,
) -> Vec<KeyValue> {
    let mut attributes = spans::resource(&own.workload, node);
    let set = |attributes: &mut Vec<KeyValue>, key: &str, value: &str| {
        attributes.retain(|known| known.key != key);
        attributes.push(KeyValue::new(key, value));
    };
    let reads = match provider.map(|provider| &provider.kind) {
        None => true,
        Some(TelemetryKind::Spans(spans)) => spans.reads_environment,
        Some(TelemetryKind::LogCollector(log)) => {
            set(&mut attributes, "log_name", &log.name);
            false
        }
        Some(TelemetryKind::LogStream(..) | TelemetryKind::Prometheus) => false,
    };
    if reads {
        environment.resource.iter().for_each(|(key, value)| set(&mut attributes, key, value));
    }
    if let Some(name) = environment.service_name.as_ref().filter(|_| provider.is_none()) {
        set(&mut attributes, "service.name", name);
    }
    attributes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{
        Sinks,
        otlp::testing::{request, sinks},
    };

    /// Of a node with a collector of its own.
    fn lanes() -> (Lanes, Sinks) {
        let environment =
            Environment::read(|name| (name == "OTEL_EXPORTER_OTLP_ENDPOINT").then(|| "http://127.0.0.1:1".to_owned()));
        let (sinks, telemetry, tasks) = sinks(environment.unwrap());
        let (errands, _) = mpsc::channel(1);
        let about = ("web-1".to_owned(), telemetry.environment());
        (Lanes::new(about, (Counters::new(&telemetry), Arc::default()), (errands, tasks)), sinks)
    }

    #[test]
    fn no_message_is_larger_than_collectors_take() {
        let (mut lanes, sinks) = lanes();
        for _ in 0..400 {
            let mut finished = request(&sinks);
            let entry = &mut finished.observed.entry;
            for name in ["user-agent", "x-request-id"] {
                entry.request.insert(http::HeaderName::from_static(name), "x".repeat(8_000).parse().unwrap());
            }
            entry.request.insert("tracestate", "k=v,".repeat(2_000).parse().unwrap());
            lanes.waiting.fetch_add(1, Relaxed);
            lanes.add(Queued { finished, size: 1 });
        }
        let lane = lanes.lanes.values_mut().next().unwrap();
        assert_eq!(lane.count(), 400);
        let sizes: Vec<usize> = lane.batches.iter().map(|batch| batch.size).collect();
        assert!(lane.is_due(FULL) && sizes.len() > 2 && sizes.iter().all(|size| *size <= MESSAGE), "{sizes:?}");
        let messages = lane.batches.drain(..).map(|batch| encode(Signal::Traces, batch.services.into_values()));
        assert!(messages.map(|message| message.len()).all(|length| length < 4 << 20));
    }

    #[test]
    fn a_provider_that_is_quiet_for_a_moment_keeps_its_connection() {
        let (mut lanes, _sinks) = lanes();
        let kind = TelemetryKind::Prometheus;
        let provider = Arc::new(TelemetryProvider { name: "otel".into(), index: 0, kind });
        let key = Key { signal: Signal::Traces, provider: Some(provider.name.clone()), speaker: None };
        let route = lanes.environment.traces.clone().map(Arc::new).map(Route::Direct).unwrap();
        lanes.renew(key.clone(), Some(provider), route);
        for _ in 1..QUIET {
            assert!(lanes.providers().is_empty() && lanes.lanes.contains_key(&key));
        }
        lanes.providers();
        assert!(lanes.lanes.is_empty(), "policy may have forgotten it");
    }

    #[test]
    fn the_nodes_own_lane_keeps_to_the_batch_processors_bounds() {
        let (mut lanes, sinks) = lanes();
        let batching = Batching { queue: 5, most: 2, full: 2, ..Batching::default() };
        Arc::make_mut(&mut lanes.environment).batching = batching;
        for _ in 0..7 {
            lanes.waiting.fetch_add(1, Relaxed);
            lanes.add(Queued { finished: request(&sinks), size: 1 });
        }
        let lane = lanes.lanes.values().next().unwrap();
        assert_eq!(lane.batches.iter().map(|batch| batch.count).collect::<Vec<_>>(), [2, 2, 1]);
        assert_eq!(of(&lanes.counters.full, Signal::Traces).value(), 2, "what finds no room is counted");
        assert!(lanes.providers().is_empty());
        assert_eq!((lanes.full().len(), lanes.own().len()), (1, 0), "one export at a time");
    }
}
