//! Events on disk, so that what was noted outlives the process, and the events of a few other nodes beside them, so that it outlives
//! the machine: each node has two keepers, which ask it for what is new.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use certs::{
    codec::{self, Millis},
    id::NodeId,
};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{
        broadcast::{
            Receiver,
            error::{RecvError, TryRecvError},
        },
        mpsc,
    },
    time::MissedTickBehavior,
};

use super::{
    event::{Events, Noted, Others},
    sync::Sync,
    wire::{self, Recall},
};

/// Its name in the state directory.
const FILE: &str = "events";
/// Bytes by which the file grows before it is written anew with what is remembered.
const GROWTH: u64 = 4 << 20;
/// Keepers of a node.
const KEEPERS: usize = 2;
/// How often a keeper asks.
const PULL: Duration = Duration::from_secs(5);
/// How long a link to a node that is kept may take, and its answer.
const LINK: Duration = Duration::from_millis(500);
const ANSWER: Duration = Duration::from_secs(2);
/// Clocks are set back: so much is asked for again, milliseconds.
const OVERLAP: Millis = 300_000;

/// A line of the file.
#[derive(Debug, Serialize, Deserialize)]
struct Line<'n> {
    /// Who noted it.
    node: Cow<'n, NodeId>,
    #[serde(flatten)]
    noted: Cow<'n, Noted>,
}

/// The file. It is appended to, and written anew when it has grown.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    bytes: u64,
    /// Beyond this it is written anew.
    most: u64,
    /// A write failed: half a line may stand at its end, so it is written anew before anything is added.
    torn: bool,
}

impl Journal {
    /// Opens the file of a state directory and reads what it remembers. What cannot be read of it, like a last line that a power cut
    /// tore, is left out.
    ///
    /// # Errors
    /// It can be neither read nor made.
    pub fn open(dir: &Path, own: &NodeId) -> io::Result<(Self, Events)> {
        let path = dir.join(FILE);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        // Of each other node, with the number of its last line: whose is the latest was heard last.
        let (mut noted, mut said) = (Vec::new(), BTreeMap::<NodeId, (usize, Vec<Noted>)>::new());
        for (number, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            let Ok(Line { node, noted: one }) = serde_json::from_slice(line) else { continue };
            if *node == *own {
                noted.push(one.into_owned());
            } else {
                let (last, all) = said.entry(node.into_owned()).or_default();
                *last = number;
                all.push(one.into_owned());
            }
        }
        let mut said: Vec<_> = said.into_iter().collect();
        said.sort_by_key(|(_, (last, _))| *last);
        let mut others = Others::default();
        for (node, (_, all)) in said {
            others.remember(node, all);
        }
        let events = Events::remembering(noted, others);
        let mut journal = Self { file: appended(&path)?, path, bytes: bytes.len() as u64, most: GROWTH, torn: false };
        if journal.bytes > journal.most || bytes.last().is_some_and(|last| *last != b'\n') {
            journal.rewrite(own, &events)?;
        }
        Ok((journal, events))
    }

    /// Adds what a node noted, and brings it to the disk.
    fn append(&mut self, node: &NodeId, noted: &[Noted]) -> io::Result<()> {
        let text = lines(node, noted.iter());
        self.file.write_all(text.as_bytes())?;
        self.bytes += text.len() as u64;
        self.file.sync_data()
    }

