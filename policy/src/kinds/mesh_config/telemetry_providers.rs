//! `extensionProviders` of telemetry: where spans and lines of the access log go, and which of them counts where no Telemetry names
//! one (`defaultProviders`).

use std::{sync::Arc, time::Duration};

use certs::id::ServiceName;
use http::{HeaderName, HeaderValue};

use super::{LogFile, LogFormat, providers::decode_service};
use crate::{
    codes,
    decode::{At, Fields},
    hosts,
    kinds::telemetry,
    tree::Value,
};

/// Where something that is observed goes.
#[derive(Debug, Clone, PartialEq)]
pub struct TelemetryProvider {
    /// What Telemetries call it.
    pub name: Arc<str>,
    /// Where it stands in the list.
    pub index: usize,
    /// What it takes.
    pub kind: TelemetryKind,
}

/// What a provider of telemetry takes.
#[derive(Debug, Clone, PartialEq)]
pub enum TelemetryKind {
    /// `opentelemetry`: spans.
    Spans(SpanCollector),
    /// `envoyOtelAls`: lines of the access log.
    LogCollector(LogCollector),
    /// `envoyFileAccessLog`: lines of the access log, on a stream of the process.
    LogStream(LogFile, LineFormat),
    /// `prometheus`: every node offers its metrics.
    Prometheus,
}

/// `opentelemetry`.
#[derive(Debug, Clone, PartialEq)]
pub struct SpanCollector {
    /// Who takes them.
    pub to: Collector,
    /// Bytes of a path in `http.url` at most. 256.
    pub max_path: usize,
    /// `resourceDetectors.environment`: spans also say what `OTEL_RESOURCE_ATTRIBUTES` of the node's environment says. False.
    pub reads_environment: bool,
}

/// `envoyOtelAls`.
#[derive(Debug, Clone, PartialEq)]
pub struct LogCollector {
    /// Who takes them, by gRPC.
    pub to: Collector,
    /// `log_name` of the resource; `otel_envoy_accesslog`.
    pub name: String,
    /// The text is the body, the labels are attributes.
    pub format: LineFormat,
}

/// Who takes telemetry by OTLP.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Collector {
    /// Where it is.
    pub place: CollectorPlace,
    /// At which of its ports.
    pub port: u16,
    /// How it is spoken to.
    pub protocol: ExportProtocol,
    /// For its whole answer; later is a failure. 10 s.
    pub timeout: Duration,
    /// Headers of every export.
    pub headers: Vec<ExportHeader>,
}

/// Where a collector is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CollectorPlace {
    /// A service of the mesh: it is called as any other, by mutual TLS, in the name of the service that is observed.
    Service(ServiceName),
    /// A host outside the mesh, e.g. `localhost`: it is called by the node itself, in clear.
    Host(String),
}

/// How a collector is spoken to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ExportProtocol {
    /// OTLP/gRPC.
    Grpc,
    /// OTLP/HTTP with protobuf, to this path.
    Http(String),
}

/// A header of exports.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ExportHeader {
    /// Its name.
    pub name: HeaderName,
    /// What it says.
    pub value: HeaderSource,
}

/// Where a header's value comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HeaderSource {
    /// It stands in the document.
    Value(HeaderValue),
    /// A variable of the node's environment; without it the header is left out.
    Variable(String),
}

/// `logFormat`. What is not set is the mesh's own.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LineFormat {
    /// `text`.
    pub text: Option<LogFormat>,
    /// `labels`, by name: an object of JSON, or attributes.
    pub labels: Vec<(String, LogFormat)>,
}

/// `defaultProviders`: who takes what, where no Telemetry names anybody.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DefaultProviders {
    /// Of spans; the first counts.
    pub tracing: Vec<String>,
    /// Of the access log.
    pub access_logging: Vec<String>,
}

/// Istio's built-in provider of access logs: standard output.
pub const ENVOY: &str = "envoy";
/// Istio's built-in provider of metrics.
pub const PROMETHEUS: &str = "prometheus";

