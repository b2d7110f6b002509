//! Links with other nodes, as the admin interface asks for them.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use certs::{codec::Millis, id::NodeId};
use membership::engine::Lane;
use policy::history::History;

use super::{Agent, Rate};
use crate::{
    agent::{
        Unheard, admin::api, concerns::Concerns, error::Error, sync::paths::Pinged, timeline::Merged, wire::Paths,
    },
    clock::monotonic,
    lock::lock,
    mesh::{
        Counters,
        occupancy::{Connected, Occupancy},
    },
    telemetry::{Exchanged, Histogram},
};

impl Agent {
    /// Whom this node and those that answer have links with; and who did not answer.
    pub async fn reaches(&self) -> (BTreeMap<NodeId, Paths>, Unheard) {
        self.inner.sync.reaches().await
    }

    /// What was asked of whom, as all nodes saw it that answer; `own` is what this one saw.
    pub async fn traffic(&self, own: Exchanged) -> api::Traffic {
        self.inner.sync.traffic(own).await
    }

    /// What happened since, as the nodes that answer noted it or keep it of others, oldest first; and who did not answer.
    pub async fn timeline(&self, since: Millis) -> (Vec<Merged>, Unheard) {
        self.inner.sync.timeline(since).await
    }

    /// Looks into the set of changesets, on a thread that may block.
    pub fn history_aside<T>(&self, look: impl FnOnce(&History) -> T) -> T {
        self.inner.sync.book.look_aside(look)
    }

    /// A page of what was signed, for whoever replaces the RoleSet: [`crate::agent::book::Book::signed`].
    ///
    /// # Errors
    /// The node stops.
    pub async fn signed(&self, from: usize, limit: usize) -> Result<(Vec<Vec<u8>>, Option<usize>), Error> {
        self.inner.sync.book.signed(from, limit, self.now()).await
    }

    /// What needs attention at the other nodes that answer; and those alive that said nothing.
    pub async fn concerns(&self) -> (Vec<(NodeId, Concerns)>, Unheard) {
        self.inner.sync.concerns().await
    }

    /// Who says what of this node needs attention, to those who ask.
    pub fn set_concerns(&self, concerns: impl Fn() -> Concerns + Send + Sync + 'static) {
        self.inner.sync.set_concerns(concerns);
    }

    /// Notes where scrapers find this node.
    pub fn set_scraped(&self, address: SocketAddr) {
        self.inner.sync.set_scraped(address);
    }

    /// Where scrapers find each node.
    pub async fn scraped_addresses(&self) -> BTreeMap<NodeId, SocketAddr> {
        self.inner.sync.scraped_addresses().await
    }

    /// How long changesets took from their arrival here to where requests follow them.
    pub fn apply_latency(&self) -> Histogram {
        self.inner.sync.latency()
    }

    /// Messages and events that wait for the membership engine.
    pub fn waiting(&self) -> usize {
        self.inner.sync.members.waiting()
    }

    /// Nodes that this one has a link with.
    pub fn linked(&self) -> usize {
        self.inner.sync.links.all().len()
    }

    /// How many connections there are with each node.
    pub fn connected(&self) -> BTreeMap<Connected, usize> {
        self.inner.sync.mesh.connected()
    }

    /// What this node has under way to each node that it keeps connections for.
    pub fn occupancy(&self) -> BTreeMap<NodeId, Occupancy> {
        self.inner.sync.mesh.occupancy()
    }

    /// What happened on the mesh port since the start.
    pub fn mesh_counters(&self) -> &Counters {
        self.inner.sync.mesh.counters()
    }

    /// How often each kind of event was noted since the start.
    pub fn event_counts(&self) -> BTreeMap<&'static str, u64> {
        self.inner.sync.events.counts()
    }

    /// Asks a node one question.
    ///
    /// # Errors
    /// `not_found`, `unreachable`.
    pub async fn ping(&self, node: &NodeId, patience: Duration) -> Result<Pinged, Error> {
        self.inner.sync.ping(node, patience).await
    }

    /// Who says in public that a node is silent, and since when.
    pub fn accusers(&self, of: &NodeId) -> Vec<(NodeId, Millis)> {
        self.inner.sync.links.accusers(of)
    }

    /// Bytes a second sent to other nodes for membership, by lane, over the last seconds.
    pub fn gossip_rate(&self) -> BTreeMap<&'static str, u64> {
        let mut rate = lock(&self.inner.rate);
        let (now, sent) = (monotonic(), self.inner.sync.links.sent());
        let elapsed = now.duration_since(rate.at);
        if elapsed >= Duration::from_secs(1) {
            let per_second =
                std::array::from_fn(|lane| ((sent[lane] - rate.sent[lane]) as f64 / elapsed.as_secs_f64()) as u64);
            *rate = Rate { at: now, sent, per_second };
        }
        Lane::ALL.iter().zip(rate.per_second).map(|(lane, bytes)| (lane.word(), bytes)).collect()
    }

    /// Bytes sent to other nodes for membership since the start, by lane.
    pub fn gossip_bytes(&self) -> Vec<(&'static str, u64)> {
        Lane::ALL.iter().zip(self.inner.sync.links.sent()).map(|(lane, bytes)| (lane.word(), bytes)).collect()
    }

    /// Messages for membership that were not sent since the start because their peer reads too slowly, by lane.
    pub fn gossip_dropped(&self) -> Vec<(&'static str, u64)> {
        Lane::ALL.iter().zip(self.inner.sync.links.dropped()).map(|(lane, messages)| (lane.word(), messages)).collect()
    }
}
