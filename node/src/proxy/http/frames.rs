//! HTTP/2 frames on their way to hyper (RFC 9113): counts those that cost the sender nothing and this node something, and times
//! header blocks. Pure, but for the time that comes in.
//!
//! h2 bounds what it keeps: streams, resets that wait to be noticed, CONTINUATION, empty DATA. It does not bound how often it works in
//! vain: resets, settings, pings and priorities may come as fast as the sender can write. Here they may not.

use std::time::{Duration, Instant};

/// Bytes of a frame's header.
const HEADER: usize = 9;
/// What a client sends before its first frame.
const PREFACE: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();
/// Over how long frames are counted.
const INTERVAL: Duration = Duration::from_secs(10);
/// So many times as many are an attack beside others, too: requests that cost nobody anything could stand beside them.
const RESETS_AT_MOST: u32 = 10;
/// Of so many streams one that is given up at once is no attack, however many there are.
const HEDGED: u32 = 10;
/// SETTINGS within an interval.
const SETTINGS: u32 = 100;
/// PRIORITY within an interval: browsers send a handful, and nobody heeds them.
const PRIORITIES: u32 = 1_000;
/// PING within an interval, beside one for each [`BYTES_A_PING`] that were written: gRPC measures with pings how fast it is sent to.
const PINGS: u32 = 10_000;
/// A stream that has lasted for so long may be reset: it cost its sender a place among the concurrent ones for that time, as any request
/// does. Who gives up requests that time out does no harm.
const BRIEF: Duration = Duration::from_millis(200);
/// An answer to a ping has 17 bytes, so pings do not pay for themselves.
const BYTES_A_PING: u64 = 32;

const DATA_FRAME: u8 = 0;
const HEADERS_FRAME: u8 = 1;
const PRIORITY_FRAME: u8 = 2;
const RST_STREAM_FRAME: u8 = 3;
const SETTINGS_FRAME: u8 = 4;
const PING_FRAME: u8 = 6;
const CONTINUATION_FRAME: u8 = 9;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

/// Follows the frames of one connection.
#[derive(Debug)]
pub(super) struct Frames {
    /// Bytes until the next frame's header: of the preface, of a payload.
    left: usize,
    header: [u8; HEADER],
    have: usize,
    /// RST_STREAM of brief streams within an interval, where that is more than half of the streams, or [`RESETS_AT_MOST`] as many.
    resets_limit: u32,
    began: Instant,
    streams: u32,
    resets: u32,
    settings: u32,
    priorities: u32,
    pings: u32,
    written: u64,
    /// A block of headers has begun and not ended.
    open_block: bool,
    /// The frame whose payload comes is DATA: bodies have limits of their own.
    in_data: bool,
    /// Frames so far.
    count: u64,
    /// The frame with which the current block of headers began, or the latest frame.
    blocks: u64,
    /// Which limit was met: nothing behind the frame that met it goes on.
    over: Option<&'static str>,
    ages: Ages,
}

/// Which streams are brief ones; their numbers rise.
#[derive(Debug)]
struct Ages {
    /// The latest stream, and when it began.
    latest: (u32, Instant),
    /// The latest stream at this time.
    then: (u32, Instant),
    /// Streams up to this one have lasted.
    lasted: u32,
}

impl Ages {
    const fn new(now: Instant) -> Self {
        Self { latest: (0, now), then: (0, now), lasted: 0 }
    }

    fn look(&mut self, now: Instant) {
        if now.duration_since(self.latest.1) >= BRIEF {
            self.lasted = self.latest.0;
        }
        if now.duration_since(self.then.1) >= BRIEF {
            self.lasted = self.lasted.max(self.then.0);
            self.then = (self.latest.0, now);
        }
    }

    fn begin(&mut self, stream: u32, now: Instant) {
        self.look(now);
        // Trailers come on a stream that has begun.
        if stream > self.latest.0 {
            self.latest = (stream, now);
        }
    }

    fn is_brief(&mut self, stream: u32, now: Instant) -> bool {
        self.look(now);
        stream > self.lasted
    }
}

