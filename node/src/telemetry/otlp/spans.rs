//! What is told of a request that is over: a span as Istio's proxies report it, or a record of the access log.

use super::messages::{AnyValue, KeyValue, LogRecord, Span, Status};
use crate::telemetry::{Finished, LogSide, Protocol, Workload, access_log::plain, protocol_name};
use http::HeaderMap;
use policy::{
    compile::TraceRule,
    kinds::{CustomTag, LineFormat, LogFormat, SpanCollector, TelemetryKind},
};
use std::time::Duration;

/// Kinds of spans.
const SERVER: i32 = 2;
const CLIENT: i32 = 3;
/// Status of a span.
const ERROR: i32 = 2;
/// W3C's flag, and that it is known whether the parent is another's.
const SAMPLED: u32 = 0x101;
/// The parent is another's.
const REMOTE: u32 = 0x200;
/// Bytes of a path at most, where the provider does not say.
const MAX_PATH: usize = 256;
/// Bytes of `tracestate` at most: as many as W3C's Trace Context wants passed on at least.
const MAX_STATE: usize = 512;
/// Bytes of another value at most.
const MAX_VALUE: usize = 8 * 1024;
/// gRPC statuses that a server is to blame for: UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS.
const SERVERS_FAULT: [u8; 6] = [2, 4, 12, 13, 14, 15];

/// The span, if the request has one. `node` is this node's name.
pub(super) fn span(finished: &Finished, node: &str) -> Option<Span> {
    let (open, rule) = finished.observed.span.as_ref()?;
    let (entry, summary) = (&finished.observed.entry, &finished.summary);
    let kind = match entry.side {
        LogSide::Client => CLIENT,
        LogSide::Server => SERVER,
    };
    let (start, end) = times(entry.began, finished.duration);
    let failed = match (summary.grpc_status, kind) {
        (Some(0), _) => false,
        (Some(status), SERVER) => SERVERS_FAULT.contains(&status),
        (Some(_), _) => true,
        (None, _) if summary.is_cut() || summary.lacks_status() => true,
        (None, SERVER) => summary.code == 0 || summary.code >= 500,
        (None, _) => summary.code == 0 || summary.code >= 400,
    };
    Some(Span {
        trace_id: open.context.trace.to_be_bytes().to_vec(),
        span_id: open.context.span.to_be_bytes().to_vec(),
        trace_state: trace_state(&entry.request),
        parent_span_id: if open.parent == 0 { Vec::new() } else { open.parent.to_be_bytes().to_vec() },
        name: name(finished),
        kind,
        start,
        end,
        attributes: attributes(finished, rule, node),
        status: failed.then(|| Status { message: String::new(), code: ERROR }),
        flags: if open.parent == 0 { SAMPLED } else { SAMPLED | REMOTE },
    })
}

/// A record of the access log in this form.
pub(super) fn record(finished: &Finished, format: &LineFormat) -> LogRecord {
    let (observed, summary, duration) = (&finished.observed, &finished.summary, finished.duration);
    let text = |format: &LogFormat| plain(&observed.entry, format, summary, duration);
    let body = match (&format.text, &observed.config.access_log.format) {
        (Some(format), _) | (None, Some(format)) => text(format),
        (None, None) => text(&LogFormat::default()),
    };
    let (start, _) = times(observed.entry.began, duration);
    let context = observed.span.as_ref().map(|(open, _)| open.context);
    LogRecord {
        time: start,
        body: Some(AnyValue::text(body.trim_end_matches('\n'))),
        attributes: format.labels.iter().map(|(name, format)| KeyValue::new(name, text(format))).collect(),
        flags: context.map_or(0, |_| 1),
        trace_id: context.map(|context| context.trace.to_be_bytes().to_vec()).unwrap_or_default(),
        span_id: context.map(|context| context.span.to_be_bytes().to_vec()).unwrap_or_default(),
        observed: start,
    }
}

/// What all spans and records of a service have in common.
pub(super) fn resource(workload: &Workload, node: &str) -> Vec<KeyValue> {
    vec![
        KeyValue::new("service.name", service_name(workload)),
        KeyValue::new("host.name", node),
        KeyValue::new("telemetry.sdk.language", "rust"),
        KeyValue::new("telemetry.sdk.name", "skein"),
        KeyValue::new("telemetry.sdk.version", env!("CARGO_PKG_VERSION")),
    ]
}

/// As Istio's default: the label `app`, and the namespace.
fn service_name(workload: &Workload) -> String {
    let app = if &*workload.app == "unknown" { &workload.canonical_service } else { &workload.app };
    format!("{app}.{}", workload.namespace)
}

/// As Istio's routes call their operations: `HOST:PORT/*`.
fn name(finished: &Finished) -> String {
    let entry = &finished.observed.entry;
    let mut cluster = entry.cluster.as_deref().unwrap_or_default().split('|').skip(1);
    let (port, host) = (cluster.next(), cluster.nth(1).filter(|host| !host.is_empty()));
    let service = finished.pair.as_ref().map(|pair| &*pair.service);
    match (host.or(service), port) {
        (Some(host), Some(port)) if entry.cluster.is_some() => format!("{host}:{port}/*"),
        // A name that callers make up would be any number of names.
        _ => entry.method.as_ref().map_or("connection", http::Method::as_str).to_owned(),
    }
}

