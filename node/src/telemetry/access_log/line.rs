//! A line of the access log, as Envoy's format string or Istio's JSON has it. Values come from outside: nothing in them can begin a
//! line or reach a terminal.

use super::entry::Entry;
use crate::telemetry::{Shape, Summary, protocol_name};
use http::{HeaderName, HeaderValue};
use policy::compile::MetricRule;
use policy::kinds::{
    AccessLog, Facts, Filter, GrpcForm, HeaderOrPseudo, LineFormat, LogFact, LogFormat, LogPart, LogWord, Message,
    NumberFact, TextFact,
};
use serde_json::{Map, Value};
use std::{borrow::Cow, fmt::Write, sync::Arc, time::Duration};

const ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");
const SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");
/// Longest value of a line, bytes; what is longer is cut.
const VALUE_LIMIT: usize = 8 * 1024;
/// Longest value of a label of metrics.
const LABEL_LIMIT: usize = 256;

impl Entry {
    /// True if the filter wants a line; without a filter always.
    #[must_use]
    pub fn is_wanted(&self, filter: Option<&Filter>, summary: &Summary, duration: Duration) -> bool {
        filter.is_none_or(|filter| filter.is_match(&Ended { entry: self, summary, duration }))
    }

    /// The line, with its end; what `format` leaves open is as the mesh's own.
    #[must_use]
    pub fn line(&self, log: &AccessLog, format: &LineFormat, summary: &Summary, duration: Duration) -> String {
        let ended = Ended { entry: self, summary, duration };
        let mut line = match (&format.text, format.labels.as_slice(), &log.format) {
            (Some(text), _, _) => ended.text(text),
            (None, [], _) if log.json => ended.json(),
            (None, [], Some(text)) => ended.text(text),
            (None, [], None) => ended.text(&LogFormat::default()),
            (None, labels, _) => ended.object(labels),
        };
        if !line.ends_with('\n') {
            line.push('\n');
        }
        line
    }
}

impl Shape {
    /// What the rule says of a request; where nothing is known of it but how it ended, as much as that tells.
    #[must_use]
    pub fn of(rule: Arc<MetricRule>, entry: Option<&Entry>, summary: &Summary, duration: Duration) -> Self {
        let values = match entry {
            Some(entry) if rule.asks() => rule.values(&Ended { entry, summary, duration }),
            Some(_) | None => Vec::new(),
        };
        let cut = |mut value: String| {
            value.truncate(value.floor_char_boundary(LABEL_LIMIT));
            value
        };
        Self { rule, values: values.into_iter().map(cut).collect() }
    }
}

/// A text with facts in it, for whoever takes any text: nothing is escaped.
pub(in crate::telemetry) fn plain(entry: &Entry, format: &LogFormat, summary: &Summary, duration: Duration) -> String {
    Ended { entry, summary, duration }.plain(format)
}

/// A request that is over.
struct Ended<'e> {
    entry: &'e Entry,
    summary: &'e Summary,
    duration: Duration,
}

