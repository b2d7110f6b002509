//! Who cries wolf: accusers whose suspicions were refuted too often are not listened to for a while, about whom it was and, if they
//! were many, about anybody. One path that is broken, or one member that answers some and not others, costs an accuser its word
//! about that member and no other.

use std::collections::BTreeMap;

use certs::id::NodeId;

/// Refutations by one member within [`WINDOW_MS`] after which its accuser is ignored about it.
const STRIKES: u32 = 3;
/// Refutations by any members within [`WINDOW_MS`] after which their accuser is ignored: eight must plot to silence one.
const STRIKES_ALL: u32 = 24;
/// In engine milliseconds.
const WINDOW_MS: u64 = 60_000;
/// In engine milliseconds.
const IGNORED_MS: u64 = 600_000;

/// See the module. Bounded by the number of members, and of each by what it may be refuted before it is ignored.
#[derive(Debug, Default)]
pub(crate) struct Accusers {
    accusers: BTreeMap<NodeId, Accuser>,
}

#[derive(Debug, Default)]
struct Accuser {
    all: Strikes,
    by: BTreeMap<NodeId, Strikes>,
    /// What each of them added to `all`: [`STRIKES`] at most, however often it runs anew.
    shares: BTreeMap<NodeId, Strikes>,
}

#[derive(Debug, Default)]
struct Strikes {
    count: u32,
    since: u64,
    ignored_until: u64,
}

impl Accusers {
    /// Whether what a member says of another counts for nothing now.
    pub(crate) fn ignored(&self, accuser: &NodeId, accused: &NodeId, now: u64) -> bool {
        let Some(accuser) = self.accusers.get(accuser) else { return false };
        accuser.all.ignored(now) || accuser.by.get(accused).is_some_and(|strikes| strikes.ignored(now))
    }

    /// Whether what a member says of anybody counts for nothing now.
    pub(crate) fn ignored_all(&self, accuser: &NodeId, now: u64) -> bool {
        self.accusers.get(accuser).is_some_and(|accuser| accuser.all.ignored(now))
    }

    /// Whom it accused turned out to be alive; true if it is ignored about everybody from now on.
    pub(crate) fn refuted(&mut self, accuser: &NodeId, accused: &NodeId, now: u64) -> bool {
        let accuser = self.accusers.entry(accuser.clone()).or_default();
        accuser.by.retain(|_, strikes| strikes.counts(now));
        accuser.by.entry(accused.clone()).or_default().strike(STRIKES, now);
        accuser.shares.retain(|_, strikes| strikes.counts(now));
        let share = accuser.shares.entry(accused.clone()).or_default();
        share.strike(u32::MAX, now);
        if share.count <= STRIKES {
            accuser.all.strike(STRIKES_ALL, now);
        }
        accuser.all.ignored(now)
    }

    /// What was said of this member may be said again: nothing counts that it refuted, but what that says of those who accuse many.
    pub(crate) fn forgive(&mut self, accused: &NodeId) {
        for accuser in self.accusers.values_mut() {
            accuser.by.remove(accused);
        }
    }

    /// The member is no longer one.
    pub(crate) fn forget(&mut self, node: &NodeId) {
        self.accusers.remove(node);
        self.forgive(node);
    }
}

impl Strikes {
    fn ignored(&self, now: u64) -> bool {
        now < self.ignored_until
    }

    fn counts(&self, now: u64) -> bool {
        self.ignored(now) || now.saturating_sub(self.since) <= WINDOW_MS
    }

    fn strike(&mut self, most: u32, now: u64) {
        if self.count == 0 || now.saturating_sub(self.since) > WINDOW_MS {
            (self.count, self.since) = (0, now);
        }
        self.count += 1;
        if self.count >= most {
            self.ignored_until = now + IGNORED_MS;
            self.count = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u32) -> NodeId {
        NodeId::new(&format!("n{number}")).expect("valid")
    }

    #[test]
    fn three_strikes_within_a_minute_are_about_one_member() {
        let (liar, one, other) = (node(0), node(1), node(2));
        let mut accusers = Accusers::default();
        for now in [0, 61_000, 61_001] {
            accusers.refuted(&liar, &one, now);
            assert!(!accusers.ignored(&liar, &one, now));
        }
        accusers.refuted(&liar, &one, 61_002);
        assert!(accusers.ignored(&liar, &one, 61_003));
        assert!(!accusers.ignored(&liar, &other, 61_003), "of others it may know better");
        assert!(!accusers.ignored(&liar, &one, 61_002 + IGNORED_MS));
        accusers.forget(&one);
        assert!(!accusers.ignored(&liar, &one, 61_003));
    }

    #[test]
    fn who_accuses_many_is_ignored_about_all_and_little_is_kept_of_it() {
        let mut accusers = Accusers::default();
        for number in 1..STRIKES_ALL {
            assert!(!accusers.refuted(&node(0), &node(number), 1_000));
        }
        assert!(accusers.refuted(&node(0), &node(STRIKES_ALL), 1_000));
        assert!(accusers.ignored(&node(0), &node(999), 1_001));
        assert!(!accusers.ignored(&node(1), &node(999), 1_001));
        for number in 0..5_000 {
            accusers.refuted(&node(0), &node(number), 2_000 + u64::from(number) * 10_000);
        }
        assert!(accusers.accusers[&node(0)].by.len() < 100);
        assert!(accusers.accusers[&node(0)].shares.len() < 100);
    }

    #[test]
    fn one_member_silences_its_accuser_about_nobody_else_however_often_it_runs_anew() {
        let mut accusers = Accusers::default();
        for run in 0..100 {
            assert!(!accusers.refuted(&node(0), &node(1), 1_000 + run));
            accusers.forgive(&node(1));
        }
        assert!(!accusers.ignored(&node(0), &node(2), 1_200));
    }
}
