//! One bucket: whether the next request is let in. Times here are nanoseconds of a clock that never goes back.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use policy::kinds::LimitRule;

use super::Millis;

/// `limit` of a RateLimit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Requests allowed per `interval`.
    pub requests: u32,
    /// In milliseconds; 0 counts as 1.
    pub interval: Millis,
    /// Bucket size in requests; 0 counts as 1.
    pub burst: u32,
}

/// The request is too many: 429.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many requests, the next one fits in {after} ms")]
pub struct Refused {
    /// When the next one fits, if none is let in until then: `Retry-After`, rounded up.
    pub after: Millis,
}

/// What is left after a request was let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// So many more requests fit now.
    pub remaining: u64,
    /// When all do that ever fit at once, if none is let in until then.
    pub full_after: Millis,
}

/// The pace of a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pace {
    /// Nanoseconds that one request costs.
    pub(super) period: u64,
    /// How far ahead of the time a bucket may be: what a burst costs.
    pub(super) depth: u64,
}

impl Limit {
    /// What a rule says.
    #[must_use]
    pub fn of(rule: &LimitRule) -> Limit {
        let interval = u64::try_from(rule.interval.as_millis()).unwrap_or(u64::MAX);
        Limit { requests: rule.requests, interval, burst: rule.burst }
    }

    /// Requests per second.
    pub(super) fn rate(&self) -> f64 {
        f64::from(self.requests) * 1_000.0 / interval(self.interval)
    }

    /// The pace of a part of the limit, 1 being the whole and the most. A burst is one request at least, or none would ever fit.
    pub(super) fn pace(&self, part: f64) -> Pace {
        let part = part.min(1.0);
        let rate = self.rate() * part;
        if rate <= 0.0 {
            return Pace { period: u64::MAX, depth: 0 };
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
        let nanos = |requests: f64| (requests * 1e9 / rate) as u64;
        Pace { period: nanos(1.0).max(1), depth: nanos((f64::from(self.burst) * part).max(1.0)) }
    }
}

fn interval(millis: Millis) -> f64 {
    f64::from(u32::try_from(millis.max(1)).unwrap_or(u32::MAX))
}

/// Lets a request in if the bucket `full_at` has room for it at `now`.
pub(super) fn admit(full_at: &AtomicU64, pace: Pace, now: u64) -> Result<Room, Refused> {
    let next = |full_at: u64| {
        let next = full_at.max(now).saturating_add(pace.period);
        (next - now <= pace.depth).then_some(next)
    };
    match full_at.fetch_update(Relaxed, Relaxed, next) {
        Ok(full_at) => {
            let used = full_at.max(now).saturating_add(pace.period) - now;
            let remaining = pace.depth.saturating_sub(used) / pace.period.max(1);
            Ok(Room { remaining, full_after: used.div_ceil(1_000_000) })
        }
        Err(full_at) => {
            let wait = full_at.max(now).saturating_add(pace.period).saturating_sub(now.saturating_add(pace.depth));
            Err(Refused { after: wait.div_ceil(1_000_000) })
        }
    }
}

/// A bucket whose pace may change: this node's share of a mesh-wide limit. Counts what is asked, because that is what a
/// share follows.
#[derive(Debug)]
#[repr(align(64))]
pub struct Gate {
    full_at: AtomicU64,
    period: AtomicU64,
    depth: AtomicU64,
    asked: AtomicU64,
    refused: AtomicU64,
}

impl Gate {
    pub(super) fn new(pace: Pace) -> Gate {
        let [full_at, asked, refused] = [const { AtomicU64::new(0) }; 3];
        Gate { full_at, period: AtomicU64::new(pace.period), depth: AtomicU64::new(pace.depth), asked, refused }
    }

