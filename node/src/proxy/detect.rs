//! What an application speaks, by the first bytes of its connection, which stay unread. Where a port declares bytes nothing is
//! looked at: servers that speak first would wait for ever.

use super::http::Bounds;
use crate::http1::{self, HeadLimits, Upgraded};
use policy::hosts::Protocol;
use std::{io, time::Duration};
use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};

/// Bytes that are looked at: the longest record of TLS.
const LOOK: usize = (16 << 10) + 5;
/// Header lines of a request whose host is looked for.
const LINES: usize = 128;
/// Before a second look at a connection that has sent too little; each further one comes later.
const PAUSE: Duration = Duration::from_millis(1);
/// Longest time between two looks.
const LONGEST_PAUSE: Duration = Duration::from_millis(50);
/// With prior knowledge HTTP/2 begins so.
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A record of TLS's handshake begins so.
const HANDSHAKE: u8 = 22;
/// What a request line has before its version.
const NAMED: &[u8] = b"HTTP/";
/// Longest method that is taken for one of HTTP's.
const METHOD: usize = 24;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Spoken {
    Http1,
    /// With prior knowledge.
    Http2,
    /// The server name that the client asks for, if it does.
    Tls(Option<String>),
    /// Whatever else.
    Bytes,
}

/// Finds out what is spoken on a connection to a port that declares this. Where nothing is declared, `patience` says how long
/// (`MeshConfig.protocolDetectionTimeout`); who says nothing until then waits for a server that speaks first.
///
/// # Errors
/// The connection ended or stayed silent for too long.
pub(super) async fn detect(
    stream: &TcpStream,
    declared: Protocol,
    patience: Option<Duration>,
    bounds: &Bounds,
) -> io::Result<Spoken> {
    let found = by(stream, declared, bounds, Some);
    match patience.filter(|_| declared == Protocol::Sniffed) {
        Some(patience) => timeout(patience, found).await.unwrap_or(Ok(Spoken::Bytes)),
        None => found.await,
    }
}

/// As [`detect`], for callers outside the mesh: nothing is guessed of one that sends a part and then nothing.
///
/// # Errors
/// As [`detect`], or a part came and then nothing for as long as a head may take.
pub(super) async fn detect_whole(stream: &TcpStream, declared: Protocol, bounds: &Bounds) -> io::Result<Spoken> {
    match declared {
        Protocol::Sniffed => {
            let found = look(stream, bounds, of_any_outside, None).await?;
            found.ok_or_else(|| io::ErrorKind::TimedOut.into())
        }
        Protocol::Http | Protocol::Http2 | Protocol::Grpc | Protocol::Tcp | Protocol::Tls => {
            by(stream, declared, bounds, |_| None).await
        }
    }
}

async fn by(
    stream: &TcpStream,
    declared: Protocol,
    bounds: &Bounds,
    guess: impl Fn(Spoken) -> Option<Spoken>,
) -> io::Result<Spoken> {
    let found = match declared {
        Protocol::Tcp => return Ok(Spoken::Bytes),
        Protocol::Http | Protocol::Http2 | Protocol::Grpc => {
            look(stream, bounds, of_http, guess(Spoken::Http1)).await?
        }
        Protocol::Tls => look(stream, bounds, of_tls, guess(Spoken::Tls(None))).await?,
        Protocol::Sniffed => look(stream, bounds, of_any, guess(Spoken::Bytes)).await?,
    };
    found.ok_or_else(|| io::ErrorKind::TimedOut.into())
}

/// The host that the first request of a connection names; `None` if it names none, or cannot be read.
///
/// # Errors
/// As [`detect`].
pub(super) async fn host(stream: &TcpStream, bounds: &Bounds) -> io::Result<Option<String>> {
    let limits = HeadLimits { bytes: LOOK, lines: LINES };
    look(stream, bounds, |bytes| http1::host_of(bytes, limits), None).await.map(Option::flatten)
}

/// True if the first byte of a connection, which has come, is one of TLS.
///
/// # Errors
/// The connection broke off.
pub(super) async fn begins_tls(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0];
    Ok(stream.peek(&mut first).await? == 1 && first[0] == HANDSHAKE)
}

/// Rests between looks at bytes that stay unread: a socket that holds some would wake its reader at once.
#[derive(Debug)]
pub(super) struct Pauses(Duration);

