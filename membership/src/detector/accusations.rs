//! What members say in public of each other: it makes this node look, and gives the accused the time to answer. Whoever has a
//! reason of its own says so whoever said it before: one that takes back what it said hides no death.

use std::collections::BTreeSet;

use certs::id::NodeId;

use super::{Check, Detector, Order, Urgency, Verdict};

/// Members that one accuser may keep under check here: far more than a node watches.
pub(crate) const ACCUSED: usize = 64;

/// Who knows that a member lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// This node alone: over a link, or a relay's.
    ToThis,
    /// It signed something for all.
    ToAll,
}

impl Detector {
    /// A member says anew whom it finds silent: all of them, and of these who has signed nothing since. Gives those whose check
    /// begins with it.
    pub(crate) fn accused(
        &mut self,
        from: &NodeId,
        named: &BTreeSet<NodeId>,
        unanswered: &[NodeId],
        now: u64,
    ) -> BTreeSet<NodeId> {
        let mut standing = self.retracted(from, named);
        let mut begun = BTreeSet::new();
        for node in unanswered {
            if standing >= ACCUSED {
                break;
            }
            let peer = self.peers.get_mut(node).filter(|peer| peer.verdict != Verdict::Dead);
            let Some(peer) = peer.filter(|_| !self.accusers.ignored(from, node, now)) else { continue };
            let check = peer.check.get_or_insert_with(|| Box::new(Check::of_another(now)));
            if check.told().is_none() {
                begun.insert(node.clone());
                peer.last_ping = None;
            }
            standing += usize::from(check.accuse(from, now));
            self.checking.insert(node.clone());
        }
        begun
    }

    /// Whom an accuser accuses still is all that it does: checks that nothing else asks for end. Gives how many stay by its word.
    fn retracted(&mut self, from: &NodeId, accuses: &BTreeSet<NodeId>) -> usize {
        let mut standing = 0;
        let peers = &mut self.peers;
        self.checking.retain(|node| {
            let Some(peer) = peers.get_mut(node) else { return false };
            let Some(check) = peer.check.as_mut().filter(|check| check.is_accused_by(from)) else { return true };
            if accuses.contains(node) {
                standing += 1;
                return true;
            }
            let ends = check.retract(from) && peer.verdict == Verdict::Alive;
            if ends {
                peer.check = None;
            }
            !ends
        });
        standing
    }

    /// A member showed that it lives: its check ends, and all who accused it without any reason that this node sees were wrong.
    pub(super) fn absolve(&mut self, node: &NodeId, answer: Answer, now: u64) -> Vec<Order> {
        let Some(peer) = self.peers.get_mut(node) else { return Vec::new() };
        peer.failed = None;
        self.checking.remove(node);
        let mut orders = Vec::new();
        if self.announced.remove(node) {
            // Others would judge by what it said although this node knows better.
            let urgency = if answer == Answer::ToThis { Urgency::Now } else { Urgency::Later };
            orders.push(Order::Suspicions(urgency));
        }
        let before = std::mem::replace(&mut peer.verdict, Verdict::Alive);
        if before == Verdict::Dead {
            peer.revived(now);
        }
        if before != Verdict::Alive {
            orders.push(Order::Judge(node.clone(), Verdict::Alive));
        }
        let check = peer.check.take();
        // Others count this node's errors as it counts theirs: here it reckons when they do not listen any more. Where they did not
        // hear the question it counts more than they do, which only makes it careful.
        if check.as_ref().is_some_and(|check| check.announced.is_some()) {
            self.accusers.refuted(&self.own, node, now);
        }
        let check = check.filter(|check| !check.first_hand);
        for accuser in check.iter().flat_map(|check| check.accusers()) {
            if self.accusers.refuted(accuser, node, now) {
                self.retracted(accuser, &BTreeSet::new());
            }
        }
        orders
    }

    /// Whether a member, which accuses those `named` now, takes anything back that stands by its word here.
    pub(crate) fn frees(&self, accuser: &NodeId, named: impl Fn(&NodeId) -> bool) -> bool {
        let check = |node: &NodeId| self.peers.get(node).and_then(|peer| peer.check.as_ref());
        self.checking.iter().any(|node| !named(node) && check(node).is_some_and(|check| check.is_accused_by(accuser)))
    }

    /// Whether it was accused in public, by this node or another, and has not answered.
    pub(crate) fn is_accused(&self, node: &NodeId) -> bool {
        let check = self.peers.get(node).and_then(|peer| peer.check.as_ref());
        check.is_some_and(|check| check.told().is_some())
    }

    /// Whether nobody listens to what a member says of another.
    pub(crate) fn ignores(&self, accuser: &NodeId, accused: &NodeId, now: u64) -> bool {
        self.accusers.ignored(accuser, accused, now)
    }

    /// Whether nobody listens to what a member says of anybody.
    pub(crate) fn ignores_all(&self, accuser: &NodeId, now: u64) -> bool {
        self.accusers.ignored_all(accuser, now)
    }

    /// Whom this node accuses in public.
    pub(crate) fn suspicions(&self) -> BTreeSet<NodeId> {
        self.announced.iter().chain(self.questions.keys()).cloned().collect()
    }
}
