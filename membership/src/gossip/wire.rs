//! The message format of chitchat 0.11, read and written apart from it: its own reader builds types that cannot be
//! looked into, and its own state believes what it reads.

use std::{
    cell::RefCell,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use certs::codec;
use serde::{Deserialize, Serialize};

use crate::brief::Brief;

/// Bytes of a message as chitchat makes it, its delta packed.
const DATAGRAM_BYTES: usize = 65_507;
/// Bytes of an unpacked delta between members. chitchat's limit is for the delta as it packs it, which says little of
/// what it holds: the sender cuts what is longer.
pub(super) const DELTA_BYTES: usize = 4 * DATAGRAM_BYTES;
/// Bytes of a message between members, its delta unpacked: a digest is never longer than chitchat's own message.
pub(super) const MESSAGE_BYTES: usize = DELTA_BYTES + DATAGRAM_BYTES + 1_024;
/// Bytes that are unpacked of what this node's chitchat made of its own state.
const OWN_BYTES: usize = 1 << 20;

const MAGIC: u16 = 45_139;
/// Begins a message with a short digest; no message of chitchat's own begins so.
const SHORT: u8 = 1;
const BLOCK_BYTES: usize = 16_384;
/// Bytes of a node in a delta beside its name and values, a bare version among them.
const NODE_BYTES: usize = 64;
/// Bytes of a value beside its key and itself.
const VALUE_BYTES: usize = 14;

/// A message, as anybody may have made it up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Message {
    Syn { cluster: String, digest: Vec<Held> },
    SynAck { digest: Vec<Held>, delta: Vec<Delta> },
    Ack { delta: Vec<Delta> },
    BadCluster,
}

/// Who a state belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Id {
    pub(super) name: String,
    pub(super) generation: u64,
    pub(super) address: SocketAddr,
}

/// What the sender holds of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) id: Id,
    pub(super) heartbeat: u64,
    pub(super) collected: u64,
    pub(super) version: u64,
}

/// News of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Delta {
    pub(super) id: Id,
    pub(super) collected: u64,
    pub(super) from: u64,
    pub(super) values: Vec<Value>,
    /// Sets a version without a value: an honest member has no use for it.
    pub(super) bare_version: bool,
}

/// One value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Value {
    pub(super) key: String,
    pub(super) value: String,
    pub(super) version: u64,
    /// 0 is set; the rest is deletion.
    pub(super) status: u8,
}

/// Not a message.
pub(super) type Malformed = &'static str;

/// Reads one; nothing is left over.
pub(super) fn read(bytes: &[u8]) -> Result<Message, Malformed> {
    message(bytes, Reader::delta)
}

/// Reads what this node's chitchat made. Of a delta that unpacks to more than is sent, the rest is left out: the next
/// round brings it.
pub(super) fn read_own(bytes: &[u8]) -> Result<Message, Malformed> {
    message(bytes, Reader::own_delta)
}

fn message<'a>(
    bytes: &'a [u8],
    delta: fn(&mut Reader<'a>) -> Result<Vec<Delta>, Malformed>,
) -> Result<Message, Malformed> {
    let mut reader = Reader(bytes);
    if reader.u16()? != MAGIC || reader.u8()? != 0 {
        return Err("not a chitchat message");
    }
    let message = match reader.u8()? {
        0 => {
            let digest = reader.digest()?;
            Message::Syn { cluster: reader.text()?, digest }
        }
        1 => Message::SynAck { digest: reader.digest()?, delta: delta(&mut reader)? },
        2 => Message::Ack { delta: delta(&mut reader)? },
        3 => Message::BadCluster,
        _ => return Err("unknown message type"),
    };
    if reader.0.is_empty() { Ok(message) } else { Err("bytes too many") }
}

/// Whether a message of this node's own chitchat begins an exchange.
pub(super) fn opens(message: &[u8]) -> bool {
    message.get(3) == Some(&0)
}

