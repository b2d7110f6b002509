//! Whether this node's disk knows less than the node did: one from a backup. An enroller's would let tokens in again that were redeemed
//! since. Peers hold what the node last said of itself, its audit chain's head among it, and say it back when a link comes up; each
//! enrolment is an entry of that chain. What is found so is on disk, and no token counts any more that is older.

use std::{sync::Arc, time::Duration};

use certs::codec::Millis;
use membership::body::Policy;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use super::{
    error::Error,
    event::{self, Events},
    store::{AuditHead, Store},
};
use crate::clock::{Clock, monotonic};

/// Peers have this long after a start to say what they remember, before tokens are redeemed without.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is known of it.
pub struct Rollback {
    /// The disk.
    pub store: Arc<Store>,
    /// What people may watch.
    pub events: Arc<Events>,
    /// Told when the audit chain has grown by an enrolment: peers are to know.
    pub grown: Notify,
    /// Whether a peer has said what it remembers, or there is none.
    heard: watch::Sender<bool>,
    /// Nobody waits for peers after that.
    until: Instant,
    clock: Clock,
}

impl Rollback {
    /// At the start of the process; `alone`: as far as this node knows there is no other one.
    pub fn new(store: Arc<Store>, events: Arc<Events>, alone: bool) -> Arc<Self> {
        let (grown, heard) = (Notify::new(), watch::Sender::new(alone));
        Arc::new(Self { store, events, grown, heard, until: Instant::from_std(monotonic()) + PATIENCE, clock: Clock })
    }

    /// A peer says back what this node, by its own signature, said in an earlier run. Blocks on the disk.
    pub fn remembered(&self, policy: &Policy) {
        let (count, digest) = policy.audit;
        let now = self.clock.now();
        let holds = self.store.audit_holds(&AuditHead { count, digest });
        if let Ok(false) = holds {
            let what = format!(
                "the disk is older than what this node did: its audit chain had {count} entries; tokens from before now are \
                 redeemed no more, invite again"
            );
            self.events.note(now, event::Kind::StoreRolledBack, count, what);
        }
        let noted = holds.and_then(|holds| if holds { Ok(()) } else { self.store.set_rolled_back(now) });
        if let Err(error) = noted {
            tracing::error!(code = %error.code, "whether the disk is from a backup is not known: {error}");
        }
        self.heard.send_replace(true);
    }

    /// Waits until a peer has said what it remembers, but not for long.
    pub async fn settled(&self) {
        let mut heard = self.heard.subscribe();
        // An error cannot be: the sender is here.
        let _ = tokio::time::timeout_at(self.until, heard.wait_for(|heard| *heard)).await;
    }

    /// When it was last found that the disk was older. Blocks on it.
    ///
    /// # Errors
    /// `storage_failed`.
    pub fn found(&self) -> Result<Option<Millis>, Error> {
        self.store.rolled_back()
    }
}

#[cfg(test)]
mod tests {
    use certs::sign::Digest;

    use super::*;
    use crate::agent::store::{Judgement, Spent};

    fn policy(head: AuditHead) -> Policy {
        let (digest, recent, applied) = (Digest([0; 32]), Vec::new(), Digest([0; 32]));
        Policy { digest, count: 1, recent, applied, audit: (head.count, head.digest) }
    }

    #[tokio::test]
    async fn a_disk_that_lacks_what_was_done_is_found_and_one_that_knows_more_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let (path, copy) = (folder.path().join("store"), folder.path().join("copy"));
        let spend = |store: &Store, word: &[u8]| {
            let judgement = Judgement { at: 1, subject: Digest::of(word), from: "redeemed by b".into(), refused: None };
            store.set_token(&Digest::of(word), None, &Spent::Burnt, Some(judgement)).unwrap();
            store.audit_head().unwrap()
        };
        let store = Store::open(&path).unwrap();
        let first = spend(&store, b"first");
        drop(store);
        std::fs::copy(&path, &copy).unwrap();
        let store = Arc::new(Store::open(&path).unwrap());
        let second = spend(&store, b"second");
        let rollback = Rollback::new(store, Arc::default(), false);
        for known in [AuditHead::NONE, first, second] {
            rollback.remembered(&policy(known));
        }
        assert_eq!(rollback.found().unwrap(), None);
        let rollback = Rollback::new(Arc::new(Store::open(&copy).unwrap()), Arc::default(), false);
        rollback.remembered(&policy(first));
        assert_eq!(rollback.found().unwrap(), None);
        // It has gone on since, in another way.
        spend(&rollback.store, b"third");
        rollback.remembered(&policy(second));
        assert!(rollback.found().unwrap().is_some());
        assert_eq!(rollback.events.counts().get("store_rolled_back"), Some(&1));
        rollback.settled().await;
    }
}
