//! What only a direct push must obey: dates, stale parents, quotas, readable content. Sync asks none of it, or nodes would differ.

use certs::codec::Millis;

use super::{Absent, Code, History, Live, Refused, State, admit};
use crate::{
    changeset::{self, Change, Changeset, ChangesetId, MAX_DOCUMENTS, MAX_PROPOSALS, confirmed},
    document::{Document, EXPIRES, Kind, Spec},
    kinds::Revocation,
    parse,
};

/// How far a direct push's date may be from the node's clock.
pub const PUSH_CLOCK: Millis = 30_000;

impl History {
    /// What only a direct push must obey, on top of what [`History::insert`] demands.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn check_push(&self, bytes: &[u8], now: Millis) -> Result<(), Refused> {
        let packed =
            changeset::decode(bytes).map_err(|error| Refused::because(Code::Malformed, error.to_string(), ""))?;
        if self.contains(&ChangesetId(packed.id())) {
            return Ok(());
        }
        if packed.signed.kind == changeset::APPROVAL {
            let vote = admit::approval(&self.trust_domain, &self.kept, &self.chain, &packed)?;
            return self.check_approval(&vote, now);
        }
        let admitted = admit::admit(&self.trust_domain, &self.kept, &self.chain, &packed, now)?;
        let changeset = &admitted.entry.changeset;
        if !admitted.entry.whole {
            return Err(Refused::because(Code::WrongBodies, "its bodies are missing", "push it whole"));
        }
        check_dates(changeset, now)?;
        let state = self.state(now);
        for change in &changeset.changes {
            self.check_parent(&state, change, now)?;
            self.check_content(change)?;
            check_end(change, now)?;
            check_authority(&state, change)?;
        }
        check_quota(&state, changeset)?;
        if admitted.proposal { self.check_room(&admitted.entry, now) } else { Ok(()) }
    }

    /// An approval is refused where the proposal could not be pushed any more.
    fn check_approval(&self, vote: &admit::Vote, now: Millis) -> Result<(), Refused> {
        let id = &vote.about;
        let Some(entry) = self.get(id) else { return Err(Refused::Missing(vec![*id])) };
        if entry.signers.contains(&vote.signer) {
            return Err(Refused::because(Code::InvalidReference, format!("the key has signed {id} already"), ""));
        }
        self.check_open(entry, now)
    }

    /// True if further signatures of a changeset would be worth something: it waits for them, or is a RoleSet that has all it needs. To
    /// that one a further signature may give the upper hand over a rival, now or once there is one.
    ///
    /// # Errors
    /// It counts already, its time is over, or what it replaces is no longer live.
    pub fn check_open(&self, entry: &super::Entry, now: Millis) -> Result<(), Refused> {
        let id = entry.id;
        if self.chain.holds(&id) {
            return Ok(());
        }
        if self.complete(entry) {
            return Err(Refused::because(Code::InvalidReference, format!("{id} has all the signatures it needs"), ""));
        }
        if self.closed(entry, now) {
            let message = format!("{id} was proposed more than 7 days ago");
            return Err(Refused::because(Code::NotFound, message, "push the documents again"));
        }
        if entry.changeset.confirm_by.is_some_and(|until| until <= now) {
            return Err(Refused::because(Code::ConfirmTooLate, "its trial is over already", "push it again"));
        }
        let state = self.state(now);
        entry.changeset.changes.iter().try_for_each(|change| {
            self.check_parent(&state, change, now)?;
            check_end(change, now)
        })
    }

    fn check_room(&self, entry: &super::Entry, now: Millis) -> Result<(), Refused> {
        match self.crowded(entry, now) {
            None => Ok(()),
            Some(key) => {
                let message = format!("{MAX_PROPOSALS} proposals of {key} wait for signatures already");
                let hint = "have some of them signed (`skein policy proposals`), or wait until they end after 7 days";
                Err(Refused::because(Code::QuotaExceeded, message, hint))
            }
        }
    }

    fn check_parent(&self, state: &State, change: &Change, now: Millis) -> Result<(), Refused> {
        // That it names those that yielded, too, is good, and not what an older command line does.
        let values = state.documents.get(&change.document).map(|live| live.values.as_slice()).unwrap_or_default();
        let unseen = values.iter().map(|value| value.changeset).find(|head| !change.replaces.contains(head));
        if let Some(head) = unseen {
            let message = format!("{} was changed by {head} since", change.document);
            let hint = "look at it with `skein policy diff`, then push again";
            return Err(Refused::because(Code::StaleParent, message, hint));
        }
        let waits = |id: &&ChangesetId| self.get(id).is_some_and(|entry| !self.complete(entry));
        if let Some(id) = change.replaces.iter().find(waits) {
            let message = format!("{} would replace the proposal {id}, which is not in effect", change.document);
            return Err(Refused::because(Code::InvalidReference, message, "push on top of what is live"));
        }
        let about = confirmed(change).and_then(|id| self.get(&id)).map(|entry| entry.changeset.confirm_by);
        match about {
            Some(None) => Err(Refused::because(Code::InvalidReference, "that changeset is not on trial", "")),
            Some(Some(until)) if until <= now => Err(Refused::because(
                Code::ConfirmTooLate,
                "the trial is over: the changeset no longer counts",
                "push it again",
            )),
            Some(Some(_)) | None => Ok(()),
        }
    }

    fn check_content(&self, change: &Change) -> Result<(), Refused> {
        let Some(content) = &change.content else { return Ok(()) };
        match parse::json(&change.document, content) {
            Ok(document) => self.check_size(&document),
            Err(problems) => {
                let first = problems.first().map(ToString::to_string).unwrap_or_default();
                let message = format!("{}: {first}", change.document);
                Err(Refused::because(Code::InvalidDocument, message, "see `skein policy lint`"))
            }
        }
    }
}

