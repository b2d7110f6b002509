//! A push and its receipts: who has it, as each node signs.

use std::{sync::Arc, time::Duration};

use certs::{codec, id::NodeId, sign::Digest};
use futures_util::{StreamExt, future::join_all, stream::FuturesUnordered};
use membership::{engine::FULL_MESH, view::MemberState};
use policy::changeset::{self, ChangesetId};

use super::Sync;
use crate::{
    agent::{
        error::{Error, fail, internal},
        facade::{Pushed, Wait},
        receipt::{Receipt, Standing},
        wire::{self, Answer, Ask},
    },
    clock::monotonic,
    mesh::peer::PeerLink,
};

/// A receipt may come this much later than the peer was asked to wait.
const GRACE: Duration = Duration::from_secs(2);
/// How often a link is looked for in the place of one that ended.
const RELINK: Duration = Duration::from_millis(100);
/// How long links that are missing may take to come up.
const LINKING: Duration = Duration::from_secs(2);

impl Sync {
    /// Takes a signed changeset: verified, durable, folded, announced; answers when `wait` is met or `patience` is over.
    ///
    /// # Errors
    /// The refusal; nothing was kept then.
    pub async fn push(self: &Arc<Self>, bytes: Vec<u8>, wait: Wait, patience: Duration) -> Result<Pushed, Error> {
        let begun = monotonic();
        // All of it happens also if the caller goes away, at whatever moment: what is durable is in effect.
        let sync = self.clone();
        let (told, taken) = tokio::sync::oneshot::channel();
        self.tasks.detach("push", async move {
            let named = changeset::decode(&bytes).map(|packed| ChangesetId(packed.id()));
            let known = sync.book.look(|history| named.is_ok_and(|id| history.contains(&id))).await;
            let pushed = sync.book.push(bytes, "push", sync.clock.now()).await;
            if let Ok(id) = &pushed {
                sync.apply_arrived(begun).await;
                if !known {
                    sync.note_arrived(id, format!("was pushed at {}", sync.node())).await;
                }
            }
            let _ = told.send(pushed);
        });
        let id = taken.await.map_err(internal)??;
        let mut pushed = self.receipts(id, Standing::Applied, wait, patience).await?;
        pushed.elapsed = monotonic().duration_since(begun);
        Ok(pushed)
    }

    /// Collects receipts for a changeset that is here, until `wait` is met or `patience` is over: peers wait as long for it to stand so.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn receipts(
        &self,
        id: ChangesetId,
        standing: Standing,
        wait: Wait,
        patience: Duration,
    ) -> Result<Pushed, Error> {
        let begun = monotonic();
        let own = self
            .own_receipt(&id.0, standing)
            .await
            .ok_or_else(|| fail("not_found", format!("no changeset {id} here"), "`skein policy log` lists them"))?;
        let mut pushed = Pushed { changeset: Some(id), ..Pushed::default() };
        pushed.take(own, None);
        self.link_all(patience.min(LINKING)).await;
        let (links, unreachable) = self.reachable();
        pushed.unreachable = unreachable;
        pushed.pending = links.iter().map(|link| link.peer().node.clone()).collect();
        let wanted = match wait {
            Wait::Local => 1,
            Wait::Two => 2.min(1 + links.len()),
            Wait::Nodes(count) => count,
            Wait::All => 1 + links.len(),
        };
        let mut asked: FuturesUnordered<_> =
            links.iter().map(|link| self.ask_anew(link, (id.0, standing), patience)).collect();
        let collected = async {
            while pushed.receipts.len() < wanted {
                let Some((node, receipt)) = asked.next().await else { break };
                if let Some((receipt, signed)) = receipt {
                    pushed.pending.retain(|pending| *pending != node);
                    pushed.receipts.push(receipt);
                    pushed.signed.push(signed);
                }
            }
        };
        // Late ones are named as pending; they get it all the same.
        let _ = tokio::time::timeout(patience, collected).await;
        drop(asked);
        pushed.complete = pushed.receipts.len() >= wanted;
        pushed.elapsed = monotonic().duration_since(begun);
        Ok(pushed)
    }

    /// In a large mesh most members have no link with this node: asks for links with all that are alive.
    async fn link_all(&self, patience: Duration) {
        let view = self.world.view();
        if view.members().len() <= FULL_MESH {
            return;
        }
        let alive = view.members().values().filter(|member| member.state == MemberState::Alive);
        let missing = alive.filter(|member| member.id != *self.node() && self.links.to(&member.id).is_none());
        let missing: Vec<NodeId> = missing.map(|member| member.id.clone()).collect();
        let all = missing.iter().map(|node| self.links.reach(&self.members, node, patience));
        join_all(all).await;
    }

    /// Asks one peer, anew where a link ends over it: that of a node that was killed and runs again may outlive it for a moment.
    async fn ask_anew(
        &self,
        link: &PeerLink,
        question: (Digest, Standing),
        patience: Duration,
    ) -> (NodeId, Option<(Receipt, Vec<u8>)>) {
        let (node, begun) = (link.peer().node.clone(), monotonic());
        let mut receipt = ask(link, question, patience).await;
        let mut last = LINKING.min(patience);
        while receipt.is_none() && !last.is_zero() {
            tokio::time::sleep(RELINK.min(last)).await;
            last = last.saturating_sub(RELINK);
            let left = patience.saturating_sub(monotonic().duration_since(begun));
            if let Some(link) = self.links.to(&node) {
                receipt = ask(&link, question, left).await;
            }
        }
        (node, receipt)
    }

    /// Links to live members, and the members that nobody here reaches.
    fn reachable(&self) -> (Vec<PeerLink>, Vec<NodeId>) {
        let (view, state) = (self.world.view(), self.world.current().load().state.clone());
        let (mut links, mut unreachable) = (Vec::new(), Vec::new());
        for (node, grant) in state.grants() {
            let evicted = state.revocations().nodes.get(node).is_some_and(|epoch| *epoch >= grant.epoch);
            if node == self.node() || grant.retired || evicted {
                continue;
            }
            let alive = view.member(node).map(|member| member.state);
            match (alive, self.links.to(node)) {
                (Some(MemberState::Left | MemberState::Evicted), _) => {}
                (Some(MemberState::Alive | MemberState::Suspect), Some(link)) => links.push(link),
                (Some(MemberState::Alive | MemberState::Suspect | MemberState::Dead) | None, _) => {
                    unreachable.push(node.clone());
                }
            }
        }
        (links, unreachable)
    }
}

impl Pushed {
    fn take(&mut self, signed: Vec<u8>, key: Option<&certs::sign::PublicKey>) {
        if let Some(receipt) = Receipt::verify(&signed, key) {
            self.receipts.push(receipt);
            self.signed.push(signed);
        }
    }
}

/// Asks one peer; its receipt counts only with its own signature.
async fn ask(link: &PeerLink, (id, standing): (Digest, Standing), patience: Duration) -> Option<(Receipt, Vec<u8>)> {
    // What stands at the end of its patience is to arrive before ours is over.
    let theirs = patience - GRACE.min(patience / 4);
    let patience_ms = u32::try_from(theirs.as_millis()).unwrap_or(u32::MAX);
    let question = codec::encode(&Ask { changeset: id, standing, patience_ms });
    let answered = async {
        let reply = link.request(wire::RECEIPT, question.into(), patience + GRACE).await.ok()?;
        let signed = wire::reply::<Answer>(&reply).ok()?.receipt?;
        let receipt = Receipt::verify(&signed, Some(&link.peer().record_key))?;
        (receipt.node == link.peer().node && receipt.changeset == id).then_some((receipt, signed))
    };
    answered.await
}
