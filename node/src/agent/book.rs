//! The set of changesets, in memory and on disk: nothing is seen before it is durable.

mod refusals;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use certs::{
    codec::Millis,
    id::{NodeId, TrustDomain},
    sign::Digest,
    verify::KnownKey,
};
use policy::{
    DocumentId,
    changeset::{self, ChangesetId},
    history::{Code, History, Refused, State},
};
use tokio::sync::RwLock;

use super::{
    error::{Error, fail, internal},
    store::{AuditHead, Judgement, Store},
};
use crate::clock::Uptime;
use refusals::Refusals;

/// The changesets that this node holds.
pub struct Book {
    shelf: RwLock<Shelf>,
    store: Arc<Store>,
    /// How many of them this build cannot read.
    unread: AtomicUsize,
}

struct Shelf {
    history: History,
    /// In order of arrival: references come before what refers to them.
    order: Vec<ChangesetId>,
    trust_domain: TrustDomain,
    refusals: Refusals,
    /// Changesets that only a new RoleSet could make acceptable: they are not fetched again before.
    rejected: BTreeSet<ChangesetId>,
    /// What operators signed and this build cannot read: the store has it of a later build, or a peer gave it.
    unread: BTreeSet<Digest>,
    /// Those of them that the store held at the start.
    unread_at_start: BTreeSet<Digest>,
    /// Changesets over a quota of sync: until when they are not fetched again.
    delayed: BTreeMap<ChangesetId, Uptime>,
    /// By peer changesets of which it gave a copy that does not hold (yet): until when they are not fetched from that one again. Others
    /// are asked at once.
    spoilt: BTreeMap<String, BTreeMap<ChangesetId, Uptime>>,
}

/// Rejected and delayed changesets that are remembered; beyond, they are fetched and judged again.
const REJECTED: usize = 4096;
/// Spoilt ones of one peer.
const SPOILT: usize = 256;
/// How long what is over a quota is left alone, and a copy that does not hold, milliseconds.
const DELAY: Millis = 60_000;

/// What became of changesets that a peer gave.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Learned {
    /// Kept and durable now, or complete again: a stub was here.
    pub fresh: Vec<ChangesetId>,
    /// References to fetch first.
    pub missing: Vec<ChangesetId>,
    /// Not kept, and why.
    pub refused: Vec<(ChangesetId, String)>,
}

impl Book {
    /// Reads what the store holds.
    ///
    /// # Errors
    /// `storage_failed` if it cannot be read or does not hold together.
    pub fn load(store: Arc<Store>, trust_domain: &TrustDomain, now: Millis) -> Result<Self, Error> {
        let mut history = History::new(trust_domain.clone());
        let (mut order, mut waiting, mut unread) = (Vec::new(), store.changesets()?, BTreeSet::new());
        let seen = store.first_accepted()?;
        loop {
            let before = waiting.len();
            waiting.retain(|bytes| match history.insert(bytes, seen_at(&seen, bytes, now)) {
                Ok(inserted) => {
                    order.extend(inserted.fresh.then_some(inserted.id));
                    false
                }
                Err(refused) => {
                    // A rule of this build that an older one did not have, a form of a later one, or a reference that comes later.
                    tracing::debug!(code = refused.code().as_str(), "a stored changeset is not kept: {refused}");
                    if !refused.may_pass_later() {
                        unread.insert(subject(bytes));
                    }
                    refused.may_pass_later()
                }
            });
            if waiting.is_empty() || waiting.len() == before {
                break;
            }
        }
        // It was all kept once; what still waits refers to what is not.
        unread.extend(waiting.iter().map(|bytes| subject(bytes)));
        if order.is_empty() {
            let hint = "restore data_dir from a backup, or join again with a new token";
            return Err(fail("storage_failed", "the store holds no policy, not even the genesis", hint));
        }
        let shelf = Shelf {
            history,
            order,
            trust_domain: trust_domain.clone(),
            refusals: Refusals::default(),
            rejected: BTreeSet::new(),
            unread_at_start: unread.clone(),
            unread,
            delayed: BTreeMap::new(),
            spoilt: BTreeMap::new(),
        };
        let unread = AtomicUsize::new(shelf.unread.len());
        Ok(Self { shelf: RwLock::new(shelf), store, unread })
    }

