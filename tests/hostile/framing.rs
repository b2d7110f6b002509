//! Requests that two parsers could read in two ways: refused, and the application sees nothing of them.

use std::net::SocketAddr;

use harness::{cluster::Cluster, http::Connection};

use crate::{doors, pair};

/// What came back on a connection of its own: the first status, and everything until the close.
fn send(door: SocketAddr, bytes: &[u8]) -> (Option<u16>, String) {
    let mut connection = Connection::open(door).expect("the proxy listens");
    let _ = connection.send(bytes);
    let text = String::from_utf8_lossy(&connection.rest()).into_owned();
    (text.split(' ').nth(1).and_then(|code| code.parse().ok()), text)
}

fn refused(cluster: &Cluster, case: &str, bytes: &[u8]) {
    let backend = &cluster.node("reviews").backends[0];
    for door in doors(cluster) {
        backend.forget();
        let (status, text) = send(door, bytes);
        let status = status.unwrap_or(400);
        assert!((400..=505).contains(&status) && status != 404, "{case} at {door}: {text}");
        let health_checks = backend.raw().is_empty();
        assert!(health_checks, "{case} at {door}: the application saw {:?}", String::from_utf8_lossy(&backend.raw()));
    }
}

#[test]
fn ambiguous_framing_is_refused() {
    let cluster = pair();
    let cases: &[(&str, &[u8])] = &[
        (
            "A01 both",
            b"POST / HTTP/1.1\r\nHost: reviews\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        ("A02 two lengths", b"POST / HTTP/1.1\r\nHost: reviews\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello"),
        ("A03 one length twice", b"POST / HTTP/1.1\r\nHost: reviews\r\nContent-Length: 5, 5\r\n\r\nhello"),
        ("A03 two in one", b"POST / HTTP/1.1\r\nHost: reviews\r\nContent-Length: 5, 6\r\n\r\nhello!"),
        ("A04 plus", b"POST / HTTP/1.1\r\nHost: reviews\r\nContent-Length: +5\r\n\r\nhello"),
        ("A04 hex", b"POST / HTTP/1.1\r\nHost: reviews\r\nContent-Length: 0x5\r\n\r\nhello"),
        ("A04 empty", b"POST / HTTP/1.1\r\nHost: reviews\r\nContent-Length:\r\n\r\n"),
        ("A04 huge", b"POST / HTTP/1.1\r\nHost: reviews\r\nContent-Length: 18446744073709551617\r\n\r\n"),
        ("A05 xchunked", b"POST / HTTP/1.1\r\nHost: reviews\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
        (
            "A05 identity last",
            b"POST / HTTP/1.1\r\nHost: reviews\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        ),
        ("A05 gzip, chunked", b"POST / HTTP/1.1\r\nHost: reviews\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        ("A05 vertical tab", b"POST / HTTP/1.1\r\nHost: reviews\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n"),
        ("A05 space before colon", b"POST / HTTP/1.1\r\nHost: reviews\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
        ("A06 chunked on 1.0", b"POST / HTTP/1.0\r\nHost: reviews\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("A08 bare LF", b"GET / HTTP/1.1\nHost: reviews\n\n"),
        ("A08 bare CR in a value", b"GET / HTTP/1.1\r\nHost: reviews\r\nX: a\rb\r\n\r\n"),
        ("A09 folded", b"GET / HTTP/1.1\r\nHost: reviews\r\nX: a\r\n b\r\n\r\n"),
        ("A10 NUL", b"GET / HTTP/1.1\r\nHost: reviews\r\nX: a\0b\r\n\r\n"),
        ("A10 DEL in a name", b"GET / HTTP/1.1\r\nHost: reviews\r\nX\x7f: a\r\n\r\n"),
        ("A11 no name", b"GET / HTTP/1.1\r\nHost: reviews\r\n: x\r\n\r\n"),
        ("A19 version", b"GET / HTTP/1.10\r\nHost: reviews\r\n\r\n"),
        ("A19 two spaces", b"GET  / HTTP/1.1\r\nHost: reviews\r\n\r\n"),
        ("A20 absolute form, other host", b"GET http://reviews/ HTTP/1.1\r\nHost: elsewhere\r\n\r\n"),
        ("A21 two hosts", b"GET / HTTP/1.1\r\nHost: reviews\r\nHost: reviews\r\n\r\n"),
        ("A21 no host", b"GET / HTTP/1.1\r\n\r\n"),
        ("A21 empty host", b"GET / HTTP/1.1\r\nHost:\r\n\r\n"),
        ("A28 path without slash", b"GET admin HTTP/1.1\r\nHost: reviews\r\n\r\n"),
        ("A46 fragment", b"GET /a#b HTTP/1.1\r\nHost: reviews\r\n\r\n"),
    ];
    for (case, bytes) in cases {
        // Behind every case stands a request that a second reading of the bytes would let through.
        let mut all = bytes.to_vec();
        all.extend_from_slice(b"GET /poison HTTP/1.1\r\nHost: reviews\r\nConnection: close\r\n\r\n");
        refused(&cluster, case, &all);
    }
}

#[test]
fn a07_chunk_sizes_that_lie_are_refused() {
    let cluster = pair();
    let backend = &cluster.node("reviews").backends[0];
    for (size, door) in
        ["-1", "0x10", "11111111111111111"].into_iter().flat_map(|size| doors(&cluster).map(|door| (size, door)))
    {
        backend.forget();
        let bytes = format!(
            "POST / HTTP/1.1\r\nHost: reviews\r\nTransfer-Encoding: chunked\r\n\r\n{size}\r\nGET /poison HTTP/1.1\r\nHost: reviews\r\n\r\n"
        );
        let (status, text) = send(door, bytes.as_bytes());
        assert!(status.is_none_or(|status| status >= 400), "{size}: {text}");
        assert!(!String::from_utf8_lossy(&backend.raw()).contains("poison"), "{size}");
    }
}

#[test]
fn a106_heads_that_are_too_large_are_refused() {
    let cluster = pair();
    let big = format!("GET / HTTP/1.1\r\nHost: reviews\r\nX-Big: {}\r\n\r\n", "a".repeat(64 * 1024));
    let many: String = (0..200).map(|number| format!("X-{number}: a\r\n")).collect();
    let many = format!("GET / HTTP/1.1\r\nHost: reviews\r\n{many}\r\n");
    let long = format!("GET /{} HTTP/1.1\r\nHost: reviews\r\n\r\n", "a".repeat(20_000));
    for (case, bytes, wanted) in [("big", big, [431, 400]), ("many", many, [431, 400]), ("long", long, [414, 431])] {
        for door in doors(&cluster) {
            let (status, text) = send(door, bytes.as_bytes());
            assert!(status.is_some_and(|status| wanted.contains(&status)), "{case} at {door}: {text}");
        }
    }
    assert!(cluster.node("reviews").backends[0].arrivals().is_empty());
}

#[test]
fn a13_a_connection_never_gets_another_ones_answer() {
    let cluster = pair();
    let via = cluster.node("web").outbound();
    let poison = std::thread::spawn(move || {
        for _ in 0..200 {
            if let Ok(mut connection) = Connection::open(via) {
                let _ = connection.send(b"GET / HTTP/1.1\r\nHost: reviews\r\nContent-Length: 0\r\n\r\nGET /poison HTTP/1.1\r\nHost: nobody\r\n\r\n");
                let _ = connection.answer(false);
            }
        }
    });
    let mut connection = Connection::open(via).expect("the proxy listens");
    for _ in 0..500 {
        let answer = connection.request("GET", "reviews", "/", &[], b"").expect("an answer");
        assert_eq!((answer.status, answer.text().as_str()), (200, "reviews shop/reviews"));
    }
    poison.join().expect("the poisoner ends");
}
