//! Nodes to which this one dials data connections in vain. A peer link that the other node dialled hides that nobody answers at the
//! address which it tells.

use std::{collections::HashMap, net::SocketAddr, sync::Mutex};

use certs::{codec::Millis, id::NodeId};

use super::Error;
use crate::lock::lock;

/// Between the first vain dial and the last before it counts: a node that starts again is no trouble.
const LASTING: Millis = 10_000;
/// For how long a dial says something.
const MEMORY: Millis = 300_000;
/// Nodes that are noted: more than one mesh has.
const MAX_NODES: usize = 1_024;

/// A node at whose address nobody answers, or somebody else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotReached {
    /// Which.
    pub node: NodeId,
    /// Where it was dialled.
    pub address: SocketAddr,
    /// What came of the last dial.
    pub reason: String,
}

/// What came of dials, by node, since the last one that reached it.
#[derive(Debug, Default)]
pub(super) struct Unreached(Mutex<HashMap<NodeId, Vain>>);

#[derive(Debug)]
struct Vain {
    address: SocketAddr,
    reason: String,
    /// Uptime of the first dial there and of the last.
    first: Millis,
    last: Millis,
}

impl Unreached {
    /// A dial has ended.
    pub(super) fn note(&self, node: &NodeId, address: SocketAddr, error: Option<&Error>, now: Millis) {
        let mut nodes = lock(&self.0);
        let reason = match error {
            None => return drop(nodes.remove(node)),
            Some(Error::Connect { reason, .. }) => reason.to_string(),
            Some(Error::WrongPeer { found, .. }) => format!("there is {found}"),
            // Of this node itself, or of what followed.
            Some(_) => return,
        };
        if nodes.len() >= MAX_NODES {
            nodes.retain(|_, vain| now.saturating_sub(vain.last) < MEMORY);
        }
        let has_room = nodes.len() < MAX_NODES;
        match nodes.get_mut(node) {
            Some(vain) if vain.address == address && now.saturating_sub(vain.last) < MEMORY => {
                (vain.reason, vain.last) = (reason, now);
            }
            Some(vain) => *vain = Vain { address, reason, first: now, last: now },
            None if has_room => {
                nodes.insert(node.clone(), Vain { address, reason, first: now, last: now });
            }
            None => {}
        }
    }

    /// The nodes that are not reached for a while, by name.
    pub(super) fn lasting(&self, now: Millis) -> Vec<NotReached> {
        let nodes = lock(&self.0);
        let lasting = nodes.iter().filter(|(_, vain)| {
            vain.last.saturating_sub(vain.first) >= LASTING && now.saturating_sub(vain.last) < MEMORY
        });
        let mut found: Vec<NotReached> = lasting
            .map(|(node, Vain { address, reason, .. })| NotReached {
                node: node.clone(),
                address: *address,
                reason: reason.clone(),
            })
            .collect();
        found.sort_by(|one, next| one.node.cmp(&next.node));
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_counts_once_dials_were_in_vain_for_a_while_until_one_is_not() {
        let (unreached, node) = (Unreached::default(), NodeId::new("b").unwrap());
        let [old, new]: [SocketAddr; 2] = ["10.0.0.1:1", "10.0.0.2:1"].map(|text| text.parse().unwrap());
        let error = |address| Error::Connect { node: "b".into(), address, reason: "refused".into() };
        let vain = |address, now| unreached.note(&node, address, Some(&error(address)), now);
        let found = |now| unreached.lasting(now).into_iter().map(|one| one.address).collect::<Vec<_>>();
        vain(old, 0);
        vain(old, LASTING - 1);
        assert_eq!(found(LASTING), []);
        vain(old, LASTING);
        assert_eq!(found(LASTING), [old]);
        unreached.note(&node, old, Some(&Error::Stopping), LASTING);
        assert_eq!(found(LASTING), [old], "that is none of its doing");
        assert_eq!(found(LASTING + MEMORY), [], "nobody has dialled it since");
        vain(new, LASTING + 1);
        assert_eq!(found(LASTING + 1), [], "it has moved");
        vain(new, 2 * LASTING + 1);
        assert_eq!(found(2 * LASTING + 1), [new]);
        unreached.note(&node, new, None, 2 * LASTING + 2);
        assert_eq!(found(2 * LASTING + 2), []);
    }
}
