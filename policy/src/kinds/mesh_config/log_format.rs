//! Envoy's format strings for access logs, as far as what they ask about is known here.

use std::{fmt, str::FromStr};

use http::HeaderName;

use crate::{
    codes,
    decode::At,
    operator::{self, TimeFormat},
};

/// A format string, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFormat {
    source: String,
    parts: Vec<LogPart>,
}

/// A part of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogPart {
    /// As it stands.
    Text(String),
    /// A fact; `-` where there is none.
    Fact(LogFact, Option<usize>),
}

/// What a line may tell of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogFact {
    /// `REQ(NAME?OTHER)`: the first of these that the request has; pseudo headers too.
    Request(Vec<HeaderOrPseudo>),
    /// `RESP(NAME?OTHER)`.
    Response(Vec<HeaderOrPseudo>),
    /// `REQ_WITHOUT_QUERY(NAME?OTHER)`: as `REQ`, without what follows a `?`.
    RequestWithoutQuery(Vec<HeaderOrPseudo>),
    /// `START_TIME(FORMAT)`.
    StartTime(TimeFormat),
    /// `GRPC_STATUS`, `GRPC_STATUS(FORM)` and `GRPC_STATUS_NUMBER`.
    GrpcStatus(GrpcForm),
    /// Any other.
    Word(LogWord),
}

/// What may stand in `REQ` and `RESP`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderOrPseudo {
    /// `:method`.
    Method,
    /// `:path`, with its query.
    Path,
    /// `:authority`.
    Authority,
    /// `:scheme`.
    Scheme,
    /// A header's first line.
    Header(HeaderName),
}

/// How a gRPC status is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrpcForm {
    /// `DeadlineExceeded`.
    Camel,
    /// `DEADLINE_EXCEEDED`.
    Snake,
    /// `4`.
    Number,
}

/// Facts without arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is Envoy's operator of that name")]
pub enum LogWord {
    StartTime,
    Protocol,
    ResponseCode,
    ResponseFlags,
    ResponseCodeDetails,
    ConnectionTerminationDetails,
    UpstreamTransportFailureReason,
    BytesReceived,
    BytesSent,
    Duration,
    UpstreamHost,
    UpstreamCluster,
    UpstreamLocalAddress,
    DownstreamLocalAddress,
    DownstreamRemoteAddress,
    DownstreamRemoteAddressWithoutPort,
    DownstreamPeerUriSan,
    RequestedServerName,
    RouteName,
    ResponseDuration,
    ResponseTxDuration,
    Hostname,
    StreamId,
    DownstreamLocalAddressWithoutPort,
    DownstreamLocalPort,
    DownstreamRemotePort,
    UpstreamRemoteAddressWithoutPort,
    UpstreamRemotePort,
}

/// Istio's default.
const DEFAULT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% \
    %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" \
    %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \
    \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER% \
    %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n";

const WORDS: [(&str, LogWord); 30] = [
    ("START_TIME", LogWord::StartTime),
    ("PROTOCOL", LogWord::Protocol),
    ("RESPONSE_CODE", LogWord::ResponseCode),
    ("RESPONSE_FLAGS", LogWord::ResponseFlags),
    ("RESPONSE_CODE_DETAILS", LogWord::ResponseCodeDetails),
    ("CONNECTION_TERMINATION_DETAILS", LogWord::ConnectionTerminationDetails),
    ("UPSTREAM_TRANSPORT_FAILURE_REASON", LogWord::UpstreamTransportFailureReason),
    ("BYTES_RECEIVED", LogWord::BytesReceived),
    ("BYTES_SENT", LogWord::BytesSent),
    ("DURATION", LogWord::Duration),
    ("UPSTREAM_HOST", LogWord::UpstreamHost),
    ("UPSTREAM_CLUSTER", LogWord::UpstreamCluster),
    ("UPSTREAM_CLUSTER_RAW", LogWord::UpstreamCluster),
    ("UPSTREAM_LOCAL_ADDRESS", LogWord::UpstreamLocalAddress),
    ("DOWNSTREAM_LOCAL_ADDRESS", LogWord::DownstreamLocalAddress),
    ("DOWNSTREAM_REMOTE_ADDRESS", LogWord::DownstreamRemoteAddress),
    ("DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", LogWord::DownstreamRemoteAddressWithoutPort),
    ("DOWNSTREAM_PEER_URI_SAN", LogWord::DownstreamPeerUriSan),
    ("REQUESTED_SERVER_NAME", LogWord::RequestedServerName),
    ("ROUTE_NAME", LogWord::RouteName),
    ("RESPONSE_DURATION", LogWord::ResponseDuration),
    ("RESPONSE_TX_DURATION", LogWord::ResponseTxDuration),
    ("HOSTNAME", LogWord::Hostname),
    ("STREAM_ID", LogWord::StreamId),
    ("DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", LogWord::DownstreamLocalAddressWithoutPort),
    ("DOWNSTREAM_LOCAL_PORT", LogWord::DownstreamLocalPort),
    ("DOWNSTREAM_REMOTE_PORT", LogWord::DownstreamRemotePort),
    ("UPSTREAM_REMOTE_ADDRESS", LogWord::UpstreamHost),
    ("UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", LogWord::UpstreamRemoteAddressWithoutPort),
    ("UPSTREAM_REMOTE_PORT", LogWord::UpstreamRemotePort),
];