/// OTLP's own.
const TIMEOUT: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(60);
/// Envoy's.
const MAX_PATH: i64 = 256;
const LOG_NAME: &str = "otel_envoy_accesslog";
/// Where OTLP/HTTP takes spans.
const TRACES: &str = "/v1/traces";
/// Headers and labels of one provider at most.
const MAX_ENTRIES: usize = 64;
/// Headers of an export that are the exporter's own.
const OWN_HEADERS: [&str; 9] = [
    "host",
    "content-length",
    "content-type",
    "content-encoding",
    "transfer-encoding",
    "connection",
    "te",
    "traceparent",
    "user-agent",
];

/// Fields by which a provider says that it is one of these.
pub(super) const KINDS: [&str; 4] = ["opentelemetry", "envoyOtelAls", "envoyFileAccessLog", "prometheus"];

/// Reads the provider that the field of this name says; `None` if it is not valid.
pub(super) fn decode_kind(name: &'static str, at: &At<'_>) -> Option<TelemetryKind> {
    let fields = at.fields()?;
    let kind = match name {
        "opentelemetry" => decode_spans(&fields).map(TelemetryKind::Spans),
        "envoyOtelAls" => decode_log_collector(&fields).map(TelemetryKind::LogCollector),
        "envoyFileAccessLog" => decode_log_stream(&fields),
        _ => Some(TelemetryKind::Prometheus),
    };
    fields.finish();
    kind
}

fn decode_spans(fields: &Fields<'_>) -> Option<SpanCollector> {
    let place = fields.required("service").and_then(|at| decode_place(&at));
    let port = fields.required("port").and_then(|at| at.port());
    let http = fields.get("http").map(|at| decode_http(&at));
    let grpc = fields.get("grpc").map(|at| decode_grpc(&at));
    if let (Some(_), Some(_), Some(at)) = (&http, &grpc, fields.get("grpc")) {
        at.error(codes::EXCLUSIVE, "a collector is spoken to by http or by grpc");
    }
    refuse(fields, "dynatraceSampler");
    let max_path = fields.get("maxTagLength").and_then(|at| at.integer(1..=65_536)).unwrap_or(MAX_PATH);
    let reads_environment = fields.get("resourceDetectors").is_some_and(|at| decode_detectors(&at));
    let (protocol, timeout, headers) = match http.or(grpc) {
        Some(said) => said?,
        None => (ExportProtocol::Grpc, TIMEOUT, Vec::new()),
    };
    let to = Collector { place: place?, port: port?, protocol, timeout, headers };
    Some(SpanCollector { to, max_path: usize::try_from(max_path).ok()?, reads_environment })
}

type Spoken = (ExportProtocol, Duration, Vec<ExportHeader>);

fn decode_http(at: &At<'_>) -> Option<Spoken> {
    let fields = at.fields()?;
    let path = fields.filled("path").map_or(TRACES, |(path, at)| {
        if !path.starts_with('/') || http::uri::PathAndQuery::try_from(path).is_err() {
            at.error_hint(codes::URL, format!("`{path}` is not a path"), "write it like /v1/traces");
        }
        path
    });
    let (timeout, headers) = (decode_timeout(&fields), decode_headers(&fields, "headers"));
    fields.finish();
    Some((ExportProtocol::Http(path.to_owned()), timeout, headers))
}

fn decode_grpc(at: &At<'_>) -> Option<Spoken> {
    let fields = at.fields()?;
    let (timeout, headers) = (decode_timeout(&fields), decode_headers(&fields, "initialMetadata"));
    fields.finish();
    Some((ExportProtocol::Grpc, timeout, headers))
}

fn decode_timeout(fields: &Fields<'_>) -> Duration {
    let timeout = fields.get("timeout").and_then(|at| {
        let timeout = at.duration()?;
        if timeout > LONGEST {
            at.error(codes::RANGE, "an export may take 60s at most");
        }
        Some(timeout)
    });
    timeout.unwrap_or(TIMEOUT)
}