impl Ended<'_> {
    fn text(&self, format: &LogFormat) -> String {
        let mut line = String::with_capacity(512);
        for part in format.parts() {
            match part {
                LogPart::Text(text) => line.push_str(text),
                LogPart::Fact(fact, length) => {
                    let value = self.fact(fact);
                    let value = value.as_deref().map_or(&b"-"[..], |value| value);
                    let length = length.unwrap_or(VALUE_LIMIT).min(VALUE_LIMIT).min(value.len());
                    escape(&mut line, &value[..length]);
                }
            }
        }
        line
    }

    fn plain(&self, format: &LogFormat) -> String {
        let mut text = String::new();
        for part in format.parts() {
            match part {
                LogPart::Text(part) => text.push_str(part),
                LogPart::Fact(fact, length) => {
                    let value = self.fact(fact);
                    let value = value.as_deref().map_or(&b"-"[..], |value| value);
                    let length = length.unwrap_or(VALUE_LIMIT).min(VALUE_LIMIT).min(value.len());
                    text.push_str(&String::from_utf8_lossy(&value[..length]));
                }
            }
        }
        text
    }

    /// Labels that are a number and nothing else are numbers in JSON, as with Envoy.
    fn object(&self, labels: &[(String, LogFormat)]) -> String {
        let value = |format: &LogFormat| match format.parts() {
            [LogPart::Fact(fact, _)] => match self.fact(fact) {
                None => Value::Null,
                Some(value) => {
                    let text = String::from_utf8_lossy(&value[..value.len().min(VALUE_LIMIT)]).into_owned();
                    match fact {
                        LogFact::GrpcStatus(GrpcForm::Number) => text.parse::<u64>().map_or(Value::Null, Value::from),
                        LogFact::Word(word) if is_number(*word) => text.parse::<u64>().map_or(Value::Null, Value::from),
                        LogFact::Word(_)
                        | LogFact::Request(_)
                        | LogFact::Response(_)
                        | LogFact::RequestWithoutQuery(_)
                        | LogFact::StartTime(_)
                        | LogFact::GrpcStatus(GrpcForm::Camel | GrpcForm::Snake) => Value::from(text),
                    }
                }
            },
            _ => Value::from(self.plain(format)),
        };
        let map: Map<String, Value> = labels.iter().map(|(name, format)| (name.clone(), value(format))).collect();
        ascii(&Value::Object(map).to_string())
    }

    fn fact(&self, fact: &LogFact) -> Option<Vec<u8>> {
        match fact {
            LogFact::Request(names) => names.iter().find_map(|name| self.request(name)),
            LogFact::Response(names) => names.iter().find_map(|name| self.response(name)),
            LogFact::RequestWithoutQuery(names) => {
                let mut value = names.iter().find_map(|name| self.request(name))?;
                value.truncate(value.iter().position(|byte| *byte == b'?').unwrap_or(value.len()));
                Some(value)
            }
            LogFact::StartTime(format) => {
                Some(began(self.entry.began)?.strftime(format.as_str()).to_string().into_bytes())
            }
            LogFact::GrpcStatus(form) => {
                let status = self.summary.grpc_status?;
                Some(match (form, GRPC.get(usize::from(status))) {
                    (GrpcForm::Camel, Some((camel, _))) => camel.as_bytes().to_vec(),
                    (GrpcForm::Snake, Some((_, snake))) => snake.as_bytes().to_vec(),
                    (_, _) => status.to_string().into_bytes(),
                })
            }
            LogFact::Word(word) => self.word(*word).map(String::into_bytes),
        }
    }

    fn request(&self, name: &HeaderOrPseudo) -> Option<Vec<u8>> {
        let method = self.entry.method.as_ref()?;
        match name {
            HeaderOrPseudo::Method => Some(method.as_str().as_bytes().to_vec()),
            HeaderOrPseudo::Path => Some(self.entry.path.as_bytes().to_vec()),
            HeaderOrPseudo::Authority => Some(self.entry.authority.as_bytes().to_vec()),
            HeaderOrPseudo::Scheme => Some(self.entry.scheme.as_bytes().to_vec()),
            HeaderOrPseudo::Header(name) => self.entry.request.get(name).map(|value| value.as_bytes().to_vec()),
        }
    }

    /// The server's own time stands in for the header that only a caller's proxy sets.
    fn response(&self, name: &HeaderOrPseudo) -> Option<Vec<u8>> {
        let HeaderOrPseudo::Header(name) = name else { return None };
        let value = self.entry.response.get(name).map(|value| value.as_bytes().to_vec());
        value.or_else(|| {
            let time = self.service_time().filter(|_| *name == SERVICE_TIME)?;
            Some(time.to_string().into_bytes())
        })
    }

    fn service_time(&self) -> Option<u64> {
        let time = self.entry.answered_after.filter(|_| self.entry.upstream.is_some())?;
        Some(millis(time))
    }

    fn word(&self, word: LogWord) -> Option<String> {
        let entry = self.entry;
        match word {
            LogWord::StartTime => start(entry.began),
            LogWord::Protocol => entry.method.as_ref().map(|_| protocol_name(entry.version).to_owned()),
            LogWord::ResponseCode => Some(self.summary.code.to_string()),
            LogWord::ResponseFlags => Some(self.summary.flags.to_string()),
            LogWord::ResponseCodeDetails => self.details(),
            LogWord::ConnectionTerminationDetails => {
                entry.details.clone().filter(|_| self.is_of_connection()).map(Cow::into_owned)
            }
            LogWord::UpstreamTransportFailureReason => entry.transport_failure.as_deref().map(str::to_owned),
            // Not told apart here.
            LogWord::UpstreamLocalAddress => None,
            LogWord::BytesReceived => Some(entry.received.to_string()),
            LogWord::BytesSent => Some(entry.sent.to_string()),
            LogWord::Duration => Some(millis(self.duration).to_string()),
            LogWord::UpstreamHost => entry.upstream.map(|upstream| upstream.to_string()),
            LogWord::UpstreamCluster => entry.cluster.clone(),
            LogWord::DownstreamLocalAddress => Some(entry.local.to_string()),
            LogWord::DownstreamRemoteAddress => Some(entry.remote.to_string()),
            LogWord::DownstreamRemoteAddressWithoutPort => Some(entry.remote.ip.to_string()),
            LogWord::DownstreamPeerUriSan => entry.peer.clone(),
            LogWord::RequestedServerName => entry.server_name.clone(),
            LogWord::RouteName => self.route().map(str::to_owned),
            LogWord::ResponseDuration => self.service_time().map(|time| time.to_string()),
            LogWord::ResponseTxDuration => {
                let first = entry.answered_after.filter(|_| entry.upstream.is_some())?;
                Some(millis(self.duration.saturating_sub(first)).to_string())
            }
            LogWord::Hostname => nix::unistd::gethostname().ok()?.into_string().ok(),
            LogWord::StreamId => Some(entry.request.get("x-request-id")?.to_str().ok()?.to_owned()),
            LogWord::DownstreamLocalAddressWithoutPort => Some(entry.local.ip.to_string()),
            LogWord::DownstreamLocalPort => Some(entry.local.port?.to_string()),
            LogWord::DownstreamRemotePort => Some(entry.remote.port?.to_string()),
            LogWord::UpstreamRemoteAddressWithoutPort => Some(entry.upstream?.ip().to_string()),
            LogWord::UpstreamRemotePort => Some(entry.upstream?.port().to_string()),
        }
    }

    /// The port that the caller meant: of the cluster (`outbound|9080|v1|...`), for all callers share a proxy's own.
    fn called_port(&self) -> Option<u16> {
        let of_cluster = self.entry.cluster.as_deref().and_then(|name| name.split('|').nth(1)?.parse().ok());
        of_cluster.or(self.entry.local.port)
    }

    /// A connection of bytes; what could not be read as a request has an answer.
    fn is_of_connection(&self) -> bool {
        self.entry.method.is_none() && self.summary.code == 0
    }

    fn details(&self) -> Option<String> {
        (!self.is_of_connection()).then_some(())?;
        let answered = self.entry.upstream.is_some() && !self.entry.response.is_empty();
        let details = self.entry.details.clone().map(Cow::into_owned);
        details.or_else(|| answered.then(|| "via_upstream".to_owned()))
    }

    fn route(&self) -> Option<&str> {
        Some(&*self.entry.route).filter(|route| !route.is_empty())
    }

    fn json(&self) -> String {
        let mut map = Map::new();
        for (key, word) in WORDS {
            let value = self.word(word);
            let value = match value {
                Some(text) if is_number(word) => text.parse::<u64>().map_or(Value::Null, Value::from),
                Some(text) => Value::from(text),
                None => Value::Null,
            };
            map.insert(key.to_owned(), value);
        }
        let text = |value: Option<Vec<u8>>| {
            let cut = value.map(|mut value| {
                value.truncate(VALUE_LIMIT);
                value
            });
            cut.map_or(Value::Null, |value| Value::from(String::from_utf8_lossy(&value).into_owned()))
        };
        let header = |name: &str| text(self.entry.request.get(name).map(HeaderValue::as_bytes).map(<[u8]>::to_vec));
        // A header's value, and so a string, as Envoy writes it.
        map.insert("upstream_service_time".to_owned(), text(self.response(&HeaderOrPseudo::Header(SERVICE_TIME))));
        map.insert("method".to_owned(), text(self.request(&HeaderOrPseudo::Method)));
        let original = self.request(&HeaderOrPseudo::Header(ORIGINAL_PATH));
        map.insert("path".to_owned(), text(original.or_else(|| self.request(&HeaderOrPseudo::Path))));
        map.insert("authority".to_owned(), text(self.request(&HeaderOrPseudo::Authority)));
        map.insert("x_forwarded_for".to_owned(), header("x-forwarded-for"));
        map.insert("user_agent".to_owned(), header("user-agent"));
        map.insert("request_id".to_owned(), header("x-request-id"));
        ascii(&Value::Object(map).to_string())
    }
}