fn attributes(finished: &Finished, rule: &TraceRule, node: &str) -> Vec<KeyValue> {
    let (entry, summary) = (&finished.observed.entry, &finished.summary);
    let mut tags = Tags(Vec::with_capacity(32));
    let max_path = rule.provider.as_ref().and_then(|provider| match &provider.kind {
        TelemetryKind::Spans(SpanCollector { max_path, .. }) => Some(*max_path),
        TelemetryKind::LogCollector(_) | TelemetryKind::LogStream(..) | TelemetryKind::Prometheus => None,
    });
    let header = |name: &str| lines(&entry.request, name);
    let scheme = if header("x-forwarded-proto") == "https" { "https" } else { "http" };
    tags.add("component", "proxy");
    tags.add("node_id", node);
    tags.add("http.url", format!("{scheme}://{}{}", entry.authority, cut(&entry.path, max_path.unwrap_or(MAX_PATH))));
    tags.add("http.method", entry.method.as_ref().map(http::Method::as_str).unwrap_or_default());
    tags.add("http.protocol", protocol_name(entry.version));
    tags.add("http.status_code", summary.code.to_string());
    tags.add("downstream_cluster", "-");
    tags.add("user_agent", header("user-agent"));
    tags.add("peer.address", entry.remote.ip.to_string());
    tags.add("guid:x-request-id", header("x-request-id"));
    tags.add("request_size", entry.received.to_string());
    tags.add("response_size", entry.sent.to_string());
    tags.add("response_flags", summary.flags.to_string());
    if let Some(cluster) = &entry.cluster {
        tags.add("upstream_cluster", cluster.as_str());
        tags.add("upstream_cluster.name", cluster.as_str());
    }
    if let Some(upstream) = entry.upstream {
        tags.add("upstream_address", upstream.to_string());
    }
    let mut server_failed = summary.code == 0 || summary.code >= 500;
    if summary.protocol == Protocol::Grpc {
        tags.add("grpc.path", cut(&entry.path, max_path.unwrap_or(MAX_PATH)));
        tags.add("grpc.authority", entry.authority.as_str());
        tags.add("grpc.content_type", header("content-type"));
        tags.add("grpc.timeout", header("grpc-timeout"));
        if let Some(status) = summary.grpc_status {
            tags.add("grpc.status_code", status.to_string());
            server_failed |= SERVERS_FAULT.contains(&status);
        }
    }
    if server_failed {
        tags.add("error", "true");
    }
    if rule.istio_tags {
        let own = &finished.observed.own.workload;
        tags.add("istio.canonical_service", &*own.canonical_service);
        tags.add("istio.canonical_revision", &*own.canonical_revision);
        tags.add("istio.mesh_id", &*own.cluster);
        tags.add("istio.cluster_id", &*own.cluster);
        tags.add("istio.namespace", &*own.namespace);
    }
    for (name, tag) in &rule.tags {
        let value = match tag {
            CustomTag::Literal(text) => text.clone(),
            CustomTag::Environment { name, default } => std::env::var(name).unwrap_or_else(|_| default.clone()),
            CustomTag::Header { name, default } => match entry.request.get(name) {
                Some(value) => String::from_utf8_lossy(value.as_bytes()).into_owned(),
                None => default.clone(),
            },
            CustomTag::Formatter(format) => plain(entry, format, summary, finished.duration),
        };
        tags.add(name, value);
    }
    tags.0
}

struct Tags(Vec<KeyValue>);

impl Tags {
    /// What is empty is left out.
    fn add(&mut self, name: &str, value: impl Into<String>) {
        let mut value = value.into();
        if value.len() > MAX_VALUE {
            value = cut(&value, MAX_VALUE).to_owned();
        }
        if !value.is_empty() {
            self.0.push(KeyValue::new(name, value));
        }
    }
}

/// The beginning, not within a character.
fn cut(text: &str, length: usize) -> &str {
    &text[..text.floor_char_boundary(length)]
}

fn lines(headers: &HeaderMap, name: &str) -> String {
    let mut all = headers.get_all(name).iter().map(|line| String::from_utf8_lossy(line.as_bytes()));
    let Some(first) = all.next() else { return String::new() };
    all.fold(first.into_owned(), |text, line| format!("{text},{line}"))
}

/// The entries of `tracestate` that find room, the latest first as they stand.
fn trace_state(headers: &HeaderMap) -> String {
    let mut all = lines(headers, "tracestate");
    while all.len() > MAX_STATE {
        let end = all.rfind(',').unwrap_or(0);
        all.truncate(end);
    }
    all
}

