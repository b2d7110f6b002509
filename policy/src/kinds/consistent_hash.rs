//! `ConsistentHashLB`: requests that have something in common go to the same endpoint.

use std::time::Duration;

use crate::{
    codes,
    decode::{At, Fields},
};

/// `ConsistentHashLB`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsistentHash {
    /// What is hashed. `None`, or nothing to hash in a request: any endpoint, by chance.
    pub key: Option<HashKey>,
    /// How a hash becomes an endpoint.
    pub algorithm: HashAlgorithm,
}

/// What of a request is hashed. For a connection only its source counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashKey {
    /// `httpHeaderName`, lower case.
    Header(String),
    /// `httpCookie`.
    Cookie(HashCookie),
    /// `useSourceIp`.
    SourceIp,
    /// `httpQueryParameterName`.
    QueryParameter(String),
}

/// `HTTPCookie`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashCookie {
    /// Its name.
    pub name: String,
    /// `Path` of a cookie that the proxy makes; empty: none.
    pub path: String,
    /// The proxy makes a cookie where the request has none, for this long; zero: for the session. `None`: it makes none.
    pub ttl: Option<Duration>,
    /// Further attributes of a cookie that the proxy makes, names distinct.
    pub attributes: Vec<(String, String)>,
}

/// How a hash becomes an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashAlgorithm {
    /// The next on a ring.
    RingHash {
        /// Points on the ring at least; above 0.
        minimum_ring_size: u64,
    },
    /// A place in a table.
    Maglev {
        /// Places: a prime below 5,000,011.
        table_size: u64,
    },
}

/// Points on a ring, where nothing is said.
const RING_SIZE: u64 = 1_024;
/// The table is smaller than this.
const MAX_TABLE: u64 = 5_000_011;
/// The fields of which one is the key.
const KEYS: [&str; 4] = ["httpHeaderName", "httpCookie", "useSourceIp", "httpQueryParameterName"];

impl ConsistentHash {
    pub(super) fn decode(at: &At<'_>) -> Option<Self> {
        let fields = at.fields()?;
        if KEYS.iter().filter(|name| fields.has(name)).count() > 1 {
            at.error(codes::EXCLUSIVE, format!("only one of {} may be set", KEYS.join(", ")));
        }
        let header = fields.get("httpHeaderName").and_then(|at| at.filled_text().filter(|name| is_hashed(name, &at)));
        let parameter = fields.get("httpQueryParameterName").and_then(|at| at.filled_text());
        let cookie = fields.get("httpCookie").and_then(|at| HashCookie::decode(&at));
        let source = fields.get("useSourceIp").and_then(|at| at.boolean()).unwrap_or(false);
        let algorithm = decode_algorithm(&fields);
        fields.finish();
        let key = header
            .map(|name| HashKey::Header(name.to_ascii_lowercase()))
            .or(cookie.map(HashKey::Cookie))
            .or(source.then_some(HashKey::SourceIp))
            .or(parameter.map(|name| HashKey::QueryParameter(name.to_owned())));
        Some(Self { key, algorithm: algorithm? })
    }
}

/// True for what a request has one of: of the pseudo headers those whose values differ.
fn is_hashed(name: &str, at: &At<'_>) -> bool {
    let known = !name.starts_with(':') || [":authority", ":method", ":path"].contains(&name);
    if !known {
        let message = format!("`{name}` tells requests from each other nowhere");
        at.error_hint(codes::HEADER, message, "name a header, `:path`, `:authority` or `:method`");
    }
    known
}

fn decode_algorithm(fields: &Fields<'_>) -> Option<HashAlgorithm> {
    let size = |at: &At<'_>, name| {
        let own = at.fields()?;
        let size = own.get(name).map_or(Some(0), |at| at.integer(0..=i64::MAX));
        own.finish();
        u64::try_from(size?).ok()
    };
    let old = fields.get("minimumRingSize").map(|at| {
        let hint = "write ringHash: {minimumRingSize: ...}";
        at.warn(codes::DEPRECATED, "minimumRingSize of consistentHash is deprecated", hint);
        at.integer(0..=i64::MAX).and_then(|size| u64::try_from(size).ok())
    });
    let ring = fields.get("ringHash").map(|at| size(&at, "minimumRingSize"));
    let maglev = fields.get("maglev").map(|at| {
        let table = size(&at, "tableSize")?;
        let wrong = match table {
            0 => Some("tableSize must be set for maglev"),
            MAX_TABLE.. => Some("tableSize must be less than 5000011 for maglev"),
            _ if !is_prime(table) => Some("tableSize must be a prime number for maglev"),
            _ => None,
        };
        if let Some(message) = wrong {
            at.error_as_istio(codes::MAGLEV, message, "65537 is usual");
            return None;
        }
        Some(table)
    });
    if ring.is_some() && maglev.is_some() {
        fields.at.error(codes::EXCLUSIVE, "ringHash and maglev exclude each other");
    }
    if old.is_some_and(|size| size != Some(0)) && (ring.is_some() || maglev.is_some()) {
        let message = "only one of MinimumRingSize or Maglev/Ringhash can be specified";
        fields.at.error_as_istio(codes::EXCLUSIVE, message, "leave minimumRingSize out");
    }
    match (maglev, ring.or(old)) {
        (Some(table), _) => Some(HashAlgorithm::Maglev { table_size: table? }),
        (None, Some(size)) => {
            let size = Some(size?).filter(|size| *size > 0).unwrap_or(RING_SIZE);
            Some(HashAlgorithm::RingHash { minimum_ring_size: size })
        }
        (None, None) => Some(HashAlgorithm::RingHash { minimum_ring_size: RING_SIZE }),
    }
}

