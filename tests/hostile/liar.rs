//! A certified member that is no `skein run`: it holds the certificates and keys of a node that joined, opens real peer links with
//! them, answers probes, and for the rest says what a test wants.

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use certs::{
    ca::{CaKey, NodeCa},
    codec::{self, Envelope},
    id::{NodeId, SpiffeId, TrustDomain},
    root::bundle_from_pem,
    sign::SigningKey,
};
use harness::cluster::{Cluster, TRUST_DOMAIN};
use membership::{
    body::{Address, Body, Identity, Status, Table},
    message::Message,
    record::{Section, SignedRecord, next_generation},
};
use node::mesh::preface::WIRE_VERSION;
use rustls::sign::CertifiedKey;

use crate::{
    client::{Session, member},
    strangers::wall,
};

/// Kinds of a link's frames.
const HELLO: u8 = 0;
const PING: u8 = 1;
const PONG: u8 = 2;
const URGENT: u8 = 4;
const MESSAGE: u8 = 5;
const REQUEST: u8 = 6;
const REPLY: u8 = 7;
const REFUSAL: u8 = 8;
/// Bytes of a frame at most.
const PIECE: usize = 16 << 10;
/// Bytes of a frame's head.
const HEAD: usize = 8;
/// The usual port of a mesh.
const MESH_PORT: u16 = 15008;
/// Pause between looks at what came.
const PAUSE: Duration = Duration::from_millis(5);
/// Reads of one look at most: other links wait meanwhile.
const READS: usize = 32;
/// How long a look at one link waits.
const LOOK: Duration = Duration::from_millis(1);

/// See the module.
pub(crate) struct Liar {
    pub(crate) node: NodeId,
    pub(crate) key: SigningKey,
    pub(crate) generation: u64,
    sequence: u64,
    sections: BTreeMap<Section, u64>,
    /// What it said last in each section, for whom it links with anew.
    said: BTreeMap<Section, Vec<u8>>,
    /// Where it claims to listen; nobody does.
    address: SocketAddr,
    chain: Vec<Vec<u8>>,
    leaf: Arc<CertifiedKey>,
    links: Arc<Mutex<BTreeMap<String, Link>>>,
    stop: Arc<AtomicBool>,
    listener: Option<JoinHandle<()>>,
}

/// One link, dialled over TLS on TCP.
struct Link {
    /// The node's port, and the name that TLS asks for.
    address: SocketAddr,
    name: String,
    session: Session,
    /// What came and is no whole frame yet.
    rest: Vec<u8>,
    /// What is no whole message yet.
    piece: Vec<u8>,
    /// What the node said, but probes.
    heard: Vec<Message>,
    /// Replies and refusals that came.
    answers: (usize, usize),
    /// How often it was asked what, and what it replies: nothing to other kinds.
    asked: BTreeMap<u16, usize>,
    replies: BTreeMap<u16, Vec<u8>>,
    closed: bool,
}

/// A file of a node's data directory.
pub(crate) fn file(cluster: &Cluster, node: &str, name: &str) -> String {
    std::fs::read_to_string(cluster.node(node).dir.join("data").join(name)).expect("a node's file")
}

pub(crate) fn domain() -> TrustDomain {
    TrustDomain::new(TRUST_DOMAIN).expect("a name")
}

