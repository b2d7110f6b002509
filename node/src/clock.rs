//! The only clock: wall time for what is signed and dated, monotonic time for durations.
#![expect(clippy::disallowed_methods, reason = "this is the clock that everybody else must use")]

use std::{
    sync::atomic::{AtomicI64, Ordering::Relaxed},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use certs::codec::Millis;

/// The machine's clock. rustls reads it too, through [`certs::tls::Clock`].
#[derive(Debug, Clone, Copy, Default)]
pub struct Clock;

impl Clock {
    /// Unix time; 0 if the machine believes to live before 1970.
    #[must_use]
    pub fn now(&self) -> Millis {
        wall()
    }
}

impl certs::tls::Clock for Clock {
    fn now(&self) -> Millis {
        wall()
    }
}

/// Milliseconds by which this process's wall time differs from the machine's.
static OFFSET: AtomicI64 = AtomicI64::new(0);

/// Moves this process's wall time: for tests of what happens in months. Call it once, before anything reads the time.
pub fn shift(offset: i64) {
    OFFSET.store(offset, Relaxed);
}

/// Milliseconds by which [`shift`] moved wall time; `status` shows it.
#[must_use]
pub fn offset() -> i64 {
    OFFSET.load(Relaxed)
}

/// Unix time; 0 if the machine believes to live before 1970.
#[must_use]
pub fn wall() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Millis::try_from(since.as_millis()).unwrap_or(Millis::MAX).saturating_add_signed(offset())
}

/// A point in time that only ever moves forward, for durations and timeouts.
#[must_use]
pub fn monotonic() -> Instant {
    Instant::now()
}

/// Milliseconds of monotonic time since the first such call in this process: fits an atomic.
#[must_use]
pub fn uptime() -> Millis {
    uptime_micros() / 1_000
}

/// Microseconds of monotonic time since the first such call in this process.
#[must_use]
pub fn uptime_micros() -> u64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let elapsed = monotonic().duration_since(*START.get_or_init(monotonic));
    u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_time_is_unix_time_in_milliseconds() {
        // 2020-01-01 and 2100-01-01: an error of the unit would leave this range.
        assert!((1_577_836_800_000..4_102_444_800_000).contains(&wall()));
    }

    #[test]
    fn uptime_moves_forward() {
        let first = uptime();
        std::thread::sleep(Duration::from_millis(5));
        assert!(uptime() > first);
    }
}
