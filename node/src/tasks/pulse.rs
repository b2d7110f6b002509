//! Whether the data workers turn. Each counts once a second on its own runtime; who looks on from another one sees which of them does no
//! longer. Looks are counted, not time: while a machine or the whole process stood still nobody looked either.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::sync::watch;

use crate::lock::lock;

/// How often a worker counts, and how often it is looked at.
const BEAT: Duration = Duration::from_secs(1);
/// A worker is stuck that has not counted at so many looks in a row. On a loaded machine it counts late, and who looks on looks late, too.
const LOOKS: u32 = 5;

/// The data workers of one node.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    workers: Mutex<Vec<Worker>>,
    stuck: watch::Sender<Vec<String>>,
}

/// One worker as it was last looked at.
#[derive(Debug)]
struct Worker {
    name: String,
    count: Arc<AtomicU64>,
    seen: u64,
    /// Looks in a row at which it had not counted.
    missed: u32,
}

/// A worker's own end; once it is dropped nobody looks at the worker any more.
#[derive(Debug)]
pub(super) struct Beat(Arc<AtomicU64>);

impl Beat {
    /// Counts for as long as the runtime that polls this turns.
    pub(super) async fn run(self) {
        loop {
            self.0.fetch_add(1, Relaxed);
            tokio::time::sleep(BEAT).await;
        }
    }
}

impl Pulse {
    /// One more worker to be looked at.
    pub(super) fn join(&self, name: String) -> Beat {
        let count = Arc::new(AtomicU64::new(0));
        lock(&self.workers).push(Worker { name, count: Arc::clone(&count), seen: 0, missed: 0 });
        Beat(count)
    }

    /// The names of all.
    #[cfg(test)]
    pub(super) fn watched(&self) -> Vec<String> {
        lock(&self.workers).iter().map(|worker| worker.name.clone()).collect()
    }

    /// The names of those that are stuck.
    pub(super) fn stuck(&self) -> watch::Receiver<Vec<String>> {
        self.stuck.subscribe()
    }

    /// Looks at all of them until `end`; from then on none is called stuck.
    pub(super) async fn watch(&self, end: impl Future<Output = ()>) {
        let mut end = std::pin::pin!(end);
        loop {
            tokio::select! {
                () = tokio::time::sleep(BEAT) => self.tell(self.look()),
                () = end.as_mut() => return self.tell(Vec::new()),
            }
        }
    }

    fn look(&self) -> Vec<String> {
        let mut workers = lock(&self.workers);
        workers.retain(|worker| Arc::strong_count(&worker.count) > 1);
        for worker in workers.iter_mut() {
            let count = worker.count.load(Relaxed);
            worker.missed = if count == worker.seen { worker.missed.saturating_add(1) } else { 0 };
            worker.seen = count;
        }
        workers.iter().filter(|worker| worker.missed >= LOOKS).map(|worker| worker.name.clone()).collect()
    }

    /// Says who is stuck.
    pub(super) fn tell(&self, stuck: Vec<String>) {
        self.stuck.send_if_modified(|known| {
            let differs = *known != stuck;
            *known = stuck;
            differs
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::Tasks;

    #[test]
    fn who_misses_too_many_looks_in_a_row_is_stuck_until_it_counts() {
        let pulse = Pulse::default();
        let (turns, hangs) = (pulse.join("worker-0".to_owned()), pulse.join("worker-1".to_owned()));
        let count = |beat: &Beat| beat.0.fetch_add(1, Relaxed);
        for _ in 1..LOOKS {
            count(&turns);
            assert_eq!(pulse.look(), [""; 0]);
        }
        count(&hangs);
        for _ in 0..LOOKS {
            count(&turns);
            assert_eq!(pulse.look(), [""; 0], "one that counts late is not stuck");
        }
        count(&turns);
        assert_eq!(pulse.look(), ["worker-1"]);
        count(&hangs);
        assert_eq!(pulse.look(), [""; 0]);
        drop(hangs);
        for _ in 0..LOOKS {
            count(&turns);
            pulse.look();
        }
        assert_eq!(pulse.look(), [""; 0], "who has ended is not looked at");
    }

    /// Both ways: a thread that is held up, and let go.
    #[test]
    fn a_worker_whose_thread_hangs_is_named() {
        let tasks = Tasks::new();
        let (go, held) = std::sync::mpsc::sync_channel::<()>(0);
        let (leave, left) = tokio::sync::oneshot::channel::<()>();
        let hangs = move || async move {
            // What a worker must never do.
            let _ = held.recv();
            let _ = left.await;
        };
        let thread = tasks.worker("worker", 0, hangs).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            tasks.watch_workers();
            let mut stuck = tasks.stuck();
            assert_eq!(*stuck.wait_for(|stuck| !stuck.is_empty()).await.unwrap(), ["worker-0"]);
            go.send(()).unwrap();
            stuck.wait_for(Vec::is_empty).await.unwrap();
            tasks.stop();
            leave.send(()).unwrap();
        });
        thread.join().unwrap();
    }
}
