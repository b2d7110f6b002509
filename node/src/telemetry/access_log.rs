//! The access log: one line for each request, written by a thread of its own, so that whoever reads the log can be slow, full or
//! gone without a request noticing it. What finds no room is dropped, counted and said.

mod line;

pub use line::Entry;

use super::{Counter, Telemetry};
use crate::{clock, tasks::Tasks};
use policy::kinds::LogFile;
use std::{
    fs::File,
    io::{self, Write},
    os::fd::AsFd,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::sync::mpsc;

/// Lines that wait for the writer.
const LINES: usize = 65_536;
/// Bytes of all of them.
const BYTES: usize = 8 * 1024 * 1024;
/// Lines that are written at once.
const BATCH: usize = 256;
/// Longest time between two complaints about lost lines.
const COMPLAINT: Duration = Duration::from_secs(10);

/// See the module. Cheap to clone; the thread begins with the first line.
#[derive(Debug, Clone)]
pub struct AccessLog(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    tasks: Tasks,
    written: Counter,
    dropped: Counter,
    /// Bytes that wait.
    waiting: AtomicUsize,
    writer: OnceLock<Option<mpsc::Sender<Line>>>,
}

type Line = (LogFile, String);

impl AccessLog {
    /// Writes nothing until it is asked to.
    #[must_use]
    pub fn new(telemetry: &Telemetry, tasks: &Tasks) -> Self {
        let counter = |name, help| telemetry.counter(name, help, &[]);
        Self(Arc::new(Shared {
            tasks: tasks.clone(),
            written: counter("skein_access_log_lines_total", "Lines of the access log that were written"),
            dropped: counter("skein_access_log_dropped_total", "Lines of the access log that were lost"),
            waiting: AtomicUsize::new(0),
            writer: OnceLock::new(),
        }))
    }

    /// Has a line written, with its line end. Never waits.
    pub fn write(&self, to: LogFile, line: String) {
        let (shared, length) = (&self.0, line.len());
        let fits = shared.waiting.fetch_add(length, Relaxed) + length <= BYTES;
        let writer = shared.writer.get_or_init(|| self.start());
        if !fits || writer.as_ref().is_none_or(|writer| writer.try_send((to, line)).is_err()) {
            shared.waiting.fetch_sub(length, Relaxed);
            shared.dropped.add(1);
        }
    }

    fn start(&self) -> Option<mpsc::Sender<Line>> {
        let (sender, lines) = mpsc::channel(LINES);
        // Not the log itself: it would hold the sender, and the thread would never end.
        let (written, dropped, weak) = (self.0.written.clone(), self.0.dropped.clone(), Arc::downgrade(&self.0));
        let done = move |bytes: usize| {
            if let Some(shared) = weak.upgrade() {
                shared.waiting.fetch_sub(bytes, Relaxed);
            }
        };
        let thread = self.0.tasks.worker("access-log", 0, move || run(lines, written, dropped, done));
        match thread {
            Ok(_) => Some(sender),
            Err(error) => {
                tracing::error!(%error, "there is no thread for the access log");
                None
            }
        }
    }
}

/// Writes lines until nobody can send any more.
async fn run(mut lines: mpsc::Receiver<Line>, written: Counter, dropped: Counter, done: impl Fn(usize)) {
    let mut outputs = [Output::new(LogFile::Stdout), Output::new(LogFile::Stderr)];
    let mut batch = Vec::with_capacity(BATCH);
    let mut complaint = Complaint { said: dropped.value(), at: None };
    while lines.recv_many(&mut batch, BATCH).await > 0 {
        for output in &mut outputs {
            let own = || batch.iter().filter(|(to, _)| *to == output.to);
            let count = own().count() as u64;
            if count == 0 {
                continue;
            }
            let bytes: String = own().map(|(_, line)| line.as_str()).collect();
            match output.write(bytes.as_bytes()) {
                Ok(()) => written.add(count),
                Err(error) => {
                    tracing::debug!(%error, "the access log takes no lines");
                    dropped.add(count);
                }
            }
        }
        done(batch.iter().map(|(_, line)| line.len()).sum());
        batch.clear();
        complaint.of(dropped.value());
    }
}

/// One of the process's streams, by a descriptor of its own: no lock is held that logs of the node itself would wait for.
struct Output {
    to: LogFile,
    file: io::Result<File>,
}

impl Output {
    fn new(to: LogFile) -> Self {
        let descriptor = match to {
            LogFile::Stdout => io::stdout().as_fd().try_clone_to_owned(),
            LogFile::Stderr => io::stderr().as_fd().try_clone_to_owned(),
        };
        Self { to, file: descriptor.map(File::from) }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.file {
            Ok(file) => file.write_all(bytes),
            Err(error) => Err(error.kind().into()),
        }
    }
}

/// Says at times how many lines were lost.
struct Complaint {
    said: u64,
    at: Option<Instant>,
}

impl Complaint {
    fn of(&mut self, dropped: u64) {
        let now = clock::monotonic();
        let is_due = self.at.is_none_or(|at| now.duration_since(at) >= COMPLAINT);
        if dropped > self.said && is_due {
            tracing::warn!(lines = dropped - self.said, "lines of the access log were lost");
            (self.said, self.at) = (dropped, Some(now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_finds_no_room_is_dropped_and_counted() {
        let (telemetry, tasks) = (Telemetry::new(1), Tasks::new());
        let log = AccessLog::new(&telemetry, &tasks);
        // A writer that takes nothing.
        let (sender, lines) = mpsc::channel(2);
        log.0.writer.set(Some(sender)).unwrap();
        for _ in 0..5 {
            log.write(LogFile::Stdout, "line\n".to_owned());
        }
        assert_eq!((log.0.dropped.value(), log.0.waiting.load(Relaxed)), (3, 10));
        drop(lines);
        log.write(LogFile::Stdout, "x".repeat(BYTES));
        assert_eq!((log.0.dropped.value(), log.0.waiting.load(Relaxed)), (4, 10));
    }
}
