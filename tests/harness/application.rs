//! Applications that can be loaded: a fixed service time for a bounded number of requests at once, and a ledger that counts
//! what arrived by the number in a header. [`crate::backend`] keeps everything instead, and is slow.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// The header whose number the ledger counts.
pub const NUMBER: &str = "x-number";
/// The header whose number is the status that is answered, where a request has it.
pub const STATUS: &str = "x-answer";

/// How often each numbered request arrived, over all applications that share it.
#[derive(Debug)]
pub struct Ledger(Vec<AtomicU8>);

impl Ledger {
    /// For requests numbered below `count`.
    pub fn of(count: usize) -> Arc<Self> {
        Arc::new(Self((0..count).map(|_| AtomicU8::new(0)).collect()))
    }

    fn count(&self, number: usize) {
        if let Some(times) = self.0.get(number) {
            // It does not wrap within any test's time: a number is sent once and retried a few times.
            times.fetch_add(1, Relaxed);
        }
    }

    /// Numbers that arrived once, and more often.
    pub fn once_and_more(&self) -> (u64, u64) {
        self.0.iter().fold((0, 0), |(once, more), times| match times.load(Relaxed) {
            0 => (once, more),
            1 => (once + 1, more),
            _ => (once, more + 1),
        })
    }
}

#[derive(Debug, Default)]
struct Shared {
    service_micros: AtomicU64,
    at_once: usize,
    busy: Mutex<usize>,
    freed: Condvar,
    ledger: Option<Arc<Ledger>>,
    stop: AtomicBool,
}

/// A running one; it ends when dropped.
#[derive(Debug)]
pub struct Application {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

/// Enough for a head and a small body; a thread needs no more of its stack.
const STACK: usize = 128 * 1024;
const BUFFER: usize = 16 * 1024;

impl Application {
    /// Listens at a port of its own, serves `at_once` requests at a time (0 is any number) and answers 200 and `body`.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub fn start(body: &str, at_once: usize, ledger: Option<Arc<Ledger>>) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared { at_once, ledger, ..Shared::default() });
        let server = Arc::clone(&shared);
        let answer: Arc<[u8]> =
            format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n{body}", body.len())
                .into_bytes()
                .into();
        std::thread::Builder::new().stack_size(STACK).spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if server.stop.load(Relaxed) {
                    return;
                }
                let (server, answer) = (Arc::clone(&server), Arc::clone(&answer));
                // A connection for which there is no thread is closed: the caller sees it.
                let _ = std::thread::Builder::new().stack_size(STACK).spawn(move || serve(stream, &answer, &server));
            }
        })?;
        Ok(Self { address, shared })
    }

    /// From now on each request takes this long, once it is its turn.
    pub fn takes(&self, time: Duration) {
        self.shared.service_micros.store(u64::try_from(time.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        self.shared.stop.store(true, Relaxed);
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_millis(200));
    }
}

fn serve(mut stream: TcpStream, answer: &[u8], shared: &Shared) {
    let _ = stream.set_nodelay(true);
    let mut buffer = vec![0; BUFFER];
    let mut filled = 0;
    loop {
        let Some(end) = head(&buffer[..filled]) else {
            match stream.read(&mut buffer[filled..]) {
                // Longer than the buffer is nothing that a load sends.
                Ok(0) | Err(_) => return,
                Ok(count) => filled += count,
            }
            continue;
        };
        let whole = end + header(&buffer[..end], "content-length").unwrap_or(0);
        while filled < whole {
            match stream.read(&mut buffer[filled..]) {
                Ok(0) | Err(_) => return,
                Ok(count) => filled += count,
            }
        }
        if let (Some(ledger), Some(number)) = (&shared.ledger, header(&buffer[..end], NUMBER)) {
            ledger.count(number);
        }
        let asked = header(&buffer[..end], STATUS);
        buffer.copy_within(whole..filled, 0);
        filled -= whole;
        work(shared);
        let other = asked.map(|status| format!("HTTP/1.1 {status} asked\r\ncontent-length: 0\r\n\r\n"));
        if shared.stop.load(Relaxed) || stream.write_all(other.as_deref().map_or(answer, str::as_bytes)).is_err() {
            return;
        }
    }
}

/// Waits for its turn and takes its time.
fn work(shared: &Shared) {
    let time = Duration::from_micros(shared.service_micros.load(Relaxed));
    if time.is_zero() {
        return;
    }
    if shared.at_once == 0 {
        std::thread::sleep(time);
        return;
    }
    let mut busy = shared.busy.lock().expect("no panic holds it");
    while *busy >= shared.at_once {
        busy = shared.freed.wait(busy).expect("no panic holds it");
    }
    *busy += 1;
    drop(busy);
    std::thread::sleep(time);
    *shared.busy.lock().expect("no panic holds it") -= 1;
    shared.freed.notify_one();
}

/// Where the head ends, behind its empty line.
fn head(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
}

/// The number in a header.
fn header(head: &[u8], name: &str) -> Option<usize> {
    head.split(|byte| *byte == b'\n').skip(1).find_map(|line| {
        let (key, value) = line.split_at_checked(name.len())?;
        let value = key.eq_ignore_ascii_case(name.as_bytes()).then_some(value)?.strip_prefix(b":")?;
        std::str::from_utf8(value).ok()?.trim().parse().ok()
    })
}
