//! What a RoleSet names that takes a key away together with what it authored.

use std::collections::BTreeSet;

use certs::{
    codec::Millis,
    sign::{Digest, PublicKey},
};

use super::{
    Entry, History,
    fold::{Folder, staying},
    in_force,
};
use crate::{
    changeset::{self, ChangesetId},
    document::{DocumentId, Kind},
    kinds::RoleSet,
};

/// What is to stand in such a RoleSet, and what comes of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Voided {
    /// For the field `keeps`.
    pub keeps: BTreeSet<Digest>,
    /// For the field `voids`: what would stay because something in `keeps` descends from it.
    pub voids: BTreeSet<Digest>,
    /// How many changesets stop counting that are live.
    pub ended: usize,
    /// Documents that have a value now, and none then.
    pub bare: Vec<DocumentId>,
}

impl History {
    /// As [`History::keeps_under`], without what `key` authored and nobody with it who stays: what concerns the whole mesh stays all the same unless this is to
    /// go `too`. What it only approved was authored by somebody else, and stays. What the voided values replaced counts again: the
    /// nearest of it that counts so far is kept, if `next` would not let it count by itself.
    pub fn voiding(&self, next: &RoleSet, key: &PublicKey, too: bool, now: Millis) -> Voided {
        let roles = in_force(next);
        let goes = |entry: &Entry| {
            let is_wide = entry.changeset.changes.iter().any(|change| change.document.kind.is_mesh_wide());
            (too || !is_wide) && is_author(entry, key, next) && !self.kept.allowed(&roles, entry)
        };
        let mut voided = Voided { keeps: self.keeps_under(next, now), ..Voided::default() };
        let before = voided.keeps.len();
        voided.keeps.retain(|id| !self.get(&ChangesetId(*id)).is_some_and(&goes));
        voided.ended = before - voided.keeps.len();
        let folder = Folder::new(&self.kept, &self.chain, now);
        let counts = |entry: &Entry| {
            let on_trial = entry.changeset.confirm_by.is_some_and(|until| now < until);
            folder.counts_for_ever(&entry.id) || on_trial && folder.counts_by_roles(&entry.id)
        };
        let mut passed = BTreeSet::new();
        let state = self.state(now);
        for (document, live) in state.documents.iter().filter(|(id, _)| id.kind != Kind::RoleSet) {
            let sets =
                |id: &ChangesetId| self.kept.value(id, document).is_some_and(|(_, change, _)| change.content.is_some());
            let heads = live.values.iter().map(|value| value.changeset);
            let (mut open, others): (Vec<ChangesetId>, Vec<ChangesetId>) =
                heads.partition(|id| self.get(id).is_some_and(&goes));
            let had = open.iter().any(sets);
            let mut has = others.iter().any(sets);
            let mut seen: BTreeSet<ChangesetId> = open.iter().copied().collect();
            while let Some(id) = open.pop() {
                let Some((entry, change, _)) = self.kept.value(&id, document) else { continue };
                let is_nearest = if goes(entry) {
                    passed.insert(id);
                    false
                } else if !counts(entry) {
                    false
                } else {
                    has |= change.content.is_some();
                    let by_itself = self.kept.allowed(&roles, entry);
                    if !by_itself {
                        voided.keeps.insert(id.0);
                    }
                    // It may end and yield to what is below; that stays by reference where this is kept.
                    folder.counts_for_ever(&id) && (!by_itself || folder.lasts(document, &id))
                };
                if !is_nearest {
                    open.extend(change.replaces.iter().copied().filter(|parent| seen.insert(*parent)));
                }
            }
            if had && !has && document.kind != Kind::Confirmation {
                voided.bare.push(document.clone());
            }
        }
        let kept = RoleSet { keeps: Some(voided.keeps.clone()), ..next.clone() };
        let stays = staying(&self.kept, &kept, None);
        voided.voids = passed.into_iter().filter(|id| stays.contains(id)).map(|id| id.0).collect();
        voided
    }
}

/// True if the key signed the changeset itself, and none did that `next` has; approvals stand beside it. Any key may be added to a
/// signature, so one of nobody makes no author.
fn is_author(entry: &Entry, key: &PublicKey, next: &RoleSet) -> bool {
    let is_ours = |signer: &PublicKey| next.keys.iter().any(|own| own.key == *signer);
    entry.signers.contains(key)
        && changeset::decode(&entry.bytes).is_ok_and(|packed| {
            let signers: Vec<PublicKey> = packed.signed.signatures.iter().map(|(signer, _)| *signer).collect();
            signers.contains(key) && !signers.iter().any(|signer| signer != key && is_ours(signer))
        })
}
