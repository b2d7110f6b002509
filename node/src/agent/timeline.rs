//! What happened to the mesh, as several nodes noted it: one row for what several saw at about the same time. A node that dies takes
//! only its own notes along; of its death the others know. Pure but for [`watch`].

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use certs::{codec::Millis, id::NodeId};
use membership::{body::Status, view::View};
use serde::{Deserialize, Serialize};

use super::{
    event::{Event, KEPT},
    sync::Sync,
};
use crate::snapshot::{Circuits, Standing};

/// Notes of the same about the same within this time, in milliseconds, are one event.
const TOGETHER: Millis = 10_000;
/// Bytes of a text that another node may bring.
const TEXT: usize = 1_024;
/// Letters of a kind.
const KIND: usize = 40;

/// One event as it travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Noted {
    /// When, by the clock of who noted it; Unix milliseconds.
    pub at: Millis,
    /// A stable word.
    pub kind: String,
    /// Whom or what it concerns.
    pub subject: String,
    /// For people.
    pub message: String,
}

/// One event, and who noted it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merged {
    /// The earliest note; in the asking node's words, if it noted it too.
    pub noted: Noted,
    /// By name.
    pub seen_by: Vec<NodeId>,
}

impl Noted {
    /// As this node noted it.
    #[must_use]
    pub fn of(event: &Event) -> Self {
        let cut = |text: &str| text[..text.floor_char_boundary(TEXT)].to_owned();
        Self { at: event.at, kind: event.kind.to_owned(), subject: cut(&event.subject), message: cut(&event.message) }
    }

    /// Whether it has the form that an honest node gives it.
    fn is_sound(&self) -> bool {
        let word = |text: &str| text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        self.kind.len() <= KIND && word(&self.kind) && self.subject.len() <= TEXT && self.message.len() <= TEXT
    }
}

/// When, by whom, what.
type Note = (Millis, NodeId, Noted);

/// Puts together what nodes noted, oldest first; `own` is who asks.
pub fn merge(said: impl IntoIterator<Item = (NodeId, Vec<Noted>)>, own: &NodeId) -> Vec<Merged> {
    let mut by_subject: BTreeMap<(String, String), Vec<Note>> = BTreeMap::new();
    for (node, notes) in said {
        for noted in notes.into_iter().rev().take(KEPT).filter(Noted::is_sound) {
            let key = (noted.kind.clone(), noted.subject.clone());
            by_subject.entry(key).or_default().push((noted.at, node.clone(), noted));
        }
    }
    let mut all: Vec<Merged> = Vec::new();
    for mut notes in by_subject.into_values() {
        notes.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        let mut group: Vec<Note> = Vec::new();
        for note in notes {
            let apart = group.first().is_some_and(|first| note.0.saturating_sub(first.0) > TOGETHER);
            // What one node notes twice happened twice.
            if apart || group.iter().any(|known| known.1 == note.1) {
                all.extend(one(std::mem::take(&mut group), own));
            }
            group.push(note);
        }
        all.extend(one(group, own));
    }
    all.sort_by_key(|merged| merged.noted.at);
    all
}

fn one(group: Vec<Note>, own: &NodeId) -> Option<Merged> {
    let at = group.first()?.0;
    let words = group.iter().find(|note| note.1 == *own).or(group.first())?.2.clone();
    let seen: BTreeSet<NodeId> = group.into_iter().map(|note| note.1).collect();
    Some(Merged { noted: Noted { at, ..words }, seen_by: seen.into_iter().collect() })
}

/// Notes what is seen by comparing: ejections and returns of endpoints, steps of the root, who may sign, drains.
pub async fn watch(sync: Arc<Sync>, circuits: Arc<Circuits>) {
    let (mut world, mut ejections) = (sync.world.changes(), circuits.changes());
    let mut before = Seen::now(&sync, &circuits);
    loop {
        tokio::select! {
            changed = world.changed() => if changed.is_err() { return },
            changed = ejections.changed() => if changed.is_err() { return },
            () = sync.tasks.stopping() => return,
        }
        let seen = Seen::now(&sync, &circuits);
        for (kind, subject, message) in seen.news(&before) {
            sync.events.note(sync.clock.now(), kind, subject, message);
        }
        before = seen;
    }
}

/// What is compared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Seen {
    /// Endpoint and caller, and why.
    ejected: BTreeMap<(String, String), String>,
    phase: String,
    role_set: u64,
    draining: BTreeSet<NodeId>,
}

