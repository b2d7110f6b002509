//! A client of HTTP/2 that writes frame by frame: it sends what it is told, also what no library would.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// Kinds of frames (RFC 9113, 6).
pub mod kind {
    #![expect(missing_docs, reason = "the names are the RFC's")]
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Flags of frames.
pub mod flag {
    #![expect(missing_docs, reason = "the names are the RFC's")]
    pub const END_STREAM: u8 = 1;
    pub const ACK: u8 = 1;
    pub const END_HEADERS: u8 = 4;
}

/// A header's name and value, whatever bytes they are of.
pub type Field<'a> = (&'a [u8], &'a [u8]);

/// What became of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A response with this status.
    Status(u16),
    /// RST_STREAM with this code.
    Reset(u32),
    /// GOAWAY with this code.
    GoAway(u32),
    /// The connection ended without a word.
    Closed,
    /// Nothing for ten seconds.
    Silence,
}

/// A frame that came.
#[derive(Debug)]
pub struct Frame {
    /// One of [`kind`].
    pub kind: u8,
    /// Bits of [`flag`].
    pub flags: u8,
    /// 0 is the connection.
    pub stream: u32,
    /// What it holds.
    pub payload: Vec<u8>,
}

/// A connection.
#[derive(Debug)]
pub struct Frames {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// The bytes of a frame. Its length is what the payload has.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A block of headers: literals that no table keeps.
pub fn block(fields: &[Field<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        string(&mut bytes, name);
        string(&mut bytes, value);
    }
    bytes
}

/// A literal that the table keeps, as entry 62 if it is the first.
pub fn kept(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x40];
    string(&mut bytes, name);
    string(&mut bytes, value);
    bytes
}

fn string(bytes: &mut Vec<u8>, text: &[u8]) {
    match text.len() {
        short @ 0..127 => bytes.push(u8::try_from(short).unwrap_or(0)),
        long => {
            bytes.push(127);
            let mut rest = long - 127;
            while rest >= 128 {
                bytes.push(u8::try_from(rest % 128).unwrap_or(0) | 128);
                rest /= 128;
            }
            bytes.push(u8::try_from(rest).unwrap_or(0));
        }
    }
    bytes.extend_from_slice(text);
}

/// GET of a path of a host.
pub fn get(host: &str, path: &str) -> Vec<u8> {
    block(&[(b":method", b"GET"), (b":scheme", b"http"), (b":authority", host.as_bytes()), (b":path", path.as_bytes())])
}

impl Frames {
    /// Connects with prior knowledge and sends empty settings.
    ///
    /// # Errors
    /// The address refuses.
    pub fn open(to: SocketAddr) -> std::io::Result<Self> {
        Self::open_with(to, &[])
    }

    /// As [`Frames::open`] with these settings.
    ///
    /// # Errors
    /// The address refuses.
    pub fn open_with(to: SocketAddr, settings: &[u8]) -> std::io::Result<Self> {
        let stream = TcpStream::connect_timeout(&to, Duration::from_secs(3))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.set_write_timeout(Some(Duration::from_secs(10)))?;
        stream.set_nodelay(true)?;
        let mut frames = Self { stream, buffer: Vec::new() };
        frames.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        frames.send(&frame(kind::SETTINGS, 0, 0, settings));
        Ok(frames)
    }

    /// Sends bytes as they are; false if the peer takes no more.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// Begins a stream with a block of headers.
    pub fn headers(&mut self, stream: u32, block: &[u8], flags: u8) -> bool {
        self.send(&frame(kind::HEADERS, flags | flag::END_HEADERS, stream, block))
    }

    /// The next frame; `Err` at the end or when nothing comes.
    ///
    /// # Errors
    /// [`Outcome::Closed`] or [`Outcome::Silence`].
    pub fn receive(&mut self) -> Result<Frame, Outcome> {
        let head = self.exactly(9)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let payload = self.exactly(usize::try_from(length).unwrap_or(0))?;
        Ok(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    fn exactly(&mut self, count: usize) -> Result<Vec<u8>, Outcome> {
        while self.buffer.len() < count {
            let mut chunk = [0; 16 * 1024];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(Outcome::Closed),
                Ok(length) => self.buffer.extend_from_slice(&chunk[..length]),
                Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                    return Err(Outcome::Silence);
                }
                Err(_) => return Err(Outcome::Closed),
            }
        }
        Ok(self.buffer.drain(..count).collect())
    }

    /// What becomes of a stream, or of the whole connection if that comes first.
    pub fn outcome(&mut self, stream: u32) -> Outcome {
        loop {
            let frame = match self.receive() {
                Ok(frame) => frame,
                Err(outcome) => return outcome,
            };
            let number = |at: usize| frame.payload.get(at..at + 4).and_then(|four| four.try_into().ok());
            match frame.kind {
                kind::HEADERS if frame.stream == stream => return Outcome::Status(status(&frame.payload)),
                kind::RST_STREAM if frame.stream == stream => {
                    return Outcome::Reset(number(0).map_or(0, u32::from_be_bytes));
                }
                kind::GOAWAY => return Outcome::GoAway(number(4).map_or(0, u32::from_be_bytes)),
                _ => {}
            }
        }
    }
}

/// The status of the first response of a connection: first in its block, from the static table or a literal.
fn status(block: &[u8]) -> u16 {
    const STATIC: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
    match block {
        [indexed @ 0x88..=0x8e, ..] => STATIC[usize::from(indexed - 0x88)],
        [0x08 | 0x18 | 0x48, 3, digits @ ..] => {
            std::str::from_utf8(&digits[..3]).ok().and_then(|digits| digits.parse().ok()).unwrap_or(0)
        }
        [0x08 | 0x18 | 0x48, length @ 0x82..=0x83, coded @ ..] => huffman(&coded[..usize::from(length - 0x80)]),
        _ => 0,
    }
}

/// Three digits in HPACK's code: 0, 1 and 2 have five bits, the others six.
fn huffman(coded: &[u8]) -> u16 {
    let bits = coded.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (32 - 8 * coded.len());
    let (mut at, mut number) = (0, 0);
    for _ in 0..3 {
        let rest = bits << at;
        let five = rest >> 27;
        let (digit, length) = if five < 3 { (five, 5) } else { ((rest >> 26) - 0b01_1001 + 3, 6) };
        number = number * 10 + digit;
        at += length;
    }
    u16::try_from(number).unwrap_or(0)
}
