//! The only place that spawns. Every task has a name and an owner that notices its death: a critical task that ends or
//! panics before the node stops, stops the node; one that is kept begins again after a panic; the death of any other is logged.
#![expect(clippy::disallowed_methods, reason = "this is the place that spawns for everybody else")]

pub mod apart;
pub mod beside;
mod pulse;

use self::{beside::Beside, pulse::Pulse};
use crate::lock::lock;
use std::{
    collections::BTreeMap,
    fmt, io,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::{
    sync::watch,
    task::{AbortHandle, JoinHandle},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// How long a thread for the disk waits for more to do.
pub(crate) const IDLE_THREADS: Duration = Duration::from_secs(1);
/// Before a kept task begins again for the first time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The pause doubles until it is so long.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The tasks of one node, on whatever runtimes they run. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tasks {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Cancelled when the node stops, for whatever reason.
    stop: CancellationToken,
    /// The first critical task that died.
    failure: OnceLock<Failure>,
    /// How often tasks of each name panicked.
    panics: Mutex<BTreeMap<&'static str, u64>>,
    pulse: Pulse,
}

/// The death of a critical task, which ended the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The task's name.
    pub task: &'static str,
    /// How it died.
    pub ending: Ending,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "task `{}` {}", self.task, self.ending)
    }
}

/// How a task ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// It returned.
    Finished,
    /// It panicked with this message.
    Panicked(String),
    /// It was dropped before its end: aborted, or its runtime went away.
    Dropped,
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ending::Finished => f.write_str("ended"),
            Ending::Panicked(message) => write!(f, "panicked: {message}"),
            Ending::Dropped => f.write_str("was dropped"),
        }
    }
}

impl Default for Tasks {
    fn default() -> Self {
        Tasks::new()
    }
}

impl Tasks {
    /// No tasks yet.
    #[must_use]
    pub fn new() -> Tasks {
        let shared = Shared {
            stop: CancellationToken::new(),
            failure: OnceLock::new(),
            panics: Mutex::default(),
            pulse: Pulse::default(),
        };
        Tasks { shared: Arc::new(shared) }
    }

