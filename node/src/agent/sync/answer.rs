//! What peers ask over a link, and what they are told.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use certs::{
    ca::requested_key,
    codec::{self, Millis},
    id::NodeId,
    sign::Digest,
    verify::Peer,
};
use policy::{
    changeset::{Changeset, ChangesetId},
    history::{History, State},
};

use super::{Sync, share::Shares};
use crate::{
    agent::{
        identity::millis,
        local::Local,
        receipt::{Receipt, Standing},
        traffic::Said,
        wire::{self, Answer, Ask, Bucket, Buckets, Fetch, Ids, Look, Renew, Renewed},
    },
    clock::monotonic,
    mesh::peer::{Asked, PeerLink},
    telemetry::Telemetry,
};

/// Longest that a peer may wait for a receipt.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Answers peers' requests; clones are the same.
#[derive(Clone)]
pub struct Requests {
    /// What it answers from.
    pub sync: Arc<Sync>,
    /// The endpoints that peers ask about.
    pub local: Arc<Local>,
    /// What this node counts.
    pub telemetry: Telemetry,
    shares: Arc<Shares>,
}

impl Requests {
    /// Ready to answer.
    pub fn new(sync: Arc<Sync>, local: Arc<Local>, telemetry: Telemetry) -> Self {
        Self { sync, local, telemetry, shares: Arc::default() }
    }

    /// Answers what comes over a link, within its peer's share, until its end.
    pub async fn serve(self, link: PeerLink) {
        let view = self.sync.world.view();
        let is_member = |node: &NodeId| view.member(node).is_some();
        let share = self.shares.of(&link.peer().node, is_member, monotonic());
        drop(view);
        while let Some(asked) = link.asked().await {
            // Unanswered means refused: the peer asks another, or later.
            if !share.is_left(monotonic()) {
                continue;
            }
            let slot = tokio::select! {
                slot = share.slots.clone().acquire_owned() => slot,
                _ = link.closed() => return,
            };
            let Ok(slot) = slot else { return };
            let (requests, link, share) = (self.clone(), link.clone(), share.clone());
            self.sync.tasks.detach("peer-request", async move {
                // Who is gone waits for nothing, and its next link finds the place free.
                let reply = tokio::select! {
                    reply = requests.answer(&link, &asked) => reply,
                    _ = link.closed() => None,
                };
                share.spend(reply.as_ref().map_or(0, Bytes::len));
                if let Some(reply) = reply {
                    asked.reply(reply);
                }
                drop(slot);
            });
        }
    }

    async fn answer(&self, link: &PeerLink, asked: &Asked) -> Option<Bytes> {
        match asked.kind {
            wire::FETCH => {
                let fetch: Fetch = wire::request(&asked.body).ok()?;
                let fetched = self
                    .sync
                    .book
                    .look(|history| wire::fill(&fetch, |id| history.bytes(&ChangesetId(*id)).map(AsRef::as_ref)));
                Some(codec::encode(&fetched.await).into())
            }
            wire::BUCKETS => {
                let digests = self.sync.book.look(|history| history.bucket_digests().to_vec()).await;
                Some(codec::encode(&Buckets { digests }).into())
            }
            wire::BUCKET => {
                let bucket: Bucket = wire::request(&asked.body).ok()?;
                let ids = self.sync.book.look(|history| {
                    let ids = bucket.buckets.iter().take(256).flat_map(|first| history.bucket(*first));
                    ids.take(wire::IDS).map(|id| id.0).collect()
                });
                Some(codec::encode(&Ids { ids: ids.await }).into())
            }
            wire::RECEIPT => {
                let ask: Ask = wire::request(&asked.body).ok()?;
                Some(codec::encode(&Answer { receipt: self.receipt(link, &ask).await }).into())
            }
            wire::RENEW => {
                let renew: Renew = wire::request(&asked.body).ok()?;
                Some(codec::encode(&self.renew(link.peer(), &renew).await).into())
            }
            wire::LOOK => {
                let look: Look = wire::request(&asked.body).ok()?;
                Some(codec::encode(&self.local.look(&look.service, look.instance.as_deref()).await).into())
            }
            wire::PING => Some(Bytes::new()),
            wire::TRAFFIC => Some(codec::encode(&Said::of(self.telemetry.exchanged())).into()),
            wire::EVENTS => Some(codec::encode(&self.sync.recalled(&wire::request(&asked.body).ok()?)).into()),
            wire::SCRAPED => Some(codec::encode(&self.sync.scraped()).into()),
            wire::CONCERNS => Some(codec::encode(&self.sync.own_concerns()?).into()),
            wire::PATHS => Some(codec::encode(&self.sync.paths()).into()),
            _ => None,
        }
    }

