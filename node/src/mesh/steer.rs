//! One port, many sockets: each data worker and the control runtime has a UDP socket of its own, and a classic BPF filter
//! steers datagrams by the first byte of the destination connection id. Endpoints choose their ids accordingly.
//!
//! Without steering the kernel would spread by the 4-tuple, which all connections between two nodes share.

use std::{
    io,
    net::{SocketAddr, TcpListener, UdpSocket},
};

use nix::{
    libc::{self, sock_filter, sock_fprog},
    sys::socket::{setsockopt, sockopt::AttachReusePortCbpf},
};
use quinn::{ConnectionId, ConnectionIdGenerator};
use socket2::{Domain, Protocol, Socket, Type};

use super::Steering;

/// First bytes from here on belong to the control endpoint.
pub(super) const CONTROL: u8 = 0xF0;

/// Length of the ids that our endpoints issue, bytes.
const ID_LENGTH: usize = 8;
/// Length of the ids that our clients invent for the first packets, bytes (RFC 9000, 7.2: at least 8).
const INITIAL_ID_LENGTH: usize = 12;
/// Connections that the kernel queues before a worker accepts them.
const TCP_BACKLOG: i32 = 1024;
/// Bytes that the kernel may queue per UDP socket; it grants less where its own limit is lower.
const UDP_BUFFER: usize = 2 << 20;
/// Attempts to find a port that is free on UDP and TCP.
const PORT_ATTEMPTS: usize = 16;

/// The sockets of the mesh port.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) address: SocketAddr,
    /// By worker. Without steering only the first has a UDP socket.
    pub(super) workers: Vec<(Option<UdpSocket>, TcpListener)>,
    pub(super) control: Option<UdpSocket>,
    pub(super) steering: Steering,
}

/// How the filter is attached; replaced in tests to see the fallback.
pub(super) type Attach = fn(&Socket, u32) -> io::Result<()>;

/// Opens all sockets on one port.
///
/// # Errors
/// The address is in use by another process, or not this machine's.
pub(super) fn bind(listen: SocketAddr, workers: usize, attach: Attach) -> io::Result<Bound> {
    let address = free_port(listen)?;
    // The order of binding is the order in the kernel's group, which is what the filter's result means.
    let udp = (0..=workers).map(|_| udp_socket(address)).collect::<io::Result<Vec<Socket>>>()?;
    let count = u32::try_from(workers).map_err(io::Error::other)?;
    let (mut udp, steering) = match attach(&udp[0], count) {
        Ok(()) => (udp, Steering::PerWorker),
        Err(error) => (udp.into_iter().take(1).collect(), Steering::Single(error.to_string())),
    };
    let control = (steering == Steering::PerWorker).then(|| udp.pop()).flatten();
    let mut udp = udp.into_iter().map(UdpSocket::from);
    let workers = (0..workers)
        .map(|_| Ok((udp.next(), tcp_listener(address)?)))
        .collect::<io::Result<Vec<(_, TcpListener)>>>()?;
    Ok(Bound { address, workers, control: control.map(UdpSocket::from), steering })
}

/// The address with a port that is free on UDP and TCP. Our own sockets share their port, so that the kernel would let
/// a second node of the same user in beside us; hence the question without sharing.
fn free_port(listen: SocketAddr) -> io::Result<SocketAddr> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        let udp = socket(listen, Type::DGRAM)?;
        udp.bind(&listen.into())?;
        let address = UdpSocket::from(udp).local_addr()?;
        let tcp = socket(address, Type::STREAM)?;
        tcp.set_reuse_address(true)?;
        match tcp.bind(&address.into()).and_then(|()| tcp.listen(1)) {
            Ok(()) => return Ok(address),
            Err(_) if listen.port() == 0 && attempt < PORT_ATTEMPTS => {}
            Err(error) => return Err(error),
        }
    }
}

fn socket(address: SocketAddr, kind: Type) -> io::Result<Socket> {
    let protocol = if kind == Type::DGRAM { Protocol::UDP } else { Protocol::TCP };
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn udp_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = socket(address, Type::DGRAM)?;
    socket.set_reuse_port(true)?;
    // Buffers beyond the kernel's limit are cut to it, which is no error.
    let _ = socket.set_recv_buffer_size(UDP_BUFFER);
    let _ = socket.set_send_buffer_size(UDP_BUFFER);
    socket.bind(&address.into())?;
    Ok(socket)
}

fn tcp_listener(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket(address, Type::STREAM)?;
    socket.set_reuse_port(true)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(TCP_BACKLOG)?;
    Ok(socket.into())
}