impl Default for Pauses {
    fn default() -> Self {
        Self(PAUSE)
    }
}

impl Pauses {
    pub(super) async fn rest(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(LONGEST_PAUSE);
    }
}

/// Looks at more and more until it can be said; who sends a part and then nothing is taken for the `otherwise`, if there is one.
async fn look<T: Clone>(
    stream: &TcpStream,
    bounds: &Bounds,
    judge: impl Fn(&[u8]) -> Option<T>,
    otherwise: Option<T>,
) -> io::Result<Option<T>> {
    // Who says nothing needs no room for what it says.
    timeout(bounds.idle, stream.readable()).await??;
    let mut bytes = vec![0; LOOK];
    let mut length = timeout(bounds.idle, stream.peek(&mut bytes)).await??;
    let looking = async {
        let (mut pauses, mut judged) = (Pauses::default(), 0);
        loop {
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if length > judged
                && let Some(found) = judge(&bytes[..length])
            {
                return Ok(Some(found));
            }
            judged = length;
            if length == bytes.len() {
                return Ok(otherwise.clone());
            }
            pauses.rest().await;
            length = stream.peek(&mut bytes).await?;
        }
    };
    match timeout(bounds.head_time, looking).await {
        Ok(found) => found,
        Err(_) => Ok(otherwise),
    }
}

/// The server name that a client asks for which speaks TLS, of a connection that cannot be looked at without reading: what was read is
/// put back. `None` if it asks for none, or speaks something else.
///
/// # Errors
/// The connection ended or stayed silent for too long.
pub(super) async fn server_name(stream: &mut Upgraded, bounds: &Bounds) -> io::Result<Option<String>> {
    let mut bytes = vec![0; LOOK];
    let mut length = timeout(bounds.idle, stream.read(&mut bytes)).await??;
    let reading = async {
        loop {
            if length == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
            let found = of_any(&bytes[..length]);
            if found.is_some() || length == bytes.len() {
                return Ok(found);
            }
            match stream.read(&mut bytes[length..]).await? {
                0 => return Ok(found),
                more => length += more,
            }
        }
    };
    let found = match timeout(bounds.head_time, reading).await {
        Ok(found) => found?,
        Err(_) => None,
    };
    stream.unread(&bytes[..length]);
    Ok(match found {
        Some(Spoken::Tls(name)) => name,
        Some(Spoken::Http1 | Spoken::Http2 | Spoken::Bytes) | None => None,
    })
}

/// `None`: more bytes must tell.
fn of_http(bytes: &[u8]) -> Option<Spoken> {
    const FIRST: usize = 3;
    let first = &bytes[..bytes.len().min(FIRST)];
    match HTTP2.starts_with(first) {
        false => Some(Spoken::Http1),
        true => (first.len() == FIRST).then_some(Spoken::Http2),
    }
}

fn of_tls(bytes: &[u8]) -> Option<Spoken> {
    let mut acceptor = rustls::server::Acceptor::default();
    let mut rest = bytes;
    loop {
        match acceptor.read_tls(&mut rest) {
            Ok(0) => break,
            Ok(_) => {}
            Err(_) => return Some(Spoken::Tls(None)),
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(hello)) => return Some(Spoken::Tls(hello.client_hello().server_name().map(str::to_owned))),
            // Not for this node to answer: the server may understand it.
            Err(_) => return Some(Spoken::Tls(None)),
        }
    }
    None
}

fn of_any(bytes: &[u8]) -> Option<Spoken> {
    match bytes {
        [HANDSHAKE, 3, 0..=4, ..] => return of_tls(bytes),
        [HANDSHAKE] | [HANDSHAKE, 3] => return None,
        _ => {}
    }
    let length = bytes.len().min(HTTP2.len());
    if HTTP2.starts_with(&bytes[..length]) {
        return (length == HTTP2.len()).then_some(Spoken::Http2);
    }
    Some(if is_http1(bytes)? { Spoken::Http1 } else { Spoken::Bytes })
}

