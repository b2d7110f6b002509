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
}

impl<T> Inbox<T> {
    /// `limits`: things and bytes.
    pub(super) fn new(limits: (usize, usize)) -> Inbox<T> {
        Inbox { queue: Mutex::new((VecDeque::new(), 0)), limits, added: Notify::new() }
    }

    /// False if it is full.
    pub(super) fn add(&self, thing: T, length: usize) -> bool {
        let mut queue = lock(&self.queue);
        if queue.0.len() >= self.limits.0 || queue.1 + length > self.limits.1 {
            return false;
        }
        queue.0.push_back((thing, length));
        queue.1 += length;
        self.added.notify_one();
        true
    }

    /// The next thing, `None` at the end; what came before the end is still given out.
    pub(super) async fn next(&self, closed: &CancellationToken) -> Option<T> {
        loop {
            {
                let mut queue = lock(&self.queue);
                if let Some((thing, length)) = queue.0.pop_front() {
                    queue.1 -= length;
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
}
