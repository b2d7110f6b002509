//! The DNS server under attack: packets that are no queries (A115), names that point into themselves (A116), answers that would be
//! answered (A117), floods for names that nobody knows (A118). It answers this machine alone, so that nobody else is reflected at.

use std::net::{SocketAddr, TcpStream, UdpSocket};

use harness::{
    PATIENCE,
    cluster::{Cluster, Plan, Service},
    dns::{self, Resolver},
    eventually,
    process::Skein,
};
use hickory_proto::{
    op::{Message, ResponseCode},
    rr::RecordType,
};

/// One node with names of its own and this resolver.
fn node(resolver: &Resolver) -> (Cluster, SocketAddr) {
    let extra = format!(
        "[dns]\nlisten = \"127.0.0.1:0\"\naddresses = \"{}\"\nupstreams = [\"{}\"]\nas = \"shop/web\"\n",
        dns::range(),
        resolver.address
    );
    let plan = Plan { extra, ..Plan::with([Service::client("shop/web"), Service::version("shop/reviews", "v1")]) };
    let cluster = Cluster::start(Skein::at(env!("CARGO_BIN_EXE_skein-under-test")), &[("web", plan)]);
    let server = cluster.node("web").address("dns");
    eventually("it has names", || dns::address(server, "reviews.shop.mesh."));
    (cluster, server)
}

fn still_answers(server: SocketAddr) {
    eventually("it still answers", || dns::address(server, "reviews.shop.mesh."));
}

fn code(packet: &[u8]) -> ResponseCode {
    Message::from_vec(packet).expect("an answer").metadata.response_code
}

#[test]
fn a115_packets_that_are_no_queries_are_refused_and_harm_nobody() {
    let (_cluster, server) = node(&Resolver::start());
    let plain = dns::query("reviews.shop.mesh.", RecordType::A).to_vec().expect("a packet");
    // Cut anywhere behind the header: a format error, with the id of who asked.
    for end in 12..plain.len() {
        let answer = dns::datagram(server, &plain[..end]).expect("an answer");
        assert_eq!((code(&answer), &answer[..2]), (ResponseCode::FormErr, &plain[..2]), "{end}");
    }
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    for end in 0..12 {
        socket.send_to(&plain[..end], server).expect("it is sent");
    }
    // Counts that promise more than there is, and every bit turned.
    for (at, value) in [(4, 0xff), (6, 0xff), (8, 0xff), (10, 0xff)] {
        let mut packet = plain.clone();
        packet[at] = value;
        assert_eq!(code(&dns::datagram(server, &packet).expect("an answer")), ResponseCode::FormErr, "{at}");
    }
    for bit in 0..plain.len() * 8 {
        let mut packet = plain.clone();
        packet[bit / 8] ^= 1 << (bit % 8);
        socket.send_to(&packet, server).expect("it is sent");
    }
    socket.send_to(&[0; 60_000], server).expect("it is sent");
    still_answers(server);
}

#[test]
fn a116_names_that_point_into_themselves_end() {
    let (_cluster, server) = node(&Resolver::start());
    let header = [0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for name in [&[0xc0, 12][..], &[0xc0, 14, 0xc0, 12], &[1, b'a', 0xc0, 12], &[0xc0, 0xff], &[0xff], &[0x40, 0]] {
        let packet = [&header[..], name, &[0, 1, 0, 1]].concat();
        assert_eq!(code(&dns::datagram(server, &packet).expect("an answer")), ResponseCode::FormErr, "{name:?}");
    }
    // A thousand pointers at each other, in the records that follow the question.
    let mut packet = [&header[..6], &[0, 0, 0, 0, 3, 0xe8], &[1, b'a', 0, 0, 1, 0, 1]].concat();
    for number in 0..1_000_u16 {
        packet.extend([0xc0 | u8::try_from((19 + number * 12) >> 8 & 0x3f).unwrap_or(0), (19 + number * 12) as u8]);
        packet.extend([0, 1, 0, 1, 0, 0, 0, 0, 0, 0]);
    }
    packet.truncate(4_000);
    assert_eq!(code(&dns::datagram(server, &packet).expect("an answer")), ResponseCode::FormErr);
    still_answers(server);
}

#[test]
fn a117_an_answer_is_not_answered() {
    let (_cluster, server) = node(&Resolver::start());
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.set_nonblocking(true).expect("a socket");
    for name in ["reviews.shop.mesh.", "www.example.com."] {
        let mut packet = dns::query(name, RecordType::A).to_vec().expect("a packet");
        packet[2] |= 0x80;
        socket.send_to(&packet, server).expect("it is sent");
    }
    // What comes after them was judged after them.
    still_answers(server);
    let got = socket.recv(&mut [0; 512]);
    assert!(got.is_err(), "{got:?}");
}

#[test]
fn a118_a_flood_of_names_that_nobody_knows_keeps_no_other_name_waiting() {
    let silent = Resolver::silent();
    let (cluster, server) = node(&silent);
    let before = cluster.node("web").resident();
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    for number in 0..5_000 {
        let packet = dns::query(&format!("n{number}.example.com."), RecordType::A).to_vec().expect("a packet");
        socket.send_to(&packet, server).expect("it is sent");
        if number % 500 == 0 {
            still_answers(server);
        }
    }
    still_answers(server);
    // Only so many wait at once; the others are told at once that there is no answer.
    assert!(silent.queries() < 2_500, "{} questions went on", silent.queries());
    // Connections that say nothing, more than are served: the other way still works, and theirs end.
    let connections: Vec<TcpStream> = (0..200).filter_map(|_| TcpStream::connect(server).ok()).collect();
    still_answers(server);
    drop(connections);
    eventually("by TCP, too", || dns::ask_by_tcp(server, "reviews.shop.mesh.", RecordType::A));
    let grown = cluster.node("web").resident().saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes more");
    cluster.wait_members(PATIENCE);
}