    /// Writes the file anew with what is remembered, all or nothing.
    fn rewrite(&mut self, own: &NodeId, events: &Events) -> io::Result<()> {
        let mut text = lines(own, events.recent().iter());
        for (node, noted) in events.others().all() {
            text.push_str(&lines(node, noted));
        }
        let new = self.path.with_extension("new");
        // What a write before it left there.
        let _ = std::fs::remove_file(&new);
        let mut file = appended(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_data()?;
        std::fs::rename(&new, &self.path)?;
        (self.file, self.bytes, self.most) = (file, text.len() as u64, text.len() as u64 + GROWTH);
        Ok(())
    }
}

/// A file that is made if need be, for this user alone, and only grows.
fn appended(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

fn lines<'n>(node: &NodeId, noted: impl Iterator<Item = &'n Noted>) -> String {
    let line = |noted: &Noted| {
        let line = Line { node: Cow::Borrowed(node), noted: Cow::Borrowed(noted) };
        serde_json::to_string(&line).unwrap_or_default() + "\n"
    };
    noted.map(line).collect()
}

/// Who noted what.
pub type Pulled = Vec<(NodeId, Vec<Noted>)>;

/// What is to be written, or that everything is, anew, because some of it was missed.
type Fresh = Option<Pulled>;

/// Writes down what happens, and what others say that `pulled` brings, until the node stops.
pub async fn keep(sync: Arc<Sync>, journal: Journal, mut noted: Receiver<Noted>, mut pulled: mpsc::Receiver<Pulled>) {
    let mut journal = journal;
    loop {
        let (fresh, last) = tokio::select! {
            one = noted.recv() => (own(&sync, one, &mut noted), false),
            Some(fresh) = pulled.recv() => (Some(fresh), false),
            () = sync.tasks.stopping() => (own(&sync, noted.try_recv().map_err(missed), &mut noted), true),
        };
        let (node, events) = (sync.node().clone(), sync.events.clone());
        let written = sync.tasks.blocking(move || {
            let written = journal.write(&node, fresh, &events);
            (journal, written)
        });
        // The runtime ends: so does the node.
        let Ok((back, written)) = written.await else { return };
        journal = back;
        if let Err(error) = written {
            tracing::warn!("events are not on disk: {}: {error}", journal.path.display());
        }
        if last {
            return;
        }
    }
}

/// Asks those whom this node keeps, until the node stops. A task of its own: a peer that hangs must not hold up what happens here.
pub async fn pull(sync: Arc<Sync>, into: mpsc::Sender<Pulled>) {
    let mut due = tokio::time::interval(PULL);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let asking = async {
        loop {
            due.tick().await;
            let fresh = pulled(&sync).await;
            if !fresh.is_empty() && into.send(fresh).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = sync.tasks.stopping() => {}
        () = asking => {}
    }
}

/// Whether some was missed, for one who does not wait.
fn missed(error: TryRecvError) -> RecvError {
    match error {
        TryRecvError::Lagged(count) => RecvError::Lagged(count),
        TryRecvError::Empty | TryRecvError::Closed => RecvError::Closed,
    }
}

/// What this node noted since, all of it at once.
fn own(sync: &Sync, first: Result<Noted, RecvError>, more: &mut Receiver<Noted>) -> Fresh {
    let mut all = match first {
        Ok(noted) => vec![noted],
        Err(RecvError::Lagged(_)) => return None,
        Err(RecvError::Closed) => return Some(Vec::new()),
    };
    while let Ok(noted) = more.try_recv() {
        all.push(noted);
    }
    Some(vec![(sync.node().clone(), all)])
}

/// What is new of those whom this node keeps.
async fn pulled(sync: &Sync) -> Pulled {
    let mut fresh = Vec::new();
    for node in charges(sync.node(), &sync.alive()) {
        let since = sync.events.others().newest(&node).saturating_sub(OVERLAP);
        let Some(link) = sync.links.reach(&sync.members, &node, LINK).await else { continue };
        let recall = Recall { since, others: false };
        let Ok(reply) = link.request(wire::EVENTS, codec::encode(&recall).into(), ANSWER).await else { continue };
        let Ok(said) = wire::reply::<Vec<(NodeId, Vec<Noted>)>>(&reply) else { continue };
        // A node speaks for itself here.
        for (_, noted) in said.into_iter().filter(|(of, _)| *of == node) {
            let new = sync.events.others().take(&node, noted, sync.clock.now());
            if !new.is_empty() {
                fresh.push((node.clone(), new));
            }
        }
    }
    fresh
}

/// Whom this node keeps: of all that live, in the order of their names as a ring, each is kept by the next ones.
fn charges(own: &NodeId, alive: &[NodeId]) -> Vec<NodeId> {
    let Ok(at) = alive.binary_search(own) else { return Vec::new() };
    let before = |distance: usize| alive[(at + alive.len() - distance) % alive.len()].clone();
    (1..=KEEPERS.min(alive.len() - 1)).map(before).collect()
}

impl Journal {
    fn write(&mut self, own: &NodeId, fresh: Fresh, events: &Events) -> io::Result<()> {
        let whole = !self.torn && self.bytes <= self.most;
        let written = match fresh.filter(|_| whole) {
            Some(fresh) => {
                let mut some = fresh.iter().filter(|(_, noted)| !noted.is_empty());
                some.try_for_each(|(node, noted)| self.append(node, noted))
            }
            None => self.rewrite(own, events),
        };
        self.torn = written.is_err();
        written
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::event::{self, KEPT, NODES},
        *,
    };

    fn node(name: &str) -> NodeId {
        NodeId::new(name).unwrap()
    }

    fn noted(at: Millis, subject: &str) -> Noted {
        Noted { at, kind: "health".into(), subject: subject.into(), message: "\u{1b}\n\"".into() }
    }

    fn others(events: &Events) -> Vec<(String, Vec<Noted>)> {
        events.others().all().map(|(node, noted)| (node.to_string(), noted.cloned().collect())).collect()
    }

    #[test]
    fn what_was_written_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, events) = Journal::open(dir.path(), &node("a")).unwrap();
        assert!(events.recent().is_empty());
        journal.append(&node("a"), &[noted(1, "x"), noted(2, "x")]).unwrap();
        journal.append(&node("b"), &[noted(3, "y")]).unwrap();
        drop(journal);
        let (_, events) = Journal::open(dir.path(), &node("a")).unwrap();
        assert_eq!(events.recent(), [noted(1, "x"), noted(2, "x")]);
        assert_eq!(others(&events), [("b".to_owned(), vec![noted(3, "y")])]);
    }

