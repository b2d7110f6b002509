//! `extensionProviders`: services outside the proxy that have a word in it. Those that decide about requests are named by
//! AuthorizationPolicies of action CUSTOM; [`super::telemetry_providers`] are those that take what is observed.

use std::{collections::HashSet, sync::Arc, time::Duration};

use certs::id::ServiceName;
use http::{HeaderName, HeaderValue};

use super::telemetry_providers::{KINDS, TelemetryKind, TelemetryProvider, decode_kind};
use crate::{
    codes,
    decode::{At, Fields},
    hosts,
    kinds::TextPattern,
};

/// A service that decides about requests: `envoyExtAuthzHttp` or `envoyExtAuthzGrpc`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtensionProvider {
    /// What AuthorizationPolicies call it.
    pub name: Arc<str>,
    /// Where it stands in the list.
    pub index: usize,
    /// Who is asked: a service of the mesh.
    pub service: ServiceName,
    /// At which of its ports.
    pub port: u16,
    /// For its whole answer; later is an error. 10 min.
    pub timeout: Duration,
    /// Lets a request in where there is no answer. False.
    pub fail_open: bool,
    /// HTTP status of a refusal where there is no answer. 403.
    pub status_on_error: u16,
    /// What of the request's body it is told; nothing if absent.
    pub body: Option<BodyInCheck>,
    /// How it is asked.
    pub protocol: CheckProtocol,
}

/// `includeRequestBodyInCheck`: the request waits until so much of its body has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyInCheck {
    /// Bytes at most.
    pub max_bytes: usize,
    /// Of a longer body the beginning is told; otherwise it is refused with 413.
    pub allow_partial: bool,
    /// By gRPC as `raw_body`, which need not be UTF-8.
    pub as_bytes: bool,
}

/// How a provider is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckProtocol {
    /// By a copy of the request's head: 200 lets it in, 5xx is no answer, anything else is the refusal.
    Http(HttpCheck),
    /// By `envoy.service.auth.v3.Authorization/Check`.
    Grpc,
}

/// What goes to an HTTP provider, and what comes back. Headers are matched by names in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HttpCheck {
    /// Stands before the path; empty or beginning with `/`.
    pub path_prefix: String,
    /// Headers of the request that it is told, beside `Authorization`.
    pub request_headers: Vec<TextPattern>,
    /// Headers that it is told whatever the request says.
    pub additional_headers: Vec<(HeaderName, HeaderValue)>,
    /// Headers of its consent that replace those of the request.
    pub to_upstream_on_allow: Vec<TextPattern>,
    /// Headers of its refusal that the caller gets; all if empty.
    pub to_downstream_on_deny: Vec<TextPattern>,
    /// Headers of its consent that replace those of the response.
    pub to_downstream_on_allow: Vec<TextPattern>,
}

/// Providers at most.
const MAX_PROVIDERS: usize = 64;
/// Headers that a list names at most.
const MAX_HEADERS: usize = 64;
/// Bytes of a body that a provider can be told at most.
const MAX_BODY: i64 = 1_048_576;
/// Istio's.
const TIMEOUT: Duration = Duration::from_secs(600);
/// The longest: a day. More is as good as no limit.
const LONGEST: Duration = Duration::from_secs(24 * 3_600);
const FORBIDDEN: u16 = 403;

/// Providers of Istio's that nothing goes to here; spans and lines of logs go out by OTLP, which nearly all collectors take.
const OTHERS: [&str; 8] =
    ["zipkin", "lightstep", "datadog", "stackdriver", "opencensus", "skywalking", "envoyHttpAls", "envoyTcpAls"];

/// Headers of a check that are the proxy's own to set.
const OWN_HEADERS: [&str; 9] = [
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "upgrade",
    "x-forwarded-client-cert",
];

/// Those that decide about requests, and those that take telemetry.
pub(super) type Providers = (Vec<Arc<ExtensionProvider>>, Vec<Arc<TelemetryProvider>>);

/// Reads the list.
pub(super) fn decode(list: &At<'_>) -> Providers {
    let items = list.items();
    if items.len() > MAX_PROVIDERS {
        list.error(codes::RANGE, format!("at most {MAX_PROVIDERS} providers"));
    }
    let mut names = HashSet::new();
    let mut providers = Providers::default();
    for (index, at) in items.iter().enumerate() {
        let Some(provider) = Provider::decode(at, index) else { continue };
        let name = match &provider {
            Provider::Check(check) => &check.name,
            Provider::Telemetry(telemetry) => &telemetry.name,
        };
        if !names.insert(Arc::clone(name)) {
            at.error(codes::DUPLICATE, format!("another provider is called `{name}`"));
        }
        match provider {
            Provider::Check(check) => providers.0.push(Arc::new(check)),
            Provider::Telemetry(telemetry) => providers.1.push(Arc::new(telemetry)),
        }
    }
    providers
}

