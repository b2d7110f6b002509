//! What goes ahead of a connection's bytes, as a DestinationRule says: the client's address (`proxyProtocol`, as HAProxy's
//! `proxy-protocol.txt` has it), or the question to a forward proxy where it shall connect to (`tunnel`).

use policy::kinds::{ProxyProtocol, Tunnel};
use std::{
    io,
    net::{IpAddr, SocketAddr},
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Bytes of a forward proxy's answer at most.
const LONGEST_ANSWER: usize = 8 * 1_024;
/// How a header of version 2 begins.
pub(in crate::proxy) const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// A header of the PROXY protocol: who called, and whom. Each request has a connection of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::proxy) struct Proxied {
    pub(in crate::proxy) version: ProxyProtocol,
    pub(in crate::proxy) from: SocketAddr,
    pub(in crate::proxy) to: SocketAddr,
}

impl Proxied {
    /// Says it.
    ///
    /// # Errors
    /// The connection broke off.
    pub(in crate::proxy) async fn write(&self, stream: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        stream.write_all(&self.bytes()).await?;
        stream.flush().await
    }

    fn bytes(&self) -> Vec<u8> {
        let (from, to) = (self.from.ip().to_canonical(), self.to.ip().to_canonical());
        // A header has one family: an IPv4 address beside one of IPv6 is written as that.
        let (from, to) = match (from, to) {
            (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_)) => (from, to),
            (IpAddr::V4(from), IpAddr::V6(_)) => (from.to_ipv6_mapped().into(), to),
            (IpAddr::V6(_), IpAddr::V4(to)) => (from, to.to_ipv6_mapped().into()),
        };
        let ports = (self.from.port(), self.to.port());
        match self.version {
            ProxyProtocol::V1 => {
                let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
                format!("PROXY {family} {from} {to} {} {}\r\n", ports.0, ports.1).into_bytes()
            }
            ProxyProtocol::V2 => {
                let mut bytes = SIGNATURE.to_vec();
                // Version 2, command PROXY; the family, over TCP; the length of what follows.
                match (from, to) {
                    (IpAddr::V4(from), IpAddr::V4(to)) => {
                        bytes.extend([0x21, 0x11, 0, 12]);
                        bytes.extend(from.octets().into_iter().chain(to.octets()));
                    }
                    (IpAddr::V4(_) | IpAddr::V6(_), _) => {
                        bytes.extend([0x21, 0x21, 0, 36]);
                        for address in [from, to] {
                            if let IpAddr::V6(address) = address {
                                bytes.extend(address.octets());
                            }
                        }
                    }
                }
                bytes.extend(ports.0.to_be_bytes());
                bytes.extend(ports.1.to_be_bytes());
                bytes
            }
        }
    }
}