fn decode_headers(fields: &Fields<'_>, name: &'static str) -> Vec<ExportHeader> {
    let Some(list) = fields.get(name) else { return Vec::new() };
    list.limit(MAX_ENTRIES);
    list.items().iter().filter_map(decode_header).collect()
}

fn decode_header(at: &At<'_>) -> Option<ExportHeader> {
    let fields = at.fields()?;
    let name = fields.required("name").and_then(|name| {
        let text = name.filled_text()?;
        let header = HeaderName::from_bytes(text.to_ascii_lowercase().as_bytes()).ok();
        match header {
            Some(header) if OWN_HEADERS.contains(&header.as_str()) => {
                name.error(codes::HEADER, format!("`{header}` is not to be set"));
                None
            }
            Some(header) => Some(header),
            None => {
                name.error(codes::HEADER, format!("`{text}` is not the name of a header"));
                None
            }
        }
    });
    let value = fields.get("value").map(|at| {
        let value = HeaderValue::from_str(at.text()?).ok();
        if value.is_none() {
            at.error(codes::HEADER, "this is not the value of a header");
        }
        value.map(HeaderSource::Value)
    });
    let variable = fields.get("envName").map(|at| {
        let name = at.filled_text()?;
        telemetry::check_variable(&at, name);
        Some(HeaderSource::Variable(name.to_owned()))
    });
    fields.finish();
    let source = match (value, variable) {
        (Some(_), Some(_)) => {
            at.error(codes::EXCLUSIVE, "a header has a value or an envName");
            None
        }
        (None, None) => {
            at.error_hint(codes::MISSING, "the header says nothing", "set value or envName");
            None
        }
        (value, variable) => value.or(variable).flatten(),
    };
    Some(ExportHeader { name: name?, value: source? })
}

fn decode_detectors(at: &At<'_>) -> bool {
    let Some(fields) = at.fields() else { return false };
    let environment = fields.get("environment").map(|at| {
        if let Some(fields) = at.fields() {
            fields.finish();
        }
    });
    refuse(&fields, "dynatrace");
    fields.finish();
    environment.is_some()
}

/// Istio has it and this build does not, whatever it holds.
fn refuse(fields: &Fields<'_>, name: &'static str) {
    if let Some(at) = fields.get(name) {
        at.anything();
        at.unbuilt(format!("`{name}`"));
    }
}

fn decode_log_collector(fields: &Fields<'_>) -> Option<LogCollector> {
    let place = fields.required("service").and_then(|at| decode_place(&at));
    let port = fields.required("port").and_then(|at| at.port());
    let name = fields.filled("logName").map_or(LOG_NAME, |(name, _)| name).to_owned();
    let format = fields.get("logFormat").map(|at| LineFormat::decode(&at)).unwrap_or_default();
    refuse(fields, "filterStateObjectsToLog");
    let (protocol, timeout, headers) = (ExportProtocol::Grpc, TIMEOUT, Vec::new());
    Some(LogCollector { to: Collector { place: place?, port: port?, protocol, timeout, headers }, name, format })
}

fn decode_log_stream(fields: &Fields<'_>) -> Option<TelemetryKind> {
    let files = [("/dev/stdout", LogFile::Stdout), ("/dev/stderr", LogFile::Stderr)];
    let file = fields.get("path").map_or(Some(LogFile::Stdout), |path| path.word(&files));
    let format = fields.get("logFormat").map(|at| {
        let format = LineFormat::decode(&at);
        if format.text.is_some() && !format.labels.is_empty() {
            at.error(codes::EXCLUSIVE, "a line is text or an object of labels");
        }
        format
    });
    refuse(fields, "omitEmptyValues");
    Some(TelemetryKind::LogStream(file?, format.unwrap_or_default()))
}

