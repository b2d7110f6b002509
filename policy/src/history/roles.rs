//! The chain of RoleSets. Which of them count depends only on the set of those that are kept.

use std::{collections::BTreeMap, sync::Arc};

use certs::sign::PublicKey;

use super::{Code, Refused, Roles};
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
    parents: Vec<ChangesetId>,
    /// The last RoleSet that both sides of a split agree on; the parent where there is one. `None` for the genesis.
    base: Option<ChangesetId>,
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

    /// Judges a RoleSet changeset by its references alone.
    pub(super) fn admit(
        &self,
        id: ChangesetId,
        changeset: &Changeset,
        signers: &[PublicKey],
    ) -> Result<Charter, Refused> {
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
        let set = match parse::json(&change.document, content).map(|document| document.spec) {
            Ok(Spec::RoleSet(set)) => set,
            Ok(_) => return invalid("not a RoleSet"),
            Err(problems) => {
                let first = problems.first().map(ToString::to_string).unwrap_or_default();
                return Err(Refused::because(Code::InvalidDocument, first, ""));
            }
        };
        if !set.approves(signers) {
            let hint = "sign it by more than half of the keys that govern it, or by a recovery key";
            return Err(Refused::because(Code::ThresholdMissing, "the RoleSet is not signed by its own keys", hint));
        }
        let mut parents = change.replaces.clone();
        parents.sort_unstable();
        if parents.is_empty() { self.admit_genesis(id, set) } else { self.admit_child(id, set, parents, signers) }
    }

    fn admit_genesis(&self, id: ChangesetId, set: Arc<RoleSet>) -> Result<Charter, Refused> {
        if self.genesis().is_some_and(|genesis| genesis != id) {
            return Err(Refused::because(
                Code::RoleSetInvalid,
                "the mesh has another first RoleSet",
                "name the RoleSet that it replaces",
            ));
        }
        let Some(bundle) = set.bundle.clone() else {
            return Err(Refused::because(Code::RoleSetInvalid, "the first RoleSet bears no trust bundle", ""));
        };
        let roles = Arc::new(Roles { number: 1, changeset: id, set, bundle });
        Ok(Charter { roles, parents: Vec::new(), base: None })
    }

    fn admit_child(
        &self,
        id: ChangesetId,
        set: Arc<RoleSet>,
        parents: Vec<ChangesetId>,
        signers: &[PublicKey],
    ) -> Result<Charter, Refused> {
        let known: Vec<&Charter> = parents.iter().filter_map(|parent| self.charters.get(parent)).collect();
        let base = match known.as_slice() {
            [] => return Err(Refused::because(Code::InvalidReference, "what it replaces is no RoleSet", "")),
            [parent] if parents.len() == 1 => Some(parent.roles.changeset),
            [first, rest @ ..] => {
                let same = known.len() == parents.len() && rest.iter().all(|other| other.base == first.base);
                first.base.filter(|_| same)
            }
        };
        let Some(base) = base.and_then(|base| self.charters.get(&base)) else {
            return Err(Refused::because(
                Code::InvalidReference,
                "the RoleSets that it replaces are not children of one",
                "",
            ));
        };
        let before = &base.roles.set;
        if !before.approves(signers) {
            let message = format!("it is not signed by the keys of RoleSet {}", base.roles.number);
            let hint = "sign it by more than half of the keys that govern now, or by a recovery key of now";
            return Err(Refused::because(Code::ThresholdMissing, message, hint));
        }
        if set.keeps.is_none() && !set.keeps_all_of(before) {
            let message = "it takes away a key or a right and does not say which changesets stay (`keeps`)";
            let hint = "`skein operator remove` names the changesets that live now";
            return Err(Refused::because(Code::RoleSetInvalid, message, hint));
        }
        let number = 1 + known.iter().map(|parent| parent.roles.number).max().unwrap_or_default();
        let bundle = set.bundle.clone().unwrap_or_else(|| inherited(&known));
        let base = base.roles.changeset;
        let roles = Arc::new(Roles { number, changeset: id, set, bundle });
        Ok(Charter { roles, parents, base: Some(base) })
    }

    /// Keeps it, and works out anew which count.
    pub(super) fn add(&mut self, charter: Charter) {
        let genesis = self.genesis().unwrap_or(charter.roles.changeset);
        self.charters.insert(charter.roles.changeset, charter);
        self.counting.clear();
        self.rivals.clear();
        let mut next = Some(genesis);
        while let Some(charter) = next.and_then(|id| self.charters.get(&id)) {
            self.counting.push(charter.roles.clone());
            let mut heads = self.children_of(charter.roles.changeset);
            next = heads.pop();
            if !heads.is_empty() {
                heads.extend(next.take());
                self.rivals = heads;
            }
        }
    }

    /// The RoleSets with this base that no other of them names as a parent.
    fn children_of(&self, base: ChangesetId) -> Vec<ChangesetId> {
        let children: Vec<_> = self.charters.values().filter(|charter| charter.base == Some(base)).collect();
        let replaced = |id: &ChangesetId| children.iter().any(|other| other.parents.contains(id));
        children.iter().map(|charter| charter.roles.changeset).filter(|id| !replaced(id)).collect()
    }

    /// The name that some RoleSet gives to a key, the newest first.
    pub(super) fn name_of(&self, key: &PublicKey) -> Option<&str> {
        let in_set = |roles: &'_ Arc<Roles>| roles.set.keys.iter().position(|own| own.key == *key);
        self.counting.iter().rev().find_map(|roles| Some(roles.set.keys[in_set(roles)?].name.as_str()))
    }
}

fn inherited(parents: &[&Charter]) -> Vec<Vec<u8>> {
    let mut bundle: Vec<Vec<u8>> = parents.iter().flat_map(|parent| parent.roles.bundle.iter().cloned()).collect();
    bundle.sort_unstable();
    bundle.dedup();
    bundle
}
