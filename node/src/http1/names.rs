//! Names of headers that occur in most messages, as they are mostly spelt: found by their length and a comparison, where any other is folded
//! and searched, and one that is not in the standard's list allocated.

use http::{
    HeaderName,
    header::{
        ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, ACCEPT_RANGES, AUTHORIZATION, CACHE_CONTROL, CONNECTION,
        CONTENT_LENGTH, CONTENT_TYPE, COOKIE, DATE, ETAG, HOST, LAST_MODIFIED, LOCATION, ORIGIN, REFERER, SERVER,
        SET_COOKIE, TRANSFER_ENCODING, USER_AGENT, VARY,
    },
};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
const ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");
const EXTERNAL_ADDRESS: HeaderName = HeaderName::from_static("x-envoy-external-address");
const EXPECTED_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");
const SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");

/// The name, if it is one of these in lower case or with capitals as they are usual.
pub(super) fn known(name: &[u8]) -> Option<HeaderName> {
    Some(match name.len() {
        4 => match name {
            b"host" | b"Host" => HOST,
            b"date" | b"Date" => DATE,
            b"etag" | b"ETag" => ETAG,
            b"vary" | b"Vary" => VARY,
            _ => return None,
        },
        6 => match name {
            b"accept" | b"Accept" => ACCEPT,
            b"server" | b"Server" => SERVER,
            b"cookie" | b"Cookie" => COOKIE,
            b"origin" | b"Origin" => ORIGIN,
            _ => return None,
        },
        7..=10 => match name {
            b"connection" | b"Connection" => CONNECTION,
            b"user-agent" | b"User-Agent" => USER_AGENT,
            b"keep-alive" | b"Keep-Alive" => KEEP_ALIVE,
            b"set-cookie" | b"Set-Cookie" => SET_COOKIE,
            b"location" | b"Location" => LOCATION,
            b"referer" | b"Referer" => REFERER,
            _ => return None,
        },
        11..=13 => match name {
            b"content-type" | b"Content-Type" => CONTENT_TYPE,
            b"x-request-id" | b"X-Request-Id" => REQUEST_ID,
            b"traceparent" | b"Traceparent" => TRACEPARENT,
            b"last-modified" | b"Last-Modified" => LAST_MODIFIED,
            b"accept-ranges" | b"Accept-Ranges" => ACCEPT_RANGES,
            b"cache-control" | b"Cache-Control" => CACHE_CONTROL,
            b"authorization" | b"Authorization" => AUTHORIZATION,
            _ => return None,
        },
        14..=17 => match name {
            b"content-length" | b"Content-Length" => CONTENT_LENGTH,
            b"transfer-encoding" | b"Transfer-Encoding" => TRANSFER_ENCODING,
            b"accept-encoding" | b"Accept-Encoding" => ACCEPT_ENCODING,
            b"accept-language" | b"Accept-Language" => ACCEPT_LANGUAGE,
            b"x-forwarded-for" | b"X-Forwarded-For" => FORWARDED_FOR,
            b"x-forwarded-proto" | b"X-Forwarded-Proto" => FORWARDED_PROTO,
            _ => return None,
        },
        21..=30 => match name {
            b"x-envoy-attempt-count" => ATTEMPT_COUNT,
            b"x-forwarded-client-cert" => CLIENT_CERT,
            b"x-envoy-external-address" => EXTERNAL_ADDRESS,
            b"x-envoy-expected-rq-timeout-ms" => EXPECTED_TIMEOUT,
            b"x-envoy-upstream-service-time" => SERVICE_TIME,
            _ => return None,
        },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: [&str; 59] = [
        "host",
        "Host",
        "date",
        "Date",
        "etag",
        "ETag",
        "vary",
        "Vary",
        "accept",
        "Accept",
        "server",
        "Server",
        "cookie",
        "Cookie",
        "origin",
        "Origin",
        "connection",
        "Connection",
        "user-agent",
        "User-Agent",
        "keep-alive",
        "Keep-Alive",
        "set-cookie",
        "Set-Cookie",
        "location",
        "Location",
        "referer",
        "Referer",
        "content-type",
        "Content-Type",
        "x-request-id",
        "X-Request-Id",
        "traceparent",
        "Traceparent",
        "last-modified",
        "Last-Modified",
        "accept-ranges",
        "Accept-Ranges",
        "cache-control",
        "Cache-Control",
        "authorization",
        "Authorization",
        "content-length",
        "Content-Length",
        "transfer-encoding",
        "Transfer-Encoding",
        "accept-encoding",
        "Accept-Encoding",
        "accept-language",
        "Accept-Language",
        "x-forwarded-for",
        "X-Forwarded-For",
        "x-forwarded-proto",
        "X-Forwarded-Proto",
        "x-envoy-attempt-count",
        "x-forwarded-client-cert",
        "x-envoy-external-address",
        "x-envoy-expected-rq-timeout-ms",
        "x-envoy-upstream-service-time",
    ];

    #[test]
    fn each_is_the_name_that_it_spells() {
        for spelt in ALL {
            let name = known(spelt.as_bytes()).unwrap_or_else(|| panic!("{spelt} is not found"));
            assert_eq!(name, HeaderName::from_bytes(spelt.as_bytes()).unwrap());
            assert_eq!(name.as_str(), spelt.to_ascii_lowercase());
        }
    }

    proptest! {
        #[test]
        fn what_is_near_to_one_is_never_taken_for_it(
            (which, at, byte) in (0..ALL.len(), any::<prop::sample::Index>(), any::<u8>()),
        ) {
            let mut name = ALL[which].as_bytes().to_vec();
            let at = at.index(name.len());
            name[at] = byte;
            if let Some(known) = known(&name) {
                prop_assert_eq!(known, HeaderName::from_bytes(&name).unwrap());
            }
        }
    }
}
