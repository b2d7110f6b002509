//! What happened, as this node notes it, and as it keeps it for the few nodes that it remembers: of one that is gone others tell.

use crate::lock::lock;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
};

use certs::{codec::Millis, id::NodeId};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

mod kind;

pub use kind::Kind;

/// Events of one node that are kept, and that a slow watcher may lag behind. Beyond that goes the oldest of the kind of which there is
/// most: a flood of one kind pushes out no other.
pub const KEPT: usize = 512;
/// Other nodes whose events are kept.
pub const NODES: usize = 16;
/// Bytes of a text.
const TEXT: usize = 1_024;
/// Clocks that differ by no more are taken for the same, in milliseconds: on a busy machine the way there and back is measured no better.
const DOUBT: u64 = 250;
/// Notes of one node within this time stay in their order, in milliseconds: as many as may be made at once, and a small step of the clock.
const TOGETHER: Millis = 1_000;
/// Letters of a kind.
const KIND: usize = 40;
/// How far ahead of this node's clock an event may be, in milliseconds: as far as clocks may be apart.
pub const AHEAD: Millis = 300_000;

/// One thing that happened, as it is kept and as it travels.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Noted {
    /// When, as the mesh tells the time: see [`Events::note`]; Unix milliseconds.
    pub at: Millis,
    /// The word of a [`Kind`]; a node of another version may know further ones.
    pub kind: String,
    /// Whom or what it concerns: a node, an endpoint, a changeset.
    pub subject: String,
    /// For people.
    pub message: String,
}

impl Noted {
    /// Whether it has the form that an honest node gives it, and a time that was.
    #[must_use]
    pub fn is_sound(&self, now: Millis) -> bool {
        let word = |text: &str| text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        let short = self.kind.len() <= KIND && self.subject.len() <= TEXT && self.message.len() <= TEXT;
        short && word(&self.kind) && self.at <= now.saturating_add(AHEAD)
    }
}

fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(TEXT)].to_owned()
}

/// The node's events: a bounded memory and those who watch.
#[derive(Debug)]
pub struct Events {
    recent: Mutex<Kept>,
    others: Mutex<Others>,
    counts: Mutex<BTreeMap<&'static str, u64>>,
    watchers: broadcast::Sender<Noted>,
    /// By how many milliseconds this machine's clock is ahead of the mesh's.
    ahead: AtomicI64,
}

impl Default for Events {
    fn default() -> Self {
        Self::remembering(Vec::new(), Others::default())
    }
}

impl Events {
    /// With what was noted before this process began, oldest first, by this node and by others.
    #[must_use]
    pub fn remembering(own: Vec<Noted>, others: Others) -> Self {
        Self {
            recent: Mutex::new(Kept::of(own)),
            others: Mutex::new(others),
            counts: Mutex::default(),
            watchers: broadcast::Sender::new(KEPT),
            ahead: AtomicI64::new(0),
        }
    }

    /// By how many milliseconds this machine's clock is ahead of the mesh's, as measured last.
    pub fn set_ahead(&self, ahead: i64) {
        let known = if ahead.unsigned_abs() > DOUBT { ahead } else { 0 };
        self.ahead.store(known, Relaxed);
    }

    /// Notes an event and tells those who watch. `at` is this machine's time; what is kept is the mesh's, so that what nodes whose clocks
    /// differ noted stands in the order in which it happened, and what this node noted one after the other in that order, too.
    pub fn note(&self, at: Millis, kind: Kind, subject: impl ToString, message: impl Into<String>) {
        let (subject, message) = (cut(&subject.to_string()), cut(&message.into()));
        let kind = kind.word();
        tracing::info!(kind, subject, "{message}");
        *lock(&self.counts).entry(kind).or_default() += 1;
        let mut recent = lock(&self.recent);
        let at = at.saturating_add_signed(self.ahead.load(Relaxed).saturating_neg());
        // Not after what a clock that was set back since had said.
        let before = recent.noted.back().map(|noted| noted.at).filter(|before| *before < at.saturating_add(TOGETHER));
        let at = before.map_or(at, |before| at.max(before + 1));
        let noted = Noted { at, kind: kind.to_owned(), subject, message };
        recent.add([noted.clone()]);
        drop(recent);
        // Nobody watching is the usual case.
        let _ = self.watchers.send(noted);
    }

