//! Export by OTLP: spans and lines of the access log go to collectors, from a thread of its own, so that a collector can be slow, full
//! or gone without a request noticing it. What finds no room is dropped, counted and said.

mod environment;
mod lane;
mod messages;
mod send;
mod spans;
mod target;

pub use environment::Environment;
pub(super) use send::LOGS_EXPORT;
pub use send::{Answer, Errand, collect};

use super::{Counter, Finished, Telemetry};
use crate::{clock, tasks::Tasks};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use lane::{INTERVAL, Lanes};
use send::Signal;
use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::sync::{Notify, mpsc};

/// Requests that wait for the exporter.
const QUEUE: usize = 8_192;
/// Bytes of all that waits, sent or not.
const BYTES: usize = 16 * 1024 * 1024;
/// Requests that are taken up at once.
const BATCH: usize = 256;
/// Longest time between two complaints.
const COMPLAINT: Duration = Duration::from_secs(10);
/// Between two looks whether all is sent.
const PAUSE: Duration = Duration::from_millis(5);

/// See the module. Cheap to clone; the thread begins with the first request.
#[derive(Debug, Clone)]
pub struct Exporter(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    tasks: Tasks,
    node: String,
    environment: Arc<Environment>,
    counters: Counters,
    errands: mpsc::Sender<Errand>,
    waiting: Arc<AtomicUsize>,
    hurry: Arc<Notify>,
    queue: OnceLock<Option<mpsc::Sender<Box<Queued>>>>,
}

#[derive(Debug)]
struct Queued {
    finished: Finished,
    /// Bytes that it counts as.
    size: usize,
}

/// What became of spans and records.
#[derive(Debug, Clone)]
struct Counters {
    exported: [Counter; 2],
    full: [Counter; 2],
    failed: [Counter; 2],
    refused: [Counter; 2],
}

impl Counters {
    fn new(telemetry: &Telemetry) -> Self {
        let signals = [Signal::Traces, Signal::Logs];
        let exported = signals.map(|signal| {
            let help = "Spans and records of the access log that collectors took";
            telemetry.counter("skein_otlp_exported_total", help, &[("signal", signal.name())])
        });
        let dropped = |reason: &str| {
            signals.map(|signal| {
                let help = "Spans and records of the access log that were lost on the way to collectors";
                telemetry.counter("skein_otlp_dropped_total", help, &[("signal", signal.name()), ("reason", reason)])
            })
        };
        Self { exported, full: dropped("full"), failed: dropped("failed"), refused: dropped("refused") }
    }

    fn lost(&self) -> u64 {
        [&self.full, &self.failed, &self.refused].into_iter().flatten().map(Counter::value).sum()
    }
}

const fn of(counters: &[Counter; 2], signal: Signal) -> &Counter {
    match signal {
        Signal::Traces => &counters[0],
        Signal::Logs => &counters[1],
    }
}

impl Exporter {
    /// Sends nothing until it is given something. What goes through the mesh is put into `errands`.
    #[must_use]
    pub fn new(telemetry: &Telemetry, tasks: &Tasks, node: &str, errands: mpsc::Sender<Errand>) -> Self {
        let waiting = Arc::<AtomicUsize>::default();
        let help = "Bytes of spans and records that wait for collectors";
        telemetry.waiting("skein_otlp_waiting_bytes", help, Arc::clone(&waiting));
        Self(Arc::new(Shared {
            tasks: tasks.clone(),
            node: node.to_owned(),
            environment: telemetry.environment(),
            counters: Counters::new(telemetry),
            errands,
            waiting,
            hurry: Arc::default(),
            queue: OnceLock::new(),
        }))
    }

    /// What the node's environment says.
    #[must_use]
    pub fn environment(&self) -> &Environment {
        &self.0.environment
    }

