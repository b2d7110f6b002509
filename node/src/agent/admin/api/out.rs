//! Who counts no more, whatever certificates say: as a node tells it, and as an operator's machine keeps it once it was proven.

use std::collections::{BTreeMap, BTreeSet};

use certs::{grant::NodeGrant, id::NodeId, sign::Digest, verify::Authority};
use policy::{DocumentId, Kind, history::State, kinds::key_document};
use serde::{Deserialize, Serialize};

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Out {
    /// Nodes that operators evicted, up to which epoch.
    pub evicted: BTreeMap<NodeId, u64>,
    /// Nodes whose name another machine has now, or that left, up to which epoch.
    pub ended: BTreeMap<NodeId, u64>,
    /// SHA-256 of revoked public keys.
    pub keys: BTreeSet<Digest>,
}

impl Out {
    /// What a state says.
    #[must_use]
    pub fn by(state: &State) -> Self {
        let revocations = state.revocations();
        let evicted = revocations.nodes.iter().map(|(node, epoch)| (node.clone(), *epoch)).collect();
        let mut out = Self { evicted, ended: BTreeMap::new(), keys: revocations.keys.iter().copied().collect() };
        state.grants().values().for_each(|grant| out.grant(grant));
        out
    }

    /// Whether nobody is out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The documents that would prove what differs here from what is said.
    pub fn doubtful<'a>(&'a self, said: &'a Self) -> impl Iterator<Item = DocumentId> + 'a {
        let newer = |known: &'a BTreeMap<NodeId, u64>, said: &'a BTreeMap<NodeId, u64>, kind| {
            let is_news =
                move |(node, epoch): &(&NodeId, &u64)| known.get(*node).is_none_or(|highest| highest < *epoch);
            said.iter().filter(is_news).map(move |(node, _)| DocumentId::mesh_wide(kind, node.as_str()))
        };
        let keys = self.keys.symmetric_difference(&said.keys);
        newer(&self.evicted, &said.evicted, Kind::Revocation)
            .chain(newer(&self.ended, &said.ended, Kind::NodeGrant))
            .chain(keys.map(|key| DocumentId::mesh_wide(Kind::Revocation, &key_document(key))))
    }

    /// Takes in what operators signed, this document among it. Epochs only rise; the revocation of a key is taken back by a document
    /// that holds it no more, and not by silence.
    pub fn learn(&mut self, proven: &State, document: &DocumentId) {
        let Self { evicted, ended, keys } = Self::by(proven);
        evicted.into_iter().for_each(|(node, epoch)| self.evict(node, epoch));
        ended.into_iter().for_each(|(node, epoch)| raise(&mut self.ended, node, epoch));
        if !proven.heads(document).is_empty() {
            self.keys.retain(|key| keys.contains(key) || key_document(key) != document.name);
        }
        self.keys.extend(keys);
    }

    /// Evicts every epoch of a node up to this one.
    pub fn evict(&mut self, node: NodeId, epoch: u64) {
        raise(&mut self.evicted, node, epoch);
    }

    /// Takes in what a grant ends: all epochs before its own, and its own if it retires the node.
    pub fn grant(&mut self, grant: &NodeGrant) {
        let last = if grant.retired { grant.epoch } else { grant.epoch.saturating_sub(1) };
        if last > 0 {
            raise(&mut self.ended, grant.node.clone(), last);
        }
    }

    /// Has an authority without NodeGrants believe nobody who is out.
    pub fn instruct(&self, authority: &mut Authority) {
        let copied = |(node, epoch): (&NodeId, &u64)| (node.clone(), *epoch);
        authority.revocations.nodes.extend(self.evicted.iter().map(copied));
        authority.revocations.keys.extend(&self.keys);
        authority.ended.extend(self.ended.iter().map(copied));
    }
}

fn raise(epochs: &mut BTreeMap<NodeId, u64>, node: NodeId, epoch: u64) {
    let highest = epochs.entry(node).or_default();
    *highest = epoch.max(*highest);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use policy::kinds::{Revocation, node_grant_body};

    use super::*;
    use crate::testing::Mesh;

    fn grant(mesh: &mut Mesh, node: &NodeId, epoch: u64, retired: bool) -> (DocumentId, Arc<State>) {
        let (services, token_hash, token_expires) = Default::default();
        let redeemer = Some(node.clone());
        let node = node.clone();
        let grant = NodeGrant { node, epoch, services, token_hash, redeemer, token_expires, enroller: false, retired };
        let (document, body) = node_grant_body(&grant);
        (document.clone(), mesh.push(document, Some(body)))
    }

    #[test]
    fn who_was_replaced_or_left_is_out_and_the_successor_is_not() {
        let (mut mesh, node, mut known) = (Mesh::new(), NodeId::new("web-1").unwrap(), Out::default());
        for (epoch, retired, ended) in [(1, false, None), (2, false, Some(1)), (2, true, Some(2)), (3, false, Some(2))]
        {
            let (document, state) = grant(&mut mesh, &node, epoch, retired);
            let asked: Vec<DocumentId> = known.doubtful(&Out::by(&state)).collect();
            assert_eq!(asked.contains(&document), known.ended.get(&node).copied() != ended, "{epoch} {retired}");
            known.learn(&state, &document);
            assert_eq!(known.ended.get(&node).copied(), ended, "{epoch} {retired}");
            assert_eq!(known.doubtful(&Out::by(&state)).count(), 0);
        }
        // An old node says less, and nothing is forgotten for it.
        assert_eq!(known.doubtful(&Out::default()).count(), 0);
    }

    #[test]
    fn a_key_is_out_until_its_revocation_is_seen_to_be_taken_back() {
        let (mut mesh, key, mut known) = (Mesh::new(), Digest::of(b"key"), Out::default());
        let nothing = mesh.state();
        let revocation = Revocation { keys: [key].into(), ..Revocation::default() };
        let (document, body) = revocation.body(&key_document(&key));
        let revoked = mesh.push(document.clone(), Some(body));
        assert_eq!(known.doubtful(&Out::by(&revoked)).collect::<Vec<_>>(), std::slice::from_ref(&document));
        known.learn(&revoked, &document);
        assert!(known.keys.contains(&key));
        // A node that keeps the revocation back proves nothing.
        assert_eq!(known.doubtful(&Out::default()).collect::<Vec<_>>(), std::slice::from_ref(&document));
        known.learn(&nothing, &document);
        assert!(known.keys.contains(&key));
        let taken_back = mesh.push(document.clone(), None);
        known.learn(&taken_back, &document);
        assert!(known.is_empty(), "{known:?}");
    }
}
