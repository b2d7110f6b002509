//! Which roots the mesh believes, and the change from one root to the next: a pure state machine of three steps.
//!
//! `begin` trusts the new root beside the old one, `activate` has everything certified under it, `finish` withdraws the old one.
//! Operators sign each step as part of a RoleSet; nothing here knows who has followed.

use std::{collections::BTreeSet, fmt};

use crate::{sign::Digest, verify::anchor};

/// Most roots that are trusted at a time.
pub const MAX_ROOTS: usize = 8;

/// Withdrawn roots that are remembered: who was away for longer than so many changes of the root is invited anew.
pub const MAX_FORMER: usize = 4;

/// The roots of a mesh.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trust {
    /// DER of each root under which certificates count.
    pub roots: Vec<Vec<u8>>,
    /// SHA-256 of those among them from which nothing is issued yet.
    pub next: BTreeSet<Digest>,
    /// SHA-256 of those among them from which nothing is issued any more: who is certified under one renews at once.
    pub retiring: BTreeSet<Digest>,
    /// DER of withdrawn roots. A certificate under one counts for nothing, except that its node may have its CA renewed at an enroller
    /// that has seen its key before.
    pub former: Vec<Vec<u8>>,
}

/// Where a change of the root stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// One root, no change under way.
    Steady,
    /// The new root is trusted beside the old one.
    Distributing,
    /// Everything is certified under the new root; the old one is still trusted.
    Issuing,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Steady => "steady",
            Phase::Distributing => "distributing",
            Phase::Issuing => "issuing",
        })
    }
}

/// What a root is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is trusted, and nothing is issued from it yet.
    Next,
    /// Enroller CAs are certified from it.
    Issuing,
    /// It is trusted, and nothing is issued from it any more.
    Retiring,
    /// Nothing under it counts.
    Withdrawn,
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Standing::Next => "next",
            Standing::Issuing => "issuing",
            Standing::Retiring => "retiring",
            Standing::Withdrawn => "withdrawn",
        })
    }
}

/// How people tell one root from another: the beginning of its certificate's SHA-256.
pub fn root_id(root: &[u8]) -> String {
    Digest::of(root).to_string()[..16].to_owned()
}

/// A step out of turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OutOfTurn {
    /// No change of the root is under way.
    #[error("no change of the root is under way")]
    Steady,
    /// The new root is not in use yet.
    #[error("the new root is trusted and not in use yet")]
    Distributing,
    /// The old root is about to be withdrawn.
    #[error("the new root is in use and the old one still trusted")]
    Issuing,
    /// The root is one that this mesh has or had.
    #[error("the mesh has or had this root already")]
    Known,
}

/// Roots that contradict each other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Inconsistent(pub &'static str);

impl Trust {
    /// These roots and no change under way.
    pub fn of(roots: Vec<Vec<u8>>) -> Trust {
        Trust { roots, ..Trust::default() }
    }

    /// Whether the parts fit together; a RoleSet whose roots do not is no RoleSet.
    ///
    /// # Errors
    /// [`Inconsistent`]: what does not fit.
    pub fn check(&self) -> Result<(), Inconsistent> {
        let wrong = |what| Err(Inconsistent(what));
        let own: BTreeSet<Digest> = self.roots.iter().map(|root| Digest::of(root)).collect();
        if own.len() != self.roots.len() || self.former.iter().any(|root| own.contains(&Digest::of(root))) {
            return wrong("a root stands twice");
        }
        if self.roots.len() > MAX_ROOTS || self.former.len() > MAX_FORMER {
            return wrong("too many roots");
        }
        if !self.next.is_subset(&own) || !self.retiring.is_subset(&own) || !self.next.is_disjoint(&self.retiring) {
            return wrong("what is next or retiring is one of the roots, and not both");
        }
        if own.iter().all(|root| self.next.contains(root) || self.retiring.contains(root)) {
            return wrong("no root is left to issue from");
        }
        Ok(())
    }

    /// Where a change of the root stands.
    pub fn phase(&self) -> Phase {
        match (self.next.is_empty(), self.retiring.is_empty()) {
            (_, false) => Phase::Issuing,
            (false, true) => Phase::Distributing,
            (true, true) => Phase::Steady,
        }
    }

    /// The roots from which enroller CAs are certified now.
    pub fn issuing(&self) -> impl Iterator<Item = &Vec<u8>> {
        self.roots.iter().filter(|root| self.standing(root) == Standing::Issuing)
    }

    /// The roots that stay when the change is over.
    pub fn staying(&self) -> Vec<Vec<u8>> {
        self.roots.iter().filter(|root| !self.retiring.contains(&Digest::of(root))).cloned().collect()
    }

