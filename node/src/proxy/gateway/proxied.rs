//! The header of the PROXY protocol (versions 1 and 2, as HAProxy's `proxy-protocol.txt` has them): a balancer before the gateway says
//! with it from where its client came. It is read only where `gatewayTopology.proxyProtocol` says that there is one, and then it must be there.

use crate::proxy::{detect::Pauses, direct::SIGNATURE, http::Bounds};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};
use tokio::{io::AsyncReadExt as _, net::TcpStream, time::timeout};

/// Bytes of a header of version 1 at most, its end included.
const LONGEST_TEXT: usize = 107;
/// Bytes of a header of version 2 that say where the client is. What follows are further words of the balancer, which nobody here reads:
/// up to as many as version 2 has room for.
const ADDRESSES: usize = 16 + 36;

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    /// Its length in bytes.
    length: usize,
    /// Where the client is; none where the balancer speaks for itself, or for a client that it cannot name.
    source: Option<SocketAddr>,
}

/// Takes the header off a connection that has just begun. Gives the client's address; none means that of the connection.
///
/// # Errors
/// There is none, or it takes longer than a head may.
pub(super) async fn read(stream: &mut TcpStream, bounds: &Bounds) -> io::Result<Option<SocketAddr>> {
    let reading = async {
        let (mut bytes, mut pauses) = ([0; LONGEST_TEXT], Pauses::default());
        let header = loop {
            let length = stream.peek(&mut bytes).await?;
            let bad = |why| io::Error::new(io::ErrorKind::InvalidData, why);
            match parse(&bytes[..length]).map_err(bad)? {
                Some(header) => break header,
                None if length == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                None => pauses.rest().await,
            }
        };
        // What follows is the client's.
        let mut rest = header.length;
        while rest > 0 {
            let length = rest.min(bytes.len());
            stream.read_exact(&mut bytes[..length]).await?;
            rest -= length;
        }
        Ok(header.source)
    };
    timeout(bounds.head_time, reading).await?
}

/// The header that these bytes begin with; none as long as they may become one.
fn parse(bytes: &[u8]) -> Result<Option<Header>, &'static str> {
    let begins = |with: &[u8]| bytes.iter().zip(with).all(|(byte, expected)| byte == expected);
    if begins(SIGNATURE) {
        return binary(bytes);
    }
    if !begins(b"PROXY ") {
        return Err("no header of the PROXY protocol");
    }
    let end = bytes.iter().take(LONGEST_TEXT).position(|byte| *byte == b'\n');
    match end {
        Some(end) => text(&bytes[..=end]).map(|source| Some(Header { length: end + 1, source })),
        None if bytes.len() < LONGEST_TEXT => Ok(None),
        None => Err("a PROXY line without end"),
    }
}

/// `PROXY TCP4 SOURCE DESTINATION PORT PORT`, or `PROXY UNKNOWN` and anything.
fn text(line: &[u8]) -> Result<Option<SocketAddr>, &'static str> {
    const BAD: &str = "not a PROXY line";
    let line = line.strip_suffix(b"\r\n").and_then(|line| std::str::from_utf8(line).ok()).ok_or(BAD)?;
    let mut words = line.split(' ').skip(1);
    let family = words.next().ok_or(BAD)?;
    if family == "UNKNOWN" {
        return Ok(None);
    }
    let [source, destination, port, other] = [words.next(), words.next(), words.next(), words.next()];
    if words.next().is_some() {
        return Err(BAD);
    }
    let address = |word: Option<&str>| -> Option<IpAddr> {
        match family {
            "TCP4" => word?.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            "TCP6" => word?.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            _ => None,
        }
    };
    let number = |word: Option<&str>| word?.parse::<u16>().ok();
    match (address(source), address(destination), number(port), number(other)) {
        (Some(source), Some(_), Some(port), Some(_)) => Ok(Some(SocketAddr::new(source.to_canonical(), port))),
        _ => Err(BAD),
    }
}

