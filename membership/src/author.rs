//! Signs what this node says of itself.

use std::{cmp::Ordering, collections::BTreeMap, sync::Arc};

use certs::{
    codec,
    id::{NodeId, TrustDomain},
    sign::{PublicKey, SigningKey},
};

use crate::{
    body::{Body, Table},
    error::RecordError,
    record::{Section, SignedRecord},
};

/// See the module. Sequences count through all sections of the generation, so one number names one record.
pub(crate) struct Author {
    trust_domain: TrustDomain,
    node: NodeId,
    key: Arc<SigningKey>,
    generation: u64,
    sequence: u64,
    records: BTreeMap<Section, Arc<SignedRecord>>,
}

impl Author {
    pub(crate) fn new(trust_domain: TrustDomain, node: NodeId, key: Arc<SigningKey>, generation: u64) -> Author {
        Author { trust_domain, node, key, generation, sequence: 0, records: BTreeMap::new() }
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// The generation and the number of what it signed last.
    pub(crate) fn rank(&self) -> (u64, u64) {
        (self.generation, self.sequence)
    }

    /// Whether a record that bears its key counts beside what it says, or more, and this run has not signed it: one of a higher
    /// generation; or of its own, and later than what it said last in that section. The latter is so where a virtual machine was put back to
    /// an earlier state with its memory, or runs twice.
    pub(crate) fn is_outdone_by(&self, record: &SignedRecord) -> bool {
        let said = |said: &Arc<SignedRecord>| {
            record.sequence() < said.sequence()
                || record.sequence() == said.sequence() && record.payload() == said.payload()
        };
        match record.generation().cmp(&self.generation) {
            Ordering::Less => false,
            Ordering::Equal => !self.records.get(&record.section()).is_some_and(said),
            Ordering::Greater => true,
        }
    }

    /// What verifies its records.
    pub(crate) fn key(&self) -> PublicKey {
        self.key.public()
    }

    /// All that it says now.
    pub(crate) fn records(&self) -> impl Iterator<Item = &Arc<SignedRecord>> {
        self.records.values()
    }

    /// Signs what changed by `body`, and the table over it unless it is of the moment: then all that it says under this
    /// heading. Nothing if nothing changed.
    pub(crate) fn publish(&mut self, body: &Body) -> Result<Vec<Arc<SignedRecord>>, RecordError> {
        let mut parts = body.parts()?;
        let base = parts.first().expect("every body has a part").0.base();
        let empty = codec::encode(&Vec::<u8>::new());
        // A part that is no longer needed is emptied, for its records stay in memory everywhere.
        let held: Vec<Section> = self.records.range(base..).map(|(section, _)| *section).collect();
        for section in held.into_iter().take_while(|section| section.base() == base) {
            if parts.iter().all(|(part, _)| *part != section) {
                parts.push((section, empty.clone()));
            }
        }
        let is_new =
            |section: &Section, bytes: &[u8]| self.records.get(section).is_none_or(|record| record.body() != bytes);
        // What is of the moment is not repaired: whoever missed a part hears it with the next news of any.
        let any_new = parts.iter().any(|(section, bytes)| is_new(section, bytes));
        let again = any_new && base.is_of_the_moment();
        parts.retain(|(section, bytes)| is_new(section, bytes) || again && *bytes != empty);
        let mut fresh = Vec::new();
        for (section, bytes) in parts {
            fresh.push(self.sign(section, bytes)?);
        }
        if !fresh.is_empty() && !base.is_of_the_moment() {
            fresh.push(self.table()?);
        }
        Ok(fresh)
    }

    /// Goes on in another generation: signs all that lasts anew.
    pub(crate) fn rerun(&mut self, generation: u64) -> Result<Vec<Arc<SignedRecord>>, RecordError> {
        (self.generation, self.sequence) = (generation, 0);
        let before = std::mem::take(&mut self.records);
        let lasting = before.iter().filter(|(section, _)| **section != Section::TABLE && !section.is_of_the_moment());
        let mut fresh = Vec::new();
        for (section, record) in lasting {
            fresh.push(self.sign(*section, record.body().to_vec())?);
        }
        fresh.push(self.table()?);
        Ok(fresh)
    }

    /// Signs the table anew: a sign of life that nobody else can make.
    pub(crate) fn table(&mut self) -> Result<Arc<SignedRecord>, RecordError> {
        let listed = |section: Section| section != Section::TABLE && !section.is_of_the_moment();
        let sections = self.records.iter().filter(|(section, _)| listed(**section));
        let entries = sections.map(|(section, record)| (*section, record.sequence())).collect();
        self.sign(Section::TABLE, codec::encode(&Table { entries }))
    }

    fn sign(&mut self, section: Section, body: Vec<u8>) -> Result<Arc<SignedRecord>, RecordError> {
        self.sequence += 1;
        let Author { trust_domain, node, key, generation, sequence, .. } = self;
        let record = SignedRecord::sign(key, trust_domain, node, *generation, section, *sequence, body)?;
        let record = Arc::new(record);
        self.records.insert(section, record.clone());
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        body::Services,
        statement::DemandRecord,
        testing::{World, service},
    };

    fn author() -> Author {
        let mut world = World::new();
        let citizen = world.citizen("a", 1);
        Author::new(world.trust_domain, citizen.node, citizen.record_key, 1 << 24)
    }

    fn sections(records: &[Arc<SignedRecord>]) -> Vec<u16> {
        records.iter().map(|record| record.section().0).collect()
    }

    /// A count, and so many keys.
    fn demand(count: u64, keys: u16) -> Body {
        let record = |key: u16| DemandRecord { limit: [key.to_be_bytes()[1]; 16], demand: 500_000, given: vec![] };
        let count = DemandRecord { limit: [0; 16], demand: count, given: vec![] };
        Body::Demand(std::iter::once(count).chain((0..keys).map(record)).collect())
    }

    #[test]
    fn a_statement_of_the_moment_is_said_whole_or_not_at_all() {
        let mut author = author();
        let first = Section::DEMAND.0;
        assert_eq!(sections(&author.publish(&demand(1, 300)).unwrap()), [first, first + 1, first + 2]);
        // Said again, only the count changes; whoever missed another part hears it now.
        assert_eq!(sections(&author.publish(&demand(2, 300)).unwrap()), [first, first + 1, first + 2]);
        assert_eq!(sections(&author.publish(&demand(2, 300)).unwrap()), [] as [u16; 0]);
        // What is emptied is said so once.
        assert_eq!(sections(&author.publish(&demand(3, 1)).unwrap()), [first, first + 1, first + 2]);
        assert_eq!(sections(&author.publish(&demand(4, 1)).unwrap()), [first]);
    }

    #[test]
    fn what_lasts_is_signed_where_it_changed() {
        let mut author = author();
        author
            .publish(&Body::Services(Services {
                services: (0..200).map(|one| service(&format!("s{one:03}"))).collect(),
            }))
            .unwrap();
        let changed = (0..199).map(|one| service(&format!("s{one:03}"))).collect();
        let fresh = sections(&author.publish(&Body::Services(Services { services: changed })).unwrap());
        assert_eq!((fresh.len(), fresh[1]), (2, Section::TABLE.0), "one part and the table");
        assert!(fresh[0] > Section::SERVICES.0);
    }
}
