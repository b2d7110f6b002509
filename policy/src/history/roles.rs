//! The chain of RoleSets. Which of them count depends only on the set of those that are kept.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use certs::{sign::PublicKey, trust::Trust};

use super::{Code, Refused, Roles, branches};
use crate::{
    changeset::{Changeset, ChangesetId},
    document::{DocumentId, Spec},
    kinds::RoleSet,
    parse,
};

/// A RoleSet that is kept: approved by its base and by itself.
#[derive(Debug, Clone)]
pub(super) struct Charter {
    pub(super) roles: Arc<Roles>,
    pub(super) parents: Vec<ChangesetId>,
    /// The last RoleSet that both sides of a split agree on; the parent where there is one. `None` for the genesis.
    pub(super) base: Option<ChangesetId>,
    /// Who signed it, approvals included.
    pub(super) signers: BTreeSet<PublicKey>,
    /// False if this build cannot read what it says: `roles` is what its base leaves ([`RoleSet::before_unread`]).
    pub(super) read: bool,
}

/// What a RoleSet changeset says.
enum Said {
    Read(Arc<RoleSet>),
    /// This build cannot read it: why, and what it could read.
    Unread(String, Option<Box<RoleSet>>),
}

/// All kept RoleSets, and which of them count.
#[derive(Debug, Clone, Default)]
pub(super) struct Chain {
    charters: BTreeMap<ChangesetId, Charter>,
    /// Those that count, from the genesis.
    pub(super) counting: Vec<Arc<Roles>>,
    /// Rival children of the last one: none of them counts until a child names them all.
    pub(super) rivals: Vec<ChangesetId>,
}

impl Chain {
    pub(super) fn genesis(&self) -> Option<ChangesetId> {
        self.counting.first().map(|roles| roles.changeset)
    }

    /// The RoleSets of a number: one, or several after a split.
    pub(super) fn of_number(&self, number: u64) -> impl Iterator<Item = &Arc<Roles>> {
        self.charters.values().map(|charter| &charter.roles).filter(move |roles| roles.number == number)
    }

    /// The highest number.
    pub(super) fn newest(&self) -> u64 {
        self.charters.values().map(|charter| charter.roles.number).max().unwrap_or_default()
    }

    /// Every kept RoleSet in an order in which each follows its parents.
    pub(super) fn all(&self) -> Vec<ChangesetId> {
        let mut all: Vec<_> =
            self.charters.values().map(|charter| (charter.roles.number, charter.roles.changeset)).collect();
        all.sort_unstable();
        all.into_iter().map(|(_, id)| id).collect()
    }

    /// The RoleSets that a changeset which names `number` must satisfy: the one that it was signed under, and all later ones.
    pub(super) fn since(&self, number: u64) -> &[Arc<Roles>] {
        let later = self.counting.partition_point(|roles| roles.number <= number);
        &self.counting[later.saturating_sub(1)..]
    }

    /// True if the RoleSet is here and enough keys have signed it.
    pub(super) fn holds(&self, id: &ChangesetId) -> bool {
        self.charters.contains_key(id)
    }

    /// Judges a RoleSet changeset by its references alone. `None`: some of its keys have signed it, and more must.
    pub(super) fn admit(
        &self,
        id: ChangesetId,
        changeset: &Changeset,
        signers: &[PublicKey],
    ) -> Result<Option<Charter>, Refused> {
        let said = said(changeset)?;
        let parents = parents(changeset);
        if !parents.is_empty() {
            return self.admit_child(id, said, parents, signers);
        }
        let set = match said {
            Said::Read(set) => set,
            Said::Unread(why, _) => return Err(Refused::because(Code::InvalidDocument, why, "")),
        };
        if !set.approves(signers) {
            return Err(Refused::because(
                Code::ThresholdMissing,
                "the first RoleSet is not signed by its own keys",
                "",
            ));
        }
        self.admit_genesis(id, set, signers).map(Some)
    }

    /// The RoleSets whose thresholds this RoleSet changeset must meet: its base and itself.
    pub(super) fn sets_for(&self, changeset: &Changeset) -> Vec<Arc<RoleSet>> {
        let base = self.base(&parents(changeset)).ok().map(|base| base.roles.set.clone());
        let own = match said(changeset) {
            Ok(Said::Read(set)) => Some(set),
            // Its own keys sign it, too, whoever can read the rest.
            Ok(Said::Unread(_, next)) => next.map(Arc::from),
            Err(_) => None,
        };
        base.into_iter().chain(own).collect()
    }

    /// True if the key is one of those that this RoleSet changeset needs: of its base, or of itself.
    pub(super) fn governs(&self, changeset: &Changeset, key: &PublicKey) -> bool {
        self.sets_for(changeset).iter().any(|set| set.governs(key))
    }

    fn admit_genesis(&self, id: ChangesetId, set: Arc<RoleSet>, signers: &[PublicKey]) -> Result<Charter, Refused> {
        if self.genesis().is_some_and(|genesis| genesis != id) {
            return Err(Refused::because(
                Code::RoleSetInvalid,
                "the mesh has another first RoleSet",
                "name the RoleSet that it replaces",
            ));
        }
        let Some(trust) = set.trust.clone() else {
            return Err(Refused::because(Code::RoleSetInvalid, "the first RoleSet bears no trust bundle", ""));
        };
        let roles = Arc::new(Roles { number: 1, changeset: id, set, trust });
        Ok(Charter { roles, parents: Vec::new(), base: None, signers: signers.iter().copied().collect(), read: true })
    }