fn binary(bytes: &[u8]) -> Result<Option<Header>, &'static str> {
    let Some(&[command, family, high, low]) = bytes.get(12..16) else { return Ok(None) };
    let length = 16 + usize::from(u16::from_be_bytes([high, low]));
    if command >> 4 != 2 || command & 0xf > 1 {
        return Err("a PROXY header of a version or command that nobody knows");
    }
    let Some(said) = bytes.get(16..length.min(ADDRESSES)) else { return Ok(None) };
    const SHORT: &str = "a PROXY header without its addresses";
    // Source and destination, then their ports.
    let source: Option<(IpAddr, [u8; 2])> = match (command & 0xf, family) {
        // The balancer's own connection, as for a health check.
        (0, _) => None,
        (_, 0x11) => {
            let [a, b, c, d, _, _, _, _, high, low, _, _] = *said.first_chunk().ok_or(SHORT)?;
            Some((IpAddr::from([a, b, c, d]), [high, low]))
        }
        (_, 0x21) => {
            let (address, rest) = said.split_first_chunk::<16>().ok_or(SHORT)?;
            let [.., high, low, _, _] = *rest.first_chunk::<20>().ok_or(SHORT)?;
            Some((IpAddr::from(*address), [high, low]))
        }
        // Of UDP, of a socket file, or not told.
        _ => None,
    };
    let source = source.map(|(address, port)| SocketAddr::new(address.to_canonical(), u16::from_be_bytes(port)));
    Ok(Some(Header { length, source }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt as _;

    fn second(command: u8, family: u8, said: &[u8]) -> Vec<u8> {
        let length = u16::try_from(said.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, said].concat()
    }

    fn of(bytes: &[u8]) -> Result<Option<(usize, Option<String>)>, &'static str> {
        let header = parse(bytes)?;
        Ok(header.map(|header| (header.length, header.source.map(|source| source.to_string()))))
    }

    #[test]
    fn both_versions_name_the_client() {
        let line = b"PROXY TCP4 10.9.9.9 127.0.0.1 4096 8080\r\nGET /";
        assert_eq!(of(line), Ok(Some((41, Some("10.9.9.9:4096".into())))));
        let line = b"PROXY TCP6 2001:db8::1 ::1 4096 8080\r\n";
        assert_eq!(of(line), Ok(Some((line.len(), Some("[2001:db8::1]:4096".into())))));
        assert_eq!(of(b"PROXY UNKNOWN\r\nrest"), Ok(Some((15, None))));
        let four = [10, 9, 9, 9, 127, 0, 0, 1, 0x10, 0x00, 0x1f, 0x90];
        assert_eq!(of(&second(0x21, 0x11, &four)), Ok(Some((28, Some("10.9.9.9:4096".into())))));
        let words = [&four[..], &[4, 0, 1, 0]].concat();
        assert_eq!(
            of(&second(0x21, 0x11, &words)),
            Ok(Some((32, Some("10.9.9.9:4096".into())))),
            "what follows is left"
        );
        let mut six = vec![0; 36];
        (six[15], six[33]) = (1, 80);
        assert_eq!(of(&second(0x21, 0x21, &six)), Ok(Some((52, Some("[::1]:80".into())))));
        assert_eq!(of(&second(0x20, 0x00, &[])), Ok(Some((16, None))), "the balancer itself");
        assert_eq!(of(&second(0x21, 0x31, &[0; 216])), Ok(Some((232, None))), "a socket file");
    }

    #[tokio::test]
    async fn a_balancer_may_say_as_much_as_the_header_has_room_for() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let said = [&[10, 9, 9, 9, 127, 0, 0, 1, 0x10, 0x00, 0x1f, 0x90][..], &[0; 65_523]].concat();
        let sent = [&second(0x21, 0x11, &said)[..], b"GET /"].concat();
        let sending = async {
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            client.write_all(&sent).await.unwrap();
        };
        let reading = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let bounds = Bounds::of_applications(&policy::kinds::Limits::default());
            let source = read(&mut stream, &bounds).await.unwrap();
            let mut rest = String::new();
            stream.read_to_string(&mut rest).await.unwrap();
            (source, rest)
        };
        let (read, ()) = tokio::join!(reading, sending);
        assert_eq!(read, (Some("10.9.9.9:4096".parse().unwrap()), "GET /".to_owned()));
    }

    #[test]
    fn what_is_none_is_refused() {
        for line in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"\x16\x03\x01",
            b"PROXY TCP4 10.9.9.9 127.0.0.1 4096\r\n",
            b"PROXY TCP4 10.9.9.9 127.0.0.1 4096 8080 1\r\n",
            b"PROXY TCP4 ::1 127.0.0.1 4096 8080\r\n",
            b"PROXY TCP4 10.9.9.9 127.0.0.1 65536 8080\r\n",
            b"PROXY TCP4 10.9.9.9 127.0.0.1 4096 8080\n",
            b"PROXY UDP4 10.9.9.9 127.0.0.1 4096 8080\r\n",
            &[&b"PROXY UNKNOWN "[..], &[b'x'; 107]].concat(),
            &second(0x31, 0x11, &[0; 12]),
            &second(0x22, 0x11, &[0; 12]),
            &second(0x21, 0x11, &[0; 11]),
        ] {
            assert!(of(line).is_err(), "{line:?}");
        }
    }

    proptest! {
        #[test]
        fn a_part_may_become_one_and_nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..300), cut in 0usize..52) {
            let _ = parse(&bytes);
            let mut six = vec![7; 36];
            six[20..].copy_from_slice(&[0; 16]);
            for whole in [second(0x21, 0x21, &six), b"PROXY TCP4 10.9.9.9 127.0.0.1 4096 8080\r\n".to_vec()] {
                let part = &whole[..cut.min(whole.len() - 1)];
                prop_assert_eq!(parse(part), Ok(None));
            }
        }
    }
}
