//! Shares of a whole by weight: which share a random number falls into, and turns that meet every share fairly.

/// Weights, summed up once. None is 0.
#[derive(Debug)]
pub(super) struct Weights {
    /// Where each share ends.
    ends: Box<[u64]>,
    /// See [`Weights::turn`].
    step: u64,
    equal: bool,
}

impl Weights {
    /// A weight of 0 counts as 1.
    pub(super) fn new(weights: impl IntoIterator<Item = u32>) -> Weights {
        let weights: Vec<u64> = weights.into_iter().map(|weight| u64::from(weight.max(1))).collect();
        let common = weights.iter().copied().fold(0, gcd).max(1);
        let equal = weights.windows(2).all(|pair| pair[0] == pair[1]);
        let mut total = 0;
        let ends: Box<[u64]> = weights
            .iter()
            .map(|weight| {
                total += weight / common;
                total
            })
            .collect();
        Weights { ends, step: golden(total), equal }
    }

    /// True if all are alike.
    pub(super) const fn are_equal(&self) -> bool {
        self.equal
    }

    /// Their sum, without a common factor.
    pub(super) fn total(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// One weight, without the common factor.
    pub(super) fn of(&self, index: usize) -> u64 {
        self.ends[index] - if index == 0 { 0 } else { self.ends[index - 1] }
    }

    /// The index into whose share `point` falls, a number below the total.
    pub(super) fn at(&self, point: u64) -> usize {
        if self.equal {
            return usize::try_from(point).unwrap_or(0);
        }
        self.ends.partition_point(|end| *end <= point)
    }

    /// The index whose turn it is. Walks in steps near the golden section, so that as many turns as the total meet every
    /// share exactly once, and what is heavy is not served in a row.
    pub(super) fn turn(&self, turn: u64) -> usize {
        let total = self.total();
        let turn = turn % total.max(1);
        if self.equal {
            return self.at(turn);
        }
        let product = u128::from(turn) * u128::from(self.step) % u128::from(total);
        self.at(u64::try_from(product).unwrap_or(0))
    }
}

/// A number that shares no factor with `total`, near its golden section.
fn golden(total: u64) -> u64 {
    let mut step = (total / 1_000 * 618 + total % 1_000 * 618 / 1_000).max(1);
    while gcd(step, total) != 1 {
        step += 1;
    }
    step
}

const fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn common_factors_shorten_the_round() {
        let weights = Weights::new([30, 10, 60]);
        assert_eq!((weights.total(), weights.of(0), weights.of(1), weights.of(2)), (10, 3, 1, 6));
        assert!(!weights.are_equal());
        assert!(Weights::new([7, 7]).are_equal());
        assert_eq!(Weights::new([0, 3]).of(0), 1);
        assert_eq!(Weights::new([]).total(), 0);
    }

    #[test]
    fn equal_weights_take_plain_turns() {
        let weights = Weights::new([4, 4, 4]);
        assert_eq!((0..6).map(|turn| weights.turn(turn)).collect::<Vec<_>>(), [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn the_heavy_are_not_served_in_a_row() {
        let weights = Weights::new([5, 1, 1, 1, 1, 1]);
        let turns: Vec<_> = (0..10).map(|turn| weights.turn(turn)).collect();
        let longest = turns.chunk_by(|a, b| *a == 0 && *b == 0).map(<[usize]>::len).max().unwrap();
        assert!(longest <= 2, "{turns:?}");
    }

    proptest! {
        #[test]
        fn a_round_meets_every_share_once(weights in proptest::collection::vec(0u32..50, 1..40), begin in 0u64..1_000) {
            let table = Weights::new(weights.clone());
            let mut counts = vec![0; weights.len()];
            for turn in begin..begin + table.total() {
                counts[table.turn(turn)] += 1;
            }
            for (index, count) in counts.iter().enumerate() {
                prop_assert_eq!(*count, table.of(index));
            }
        }

        /// At any time nobody is ahead of its share by more than a few turns.
        #[test]
        fn turns_are_smooth(weights in proptest::collection::vec(1u32..20, 2..10), turns in 1u64..300) {
            let table = Weights::new(weights.clone());
            let mut counts = vec![0u32; weights.len()];
            for turn in 0..turns {
                counts[table.turn(turn)] += 1;
            }
            for (index, count) in counts.iter().enumerate() {
                let due = turns as f64 * table.of(index) as f64 / table.total() as f64;
                prop_assert!((f64::from(*count) - due).abs() < 6.0, "{index}: {count} of {due}");
            }
        }

        #[test]
        fn every_point_falls_into_its_share(weights in proptest::collection::vec(1u32..9, 1..20)) {
            let table = Weights::new(weights.clone());
            let points: Vec<usize> = (0..table.total()).map(|point| table.at(point)).collect();
            prop_assert!(points.is_sorted());
            for index in 0..weights.len() {
                prop_assert_eq!(points.iter().filter(|at| **at == index).count() as u64, table.of(index));
            }
        }
    }
}