    /// Lets a request in, or not.
    ///
    /// # Errors
    /// The share is used up.
    pub fn admit(&self, now_micros: u64) -> Result<Room, Refused> {
        self.asked.fetch_add(1, Relaxed);
        let verdict = admit(&self.full_at, self.pace(), now_micros.saturating_mul(1_000));
        if verdict.is_err() {
            self.refused.fetch_add(1, Relaxed);
        }
        verdict
    }

    /// Takes back that a request was let in: another limit refused it. It was asked all the same.
    pub fn give_back(&self) {
        let period = self.period.load(Relaxed);
        let _ = self.full_at.fetch_update(Relaxed, Relaxed, |full_at| Some(full_at.saturating_sub(period)));
    }

    /// Requests since it began.
    #[must_use]
    pub fn asked(&self) -> u64 {
        self.asked.load(Relaxed)
    }

    /// Those that were not let in.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    /// The part of this limit that it lets in, 1 being the whole.
    pub(super) fn part(&self, limit: &Limit) -> f64 {
        limit.pace(1.0).period as f64 / self.period.load(Relaxed).max(1) as f64
    }

    /// How many requests it has room for less than when it is full.
    pub(super) fn used(&self, now: u64) -> u64 {
        self.full_at.load(Relaxed).saturating_sub(now).div_ceil(self.period.load(Relaxed).max(1))
    }

    /// Forgets everything and is full.
    pub(super) fn begin(&self, pace: Pace, now: u64) {
        self.store(pace);
        self.full_at.store(now, Relaxed);
        self.asked.store(0, Relaxed);
        self.refused.store(0, Relaxed);
    }

    /// Changes the pace and keeps the requests that it has room for, as far as the new burst allows: a share that grows
    /// comes empty. So no move of shares between nodes makes room that was not there.
    pub(super) fn set(&self, pace: Pace, now: u64) {
        let before = self.pace();
        if before == pace {
            return;
        }
        let refill = |full_at: u64| {
            let room = before.depth.saturating_sub(full_at.saturating_sub(now)) as f64 / before.period as f64;
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
            let kept = (room * pace.period as f64) as u64;
            Some(now.saturating_add(pace.depth.saturating_sub(kept)))
        };
        // Whoever asks between the two steps finds less room than there is, never more.
        if pace.period < before.period {
            let _ = self.full_at.fetch_update(Relaxed, Relaxed, refill);
            self.store(pace);
        } else {
            self.store(pace);
            let _ = self.full_at.fetch_update(Relaxed, Relaxed, refill);
        }
    }

    fn pace(&self) -> Pace {
        Pace { period: self.period.load(Relaxed), depth: self.depth.load(Relaxed) }
    }

    fn store(&self, pace: Pace) {
        self.period.store(pace.period, Relaxed);
        self.depth.store(pace.depth, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: Limit = Limit { requests: 10, interval: 1_000, burst: 3 };
    const MS: u64 = 1_000_000;

    #[test]
    fn a_burst_is_let_in_and_then_the_rate() {
        let (full_at, pace) = (AtomicU64::new(0), LIMIT.pace(1.0));
        let mut now = 5_000 * MS;
        for (remaining, full_after) in [(2, 100), (1, 200), (0, 300)] {
            assert_eq!(admit(&full_at, pace, now), Ok(Room { remaining, full_after }));
        }
        assert_eq!(admit(&full_at, pace, now), Err(Refused { after: 100 }));
        now += 99 * MS;
        assert_eq!(admit(&full_at, pace, now), Err(Refused { after: 1 }));
        now += MS;
        assert!(admit(&full_at, pace, now).is_ok());
        assert!(admit(&full_at, pace, now).is_err());
        now += 10_000 * MS;
        assert_eq!((0..9).filter(|_| admit(&full_at, pace, now).is_ok()).count(), 3, "a long pause saves no more");
    }

    #[test]
    fn no_requests_is_none() {
        let none = Limit { requests: 0, ..LIMIT };
        let full_at = AtomicU64::new(0);
        assert!(admit(&full_at, none.pace(1.0), 1).is_err());
        assert!(admit(&full_at, LIMIT.pace(0.0), u64::MAX / 2).is_err());
    }

    #[test]
    fn a_part_has_its_part_of_rate_and_burst_but_one_at_least() {
        let pace = LIMIT.pace(0.5);
        assert_eq!((pace.period, pace.depth), (200 * MS, 300 * MS));
        let pace = LIMIT.pace(0.1);
        assert_eq!((pace.period, pace.depth), (1_000 * MS, 1_000 * MS));
        assert!(admit(&AtomicU64::new(0), pace, 0).is_ok());
        assert_eq!(LIMIT.pace(1e9), LIMIT.pace(1.0), "no part is more than the whole");
    }

    #[test]
    fn threads_together_get_no_more() {
        let gate = std::sync::Arc::new(Gate::new(Limit { requests: 1, interval: 60_000, burst: 500 }.pace(1.0)));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let gate = gate.clone();
                std::thread::spawn(move || (0..1_000).filter(|_| gate.admit(1).is_ok()).count())
            })
            .collect();
        assert_eq!(threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>(), 500);
        assert_eq!((gate.asked(), gate.refused()), (4_000, 3_500));
    }

