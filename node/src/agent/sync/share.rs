//! What one peer may have answered, over however many links: its questions at a time, and the bytes of their answers.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Instant,
};

use certs::id::NodeId;
use tokio::sync::Semaphore;

use crate::lock::lock;

/// Requests of one peer that are answered at a time; further ones wait on its links.
const AT_ONCE: usize = 32;
/// Bytes of answers a second that one peer gets, and at once: all policy of a large mesh for one that joins.
const BYTES: (f64, f64) = ((8 << 20) as f64, (64 << 20) as f64);
/// Bytes that every answer counts at least: the question is read, and what it asks for is looked up or signed.
const LEAST: usize = 4 << 10;

/// By peer.
#[derive(Debug, Default)]
pub(super) struct Shares(Mutex<HashMap<NodeId, Arc<Share>>>);

/// One peer's.
#[derive(Debug)]
pub(super) struct Share {
    /// Its questions that may be under way.
    pub(super) slots: Arc<Semaphore>,
    /// Bytes left, below none after a long answer; and when that was.
    left: Mutex<(f64, Instant)>,
}

impl Shares {
    /// The peer's share; it outlasts its links while `is_member` knows the peer, or a new link would begin a new one.
    pub(super) fn of(&self, peer: &NodeId, is_member: impl Fn(&NodeId) -> bool, now: Instant) -> Arc<Share> {
        let mut shares = lock(&self.0);
        if let Some(share) = shares.get(peer) {
            return share.clone();
        }
        shares.retain(|node, share| Arc::strong_count(share) > 1 || is_member(node));
        let share = Arc::new(Share::new(now));
        shares.insert(peer.clone(), share.clone());
        share
    }
}

impl Share {
    fn new(now: Instant) -> Self {
        Self { slots: Arc::new(Semaphore::new(AT_ONCE)), left: Mutex::new((BYTES.1, now)) }
    }

    /// Whether anything is left for an answer, however long.
    pub(super) fn is_left(&self, now: Instant) -> bool {
        let mut left = lock(&self.left);
        let passed = now.saturating_duration_since(left.1).as_secs_f64();
        *left = ((left.0 + passed * BYTES.0).min(BYTES.1), now);
        left.0 > 0.0
    }

    /// An answer was given, or refused after it was looked for.
    pub(super) fn spend(&self, bytes: usize) {
        lock(&self.left).0 -= bytes.max(LEAST) as f64;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{agent::wire::FETCH_BYTES, clock::monotonic};

    fn node(name: &str) -> NodeId {
        NodeId::new(name).unwrap()
    }

    /// How many answers of so many bytes it gets without a pause.
    fn answers(share: &Share, bytes: usize, now: Instant) -> usize {
        let mut count = 0;
        while share.is_left(now) {
            share.spend(bytes);
            count += 1;
        }
        count
    }

    #[test]
    fn a_peer_gets_much_at_once_and_then_its_rate() {
        let now = monotonic();
        let share = Share::new(now);
        assert_eq!(answers(&share, FETCH_BYTES, now), 64);
        assert_eq!(answers(&share, FETCH_BYTES, now + Duration::from_secs(1)), 8);
        let rested = now + Duration::from_secs(100);
        assert_eq!(answers(&share, FETCH_BYTES, rested), 64, "no more is saved up");
        // What costs few bytes costs work.
        assert_eq!(answers(&share, 0, rested + Duration::from_secs(1)), (8 << 20) / LEAST);
    }

    #[test]
    fn links_of_one_peer_share_and_a_new_one_begins_nothing_anew() {
        let (shares, now) = (Shares::default(), monotonic());
        let is_member = |node: &NodeId| node.as_str() != "gone";
        let (first, second) = (shares.of(&node("a"), is_member, now), shares.of(&node("a"), is_member, now));
        assert!(Arc::ptr_eq(&first, &second));
        assert_eq!(answers(&first, FETCH_BYTES, now), 64);
        drop((first, second));
        let gone = shares.of(&node("gone"), is_member, now);
        shares.of(&node("b"), is_member, now);
        assert_eq!(answers(&shares.of(&node("a"), is_member, now), FETCH_BYTES, now), 0);
        assert_eq!(lock(&shares.0).len(), 3, "one that has a link is kept");
        drop(gone);
        shares.of(&node("c"), is_member, now);
        assert!(!lock(&shares.0).contains_key(&node("gone")));
    }
}
