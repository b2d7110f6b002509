//! One member's records, as far as they are believed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use certs::verify::{Authority, NodeCaFacts};

use super::{Now, Offered, Proof, table_interval};
use crate::{
    body::{SECTIONS, Table},
    brief::{self, Run},
    error::RecordError,
    limit::Bucket,
    notary::Notary,
    record::{Section, SignedRecord},
    said::{self, Said},
    statement::{Part, UNKNOWN},
};

/// A table speaks for this many intervals; then changes wait for the next one.
const TABLE_INTERVALS: u64 = 3;

pub(super) struct Node {
    pub(super) facts: Arc<NodeCaFacts>,
    pub(super) records: Arc<BTreeMap<Section, Arc<SignedRecord>>>,
    /// Came while the table was stale; at most one a section.
    pub(super) waiting: BTreeMap<Section, Arc<SignedRecord>>,
    /// Of the moment, with what they say: no table lists them, and nothing but [`Ledger::statement`] reads them.
    pub(super) moment: BTreeMap<Section, (Arc<SignedRecord>, Part)>,
    pub(super) table: Arc<Table>,
    /// When the table came, by the engine's milliseconds; `None` if only the disk brought it.
    pub(super) table_came: Option<u64>,
    pub(super) said: Arc<Said>,
    /// The highest (generation, sequence) held.
    pub(super) latest: (u64, u64),
    /// No record is held above this number, of whatever section.
    highest: (u64, u64),
    /// Its run and what it says there, in short.
    pub(super) run: Run,
    pub(super) content: u128,
}

/// A record beside the one that is held of its section, and beside all others of its number.
pub(super) enum Compared {
    Newer,
    Same,
    Older,
    Contradicts(Arc<SignedRecord>),
}

impl Node {
    pub(super) fn new(facts: Arc<NodeCaFacts>, identity: &Arc<SignedRecord>) -> Node {
        let said = Arc::new(Said::nothing(identity.generation(), &facts));
        let records = Arc::new(BTreeMap::from([(Section::IDENTITY, identity.clone())]));
        let (waiting, moment, table) = Default::default();
        let run = Run::of(&facts.record_key, identity.generation());
        let (latest, content) = (identity.rank(), brief::content(&records, identity.generation()));
        let highest = latest;
        Node { facts, records, waiting, moment, table, table_came: None, said, latest, highest, run, content }
    }

    pub(super) fn offer(
        &mut self,
        record: &Arc<SignedRecord>,
        authority: &Authority,
        notary: &dyn Notary,
        budget: &mut Bucket,
        now: Now,
    ) -> Result<Offered, Proof> {
        let compared = self.compare(record);
        if matches!(compared, Compared::Same | Compared::Older) {
            return Ok(Offered::Known);
        }
        if let Err(error) = notary.signed(record, &authority.trust_domain, &self.facts.record_key) {
            return Ok(Offered::Refused(error));
        }
        if let Compared::Contradicts(held) = compared {
            return Err((held, record.clone()));
        }
        if !budget.take(now.steady) {
            return Ok(Offered::Limited);
        }
        let section = record.section();
        self.highest = self.highest.max(record.rank());
        if section.is_of_the_moment() {
            return Ok(match Part::read(section, record.body()) {
                // One part names more than a node watches.
                Ok(Part::Suspicions(_)) if section != Section::SUSPICIONS => Offered::Known,
                // Held only so that it is passed on once.
                Ok(Part::Unknown) if !self.has_room(section) => Offered::Limited,
                Ok(part) => {
                    let part = part.of_members(authority);
                    self.moment.insert(section, (record.clone(), part));
                    Offered::OfTheMoment
                }
                Err(error) => Offered::Refused(error),
            });
        }
        if !self.records.contains_key(&section) && !self.waiting.contains_key(&section) && self.sections() >= SECTIONS {
            let error = RecordError::Invalid { field: "section", rule: "a node has at most 64" };
            return Ok(Offered::Refused(error));
        }
        if section == Section::TABLE {
            let said::Part::Table(table) = record.said() else {
                let error = RecordError::Malformed(format!("table of {}", record.node()));
                return Ok(Offered::Refused(error));
            };
            let table = table.clone();
            self.table_came = Some(now.steady);
            let waiting = std::mem::take(&mut self.waiting);
            let held = self.records.get(&section).map(|held| held.generation());
            let again = waiting.is_empty() && table == self.table && held == Some(record.generation());
            self.table = table;
            Arc::make_mut(&mut self.records).extend(waiting);
            if again {
                // A sign of life and nothing more.
                Arc::make_mut(&mut self.records).insert(section, record.clone());
                self.summarise();
                return Ok(Offered::Again);
            }
        } else if section != Section::STATUS && !self.table_fresh(authority, now) {
            self.waiting.insert(section, record.clone());
            return Ok(Offered::Waiting);
        }
        Arc::make_mut(&mut self.records).insert(section, record.clone());
        self.fold(authority);
        Ok(Offered::Fresh)
    }

