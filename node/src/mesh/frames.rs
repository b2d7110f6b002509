//! Frames of a peer link: messages, requests and replies share one stream in pieces of 16 KiB, urgent ones first.
//!
//! A frame is `kind: u8, more: u8, length: u16, id: u32` (big endian) and `length` bytes. The pieces of one thing follow each other within
//! their lane; `more` is 0 in the last. Kinds that a reader does not know are passed over.

use std::{collections::VecDeque, io};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::peer::{LinkError, MAX_MESSAGE, MAX_REPLY};

/// Longest piece, bytes: what an urgent message waits for at most.
const PIECE: usize = 16 << 10;
/// Queued bytes per lane of messages.
const MAX_QUEUED: usize = 4 << 20;
/// Queued bytes of requests and replies.
const MAX_EXCHANGE_QUEUED: usize = 4 * MAX_REPLY;
/// Queued things per lane.
const MAX_QUEUED_THINGS: usize = 1_024;

/// What a frame is a piece of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// First in each direction: an envelope with the sender's version.
    Hello,
    /// A question whether the other end lives, answered by `Pong` with the same bytes.
    Ping,
    Pong,
    /// The end, with its reason.
    Goodbye,
    Urgent,
    Message,
    /// A `u16` that says what is asked, and the question.
    Request,
    Reply,
    /// The answer to a request that gets none.
    Refusal,
}

const KINDS: [Kind; 9] = [
    Kind::Hello,
    Kind::Ping,
    Kind::Pong,
    Kind::Goodbye,
    Kind::Urgent,
    Kind::Message,
    Kind::Request,
    Kind::Reply,
    Kind::Refusal,
];

impl Kind {
    fn from_number(number: u8) -> Option<Kind> {
        KINDS.into_iter().find(|kind| *kind as u8 == number)
    }

    fn lane(self) -> usize {
        match self {
            Kind::Hello | Kind::Ping | Kind::Pong | Kind::Goodbye => 0,
            Kind::Urgent => 1,
            Kind::Message => 2,
            Kind::Request | Kind::Reply | Kind::Refusal => 3,
        }
    }

    /// Longest thing of this kind, bytes.
    fn limit(self) -> usize {
        match self {
            Kind::Hello | Kind::Ping | Kind::Pong | Kind::Goodbye | Kind::Refusal => PIECE,
            Kind::Urgent | Kind::Message => MAX_MESSAGE,
            Kind::Request | Kind::Reply => MAX_REPLY + 2,
        }
    }
}

/// Something whole that travels on a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Thing {
    pub(super) kind: Kind,
    /// Ties a reply to its request.
    pub(super) id: u32,
    pub(super) bytes: Bytes,
}

/// What waits to be written, by lane.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    lanes: [Queue; 4],
    /// Lane 2 and lane 3 take turns.
    turn: bool,
}

#[derive(Debug, Default)]
struct Queue {
    things: VecDeque<Thing>,
    bytes: usize,
}

impl Outbox {
    /// Queues a thing.
    pub(super) fn push(&mut self, thing: Thing) -> Result<(), LinkError> {
        if thing.bytes.len() > thing.kind.limit() {
            return Err(LinkError::TooLong(thing.bytes.len()));
        }
        let lane = thing.kind.lane();
        let limit = if lane == 3 { MAX_EXCHANGE_QUEUED } else { MAX_QUEUED };
        let queue = &mut self.lanes[lane];
        // A refusal must go out even when replies fill the queue: it is what relieves the asker.
        let is_exempt = thing.kind == Kind::Refusal;
        if !is_exempt && (queue.bytes + thing.bytes.len() > limit || queue.things.len() >= MAX_QUEUED_THINGS) {
            return Err(LinkError::Full);
        }
        queue.bytes += thing.bytes.len();
        queue.things.push_back(thing);
        Ok(())
    }

    /// The next piece to write: its header and its bytes.
    pub(super) fn next(&mut self) -> Option<([u8; 8], Bytes)> {
        self.turn = !self.turn;
        let order = if self.turn { [0, 1, 2, 3] } else { [0, 1, 3, 2] };
        let lane = order.into_iter().find(|lane| !self.lanes[*lane].things.is_empty())?;
        let queue = &mut self.lanes[lane];
        let thing = queue.things.front_mut()?;
        let piece = thing.bytes.split_to(thing.bytes.len().min(PIECE));
        let more = !thing.bytes.is_empty();
        queue.bytes -= piece.len();
        let length = u16::try_from(piece.len()).expect("a piece is at most 16 KiB");
        let mut header = [thing.kind as u8, u8::from(more), 0, 0, 0, 0, 0, 0];
        header[2..4].copy_from_slice(&length.to_be_bytes());
        header[4..8].copy_from_slice(&thing.id.to_be_bytes());
        if !more {
            queue.things.pop_front();
        }
        Some((header, piece))
    }
}

/// Writes one piece.
pub(super) async fn write(
    writer: &mut (impl AsyncWrite + Unpin),
    (header, piece): &([u8; 8], Bytes),
) -> io::Result<()> {
    writer.write_all(header).await?;
    writer.write_all(piece).await
}

/// Puts pieces together again.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    lanes: [Option<(Kind, u32, BytesMut)>; 4],
}