impl Frames {
    /// A connection on which nothing was read yet; `resets` within ten seconds are too many beyond this.
    pub(super) const fn new(resets: u32, now: Instant) -> Self {
        Self {
            left: PREFACE,
            header: [0; HEADER],
            have: 0,
            resets_limit: resets,
            began: now,
            streams: 0,
            resets: 0,
            settings: 0,
            priorities: 0,
            pings: 0,
            written: 0,
            open_block: false,
            in_data: false,
            count: 0,
            blocks: 0,
            over: None,
            ages: Ages::new(now),
        }
    }

    /// While something has begun that must end soon, which one: the preface and the first frame, a frame that is no DATA, a block of
    /// headers.
    pub(super) const fn in_head(&self) -> Option<u64> {
        let unfinished = self.count == 0 || self.open_block || self.have > 0 || self.left > 0 && !self.in_data;
        if unfinished { Some(self.blocks) } else { None }
    }

    /// So many bytes went the other way.
    pub(super) const fn wrote(&mut self, bytes: usize) {
        self.written = self.written.saturating_add(bytes as u64);
    }

    /// Follows further bytes.
    ///
    /// # Errors
    /// So many may go on, then the connection is refused for this reason: a frame ends there.
    pub(super) fn scan(&mut self, bytes: &[u8], now: Instant) -> Result<(), (usize, &'static str)> {
        let mut at = 0;
        while at < bytes.len() {
            if self.left > 0 {
                let taken = self.left.min(bytes.len() - at);
                self.left -= taken;
                at += taken;
            } else if let Some(why) = self.over {
                return Err((at, why));
            } else {
                let taken = (HEADER - self.have).min(bytes.len() - at);
                self.header[self.have..self.have + taken].copy_from_slice(&bytes[at..at + taken]);
                self.have += taken;
                at += taken;
                if self.have == HEADER {
                    self.frame(now);
                }
            }
        }
        match self.over {
            Some(why) if self.left == 0 => Err((at, why)),
            Some(_) | None => Ok(()),
        }
    }

    /// A frame's header is whole.
    fn frame(&mut self, now: Instant) {
        self.have = 0;
        let [high, middle, low, kind, flags, stream @ ..] = self.header;
        let stream = u32::from_be_bytes(stream) & 0x7fff_ffff;
        self.left = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        self.in_data = kind == DATA_FRAME;
        self.count += 1;
        if !self.open_block {
            self.blocks = self.count;
        }
        match kind {
            HEADERS_FRAME | CONTINUATION_FRAME => {
                self.open_block = flags & END_HEADERS == 0;
                if kind == HEADERS_FRAME {
                    self.renew(now);
                    self.streams += 1;
                    self.ages.begin(stream, now);
                }
            }
            RST_STREAM_FRAME => {
                self.renew(now);
                self.resets += u32::from(self.ages.is_brief(stream, now));
                // Some streams are given up at once by honest callers, more by those that hedge; most of all streams are an attack, and
                // so is much where it hides among requests that cost nothing.
                let (share, limit) = if self.resets > self.streams / 2 {
                    (2, self.resets_limit)
                } else {
                    (HEDGED, self.resets_limit.saturating_mul(RESETS_AT_MOST))
                };
                self.check(self.resets > self.streams / share && self.resets > limit, "too many RST_STREAM");
            }
            SETTINGS_FRAME if flags & ACK == 0 => {
                self.renew(now);
                self.settings += 1;
                self.check(self.settings > SETTINGS, "too many SETTINGS");
            }
            PRIORITY_FRAME => {
                self.renew(now);
                self.priorities += 1;
                self.check(self.priorities > PRIORITIES, "too many PRIORITY");
            }
            PING_FRAME if flags & ACK == 0 => {
                self.renew(now);
                self.pings += 1;
                let paid = u32::try_from(self.written / BYTES_A_PING).unwrap_or(u32::MAX);
                self.check(self.pings > PINGS.saturating_add(paid), "too many PING");
            }
            _ => {}
        }
    }

    fn check(&mut self, is_over: bool, why: &'static str) {
        if is_over {
            self.over = Some(why);
        }
    }

    fn renew(&mut self, now: Instant) {
        if now.duration_since(self.began) >= INTERVAL {
            (self.began, self.written) = (now, 0);
            (self.streams, self.resets, self.settings, self.priorities, self.pings) = (0, 0, 0, 0, 0);
        }
    }
}