/// Asks the forward proxy at the other end to connect to where a tunnel leads. What follows its answer is read by nobody here.
///
/// # Errors
/// It does not, or its answer is none.
pub(in crate::proxy) async fn ask(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    tunnel: &Tunnel,
) -> io::Result<()> {
    let (host, port) = (&tunnel.target_host, tunnel.target_port);
    let target = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    stream.write_all(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n").as_bytes()).await?;
    stream.flush().await?;
    let (mut head, mut length) = (Vec::new(), 0);
    loop {
        // One by one, because what comes after the head belongs to the connection.
        while !head.ends_with(b"\r\n\r\n") {
            if length >= LONGEST_ANSWER {
                return Err(io::Error::other("the forward proxy's answer is too long"));
            }
            head.push(stream.read_u8().await?);
            length += 1;
        }
        match status(&head) {
            // An answer that is to come is announced (RFC 9110, 15.2); 101 would be the last.
            Some(100 | 102..=199) => head.clear(),
            Some(200..=299) => return Ok(()),
            Some(_) | None => break,
        }
    }
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    Err(io::Error::other(format!("the forward proxy answers {:?}", String::from_utf8_lossy(line))))
}

/// The status of a head.
fn status(head: &[u8]) -> Option<u16> {
    let rest = head.strip_prefix(b"HTTP/1.1 ").or_else(|| head.strip_prefix(b"HTTP/1.0 "))?;
    let (digits, after) = rest.split_at_checked(3)?;
    matches!(after, [b' ' | b'\r', ..]).then_some(())?;
    digits.iter().try_fold(0, |status, digit| digit.is_ascii_digit().then(|| status * 10 + u16::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy::kinds::TunnelProtocol;

    fn header(version: ProxyProtocol, from: &str, to: &str) -> Vec<u8> {
        Proxied { version, from: from.parse().unwrap(), to: to.parse().unwrap() }.bytes()
    }

    #[test]
    fn headers_of_the_proxy_protocol() {
        let text = |from: &str, to: &str| String::from_utf8(header(ProxyProtocol::V1, from, to)).unwrap();
        assert_eq!(text("10.0.0.1:1234", "10.0.0.2:80"), "PROXY TCP4 10.0.0.1 10.0.0.2 1234 80\r\n");
        assert_eq!(text("[::ffff:10.0.0.1]:1234", "10.0.0.2:80"), "PROXY TCP4 10.0.0.1 10.0.0.2 1234 80\r\n");
        assert_eq!(text("[2001:db8::1]:1234", "[2001:db8::2]:80"), "PROXY TCP6 2001:db8::1 2001:db8::2 1234 80\r\n");
        assert_eq!(text("10.0.0.1:1234", "[2001:db8::2]:80"), "PROXY TCP6 ::ffff:10.0.0.1 2001:db8::2 1234 80\r\n");
        let binary = header(ProxyProtocol::V2, "10.0.0.1:258", "10.0.0.2:80");
        let rest = [0x21, 0x11, 0, 12, 10, 0, 0, 1, 10, 0, 0, 2, 1, 2, 0, 80];
        assert_eq!(binary, [&SIGNATURE[..], &rest].concat());
        let binary = header(ProxyProtocol::V2, "[::1]:1", "10.0.0.2:80");
        assert_eq!((&binary[12..16], binary.len()), (&[0x21, 0x21, 0, 36][..], 16 + 36));
    }

    #[tokio::test]
    async fn a_forward_proxy_is_asked_and_its_answer_is_heard() {
        let tunnel =
            |host: &str| Tunnel { protocol: TunnelProtocol::Connect, target_host: host.to_owned(), target_port: 443 };
        for (host, answer, is_open) in [
            ("a.example", "HTTP/1.1 200 OK\r\nvia: x\r\n\r\nhello", true),
            ("a.example", "HTTP/1.0 200\r\n\r\nhello", true),
            ("2001:db8::1", "HTTP/1.1 204 Yes\r\n\r\nhello", true),
            (
                "a.example",
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nx: y\r\n\r\nHTTP/1.1 200 OK\r\n\r\nhello",
                true,
            ),
            ("a.example", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 502 Bad\r\n\r\nhello", false),
            ("a.example", "HTTP/1.1 101 Switching\r\n\r\nHTTP/1.1 200 OK\r\n\r\nhello", false),
            ("a.example", "HTTP/1.1 403 Forbidden\r\n\r\nhello", false),
            ("a.example", "HTTP/1.1 2000 OK\r\n\r\nhello", false),
            ("a.example", "SSH-2.0-OpenSSH\r\n\r\nhello", false),
            ("a.example", "HTTP/1.1 200 OK\r\n", false),
        ] {
            let (mut near, mut far) = tokio::io::duplex(1_024);
            far.write_all(answer.as_bytes()).await.unwrap();
            let tunnel = tunnel(host);
            let (asked, mut head) = (ask(&mut near, &tunnel), vec![0; 512]);
            let far = async {
                let length = far.read(&mut head).await.unwrap();
                drop(far);
                String::from_utf8(head[..length].to_vec()).unwrap()
            };
            let (asked, heard) = tokio::join!(asked, far);
            let target = if host.contains(':') { "[2001:db8::1]:443" } else { "a.example:443" };
            assert_eq!(heard, format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n"));
            assert_eq!(asked.is_ok(), is_open, "{answer:?}: {asked:?}");
            if is_open {
                let mut rest = String::new();
                near.read_to_string(&mut rest).await.unwrap();
                assert_eq!(rest, "hello", "what follows is the connection's");
            }
        }
    }

    #[tokio::test]
    async fn a_forward_proxy_that_never_ends_its_answer_is_given_up() {
        let (mut near, mut far) = tokio::io::duplex(2 * LONGEST_ANSWER);
        // However many pieces it has.
        let interim = b"HTTP/1.1 100 Continue\r\n\r\n".repeat(LONGEST_ANSWER / 20);
        far.write_all(&interim).await.unwrap();
        let tunnel =
            Tunnel { protocol: TunnelProtocol::Connect, target_host: "a.example".to_owned(), target_port: 443 };
        assert!(ask(&mut near, &tunnel).await.unwrap_err().to_string().contains("too long"));
    }
}