    /// Whether one more section of the moment that nobody here reads may be held.
    fn has_room(&self, section: Section) -> bool {
        let unknown = self.moment.values().filter(|(_, part)| *part == Part::Unknown);
        self.moment.contains_key(&section) || unknown.count() < UNKNOWN
    }

    /// A later identity, checked.
    pub(super) fn renew(&mut self, identity: &Arc<SignedRecord>, authority: &Authority) {
        self.highest = self.highest.max(identity.rank());
        Arc::make_mut(&mut self.records).insert(Section::IDENTITY, identity.clone());
        self.fold(authority);
    }

    /// What waits becomes records all at once, so it counts already.
    fn sections(&self) -> usize {
        self.records.keys().chain(self.waiting.keys()).collect::<BTreeSet<_>>().len()
    }

    pub(super) fn table_fresh(&self, authority: &Authority, now: Now) -> bool {
        let oldest = TABLE_INTERVALS * table_interval(authority.grants.len());
        self.table_came.is_some_and(|came| now.steady.saturating_sub(came) <= oldest)
    }

    /// `waiting` holds only what is newer than `records`, so it is the one to compare with.
    pub(super) fn compare(&self, record: &SignedRecord) -> Compared {
        let section = &record.section();
        let held = if section.is_of_the_moment() {
            // An earlier run's moment is over, even if nothing of it was heard.
            if record.generation() < self.said.generation {
                return Compared::Older;
            }
            self.moment.get(section).map(|(record, _)| record)
        } else {
            self.waiting.get(section).or_else(|| self.records.get(section))
        };
        match held.map(|held| record.rank().cmp(&held.rank())) {
            Some(std::cmp::Ordering::Less) => Compared::Older,
            Some(std::cmp::Ordering::Equal) if held.is_some_and(|held| held.payload() == record.payload()) => {
                Compared::Same
            }
            Some(std::cmp::Ordering::Equal | std::cmp::Ordering::Greater) | None => {
                self.numbered(record.rank()).map_or(Compared::Newer, |held| Compared::Contradicts(held.clone()))
            }
        }
    }

    /// What is held under a number, whatever its section: no node uses one twice.
    fn numbered(&self, rank: (u64, u64)) -> Option<&Arc<SignedRecord>> {
        if rank > self.highest {
            return None;
        }
        let moment = self.moment.values().map(|(record, _)| record);
        self.records.values().chain(self.waiting.values()).chain(moment).find(|held| held.rank() == rank)
    }

    pub(super) fn fold(&mut self, authority: &Authority) {
        let said = Said::fold(&self.records, &self.table, &self.facts, authority);
        let generation = said.generation;
        self.moment.retain(|_, (record, _)| record.generation() >= generation);
        if (generation, said.record_key) != (self.said.generation, self.said.record_key) {
            self.run = Run::of(&said.record_key, generation);
        }
        if said != *self.said {
            self.said = Arc::new(said);
        }
        self.summarise();
    }

    fn summarise(&mut self) {
        self.latest = self.records.values().map(|record| record.rank()).max().unwrap_or_default();
        self.content = brief::content(&self.records, self.said.generation);
    }
}
