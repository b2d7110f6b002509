//! All records that are believed: per node and section the highest (generation, sequence), whoever brought it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use certs::{
    codec::Millis,
    id::NodeId,
    sign::PublicKey,
    verify::{Authority, NodeCaFacts},
};

use crate::{
    body::{Checked, Identity},
    error::RecordError,
    gossip::Known,
    limit::Bucket,
    message::Latest,
    notary::Notary,
    record::{Section, SignedRecord, plausible_generation},
    said::Said,
    statement::{Part, Statement},
};

mod disk;
mod node;

use node::{Compared, Node};

/// How often the nodes of a mesh that is no larger than this sign their tables; all of a larger one sign as many a second, and
/// each once a minute at least.
const TABLE_MS: u64 = 10_000;
const TABLE_MEMBERS: u64 = 32;
const TABLE_MOST_MS: u64 = 60_000;

/// How often a node signs its table, in milliseconds.
pub(crate) fn table_interval(members: usize) -> u64 {
    (TABLE_MS * (members as u64).div_ceil(TABLE_MEMBERS)).clamp(TABLE_MS, TABLE_MOST_MS)
}

/// See the module.
pub(crate) struct Ledger {
    authority: Arc<Authority>,
    notary: Arc<dyn Notary>,
    nodes: BTreeMap<NodeId, Node>,
    /// Who signed two records under one number. One per granted node at most.
    quarantined: BTreeMap<NodeId, Quarantine>,
    /// Whose certificates do not hold by this node's clock, which may be wrong. One per granted node at most.
    lapsed: BTreeMap<NodeId, disk::Lapsed>,
}

/// A node that contradicted itself: it counts for nothing until it is invited anew.
pub(crate) struct Quarantine {
    pub(crate) epoch: u64,
    pub(crate) identity: Arc<SignedRecord>,
    pub(crate) proof: Proof,
}

/// Two records of one number.
pub(crate) type Proof = (Arc<SignedRecord>, Arc<SignedRecord>);

/// What became of a record.
#[derive(Debug)]
pub(crate) enum Offered {
    /// New and believed.
    Fresh,
    /// A new table that lists what the last one did: a sign of life, and no news.
    Again,
    /// New, believed, and of the moment: nothing that lasts has changed.
    OfTheMoment,
    /// Nothing new.
    Known,
    /// Believed, but changes nothing before a new table of the node comes.
    Waiting,
    /// No grant names the node: nothing is kept.
    Unknown,
    /// The node's identity must come first: nothing is kept.
    NoIdentity,
    /// The node contradicts itself, and is quarantined.
    Equivocation,
    /// The node says more than it may: nothing is kept.
    Limited,
    /// Not to be believed.
    Refused(RecordError),
}

/// The time of an offer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    /// By the wall clock: judges certificates and generations.
    pub(crate) wall: Millis,
    /// By the engine's own count: judges ages.
    pub(crate) steady: u64,
}

impl Ledger {
    pub(crate) fn new(authority: Arc<Authority>, notary: Arc<dyn Notary>) -> Ledger {
        let (nodes, quarantined, lapsed) = Default::default();
        Ledger { authority, notary, nodes, quarantined, lapsed }
    }

    /// Reads a record without believing it.
    pub(crate) fn read(&self, bytes: &[u8]) -> Result<Arc<SignedRecord>, RecordError> {
        self.notary.read(bytes)
    }

    /// Whether `key` signed a record for this mesh.
    pub(crate) fn signed(&self, record: &SignedRecord, key: &PublicKey) -> bool {
        self.notary.signed(record, &self.authority.trust_domain, key).is_ok()
    }

    pub(crate) fn authority(&self) -> &Arc<Authority> {
        &self.authority
    }

    /// Whether a record could change anything, if it holds.
    pub(crate) fn news(&self, record: &SignedRecord) -> bool {
        self.nodes.get(record.node()).is_none_or(|node| match node.compare(record) {
            Compared::Newer | Compared::Contradicts(_) => true,
            Compared::Older => record.section() == Section::IDENTITY,
            Compared::Same => false,
        })
    }