impl Liar {
    /// Takes on the identity of a node that joined and does not run.
    pub(crate) fn new(cluster: &Cluster, name: &str) -> Liar {
        let node = NodeId::new(name).expect("a name");
        let chain = bundle_from_pem(&file(cluster, name, "ca.pem")).expect("certificates");
        let ca_key = CaKey::from_pem(&file(cluster, name, "ca.key")).expect("a key");
        let ca = NodeCa::new(&domain(), chain.clone(), ca_key).expect("a CA");
        let leaf = ca.leaf(&SpiffeId::node(domain(), node.clone()), wall()).expect("a leaf").key;
        let links: Arc<Mutex<BTreeMap<String, Link>>> = Arc::default();
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, ended) = (links.clone(), stop.clone());
        let listener = std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                held(&shared).values_mut().filter(|link| !link.closed).for_each(Link::listen);
                std::thread::sleep(PAUSE);
            }
        });
        Liar {
            key: SigningKey::from_pem(&file(cluster, name, "record.key")).expect("a key"),
            generation: next_generation(0, 0, wall(), 7),
            sequence: 0,
            sections: BTreeMap::new(),
            said: BTreeMap::new(),
            address: SocketAddr::new(cluster.node(name).ip, MESH_PORT),
            node,
            chain,
            leaf,
            links,
            stop,
            listener: Some(listener),
        }
    }

    /// Opens a link with a node and introduces itself.
    pub(crate) fn link(&mut self, cluster: &Cluster, to: &str) {
        let name = SpiffeId::node(domain(), NodeId::new(to).expect("a name")).dns_name();
        let link = Link::open(cluster.node(to).address("mesh"), name, &self.leaf);
        held(&self.links).insert(to.to_owned(), link);
    }

    /// Opens so many more.
    pub(crate) fn link_again(&mut self, cluster: &Cluster, to: &str, count: usize) {
        for number in 0..count {
            let name = SpiffeId::node(domain(), NodeId::new(to).expect("a name")).dns_name();
            let link = Link::open(cluster.node(to).address("mesh"), name, &self.leaf);
            held(&self.links).insert(again(to, number), link);
        }
    }

    /// Which of those stand.
    pub(crate) fn linked_again(&self, to: &str, count: usize) -> Vec<usize> {
        (0..count).filter(|number| self.is_linked(&again(to, *number))).collect()
    }

    /// Asks one the same so many times.
    pub(crate) fn ask(&self, to: &str, kind: u16, count: usize) {
        if let Some(link) = held(&self.links).get_mut(to) {
            (0..count).for_each(|_| link.write(REQUEST, &kind.to_be_bytes()));
        }
    }

    /// Replies and refusals of one so far.
    pub(crate) fn answers(&self, of: &str) -> (usize, usize) {
        held(&self.links).get(of).map(|link| link.answers).unwrap_or_default()
    }

    /// From now on it replies so to what one asks of this kind.
    pub(crate) fn reply(&self, to: &str, kind: u16, bytes: Vec<u8>) {
        if let Some(link) = held(&self.links).get_mut(to) {
            link.replies.insert(kind, bytes);
        }
    }

    /// How often one has asked for this kind.
    pub(crate) fn asked(&self, by: &str, kind: u16) -> usize {
        held(&self.links).get(by).and_then(|link| link.asked.get(&kind).copied()).unwrap_or_default()
    }

    /// Says who it is and that it is up, with these services, to all whom it has a link with.
    pub(crate) fn introduce(&mut self, services: Body) {
        let identity = Body::Identity(Identity { chain: self.chain.clone() });
        let address = Body::Address(Address {
            addresses: vec![self.address],
            locality: String::new(),
            version: "hostile".to_owned(),
            wire: (WIRE_VERSION, WIRE_VERSION),
            started: wall(),
        });
        let mut records = Vec::new();
        // Nodes know no endpoint of a member without an address.
        for body in [identity, address, Body::Status(Status::Up), services] {
            records.extend(self.publish(&body));
        }
        self.tell(&Message::Records(records));
    }

    /// Signs what it says of itself, and the table over it.
    pub(crate) fn publish(&mut self, body: &Body) -> Vec<Vec<u8>> {
        let mut records = Vec::new();
        for (section, body) in body.parts().expect("small") {
            records.push(self.sign(section, body));
        }
        records.push(self.table());
        records
    }

    /// Signs the table over all that it said.
    pub(crate) fn table(&mut self) -> Vec<u8> {
        let entries = self.sections.clone();
        self.sign(Section::TABLE, codec::encode(&Table { entries }))
    }

    fn sign(&mut self, section: Section, body: Vec<u8>) -> Vec<u8> {
        self.sequence += 1;
        if section != Section::TABLE {
            self.sections.insert(section, self.sequence);
        }
        let record = self.signed(&self.node, self.generation, section, self.sequence, body);
        self.said.insert(section, record.clone());
        record
    }

    /// The number that it used last.
    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Goes on above this number.
    pub(crate) fn skip_to(&mut self, sequence: u64) {
        self.sequence = self.sequence.max(sequence);
    }

    /// Anything, signed by its own key.
    pub(crate) fn signed(
        &self,
        of: &NodeId,
        generation: u64,
        section: Section,
        sequence: u64,
        body: Vec<u8>,
    ) -> Vec<u8> {
        let record = SignedRecord::sign(&self.key, &domain(), of, generation, section, sequence, body);
        record.expect("small").bytes().to_vec()
    }

    /// Says something to all whom it has a link with.
    pub(crate) fn tell(&self, message: &Message) {
        held(&self.links).values_mut().for_each(|link| self.say(link, message));
    }

    /// Says something to one.
    pub(crate) fn tell_one(&self, to: &str, message: &Message) {
        if let Some(link) = held(&self.links).get_mut(to) {
            self.say(link, message);
        }
    }

    /// Says the same so many times over each link with one, as fast as it is read.
    pub(crate) fn tell_without_pause(&self, to: &str, message: &Message, count: usize) {
        let framed = framed(MESSAGE, 0, &message.encode()).repeat(count);
        let mut links = held(&self.links);
        let to = links.iter_mut().filter(|(name, link)| name.split(' ').next() == Some(to) && !link.closed);
        to.for_each(|(_, link)| link.send(&framed));
    }

    /// Over the link, or a new one, should it have ended: on a machine that is short of time it may be late to answer a node.
    fn say(&self, link: &mut Link, message: &Message) {
        if link.closed {
            // Some nodes are killed in tests.
            if TcpStream::connect(link.address).is_err() {
                return;
            }
            let (asked, replies) = (std::mem::take(&mut link.asked), std::mem::take(&mut link.replies));
            let fresh = Link::open(link.address, std::mem::take(&mut link.name), &self.leaf);
            *link = Link { asked, replies, ..fresh };
            link.say(&Message::Records(self.said.values().cloned().collect()).encode());
        }
        link.say(&message.encode());
    }

    /// What one has said since it was last asked.
    pub(crate) fn heard(&self, from: &str) -> Vec<Message> {
        held(&self.links).get_mut(from).map(|link| std::mem::take(&mut link.heard)).unwrap_or_default()
    }

    /// Whether its link with one stands.
    pub(crate) fn is_linked(&self, with: &str) -> bool {
        held(&self.links).get(with).is_some_and(|link| !link.closed)
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(listener) = self.listener.take() {
            // It ends by itself; a panic of it has failed the test already.
            let _ = listener.join();
        }
    }
}

