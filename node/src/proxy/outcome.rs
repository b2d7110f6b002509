//! How a destination node tells the calling node that the answer is its own and not the application's, so that the
//! caller may retry elsewhere: header `x-skein-outcome`, set on the way between nodes only and stripped at both ends.

use super::{
    failure::Cause,
    http as body,
    reply::{GRPC_STATUS, OVERLOADED},
};
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONTENT_LENGTH, CONTENT_TYPE},
};

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

/// What the other node told beside its answer: headers that authorisers and limits there give to every response.
pub(super) fn beside(mut headers: HeaderMap) -> Option<Box<HeaderMap>> {
    body::strip_hop_by_hop(&mut headers);
    body::strip_own(&mut headers);
    for name in OF_ANSWER {
        headers.remove(name);
    }
    headers.remove(OUTCOME);
    (!headers.is_empty()).then(|| Box::new(headers))
}

/// What an answer has by itself, whichever node gives it.
const OF_ANSWER: [HeaderName; 5] =
    [CONTENT_LENGTH, CONTENT_TYPE, GRPC_STATUS, HeaderName::from_static("grpc-message"), OVERLOADED];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_given_anew_and_what_stands_beside_it_is_kept() {
        let mut headers = super::super::reply::failure(Cause::Overflow, false).headers().clone();
        set(&mut headers, Cause::Overflow);
        assert_eq!(beside(headers.clone()), None);
        headers.insert("x-seen", HeaderValue::from_static("yes"));
        let kept = beside(headers).unwrap();
        assert_eq!((kept.len(), &kept["x-seen"]), (1, &HeaderValue::from_static("yes")));
    }

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