impl Facts for Ended<'_> {
    fn text(&self, fact: TextFact) -> Option<Cow<'_, str>> {
        let entry = self.entry;
        if entry.method.is_none() && is_of_requests(fact) {
            return None;
        }
        let (path, query) =
            entry.path.split_once('?').map_or((&*entry.path, None), |(path, query)| (path, Some(query)));
        Some(match fact {
            TextFact::Path => Cow::Borrowed(&*entry.path),
            TextFact::UrlPath => path.into(),
            TextFact::Query => query.unwrap_or_default().into(),
            TextFact::Host => Cow::Borrowed(&*entry.authority),
            TextFact::Scheme => entry.scheme.into(),
            TextFact::Method => entry.method.as_ref()?.as_str().into(),
            TextFact::Protocol => self.word(LogWord::Protocol)?.into(),
            TextFact::CodeDetails => self.details()?.into(),
            TextFact::ServerName => Cow::Borrowed(entry.server_name.as_deref()?),
            TextFact::PeerUri => Cow::Borrowed(entry.peer.as_deref()?),
            TextFact::SourceAddress => entry.remote.to_string().into(),
            TextFact::DestinationAddress => entry.local.to_string().into(),
            TextFact::UpstreamAddress => entry.upstream?.to_string().into(),
            TextFact::TransportFailure => Cow::Borrowed(entry.transport_failure.as_deref()?),
            TextFact::Cluster => Cow::Borrowed(entry.cluster.as_deref()?),
            TextFact::Route => self.route()?.into(),
        })
    }

    fn number(&self, fact: NumberFact) -> Option<i64> {
        let whole = |number: u64| i64::try_from(number).ok();
        match fact {
            // There was no response.
            NumberFact::Code if self.summary.code == 0 => None,
            NumberFact::Code => Some(self.summary.code.into()),
            NumberFact::GrpcStatus => self.summary.grpc_status.map(i64::from),
            NumberFact::RequestSize => whole(self.entry.received),
            NumberFact::ResponseSize => whole(self.entry.sent),
            NumberFact::UpstreamPort => self.entry.upstream.map(|upstream| upstream.port().into()),
            NumberFact::DestinationPort => self.called_port().map(i64::from),
            NumberFact::SourcePort => self.entry.remote.port.map(i64::from),
            NumberFact::Duration => i64::try_from(self.duration.as_nanos()).ok(),
        }
    }

    fn header(&self, message: Message, name: &str) -> Option<Cow<'_, str>> {
        let headers = match message {
            Message::Request => &self.entry.request,
            Message::Response => &self.entry.response,
        };
        let mut lines = headers.get_all(name).iter().map(|line| String::from_utf8_lossy(line.as_bytes()));
        let first = lines.next()?;
        Some(lines.fold(first, |all, line| format!("{all},{line}").into()))
    }

    fn upstream_label(&self, name: &str) -> Option<Cow<'_, str>> {
        self.entry.upstream_labels.as_ref()?.get(name).map(|value| Cow::Borrowed(value.as_str()))
    }

    fn is_mutual_tls(&self) -> bool {
        self.entry.peer.is_some()
    }
}

