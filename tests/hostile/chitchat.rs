//! Messages of chitchat 0.11 as a hostile member writes them: byte by byte, because no library makes these.

use base64::{Engine as _, engine::general_purpose};
use certs::{
    codec,
    sign::{Digest, PublicKey},
};
use membership::message::Message;

const MAGIC: u16 = 45_139;
/// Bytes of a block of a delta.
const BLOCK: usize = 16_384;

/// A run of a member as chitchat names it.
#[derive(Clone)]
pub(crate) struct Id {
    pub(crate) name: String,
    pub(crate) generation: u64,
    pub(crate) address: Address,
}

/// Where chitchat would send to.
#[derive(Clone, Copy)]
pub(crate) enum Address {
    V4([u8; 4], u16),
    V6([u8; 16], u16),
}

impl Id {
    /// What members call the owner of a record key.
    pub(crate) fn of(key: &PublicKey, generation: u64) -> Id {
        let hash = Digest::of(&key.0).0;
        let mut octets = [0; 16];
        octets[..2].copy_from_slice(&[0xfd, 0x5e]);
        octets[2..].copy_from_slice(&hash[8..22]);
        let name = general_purpose::URL_SAFE_NO_PAD.encode(&hash[..8]);
        Id { name, generation, address: Address::V6(octets, 1) }
    }

    fn write(&self, out: &mut Vec<u8>) {
        text(&self.name, out);
        out.extend(self.generation.to_le_bytes());
        let port = match self.address {
            Address::V4(octets, port) => {
                out.push(4);
                out.extend(octets);
                port
            }
            Address::V6(octets, port) => {
                out.push(6);
                out.extend(octets);
                port
            }
        };
        out.extend(port.to_le_bytes());
    }
}

/// What the sender claims to hold of a run.
pub(crate) struct Held {
    pub(crate) id: Id,
    pub(crate) heartbeat: u64,
    pub(crate) collected: u64,
    pub(crate) version: u64,
}

/// The parts of a delta.
#[derive(Default)]
pub(crate) struct Delta(Vec<u8>);

impl Delta {
    /// News of a run: what follows is of it.
    pub(crate) fn of(mut self, id: &Id, collected: u64, from: u64) -> Delta {
        self.0.push(0);
        id.write(&mut self.0);
        self.0.extend(collected.to_le_bytes());
        self.0.extend(from.to_le_bytes());
        self
    }

    /// A value; status 0 is set, 1 deleted.
    pub(crate) fn value(mut self, key: &str, value: &str, version: u64, status: u8) -> Delta {
        self.0.push(1);
        text(key, &mut self.0);
        text(value, &mut self.0);
        self.0.extend(version.to_le_bytes());
        self.0.push(status);
        self
    }

    /// Sets a version without a value.
    pub(crate) fn version(mut self, version: u64) -> Delta {
        self.0.push(2);
        self.0.extend(version.to_le_bytes());
        self
    }

    /// The last message of an exchange.
    pub(crate) fn ack(&self) -> Vec<u8> {
        let mut out = begin(2);
        for block in self.0.chunks(BLOCK) {
            block_of(2, block, &mut out);
        }
        out.push(0);
        out
    }
}

/// A delta of so many packed blocks, each of which unpacks to 64 KiB less one.
pub(crate) fn packed_bomb(blocks: usize) -> Vec<u8> {
    let block = zstd::bulk::compress(&vec![0; usize::from(u16::MAX)], 19).expect("it packs");
    let mut out = begin(2);
    for _ in 0..blocks {
        block_of(1, &block, &mut out);
    }
    out.push(0);
    out
}

/// A member's run as its short digests name it.
pub(crate) fn run(key: &PublicKey, generation: u64) -> [u8; 6] {
    let hash = Digest::of(&[&key.0[..], &generation.to_be_bytes()].concat()).0;
    std::array::from_fn(|index| hash[index])
}

/// The first message of an exchange as members write it: runs, versions and marks, here in any order.
pub(crate) fn short(mesh: &str, entries: &[([u8; 6], u64, u8)]) -> Vec<u8> {
    let salt = 7_u128;
    [vec![1], codec::encode(&(Some(mesh), (salt, entries), codec::Bytes(Vec::new())))].concat()
}

/// The first message of an exchange as chitchat makes it.
pub(crate) fn syn(mesh: &str, digest: &[Held]) -> Vec<u8> {
    let mut out = begin(0);
    out.extend(u16::try_from(digest.len()).expect("few").to_le_bytes());
    for held in digest {
        held.id.write(&mut out);
        out.extend(held.heartbeat.to_le_bytes());
        out.extend(held.collected.to_le_bytes());
        out.extend(held.version.to_le_bytes());
    }
    text(mesh, &mut out);
    out
}

/// As it travels on a link.
pub(crate) fn payload(message: &[u8]) -> Message {
    let packed = zstd::bulk::compress(message, 1).expect("it packs");
    Message::Carrier(codec::encode(&packed))
}

fn begin(kind: u8) -> Vec<u8> {
    [&MAGIC.to_le_bytes()[..], &[0, kind]].concat()
}

fn block_of(kind: u8, block: &[u8], out: &mut Vec<u8>) {
    out.push(kind);
    out.extend(u16::try_from(block.len()).expect("a block is short").to_le_bytes());
    out.extend(block);
}

fn text(text: &str, out: &mut Vec<u8>) {
    out.extend(u16::try_from(text.len()).expect("short").to_le_bytes());
    out.extend(text.as_bytes());
}
