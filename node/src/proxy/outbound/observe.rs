//! What is told of a request that an application sends: a line of the access log, a span. Nothing is gathered while nothing is told.

use super::{Requests, Speaker, tcp};
use crate::{
    clock, config,
    proxy::context::{Context, is},
    snapshot::Snapshot,
    telemetry::{Entry, LogSide, Observed, Own, trace},
};
use arc_swap::ArcSwapOption;
use http::{HeaderMap, header::HOST, request::Parts};
use policy::compile::{self, Compiled, LogRule, MetricRule};
use std::sync::{Arc, Weak};

/// What the documents last said of a speaker.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Seen(ArcSwapOption<Known>);

#[derive(Debug)]
struct Known {
    /// Of which documents: the same ones say the same.
    compiled: Weak<Compiled>,
    workload: Arc<compile::Workload>,
}

impl Speaker {
    /// What the documents say of it.
    fn policy(&self, snapshot: &Snapshot) -> Arc<compile::Workload> {
        let seen = self.seen.0.load();
        if let Some(known) = &*seen
            && is(&known.compiled, &snapshot.compiled)
        {
            return known.workload.clone();
        }
        let (namespace, labels) = (self.service.namespace(), &self.source.labels);
        let workload = snapshot.compiled.workload(&snapshot.trust_domain, namespace, labels);
        let compiled = Arc::downgrade(&snapshot.compiled);
        self.seen.0.store(Some(Arc::new(Known { compiled, workload: workload.clone() })));
        workload
    }

    fn own(&self) -> Own {
        let speaker = config::SpeakerName { service: self.service.clone(), instance: self.instance.clone() };
        Own { workload: Arc::clone(&self.workload), speaker }
    }
}

/// Begins what is told of a connection of bytes, if anything is to be told.
pub(in crate::proxy) fn begin_connection(
    context: &Context,
    speaker: &Speaker,
    snapshot: &Snapshot,
    ends: tcp::Ends,
    server_name: Option<&str>,
) -> (Option<Box<Observed>>, Option<Arc<MetricRule>>) {
    let observed = snapshot.compiled.observed();
    if !(observed.logs || observed.metrics) {
        return (None, None);
    }
    let workload = speaker.policy(snapshot);
    let (log, counted) = (workload.logs.client.clone(), workload.counted.client.clone());
    if log.is_none() && !counted.as_ref().is_some_and(|rule| rule.asks()) {
        return (None, counted);
    }
    let entry = Entry {
        local: ends.local.into(),
        remote: ends.remote.into(),
        server_name: server_name.filter(|name| !name.is_empty()).map(str::to_owned),
        ..Entry::of_connection(LogSide::Client, clock::wall_micros())
    };
    let config = Arc::clone(snapshot.compiled.config());
    let (sinks, own) = (context.sinks.clone(), speaker.own());
    (Some(Box::new(Observed { sinks, entry, own, config, log, span: None })), counted)
}

/// Begins what is told of a request, if anything is to be told, and tells its trace on; gives how its metrics differ from Istio's, too.
/// Hop-by-hop headers are stripped already.
pub(super) fn begin(
    requests: &Requests<'_>,
    snapshot: &Snapshot,
    parts: &mut Parts,
) -> (Option<Box<Observed>>, Option<Arc<MetricRule>>) {
    let context = requests.context;
    if !snapshot.compiled.observed().any && !context.sinks.are_busy() {
        return (None, None);
    }
    let environment = context.sinks.exporter.environment();
    let workload = requests.speaker.policy(snapshot);
    let log = workload.logs.client.clone();
    let rule = workload.traces.client.as_ref().filter(|rule| rule.provider.is_some() || environment.takes_spans());
    let span = rule.and_then(|rule| {
        let open = trace::begin(&mut parts.headers, rule, environment.percent(), || context.random())?;
        Some((open, Arc::clone(rule)))
    });
    let counted = workload.counted.client.clone();
    let asks = counted.as_ref().is_some_and(|rule| rule.asks());
    if log.is_none() && span.is_none() && !asks && !context.sinks.taps.is_open() {
        return (None, counted);
    }
    (Some(Box::new(gather(requests, snapshot, parts, log, span))), counted)
}

/// How the metrics of a request differ from Istio's that the node makes itself, and what their labels and taps ask of it. No line and no
/// span tell of it: each export of those would be told by the next one, without an end.
pub(super) fn begin_own(
    requests: &Requests<'_>,
    snapshot: &Snapshot,
    parts: &Parts,
) -> (Option<Box<Observed>>, Option<Arc<MetricRule>>) {
    let (metrics, is_tapped) = (snapshot.compiled.observed().metrics, requests.context.sinks.taps.is_open());
    let counted = if metrics { requests.speaker.policy(snapshot).counted.client.clone() } else { None };
    let asks = counted.as_ref().is_some_and(|rule| rule.asks());
    let observed = (asks || is_tapped).then(|| Box::new(gather(requests, snapshot, parts, None, None)));
    (observed, counted)
}

fn gather(
    requests: &Requests<'_>,
    snapshot: &Snapshot,
    parts: &Parts,
    log: Option<Arc<[LogRule]>>,
    span: Option<(trace::Open, Arc<compile::TraceRule>)>,
) -> Observed {
    let mut headers = parts.headers.clone();
    let host = headers.remove(HOST).and_then(|host| host.to_str().ok().map(str::to_owned));
    let authority = parts.uri.authority().map(ToString::to_string).or(host).unwrap_or_default();
    let entry = Entry {
        side: LogSide::Client,
        began: clock::wall_micros(),
        method: Some(parts.method.clone()),
        path: parts.uri.path_and_query().map_or("", |path| path.as_str()).to_owned(),
        version: parts.version,
        scheme: requests.scheme(parts),
        authority,
        request: headers,
        response: HeaderMap::new(),
        cluster: None,
        route: String::new(),
        upstream: None,
        local: requests.local.into(),
        remote: requests.remote.into(),
        // An application is known by the port at which it speaks, not by a certificate.
        peer: None,
        server_name: requests.entrance.and_then(|entrance| entrance.server_name()).map(str::to_owned),
        details: None,
        transport_failure: None,
        upstream_labels: None,
        received: 0,
        sent: 0,
        answered_after: None,
    };
    let config = Arc::clone(snapshot.compiled.config());
    Observed { sinks: requests.context.sinks.clone(), entry, own: requests.speaker.own(), config, log, span }
}
