//! The one encoding of everything that travels or is signed: bincode, standard configuration, size-capped,
//! every byte consumed.

use serde::{Serialize, de::DeserializeOwned};

/// Bytes that are not the value they should be, or more than the limit allows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a valid encoding: {0}")]
pub struct CodecError(pub String);

/// Unix time in milliseconds. The only form in which time enters the pure crates.
pub type Millis = u64;

/// Encodes `value`.
pub fn encode<T: Serialize>(_value: &T) -> Vec<u8> { todo!() }

/// Decodes a value of at most `LIMIT` bytes; trailing bytes are an error.
pub fn decode<T: DeserializeOwned, const LIMIT: usize>(_bytes: &[u8]) -> Result<T, CodecError> { todo!() }

/// A versioned message: a reader relays kinds that it does not know and closes streams that it cannot read.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Envelope {
    /// Wire version of the sender.
    pub version: u8,
    /// What the body is.
    pub kind: u16,
    /// The encoded body.
    pub body: Vec<u8>,
}
