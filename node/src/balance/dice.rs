//! Many random numbers out of one that came in (splitmix64).

/// A sequence that is determined by its seed.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// Begins with a random number.
    #[must_use]
    pub const fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// 64 random bits.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `count`; 0 if that is 0.
    pub const fn below(&mut self, count: u64) -> u64 {
        // The high half of the product is even enough: the bias is count / 2^64.
        ((self.next() as u128 * count as u128) >> 64) as u64
    }

    /// A number from 0 up to, but not including, 1.
    pub fn unit(&mut self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
        let bits = (self.next() >> 11) as f64;
        bits / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::Dice;

    #[test]
    fn numbers_are_spread_evenly() {
        let mut dice = Dice::new(1);
        let mut counts = [0u32; 7];
        let mut sum = 0.0;
        for _ in 0..70_000 {
            counts[usize::try_from(dice.below(7)).unwrap()] += 1;
            sum += dice.unit();
        }
        assert!(counts.iter().all(|count| (9_600..10_400).contains(count)), "{counts:?}");
        assert!((sum / 70_000.0 - 0.5).abs() < 0.01);
        assert_eq!(dice.below(0), 0);
    }
}
