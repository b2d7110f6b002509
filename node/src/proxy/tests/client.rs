//! A caller that sends bytes as they are written here.

use super::backend::{Buffered, header};
use std::{
    io::{ErrorKind, Write},
    net::{SocketAddr, TcpStream},
};

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: String,
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }
}

/// A connection.
pub(super) struct Client(Buffered);

impl Client {
    pub(super) fn connect(address: SocketAddr) -> Self {
        Self(Buffered::new(TcpStream::connect(address).unwrap()))
    }

    /// From an address of its own.
    pub(super) fn connect_from(from: SocketAddr, address: SocketAddr) -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&from.into()).unwrap();
        socket.connect(&address.into()).unwrap();
        Self(Buffered::new(socket.into()))
    }

    /// Says that nothing more will be sent.
    pub(super) fn half_close(&self) {
        self.0.stream.shutdown(std::net::Shutdown::Write).unwrap();
    }

    /// True if the other end closes the connection, whatever it says before; false if it is silent for ten seconds.
    pub(super) fn ended(&mut self) -> bool {
        self.0.ended()
    }

    /// Reads on until these bytes have come; false if the connection ends before, or is silent for ten seconds.
    pub(super) fn wait_for(&mut self, wanted: &str) -> bool {
        self.0.wait_for(wanted.as_bytes())
    }

    pub(super) fn write(&mut self, bytes: impl AsRef<[u8]>) {
        // The other end may have closed already: what it said before counts.
        let _ = self.0.stream.write_all(bytes.as_ref());
    }

    /// Sends bytes and reads one answer; `None` if the connection ended without one.
    pub(super) fn ask(&mut self, bytes: impl AsRef<[u8]>) -> Option<Answer> {
        self.write(bytes);
        self.answer(false)
    }

    /// Reads one answer; that to a HEAD request has no body.
    pub(super) fn answer(&mut self, to_head: bool) -> Option<Answer> {
        let head = self.0.head()?;
        let status: u16 = head.split(' ').nth(1)?.parse().ok()?;
        let bodyless = to_head || matches!(status, 101 | 204 | 304);
        let body = if bodyless { Vec::new() } else { self.0.body(&head)? };
        Some(Answer { status, head, body: String::from_utf8(body).unwrap() })
    }

    /// What comes until the end of the connection, or for 200 ms.
    pub(super) fn rest(&mut self) -> Vec<u8> {
        self.0.rest()
    }

    /// True if the other end closes the connection without a further byte.
    pub(super) fn is_closed(&mut self) -> bool {
        self.rest().is_empty() && {
            let end = std::io::Read::read(&mut self.0.stream, &mut [0; 1]);
            end.map_or_else(|error| !matches!(error.kind(), ErrorKind::WouldBlock), |length| length == 0)
        }
    }
}

/// GET of a path of a host on a connection of its own.
pub(super) fn get(address: SocketAddr, host: &str, path: &str) -> Answer {
    with(address, host, path, "")
}

/// As [`get`] with further header lines, each ended by CR LF.
pub(super) fn with(address: SocketAddr, host: &str, path: &str, headers: &str) -> Answer {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n");
    Client::connect(address).ask(request).expect("an answer")
}

/// Waits until something holds.
pub(super) fn eventually(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..12_000 {
        if holds() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    panic!("not in time: {what}");
}
