//! The queue before the engine: whoever has something to tell it waits here, within limits.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use certs::id::NodeId;
use membership::{
    body::{Body, Status},
    engine::{Event, LinkId},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::{clock, lock::lock, mesh::peer::PeerLink};

/// Events that wait for the engine; who has more to say waits too.
pub const QUEUE: usize = 1024;
/// Bytes of peers' messages that wait for the engine. Low: what waits delays everybody's signs of life.
const QUEUE_BYTES: usize = 8 << 20;
/// The engine hears once in this time that connections with a node fail.
const FAILURES: Duration = Duration::from_millis(100);

/// What reaches the engine's task.
#[derive(Debug)]
pub enum Input {
    /// Straight to the engine.
    Event(Event),
    /// What a peer says, with its share of [`QUEUE_BYTES`], and when it came.
    Said(Event, OwnedSemaphorePermit, Instant),
    /// A link stands.
    Linked(PeerLink, Option<SocketAddr>),
    /// Somebody wants to know who tells at this time which policy they hold.
    Speaking(oneshot::Sender<BTreeSet<NodeId>>),
}

/// The way to the engine; clones are the same way.
#[derive(Debug, Clone)]
pub struct Members {
    inputs: mpsc::Sender<Input>,
    bytes: Arc<Semaphore>,
    failures: Arc<Mutex<Failures>>,
}

/// The nodes of which failures were told lately: each attempt at a node that just died fails, and there may be thousands a second.
#[derive(Debug, Default)]
struct Failures {
    /// When the first of them was.
    since: Option<Instant>,
    told: BTreeSet<NodeId>,
}

impl Failures {
    /// Whether a node's failure is to be told.
    fn is_news(&mut self, node: &NodeId, now: Instant) -> bool {
        if self.since.is_none_or(|since| now.duration_since(since) >= FAILURES) {
            (self.since, self.told) = (Some(now), BTreeSet::new());
        }
        !self.told.contains(node) && self.told.insert(node.clone())
    }
}

impl Members {
    /// The way and its other end, for [`Task`](super::Task).
    pub fn channel() -> (Self, mpsc::Receiver<Input>) {
        let (inputs, received) = mpsc::channel(QUEUE);
        let (bytes, failures) = (Arc::new(Semaphore::new(QUEUE_BYTES)), Arc::default());
        (Self { inputs, bytes, failures }, received)
    }

    /// What waits for the engine.
    pub fn waiting(&self) -> usize {
        self.inputs.max_capacity() - self.inputs.capacity()
    }

    /// Says something new of this node.
    pub async fn publish(&self, body: Body) {
        self.publish_together(vec![body]).await;
    }

    /// The same of several things, which travel as one.
    pub async fn publish_together(&self, bodies: Vec<Body>) {
        self.tell(Event::Publish(bodies)).await;
    }

    /// Says what this node intends.
    pub async fn status(&self, status: Status) {
        self.publish(Body::Status(status)).await;
    }

    /// Tells the engine anything.
    pub async fn tell(&self, event: Event) {
        self.bring(Input::Event(event)).await;
    }

    pub(super) async fn bring(&self, input: Input) {
        // The engine's task is critical: without it the process ends.
        let _ = self.inputs.send(input).await;
    }

    /// Who tells at this time which policy they hold.
    pub async fn speaking(&self) -> BTreeSet<NodeId> {
        let (told, speaking) = oneshot::channel();
        self.bring(Input::Speaking(told)).await;
        speaking.await.unwrap_or_default()
    }

    /// Brings a peer's message, in its turn: whoever says much waits like everybody else.
    pub(super) async fn said(&self, from: NodeId, link: LinkId, bytes: Vec<u8>) {
        let came = clock::monotonic();
        let share = u32::try_from(bytes.len().min(QUEUE_BYTES)).unwrap_or(u32::MAX);
        // Nobody closes it.
        let Ok(share) = self.bytes.clone().acquire_many_owned(share).await else { return };
        self.bring(Input::Said(Event::Message { from, link, bytes }, share, came)).await;
    }

    /// Asks for a link with a node for the next minute: in a large mesh most nodes have none.
    pub async fn want(&self, node: &NodeId) {
        self.tell(Event::Want(node.clone())).await;
    }

    /// A data connection failed; dropped if the engine has more to do, or has just been told of that node.
    pub fn data_failure(&self, node: NodeId) {
        if lock(&self.failures).is_news(&node, clock::monotonic()) {
            let _ = self.inputs.try_send(Input::Event(Event::DataFailure { node }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn of_a_nodes_failures_the_engine_hears_once_in_a_while() {
        let (members, mut inputs) = Members::channel();
        let node = |name: &str| NodeId::new(name).unwrap();
        for _ in 0..QUEUE {
            members.data_failure(node("dead"));
        }
        members.data_failure(node("other"));
        let mut heard = Vec::new();
        while let Ok(Input::Event(Event::DataFailure { node })) = inputs.try_recv() {
            heard.push(node);
        }
        assert!(
            heard.len() < QUEUE / 2 && heard.contains(&node("dead")) && heard.contains(&node("other")),
            "{heard:?}"
        );
        let (mut failures, begin) = (Failures::default(), clock::monotonic());
        let news = [0, 1, 99, 100, 101].map(|at| failures.is_news(&node("dead"), begin + Duration::from_millis(at)));
        assert_eq!(news, [true, false, false, true, false]);
    }

    #[tokio::test]
    async fn what_waits_for_the_engine_is_bounded_in_bytes() {
        let (members, mut inputs) = Members::channel();
        let say = || members.said(NodeId::new("loud").unwrap(), LinkId(1), vec![0; 1 << 20]);
        for _ in 0..QUEUE_BYTES >> 20 {
            say().await;
        }
        let moment = Duration::from_millis(50);
        assert!(tokio::time::timeout(moment, say()).await.is_err());
        drop(inputs.recv().await);
        tokio::time::timeout(Duration::from_secs(10), say()).await.unwrap();
    }
}
