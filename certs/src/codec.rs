//! The one encoding of everything that travels or is signed: bincode, standard configuration, size-capped,
//! every byte consumed.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use zeroize::Zeroizing;

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
    #[serde(with = "bytes")]
    pub body: Vec<u8>,
}

/// A byte string within a list; see [`bytes`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bytes(#[serde(with = "bytes")] pub Vec<u8>);

/// For `#[serde(with = "bytes")]`: a byte string read and written in one piece, encoded as a list of bytes would be.
pub mod bytes {
    use std::fmt;

    use serde::{Deserializer, Serializer, de::Visitor};

    /// Writes it.
    ///
    /// # Errors
    /// The serializer's.
    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    /// Reads it.
    ///
    /// # Errors
    /// The deserializer's.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        deserializer.deserialize_byte_buf(Whole)
    }

    struct Whole;

    impl Visitor<'_> for Whole {
        type Value = Vec<u8>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a byte string")
        }

        fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
            Ok(bytes.to_vec())
        }

        fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
            Ok(bytes)
        }
    }
}

/// Encodes `value`.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    bincode::serde::encode_to_vec(value, bincode::config::standard())
        .expect("our types have plain derived encodings, and memory takes any length")
}

/// Bytes of what holds a secret: nothing that does is longer, so that its buffer never moves and leaves no copy behind.
const SECRET_BYTES: usize = 8 << 10;

/// Encodes what may hold a secret; wiped on drop.
pub(crate) fn encode_secret<T: Serialize>(value: &T) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(SECRET_BYTES));
    bincode::serde::encode_into_std_write(value, &mut *bytes, bincode::config::standard())
        .expect("our types have plain derived encodings, and memory takes any length");
    bytes
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

/// The same of a value that keeps parts of `bytes`, such as `&[u8]`, and allocates nothing: only the length of `bytes` is limited.
pub fn decode_borrowed<'a, T: Deserialize<'a>, const LIMIT: usize>(bytes: &'a [u8]) -> Result<T, CodecError> {
    if bytes.len() > LIMIT {
        return Err(CodecError(format!("{} bytes, limit {LIMIT}", bytes.len())));
    }
    let decoded = bincode::serde::borrow_decode_from_slice(bytes, bincode::config::standard());
    let (value, used) = decoded.map_err(|error| CodecError(error.to_string()))?;
    if used != bytes.len() {
        return Err(CodecError(format!("{} bytes too many", bytes.len() - used)));
    }
    Ok(value)
}

/// Parts of something to be signed, each under its length, so that no byte can move from one to the next.
pub(crate) fn length_prefixed(parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in parts {
        bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
        bytes.extend_from_slice(part);
    }
    bytes
}

/// bincode's own limit counts each integer with its full width and each string before it is read. It must be wider than the
/// input, which may be packed eight to one, yet near it, or a short message could claim a long allocation.
fn decode_bounded<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, usize), bincode::error::DecodeError> {
    const KIB: usize = 1 << 10;
    const MIB: usize = 1 << 20;
    let config = bincode::config::standard();
    match bytes.len() {
        0..1024 => bincode::serde::decode_from_slice(bytes, config.with_limit::<{ 16 * KIB }>()),
        1024..16_384 => bincode::serde::decode_from_slice(bytes, config.with_limit::<{ 256 * KIB }>()),
        16_384..262_144 => bincode::serde::decode_from_slice(bytes, config.with_limit::<{ 4 * MIB }>()),
        262_144..4_194_304 => bincode::serde::decode_from_slice(bytes, config.with_limit::<{ 64 * MIB }>()),
        _ => bincode::serde::decode_from_slice(bytes, config.with_limit::<{ 512 * MIB }>()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn golden_vectors() {
        let envelope = Envelope { version: 1, kind: 300, body: vec![1, 2, 3] };
        assert_eq!(encode(&envelope), [1, 0xfb, 0x2c, 0x01, 3, 1, 2, 3]);
        assert_eq!(encode(&("ab", Some(7u64), 251u64)), [2, b'a', b'b', 1, 7, 0xfb, 251, 0]);
        let bytes = encode(&envelope);
        assert_eq!(decode_borrowed::<(u8, u16, &[u8]), 8>(&bytes), Ok((1, 300, &[1, 2, 3][..])));
        assert!(decode_borrowed::<(u8, u16, &[u8]), 7>(&bytes).is_err());
        assert!(decode_borrowed::<(u8, u16, &[u8]), 9>(&[&bytes[..], &[0]].concat()).is_err());
        assert!(decode_borrowed::<(u8, u16, &[u8]), 8>(&bytes[..7]).is_err());
        assert_eq!(encode(&(u64::from(u32::MAX) + 1)), [0xfd, 0, 0, 0, 0, 1, 0, 0, 0]);
    }

    #[test]
    fn limits_and_trailing_bytes() {
        let bytes = encode(&vec![9u8; 100]);
        assert_eq!(bytes.len(), 101);
        assert!(decode::<Vec<u8>, 101>(&bytes).is_ok());
        assert!(decode::<Vec<u8>, 100>(&bytes).is_err());
        assert!(decode::<Vec<u8>, 200>(&[bytes.as_slice(), &[0]].concat()).is_err());
        assert!(decode::<Vec<u8>, 200>(&bytes[..50]).is_err());
        assert!(decode::<u64, 8>(&[]).is_err());
    }

    #[test]
    fn a_claimed_length_allocates_nothing() {
        // "2^60 bytes follow", as string, bytes and sequence.
        let bytes = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0x10];
        assert!(decode::<String, 1000>(&bytes).is_err());
        assert!(decode::<Vec<u8>, 1000>(&bytes).is_err());
        assert!(decode::<Vec<(u64, String)>, 1000>(&bytes).is_err());
        assert!(decode::<std::collections::BTreeMap<u64, u64>, 1000>(&bytes).is_err());
    }

    #[test]
    fn densely_packed_integers_fit_at_every_size() {
        for count in [1usize, 1000, 16_000, 200_000, 1_000_000] {
            let numbers = vec![1u64; count];
            assert_eq!(decode::<Vec<u64>, 8_000_000>(&encode(&numbers)).unwrap(), numbers, "{count}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_encoded_is_decoded(version: u8, kind: u16, body: Vec<u8>) {
            let envelope = Envelope { version, kind, body };
            prop_assert_eq!(decode::<Envelope, 4096>(&encode(&envelope)), Ok(envelope));
        }

        #[test]
        fn hostile_bytes_never_panic(bytes: Vec<u8>) {
            let _ = decode::<Envelope, 4096>(&bytes);
            let _ = decode::<Vec<(String, Option<Vec<u64>>)>, 4096>(&bytes);
            let _ = decode::<crate::sign::Signed, 4096>(&bytes);
            let _ = decode::<crate::grant::Grant, 4096>(&bytes);
            let _ = decode::<crate::join::Token, 4096>(&bytes);
        }
    }
}