    /// Takes a record in, if it may be believed and is newer than what is held. `budget` is what its node may say; a
    /// signature that does not hold costs it nothing.
    pub(crate) fn offer(&mut self, record: &Arc<SignedRecord>, budget: &mut Bucket, now: Now) -> Offered {
        if !self.authority.grants.contains_key(record.node()) {
            return Offered::Unknown;
        }
        if !plausible_generation(record.generation(), now.wall) {
            return Offered::Refused(RecordError::Generation(record.node().clone()));
        }
        if record.section() == Section::IDENTITY {
            return self.offer_identity(record, budget, now);
        }
        let Some(node) = self.nodes.get_mut(record.node()) else { return Offered::NoIdentity };
        match node.offer(record, &self.authority, self.notary.as_ref(), budget, now) {
            Ok(offered) => offered,
            Err(proof) => {
                self.quarantine(record.node(), proof);
                Offered::Equivocation
            }
        }
    }

    fn offer_identity(&mut self, record: &Arc<SignedRecord>, budget: &mut Bucket, now: Now) -> Offered {
        let held = self.nodes.get(record.node());
        if let Some(held) = held.and_then(|node| node.records.get(&Section::IDENTITY))
            && held.payload() == record.payload()
        {
            return Offered::Known;
        }
        let facts = match certified(record, self.notary.as_ref(), &self.authority, now.wall) {
            Ok(facts) => facts,
            Err(error) => return Offered::Refused(error),
        };
        if self.quarantined(record.node()) {
            return Offered::Refused(RecordError::Quarantined(record.node().clone()));
        }
        if let Err(error) = self.notary.signed(record, &self.authority.trust_domain, &facts.record_key) {
            return Offered::Refused(error);
        }
        if !budget.take(now.steady) {
            return Offered::Limited;
        }
        let Some(node) = self.nodes.get_mut(record.node()) else {
            self.lapsed.remove(record.node());
            self.nodes.insert(record.node().clone(), Node::new(facts, record));
            return Offered::Fresh;
        };
        // The highest epoch owns the name; within one, the first key stays and the latest record counts.
        if facts.epoch > node.facts.epoch {
            *node = Node::new(facts, record);
            return Offered::Fresh;
        }
        if facts.epoch < node.facts.epoch || facts.record_key != node.facts.record_key {
            return Offered::Known;
        }
        match node.compare(record) {
            Compared::Newer => {
                node.facts = facts;
                node.renew(record, &self.authority);
                Offered::Fresh
            }
            Compared::Older | Compared::Same => Offered::Known,
            Compared::Contradicts(held) => {
                self.quarantine(record.node(), (held, record.clone()));
                Offered::Equivocation
            }
        }
    }

    fn quarantine(&mut self, name: &NodeId, proof: Proof) {
        if let Some(node) = self.nodes.remove(name) {
            let identity = node.records.get(&Section::IDENTITY).cloned().expect("a node is made with its identity");
            self.quarantined.insert(name.clone(), Quarantine { epoch: node.facts.epoch, identity, proof });
        }
    }

    /// Whether a node contradicted itself and was not invited anew.
    pub(crate) fn quarantined(&self, node: &NodeId) -> bool {
        let epoch = self.authority.grants.get(node).map_or(0, |grant| grant.epoch);
        self.quarantined.get(node).is_some_and(|quarantine| epoch <= quarantine.epoch)
    }

    /// Judges somebody else's proof; true if it holds and is news.
    pub(crate) fn prove(&mut self, proof: &Proof) -> bool {
        let (one, other) = proof;
        let same = one.node() == other.node() && one.rank() == other.rank();
        let Some(node) = self.nodes.get(one.node()) else { return false };
        let key = node.facts.record_key;
        if !same || one.payload() == other.payload() || !self.signed(one, &key) || !self.signed(other, &key) {
            return false;
        }
        self.quarantine(one.node(), proof.clone());
        true
    }

    /// All proofs held.
    pub(crate) fn proofs(&self) -> impl Iterator<Item = &Quarantine> {
        self.quarantined.values()
    }

    /// Those against nodes that are granted still, and were not invited anew.
    pub(crate) fn standing_proofs(&self) -> impl Iterator<Item = &Quarantine> {
        let stands = move |(name, _): &(&NodeId, &Quarantine)| self.quarantined(name) && self.granted(name);
        self.quarantined.iter().filter(stands).map(|(_, found)| found)
    }