/// What hyper is given in place of what was refused: a block of headers in more pieces than h2 takes, whatever its limit on their
/// size is. It answers GOAWAY with ENHANCE_YOUR_CALM and closes.
pub(super) fn poison(head: usize) -> Vec<u8> {
    /// h2 takes a quarter more than frames of this size need for the longest block, and at least five.
    const SMALLEST_FRAME: usize = 16 * 1024;
    const STREAM: [u8; 4] = [0x7f, 0xff, 0xff, 0xff];
    let frame = |kind| [[0, 0, 0, kind, 0].as_slice(), &STREAM].concat();
    let mut bytes = frame(HEADERS_FRAME);
    for _ in 0..(head / SMALLEST_FRAME * 2 + 8) {
        bytes.extend(frame(CONTINUATION_FRAME));
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use proptest::prelude::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).unwrap();
        [&[0, 0, length, kind, flags, 0, 0, 0, 1], payload].concat()
    }

    fn begun(resets: u32) -> Frames {
        let mut frames = Frames::new(resets, clock::monotonic());
        frames.scan(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", clock::monotonic()).unwrap();
        frames
    }

    #[test]
    fn each_kind_has_its_limit_and_the_frame_that_meets_it_goes_on_whole() {
        for (kind, limit) in
            [(RST_STREAM_FRAME, 7), (SETTINGS_FRAME, SETTINGS), (PRIORITY_FRAME, PRIORITIES), (PING_FRAME, PINGS)]
        {
            let (mut frames, one, now) = (begun(7), frame(kind, 0, &[0; 8]), clock::monotonic());
            for _ in 0..limit {
                assert_eq!(frames.scan(&one, now), Ok(()), "{kind}");
            }
            let (first, rest) = one.split_at(11);
            assert_eq!(frames.scan(first, now), Ok(()), "{kind}: hyper has the header already");
            assert_eq!(frames.scan(&[rest, &one].concat(), now).map_err(|(at, _)| at), Err(rest.len()), "{kind}");
        }
    }

    #[test]
    fn time_and_what_is_written_renew_the_budget() {
        let (mut frames, now) = (begun(1), clock::monotonic());
        let reset = frame(RST_STREAM_FRAME, 0, &[0; 4]);
        assert!(frames.scan(&reset, now).is_ok());
        assert!(frames.scan(&reset, now + INTERVAL).is_ok());
        assert!(frames.scan(&reset, now + INTERVAL).is_err());
        let (mut frames, pings) = (begun(1), frame(PING_FRAME, 0, &[0; 8]).repeat(PINGS as usize));
        assert!(frames.scan(&pings, now).is_ok());
        frames.wrote(64);
        assert!(frames.scan(&frame(PING_FRAME, ACK, &[0; 8]), now).is_ok(), "answers are no pings");
        assert!(frames.scan(&frame(PING_FRAME, 0, &[0; 8]).repeat(2), now).is_ok());
        assert!(frames.scan(&frame(PING_FRAME, 0, &[0; 8]), now).is_err());
    }

    #[test]
    fn streams_that_are_given_up_among_many_are_no_attack() {
        let (mut frames, now) = (begun(7), clock::monotonic());
        let (head, reset) = (frame(HEADERS_FRAME, END_HEADERS, &[1]), frame(RST_STREAM_FRAME, 0, &[0; 4]));
        assert!(frames.scan(&head.repeat(40), now).is_ok());
        assert!(frames.scan(&reset.repeat(20), now).is_ok());
        assert!(frames.scan(&reset, now).is_err(), "more than half");
    }

    #[test]
    fn streams_that_are_given_up_beside_as_many_others_are_an_attack_when_they_are_too_many() {
        let (mut frames, now) = (begun(7), clock::monotonic());
        let (head, reset) = (frame(HEADERS_FRAME, END_HEADERS, &[1]), frame(RST_STREAM_FRAME, 0, &[0; 4]));
        let turn = [head.clone(), head, reset].concat();
        let ended = (0..1_000_u32).find(|_| frames.scan(&turn, now).is_err());
        assert_eq!(ended, Some(70));
        let mut frames = begun(7);
        let calm = (0..1_000_u32).all(|turns| frames.scan(&turn, now + INTERVAL / 60 * turns).is_ok());
        assert!(calm, "as they come and go where callers give up what takes too long");
    }

    #[test]
    fn streams_that_have_lasted_may_all_be_reset() {
        let of = |kind, flags, stream: u32, payload: &[u8]| {
            let mut bytes = frame(kind, flags, payload);
            bytes[5..9].copy_from_slice(&stream.to_be_bytes());
            bytes
        };
        let head = |stream| of(HEADERS_FRAME, END_HEADERS, stream, &[1]);
        let reset = |stream| of(RST_STREAM_FRAME, 0, stream, &[0; 4]);
        let (mut frames, now) = (begun(7), clock::monotonic());
        // All at once, and all given up at once.
        (0..100).for_each(|one| assert!(frames.scan(&head(one * 2 + 1), now).is_ok()));
        (0..100).for_each(|one| assert!(frames.scan(&reset(one * 2 + 1), now + Duration::from_secs(1)).is_ok()));
        // One after the other, each given up after half a second.
        let (mut frames, step) = (begun(7), Duration::from_millis(10));
        for one in 0..2_000_u32 {
            let now = now + step * one;
            assert!(frames.scan(&head(one * 2 + 1), now).is_ok());
            assert!(one < 50 || frames.scan(&reset((one - 50) * 2 + 1), now).is_ok(), "{one}");
        }
        // Given up as soon as they have begun.
        let mut frames = begun(7);
        let ended = (0..100_u32).find(|one| {
            let (stream, now) = (one * 2 + 1, now + step * *one);
            frames.scan(&[head(stream), reset(stream)].concat(), now).is_err()
        });
        assert_eq!(ended, Some(7));
    }

    #[test]
    fn heads_that_do_not_end_are_known() {
        let (mut frames, now) = (begun(1), clock::monotonic());
        assert_eq!(frames.in_head(), Some(0), "the first frame is part of the beginning");
        frames.scan(&frame(SETTINGS_FRAME, 0, &[]), now).unwrap();
        assert_eq!(frames.in_head(), None);
        frames.scan(&frame(HEADERS_FRAME, 0, &[1, 2]), now).unwrap();
        assert_eq!(frames.in_head(), Some(2));
        frames.scan(&frame(CONTINUATION_FRAME, 0, &[1]), now).unwrap();
        assert_eq!(frames.in_head(), Some(2), "the same block");
        frames.scan(&frame(CONTINUATION_FRAME, END_HEADERS, &[1]), now).unwrap();
        assert_eq!(frames.in_head(), None);
        let ping = frame(PING_FRAME, 0, &[0; 8]);
        frames.scan(&ping[..4], now).unwrap();
        let first = frames.in_head().expect("half of a frame's header");
        frames.scan(&[&ping[4..], &ping[..12]].concat(), now).unwrap();
        assert!(frames.in_head().expect("half of a payload") > first, "another frame");
        frames.scan(&[&ping[12..], &frame(DATA_FRAME, 0, &[0; 9])[..12]].concat(), now).unwrap();
        assert_eq!(frames.in_head(), None, "bodies may take their time");
    }

    proptest! {
        #[test]
        fn the_cut_into_reads_does_not_matter(
            cuts in proptest::collection::vec(1usize..20, 1..40),
            kinds in proptest::collection::vec((0u8..10, 0u8..6, 0usize..9), 0..40),
        ) {
            let bytes: Vec<u8> =
                kinds.iter().flat_map(|(kind, flags, length)| frame(*kind, *flags, &vec![0; *length])).collect();
            let now = clock::monotonic();
            let mut whole = begun(2);
            let wanted = whole.scan(&bytes, now).map_err(|(at, _)| at);
            let (mut frames, mut at, mut cuts) = (begun(2), 0, cuts.iter().cycle());
            let mut found = Ok(());
            while at < bytes.len() && found.is_ok() {
                let end = (at + cuts.next().expect("a cycle")).min(bytes.len());
                found = frames.scan(&bytes[at..end], now).map_err(|(passed, _)| at + passed);
                at = end;
            }
            prop_assert_eq!(found, wanted);
        }
    }
}
