//! How a destination node tells the calling node that the answer is its own and not the application's, so that the
//! caller may retry elsewhere: header `x-skein-outcome`, set on the way between nodes only and stripped at both ends.

use super::failure::Cause;
use http::{HeaderMap, HeaderName, HeaderValue};

const OUTCOME: HeaderName = HeaderName::from_static("x-skein-outcome");

/// The causes that travel, with their words.
const WORDS: [(Cause, &str); 8] = [
    (Cause::ConnectFailure, "connect-failure"),
    (Cause::ResetBeforeRequest, "reset-before-request"),
    (Cause::ConnectionTermination, "reset"),
    (Cause::UpstreamProtocol, "protocol-error"),
    (Cause::Overflow, "overflow"),
    (Cause::NoWebSocket, "no-websocket"),
    // Nothing was read by anybody: safe to try elsewhere.
    (Cause::RefusedStream, "refused"),
    (Cause::NotServedHere, "refused"),
];

/// Tells the cause, if it is one that the caller may act upon.
pub(super) fn set(headers: &mut HeaderMap, cause: Cause) {
    if let Some((_, word)) = WORDS.iter().find(|(known, _)| *known == cause) {
        headers.insert(OUTCOME, HeaderValue::from_static(word));
    }
}

/// What the other node told.
pub(super) fn get(headers: &HeaderMap) -> Option<Cause> {
    let told = headers.get(OUTCOME)?;
    WORDS.iter().find(|(_, word)| told.as_bytes() == word.as_bytes()).map(|(cause, _)| *cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_travel() {
        for (cause, _) in WORDS {
            let mut headers = HeaderMap::new();
            set(&mut headers, cause);
            let told = if cause == Cause::NotServedHere { Cause::RefusedStream } else { cause };
            assert_eq!(get(&headers), Some(told));
        }
    }

    #[test]
    fn what_the_caller_did_wrong_stays_its_answer() {
        let mut headers = HeaderMap::new();
        set(&mut headers, Cause::BadRequest("x"));
        assert_eq!(get(&headers), None);
    }
}
