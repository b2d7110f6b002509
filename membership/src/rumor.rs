//! Spreads fresh records over open links: the first at once, those following within 10 ms together. Where all are linked
//! with all, an author tells everybody and each passes on to a few. In a sparse mesh a record goes whole to a few links,
//! and the others hear that it is there and pull it if it does not come (after Plumtree, Leitao et al. 2007).
//!
//! Each lane has a budget. What exceeds it is only announced; what cannot be pulled, because it is of the moment, is left
//! out. Liveness has none here, so that nobody can use up what others need: its budget is each author's own, see
//! `ORIGIN_URGENT` of the engine.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use certs::id::NodeId;
use rand::{
    rngs::StdRng,
    seq::{IndexedRandom, SliceRandom},
};

use crate::{
    engine::Lane,
    limit::Bucket,
    message::{BATCH_BYTES, Latest, Message},
    record::{Section, SignedRecord},
};

/// Time after a rumor within which further ones gather, in milliseconds.
pub(crate) const GATHER_MS: u64 = 10;
/// Peers of a sparse mesh that are sent the whole record by who passes it on; its author sends it to all.
const EAGER: usize = 6;
/// The same for suspicions, which nobody pulls: that one member does not hear of one costs it seconds.
const EAGER_SUSPICIONS: usize = 9;
/// Peers of a full mesh to whom a node passes on what was new to it.
const PASS_ON: usize = 3;
/// Records that wait to be told; beyond, repair brings them.
const WAITING: usize = 4_096;
/// Bytes a second that a lane may send whole, and at once.
const BUDGET: [(Lane, u64, u64); 4] = [
    (Lane::Policy, 2 << 20, 16 << 20),
    (Lane::Health, 2 << 20, 8 << 20),
    (Lane::Services, 1 << 20, 16 << 20),
    (Lane::Rest, 512 << 10, 8 << 20),
];

/// See the module.
pub(crate) struct Rumor {
    /// Latest record of each section, in order of names.
    waiting: BTreeMap<(NodeId, Section), Waiting>,
    /// When the last ones went out.
    last: Option<u64>,
    budgets: BTreeMap<Lane, Bucket>,
}

struct Waiting {
    record: Arc<SignedRecord>,
    /// Without which its readers may not know what it speaks of.
    beside: Vec<Arc<SignedRecord>>,
    /// Who told it.
    from: Option<NodeId>,
    lane: Lane,
}

/// Who is there to be told.
pub(crate) struct Audience<'a> {
    pub(crate) own: &'a NodeId,
    pub(crate) linked: &'a BTreeSet<NodeId>,
    /// Most members have no link with this node.
    pub(crate) sparse: bool,
}

impl Default for Rumor {
    fn default() -> Rumor {
        let budgets = BUDGET.iter().map(|(lane, rate, burst)| (*lane, Bucket::new(*rate, *burst, 0))).collect();
        Rumor { waiting: BTreeMap::new(), last: None, budgets }
    }
}

impl Rumor {
    /// A record that is new to this node; `from` told it. Without a lane it takes that of its section.
    pub(crate) fn push(&mut self, record: Arc<SignedRecord>, from: Option<NodeId>, lane: Option<Lane>) {
        self.push_with(record, Vec::new(), from, lane);
    }

