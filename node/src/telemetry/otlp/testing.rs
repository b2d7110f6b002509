//! Requests for tests of what is exported.

use super::{
    Environment,
    messages::{Any, KeyValue},
};
use crate::{
    config::SpeakerName,
    tasks::Tasks,
    telemetry::{
        Entry, Finished, Flags, LogSide, Observed, Own, Pair, Protocol, Reporter, Security, Sinks, Summary, Telemetry,
        Workload,
        trace::{Context, Open},
    },
};
use certs::id::{ServiceAccount, ServiceName, TrustDomain};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use policy::compile::TraceRule;
use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};
use tokio::sync::mpsc;

pub(in crate::telemetry::otlp) fn value(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        Any::Text(text) => Some(text.clone()),
    }
}

/// One that the server's side saw, with a span, and an exporter of its own.
pub(in crate::telemetry) fn finished() -> Finished {
    let telemetry = Telemetry::new(1);
    let (errands, _) = mpsc::channel(1);
    let tasks = Tasks::new();
    request(&Sinks::new(&telemetry, &tasks, "web-1", errands))
}

pub(in crate::telemetry) fn request(sinks: &Sinks) -> Finished {
    let header =
        |name: &'static str, value: &'static str| (HeaderName::from_static(name), HeaderValue::from_static(value));
    let labels = BTreeMap::from([("app".to_owned(), "reviews".to_owned())]);
    let service = ServiceName::new("default", "reviews").unwrap();
    let workload = Arc::new(Workload::of_service(
        &TrustDomain::new("prod.example").unwrap(),
        &service,
        &ServiceAccount::new("default", "reviews").unwrap(),
        &labels,
    ));
    let rule = TraceRule {
        provider: None,
        sampling_percent: None,
        reports: true,
        tags: Vec::new(),
        istio_tags: true,
        by_request_id: true,
        propagates: true,
    };
    let entry = Entry {
        method: Some(Method::GET),
        path: "/a?b=c".to_owned(),
        authority: "reviews".to_owned(),
        request: HeaderMap::from_iter([
            header("user-agent", "curl"),
            header("x-request-id", "7"),
            header("tracestate", "k=v"),
        ]),
        cluster: Some("inbound|9080||".to_owned()),
        upstream: Some("127.0.0.1:8080".parse().unwrap()),
        remote: "10.0.0.1".parse::<IpAddr>().unwrap().into(),
        ..Entry::of_connection(LogSide::Server, 1_700_000_000_123_456)
    };
    let pair = Pair {
        reporter: Reporter::Destination,
        source: Arc::new(Workload::unknown()),
        destination: Arc::clone(&workload),
        service: "reviews.default.svc.cluster.local".into(),
        service_name: "reviews".into(),
        service_namespace: "default".into(),
        security: Security::MutualTls,
    };
    let open = Open { context: Context { trace: 1, span: 2, sampled: true }, parent: 3 };
    let observed = Observed {
        sinks: sinks.clone(),
        entry,
        own: Own { workload, speaker: SpeakerName { service, instance: None } },
        config: Arc::default(),
        log: None,
        span: Some((open, Arc::new(rule))),
    };
    Finished {
        observed,
        summary: Summary { protocol: Protocol::Http, code: 200, grpc_status: None, flags: Flags::NONE },
        duration: Duration::from_millis(7),
        pair: Some(Arc::new(pair)),
        lines: Vec::new(),
    }
}

/// Sinks of a node with this environment.
pub(in crate::telemetry) fn sinks(environment: Environment) -> (Sinks, Telemetry, Tasks) {
    let telemetry = Telemetry::new(1).with_environment(environment);
    let tasks = Tasks::new();
    let (errands, _) = mpsc::channel(1);
    (Sinks::new(&telemetry, &tasks, "web-1", errands), telemetry, tasks)
}
