//! The set of changesets and the state that it folds to. Every node with the same set has the same state, in whatever order it came.

mod admit;
mod authority;
mod branches;
mod cache;
mod fold;
mod genesis;
mod kept;
mod log;
mod past;
mod proposal;
mod push;
mod refused;
mod retain;
mod revert;
mod roles;
mod state;
mod voided;
mod whatif;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use certs::{
    codec::Millis,
    id::TrustDomain,
    sign::{Digest, PublicKey},
};

pub use genesis::{genesis, signed};
pub use kept::Entry;
pub use log::LogEntry;
pub use past::{Moment, Trial, Version};
pub use proposal::{Missing, Proposal};
pub use push::PUSH_CLOCK;
pub use refused::{Code, Refused};
pub use retain::{REPLACED_BYTES, RETENTION, WHEN_BODIES_GO};
pub use state::{Absent, Claim, Conflict, Live, LiveValue, Roles, State};
pub use voided::Voided;

use crate::{
    changeset::{self, ChangesetId, MAX_PROPOSALS, Packed, confirmed},
    document::{DocumentId, Kind},
    kinds::RoleSet,
};
use kept::Kept;

/// Changesets that are not here and for which something vouches, at most.
const MAX_VOUCHED: usize = 256;

/// Why a proposal that is not here must not be held back when it comes.
#[derive(Debug, Clone, Copy)]
enum Voucher {
    /// An operator's approval of it is waiting.
    Approval(PublicKey),
    /// Something that has all its signatures replaces it.
    Successor,
}

/// What became of bytes that were offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inserted {
    /// The changeset's id.
    pub id: ChangesetId,
    /// False if it was known already.
    pub fresh: bool,
    /// True if it was known without its bodies, and has them now.
    pub restored: bool,
}

/// The set of changesets of one mesh.
pub struct History {
    trust_domain: TrustDomain,
    kept: Kept,
    chain: roles::Chain,
    cache: Mutex<Option<cache::Cached>>,
    /// What too few keys had signed when it came.
    proposed: BTreeSet<ChangesetId>,
    /// What is not here yet and wanted by something that may count.
    vouched: BTreeMap<ChangesetId, Voucher>,
}

