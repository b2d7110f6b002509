//! What one peer, or one author, may cost this node.

use super::{
    ORIGIN_RECORDS,
    accusations::{Asked, ORIGIN_URGENT},
};
use crate::{limit::Bucket, message::BATCH_BYTES, record::RECORD_BYTES};

/// Records a second from one peer that are worth a signature check, and at once: a large mesh's whole state.
pub(super) const SENDER_RECORDS: (u64, u64) = (500, 8_192);
/// Bytes a second of one peer that are read at all, and at once: of each kind as many as its own limit lets through.
const SENDER_BYTES: (u64, u64) = (bytes_read(false), bytes_read(true));
/// Messages a second of one peer that are read, and at once, however short: one that has records of a thousand members to tell tells
/// many in one.
pub(super) const SENDER_MESSAGES: (u64, u64) = (2_000, 16_384);
/// Messages of up to so many bytes are still read, at [`SENDER_SMALL`], when a peer's other budgets are spent, so that probes and acks get
/// through.
const SMALL_BYTES: usize = 256;
pub(super) const SENDER_SMALL: (u64, u64) = (200, 400);
/// Bytes of a large mesh's summary: two thousand members of long names.
const SUMMARY_BYTES: u64 = 256 << 10;
/// Bytes of one announced number.
const ANNOUNCED_BYTES: u64 = 128;
/// Announced numbers a second of one peer that are looked up, and at once: what a large mesh says that starts at once.
const SENDER_ANNOUNCED: (u64, u64) = (2_000, 16_384);
/// Pulls a second that one peer is answered, and at once.
const SENDER_PULLS: (u64, u64) = (20, 40);
/// Summaries a second of one peer that are read, and at once: an honest one sends one.
const SENDER_SUMMARIES: (u64, u64) = (2, 10);
/// Payloads of the gossip carrier a second from one peer, and at once.
const SENDER_PAYLOADS: (u64, u64) = (50, 200);
/// Accusations a second of one peer that are told to the accused, and at once.
const SENDER_ACCUSATIONS: (u64, u64) = (2, 8);
/// Statements a second of one member on whom it accuses that are judged, and at once.
const SENDER_STATEMENTS: (u64, u64) = (10, 20);
/// Tables a second that an accuser is told in answer, and at once.
const SENDER_TOLD: (u64, u64) = (20, 64);
/// Bytes of records a second that one peer's pulls are answered, and at once.
const SENDER_PULLED: (u64, u64) = (2 << 20, 16 << 20);

/// What the limits of one peer's messages let through in bytes, in a second or at once.
const fn bytes_read(at_once: bool) -> u64 {
    const fn of((rate, burst): (u64, u64), at_once: bool) -> u64 {
        if at_once { burst } else { rate }
    }
    of(SENDER_PULLED, at_once)
        + of(SENDER_RECORDS, at_once) * RECORD_BYTES as u64
        + of(SENDER_PAYLOADS, at_once) * BATCH_BYTES as u64
        + of(SENDER_SUMMARIES, at_once) * SUMMARY_BYTES
        + of(SENDER_ANNOUNCED, at_once) * ANNOUNCED_BYTES
}

/// What is remembered of a peer as a sender. Bounded by the number of members.
pub(super) struct Sender {
    /// Its messages, before they are read.
    messages: Bucket,
    /// Of them.
    bytes: Bucket,
    /// Of the small ones beyond that.
    small: Bucket,
    pub(super) announced: Bucket,
    pub(super) records: Bucket,
    pub(super) pulls: Bucket,
    pub(super) pulled: Bucket,
    pub(super) summaries: Bucket,
    pub(super) payloads: Bucket,
    pub(super) accusations: Bucket,
    /// Whom it accuses, said anew.
    pub(super) statements: Bucket,
    /// Tables of those whom it accused after they had signed more.
    pub(super) told: Bucket,
    pub(super) asked: Asked,
    pub(super) summary_due: u64,
    /// Whether it has said over its link what it holds.
    pub(super) summarised: bool,
    pub(super) notice_due: u64,
    /// When accusations that nobody listens to are passed on next.
    pub(super) vain_due: u64,
}

/// What is remembered of an author, whoever brings what it signed: there is one for each member.
pub(super) struct Origin {
    /// Its records that are new.
    pub(super) records: Bucket,
    /// Their bytes that are passed on as urgent.
    pub(super) urgent: Bucket,
}

impl Origin {
    pub(super) fn new(now: u64) -> Origin {
        let bucket = |(rate, burst)| Bucket::new(rate, burst, now);
        Origin { records: bucket(ORIGIN_RECORDS), urgent: bucket(ORIGIN_URGENT) }
    }
}

impl Sender {
    pub(super) fn new(now: u64) -> Sender {
        let bucket = |(rate, burst)| Bucket::new(rate, burst, now);
        Sender {
            messages: bucket(SENDER_MESSAGES),
            bytes: bucket(SENDER_BYTES),
            small: bucket(SENDER_SMALL),
            announced: bucket(SENDER_ANNOUNCED),
            records: bucket(SENDER_RECORDS),
            pulls: bucket(SENDER_PULLS),
            pulled: bucket(SENDER_PULLED),
            summaries: bucket(SENDER_SUMMARIES),
            payloads: bucket(SENDER_PAYLOADS),
            accusations: bucket(SENDER_ACCUSATIONS),
            statements: bucket(SENDER_STATEMENTS),
            told: bucket(SENDER_TOLD),
            asked: Asked::default(),
            summary_due: 0,
            summarised: false,
            notice_due: 0,
            vain_due: 0,
        }
    }

    /// Whether a message of so many bytes is read.
    pub(super) fn reads(&mut self, bytes: usize, now: u64) -> bool {
        self.messages.take(now) && self.bytes.take_many(bytes as u64, now)
            || bytes <= SMALL_BYTES && self.small.take(now)
    }
}
