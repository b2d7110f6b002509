//! A token bucket, so that no peer's eagerness becomes everyone's load.

/// Allows `rate` per second on average and `burst` at once. Times are the engine's milliseconds.
#[derive(Debug, Clone)]
pub(crate) struct Bucket {
    rate: u64,
    burst: u64,
    /// In thousandths, so that small rates lose nothing to rounding.
    tokens: u64,
    filled: u64,
}

impl Bucket {
    pub(crate) fn new(rate: u64, burst: u64, now: u64) -> Bucket {
        Bucket { rate, burst, tokens: burst * 1_000, filled: now }
    }

    /// Takes one token, if there is one.
    pub(crate) fn take(&mut self, now: u64) -> bool {
        self.take_many(1, now)
    }

    /// Takes so many tokens, or none.
    pub(crate) fn take_many(&mut self, count: u64, now: u64) -> bool {
        let elapsed = now.saturating_sub(self.filled);
        self.filled = now;
        self.tokens = self.tokens.saturating_add(elapsed.saturating_mul(self.rate)).min(self.burst * 1_000);
        let wanted = count.saturating_mul(1_000);
        let allowed = self.tokens >= wanted;
        if allowed {
            self.tokens -= wanted;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::Bucket;

    #[test]
    fn allows_the_burst_then_the_rate() {
        let mut bucket = Bucket::new(10, 5, 0);
        assert_eq!((0..20).filter(|_| bucket.take(0)).count(), 5);
        assert_eq!((0..1_000).filter(|now| bucket.take(*now)).count(), 9);
        assert_eq!((0..20).filter(|_| bucket.take(100_000)).count(), 5);
    }
}
