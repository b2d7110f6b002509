//! Datagrams of strangers: floods of first packets from addresses that nobody holds (A100), and what breaks QUIC's rules (A101).

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use crate::{pair, quic::Quic};
use harness::{PATIENCE, cluster::Cluster, eventually_within, http, now};

/// Addresses from which packets seem to come.
const SOURCES: u8 = 120;
/// First packets of each.
const EACH: usize = 25;
/// How much more than it got a server may send to an address that has proved nothing (RFC 9000, 8.1).
const AMPLIFICATION: usize = 3;

/// A first packet as a client of these conversations sends it.
fn first_packet(alpn: &str) -> Vec<u8> {
    let sink = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    sink.set_read_timeout(Some(Duration::from_secs(5))).expect("a socket");
    let to = sink.local_addr().expect("it is bound");
    let alpn = alpn.to_owned();
    // It waits in vain for an answer.
    let caller = std::thread::spawn(move || Quic::showing(&alpn, None).dial(to, "reviews.shop.example").map(drop));
    let mut packet = vec![0; 2_048];
    let (length, _) = sink.recv_from(&mut packet).expect("a first packet");
    drop(caller);
    packet.truncate(length);
    assert!(length >= 1_200, "a first packet is padded: {length}");
    packet
}

fn source(number: u8) -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::new(127, 44, 7, number + 1), 0)).expect("all of 127/8 is this machine's");
    socket.set_nonblocking(true).expect("a socket");
    socket
}

/// Bytes that came.
fn received(socket: &UdpSocket) -> usize {
    let (mut sum, mut buffer) = (0, [0; 2_048]);
    loop {
        match socket.recv_from(&mut buffer) {
            Ok((length, _)) => sum += length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return sum,
            // What a port that is closed answers.
            Err(_) => {}
        }
    }
}

fn door(cluster: &Cluster) -> SocketAddr {
    cluster.node("reviews").address("mesh")
}

fn serves(cluster: &Cluster) {
    let answer = http::get(cluster.node("web").outbound(), "reviews", "/").map(|answer| answer.status);
    assert_eq!(answer, Ok(200));
}

#[test]
fn a100_a_flood_of_first_packets_is_not_amplified_and_keeps_nobody_out() {
    let mut cluster = pair();
    serves(&cluster);
    let door = door(&cluster);
    let before = cluster.node("reviews").resident();
    for alpn in ["skein-data/1", "skein-peer/1"] {
        let packet = first_packet(alpn);
        let sources: Vec<UdpSocket> = (0..SOURCES).map(source).collect();
        for turn in 0..EACH {
            for socket in &sources {
                // A full queue drops what else comes, as a network would.
                let _ = socket.send_to(&packet, door);
            }
            if turn % 8 == 0 {
                serves(&cluster);
            }
        }
        // Time for what the node would send again to those who do not answer.
        let until = now() + Duration::from_secs(3);
        let mut got = vec![0; sources.len()];
        while now() < until {
            for (sum, socket) in got.iter_mut().zip(&sources) {
                *sum += received(socket);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let most = got.iter().max().copied().unwrap_or_default();
        assert!(most <= AMPLIFICATION * EACH * packet.len(), "{most} bytes to one address, by {alpn}");
        assert!(got.iter().sum::<usize>() > 0, "somebody is answered");
    }
    // Whoever proves its address comes in while the flood goes on.
    let packet = first_packet("skein-peer/1");
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let flood = std::thread::spawn({
        let stop = stop.clone();
        move || {
            let sources: Vec<UdpSocket> = (0..SOURCES).map(source).collect();
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                for socket in &sources {
                    let _ = socket.send_to(&packet, door);
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    });
    cluster.kill("web");
    cluster.run("web");
    eventually_within("a node that comes anew is served", PATIENCE * 2, || {
        match http::get(cluster.node("web").outbound(), "reviews", "/")?.status {
            200 => Ok(()),
            other => Err(other.to_string()),
        }
    });
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    flood.join().expect("the flood ends");
    let grown = cluster.node("reviews").resident().saturating_sub(before);
    assert!(grown < 64 << 20, "the node grew by {} MiB", grown >> 20);
}

#[test]
fn a101_what_breaks_the_rules_of_quic_harms_nobody() {
    let cluster = pair();
    let (door, packet) = (door(&cluster), first_packet("skein-data/1"));
    let socket = UdpSocket::bind((IpAddr::from([127, 44, 8, 1]), 0)).expect("all of 127/8 is this machine's");
    socket.set_nonblocking(true).expect("a socket");
    let mut sent = 0;
    let mut send = |bytes: &[u8]| {
        sent += bytes.len();
        let _ = socket.send_to(bytes, door);
    };
    // Nothing, one byte of each kind, and a first packet that ends anywhere.
    send(&[]);
    (0..=u8::MAX).for_each(|byte| send(&[byte]));
    (1..packet.len()).step_by(7).for_each(|end| send(&packet[..end]));
    // One bit is wrong, anywhere: in the version, in the lengths of connection ids, in the length, in what is sealed.
    for bit in (0..packet.len() * 8).filter(|bit| *bit < 64 * 8 || bit % 61 == 0) {
        let mut wrong = packet.clone();
        wrong[bit / 8] ^= 1 << (bit % 8);
        send(&wrong);
    }
    // Two in one datagram, the same again and again, a version that nobody speaks.
    send(&[&packet[..], &packet[..]].concat());
    (0..50).for_each(|_| send(&packet));
    let mut version = packet.clone();
    version[1..5].copy_from_slice(&[0xba, 0xba, 0xba, 0xba]);
    (0..50).for_each(|_| send(&version));
    // A short header, a Retry and a Version Negotiation that a server never gets; and noise.
    let mut chance = 101u32;
    for first in [0x40, 0x60, 0x7f, 0xc0, 0xd0, 0xe0, 0xf0, 0xff] {
        for length in [1, 7, 20, 21, 43, 300, 1_200, 1_472] {
            let next = |_| {
                // xorshift: noise that is the same in every run.
                chance ^= chance << 13;
                chance ^= chance >> 17;
                chance ^= chance << 5;
                chance.to_le_bytes()[0]
            };
            let mut noise: Vec<u8> = (0..length).map(next).collect();
            noise[0] = first;
            send(&noise);
            if length > 5 {
                noise[1..5].copy_from_slice(&[0, 0, 0, 1]);
                send(&noise);
            }
        }
    }
    std::thread::sleep(Duration::from_millis(500));
    let got = received(&socket);
    assert!(got <= AMPLIFICATION * sent, "{got} bytes for {sent}");
    serves(&cluster);
    let log = cluster.log("reviews");
    assert!(!log.contains("panicked"), "{log}");
}
