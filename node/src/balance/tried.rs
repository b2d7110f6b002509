//! Which endpoints earlier attempts of one request used: they are avoided as long as there is another one (Istio's
//! `retryIgnorePreviousHosts`).

/// Positions of candidates that earlier attempts of one request used. Holds the last 8: more attempts than that
/// may meet an old endpoint again.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tried {
    positions: [u32; Self::LIMIT],
    count: usize,
}

impl Tried {
    const LIMIT: usize = 8;

    /// Before the first attempt.
    pub const NONE: Tried = Tried { positions: [0; Self::LIMIT], count: 0 };

    /// Remembers a position, forgetting the oldest beyond the limit.
    pub fn add(&mut self, position: usize) {
        self.positions[self.count % Self::LIMIT] = u32::try_from(position).unwrap_or(u32::MAX);
        self.count += 1;
    }

    /// True if the position was used.
    #[must_use]
    pub fn contains(&self, position: usize) -> bool {
        self.positions[..self.count.min(Self::LIMIT)].iter().any(|tried| *tried as usize == position)
    }

    /// True before the first attempt.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_forgotten() {
        let mut tried = Tried::NONE;
        assert!(tried.is_empty() && !tried.contains(0));
        (0..9).for_each(|position| tried.add(position));
        assert!(!tried.contains(0) && (1..9).all(|position| tried.contains(position)));
    }
}
