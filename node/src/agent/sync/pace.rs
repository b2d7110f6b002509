//! How soon a peer is compared with again. One that announces what it then does not give would be asked for it on and on.

use std::{collections::BTreeMap, time::Duration};

use certs::id::NodeId;

/// The first pause after a comparison that brought nothing of what was lacking, and the longest: it doubles in between.
const FIRST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(16);
/// Pause where other peers are just giving what is lacking.
const ELSEWHERE: Duration = Duration::from_millis(50);

/// What a comparison came to; of two parts of one the greater counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Brought {
    /// Nothing was lacking.
    Whole,
    /// What was lacking is being fetched from others.
    Elsewhere,
    /// The peer was asked for what was lacking, and nothing of it came that is kept.
    InVain,
    /// Something new.
    Fresh,
}

/// How often in a row each peer was asked in vain.
#[derive(Debug, Default)]
pub(super) struct Pace(BTreeMap<NodeId, u32>);

impl Pace {
    /// A comparison has ended; gives how long the peer is left alone.
    pub(super) fn ended(&mut self, peer: &NodeId, brought: Brought) -> Duration {
        match brought {
            Brought::Whole | Brought::Fresh => {
                self.0.remove(peer);
                Duration::ZERO
            }
            Brought::Elsewhere => ELSEWHERE,
            Brought::InVain => {
                let before = self.0.entry(peer.clone()).or_default();
                let pause = FIRST.saturating_mul(1 << (*before).min(16)).min(LONGEST);
                *before = before.saturating_add(1);
                pause
            }
        }
    }

    /// Forgets those that are no members any more.
    pub(super) fn keep(&mut self, is_member: impl Fn(&NodeId) -> bool) {
        self.0.retain(|peer, _| is_member(peer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_gives_nothing_is_asked_ever_more_seldom_until_it_gives_something() {
        let [liar, other] = ["liar", "other"].map(|name| NodeId::new(name).unwrap());
        let mut pace = Pace::default();
        let (mut time, mut asked) = (Duration::ZERO, 0);
        while time < Duration::from_secs(600) {
            time += pace.ended(&liar, Brought::InVain);
            asked += 1;
        }
        assert!((10..50).contains(&asked), "{asked} times in ten minutes");
        assert_eq!(pace.ended(&other, Brought::InVain), FIRST, "others are not meant");
        assert_eq!(pace.ended(&liar, Brought::Elsewhere), ELSEWHERE);
        assert_eq!(pace.ended(&liar, Brought::InVain), LONGEST, "that others give it says nothing of this one");
        assert_eq!(pace.ended(&liar, Brought::Fresh), Duration::ZERO);
        assert_eq!(pace.ended(&liar, Brought::InVain), FIRST);
        pace.keep(|peer| *peer == other);
        assert_eq!(pace.0.len(), 1);
    }
}
