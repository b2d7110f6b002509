//! The in-memory twin of chitchat: pure and seeded. Each round it compares with three linked peers what each holds, by a
//! digest of (member, run, highest number), and both give what the other lacks, within what fits into one message.

use std::{collections::BTreeMap, sync::Arc};

use certs::{
    codec::{self, Bytes},
    id::{NodeId, TrustDomain},
};
use rand::{SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde::{Deserialize, Serialize};

use crate::{
    gossip::{Feed, Known, Outgoing},
    notary::Notary,
};

/// Peers that a round compares with, as chitchat does.
const PEERS: usize = 3;
/// Bytes of records in one message, chitchat's own limit.
const DELTA_BYTES: usize = 64_000;
const MESSAGE_BYTES: usize = 1 << 20;

/// See the module.
#[derive(Debug)]
pub struct Twin {
    trust_domain: TrustDomain,
    notary: Arc<dyn Notary>,
    feed: Option<Arc<Feed>>,
    random: StdRng,
    out: Vec<Outgoing>,
}

#[derive(Serialize, Deserialize)]
struct Held {
    node: NodeId,
    generation: u64,
    version: u64,
}

#[derive(Serialize, Deserialize)]
struct Payload {
    /// Empty in the last message of a comparison.
    digest: Vec<Held>,
    records: Vec<Bytes>,
    answer: bool,
}

impl Twin {
    /// One for a mesh of this name.
    #[must_use]
    pub fn new(trust_domain: TrustDomain, notary: Arc<dyn Notary>, seed: u64) -> Twin {
        Twin { trust_domain, notary, feed: None, random: StdRng::seed_from_u64(seed), out: Vec::new() }
    }

    /// The world changed.
    pub fn feed(&mut self, feed: Arc<Feed>) {
        self.feed = Some(feed);
    }

    /// One round; due every second.
    pub fn round(&mut self) {
        let Some(feed) = self.feed.clone() else { return };
        let peers: Vec<NodeId> = feed.linked.choose_multiple(&mut self.random, PEERS).cloned().collect();
        let bytes = codec::encode(&Payload { digest: digest(&feed), records: Vec::new(), answer: true });
        self.out.extend(peers.into_iter().map(|to| Outgoing::Send { to, bytes: bytes.clone() }));
    }

    /// What it wants said and done.
    pub fn drain(&mut self) -> Vec<Outgoing> {
        std::mem::take(&mut self.out)
    }

    /// A payload came from a peer over its link.
    pub fn deliver(&mut self, from: &NodeId, bytes: &[u8]) {
        let Some(feed) = self.feed.clone() else { return };
        let Ok(Payload { digest: theirs, records, answer }) = codec::decode::<Payload, MESSAGE_BYTES>(bytes) else {
            let what = "sent what is no payload";
            return self.out.push(Outgoing::Hostile { from: from.clone(), what });
        };
        let strange = |held: &Held| feed.members.get(&held.node).is_none_or(|known| known.generation < held.generation);
        let mut unknown = theirs.iter().any(strange);
        let mut learned = Vec::new();
        for record in records.iter().filter_map(|bytes| self.notary.read(&bytes.0).ok()) {
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
        if !learned.is_empty() {
            self.out.push(Outgoing::Learned(learned));
        }
        if unknown {
            self.out.push(Outgoing::Unknown { from: from.clone() });
        }
        if !theirs.is_empty() {
            let records = news(&feed, &theirs);
            let digest = if answer { digest(&feed) } else { Vec::new() };
            if answer || !records.is_empty() {
                let bytes = codec::encode(&Payload { digest, records, answer: false });
                self.out.push(Outgoing::Send { to: from.clone(), bytes });
            }
        }
    }
}

fn version(known: &Known) -> u64 {
    let current = known.records.values().filter(|record| record.generation() == known.generation);
    current.map(|record| record.sequence()).max().unwrap_or_default()
}

fn digest(feed: &Feed) -> Vec<Held> {
    let held = |(node, known): (&NodeId, &Known)| Held {
        node: node.clone(),
        generation: known.generation,
        version: version(known),
    };
    feed.members.iter().map(held).collect()
}

/// What a peer lacks of the members that it knows in their present run.
fn news(feed: &Feed, theirs: &[Held]) -> Vec<Bytes> {
    let theirs: BTreeMap<&NodeId, (u64, u64)> =
        theirs.iter().map(|held| (&held.node, (held.generation, held.version))).collect();
    let (mut records, mut size) = (Vec::new(), 0);
    for (node, known) in &feed.members {
        let Some((generation, version)) = theirs.get(node) else { continue };
        if *generation != known.generation {
            continue;
        }
        let mut lacked: Vec<_> = known
            .records
            .values()
            .filter(|record| record.generation() == *generation && record.sequence() > *version)
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