    /// Waits until the changeset stands as the asker wants it; who asks has it, so that it is fetched from there. When the
    /// asker's patience is over, what stands then.
    async fn receipt(&self, link: &PeerLink, ask: &Ask) -> Option<Vec<u8>> {
        let patience = Duration::from_millis(u64::from(ask.patience_ms)).min(LONGEST_WAIT);
        let mut applied = self.sync.state.applied.subscribe();
        let waited = async {
            if !self.sync.lacking(&[ask.changeset], &link.peer().node).await.is_empty()
                && let Err(error) = self.sync.fetch(link, vec![ask.changeset]).await
            {
                tracing::debug!(peer = %link.peer().node, "a changeset could not be fetched: {error}");
            }
            loop {
                applied.borrow_and_update();
                match self.sync.standing(&ask.changeset).await {
                    Some(standing) if self.sync.settles(standing, ask.standing) >= ask.standing => return,
                    // What is folded will not stand higher by waiting, even if another value won.
                    Some(Standing::Proposed | Standing::Superseded | Standing::Conflicted | Standing::Unreadable) => {
                        return;
                    }
                    Some(Standing::Durable | Standing::Applied | Standing::Settled) | None => {}
                }
                if applied.changed().await.is_err() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(patience, waited).await;
        self.sync.own_receipt(&ask.changeset, ask.standing).await
    }

    /// Certifies a peer's own CA key anew, as policy allows it now.
    async fn renew(&self, peer: &Peer, renew: &Renew) -> Renewed {
        let refused = |code: &str, message: String| Renewed::Refused(code.into(), message);
        let now = self.sync.clock.now();
        let Some(enroller) = self.sync.identity.enroller() else {
            return refused("not_an_enroller", "this node is no enroller".into());
        };
        let state = self.sync.book.state(now).await;
        let Some(grant) = state.grants().get(&peer.node).filter(|g| !g.retired && g.epoch == peer.epoch) else {
            return refused("not_granted", format!("{} has no grant of epoch {}", peer.node, peer.epoch));
        };
        let spki = match requested_key(&renew.request, &peer.node) {
            Ok(spki) if Digest::of(&spki) == peer.ca_key => spki,
            Ok(_) => return refused("bad_request", "a renewal keeps the key".into()),
            Err(error) => return refused("bad_request", error.to_string()),
        };
        let life = millis(state.lifetimes().node_ca);
        match enroller.certify(grant, (&spki, peer.record_key), Some(&renew.chain), life, now) {
            Ok(chain) => {
                tracing::info!(node = %peer.node, "renewed a node CA");
                Renewed::Chain(chain)
            }
            Err(error) => refused("failed", error.to_string()),
        }
    }
}

impl Sync {
    /// Where it stands for one who asks for this standing.
    fn settles(&self, standing: Standing, asked: Standing) -> Standing {
        let settled = standing == Standing::Applied && asked == Standing::Settled && self.is_settled();
        if settled { Standing::Settled } else { standing }
    }

    /// This node's signed word about a changeset, if it holds it, to one who asks whether it stands so.
    pub(super) async fn own_receipt(&self, id: &Digest, asked: Standing) -> Option<Vec<u8>> {
        let receipt = Receipt {
            trust_domain: self.identity.trust_domain().clone(),
            node: self.node().clone(),
            changeset: *id,
            standing: self.settles(self.standing(id).await?, asked),
            at: self.clock.now(),
            extensions: Vec::new(),
        };
        Some(receipt.sign(self.identity.record_key(), self.identity.ca().chain()))
    }

    /// Where a changeset or approval stands here; nothing if it is not here, or is without the bodies that it should have.
    async fn standing(&self, id: &Digest) -> Option<Standing> {
        let (id, now) = (ChangesetId(*id), self.clock.now());
        let found = self.book.look(|history| Held::of(history, &id, now)).await?;
        // Which bodies should be here follows from the whole history.
        if found.is_stub && self.book.look_through(move |history| history.wanted(now).contains(&id)).await {
            return None;
        }
        let Held { changeset, proposed, digest, .. } = found;
        if *self.state.applied.borrow() != Some(digest) {
            return Some(Standing::Durable);
        }
        // An approval has no documents: once folded it has done all it does.
        let Some(changeset) = changeset else { return Some(Standing::Applied) };
        if proposed {
            return Some(Standing::Proposed);
        }
        let state = self.world.current().load().state.clone();
        Some(standing(&state, &id, changeset.changes.iter().map(|change| &change.document)))
    }

    /// This node.
    pub fn node(&self) -> &NodeId {
        self.identity.node()
    }
}

/// What the set says of a changeset or approval, and the set's digest.
struct Held {
    /// None of an approval.
    changeset: Option<Arc<Changeset>>,
    is_stub: bool,
    proposed: bool,
    digest: Digest,
}

impl Held {
    fn of(history: &History, id: &ChangesetId, now: Millis) -> Option<Self> {
        let digest = history.digest();
        let Some(entry) = history.get(id) else {
            let approval = Self { changeset: None, is_stub: false, proposed: false, digest };
            return history.contains(id).then_some(approval);
        };
        let proposed = history.is_proposal(id, now);
        Some(Self { changeset: Some(entry.changeset.clone()), is_stub: !entry.whole, proposed, digest })
    }
}

/// Applied if all of it that is still live is in effect, which nobody can say of what cannot be read.
fn standing<'a>(state: &State, id: &ChangesetId, documents: impl Iterator<Item = &'a policy::DocumentId>) -> Standing {
    let (mut live, mut read, mut won) = (false, true, true);
    for document in documents {
        let values = state.documents.get(document).map(|live| live.values.as_slice()).unwrap_or_default();
        if let Some(own) = values.iter().find(|value| value.changeset == *id) {
            live = true;
            read &= own.is_readable();
            won &= values.first().is_some_and(|first| first.changeset == *id);
        }
    }
    match (live, read, won) {
        (false, ..) => Standing::Superseded,
        (true, false, _) => Standing::Unreadable,
        (true, true, false) => Standing::Conflicted,
        (true, true, true) => Standing::Applied,
    }
}

#[cfg(test)]
mod tests {
    use policy::{DocumentId, Kind};

    use super::*;
    use crate::testing;

    #[test]
    fn what_cannot_be_read_here_is_not_said_to_be_in_effect() {
        let mut mesh = testing::Mesh::new();
        let id = DocumentId::new(Kind::AuthorizationPolicy, "shop", "deny");
        let body = |spec: &str| {
            let metadata = r#"{"name":"deny","namespace":"shop"}"#;
            format!(
                r#"{{"apiVersion":"security.istio.io/v1","kind":"AuthorizationPolicy","metadata":{metadata},"spec":{spec}}}"#
            )
        };
        let mut stands = |content: Option<String>| {
            let state = mesh.push(id.clone(), content);
            let changeset = state.heads(&id)[0];
            standing(&state, &changeset, [&id].into_iter())
        };
        assert_eq!(stands(Some(body("{}"))), Standing::Applied);
        assert_eq!(stands(Some(body(r#"{"fromTheFuture":1}"#))), Standing::Unreadable);
        assert_eq!(stands(None), Standing::Applied, "a deletion is read by every build");
        assert!(Standing::Unreadable < Standing::Applied, "who waits for Applied does not count it");
    }
}