/// Nanoseconds of Unix time.
fn times(began: u64, duration: Duration) -> (u64, u64) {
    let start = began.saturating_mul(1_000);
    (start, start.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{
        otlp::testing::{finished, value},
        trace::{Context, Open},
    };

    #[test]
    fn a_span_says_what_istios_says() {
        let mut told = finished();
        let (_, rule) = told.observed.span.as_mut().unwrap();
        let format: LogFormat = "%REQ(:METHOD)% to %REQ(x-none)%".parse().unwrap();
        let header = |name: &'static str, default: &str| CustomTag::Header {
            name: http::HeaderName::from_static(name),
            default: default.to_owned(),
        };
        let tags = [
            ("a", CustomTag::Literal("b".into())),
            ("agent", header("user-agent", "")),
            ("none", header("x-none", "")),
            ("some", header("x-none", "default")),
            ("variable", CustomTag::Environment { name: "NO_SUCH_VARIABLE".into(), default: "c".into() }),
            ("format", CustomTag::Formatter(format)),
        ];
        let tags = tags.map(|(name, tag)| (name.to_owned(), tag)).to_vec();
        std::sync::Arc::make_mut(rule).tags = tags;
        let span = span(&told, "web-1").unwrap();
        assert_eq!((span.trace_id.len(), span.span_id.as_slice()), (16, &[0, 0, 0, 0, 0, 0, 0, 2][..]));
        assert_eq!((span.parent_span_id.len(), span.kind, span.flags), (8, SERVER, 0x301));
        assert_eq!(span.name, "reviews.default.svc.cluster.local:9080/*");
        assert_eq!((span.start, span.end - span.start), (1_700_000_000_123_456_000, 7_000_000));
        assert_eq!((span.status, span.trace_state.as_str()), (None, "k=v"));
        for (key, wanted) in [
            ("http.url", Some("http://reviews/a?b=c")),
            ("http.status_code", Some("200")),
            ("peer.address", Some("10.0.0.1")),
            ("guid:x-request-id", Some("7")),
            ("upstream_cluster", Some("inbound|9080||")),
            ("istio.canonical_service", Some("reviews")),
            ("istio.mesh_id", Some("prod.example")),
            ("error", None),
            ("a", Some("b")),
            ("agent", Some("curl")),
            ("none", None),
            ("some", Some("default")),
            ("variable", Some("c")),
            ("format", Some("GET to -")),
        ] {
            assert_eq!(value(&span.attributes, key).as_deref(), wanted, "{key}");
        }
    }

    #[test]
    fn failures_are_the_servers_or_the_callers() {
        let failed = |side, code, grpc_status| {
            let mut told = finished();
            (told.observed.entry.side, told.summary.code, told.summary.grpc_status) = (side, code, grpc_status);
            let span = span(&told, "web-1").unwrap();
            (span.status.is_some(), value(&span.attributes, "error").is_some())
        };
        assert_eq!(failed(LogSide::Server, 404, None), (false, false));
        assert_eq!(failed(LogSide::Client, 404, None), (true, false));
        assert_eq!(failed(LogSide::Server, 503, None), (true, true));
        assert_eq!(failed(LogSide::Client, 0, None), (true, true));
        assert_eq!(failed(LogSide::Server, 200, Some(5)), (false, false));
        assert!(failed(LogSide::Client, 200, Some(5)).0);
        assert!(failed(LogSide::Server, 200, Some(14)).0);
    }

    #[test]
    fn what_is_long_is_cut_and_what_no_service_is_called_is_no_name() {
        let mut told = finished();
        told.observed.entry.path = format!("/{}", "ä".repeat(10_000));
        (told.observed.entry.cluster, told.pair) = (None, None);
        let span = span(&told, "web-1").unwrap();
        let url = value(&span.attributes, "http.url").unwrap();
        assert!(url.len() <= "http://reviews".len() + MAX_PATH && span.name == "GET", "{url} {}", span.name);
        let state = |text: String| {
            trace_state(&HeaderMap::from_iter([(http::HeaderName::from_static("tracestate"), text.parse().unwrap())]))
        };
        assert_eq!((state("k=v".into()), state("k=".to_owned() + &"v".repeat(600))), ("k=v".into(), String::new()));
        let long = state("k=v,".repeat(200));
        assert!(long.len() <= MAX_STATE && long.ends_with("k=v"), "{long}");
        let root = Open { context: Context { trace: 1, span: 1, sampled: true }, parent: 0 };
        told.observed.span.as_mut().unwrap().0 = root;
        let span = super::span(&told, "web-1").unwrap();
        assert_eq!((span.parent_span_id.len(), span.flags), (0, 0x101));
    }

    #[test]
    fn a_record_has_a_body_and_attributes_and_its_trace() {
        let format = LineFormat {
            text: Some("%REQ(:PATH)%\n".parse().unwrap()),
            labels: vec![("code".to_owned(), "%RESPONSE_CODE%".parse().unwrap())],
        };
        let record = record(&finished(), &format);
        assert_eq!(record.body, Some(AnyValue::text("/a?b=c")));
        assert_eq!(value(&record.attributes, "code").as_deref(), Some("200"));
        assert_eq!((record.trace_id.len(), record.span_id.len(), record.flags), (16, 8, 1));
    }
}