impl History {
    /// An empty history: the first changeset to insert is a genesis.
    pub fn new(trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            kept: Kept::default(),
            chain: roles::Chain::default(),
            cache: Mutex::default(),
            proposed: BTreeSet::new(),
            vouched: BTreeMap::new(),
        }
    }

    /// Keeps a changeset if its form, its signatures and the RoleSet that it names allow it, also where that RoleSet wants further
    /// signatures; and an approval of a kept changeset by a key whose signature it can use. Never looks at folded state, so that all
    /// nodes keep the same; for the same reason not at the time, which only says when it was first `seen`.
    ///
    /// # Errors
    /// [`Refused::Missing`] names references to fetch first; see [`Refused::is_final`].
    pub fn insert(&mut self, bytes: &[u8], seen: Millis) -> Result<Inserted, Refused> {
        self.take(bytes, seen, |_, _| Ok(()))
    }

    /// The same for what a peer brings: a proposal waits while its key has [`MAX_PROPOSALS`] open ones here.
    ///
    /// # Errors
    /// As [`History::insert`]; [`Code::QuotaExceeded`] passes with time.
    pub fn learn(&mut self, bytes: &[u8], now: Millis) -> Result<Inserted, Refused> {
        self.take(bytes, now, |history, admitted| match history.crowded(&admitted.entry, now) {
            Some(key) if admitted.proposal => {
                let message = format!("{MAX_PROPOSALS} proposals of {key} wait here already");
                Err(Refused::because(Code::QuotaExceeded, message, ""))
            }
            Some(_) | None => Ok(()),
        })
    }

    fn take(
        &mut self,
        bytes: &[u8],
        seen: Millis,
        room: impl FnOnce(&Self, &admit::Admitted) -> Result<(), Refused>,
    ) -> Result<Inserted, Refused> {
        let malformed = |error: changeset::Unread| Refused::because(Code::Malformed, error.to_string(), "");
        let packed = changeset::decode(bytes).map_err(malformed)?;
        let id = ChangesetId(packed.id());
        // Spares the verification of what is here already, byte for byte.
        if self.bytes(&id).is_some_and(|kept| **kept == *bytes) {
            return Ok(Inserted { id, fresh: false, restored: false });
        }
        if packed.signed.kind == changeset::APPROVAL {
            return self.approve(id, &packed);
        }
        let admitted = admit::admit(&self.trust_domain, &self.kept, &self.chain, &packed, seen);
        let admitted = admitted.inspect_err(|refused| self.vouch_for_replaced(&id, &packed, refused))?;
        if let Some(held) = self.get(&id) {
            let restored = admitted.entry.whole && !held.whole;
            if restored {
                self.replace(admitted.entry);
            }
            return Ok(Inserted { id, fresh: false, restored });
        }
        room(self, &admitted)?;
        let admit::Admitted { entry, charter, proposal } = admitted;
        self.touch(&entry, charter.is_some());
        if let Some(charter) = charter {
            self.chain.add(charter);
        }
        self.vouched.remove(&id);
        if proposal {
            self.proposed.insert(id);
        }
        self.kept.add(entry);
        Ok(Inserted { id, fresh: true, restored: false })
    }

    fn approve(&mut self, id: ChangesetId, packed: &Packed) -> Result<Inserted, Refused> {
        let vote = match admit::approval(&self.trust_domain, &self.kept, &self.chain, packed) {
            Ok(vote) => vote,
            Err(refused) => {
                self.vouch(packed, &refused);
                return Err(refused);
            }
        };
        if self.contains(&id) {
            return Ok(Inserted { id, fresh: false, restored: false });
        }
        let about = vote.about;
        self.kept.approve(vote);
        let Some(entry) = self.get(&about).cloned() else { return Err(Refused::Missing(vec![about])) };
        let is_role_set = entry.changeset.change(&DocumentId::role_set()).is_some();
        // It was kept, so all that it can lack is signatures; and one more may decide between rivals.
        if is_role_set && let Ok(Some(charter)) = self.chain.admit(about, &entry.changeset, &entry.signers) {
            self.chain.add(charter);
        }
        self.touch(&entry, is_role_set);
        if self.complete(&entry) {
            self.proposed.remove(&about);
        }
        Ok(Inserted { id, fresh: true, restored: false })
    }

    /// Remembers that a key of the RoleSet in force approved what is not here yet.
    fn vouch(&mut self, packed: &Packed, refused: &Refused) {
        let (Refused::Missing(about), [(key, _)]) = (refused, packed.signed.signatures.as_slice()) else { return };
        let is_operator =
            self.chain.counting.last().is_some_and(|last| last.set.keys.iter().any(|own| own.key == *key));
        if is_operator {
            self.expect(about, Voucher::Approval(*key));
        }
    }

    /// The same of what is missing below a changeset that has all its signatures, or is vouched for itself.
    fn vouch_for_replaced(&mut self, id: &ChangesetId, packed: &Packed, refused: &Refused) {
        let Refused::Missing(about) = refused else { return };
        if admit::is_signed_enough(&self.trust_domain, &self.kept, &self.chain, packed) {
            self.expect(about, Voucher::Successor);
        } else if let Some(voucher) = self.vouched.get(id).copied() {
            self.expect(about, voucher);
        }
    }

    fn expect(&mut self, missing: &[ChangesetId], voucher: Voucher) {
        self.vouched.extend(missing.iter().map(|id| (*id, voucher)));
        while self.vouched.len() > MAX_VOUCHED {
            self.vouched.pop_first();
        }
    }

    /// True if this was refused because this build cannot read it, and an operator of now signed it: a later build wrote it.
    pub fn is_of_later_build(&self, bytes: &[u8], refused: &Refused) -> bool {
        if !matches!(refused.code(), Code::Malformed | Code::InvalidDocument) {
            return false;
        }
        let Ok(packed) = changeset::decode(bytes) else { return false };
        // Other things are signed by the same keys.
        let is_policy = changeset::is_policy(&packed.signed.kind);
        let signers = packed.signed.verify(&packed.signed.kind).unwrap_or_default();
        let keys = self.chain.counting.last().map(|last| last.set.keys.as_slice()).unwrap_or_default();
        is_policy && keys.iter().any(|own| signers.contains(&own.key))
    }

    /// Notes what is to be folded again.
    fn touch(&mut self, entry: &Entry, all: bool) {
        // What is kept although its key went has what it refers to kept with it, whatever that changes.
        let keeps = |roles: &Arc<Roles>| roles.set.keeps.as_ref().is_some_and(|keeps| keeps.contains(&entry.id.0));
        let all = all || self.chain.counting.iter().any(keeps);
        if let Some(cached) = self.cache.get_mut().unwrap_or_else(PoisonError::into_inner) {
            cached.touch(&entry.changeset, all);
        }
    }

    /// True if the changeset or approval is kept, be it as a stub.
    pub fn contains(&self, id: &ChangesetId) -> bool {
        self.kept.ids().contains(id)
    }

    /// A kept changeset or approval as it came, or the changeset's stub.
    pub fn bytes(&self, id: &ChangesetId) -> Option<&Arc<[u8]>> {
        self.kept.bytes(id)
    }

    /// Bytes of the bodies that are here.
    pub fn body_bytes(&self) -> usize {
        self.kept.bodies
    }

    /// The approvals of a changeset.
    pub fn approvals(&self, id: &ChangesetId) -> &[ChangesetId] {
        self.kept.approvals(id)
    }

    /// A kept changeset.
    pub fn get(&self, id: &ChangesetId) -> Option<&Entry> {
        self.kept.entries.get(id).map(|item| &item.entry)
    }

    /// When the first changeset was issued that makes of this document something which contains `text`.
    pub fn first_said(&self, document: &DocumentId, text: &str) -> Option<Millis> {
        let ids = self.kept.by_document.get(document).into_iter().flatten();
        let entries = ids.filter_map(|id| self.get(id));
        let says = |entry: &&Entry| {
            let mut changes = entry.changeset.changes.iter().filter(|change| change.document == *document);
            changes.any(|change| change.content.as_deref().is_some_and(|content| content.contains(text)))
        };
        entries.filter(says).map(|entry| entry.changeset.issued_at).min()
    }

    /// All ids, of approvals too; ascending.
    pub fn ids(&self) -> impl Iterator<Item = &ChangesetId> {
        self.kept.ids().iter()
    }

    /// The kept changesets whose id begins so (hexadecimal).
    pub fn by_prefix(&self, prefix: &str) -> Vec<ChangesetId> {
        let prefix = prefix.to_ascii_lowercase();
        self.kept.entries.keys().filter(|id| id.to_string().starts_with(&prefix)).copied().collect()
    }

    /// Of the sorted ids. Cheap when nothing changed.
    pub fn digest(&self) -> Digest {
        self.kept.digest()
    }

    /// Of the sorted ids by first byte. Cheap when nothing changed.
    pub fn bucket_digests(&self) -> &[Digest; 256] {
        self.kept.bucket_digests()
    }

    /// The ids with this first byte, ascending.
    pub fn bucket(&self, first: u8) -> Vec<ChangesetId> {
        self.kept.bucket(first).copied().collect()
    }

    /// The fold at this time. Cheap when nothing changed.
    pub fn state(&self, now: Millis) -> Arc<State> {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let cached = cache::refresh(cache.take(), &self.kept, &self.chain, now);
        let state = cached.state.clone();
        *cache = Some(cached);
        state
    }

    /// The same if that needs no work and waits for nobody who works on it.
    pub fn state_at_rest(&self, now: Millis) -> Option<Arc<State>> {
        let cache = self.cache.try_lock().ok()?;
        cache.as_ref().filter(|cached| cached.is_at_rest(now)).map(|cached| cached.state.clone())
    }

    /// The next time at which the fold changes by itself (a `confirm_by`, an expiry).
    pub fn next_change(&self, now: Millis) -> Option<Millis> {
        self.state(now).changes_at
    }

    /// The highest number of a RoleSet that is kept, whether it counts or not; 0 without a genesis.
    pub fn newest_role_set(&self) -> u64 {
        self.chain.newest()
    }

    /// The RoleSet chain from the genesis with its approvals, as bytes, in an order in which a joiner can insert them.
    pub fn role_set_chain(&self) -> Vec<Arc<[u8]>> {
        let chain = self.chain.all();
        let with_approvals = chain.iter().flat_map(|id| std::iter::once(id).chain(self.approvals(id)));
        with_approvals.filter_map(|id| self.bytes(id)).cloned().collect()
    }

    /// What proves to somebody who knows the genesis alone how these documents stand: the RoleSets, whatever changed the
    /// documents, what that refers to, what approves and what confirms it. For [`History::insert_all`].
    pub fn proof<'d>(&self, documents: impl Iterator<Item = &'d DocumentId>) -> Vec<Arc<[u8]>> {
        let changed = documents.filter_map(|id| self.kept.by_document.get(id)).flatten();
        let mut open: Vec<ChangesetId> = self.chain.all().into_iter().chain(changed.copied()).collect();
        let mut found = BTreeSet::new();
        while let Some(id) = open.pop() {
            if let Some(entry) = self.get(&id).filter(|_| found.insert(id)) {
                found.extend(self.approvals(&id).iter().copied());
                open.extend(entry.changeset.references().copied());
                open.extend(entry.changeset.changes.iter().filter_map(confirmed));
                open.extend(self.kept.confirmations.get(&id).into_iter().flatten().copied());
            }
        }
        found.iter().filter_map(|id| self.bytes(id)).cloned().collect()
    }

    /// Inserts what refers to each other, in whatever order it came.
    ///
    /// # Errors
    /// The last refusal, if something cannot be kept after all others either.
    pub fn insert_all<'b>(&mut self, changesets: impl Iterator<Item = &'b [u8]>, now: Millis) -> Result<(), Refused> {
        let mut waiting: Vec<&[u8]> = changesets.collect();
        loop {
            let before = waiting.len();
            let mut last = None;
            waiting.retain(|bytes| match self.insert(bytes, now) {
                Ok(_) => false,
                Err(refused) => {
                    last = Some(refused);
                    true
                }
            });
            match last {
                None => return Ok(()),
                Some(refused) if waiting.len() == before => return Err(refused),
                Some(_) => {}
            }
        }
    }

    /// What the field `keeps` of a new RoleSet must name, so that nothing which is live now stops counting.
    pub fn keeps_under(&self, next: &RoleSet, now: Millis) -> BTreeSet<Digest> {
        let next = in_force(next);
        let state = self.state(now);
        let heads =
            state.documents.iter().filter(|(id, _)| id.kind != Kind::RoleSet).flat_map(|(_, live)| &live.values);
        let lost = |id: &ChangesetId| {
            let entry = self.get(id);
            entry.is_some_and(|entry| !self.kept.allowed(&next, entry))
        };
        heads.map(|value| value.changeset).filter(lost).map(|id| id.0).collect()
    }
}

/// A RoleSet as if it were in force.
fn in_force(set: &RoleSet) -> Roles {
    Roles {
        number: u64::MAX,
        changeset: ChangesetId(Digest([0; 32])),
        set: Arc::new(set.clone()),
        trust: Default::default(),
    }
}

#[cfg(test)]
mod tests;
