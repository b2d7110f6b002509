//! Errors in a row of one endpoint in one cluster. Every attempt ends here, so it is atomics alone: a success reads two
//! words, an error adds to them.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use super::{Millis, OutlierPolicy};

/// The threshold while others report the endpoint, unless the policy's is lower still.
pub const ALERT_THRESHOLD: u32 = 2;

/// How an attempt ended. What never left this node, as an overflow of the pool, is no outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A response's head came. For gRPC: the HTTP status that its status maps to.
    Status(u16),
    /// A TCP connection was made, or an answer came that has no status.
    Connected,
    /// No connection, in time or at all. Without `split_local_origin` it counts as 503.
    ConnectFailure,
    /// No answer in time. Without `split_local_origin` it counts as 504.
    Timeout,
    /// The connection ended before the answer. Without `split_local_origin` it counts as 503.
    Reset,
}

/// Which limit an endpoint met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Why {
    /// `consecutive5xxErrors`.
    Errors,
    /// `consecutiveGatewayErrors`.
    GatewayErrors,
    /// `consecutiveLocalOriginFailures`.
    LocalOrigin,
}

impl Why {
    /// The field of `outlierDetection` whose limit was met.
    #[must_use]
    pub const fn field(self) -> &'static str {
        match self {
            Self::Errors => "consecutive5xxErrors",
            Self::GatewayErrors => "consecutiveGatewayErrors",
            Self::LocalOrigin => "consecutiveLocalOriginFailures",
        }
    }
}

/// The counts. Begun once per endpoint and cluster by [`super::Outliers`]; they outlive snapshots and changes of policy.
#[derive(Debug, Default)]
pub struct Tally {
    errors: AtomicU32,
    gateway: AtomicU32,
    local_origin: AtomicU32,
    ejected: AtomicBool,
    alert_until: AtomicU64,
}

impl Tally {
    /// Counts an attempt's end. An answer means that the endpoint met a limit: hand it to [`super::Outliers::handle`]
    /// as [`super::Event::Tripped`]. The count that met its limit begins anew.
    #[must_use]
    pub fn note(&self, outcome: Outcome, policy: &OutlierPolicy, now: Millis) -> Option<Why> {
        let split = policy.split_local_origin;
        match outcome {
            Outcome::Status(status) => {
                if split {
                    reset(&self.local_origin);
                }
                let error = policy.error_statuses.contains(status);
                self.note_answer(error, error && matches!(status, 502..=504), policy, now)
            }
            Outcome::Connected => {
                if split {
                    reset(&self.local_origin);
                    return None;
                }
                self.note_answer(false, false, policy, now)
            }
            Outcome::ConnectFailure | Outcome::Timeout | Outcome::Reset if split => {
                let limit = self.limit(policy.consecutive_local_origin, now);
                add(&self.local_origin, limit).then_some(Why::LocalOrigin)
            }
            Outcome::ConnectFailure | Outcome::Timeout | Outcome::Reset => self.note_answer(true, true, policy, now),
        }
    }

    /// True while the cluster does without the endpoint.
    #[must_use]
    pub fn is_ejected(&self) -> bool {
        self.ejected.load(Relaxed)
    }

    /// Of each kind that the policy counts one more: a probe of this node's own failed.
    pub(super) fn charge(&self, policy: &OutlierPolicy, now: Millis) -> Option<Why> {
        let answer = self.note_answer(true, true, policy, now);
        if !policy.split_local_origin {
            return answer;
        }
        let limit = self.limit(policy.consecutive_local_origin, now);
        let local = add(&self.local_origin, limit).then_some(Why::LocalOrigin);
        answer.or(local)
    }

    /// One error of each kind that the policy counts, where that is not enough to meet a limit.
    pub(super) fn doubt(&self, policy: &OutlierPolicy) {
        let local_origin = if policy.split_local_origin { policy.consecutive_local_origin } else { 0 };
        let counts = [
            (&self.errors, policy.consecutive_errors),
            (&self.gateway, policy.consecutive_gateway_errors),
            (&self.local_origin, local_origin),
        ];
        for (count, _) in counts.into_iter().filter(|(_, threshold)| *threshold > 1) {
            count.fetch_max(1, Relaxed);
        }
    }

    /// Lowers the thresholds until then.
    pub(super) fn alert(&self, until: Millis) {
        self.alert_until.fetch_max(until, Relaxed);
    }

    /// Ends what [`Tally::alert`] began.
    pub(super) fn hush(&self) {
        self.alert_until.store(0, Relaxed);
    }

    pub(super) fn eject(&self) {
        self.ejected.store(true, Relaxed);
    }

    /// Errors from before, and of requests that ended meanwhile, do not count against an endpoint that returns.
    pub(super) fn admit(&self) {
        for count in [&self.errors, &self.gateway, &self.local_origin] {
            count.store(0, Relaxed);
        }
        self.ejected.store(false, Relaxed);
    }

