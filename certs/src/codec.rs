//! The one encoding of everything that travels or is signed: bincode, standard configuration, size-capped,
//! every byte consumed.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Bytes that are not the value they should be, or more than the limit allows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a valid encoding: {0}")]
pub struct CodecError(pub String);

/// Unix time in milliseconds. The only form in which time enters the pure crates.
pub type Millis = u64;

/// A versioned message: a reader relays kinds that it does not know and closes streams that it cannot read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// Wire version of the sender.
    pub version: u8,
    /// What the body is.
    pub kind: u16,
    /// The encoded body.
    pub body: Vec<u8>,
}

/// Encodes `value`.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    bincode::serde::encode_to_vec(value, bincode::config::standard())
        .expect("our types have plain derived encodings, and memory takes any length")
}

/// Decodes a value of at most `LIMIT` bytes; trailing bytes are an error.
pub fn decode<T: DeserializeOwned, const LIMIT: usize>(bytes: &[u8]) -> Result<T, CodecError> {
    if bytes.len() > LIMIT {
        return Err(CodecError(format!("{} bytes, limit {LIMIT}", bytes.len())));
    }
    let (value, used) = decode_bounded(bytes).map_err(|error| CodecError(error.to_string()))?;
    if used != bytes.len() {
        return Err(CodecError(format!("{} bytes too many", bytes.len() - used)));
    }
    Ok(value)
}

/// bincode's own limit counts each integer with its full width and each string before it is read. It must be wider than the
/// input, which may be packed eight to one, yet near it, or a short message could claim a long allocation.
fn decode_bounded<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, usize), bincode::error::DecodeError> {
    const KIB: usize = 1 << 10;
    const MIB: usize = 1 << 20;
    let config = bincode::config::standard();
    match bytes.len() {
        0..=KIB => bincode::serde::decode_from_slice(bytes, config.with_limit::<{ 16 * KIB }>()),
        ..=16_384 => bincode::serde::decode_from_slice(bytes, config.with_limit::<{ 256 * KIB }>()),
        ..=262_144 => bincode::serde::decode_from_slice(bytes, config.with_limit::<{ 4 * MIB }>()),
        ..=4_194_304 => bincode::serde::decode_from_slice(bytes, config.with_limit::<{ 64 * MIB }>()),
        _ => bincode::serde::decode_from_slice(bytes, config.with_limit::<{ 512 * MIB }>()),
    }
}