    /// Spawns on the current runtime a task that the node can do without for a while: after a panic it is made anew, with a pause
    /// before. It ends when it returns.
    pub fn kept<F>(&self, name: &'static str, make: impl Fn() -> F + Send + Sync + 'static) -> AbortHandle
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let end = Watch { tasks: self.clone(), name, critical: false, ending: Ending::Dropped };
        let tasks = self.clone();
        let task = tokio::spawn(end.over(async move {
            let (mut pause, mut begun) = (FIRST_PAUSE, Instant::now());
            while let Err(payload) = AssertUnwindSafe(async { make().await }).catch_unwind().await {
                tasks.panicked(name, &message(&*payload));
                // One that went well for long is not the one that cannot begin.
                if begun.elapsed() > LONGEST_PAUSE {
                    pause = FIRST_PAUSE;
                }
                tracing::warn!(task = name, "begins again in {pause:?}");
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = tasks.stopping() => return,
                }
                begun = Instant::now();
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }));
        task.abort_handle()
    }

    /// A task whose death the node survives, without a handle: for the many short tasks of the data path. What it served ends with it.
    pub fn detach(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        let end = Watch { tasks: self.clone(), name, critical: false, ending: Ending::Dropped };
        drop(tokio::spawn(end.over(future)));
    }

    /// Spawns on the current runtime a task that lives as long as the node: if it ends before [`Tasks::stop`], by
    /// returning or by a panic, the node stops and [`Tasks::failure`] says why.
    pub fn critical(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        let end = Watch { tasks: self.clone(), name, critical: true, ending: Ending::Dropped };
        drop(tokio::spawn(end.over(future)));
    }

    /// Runs blocking work (disk, certificates by the hundred) beside the current runtime. What another machine can hold up is not for
    /// these threads: see [`apart`].
    pub fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        tokio::task::spawn_blocking(work)
    }

    /// Starts a thread of that name with a single-threaded runtime that runs `main` to its end: one data worker. It is
    /// critical as a whole, and looked at ([`Tasks::watch_workers`]).
    ///
    /// # Errors
    /// The machine gives no thread or no runtime.
    pub fn worker<F>(
        &self,
        name: &'static str,
        index: usize,
        main: impl FnOnce() -> F + Send + 'static,
    ) -> io::Result<std::thread::JoinHandle<()>>
    where
        F: Future<Output = ()>,
    {
        let thread = format!("{name}-{index}");
        let (tasks, beat) = (self.clone(), self.shared.pulse.join(thread.clone()));
        self.thread((name, true), thread, move || async move {
            tasks.detach("pulse", beat.run());
            main().await;
        })
    }

    /// The same for what the node can do without, and what others may hold up for as long as they like: nobody looks whether it turns.
    ///
    /// # Errors
    /// The machine gives no thread or no runtime.
    pub fn sink<F>(
        &self,
        name: &'static str,
        main: impl FnOnce() -> F + Send + 'static,
    ) -> io::Result<std::thread::JoinHandle<()>>
    where
        F: Future<Output = ()>,
    {
        self.thread((name, false), name.to_owned(), main)
    }

    fn thread<F>(
        &self,
        (name, critical): (&'static str, bool),
        thread: String,
        main: impl FnOnce() -> F + Send + 'static,
    ) -> io::Result<std::thread::JoinHandle<()>>
    where
        F: Future<Output = ()>,
    {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let tasks = self.clone();
        std::thread::Builder::new().name(thread).spawn(move || {
            let end = Watch { tasks, name, critical, ending: Ending::Dropped };
            // The future is made inside the runtime, so that it may open sockets and spawn.
            // Boxed, or its code is compiled once for each way in which a runtime polls.
            let main: Pin<Box<dyn Future<Output = ()>>> = Box::pin(async move { end.over(main()).await });
            runtime.block_on(main);
        })
    }

    /// Starts a thread of that name beside the current runtime, which is looked at as the workers are.
    ///
    /// # Errors
    /// The machine gives no thread or no runtime.
    pub fn beside(&self, name: &'static str) -> io::Result<Beside> {
        let beside = Beside::start(name)?;
        let beat = self.shared.pulse.join(name.to_owned());
        let there = beside.enter();
        self.detach("pulse", beat.run());
        drop(there);
        Ok(beside)
    }

    /// Looks from the current runtime, until the node stops, whether the workers' threads turn: [`Tasks::stuck`] tells.
    pub fn watch_workers(&self) {
        let tasks = self.clone();
        self.critical("pulse", async move { tasks.shared.pulse.watch(tasks.stopping()).await });
    }

    /// The workers, and threads beside control, that do not turn, by name: what they carry hangs, though the rest of the node goes on.
    #[must_use]
    pub fn stuck(&self) -> watch::Receiver<Vec<String>> {
        self.shared.pulse.stuck()
    }

    /// Calls these workers stuck.
    #[cfg(test)]
    pub(crate) fn say_stuck(&self, workers: &[&str]) {
        self.shared.pulse.tell(workers.iter().map(ToString::to_string).collect());
    }

    /// Begins the node's end: from now on no task's end is a failure.
    pub fn stop(&self) {
        self.shared.stop.cancel();
    }

    /// Resolves when the node begins to end, by [`Tasks::stop`] or by a critical task's death.
    pub async fn stopping(&self) {
        self.shared.stop.cancelled().await;
    }

    /// True once the node has begun to end.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.shared.stop.is_cancelled()
    }

    /// The critical task whose death ended the node, if one did.
    #[must_use]
    pub fn failure(&self) -> Option<&Failure> {
        self.shared.failure.get()
    }

    /// How often tasks of each name panicked since the start.
    #[must_use]
    pub fn panics(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.shared.panics).clone()
    }

    fn panicked(&self, name: &'static str, message: &str) {
        tracing::error!(task = name, message, "a task panicked");
        let mut panics = lock(&self.shared.panics);
        *panics.entry(name).or_default() += 1;
    }
}

/// Lets hyper's HTTP/2 spawn its streams.
impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, future: F) {
        self.detach("http2", future);
    }
}

/// Lives as long as its task and tells its end, however it comes.
struct Watch {
    tasks: Tasks,
    name: &'static str,
    critical: bool,
    ending: Ending,
}

impl Watch {
    /// No async block: that would keep the future twice, and connections by the thousand are such futures.
    fn over(mut self, future: impl Future<Output = ()>) -> impl Future<Output = ()> {
        AssertUnwindSafe(future).catch_unwind().map(move |ended| {
            self.ending = match ended {
                Ok(()) => Ending::Finished,
                Err(payload) => Ending::Panicked(message(&*payload)),
            };
            drop(self);
        })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Ending::Panicked(message) = &self.ending {
            self.tasks.panicked(self.name, message);
        }
        if self.critical && !self.tasks.is_stopping() {
            let failure = Failure { task: self.name, ending: self.ending.clone() };
            tracing::error!(%failure, "a task that the node needs died");
            // Only the first death counts: those after it are its consequences.
            let _ = self.tasks.shared.failure.set(failure);
            self.tasks.stop();
        }
    }
}

