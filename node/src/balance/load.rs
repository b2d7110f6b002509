//! What this node's own requests tell of one endpoint: how many are under way, how long they take, whether it asked
//! for less. One per endpoint and node, shared by all workers and clusters; it outlives snapshots.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
};

use super::Millis;

/// How fast old latencies are forgotten: to a third in this time.
pub const LATENCY_DECAY_MS: Millis = 10_000;
/// A failure counts as this much latency, lest whoever fails fastest gets all.
pub const FAILURE_MICROS: u64 = 1_000_000;
/// Share of its weight that an endpoint keeps while it asks for less.
pub const SLOWED_SHARE: f64 = 0.1;
/// How long a 429 without `Retry-After` is heeded.
pub const SLOWED_MS: Millis = 1_000;
/// The longest `Retry-After` that is heeded.
pub const LONGEST_SLOWED_MS: Millis = 60_000;

/// See the module. On a line of its own, because every worker writes to it.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Load {
    active: AtomicU32,
    out: AtomicBool,
    latency: AtomicU64,
    since: AtomicU64,
    slowed_until: AtomicU64,
}

/// A request under way; it counts until this is dropped.
#[derive(Debug)]
pub struct Active(Arc<Load>);

/// `warmup` of a DestinationRule: the share of its weight that a new endpoint gets.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Warmup {
    /// From nothing to all.
    pub duration: Millis,
    /// What it gets from the beginning, in percent.
    pub minimum_percent: u8,
    /// 1 is a straight line; more begins faster.
    pub aggression: f64,
}

impl Load {
    /// Of an endpoint that is new or came back: its warm-up begins.
    pub fn arrived(&self, now: Millis) {
        self.since.store(now.max(1), Relaxed);
    }

    /// Counts a request as under way.
    #[must_use]
    pub fn begin(self: &Arc<Self>) -> Active {
        self.active.fetch_add(1, Relaxed);
        Active(Arc::clone(self))
    }

    /// Requests under way.
    #[must_use]
    pub fn active(&self) -> u32 {
        self.active.load(Relaxed)
    }

    /// Notes whether the newest snapshot has it as unhealthy, or not at all.
    pub fn set_out(&self, out: bool) {
        self.out.store(out, Relaxed);
    }

    /// True if no attempt should begin there, whatever the table of the choice says.
    #[must_use]
    pub fn is_out(&self) -> bool {
        self.out.load(Relaxed)
    }

    /// It answered after this time.
    pub fn answered(&self, micros: u64, now: Millis) {
        #[expect(clippy::cast_precision_loss, reason = "a latency needs no more than 24 bits")]
        let latest = (micros as f32).max(1.0);
        let tick = tick(now);
        // A sample that meets another worker's is dropped: there will be more.
        let old = self.latency.load(Relaxed);
        let (cost, at) = unpack(old);
        let kept = remains(at, tick);
        let cost = if latest > cost { latest } else { cost * kept + latest * (1.0 - kept) };
        let _lost = self.latency.compare_exchange(old, pack(cost, tick), Relaxed, Relaxed);
    }

    /// It failed, however fast.
    pub fn failed(&self, micros: u64, now: Millis) {
        self.answered(micros.max(FAILURE_MICROS), now);
    }

    /// It answered 429, or asked by `Retry-After` to be left alone for a while.
    pub fn slow(&self, retry_after: Option<Millis>, now: Millis) {
        let time = retry_after.unwrap_or(SLOWED_MS).min(LONGEST_SLOWED_MS);
        self.slowed_until.fetch_max(now + time, Relaxed);
    }

    /// What one more request there is expected to cost: latency, sensitive to peaks, times requests under way
    /// (Peak EWMA). An endpoint without latencies is tried, one request at a time.
    #[must_use]
    pub fn cost(&self, now: Millis) -> f32 {
        let (latency, at) = unpack(self.latency.load(Relaxed));
        #[expect(clippy::cast_precision_loss, reason = "nobody has 16 million requests under way to one endpoint")]
        let active = self.active() as f32;
        if latency == 0.0 && active > 0.0 {
            return FAILURE_MICROS as f32 * active;
        }
        latency * remains(at, tick(now)) * (active + 1.0)
    }

    /// The share of its weight that it gets now, above 0 and at most 1.
    #[must_use]
    pub fn share(&self, warmup: Option<&Warmup>, now: Millis) -> f64 {
        let warm = warmup.map_or(1.0, |warmup| warmup.share(self.since.load(Relaxed), now));
        if now < self.slowed_until.load(Relaxed) { warm * SLOWED_SHARE } else { warm }
    }
}