    /// Changesets and approvals that operators signed and this build cannot keep, if there are any: policy that does not hold here.
    pub fn trouble(&self) -> Option<Error> {
        let unread = self.unread.load(Relaxed);
        let message =
            format!("{unread} changesets that operators signed cannot be read by this build: they do not hold here");
        (unread > 0)
            .then(|| fail("policy_refused", message, "run the version of skein that wrote them, or a later one"))
    }

    /// Where it is kept.
    pub(super) fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Looks into the set, at what is found at once.
    pub async fn look<T>(&self, look: impl FnOnce(&History) -> T) -> T {
        look(&self.shelf.read().await.history)
    }

    /// The same on a thread that may block.
    pub fn look_aside<T>(&self, look: impl FnOnce(&History) -> T) -> T {
        look(&self.shelf.blocking_read().history)
    }

    /// The same beside the runtime: for whatever may fold, which takes seconds in a large mesh.
    pub async fn look_through<T: Send + 'static>(
        self: &Arc<Self>,
        look: impl FnOnce(&History) -> T + Send + 'static,
    ) -> T {
        self.undisturbed(|book| Ok(book.look_aside(look))).await.expect("no code panics while it looks")
    }

    /// What the set folds to at the start, before anybody shares the book.
    pub fn first_state(&mut self, now: Millis) -> Arc<State> {
        self.shelf.get_mut().history.state(now)
    }

    /// What the set folds to now; at once where that is known.
    pub async fn state(self: &Arc<Self>, now: Millis) -> Arc<State> {
        if let Some(state) = self.look(|history| history.state_at_rest(now)).await {
            return state;
        }
        self.look_through(move |history| history.state(now)).await
    }

    /// Which of these are not here and could be kept now, if that peer gives them.
    pub async fn lacking(&self, ids: &[Digest], from: &NodeId, now: Uptime) -> Vec<Digest> {
        let shelf = self.shelf.read().await;
        let nothing = BTreeMap::new();
        let spoilt = shelf.spoilt.get(from.as_str()).unwrap_or(&nothing);
        let lacks = |id: &&Digest| {
            let id = ChangesetId(**id);
            let waits = shelf.delayed.get(&id).is_some_and(|until| now < *until);
            let spoilt = spoilt.get(&id).is_some_and(|until| now < *until);
            !shelf.history.contains(&id) && !shelf.rejected.contains(&id) && !waits && !spoilt
        };
        ids.iter().filter(lacks).copied().collect()
    }

    /// The latest changesets, newest first.
    pub async fn latest(&self, count: usize) -> Vec<Digest> {
        self.shelf.read().await.order.iter().rev().take(count).map(|id| id.0).collect()
    }

    /// The bytes of everything wanted, of what it refers to and of what approves it, in an order in which they can be inserted;
    /// none if that is more than `limit` bytes.
    pub async fn closure(&self, wanted: impl Fn(&changeset::Changeset) -> bool, limit: usize) -> Option<Vec<Vec<u8>>> {
        let shelf = self.shelf.read().await;
        let mut needed = BTreeSet::new();
        for id in shelf.order.iter().rev() {
            let Some(entry) = shelf.history.get(id) else { continue };
            if needed.contains(id) || wanted(&entry.changeset) {
                needed.insert(*id);
                needed.extend(shelf.history.approvals(id));
                needed.extend(entry.changeset.changes.iter().flat_map(|change| change.replaces.iter().copied()));
            }
        }
        let mut out = Vec::new();
        let mut size = 0;
        for bytes in shelf.order.iter().filter(|id| needed.contains(*id)).filter_map(|id| shelf.history.bytes(id)) {
            size += bytes.len();
            if size > limit {
                return None;
            }
            out.push(bytes.to_vec());
        }
        Some(out)
    }

    /// What was signed, in the order of arrival from the `from`th on and for whoever replaces the RoleSet
    /// ([`History::for_successor`]): one thing at least, then as much as `limit` bytes hold; and where to go on, if not at the end.
    ///
    /// # Errors
    /// The node stops.
    pub async fn signed(
        self: &Arc<Self>,
        from: usize,
        limit: usize,
        now: Millis,
    ) -> Result<(Vec<Vec<u8>>, Option<usize>), Error> {
        self.undisturbed(move |book| {
            let shelf = book.shelf.blocking_read();
            let ended = shelf.history.ended(&shelf.history.state(now));
            let (mut page, mut size) = (Vec::new(), 0);
            for (index, id) in shelf.order.iter().enumerate().skip(from) {
                let Some(bytes) = shelf.history.for_successor(id, &ended) else { continue };
                size += bytes.len();
                if size > limit && !page.is_empty() {
                    return Ok((page, Some(index)));
                }
                page.push(bytes);
            }
            Ok((page, None))
        })
        .await
    }

    /// Bytes of the bodies that are here.
    pub async fn body_bytes(&self) -> usize {
        self.look(History::body_bytes).await
    }

    /// Lets bodies go that were replaced long ago, or that are too many: on disk first, so that a crash in between loses nothing. Gives how many.
    ///
    /// # Errors
    /// The disk's; memory is as before then.
    pub async fn forget(self: &Arc<Self>, now: Millis) -> Result<usize, Error> {
        self.undisturbed(move |book| {
            let mut shelf = book.shelf.blocking_write();
            book.writable()?;
            let due = shelf.history.forgettable(now);
            if due.is_empty() {
                return Ok(0);
            }
            let stub = |id: &ChangesetId| {
                let packed = changeset::decode(shelf.history.bytes(id)?).ok()?;
                Some((id.0, changeset::encode(&packed.stub())))
            };
            book.store.replace(&due.iter().filter_map(stub).collect())?;
            Ok(due.iter().filter(|id| shelf.history.forget(id).is_some()).count())
        })
        .await
    }

    /// Takes what an operator pushed: every rule of a direct push, then disk, then memory.
    ///
    /// # Errors
    /// The refusal or the disk's; nothing is kept then.
    pub async fn push(self: &Arc<Self>, bytes: Vec<u8>, from: &str, now: Millis) -> Result<ChangesetId, Error> {
        let from = from.to_string();
        self.undisturbed(move |book| book.push_now(bytes, &from, now)).await
    }

    /// Takes what a peer holds: whatever fits is kept, whoever brings it.
    ///
    /// # Errors
    /// The disk's; nothing of it is kept then.
    pub async fn learn(self: &Arc<Self>, offered: Vec<Vec<u8>>, from: &str, now: Millis) -> Result<Learned, Error> {
        let from = from.to_string();
        self.undisturbed(move |book| book.learn_now(offered, &from, now)).await
    }

    /// The head of the audit chain; that of an empty one if the disk fails, which the store reports by itself.
    pub async fn audit_head(self: &Arc<Self>) -> AuditHead {
        self.undisturbed(|book| book.store.audit_head()).await.unwrap_or(AuditHead::NONE)
    }

    /// Says in the audit chain how many refusals found no room in it, if that is due.
    pub async fn sum_up_refusals(self: &Arc<Self>, now: Millis) {
        let told = self.undisturbed(move |book| {
            book.refuse(&mut book.shelf.blocking_write(), Vec::new(), now);
            Ok(())
        });
        // The node stops.
        let _ = told.await;
    }

    /// Keeps the first keys of nodes beside the changesets.
    pub async fn keep_known_keys(self: &Arc<Self>, keys: HashMap<NodeId, KnownKey>) {
        if let Err(error) = self.undisturbed(move |book| book.store.set_known_keys(&keys)).await {
            tracing::warn!(code = %error.code, "keys of nodes are not on disk: {error}");
        }
    }

    /// Runs to the end on a blocking thread even if the caller goes away: memory and disk never part half-way.
    async fn undisturbed<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let book = self.clone();
        tokio::task::spawn_blocking(move || work(&book)).await.map_err(internal)?
    }

    fn push_now(&self, bytes: Vec<u8>, from: &str, now: Millis) -> Result<ChangesetId, Error> {
        let mut shelf = self.shelf.blocking_write();
        self.writable()?;
        if let Ok(packed) = changeset::decode(&bytes)
            && shelf.history.contains(&ChangesetId(packed.id()))
        {
            return Ok(ChangesetId(packed.id()));
        }
        let checked = shelf.history.check_push(&bytes, now);
        match checked.and_then(|()| shelf.history.insert(&bytes, now)) {
            Ok(inserted) => {
                self.keep(&mut shelf, &[&bytes], &[judgement(&bytes, from, now, None)], now)?;
                shelf.order.push(inserted.id);
                shelf.judge_anew(&[inserted.id]);
                Ok(inserted.id)
            }
            Err(refused) => {
                self.refuse(&mut shelf, vec![judgement(&bytes, from, now, Some(&refused))], now);
                Err(refusal(&refused))
            }
        }
    }

    fn learn_now(&self, offered: Vec<Vec<u8>>, from: &str, now: Millis) -> Result<Learned, Error> {
        let mut shelf = self.shelf.blocking_write();
        self.writable()?;
        let mut learned = Learned::default();
        let (mut kept, mut order, mut judgements, mut refusals) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for bytes in &offered {
            match shelf.history.learn(bytes, now) {
                Ok(inserted) if inserted.fresh || inserted.restored => {
                    judgements.push(judgement(bytes, from, now, None));
                    learned.fresh.push(inserted.id);
                    order.extend(inserted.fresh.then_some(inserted.id));
                    kept.push(bytes.as_slice());
                }
                Ok(_) => {}
                Err(Refused::Missing(ids)) => learned.missing.extend(ids),
                Err(refused) => {
                    refusals.push(judgement(bytes, from, now, Some(&refused)));
                    let Ok(packed) = changeset::decode(bytes) else { continue };
                    let id = ChangesetId(packed.id());
                    if shelf.unread.len() < REJECTED && shelf.history.is_of_later_build(bytes, &refused) {
                        shelf.unread.insert(id.0);
                    }
                    if refused.is_final() && shelf.rejected.len() < REJECTED {
                        shelf.rejected.insert(id);
                    } else if refused.code() == Code::QuotaExceeded {
                        shelf.delay(id, Uptime::now());
                    } else if !refused.is_final() {
                        shelf.spoil(from, id, Uptime::now());
                    }
                    learned.refused.push((id, refused.to_string()));
                }
            }
        }
        if !kept.is_empty() {
            self.keep(&mut shelf, &kept, &judgements, now)?;
            shelf.order.extend(&order);
            shelf.judge_anew(&learned.fresh);
        }
        if !refusals.is_empty() {
            self.refuse(&mut shelf, refusals, now);
        }
        let is_unread = |id: &Digest| !learned.fresh.contains(&ChangesetId(*id));
        shelf.unread_at_start.retain(is_unread);
        shelf.unread.retain(is_unread);
        self.unread.store(shelf.unread.len(), Relaxed);
        Ok(learned)
    }

    /// A disk that failed takes nothing until restart; a full one is asked again.
    fn writable(&self) -> Result<(), Error> {
        self.store.trouble().filter(|e| e.code != "storage_full").map_or(Ok(()), Err)
    }

    /// Writes what memory took already; takes it back if the disk refuses. The caller holds the shelf, so that nobody saw it.
    fn keep(&self, shelf: &mut Shelf, bytes: &[&[u8]], judgements: &[Judgement], now: Millis) -> Result<(), Error> {
        self.store.append(bytes, judgements).inspect_err(|_| {
            let mut before = History::new(shelf.trust_domain.clone());
            for id in &shelf.order {
                if let Some(bytes) = shelf.history.bytes(id) {
                    let seen = shelf.history.get(id).map_or(now, |entry| entry.seen);
                    let _ = before.insert(bytes, seen);
                }
            }
            shelf.history = before;
        })
    }

    fn refuse(&self, shelf: &mut Shelf, judgements: Vec<Judgement>, now: Millis) {
        let uptime = Uptime::now();
        let mut noted = shelf.refusals.admit(judgements, uptime);
        noted.extend(shelf.refusals.summary(uptime, now));
        if noted.is_empty() {
            return;
        }
        if let Err(error) = self.store.judge(&noted) {
            tracing::warn!(code = %error.code, "a refusal is not in the audit chain: {error}");
        }
    }
}

