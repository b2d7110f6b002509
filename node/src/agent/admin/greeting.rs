//! How an operator proves over `skein-admin/1` who it is: its key signs the TLS session's exporter, so that the proof is
//! worth nothing on any other connection. A node that reads no such greeting says which it reads, and which build it is.

use std::io;

use certs::{
    codec::{self, Envelope},
    sign::{PublicKey, Signature, SigningKey},
};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// What the signature says that the bytes are.
const KIND: &str = "skein.admin/1";
/// Version of the greeting.
pub const VERSION: u8 = 1;
/// Kind of the envelope.
const PROOF: u16 = 1;
/// Longest greeting, bytes.
const GREETING_LIMIT: usize = 1024;
/// The node's answer to a proof that it accepts; to any other it closes the connection.
const WELCOME: u8 = 1;
/// Its answer to a greeting of another version, in every version the same: then come the version that it reads, one byte, the length of its
/// build's version, one byte, and that.
const OTHER: u8 = 2;

#[derive(Serialize, Deserialize)]
struct Proof {
    key: PublicKey,
    signature: Signature,
}

/// How a node took a greeting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// The operator may come in.
    Welcome,
    /// The node closed the connection: the key has no role.
    Refused,
    /// The node reads greetings of another version.
    Other {
        /// Which.
        version: u8,
        /// The version of its build.
        build: String,
    },
}

/// The operator's side: proves `key` and waits for the answer.
///
/// # Errors
/// The connection broke.
pub async fn prove<S>(stream: &mut S, exporter: &[u8], key: &SigningKey) -> io::Result<Taken>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let proof = Proof { key: key.public(), signature: key.sign(KIND, exporter) };
    let envelope = Envelope { version: VERSION, kind: PROOF, body: codec::encode(&proof) };
    let bytes = codec::encode(&envelope);
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&length.to_be_bytes()).await?;
    stream.write_all(&bytes).await?;
    stream.flush().await?;
    match stream.read_u8().await {
        Ok(WELCOME) => Ok(Taken::Welcome),
        Ok(OTHER) => other(stream).await,
        Ok(_) => Ok(Taken::Refused),
        Err(error) if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {
            Ok(Taken::Refused)
        }
        Err(error) => Err(error),
    }
}

async fn other(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Taken> {
    let (version, length) = (stream.read_u8().await?, stream.read_u8().await?);
    let mut build = vec![0; usize::from(length)];
    stream.read_exact(&mut build).await?;
    // It ends on a terminal.
    build.retain(u8::is_ascii_graphic);
    Ok(Taken::Other { version, build: String::from_utf8_lossy(&build).into_owned() })
}

/// The node's side: reads the proof and gives the key that it proves. The caller decides whether it may come in, and says
/// so by [`welcome`]. `None`: no proof, or one that does not hold; who greets by another version was told so.
///
/// # Errors
/// The connection broke.
pub async fn read<S>(stream: &mut S, exporter: &[u8]) -> io::Result<Option<PublicKey>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let length = usize::from(stream.read_u16().await?);
    let mut bytes = vec![0; length.min(GREETING_LIMIT)];
    stream.read_exact(&mut bytes).await?;
    if length > GREETING_LIMIT {
        // Bytes that nobody read would reset the connection before the answer is read.
        let rest = length - GREETING_LIMIT;
        tokio::io::copy(&mut (&mut *stream).take(rest as u64), &mut tokio::io::sink()).await?;
        tell_version(stream).await?;
        return Ok(None);
    }
    let Ok(envelope) = codec::decode::<Envelope, GREETING_LIMIT>(&bytes) else { return Ok(None) };
    if (envelope.version, envelope.kind) != (VERSION, PROOF) {
        tell_version(stream).await?;
        return Ok(None);
    }
    Ok(proven(&envelope.body, exporter))
}

