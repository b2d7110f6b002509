//! A call to another sample service, through the proxy port of the node beside the caller.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use http_body_util::Empty;
use serde::de::DeserializeOwned;

use super::PORT;
use crate::demo::client::Client;

/// Response header: the instances that took part in an answer, as `reviews-v2, ratings-v1`.
pub(crate) const VIA: &str = "x-bookinfo-via";
/// Response header: the most attempts that any call below this answer took, so that a client can count retries.
pub(crate) const ATTEMPTS: &str = "x-bookinfo-attempts";
/// Request header in which a proxy says which attempt this is.
const ATTEMPT: &str = "x-envoy-attempt-count";

/// Request headers that a service hands on, so that one trace stays one trace and a user stays the same user.
const HANDED_ON: [&str; 15] = [
    "x-request-id",
    "traceparent",
    "tracestate",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    "x-ot-span-context",
    "x-cloud-trace-context",
    "grpc-trace-bin",
    "sw8",
    "end-user",
    "user-agent",
];

/// The request header that names the user who is signed in.
pub(super) const END_USER: &str = "end-user";

/// What came back.
#[derive(Debug)]
pub(super) struct Answer<T> {
    pub(super) value: T,
    /// The instances that took part, outermost first.
    pub(super) via: String,
    pub(super) attempts: u32,
}

/// Why a service has no answer to give.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) service: &'static str,
    /// The status that came instead; none when nothing came.
    pub(super) status: Option<StatusCode>,
    /// What came with it, or what broke.
    pub(super) message: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.status {
            Some(status) => write!(f, "{} answered {status}: {}", self.service, self.message),
            None => write!(f, "{} did not answer: {}", self.service, self.message),
        }
    }
}

/// Asks `service` for `path`, as `incoming` was asked.
pub(super) async fn get<T: DeserializeOwned>(
    client: &Client,
    service: &'static str,
    path: &str,
    incoming: &HeaderMap,
    limit: Duration,
) -> Result<Answer<T>, Failure> {
    let failure = |status, message: String| Failure { service, status, message };
    let mut request = Request::get(format!("http://{service}:{PORT}{path}"))
        .body(Empty::<Bytes>::new())
        .map_err(|e| failure(None, e.to_string()))?;
    *request.headers_mut() = handed_on(incoming);
    let host = HeaderValue::from_str(&format!("{service}:{PORT}")).map_err(|e| failure(None, e.to_string()))?;
    request.headers_mut().insert(header::HOST, host);
    let (head, body) = client.send(request, limit).await.map_err(|e| failure(None, e.to_string()))?.into_parts();
    if head.status != StatusCode::OK {
        return Err(failure(Some(head.status), excerpt(&body)));
    }
    let value = serde_json::from_slice(&body).map_err(|e| failure(Some(head.status), e.to_string()))?;
    let via = head.headers.get(VIA).and_then(|v| v.to_str().ok()).unwrap_or(service).to_owned();
    Ok(Answer { value, via, attempts: number(&head.headers, ATTEMPTS) })
}

/// How many attempts the proxy before us needed to reach us.
pub(super) fn attempts(incoming: &HeaderMap) -> u32 {
    number(incoming, ATTEMPT)
}

fn number(headers: &HeaderMap, name: &str) -> u32 {
    headers.get(name).and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok()).unwrap_or(1)
}

fn handed_on(incoming: &HeaderMap) -> HeaderMap {
    let kept = incoming.iter().filter(|(name, _)| HANDED_ON.contains(&name.as_str()));
    kept.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// The first line or so of a body, for people.
fn excerpt(body: &[u8]) -> String {
    const CHARACTERS: usize = 200;
    String::from_utf8_lossy(body).trim().chars().take(CHARACTERS).collect()
}
