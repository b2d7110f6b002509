//! Taking a changeset back: a new one that restores what its documents were before it.

use std::{cmp::Reverse, collections::HashSet};

use certs::codec::Millis;

use super::{
    Code, Entry, History, Refused,
    fold::{ends_for_good, says_the_same},
    push::{check_authority, has_ended},
    retain::WHEN_BODIES_GO,
};
use crate::{
    changeset::{Change, ChangesetId},
    document::{DocumentId, Kind},
};

impl History {
    /// The changes that restore each document of a changeset to what it was before it: to push as a new changeset.
    ///
    /// # Errors
    /// If the changeset is not kept, or one of its documents cannot be reverted (RoleSets and confirmations; NodeGrants and Revocations
    /// where that would lower an epoch or take an eviction back).
    pub fn revert(&self, id: &ChangesetId, now: Millis) -> Result<Vec<Change>, Refused> {
        let Some(entry) = self.get(id) else {
            return Err(Refused::because(
                Code::NotFound,
                format!("there is no changeset {id}"),
                "see `skein policy log`",
            ));
        };
        let state = self.state(now);
        entry
            .changeset
            .changes
            .iter()
            .map(|change| {
                let restored = self.restore(entry, change, state.heads(&change.document), now)?;
                check_authority(&state, &restored)?;
                Ok(restored)
            })
            .collect()
    }

    fn restore(
        &self,
        entry: &Entry,
        change: &Change,
        replaces: Vec<ChangesetId>,
        now: Millis,
    ) -> Result<Change, Refused> {
        let document = change.document.clone();
        if matches!(document.kind, Kind::RoleSet | Kind::Confirmation) {
            let message = format!("{} of {} cannot be reverted", document.kind, entry.id);
            return Err(Refused::because(Code::NotSupported, message, "push the one that should hold"));
        }
        let content = self.before(&document, change, now)?;
        Ok(Change { document, content, replaces })
    }

    /// The content before a change: that of the deepest value that it replaced. What has expired since stands for what it had replaced
    /// itself, as in the fold: it would end at once, pushed again.
    fn before(&self, document: &DocumentId, change: &Change, now: Millis) -> Result<Option<String>, Refused> {
        let (mut open, mut ended) = (change.replaces.clone(), HashSet::new());
        loop {
            open.sort_by_key(|id| (self.kept.depth(id, document), Reverse(*id)));
            open.dedup();
            let Some(id) = open.pop() else { return Ok(None) };
            let Some((_, value, _)) = self.kept.value(&id, document) else { continue };
            if value.is_gone() {
                let message =
                    format!("what {document} was before is here no more: the body that {id} gave it has gone");
                let hint = format!("push the document that should hold; {WHEN_BODIES_GO}");
                return Err(Refused::because(Code::NotFound, message, hint));
            }
            if ends_for_good(document) || !(has_ended(value, now) || ended.contains(&id)) {
                return Ok(value.content.clone());
            }
            for parent in &value.replaces {
                let before = self.kept.value(parent, document);
                if before.is_some_and(|(_, before, _)| says_the_same(before, value)) {
                    ended.insert(*parent);
                }
                open.push(*parent);
            }
        }
    }
}