fn is_prime(number: u64) -> bool {
    number > 1 && (2..).take_while(|factor| factor * factor <= number).all(|factor| !number.is_multiple_of(factor))
}

impl HashCookie {
    fn decode(at: &At<'_>) -> Option<Self> {
        let fields = at.fields()?;
        let text = |name| fields.get(name).and_then(|at| at.text()).unwrap_or_default().to_owned();
        let (name, path) = (text("name"), text("path"));
        if name.is_empty() {
            at.error_as_istio(codes::MISSING, "name required for HttpCookie", "");
        }
        let ttl = fields.get("ttl").and_then(|at| at.duration_or_zero());
        let mut attributes: Vec<(String, String)> = Vec::new();
        let list = fields.get("attributes");
        for item in list.as_ref().map(At::items).unwrap_or_default() {
            let Some(own) = item.fields() else { continue };
            let text = |name| own.get(name).and_then(|at| at.text()).unwrap_or_default().to_owned();
            let (name, value) = (text("name"), text("value"));
            own.finish();
            if name.is_empty() {
                item.error_as_istio(codes::EMPTY, "cookie attribute name cannot be empty", "");
            } else if attributes.iter().any(|(other, _)| *other == name) {
                item.error_as_istio(codes::DUPLICATE, format!("duplicate cookie attribute name: {name}"), "");
            } else {
                attributes.push((name, value));
            }
        }
        fields.finish();
        Some(Self { name, path, ttl, attributes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{complaints, spec_of};

    fn rule(text: &str) -> String {
        format!("{{host: a, trafficPolicy: {{loadBalancer: {{consistentHash: {text}}}}}}}")
    }

    fn hash(text: &str) -> ConsistentHash {
        let spec = spec_of("DestinationRule", &rule(text));
        let policy = spec.destination_rule().unwrap().policy.clone().unwrap();
        policy.blocks.load_balancer.unwrap().consistent_hash().unwrap().clone()
    }

    #[test]
    fn keys() {
        let key = |text| hash(text).key;
        assert_eq!(key("{httpHeaderName: X-User}"), Some(HashKey::Header("x-user".into())));
        assert_eq!(key("{httpQueryParameterName: User}"), Some(HashKey::QueryParameter("User".into())));
        assert_eq!(key("{useSourceIp: true}"), Some(HashKey::SourceIp));
        assert_eq!(key("{useSourceIp: false}"), None);
        let cookie = key(
            "{httpCookie: {name: c, path: /p, ttl: 0s, attributes: [{name: Secure}, {name: SameSite, value: Lax}]}}",
        );
        let Some(HashKey::Cookie(cookie)) = cookie else { panic!("a cookie") };
        assert_eq!((cookie.path.as_str(), cookie.ttl), ("/p", Some(Duration::ZERO)));
        assert_eq!(cookie.attributes[1], ("SameSite".to_owned(), "Lax".to_owned()));
    }

    #[test]
    fn algorithms() {
        let algorithm = |text| hash(text).algorithm;
        let ring = |minimum_ring_size| HashAlgorithm::RingHash { minimum_ring_size };
        assert_eq!(algorithm("{useSourceIp: true}"), ring(1_024));
        assert_eq!(algorithm("{useSourceIp: true, ringHash: {}}"), ring(1_024));
        assert_eq!(algorithm("{useSourceIp: true, ringHash: {minimumRingSize: '7'}}"), ring(7));
        assert_eq!(algorithm("{useSourceIp: true, minimumRingSize: 42}"), ring(42));
        assert_eq!(
            algorithm("{useSourceIp: true, maglev: {tableSize: 251}}"),
            HashAlgorithm::Maglev { table_size: 251 }
        );
    }

    #[test]
    fn what_a_hash_cannot_be() {
        for (text, code) in [
            ("{useSourceIp: true, httpHeaderName: x}", codes::EXCLUSIVE),
            ("{httpHeaderName: ''}", codes::EMPTY),
            ("{httpHeaderName: ':scheme'}", codes::HEADER),
            ("{httpCookie: {}}", codes::MISSING),
            ("{httpCookie: {name: c, attributes: [{name: a}, {name: a}]}}", codes::DUPLICATE),
            ("{maglev: {}}", codes::MAGLEV),
            ("{maglev: {tableSize: 250}}", codes::MAGLEV),
            ("{maglev: {tableSize: 5000011}}", codes::MAGLEV),
            ("{maglev: {tableSize: 251}, ringHash: {}}", codes::EXCLUSIVE),
            ("{minimumRingSize: 5, ringHash: {}}", codes::EXCLUSIVE),
            ("{minimumRingSize: 5}", codes::DEPRECATED),
        ] {
            let found = complaints("DestinationRule", &rule(text));
            assert!(found.iter().any(|(found, _)| *found == code), "{text}: {found:?}");
        }
    }
}