impl Shelf {
    fn delay(&mut self, id: ChangesetId, now: Uptime) {
        self.delayed.retain(|_, until| now < *until);
        if self.delayed.len() < REJECTED {
            self.delayed.insert(id, Uptime(now.0 + DELAY));
        }
    }

    fn spoil(&mut self, from: &str, id: ChangesetId, now: Uptime) {
        self.spoilt.retain(|_, of| {
            of.retain(|_, until| now < *until);
            !of.is_empty()
        });
        let of = self.spoilt.entry(from.to_owned()).or_default();
        if of.len() < SPOILT {
            of.insert(id, Uptime(now.0 + DELAY));
        }
    }

    /// What was refused is judged anew if a RoleSet is among these.
    fn judge_anew(&mut self, fresh: &[ChangesetId]) {
        // Of two RoleSets of one number the other may allow what the first did not; an approval may complete one.
        let names_role_set = |id: &ChangesetId| {
            let entry = self.history.get(&self.history.approves(id).unwrap_or(*id));
            entry.is_some_and(|entry| entry.changeset.change(&DocumentId::role_set()).is_some())
        };
        if fresh.iter().any(names_role_set) {
            self.rejected.clear();
            self.spoilt.clear();
            // What peers gave comes again, and is counted again if whoever signed it may still speak.
            self.unread.clone_from(&self.unread_at_start);
        }
    }
}

