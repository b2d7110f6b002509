//! The in-memory twin of the gossip carrier: pure and seeded. Each round it tells one linked peer everything.

use std::{cell::RefCell, sync::Arc};

use certs::{codec, id::NodeId};
use membership::{
    gossip::{Carrier, Feed, Outgoing},
    record::SignedRecord,
};
use rand::{SeedableRng, rngs::StdRng, seq::IndexedRandom};

pub(crate) struct Memory {
    inner: RefCell<Inner>,
}

struct Inner {
    feed: Option<Arc<Feed>>,
    random: StdRng,
    out: Vec<Outgoing>,
}

impl Memory {
    pub(crate) fn new(seed: u64) -> Memory {
        let inner = Inner { feed: None, random: StdRng::seed_from_u64(seed), out: Vec::new() };
        Memory { inner: RefCell::new(inner) }
    }

    pub(crate) fn round(&self) {
        let mut inner = self.inner.borrow_mut();
        let Some(feed) = inner.feed.clone() else { return };
        let Some(to) = feed.linked.choose(&mut inner.random).cloned() else { return };
        let records: Vec<Vec<u8>> = feed
            .members
            .values()
            .flat_map(|known| known.records.values())
            .map(|record| record.bytes().to_vec())
            .collect();
        inner.out.push(Outgoing::Send { to, bytes: codec::encode(&records) });
    }

    pub(crate) fn drain(&self) -> Vec<Outgoing> {
        std::mem::take(&mut self.inner.borrow_mut().out)
    }
}

impl Carrier for Memory {
    fn feed(&self, feed: Arc<Feed>) {
        self.inner.borrow_mut().feed = Some(feed);
    }

    fn deliver(&self, from: &NodeId, bytes: &[u8]) {
        let mut inner = self.inner.borrow_mut();
        let Some(feed) = inner.feed.clone() else { return };
        let Ok(records) = codec::decode::<Vec<Vec<u8>>, { 1 << 20 }>(bytes) else {
            let what = "sent what is no payload";
            return inner.out.push(Outgoing::Hostile { from: from.clone(), what });
        };
        let trust_domain = certs::id::TrustDomain::new("test.example").expect("valid");
        let (mut learned, mut unknown) = (Vec::new(), false);
        for record in records.iter().filter_map(|bytes| SignedRecord::decode(bytes).ok()) {
            let Some(known) = feed.members.get(record.node()) else {
                unknown = true;
                continue;
            };
            let rank = |record: &SignedRecord| (record.generation(), record.sequence());
            let held = known.records.get(&record.section()).map(|held| rank(held));
            let lacked = *record.node() != feed.node && held < Some(rank(&record));
            if lacked && record.verify(&trust_domain, &known.record_key).is_ok() {
                learned.push(Arc::new(record));
            }
        }
        if !learned.is_empty() {
            inner.out.push(Outgoing::Learned(learned));
        }
        if unknown {
            inner.out.push(Outgoing::Unknown { from: from.clone() });
        }
    }
}