enum Provider {
    Check(ExtensionProvider),
    Telemetry(TelemetryProvider),
}

impl Provider {
    fn decode(at: &At<'_>, index: usize) -> Option<Self> {
        let fields = at.fields()?;
        let name: Option<Arc<str>> = fields.required("name").and_then(|name| name.filled_text().map(Arc::from));
        let http = fields.get("envoyExtAuthzHttp").map(|at| decode_http(&at));
        let grpc = fields.get("envoyExtAuthzGrpc").map(|at| decode_grpc(&at));
        for name in OTHERS {
            if let Some(at) = fields.get(name) {
                at.anything();
                at.unbuilt(format!("`{name}` (there are {})", KINDS.join(", ")));
            }
        }
        let told = KINDS.into_iter().filter_map(|kind| fields.get(kind).map(|at| decode_kind(kind, &at)));
        let mut told: Vec<Option<TelemetryKind>> = told.collect();
        let others = OTHERS.into_iter().filter(|name| fields.has(name)).count();
        match usize::from(http.is_some()) + usize::from(grpc.is_some()) + told.len() + others {
            0 => {
                let hint = format!("set envoyExtAuthzHttp, envoyExtAuthzGrpc, {}", KINDS.join(", "));
                at.error_hint(codes::MISSING, "the provider says nothing of what it is", hint);
            }
            1 => {}
            _ => at.error(codes::EXCLUSIVE, "a provider is one thing: only one of its fields may be set"),
        }
        fields.finish();
        if let Some(kind) = told.pop() {
            return Some(Self::Telemetry(TelemetryProvider { name: name?, index, kind: kind? }));
        }
        let (common, protocol) = http.or(grpc)??;
        let Common { service, port, timeout, fail_open, status_on_error, body } = common;
        let name = name?;
        let check =
            ExtensionProvider { name, index, service, port, timeout, fail_open, status_on_error, body, protocol };
        Some(Self::Check(check))
    }
}

/// What both ways of asking have.
struct Common {
    service: ServiceName,
    port: u16,
    timeout: Duration,
    fail_open: bool,
    status_on_error: u16,
    body: Option<BodyInCheck>,
}

fn decode_grpc(at: &At<'_>) -> Option<(Common, CheckProtocol)> {
    let fields = at.fields()?;
    let common = Common::decode(&fields);
    fields.finish();
    Some((common?, CheckProtocol::Grpc))
}

fn decode_http(at: &At<'_>) -> Option<(Common, CheckProtocol)> {
    let fields = at.fields()?;
    let common = Common::decode(&fields);
    let prefix = fields.filled("pathPrefix").map(|(prefix, at)| {
        let is_path = http::uri::PathAndQuery::try_from(prefix).is_ok_and(|path| path.query().is_none());
        if !prefix.starts_with('/') || !is_path {
            at.error_hint(codes::URL, format!("`{prefix}` is not the beginning of a path"), "write it like /check");
        }
        prefix.to_owned()
    });
    let patterns = |name| fields.get(name).map(|list| decode_patterns(&list)).unwrap_or_default();
    let mut request_headers = patterns("includeRequestHeadersInCheck");
    if let Some(old) = fields.get("includeHeadersInCheck") {
        old.warn(codes::DEPRECATED, "`includeHeadersInCheck` is deprecated", "write includeRequestHeadersInCheck");
        request_headers.extend(decode_patterns(&old));
    }
    let additional_headers =
        fields.get("includeAdditionalHeadersInCheck").map(|map| decode_headers(&map)).unwrap_or_default();
    let check = HttpCheck {
        path_prefix: prefix.unwrap_or_default(),
        request_headers,
        additional_headers,
        to_upstream_on_allow: patterns("headersToUpstreamOnAllow"),
        to_downstream_on_deny: patterns("headersToDownstreamOnDeny"),
        to_downstream_on_allow: patterns("headersToDownstreamOnAllow"),
    };
    fields.finish();
    Some((common?, CheckProtocol::Http(check)))
}