/// What a connection of bytes does not have.
const fn is_of_requests(fact: TextFact) -> bool {
    matches!(
        fact,
        TextFact::Path | TextFact::UrlPath | TextFact::Query | TextFact::Host | TextFact::Scheme | TextFact::Method
    )
}

/// The keys of Istio's JSON, except those of headers.
const WORDS: [(&str, LogWord); 17] = [
    ("start_time", LogWord::StartTime),
    ("protocol", LogWord::Protocol),
    ("response_code", LogWord::ResponseCode),
    ("response_flags", LogWord::ResponseFlags),
    ("response_code_details", LogWord::ResponseCodeDetails),
    ("connection_termination_details", LogWord::ConnectionTerminationDetails),
    ("upstream_transport_failure_reason", LogWord::UpstreamTransportFailureReason),
    ("bytes_received", LogWord::BytesReceived),
    ("bytes_sent", LogWord::BytesSent),
    ("duration", LogWord::Duration),
    ("upstream_host", LogWord::UpstreamHost),
    ("upstream_cluster", LogWord::UpstreamCluster),
    ("upstream_local_address", LogWord::UpstreamLocalAddress),
    ("downstream_local_address", LogWord::DownstreamLocalAddress),
    ("downstream_remote_address", LogWord::DownstreamRemoteAddress),
    ("requested_server_name", LogWord::RequestedServerName),
    ("route_name", LogWord::RouteName),
];

