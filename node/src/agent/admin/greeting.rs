//! How an operator proves over `skein-admin/1` who it is: its key signs the TLS session's exporter, so that the proof is
//! worth nothing on any other connection.

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
const VERSION: u8 = 1;
/// Kind of the envelope.
const PROOF: u16 = 1;
/// Longest greeting, bytes.
const GREETING_LIMIT: usize = 1024;
/// The node's answer to a proof that it accepts; to any other it closes the connection.
const WELCOME: u8 = 1;

#[derive(Serialize, Deserialize)]
struct Proof {
    key: PublicKey,
    signature: Signature,
}

/// The operator's side: proves `key` and waits for the welcome. False: the node closed the connection.
///
/// # Errors
/// The connection broke.
pub async fn prove<S>(stream: &mut S, exporter: &[u8], key: &SigningKey) -> io::Result<bool>
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
        Ok(answer) => Ok(answer == WELCOME),
        Err(error) if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// The node's side: reads the proof and gives the key that it proves. The caller decides whether it may come in, and says
/// so by [`welcome`]. `None`: no proof, or one that does not hold.
///
/// # Errors
/// The connection broke.
pub async fn read<S>(stream: &mut S, exporter: &[u8]) -> io::Result<Option<PublicKey>>
where
    S: AsyncRead + Unpin,
{
    let length = usize::from(stream.read_u16().await?);
    if length > GREETING_LIMIT {
        return Ok(None);
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    Ok(proven(&bytes, exporter))
}

fn proven(bytes: &[u8], exporter: &[u8]) -> Option<PublicKey> {
    let envelope = codec::decode::<Envelope, GREETING_LIMIT>(bytes).ok()?;
    if (envelope.version, envelope.kind) != (VERSION, PROOF) {
        return None;
    }
    let proof = codec::decode::<Proof, GREETING_LIMIT>(&envelope.body).ok()?;
    proof.key.verify(KIND, exporter, &proof.signature).then_some(proof.key)
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
        (welcomed.unwrap(), proven.filter(|proven| *proven == key.public()))
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

    #[test]
    fn noise_is_no_proof() {
        for bytes in [&[][..], &[0; 40], &[255; 1024]] {
            assert_eq!(proven(bytes, &[0; 32]), None);
        }
    }
}