    /// Judges anew whom the change concerns, and whose certificates have ended; gives the nodes whose word changed and those that no
    /// longer count.
    pub(crate) fn rejudge(&mut self, authority: Arc<Authority>, now: Now) -> (Vec<NodeId>, Vec<NodeId>) {
        let concerned = Concerned::by(&self.authority, &authority);
        self.authority = authority;
        let (mut changed, mut gone) = (Vec::new(), Vec::new());
        for (name, node) in &mut self.nodes {
            if node.facts.not_after >= now.wall && !concerned.concerns(&node.facts) {
                continue;
            }
            let identity = node.records.get(&Section::IDENTITY).expect("a node is made with its identity");
            match certified(identity, self.notary.as_ref(), &self.authority, now.wall) {
                Ok(facts) if facts.record_key == node.facts.record_key => {
                    node.facts = facts;
                    let before = node.said.clone();
                    node.fold(&self.authority);
                    if before != node.said {
                        changed.push(name.clone());
                    }
                }
                Ok(_) | Err(_) => gone.push(name.clone()),
            }
        }
        for name in &gone {
            self.lapse(name, now);
        }
        changed.extend(self.revive(now));
        let grants = &self.authority.grants;
        self.quarantined.retain(|name, held| grants.get(name).is_some_and(|grant| grant.epoch <= held.epoch));
        (changed, gone)
    }

    /// Forgets what is held of a node: it begins anew.
    pub(crate) fn forget(&mut self, node: &NodeId) {
        self.nodes.remove(node);
    }