const fn is_number(word: LogWord) -> bool {
    matches!(
        word,
        LogWord::ResponseCode
            | LogWord::BytesReceived
            | LogWord::BytesSent
            | LogWord::Duration
            | LogWord::ResponseDuration
            | LogWord::ResponseTxDuration
            | LogWord::DownstreamLocalPort
            | LogWord::DownstreamRemotePort
            | LogWord::UpstreamRemotePort
    )
}

/// Statuses of gRPC by their number, as Envoy writes them.
const GRPC: [(&str, &str); 17] = [
    ("OK", "OK"),
    ("Canceled", "CANCELLED"),
    ("Unknown", "UNKNOWN"),
    ("InvalidArgument", "INVALID_ARGUMENT"),
    ("DeadlineExceeded", "DEADLINE_EXCEEDED"),
    ("NotFound", "NOT_FOUND"),
    ("AlreadyExists", "ALREADY_EXISTS"),
    ("PermissionDenied", "PERMISSION_DENIED"),
    ("ResourceExhausted", "RESOURCE_EXHAUSTED"),
    ("FailedPrecondition", "FAILED_PRECONDITION"),
    ("Aborted", "ABORTED"),
    ("OutOfRange", "OUT_OF_RANGE"),
    ("Unimplemented", "UNIMPLEMENTED"),
    ("Internal", "INTERNAL"),
    ("Unavailable", "UNAVAILABLE"),
    ("DataLoss", "DATA_LOSS"),
    ("Unauthenticated", "UNAUTHENTICATED"),
];

fn start(at: u64) -> Option<String> {
    began(at).map(|time| format!("{time:.3}"))
}

fn began(at: u64) -> Option<jiff::Timestamp> {
    jiff::Timestamp::from_microsecond(i64::try_from(at).ok()?).ok()
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Printable ASCII as it is, but for quotes and backslashes; every other byte as `\xNN` (A110).
fn escape(line: &mut String, value: &[u8]) {
    for byte in value {
        match byte {
            b'"' | b'\\' => {
                line.push('\\');
                line.push(char::from(*byte));
            }
            b' '..=b'~' => line.push(char::from(*byte)),
            // Writing to a string does not fail.
            _ => {
                let _ = write!(line, "\\x{byte:02x}");
            }
        }
    }
}

/// JSON text in ASCII: the controls of the second page (U+0080 to U+009F) begin a terminal's sequences as ESC does, and JSON need
/// not escape them.
fn ascii(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for character in json.chars() {
        if matches!(character, ' '..='~') {
            text.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                // Writing to a string does not fail.
                let _ = write!(text, "\\u{unit:04x}");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests;
