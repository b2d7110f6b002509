//! Frames of a peer link: messages, requests and replies share one stream in pieces of 16 KiB, urgent ones first.
//!
//! A frame is `kind: u8, more: u8, length: u16, id: u32` (big endian) and `length` bytes. The pieces of one thing follow each other within
//! the stream of their kind; `more` is 0 in the last. Kinds that a reader does not know are passed over.
//!
//! Messages wait by [`Lane`]: what the link cannot carry is kept back in the order of urgency, and a full lane takes nothing from another.

use std::{collections::VecDeque, io};

use bytes::{Bytes, BytesMut};
use membership::engine::Lane;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::peer::{LinkError, MAX_MESSAGE, MAX_REPLY, MAX_REQUEST};

/// Longest piece, bytes: what an urgent message waits for at most.
const PIECE: usize = 16 << 10;
/// Queued bytes per lane of messages: the urgent ones, the others.
const MAX_QUEUED: (usize, usize) = (2 << 20, 4 << 20);
/// Queued bytes of requests and replies.
const MAX_EXCHANGE_QUEUED: usize = 2 * MAX_REPLY;
/// Queued things per lane, and twice as many where there are refusals.
const MAX_QUEUED_THINGS: usize = 1_024;
/// Streams of pieces on a link: what the link says for itself, urgent messages, other messages, requests with their replies.
const STREAMS: usize = 4;
/// What waits, the most urgent first, and the stream that it travels in: the link's own words, messages by [`Lane`], requests and replies.
const QUEUES: [usize; 7] = [0, 1, 1, 1, 2, 2, 3];

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

    /// What carries a message of this lane.
    pub(super) fn of(lane: Lane) -> Kind {
        match lane {
            Lane::Liveness | Lane::Policy | Lane::Health => Kind::Urgent,
            Lane::Services | Lane::Rest => Kind::Message,
        }
    }

    fn stream(self) -> usize {
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
            Kind::Request => MAX_REQUEST + 2,
            Kind::Reply => MAX_REPLY,
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

/// What waits to be written: the more urgent before the less, a thing that was begun in its stream before the next one there.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    queues: [Queue; QUEUES.len()],
    begun: [Option<Thing>; STREAMS],
    /// The last two streams take turns.
    turn: bool,
}

#[derive(Debug, Default)]
struct Queue {
    things: VecDeque<Thing>,
    bytes: usize,
}

impl Outbox {
    /// Queues a message. A lane that is full leaves the others their room.
    pub(super) fn send(&mut self, lane: Lane, bytes: Bytes) -> Result<(), LinkError> {
        let kind = Kind::of(lane);
        let limit = if kind == Kind::Urgent { MAX_QUEUED.0 } else { MAX_QUEUED.1 };
        self.queue(1 + lane as usize, limit, Thing { kind, id: 0, bytes })
    }

    /// Queues what is no message.
    pub(super) fn push(&mut self, thing: Thing) -> Result<(), LinkError> {
        match thing.kind.stream() {
            0 => self.queue(0, MAX_QUEUED.0, thing),
            _ => self.queue(QUEUES.len() - 1, MAX_EXCHANGE_QUEUED, thing),
        }
    }