    /// Whether certificates have ended, or may hold again because the clock was set.
    pub(crate) fn expired(&self, now: Millis) -> bool {
        self.nodes.values().any(|node| node.facts.not_after < now)
            || self.lapsed.values().any(|lapsed| lapsed.is_due(now))
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = &NodeId> {
        self.nodes.keys()
    }

    /// What a node says of itself.
    pub(crate) fn said(&self, node: &NodeId) -> Option<&Arc<Said>> {
        self.nodes.get(node).map(|node| &node.said)
    }

    /// The key of its records.
    pub(crate) fn key(&self, node: &NodeId) -> Option<PublicKey> {
        self.nodes.get(node).map(|node| node.facts.record_key)
    }

    /// Its records as held.
    pub(crate) fn records(&self, node: &NodeId) -> Option<&Arc<BTreeMap<Section, Arc<SignedRecord>>>> {
        self.nodes.get(node).map(|node| &node.records)
    }

    /// Who tells at this time which policy they hold: their table is fresh, and the record that it names is here.
    pub(crate) fn speaking(&self, now: Now) -> impl Iterator<Item = &NodeId> {
        let speaks = move |(id, node): &(&NodeId, &Node)| {
            node.table_fresh(&self.authority, now) && !self.lacking(id).contains(&Section::POLICY)
        };
        self.nodes.iter().filter(speaks).map(|(id, _)| id)
    }

    /// Its table, if it came at this time or later.
    pub(crate) fn table_since(&self, node: &NodeId, time: u64) -> Option<Arc<SignedRecord>> {
        let node = self.nodes.get(node).filter(|node| node.table_came.is_some_and(|came| came >= time))?;
        node.records.get(&Section::TABLE).cloned()
    }

    /// All that a node says of the moment under one heading.
    pub(crate) fn statement(&self, node: &NodeId, base: Section) -> Option<Statement> {
        let parts = self.nodes.get(node)?.moment.range(base..).take_while(|(section, _)| section.base() == base);
        Statement::of(base, parts.map(|(_, (_, part))| part))
    }

    /// Whom a node accuses, as often as it names them.
    pub(crate) fn suspicions(&self, node: &NodeId) -> impl Iterator<Item = &Latest> {
        let parts = self.nodes.get(node).into_iter().flat_map(|node| node.moment.range(Section::SUSPICIONS..));
        let parts = parts.take_while(|(section, _)| section.base() == Section::SUSPICIONS);
        let accused = parts.filter_map(|(_, (_, part))| match part {
            Part::Suspicions(accused) => Some(accused.iter()),
            Part::Outliers(_) | Part::Demand(_) | Part::Unknown => None,
        });
        accused.flatten()
    }

    /// Its records that accuse this one.
    pub(crate) fn accusing(&self, node: &NodeId, of: &NodeId) -> impl Iterator<Item = &Arc<SignedRecord>> {
        let parts = self.nodes.get(node).into_iter().flat_map(|node| node.moment.values());
        let accuses = move |part: &Part| match part {
            Part::Suspicions(accused) => accused.iter().any(|latest| latest.node == *of),
            Part::Outliers(_) | Part::Demand(_) | Part::Unknown => false,
        };
        parts.filter(move |(_, part)| accuses(part)).map(|(record, _)| record)
    }

    /// Its records of the moment, for who asks for everything.
    pub(crate) fn momentary(&self, node: &NodeId) -> impl Iterator<Item = &Arc<SignedRecord>> {
        self.nodes.get(node).into_iter().flat_map(|node| node.moment.values()).map(|(record, _)| record)
    }

    /// What the table of a node lists and is not held.
    pub(crate) fn lacking(&self, node: &NodeId) -> Vec<Section> {
        let Some(node) = self.nodes.get(node) else { return Vec::new() };
        let Some(table) = node.records.get(&Section::TABLE) else { return Vec::new() };
        let rank = |section: &Section| {
            let held = node.records.get(section).map(|record| record.rank());
            held.max(node.waiting.get(section).map(|record| record.rank()))
        };
        let listed = node.table.entries.iter();
        listed
            .filter(|(section, sequence)| rank(section) < Some((table.generation(), **sequence)))
            // A table that lists what nobody repairs asks for nothing.
            .filter(|(section, _)| !section.is_of_the_moment())
            .map(|(section, _)| *section)
            .collect()
    }

    /// The highest number held of a node.
    pub(crate) fn latest(&self, node: &NodeId) -> Option<Latest> {
        let (generation, sequence) = self.rank(node)?;
        Some(Latest { node: node.clone(), generation, sequence })
    }

    /// The same without the name.
    pub(crate) fn rank(&self, node: &NodeId) -> Option<(u64, u64)> {
        self.nodes.get(node).map(|node| node.latest)
    }

    /// What a carrier must know of each node; `alive` tells who is not gone.
    pub(crate) fn known(&self, alive: impl Fn(&NodeId) -> bool) -> BTreeMap<NodeId, Known> {
        let known = self.nodes.iter().map(|(name, node)| {
            let Said { record_key, generation, .. } = *node.said;
            let (records, run, content, version) = (node.records.clone(), node.run, node.content, node.latest.1);
            (name.clone(), Known { record_key, generation, alive: alive(name), records, run, content, version })
        });
        known.collect()
    }
}

/// Whom a change of the authority concerns: to check a path costs more than all else that a node does for a member, and every
/// invite and every CA key that is seen for the first time is such a change.
enum Concerned {
    /// Roots or revocations changed.
    All,
    /// Grants changed, or what is known of keys: of these nodes themselves, and grants of enrollers with all whom they certified.
    Some { grants: BTreeSet<NodeId>, keys: BTreeSet<NodeId> },
}

impl Concerned {
    fn by(before: &Authority, after: &Authority) -> Concerned {
        // Who has the grants needs nobody to tell what they ended.
        let Authority { trust_domain, roots, former, grants, revocations, ended: _, known_keys } = after;
        let same = (trust_domain, roots, former) == (&before.trust_domain, &before.roots, &before.former);
        if !same || *revocations != before.revocations {
            return Concerned::All;
        }
        Concerned::Some { grants: differing(&before.grants, grants), keys: differing(&before.known_keys, known_keys) }
    }

    fn concerns(&self, facts: &NodeCaFacts) -> bool {
        match self {
            Concerned::All => true,
            Concerned::Some { grants, keys } => {
                grants.contains(&facts.node) || grants.contains(&facts.enroller) || keys.contains(&facts.node)
            }
        }
    }
}

/// Of whom two tables say different things.
fn differing<T: PartialEq>(one: &HashMap<NodeId, T>, other: &HashMap<NodeId, T>) -> BTreeSet<NodeId> {
    let changed = one.iter().filter(|(node, value)| other.get(*node) != Some(*value)).map(|(node, _)| node);
    let added = other.keys().filter(|node| !one.contains_key(*node));
    changed.chain(added).cloned().collect()
}

/// The chain of an identity record, verified.
fn certified(
    record: &SignedRecord,
    notary: &dyn Notary,
    authority: &Authority,
    now: Millis,
) -> Result<Arc<NodeCaFacts>, RecordError> {
    let identity = Identity::read(record.body())?;
    notary.certified(record.node(), identity.chain, authority, now)
}

#[cfg(test)]
mod tests;
