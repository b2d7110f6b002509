//! Spreads fresh records over open links: the first of an author at once, those following within 10 ms together. What others
//! say meanwhile waits for nobody, or each hop would add those 10 ms, unless a crowd speaks. Where all are linked with all, an author
//! tells everybody and each passes on to a few. In a sparse mesh a record goes whole to a few links, and the others hear that it is
//! there and pull it if it does not come (after Plumtree, Leitao et al. 2007).
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
    message::{BATCH_BYTES, Latest, Message, encode_records},
    record::{Section, SignedRecord},
};

/// Time after a rumor within which further ones gather, in milliseconds.
pub(crate) const GATHER_MS: u64 = 10;
/// Peers of a sparse mesh that are sent the whole record by who passes it on; its author sends it to all.
const EAGER: usize = 6;
/// The same for suspicions, which nobody pulls: that one member does not hear of one costs it seconds.
const EAGER_SUSPICIONS: usize = 9;
/// Records that go out together from which on fewer peers are sent those whole that may wait: when many start at once each would hear
/// all seven times. Also the authors whose records go out at once within [`GATHER_MS`].
const CROWD: usize = 32;
/// Those peers.
const EAGER_CROWDED: usize = 2;
/// Peers of a full mesh to whom a node passes on what was new to it.
const PASS_ON: usize = 3;
/// Records that wait to be told; beyond, repair brings them.
const WAITING: usize = 4_096;
/// Bytes a second that a lane may send whole, and at once.
const BUDGET: [(Lane, u64, u64); 4] = [
    (Lane::Policy, 2 << 20, 16 << 20),
    (Lane::Health, 2 << 20, 8 << 20),
    (Lane::Services, 1 << 20, 1 << 20),
    (Lane::Rest, 512 << 10, 512 << 10),
];

/// A message as it travels: to whom, how urgently, what.
pub(crate) type Packet = (NodeId, Lane, Arc<[u8]>);

/// A number of a member's records.
type Rank = (u64, u64);

/// What is announced to one peer.
type Ranks = BTreeMap<NodeId, Rank>;

/// Records and the messages that they make.
type Written = (Vec<Arc<SignedRecord>>, Vec<Arc<[u8]>>);

/// What one peer is sent whole, as urgent as the most urgent of it.
type Whole = (Lane, Vec<Arc<SignedRecord>>);

/// See the module.
pub(crate) struct Rumor {
    /// Latest record of each section, in order of names.
    waiting: BTreeMap<(NodeId, Section), Waiting>,
    /// Whose records went out within [`GATHER_MS`], and when.
    told: BTreeMap<NodeId, u64>,
    /// When the last ones went out.
    last: Option<u64>,
    /// When the first of those that wait is due.
    earliest: u64,
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
        let (waiting, told) = Default::default();
        Rumor { waiting, told, last: None, earliest: 0, budgets }
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
            let due = self.due_of(record.node());
            self.earliest = if self.waiting.is_empty() { due } else { self.earliest.min(due) };
            let lane = lane.unwrap_or_else(|| self::lane(record.section()));
            self.waiting.insert(key, Waiting { record, beside, from, lane });
        }
    }

    /// When something is due, if anything waits.
    pub(crate) fn due(&self) -> Option<u64> {
        (!self.waiting.is_empty()).then_some(self.earliest)
    }

    /// When what an author says is due.
    fn due_of(&self, author: &NodeId) -> u64 {
        match self.told.get(author) {
            Some(told) => told + GATHER_MS,
            None if self.told.len() < CROWD => 0,
            None => self.last.map_or(0, |last| last + GATHER_MS),
        }
    }

    /// What waits goes out at once.
    pub(crate) fn hasten(&mut self) {
        self.told.clear();
        (self.last, self.earliest) = (None, 0);
    }

    /// What is due.
    pub(crate) fn take(&mut self, audience: &Audience<'_>, random: &mut StdRng, now: u64) -> Vec<Packet> {
        self.told.retain(|_, told| now < *told + GATHER_MS);
        if self.due().is_none_or(|due| now < due) {
            return Vec::new();
        }
        let waiting = self.ripe(now);
        self.last = Some(now);
        let mut whole: BTreeMap<NodeId, Whole> = BTreeMap::new();
        let mut announced: BTreeMap<NodeId, Ranks> = BTreeMap::new();
        let crowded = waiting.len() > CROWD;
        for Waiting { record, beside, from, lane } in waiting.into_values() {
            let crowded = crowded && lane > Lane::Health;
            let (mut eager, mut lazy) = listeners(audience, &record, from.as_ref(), crowded, random);
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
        packets(whole, announced)
    }

    /// Takes out what is due.
    fn ripe(&mut self, now: u64) -> BTreeMap<(NodeId, Section), Waiting> {
        let (ripe, later) =
            std::mem::take(&mut self.waiting).into_iter().partition(|((author, _), _)| self.due_of(author) <= now);
        let ripe: BTreeMap<(NodeId, Section), Waiting> = ripe;
        self.waiting = later;
        self.told.extend(ripe.keys().map(|(author, _)| (author.clone(), now)));
        self.earliest = self.waiting.keys().map(|(author, _)| self.due_of(author)).min().unwrap_or_default();
        ripe
    }
}

