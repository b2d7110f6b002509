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
const ROUNDS: usize = 16;
/// How often those whose gifts do not add up are left out; then everybody is doubted.
const DOUBTS: usize = 4;
/// Less than this more than a giver has may be an error of arithmetic or the end of a series.
const NEGLIGIBLE: f64 = EQUAL / 1_000.0;

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

    /// What `node` holds as far as `own` knows, in equal shares.
    #[cfg(test)]
    pub(super) fn held_by(&self, node: &Key, own: &Key, nodes: &BTreeSet<Key>) -> f64 {
        self.held(own, nodes)[node] / EQUAL
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
        let places: BTreeMap<&Key, usize> = nodes.iter().enumerate().map(|(place, node)| (node, place)).collect();
        let mut gifts = vec![Vec::new(); nodes.len()];
        let others = self.heard.iter().filter(|(giver, _)| *giver != own);
        for (giver, given) in others.chain([(own, &self.given)]) {
            let Some(&giver) = places.get(giver) else { continue };
            let known = given.iter().filter_map(|(receiver, total)| Some((*places.get(receiver)?, as_f64(*total))));
            gifts[giver] = known.filter(|(receiver, _)| *receiver != giver).collect();
        }
        let mut kept = kept(&gifts);
        if let Some(&own) = places.get(own) {
            // This node's own gifts have left it in full: it must not count on anything that others may count on too.
            kept[own] = 1.0;
        }
        let received = received(&gifts, &kept);
        let holds = |place: usize| EQUAL + received[place] - out(&gifts[place]) * kept[place];
        nodes.iter().enumerate().map(|(place, node)| (Arc::clone(node), holds(place))).collect()
    }
}

/// What each giver gives: to whom, how much in all.
type Gifts = [Vec<(usize, f64)>];

/// The part of what each giver says it gave that it had to give. Whoever circulates gifts for long says many times what
/// anybody holds, so all is believed first and taken back where it does not add up; those with whom that never ends
/// (liars who pretend to give each other without bound) are not believed at all. What is left adds up, and grows only by
/// what givers have beyond it: it may be cut off at any time and nobody was credited with what nobody had.
fn kept(gifts: &Gifts) -> Vec<f64> {
    let mut kept = vec![1.0; gifts.len()];
    let adds_up = (0..DOUBTS).any(|_| {
        for _ in 0..ROUNDS {
            let had = had(gifts, &kept);
            if (0..gifts.len()).all(|giver| out(&gifts[giver]) * kept[giver] <= had[giver] + NEGLIGIBLE) {
                return true;
            }
            for (giver, had) in had.iter().enumerate() {
                kept[giver] = believed(&gifts[giver], *had).min(kept[giver]);
            }
        }
        let had = had(gifts, &kept);
        for (giver, had) in had.iter().enumerate() {
            if out(&gifts[giver]) * kept[giver] > had + NEGLIGIBLE {
                kept[giver] = 0.0;
            }
        }
        false
    });
    if !adds_up {
        kept.fill(0.0);
    }
    if kept.iter().any(|kept| *kept < 1.0) {
        for _ in 0..ROUNDS {
            let had = had(gifts, &kept);
            for (giver, had) in had.iter().enumerate() {
                kept[giver] = believed(&gifts[giver], *had).max(kept[giver]);
            }
        }
    }
    kept
}

/// The part of its gifts that a giver had.
fn believed(given: &[(usize, f64)], had: f64) -> f64 {
    let out = out(given);
    if out > had { had / out } else { 1.0 }
}

fn out(given: &[(usize, f64)]) -> f64 {
    given.iter().map(|(_, total)| total).sum()
}

fn received(gifts: &Gifts, kept: &[f64]) -> Vec<f64> {
    let mut received = vec![0.0; gifts.len()];
    for (given, kept) in gifts.iter().zip(kept) {
        given.iter().for_each(|(receiver, total)| received[*receiver] += total * kept);
    }
    received
}

fn had(gifts: &Gifts, kept: &[f64]) -> Vec<f64> {
    received(gifts, kept).into_iter().map(|received| EQUAL + received).collect()
}

fn as_f64(number: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "millionths of a share need no more than 53 bits")]
    let number = number as f64;
    number
}

fn count(nodes: usize) -> f64 {
    as_f64(nodes.max(1) as u64)
}
