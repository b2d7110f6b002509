//! How the messages of an enrolment travel: length, then bytes, each side with a limit of its own.

use std::io;

use certs::join::{MAX_REQUEST_MESSAGE, Message, Unread};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use zeroize::Zeroizing;

/// Sends one message.
///
/// # Errors
/// The connection's.
pub(super) async fn send(stream: &mut (impl AsyncWrite + Unpin), message: &Message) -> io::Result<()> {
    let bytes = message.encode();
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&length.to_be_bytes()).await?;
    stream.write_all(&bytes).await?;
    stream.flush().await
}

/// Receives one message of at most `limit` bytes.
///
/// # Errors
/// The connection's, or `InvalidData`: [`unread`] says more of what came whole.
pub(super) async fn receive(stream: &mut (impl AsyncRead + Unpin), limit: usize) -> io::Result<Message> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).await?;
    let length = u32::from_be_bytes(length) as usize;
    if length > limit {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a message of {length} bytes")));
    }
    // Grows with what arrives, so that a length alone takes little memory; what may hold a secret has room, for growing leaves copies.
    let mut bytes = Zeroizing::new(Vec::with_capacity(length.min(MAX_REQUEST_MESSAGE) + 1));
    stream.take(length as u64).read_to_end(&mut bytes).await?;
    if bytes.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Message::decode(&bytes).map_err(|unread| io::Error::new(io::ErrorKind::InvalidData, unread))
}

/// Why a message that came whole is none here.
pub(super) fn unread(error: &io::Error) -> Option<&Unread> {
    error.get_ref()?.downcast_ref()
}
