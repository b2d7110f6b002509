//! What happened, for people and scripts that watch.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Mutex,
};

use certs::codec::Millis;
use serde::Serialize;
use tokio::sync::broadcast;

/// Events that are kept for those who ask later, and that a slow watcher may lag behind.
pub const KEPT: usize = 512;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Event {
    /// When; Unix milliseconds.
    pub at: Millis,
    /// A stable word: `member_alive`, `member_dead`, `policy_applied`, `health`, ...
    pub kind: &'static str,
    /// Whom or what it concerns: a node, an endpoint, a changeset.
    pub subject: String,
    /// For people.
    pub message: String,
}

/// The node's events: a short memory and those who watch.
#[derive(Debug)]
pub struct Events {
    recent: Mutex<VecDeque<Event>>,
    counts: Mutex<BTreeMap<&'static str, u64>>,
    watchers: broadcast::Sender<Event>,
}

impl Default for Events {
    fn default() -> Self {
        Self { recent: Mutex::default(), counts: Mutex::default(), watchers: broadcast::Sender::new(KEPT) }
    }
}

impl Events {
    /// Notes an event and tells those who watch.
    pub fn note(&self, at: Millis, kind: &'static str, subject: impl ToString, message: impl Into<String>) {
        let event = Event { at, kind, subject: subject.to_string(), message: message.into() };
        tracing::info!(kind, subject = event.subject, "{}", event.message);
        *self.counts.lock().expect("no code panics while it holds the counts").entry(kind).or_default() += 1;
        let mut recent = self.recent.lock().expect("no code panics while it holds the events");
        if recent.len() == KEPT {
            recent.pop_front();
        }
        recent.push_back(event.clone());
        drop(recent);
        // Nobody watching is the usual case.
        let _ = self.watchers.send(event);
    }

    /// The latest events, oldest first.
    pub fn recent(&self) -> Vec<Event> {
        self.recent.lock().expect("no code panics while it holds the events").iter().cloned().collect()
    }

    /// How often each kind was noted.
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.counts.lock().expect("no code panics while it holds the counts").clone()
    }

    /// What happens from now on.
    pub fn watch(&self) -> broadcast::Receiver<Event> {
        self.watchers.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_short_and_watchers_hear() {
        let events = Events::default();
        let mut watcher = events.watch();
        for at in 0..=KEPT as u64 {
            events.note(at, "health", "x", "");
        }
        assert_eq!(events.recent().len(), KEPT);
        assert_eq!(events.recent()[0].at, 1);
        assert_eq!(events.counts(), BTreeMap::from([("health", KEPT as u64 + 1)]));
        assert!(watcher.try_recv().is_err_and(|e| matches!(e, broadcast::error::TryRecvError::Lagged(1))));
    }
}
