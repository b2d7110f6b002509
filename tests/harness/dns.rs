//! A DNS client that sends what it is told, and a resolver that answers everybody the same.

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata::A},
};

use crate::now;

/// How long a client waits for one answer.
const WAIT: Duration = Duration::from_secs(15);
/// A packet that is not answered for so long is taken for lost.
const AGAIN: Duration = Duration::from_millis(250);

/// A question.
///
/// # Panics
/// When `name` is none.
pub fn query(name: &str, of: RecordType) -> Message {
    static IDS: AtomicU16 = AtomicU16::new(1);
    let mut message = Message::new(IDS.fetch_add(1, SeqCst), MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).expect("a name"), of));
    message
}

/// Sends a packet by UDP, again where nothing comes, and gives what comes back.
///
/// # Errors
/// Nothing comes.
pub fn datagram(server: SocketAddr, packet: &[u8]) -> Result<Vec<u8>, String> {
    let sent = || -> std::io::Result<Vec<u8>> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.set_read_timeout(Some(AGAIN))?;
        let mut answer = vec![0; 65_535];
        let begun = now();
        loop {
            socket.send_to(packet, server)?;
            match socket.recv_from(&mut answer) {
                Ok((length, _)) => {
                    answer.truncate(length);
                    return Ok(answer);
                }
                Err(error) if error.kind() != ErrorKind::WouldBlock || begun.elapsed() > WAIT => return Err(error),
                Err(_) => {}
            }
        }
    };
    sent().map_err(|error| error.to_string())
}

/// Asks by UDP.
///
/// # Errors
/// No answer comes, or none to this question.
pub fn ask(server: SocketAddr, name: &str, of: RecordType) -> Result<Message, String> {
    let query = query(name, of);
    let answer = datagram(server, &query.to_vec().map_err(|error| error.to_string())?)?;
    let answer = Message::from_vec(&answer).map_err(|error| error.to_string())?;
    if answer.metadata.id != query.metadata.id || answer.queries != query.queries {
        return Err(format!("an answer to something else: {answer:?}"));
    }
    Ok(answer)
}

/// Asks by TCP.
///
/// # Errors
/// As [`ask`].
pub fn ask_by_tcp(server: SocketAddr, name: &str, of: RecordType) -> Result<Message, String> {
    let asked = || -> std::io::Result<Vec<u8>> {
        let packet = query(name, of).to_vec().map_err(std::io::Error::other)?;
        let mut stream = TcpStream::connect_timeout(&server, WAIT)?;
        stream.set_read_timeout(Some(WAIT))?;
        let length = u16::try_from(packet.len()).map_err(std::io::Error::other)?;
        stream.write_all(&[&length.to_be_bytes()[..], &packet].concat())?;
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut answer)?;
        Ok(answer)
    };
    Message::from_vec(&asked().map_err(|error| error.to_string())?).map_err(|error| error.to_string())
}

/// The one IPv4 address of a name.
///
/// # Errors
/// There is none.
pub fn address(server: SocketAddr, name: &str) -> Result<Ipv4Addr, String> {
    let answer = ask(server, name, RecordType::A)?;
    match answer.answers.first().map(|record| &record.data) {
        Some(RData::A(A(address))) => Ok(*address),
        _ => Err(format!("{name}: {answer:?}")),
    }
}

/// A range of loopback addresses that no other test uses: `[dns] addresses`.
pub fn range() -> String {
    static RANGES: AtomicU16 = AtomicU16::new(0);
    let unique = u16::try_from(std::process::id() & 0x3ff).expect("masked") * 8 + RANGES.fetch_add(1, SeqCst) % 8;
    let [high, low] = unique.to_be_bytes();
    format!("127.{}.{low}.0/24", 192 + (high & 0x1f))
}

/// A resolver that knows every name as [`Resolver::ADDRESS`], by UDP.
#[derive(Debug)]
pub struct Resolver {
    /// Where it answers.
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    queries: AtomicUsize,
    /// How often each name was asked for.
    names: Mutex<BTreeMap<String, usize>>,
    stop: AtomicBool,
}

impl Resolver {
    /// What it knows.
    pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);

    /// One that answers.
    ///
    /// # Panics
    /// When loopback has no free port.
    pub fn start() -> Self {
        Self::run(|socket, packet, from| {
            let Ok(query) = Message::from_vec(packet) else { return };
            let mut answer = query.clone();
            answer.metadata.message_type = MessageType::Response;
            answer.metadata.response_code = ResponseCode::NoError;
            if let Some(asked) = query.queries.first() {
                answer.add_answer(Record::from_rdata(asked.name().clone(), 60, RData::A(A(Self::ADDRESS))));
            }
            if let Ok(bytes) = answer.to_vec() {
                let _ = socket.send_to(&bytes, from);
            }
        })
    }

    /// One that answers nothing.
    ///
    /// # Panics
    /// As [`Resolver::start`].
    pub fn silent() -> Self {
        Self::run(|_, _, _| {})
    }

    /// One that sends every question to `to`, as a machine's resolver does whose only server is the node; without, it answers that there
    /// is no such name.
    ///
    /// # Panics
    /// As [`Resolver::start`].
    pub fn that_asks(to: impl Fn() -> Option<SocketAddr> + Send + 'static) -> Self {
        Self::run(move |socket, packet, from| {
            if let Some(to) = to() {
                let _ = socket.send_to(packet, to);
            } else if let [_, _, flags, code, ..] = &mut packet[..] {
                (*flags, *code) = (*flags | 0x80, 3);
                let _ = socket.send_to(packet, from);
            }
        })
    }

    fn run(answer: impl Fn(&UdpSocket, &mut [u8], SocketAddr) + Send + 'static) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback has free ports");
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a socket has timeouts");
        let address = socket.local_addr().expect("it is bound");
        let shared = Arc::<Shared>::default();
        let kept = Arc::clone(&shared);
        std::thread::spawn(move || {
            let mut packet = [0; 4096];
            while !kept.stop.load(SeqCst) {
                if let Ok((length, from)) = socket.recv_from(&mut packet) {
                    kept.queries.fetch_add(1, SeqCst);
                    if let Some(query) =
                        Message::from_vec(&packet[..length]).ok().and_then(|said| said.queries.into_iter().next())
                    {
                        let mut names = kept.names.lock().expect("no panic holds it");
                        *names.entry(query.name().to_ascii()).or_default() += 1;
                    }
                    answer(&socket, &mut packet[..length], from);
                }
            }
        });
        Self { address, shared }
    }

    /// Packets so far; a node's own probes are among them.
    pub fn queries(&self) -> usize {
        self.shared.queries.load(SeqCst)
    }

    /// Questions for this name so far.
    ///
    /// # Panics
    /// When a thread of the resolver panicked.
    pub fn asked_for(&self, name: &str) -> usize {
        self.shared.names.lock().expect("no panic holds it").get(name).copied().unwrap_or_default()
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
    }
}