/// What is in no audit entry counts as new: nothing is forgotten too early.
fn seen_at(seen: &HashMap<Digest, Millis>, bytes: &[u8], now: Millis) -> Millis {
    let id = changeset::decode(bytes).ok().map(|packed| packed.id());
    id.and_then(|id| seen.get(&id).copied()).unwrap_or(now)
}

/// The id of what was signed, or what these bytes are called that are nothing.
fn subject(bytes: &[u8]) -> Digest {
    changeset::decode(bytes).map_or_else(|_| Digest::of(bytes), |packed| packed.id())
}

fn judgement(bytes: &[u8], from: &str, at: Millis, refused: Option<&Refused>) -> Judgement {
    let subject = subject(bytes);
    let refused = refused.map(|r| format!("{}: {r}", r.code().as_str()));
    Judgement { at, subject, from: from.to_string(), refused }
}

/// A refusal of policy in the form that every door shows.
pub fn refusal(refused: &Refused) -> Error {
    let code = match refused.code() {
        Code::Malformed | Code::WrongBodies => "bad_request",
        Code::BadSignature => "bad_signature",
        Code::WrongTrustDomain => "wrong_trust_domain",
        Code::RoleMissing => "role_missing",
        Code::ThresholdMissing => "threshold_missing",
        Code::RoleSetUnknown => "role_set_unknown",
        Code::RoleSetInvalid => "role_set_invalid",
        Code::InvalidDocument | Code::NotSupported => "invalid_document",
        Code::InvalidReference => "invalid_reference",
        Code::StaleParent | Code::MissingReference => "stale_parent",
        Code::ClockSkew => "clock_skew",
        Code::ConfirmTooLate => "confirm_too_late",
        Code::QuotaExceeded => "quota_exceeded",
        Code::NotFound => "not_found",
        Code::NotInitialised => "not_initialised",
    };
    fail(code, refused.to_string(), refused.hint())
}

#[cfg(test)]
mod tests;
