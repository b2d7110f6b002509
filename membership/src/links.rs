//! Open peer links. Of two links between a pair the one that the lower name dialled stays; only who dialled the other
//! closes it, so that both sides never close one each.

use std::collections::{BTreeMap, BTreeSet};

use certs::id::NodeId;

use crate::engine::LinkId;

/// See the module.
pub(crate) struct Links {
    own: NodeId,
    links: BTreeMap<NodeId, Vec<Link>>,
    linked: BTreeSet<NodeId>,
}

struct Link {
    id: LinkId,
    dialled: bool,
    since: u64,
    /// Its end was announced.
    parting: bool,
    /// When something last came over it: a peer that runs anew is heard on its new link only.
    heard: u64,
}

impl Links {
    pub(crate) fn new(own: NodeId) -> Links {
        Links { own, links: BTreeMap::new(), linked: BTreeSet::new() }
    }

    /// Members with at least one link.
    pub(crate) fn linked(&self) -> &BTreeSet<NodeId> {
        &self.linked
    }

    /// The link to send over: the one that was heard last.
    pub(crate) fn to(&self, node: &NodeId) -> Option<LinkId> {
        self.links.get(node)?.iter().max_by_key(|link| (!link.parting, link.heard, link.id)).map(|link| link.id)
    }

    /// Whether this node dialled one of the links to a node.
    pub(crate) fn is_dialled(&self, node: &NodeId) -> bool {
        self.links.get(node).into_iter().flatten().any(|link| link.dialled)
    }

    /// Every link to a node: several processes may call themselves so.
    pub(crate) fn all(&self, node: &NodeId) -> impl Iterator<Item = LinkId> + '_ {
        self.links.get(node).into_iter().flatten().map(|link| link.id)
    }

    /// Adds a link; gives those that became superfluous.
    pub(crate) fn up(&mut self, node: &NodeId, id: LinkId, dialled: bool, now: u64) -> Vec<LinkId> {
        let links = self.links.entry(node.clone()).or_default();
        links.push(Link { id, dialled, since: now, parting: false, heard: now });
        self.linked.insert(node.clone());
        let preferred = *node < self.own && links.iter().any(|link| !link.dialled);
        let mine = links.iter().filter(|link| link.dialled).map(|link| link.id);
        let superfluous: Vec<LinkId> = if preferred { mine.collect() } else { mine.skip(1).collect() };
        links.retain(|link| !superfluous.contains(&link.id));
        superfluous
    }

    /// Removes a link; true if it was the last to its node.
    pub(crate) fn down(&mut self, node: &NodeId, id: LinkId) -> bool {
        let Some(links) = self.links.get_mut(node) else { return false };
        links.retain(|link| link.id != id);
        if !links.is_empty() {
            return false;
        }
        self.links.remove(node);
        self.linked.remove(node)
    }

    /// Forgets all links to a node.
    pub(crate) fn drop_node(&mut self, node: &NodeId) -> bool {
        self.links.remove(node);
        self.linked.remove(node)
    }

    /// Its peer needs a link no longer.
    pub(crate) fn parting(&mut self, node: &NodeId, id: LinkId) {
        self.links
            .get_mut(node)
            .into_iter()
            .flatten()
            .filter(|link| link.id == id)
            .for_each(|link| link.parting = true);
    }

    /// Whether a link's end was announced.
    pub(crate) fn is_parting(&self, node: &NodeId, id: LinkId) -> bool {
        self.links.get(node).into_iter().flatten().any(|link| link.id == id && link.parting)
    }

    /// Links that this node dialled at least so long ago.
    pub(crate) fn dialled(&self, age: u64, now: u64) -> Vec<(NodeId, LinkId)> {
        let old = |link: &&Link| link.dialled && now.saturating_sub(link.since) >= age;
        let links =
            self.links.iter().flat_map(|(node, links)| links.iter().filter(old).map(|link| (node.clone(), link.id)));
        links.collect()
    }

    /// Something came over a link; false if it is not known.
    pub(crate) fn heard(&mut self, node: &NodeId, id: LinkId, now: u64) -> bool {
        let link = self.links.get_mut(node).and_then(|links| links.iter_mut().find(|link| link.id == id));
        if let Some(link) = link {
            link.heard = now;
            return true;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeId {
        NodeId::new(name).expect("valid")
    }

    #[test]
    fn both_ends_keep_the_same_one() {
        let (a, b) = (node("a"), node("b"));
        let (from_a, from_b) = (LinkId(1), LinkId(2));
        for flip in [false, true] {
            let mut at_a = Links::new(a.clone());
            let mut at_b = Links::new(b.clone());
            let order = if flip { [from_b, from_a] } else { [from_a, from_b] };
            let closed_a: Vec<_> = order.iter().flat_map(|id| at_a.up(&b, *id, *id == from_a, 0)).collect();
            let closed_b: Vec<_> = order.iter().flat_map(|id| at_b.up(&a, *id, *id == from_b, 0)).collect();
            assert_eq!((closed_a, closed_b), (vec![], vec![from_b]));
            assert!(!at_a.down(&b, from_b));
            assert_eq!((at_a.to(&b), at_b.to(&a)), (Some(from_a), Some(from_a)));
        }
    }

    #[test]
    fn a_second_dial_of_the_same_node_is_closed_by_its_dialler_only() {
        let (a, b) = (node("a"), node("b"));
        let mut at_a = Links::new(a.clone());
        assert!(at_a.up(&b, LinkId(1), true, 0).is_empty());
        assert_eq!(at_a.up(&b, LinkId(2), true, 0), [LinkId(2)]);
        let mut at_b = Links::new(b);
        assert!(at_b.up(&a, LinkId(2), false, 0).is_empty());
        assert!(at_b.up(&a, LinkId(1), false, 0).is_empty());
    }
}