impl LineFormat {
    fn decode(at: &At<'_>) -> Self {
        let Some(fields) = at.fields() else { return Self::default() };
        let text = fields.filled("text").and_then(|(_, at)| LogFormat::decode(&at));
        let labels = fields.get("labels").map(|labels| {
            labels.limit(MAX_ENTRIES);
            let entries = labels.entries().into_iter();
            let label = |(name, at): (&str, At<'_>)| {
                if matches!(at.node.value, Value::Map(_) | Value::List(_)) {
                    at.unbuilt("a label that is an object or a list");
                    return None;
                }
                Some((name.to_owned(), LogFormat::decode(&at)?))
            };
            entries.filter_map(label).collect()
        });
        fields.finish();
        Self { text, labels: labels.unwrap_or_default() }
    }
}

/// A service's full name, with its namespace before it or not; a host; or an address.
fn decode_place(at: &At<'_>) -> Option<CollectorPlace> {
    let text = at.filled_text()?;
    let host = text.split_once('/').map_or(text, |(_, host)| host);
    if hosts::service_of(host).is_some() || (text != host) {
        return decode_service(at).map(CollectorPlace::Service);
    }
    let is_address = text.parse::<std::net::IpAddr>().is_ok();
    if is_address || text == "localhost" || text.contains('.') && hosts::is_dns_name(text) {
        return Some(CollectorPlace::Host(text.to_owned()));
    }
    let hint = "write NAME.NAMESPACE.svc.cluster.local, or a host or address outside the mesh";
    at.error_hint(codes::HOST, format!("`{text}` is neither the full name of a service nor a host"), hint);
    None
}

impl DefaultProviders {
    /// Reads `defaultProviders`; every name must be one of `known`.
    pub(super) fn decode(at: &At<'_>, known: &[Arc<TelemetryProvider>]) -> Self {
        let Some(fields) = at.fields() else { return Self::default() };
        let names = |name: &'static str, fits: fn(&TelemetryKind) -> bool, built_in: &str| {
            let Some(list) = fields.get(name) else { return Vec::new() };
            let items = list.text_list();
            for (text, at) in &items {
                let found = known.iter().find(|provider| &*provider.name == *text);
                if *text != built_in && !found.is_some_and(|provider| fits(&provider.kind)) {
                    let message = format!("no extension provider that takes this is called `{text}`");
                    at.error_hint(codes::UNKNOWN_PROVIDER, message, "add it to extensionProviders");
                }
            }
            if name == "tracing" && items.len() > 1 {
                list.warn(codes::ONLY_FIRST, "spans go to one provider", "only the first counts");
            }
            items.iter().map(|(text, _)| (*text).to_owned()).collect()
        };
        let providers = Self {
            tracing: names("tracing", |kind| matches!(kind, TelemetryKind::Spans(_)), ""),
            access_logging: names("accessLogging", TelemetryKind::takes_log, ENVOY),
        };
        let _metrics = names("metrics", |kind| matches!(kind, TelemetryKind::Prometheus), PROMETHEUS);
        fields.finish();
        providers
    }
}

impl TelemetryKind {
    /// True if lines of the access log can go there.
    pub const fn takes_log(&self) -> bool {
        matches!(self, Self::LogCollector(_) | Self::LogStream(..))
    }

    /// The collector outside the node, if it has one.
    pub const fn collector(&self) -> Option<&Collector> {
        match self {
            Self::Spans(spans) => Some(&spans.to),
            Self::LogCollector(log) => Some(&log.to),
            Self::LogStream(..) | Self::Prometheus => None,
        }
    }

    /// The field of `extensionProviders` that says it.
    pub const fn field(&self) -> &'static str {
        match self {
            Self::Spans(_) => "opentelemetry",
            Self::LogCollector(_) => "envoyOtelAls",
            Self::LogStream(..) => "envoyFileAccessLog",
            Self::Prometheus => "prometheus",
        }
    }
}
