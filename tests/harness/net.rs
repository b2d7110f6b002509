//! Addresses of loopback that no two clusters share, whatever else runs on this machine, and connections from them.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use socket2::{Domain, Socket, Type};

/// The host and the port of each net that say that it is taken.
const MARK: (u8, u16) = (250, 15_999);

/// A /24 of 127.64.0.0/10 and 127.128.0.0/10, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Net {
    octets: [u8; 2],
    _mark: TcpListener,
}

impl Net {
    /// One that nobody has, of this process or of another one.
    ///
    /// # Panics
    /// When there is none.
    pub(crate) fn reserve() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // Processes begin apart, so that they seldom meet.
        let begin = std::process::id() << 5;
        for _ in 0..0x8000 {
            let number = begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) & 0x7fff;
            let [.., high, low] = number.to_be_bytes();
            let octets = [64 + high, low];
            if let Ok(mark) = TcpListener::bind((address(octets, MARK.0), MARK.1)) {
                return Self { octets, _mark: mark };
            }
        }
        panic!("no net of loopback is free, or none can be bound")
    }

    /// One of its hosts.
    pub(crate) fn address(&self, host: u8) -> Ipv4Addr {
        address(self.octets, host)
    }
}

/// A connection from one of this machine's addresses.
pub(crate) fn connect_from(from: IpAddr, to: SocketAddr, patience: Duration) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(from, 0).into())?;
    socket.connect_timeout(&to.into(), patience)?;
    Ok(socket.into())
}

fn address([second, third]: [u8; 2], host: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, second, third, host)
}
