//! How much of a limit is asked of this node, smoothed, and whether that is news to the others.
//!
//! Demand is told in millionths of the limit, so that one of an hour is told as exactly as one of a second, and is the
//! whole limit at most: what is asked beyond that moves no share.

use super::Millis;

/// A change of demand is half seen after this time. Two seconds after a shift one part in a hundred is left of it.
pub const HALF_LIFE_MS: Millis = 300;
/// A change by less than this part of what was said last is not worth a message.
pub const WORTH_SAYING: f64 = 0.05;
/// Nor is one by less than so many standard deviations of what counts of random arrivals give: every change costs some
/// use of the limit, and chance is no change.
const NOISE: f64 = 2.0;
/// The whole limit.
pub const WHOLE: u64 = 1_000_000;
/// Less than this a second is nothing.
const NOTHING: f64 = 0.1;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Demand {
    asked: u64,
    closed: Millis,
    rate: f64,
    said: u64,
}

impl Demand {
    /// `asked` counts from the beginning.
    pub(super) fn new(asked: u64, now: Millis) -> Demand {
        Demand { asked, closed: now, ..Demand::default() }
    }

    /// A window has ended.
    pub(super) fn close(&mut self, asked: u64, now: Millis) {
        let elapsed = now.saturating_sub(self.closed);
        if elapsed == 0 {
            return;
        }
        let seconds = f64::from(u32::try_from(elapsed).unwrap_or(u32::MAX)) / 1_000.0;
        let count = f64::from(u32::try_from(asked.saturating_sub(self.asked)).unwrap_or(u32::MAX));
        let kept = (-seconds * 1_000.0 / HALF_LIFE_MS as f64).exp2();
        self.rate = self.rate * kept + count / seconds * (1.0 - kept);
        if self.rate < NOTHING {
            self.rate = 0.0;
        }
        (self.asked, self.closed) = (asked, now);
    }

    /// Says what is asked, if that is news. `whole`: the limit's requests a second; less than `quiet` is not spoken of.
    pub(super) fn say(&mut self, whole: f64, quiet: u64) -> bool {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
        let part = ((self.rate / whole).min(1.0) * WHOLE as f64) as u64;
        let part = if part < quiet { 0 } else { part };
        let said = self.said as f64;
        // Smoothed like this, a count of random arrivals is as exact as one over this time.
        let seconds = 2.0 * HALF_LIFE_MS as f64 / 1_000.0 / std::f64::consts::LN_2;
        let requests = said / WHOLE as f64 * whole * seconds;
        let noise = NOISE * said / requests.sqrt().max(1.0);
        let is_news =
            (part == 0) != (self.said == 0) || part.abs_diff(self.said) as f64 > noise.max(WORTH_SAYING * said);
        if is_news {
            self.said = part;
        }
        is_news
    }

    /// What was said last: this node's share follows from it as it does for the others, who know no better.
    pub(super) const fn said(&self) -> u64 {
        self.said
    }

    /// Nothing is asked, and nothing is to be said of it.
    pub(super) fn is_calm(&self, asked: u64) -> bool {
        self.said == 0 && self.rate == 0.0 && self.asked == asked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(demand: &mut Demand, rate: u64, windows: std::ops::Range<u64>, asked: &mut u64) -> usize {
        windows
            .filter(|window| {
                *asked += rate / 10;
                demand.close(*asked, (window + 1) * 100);
                demand.say(10_000.0, 2_500)
            })
            .count()
    }

    #[test]
    fn a_shift_is_seen_within_two_seconds_and_calm_is_silent() {
        let (mut demand, mut asked) = (Demand::new(0, 0), 0);
        assert!(run(&mut demand, 1_000, 0..20, &mut asked) > 0);
        assert!(demand.said().abs_diff(100_000) < 7_000, "{}", demand.said());
        assert_eq!(run(&mut demand, 1_000, 20..60, &mut asked), 0);
        run(&mut demand, 100, 60..80, &mut asked);
        assert!(demand.said().abs_diff(10_000) < 4_000, "{}", demand.said());
        assert!(!demand.is_calm(asked));
        run(&mut demand, 0, 80..140, &mut asked);
        assert!(demand.said() == 0 && demand.is_calm(asked));
    }

    #[test]
    fn what_is_little_is_not_spoken_of_and_what_is_more_than_the_limit_is_the_whole() {
        let (mut demand, mut asked) = (Demand::new(0, 0), 0);
        assert_eq!(run(&mut demand, 20, 0..20, &mut asked), 0);
        assert!(demand.said() == 0 && !demand.is_calm(asked));
        run(&mut demand, 90_000, 20..60, &mut asked);
        assert_eq!(demand.said(), WHOLE);
        assert_eq!(run(&mut demand, 900_000, 60..90, &mut asked), 0);
        // One an hour: the first request of an hour is the whole limit.
        let mut slow = Demand::new(0, 0);
        slow.close(1, 100);
        assert!(slow.say(1.0 / 3_600.0, 8_000));
        assert_eq!(slow.said(), WHOLE);
    }
}
