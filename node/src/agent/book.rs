//! The set of changesets, in memory and on disk: nothing is seen before it is durable.

use std::{collections::BTreeSet, sync::Arc};

use certs::{
    codec::Millis,
    id::{NodeId, TrustDomain},
    sign::Digest,
};
use policy::{
    DocumentId,
    changeset::{self, ChangesetId},
    history::{Code, History, Refused, State},
};
use tokio::sync::RwLock;

use super::{
    error::{Error, fail, internal},
    store::{Judgement, Store},
};

/// Refusals of peers' bytes that one minute adds to the audit chain; a peer must not fill the disk with its mistakes.
const REFUSALS_A_MINUTE: usize = 60;

/// The changesets that this node holds.
pub struct Book {
    shelf: RwLock<Shelf>,
    store: Arc<Store>,
}

struct Shelf {
    history: History,
    /// In order of arrival: references come before what refers to them.
    order: Vec<ChangesetId>,
    trust_domain: TrustDomain,
    minute: Millis,
    refusals: usize,
    /// Changesets that only a new RoleSet could make acceptable: they are not fetched again before.
    rejected: BTreeSet<ChangesetId>,
}

/// Rejected changesets that are remembered; beyond, they are fetched and judged again.
const REJECTED: usize = 4096;

/// What became of changesets that a peer gave.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Learned {
    /// Kept and durable now.
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
        let (mut order, mut waiting) = (Vec::new(), store.changesets()?);
        loop {
            let before = waiting.len();
            waiting.retain(|bytes| match history.insert(bytes, now) {
                Ok(inserted) => {
                    order.push(inserted.id);
                    false
                }
                Err(refused) => {
                    // A rule of this build that an older one did not have, or a reference that comes later.
                    tracing::debug!(code = refused.code().as_str(), "a stored changeset is not kept: {refused}");
                    refused.may_pass_later()
                }
            });
            if waiting.is_empty() || waiting.len() == before {
                break;
            }
        }
        if order.is_empty() {
            let hint = "restore data_dir from a backup, or join again with a new token";
            return Err(fail("storage_failed", "the store holds no policy, not even the genesis", hint));
        }
        let shelf = Shelf {
            history,
            order,
            trust_domain: trust_domain.clone(),
            minute: 0,
            refusals: 0,
            rejected: BTreeSet::new(),
        };
        Ok(Self { shelf: RwLock::new(shelf), store })
    }

    /// Looks into the set.
    pub async fn look<T>(&self, look: impl FnOnce(&History) -> T) -> T {
        look(&self.shelf.read().await.history)
    }

    /// What the set folds to at the start, before anybody shares the book.
    pub fn first_state(&mut self, now: Millis) -> Arc<State> {
        self.shelf.get_mut().history.state(now)
    }

    /// What the set folds to now.
    pub async fn state(&self, now: Millis) -> Arc<State> {
        self.shelf.read().await.history.state(now)
    }

    /// Which of these are not here and could be kept.
    pub async fn lacking(&self, ids: &[Digest]) -> Vec<Digest> {
        let shelf = self.shelf.read().await;
        let lacks = |id: &&Digest| {
            let id = ChangesetId(**id);
            !shelf.history.contains(&id) && !shelf.rejected.contains(&id)
        };
        ids.iter().filter(lacks).copied().collect()
    }

    /// The latest changesets, newest first.
    pub async fn latest(&self, count: usize) -> Vec<Digest> {
        self.shelf.read().await.order.iter().rev().take(count).map(|id| id.0).collect()
    }

    /// The bytes of everything wanted and of what it refers to, in an order in which they can be inserted; none if that
    /// is more than `limit` bytes.
    pub async fn closure(&self, wanted: impl Fn(&changeset::Changeset) -> bool, limit: usize) -> Option<Vec<Vec<u8>>> {
        let shelf = self.shelf.read().await;
        let mut needed = BTreeSet::new();
        for id in shelf.order.iter().rev() {
            let Some(entry) = shelf.history.get(id) else { continue };
            if needed.contains(id) || wanted(&entry.changeset) {
                needed.insert(*id);
                needed.extend(entry.changeset.changes.iter().flat_map(|change| change.replaces.iter().copied()));
            }
        }
        let mut out = Vec::new();
        let mut size = 0;
        for id in shelf.order.iter().filter(|id| needed.contains(*id)) {
            let Some(entry) = shelf.history.get(id) else { continue };
            size += entry.bytes.len();
            if size > limit {
                return None;
            }
            out.push(entry.bytes.to_vec());
        }
        Some(out)
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

    /// Keeps the first CA keys of nodes beside the changesets.
    pub async fn keep_ca_keys(self: &Arc<Self>, keys: Vec<(NodeId, u64, Digest)>) {
        if let Err(error) = self.undisturbed(move |book| book.store.set_ca_keys(&keys)).await {
            tracing::warn!(code = %error.code, "CA keys are not on disk: {error}");
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
        if let Ok(signed) = changeset::decode(&bytes)
            && shelf.history.contains(&ChangesetId(signed.id()))
        {
            return Ok(ChangesetId(signed.id()));
        }
        let checked = shelf.history.check_push(&bytes, now);
        match checked.and_then(|()| shelf.history.insert(&bytes, now)) {
            Ok(inserted) => {
                self.keep(&mut shelf, &[&bytes], &[judgement(&bytes, from, now, None)], now)?;
                shelf.order.push(inserted.id);
                Ok(inserted.id)
            }
            Err(refused) => {
                self.refuse(&mut shelf, &[judgement(&bytes, from, now, Some(&refused))], now);
                Err(refusal(&refused))
            }
        }
    }

    fn learn_now(&self, offered: Vec<Vec<u8>>, from: &str, now: Millis) -> Result<Learned, Error> {
        let mut shelf = self.shelf.blocking_write();
        self.writable()?;
        let mut learned = Learned::default();
        let (mut kept, mut judgements, mut refusals) = (Vec::new(), Vec::new(), Vec::new());
        for bytes in &offered {
            match shelf.history.insert(bytes, now) {
                Ok(inserted) if inserted.fresh => {
                    judgements.push(judgement(bytes, from, now, None));
                    learned.fresh.push(inserted.id);
                    kept.push(bytes.as_slice());
                }
                Ok(_) => {}
                Err(Refused::Missing(ids)) => learned.missing.extend(ids),
                Err(refused) => {
                    refusals.push(judgement(bytes, from, now, Some(&refused)));
                    let Ok(signed) = changeset::decode(bytes) else { continue };
                    let id = ChangesetId(signed.id());
                    // An id does not cover the signatures: whoever spoils them must not spoil the changeset.
                    let final_ = !refused.may_pass_later() && refused.code() != Code::BadSignature;
                    if final_ && shelf.rejected.len() < REJECTED {
                        shelf.rejected.insert(id);
                    }
                    learned.refused.push((id, refused.to_string()));
                }
            }
        }
        if !kept.is_empty() {
            self.keep(&mut shelf, &kept, &judgements, now)?;
            shelf.order.extend(&learned.fresh);
            // Of two RoleSets of one number the other may allow what the first did not.
            let names_role_set = |id: &ChangesetId| {
                let entry = shelf.history.get(id);
                entry.is_some_and(|entry| entry.changeset.change(&DocumentId::role_set()).is_some())
            };
            if learned.fresh.iter().any(names_role_set) {
                shelf.rejected.clear();
            }
        }
        if !refusals.is_empty() {
            self.refuse(&mut shelf, &refusals, now);
        }
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
            for entry in shelf.order.iter().filter_map(|id| shelf.history.get(id)) {
                let _ = before.insert(&entry.bytes, now);
            }
            shelf.history = before;
        })
    }

    fn refuse(&self, shelf: &mut Shelf, judgements: &[Judgement], now: Millis) {
        if now / 60_000 != shelf.minute {
            (shelf.minute, shelf.refusals) = (now / 60_000, 0);
        }
        let room = REFUSALS_A_MINUTE - shelf.refusals;
        let noted = &judgements[..judgements.len().min(room)];
        shelf.refusals += noted.len();
        if noted.is_empty() {
            return;
        }
        if let Err(error) = self.store.judge(noted) {
            tracing::warn!(code = %error.code, "a refusal is not in the audit chain: {error}");
        }
    }
}