/// Attaches the filter to the group that `socket` is in: workers at 0.., control after them.
///
/// # Errors
/// The kernel or a sandbox refuses it.
pub(super) fn attach(socket: &Socket, workers: u32) -> io::Result<()> {
    let mut code = program(workers);
    let length = u16::try_from(code.len()).map_err(io::Error::other)?;
    let program = sock_fprog { len: length, filter: code.as_mut_ptr() };
    setsockopt(socket, AttachReusePortCbpf, &program).map_err(io::Error::from)
}

/// The filter over a UDP payload. QUIC's long headers have the destination id at offset 6, short ones at 1 (RFC 8999, 5).
/// A load beyond the datagram's end returns 0: worker 0 drops it.
fn program(workers: u32) -> Vec<sock_filter> {
    let op = |code: u32, jump_true: u8, jump_false: u8, k: u32| sock_filter {
        code: u16::try_from(code).expect("BPF's codes have 16 bits"),
        jt: jump_true,
        jf: jump_false,
        k,
    };
    let load = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
    vec![
        op(load, 0, 0, 0),
        op(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 0, 2, 0x80),
        op(load, 0, 0, 6),
        op(libc::BPF_JMP | libc::BPF_JA, 0, 0, 1),
        op(load, 0, 0, 1),
        op(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 0, 1, u32::from(CONTROL)),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, workers),
        op(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, 0, 0, workers),
        op(libc::BPF_RET | libc::BPF_A, 0, 0, 0),
    ]
}

/// Whose datagrams an endpoint's ids attract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// Worker `index` of `workers`.
    Worker { index: u8, workers: u8 },
    /// The control endpoint.
    Control,
}

impl Lane {
    /// A random first byte that the filter steers to this lane.
    fn first_byte(self) -> u8 {
        let random: u8 = rand::random();
        match self {
            Lane::Control => CONTROL | random,
            Lane::Worker { index, workers } => {
                let turns = (CONTROL - 1 - index) / workers + 1;
                index + workers * (random % turns)
            }
        }
    }
}

/// Issues the ids of one endpoint.
#[derive(Debug)]
pub(super) struct Ids {
    pub(super) lane: Lane,
}

impl ConnectionIdGenerator for Ids {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id: [u8; ID_LENGTH] = rand::random();
        id[0] = self.lane.first_byte();
        ConnectionId::new(&id)
    }

    fn cid_len(&self) -> usize {
        ID_LENGTH
    }

    fn cid_lifetime(&self) -> Option<std::time::Duration> {
        None
    }
}

/// A client's first destination id, which picks the peer's worker (`first` modulo its workers) or its control endpoint.
pub(super) fn initial_id(first: u8) -> ConnectionId {
    let mut id: [u8; INITIAL_ID_LENGTH] = rand::random();
    id[0] = first;
    ConnectionId::new(&id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn ids_are_steered_to_their_lane() {
        for workers in 1..=240u8 {
            for index in 0..workers {
                let first = Lane::Worker { index, workers }.first_byte();
                assert!(first < CONTROL && first % workers == index, "{first} for {index} of {workers}");
            }
        }
        assert!(Lane::Control.first_byte() >= CONTROL);
    }

    #[test]
    fn the_kernel_delivers_by_connection_id() {
        let bound = bind("127.0.0.1:0".parse().unwrap(), 3, attach).unwrap();
        assert_eq!(bound.steering, Steering::PerWorker);
        let sockets: Vec<&UdpSocket> =
            bound.workers.iter().filter_map(|w| w.0.as_ref()).chain(&bound.control).collect();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        for first in [0u8, 1, 2, 7, 0xEF, 0xF0, 0xFF] {
            let expected = if first >= CONTROL { 3 } else { usize::from(first) % 3 };
            let long = [0xC0, 0, 0, 0, 1, 8, first, 1, 2, 3];
            let short = [0x40, first, 1, 2, 3];
            for datagram in [&long[..], &short[..]] {
                sender.send_to(datagram, bound.address).unwrap();
                sockets[expected].set_nonblocking(false).unwrap();
                sockets[expected].set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                let mut buffer = [0; 64];
                let length = sockets[expected].recv(&mut buffer).unwrap();
                assert_eq!(&buffer[..length], datagram);
            }
        }
    }

    #[test]
    fn a_second_node_on_the_port_is_refused() {
        let first = bind("127.0.0.1:0".parse().unwrap(), 2, attach).unwrap();
        let error = bind(first.address, 2, attach).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn a_refused_filter_leaves_one_socket_and_says_why() {
        let refuse: Attach = |_, _| Err(io::Error::other("sandboxed"));
        let bound = bind("127.0.0.1:0".parse().unwrap(), 3, refuse).unwrap();
        assert_eq!(bound.steering, Steering::Single("sandboxed".to_owned()));
        let udp = bound.workers.iter().filter(|worker| worker.0.is_some()).count();
        assert_eq!((udp, bound.control.is_none(), bound.workers.len()), (1, true, 3));
    }
}
