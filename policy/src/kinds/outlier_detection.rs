//! `OutlierDetection`: endpoints that fail are left out for a while.

use std::time::Duration;

use crate::{codes, decode::At, tree::Value};

/// `OutlierDetection`, per calling proxy. An endpoint that is out comes back at a sweep; a success resets what was counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutlierDetection {
    /// Errors in a row that eject; 0 is off. Connections that fail and streams that are reset count, unless `split` is set.
    pub consecutive_5xx: u32,
    /// 502, 503 and 504 in a row that eject; 0 is off. Of no effect from `consecutive_5xx` on.
    pub consecutive_gateway: u32,
    /// `splitExternalLocalOriginErrors`: failures without an answer are counted apart, and not as 5xx.
    pub split: bool,
    /// Failures without an answer in a row that eject, if `split` is set; 0 is off.
    pub consecutive_local_origin: u32,
    /// Between sweeps, at which endpoints come back.
    pub interval: Duration,
    /// Out for this long, times how often it was ejected.
    pub base_ejection_time: Duration,
    /// Share of the endpoints that may be out at once, in percent.
    pub max_ejection_percent: u32,
    /// True if the document says so, not the default.
    pub says_max_ejection: bool,
    /// With fewer endpoints in, all are used, healthy or not; in percent, 0 is never.
    pub min_health_percent: u32,
    /// `outlierDetectionHttpErrorCodes`: statuses that are errors; none: 500 to 599.
    pub error_codes: Vec<u16>,
}

impl Default for OutlierDetection {
    fn default() -> Self {
        Self {
            consecutive_5xx: 5,
            consecutive_gateway: 0,
            split: false,
            consecutive_local_origin: 5,
            interval: Duration::from_secs(10),
            base_ejection_time: Duration::from_secs(30),
            max_ejection_percent: 10,
            says_max_ejection: false,
            min_health_percent: 0,
            error_codes: Vec::new(),
        }
    }
}

impl OutlierDetection {
    /// True if an answer with this status counts as an error.
    pub fn is_error(&self, status: u16) -> bool {
        if self.error_codes.is_empty() { (500..600).contains(&status) } else { self.error_codes.contains(&status) }
    }

    pub(super) fn decode(at: &At<'_>) -> Option<Self> {
        let fields = at.fields()?;
        let default = Self::default();
        let count = |name, otherwise| {
            let number = fields.get(name).and_then(|at| at.integer(0..=i64::from(u32::MAX)));
            number.and_then(|number| u32::try_from(number).ok()).unwrap_or(otherwise)
        };
        let time = |name, otherwise| fields.get(name).and_then(|at| at.duration()).unwrap_or(otherwise);
        let percent = |name| {
            let number = fields.get(name).and_then(|at| {
                let number = at.integer(i64::MIN..=i64::MAX)?;
                if !(0..=100).contains(&number) {
                    at.error_as_istio(codes::RANGE, format!("percentage {number} is not in range 0..100"), "");
                }
                u32::try_from(number).ok()
            });
            number.filter(|number| *number > 0)
        };
        if let Some(at) = fields.get("consecutiveErrors").filter(|at| at.integer(0..=i64::from(i32::MAX)) != Some(0)) {
            let message = "consecutiveErrors is deprecated and has no effect";
            at.warn(codes::DEPRECATED, message, "write consecutiveGatewayErrors or consecutive5xxErrors");
        }
        let split = fields.get("splitExternalLocalOriginErrors").and_then(|at| at.boolean()).unwrap_or(false);
        let local = fields.get("consecutiveLocalOriginFailures").filter(|at| at.node.value != Value::Integer(0));
        if let Some(at) = local.filter(|_| !split) {
            let message = "outlier detection consecutive local origin failures is specified, but split external local origin errors is set to false";
            at.error_as_istio(codes::EXCLUSIVE, message, "set splitExternalLocalOriginErrors: true");
        }
        let max_ejection = percent("maxEjectionPercent");
        let decoded = Self {
            consecutive_5xx: count("consecutive5xxErrors", default.consecutive_5xx),
            consecutive_gateway: count("consecutiveGatewayErrors", default.consecutive_gateway),
            split,
            consecutive_local_origin: count("consecutiveLocalOriginFailures", default.consecutive_local_origin),
            interval: time("interval", default.interval),
            base_ejection_time: time("baseEjectionTime", default.base_ejection_time),
            max_ejection_percent: max_ejection.unwrap_or(default.max_ejection_percent),
            says_max_ejection: max_ejection.is_some(),
            min_health_percent: percent("minHealthPercent").unwrap_or(default.min_health_percent),
            error_codes: fields
                .get("outlierDetectionHttpErrorCodes")
                .map(|list| decode_codes(&list))
                .unwrap_or_default(),
        };
        fields.finish();
        Some(decoded)
    }
}

fn decode_codes(list: &At<'_>) -> Vec<u16> {
    let mut codes: Vec<u16> = list.items().iter().filter_map(|at| u16::try_from(at.integer(100..=599)?).ok()).collect();
    codes.sort_unstable();
    codes.dedup();
    codes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{complaints, spec_of};

    fn detection(text: &str) -> OutlierDetection {
        let spec = spec_of("DestinationRule", &format!("{{host: a, trafficPolicy: {{outlierDetection: {text}}}}}"));
        spec.destination_rule().unwrap().policy.clone().unwrap().blocks.outlier_detection.unwrap()
    }

    #[test]
    fn empty_is_all_defaults() {
        assert_eq!(detection("{}"), OutlierDetection::default());
        assert_eq!(detection("{maxEjectionPercent: 0, minHealthPercent: 0}"), OutlierDetection::default());
        assert_eq!(detection("{consecutive5xxErrors: 0}").consecutive_5xx, 0);
        let full = detection(
            "{consecutive_5xx_errors: 7, consecutiveGatewayErrors: 2, splitExternalLocalOriginErrors: true,
              consecutiveLocalOriginFailures: 3, interval: 5s, baseEjectionTime: 1m, maxEjectionPercent: 100, minHealthPercent: 50}",
        );
        assert_eq!((full.consecutive_5xx, full.consecutive_gateway, full.consecutive_local_origin), (7, 2, 3));
        assert_eq!((full.max_ejection_percent, full.min_health_percent, full.split), (100, 50, true));
        assert_eq!(full.base_ejection_time, Duration::from_secs(60));
    }

    #[test]
    fn statuses_that_are_errors() {
        assert!(detection("{}").is_error(599) && !detection("{}").is_error(429));
        let own = detection("{outlierDetectionHttpErrorCodes: [503, 429, 503]}");
        assert_eq!(own.error_codes, [429, 503]);
        assert!(own.is_error(429) && !own.is_error(500));
    }

    #[test]
    fn what_detection_cannot_be() {
        for (text, code) in [
            ("{interval: 0s}", codes::DURATION),
            ("{maxEjectionPercent: 101}", codes::RANGE),
            ("{minHealthPercent: -1}", codes::RANGE),
            ("{consecutiveLocalOriginFailures: 1}", codes::EXCLUSIVE),
            ("{consecutiveErrors: 3}", codes::DEPRECATED),
            ("{outlierDetectionHttpErrorCodes: [99]}", codes::RANGE),
        ] {
            let found =
                complaints("DestinationRule", &format!("{{host: a, trafficPolicy: {{outlierDetection: {text}}}}}"));
            assert!(found.iter().any(|(found, _)| *found == code), "{text}: {found:?}");
        }
    }
}
