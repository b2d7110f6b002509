//! How much of the traffic each priority gets as its hosts fail: Envoy's arithmetic, in whole percents as there.

/// A priority that has this many times the hosts it needs keeps all its traffic: 1.4, in percent.
const OVERPROVISIONING: u64 = 140;

/// A priority's hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Level {
    pub(super) healthy: u64,
    pub(super) total: u64,
}

/// What a priority gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Part {
    /// Of all requests, in percent.
    pub(super) percent: u64,
    /// True if they go to all its hosts, healthy or not.
    pub(super) panic: bool,
}

impl Level {
    /// Percent of the traffic that it could take: its healthy share times the overprovisioning. Rounding takes it from
    /// nobody who has a healthy host.
    fn availability(&self) -> u64 {
        let percent = (OVERPROVISIONING * self.healthy).checked_div(self.total).unwrap_or(0);
        percent.clamp(self.healthy.min(1), 100)
    }

    fn is_below(&self, threshold: u64) -> bool {
        (100 * self.healthy).checked_div(self.total).unwrap_or(0) < threshold
    }
}

/// Each priority's part. `panic_threshold`: below this percentage of healthy hosts a priority uses all of its own, unless
/// others make up for it; 0 is never, and where nobody is healthy then nobody gets anything.
pub(super) fn parts(levels: &[Level], panic_threshold: u8) -> Vec<Part> {
    let threshold = u64::from(panic_threshold.min(100));
    let available = levels.iter().map(Level::availability).sum::<u64>().min(100);
    let panics = |level: &Level| threshold > 0 && available < 100 && level.is_below(threshold);
    let mut parts: Vec<Part> = levels.iter().map(|level| Part { percent: 0, panic: panics(level) }).collect();
    let wanted: Vec<u64> = if parts.iter().all(|part| part.panic) {
        let total: u64 = levels.iter().map(|level| level.total).sum();
        levels.iter().map(|level| (100 * level.total).checked_div(total).unwrap_or(0)).collect()
    } else {
        levels.iter().map(|level| (100 * level.availability()).checked_div(available).unwrap_or(0)).collect()
    };
    let mut left = 100;
    for (part, wanted) in parts.iter_mut().zip(&wanted) {
        part.percent = left.min(*wanted);
        left -= part.percent;
    }
    // What rounding left over goes to the first that gets anything.
    if let Some(first) = parts.iter_mut().find(|part| part.percent > 0) {
        first.percent += left;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn percents(levels: &[(u64, u64)], threshold: u8) -> Vec<(u64, bool)> {
        let levels: Vec<_> = levels.iter().map(|(healthy, total)| Level { healthy: *healthy, total: *total }).collect();
        parts(&levels, threshold).iter().map(|part| (part.percent, part.panic)).collect()
    }

    #[test]
    fn the_first_priority_keeps_all_while_it_has_enough() {
        assert_eq!(percents(&[(100, 100), (100, 100)], 0), [(100, false), (0, false)]);
        assert_eq!(percents(&[(72, 100), (100, 100)], 0), [(100, false), (0, false)]);
        assert_eq!(percents(&[(71, 100), (71, 100)], 0), [(99, false), (1, false)]);
        assert_eq!(percents(&[(50, 100), (50, 100)], 0), [(70, false), (30, false)]);
        assert_eq!(percents(&[(25, 100), (25, 100)], 0), [(50, false), (50, false)], "35 + 35 make the whole");
        assert_eq!(percents(&[(0, 100), (100, 100)], 0), [(0, false), (100, false)]);
        assert_eq!(percents(&[(0, 3), (1, 1_000)], 0), [(0, false), (100, false)], "one is better than none");
        assert_eq!(percents(&[(25, 100), (50, 100), (100, 100)], 0), [(35, false), (65, false), (0, false)]);
        assert_eq!(percents(&[(25, 100), (25, 100), (20, 100)], 0), [(37, false), (35, false), (28, false)]);
    }

    #[test]
    fn without_panic_nobody_healthy_is_nobody() {
        assert_eq!(percents(&[(0, 3), (0, 3)], 0), [(0, false), (0, false)]);
        assert_eq!(percents(&[], 50), []);
    }

    #[test]
    fn panic_uses_all_hosts_unless_others_make_up_for_it() {
        assert_eq!(percents(&[(4, 10)], 50), [(100, true)]);
        assert_eq!(percents(&[(5, 10)], 50), [(100, false)]);
        assert_eq!(percents(&[(0, 10)], 50), [(100, true)]);
        assert_eq!(percents(&[(75, 100)], 80), [(100, false)], "with 1.4 times three quarters there is enough");
        assert_eq!(percents(&[(0, 10), (10, 10)], 50), [(0, false), (100, false)]);
        assert_eq!(percents(&[(0, 10), (0, 30)], 50), [(25, true), (75, true)], "all in panic: by the number of hosts");
        assert_eq!(percents(&[(0, 10), (6, 10)], 50), [(0, true), (100, false)]);
    }

    proptest! {
        #[test]
        fn parts_are_the_whole_or_nothing(
            levels in proptest::collection::vec((0u64..20, 0u64..10_000), 0..6),
            threshold in 0u8..=100,
        ) {
            let levels: Vec<_> =
                levels.iter().map(|(healthy, more)| Level { healthy: *healthy, total: healthy + more }).collect();
            let sum: u64 = parts(&levels, threshold).iter().map(|part| part.percent).sum();
            let healthy: u64 = levels.iter().map(|level| level.healthy).sum();
            let hosts: u64 = levels.iter().map(|level| level.total).sum();
            prop_assert!(sum == 100 || sum == 0);
            prop_assert_eq!(sum == 100, healthy > 0 || (threshold > 0 && hosts > 0));
        }
    }
}
