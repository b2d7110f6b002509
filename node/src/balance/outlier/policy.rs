//! What counts as an error and how many are too many: Istio's `outlierDetection`, with its defaults filled in.

use super::{Millis, Outcome};

/// No ejection lasts longer than this, unless the base itself is longer.
pub const LONGEST_EJECTION_MS: Millis = 300_000;

/// `outlierDetection` of a DestinationRule. The default is what an empty block means.
///
/// `minHealthPercent`, which stands in the same block, is a matter of the choice of endpoint and not of ejection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutlierPolicy {
    /// Errors in a row, of whatever kind; 0 is off.
    pub consecutive_errors: u32,
    /// 502, 503 and 504 in a row; 0 is off. Without effect from `consecutive_errors` on.
    pub consecutive_gateway_errors: u32,
    /// Failures in a row to get any answer, counted only with `split_local_origin`; 0 is off.
    pub consecutive_local_origin: u32,
    /// True if failures to get any answer have a count of their own and are no 5xx.
    pub split_local_origin: bool,
    /// Time between two sweeps; endpoints return at sweeps only.
    pub interval: Millis,
    /// An endpoint is out for this long times the count of its recent ejections.
    pub base_ejection: Millis,
    /// The largest share of a cluster's endpoints that may be out at once.
    ///
    /// Envoy's arithmetic since 1.31 and Istio's refusal to always eject one: with the default of 10 a cluster of
    /// fewer than ten endpoints ejects nothing. Who has few endpoints says 100.
    pub max_ejection_percent: u8,
    /// The statuses that count as errors.
    pub error_statuses: Statuses,
}

impl Default for OutlierPolicy {
    fn default() -> Self {
        OutlierPolicy {
            consecutive_errors: 5,
            consecutive_gateway_errors: 0,
            consecutive_local_origin: 5,
            split_local_origin: false,
            interval: 10_000,
            base_ejection: 30_000,
            max_ejection_percent: 10,
            error_statuses: Statuses::SERVER_ERRORS,
        }
    }
}

impl OutlierPolicy {
    /// True if an attempt that ended so counts against its endpoint, whichever count it is for.
    #[must_use]
    pub fn is_error(&self, outcome: Outcome) -> bool {
        match outcome {
            Outcome::Status(status) => self.error_statuses.contains(status),
            Outcome::Connected => false,
            Outcome::ConnectFailure | Outcome::Timeout | Outcome::Reset => true,
        }
    }

    /// True if one more endpoint may go out when `out` of `total` already are.
    pub(super) fn may_eject(&self, out: usize, total: usize) -> bool {
        (out + 1) * 100 <= usize::from(self.max_ejection_percent) * total
    }

    /// The longest time that any ejection lasts.
    pub(super) fn longest_ejection(&self) -> Millis {
        self.base_ejection.max(LONGEST_EJECTION_MS)
    }
}

/// A set of HTTP statuses, 100 to 599.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Statuses {
    words: [u64; Self::WORDS],
}

impl Statuses {
    const WORDS: usize = 600 / 64 + 1;

    /// 500 to 599: what counts unless `outlierDetectionHttpErrorCodes` says otherwise.
    pub const SERVER_ERRORS: Statuses = {
        let mut all = Statuses { words: [0; Self::WORDS] };
        let mut status = 500;
        while status < 600 {
            all.words[status / 64] |= 1 << (status % 64);
            status += 1;
        }
        all
    };

    /// True if the status is in the set.
    #[must_use]
    pub fn contains(&self, status: u16) -> bool {
        let status = usize::from(status);
        self.words.get(status / 64).is_some_and(|word| word & (1 << (status % 64)) != 0)
    }
}

impl FromIterator<u16> for Statuses {
    /// Statuses above 599, which no validated document holds, are in no set.
    fn from_iter<I: IntoIterator<Item = u16>>(statuses: I) -> Self {
        let mut all = Statuses::default();
        for status in statuses.into_iter().filter(|status| *status < 600) {
            all.words[usize::from(status) / 64] |= 1 << (status % 64);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_errors_are_the_whole_class() {
        for status in 0..1_000 {
            assert_eq!(Statuses::SERVER_ERRORS.contains(status), (500..600).contains(&status), "{status}");
        }
        let chosen: Statuses = [429, 599, 600, 9_999].into_iter().collect();
        assert!(chosen.contains(429) && chosen.contains(599));
        assert!(!chosen.contains(600) && !chosen.contains(9_999) && !chosen.contains(500));
    }

    #[test]
    fn the_cap_counts_the_next_one() {
        let policy = OutlierPolicy::default();
        assert!(!policy.may_eject(0, 9), "one of nine is more than ten percent");
        assert!(policy.may_eject(0, 10));
        assert!(!policy.may_eject(1, 19));
        assert!(policy.may_eject(1, 20));
        let all = OutlierPolicy { max_ejection_percent: 100, ..OutlierPolicy::default() };
        assert!(all.may_eject(0, 1) && all.may_eject(6, 7) && !all.may_eject(7, 7));
    }
}
