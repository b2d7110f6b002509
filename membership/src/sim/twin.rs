//! The in-memory twin of chitchat: pure and seeded. Each round it compares with three linked peers what each holds, by the
//! same short digest, and both give what the other lacks, within what fits into one message.

use std::sync::Arc;

use certs::{
    codec::{self, Bytes, Millis},
    id::{NodeId, TrustDomain},
};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde::{Deserialize, Serialize};

use crate::{
    body::Body,
    brief::{Brief, Compared, Index},
    engine::Event,
    gossip::{DIFFERING, Feed, NEWS, NEWS_EACH, Outgoing},
    notary::Notary,
    record::Section,
};

/// Peers that a round compares with, as chitchat does.
pub(super) const PEERS: usize = 3;
/// Bytes of records in one message, chitchat's own limit.
const DELTA_BYTES: usize = 64_000;
const MESSAGE_BYTES: usize = 1 << 20;

pub(super) use crate::gossip::NEWS_PEERS;

/// See the module.
#[derive(Debug)]
pub struct Twin {
    trust_domain: TrustDomain,
    notary: Arc<dyn Notary>,
    feed: Option<Arc<Feed>>,
    index: Index,
    random: StdRng,
    out: Vec<Outgoing>,
}

#[derive(Serialize, Deserialize)]
struct Payload {
    /// None in the last message of a comparison.
    digest: Option<Brief>,
    records: Vec<Bytes>,
    answer: bool,
}

impl Twin {
    /// One for a mesh of this name.
    #[must_use]
    pub fn new(trust_domain: TrustDomain, notary: Arc<dyn Notary>, seed: u64) -> Twin {
        let (index, out) = Default::default();
        Twin { trust_domain, notary, feed: None, index, random: StdRng::seed_from_u64(seed), out }
    }

    /// The world changed.
    pub fn feed(&mut self, feed: Arc<Feed>) {
        self.index = Index::new(&feed);
        self.feed = Some(feed);
    }

    /// One round; due every second.
    pub fn round(&mut self) {
        self.round_with(PEERS);
    }

    /// The same with so many peers.
    pub(super) fn round_with(&mut self, peers: usize) {
        let Some(feed) = self.feed.clone() else { return };
        let peers: Vec<NodeId> = feed.linked.choose_multiple(&mut self.random, peers).cloned().collect();
        let digest = Some(self.index.brief(self.random.random()));
        let bytes = codec::encode(&Payload { digest, records: Vec::new(), answer: true });
        self.out.extend(peers.into_iter().map(|to| Outgoing::Send { to, bytes: bytes.clone() }));
    }

    /// What it wants said and done.
    pub fn drain(&mut self) -> Vec<Outgoing> {
        std::mem::take(&mut self.out)
    }

    /// A payload came from a peer over its link. True if it brought news beyond signs of life.
    pub fn deliver(&mut self, from: &NodeId, bytes: &[u8]) -> bool {
        let Some(feed) = self.feed.clone() else { return false };
        let decoded = codec::decode::<Payload, MESSAGE_BYTES>(bytes).ok();
        let compared = decoded.as_ref().map(|payload| match &payload.digest {
            Some(digest) => self.index.compare(digest),
            None => Some(Compared::default()),
        });
        let (Some(payload), Some(compared)) = (&decoded, compared.flatten()) else {
            let what = "sent what is no payload";
            self.out.push(Outgoing::Hostile { from: from.clone(), what });
            return false;
        };
        let mut unknown = compared.unknown;
        let mut learned = Vec::new();
        for record in payload.records.iter().filter_map(|bytes| self.notary.read(&bytes.0).ok()) {
            let Some(known) = feed.members.get(record.node()) else {
                unknown = true;
                continue;
            };
            let held = known.records.get(&record.section()).map(|held| held.rank());
            let lacked = *record.node() != feed.node && held < Some(record.rank());
            if lacked && self.notary.signed(&record, &self.trust_domain, &known.record_key).is_ok() {
                learned.push(record);
            }
        }
        let is_news = learned.iter().any(|record| record.section() != Section::TABLE);
        if !learned.is_empty() {
            self.out.push(Outgoing::Learned(learned));
        }
        if unknown {
            self.out.push(Outgoing::Unknown { from: from.clone() });
        }
        let differ = compared.differ.iter().take(DIFFERING);
        self.out.extend(differ.map(|node| Outgoing::Differs { from: from.clone(), node: node.clone() }));
        if payload.digest.is_some() {
            let records = news(&feed, &compared);
            let digest = payload.answer.then(|| self.index.brief(self.random.random()));
            if payload.answer || !records.is_empty() {
                let bytes = codec::encode(&Payload { digest, records, answer: false });
                self.out.push(Outgoing::Send { to: from.clone(), bytes });
            }
        }
        is_news
    }
}

/// When what is new begins a round of its own, as with chitchat.
#[derive(Default)]
pub(super) struct News {
    /// The node has something to say that the twin does not know yet.
    own: bool,
    due: Option<Millis>,
    last: Millis,
}

impl News {
    pub(super) fn published(&mut self, event: &Event) {
        let momentary = |body: &Body| matches!(body, Body::Outliers(_) | Body::Demand(_) | Body::Suspicions(_));
        self.own |= matches!(event, Event::Publish(bodies) if !bodies.iter().all(momentary));
    }

    /// The engine has told of its news.
    pub(super) fn fed(&mut self, now: Millis) {
        if std::mem::take(&mut self.own) {
            self.due_after(0, now);
        }
    }

    pub(super) fn learned(&mut self, now: Millis) {
        self.due_after(milliseconds(NEWS), now);
    }

    fn due_after(&mut self, wait: Millis, now: Millis) {
        self.due.get_or_insert((now + wait).max(self.last + milliseconds(NEWS_EACH)));
    }

    /// When such a round is due; never if nothing is new.
    pub(super) fn due(&self) -> Millis {
        self.due.unwrap_or(Millis::MAX)
    }

    pub(super) fn take(&mut self, now: Millis) -> bool {
        let due = self.due() <= now;
        if due {
            (self.due, self.last) = (None, now);
        }
        due
    }
}

fn milliseconds(time: std::time::Duration) -> Millis {
    time.as_millis().try_into().unwrap_or(Millis::MAX)
}

/// What a peer lacks of the members that it knows in their present run.
fn news(feed: &Feed, compared: &Compared<'_>) -> Vec<Bytes> {
    let (mut records, mut size) = (Vec::new(), 0);
    for (held, version) in compared.both.iter().filter(|(held, version)| held.version > *version) {
        let Some(known) = feed.members.get(&held.node) else { continue };
        let mut lacked: Vec<_> = known
            .records
            .values()
            .filter(|record| record.generation() == known.generation && record.sequence() > *version)
            .collect();
        lacked.sort_by_key(|record| record.sequence());
        for record in lacked {
            size += record.bytes().len();
            if size > DELTA_BYTES {
                return records;
            }
            records.push(Bytes(record.bytes().to_vec()));
        }
    }
    records
}