    /// One that cannot be read is kept all the same: what is signed under it counts, evictions above all, and only its base can say
    /// whether it does.
    fn admit_child(
        &self,
        id: ChangesetId,
        said: Said,
        parents: Vec<ChangesetId>,
        signers: &[PublicKey],
    ) -> Result<Option<Charter>, Refused> {
        let base = self.base(&parents)?;
        let before = &base.roles.set;
        let (set, read) = match said {
            Said::Read(set) => (set, true),
            Said::Unread(_, next) => (Arc::new(before.before_unread(next.as_deref())), false),
        };
        // What stands in for a base that cannot be read may have more than that leaves.
        if read && base.read && set.keeps.is_none() && !set.keeps_all_of(before) {
            let message = "it takes away a key or a right and does not say which changesets stay (`keeps`)";
            let hint = "`skein operator remove` names the changesets that live now";
            return Err(Refused::because(Code::RoleSetInvalid, message, hint));
        }
        if !before.approves(signers) || (read && !set.approves(signers)) {
            if signers.iter().any(|key| before.governs(key)) {
                return Ok(None);
            }
            let message = format!("no signer governs RoleSet {}", base.roles.number);
            let hint = "sign it by more than half of the keys that govern now, or by a recovery key of now";
            return Err(Refused::because(Code::RoleMissing, message, hint));
        }
        let known = || parents.iter().filter_map(|parent| self.charters.get(parent));
        let number = 1 + known().map(|parent| parent.roles.number).max().unwrap_or_default();
        let trust = set.trust.clone().unwrap_or_else(|| inherited(&known().collect::<Vec<_>>()));
        let base = base.roles.changeset;
        let roles = Arc::new(Roles { number, changeset: id, set, trust });
        Ok(Some(Charter { roles, parents, base: Some(base), signers: signers.iter().copied().collect(), read }))
    }

    /// The RoleSet that children with these parents must satisfy beside themselves: the parent, or what rival parents stem from.
    pub(super) fn base(&self, parents: &[ChangesetId]) -> Result<&Charter, Refused> {
        let known: Vec<&Charter> = parents.iter().filter_map(|parent| self.charters.get(parent)).collect();
        if known.len() != parents.len() {
            let message = "a RoleSet that it replaces has too few signatures so far";
            return Err(Refused::because(Code::RoleSetUnknown, message, "have that one signed first"));
        }
        let base = match known.as_slice() {
            [parent] => return Ok(parent),
            [first, rest @ ..] if rest.iter().all(|other| other.base == first.base) => first.base,
            _ => None,
        };
        base.and_then(|base| self.charters.get(&base)).ok_or_else(|| {
            Refused::because(Code::InvalidReference, "the RoleSets that it replaces are not children of one", "")
        })
    }

    /// Keeps it, in the place of itself with fewer signers, and works out anew which count.
    pub(super) fn add(&mut self, charter: Charter) {
        let genesis = self.genesis().unwrap_or(charter.roles.changeset);
        self.charters.insert(charter.roles.changeset, charter);
        let mut heads = branches::settle(&self.charters);
        self.counting.clear();
        self.rivals.clear();
        let mut next = Some(genesis);
        while let Some(charter) = next.and_then(|id| self.charters.get(&id)) {
            let id = charter.roles.changeset;
            self.counting.push(charter.roles.clone());
            let heads = heads.remove(&id).unwrap_or_default();
            next = if let [only] = heads.as_slice() { Some(*only) } else { None };
            if next.is_none() {
                self.rivals = heads;
            }
        }
    }

    /// The name that some RoleSet gives to a key, the newest first.
    pub(super) fn name_of(&self, key: &PublicKey) -> Option<&str> {
        let in_set = |roles: &'_ Arc<Roles>| roles.set.keys.iter().position(|own| own.key == *key);
        self.counting.iter().rev().find_map(|roles| Some(roles.set.keys[in_set(roles)?].name.as_str()))
    }
}

/// The RoleSet of a changeset that holds one and nothing else.
fn said(changeset: &Changeset) -> Result<Said, Refused> {
    let invalid = |message: &str| Err(Refused::because(Code::RoleSetInvalid, message, ""));
    let [change] = changeset.changes.as_slice() else {
        return invalid("a RoleSet is pushed alone");
    };
    let Some(content) = &change.content else {
        return invalid("a RoleSet cannot be deleted");
    };
    if change.document != DocumentId::role_set() {
        return invalid("there is one RoleSet; it is called `default`");
    }
    match parse::signed(&change.document, content).map(|document| document.spec) {
        Ok(Spec::RoleSet(set)) => Ok(Said::Read(set)),
        Ok(_) => invalid("not a RoleSet"),
        Err(problems) => {
            let first = problems.first().map(ToString::to_string).unwrap_or_default();
            Ok(Said::Unread(first, parse::as_far_as(content, RoleSet::decode).map(Box::new)))
        }
    }
}

/// What a RoleSet changeset replaces, ascending.
pub(super) fn parents(changeset: &Changeset) -> Vec<ChangesetId> {
    let mut parents: Vec<ChangesetId> = changeset.references().copied().collect();
    parents.sort_unstable();
    parents
}

/// What rivals leave: those that speak of roots are heard before those that only inherited them.
fn inherited(parents: &[&Charter]) -> Trust {
    let speaks = |parent: &&&Charter| parent.roles.set.trust.is_some();
    let speaking: Vec<&Charter> = parents.iter().filter(speaks).copied().collect();
    let heard = if speaking.is_empty() { parents } else { speaking.as_slice() };
    Trust::union(heard.iter().map(|parent| &parent.roles.trust))
}