/// Writes one, its delta unpacked: it goes to the state next door.
pub(super) fn write(message: &Message) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(MAGIC.to_le_bytes());
    out.push(0);
    match message {
        Message::Syn { cluster, digest } => {
            out.push(0);
            write_digest(digest, &mut out);
            write_text(cluster, &mut out);
        }
        Message::SynAck { digest, delta } => {
            out.push(1);
            write_digest(digest, &mut out);
            write_delta(delta, &mut out);
        }
        Message::Ack { delta } => {
            out.push(2);
            write_delta(delta, &mut out);
        }
        Message::BadCluster => out.push(3),
    }
    out
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or("cut off")?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.take(N)?.try_into().map_err(|_| "cut off")
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn text(&mut self) -> Result<String, Malformed> {
        let length = self.u16()?;
        let text = std::str::from_utf8(self.take(usize::from(length))?).map_err(|_| "text that is not UTF-8")?;
        Ok(text.to_owned())
    }

    fn id(&mut self) -> Result<Id, Malformed> {
        let (name, generation) = (self.text()?, self.u64()?);
        let ip: IpAddr = match self.u8()? {
            4 => self.array::<4>()?.into(),
            6 => Ipv6Addr::from(self.array::<16>()?).into(),
            _ => return Err("unknown address family"),
        };
        Ok(Id { name, generation, address: SocketAddr::new(ip, self.u16()?) })
    }

    fn digest(&mut self) -> Result<Vec<Held>, Malformed> {
        let count = self.u16()?;
        let mut digest = Vec::new();
        for _ in 0..count {
            let id = self.id()?;
            digest.push(Held { id, heartbeat: self.u64()?, collected: self.u64()?, version: self.u64()? });
        }
        Ok(digest)
    }

    fn delta(&mut self) -> Result<Vec<Delta>, Malformed> {
        let mut unpacked = Vec::new();
        while let Some((packed, bytes)) = self.block()? {
            if packed {
                let room = (DELTA_BYTES - unpacked.len()).min(usize::from(u16::MAX));
                unpacked.extend(zstd::bulk::decompress(bytes, room).map_err(|_| "block does not unpack")?);
            } else {
                unpacked.extend(bytes);
            }
            if unpacked.len() > DELTA_BYTES {
                return Err("delta is too large");
            }
        }
        let (deltas, rest) = Reader(&unpacked).operations();
        rest.map(|()| deltas)
    }

    fn own_delta(&mut self) -> Result<Vec<Delta>, Malformed> {
        let mut unpacked = Vec::new();
        let mut whole = true;
        while let Some((packed, bytes)) = self.block()? {
            whole &= unpacked.len() + BLOCK_BYTES <= OWN_BYTES;
            if whole && packed {
                unpacked.extend(zstd::bulk::decompress(bytes, BLOCK_BYTES).map_err(|_| "block does not unpack")?);
            } else if whole {
                unpacked.extend(bytes);
            }
        }
        let (deltas, rest) = Reader(&unpacked).operations();
        if whole { rest.map(|()| deltas) } else { Ok(deltas) }
    }

    /// The next block of a delta, and whether it is packed; `None` at its end.
    fn block(&mut self) -> Result<Option<(bool, &'a [u8])>, Malformed> {
        let packed = match self.u8()? {
            0 => return Ok(None),
            1 => true,
            2 => false,
            _ => return Err("unknown block type"),
        };
        let length = self.u16()?;
        Ok(Some((packed, self.take(usize::from(length))?)))
    }

    /// Whole operations, and whether nothing followed them.
    fn operations(mut self) -> (Vec<Delta>, Result<(), Malformed>) {
        let mut deltas = Vec::new();
        let mut result = Ok(());
        while result.is_ok() && !self.0.is_empty() {
            result = self.operation(&mut deltas);
        }
        (deltas, result)
    }

    fn operation(&mut self, deltas: &mut Vec<Delta>) -> Result<(), Malformed> {
        match self.u8()? {
            0 => {
                let (id, collected, from) = (self.id()?, self.u64()?, self.u64()?);
                deltas.push(Delta { id, collected, from, values: Vec::new(), bare_version: false });
            }
            1 => {
                let (key, value, version, status) = (self.text()?, self.text()?, self.u64()?, self.u8()?);
                let delta = deltas.last_mut().ok_or("value of nobody")?;
                delta.values.push(Value { key, value, version, status });
            }
            2 => {
                self.u64()?;
                deltas.last_mut().ok_or("version of nobody")?.bare_version = true;
            }
            _ => return Err("unknown operation"),
        }
        Ok(())
    }
}

impl Delta {
    /// Bytes that it takes in a message.
    pub(super) fn size(&self) -> usize {
        NODE_BYTES + self.id.name.len() + self.values.iter().map(Value::size).sum::<usize>()
    }
}

impl Value {
    fn size(&self) -> usize {
        VALUE_BYTES + self.key.len() + self.value.len()
    }
}

/// Leaves out of a delta what members do not take in one message. What stays is a delta like any other: of each node the
/// values up to some version.
pub(super) fn cut(delta: &mut Vec<Delta>) {
    let mut room = DELTA_BYTES;
    let mut fits = |size: usize| {
        let left = room.checked_sub(size);
        room = left.unwrap_or(0);
        left.is_some()
    };
    for node in &mut *delta {
        if !fits(NODE_BYTES + node.id.name.len()) {
            node.values.clear();
        }
        let kept = node.values.iter().take_while(|value| fits(value.size())).count();
        node.bare_version &= kept == node.values.len();
        node.values.truncate(kept);
    }
    delta.retain(|node| !node.values.is_empty() || node.bare_version);
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    let length = u16::try_from(text.len()).expect("every text written was read with a 16-bit length");
    out.extend(length.to_le_bytes());
    out.extend(text.as_bytes());
}

