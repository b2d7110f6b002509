//! What is told of a request that arrives here: a line of the access log, a span. Nothing is gathered while nothing is told.

use super::{
    super::{
        context::Context,
        http::{self as body, RequestBody},
    },
    FORWARDED_PROTO, REQUEST_ID,
    caller::Caller,
};
use crate::{
    clock, config,
    snapshot::Snapshot,
    telemetry::{Entry, LogSide, Observed, Own, trace},
};
use certs::id::SpiffeId;
use http::{HeaderMap, Request, header::HOST};
use policy::compile::{LogRule, MetricRule, TraceRule};
use std::sync::Arc;

struct Rules {
    log: Option<Arc<[LogRule]>>,
    trace: Option<Arc<TraceRule>>,
    counted: Option<Arc<MetricRule>>,
}

/// Begins what is told of a request, if anything is to be told, and tells its trace on; gives how its metrics differ from Istio's, too.
pub(super) fn begin(
    context: &Context,
    caller: &Caller,
    request: &mut Request<RequestBody>,
) -> (Option<Box<Observed>>, Option<Arc<MetricRule>>) {
    let snapshot = context.current.read();
    if !snapshot.compiled.observed().any && !context.sinks.are_busy() {
        return (None, None);
    }
    let environment = context.sinks.exporter.environment();
    let Rules { log, trace, counted } = rules(context, caller, &snapshot);
    let rule = trace.filter(|rule| rule.provider.is_some() || environment.takes_spans());
    let span = rule.and_then(|rule| {
        let headers = request.headers_mut();
        if rule.by_request_id {
            headers.entry(REQUEST_ID).or_insert_with(|| context.request_id());
        }
        let open = trace::begin(headers, &rule, environment.percent(), || context.random())?;
        Some((open, rule))
    });
    let asks = counted.as_ref().is_some_and(|rule| rule.asks());
    if log.is_none() && span.is_none() && !asks && !context.sinks.taps.is_open() {
        return (None, counted);
    }
    let config = Arc::clone(snapshot.compiled.config());
    let (sinks, own) = (context.sinks.clone(), own(caller));
    let observed = Observed { sinks, entry: entry(caller, &snapshot, request), own, config, log, span };
    (Some(Box::new(observed)), counted)
}

fn entry(caller: &Caller, snapshot: &Snapshot, request: &Request<RequestBody>) -> Entry {
    let mut headers = request.headers().clone();
    let host = headers.remove(HOST).and_then(|host| host.to_str().ok().map(str::to_owned));
    let authority = host.or_else(|| request.uri().authority().map(ToString::to_string)).unwrap_or_default();
    // As the application is given them: the caller's word about itself is not to be read as ours.
    caller.tell(snapshot, &mut headers);
    body::join_cookies(&mut headers);
    let who = &caller.who;
    Entry {
        side: LogSide::Server,
        began: clock::wall_micros(),
        method: Some(request.method().clone()),
        path: request.uri().path_and_query().map_or("", |path| path.as_str()).to_owned(),
        version: request.version(),
        scheme: if headers.get(FORWARDED_PROTO).is_some_and(|proto| proto == "https") { "https" } else { "http" },
        authority,
        request: headers,
        response: HeaderMap::new(),
        cluster: Some(format!("inbound|{}||", who.port)),
        // Istio's name of the one route in front of an application.
        route: "default".to_owned(),
        upstream: None,
        local: who.destination.into(),
        remote: who.address.into(),
        peer: who.identity.as_ref().map(SpiffeId::uri),
        server_name: who.server_name.clone(),
        details: None,
        transport_failure: None,
        upstream_labels: None,
        received: 0,
        sent: 0,
        answered_after: None,
    }
}

/// Begins what is told of a connection of bytes, if anything is to be told.
pub(super) fn begin_connection(context: &Context, caller: &Caller) -> (Option<Box<Observed>>, Option<Arc<MetricRule>>) {
    let snapshot = context.current.read();
    let observed = snapshot.compiled.observed();
    if !(observed.logs || observed.metrics) {
        return (None, None);
    }
    let Rules { log, counted, .. } = rules(context, caller, &snapshot);
    if log.is_none() && !counted.as_ref().is_some_and(|rule| rule.asks()) {
        return (None, counted);
    }
    let who = &caller.who;
    let entry = Entry {
        cluster: Some(format!("inbound|{}||", who.port)),
        local: who.destination.into(),
        remote: who.address.into(),
        peer: who.identity.as_ref().map(SpiffeId::uri),
        server_name: who.server_name.clone(),
        ..Entry::of_connection(LogSide::Server, clock::wall_micros())
    };
    let config = Arc::clone(snapshot.compiled.config());
    let (sinks, own) = (context.sinks.clone(), own(caller));
    (Some(Box::new(Observed { sinks, entry, own, config, log, span: None })), counted)
}

/// What holds for the called service; for one that is not served here, what holds in the mesh.
fn rules(context: &Context, caller: &Caller, snapshot: &Snapshot) -> Rules {
    let (local, who) = (context.local.load(), &caller.who);
    match local.service(&who.service, who.instance.as_deref()) {
        Some(service) => caller.look(context, snapshot, &local, service, |rules| {
            let workload = &rules.workload;
            let (log, trace) = (workload.logs.server.clone(), workload.traces.server.clone());
            Rules { log, trace, counted: workload.counted.server.clone() }
        }),
        None => {
            let observed = snapshot.compiled.observed();
            Rules { log: observed.log.clone(), trace: observed.trace.clone(), counted: None }
        }
    }
}

fn own(caller: &Caller) -> Own {
    let who = &caller.who;
    let speaker = config::SpeakerName { service: who.service.clone(), instance: who.instance.clone() };
    Own { workload: Arc::clone(&caller.recorder.pair().destination), speaker }
}