    /// The latest events, oldest first.
    pub fn recent(&self) -> Vec<Noted> {
        lock(&self.recent).noted.iter().cloned().collect()
    }

    /// What this node keeps of others.
    pub fn others(&self) -> MutexGuard<'_, Others> {
        lock(&self.others)
    }

    /// How often each kind was noted since the process began.
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.counts).clone()
    }

    /// What happens from now on.
    pub fn watch(&self) -> broadcast::Receiver<Noted> {
        self.watchers.subscribe()
    }
}

/// What is kept of one node, oldest first, and how much of it is of each kind.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Kept {
    noted: VecDeque<Noted>,
    kinds: BTreeMap<String, usize>,
}

impl Kept {
    /// Of these, oldest first, as many as are kept.
    fn of(all: Vec<Noted>) -> Self {
        let mut kept = Self::default();
        kept.add(all);
        kept
    }

    /// Adds some at the end, and lets go what is more than is kept: of each kind that has more than its share the oldest.
    fn add(&mut self, fresh: impl IntoIterator<Item = Noted>) {
        self.push(fresh);
        self.share();
    }

    fn push(&mut self, fresh: impl IntoIterator<Item = Noted>) {
        for noted in fresh {
            match self.kinds.get_mut(&noted.kind) {
                Some(count) => *count += 1,
                None => drop(self.kinds.insert(noted.kind.clone(), 1)),
            }
            self.noted.push_back(noted);
        }
    }

    fn share(&mut self) {
        let mut excess = self.noted.len().saturating_sub(KEPT);
        if excess == 0 {
            return;
        }
        let mut gone: BTreeMap<String, usize> = BTreeMap::new();
        for _ in 0..excess {
            let Some((kind, count)) = self.kinds.iter_mut().max_by_key(|(_, count)| **count) else { break };
            *count -= 1;
            match gone.get_mut(kind) {
                Some(count) => *count += 1,
                None => drop(gone.insert(kind.clone(), 1)),
            }
        }
        self.noted.retain(|noted| {
            let left = if excess > 0 { gone.get_mut(&noted.kind).filter(|left| **left > 0) } else { None };
            let Some(left) = left else { return true };
            *left -= 1;
            excess -= 1;
            false
        });
        self.kinds.retain(|_, count| *count > 0);
    }
}

/// What a node keeps of others. Pure.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Others {
    /// With how many were heard when each was last heard.
    nodes: BTreeMap<NodeId, (u64, Kept)>,
    heard: u64,
}

impl Others {
    /// Takes what a node says by `now` that it noted, and gives what of it is new, oldest first. Of too many nodes, whoever was heard longest
    /// ago is forgotten.
    pub fn take(&mut self, node: &NodeId, mut said: Vec<Noted>, now: Millis) -> Vec<Noted> {
        self.heard += 1;
        let (heard, kept) = self.nodes.entry(node.clone()).or_default();
        *heard = self.heard;
        said.drain(..said.len().saturating_sub(KEPT));
        said.retain(|noted| noted.is_sound(now) && !kept.noted.contains(noted));
        said.sort_by_key(|noted| noted.at);
        said.dedup();
        kept.push(said.iter().cloned());
        kept.noted.make_contiguous().sort_by_key(|noted| noted.at);
        kept.share();
        // What found no room is not new the next time either.
        said.retain(|noted| kept.noted.contains(noted));
        self.forget();
        said
    }