    /// What this root is good for.
    pub fn standing(&self, root: &[u8]) -> Standing {
        let own = Digest::of(root);
        match () {
            () if !self.roots.iter().any(|trusted| trusted == root) => Standing::Withdrawn,
            () if self.retiring.contains(&own) => Standing::Retiring,
            () if self.next.contains(&own) => Standing::Next,
            () => Standing::Issuing,
        }
    }

    /// SHA-256 of the roots that stay when the change is over.
    pub fn staying_digests(&self) -> BTreeSet<Digest> {
        let all = self.roots.iter().map(|root| Digest::of(root));
        all.filter(|root| !self.retiring.contains(root)).collect()
    }

    /// Whether certificates under this root are to be renewed at once: it retires, or is withdrawn already.
    pub fn is_ending(&self, root: &[u8]) -> bool {
        matches!(self.standing(root), Standing::Retiring | Standing::Withdrawn)
    }

    /// Whether what an enroller CA certified is to be renewed at once: no root that stays has signed it.
    pub fn is_leaving(&self, enroller: &[u8]) -> bool {
        anchor(enroller, &self.roots).is_none_or(|root| self.is_ending(root))
    }

    /// Trusts `new` beside the roots of now; nothing is issued from it yet.
    ///
    /// # Errors
    /// [`OutOfTurn::Known`]: the mesh has or had this root. Else the phase in which the change stands.
    pub fn begin(&self, new: &[u8]) -> Result<Trust, OutOfTurn> {
        self.must_be(Phase::Steady)?;
        self.must_be_new(new)?;
        let mut after = self.clone();
        after.roots.push(new.to_vec());
        after.next = BTreeSet::from([Digest::of(new)]);
        Ok(after)
    }

    /// From now on what was next is issued from, and what was issued from retires.
    ///
    /// # Errors
    /// [`OutOfTurn::Steady`], [`OutOfTurn::Issuing`]: nothing is next.
    pub fn activate(&self) -> Result<Trust, OutOfTurn> {
        self.must_be(Phase::Distributing)?;
        let retiring = self.issuing().map(|root| Digest::of(root)).collect();
        Ok(Trust { next: BTreeSet::new(), retiring, ..self.clone() })
    }

    /// Withdraws what retires.
    ///
    /// # Errors
    /// [`OutOfTurn::Steady`], [`OutOfTurn::Distributing`]: nothing retires.
    pub fn finish(&self) -> Result<Trust, OutOfTurn> {
        self.must_be(Phase::Issuing)?;
        let roots = self.staying();
        Ok(Trust { former: self.former_beside(&roots), roots, ..Trust::default() })
    }

    /// Gives up a change that has not come further than the trust in the new root.
    ///
    /// # Errors
    /// [`OutOfTurn::Steady`]: there is none. [`OutOfTurn::Issuing`]: it has come further.
    pub fn cancel(&self) -> Result<Trust, OutOfTurn> {
        self.must_be(Phase::Distributing)?;
        let roots = self.issuing().cloned().collect();
        Ok(Trust { roots, former: self.former.clone(), ..Trust::default() })
    }

    /// Only `new` from now on, whatever was under way: what an emergency takes.
    ///
    /// # Errors
    /// [`OutOfTurn::Known`]: the mesh has or had this root.
    pub fn replace(&self, new: &[u8]) -> Result<Trust, OutOfTurn> {
        self.must_be_new(new)?;
        let roots = vec![new.to_vec()];
        Ok(Trust { former: self.former_beside(&roots), roots, ..Trust::default() })
    }

