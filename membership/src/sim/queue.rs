//! What is on its way, in the order of its times.

use std::{cmp::Reverse, collections::BinaryHeap, net::SocketAddr, sync::Arc};

use certs::{codec::Millis, id::NodeId};

use crate::engine::{Event, LinkId};

/// Something that will happen.
pub(super) enum Delivery {
    Message {
        from: NodeId,
        to: NodeId,
        link: LinkId,
        bytes: Arc<[u8]>,
    },
    Event {
        to: NodeId,
        event: Box<Event>,
    },
    Dial {
        from: NodeId,
        node: Option<NodeId>,
        address: SocketAddr,
    },
    /// The link's end, if nothing passes then.
    Silence {
        link: LinkId,
        one: NodeId,
        other: NodeId,
    },
}

/// See the module. What is due at the same time happens in the order in which it was put in.
#[derive(Default)]
pub(super) struct Queue {
    heap: BinaryHeap<Reverse<Queued>>,
    count: u64,
}

struct Queued {
    at: Millis,
    count: u64,
    delivery: Delivery,
}

impl Queue {
    pub(super) fn push(&mut self, at: Millis, delivery: Delivery) {
        self.count += 1;
        self.heap.push(Reverse(Queued { at, count: self.count, delivery }));
    }

    /// Puts off what was taken out, behind nothing that was put in after it.
    pub(super) fn put_off(&mut self, at: Millis, (count, delivery): (u64, Delivery)) {
        self.heap.push(Reverse(Queued { at, count, delivery }));
    }

    pub(super) fn due(&self) -> Option<Millis> {
        self.heap.peek().map(|Reverse(queued)| queued.at)
    }

    /// What is due by `now`, and its place among all that was put in.
    pub(super) fn pop(&mut self, now: Millis) -> Option<(u64, Delivery)> {
        let due = self.due().is_some_and(|due| due <= now);
        if due { self.heap.pop().map(|Reverse(queued)| (queued.count, queued.delivery)) } else { None }
    }
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.count) == (other.at, other.count)
    }
}

impl Eq for Queued {}

impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.count).cmp(&(other.at, other.count))
    }
}