fn message(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;

    /// Something that a task holds, and what closes when it has ended.
    fn held() -> (mpsc::Sender<()>, mpsc::Receiver<()>) {
        mpsc::channel(1)
    }

    #[tokio::test]
    async fn a_critical_task_that_ends_early_stops_the_node() {
        let tasks = Tasks::new();
        tasks.critical("heart", async {});
        tasks.stopping().await;
        assert_eq!(tasks.failure(), Some(&Failure { task: "heart", ending: Ending::Finished }));
    }

    #[tokio::test]
    async fn a_task_is_hardly_larger_than_its_future() {
        let future = async {
            let held = [0_u8; 4096];
            tokio::task::yield_now().await;
            let _ = std::hint::black_box(held);
        };
        let alone = size_of_val(&future);
        let end = Watch { tasks: Tasks::new(), name: "task", critical: false, ending: Ending::Dropped };
        let watched = end.over(future);
        assert!(alone >= 4096 && size_of_val(&watched) < alone + 512, "{alone} became {}", size_of_val(&watched));
        watched.await;
    }

    #[tokio::test]
    async fn a_critical_task_that_panics_stops_the_node() {
        let tasks = Tasks::new();
        tasks.critical("heart", async { panic!("broken") });
        tasks.stopping().await;
        let ending = Ending::Panicked("broken".to_owned());
        assert_eq!(tasks.failure(), Some(&Failure { task: "heart", ending }));
    }

    #[tokio::test]
    async fn what_others_may_hold_up_is_neither_looked_at_nor_needed() {
        let tasks = Tasks::new();
        let (go_on, held_up) = std::sync::mpsc::sync_channel::<()>(0);
        let sink = tasks
            .sink("sink", move || async move {
                let _ = held_up.recv();
            })
            .unwrap();
        assert_eq!(tasks.shared.pulse.watched(), [""; 0]);
        let worker = tasks.worker("worker", 0, std::future::pending::<()>).map(|_| ());
        assert_eq!((worker.is_ok(), tasks.shared.pulse.watched()), (true, vec!["worker-0".to_owned()]));
        drop(go_on);
        tokio::task::spawn_blocking(move || sink.join()).await.unwrap().unwrap();
        let panics = tasks.sink("sink", || async { panic!("broken") }).unwrap();
        tokio::task::spawn_blocking(move || panics.join()).await.unwrap().unwrap();
        assert!(!tasks.is_stopping(), "the node lives on: {:?}", tasks.failure());
        assert_eq!(tasks.panics()["sink"], 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_kept_task_begins_again_until_it_returns() {
        let tasks = Tasks::new();
        let begun = Arc::new(std::sync::atomic::AtomicU64::new(0));
        let (counted, (hold, mut ended)) = (begun.clone(), held());
        tasks.kept("hair", move || {
            let _ = &hold;
            let before = counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            async move { assert!(before == 2, "lost") }
        });
        ended.recv().await;
        assert_eq!(begun.load(std::sync::atomic::Ordering::Relaxed), 3);
        assert_eq!(tasks.panics(), BTreeMap::from([("hair", 2)]));
        let (counted, (hold, mut ended)) = (begun.clone(), held());
        tasks.kept("skin", move || {
            let _ = &hold;
            let before = counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            assert!(before > 3, "not even made");
            std::future::ready(())
        });
        ended.recv().await;
        assert_eq!(begun.load(std::sync::atomic::Ordering::Relaxed), 5);
        assert_eq!(tasks.panics(), BTreeMap::from([("hair", 2), ("skin", 1)]));
        let (hold, mut ended) = held();
        let nail = tasks.kept("nail", move || {
            let _ = &hold;
            std::future::pending()
        });
        nail.abort();
        ended.recv().await;
        assert!(!tasks.is_stopping());
    }

    #[tokio::test(start_paused = true)]
    async fn a_kept_task_that_went_well_for_long_begins_again_soon() {
        let tasks = Tasks::new();
        let (begun, origin) = (Arc::new(Mutex::new(Vec::new())), Instant::now());
        let (noted, (hold, mut ended)) = (begun.clone(), held());
        tasks.kept("hair", move || {
            let _ = &hold;
            let times = {
                let mut times = lock(&noted);
                times.push(origin.elapsed().as_secs());
                times.len()
            };
            async move {
                if times == 4 {
                    tokio::time::sleep(LONGEST_PAUSE * 2).await;
                }
                assert!(times == 6, "lost");
            }
        });
        ended.recv().await;
        assert_eq!(*lock(&begun), [0, 1, 3, 7, 128, 130]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_kept_task_does_not_begin_again_once_the_node_ends() {
        let tasks = Tasks::new();
        let (inner, (hold, mut ended)) = (tasks.clone(), held());
        tasks.kept("hair", move || {
            let _ = &hold;
            inner.stop();
            async { panic!("lost") }
        });
        ended.recv().await;
        assert_eq!(tasks.panics(), BTreeMap::from([("hair", 1)]));
    }

    #[tokio::test]
    async fn the_end_after_stop_is_no_failure() {
        let tasks = Tasks::new();
        let (inner, (hold, mut ended)) = (tasks.clone(), held());
        tasks.critical("heart", async move {
            inner.stopping().await;
            drop(hold);
        });
        tasks.stop();
        ended.recv().await;
        assert_eq!(tasks.failure(), None);
    }

    #[test]
    fn a_worker_thread_that_panics_stops_the_node() {
        let tasks = Tasks::new();
        let thread = tasks.worker("worker", 0, || async { panic!("out") }).unwrap();
        thread.join().unwrap();
        assert!(tasks.is_stopping());
        assert_eq!(tasks.failure().map(|f| f.task), Some("worker"));
    }
}
