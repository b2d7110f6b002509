//! What changes by time alone: trials end, documents and grants expire, and what has ended stands again if the clock is set back.

use std::{sync::Arc, time::Duration};

use certs::codec::Millis;

use super::INTERVAL;
use crate::agent::{book::Book, world::World};

/// Up to when it was looked what has ended, and when the next end is due.
pub(super) struct Ends {
    looked: Millis,
    next: Option<Millis>,
}

/// What a look found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Look {
    /// Requests follow something else than what the book folds to now.
    pub(super) is_behind: bool,
    /// Something has ended after the first time, and not after the second.
    pub(super) ended: Option<(Millis, Millis)>,
}

impl Ends {
    /// Begins to look from `now` on.
    pub(super) async fn since(book: &Arc<Book>, now: Millis) -> Self {
        Self { looked: now, next: book.state(now).await.changes_at }
    }

    /// Looks at one time, from the last one on, so that no end falls between two. What requests follow is compared with the fold itself, and
    /// not with when it should change: then nothing that happens between two looks is missed, and no way in which the clock is set.
    pub(super) async fn look(&mut self, book: &Arc<Book>, world: &World, now: Millis) -> Look {
        let state = book.state(now).await;
        let is_behind = !Arc::ptr_eq(&state, &world.current().read().state);
        let ended = self.next.filter(|at| *at <= now).map(|_| (self.looked, now));
        *self = Self { looked: now, next: state.changes_at };
        Look { is_behind, ended }
    }

    /// How long until something ends, or somebody should look anyway.
    pub(super) fn pause(&self, now: Millis) -> Duration {
        let by_itself = |at: Millis| Duration::from_millis(at.saturating_sub(now) + 1);
        self.next.map_or(INTERVAL, |at| by_itself(at).min(INTERVAL))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use certs::id::NodeId;
    use policy::{DocumentId, Kind, changeset::Changeset, history::signed};

    use super::*;
    use crate::{
        agent::store::Store,
        testing::{self, NOW},
    };

    const DAY: Millis = 86_400_000;

    /// A book with a trial for each of these ends, and a world that follows it as of [`NOW`].
    async fn node(folder: &tempfile::TempDir, ends: &[Millis]) -> (Arc<Book>, World) {
        let testing::Mesh { operator, genesis, .. } = testing::Mesh::new();
        let store = Arc::new(Store::open(&folder.path().join("store")).unwrap());
        store.append(&[&genesis], &[]).unwrap();
        let book = Arc::new(Book::load(store, &testing::trust_domain(), NOW).unwrap());
        let trials = ends.iter().map(|end| {
            let name = format!("trial-{end}");
            let document = DocumentId::new(Kind::VirtualService, "shop", &name);
            let spec = "{\"hosts\":[\"a\"],\"http\":[{\"route\":[{\"destination\":{\"host\":\"a\"}}]}]}";
            let content = format!(
                "{{\"apiVersion\":\"networking.istio.io/v1\",\"kind\":\"VirtualService\",\"metadata\":{{\"name\":\"{name}\",\"namespace\":\"shop\"}},\"spec\":{spec}}}"
            );
            let changeset = testing::changeset(document, Some(content), Vec::new());
            signed(&Changeset { confirm_by: Some(*end), ..changeset }, &[&operator])
        });
        let learned = book.learn(trials.collect(), "b", NOW).await.unwrap();
        assert_eq!(learned.fresh.len(), ends.len(), "{learned:?}");
        let state = book.state(NOW).await;
        let world = World::new(&testing::trust_domain(), &NodeId::new("a").unwrap(), state, HashMap::new());
        (book, world)
    }

    fn in_force(world: &World) -> usize {
        let state = world.current().load().state.clone();
        state.documents.keys().filter(|id| id.kind == Kind::VirtualService).count()
    }

    /// The second passes while the end of the first is being applied and other work is done, the third later.
    #[tokio::test]
    async fn an_end_that_passes_during_other_work_is_followed_and_told() {
        let folder = tempfile::tempdir().unwrap();
        let (book, world) = node(&folder, &[NOW + 1_000, NOW + 1_003, NOW + 1_010]).await;
        let mut ends = Ends::since(&book, NOW).await;
        assert_eq!((in_force(&world), ends.pause(NOW)), (3, Duration::from_millis(1_001)));
        let mut last = NOW;
        for (time, left) in [(1_001, 2), (1_005, 1), (1_020, 0)] {
            let now = NOW + time;
            assert_eq!(ends.look(&book, &world, now).await, Look { is_behind: true, ended: Some((last, now)) });
            world.state_changed(book.state(now).await);
            assert_eq!(in_force(&world), left);
            // Whoever else looks at the fold meanwhile has it find out what has ended.
            book.state(now + 4).await;
            last = now;
        }
        assert_eq!(ends.look(&book, &world, last + 1).await, Look { is_behind: false, ended: None });
        assert_eq!(ends.pause(last + 1), INTERVAL);
    }

    #[tokio::test]
    async fn what_ended_by_a_clock_that_was_ahead_stands_again_once_it_is_set_back() {
        let folder = tempfile::tempdir().unwrap();
        let (book, world) = node(&folder, &[NOW + 3_600_000]).await;
        let digest = world.current().load().state.digest;
        let mut ends = Ends::since(&book, NOW + DAY).await;
        assert!(ends.look(&book, &world, NOW + DAY).await.is_behind);
        world.state_changed(book.state(NOW + DAY).await);
        assert_eq!(in_force(&world), 0);
        assert_eq!(ends.look(&book, &world, NOW + 1).await, Look { is_behind: true, ended: None });
        world.state_changed(book.state(NOW + 1).await);
        assert_eq!((in_force(&world), world.current().load().state.digest), (1, digest));
        assert!(!ends.look(&book, &world, NOW + 2).await.is_behind);
    }
}
