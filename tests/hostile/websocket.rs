//! What is inside a WebSocket is the two ends' own (A111): whatever frames one sends, and in whatever pieces, arrive as they were sent;
//! whether they are right is for the other end to say.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    time::Duration,
};

use harness::{
    PATIENCE,
    cluster::{Cluster, Plan, Service},
    process::Skein,
};

const ASK: &str = "GET /chat HTTP/1.1\r\nHost: reviews\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
const TAKEN: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                     Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Takes the upgrade, and gives back what comes.
fn echo(mut stream: TcpStream) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return,
        }
    }
    if stream.write_all(TAKEN.as_bytes()).is_err() {
        return;
    }
    let mut buffer = [0; 4096];
    while let Ok(length) = stream.read(&mut buffer) {
        if length == 0 || stream.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}

fn world() -> Cluster {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let target = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || echo(stream));
        }
    });
    let served = Service { target: Some(target), ..Service::version("shop/reviews", "v1") };
    let plans = [("web", Plan::with([Service::client("shop/web")])), ("reviews", Plan::with([served]))];
    let cluster = Cluster::start(Skein::at(env!("CARGO_BIN_EXE_skein-under-test")), &plans);
    cluster.wait_members(PATIENCE);
    cluster.wait_endpoints("shop/reviews", 1);
    cluster
}

/// A tunnel that both ends have agreed on.
fn open(cluster: &Cluster) -> TcpStream {
    let mut stream = TcpStream::connect(cluster.node("web").outbound()).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
    stream.set_nodelay(true).expect("a socket");
    stream.write_all(ASK.as_bytes()).expect("it is open");
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).expect("an answer");
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    assert!(head.starts_with("HTTP/1.1 101") && head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
    stream
}

/// A frame (RFC 6455, 5.2): its first byte, and a payload that is masked, or not.
fn frame(first: u8, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    let masked = u8::from(mask.is_some()) << 7;
    let mut bytes = vec![first];
    match payload.len() {
        length @ 0..=125 => bytes.push(masked | u8::try_from(length).expect("it is short")),
        length => {
            bytes.push(masked | 126);
            bytes.extend(u16::try_from(length).expect("it fits").to_be_bytes());
        }
    }
    bytes.extend(mask.into_iter().flatten());
    bytes.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ mask.map_or(0, |mask| mask[at % 4])));
    bytes
}

#[test]
fn a111_frames_of_any_kind_come_as_they_were_sent() {
    const MASK: Option<[u8; 4]> = Some([0xde, 0xad, 0xbe, 0xef]);
    let cluster = world();
    let long = vec![0x55; 60_000];
    let cases: [(&str, Vec<u8>); 9] = [
        ("a text", frame(0x81, "grüße".as_bytes(), MASK)),
        (
            "a text in three frames, a ping between them",
            [frame(0x01, b"a", MASK), frame(0x00, b"b", MASK), frame(0x89, b"ping", MASK), frame(0x80, b"c", MASK)]
                .concat(),
        ),
        ("a text that is no UTF-8", frame(0x81, &[0xff, 0xfe, 0xc0, 0x80], MASK)),
        ("a client's frame without a mask", frame(0x82, b"bare", None)),
        ("reserved bits and an opcode that nobody knows", frame(0xf3, b"?", MASK)),
        ("a ping that is not whole and longer than pings may be", frame(0x09, &[0; 126], MASK)),
        ("a long message", frame(0x82, &long, MASK)),
        ("a length that no message has", [&[0x82, 0xff][..], &u64::MAX.to_be_bytes(), b"mask", b"rest"].concat()),
        ("what is an HTTP request", b"GET /poison HTTP/1.1\r\nHost: reviews\r\n\r\n".to_vec()),
    ];
    for (what, bytes) in &cases {
        for pieces in [bytes.len(), 1, 3] {
            // Byte by byte only what is short.
            let pieces = if bytes.len() > 1_000 { bytes.len().min(pieces * 1_000) } else { pieces };
            let mut stream = open(&cluster);
            let mut writer = stream.try_clone().expect("a socket");
            let sent = bytes.clone();
            let sender = std::thread::spawn(move || {
                for piece in sent.chunks(pieces) {
                    writer.write_all(piece).expect("it is open");
                }
                writer.shutdown(Shutdown::Write).expect("it is open");
            });
            let mut came = Vec::new();
            stream.read_to_end(&mut came).unwrap_or_else(|error| panic!("{what} in pieces of {pieces}: {error}"));
            sender.join().expect("all was sent");
            assert!(came == *bytes, "{what} in pieces of {pieces}: {} of {} bytes", came.len(), bytes.len());
        }
    }
}