fn write_id(id: &Id, out: &mut Vec<u8>) {
    write_text(&id.name, out);
    out.extend(id.generation.to_le_bytes());
    match id.address.ip() {
        IpAddr::V4(ip) => {
            out.push(4);
            out.extend(ip.octets());
        }
        IpAddr::V6(ip) => {
            out.push(6);
            out.extend(ip.octets());
        }
    }
    out.extend(id.address.port().to_le_bytes());
}

fn write_digest(digest: &[Held], out: &mut Vec<u8>) {
    let count = u16::try_from(digest.len()).expect("every digest written was read with a 16-bit count");
    out.extend(count.to_le_bytes());
    for held in digest {
        write_id(&held.id, out);
        out.extend(held.heartbeat.to_le_bytes());
        out.extend(held.collected.to_le_bytes());
        out.extend(held.version.to_le_bytes());
    }
}

fn write_delta(delta: &[Delta], out: &mut Vec<u8>) {
    let mut operations = Vec::new();
    write_operations(delta, &mut operations);
    for block in operations.chunks(BLOCK_BYTES) {
        out.push(2);
        let length = u16::try_from(block.len()).expect("a block is 16 KiB at most");
        out.extend(length.to_le_bytes());
        out.extend(block);
    }
    out.push(0);
}

/// Writes a delta as chitchat does before it packs it.
pub(super) fn write_operations(delta: &[Delta], operations: &mut Vec<u8>) {
    for node in delta {
        operations.push(0);
        write_id(&node.id, operations);
        operations.extend(node.collected.to_le_bytes());
        operations.extend(node.from.to_le_bytes());
        for value in &node.values {
            operations.push(1);
            write_text(&value.key, operations);
            write_text(&value.value, operations);
            operations.extend(value.version.to_le_bytes());
            operations.push(value.status);
        }
        if node.bare_version {
            operations.push(2);
            operations.extend(u64::MAX.to_le_bytes());
        }
    }
}

/// A message with a digest as it travels between members, who know the rest of what chitchat's own digest says.
#[derive(Serialize, Deserialize)]
pub(super) struct Short {
    /// The mesh, where the message begins an exchange.
    pub(super) cluster: Option<String>,
    pub(super) digest: Brief,
    /// News as a message of chitchat's, where it answers one.
    #[serde(with = "codec::bytes")]
    news: Vec<u8>,
}

impl Short {
    pub(super) fn new(cluster: Option<String>, digest: Brief, delta: Vec<Delta>) -> Short {
        let news = if cluster.is_some() { Vec::new() } else { write(&Message::Ack { delta }) };
        Short { cluster, digest, news }
    }

    pub(super) fn write(&self) -> Vec<u8> {
        [vec![SHORT], codec::encode(self)].concat()
    }

    /// `None` if it is a whole message of chitchat's.
    pub(super) fn read(bytes: &[u8]) -> Result<Option<Short>, Malformed> {
        match bytes.split_first() {
            Some((&SHORT, short)) => {
                codec::decode::<_, MESSAGE_BYTES>(short).map(Some).map_err(|_| "a digest that is none")
            }
            Some(_) | None => Ok(None),
        }
    }

    pub(super) fn news(&self) -> Result<Vec<Delta>, Malformed> {
        match read(&self.news)? {
            Message::Ack { delta } => Ok(delta),
            Message::Syn { .. } | Message::SynAck { .. } | Message::BadCluster => Err("news that are none"),
        }
    }
}

thread_local! {
    // Their tables are larger than what they pack: made once.
    static PACKER: RefCell<zstd::bulk::Compressor<'static>> =
        RefCell::new(zstd::bulk::Compressor::new(1).expect("memory"));
    static UNPACKER: RefCell<zstd::bulk::Decompressor<'static>> =
        RefCell::new(zstd::bulk::Decompressor::new().expect("memory"));
}

/// Packs a message for a peer.
pub(super) fn pack(message: &[u8]) -> Vec<u8> {
    let packed = PACKER.with_borrow_mut(|packer| packer.compress(message)).expect("memory takes any length");
    codec::encode(&packed)
}

/// Unpacks a peer's message, with a cap.
pub(super) fn unpack(payload: &[u8]) -> Result<Vec<u8>, Malformed> {
    let packed: Vec<u8> =
        codec::decode::<_, { 2 * MESSAGE_BYTES }>(payload).map_err(|_| "payload is no byte string")?;
    // The room that it says it needs: the limit is room for hundreds of most messages.
    let needed = zstd::zstd_safe::get_frame_content_size(&packed).ok().flatten();
    let needed = needed.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(MESSAGE_BYTES).min(MESSAGE_BYTES);
    let unpacked = UNPACKER.with_borrow_mut(|unpacker| unpacker.decompress(&packed, needed));
    unpacked.map_err(|_| "payload does not unpack within its limit")
}