    fn note_answer(&self, error: bool, gateway: bool, policy: &OutlierPolicy, now: Millis) -> Option<Why> {
        if !error {
            reset(&self.errors);
            reset(&self.gateway);
            return None;
        }
        let by_gateway = if gateway {
            add(&self.gateway, self.limit(policy.consecutive_gateway_errors, now))
        } else {
            reset(&self.gateway);
            false
        };
        let by_errors = add(&self.errors, self.limit(policy.consecutive_errors, now));
        if by_gateway { Some(Why::GatewayErrors) } else { by_errors.then_some(Why::Errors) }
    }

    /// The threshold in force; 0 is off.
    fn limit(&self, threshold: u32, now: Millis) -> u32 {
        if now < self.alert_until.load(Relaxed) { threshold.min(ALERT_THRESHOLD) } else { threshold }
    }
}

/// A success writes only where there is something to forget, so that the line stays shared among workers.
fn reset(count: &AtomicU32) {
    if count.load(Relaxed) != 0 {
        count.store(0, Relaxed);
    }
}

/// One more error. Of several that meet the limit together exactly one is told so, because it is the one that resets.
fn add(count: &AtomicU32, limit: u32) -> bool {
    if limit == 0 {
        return false;
    }
    let now = count.fetch_add(1, Relaxed).saturating_add(1);
    now >= limit && count.swap(0, Relaxed) >= limit
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    const FAILED: [Outcome; 3] = [Outcome::ConnectFailure, Outcome::Timeout, Outcome::Reset];

    fn run(policy: &OutlierPolicy, outcomes: &[Outcome]) -> Vec<Option<Why>> {
        let tally = Tally::default();
        outcomes.iter().map(|outcome| tally.note(*outcome, policy, 0)).collect()
    }

    fn policy() -> OutlierPolicy {
        OutlierPolicy { consecutive_errors: 3, ..OutlierPolicy::default() }
    }

    #[test]
    fn errors_in_a_row_trip_and_begin_anew() {
        let error = Outcome::Status(500);
        assert_eq!(run(&policy(), &[error; 6]), [None, None, Some(Why::Errors), None, None, Some(Why::Errors)]);
    }

    #[test]
    fn one_success_forgets_all() {
        let (bad, good) = (Outcome::Status(503), Outcome::Status(404));
        assert_eq!(run(&policy(), &[bad, bad, good, bad, bad, Outcome::Connected, bad, bad]), [None; 8]);
    }

    #[test]
    fn without_split_failures_to_connect_are_gateway_errors() {
        let policy = OutlierPolicy { consecutive_gateway_errors: 3, consecutive_errors: 0, ..OutlierPolicy::default() };
        assert_eq!(run(&policy, &FAILED), [None, None, Some(Why::GatewayErrors)]);
        let bad = Outcome::Status(502);
        assert_eq!(run(&policy, &[bad, bad, Outcome::Status(500), bad]), [None; 4], "a plain 500 parts the row");
    }

    #[test]
    fn with_split_they_have_a_count_of_their_own() {
        let policy = OutlierPolicy { consecutive_local_origin: 3, split_local_origin: true, ..policy() };
        assert_eq!(run(&policy, &FAILED), [None, None, Some(Why::LocalOrigin)]);
        let (bad, lost) = (Outcome::Status(500), Outcome::Reset);
        // An answer, even a bad one, shows that the endpoint can be reached; a lost one says nothing of its answers.
        assert_eq!(run(&policy, &[lost, lost, bad, lost, lost]), [None; 5]);
        assert_eq!(run(&policy, &[bad, bad, lost, bad]), [None, None, None, Some(Why::Errors)]);
        assert_eq!(run(&policy, &[lost, lost, Outcome::Connected, lost]), [None; 4]);
    }

    #[test]
    fn an_alert_lowers_what_is_on_for_a_while() {
        let tally = Tally::default();
        tally.alert(1_000);
        let bad = Outcome::Status(500);
        let policy = OutlierPolicy::default();
        assert_eq!([0, 1].map(|now| tally.note(bad, &policy, now)), [None, Some(Why::Errors)]);
        assert_eq!([1_000, 1_001, 1_002].map(|now| tally.note(bad, &policy, now)), [None; 3], "the alert is over");
        let off = OutlierPolicy { consecutive_errors: 0, ..policy };
        tally.alert(9_000);
        assert_eq!([2_000; 9].map(|now| tally.note(bad, &off, now)), [None; 9], "what is off stays off");
        let one = OutlierPolicy { consecutive_errors: 1, ..off };
        assert_eq!(Tally::default().note(bad, &one, 0), Some(Why::Errors));
    }

    #[test]
    fn of_many_threads_one_is_told() {
        let (tally, policy) = (Arc::new(Tally::default()), policy());
        let threads: Vec<_> = (0..3)
            .map(|_| {
                let (tally, policy) = (Arc::clone(&tally), policy.clone());
                std::thread::spawn(move || tally.note(Outcome::Status(500), &policy, 0).is_some())
            })
            .collect();
        assert_eq!(threads.into_iter().map(|t| t.join().unwrap()).filter(|told| *told).count(), 1);
    }
}
