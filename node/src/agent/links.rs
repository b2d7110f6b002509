//! The open peer links, for all who send or ask over one.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, atomic::AtomicU64, atomic::Ordering::Relaxed},
    time::Duration,
};

use bytes::Bytes;
use certs::{codec::Millis, id::NodeId};
use membership::{
    engine::{Lane, LinkId},
    message::Latest,
};

use super::{accusations::Accusations, members::Members};
use crate::{
    clock::Uptime,
    lock::lock,
    mesh::peer::{LinkError, PeerLink},
};

/// How long a refusal counts, in milliseconds, or that a node ignores this one: longer than the longest pause between two dials.
const REFUSAL: Millis = 60_000;
/// How often it is looked who has answered those that accuse it, in milliseconds.
const SWEEP: Millis = 1_000;
/// Pause between looks whether a link that was asked for is there.
const LOOK: Duration = Duration::from_millis(10);

/// The table of open links; clones are the same table. The members task alone writes it.
#[derive(Debug, Clone, Default)]
pub struct Links(Arc<Table>);

#[derive(Debug, Default)]
struct Table {
    open: Mutex<HashMap<LinkId, PeerLink>>,
    /// When the last link to a node ended, wall time; nothing of those that are linked, or no members any more.
    ended: Mutex<HashMap<NodeId, Millis>>,
    /// When a node last refused this one.
    refusals: Mutex<Lately>,
    /// When a node last ended a link because this one contradicted itself.
    ignoring: Mutex<Lately>,
    /// Whom members find silent.
    accusations: Mutex<Accusations>,
    /// When it was last looked who has answered those that accuse it, uptime.
    swept: AtomicU64,
    next: AtomicU64,
    /// Bytes by lane, in the order of [`Lane::ALL`].
    sent: [AtomicU64; Lane::ALL.len()],
    /// Messages that a full queue did not take, in the same order.
    dropped: [AtomicU64; Lane::ALL.len()],
}

/// Who did something within [`REFUSAL`], and when last.
#[derive(Debug, Default)]
struct Lately(HashMap<NodeId, Uptime>);

impl Lately {
    /// Notes that a node did it; true if that is news.
    fn note(&mut self, node: &NodeId, now: Uptime) -> bool {
        self.0.retain(|_, at| now.0 < at.0 + REFUSAL);
        self.0.insert(node.clone(), now).is_none()
    }

    fn nodes(&self, now: Uptime) -> Vec<NodeId> {
        let mut nodes: Vec<NodeId> =
            self.0.iter().filter(|(_, at)| now.0 < at.0 + REFUSAL).map(|(node, _)| node.clone()).collect();
        nodes.sort();
        nodes
    }
}

impl Links {
    /// A number that no link had before.
    pub(super) fn number(&self) -> LinkId {
        LinkId(self.0.next.fetch_add(1, Relaxed) + 1)
    }

    pub(super) fn insert(&self, id: LinkId, link: PeerLink) {
        lock(&self.0.refusals).0.remove(&link.peer().node);
        self.ended().remove(&link.peer().node);
        self.table().insert(id, link);
    }

    pub(super) fn remove(&self, id: LinkId, now: Millis) -> Option<PeerLink> {
        let mut table = self.table();
        let link = table.remove(&id)?;
        let node = &link.peer().node;
        if table.values().all(|other| other.peer().node != *node) {
            self.ended().insert(node.clone(), now);
        }
        Some(link)
    }

    /// Since when a node has had no link with this one that had one before.
    pub fn without(&self, node: &NodeId) -> Option<Millis> {
        self.ended().get(node).copied()
    }

    /// Sends what fits; the rest is for repair.
    pub(super) fn send(&self, id: LinkId, lane: Lane, bytes: &Arc<[u8]>) {
        let link = self.table().get(&id).cloned();
        let Some(link) = link else { return };
        match link.send(lane, Bytes::copy_from_slice(bytes)) {
            Ok(()) => {
                self.0.sent[lane as usize].fetch_add(bytes.len() as u64, Relaxed);
            }
            // What ends with a link is no loss of its own.
            Err(LinkError::Closed(_)) => {}
            Err(error) => {
                self.0.dropped[lane as usize].fetch_add(1, Relaxed);
                tracing::debug!(peer = %link.peer().node, lane = lane.word(), "a message was dropped: {error}");
            }
        }
    }

