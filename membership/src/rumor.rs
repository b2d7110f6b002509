//! Spreads fresh records over open links: the first at once, those following within 10 ms together.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use certs::id::NodeId;
use rand::{rngs::StdRng, seq::IndexedRandom};

use crate::{
    engine::Lane,
    message::{BATCH_BYTES, Message},
    record::{Section, SignedRecord},
};

/// Time after a rumor within which further ones gather, in milliseconds.
pub(crate) const GATHER_MS: u64 = 10;
/// Links up to which a node tells its own news to every peer.
const FULL_MESH: usize = 32;
/// Peers that are told otherwise.
const FEW: usize = 6;
/// Peers to whom a node passes on what was new to it.
const PASS_ON: usize = 3;
/// Records that wait to be told; beyond, repair brings them.
const WAITING: usize = 4_096;

/// See the module.
#[derive(Default)]
pub(crate) struct Rumor {
    /// Latest record of each section, and who told it, in order of names.
    waiting: BTreeMap<(NodeId, Section), (Arc<SignedRecord>, Option<NodeId>)>,
    /// When the last ones went out.
    last: Option<u64>,
}

impl Rumor {
    /// A record that is new to this node; `from` told it.
    pub(crate) fn push(&mut self, record: Arc<SignedRecord>, from: Option<NodeId>) {
        let key = (record.node().clone(), record.section());
        if self.waiting.len() < WAITING || self.waiting.contains_key(&key) {
            self.waiting.insert(key, (record, from));
        }
    }

    /// When something is due, if anything waits.
    pub(crate) fn due(&self) -> Option<u64> {
        (!self.waiting.is_empty()).then(|| self.last.map_or(0, |last| last + GATHER_MS))
    }

    /// What waits goes out at once.
    pub(crate) fn hasten(&mut self) {
        self.last = None;
    }

    /// What is due: to whom, how urgently, what.
    pub(crate) fn take(
        &mut self,
        own: &NodeId,
        linked: &BTreeSet<NodeId>,
        random: &mut StdRng,
        now: u64,
    ) -> Vec<(NodeId, Lane, Message)> {
        if self.due().is_none_or(|due| now < due) {
            return Vec::new();
        }
        self.last = Some(now);
        let mut batches: BTreeMap<NodeId, Vec<Arc<SignedRecord>>> = BTreeMap::new();
        for (record, from) in std::mem::take(&mut self.waiting).into_values() {
            for peer in listeners(own, &record, from.as_ref(), linked, random) {
                batches.entry(peer).or_default().push(record.clone());
            }
        }
        batches.into_iter().flat_map(|(peer, records)| messages(&peer, &records)).collect()
    }
}

fn listeners(
    own: &NodeId,
    record: &SignedRecord,
    from: Option<&NodeId>,
    linked: &BTreeSet<NodeId>,
    random: &mut StdRng,
) -> Vec<NodeId> {
    let others: Vec<&NodeId> = linked.iter().filter(|peer| *peer != record.node() && Some(*peer) != from).collect();
    let count = match (record.node() == own, linked.len() <= FULL_MESH) {
        (true, true) => others.len(),
        (true, false) => FEW,
        (false, _) => PASS_ON,
    };
    others.choose_multiple(random, count).map(|peer| (*peer).clone()).collect()
}

/// Packs records into messages, the most urgent first; identities and tables come before what needs them.
pub(crate) fn messages(peer: &NodeId, records: &[Arc<SignedRecord>]) -> Vec<(NodeId, Lane, Message)> {
    let mut records: Vec<&Arc<SignedRecord>> = records.iter().collect();
    records.sort_by_key(|record| (record.section() != Section::IDENTITY, record.section() != Section::TABLE));
    let lane = records.iter().map(|record| lane(record.section())).min().unwrap_or(Lane::Rest);
    let mut batches: Vec<Vec<Vec<u8>>> = Vec::new();
    let mut size = BATCH_BYTES;
    for record in records {
        if size + record.bytes().len() > BATCH_BYTES {
            batches.push(Vec::new());
            size = 0;
        }
        size += record.bytes().len();
        batches.last_mut().expect("the first record opens a batch").push(record.bytes().to_vec());
    }
    batches.into_iter().map(|batch| (peer.clone(), lane, Message::Records(batch))).collect()
}

fn lane(section: Section) -> Lane {
    match section.base() {
        Section::STATUS => Lane::Liveness,
        Section::POLICY => Lane::Policy,
        Section::HEALTH | Section::OUTLIERS | Section::DEMAND => Lane::Health,
        Section::SERVICES | Section::ADDRESS | Section::IDENTITY => Lane::Services,
        _ => Lane::Rest,
    }
}
