//! `ReadinessProbe`: how a workload is asked whether it is ready.

use std::time::Duration;

use crate::{
    codes,
    decode::{At, Fields},
};

/// `probe` of a WorkloadGroup, with Istio's defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// After the start of the workload, before the first question.
    pub initial_delay: Duration,
    /// How long one answer may take; 1 s by default.
    pub timeout: Duration,
    /// From one question to the next; 10 s by default.
    pub period: Duration,
    /// Good answers in a row after which a failed workload is ready; 1 by default.
    pub success_threshold: u32,
    /// Bad answers in a row after which a ready workload has failed; 3 by default.
    pub failure_threshold: u32,
    /// What is asked.
    pub method: ProbeMethod,
}

/// What a probe asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeMethod {
    /// A request: 2xx and 3xx are good answers.
    Http {
        /// Begins with `/`.
        path: String,
        /// The workload's port.
        port: u16,
        /// Whom to ask; the workload's own address if none is given.
        host: Option<String>,
        /// With TLS, whoever answers.
        https: bool,
        /// Sent with the request; names may repeat.
        headers: Vec<(String, String)>,
    },
    /// A connection: it is good if it opens.
    Tcp {
        /// Whom to ask; the workload's own address if none is given.
        host: Option<String>,
        /// The workload's port.
        port: u16,
    },
    /// A command on the workload's machine: status 0 is good.
    Exec {
        /// The program and its arguments.
        command: Vec<String>,
    },
    /// A call of gRPC's health service: `SERVING` is good.
    Grpc {
        /// The workload's port.
        port: u16,
        /// The service that is asked about; empty means all.
        service: String,
    },
}

/// Why a probe names no host.
const NEAR: &str = "a node asks the applications beside it alone";
/// The names of [`ProbeMethod`]s.
const METHODS: [&str; 4] = ["httpGet", "tcpSocket", "exec", "grpc"];

impl Probe {
    pub(super) fn decode(at: &At<'_>) -> Option<Self> {
        let fields = at.fields()?;
        let seconds = |name, default| Duration::from_secs(number(&fields, name, default).into());
        let (initial_delay, timeout) = (seconds("initialDelaySeconds", 0), seconds("timeoutSeconds", 1));
        let period = seconds("periodSeconds", 10);
        let success_threshold = number(&fields, "successThreshold", 1);
        let failure_threshold = number(&fields, "failureThreshold", 3);
        let method = ProbeMethod::decode(&fields);
        fields.not_supported_because(&["exec"], "no document runs commands on machines");
        fields.finish();
        Some(Self { initial_delay, timeout, period, success_threshold, failure_threshold, method: method? })
    }
}

/// A whole number; 0 is the default.
fn number(fields: &Fields<'_>, name: &'static str, default: u32) -> u32 {
    let Some(at) = fields.get(name) else { return default };
    let Some(number) = at.integer(i32::MIN.into()..=i32::MAX.into()) else { return default };
    if number < 0 {
        at.error_as_istio(codes::RANGE, format!("{name} must be non-negative"), "");
    }
    u32::try_from(number).ok().filter(|number| *number != 0).unwrap_or(default)
}

impl ProbeMethod {
    fn decode(fields: &Fields<'_>) -> Option<Self> {
        let [http, tcp, exec, grpc] = METHODS.map(|name| fields.get(name));
        if METHODS.iter().filter(|name| fields.has(name)).count() > 1 {
            fields.at.error(codes::EXCLUSIVE, "only one of httpGet, tcpSocket, exec and grpc may be set");
        }
        if let Some(http) = http {
            return decode_http(&http);
        }
        if let Some(tcp) = tcp {
            return decode_tcp(&tcp);
        }
        if let Some(exec) = exec {
            return decode_exec(&exec);
        }
        if let Some(grpc) = grpc {
            return decode_grpc(&grpc);
        }
        fields.at.error_hint(codes::MISSING, "a probe asks something", format!("one of {}", METHODS.join(", ")));
        None
    }
}

fn text(fields: &Fields<'_>, name: &'static str) -> Option<String> {
    fields.filled(name).map(|(text, _)| text.to_owned())
}

fn port(fields: &Fields<'_>) -> Option<u16> {
    fields.required("port").and_then(|port| port.port())
}

fn decode_http(at: &At<'_>) -> Option<ProbeMethod> {
    let fields = at.fields()?;
    let path = fields.filled("path").map_or("/", |(path, at)| {
        if !path.starts_with('/') {
            at.error_hint(codes::WORD, format!("`{path}` is not a path"), "a path begins with /");
        }
        path
    });
    let port = port(&fields);
    let host = text(&fields, "host");
    let scheme = fields.filled("scheme").and_then(|(_, at)| at.word(&[("HTTP", false), ("HTTPS", true)]));
    let list = fields.get("httpHeaders");
    let headers = list.as_ref().map(At::items).unwrap_or_default();
    let headers = headers.iter().filter_map(decode_header).collect();
    fields.not_supported_because(&["host"], NEAR);
    fields.not_supported(&["httpHeaders"]);
    if scheme == Some(true)
        && let Some(at) = fields.get("scheme")
    {
        at.unbuilt("`scheme: HTTPS`");
    }
    fields.finish();
    Some(ProbeMethod::Http { path: path.to_owned(), port: port?, host, https: scheme.unwrap_or(false), headers })
}

fn decode_header(at: &At<'_>) -> Option<(String, String)> {
    let fields = at.fields()?;
    let name = fields.filled("name");
    match &name {
        None => at.error_as_istio(codes::HEADER, "header name cannot be empty", ""),
        Some((name, at)) if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') => {
            let message = format!("header name {name} is not a valid header name");
            at.error_as_istio(codes::HEADER, message, "letters, digits and -");
        }
        Some(_) => {}
    }
    let value = fields.filled("value");
    if let Some((value, at)) = &value
        && http::HeaderValue::from_str(value).is_err()
    {
        at.error(codes::HEADER, "a header's value has no control characters");
    }
    fields.finish();
    Some((name?.0.to_owned(), value.map_or("", |(value, _)| value).to_owned()))
}

fn decode_tcp(at: &At<'_>) -> Option<ProbeMethod> {
    let fields = at.fields()?;
    let (host, port) = (text(&fields, "host"), port(&fields));
    fields.not_supported_because(&["host"], NEAR);
    fields.finish();
    Some(ProbeMethod::Tcp { host, port: port? })
}

fn decode_exec(at: &At<'_>) -> Option<ProbeMethod> {
    let fields = at.fields()?;
    let list = fields.get("command");
    let items = list.as_ref().map(At::items).unwrap_or_default();
    if items.is_empty() {
        at.error_as_istio(codes::MISSING, "exec.command is required", "");
    }
    let command = items.iter().filter_map(|item| item.filled_text().map(str::to_owned)).collect();
    fields.finish();
    Some(ProbeMethod::Exec { command })
}

fn decode_grpc(at: &At<'_>) -> Option<ProbeMethod> {
    let fields = at.fields()?;
    let (port, service) = (port(&fields), text(&fields, "service").unwrap_or_default());
    fields.finish();
    Some(ProbeMethod::Grpc { port: port?, service })
}