impl Common {
    fn decode(fields: &Fields<'_>) -> Option<Self> {
        let service = fields.required("service").and_then(|at| decode_service(&at));
        let port = fields.required("port").and_then(|at| at.port());
        let timeout = fields.get("timeout").and_then(|at| {
            let timeout = at.duration()?;
            if timeout > LONGEST {
                at.error(codes::RANGE, "timeout is at most 24h");
            }
            Some(timeout)
        });
        // Where requests arrive, their route is behind them.
        fields.ignored(&["clearRouteCache"]);
        let status = fields.get("statusOnError").and_then(|at| at.integer(400..=599));
        let boolean = |name| fields.get(name).and_then(|at| at.boolean()).unwrap_or(false);
        let common = Self {
            fail_open: boolean("failOpen"),
            status_on_error: status.and_then(|status| u16::try_from(status).ok()).unwrap_or(FORBIDDEN),
            timeout: timeout.unwrap_or(TIMEOUT),
            body: fields.get("includeRequestBodyInCheck").and_then(|at| BodyInCheck::decode(&at)),
            service: service?,
            port: port?,
        };
        Some(common)
    }
}

impl BodyInCheck {
    fn decode(at: &At<'_>) -> Option<Self> {
        let fields = at.fields()?;
        let boolean = |name| fields.get(name).and_then(|at| at.boolean()).unwrap_or(false);
        let max_bytes = fields.required("maxRequestBytes").and_then(|at| at.integer(1..=MAX_BODY));
        let (allow_partial, as_bytes) = (boolean("allowPartialMessage"), boolean("packAsBytes"));
        fields.finish();
        Some(Self { max_bytes: max_bytes.and_then(|bytes| usize::try_from(bytes).ok())?, allow_partial, as_bytes })
    }
}

/// `[NAMESPACE/]HOST`, where the host is a service's full name.
pub(super) fn decode_service(at: &At<'_>) -> Option<ServiceName> {
    let text = at.filled_text()?;
    let (namespace, host) = match text.split_once('/') {
        Some((namespace, host)) => (Some(namespace), host),
        None => (None, text),
    };
    let hint = "write NAME.NAMESPACE.svc.cluster.local";
    if hosts::service_of(host).is_none() && host.contains('.') && hosts::is_dns_name(host) {
        at.unbuilt(format!("a provider outside the mesh (`{host}` is no service's full name, {hint})"));
        return None;
    }
    let Some(service) = hosts::service_of(host) else {
        at.error_hint(codes::HOST, format!("`{text}` is not the full name of a service"), hint);
        return None;
    };
    if namespace.is_some_and(|namespace| namespace != service.namespace()) {
        at.error_hint(codes::HOST, format!("`{host}` is not in the namespace before it"), hint);
    }
    Some(service)
}

/// Names of headers: exact, `abc*` or `*abc`; case does not count.
fn decode_patterns(list: &At<'_>) -> Vec<TextPattern> {
    let items = list.text_list();
    if items.len() > MAX_HEADERS {
        list.error(codes::RANGE, format!("at most {MAX_HEADERS} headers"));
    }
    let read = |(text, at): &(&str, At<'_>)| {
        let name = text.strip_prefix('*').or_else(|| text.strip_suffix('*')).unwrap_or(text);
        if HeaderName::from_bytes(name.as_bytes()).is_err() || name.contains('*') {
            let message = format!("`{text}` is not the name of a header");
            at.error_hint(codes::HEADER, message, "write it whole, or with one `*` before or behind it");
            return None;
        }
        Some(TextPattern::new(text).lower_case())
    };
    items.iter().filter_map(read).collect()
}

fn decode_headers(at: &At<'_>) -> Vec<(HeaderName, HeaderValue)> {
    let entries = at.entries();
    if entries.len() > MAX_HEADERS {
        at.error(codes::RANGE, format!("at most {MAX_HEADERS} headers"));
    }
    let mut headers = Vec::new();
    for (name, value) in entries {
        let Some(text) = value.text() else { continue };
        let lower = name.to_ascii_lowercase();
        let read = HeaderName::from_bytes(lower.as_bytes()).ok().zip(HeaderValue::from_str(text).ok());
        match read {
            Some((name, _)) if OWN_HEADERS.contains(&name.as_str()) || name.as_str().starts_with("x-skein-") => {
                value.error(codes::HEADER, format!("`{name}` is not to be set"));
            }
            Some(header) => headers.push(header),
            None => {
                value.error(codes::HEADER, format!("`{name}` is not a header name, or its value is none of a header"));
            }
        }
    }
    headers
}
