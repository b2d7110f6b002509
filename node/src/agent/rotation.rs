//! A change of the root as this node goes through it: what still rests on a root that retires, and the way to be rid of it without
//! cutting anything.

use crate::lock::lock;
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use certs::{
    id::NodeId,
    trust::{Phase, Trust},
};
use membership::view::View;
use policy::changeset::ChangesetId;
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;

use super::{identity::Identity, sync::Sync};

/// How often connections are looked at while a root retires.
const INTERVAL: Duration = Duration::from_secs(1);
/// How often a peer that is late itself loses its link for it: rarely, for it renews over that link.
const THEIRS_EVERY: u32 = 15;

/// What of this node rests on a root that retires.
#[derive(Debug, Default)]
pub struct Resting {
    /// Under which RoleSet, and how many connections of both directions.
    counted: Mutex<Option<(ChangesetId, usize)>>,
}

impl Resting {
    fn set(&self, counted: Option<(ChangesetId, usize)>) {
        *lock(&self.counted) = counted;
    }

    /// Connections that rest on a root which this RoleSet retires; none if they were not counted under it yet.
    pub fn connections(&self, role_set: ChangesetId) -> Option<usize> {
        let counted = *lock(&self.counted);
        counted.filter(|(under, _)| *under == role_set).map(|(_, connections)| connections)
    }
}

/// Runs until the process ends.
pub async fn run(sync: Arc<Sync>) {
    let (mut turn, mut settled_for) = (0u32, None);
    let (mut changes, mut is_issuing) = (sync.world.changes(), true);
    loop {
        tokio::select! {
            () = due(&mut changes, is_issuing) => {}
            () = sync.tasks.stopping() => return,
        }
        let state = sync.world.current().load().state.clone();
        is_issuing = state.trust().phase() == Phase::Issuing;
        if !is_issuing {
            sync.resting.set(None);
            continue;
        }
        turn = turn.wrapping_add(1);
        let changeset = state.role_set.changeset;
        // What is dialled again before would show the old certificate again.
        if is_moved(&sync.identity, state.trust()) {
            let theirs = turn.is_multiple_of(THEIRS_EVERY);
            let resting = sync.mesh.retire(|enroller| state.trust().is_leaving(enroller), theirs);
            sync.resting.set(Some((changeset, resting)));
        }
        if sync.is_settled() && settled_for != Some(changeset) {
            settled_for = Some(changeset);
            sync.settled();
        }
    }
}

/// Waits until it is time to look. That a root begins to retire is a change of policy: until there is one nothing is due.
async fn due(changes: &mut watch::Receiver<u64>, is_issuing: bool) {
    if !is_issuing && changes.changed().await.is_err() {
        return std::future::pending().await;
    }
    tokio::time::sleep(INTERVAL).await;
}

/// Whether all that this node shows or issues stems from a root that stays.
fn is_moved(identity: &Identity, trust: &Trust) -> bool {
    let leaving = |der: &[u8]| trust.is_leaving(der);
    let ca = identity.ca();
    let stays = ca.chain().last().is_some_and(|enroller| !leaving(enroller));
    let issues = identity.enroller().is_none_or(|own| own.chain().iter().all(|enroller| !leaving(enroller)));
    stays && issues && identity.shows_only(ca.chain().last().map(|der| CertificateDer::from(der.as_slice())))
}

/// Whether every member that lives was heard to be certified under a root that stays: what is heard later could come too late.
fn has_heard(view: &View, own: &NodeId, trust: &Trust) -> bool {
    let staying = trust.staying_digests();
    let others = view.members().values().filter(|member| member.usable() && member.id != *own);
    others.into_iter().all(|member| staying.contains(&member.root))
}

impl Sync {
    /// Whether nothing of this node rests on a root that retires: not its certificates, not its connections, not what it knows of others.
    pub fn is_settled(&self) -> bool {
        let state = self.world.current().load().state.clone();
        let trust = state.trust();
        let rests = || self.resting.connections(state.role_set.changeset) != Some(0);
        let heard = || has_heard(&self.world.view(), self.node(), trust);
        trust.phase() != Phase::Issuing || (is_moved(&self.identity, trust) && !rests() && heard())
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn while_no_root_retires_nothing_is_looked_at_until_something_changes() {
        let news = watch::Sender::new(0);
        let mut changes = news.subscribe();
        let day = Duration::from_secs(86_400);
        assert!(tokio::time::timeout(day, due(&mut changes, false)).await.is_err());
        news.send_modify(|count| *count += 1);
        assert!(due(&mut changes, false).now_or_never().is_none(), "not at each of many changes");
        news.send_modify(|count| *count += 1);
        tokio::time::timeout(day, due(&mut changes, false)).await.expect("a change");
        assert!(tokio::time::timeout(day, due(&mut changes, false)).await.is_err(), "which was the last");
        tokio::time::timeout(day, due(&mut changes, true)).await.expect("a root retires");
    }
}
