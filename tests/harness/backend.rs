//! Applications behind nodes: they answer with their own name and keep what arrived, byte for byte.

use crate::http;
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering},
    },
    time::Duration,
};

/// What one request looked like on arrival.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// Request line and header lines, as they came.
    pub head: String,
    /// The body, as many bytes as Content-Length or the chunks said.
    pub body: Vec<u8>,
}

impl Arrival {
    /// First value of a header, name in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// The request line.
    pub fn line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }
}

#[derive(Debug, Default)]
struct Shared {
    arrivals: Mutex<Vec<Arrival>>,
    raw: Mutex<Vec<u8>>,
    status: AtomicU16,
    delay_ms: AtomicU64,
    /// Whether answers wait, and the word that they do no more.
    held: (Mutex<bool>, Condvar),
    calls: Mutex<Option<(SocketAddr, String)>>,
    headers: Mutex<String>,
    odd: Mutex<Option<(String, u16)>>,
    stop: AtomicBool,
}

/// A recording HTTP/1.1 server; it ends when dropped.
#[derive(Debug)]
pub struct Backend {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

/// The most arrivals kept.
const KEPT: usize = 100_000;

impl Backend {
    /// Listens at `address` (port 0 works) and answers every request with 200 and `body`.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub fn start(address: SocketAddr, body: &str) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared { status: AtomicU16::new(200), ..Shared::default() });
        let (body, server) = (Arc::<str>::from(body), shared.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if server.stop.load(Ordering::Relaxed) {
                    return;
                }
                let (body, server) = (body.clone(), server.clone());
                std::thread::spawn(move || serve(stream, &body, &server));
            }
        });
        Ok(Self { address, shared })
    }

    /// From now on every answer has this status.
    pub fn answer_with(&self, status: u16) {
        self.shared.status.store(status, Ordering::Relaxed);
    }

    /// From now on answers to paths that begin so have this status, whatever the others have.
    pub fn answer_path_with(&self, path: &str, status: u16) {
        *self.shared.odd.lock().expect("no panic holds it") = Some((path.to_owned(), status));
    }

    /// From now on every answer comes so much later.
    pub fn delay(&self, by: Duration) {
        self.shared.delay_ms.store(u64::try_from(by.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// From now on answers wait until [`Backend::release`].
    pub fn hold(&self) {
        *self.shared.held.0.lock().expect("no panic holds it") = true;
    }

    /// Lets go the answers that wait, and those that come.
    pub fn release(&self) {
        *self.shared.held.0.lock().expect("no panic holds it") = false;
        self.shared.held.1.notify_all();
    }

    /// From now on every answer has these header lines, too, each ended by CR LF.
    pub fn answer_with_headers(&self, lines: &str) {
        lines.clone_into(&mut self.shared.headers.lock().expect("no panic holds it"));
    }

    /// From now on it asks `host` for the same path before it answers, through a proxy port.
    pub fn call_on(&self, via: SocketAddr, host: &str) {
        *self.shared.calls.lock().expect("no panic holds it") = Some((via, host.to_owned()));
    }

    /// What has arrived so far.
    pub fn arrivals(&self) -> Vec<Arrival> {
        self.shared.arrivals.lock().expect("no panic holds it").clone()
    }

    /// All bytes that have arrived so far, over all connections.
    pub fn raw(&self) -> Vec<u8> {
        self.shared.raw.lock().expect("no panic holds it").clone()
    }

    /// Forgets what has arrived.
    pub fn forget(&self) {
        self.shared.arrivals.lock().expect("no panic holds it").clear();
        self.shared.raw.lock().expect("no panic holds it").clear();
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.release();
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_millis(200));
    }
}

fn serve(mut stream: TcpStream, body: &str, shared: &Shared) {
    let _ = stream.set_nodelay(true);
    let mut buffer = Vec::new();
    while let Some(arrival) = read_request(&mut stream, &mut buffer, shared) {
        let head_only = arrival.line().starts_with("HEAD ");
        let arrived_at = arrival.line().split(' ').nth(1).unwrap_or("/").to_owned();
        {
            let mut arrivals = shared.arrivals.lock().expect("no panic holds it");
            if arrivals.len() < KEPT {
                arrivals.push(arrival);
            }
        }
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        std::thread::sleep(Duration::from_millis(shared.delay_ms.load(Ordering::Relaxed)));
        let held = shared.held.0.lock().expect("no panic holds it");
        drop(shared.held.1.wait_while(held, |held| *held).expect("no panic holds it"));
        let calls = shared.calls.lock().expect("no panic holds it").clone();
        if let Some((via, host)) = calls {
            // The answer is of no interest, only that it took its time.
            let _ = http::get(via, &host, arrived_at.as_str());
        }
        let odd = shared.odd.lock().expect("no panic holds it").clone();
        let odd = odd.filter(|(path, _)| arrived_at.starts_with(path)).map(|(_, status)| status);
        let status = odd.unwrap_or_else(|| shared.status.load(Ordering::Relaxed));
        let more = shared.headers.lock().expect("no panic holds it").clone();
        let shown = if head_only { "" } else { body };
        let answer = format!(
            "HTTP/1.1 {status} x\r\ncontent-type: text/plain\r\n{more}content-length: {}\r\n\r\n{shown}",
            body.len()
        );
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn more(stream: &mut TcpStream, buffer: &mut Vec<u8>, shared: &Shared) -> Option<()> {
    let mut chunk = [0; 16 * 1024];
    let count = stream.read(&mut chunk).ok().filter(|count| *count > 0)?;
    buffer.extend_from_slice(&chunk[..count]);
    let mut raw = shared.raw.lock().expect("no panic holds it");
    if raw.len() < 64 * 1024 * 1024 {
        raw.extend_from_slice(&chunk[..count]);
    }
    Some(())
}

fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>, shared: &Shared) -> Option<Arrival> {
    let end = loop {
        if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
        more(stream, buffer, shared)?;
    };
    let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
    buffer.drain(..end + 4);
    let mut arrival = Arrival { head, body: Vec::new() };
    if arrival.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        loop {
            let line = take_line(stream, buffer, shared)?;
            let size = usize::from_str_radix(line.split(';').next()?.trim(), 16).ok()?;
            if size == 0 {
                while !take_line(stream, buffer, shared)?.is_empty() {}
                break;
            }
            arrival.body.extend(take(stream, buffer, shared, size)?);
            take_line(stream, buffer, shared)?;
        }
    } else if let Some(length) = arrival.header("content-length").and_then(|text| text.parse().ok()) {
        arrival.body = take(stream, buffer, shared, length)?;
    }
    Some(arrival)
}

fn take(stream: &mut TcpStream, buffer: &mut Vec<u8>, shared: &Shared, count: usize) -> Option<Vec<u8>> {
    while buffer.len() < count {
        more(stream, buffer, shared)?;
    }
    Some(buffer.drain(..count).collect())
}

fn take_line(stream: &mut TcpStream, buffer: &mut Vec<u8>, shared: &Shared) -> Option<String> {
    loop {
        if let Some(end) = buffer.windows(2).position(|pair| pair == b"\r\n") {
            let line = String::from_utf8_lossy(&buffer[..end]).into_owned();
            buffer.drain(..end + 2);
            return Some(line);
        }
        more(stream, buffer, shared)?;
    }
}
