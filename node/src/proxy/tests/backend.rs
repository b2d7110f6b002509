//! An application that records exactly what arrives, byte by byte, and answers by a script.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    time::Duration,
};

/// How long a connection may be silent before nothing more is expected of it.
const SILENCE: Duration = Duration::from_secs(10);

/// A request as it arrived.
#[derive(Debug, Clone)]
pub(super) struct Arrived {
    /// Request line and headers, up to and including the empty line.
    pub(super) head: String,
    /// The body, chunks put together.
    pub(super) body: Vec<u8>,
    /// Number of the connection, from 0.
    pub(super) connection: usize,
}

impl Arrived {
    pub(super) fn line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }
}

/// A header's value in the text of a head.
pub(super) fn header<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.lines().skip(1).find_map(|line| {
        let (known, value) = line.split_once(':')?;
        known.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

type Script = dyn Fn(&Arrived) -> Vec<u8> + Send + Sync;

/// The application.
pub(super) struct Backend {
    pub(super) address: SocketAddr,
    arrived: Arc<Mutex<Vec<Arrived>>>,
}

/// 200 with this text.
pub(super) fn ok(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

impl Backend {
    /// Answers everything with its name.
    pub(super) fn named(name: &'static str) -> Self {
        Self::scripted(move |_| ok(name))
    }

    /// Answers with the bytes that the script gives; an empty answer closes the connection. A script's answer with
    /// `Connection: close` closes it behind the answer.
    pub(super) fn scripted(script: impl Fn(&Arrived) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let arrived = Arc::new(Mutex::new(Vec::new()));
        let (script, records): (Arc<Script>, _) = (Arc::new(script), Arc::clone(&arrived));
        std::thread::spawn(move || {
            for (connection, stream) in listener.incoming().enumerate() {
                let (script, records) = (Arc::clone(&script), Arc::clone(&records));
                std::thread::spawn(move || serve(stream.unwrap(), connection, &*script, &records));
            }
        });
        Self { address, arrived }
    }

    pub(super) fn arrived(&self) -> Vec<Arrived> {
        self.arrived.lock().unwrap().clone()
    }

    pub(super) fn last(&self) -> Arrived {
        self.arrived().pop().expect("nothing arrived")
    }
}

fn serve(stream: TcpStream, connection: usize, script: &Script, records: &Mutex<Vec<Arrived>>) {
    let mut stream = Buffered::new(stream);
    while let Some(head) = stream.head() {
        let body = stream.body(&head).unwrap_or_default();
        let arrived = Arrived { head, body, connection };
        records.lock().unwrap().push(arrived.clone());
        let answer = script(&arrived);
        if answer.is_empty() || stream.stream.write_all(&answer).is_err() {
            return;
        }
        if String::from_utf8_lossy(&answer).contains("Connection: close") {
            return;
        }
    }
}

/// A stream that is read by messages.
pub(super) struct Buffered {
    pub(super) stream: TcpStream,
    bytes: Vec<u8>,
}

impl Buffered {
    pub(super) fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(SILENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, bytes: Vec::new() }
    }

    /// False at the end of the stream.
    pub(super) fn fill(&mut self) -> bool {
        let mut more = [0; 16 * 1024];
        match self.stream.read(&mut more) {
            Ok(length) if length > 0 => {
                self.bytes.extend_from_slice(&more[..length]);
                true
            }
            Ok(_) | Err(_) => false,
        }
    }

    /// True at the end of the stream, false if nothing comes for ten seconds.
    pub(super) fn ended(&mut self) -> bool {
        loop {
            match self.stream.read(&mut [0; 1024]) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
            }
        }
    }

    /// False at the end of the stream, or if nothing comes for ten seconds.
    pub(super) fn wait_for(&mut self, wanted: &[u8]) -> bool {
        loop {
            if self.bytes.windows(wanted.len()).any(|window| window == wanted) {
                return true;
            }
            if !self.fill() {
                return false;
            }
        }
    }

    pub(super) fn head(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = self.bytes.drain(..end + 4).collect();
                return Some(String::from_utf8(head).unwrap());
            }
            if !self.fill() {
                return None;
            }
        }
    }

    fn take(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.bytes.len() < length {
            if !self.fill() {
                return None;
            }
        }
        Some(self.bytes.drain(..length).collect())
    }

    fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.bytes.windows(2).position(|window| window == b"\r\n") {
                let line = self.take(end + 2)?;
                return Some(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            if !self.fill() {
                return None;
            }
        }
    }

    /// The body that a head announces; `None` if the stream ends within.
    pub(super) fn body(&mut self, head: &str) -> Option<Vec<u8>> {
        if header(head, "transfer-encoding").is_some() {
            let mut body = Vec::new();
            loop {
                let size = usize::from_str_radix(self.line()?.split(';').next()?, 16).ok()?;
                if size == 0 {
                    while !self.line()?.is_empty() {}
                    return Some(body);
                }
                body.extend(self.take(size)?);
                self.take(2)?;
            }
        }
        let length = header(head, "content-length").map_or(0, |length| length.parse().unwrap());
        self.take(length)
    }

    /// What comes until the end of the stream, or for 200 ms.
    pub(super) fn rest(&mut self) -> Vec<u8> {
        self.stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        while self.fill() {}
        self.stream.set_read_timeout(Some(SILENCE)).unwrap();
        std::mem::take(&mut self.bytes)
    }
}
