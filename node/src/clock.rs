//! The only clock: wall time for what is signed and dated, monotonic time for durations.
#![expect(clippy::disallowed_methods, reason = "this is the clock that everybody else must use")]

mod reached;

use std::{
    sync::{
        Mutex,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use certs::codec::Millis;

use crate::lock::lock;
use reached::Reached;

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

impl rustls::time_provider::TimeProvider for Clock {
    fn current_time(&self) -> Option<rustls::pki_types::UnixTime> {
        Some(rustls::pki_types::UnixTime::since_unix_epoch(Duration::from_millis(wall())))
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

/// What may become the mark.
static REACHED: Mutex<Reached> = Mutex::new(Reached::NOTHING);
/// The latest begin of a certificate that verified while this machine's clock was past it, and had gone on undisturbed for hours.
static MARK: AtomicU64 = AtomicU64::new(0);
/// The same less the uptime at which it was known: time is never before their sum.
static FLOOR: AtomicI64 = AtomicI64::new(i64::MIN);

/// Notes the begin of a peer's chain that verified. One that this machine's own clock has not reached proves nothing: else whoever may
/// issue certificates could push a node's time ahead, one tolerance after the other. Nor does one that it has reached before it has gone
/// on undisturbed for six hours: while it is ahead, anybody could.
pub fn observe(not_before: Millis) {
    look(Some(not_before));
}

/// Takes what was observed for the mark, once it counts. To be called now and then.
pub fn settle() {
    look(None);
}

fn look(not_before: Option<Millis>) {
    if let Some(mark) = lock(&REACHED).look(not_before, machine(), uptime()) {
        resume(mark);
    }
}

/// Goes on from a mark that an earlier run has kept.
pub fn resume(mark: Millis) {
    MARK.fetch_max(mark, Relaxed);
    FLOOR.fetch_max(mark.cast_signed().saturating_sub(uptime().cast_signed()), Relaxed);
}

/// The mark; 0 before any certificate has verified.
#[must_use]
pub fn mark() -> Millis {
    MARK.load(Relaxed)
}

/// By how much this machine's clock is behind what certificates have proven.
#[must_use]
pub fn behind() -> Millis {
    wall().saturating_sub(machine())
}

/// Unix time: this machine's clock, unless certificates have proven that it is later. 0 if nobody knows better than 1970.
#[must_use]
pub fn wall() -> Millis {
    let floor = FLOOR.load(Relaxed);
    if floor == i64::MIN {
        return machine();
    }
    let proven = floor.saturating_add(uptime().cast_signed()).max(0).cast_unsigned();
    machine().max(proven)
}

/// [`wall`] in microseconds.
#[must_use]
pub fn wall_micros() -> u64 {
    let machine = machine_micros();
    // Who is behind what certificates have proven knows no more than milliseconds.
    if FLOOR.load(Relaxed) == i64::MIN { machine } else { machine.max(wall().saturating_mul(1_000)) }
}

/// Unix time by this machine's clock alone.
#[must_use]
pub fn machine() -> Millis {
    machine_micros() / 1_000
}

fn machine_micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX).saturating_add_signed(offset().saturating_mul(1_000))
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

/// A moment by [`uptime`], which is not to be taken for one of wall time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Uptime(pub Millis);

impl Uptime {
    /// This moment.
    #[must_use]
    pub fn now() -> Self {
        Self(uptime())
    }

    /// How long it is after an earlier one.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
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
    fn a_mark_of_an_earlier_run_is_where_time_goes_on() {
        let now = machine();
        observe(now - 1_000);
        settle();
        assert_eq!((mark(), behind()), (0, 0), "for hours nothing new becomes one");
        resume(now - 3_600_000);
        assert!(mark() == now - 3_600_000 && wall() >= now && behind() == 0);
    }

    #[test]
    fn uptime_moves_forward() {
        let first = uptime();
        std::thread::sleep(Duration::from_millis(5));
        assert!(uptime() > first);
    }
}