fn judgement(bytes: &[u8], from: &str, at: Millis, refused: Option<&Refused>) -> Judgement {
    let subject = changeset::decode(bytes).map_or_else(|_| Digest::of(bytes), |signed| signed.id());
    let refused = refused.map(|r| format!("{}: {r}", r.code().as_str()));
    Judgement { at, subject, from: from.to_string(), refused }
}

/// A refusal of policy in the form that every door shows.
pub fn refusal(refused: &Refused) -> Error {
    let code = match refused.code() {
        Code::Malformed => "bad_request",
        Code::BadSignature => "bad_signature",
        Code::WrongTrustDomain => "wrong_trust_domain",
        Code::RoleMissing | Code::ThresholdMissing | Code::RoleSetUnknown | Code::RoleSetInvalid => "role_missing",
        Code::InvalidDocument | Code::InvalidReference | Code::NotSupported => "invalid_document",
        Code::StaleParent | Code::MissingReference => "stale_parent",
        Code::ClockSkew => "clock_skew",
        Code::ConfirmTooLate => "confirm_too_late",
        Code::QuotaExceeded => "quota_exceeded",
        Code::NotFound => "not_found",
        Code::NotInitialised => "failed",
    };
    fail(code, refused.to_string(), refused.hint())
}

#[cfg(test)]
mod tests {
    use certs::sign::SigningKey;
    use policy::{
        DocumentId, Kind,
        changeset::{Change, Changeset},
        history::{genesis, signed},
    };

