//! A small HTTP/1.1 client over plain sockets: it sends what it is told, also what no library would.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

use crate::net::connect_from;

/// One answer, read to its end.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Header lines in order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, chunks joined.
    pub body: Vec<u8>,
}

impl Answer {
    /// First value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A connection that may be used for several requests.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    /// Connects; reads end after ten seconds of silence.
    ///
    /// # Errors
    /// The address refuses.
    pub fn open(to: SocketAddr) -> std::io::Result<Self> {
        Self::open_patient(to, Duration::from_secs(10))
    }

    /// Connects; reads end after so much silence.
    ///
    /// # Errors
    /// The address refuses.
    pub fn open_patient(to: SocketAddr, silence: Duration) -> std::io::Result<Self> {
        Self::over(TcpStream::connect_timeout(&to, Duration::from_secs(20))?, silence)
    }

    /// Connects from an address of this machine; reads end after ten seconds of silence.
    ///
    /// # Errors
    /// The address is not ours, or the other one refuses.
    pub fn open_from(from: IpAddr, to: SocketAddr) -> std::io::Result<Self> {
        Self::over(connect_from(from, to, Duration::from_secs(20))?, Duration::from_secs(10))
    }

    fn over(stream: TcpStream, silence: Duration) -> std::io::Result<Self> {
        stream.set_read_timeout(Some(silence))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::new() })
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// The peer went away.
    pub fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Everything until the peer closes.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut all = std::mem::take(&mut self.buffer);
        let _ = self.stream.read_to_end(&mut all);
        all
    }

    /// So many bytes, whatever they are.
    ///
    /// # Errors
    /// The peer closed early.
    pub fn take(&mut self, count: usize) -> Result<Vec<u8>, String> {
        self.exactly(count)
    }

    fn more(&mut self) -> Result<bool, String> {
        let mut chunk = [0; 16 * 1024];
        let count = self.stream.read(&mut chunk).map_err(|error| error.to_string())?;
        self.buffer.extend_from_slice(&chunk[..count]);
        Ok(count > 0)
    }

    fn line(&mut self) -> Result<String, String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                let line = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
                self.buffer.drain(..end + 2);
                return Ok(line);
            }
            if !self.more()? {
                return Err(format!("closed within a line after {:?}", String::from_utf8_lossy(&self.buffer)));
            }
        }
    }

    fn exactly(&mut self, count: usize) -> Result<Vec<u8>, String> {
        while self.buffer.len() < count {
            if !self.more()? {
                return Err(format!("closed after {} of {count} bytes of the body", self.buffer.len()));
            }
        }
        Ok(self.buffer.drain(..count).collect())
    }

    /// Reads one answer; `head` says that the request was a HEAD.
    ///
    /// # Errors
    /// The peer closed early or sent no HTTP.
    pub fn answer(&mut self, head: bool) -> Result<Answer, String> {
        let first = self.line()?;
        let status = first
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .ok_or_else(|| format!("no status line: {first}"))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or_else(|| format!("no header line: {line}"))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut answer = Answer { status, headers, body: Vec::new() };
        if head || status == 204 || status == 304 || status < 200 {
            return Ok(answer);
        }
        if answer.header("transfer-encoding") == Some("chunked") {
            loop {
                let size = self.line()?;
                let size = usize::from_str_radix(size.split(';').next().unwrap_or("").trim(), 16)
                    .map_err(|error| error.to_string())?;
                if size == 0 {
                    while !self.line()?.is_empty() {}
                    break;
                }
                answer.body.extend(self.exactly(size)?);
                self.line()?;
            }
        } else if let Some(length) = answer.header("content-length") {
            let length = length.parse().map_err(|_| format!("content-length {length}"))?;
            answer.body = self.exactly(length)?;
        } else {
            answer.body = self.rest();
        }
        Ok(answer)
    }

    /// One request with a body and further headers; the connection stays open.
    ///
    /// # Errors
    /// As [`Connection::answer`].
    pub fn request(
        &mut self,
        method: &str,
        host: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer, String> {
        let mut text = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\n");
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() || method == "POST" {
            text.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        text.push_str("\r\n");
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(body);
        self.send(&bytes).map_err(|error| error.to_string())?;
        self.answer(method == "HEAD")
    }
}

/// A GET on a connection of its own.
///
/// # Errors
/// No answer.
pub fn get(via: SocketAddr, host: &str, path: &str) -> Result<Answer, String> {
    get_with(via, host, path, &[])
}

/// A GET with further headers.
///
/// # Errors
/// No answer.
pub fn get_with(via: SocketAddr, host: &str, path: &str, headers: &[(&str, &str)]) -> Result<Answer, String> {
    Connection::open(via).map_err(|error| error.to_string())?.request("GET", host, path, headers, b"")
}