impl History {
    /// A grant that no certificate can hold would take its node out of the mesh once it is renewed.
    fn check_size(&self, document: &Document) -> Result<(), Refused> {
        let fits = document.spec.node_grant().map_or(Ok(()), |grant| grant.fits(&self.trust_domain));
        fits.map_err(|error| {
            let message = format!("{}: so many services fit into no certificate: {error}", document.id);
            Refused::because(Code::InvalidDocument, message, "let several services share an account")
        })
    }
}

/// What has ended already would yield at once to what it replaces, and its push would say that all is well.
fn check_end(change: &Change, now: Millis) -> Result<(), Refused> {
    if !has_ended(change, now) {
        return Ok(());
    }
    let message =
        format!("{}: {EXPIRES} is in the past by this node's clock: it would take no effect", change.document);
    Err(Refused::because(Code::InvalidDocument, message, "give it a later end or none"))
}

/// True if the end that a value bears has passed.
pub(super) fn has_ended(change: &Change, now: Millis) -> bool {
    let document = change.content.as_ref().and_then(|content| parse::json(&change.document, content).ok());
    document.is_some_and(|document| document.has_ended(now))
}

/// Epochs and revocations only rise: what lowers one would let in again whoever was shut out.
pub(super) fn check_authority(state: &State, change: &Change) -> Result<(), Refused> {
    let id = &change.document;
    let Some(live) = state.documents.get(id) else { return Ok(()) };
    let next = change.content.as_ref().and_then(|content| parse::json(id, content).ok()).map(|document| document.spec);
    let refused = |message: String, hint: &str| Err(Refused::because(Code::NotSupported, message, hint));
    if id.kind == Kind::NodeGrant {
        let highest = live.counted.iter().filter_map(Spec::node_grant).map(|grant| grant.epoch).max();
        let epoch = next.as_ref().and_then(|spec| spec.node_grant()).map(|grant| grant.epoch);
        if let Some(highest) = highest.filter(|highest| epoch.is_none_or(|epoch| epoch < *highest)) {
            let message = format!(
                "{id} is at epoch {highest}: a lower one would bring back the keys of a machine that was replaced"
            );
            return refused(message, "retire the node (`skein leave`), evict it, or `skein invite --replace` it");
        }
    } else if id.kind == Kind::Revocation {
        let next = next.as_ref().and_then(|spec| spec.revocation());
        let evicts = |node, epoch| next.is_some_and(|next| next.nodes.get(node).is_some_and(|higher| higher >= epoch));
        for revocation in live.counted.iter().filter_map(Spec::revocation) {
            if let Some((node, epoch)) = revocation.nodes.iter().find(|(node, epoch)| !evicts(node, epoch)) {
                let message = format!("{id} evicts {node} up to epoch {epoch}, and an eviction cannot be taken back");
                return refused(message, "`skein invite --replace` lets a machine in again under a new epoch");
            }
        }
        let live = live.values.iter().filter_map(|value| value.document.as_ref().ok());
        for revocation in live.filter_map(|document| document.spec.revocation()) {
            let keeps = |next: &Revocation| {
                next.accounts.is_superset(&revocation.accounts) && next.keys.is_superset(&revocation.keys)
            };
            if next.is_some_and(|next| !keeps(next)) {
                let message = format!("{id} would no longer revoke an account or a key that it revokes now");
                return refused(message, "repeat them; to take them back deliberately, delete the document");
            }
        }
    }
    Ok(())
}

/// Documents that are deleted in all their values are none.
fn check_quota(state: &State, changeset: &Changeset) -> Result<(), Refused> {
    let there = |live: &Live| live.values.iter().any(|value| value.document != Err(Absent::Deleted));
    let before = state.documents.values().filter(|live| there(live)).count();
    let is_fresh = |change: &&Change| {
        change.content.is_some() && !state.documents.get(&change.document).is_some_and(|live| there(live))
    };
    let fresh = changeset.changes.iter().filter(is_fresh).count();
    if fresh > 0 && before + fresh > MAX_DOCUMENTS {
        let message = format!("the mesh would have more than {MAX_DOCUMENTS} documents");
        return Err(Refused::because(Code::QuotaExceeded, message, "delete some"));
    }
    Ok(())
}

fn check_dates(changeset: &Changeset, now: Millis) -> Result<(), Refused> {
    if changeset.issued_at.abs_diff(now) > PUSH_CLOCK {
        let message = format!("it is dated {} s off this node's clock", changeset.issued_at.abs_diff(now) / 1_000);
        return Err(Refused::because(Code::ClockSkew, message, "set the clock of this machine or of the node"));
    }
    if changeset.confirm_by.is_some_and(|until| until <= now) {
        return Err(Refused::because(Code::ConfirmTooLate, "its trial is over already", "give it more time"));
    }
    Ok(())
}
