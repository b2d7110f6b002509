//! How many requests a second are asked of this node, smoothed, and whether that is news to the others.

use super::Millis;

/// A change of demand is half seen after this time. Two seconds after a shift one part in three hundred is left of it.
pub const HALF_LIFE_MS: Millis = 240;
/// A change by less than this part of what was said last is not worth a message.
pub const WORTH_SAYING: f64 = 0.05;
/// Less than this a second is nothing.
const NOTHING: f64 = 0.1;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Demand {
    asked: u64,
    closed: Millis,
    rate: f64,
    said: f64,
}

impl Demand {
    /// `asked` counts from the beginning.
    pub(super) fn new(asked: u64, now: Millis) -> Demand {
        Demand { asked, closed: now, ..Demand::default() }
    }

    /// A window has ended. True if the demand is news.
    pub(super) fn close(&mut self, asked: u64, now: Millis) -> bool {
        let elapsed = now.saturating_sub(self.closed);
        if elapsed == 0 {
            return false;
        }
        let seconds = f64::from(u32::try_from(elapsed).unwrap_or(u32::MAX)) / 1_000.0;
        let count = f64::from(u32::try_from(asked.saturating_sub(self.asked)).unwrap_or(u32::MAX));
        let kept = (-seconds * 1_000.0 / HALF_LIFE_MS as f64).exp2();
        self.rate = self.rate * kept + count / seconds * (1.0 - kept);
        if self.rate < NOTHING {
            self.rate = 0.0;
        }
        (self.asked, self.closed) = (asked, now);
        let is_news = (self.rate - self.said).abs() > WORTH_SAYING * self.said;
        if is_news {
            self.said = self.rate;
        }
        is_news
    }

    /// What was said last: this node's share follows from it as it does for the others, who know no better.
    pub(super) const fn said(&self) -> f64 {
        self.said
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(demand: &mut Demand, rate: u64, windows: std::ops::Range<u64>, asked: &mut u64) -> usize {
        windows
            .filter(|window| {
                *asked += rate / 10;
                demand.close(*asked, (window + 1) * 100)
            })
            .count()
    }

    #[test]
    fn a_shift_is_seen_within_two_seconds_and_calm_is_silent() {
        let (mut demand, mut asked) = (Demand::new(0, 0), 0);
        assert!(run(&mut demand, 1_000, 0..20, &mut asked) > 0);
        assert!((demand.said() - 1_000.0).abs() < 60.0, "{}", demand.said());
        assert_eq!(run(&mut demand, 1_000, 20..60, &mut asked), 0);
        run(&mut demand, 100, 60..80, &mut asked);
        assert!((demand.said() - 100.0).abs() < 10.0, "{}", demand.said());
        run(&mut demand, 0, 80..140, &mut asked);
        assert_eq!(demand.said(), 0.0);
    }
}
