//! Bodies that go after a time, and those that are missing: a peer may have kept one back, or a value lives again.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use certs::sign::Digest;

use super::Sync;
use crate::clock::monotonic;

/// How often bodies are let go that were replaced long ago.
const FORGET: Duration = Duration::from_secs(3600);
/// How often a missing body is asked for; of another peer each time.
const ASK: Duration = Duration::from_secs(10);

/// When both were last done.
#[derive(Debug, Default)]
pub(super) struct Upkeep {
    forgotten: Option<Instant>,
    asked: Option<Instant>,
    /// Which of the links is next.
    turn: usize,
}

impl Upkeep {
    fn due(last: &mut Option<Instant>, every: Duration) -> bool {
        let now = monotonic();
        let due = last.is_none_or(|last| now.duration_since(last) >= every);
        if due {
            *last = Some(now);
        }
        due
    }
}

impl Sync {
    /// Lets old bodies go, and asks a peer for those that should be here.
    pub(super) async fn keep_up(self: &Arc<Self>, upkeep: &mut Upkeep) {
        if Upkeep::due(&mut upkeep.forgotten, FORGET) {
            match self.book.forget(self.clock.now()).await {
                Ok(0) => {}
                Ok(count) => tracing::info!(count, "bodies of changesets that were replaced long ago are gone"),
                Err(error) => tracing::warn!(code = %error.code, "old bodies stay: {error}"),
            }
        }
        if !Upkeep::due(&mut upkeep.asked, ASK) {
            return;
        }
        let now = self.clock.now();
        let wanted: Vec<Digest> =
            self.book.look(|history| history.wanted(now)).await.into_iter().map(|id| id.0).collect();
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
