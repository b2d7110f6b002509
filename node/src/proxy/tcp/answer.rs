//! The first byte that the called node sends on a stream of bytes: whether the application took the connection. Before it the
//! caller sends nothing, so that any refusal may safely be met by trying elsewhere.

use crate::proxy::failure::Cause;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// What the called node says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) enum Answer {
    /// What follows is the application's.
    Open,
    /// Nothing follows.
    Refused(Cause),
}

/// The bytes.
const WORDS: [(Answer, u8); 5] = [
    (Answer::Open, 0),
    (Answer::Refused(Cause::NotServedHere), 1),
    (Answer::Refused(Cause::Denied), 2),
    (Answer::Refused(Cause::ConnectFailure), 3),
    (Answer::Refused(Cause::Overflow), 4),
];
/// A refusal for any other reason: what later versions may say, too.
const OTHER: u8 = u8::MAX;

impl Answer {
    /// Says it.
    ///
    /// # Errors
    /// The stream has ended.
    pub(in crate::proxy) async fn write(self, stream: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        let byte = WORDS.iter().find(|(answer, _)| *answer == self).map_or(OTHER, |(_, byte)| *byte);
        stream.write_all(&[byte]).await?;
        stream.flush().await
    }

    /// Hears it.
    ///
    /// # Errors
    /// The stream ended before.
    pub(in crate::proxy) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Self> {
        let byte = stream.read_u8().await?;
        let known = WORDS.iter().find(|(_, known)| *known == byte);
        Ok(known.map_or(Self::Refused(Cause::RefusedStream), |(answer, _)| *answer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn answers_travel_and_unknown_ones_are_refusals() {
        let others = [Answer::Refused(Cause::Draining), Answer::Refused(Cause::NoIdentity)];
        for answer in WORDS.iter().map(|(answer, _)| *answer).chain(others) {
            let mut bytes = Vec::new();
            answer.write(&mut bytes).await.unwrap();
            let heard = Answer::read(&mut &bytes[..]).await.unwrap();
            let told = if others.contains(&answer) { Answer::Refused(Cause::RefusedStream) } else { answer };
            assert_eq!(heard, told);
        }
        assert_eq!(Answer::read(&mut &b""[..]).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