/// As [`of_any`], of callers outside the mesh: what some server takes for a request must not pass for bytes, with headers of the caller's
/// own. A first line that names HTTP is one of a request, however it is written; whoever reads requests refuses what is none.
fn of_any_outside(bytes: &[u8]) -> Option<Spoken> {
    if bytes.first() == Some(&HANDSHAKE) || HTTP2.starts_with(&bytes[..bytes.len().min(HTTP2.len())]) {
        return of_any(bytes);
    }
    let line = &bytes[bytes.iter().position(|byte| !is_blank(*byte))?..];
    let end = line.iter().position(|byte| *byte == b'\n');
    let whole = &line[..end.unwrap_or(line.len())];
    let method = whole.iter().position(|byte| is_blank(*byte));
    if !whole[..method.unwrap_or(whole.len())].iter().all(u8::is_ascii_graphic) {
        return Some(Spoken::Bytes);
    }
    let names_http = whole.windows(NAMED.len() + 1).any(|at| is_blank(at[0]) && at[1..].eq_ignore_ascii_case(NAMED));
    // Some servers read headers without a version, too.
    let names_path = whole.strip_prefix(b"GET").is_some_and(|rest| {
        let blanks = rest.iter().take_while(|byte| is_blank(**byte)).count();
        blanks > 0 && rest.get(blanks) == Some(&b'/')
    });
    match end {
        _ if names_http => Some(Spoken::Http1),
        None => None,
        Some(_) => Some(if names_path { Spoken::Http1 } else { Spoken::Bytes }),
    }
}

/// What some server takes for white space.
const fn is_blank(byte: u8) -> bool {
    matches!(byte, b'\t'..=b'\r' | 0x1C..=b' ' | 0x85 | 0xA0)
}

