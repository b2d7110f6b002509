//! Which nodes have links with which, how long a question takes, and what all of it costs.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use certs::id::NodeId;

use super::Sync;
use crate::{
    agent::{
        error::{Error, fail},
        wire::{self, Paths},
    },
    clock::monotonic,
    mesh::peer::LinkError,
};

/// One question and what became of it.
#[derive(Debug, Clone)]
pub struct Pinged {
    /// `quic` or `tcp`.
    pub carrier: &'static str,
    /// Where the peer is.
    pub remote: SocketAddr,
    /// How long the answer took, or why none came.
    pub took: Result<Duration, LinkError>,
}

impl Sync {
    /// Whom this node has links with, and the round trips in microseconds.
    pub(super) fn paths(&self) -> Paths {
        let view = self.world.view();
        let linked = view.members().values().filter_map(|member| {
            let rtt = member.rtt?;
            Some((member.id.clone(), u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)))
        });
        Paths { paths: linked.collect() }
    }

    /// Asks a node one question; makes a link if there is none.
    ///
    /// # Errors
    /// `not_found`, `unreachable`.
    pub async fn ping(&self, node: &NodeId, patience: Duration) -> Result<Pinged, Error> {
        let Some(member) = self.world.view().member(node).cloned() else {
            return Err(fail(
                "not_found",
                format!("{node} is not a node of this mesh"),
                "`skein members --all` lists them",
            ));
        };
        let Some(link) = self.links.reach(&self.members, node, patience).await else {
            let address = member.address.map_or_else(|| "no known address".to_owned(), |address| address.to_string());
            let message = format!("no link with {node} ({address}) within {} ms", patience.as_millis());
            return Err(fail("unreachable", message, format!("`skein members {node}` says who reaches it")));
        };
        let begun = monotonic();
        let took = link.request(wire::PING, Bytes::new(), patience).await;
        let took = match took {
            // A build that does not know the question refuses it, which takes as long.
            Ok(_) | Err(LinkError::Refused) => Ok(monotonic().duration_since(begun)),
            Err(error) => Err(error),
        };
        Ok(Pinged { carrier: link.carrier(), remote: link.remote(), took })
    }
}