    /// Has a span, records or both sent. Never waits.
    pub fn take(&self, finished: Finished) {
        let shared = &self.0;
        let size = size(&finished);
        let (spans, lines) = (u64::from(finished.observed.span.is_some()), finished.lines.len() as u64);
        let fits = shared.waiting.fetch_add(size, Relaxed) + size <= BYTES;
        let queue = shared.queue.get_or_init(|| self.start());
        let queued = Box::new(Queued { finished, size });
        if !fits || queue.as_ref().is_none_or(|queue| queue.try_send(queued).is_err()) {
            shared.waiting.fetch_sub(size, Relaxed);
            of(&shared.counters.full, Signal::Traces).add(spans);
            of(&shared.counters.full, Signal::Logs).add(lines);
        }
    }

    /// Waits until all that was taken is sent or given up, but no longer than this.
    pub async fn sent(&self, at_most: Duration) {
        let all = async {
            while self.0.waiting.load(Relaxed) > 0 {
                self.0.hurry.notify_one();
                tokio::time::sleep(PAUSE).await;
            }
        };
        if tokio::time::timeout(at_most, all).await.is_err() {
            tracing::warn!("the last spans and records are lost: no collector takes them");
        }
    }

    fn start(&self) -> Option<mpsc::Sender<Box<Queued>>> {
        let (sender, queue) = mpsc::channel(QUEUE);
        let shared = &self.0;
        // Not the exporter itself: it would hold the sender, and the thread would never end.
        let lanes = Lanes::new(
            (shared.node.clone(), Arc::clone(&shared.environment)),
            (shared.counters.clone(), Arc::clone(&shared.waiting)),
            (shared.errands.clone(), shared.tasks.clone()),
        );
        let hurry = Arc::clone(&shared.hurry);
        let thread = shared.tasks.sink("otlp", move || run(queue, lanes, hurry));
        match thread {
            Ok(_) => Some(sender),
            Err(error) => {
                tracing::error!(%error, "there is no thread for the export of spans");
                None
            }
        }
    }
}

/// Sends until nobody can give anything any more.
async fn run(mut queue: mpsc::Receiver<Box<Queued>>, mut lanes: Lanes, hurry: Arc<Notify>) {
    let mut batch = Vec::with_capacity(BATCH);
    let (mut due, mut own_due) = (tokio::time::interval(INTERVAL), tokio::time::interval(lanes.delay()));
    let mut sending = FuturesUnordered::new();
    let mut complaint = Complaint { said: lanes.counters.lost(), at: None };
    loop {
        tokio::select! {
            count = queue.recv_many(&mut batch, BATCH) => {
                if count == 0 {
                    return;
                }
                batch.drain(..).for_each(|queued| lanes.add(*queued));
                sending.extend(lanes.full());
            }
            () = hurry.notified() => sending.extend(lanes.all()),
            _ = own_due.tick() => sending.extend(lanes.own()),
            _ = due.tick() => {
                sending.extend(lanes.providers());
                complaint.of(lanes.counters.lost(), lanes.trouble.take());
            }
            Some(sent) = sending.next() => {
                lanes.sent(sent);
                sending.extend(lanes.full());
            }
        }
    }
}

/// Says at times how much was lost, and why.
struct Complaint {
    said: u64,
    at: Option<Instant>,
}

impl Complaint {
    fn of(&mut self, lost: u64, why: Option<String>) {
        let now = clock::monotonic();
        let is_due = self.at.is_none_or(|at| now.duration_since(at) >= COMPLAINT);
        if lost > self.said && is_due {
            let why = why.unwrap_or_else(|| "there was no room".to_owned());
            tracing::warn!(lost = lost - self.said, why, "spans or records of the access log were lost");
            (self.said, self.at) = (lost, Some(now));
        }
    }
}

/// About as many bytes as are kept of it.
fn size(finished: &Finished) -> usize {
    let entry = &finished.observed.entry;
    let headers = |headers: &http::HeaderMap| {
        headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 64).sum::<usize>()
    };
    1_024 + entry.path.len() + entry.authority.len() + headers(&entry.request) + headers(&entry.response)
}

#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod tests;
