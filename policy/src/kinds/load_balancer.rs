//! `LoadBalancerSettings`: which endpoint of many.

use std::time::Duration;

use super::{ConsistentHash, LocalityLb, ZoneAwareLb, traffic_policy::plain_percent};
use crate::{
    codes,
    decode::{At, Fields},
};

/// `LoadBalancerSettings`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LoadBalancer {
    /// How one is chosen among those of a priority.
    pub algorithm: Algorithm,
    /// Replaces the mesh's own setting entirely.
    pub locality: Option<LocalityLb>,
    /// Never together with `locality`.
    pub zone_aware: Option<ZoneAwareLb>,
    /// Slow start of new endpoints; for least request and round robin.
    pub warmup: Option<Warmup>,
}

/// How an endpoint is chosen.
#[derive(Debug, Clone, PartialEq)]
pub enum Algorithm {
    /// `simple`, but for PASSTHROUGH; least request where nothing is said.
    Simple(Balance),
    /// `simple: PASSTHROUGH`: the address that the caller meant to reach.
    Passthrough,
    /// `consistentHash`: by something in the request.
    ConsistentHash(ConsistentHash),
}

/// How one endpoint is chosen among many; all heed the endpoints' weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Balance {
    /// Power of two choices by active requests; the default.
    #[default]
    LeastRequest,
    /// In turn.
    RoundRobin,
    /// By chance.
    Random,
    /// `PEAK_EWMA`, a word of Skein's own: of two by chance the one that is expected to answer sooner.
    PeakEwma,
}

/// `WarmupConfiguration`: a new endpoint's weight grows from a share of itself to the whole.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Warmup {
    /// How long it grows.
    pub duration: Duration,
    /// The share that it starts with, in parts of a million.
    pub min_per_million: u32,
    /// 1 grows evenly, more grows slowly first: share = (time / duration)^(1 / aggression). Above 0.
    pub aggression: f64,
}

/// Fields that this build does not apply; see also PASSTHROUGH.
const NOT_BUILT: [&str; 1] = ["zoneAwareLbSetting"];

impl Default for Algorithm {
    fn default() -> Self {
        Self::Simple(Balance::default())
    }
}

impl LoadBalancer {
    /// The hash that decides, if one does. Retries then go to hosts that were tried before.
    pub fn consistent_hash(&self) -> Option<&ConsistentHash> {
        match &self.algorithm {
            Algorithm::ConsistentHash(hash) => Some(hash),
            Algorithm::Simple(_) | Algorithm::Passthrough => None,
        }
    }

    /// `guarded`: outlier detection stands beside it.
    pub(super) fn decode(at: &At<'_>, guarded: bool) -> Option<Self> {
        let fields = at.fields()?;
        let simple = fields.get("simple").and_then(|at| decode_simple(&at));
        let hash = fields.get("consistentHash").map(|at| ConsistentHash::decode(&at));
        if fields.has("simple") && hash.is_some() {
            at.error(codes::EXCLUSIVE, "simple and consistentHash exclude each other");
        }
        let locality = fields.get("localityLbSetting").map(|at| LocalityLb::decode(&at, guarded));
        let zone_aware = fields.get("zoneAwareLbSetting").map(|at| ZoneAwareLb::decode(&at, guarded));
        if locality.is_some() && zone_aware.is_some() {
            let message = "only one of localityLbSetting and zoneAwareLbSetting can be set";
            at.error_as_istio(codes::EXCLUSIVE, message, "");
        }
        let warmup = Warmup::read(&fields);
        fields.not_supported(&NOT_BUILT);
        fields.finish();
        let algorithm = match hash.flatten() {
            Some(hash) => Algorithm::ConsistentHash(hash),
            None => simple.unwrap_or_default(),
        };
        Some(Self { algorithm, locality: locality.flatten(), zone_aware: zone_aware.flatten(), warmup })
    }
}

fn decode_simple(at: &At<'_>) -> Option<Algorithm> {
    let balance = at.word(&[
        ("UNSPECIFIED", Some(Balance::LeastRequest)),
        ("LEAST_REQUEST", Some(Balance::LeastRequest)),
        ("LEAST_CONN", Some(Balance::LeastRequest)),
        ("ROUND_ROBIN", Some(Balance::RoundRobin)),
        ("RANDOM", Some(Balance::Random)),
        ("PEAK_EWMA", Some(Balance::PeakEwma)),
        ("PASSTHROUGH", None),
    ])?;
    if at.is_word("LEAST_CONN") {
        at.warn(codes::DEPRECATED, "LEAST_CONN is deprecated", "write LEAST_REQUEST");
    }
    if balance.is_none() {
        at.unbuilt("`PASSTHROUGH` (callers name a service, not an address that requests could be passed on to)");
    }
    Some(balance.map_or(Algorithm::Passthrough, Algorithm::Simple))
}

