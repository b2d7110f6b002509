//! Keys of those whose tokens are believed, as the agent fetched them. Requests read them without a lock.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use arc_swap::ArcSwap;
use policy::token::{KeySet, Keys, Source};
use tokio::sync::Notify;

/// See the module.
#[derive(Debug, Default)]
pub struct TokenKeys {
    sets: ArcSwap<HashMap<Source, Fetched>>,
    news: Notify,
}

#[derive(Debug, Clone)]
struct Fetched {
    keys: Arc<KeySet>,
    /// A token named a key that is not among them.
    missed: Arc<AtomicBool>,
}

impl TokenKeys {
    /// Replaces what a source's keys are. Only the agent's fetching task does.
    pub fn put(&self, source: &Source, keys: Arc<KeySet>) {
        let mut sets = HashMap::clone(&self.sets.load());
        sets.insert(source.clone(), Fetched { keys, missed: Arc::default() });
        self.sets.store(Arc::new(sets));
    }

    /// Forgets the keys of all sources but these.
    pub fn retain(&self, mut wanted: impl FnMut(&Source) -> bool) {
        let sets = self.sets.load();
        if sets.keys().all(&mut wanted) {
            return;
        }
        let kept = sets.iter().filter(|(source, _)| wanted(source)).map(|(source, set)| (source.clone(), set.clone()));
        self.sets.store(Arc::new(kept.collect()));
    }

    /// Sources of which a token wanted another key since the last call.
    pub fn take_missed(&self) -> Vec<Source> {
        let sets = self.sets.load();
        sets.iter().filter(|(_, set)| set.missed.swap(false, Relaxed)).map(|(source, _)| source.clone()).collect()
    }

    /// Waits until [`TokenKeys::take_missed`] has something to tell.
    pub async fn missed_one(&self) {
        self.news.notified().await;
    }
}

impl Keys for TokenKeys {
    fn of(&self, source: &Source) -> Option<Arc<KeySet>> {
        self.sets.load().get(source).map(|set| set.keys.clone())
    }

    fn missed(&self, source: &Source) {
        if let Some(set) = self.sets.load().get(source)
            && !set.missed.swap(true, Relaxed)
        {
            self.news.notify_one();
        }
    }
}
