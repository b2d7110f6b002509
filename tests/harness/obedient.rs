//! Applications that fail as they are told: by HTTP/1.1 as the path of a request says, by HTTP/2 with one code for every stream.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use socket2::SockRef;

use crate::frames::{flag, frame, kind};

/// The path `/WORD/...` of a request says how it ends: `status/NNN` with this status, `grpc/N` with this gRPC status among the
/// headers, `reset` without an answer, `late` not before the application ends, `broken` within its body once [`Obedient::break_off`] is
/// called, all others with 200. No connection is used again.
#[derive(Debug)]
pub struct Obedient {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    arrived: Mutex<BTreeMap<String, usize>>,
    told: (Mutex<Told>, Condvar),
}

/// What those wait for that do not answer at once.
#[derive(Debug, Default)]
struct Told {
    stop: bool,
    break_off: bool,
}

/// Nobody waits longer for an answer that is late.
const LATE: Duration = Duration::from_secs(30);

impl Obedient {
    /// Listens at a port of its own.
    ///
    /// # Errors
    /// Loopback has no free port.
    pub fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::<Shared>::default();
        let server = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if server.is_stopped() {
                    return;
                }
                let server = Arc::clone(&server);
                std::thread::spawn(move || server.serve(stream));
            }
        });
        Ok(Self { address, shared })
    }

    /// How many requests for exactly this path have arrived.
    ///
    /// # Panics
    /// When a thread of it did.
    pub fn arrived(&self, path: &str) -> usize {
        self.shared.arrived.lock().expect("nobody panics with it").get(path).copied().unwrap_or(0)
    }

    /// Ends the answers that have begun and those that will.
    pub fn break_off(&self) {
        self.shared.tell(|told| told.break_off = true);
    }
}

impl Drop for Obedient {
    fn drop(&mut self) {
        self.shared.tell(|told| told.stop = true);
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_millis(200));
    }
}

impl Shared {
    fn is_stopped(&self) -> bool {
        self.told.0.lock().expect("nobody panics with it").stop
    }

    fn tell(&self, what: impl FnOnce(&mut Told)) {
        what(&mut self.told.0.lock().expect("nobody panics with it"));
        self.told.1.notify_all();
    }

    fn wait(&self, until: impl Fn(&Told) -> bool) {
        let told = self.told.0.lock().expect("nobody panics with it");
        drop(self.told.1.wait_timeout_while(told, LATE, |told| !until(told)));
    }

    fn serve(&self, mut stream: TcpStream) {
        let Some(path) = path(&mut stream) else { return };
        *self.arrived.lock().expect("nobody panics with it").entry(path.clone()).or_default() += 1;
        let words: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let answer = match words[..] {
            ["status", status, ..] => format!("HTTP/1.1 {status} x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"),
            ["grpc", status, ..] => format!(
                "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: application/grpc\r\ngrpc-status: {status}\r\ncontent-length: 0\r\n\r\n"
            ),
            ["reset", ..] => return reset(&stream),
            ["late", ..] => return self.wait(|told| told.stop),
            ["broken", ..] => {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nhalf");
                return self.wait(|told| told.stop || told.break_off);
            }
            _ => "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok".to_owned(),
        };
        let _ = stream.write_all(answer.as_bytes());
    }
}

/// The path of a request without a body.
fn path(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        let mut chunk = [0; 4096];
        let length = stream.read(&mut chunk).ok().filter(|length| *length > 0)?;
        head.extend_from_slice(&chunk[..length]);
    }
    String::from_utf8_lossy(&head).split(' ').nth(1).map(str::to_owned)
}

/// What its drop sends from now on is RST.
fn reset(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// An application of HTTP/2 that resets every stream.
#[derive(Debug)]
pub struct Resetting {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<(AtomicUsize, AtomicBool)>,
}

impl Resetting {
    /// Listens at a port of its own and resets with this code.
    ///
    /// # Errors
    /// Loopback has no free port.
    pub fn start(code: u32) -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::<(AtomicUsize, AtomicBool)>::default();
        let server = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if server.1.load(SeqCst) {
                    return;
                }
                let server = Arc::clone(&server);
                std::thread::spawn(move || reset_streams(stream, code, &server.0));
            }
        });
        Ok(Self { address, shared })
    }

    /// How many streams were begun.
    pub fn streams(&self) -> usize {
        self.shared.0.load(SeqCst)
    }
}

impl Drop for Resetting {
    fn drop(&mut self) {
        self.shared.1.store(true, SeqCst);
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_millis(200));
    }
}

fn reset_streams(mut stream: TcpStream, code: u32, streams: &AtomicUsize) -> Option<()> {
    stream.write_all(&frame(kind::SETTINGS, 0, 0, &[])).ok()?;
    // The preface.
    stream.read_exact(&mut [0; 24]).ok()?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        stream.read_exact(&mut vec![0; usize::try_from(length).ok()?]).ok()?;
        let answer = match (head[3], head[4] & flag::ACK) {
            (kind::SETTINGS, 0) => frame(kind::SETTINGS, flag::ACK, 0, &[]),
            (kind::PING, 0) => frame(kind::PING, flag::ACK, 0, &[0; 8]),
            (kind::HEADERS, _) => {
                streams.fetch_add(1, SeqCst);
                let number = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
                frame(kind::RST_STREAM, 0, number, &code.to_be_bytes())
            }
            _ => continue,
        };
        stream.write_all(&answer).ok()?;
    }
}
