//! When a node looks at members without a link: others judge otherwise of them, a connection to them failed, or most of those that have
//! one are out of reach.

use certs::id::NodeId;

use super::{Detector, Order, Verdict};

/// Time between looks at one member that others judge otherwise, or to which a data connection failed.
pub(super) const QUESTION_MS: u64 = 10_000;
/// How long a node of a sparse mesh that reaches few of those whom it was linked with takes that for a trouble of its own. Then it may
/// be cut off, and looks at everybody by a dial: most have no link whose end would tell.
const CUT_OFF_MS: u64 = 1_000;
/// Such looks a second, and at once, and those at members without a link to whom a data connection failed: as many as are dialled at
/// a time.
pub(super) const LOOKS: (u64, u64) = (20, 64);

/// How to look at a member of which a peer judges otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// In public: it answers with a signature if it lives.
    Ask,
    /// By a link.
    Dial,
}

impl Detector {
    /// A linked member judges otherwise of one that is not linked here. Its word makes this node look and nothing else: of one that
    /// it calls alive the dead are asked in public, which harms nobody; one that it calls dead is dialled.
    pub(crate) fn differs(&mut self, node: &NodeId, alive: bool, now: u64) -> Option<Look> {
        let peer = self.peers.get_mut(node).filter(|peer| !peer.linked)?;
        let look = match peer.verdict {
            Verdict::Dead if alive => Look::Ask,
            Verdict::Alive if !alive && peer.check.is_none() => Look::Dial,
            Verdict::Dead | Verdict::Alive | Verdict::Suspect => return None,
        };
        if now < peer.questioned + QUESTION_MS {
            return None;
        }
        peer.questioned = now;
        if look == Look::Ask {
            self.questions.insert(node.clone(), now);
        }
        Some(look)
    }

    /// A data connection failed: a reason to look at once. In a sparse mesh nothing else would tell of one without a link, so that it is
    /// dialled: if that fails, too, this node has found it out of reach.
    pub(crate) fn failed(&mut self, node: &NodeId, now: u64) -> Option<Order> {
        let peer = self.peers.get_mut(node)?;
        peer.failed(now);
        let unseen = self.sparse && !peer.linked && peer.verdict != Verdict::Dead && !peer.evidence;
        if !unseen || now < peer.calm_until || peer.was_questioned(now) || !self.looks.take(now) {
            return None;
        }
        peer.questioned = now;
        Some(Order::Dial(node.clone()))
    }

    /// A dial failed. Of a member that was never met in this run that is as telling as a failed data connection: one started
    /// alone does not wait for those that it knows from disk only. In a sparse mesh it is what a lost link is.
    pub(crate) fn refused(&mut self, node: &NodeId, now: u64) {
        let Some(peer) = self.peers.get_mut(node) else { return };
        if !peer.met {
            peer.failed(now);
        }
        if self.sparse && !peer.linked && peer.verdict != Verdict::Dead {
            (peer.evidence, peer.refused) = (true, true);
            if now >= peer.calm_until && !peer.is_looked_at() {
                peer.doubt(now);
                self.checking.insert(node.clone());
            }
        }
    }

    /// Whether this node of a sparse mesh has reached few for a while.
    pub(super) fn is_cut_off(&mut self, all: usize, silent: usize, now: u64) -> bool {
        if !self.sparse || silent * 3 <= all * 2 {
            self.cut_since = None;
            return false;
        }
        now.saturating_sub(*self.cut_since.get_or_insert(now)) >= CUT_OFF_MS
    }

    /// Dials unlinked members that are not yet in doubt: a failed dial is the only sign that they are unreachable.
    pub(super) fn unlinked_looks(&mut self, now: u64) -> Vec<Order> {
        let unlinked = self.peers.iter_mut().filter(|(_, peer)| {
            let unseen = peer.verdict != Verdict::Dead && !peer.linked && !peer.is_doubted();
            unseen && now >= peer.calm_until && !peer.was_questioned(now)
        });
        let looks = unlinked.map_while(|(node, peer)| {
            let looks = self.looks.take(now);
            looks.then(|| {
                peer.questioned = now;
                Order::Dial(node.clone())
            })
        });
        looks.collect()
    }
}