    /// Takes all that was kept of a node when it was written down: it was judged when it came.
    pub fn remember(&mut self, node: NodeId, mut said: Vec<Noted>) {
        self.heard += 1;
        said.sort_by_key(|noted| noted.at);
        said.dedup();
        self.nodes.insert(node, (self.heard, Kept::of(said)));
        self.forget();
    }

    /// Of too many nodes whoever was heard longest ago goes.
    fn forget(&mut self) {
        if self.nodes.len() > NODES
            && let Some(oldest) = self.nodes.iter().min_by_key(|(_, kept)| kept.0).map(|(node, _)| node.clone())
        {
            self.nodes.remove(&oldest);
        }
    }

    /// When the newest note of a node is of that is kept; 0 if none is.
    #[must_use]
    pub fn newest(&self, node: &NodeId) -> Millis {
        self.nodes.get(node).and_then(|(_, kept)| kept.noted.back()).map_or(0, |noted| noted.at)
    }

    /// Everything, oldest first of each node.
    pub fn all(&self) -> impl Iterator<Item = (&NodeId, impl Iterator<Item = &Noted>)> {
        self.nodes.iter().map(|(node, (_, kept))| (node, kept.noted.iter()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = 1_000_000;

    fn noted(at: Millis, subject: &str) -> Noted {
        Noted { at, kind: "health".into(), subject: subject.into(), message: String::new() }
    }

    fn node(name: &str) -> NodeId {
        NodeId::new(name).unwrap()
    }

    #[test]
    fn times_are_the_meshs_and_keep_their_order() {
        let events = Events::default();
        let times = |events: &Events| events.recent().iter().map(|noted| noted.at).collect::<Vec<_>>();
        for at in [NOW, NOW, NOW - 5] {
            events.note(at, Kind::Health, "x", "");
        }
        assert_eq!(times(&events), [NOW, NOW + 1, NOW + 2], "one after the other");
        events.set_ahead(-200);
        events.note(NOW + 10, Kind::Health, "x", "");
        events.set_ahead(-40_000);
        events.note(NOW + 20, Kind::Health, "x", "");
        events.set_ahead(40_000);
        events.note(NOW + 40_030, Kind::Health, "x", "");
        assert_eq!(times(&events)[3..], [NOW + 10, NOW + 40_020, NOW + 30], "what was measured counts from then on");
    }

    #[test]
    fn memory_is_short_and_watchers_hear() {
        let events = Events::default();
        let mut watcher = events.watch();
        for at in 0..=KEPT as u64 {
            events.note(at, Kind::Health, "x", "");
        }
        assert_eq!(events.recent().len(), KEPT);
        assert_eq!(events.recent()[0].at, 1);
        assert_eq!(events.counts(), BTreeMap::from([("health", KEPT as u64 + 1)]));
        assert!(watcher.try_recv().is_err_and(|e| matches!(e, broadcast::error::TryRecvError::Lagged(1))));
    }

    #[test]
    fn a_flood_of_one_kind_pushes_out_no_other() {
        let events = Events::default();
        events.note(1, Kind::PolicyApplied, "first", "");
        for at in 0..KEPT as u64 {
            let kind = if at % 3 == 0 { Kind::EndpointEjected } else { Kind::MemberSuspect };
            events.note(10 + at, kind, at, "");
        }
        events.note(NOW, Kind::MemberDead, "x", "");
        let of = |noted: &[Noted], kind: &str| noted.iter().filter(|one| one.kind == kind).count();
        let check = |noted: &[Noted]| {
            let counts = ["policy_applied", "member_dead", "endpoint_ejected"].map(|kind| of(noted, kind));
            assert_eq!((noted.len(), counts), (KEPT, [1, 1, KEPT.div_ceil(3)]), "the greatest share alone shrinks");
            assert!(noted.iter().any(|one| one.subject == "first") && noted.is_sorted_by_key(|one| one.at));
            let oldest = noted.iter().find(|one| one.kind == "member_suspect").unwrap();
            assert_eq!(oldest.subject, "4", "of which the oldest go");
        };
        check(&events.recent());
        let remembered = Events::remembering(events.recent(), Others::default());
        check(&remembered.recent());
        // Whoever keeps them for this node keeps the same, and hears of nothing twice.
        let mut others = Others::default();
        let first = |others: &mut Others, said| others.take(&node("a"), said, NOW).len();
        assert_eq!(
            first(&mut others, vec![noted(1, "old"), Noted { kind: "policy_applied".into(), ..noted(2, "x") }]),
            2
        );
        assert_eq!(first(&mut others, (10..KEPT as u64 + 9).map(|at| noted(at, "x")).collect()), KEPT - 1);
        assert_eq!(first(&mut others, vec![noted(1, "old")]), 0, "it has no room");
        let kept: Vec<Noted> = others.all().next().unwrap().1.cloned().collect();
        assert_eq!((kept.len(), of(&kept, "policy_applied")), (KEPT, 1));
    }

    #[test]
    fn what_was_noted_before_is_remembered_within_the_same_bound() {
        let before = (0..KEPT as u64 + 5).map(|at| noted(at, "x")).collect();
        let events = Events::remembering(before, Others::default());
        events.note(9_999, Kind::Health, "y".repeat(TEXT + 9), "");
        let recent = events.recent();
        assert_eq!((recent.len(), recent[0].at), (KEPT, 6));
        assert!(recent[KEPT - 1].is_sound(9_999), "an honest node cuts its own");
    }

    #[test]
    fn counts_of_kinds_follow_what_is_kept() {
        let others = |kind: &str, count: u64| -> Vec<Noted> {
            (0..count).map(|at| Noted { kind: kind.into(), ..noted(at, "x") }).collect()
        };
        let mut kept = Kept::of(others("a", 700));
        for more in [others("b", 3), others("c", 600), others("d", 1), others("a", 2)] {
            kept.add(more);
            let mut counts: BTreeMap<String, usize> = BTreeMap::new();
            kept.noted.iter().for_each(|noted| *counts.entry(noted.kind.clone()).or_default() += 1);
            assert_eq!((kept.noted.len(), &kept.kinds), (KEPT, &counts));
        }
        assert_eq!((kept.kinds["b"], kept.kinds["d"]), (3, 1));
    }

    #[test]
    fn of_others_the_new_is_taken_once_and_in_order() {
        let mut others = Others::default();
        assert_eq!(others.take(&node("a"), vec![noted(2, "x"), noted(1, "x")], NOW), [noted(1, "x"), noted(2, "x")]);
        assert_eq!(others.take(&node("a"), vec![noted(1, "x"), noted(2, "x"), noted(2, "y")], NOW), [noted(2, "y")]);
        assert_eq!((others.newest(&node("a")), others.newest(&node("b"))), (2, 0));
        let unsound = Noted { kind: "<b>".into(), ..noted(3, "x") };
        assert_eq!(others.take(&node("a"), vec![unsound], NOW), []);
        assert_eq!(
            others.take(&node("a"), vec![noted(NOW + AHEAD + 1, "x")], NOW),
            [],
            "it would be the newest for ever"
        );
        let flood = others.take(&node("a"), (10..KEPT as u64 * 2).map(|at| noted(at, "x")).collect(), NOW);
        assert_eq!((flood.len(), others.all().next().unwrap().1.count()), (KEPT, KEPT));
    }

    #[test]
    fn of_too_many_who_was_heard_longest_ago_is_forgotten() {
        let mut others = Others::default();
        for number in 0..NODES {
            others.take(&node(&format!("n{number}")), vec![noted(1, "x")], NOW);
        }
        others.take(&node("n0"), Vec::new(), NOW);
        others.take(&node("new"), vec![noted(1, "x")], NOW);
        let names: Vec<&str> = others.all().map(|(node, _)| node.as_str()).collect();
        assert!(names.len() == NODES && names.contains(&"n0") && !names.contains(&"n1"), "{names:?}");
    }
}