    use super::*;

    const NOW: Millis = 1_800_000_000_000;

    struct Mesh {
        folder: tempfile::TempDir,
        trust_domain: TrustDomain,
        operator: SigningKey,
        genesis: Vec<u8>,
    }

    impl Mesh {
        fn new() -> Self {
            let trust_domain = TrustDomain::new("prod.example").unwrap();
            let operator = SigningKey::generate();
            let root = certs::root::Root::generate(&trust_domain, NOW).certificate();
            let first = genesis(&trust_domain, &[root], &[("ann".into(), operator.public(), false)], NOW);
            let genesis = signed(&first, &[&operator]);
            Self { folder: tempfile::tempdir().unwrap(), trust_domain, operator, genesis }
        }

        fn book(&self, name: &str) -> Arc<Book> {
            let store = Arc::new(Store::open(&self.folder.path().join(name)).unwrap());
            if store.changesets().unwrap().is_empty() {
                store.append(&[&self.genesis], &[]).unwrap();
            }
            Arc::new(Book::load(store, &self.trust_domain, NOW).unwrap())
        }

        fn grant(&self, node: &str, key: &SigningKey, replaces: Vec<ChangesetId>) -> Vec<u8> {
            let grant = certs::grant::NodeGrant {
                node: NodeId::new(node).unwrap(),
                epoch: 1 + replaces.len() as u64,
                services: Vec::new(),
                token_hash: None,
                redeemer: None,
                token_expires: None,
                enroller: false,
                retired: false,
            };
            let (document, body) = policy::kinds::node_grant_body(&grant);
            let changeset = Changeset {
                trust_domain: self.trust_domain.clone(),
                role_set: 1,
                issued_at: NOW,
                message: String::new(),
                confirm_by: None,
                nonce: [7; 16],
                changes: vec![Change { document, content: Some(body), replaces }],
            };
            signed(&changeset, &[key])
        }
    }

