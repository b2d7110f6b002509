//! Links with other nodes, as the admin interface asks for them.

use std::{collections::BTreeMap, time::Duration};

use certs::{codec::Millis, id::NodeId};
use membership::engine::Lane;

use super::{Agent, Rate};
use crate::{
    agent::{error::Error, sync::paths::Pinged, wire::Paths},
    clock::monotonic,
};

impl Agent {
    /// What each node that answers says of its links.
    pub async fn reaches(&self) -> BTreeMap<NodeId, Paths> {
        self.inner.sync.reaches().await
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
        let mut rate = self.inner.rate.lock().expect("no code panics while it holds the rate");
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
}