impl Warmup {
    fn share(&self, since: Millis, now: Millis) -> f64 {
        let age = now.saturating_sub(since);
        if since == 0 || age >= self.duration {
            return 1.0;
        }
        #[expect(clippy::cast_precision_loss, reason = "times of a warm-up fit")]
        let progress = age as f64 / self.duration as f64;
        let least = f64::from(self.minimum_percent.clamp(1, 100)) / 100.0;
        progress.powf(1.0 / self.aggression).max(least)
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Relaxed);
    }
}

/// Sixteen milliseconds, so that 32 bits last for years.
const fn tick(now: Millis) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "ticks wrap, and their difference is read as signed")]
    let tick = (now >> 4) as u32;
    tick
}

/// What is left of an old latency.
fn remains(at: u32, now: u32) -> f32 {
    // Another worker's clock reading may be a little ahead: then no time has passed.
    let ticks = now.wrapping_sub(at).cast_signed().max(0);
    #[expect(clippy::cast_precision_loss, reason = "beyond 24 bits nothing is left anyway")]
    let passed = ticks as f32 * 16.0;
    (-passed / LATENCY_DECAY_MS as f32).exp()
}

fn pack(cost: f32, tick: u32) -> u64 {
    u64::from(tick) << 32 | u64::from(cost.to_bits())
}

fn unpack(packed: u64) -> (f32, u32) {
    #[expect(clippy::cast_possible_truncation, reason = "the low half is the cost")]
    let cost = f32::from_bits(packed as u32);
    (cost, u32::try_from(packed >> 32).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_count_until_they_end() {
        let load = Arc::new(Load::default());
        let (first, second) = (load.begin(), load.begin());
        assert_eq!(load.active(), 2);
        drop(first);
        drop(second);
        assert_eq!(load.active(), 0);
    }

    #[test]
    fn a_peak_counts_at_once_and_fades() {
        let load = Load::default();
        load.answered(1_000, 0);
        load.answered(50_000, 16);
        assert!((load.cost(16) - 50_000.0).abs() < 1.0);
        for now in (32..60_000).step_by(16) {
            load.answered(1_000, now);
        }
        assert!((1_000.0..1_500.0).contains(&load.cost(60_000)), "{}", load.cost(60_000));
        assert!(load.cost(70_000) < 600.0, "an old latency is forgotten, so that the endpoint is tried again");
    }

    #[test]
    fn cost_grows_with_what_is_under_way() {
        let load = Arc::new(Load::default());
        assert_eq!(load.cost(0), 0.0, "an unknown endpoint is tried");
        let flight = load.begin();
        assert!(load.cost(0) >= 1_000_000.0, "but by one request at a time");
        load.answered(2_000, 0);
        assert!((load.cost(0) - 4_000.0).abs() < 1.0);
        drop(flight);
        assert!((load.cost(0) - 2_000.0).abs() < 1.0);
    }

    #[test]
    fn failing_fast_is_not_cheap() {
        let load = Load::default();
        load.failed(10, 0);
        assert!(load.cost(0) >= 1_000_000.0);
    }

    #[test]
    fn a_reading_of_the_clock_that_is_a_little_behind_forgets_nothing() {
        let load = Load::default();
        load.answered(1_000, 1_000);
        assert!((load.cost(500) - 1_000.0).abs() < 1.0);
    }

    #[test]
    fn a_warm_up_rises_to_the_whole() {
        let warmup = Warmup { duration: 10_000, minimum_percent: 10, aggression: 1.0 };
        let load = Load::default();
        let share = |load: &Load, now| (load.share(Some(&warmup), now) * 100.0).round();
        assert_eq!(share(&load, 1), 100.0, "who was there before is warm");
        load.arrived(1_000);
        assert_eq!([1_000, 1_500, 3_500, 6_000, 11_000].map(|now| share(&load, now)), [10.0, 10.0, 25.0, 50.0, 100.0]);
        let eager = Warmup { aggression: 2.0, ..warmup };
        assert!((load.share(Some(&eager), 3_500) - 0.5).abs() < 1e-9);
        assert_eq!(load.share(None, 1_500), 1.0);
    }

    #[test]
    fn who_asks_for_less_gets_less_for_a_while() {
        let load = Load::default();
        load.slow(None, 100);
        assert_eq!([1_099, 1_100].map(|now| load.share(None, now)), [SLOWED_SHARE, 1.0]);
        load.slow(Some(5_000), 2_000);
        load.slow(None, 2_001);
        assert_eq!([6_999, 7_000].map(|now| load.share(None, now)), [SLOWED_SHARE, 1.0], "the longest wish holds");
        load.slow(Some(u64::MAX), 10_000);
        assert_eq!(load.share(None, 70_000), 1.0);
    }
}