    /// What several RoleSets that were signed apart from each other trust together: a root that any of them withdrew is former in
    /// none of them that still trusts it, so that nobody is cut off by a split that operators have yet to settle.
    pub fn union<'t>(all: impl Iterator<Item = &'t Trust> + Clone) -> Trust {
        let mut roots: Vec<Vec<u8>> = Vec::new();
        for root in all.clone().flat_map(|trust| &trust.roots) {
            if !roots.contains(root) {
                roots.push(root.clone());
            }
        }
        let retiring: BTreeSet<Digest> = all.clone().flat_map(|trust| trust.retiring.iter().copied()).collect();
        let next = all.clone().flat_map(|trust| trust.next.iter().copied());
        let next = next.filter(|root| !retiring.contains(root)).collect();
        let mut former: Vec<Vec<u8>> = Vec::new();
        for root in all.flat_map(|trust| &trust.former) {
            if !roots.contains(root) && !former.contains(root) {
                former.push(root.clone());
            }
        }
        former.truncate(MAX_FORMER);
        let mut union = Trust { roots, next, retiring, former };
        if union.check().is_err() {
            (union.next, union.retiring) = Default::default();
        }
        union
    }

    /// The latest withdrawn roots, those that are not among `roots`.
    fn former_beside(&self, roots: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let withdrawn = self.roots.iter().rev().chain(&self.former).filter(|root| !roots.contains(root));
        withdrawn.take(MAX_FORMER).cloned().collect()
    }

    fn must_be(&self, phase: Phase) -> Result<(), OutOfTurn> {
        match self.phase() {
            now if now == phase => Ok(()),
            Phase::Steady => Err(OutOfTurn::Steady),
            Phase::Distributing => Err(OutOfTurn::Distributing),
            Phase::Issuing => Err(OutOfTurn::Issuing),
        }
    }

    fn must_be_new(&self, root: &[u8]) -> Result<(), OutOfTurn> {
        let known = self.roots.iter().chain(&self.former).any(|known| known == root);
        if known { Err(OutOfTurn::Known) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Begin(u8),
        Activate,
        Finish,
        Cancel,
        Replace(u8),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0..20u8).prop_map(Step::Begin),
            4 => Just(Step::Activate),
            4 => Just(Step::Finish),
            1 => Just(Step::Cancel),
            1 => (0..20u8).prop_map(Step::Replace),
        ];
        proptest::collection::vec(step, 0..40)
    }

    fn take(trust: &Trust, step: Step) -> Result<Trust, OutOfTurn> {
        match step {
            Step::Begin(root) => trust.begin(&[root]),
            Step::Activate => trust.activate(),
            Step::Finish => trust.finish(),
            Step::Cancel => trust.cancel(),
            Step::Replace(root) => trust.replace(&[root]),
        }
    }

    #[test]
    fn the_three_steps_lead_from_one_root_to_the_other() {
        let (old, new) = (vec![1], vec![2]);
        let steady = Trust::of(vec![old.clone()]);
        assert_eq!(steady.activate(), Err(OutOfTurn::Steady));
        assert_eq!(steady.finish(), Err(OutOfTurn::Steady));
        assert_eq!(steady.begin(&old), Err(OutOfTurn::Known));
        let both = steady.begin(&new).unwrap();
        assert_eq!((both.phase(), both.issuing().collect::<Vec<_>>()), (Phase::Distributing, vec![&old]));
        assert!(!both.is_ending(&old) && !both.is_ending(&new));
        assert_eq!(both.begin(&[3]), Err(OutOfTurn::Distributing));
        assert_eq!(both.finish(), Err(OutOfTurn::Distributing));
        assert_eq!(both.cancel().unwrap(), steady);
        let used = both.activate().unwrap();
        assert_eq!((used.phase(), used.issuing().collect::<Vec<_>>()), (Phase::Issuing, vec![&new]));
        assert!(used.is_ending(&old) && !used.is_ending(&new));
        assert_eq!((used.activate(), used.cancel()), (Err(OutOfTurn::Issuing), Err(OutOfTurn::Issuing)));
        let over = used.finish().unwrap();
        assert_eq!((over.phase(), &over.roots, &over.former), (Phase::Steady, &vec![new], &vec![old.clone()]));
        assert!(over.is_ending(&old));
        assert_eq!(over.begin(&old), Err(OutOfTurn::Known));
    }

    proptest! {
        #[test]
        fn whatever_the_steps_there_is_a_root_to_issue_from(all in steps()) {
            let mut trust = Trust::of(vec![vec![200]]);
            for step in all {
                let before = trust.clone();
                let Ok(after) = take(&trust, step) else { continue };
                prop_assert_eq!(after.check(), Ok(()), "{:?} of {:?}", step, &before);
                prop_assert!(after.issuing().count() == 1);
                // Nothing that certificates rest on goes without a step in which it was retiring, except by an emergency or where
                // nothing was issued from it.
                let gone = before.roots.iter().filter(|root| !after.roots.contains(root));
                for root in gone {
                    let own = Digest::of(root);
                    let announced = before.retiring.contains(&own) || before.next.contains(&own);
                    prop_assert!(announced || matches!(step, Step::Replace(_)));
                }
                // Nothing is issued from a root that was not trusted before, except by an emergency.
                for root in after.issuing() {
                    prop_assert!(before.roots.contains(root) || matches!(step, Step::Replace(_)));
                }
                trust = after;
            }
        }

        #[test]
        fn a_union_is_consistent_and_trusts_what_each_does(one in steps(), other in steps()) {
            let grown = |all: Vec<Step>| all.into_iter().fold(Trust::of(vec![vec![200]]), |trust, step| {
                take(&trust, step).unwrap_or(trust)
            });
            let both = [grown(one), grown(other)];
            let union = Trust::union(both.iter());
            prop_assert_eq!(union.check(), Ok(()));
            prop_assert!(both.iter().flat_map(|trust| &trust.roots).all(|root| union.roots.contains(root)));
            prop_assert_eq!(&Trust::union(both[..1].iter()), &both[0]);
        }
    }
}
