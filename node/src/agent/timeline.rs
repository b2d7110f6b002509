//! What happened to the mesh, as several nodes noted it: one row for what several saw at about the same time. What a node noted that
//! does not answer its keepers tell, and no keeper of one that does. Pure but for [`watch`].

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use certs::{codec::Millis, id::NodeId};
use membership::{body::Status, view::View};

use super::{
    event::{self, KEPT, NODES, Noted},
    sync::Sync,
};
use crate::snapshot::{Circuits, Standing};

/// Notes of the same about the same within this time, in milliseconds, are one event.
const TOGETHER: Millis = 10_000;

/// One event, and who noted it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merged {
    /// The earliest note; in the asking node's words, if it noted it too.
    pub noted: Noted,
    /// By name.
    pub seen_by: Vec<NodeId>,
    /// Who tells it for those that do not answer, by name: their word, not what the others signed.
    pub kept_by: Vec<NodeId>,
}

/// When, by whom, what; and who says so in the place of who noted it.
type Note = (Millis, NodeId, Noted, BTreeSet<NodeId>);

/// Puts together what nodes say, oldest first; each names itself and those that it keeps, and speaks for one that answers in vain.
/// `own` is who asks, `now` when: what is said to happen later is left out.
pub fn merge(
    said: impl IntoIterator<Item = (NodeId, Vec<(NodeId, Vec<Noted>)>)>,
    own: &NodeId,
    now: Millis,
) -> Vec<Merged> {
    let said: Vec<_> = said.into_iter().collect();
    let answered: BTreeSet<NodeId> = said.iter().map(|(node, _)| node.clone()).collect();
    let mut noted: BTreeMap<(NodeId, Noted), BTreeSet<NodeId>> = BTreeMap::new();
    let mut twice: Vec<(NodeId, Noted)> = Vec::new();
    for (teller, all) in said {
        for (node, notes) in all.into_iter().take(NODES + 1) {
            if node != teller && answered.contains(&node) {
                continue;
            }
            for one in notes.into_iter().rev().take(KEPT).filter(|one| one.is_sound(now)) {
                if node == teller && noted.contains_key(&(node.clone(), one.clone())) {
                    twice.push((node.clone(), one));
                    continue;
                }
                let told = noted.entry((node.clone(), one)).or_default();
                if node != teller {
                    told.insert(teller.clone());
                }
            }
        }
    }
    let mut by_subject: BTreeMap<(String, String), Vec<Note>> = BTreeMap::new();
    let twice = twice.into_iter().map(|note| (note, BTreeSet::new()));
    for ((node, one), told) in noted.into_iter().chain(twice) {
        let key = (one.kind.clone(), one.subject.clone());
        by_subject.entry(key).or_default().push((one.at, node, one, told));
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
    let kept: BTreeSet<NodeId> = group.iter().flat_map(|note| note.3.iter().cloned()).collect();
    let seen: BTreeSet<NodeId> = group.into_iter().map(|note| note.1).collect();
    Some(Merged {
        noted: Noted { at, ..words },
        seen_by: seen.into_iter().collect(),
        kept_by: kept.into_iter().collect(),
    })
}

/// What was noted since, the newest first of each node as far as its share of `bytes` holds them: one that notes much takes no other's.
pub fn newest<'n, N: Iterator<Item = &'n Noted>>(
    all: impl Iterator<Item = (&'n NodeId, N)>,
    since: Millis,
    bytes: usize,
) -> BTreeMap<NodeId, Vec<Noted>> {
    let all: Vec<_> = all.collect();
    let share = bytes / all.len().max(1);
    let of_node = |(node, noted): (&NodeId, N)| {
        let mut noted: Vec<&Noted> = noted.filter(|one| one.at >= since).collect();
        noted.sort_by_key(|one| std::cmp::Reverse(one.at));
        let mut size = 0;
        let fits = |one: &&Noted| {
            // Of an entry beside its texts: lengths, time, name.
            size += one.kind.len() + one.subject.len() + one.message.len() + 100;
            size <= share
        };
        let mut kept: Vec<Noted> = noted.into_iter().take_while(fits).cloned().collect();
        kept.reverse();
        (node.clone(), kept)
    };
    all.into_iter().map(of_node).filter(|(_, kept)| !kept.is_empty()).collect()
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
    fn news(&self, before: &Self) -> Vec<(event::Kind, String, String)> {
        let mut news = Vec::new();
        for ((endpoint, caller), why) in &self.ejected {
            if !before.ejected.contains_key(&(endpoint.clone(), caller.clone())) {
                let message = format!("{caller} does without {endpoint}: it met {why}");
                news.push((event::Kind::EndpointEjected, endpoint.clone(), message));
            }
        }
        for (endpoint, caller) in before.ejected.keys() {
            if !self.ejected.contains_key(&(endpoint.clone(), caller.clone())) {
                news.push((
                    event::Kind::EndpointReturned,
                    endpoint.clone(),
                    format!("{caller} calls {endpoint} again"),
                ));
            }
        }
        if self.phase != before.phase {
            news.push((
                event::Kind::RootPhase,
                self.phase.clone(),
                format!("the change of the root is {}", self.phase),
            ));
        }
        if self.role_set != before.role_set {
            let message = format!("RoleSet {} says who may sign", self.role_set);
            news.push((event::Kind::RoleSet, self.role_set.to_string(), message));
        }
        for node in self.draining.difference(&before.draining) {
            news.push((event::Kind::MemberDraining, node.to_string(), format!("{node} takes no new requests")));
        }
        for node in before.draining.difference(&self.draining) {
            news.push((event::Kind::MemberDrained, node.to_string(), format!("{node} is no longer draining")));
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
    use crate::agent::event::AHEAD;

    fn node(name: &str) -> NodeId {
        NodeId::new(name).unwrap()
    }

    fn noted(at: Millis, kind: &str, subject: &str, message: &str) -> Noted {
        Noted { at, kind: kind.into(), subject: subject.into(), message: message.into() }
    }

    /// When it is, in these tests.
    const NOW: Millis = 1_000_000;

    /// What a node says of itself.
    fn own(name: &str, noted: Vec<Noted>) -> (NodeId, Vec<(NodeId, Vec<Noted>)>) {
        (node(name), vec![(node(name), noted)])
    }

    #[test]
    fn what_several_saw_is_one_event() {
        let said = [
            own("b", vec![noted(1_200, "member_dead", "x", "theirs"), noted(90_000, "member_dead", "x", "again")]),
            own("a", vec![noted(1_500, "member_dead", "x", "mine"), noted(1_600, "member_dead", "y", "other")]),
        ];
        let rows: Vec<_> = merge(said, &node("a"), NOW)
            .into_iter()
            .map(|row| (row.noted.at, row.noted.subject, row.noted.message, row.seen_by.len()))
            .collect();
        let wanted = [(1_200, "x", "mine", 2), (1_600, "y", "other", 1), (90_000, "x", "again", 1)];
        assert_eq!(rows, wanted.map(|(at, subject, message, seen)| (at, subject.to_owned(), message.to_owned(), seen)));
    }

    #[test]
    fn what_one_node_notes_twice_happened_twice() {
        let said = [own("a", vec![noted(1, "health", "x", "down"), noted(2, "health", "x", "up")])];
        assert_eq!(merge(said, &node("a"), NOW).len(), 2);
    }

    #[test]
    fn of_who_does_not_answer_keepers_tell_and_of_who_does_nobody_else() {
        let gone = || (node("gone"), vec![noted(1, "health", "x", "theirs")]);
        let lie = (node("b"), vec![noted(1, "clone", "b", "a lie")]);
        let said = [
            (node("a"), vec![own("a", vec![noted(2, "health", "x", "mine")]).1.remove(0), gone(), lie]),
            (node("b"), vec![(node("b"), Vec::new()), gone()]),
        ];
        let rows = merge(said, &node("a"), NOW);
        assert_eq!(rows.len(), 1, "what is said of one that answers is left out: {rows:?}");
        let names = |names: &[&str]| names.iter().map(|name| node(name)).collect::<Vec<_>>();
        assert_eq!((&rows[0].seen_by, &rows[0].kept_by), (&names(&["a", "gone"]), &names(&["a", "b"])));
        assert_eq!((rows[0].noted.at, &*rows[0].noted.message), (1, "mine"));
    }

    #[test]
    fn one_reply_holds_the_newest() {
        let (a, b) = (node("a"), node("b"));
        let (of_a, of_b) =
            ([noted(1, "k", "x", "m"), noted(4, "k", "x", "m")], [noted(2, "k", "x", "m"), noted(3, "k", "x", "m")]);
        let kept = |since, bytes| newest([(&a, of_a.iter()), (&b, of_b.iter())].into_iter(), since, bytes);
        assert_eq!(kept(0, 1_000).values().map(Vec::len).collect::<Vec<_>>(), [2, 2]);
        let newest_of_each = BTreeMap::from([(a.clone(), vec![of_a[1].clone()]), (b.clone(), vec![of_b[1].clone()])]);
        assert_eq!(kept(0, 310), newest_of_each, "none takes another's share");
        assert_eq!(kept(4, 310), BTreeMap::from([(a.clone(), vec![of_a[1].clone()])]));
    }

    #[test]
    fn what_no_honest_node_says_is_left_out() {
        let long = "x".repeat(5_000);
        let said = [
            noted(1, "<b>", "x", "y"),
            noted(1, "a", &long, "y"),
            noted(1, "a", "x", &long),
            noted(u64::MAX, "a", "x", "y"),
            noted(NOW + AHEAD + 1, "a", "x", "y"),
            noted(NOW + AHEAD, "a", "x", "y"),
        ];
        let rows = merge([own("evil", said.to_vec())], &node("a"), NOW);
        assert_eq!(
            rows.iter().map(|row| row.noted.at).collect::<Vec<_>>(),
            [NOW + AHEAD],
            "clocks may be so far apart"
        );
        let flood = vec![noted(1, "a", "x", "y"); KEPT + 100];
        assert_eq!(merge([own("evil", flood.clone())], &node("a"), NOW).len(), KEPT);
        let names = (0..NODES * 2).map(|number| (node(&format!("n{number}")), flood.clone()));
        assert_eq!(
            merge([(node("evil"), names.collect())], &node("a"), NOW).len(),
            1,
            "of each name once, at one time"
        );
    }

    #[test]
    fn news_are_what_differs() {
        let before = Seen { phase: "steady".into(), role_set: 1, ..Seen::default() };
        let mut after = Seen { phase: "distributing".into(), role_set: 2, ..Seen::default() };
        after.ejected.insert(("n/shop/cart".into(), "shop/web".into()), "consecutive5xxErrors".into());
        after.draining.insert(node("n"));
        let kinds =
            |news: Vec<(event::Kind, String, String)>| news.into_iter().map(|news| news.0.word()).collect::<Vec<_>>();
        assert_eq!(kinds(after.news(&before)), ["endpoint_ejected", "root_phase", "role_set", "member_draining"]);
        assert_eq!(kinds(before.news(&after)), ["endpoint_returned", "root_phase", "role_set", "member_drained"]);
        assert!(after.news(&after.clone()).is_empty());
    }
}