    #[test]
    fn a_torn_line_costs_itself_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(dir.path(), &node("a")).unwrap();
        journal.append(&node("a"), &[noted(1, "x"), noted(2, "x")]).unwrap();
        let file = dir.path().join(FILE);
        let text = std::fs::read(&file).unwrap();
        std::fs::write(&file, &text[..text.len() - 7]).unwrap();
        let (mut journal, events) = Journal::open(dir.path(), &node("a")).unwrap();
        assert_eq!(events.recent(), [noted(1, "x")]);
        journal.append(&node("a"), &[noted(3, "x")]).unwrap();
        let (_, events) = Journal::open(dir.path(), &node("a")).unwrap();
        assert_eq!(events.recent(), [noted(1, "x"), noted(3, "x")], "what follows is not glued to it");
    }

    #[test]
    fn a_disk_that_was_full_costs_no_later_event() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, events) = Journal::open(dir.path(), &node("a")).unwrap();
        let file = dir.path().join(FILE);
        let note = |journal: &mut Journal, at| {
            events.note(at, event::Kind::Health, "x", "");
            let fresh = events.recent().pop().unwrap();
            journal.write(&node("a"), Some(vec![(node("a"), vec![fresh])]), &events)
        };
        note(&mut journal, 1).unwrap();
        // Half a line arrives, and the write says that it failed.
        appended(&file).unwrap().write_all(b"{\"node\":\"a\",\"at\":2,").unwrap();
        journal.file = File::open(&file).unwrap();
        note(&mut journal, 2).unwrap_err();
        note(&mut journal, 3).unwrap();
        note(&mut journal, 4).unwrap();
        let (_, read) = Journal::open(dir.path(), &node("a")).unwrap();
        assert_eq!(read.recent().iter().map(|noted| noted.at).collect::<Vec<_>>(), [1, 2, 3, 4]);
    }

    #[test]
    fn of_a_long_file_each_node_has_its_share_and_the_last_heard_stay() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(dir.path(), &node("a")).unwrap();
        journal.append(&node("b"), &[Noted { kind: "evicted".into(), ..noted(1, "x") }]).unwrap();
        journal.append(&node("old"), &[noted(1, "x")]).unwrap();
        for number in 0..NODES - 1 {
            journal.append(&node(&format!("n{number}")), &[noted(1, "x")]).unwrap();
        }
        let flood: Vec<Noted> = (2..2_000).map(|at| noted(at, "x")).collect();
        journal.append(&node("b"), &flood).unwrap();
        let (_, events) = Journal::open(dir.path(), &node("a")).unwrap();
        let others = others(&events);
        assert!(others.len() == NODES && others.iter().all(|(name, _)| name != "old"), "{others:?}");
        let kept = &others.iter().find(|(name, _)| name == "b").unwrap().1;
        assert_eq!((kept.len(), kept[0].kind.as_str(), kept[1].at), (KEPT, "evicted", 2_000 - KEPT as u64 + 1));
    }

    #[test]
    fn the_file_stays_small() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(dir.path(), &node("a")).unwrap();
        let events = Events::default();
        events.note(7, event::Kind::Health, "x", "kept");
        journal.bytes = GROWTH + 1;
        journal.write(&node("a"), Some(vec![(node("a"), vec![noted(1, "gone")])]), &events).unwrap();
        assert!(journal.bytes < 200);
        journal.write(&node("a"), Some(vec![(node("b"), vec![noted(8, "y")])]), &events).unwrap();
        journal.write(&node("a"), None, &events).unwrap();
        let (_, read) = Journal::open(dir.path(), &node("a")).unwrap();
        assert_eq!((read.recent(), others(&read)), (events.recent(), Vec::new()), "anew is what is remembered");
    }

    #[test]
    fn each_node_has_two_keepers() {
        let alive: Vec<NodeId> = ["a", "b", "c", "d"].map(node).into();
        let mut kept: Vec<NodeId> = alive.iter().flat_map(|own| charges(own, &alive)).collect();
        kept.sort();
        assert_eq!(kept, ["a", "a", "b", "b", "c", "c", "d", "d"].map(node));
        assert_eq!(charges(&node("a"), &alive), [node("d"), node("c")]);
        assert_eq!(charges(&node("a"), &alive[..2]), [node("b")]);
        assert_eq!(charges(&node("a"), &alive[..1]), []);
        assert_eq!(charges(&node("x"), &alive), []);
    }
}
