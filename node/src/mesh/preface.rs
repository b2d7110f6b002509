//! What opens every data stream: which service it is for, who calls, what it carries. An envelope behind a two-byte length.

use std::io;

use certs::{
    codec::{self, Envelope},
    id::ServiceName,
};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// The wire version that this build speaks; N and N-1 are read.
pub const WIRE_VERSION: u8 = 1;

/// Longest preface on the wire, bytes.
pub const MAX_PREFACE: usize = 4096;

const KIND: u16 = 1;
const REAUTHENTICATION: u16 = 2;

/// What a data stream is for. Equal prefaces share virtual connections.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Preface {
    /// The service at the destination.
    pub service: ServiceName,
    /// Which instance, where a node has several of one service.
    pub instance: Option<String>,
    /// The service's port.
    pub port: u16,
    /// The service that calls, as the calling node says; its identity is what TLS proves, never this.
    pub source: Option<ServiceName>,
    /// What follows.
    pub protocol: Protocol,
    /// Fields that later versions add; a reader passes over tags that it does not know.
    pub extensions: Vec<(u16, Vec<u8>)>,
}

/// What a data stream carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// HTTP/1.1 requests one after the other.
    Http1,
    /// HTTP/2 with prior knowledge, for gRPC and for requests with trailers.
    Http2,
    /// Bytes, both ways until both ends.
    Tcp,
}

/// A preface that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PrefaceError {
    /// The stream ended or failed first.
    #[error("no preface: {0}")]
    Stream(#[from] io::Error),
    /// Longer than [`MAX_PREFACE`].
    #[error("a preface of {0} bytes")]
    TooLong(usize),
    /// Not an encoding of one.
    #[error("not a preface: {0}")]
    Encoding(#[from] codec::CodecError),
    /// Of a kind that this build does not know.
    #[error("a preface of unknown version {0} or kind {1}")]
    Unknown(u8, u16),
}

impl Preface {
    /// As it travels, length included.
    ///
    /// # Panics
    /// Never: names are bounded far below [`MAX_PREFACE`], and instances and extensions are ours.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        enveloped(KIND, codec::encode(self))
    }

    /// Reads one from the head of a stream, and not a byte more.
    ///
    /// # Errors
    /// The stream failed, or its bytes are no preface that this build can read.
    pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Preface, PrefaceError> {
        match Opening::read(stream).await? {
            Opening::Stream(preface) => Ok(preface),
            Opening::Reauthentication => Err(PrefaceError::Unknown(WIRE_VERSION, REAUTHENTICATION)),
        }
    }
}

/// What comes first on a data stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Opening {
    /// It is an application's.
    Stream(Preface),
    /// It is about other connections: see [`super::reauthentication`].
    Reauthentication,
}

impl Opening {
    /// As it travels, length included, of a stream about other connections.
    pub(super) fn reauthentication() -> Vec<u8> {
        enveloped(REAUTHENTICATION, Vec::new())
    }

    /// Reads one from the head of a stream, and not a byte more.
    pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Opening, PrefaceError> {
        let length = usize::from(stream.read_u16().await?);
        if length > MAX_PREFACE {
            return Err(PrefaceError::TooLong(length));
        }
        let mut bytes = vec![0; length];
        stream.read_exact(&mut bytes).await?;
        Opening::decode(&bytes)
    }

    fn decode(bytes: &[u8]) -> Result<Opening, PrefaceError> {
        let envelope: Envelope = codec::decode::<_, MAX_PREFACE>(bytes)?;
        match (envelope.version.abs_diff(WIRE_VERSION), envelope.kind) {
            (0 | 1, KIND) => Ok(Opening::Stream(codec::decode::<_, MAX_PREFACE>(&envelope.body)?)),
            (0 | 1, REAUTHENTICATION) => Ok(Opening::Reauthentication),
            _ => Err(PrefaceError::Unknown(envelope.version, envelope.kind)),
        }
    }
}

fn enveloped(kind: u16, body: Vec<u8>) -> Vec<u8> {
    let body = codec::encode(&Envelope { version: WIRE_VERSION, kind, body });
    let length = u16::try_from(body.len()).expect("a preface is made of names, each at most 63 bytes");
    let mut bytes = Vec::with_capacity(2 + body.len());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(&body);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn preface() -> Preface {
        Preface {
            service: ServiceName::new("default", "reviews").unwrap(),
            instance: Some("b".to_owned()),
            port: 9080,
            source: Some(ServiceName::new("default", "web").unwrap()),
            protocol: Protocol::Http1,
            extensions: vec![(7, b"later".to_vec())],
        }
    }

    #[tokio::test]
    async fn it_is_read_back_and_leaves_what_follows() {
        let mut bytes = preface().encode();
        bytes.extend_from_slice(b"GET /");
        let mut stream = &bytes[..];
        assert_eq!(Preface::read(&mut stream).await.unwrap(), preface());
        assert_eq!(stream, b"GET /");
    }

    /// A change here is a change of the wire: other fields go into `extensions`, another form takes a kind or version of its own.
    #[tokio::test]
    async fn its_bytes_stay_as_they_are() {
        const KEPT: &str =
            "002f01012c0f64656661756c742f72657669657773010162fb7823010b64656661756c742f776562000107056c61746572";
        let bytes = preface().encode();
        let made: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(made, KEPT);
    }

    #[tokio::test]
    async fn a_length_beyond_the_limit_is_refused_before_it_is_read() {
        let error = Preface::read(&mut &[0xff, 0xff, 0][..]).await.unwrap_err();
        assert!(matches!(error, PrefaceError::TooLong(65_535)), "{error}");
    }

    #[test]
    fn a_kind_of_the_future_is_refused_by_name() {
        let envelope = Envelope { version: WIRE_VERSION, kind: 99, body: vec![] };
        let error = Opening::decode(&codec::encode(&envelope)).unwrap_err();
        assert!(matches!(error, PrefaceError::Unknown(_, 99)), "{error}");
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Opening::decode(&bytes);
        }

        #[test]
        fn a_damaged_preface_never_panics(at in 0usize..64, bit in 0u8..8) {
            let mut bytes = preface().encode().split_off(2);
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            let _ = Opening::decode(&bytes);
        }
    }
}