    /// The same, in one message with others that its readers must know.
    pub(crate) fn push_with(
        &mut self,
        record: Arc<SignedRecord>,
        beside: Vec<Arc<SignedRecord>>,
        from: Option<NodeId>,
        lane: Option<Lane>,
    ) {
        let key = (record.node().clone(), record.section());
        if self.waiting.len() < WAITING || self.waiting.contains_key(&key) {
            let lane = lane.unwrap_or_else(|| self::lane(record.section()));
            self.waiting.insert(key, Waiting { record, beside, from, lane });
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
        audience: &Audience<'_>,
        random: &mut StdRng,
        now: u64,
    ) -> Vec<(NodeId, Lane, Message)> {
        if self.due().is_none_or(|due| now < due) {
            return Vec::new();
        }
        self.last = Some(now);
        let mut whole: BTreeMap<NodeId, (Lane, Vec<Arc<SignedRecord>>)> = BTreeMap::new();
        let mut announced: BTreeMap<NodeId, BTreeMap<NodeId, (u64, u64)>> = BTreeMap::new();
        for Waiting { record, beside, from, lane } in std::mem::take(&mut self.waiting).into_values() {
            let (mut eager, mut lazy) = listeners(audience, &record, from.as_ref(), random);
            let size: usize = beside.iter().chain([&record]).map(|record| record.bytes().len()).sum();
            let size = (size * eager.len()) as u64;
            if self.budgets.get_mut(&lane).is_some_and(|budget| !budget.take_many(size, now)) {
                lazy.append(&mut eager);
            }
            for peer in eager {
                let (most, records) = whole.entry(peer).or_insert_with(|| (lane, Vec::new()));
                *most = lane.min(*most);
                for other in &beside {
                    if !records.iter().any(|record| Arc::ptr_eq(record, other)) {
                        records.push(other.clone());
                    }
                }
                records.push(record.clone());
            }
            for peer in lazy.into_iter().filter(|_| !record.section().is_of_the_moment()) {
                let latest = announced.entry(peer).or_default().entry(record.node().clone()).or_default();
                *latest = record.rank().max(*latest);
            }
        }
        let announced = announced.into_iter().map(|(peer, latest)| {
            let latest = latest.into_iter().map(|(node, (generation, sequence))| Latest { node, generation, sequence });
            (peer, Lane::Services, Message::Have(latest.collect()))
        });
        whole.into_iter().flat_map(|(peer, (lane, records))| packed(&peer, lane, &records)).chain(announced).collect()
    }
}

/// Who is sent the record, and who only hears that it is there.
fn listeners(
    audience: &Audience<'_>,
    record: &SignedRecord,
    from: Option<&NodeId>,
    random: &mut StdRng,
) -> (Vec<NodeId>, Vec<NodeId>) {
    let Audience { own, linked, sparse } = audience;
    let others = linked.iter().filter(|peer| *peer != record.node() && Some(*peer) != from);
    let mut others: Vec<NodeId> = others.cloned().collect();
    if *sparse {
        let eager = if record.section().base() == Section::SUSPICIONS { EAGER_SUSPICIONS } else { EAGER };
        if record.node() == *own || others.len() <= eager {
            return (others, Vec::new());
        }
        others.shuffle(random);
        let lazy = others.split_off(eager);
        return (others, lazy);
    }
    if record.node() != *own {
        others = others.choose_multiple(random, PASS_ON).cloned().collect();
    }
    (others, Vec::new())
}

/// Packs records into messages as urgent as the most urgent of them; identities and tables come before what needs them.
pub(crate) fn messages(peer: &NodeId, records: &[Arc<SignedRecord>]) -> Vec<(NodeId, Lane, Message)> {
    let lane = records.iter().map(|record| lane(record.section())).min().unwrap_or(Lane::Rest);
    packed(peer, lane, records)
}

fn packed(peer: &NodeId, lane: Lane, records: &[Arc<SignedRecord>]) -> Vec<(NodeId, Lane, Message)> {
    let mut records: Vec<&Arc<SignedRecord>> = records.iter().collect();
    records.sort_by_key(|record| (record.section() != Section::IDENTITY, record.section() != Section::TABLE));
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

/// How urgent a section is.
pub(crate) fn lane(section: Section) -> Lane {
    match section.base() {
        Section::STATUS | Section::SUSPICIONS => Lane::Liveness,
        Section::POLICY => Lane::Policy,
        Section::HEALTH | Section::OUTLIERS | Section::DEMAND => Lane::Health,
        Section::SERVICES | Section::ADDRESS | Section::IDENTITY => Lane::Services,
        _ => Lane::Rest,
    }
}
