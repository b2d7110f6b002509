//! Whether this node may have been cut off: who keeps new policy from it must keep most of the mesh from it.

use std::time::{Duration, Instant};

/// How long half of the members may be silent before policy counts as stale.
pub const SILENCE: Duration = Duration::from_secs(15 * 60);

/// When this node last knew what at least half of the mesh holds.
#[derive(Debug, Clone, Copy)]
pub struct Freshness(Instant);

impl Freshness {
    /// Fresh by definition: a node that has just started waits before it complains.
    pub fn new(now: Instant) -> Self {
        Self(now)
    }

    /// Notes how many members, this one included, are alive and say what they hold, out of how many there should be.
    pub fn note(&mut self, known: usize, expected: usize, now: Instant) {
        if known * 2 >= expected {
            self.0 = now;
        }
    }

    /// For how long half of the mesh has been silent, if that is too long.
    pub fn stale(&self, now: Instant) -> Option<Duration> {
        let silent = now.duration_since(self.0);
        (silent >= SILENCE).then_some(silent)
    }
}