fn proven(body: &[u8], exporter: &[u8]) -> Option<PublicKey> {
    let proof = codec::decode::<Proof, GREETING_LIMIT>(body).ok()?;
    proof.key.verify(KIND, exporter, &proof.signature).then_some(proof.key)
}

async fn tell_version(stream: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    let build = env!("CARGO_PKG_VERSION").as_bytes();
    let length = u8::try_from(build.len()).map_err(io::Error::other)?;
    stream.write_all(&[&[OTHER, VERSION, length], build].concat()).await?;
    stream.flush().await
}

/// Lets the operator in.
///
/// # Errors
/// The connection broke.
pub async fn welcome<S: AsyncWrite + Unpin>(stream: &mut S) -> io::Result<()> {
    stream.write_all(&[WELCOME]).await?;
    stream.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn greet(client: &[u8], server: &[u8], lie: bool) -> (bool, Option<PublicKey>) {
        let key = SigningKey::generate();
        let (mut near, mut far) = tokio::io::duplex(4096);
        let serve = async {
            let proven = read(&mut far, server).await.unwrap();
            if proven.is_some() && !lie {
                welcome(&mut far).await.unwrap();
            }
            drop(far);
            proven
        };
        let (welcomed, proven) = tokio::join!(prove(&mut near, client, &key), serve);
        (welcomed.unwrap() == Taken::Welcome, proven.filter(|proven| *proven == key.public()))
    }

    #[tokio::test]
    async fn a_greeting_of_another_version_is_answered_by_version_and_build() {
        let later = |version, kind, length| {
            let bytes = codec::encode(&Envelope { version, kind, body: vec![7; length] });
            [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), &*bytes].concat()
        };
        for said in [later(2, PROOF, 96), later(VERSION, 9, 0), later(2, PROOF, 60_000)] {
            let (mut near, mut far) = tokio::io::duplex(1 << 20);
            near.write_all(&said).await.unwrap();
            assert_eq!(read(&mut far, &[7; 32]).await.unwrap(), None);
            drop(far);
            assert_eq!(near.read_u8().await.unwrap(), OTHER);
            let taken = other(&mut near).await.unwrap();
            assert_eq!(taken, Taken::Other { version: 1, build: env!("CARGO_PKG_VERSION").to_owned() });
        }
    }

    #[tokio::test]
    async fn a_node_that_reads_another_greeting_is_understood() {
        let (mut near, mut far) = tokio::io::duplex(4096);
        far.write_all(&[OTHER, 3, 6, b'0', b'.', 0x1b, b'9', b'.', b'0']).await.unwrap();
        let taken = prove(&mut near, &[7; 32], &SigningKey::generate()).await.unwrap();
        assert_eq!(taken, Taken::Other { version: 3, build: "0.9.0".to_owned() });
    }

    #[tokio::test]
    async fn the_key_is_proven_on_this_session() {
        let (welcomed, proven) = greet(&[7; 32], &[7; 32], false).await;
        assert!(welcomed && proven.is_some());
    }

    #[tokio::test]
    async fn a_proof_of_another_session_is_nothing() {
        let (welcomed, proven) = greet(&[7; 32], &[8; 32], false).await;
        assert!(!welcomed && proven.is_none());
    }

    #[tokio::test]
    async fn a_closed_connection_is_a_refusal() {
        let (welcomed, proven) = greet(&[7; 32], &[7; 32], true).await;
        assert!(!welcomed && proven.is_some());
    }

    #[tokio::test]
    async fn noise_is_no_proof() {
        for bytes in [&[][..], &[0; 40], &[255; 1024]] {
            assert_eq!(proven(bytes, &[0; 32]), None);
            let (mut near, mut far) = tokio::io::duplex(4096);
            near.write_all(&u16::try_from(bytes.len()).unwrap().to_be_bytes()).await.unwrap();
            near.write_all(bytes).await.unwrap();
            assert_eq!(read(&mut far, &[0; 32]).await.unwrap(), None);
        }
    }
}