    #[test]
    fn a_share_that_grows_comes_empty_and_one_that_shrinks_keeps_what_it_may() {
        let limit = Limit { requests: 100, interval: 1_000, burst: 100 };
        let gate = Gate::new(limit.pace(0.1));
        let let_in = |now: u64| (0..200).filter(|_| gate.admit(now * 1_000).is_ok()).count();
        gate.begin(limit.pace(0.1), 5_000 * MS);
        gate.set(limit.pace(0.9), 5_000 * MS);
        assert!((gate.part(&limit) - 0.9).abs() < 1e-6);
        assert_eq!(let_in(5_000), 10, "a tenth of the burst, as before");
        assert_eq!(let_in(5_500), 45, "half a second of nine tenths");
        gate.set(limit.pace(0.05), 7_000 * MS);
        assert_eq!(let_in(7_000), 5, "it was full, and is full");
        gate.set(limit.pace(0.5), 7_000 * MS);
        gate.set(limit.pace(0.05), 7_000 * MS);
        assert_eq!(let_in(7_000), 0, "nothing comes of changes");
    }

    #[test]
    fn what_is_given_back_may_be_taken_again() {
        let gate = Gate::new(Limit { requests: 1, interval: 60_000, burst: 2 }.pace(1.0));
        gate.begin(gate.pace(), MS);
        assert_eq!((0..4).filter(|_| gate.admit(1_000).is_ok()).count(), 2);
        gate.give_back();
        assert_eq!((0..4).filter(|_| gate.admit(1_000).is_ok()).count(), 1);
        assert_eq!((gate.asked(), gate.refused()), (8, 5));
    }

    proptest! {
        /// In no span of time more is let in than the rate times the span and a burst; and who waits as told gets in.
        #[test]
        fn no_span_exceeds_rate_and_burst(
            (requests, burst) in (1u32..50, 1u32..20),
            gaps in proptest::collection::vec(0u64..200, 1..200),
        ) {
            let limit = Limit { requests, interval: 1_000, burst };
            let (full_at, pace) = (AtomicU64::new(0), limit.pace(1.0));
            let (mut now, mut times) = (0u64, Vec::new());
            for gap in gaps {
                now += gap * MS;
                match admit(&full_at, pace, now) {
                    Ok(_) => times.push(now),
                    Err(refused) => {
                        let copy = AtomicU64::new(full_at.load(Relaxed));
                        prop_assert!(admit(&copy, pace, now + refused.after * MS).is_ok());
                    }
                }
            }
            for (index, begin) in times.iter().enumerate() {
                for (count, end) in (1u32..).zip(&times[index..]) {
                    let most = f64::from(requests) * (end - begin) as f64 / 1e9 + f64::from(burst);
                    prop_assert!(f64::from(count) <= most + 0.001);
                }
            }
        }
    }
}
