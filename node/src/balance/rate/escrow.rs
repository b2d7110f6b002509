//! Shares that only ever move by gift: a bounded counter. Each node starts with an equal share and writes down, in its
//! own name, how much it has given to whom in all. A giver has lowered its share when it says so, a receiver raises its
//! own when it hears of it, so that however late the news is, the sum is never more than the whole.
//!
//! A node that restarts has given nothing any more: what it gave comes back to it as the others hear so.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::Key;

/// An equal share, the unit of gifts.
const EQUAL: f64 = 1_000_000.0;
/// Less than this part of an equal share is not worth a gift.
const WORTH_GIVING: f64 = EQUAL / 50.0;
/// Nodes to whom one gives at most: what it says of a key must fit into a record.
pub(super) const GIFTS: usize = 32;
/// How often gifts of what others gave are followed.
const ROUNDS: usize = 8;

/// What one node knows of all gifts.
#[derive(Debug, Default)]
pub(super) struct Escrow {
    /// This node's own, to each other node.
    given: BTreeMap<Key, u64>,
    /// The others' newest, by giver.
    heard: BTreeMap<Key, BTreeMap<Key, u64>>,
}

impl Escrow {
    pub(super) const fn given(&self) -> &BTreeMap<Key, u64> {
        &self.given
    }

    /// `given` is newer than all that was heard of the giver before.
    pub(super) fn heard(&mut self, giver: &Key, given: BTreeMap<Key, u64>) {
        self.heard.insert(Arc::clone(giver), given);
    }

    /// Forgets who has left, with all that was given to and by it.
    pub(super) fn retain(&mut self, nodes: &BTreeSet<Key>) {
        self.given.retain(|node, _| nodes.contains(node));
        self.heard.retain(|node, _| nodes.contains(node));
    }

    /// A node's part of the whole, as far as is known here.
    pub(super) fn share(&self, own: &Key, nodes: &BTreeSet<Key>) -> f64 {
        let held = self.held(own, nodes);
        held.get(own).map_or(0.0, |held| held.max(0.0) / (EQUAL * count(nodes.len())))
    }

    /// Gives away what this node has above its target to those that are below theirs. True if it gave anything.
    pub(super) fn give(&mut self, own: &Key, targets: &BTreeMap<Key, f64>) -> bool {
        let nodes: BTreeSet<Key> = targets.keys().cloned().collect();
        let held = self.held(own, &nodes);
        let above = |node: &Key| held[node] - targets[node] * EQUAL * count(nodes.len());
        let mut missing: Vec<(&Key, f64)> =
            nodes.iter().map(|node| (node, -above(node))).filter(|(_, m)| *m > 0.0).collect();
        missing.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        let mut room = GIFTS.saturating_sub(self.given.len());
        missing.retain(|(node, _)| {
            let is_known = self.given.contains_key(*node);
            let fits = is_known || room > 0;
            room -= usize::from(fits && !is_known);
            fits
        });
        let all: f64 = missing.iter().map(|(_, missing)| missing).sum();
        let surplus = above(own).min(all);
        if surplus < WORTH_GIVING {
            return false;
        }
        for (node, missing) in missing {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
            let gift = (surplus * missing / all) as u64;
            let total = self.given.entry(Arc::clone(node)).or_default();
            *total = total.saturating_add(gift);
        }
        true
    }

    /// What everybody holds. Nobody can give more than it holds: of what it says beyond that (it lies, or what it was
    /// given has not been heard of here, or came from a node that left) each receiver gets its part.
    fn held(&self, own: &Key, nodes: &BTreeSet<Key>) -> BTreeMap<Key, f64> {
        let others = self.heard.iter().filter(|(giver, _)| *giver != own);
        let gifts: Vec<(&Key, Vec<(&Key, f64)>)> = others
            .chain([(own, &self.given)])
            .filter(|(giver, _)| nodes.contains(*giver))
            .map(|(giver, given)| {
                let known = given.iter().filter(|(receiver, _)| nodes.contains(*receiver) && *receiver != giver);
                (giver, known.map(|(receiver, total)| (receiver, as_f64(*total))).collect())
            })
            .collect();
        let mut kept: BTreeMap<&Key, f64> = BTreeMap::new();
        for _ in 0..ROUNDS {
            let mut received: BTreeMap<&Key, f64> = BTreeMap::new();
            for (giver, given) in &gifts {
                let kept = kept.get(giver).copied().unwrap_or(1.0);
                for (receiver, total) in given {
                    *received.entry(receiver).or_default() += total * kept;
                }
            }
            for (giver, given) in &gifts {
                let out: f64 = given.iter().map(|(_, total)| total).sum();
                let had = EQUAL + received.get(giver).copied().unwrap_or(0.0);
                if out > had {
                    kept.insert(giver, had / out);
                }
            }
        }
        let mut held: BTreeMap<Key, f64> = nodes.iter().map(|node| (Arc::clone(node), EQUAL)).collect();
        for (giver, given) in &gifts {
            // This node's own gifts have left it in full: it must not count on anything that others may count on too.
            let kept = if *giver == own { 1.0 } else { kept.get(giver).copied().unwrap_or(1.0) };
            for (receiver, total) in given {
                for (node, change) in [(*giver, -total * kept), (*receiver, total * kept)] {
                    held.entry(Arc::clone(node)).and_modify(|held| *held += change);
                }
            }
        }
        held
    }
}

fn as_f64(number: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "millionths of a share need no more than 53 bits")]
    let number = number as f64;
    number
}

fn count(nodes: usize) -> f64 {
    as_f64(nodes.max(1) as u64)
}