/// Why a format string is none that this build writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wrong {
    /// It is not one of Envoy's.
    Invalid(String),
    /// The operator is not known here.
    Unknown(String),
}

impl LogFormat {
    /// Reads a format string.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn new(source: &str) -> Result<Self, Wrong> {
        let mut parts = Vec::new();
        let mut rest = source;
        while let Some(at) = rest.find('%') {
            text(&mut parts, &rest[..at]);
            let after = &rest[at + 1..];
            if let Some(after) = after.strip_prefix('%') {
                text(&mut parts, "%");
                rest = after;
                continue;
            }
            let Some((operator, after)) = operator::split(after) else {
                return Err(Wrong::Invalid("a `%` begins an operator and none ends it; write `%%` for one".to_owned()));
            };
            parts.push(fact(operator)?);
            rest = after;
        }
        text(&mut parts, rest);
        Ok(Self { source: source.to_owned(), parts })
    }

    /// What a document says.
    pub(crate) fn decode(at: &At<'_>) -> Option<Self> {
        match Self::new(at.text()?) {
            Ok(format) => {
                let is_open =
                    |part: &LogPart| matches!(part, LogPart::Fact(LogFact::Word(LogWord::UpstreamLocalAddress), _));
                if format.source != DEFAULT && format.parts.iter().any(is_open) {
                    at.warn(
                        codes::IGNORED,
                        "%UPSTREAM_LOCAL_ADDRESS% is always `-`: connections to endpoints are shared, and their own address is not kept",
                        "leave it out, or take %UPSTREAM_HOST%, the endpoint's address",
                    );
                }
                Some(format)
            }
            Err(Wrong::Invalid(message)) => {
                at.error(codes::LOG_FORMAT, message);
                None
            }
            Err(Wrong::Unknown(operator)) => {
                at.unbuilt(format!("the operator %{operator}%"));
                None
            }
        }
    }

    /// The parts of a line, in order.
    pub fn parts(&self) -> &[LogPart] {
        &self.parts
    }
}

