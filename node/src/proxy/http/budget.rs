//! Bytes that a node holds because they may be needed again, or because nobody reads them.

use bytes::Bytes;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Most bytes that a node keeps: of bodies for retries and in copies, in windows of HTTP/2 and of connections of bytes whose readers are behind.
const NODE_LIMIT: usize = 256 * 1024 * 1024;

/// Those bytes of one node.
#[derive(Debug, Clone, Default)]
pub(in crate::proxy) struct ReplayBudget(Arc<AtomicUsize>);

impl ReplayBudget {
    /// Bytes kept now.
    pub(in crate::proxy) fn taken(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Bytes for which there is room.
    pub(in crate::proxy) fn left(&self) -> usize {
        NODE_LIMIT.saturating_sub(self.taken())
    }

    pub(in crate::proxy) fn take(&self, bytes: usize) -> bool {
        let before = self.0.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes > NODE_LIMIT {
            self.give(bytes);
            return false;
        }
        true
    }

    pub(in crate::proxy) fn give(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Shorter pieces of a body, in bytes, are kept in memory of their own: each piece of what was read at once keeps all of the room that
/// there was for it, whatever is counted.
const SHARED: usize = 16 * 1024;

/// Most pieces in which a body is kept, so that what describes them is never more than they are.
pub(super) const MAX_PIECES: usize = 1_024;

/// A piece of a body to keep.
pub(super) fn kept(piece: &Bytes) -> Bytes {
    if piece.len() < SHARED { Bytes::copy_from_slice(piece) } else { piece.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_piece_does_not_keep_the_room_that_was_read_into() {
        let read = Bytes::from(vec![7; 64 * 1024]);
        let (short, long) = (read.slice(..1), read.slice(..SHARED));
        assert!(kept(&short) == short && kept(&short).as_ptr() != short.as_ptr());
        assert_eq!(kept(&long).as_ptr(), long.as_ptr());
    }

    #[test]
    fn a_node_keeps_so_much_and_no_more() {
        let budget = ReplayBudget::default();
        assert!(budget.take(NODE_LIMIT - 1) && budget.take(1));
        assert!(!budget.take(1));
        assert_eq!((budget.taken(), budget.left()), (NODE_LIMIT, 0), "what found no room takes none");
        budget.give(10);
        assert!(budget.take(10));
    }
}