/// The name of one more link.
fn again(to: &str, number: usize) -> String {
    format!("{to} {number}")
}

fn held(links: &Arc<Mutex<BTreeMap<String, Link>>>) -> MutexGuard<'_, BTreeMap<String, Link>> {
    links.lock().unwrap_or_else(PoisonError::into_inner)
}

/// As it travels; `id` ties a reply to its request.
fn framed(kind: u8, id: u32, bytes: &[u8]) -> Vec<u8> {
    let mut framed = Vec::new();
    let pieces = bytes.len().div_ceil(PIECE).max(1);
    for number in 0..pieces {
        let piece = &bytes[number * PIECE..bytes.len().min((number + 1) * PIECE)];
        let length = u16::try_from(piece.len()).expect("a piece is short");
        framed.extend([kind, u8::from(number + 1 < pieces)]);
        framed.extend(length.to_be_bytes());
        framed.extend(id.to_be_bytes());
        framed.extend(piece);
    }
    framed
}

impl Link {
    fn open(address: SocketAddr, name: String, leaf: &Arc<CertifiedKey>) -> Link {
        let session = member(address, "skein-peer/1", &name, leaf);
        let (rest, piece, heard, answers, asked, replies) = Default::default();
        let mut link = Link { address, name, session, rest, piece, heard, answers, asked, replies, closed: false };
        link.write(HELLO, &codec::encode(&Envelope { version: WIRE_VERSION, kind: 2, body: Vec::new() }));
        // A write that failed has closed it.
        let _ = link.session.sock.set_read_timeout(Some(LOOK));
        link
    }

    fn say(&mut self, message: &[u8]) {
        self.write(MESSAGE, message);
    }

    fn write(&mut self, kind: u8, bytes: &[u8]) {
        self.write_about(kind, 0, bytes);
    }

    fn write_about(&mut self, kind: u8, id: u32, bytes: &[u8]) {
        self.send(&framed(kind, id, bytes));
    }

    fn send(&mut self, framed: &[u8]) {
        let written = self.session.write_all(framed).and_then(|()| self.session.flush());
        self.closed |= written.is_err();
    }

    fn listen(&mut self) {
        let mut buffer = [0; 32 << 10];
        for _ in 0..READS {
            match self.session.read(&mut buffer) {
                Ok(0) => self.closed = true,
                Ok(count) => {
                    self.rest.extend(&buffer[..count]);
                    continue;
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => self.closed = true,
            }
            break;
        }
        while let Some((kind, more, id, bytes)) = self.frame() {
            match kind {
                PING => self.write(PONG, &bytes),
                URGENT | MESSAGE => {
                    self.piece.extend(bytes);
                    if !more {
                        let whole = std::mem::take(&mut self.piece);
                        self.hear(&whole);
                    }
                }
                REQUEST if !more => self.answer(id, &bytes),
                REPLY if !more => self.answers.0 += 1,
                REFUSAL => self.answers.1 += 1,
                _ => {}
            }
        }
    }

    fn answer(&mut self, id: u32, request: &[u8]) {
        let Some((kind, _)) = request.split_first_chunk() else { return };
        let kind = u16::from_be_bytes(*kind);
        *self.asked.entry(kind).or_default() += 1;
        if let Some(reply) = self.replies.get(&kind).cloned() {
            self.write_about(REPLY, id, &reply);
        }
    }

    fn frame(&mut self) -> Option<(u8, bool, u32, Vec<u8>)> {
        let (head, _) = self.rest.split_first_chunk::<HEAD>()?;
        let [kind, more, high, low, id @ ..] = *head;
        let end = HEAD + usize::from(u16::from_be_bytes([high, low]));
        let bytes = self.rest.get(HEAD..end)?.to_vec();
        self.rest.drain(..end);
        Some((kind, more != 0, u32::from_be_bytes(id), bytes))
    }

    fn hear(&mut self, bytes: &[u8]) {
        match Message::decode(bytes) {
            Ok(Some(Message::Ping(nonce))) => self.say(&Message::Ack(nonce).encode()),
            Ok(Some(message)) => self.heard.push(message),
            Ok(None) | Err(_) => {}
        }
    }
}
