//! A queue of what came and waits to be taken, bounded in things and bytes.

use crate::lock::lock;
use std::{collections::VecDeque, sync::Mutex};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// A queue bounded in things and bytes.
#[derive(Debug)]
pub(super) struct Inbox<T> {
    queue: Mutex<(VecDeque<(T, usize)>, usize)>,
    limits: (usize, usize),
    added: Notify,
    taken: Notify,
}

impl<T> Inbox<T> {
    /// `limits`: things and bytes.
    pub(super) fn new(limits: (usize, usize)) -> Inbox<T> {
        Inbox { queue: Mutex::new((VecDeque::new(), 0)), limits, added: Notify::new(), taken: Notify::new() }
    }

    /// False if it is full.
    pub(super) fn add(&self, thing: T, length: usize) -> bool {
        let mut queue = lock(&self.queue);
        let has_room = self.has_room(&queue, length);
        if has_room {
            queue.0.push_back((thing, length));
            queue.1 += length;
            self.added.notify_one();
        }
        has_room
    }

    /// Waits until there is room for one thing. For one waiter, which alone adds.
    pub(super) async fn room(&self, length: usize) {
        while !self.has_room(&lock(&self.queue), length) {
            self.taken.notified().await;
        }
    }

    fn has_room(&self, queue: &(VecDeque<(T, usize)>, usize), length: usize) -> bool {
        queue.0.len() < self.limits.0 && queue.1 + length <= self.limits.1
    }

    /// The next thing, `None` at the end; what came before the end is still given out.
    pub(super) async fn next(&self, closed: &CancellationToken) -> Option<T> {
        loop {
            {
                let mut queue = lock(&self.queue);
                if let Some((thing, length)) = queue.0.pop_front() {
                    queue.1 -= length;
                    self.taken.notify_one();
                    return Some(thing);
                }
            }
            if closed.is_cancelled() {
                return None;
            }
            tokio::select! {
                () = self.added.notified() => {}
                () = closed.cancelled() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_is_bounded_and_gives_out_what_came_before_the_end() {
        let (inbox, closed) = (Inbox::new((2, 10)), CancellationToken::new());
        assert!(inbox.add('a', 6) && !inbox.add('b', 5) && inbox.add('c', 4) && !inbox.add('d', 0));
        assert_eq!(inbox.next(&closed).await, Some('a'));
        assert!(inbox.add('e', 6));
        closed.cancel();
        assert_eq!((inbox.next(&closed).await, inbox.next(&closed).await), (Some('c'), Some('e')));
        assert_eq!(inbox.next(&closed).await, None);
    }

    #[tokio::test]
    async fn who_waits_for_room_has_it_once_enough_is_taken() {
        let (inbox, closed) = (Inbox::new((9, 10)), CancellationToken::new());
        assert!(inbox.add('a', 4) && inbox.add('b', 4));
        let mut waiting = std::pin::pin!(inbox.room(8));
        for taken in ['a', 'b'] {
            assert!(futures_util::poll!(&mut waiting).is_pending());
            assert_eq!(inbox.next(&closed).await, Some(taken));
        }
        waiting.await;
        assert!(inbox.add('c', 8));
    }
}