impl Warmup {
    /// The share of a new endpoint where nothing else is said: 10 %.
    const MIN_PER_MILLION: u32 = 100_000;

    fn read(fields: &Fields<'_>) -> Option<Self> {
        let old = fields.get("warmupDurationSecs").map(|at| {
            at.warn(codes::DEPRECATED, "warmupDurationSecs is deprecated", "write warmup: {duration: ...}");
            at.duration()
        });
        let new = fields.get("warmup").map(|at| Self::decode(&at));
        if old.is_some() && new.is_some() {
            let message = "only one of warmupDurationSecs or warmup can be set";
            fields.at.error_as_istio(codes::EXCLUSIVE, message, "write warmup only");
        }
        match (new, old) {
            (Some(warmup), _) => warmup,
            (None, Some(duration)) => {
                Some(Self { duration: duration?, min_per_million: Self::MIN_PER_MILLION, aggression: 1.0 })
            }
            (None, None) => None,
        }
    }

    fn decode(at: &At<'_>) -> Option<Self> {
        let fields = at.fields()?;
        let duration = fields.get("duration");
        if duration.is_none() {
            at.error_as_istio(codes::MISSING, "duration is required", "");
        }
        let duration = duration.and_then(|at| at.duration());
        let least = fields.get("minimumPercent").map_or(Some(Self::MIN_PER_MILLION), |at| plain_percent(&at));
        let aggression = fields.get("aggression").map_or(Some(1.0), |at| {
            let aggression = at.number()?;
            if aggression.is_nan() || aggression <= 0.0 {
                at.error_as_istio(codes::RANGE, "aggression should be greater than 0", "1 grows evenly");
                return None;
            }
            Some(aggression)
        });
        fields.finish();
        Some(Self { duration: duration?, min_per_million: least?, aggression: aggression? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{complaints, spec_of};

    fn balancer(text: &str) -> LoadBalancer {
        let spec = spec_of("DestinationRule", &format!("{{host: a, trafficPolicy: {{loadBalancer: {text}}}}}"));
        spec.destination_rule().unwrap().policy.clone().unwrap().blocks.load_balancer.unwrap()
    }

    #[test]
    fn algorithms() {
        for (text, algorithm) in [
            ("{}", Algorithm::Simple(Balance::LeastRequest)),
            ("{simple: UNSPECIFIED}", Algorithm::Simple(Balance::LeastRequest)),
            ("{simple: LEAST_CONN}", Algorithm::Simple(Balance::LeastRequest)),
            ("{simple: ROUND_ROBIN}", Algorithm::Simple(Balance::RoundRobin)),
            ("{simple: PEAK_EWMA}", Algorithm::Simple(Balance::PeakEwma)),
            ("{simple: PASSTHROUGH}", Algorithm::Passthrough),
        ] {
            assert_eq!(balancer(text).algorithm, algorithm, "{text}");
        }
        assert!(balancer("{consistentHash: {useSourceIp: true}}").consistent_hash().is_some());
    }

    #[test]
    fn new_endpoints_warm_up() {
        let whole = balancer("{warmup: {duration: 5m, minimumPercent: 2.5, aggression: 1.5}}").warmup.unwrap();
        assert_eq!((whole.duration, whole.min_per_million), (Duration::from_secs(300), 25_000));
        assert!(whole.aggression > 1.4);
        for default in ["{warmup: {duration: 30s}}", "{warmupDurationSecs: 30s}"] {
            let warmup = Warmup { duration: Duration::from_secs(30), min_per_million: 100_000, aggression: 1.0 };
            assert_eq!(balancer(default).warmup, Some(warmup), "{default}");
        }
    }

    #[test]
    fn what_a_balancer_cannot_be() {
        for (text, code) in [
            ("{simple: RANDOM, consistentHash: {useSourceIp: true}}", codes::EXCLUSIVE),
            ("{simple: FASTEST}", codes::WORD),
            ("{simple: PASSTHROUGH}", codes::NOT_SUPPORTED),
            ("{localityLbSetting: {}, zoneAwareLbSetting: {}}", codes::EXCLUSIVE),
            ("{warmup: {duration: 1s}, warmupDurationSecs: 1s}", codes::EXCLUSIVE),
            ("{warmup: {}}", codes::MISSING),
            ("{warmup: {duration: 1s, minimumPercent: 100.1}}", codes::RANGE),
            ("{warmup: {duration: 1s, aggression: 0}}", codes::RANGE),
        ] {
            let found = complaints("DestinationRule", &format!("{{host: a, trafficPolicy: {{loadBalancer: {text}}}}}"));
            assert!(found.iter().any(|(found, _)| *found == code), "{text}: {found:?}");
        }
    }
}
