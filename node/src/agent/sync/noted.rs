//! What is noted of changesets: which came, from whom, with what in them; which trials ended by themselves.

use certs::{codec::Millis, sign::PublicKey};
use policy::{
    changeset::ChangesetId,
    history::{Entry, History, Trial},
};

use super::Sync;
use crate::agent::event;

/// How many documents a note names.
const NAMED: usize = 3;

impl Sync {
    /// Notes a changeset or approval that is on disk and folded; `how` it came, after its name.
    pub(super) async fn note_arrived(&self, id: &ChangesetId, how: String) {
        let (id, now) = (*id, self.clock.now());
        let (kind, what) = self.book.look_through(move |history| told(history, &id, now)).await;
        self.events.note(now, kind, id, format!("{id} {how}{what}"));
    }

    /// Notes the trials that nobody confirmed and that ended after `since` and not after `now`.
    pub(super) async fn note_reverted(&self, since: Millis, now: Millis) {
        let ended = move |history: &History| -> Vec<(ChangesetId, String)> {
            let due = |entry: &&Entry| entry.changeset.confirm_by.is_some_and(|until| since < until && until <= now);
            let entries = history.ids().filter_map(|id| history.get(id)).filter(due);
            let over = entries.filter(|entry| matches!(history.trial(&entry.id, now), Some(Trial::Over(_))));
            over.map(|entry| (entry.id, documents(entry))).collect()
        };
        for (id, documents) in self.book.look_through(ended).await {
            let what = format!("{id} took itself back, for nobody confirmed it in time: {documents}");
            self.events.note(now, event::Kind::PolicyReverted, id, what);
        }
    }
}

/// The kind of note, and what is in it.
fn told(history: &History, id: &ChangesetId, now: Millis) -> (event::Kind, String) {
    if let Some(proposal) = history.approves(id) {
        return (event::Kind::PolicySigned, format!(": a signature under {proposal}"));
    }
    let Some(entry) = history.get(id) else { return (event::Kind::PolicyApplied, String::new()) };
    let keys = &history.state(now).role_set.set.keys;
    let name = |signer: &PublicKey| keys.iter().find(|key| key.key == *signer).map(|key| key.name.clone());
    let authors: Vec<String> = entry.signers.iter().filter_map(name).collect();
    let by = if authors.is_empty() { String::new() } else { format!(" by {}", authors.join(", ")) };
    let kind =
        if history.proposal(id, now).is_some() { event::Kind::PolicyProposed } else { event::Kind::PolicyApplied };
    (kind, format!("{by}: {}", documents(entry)))
}

/// The first of its documents, in words.
fn documents(entry: &Entry) -> String {
    let changes = &entry.changeset.changes;
    let word = |change: &policy::changeset::Change| {
        let gone = if change.content.is_none() { "deleted " } else { "" };
        format!("{gone}{}", change.document)
    };
    let named: Vec<String> = changes.iter().take(NAMED).map(word).collect();
    let more = changes.len().saturating_sub(NAMED);
    if more == 0 { named.join(", ") } else { format!("{} and {more} more", named.join(", ")) }
}
