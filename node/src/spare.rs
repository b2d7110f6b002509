//! Buffers that are needed for a moment, again and again: each thread keeps one, because a fresh one is zeroed first.

use std::cell::Cell;

/// Bytes of the longest that is kept.
pub(crate) const LENGTH: usize = 64 << 10;
/// Bytes of the shortest: for less, a fresh one costs little.
const LEAST: usize = LENGTH / 2;

thread_local! {
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A buffer of this length. What is in it means nothing.
pub(crate) fn take(length: usize) -> Vec<u8> {
    if !(LEAST..=LENGTH).contains(&length) {
        return vec![0; length];
    }
    // While its thread ends, none is kept.
    let mut buffer = SPARE.try_with(Cell::take).unwrap_or_default();
    // Always room for the longest: else the shorter would take its place, and each longer one be a fresh one again.
    if buffer.capacity() < LENGTH {
        buffer = vec![0; LENGTH];
    }
    buffer.resize(length, 0);
    buffer
}

/// Keeps it for who takes one next.
pub(crate) fn give(buffer: Vec<u8>) {
    if (LEAST..=LENGTH).contains(&buffer.capacity()) {
        let _ = SPARE.try_with(|spare| spare.set(buffer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_kept_for_the_next_and_none_that_is_too_short_or_too_long() {
        let first = take(LENGTH);
        let place = first.as_ptr();
        give(first);
        for other in [vec![0; 10], vec![0; LENGTH + 1], Vec::new()] {
            give(other);
        }
        assert_eq!(take(10).len(), 10, "a short one is a fresh one");
        let second = take(LENGTH - 4);
        assert_eq!((second.as_ptr(), second.len()), (place, LENGTH - 4));
        let other = take(LENGTH);
        assert_ne!(other.as_ptr(), place, "it is taken");
        drop(other);
        let short = take(LENGTH - 4);
        let (place, _) = (short.as_ptr(), drop(second));
        give(short);
        let third = take(LENGTH);
        assert_eq!((third.as_ptr(), third.len()), (place, LENGTH));
    }
}
