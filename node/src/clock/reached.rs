//! What certificates say of the time that this machine's clock has reached, and since when that clock goes on undisturbed. One that is ahead
//! is set right sooner or later: until it has gone on for long, what it has reached binds nobody.

use certs::{codec::Millis, verify::CLOCK_TOLERANCE};

/// What a clock has reached counts for good once it has gone on for so long without being set, in milliseconds.
const STEADY_MS: Millis = 6 * 3_600_000;

/// See the module.
pub(super) struct Reached {
    going: Option<Going>,
    /// The latest begin of a chain that verified.
    begin: Millis,
}

/// A clock that goes on as it does.
struct Going {
    /// Wall time less uptime: another one, by more than clocks may differ, is that of a clock that was set, or of a machine that slept.
    origin: i64,
    /// The uptime since when it is this one.
    since: Millis,
}

impl Reached {
    pub(super) const NOTHING: Self = Self { going: None, begin: 0 };

    /// Looks at the clock and takes in the begin of a chain that verified, if there is one. Gives the latest begin that a clock has
    /// reached which has gone on for [`STEADY_MS`].
    pub(super) fn look(&mut self, begin: Option<Millis>, machine: Millis, uptime: Millis) -> Option<Millis> {
        let origin = machine.cast_signed().saturating_sub(uptime.cast_signed());
        let same = self.going.take().filter(|going| going.origin.abs_diff(origin) <= CLOCK_TOLERANCE);
        let since = self.going.insert(same.unwrap_or(Going { origin, since: uptime })).since;
        let reached = [Some(self.begin), begin].into_iter().flatten().filter(|begin| *begin <= machine);
        self.begin = reached.max().unwrap_or(0);
        (self.begin > 0 && uptime.saturating_sub(since) >= STEADY_MS).then_some(self.begin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Millis = 3_600_000;
    const DAY: Millis = 24 * HOUR;
    const NOW: Millis = 1_800_000_000_000;

    #[test]
    fn what_a_clock_has_reached_counts_once_it_has_gone_on_for_long() {
        let mut reached = Reached::NOTHING;
        assert_eq!(reached.look(Some(NOW - HOUR), NOW, 7), None);
        assert_eq!(reached.look(None, NOW + STEADY_MS - 1, 7 + STEADY_MS - 1), None);
        // A clock that is adjusted a little is still the same.
        assert_eq!(reached.look(None, NOW + STEADY_MS - 60_000, 7 + STEADY_MS), Some(NOW - HOUR));
        assert_eq!(reached.look(Some(NOW), NOW + STEADY_MS, 8 + STEADY_MS), Some(NOW));
    }

    #[test]
    fn what_a_clock_has_not_reached_proves_nothing() {
        let mut reached = Reached::NOTHING;
        assert_eq!(reached.look(Some(NOW + 1), NOW, 0), None);
        assert_eq!(reached.look(Some(NOW + DAY), NOW + STEADY_MS, STEADY_MS), None);
    }

    /// Whatever a member shows while the clock is ahead, and however long it goes on once it is right.
    #[test]
    fn what_a_clock_reached_that_was_set_back_within_hours_counts_for_nothing() {
        let mut reached = Reached::NOTHING;
        assert_eq!(reached.look(Some(NOW - 1), NOW, 0), None);
        for begin in [5, 19, 20] {
            assert_eq!(reached.look(Some(NOW + begin * DAY), NOW + 20 * DAY, HOUR), None);
        }
        assert_eq!(reached.look(None, NOW + 20 * DAY + 5 * HOUR, 6 * HOUR), None);
        assert_eq!(reached.look(None, NOW + 7 * HOUR, 7 * HOUR), None);
        assert_eq!(reached.look(Some(NOW + 2), NOW + 8 * HOUR, 8 * HOUR), None);
        assert_eq!(reached.look(None, NOW + 30 * HOUR, 30 * HOUR), Some(NOW + 2));
    }

    #[test]
    fn a_clock_that_is_set_again_and_again_goes_on_anew_each_time() {
        let mut reached = Reached::NOTHING;
        for hour in 0..40 {
            let set = (hour / 5) * 600_000;
            assert_eq!(reached.look(Some(NOW), NOW + set + hour * HOUR, hour * HOUR), None, "hour {hour}");
        }
    }
}
