//! What the socket, loopback and operators are offered.

pub mod api;
pub mod error;
pub mod greeting;

/// A time as everybody writes it: RFC 3339 in UTC, with milliseconds.
pub fn rfc3339(time: certs::codec::Millis) -> String {
    let time = i64::try_from(time).ok().and_then(|time| jiff::Timestamp::from_millisecond(time).ok());
    time.map_or_else(String::new, |time| format!("{time:.3}"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn times_have_milliseconds() {
        assert_eq!(super::rfc3339(1_700_000_000_000), "2023-11-14T22:13:20.000Z");
        assert_eq!(super::rfc3339(u64::MAX), "");
    }
}