impl Default for LogFormat {
    /// Istio's.
    fn default() -> Self {
        Self::new(DEFAULT).unwrap_or(Self { source: String::new(), parts: Vec::new() })
    }
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(source: &str) -> Result<Self, String> {
        Self::new(source).map_err(|wrong| match wrong {
            Wrong::Invalid(message) => message,
            Wrong::Unknown(operator) => format!("the operator %{operator}% is not known"),
        })
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

fn text(parts: &mut Vec<LogPart>, text: &str) {
    match parts.last_mut() {
        _ if text.is_empty() => {}
        Some(LogPart::Text(last)) => last.push_str(text),
        Some(LogPart::Fact(..)) | None => parts.push(LogPart::Text(text.to_owned())),
    }
}

/// `WORD`, `REQ(NAME?OTHER):LENGTH`.
fn fact(operator: &str) -> Result<LogPart, Wrong> {
    if let Some((_, word)) = WORDS.iter().find(|(name, _)| *name == operator) {
        return Ok(LogPart::Fact(LogFact::Word(*word), None));
    }
    let grpc = |form| Ok(LogPart::Fact(LogFact::GrpcStatus(form), None));
    match operator {
        "GRPC_STATUS" | "GRPC_STATUS(CAMEL_STRING)" => return grpc(GrpcForm::Camel),
        "GRPC_STATUS(SNAKE_STRING)" => return grpc(GrpcForm::Snake),
        "GRPC_STATUS(NUMBER)" | "GRPC_STATUS_NUMBER" => return grpc(GrpcForm::Number),
        _ => {}
    }
    let unknown = || Wrong::Unknown(operator.to_owned());
    let (name, rest) = operator.split_once('(').ok_or_else(unknown)?;
    let (arguments, length) =
        rest.split_once(')').ok_or_else(|| Wrong::Invalid(format!("`{operator}` lacks a `)`")))?;
    let length = match length.strip_prefix(':') {
        Some(digits) => {
            let length = digits.parse().map_err(|_| Wrong::Invalid(format!("`{digits}` is not a length")))?;
            Some(length)
        }
        None if length.is_empty() => None,
        None => return Err(unknown()),
    };
    let names = || arguments.split('?').map(header).collect::<Result<Vec<_>, _>>();
    let fact = match name {
        "REQ" => LogFact::Request(names()?),
        "REQ_WITHOUT_QUERY" => LogFact::RequestWithoutQuery(names()?),
        "RESP" => LogFact::Response(names()?),
        "START_TIME" => LogFact::StartTime(TimeFormat::new(arguments).map_err(Wrong::Invalid)?),
        _ => return Err(unknown()),
    };
    Ok(LogPart::Fact(fact, length))
}

fn header(name: &str) -> Result<HeaderOrPseudo, Wrong> {
    match name.to_ascii_lowercase().as_str() {
        ":method" => Ok(HeaderOrPseudo::Method),
        ":path" => Ok(HeaderOrPseudo::Path),
        ":authority" => Ok(HeaderOrPseudo::Authority),
        ":scheme" => Ok(HeaderOrPseudo::Scheme),
        lower => {
            let name = HeaderName::from_bytes(lower.as_bytes());
            name.map(HeaderOrPseudo::Header).map_err(|_| Wrong::Invalid(format!("`{lower}` is not a header name")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn istios_default_is_known() {
        let format = LogFormat::default();
        assert_eq!(format.parts().iter().filter(|part| matches!(part, LogPart::Fact(..))).count(), 24);
        assert_eq!(format.parts().first(), Some(&LogPart::Text("[".to_owned())));
        assert_eq!(format.parts().last(), Some(&LogPart::Text("\n".to_owned())));
    }

    #[test]
    fn parts_are_told_apart() {
        let format = LogFormat::new("100%% %REQ(X-A?:PATH):10%%RESPONSE_CODE%").unwrap();
        let names = vec![HeaderOrPseudo::Header(HeaderName::from_static("x-a")), HeaderOrPseudo::Path];
        assert_eq!(
            format.parts(),
            [
                LogPart::Text("100% ".to_owned()),
                LogPart::Fact(LogFact::Request(names), Some(10)),
                LogPart::Fact(LogFact::Word(LogWord::ResponseCode), None)
            ]
        );
        assert_eq!(format.to_string(), "100%% %REQ(X-A?:PATH):10%%RESPONSE_CODE%");
    }

    #[test]
    fn times_hold_signs_of_their_own() {
        let format =
            LogFormat::new("%START_TIME(%Y-%m-%d (UTC %s.%3f)% %GRPC_STATUS%%REQ_WITHOUT_QUERY(:PATH):9%").unwrap();
        let parts = [
            LogPart::Fact(LogFact::StartTime(TimeFormat::new("%Y-%m-%d (UTC %s.%3f").unwrap()), None),
            LogPart::Text(" ".to_owned()),
            LogPart::Fact(LogFact::GrpcStatus(GrpcForm::Camel), None),
            LogPart::Fact(LogFact::RequestWithoutQuery(vec![HeaderOrPseudo::Path]), Some(9)),
        ];
        assert_eq!(format.parts(), parts);
    }

    #[test]
    fn what_is_wrong_and_what_is_unknown() {
        for text in
            ["50%", "%REQ(X%", "%REQ(a b)%", "%REQ(a):x%", "%START_TIME(%Q)%", "%START_TIME(%3Y)%", "%START_TIME(%)%"]
        {
            assert!(matches!(LogFormat::new(text), Err(Wrong::Invalid(_))), "{text}");
        }
        for text in ["%GRPC_STATUS(a)%", "%START_TIME_(%s)%", "%DYNAMIC_METADATA(a)%", "%FOO%", "%REQ(a)x%"] {
            assert!(LogFormat::new(text).is_err(), "{text}");
        }
    }
}
