//! Who cries wolf: accusers whose suspicions were refuted too often are not listened to for a while.

use std::collections::BTreeMap;

use certs::id::NodeId;

/// Refutations within [`WINDOW_MS`] that make an accuser ignored.
const STRIKES: u32 = 3;
/// In engine milliseconds.
const WINDOW_MS: u64 = 60_000;
/// In engine milliseconds.
const IGNORED_MS: u64 = 600_000;

/// See the module. Bounded by the number of members.
#[derive(Debug, Default)]
pub(crate) struct Accusers {
    strikes: BTreeMap<NodeId, Strikes>,
}

#[derive(Debug)]
struct Strikes {
    count: u32,
    since: u64,
    ignored_until: u64,
}

impl Accusers {
    /// Whether a member's accusations count for nothing now.
    pub(crate) fn ignored(&self, accuser: &NodeId, now: u64) -> bool {
        self.strikes.get(accuser).is_some_and(|strikes| now < strikes.ignored_until)
    }

    /// Whom it accused turned out to be alive.
    pub(crate) fn refuted(&mut self, accuser: &NodeId, now: u64) {
        let fresh = Strikes { count: 0, since: now, ignored_until: 0 };
        let strikes = self.strikes.entry(accuser.clone()).or_insert(fresh);
        if now.saturating_sub(strikes.since) > WINDOW_MS {
            (strikes.count, strikes.since) = (0, now);
        }
        strikes.count += 1;
        if strikes.count >= STRIKES {
            strikes.ignored_until = now + IGNORED_MS;
            strikes.count = 0;
        }
    }

    /// The member is no longer one.
    pub(crate) fn forget(&mut self, accuser: &NodeId) {
        self.strikes.remove(accuser);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_strikes_within_a_minute() {
        let node = NodeId::new("liar").expect("valid");
        let mut accusers = Accusers::default();
        for now in [0, 61_000, 61_001] {
            accusers.refuted(&node, now);
            assert!(!accusers.ignored(&node, now));
        }
        accusers.refuted(&node, 61_002);
        assert!(accusers.ignored(&node, 61_003));
        assert!(!accusers.ignored(&node, 61_002 + IGNORED_MS));
    }
}