/// A whole request line tells, not the method: other protocols have words, too.
fn is_http1(bytes: &[u8]) -> Option<bool> {
    let method = bytes.iter().take_while(|byte| byte.is_ascii_uppercase() || **byte == b'-').count();
    match bytes.get(method) {
        _ if method > METHOD => Some(false),
        None => None,
        Some(b' ') if method > 0 => {
            let end = bytes.iter().position(|byte| *byte == b'\n')?;
            let line = bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end]);
            Some(line.ends_with(b" HTTP/1.1") || line.ends_with(b" HTTP/1.0"))
        }
        Some(_) => Some(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What is found once the last byte is there, and that no byte before it told otherwise.
    fn found(bytes: &[u8]) -> Option<Spoken> {
        let before = (1..bytes.len()).find_map(|length| of_any(&bytes[..length]));
        let whole = of_any(bytes);
        assert!(before.is_none() || before == whole, "{before:?} then {whole:?}");
        whole
    }

    /// A ClientHello as rustls sends it.
    fn hello(name: &str) -> Vec<u8> {
        let roots = rustls::RootCertStore::empty();
        let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let name = rustls::pki_types::ServerName::try_from(name.to_owned()).unwrap();
        let mut client = rustls::ClientConnection::new(std::sync::Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn http_is_told_by_its_request_line() {
        assert_eq!(found(b"GET / HTTP/1.1\r\n"), Some(Spoken::Http1));
        assert_eq!(found(b"M-SEARCH * HTTP/1.0\n"), Some(Spoken::Http1));
        assert_eq!(found(HTTP2), Some(Spoken::Http2));
        assert_eq!(found(b"GET key\r\n"), Some(Spoken::Bytes), "a word of Redis");
        assert_eq!(found(b"PING\r\n"), Some(Spoken::Bytes));
        assert_eq!(found(b"*1\r\n$4\r\nPING\r\n"), Some(Spoken::Bytes));
        assert_eq!(found(b"\0\0\0\x08\x04\xd2\x16\x2f"), Some(Spoken::Bytes), "PostgreSQL");
        assert_eq!(found(b"PRIVMSG you"), None, "the line may yet be one of HTTP");
        assert_eq!(found(b"PRIVMSG you\r\n"), Some(Spoken::Bytes));
        assert_eq!(found(&[b'A'; METHOD + 1]), Some(Spoken::Bytes));
    }

    #[test]
    fn of_callers_outside_nothing_passes_for_bytes_that_some_server_takes_for_a_request() {
        let long = format!("{} / HTTP/1.1\n", "A".repeat(METHOD + 1));
        for text in [
            "\r\nGET / HTTP/1.1\r\n",
            "\n\n \tGET / HTTP/1.1\r\n",
            "GET / HTTP/1.2\r\n",
            "GET / HTTP/1.1 \r\n",
            "GET / HTTP/2.0\r\n",
            "GET\t/ HTTP/1.1\r\n",
            "GET\u{b}/\tHTTP/1.1\r\n",
            "GET /\0 HTTP/1.1\r\n",
            "get / http/1.1\r\n",
            "GET / HTTP/1.1\rx",
            "GET /admin\r\n",
            "POST / HTTP/1.1\r\n",
            &long,
        ] {
            assert_eq!(of_any_outside(text.as_bytes()), Some(Spoken::Http1), "{text:?}");
            let early = (1..text.len()).find_map(|length| of_any_outside(&text.as_bytes()[..length]));
            assert!(early.is_none() || early == Some(Spoken::Http1), "{text:?}");
        }
        for bytes in [
            &b"GET key\r\n"[..],
            b"*1\r\n$4\r\nPING\r\n",
            b"\0\0\0\x08\x04\xd2\x16\x2f",
            b"AMQP\0\0\x09\x01",
            b"SSH-2.0-OpenSSH\r\n",
        ] {
            assert_eq!(of_any_outside(bytes), Some(Spoken::Bytes), "{bytes:?}");
        }
        assert_eq!((of_any_outside(b"\r\n"), of_any_outside(b"GET /")), (None, None));
        assert_eq!(of_any_outside(HTTP2), Some(Spoken::Http2));
        assert_eq!(of_any_outside(&hello("db.example")), Some(Spoken::Tls(Some("db.example".to_owned()))));
    }

    #[test]
    fn tls_is_told_by_its_first_message_with_its_server_name() {
        let bytes = hello("db.example");
        assert_eq!(found(&bytes), Some(Spoken::Tls(Some("db.example".to_owned()))));
        assert_eq!(of_tls(&bytes[..bytes.len() - 1]), None);
        assert_eq!(of_tls(&hello("192.0.2.1")), Some(Spoken::Tls(None)), "an address is no name");
        assert_eq!(of_tls(b"GET / HTTP/1.1\r\n"), Some(Spoken::Tls(None)));
    }

    #[test]
    fn where_http_is_declared_three_bytes_do() {
        assert_eq!(of_http(b"PR"), None);
        assert_eq!(of_http(b"PRI"), Some(Spoken::Http2));
        assert_eq!(of_http(b"PUT"), Some(Spoken::Http1));
        assert_eq!(of_http(b"\0"), Some(Spoken::Http1), "and is refused there");
    }

    #[tokio::test]
    async fn who_waits_for_the_server_carries_bytes_where_waiting_has_an_end() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _silent = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let mut bounds = Bounds::of_applications(&policy::kinds::Limits::default());
        bounds.idle = Duration::from_millis(300);
        let found = async |declared, patience: Option<u64>| {
            let found = detect(&stream, declared, patience.map(Duration::from_millis), &bounds).await;
            found.map_err(|error| error.kind())
        };
        assert_eq!(found(Protocol::Sniffed, Some(20)).await, Ok(Spoken::Bytes));
        assert_eq!(found(Protocol::Sniffed, None).await, Err(io::ErrorKind::TimedOut));
        assert_eq!(found(Protocol::Tls, Some(20)).await, Err(io::ErrorKind::TimedOut), "it is declared");
    }

    #[tokio::test]
    async fn bytes_are_judged_again_only_when_more_have_come() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        assert_eq!(client.try_write(b"GE").unwrap(), 2);
        let mut bounds = Bounds::of_applications(&policy::kinds::Limits::default());
        bounds.head_time = Duration::from_millis(300);
        let judged = std::cell::Cell::new(0);
        let judge = |_: &[u8]| {
            judged.set(judged.get() + 1);
            None::<()>
        };
        assert_eq!(look(&stream, &bounds, judge, None).await.unwrap(), None);
        assert_eq!(judged.get(), 1);
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 1..300)) {
            let _ = (of_any(&bytes), of_any_outside(&bytes), of_tls(&bytes), of_http(&bytes));
        }

        #[test]
        fn a_damaged_hello_never_panics(at in 0usize..400, bit in 0u8..8) {
            let mut bytes = hello("db.example");
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            let _ = of_any(&bytes);
        }
    }
}