    #[tokio::test]
    async fn what_was_pushed_is_there_after_a_restart_and_pushed_once() {
        let mesh = Mesh::new();
        let book = mesh.book("a");
        let grant = mesh.grant("web-1", &mesh.operator, vec![]);
        let id = book.push(grant.clone(), "push", NOW).await.unwrap();
        assert_eq!(book.push(grant, "push", NOW).await.unwrap(), id);
        assert_eq!(book.latest(16).await[0], id.0);
        drop(book);
        let again = mesh.book("a");
        assert!(again.state(NOW).await.grants().contains_key(&NodeId::new("web-1").unwrap()));
    }

    #[tokio::test]
    async fn a_refused_push_leaves_an_audit_line_and_nothing_else() {
        let mesh = Mesh::new();
        let book = mesh.book("a");
        let before = book.look(|history| history.digest()).await;
        let foreign = mesh.grant("web-1", &SigningKey::generate(), vec![]);
        assert_eq!(book.push(foreign, "push", NOW).await.unwrap_err().code, "role_missing");
        assert_eq!(book.push(b"nonsense".to_vec(), "push", NOW).await.unwrap_err().code, "bad_request");
        assert_eq!(book.look(|history| history.digest()).await, before);
        assert_eq!(book.store.audit(0).unwrap().len(), 2);
    }

    #[tokio::test]
    async fn spoilt_signatures_do_not_keep_the_changeset_out() {
        let mesh = Mesh::new();
        let book = mesh.book("a");
        let good = mesh.grant("web-1", &mesh.operator, vec![]);
        let mut spoilt = changeset::decode(&good).unwrap();
        spoilt.signatures[0].1.0[7] ^= 1;
        let id = spoilt.id();
        let learned = book.learn(vec![changeset::encode(&spoilt)], "mallory", NOW).await.unwrap();
        assert_eq!((learned.fresh.len(), learned.refused.len()), (0, 1));
        assert_eq!(book.lacking(&[id]).await, [id]);
        assert_eq!(book.learn(vec![good], "a", NOW).await.unwrap().fresh.len(), 1);
        let foreign = mesh.grant("web-2", &SigningKey::generate(), vec![]);
        let id = changeset::decode(&foreign).unwrap().id();
        book.learn(vec![foreign], "mallory", NOW).await.unwrap();
        assert_eq!(book.lacking(&[id]).await, []);
    }

    #[tokio::test]
    async fn a_peers_rubbish_does_not_fill_the_audit_chain() {
        let mesh = Mesh::new();
        let book = mesh.book("a");
        let before = book.store.audit(0).unwrap().len();
        book.learn(vec![Vec::new(); 5_000], "mallory", NOW).await.unwrap();
        book.learn(vec![Vec::new(); 5_000], "mallory", NOW).await.unwrap();
        assert_eq!(book.store.audit(0).unwrap().len() - before, REFUSALS_A_MINUTE);
    }

    #[tokio::test]
    async fn what_lacks_its_references_names_them() {
        let mesh = Mesh::new();
        let (one, two) = (mesh.book("a"), mesh.book("b"));
        let first = mesh.grant("web-1", &mesh.operator, vec![]);
        let id = one.push(first.clone(), "push", NOW).await.unwrap();
        let second = mesh.grant("web-1", &mesh.operator, vec![id]);
        one.push(second.clone(), "push", NOW).await.unwrap();
        let learned = two.learn(vec![second.clone()], "a", NOW).await.unwrap();
        assert_eq!((learned.fresh.len(), learned.missing), (0, vec![id]));
        let learned = two.learn(vec![first, second], "a", NOW).await.unwrap();
        assert_eq!(learned.fresh.len(), 2);
        assert_eq!(two.look(|h| h.digest()).await, one.look(|h| h.digest()).await);
        let document = DocumentId::mesh_wide(Kind::NodeGrant, "web-1");
        let closure = one.closure(|c| c.changes.iter().any(|change| change.document == document), 1 << 20).await;
        assert_eq!(closure.unwrap().len(), 2);
        assert_eq!(one.closure(|_| true, 10).await, None);
    }
}
