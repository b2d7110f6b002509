//! Taking a changeset back: a new one that restores what its documents were before it.

use super::{Code, Entry, History, Refused, push::check_authority};
use crate::{
    changeset::{Change, ChangesetId},
    document::Kind,
};
use certs::codec::Millis;

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
                let restored = self.restore(entry, change, state.heads(&change.document))?;
                check_authority(&state, &restored)?;
                Ok(restored)
            })
            .collect()
    }

    fn restore(&self, entry: &Entry, change: &Change, replaces: Vec<ChangesetId>) -> Result<Change, Refused> {
        let document = change.document.clone();
        if matches!(document.kind, Kind::RoleSet | Kind::Confirmation) {
            let message = format!("{} of {} cannot be reverted", document.kind, entry.id);
            return Err(Refused::because(Code::NotSupported, message, "push the one that should hold"));
        }
        let mut before: Vec<ChangesetId> = change.replaces.clone();
        before.sort_by_key(|id| (std::cmp::Reverse(self.kept.depth(id, &document)), *id));
        let before = before.first().and_then(|id| self.kept.value(id, &document));
        if let Some((entry, _, _)) = before.filter(|(_, change, _)| change.is_gone()) {
            let message =
                format!("what {document} was before is here no more: {} was replaced over 90 days ago", entry.id);
            return Err(Refused::because(Code::NotFound, message, "push the document that should hold"));
        }
        let content = before.and_then(|(_, change, _)| change.content.clone());
        Ok(Change { document, content, replaces })
    }
}
