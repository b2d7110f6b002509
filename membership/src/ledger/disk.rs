//! What a ledger leaves on disk and takes from it: all that it believes, the proofs against those that it does not, and
//! who lapsed by a clock that may be wrong.

use std::{collections::BTreeMap, sync::Arc};

use certs::{
    codec::{self, Millis},
    id::NodeId,
};
use serde::{Deserialize, Serialize};

use super::{Ledger, Now, Offered};
use crate::{
    limit::Bucket,
    record::{Section, SignedRecord},
};

/// Largest persisted state in bytes: what is more is left out, the least important first.
const PERSISTED_BYTES: usize = 64 << 20;
/// Bytes that a record takes beside its own.
const RECORD_BESIDE: usize = 8;

/// Whose certificates did not hold is judged again after this time: the clock may have been behind.
const AGAIN_MS: Millis = 3_600_000;

/// Records of a node whose certificates do not hold by this node's clock.
pub(super) struct Lapsed {
    /// What the clock showed when they were judged last.
    at: Millis,
    records: Vec<Arc<SignedRecord>>,
}

impl Lapsed {
    /// Whether they may hold now: by an earlier time, to which the clock was set back, or by a much later one.
    pub(super) fn is_due(&self, now: Millis) -> bool {
        now < self.at || now >= self.at.saturating_add(AGAIN_MS)
    }
}

#[derive(Default, Serialize, Deserialize)]
struct Persisted {
    records: Vec<Vec<u8>>,
    /// An identity and two records of one number that it signed.
    proofs: Vec<[Vec<u8>; 3]>,
}

impl Ledger {
    /// Everything but one node's own records, for the disk.
    pub(crate) fn persist(&self, own: &NodeId) -> Vec<u8> {
        self.persist_within(PERSISTED_BYTES, own)
    }

    pub(super) fn persist_within(&self, most: usize, own: &NodeId) -> Vec<u8> {
        let bytes = |record: &Arc<SignedRecord>| record.bytes().to_vec();
        let mut room = most;
        let mut fits = |size: usize| {
            let left = room.checked_sub(size + RECORD_BESIDE);
            room = left.unwrap_or(room);
            left.is_some()
        };
        let proofs = self.proofs().map(|found| [&found.identity, &found.proof.0, &found.proof.1].map(bytes));
        let proofs = proofs.filter(|proof| fits(proof.iter().map(|bytes| bytes.len() + RECORD_BESIDE).sum())).collect();
        let others = self.nodes.iter().filter(|(name, _)| *name != own);
        let held = others.flat_map(|(_, node)| node.records.values());
        let lapsed = self.lapsed.values().flat_map(|lapsed| &lapsed.records);
        let mut records: Vec<&Arc<SignedRecord>> =
            held.chain(lapsed).filter(|record| record.section().is_stored()).collect();
        // Sections are numbered by what a node needs first to find another.
        records.sort_by_key(|record| (record.section() != Section::IDENTITY, record.section()));
        let records = records.into_iter().filter(|record| fits(record.bytes().len())).map(bytes).collect();
        codec::encode(&Persisted { records, proofs })
    }

    /// Takes in what [`persist`](Self::persist) gave; what no longer counts is left out.
    pub(crate) fn restore(&mut self, bytes: &[u8], now: Now) {
        if bytes.is_empty() {
            return;
        }
        let Persisted { records, proofs } = codec::decode::<_, PERSISTED_BYTES>(bytes).unwrap_or_else(|error| {
            tracing::warn!(%error, "what the disk holds of the members is not readable, starting without");
            Persisted::default()
        });
        for [identity, one, other] in &proofs {
            let read = [identity, one, other].map(|bytes| self.notary.read(bytes));
            if let [Ok(identity), Ok(one), Ok(other)] = read {
                self.offer(&identity, &mut unlimited(now), now);
                self.prove(&(one, other));
            }
        }
        let mut of: BTreeMap<NodeId, Vec<Arc<SignedRecord>>> = BTreeMap::new();
        for record in records.iter().filter_map(|bytes| self.notary.read(bytes).ok()) {
            of.entry(record.node().clone()).or_default().push(record);
        }
        for (name, records) in of {
            if !self.offer_all(&records, now) {
                self.keep(&name, records, now);
            }
        }
        // The disk may be old: what it brought stands, but a change needs a table that came from somebody alive.
        for node in self.nodes.values_mut() {
            node.table_came = None;
        }
    }

    /// Takes a node out whose identity no longer holds; what it said is kept aside as long as its grant stands.
    pub(super) fn lapse(&mut self, name: &NodeId, now: Now) {
        let Some(node) = self.nodes.remove(name) else { return };
        if node.facts.not_after < now.wall {
            self.keep(name, node.records.values().cloned().collect(), now);
        }
    }

    fn keep(&mut self, name: &NodeId, records: Vec<Arc<SignedRecord>>, now: Now) {
        if self.granted(name) && !self.quarantined(name) {
            self.lapsed.insert(name.clone(), Lapsed { at: now.wall, records });
        }
    }

    /// Whether an operator's grant of a node stands.
    pub(super) fn granted(&self, name: &NodeId) -> bool {
        let grant = self.authority.grants.get(name);
        grant.is_some_and(|grant| !self.authority.revocations.evicted(name, grant.epoch))
    }

    /// Takes back in whose certificates hold at another time than that by which they lapsed; forgets who has no grant.
    pub(super) fn revive(&mut self, now: Now) -> Vec<NodeId> {
        let mut revived = Vec::new();
        for (name, mut lapsed) in std::mem::take(&mut self.lapsed) {
            if lapsed.is_due(now.wall) {
                if self.offer_all(&lapsed.records, now) {
                    revived.push(name);
                    continue;
                }
                lapsed.at = now.wall;
            }
            if self.granted(&name) {
                self.lapsed.insert(name, lapsed);
            }
        }
        revived
    }

    /// Offers all records of one node; true if its identity holds.
    pub(crate) fn offer_all(&mut self, records: &[Arc<SignedRecord>], now: Now) -> bool {
        let mut records: Vec<&Arc<SignedRecord>> = records.iter().collect();
        records.sort_by_key(|record| (record.section() != Section::IDENTITY, record.section() != Section::TABLE));
        let mut holds = false;
        for record in records {
            let offered = self.offer(record, &mut unlimited(now), now);
            holds |= record.section() == Section::IDENTITY && matches!(offered, Offered::Fresh | Offered::Known);
        }
        holds
    }
}

fn unlimited(now: Now) -> Bucket {
    Bucket::new(0, 1, now.steady)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What lies on disks: a change here needs a reader of this.
    #[test]
    fn what_the_disk_holds_of_members_stays_as_it_is() {
        let kept = [1, 2, 8, 9, 1, 1, 3, 1, 4, 2, 5, 6];
        let persisted = || Persisted { records: vec![vec![8, 9]], proofs: vec![[vec![3], vec![4], vec![5, 6]]] };
        assert_eq!(codec::encode(&persisted()), kept);
        let read: Persisted = codec::decode::<_, PERSISTED_BYTES>(&kept).unwrap();
        assert_eq!((read.records, read.proofs), (persisted().records, persisted().proofs));
    }
}
