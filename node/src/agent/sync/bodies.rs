//! Bodies that go after a time, and those that are missing: a peer may have kept one back, or a value lives again.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use certs::{grant::NodeGrant, id::NodeId, sign::Digest};
use membership::view::MemberState;

use super::{Freshness, INTERVAL, Sync, audits::Audits};
use crate::{agent::store::AuditHead, clock::monotonic, lock::lock};

/// How often bodies are let go that were replaced long ago.
const FORGET: Duration = Duration::from_secs(3600);
/// Bytes of bodies that may come before it is looked again which may go.
const GROWN: usize = 16 << 20;
/// How often a missing body is asked for; of another peer each time.
const ASK: Duration = Duration::from_secs(10);

/// When each was last done.
#[derive(Debug, Default)]
pub(super) struct Upkeep {
    /// All of it, as far as it was due.
    looked: Option<Instant>,
    forgotten: Option<Instant>,
    /// Bytes of bodies that were here then.
    held: usize,
    asked: Option<Instant>,
    /// Which of the links is next.
    turn: usize,
}

impl Upkeep {
    /// Whether it is time to look again; then that is now.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        Self::due(&mut self.looked, INTERVAL, now)
    }

    fn due(last: &mut Option<Instant>, every: Duration, now: Instant) -> bool {
        let due = last.is_none_or(|last| now.duration_since(last) >= every);
        if due {
            *last = Some(now);
        }
        due
    }
}

impl Sync {
    /// Notes how much of the mesh says what it holds.
    async fn note_freshness(&self) {
        let (view, state) = (self.world.view(), self.world.current().load().state.clone());
        let expected = |node: &NodeId, grant: &NodeGrant| {
            !grant.retired && state.revocations().nodes.get(node).is_none_or(|epoch| *epoch < grant.epoch)
        };
        let members: Vec<&NodeId> =
            state.grants().iter().filter(|(node, grant)| expected(node, grant)).map(|(node, _)| node).collect();
        // What somebody said once may be all that is let through.
        let speaking = self.members.speaking().await;
        let speaks = |node: &&&NodeId| {
            let member = view.member(node).filter(|member| member.state == MemberState::Alive);
            let tells = speaking.contains(**node) && member.is_some_and(|member| member.policy.is_some());
            **node == self.node() || tells
        };
        let known = members.iter().filter(speaks).count();
        self.freshness().note(known, members.len(), monotonic());
    }

    /// For how long half of the mesh has been silent, if that is long enough to doubt this node's policy.
    pub fn stale(&self) -> Option<Duration> {
        self.freshness().stale(monotonic())
    }

    /// Remembers how long each member's audit chain was.
    pub(super) fn note_audits(&self) {
        self.audits().follow(&self.world.view());
    }

    /// The longest audit chain that each member was heard to have.
    pub fn audit_heads(&self) -> BTreeMap<NodeId, AuditHead> {
        self.audits().heads().clone()
    }

    fn audits(&self) -> std::sync::MutexGuard<'_, Audits> {
        lock(&self.state.audits)
    }

    fn freshness(&self) -> std::sync::MutexGuard<'_, Freshness> {
        lock(&self.state.freshness)
    }

    /// Notes who speaks, lets old bodies go, and asks a peer for those that should be here.
    pub(super) async fn keep_up(self: &Arc<Self>, upkeep: &mut Upkeep) {
        self.note_freshness().await;
        let view = self.world.view();
        lock(&self.state.pace).keep(|node| view.member(node).is_some());
        let is_grown = self.book.body_bytes().await > upkeep.held + GROWN;
        if Upkeep::due(&mut upkeep.forgotten, if is_grown { Duration::ZERO } else { FORGET }, monotonic()) {
            match self.book.forget(self.clock.now()).await {
                Ok(0) => {}
                Ok(count) => tracing::info!(
                    count,
                    "bodies of changesets that were replaced are gone: long ago, or many of one key"
                ),
                Err(error) => tracing::warn!(code = %error.code, "old bodies stay: {error}"),
            }
            upkeep.held = self.book.body_bytes().await;
            self.book.sum_up_refusals(self.clock.now()).await;
        }
        if !Upkeep::due(&mut upkeep.asked, ASK, monotonic()) {
            return;
        }
        let now = self.clock.now();
        let wanted = self.book.look_through(move |history| history.wanted(now)).await;
        let wanted: Vec<Digest> = wanted.into_iter().map(|id| id.0).collect();
        let links = self.links.all();
        if wanted.is_empty() || links.is_empty() {
            return;
        }
        upkeep.turn += 1;
        let link = links[upkeep.turn % links.len()].clone();
        let sync = self.clone();
        self.tasks.detach("policy-bodies", async move {
            if let Err(error) = sync.fetch_bodies(&link, wanted).await {
                tracing::debug!(peer = %link.peer().node, "bodies could not be fetched: {error}");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_many_members_give_word_upkeep_has_its_own_pace() {
        let (start, mut upkeep) = (monotonic(), Upkeep::default());
        let words = (0..=10_000).map(|word| start + INTERVAL * word / 1_000);
        assert_eq!(words.filter(|now| upkeep.is_due(*now)).count(), 11, "of 10,001 words in ten intervals");
    }
}