    /// Forgets accusations that were answered, and nodes of which this one holds nothing any more; now and then, for there may be many.
    pub(super) fn sweep(&self, now: Uptime, held: impl Fn(&NodeId) -> Option<Latest>) {
        if now.0 >= self.0.swept.load(Relaxed) + SWEEP {
            self.0.swept.store(now.0, Relaxed);
            self.ended().retain(|node, _| held(node).is_some());
            self.accusations().answered(held);
        }
    }

    /// A link to this node. Where its process runs anew the one to the last run stands for a moment beside it.
    pub fn to(&self, node: &NodeId) -> Option<PeerLink> {
        PeerLink::liveliest(self.table().values().filter(|link| link.peer().node == *node)).cloned()
    }

    /// One link to every linked node.
    pub fn all(&self) -> Vec<PeerLink> {
        let table = self.table();
        let mut found: HashMap<&NodeId, Vec<&PeerLink>> = HashMap::new();
        for link in table.values() {
            found.entry(&link.peer().node).or_default().push(link);
        }
        found.into_values().filter_map(PeerLink::liveliest).cloned().collect()
    }

    /// All links to this node.
    pub(super) fn of(&self, node: &NodeId) -> Vec<PeerLink> {
        self.table().values().filter(|link| link.peer().node == *node).cloned().collect()
    }

    /// Notes that a node refuses this one; true if that is news.
    pub(super) fn refused(&self, node: &NodeId, now: Uptime) -> bool {
        lock(&self.0.refusals).note(node, now)
    }

    /// Notes that a node ended its link with this one because this one contradicted itself; true if that is news.
    pub(super) fn ignored(&self, by: &NodeId, now: Uptime) -> bool {
        lock(&self.0.ignoring).note(by, now)
    }

    /// The nodes that lately refused this one, and have not let it in since.
    pub fn refusers(&self, now: Uptime) -> Vec<NodeId> {
        lock(&self.0.refusals).nodes(now)
    }

    /// The nodes that lately said that they ignore this one, for it contradicted itself.
    pub fn ignoring(&self, now: Uptime) -> Vec<NodeId> {
        lock(&self.0.ignoring).nodes(now)
    }

    /// Who says in public that a node is silent, and since when.
    pub fn accusers(&self, of: &NodeId) -> Vec<(NodeId, Millis)> {
        self.accusations().of(of)
    }

    /// A link to this node, or the one that comes up within `patience` because it is asked for.
    pub async fn reach(&self, members: &Members, node: &NodeId, patience: Duration) -> Option<PeerLink> {
        if let Some(link) = self.to(node) {
            return Some(link);
        }
        members.want(node).await;
        let linked = async {
            loop {
                tokio::time::sleep(LOOK).await;
                if let Some(link) = self.to(node) {
                    return link;
                }
            }
        };
        tokio::time::timeout(patience, linked).await.ok()
    }

    /// Bytes of messages sent since the start, by lane in the order of [`Lane::ALL`].
    pub fn sent(&self) -> [u64; Lane::ALL.len()] {
        std::array::from_fn(|lane| self.0.sent[lane].load(Relaxed))
    }

    /// Messages that were not sent because their peer reads too slowly, by lane in the order of [`Lane::ALL`].
    pub fn dropped(&self) -> [u64; Lane::ALL.len()] {
        std::array::from_fn(|lane| self.0.dropped[lane].load(Relaxed))
    }

    /// Whom members find silent in public.
    pub(super) fn accusations(&self) -> std::sync::MutexGuard<'_, Accusations> {
        lock(&self.0.accusations)
    }

    fn ended(&self) -> std::sync::MutexGuard<'_, HashMap<NodeId, Millis>> {
        lock(&self.0.ended)
    }

    fn table(&self) -> std::sync::MutexGuard<'_, HashMap<LinkId, PeerLink>> {
        lock(&self.0.open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeId {
        NodeId::new(name).unwrap()
    }

    #[test]
    fn of_nodes_that_are_gone_nothing_is_kept() {
        let links = Links::default();
        links.ended().extend(["a", "b"].map(|name| (node(name), 1)));
        let held = |of: &NodeId| (*of == node("a")).then(|| Latest { node: of.clone(), generation: 1, sequence: 1 });
        links.sweep(Uptime(SWEEP), held);
        assert_eq!((links.without(&node("a")), links.without(&node("b"))), (Some(1), None));
    }

    #[test]
    fn a_refusal_counts_for_a_while_and_is_news_once() {
        let links = Links::default();
        assert!(links.refused(&node("a"), Uptime(5)));
        assert!(!links.refused(&node("a"), Uptime(6)));
        assert_eq!(links.refusers(Uptime(6)), [node("a")]);
        assert_eq!(links.refusers(Uptime(6 + REFUSAL)), []);
    }
}