impl Assembly {
    /// Reads until something is whole.
    ///
    /// # Errors
    /// The stream ended, or its bytes break the rules above.
    pub(super) async fn read(&mut self, reader: &mut (impl AsyncRead + Unpin)) -> io::Result<Thing> {
        loop {
            let mut header = [0; 8];
            reader.read_exact(&mut header).await?;
            let [kind, more, high, low, id @ ..] = header;
            let length = usize::from(u16::from_be_bytes([high, low]));
            if length > PIECE {
                return Err(malformed("a piece beyond 16 KiB"));
            }
            let mut piece = BytesMut::zeroed(length);
            reader.read_exact(&mut piece).await?;
            let Some(kind) = Kind::from_number(kind) else { continue };
            if let Some(thing) = self.add(kind, u32::from_be_bytes(id), more != 0, piece)? {
                return Ok(thing);
            }
        }
    }

    fn add(&mut self, kind: Kind, id: u32, more: bool, piece: BytesMut) -> io::Result<Option<Thing>> {
        let lane = &mut self.lanes[kind.lane()];
        let bytes = match lane.take() {
            None => piece,
            Some((begun, of, mut bytes)) if begun == kind && of == id => {
                bytes.extend_from_slice(&piece);
                bytes
            }
            Some(_) => return Err(malformed("pieces out of order")),
        };
        if bytes.len() > kind.limit() {
            return Err(malformed("longer than its kind may be"));
        }
        if more {
            *lane = Some((kind, id, bytes));
            return Ok(None);
        }
        Ok(Some(Thing { kind, id, bytes: bytes.freeze() }))
    }
}

fn malformed(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn thing(kind: Kind, id: u32, length: usize) -> Thing {
        Thing { kind, id, bytes: vec![u8::try_from(id % 251).unwrap(); length].into() }
    }

    async fn through(mut outbox: Outbox) -> Vec<Thing> {
        let mut wire = Vec::new();
        while let Some(piece) = outbox.next() {
            write(&mut wire, &piece).await.unwrap();
        }
        let (mut assembly, mut wire, mut things) = (Assembly::default(), &wire[..], Vec::new());
        while let Ok(thing) = assembly.read(&mut wire).await {
            things.push(thing);
        }
        things
    }

    #[tokio::test]
    async fn urgent_things_overtake_long_ones() {
        let mut outbox = Outbox::default();
        outbox.push(thing(Kind::Message, 1, 40_000)).unwrap();
        let first = outbox.next().unwrap();
        assert_eq!(first.1.len(), PIECE);
        outbox.push(thing(Kind::Urgent, 2, 10)).unwrap();
        outbox.push(thing(Kind::Ping, 3, 8)).unwrap();
        assert_eq!(outbox.next().unwrap().0[0], Kind::Ping as u8);
        assert_eq!(outbox.next().unwrap().0[0], Kind::Urgent as u8);
        assert_eq!(outbox.next().unwrap().0[0], Kind::Message as u8);
    }

    #[test]
    fn queues_and_things_have_limits() {
        let mut outbox = Outbox::default();
        assert_eq!(outbox.push(thing(Kind::Message, 1, MAX_MESSAGE + 1)), Err(LinkError::TooLong(MAX_MESSAGE + 1)));
        for id in 0..4 {
            outbox.push(thing(Kind::Message, id, MAX_MESSAGE)).unwrap();
        }
        assert_eq!(outbox.push(thing(Kind::Message, 9, 1)), Err(LinkError::Full));
        outbox.push(thing(Kind::Urgent, 9, 1)).unwrap();
    }

    #[tokio::test]
    async fn a_thing_longer_than_its_kind_may_be_is_an_error() {
        let mut wire = Vec::new();
        for _ in 0..=MAX_MESSAGE / PIECE {
            let header = [Kind::Urgent as u8, 1, 0x40, 0, 0, 0, 0, 0];
            write(&mut wire, &(header, vec![0; PIECE].into())).await.unwrap();
        }
        let error = Assembly::default().read(&mut &wire[..]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[tokio::test]
    async fn kinds_of_the_future_are_passed_over() {
        let wire = [200, 0, 0, 1, 0, 0, 0, 0, 42, Kind::Ping as u8, 0, 0, 1, 0, 0, 0, 7, 9];
        let read = Assembly::default().read(&mut &wire[..]).await.unwrap();
        assert_eq!(read, Thing { kind: Kind::Ping, id: 7, bytes: Bytes::from_static(&[9]) });
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out_in_order_by_lane(lengths in proptest::collection::vec((0usize..4, 0usize..50_000), 0..20)) {
            let kinds = [Kind::Urgent, Kind::Message, Kind::Request, Kind::Reply];
            let mut outbox = Outbox::default();
            let mut sent: [Vec<Thing>; 4] = Default::default();
            for (id, (kind, length)) in lengths.into_iter().enumerate() {
                let thing = thing(kinds[kind], u32::try_from(id).unwrap(), length);
                sent[thing.kind.lane()].push(thing.clone());
                outbox.push(thing).unwrap();
            }
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let mut got: [Vec<Thing>; 4] = Default::default();
            for thing in runtime.block_on(through(outbox)) {
                got[thing.kind.lane()].push(thing);
            }
            prop_assert_eq!(got, sent);
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let (mut assembly, mut wire) = (Assembly::default(), &bytes[..]);
                while assembly.read(&mut wire).await.is_ok() {}
            });
        }
    }
}
