//! `grpc-timeout`: how long a gRPC caller waits, in Envoy's reading. The caller's word counts, the route's timeout caps it, and the
//! application is told what is left.

use http::{HeaderMap, HeaderName, HeaderValue};
use std::time::Duration;

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// Most digits of a timeout.
const DIGITS: usize = 8;

/// How long a call may take: what the caller says, at most what the route says. What is no timeout, or is zero, says nothing.
pub(super) fn of(headers: &HeaderMap, route: Option<Duration>) -> Option<Duration> {
    let caller = headers.get(GRPC_TIMEOUT).and_then(|value| parse(value.as_bytes())).filter(|time| !time.is_zero());
    match (caller, route) {
        (Some(caller), Some(route)) => Some(caller.min(route)),
        (caller, route) => caller.or(route),
    }
}

/// Tells the application what is left of `time` after `elapsed` microseconds, or of the time of one attempt.
pub(super) fn set(headers: &mut HeaderMap, time: Duration, elapsed: u64, attempt: Option<Duration>) {
    let left = time.saturating_sub(Duration::from_micros(elapsed)).max(Duration::from_millis(1));
    // Rounded up, so that the caller's own word stays as it is.
    let left = left.saturating_add(Duration::from_micros(999));
    headers.insert(GRPC_TIMEOUT, written(attempt.map_or(left, |attempt| left.min(attempt))));
}

fn parse(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > DIGITS || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(number * 3_600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

/// In the finest unit of milliseconds, seconds and hours that eight digits hold.
fn written(time: Duration) -> HeaderValue {
    const MOST: u128 = 99_999_999;
    let millis = time.as_millis();
    let text = match () {
        () if millis <= MOST => format!("{millis}m"),
        () if millis / 1_000 <= MOST => format!("{}S", millis / 1_000),
        () => format!("{}H", (millis / 3_600_000).min(MOST)),
    };
    // Digits and a letter.
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("99999999H"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(GRPC_TIMEOUT, HeaderValue::from_static(value))])
    }

    #[test]
    fn the_callers_word_counts_and_the_route_caps_it() {
        let second = Duration::from_secs(1);
        for (value, route, time) in [
            ("500m", None, Some(Duration::from_millis(500))),
            ("500m", Some(second), Some(Duration::from_millis(500))),
            ("2S", Some(second), Some(second)),
            ("99999999H", Some(second), Some(second)),
            ("99999999H", None, Some(Duration::from_secs(99_999_999 * 3_600))),
            ("7u", None, Some(Duration::from_micros(7))),
            ("0m", Some(second), Some(second)),
            ("0m", None, None),
        ] {
            assert_eq!(of(&asked(value), route), time, "{value}");
        }
        assert_eq!(of(&HeaderMap::new(), Some(second)), Some(second));
    }

    #[test]
    fn a39_what_is_no_timeout_says_nothing() {
        for value in ["", "m", "1", "-1m", "+1m", "1 m", "1.5S", "123456789m", "1x", "0x1m", "18446744073709551616H"] {
            assert_eq!(of(&asked(value), None), None, "{value:?}");
        }
    }

    #[test]
    fn the_application_is_told_what_is_left() {
        let told = |time: Duration, elapsed: u64, attempt: Option<Duration>| {
            let mut headers = asked("9S");
            set(&mut headers, time, elapsed, attempt);
            headers[GRPC_TIMEOUT].to_str().unwrap().to_owned()
        };
        let second = Duration::from_secs(1);
        assert_eq!(told(second, 0, None), "1000m");
        assert_eq!(told(second, 300_000, None), "700m");
        assert_eq!(told(second, 300_000, Some(Duration::from_millis(20))), "20m");
        assert_eq!(told(second, 9_000_000, None), "1m", "it is over at once, and not without end");
        assert_eq!(told(200_000 * second, 0, None), "200000S");
        assert_eq!(told(Duration::MAX, 0, None), "99999999H");
    }
}