impl Seen {
    fn now(sync: &Sync, circuits: &Circuits) -> Self {
        let state = sync.world.current().load().state.clone();
        let row = |standing: Standing| {
            ((standing.ejection.endpoint.to_string(), standing.caller), standing.ejection.why.field().to_owned())
        };
        Self {
            ejected: circuits.ejected().into_iter().map(row).collect(),
            phase: state.trust().phase().to_string(),
            role_set: state.role_set.number,
            draining: draining(&sync.world.view()),
        }
    }

    /// What is not as it was.
    fn news(&self, before: &Self) -> Vec<(&'static str, String, String)> {
        let mut news = Vec::new();
        for ((endpoint, caller), why) in &self.ejected {
            if !before.ejected.contains_key(&(endpoint.clone(), caller.clone())) {
                let message = format!("{caller} does without {endpoint}: it met {why}");
                news.push(("endpoint_ejected", endpoint.clone(), message));
            }
        }
        for (endpoint, caller) in before.ejected.keys() {
            if !self.ejected.contains_key(&(endpoint.clone(), caller.clone())) {
                news.push(("endpoint_returned", endpoint.clone(), format!("{caller} calls {endpoint} again")));
            }
        }
        if self.phase != before.phase {
            news.push(("root_phase", self.phase.clone(), format!("the change of the root is {}", self.phase)));
        }
        if self.role_set != before.role_set {
            let message = format!("RoleSet {} says who may sign", self.role_set);
            news.push(("role_set", self.role_set.to_string(), message));
        }
        for node in self.draining.difference(&before.draining) {
            news.push(("member_draining", node.to_string(), format!("{node} takes no new requests")));
        }
        for node in before.draining.difference(&self.draining) {
            news.push(("member_drained", node.to_string(), format!("{node} is no longer draining")));
        }
        news
    }
}

fn draining(view: &View) -> BTreeSet<NodeId> {
    let draining = view.members().values().filter(|member| member.usable() && member.status == Status::Draining);
    draining.map(|member| member.id.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeId {
        NodeId::new(name).unwrap()
    }

    fn noted(at: Millis, kind: &str, subject: &str, message: &str) -> Noted {
        Noted { at, kind: kind.into(), subject: subject.into(), message: message.into() }
    }

    #[test]
    fn what_several_saw_is_one_event() {
        let said = [
            (node("b"), vec![noted(1_200, "member_dead", "x", "theirs"), noted(90_000, "member_dead", "x", "again")]),
            (node("a"), vec![noted(1_500, "member_dead", "x", "mine"), noted(1_600, "member_dead", "y", "other")]),
        ];
        let rows: Vec<_> = merge(said, &node("a"))
            .into_iter()
            .map(|row| (row.noted.at, row.noted.subject, row.noted.message, row.seen_by.len()))
            .collect();
        let wanted = [(1_200, "x", "mine", 2), (1_600, "y", "other", 1), (90_000, "x", "again", 1)];
        assert_eq!(rows, wanted.map(|(at, subject, message, seen)| (at, subject.to_owned(), message.to_owned(), seen)));
    }

    #[test]
    fn what_one_node_notes_twice_happened_twice() {
        let said = [(node("a"), vec![noted(1, "health", "x", "down"), noted(2, "health", "x", "up")])];
        assert_eq!(merge(said, &node("a")).len(), 2);
    }

    #[test]
    fn what_no_honest_node_says_is_left_out() {
        let long = "x".repeat(TEXT + 1);
        let said = [
            noted(1, "<b>", "x", "y"),
            noted(1, "a", &long, "y"),
            noted(1, "a", "x", &long),
            noted(u64::MAX, "a", "x", "y"),
        ];
        let rows = merge([(node("evil"), said.to_vec())], &node("a"));
        assert_eq!((rows.len(), rows[0].noted.at), (1, u64::MAX));
        let flood = vec![noted(1, "a", "x", "y"); KEPT + 100];
        assert_eq!(merge([(node("evil"), flood)], &node("a")).len(), KEPT);
    }

    #[test]
    fn news_are_what_differs() {
        let before = Seen { phase: "steady".into(), role_set: 1, ..Seen::default() };
        let mut after = Seen { phase: "distributing".into(), role_set: 2, ..Seen::default() };
        after.ejected.insert(("n/shop/cart".into(), "shop/web".into()), "consecutive5xxErrors".into());
        after.draining.insert(node("n"));
        let kinds = |news: Vec<(&'static str, String, String)>| news.into_iter().map(|news| news.0).collect::<Vec<_>>();
        assert_eq!(kinds(after.news(&before)), ["endpoint_ejected", "root_phase", "role_set", "member_draining"]);
        assert_eq!(kinds(before.news(&after)), ["endpoint_returned", "root_phase", "role_set", "member_drained"]);
        assert!(after.news(&after.clone()).is_empty());
    }
}