    fn queue(&mut self, place: usize, limit: usize, thing: Thing) -> Result<(), LinkError> {
        debug_assert_eq!(QUEUES[place], thing.kind.stream(), "a queue feeds one stream");
        if thing.bytes.len() > thing.kind.limit() {
            return Err(LinkError::TooLong(thing.bytes.len()));
        }
        let queue = &mut self.queues[place];
        // A refusal goes out even when replies fill the queue: it is what relieves the asker. One that asks on and on and reads nothing is
        // beyond relief.
        let (limit, most) =
            if thing.kind == Kind::Refusal { (usize::MAX, 2 * MAX_QUEUED_THINGS) } else { (limit, MAX_QUEUED_THINGS) };
        if queue.bytes + thing.bytes.len() > limit || queue.things.len() >= most {
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
        let (stream, mut thing) = order.into_iter().find_map(|stream| Some((stream, self.begin(stream)?)))?;
        let piece = thing.bytes.split_to(thing.bytes.len().min(PIECE));
        let more = !thing.bytes.is_empty();
        let length = u16::try_from(piece.len()).expect("a piece is at most 16 KiB");
        let mut header = [thing.kind as u8, u8::from(more), 0, 0, 0, 0, 0, 0];
        header[2..4].copy_from_slice(&length.to_be_bytes());
        header[4..8].copy_from_slice(&thing.id.to_be_bytes());
        self.begun[stream] = more.then_some(thing);
        Some((header, piece))
    }

    /// The thing of a stream whose piece is next.
    fn begin(&mut self, stream: usize) -> Option<Thing> {
        if let Some(begun) = self.begun[stream].take() {
            return Some(begun);
        }
        self.queues.iter_mut().zip(QUEUES).filter(|(_, feeds)| *feeds == stream).find_map(|(queue, _)| {
            let thing = queue.things.pop_front()?;
            queue.bytes -= thing.bytes.len();
            Some(thing)
        })
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
    streams: [Option<(Kind, u32, BytesMut)>; STREAMS],
}

impl Assembly {
    /// Reads until something is whole; tells of every piece that came what it is one of.
    ///
    /// # Errors
    /// The stream ended, or its bytes break the rules above.
    pub(super) async fn read(
        &mut self,
        reader: &mut (impl AsyncRead + Unpin),
        came: impl Fn(Kind),
    ) -> io::Result<Thing> {
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
            came(kind);
            if let Some(thing) = self.add(kind, u32::from_be_bytes(id), more != 0, piece)? {
                return Ok(thing);
            }
        }
    }

    fn add(&mut self, kind: Kind, id: u32, more: bool, piece: BytesMut) -> io::Result<Option<Thing>> {
        let stream = &mut self.streams[kind.stream()];
        let bytes = match stream.take() {
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
            *stream = Some((kind, id, bytes));
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

    fn long(length: usize) -> Bytes {
        vec![7; length].into()
    }

    async fn through(mut outbox: Outbox) -> Vec<Thing> {
        let mut wire = Vec::new();
        while let Some(piece) = outbox.next() {
            write(&mut wire, &piece).await.unwrap();
        }
        let (mut assembly, mut wire, mut things) = (Assembly::default(), &wire[..], Vec::new());
        while let Ok(thing) = assembly.read(&mut wire, drop).await {
            things.push(thing);
        }
        things
    }

    #[tokio::test]
    async fn urgent_things_overtake_long_ones() {
        let mut outbox = Outbox::default();
        outbox.send(Lane::Services, long(40_000)).unwrap();
        let first = outbox.next().unwrap();
        assert_eq!(first.1.len(), PIECE);
        outbox.send(Lane::Health, long(10)).unwrap();
        outbox.push(thing(Kind::Ping, 3, 8)).unwrap();
        assert_eq!(outbox.next().unwrap().0[0], Kind::Ping as u8);
        assert_eq!(outbox.next().unwrap().0[0], Kind::Urgent as u8);
        assert_eq!(outbox.next().unwrap().0[0], Kind::Message as u8);
    }

    /// A peer that reads slowly gets what is urgent, whatever waits before it; and a lane that is full costs no other its place.
    #[tokio::test]
    async fn a_crowded_lane_neither_fills_nor_delays_a_more_urgent_one() {
        let mut outbox = Outbox::default();
        outbox.send(Lane::Health, long(40_000)).unwrap();
        outbox.next().unwrap();
        while outbox.send(Lane::Health, long(60_000)).is_ok() {}
        while outbox.send(Lane::Rest, long(60_000)).is_ok() {}
        outbox.send(Lane::Services, long(3)).unwrap();
        outbox.send(Lane::Policy, long(2)).unwrap();
        outbox.send(Lane::Liveness, long(1)).unwrap();
        let lengths: Vec<usize> = through(outbox).await.iter().map(|thing| thing.bytes.len()).collect();
        // Its first piece was written above: it is whole before another of its stream begins.
        assert_eq!(lengths[..3], [40_000 - PIECE, 1, 2]);
        let place = |length| lengths.iter().position(|found| *found == length).unwrap();
        assert!(lengths[3..place(3)].iter().all(|length| *length == 60_000));
        let health = MAX_QUEUED.0 / 60_000;
        assert_eq!(place(3), 3 + health, "endpoints wait for what is urgent, not for repair");
    }

    #[test]
    fn queues_and_things_have_limits() {
        let mut outbox = Outbox::default();
        let many = MAX_MESSAGE + 1;
        assert_eq!(outbox.send(Lane::Rest, long(many)), Err(LinkError::TooLong(many)));
        for lane in Lane::ALL {
            let limit = if lane < Lane::Services { MAX_QUEUED.0 } else { MAX_QUEUED.1 };
            for _ in 0..limit / MAX_MESSAGE {
                outbox.send(lane, long(MAX_MESSAGE)).unwrap();
            }
            assert_eq!(outbox.send(lane, long(1)), Err(LinkError::Full), "{lane:?}");
        }
        let mut outbox = Outbox::default();
        for _ in 0..MAX_QUEUED_THINGS {
            outbox.send(Lane::Liveness, long(1)).unwrap();
        }
        assert_eq!(outbox.send(Lane::Liveness, long(1)), Err(LinkError::Full));
    }

    #[test]
    fn refusals_find_room_beside_replies_but_not_without_end() {
        let mut outbox = Outbox::default();
        while outbox.push(thing(Kind::Reply, 1, MAX_REPLY)).is_ok() {}
        let refused = (0..u32::MAX).take_while(|id| outbox.push(thing(Kind::Refusal, *id, 0)).is_ok()).count();
        assert!((MAX_QUEUED_THINGS..=2 * MAX_QUEUED_THINGS).contains(&refused), "{refused}");
    }

    #[tokio::test]
    async fn a_thing_longer_than_its_kind_may_be_is_an_error() {
        let mut wire = Vec::new();
        for _ in 0..=MAX_MESSAGE / PIECE {
            let header = [Kind::Urgent as u8, 1, 0x40, 0, 0, 0, 0, 0];
            write(&mut wire, &(header, vec![0; PIECE].into())).await.unwrap();
        }
        let error = Assembly::default().read(&mut &wire[..], drop).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[tokio::test]
    async fn kinds_of_the_future_are_passed_over() {
        let wire = [200, 0, 0, 1, 0, 0, 0, 0, 42, Kind::Ping as u8, 0, 0, 1, 0, 0, 0, 7, 9];
        let read = Assembly::default().read(&mut &wire[..], drop).await.unwrap();
        assert_eq!(read, Thing { kind: Kind::Ping, id: 7, bytes: Bytes::from_static(&[9]) });
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out_in_order_by_queue(
            lengths in proptest::collection::vec((0..QUEUES.len() - 1, 0usize..50_000), 0..20),
        ) {
            let mut outbox = Outbox::default();
            let mut sent: [Vec<Thing>; QUEUES.len()] = Default::default();
            for (id, (queue, length)) in lengths.into_iter().enumerate() {
                // Its first byte says whence it comes.
                let bytes = Bytes::from([vec![u8::try_from(queue).unwrap()], vec![7; length]].concat());
                let id = u32::try_from(id).unwrap();
                let (thing, queued) = match Lane::ALL.get(queue) {
                    Some(lane) => (Thing { kind: Kind::of(*lane), id: 0, bytes: bytes.clone() }, outbox.send(*lane, bytes)),
                    None => {
                        let kind = if length % 2 == 0 { Kind::Request } else { Kind::Reply };
                        let thing = Thing { kind, id, bytes };
                        (thing.clone(), outbox.push(thing))
                    }
                };
                queued.unwrap();
                sent[queue].push(thing);
            }
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let mut got: [Vec<Thing>; QUEUES.len()] = Default::default();
            for thing in runtime.block_on(through(outbox)) {
                got[usize::from(thing.bytes[0])].push(thing);
            }
            prop_assert_eq!(got, sent);
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let (mut assembly, mut wire) = (Assembly::default(), &bytes[..]);
                while assembly.read(&mut wire, drop).await.is_ok() {}
            });
        }
    }
}
