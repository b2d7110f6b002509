//! Frames of a request's body that were read before the request is sent.

use super::{
    ReplayBudget,
    budget::{MAX_PIECES, kept},
};
use bytes::{Bytes, BytesMut};
use hyper::body::Frame;
use std::collections::VecDeque;

/// See the module. Its bytes count in the node's budget until they are sent.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    frames: VecDeque<Frame<Bytes>>,
    budget: ReplayBudget,
    bytes: usize,
}

impl Ahead {
    /// Adds a frame behind the others; false if the node keeps too much.
    pub(super) fn add(&mut self, frame: Frame<Bytes>, budget: &ReplayBudget) -> bool {
        let length = frame.data_ref().map_or(0, Bytes::len);
        if self.frames.is_empty() {
            self.budget = budget.clone();
        }
        if !self.budget.take(length) {
            return false;
        }
        self.bytes += length;
        self.frames.push_back(match frame.data_ref() {
            Some(data) => Frame::data(kept(data)),
            None => frame,
        });
        if self.frames.len() > MAX_PIECES && self.frames.iter().all(Frame::is_data) {
            let all = self.beginning(self.bytes);
            self.frames = VecDeque::from([Frame::data(all)]);
        }
        true
    }

    /// Takes the first frame.
    pub(super) fn next(&mut self) -> Option<Frame<Bytes>> {
        let frame = self.frames.pop_front()?;
        self.forget(frame.data_ref().map_or(0, Bytes::len));
        Some(frame)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Bytes of data that are kept.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// The first bytes, at most so many.
    pub(super) fn beginning(&self, limit: usize) -> Bytes {
        let mut data = self.frames.iter().filter_map(Frame::data_ref);
        let (first, second) = (data.next().cloned().unwrap_or_default(), data.next());
        let Some(second) = second else { return first.slice(..first.len().min(limit)) };
        let mut all = BytesMut::with_capacity(self.bytes.min(limit));
        for piece in [&first, second].into_iter().chain(data) {
            all.extend_from_slice(&piece[..piece.len().min(limit - all.len())]);
        }
        all.freeze()
    }

    fn forget(&mut self, length: usize) {
        self.bytes -= length;
        self.budget.give(length);
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.forget(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_counts_until_it_is_sent() {
        let (mut ahead, budget) = (Ahead::default(), ReplayBudget::default());
        for data in ["abc", "", "defg"] {
            assert!(ahead.add(Frame::data(Bytes::from_static(data.as_bytes())), &budget));
        }
        assert_eq!((ahead.bytes(), budget.taken()), (7, 7));
        let beginning = |limit: usize| String::from_utf8(ahead.beginning(limit).to_vec()).unwrap();
        assert_eq!([beginning(0), beginning(2), beginning(5), beginning(9)], ["", "ab", "abcde", "abcdefg"]);
        assert_eq!(ahead.next().and_then(|frame| frame.into_data().ok()), Some(Bytes::from_static(b"abc")));
        assert_eq!(budget.taken(), 4);
        drop(ahead);
        assert_eq!(budget.taken(), 0);
    }

    #[test]
    fn many_small_pieces_become_one() {
        let (mut ahead, budget) = (Ahead::default(), ReplayBudget::default());
        let sent: Vec<u8> = (0..=MAX_PIECES * 2).map(|number| (number % 251) as u8).collect();
        for byte in &sent {
            assert!(ahead.add(Frame::data(Bytes::copy_from_slice(&[*byte])), &budget));
            assert!(ahead.frames.len() <= MAX_PIECES);
        }
        assert_eq!(budget.taken(), sent.len());
        let frames = std::iter::from_fn(|| ahead.next()?.into_data().ok());
        assert_eq!(frames.flatten().collect::<Vec<u8>>(), sent);
        assert_eq!(budget.taken(), 0);
    }
}
