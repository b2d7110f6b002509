//! The access log: one line for each request, written by a thread of its own, so that whoever reads the log can be slow, full or
//! gone without a request noticing it. What finds no room is dropped, counted and said.

mod entry;
mod line;

pub use entry::{Entry, LogSide};
pub(super) use line::plain;

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
/// How long a stream that takes nothing is waited for before lines are given up; another process may have made it non-blocking.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two attempts to write to it.
const PAUSE: Duration = Duration::from_millis(5);
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
    waiting: Arc<AtomicUsize>,
    writer: OnceLock<Option<mpsc::Sender<Line>>>,
}

type Line = (LogFile, String);

impl AccessLog {
    /// Writes nothing until it is asked to.
    #[must_use]
    pub fn new(telemetry: &Telemetry, tasks: &Tasks) -> Self {
        let counter = |name, help| telemetry.counter(name, help, &[]);
        let waiting = Arc::<AtomicUsize>::default();
        let help = "Bytes of lines of the access log that wait to be written";
        telemetry.waiting("skein_access_log_waiting_bytes", help, Arc::clone(&waiting));
        Self(Arc::new(Shared {
            tasks: tasks.clone(),
            written: counter("skein_access_log_lines_total", "Lines of the access log that were written"),
            dropped: counter("skein_access_log_dropped_total", "Lines of the access log that were lost"),
            waiting,
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

    /// Waits until every line that was taken is written or given up, but no longer than this.
    pub async fn written(&self, at_most: Duration) {
        let all = async {
            while self.0.waiting.load(Relaxed) > 0 {
                tokio::time::sleep(PAUSE).await;
            }
        };
        if tokio::time::timeout(at_most, all).await.is_err() {
            tracing::warn!("the last lines of the access log are lost: nobody takes them");
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
        let thread = self.0.tasks.sink("access-log", move || run(lines, written, dropped, done));
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
            let (lines, error) = output.write(bytes.as_bytes());
            written.add(lines.min(count));
            if let Some(error) = error {
                tracing::debug!(%error, "the access log takes no lines");
                dropped.add(count.saturating_sub(lines));
            }
        }
        done(batch.iter().map(|(_, line)| line.len()).sum());
        batch.clear();
        complaint.of(dropped.value());
    }
}

/// One of the process's streams, by a descriptor of its own: no lock is held that logs of the node itself would wait for.
struct Output<F = File> {
    to: LogFile,
    file: io::Result<F>,
    /// The rest of a line that the stream took in part: it goes first, or the next line would be torn as well.
    rest: Vec<u8>,
}

impl Output {
    fn new(to: LogFile) -> Self {
        let descriptor = match to {
            LogFile::Stdout => io::stdout().as_fd().try_clone_to_owned(),
            LogFile::Stderr => io::stderr().as_fd().try_clone_to_owned(),
        };
        Self { to, file: descriptor.map(File::from), rest: Vec::new() }
    }
}

impl<F: Write> Output<F> {
    /// Writes whole lines. Gives how many of them were taken, and why the others were not; of a line that was taken in part the
    /// rest is kept for the next time, and it counts as taken.
    fn write(&mut self, lines: &[u8]) -> (u64, Option<io::Error>) {
        let file = match &mut self.file {
            Ok(file) => file,
            Err(error) => return (0, Some(error.kind().into())),
        };
        let (taken, failed) = put(file, &self.rest);
        self.rest.drain(..taken);
        if failed.is_some() {
            return (0, failed);
        }
        let (taken, failed) = put(file, lines);
        let (done, left) = lines.split_at(taken);
        let mut count = done.iter().filter(|byte| **byte == b'\n').count() as u64;
        if done.last().is_some_and(|last| *last != b'\n') {
            let end = left.iter().position(|byte| *byte == b'\n').map_or(left.len(), |end| end + 1);
            self.rest.extend_from_slice(&left[..end]);
            count += 1;
        }
        (count, failed)
    }
}

/// Writes as much as the stream takes: how much that was, and why it was not all.
fn put(file: &mut impl Write, bytes: &[u8]) -> (usize, Option<io::Error>) {
    let (mut taken, mut patience) = (0, PATIENCE);
    while taken < bytes.len() {
        match file.write(&bytes[taken..]) {
            Ok(0) => return (taken, Some(io::ErrorKind::WriteZero.into())),
            Ok(more) => (taken, patience) = (taken + more, PATIENCE),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && !patience.is_zero() => {
                // The log's own thread: nobody waits for it.
                std::thread::sleep(PAUSE);
                patience = patience.saturating_sub(PAUSE);
            }
            Err(error) => return (taken, Some(error)),
        }
    }
    (taken, None)
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

    /// A pipe that takes so many bytes, a few at a time, and then would block for ever.
    struct Pipe {
        room: usize,
        got: Vec<u8>,
    }

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = bytes.len().min(self.room).min(3);
            if taken == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.room -= taken;
            self.got.extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stream_that_takes_a_line_in_part_gets_its_rest_first() {
        let pipe = Pipe { room: 8, got: Vec::new() };
        let mut output = Output { to: LogFile::Stdout, file: Ok(pipe), rest: Vec::new() };
        let (taken, failed) = output.write(b"first\nsecond\nthird\n");
        assert_eq!((taken, failed.map(|error| error.kind())), (2, Some(io::ErrorKind::WouldBlock)));
        // Still full: nothing is lost of the line that was begun.
        assert_eq!(output.write(b"fourth\n").0, 0);
        output.file.as_mut().unwrap().room = 100;
        let (taken, failed) = output.write(b"fifth\n");
        assert!((taken, failed.is_none()) == (1, true));
        assert_eq!(output.file.unwrap().got, b"first\nsecond\nfifth\n");
    }

    #[tokio::test]
    async fn what_was_taken_is_waited_for() {
        let (telemetry, tasks) = (Telemetry::new(1), Tasks::new());
        let log = AccessLog::new(&telemetry, &tasks);
        log.written(Duration::from_secs(1)).await;
        let (sender, mut lines) = mpsc::channel(2);
        log.0.writer.set(Some(sender)).unwrap();
        log.write(LogFile::Stdout, "line\n".to_owned());
        let writer = log.clone();
        let (waited, ()) = tokio::join!(
            async {
                log.written(Duration::from_secs(60)).await;
                writer.0.waiting.load(Relaxed)
            },
            async {
                let (_, line) = lines.recv().await.unwrap();
                log.0.waiting.fetch_sub(line.len(), Relaxed);
            }
        );
        assert_eq!(waited, 0);
    }

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
