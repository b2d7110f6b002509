//! Values of flags that clap does not read by itself.

use std::{str::FromStr, time::Duration};

use certs::{codec::Millis, id::ServiceName};

use crate::{agent::admin::rfc3339, cli::error::Error, clock};

/// `500ms`, `10s`, `5m`, `1h`, `1h 30m`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = |_| "not a duration; write 500ms, 10s, 5m or 1h".to_owned();
    let signed = jiff::SignedDuration::from_str(text).map_err(wrong)?;
    Duration::try_from(signed).map_err(|_| "a duration cannot be negative".to_owned())
}

/// Milliseconds ahead, or behind where a minus stands before: `40d`, `-10m`.
pub fn offset(text: &str) -> Result<i64, String> {
    let (sign, length) = text.strip_prefix('-').map_or((1, text), |length| (-1, length));
    let days = length.strip_suffix('d').and_then(|days| days.parse::<u32>().ok());
    let length = days.map_or_else(|| duration(length), |days| Ok(Duration::from_secs(u64::from(days) * 86_400)))?;
    i64::try_from(length.as_millis()).map(|length| sign * length).map_err(|_| "too far away".to_owned())
}

/// A length of time in which days count: `30d`, `12h`.
pub fn span(text: &str) -> Result<Duration, String> {
    let milliseconds = offset(text)?;
    u64::try_from(milliseconds).map(Duration::from_millis).map_err(|_| "a duration cannot be negative".to_owned())
}

/// A time: RFC 3339, or a duration ago.
pub fn time(text: &str) -> Result<Millis, String> {
    let wrong = || "not a time; write 2030-01-31T12:00:00Z, or 2h for two hours ago".to_owned();
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Millis::try_from(time.as_millisecond()).map_err(|_| wrong());
    }
    let ago = Millis::try_from(duration(text).map_err(|_| wrong())?.as_millis()).unwrap_or(Millis::MAX);
    Ok(clock::wall().saturating_sub(ago))
}

/// A point in the life of a document as nodes read it: a time in RFC 3339, or a changeset.
///
/// # Errors
/// `usage` if it is neither.
pub fn moment(text: &str) -> Result<String, Error> {
    // Hexadecimal digits first: `4d` could be days, and an id has more digits than that.
    if text.len() >= 4 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(text.to_ascii_lowercase());
    }
    time(text).map(rfc3339).map_err(|error| {
        Error::new("usage", format!("`{text}` is neither a changeset nor a time"))
            .hint(format!("a time is {}", error.trim_start_matches("not a time; ")))
    })
}

/// A namespace.
pub fn namespace(text: &str) -> Result<String, String> {
    ServiceName::new(text, "any")
        .map(|name| name.namespace().to_owned())
        .map_err(|_| "not a namespace; write one label of lower-case letters, digits and `-`, at most 63".to_owned())
}

/// A service as it is printed, `NAMESPACE/NAME`, or a name in the namespace of the flags.
///
/// # Errors
/// `usage` if it is no name.
pub fn service(text: &str, namespace: &str) -> Result<ServiceName, Error> {
    let (namespace, name) = text.split_once('/').unwrap_or((namespace, text));
    ServiceName::new(namespace, name)
        .map_err(|error| Error::new("usage", error.to_string()).hint("write NAMESPACE/NAME, or NAME and -n NAMESPACE"))
}

/// How many nodes must have a push on disk before `push` returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// The asked node alone.
    Local,
    /// That many nodes.
    Nodes(u32),
    /// Every node alive in the asked node's view.
    All,
}

impl FromStr for Wait {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "local" => Ok(Self::Local),
            "all" => Ok(Self::All),
            number => match number.parse() {
                Ok(count) if count > 0 => Ok(Self::Nodes(count)),
                Ok(_) | Err(_) => Err("not local, all or a number of nodes above 0".to_owned()),
            },
        }
    }
}

impl std::fmt::Display for Wait {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Local => f.write_str("local"),
            Self::Nodes(count) => write!(f, "{count}"),
            Self::All => f.write_str("all"),
        }
    }
}

/// `NS/NAME=N` of `wait --endpoints`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointCount {
    /// The service.
    pub service: ServiceName,
    /// How many healthy endpoints.
    pub count: usize,
}

impl FromStr for EndpointCount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (service, count) = text.split_once('=').ok_or("write NAMESPACE/NAME=N")?;
        let service = service.parse::<ServiceName>().map_err(|error| error.to_string())?;
        let count = count.parse().map_err(|_| format!("`{count}` is not a number of endpoints"))?;
        Ok(Self { service, count })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1h"), Ok(Duration::from_secs(3600)));
        assert!(duration("10").is_err());
        assert!(duration("-1s").is_err());
    }

    #[test]
    fn a_point_is_a_time_or_a_changeset() {
        assert_eq!(time("1970-01-01T00:00:01Z"), Ok(1_000));
        assert!(time("1h").unwrap() < clock::wall() - 3_500_000);
        assert!(time("yesterday").is_err());
        assert_eq!(moment("4F1C09").unwrap(), "4f1c09");
        assert_eq!(moment("1970-01-01T00:00:01Z").unwrap(), "1970-01-01T00:00:01.000Z");
        assert!(moment("30m").unwrap().ends_with('Z'));
        assert_eq!(moment("xyz").unwrap_err().code, "usage");
    }

    #[test]
    fn a_service_is_named_with_its_namespace_or_by_the_flag() {
        assert_eq!(service("shop/cart", "default").unwrap(), service("cart", "shop").unwrap());
        assert_eq!(service("a/b/c", "shop").unwrap_err().code, "usage");
        assert_eq!(namespace("shop-1").unwrap(), "shop-1");
        for wrong in ["Shop", "", "a.b", "a/b"] {
            assert!(namespace(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn wait_is_local_a_number_or_all() {
        assert_eq!("local".parse(), Ok(Wait::Local));
        assert_eq!("3".parse(), Ok(Wait::Nodes(3)));
        assert_eq!("all".parse(), Ok(Wait::All));
        assert!("0".parse::<Wait>().is_err());
        assert!("some".parse::<Wait>().is_err());
    }
}
