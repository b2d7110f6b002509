//! Leafs for applications: issued here, their keys handed over and not kept. What was handed over is remembered until it ends.

use std::collections::VecDeque;

use certs::{
    ca::Svid,
    codec::Millis,
    id::SpiffeId,
    verify::{Authority, VerifyError, verify},
};

use super::{Identity, LeafFacts};
use crate::lock::lock;

/// So many leafs of applications are remembered; the oldest go first.
const REMEMBERED: usize = 512;

/// The leafs of applications that have not ended.
#[derive(Debug, Default)]
pub(super) struct Handed {
    leafs: VecDeque<LeafFacts>,
}

/// Why an application gets no leaf.
#[derive(Debug, thiserror::Error)]
pub enum NotHanded {
    /// The node's CA issues none: it has ended, or lacks the account.
    #[error("{0}")]
    NotIssued(#[from] certs::error::Error),
    /// What it issues does not hold in this mesh: evicted, revoked, no grant.
    #[error("{0}")]
    DoesNotHold(#[from] VerifyError),
}

impl Handed {
    fn note(&mut self, leaf: LeafFacts, now: Millis) {
        self.leafs.retain(|old| old.not_after > now);
        if self.leafs.len() == REMEMBERED {
            self.leafs.pop_front();
        }
        self.leafs.push_back(leaf);
    }

    /// Those that have not ended, oldest first.
    pub(super) fn facts(&self, now: Millis) -> impl Iterator<Item = LeafFacts> + '_ {
        self.leafs.iter().filter(move |leaf| leaf.not_after > now).cloned()
    }
}

impl Identity {
    /// Issues a leaf of `life` milliseconds with a key of its own for an application of the local user `uid`.
    ///
    /// # Errors
    /// [`NotHanded`]; nothing was issued that holds.
    pub fn hand_out(
        &self,
        id: &SpiffeId,
        life: Millis,
        uid: u32,
        authority: &Authority,
        now: Millis,
    ) -> Result<Svid, NotHanded> {
        let svid = self.ca.load().svid_for(id, life, now)?;
        verify(&svid.chain, authority, now)?;
        let leaf = LeafFacts {
            id: svid.id.clone(),
            chain: svid.chain.iter().map(|der| der.to_vec()).collect(),
            not_before: svid.not_before,
            not_after: svid.not_after,
            uid: Some(uid),
        };
        lock(&self.handed).note(leaf, now);
        Ok(svid)
    }
}

#[cfg(test)]
mod tests {
    use certs::id::{ServiceAccount, TrustDomain};

    use super::*;

    fn leaf(account: &str, not_after: Millis) -> LeafFacts {
        let account = ServiceAccount::new("shop", account).unwrap();
        let id = SpiffeId::service(TrustDomain::new("t.example").unwrap(), account);
        LeafFacts { id, chain: Vec::new(), not_before: 0, not_after, uid: Some(7) }
    }

    #[test]
    fn what_has_ended_is_forgotten_and_no_more_is_kept_than_the_limit() {
        let mut handed = Handed::default();
        handed.note(leaf("short", 10), 0);
        (0..REMEMBERED as Millis).for_each(|n| handed.note(leaf("web", 100 + n), 5));
        assert_eq!(handed.facts(5).count(), REMEMBERED);
        assert!(handed.facts(5).all(|leaf| leaf.not_after >= 100), "the oldest went");
        assert_eq!(handed.facts(101).count(), REMEMBERED - 2);
        handed.note(leaf("web", 10_000), 9_000);
        assert_eq!(handed.leafs.len(), 1);
    }
}
