//! What members say to each other over peer links.

use certs::{
    codec::{self, Bytes, Envelope},
    id::NodeId,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{error::RecordError, record::Section};

/// Largest message in bytes, that of a link's frame.
pub const MESSAGE_BYTES: usize = 1 << 20;
/// Bytes of records that one message takes at most; more go as several messages, so that urgent ones slip between.
pub const BATCH_BYTES: usize = 64 << 10;

const WIRE_VERSION: u8 = 1;

/// One message between two linked members.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// Records, as their owners signed them.
    Records(Vec<Vec<u8>>),
    /// The latest that the sender holds of each member, and whether it takes it for alive.
    Summary(Vec<(Latest, bool)>),
    /// Asks for records; no section means all.
    Pull(Vec<(NodeId, Vec<Section>)>),
    /// Asks for an `Ack`.
    Ping(u64),
    /// Answers a `Ping`.
    Ack(u64),
    /// Asks to ping a third member.
    Probe {
        /// Comes back in the answer.
        nonce: u64,
        /// Whom.
        target: NodeId,
    },
    /// Answers a `Probe`.
    Probed {
        /// That of the probe.
        nonce: u64,
        /// Whom.
        target: NodeId,
        /// Whether it answered: of one that did not nothing is said, or believed.
        reached: bool,
    },
    /// The sender heard of these numbers just now and does not send the records themselves.
    Have(Vec<Latest>),
    /// The sender does not need this link any more: its end says nothing.
    Parting,
    /// A payload of the gossip carrier.
    Carrier(Vec<u8>),
    /// Two records that no honest node signs.
    Proof(Vec<u8>, Vec<u8>),
}

/// The highest number of a member's records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latest {
    /// The member.
    pub node: NodeId,
    /// Its run.
    pub generation: u64,
    /// The highest sequence of that run.
    pub sequence: u64,
}

impl Message {
    /// As it travels.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (kind, body) = match self {
            Message::Records(records) => return encode_records(records.iter().map(Vec::as_slice)),
            Message::Summary(entries) => (2, codec::encode(entries)),
            Message::Pull(wants) => (3, codec::encode(wants)),
            Message::Ping(nonce) => (4, codec::encode(nonce)),
            Message::Ack(nonce) => (5, codec::encode(nonce)),
            Message::Probe { nonce, target } => (6, codec::encode(&(nonce, target))),
            Message::Probed { nonce, target, reached } => (7, codec::encode(&(nonce, target, reached))),
            Message::Carrier(bytes) => (9, codec::encode(&Part(bytes))),
            Message::Proof(one, other) => (10, codec::encode(&(one, other))),
            Message::Have(entries) => (11, codec::encode(entries)),
            Message::Parting => (12, Vec::new()),
        };
        envelope(kind, body)
    }

    /// Reads a message; `None` is a kind that this build does not know.
    ///
    /// # Errors
    /// Bytes that are no message of a known version.
    pub fn decode(bytes: &[u8]) -> Result<Option<Message>, RecordError> {
        // An envelope, whose body is not copied.
        let envelope = codec::decode_borrowed::<(u8, u16, &[u8]), MESSAGE_BYTES>(bytes);
        let (version, kind, body) = envelope.map_err(|error| RecordError::Malformed(error.to_string()))?;
        if version == 0 {
            return Err(RecordError::Malformed("wire version 0".to_owned()));
        }
        Ok(Some(match kind {
            1 => Message::Records(read::<Vec<Bytes>>(body)?.into_iter().map(|record| record.0).collect()),
            2 => Message::Summary(read(body)?),
            3 => Message::Pull(read(body)?),
            4 => Message::Ping(read(body)?),
            5 => Message::Ack(read(body)?),
            6 => {
                let (nonce, target) = read(body)?;
                Message::Probe { nonce, target }
            }
            7 => {
                let (nonce, target, reached) = read(body)?;
                Message::Probed { nonce, target, reached }
            }
            9 => Message::Carrier(read::<Bytes>(body)?.0),
            10 => {
                let (one, other) = read(body)?;
                Message::Proof(one, other)
            }
            11 => Message::Have(read(body)?),
            12 => Message::Parting,
            _ => return Ok(None),
        }))
    }
}

/// A `Message::Records`, as it travels.
pub(crate) fn encode_records<'a>(records: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    envelope(1, codec::encode(&records.map(Part).collect::<Vec<_>>()))
}

fn envelope(kind: u16, body: Vec<u8>) -> Vec<u8> {
    codec::encode(&Envelope { version: WIRE_VERSION, kind, body })
}

/// Written as [`Bytes`] are.
#[derive(Serialize)]
struct Part<'a>(#[serde(with = "codec::bytes")] &'a [u8]);

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, RecordError> {
    codec::decode::<T, MESSAGE_BYTES>(bytes).map_err(|error| RecordError::Malformed(error.to_string()))
}