/// What peers are sent whole, and what is announced to them, as messages.
fn packets(whole: BTreeMap<NodeId, Whole>, announced: BTreeMap<NodeId, Ranks>) -> Vec<Packet> {
    let mut packets: Vec<Packet> = Vec::new();
    let mut same: Vec<Written> = Vec::new();
    for (peer, (lane, records)) in whole {
        // Most are told the same, which is written once.
        let equal = |known: &Vec<Arc<SignedRecord>>| {
            known.len() == records.len() && known.iter().zip(&records).all(|(one, other)| Arc::ptr_eq(one, other))
        };
        let place = same.iter().position(|(known, _)| equal(known)).unwrap_or_else(|| {
            let written = written(&records);
            same.push((records, written));
            same.len() - 1
        });
        packets.extend(same[place].1.iter().map(|bytes| (peer.clone(), lane, bytes.clone())));
    }
    let mut last: Option<(Ranks, Arc<[u8]>)> = None;
    for (peer, latest) in announced {
        let bytes = match &last {
            Some((known, bytes)) if *known == latest => bytes.clone(),
            Some(_) | None => {
                let entries = latest.iter().map(|(node, (generation, sequence))| Latest {
                    node: node.clone(),
                    generation: *generation,
                    sequence: *sequence,
                });
                let bytes: Arc<[u8]> = Message::Have(entries.collect()).encode().into();
                last = Some((latest, bytes.clone()));
                bytes
            }
        };
        packets.push((peer, Lane::Services, bytes));
    }
    packets
}

/// Who is sent the record, and who only hears that it is there.
fn listeners(
    audience: &Audience<'_>,
    record: &SignedRecord,
    from: Option<&NodeId>,
    crowded: bool,
    random: &mut StdRng,
) -> (Vec<NodeId>, Vec<NodeId>) {
    let Audience { own, linked, sparse } = audience;
    let others = linked.iter().filter(|peer| *peer != record.node() && Some(*peer) != from);
    let mut others: Vec<NodeId> = others.cloned().collect();
    if *sparse {
        let eager = match record.section().base() {
            Section::SUSPICIONS => EAGER_SUSPICIONS,
            _ if crowded => EAGER_CROWDED,
            _ => EAGER,
        };
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

/// Packs records into messages for a peer, as urgent as the most urgent of them.
pub(crate) fn messages(peer: &NodeId, records: &[Arc<SignedRecord>]) -> Vec<Packet> {
    let lane = records.iter().map(|record| lane(record.section())).min().unwrap_or(Lane::Rest);
    written(records).into_iter().map(|bytes| (peer.clone(), lane, bytes)).collect()
}

/// Identities and tables come before what needs them.
fn written(records: &[Arc<SignedRecord>]) -> Vec<Arc<[u8]>> {
    let mut records: Vec<&Arc<SignedRecord>> = records.iter().collect();
    records.sort_by_key(|record| (record.section() != Section::IDENTITY, record.section() != Section::TABLE));
    let mut batches: Vec<Vec<&[u8]>> = Vec::new();
    let mut size = BATCH_BYTES;
    for record in records {
        if size + record.bytes().len() > BATCH_BYTES {
            batches.push(Vec::new());
            size = 0;
        }
        size += record.bytes().len();
        batches.last_mut().expect("the first record opens a batch").push(record.bytes());
    }
    batches.into_iter().map(|batch| encode_records(batch.into_iter()).into()).collect()
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

#[cfg(test)]
mod tests {
    use certs::{id::TrustDomain, sign::SigningKey};
    use rand::SeedableRng;

    use super::*;
    use crate::record::BODY_BYTES;

    fn node(number: usize) -> NodeId {
        NodeId::new(&format!("n{number}")).expect("valid")
    }

    fn record(key: &SigningKey, of: usize, section: Section, size: usize) -> Arc<SignedRecord> {
        let mesh = TrustDomain::new("one.example").expect("valid");
        Arc::new(SignedRecord::sign(key, &mesh, &node(of), 1, section, 1, vec![0; size]).expect("fits"))
    }

    /// To how many peers each section of an author goes whole, and to how many it is announced.
    fn told(rumor: &mut Rumor, now: u64) -> (BTreeMap<(NodeId, Section), usize>, BTreeMap<NodeId, usize>) {
        let linked: BTreeSet<NodeId> = (900..914).map(node).collect();
        let (own, mut random) = (node(0), StdRng::seed_from_u64(1));
        let audience = Audience { own: &own, linked: &linked, sparse: true };
        let (mut whole, mut announced) = (BTreeMap::new(), BTreeMap::new());
        for (_, _, bytes) in rumor.take(&audience, &mut random, now) {
            match Message::decode(&bytes).expect("own") {
                Some(Message::Records(records)) => {
                    for record in records.iter().map(|bytes| SignedRecord::decode(bytes).expect("own")) {
                        *whole.entry((record.node().clone(), record.section())).or_default() += 1;
                    }
                }
                Some(Message::Have(entries)) => {
                    entries.into_iter().for_each(|latest| *announced.entry(latest.node).or_default() += 1);
                }
                other => panic!("{other:?}"),
            }
        }
        (whole, announced)
    }

    #[test]
    fn a_lane_over_its_budget_announces_and_leaves_out_what_is_of_the_moment_and_costs_no_other_lane() {
        let (key, mut rumor) = (SigningKey::generate(), Rumor::default());
        // Services are more than their lane may send at once, and outlier reports more than theirs.
        for of in 1..=600 {
            rumor.push(record(&key, of, Section::SERVICES, BODY_BYTES), None, None);
            (0..2).for_each(|part| rumor.push(record(&key, of, Section::OUTLIERS.part(part), BODY_BYTES), None, None));
        }
        for section in [Section::POLICY, Section::STATUS] {
            rumor.push(record(&key, 800, section, 100), None, None);
        }
        let (whole, announced) = told(&mut rumor, 1_000);
        let of = |section: Section| whole.iter().filter(move |((_, known), _)| known.base() == section);
        let services = of(Section::SERVICES).count();
        assert!((50..600).contains(&services), "{services} of 600 whole");
        assert!(of(Section::SERVICES).all(|(_, peers)| *peers == EAGER_CROWDED));
        // Whatever does not go whole is announced to everybody.
        let left: Vec<usize> = (1..=600).filter(|of| !whole.contains_key(&(node(*of), Section::SERVICES))).collect();
        assert!(left.iter().all(|of| announced[&node(*of)] == 14), "{announced:?}");
        // Of the moment: told whole or not at all.
        let reports = of(Section::OUTLIERS).count();
        assert!((50..1_200).contains(&reports), "{reports} of 1200");
        // More urgent lanes have lost nothing.
        for section in [Section::POLICY, Section::STATUS] {
            assert_eq!(whole[&(node(800), section)], EAGER, "{section}");
        }
        // A second later the lane has room again.
        rumor.push(record(&key, 700, Section::SERVICES, 100), None, None);
        let (whole, announced) = told(&mut rumor, 2_000);
        assert_eq!((whole[&(node(700), Section::SERVICES)], announced[&node(700)]), (EAGER, 14 - EAGER));
    }

    #[test]
    fn what_others_say_does_not_wait_for_one_another_and_one_author_gathers() {
        let (key, mut rumor) = (SigningKey::generate(), Rumor::default());
        for of in 1..=20 {
            rumor.push(record(&key, of, Section::POLICY, 100), None, None);
            assert_eq!(told(&mut rumor, 1_000).0.len(), 1, "{of}");
        }
        rumor.push(record(&key, 1, Section::STATUS, 1), None, None);
        rumor.push(record(&key, 1, Section::POLICY, 101), None, None);
        assert_eq!(rumor.due(), Some(1_000 + GATHER_MS));
        assert_eq!(told(&mut rumor, 1_000 + GATHER_MS - 1).0.len(), 0);
        assert_eq!(told(&mut rumor, 1_000 + GATHER_MS).0.len(), 2);
        // Of a crowd those beyond the first go together.
        let at_once = (1..=200).filter(|of| {
            rumor.push(record(&key, *of, Section::POLICY, 100), None, None);
            !told(&mut rumor, 5_000).0.is_empty()
        });
        assert_eq!(at_once.count(), CROWD);
        assert_eq!(told(&mut rumor, 5_000 + GATHER_MS).0.len(), 200 - CROWD);
    }
}
