//! Signs what this node says of itself.

use std::{collections::BTreeMap, sync::Arc};

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

    /// What verifies its records.
    pub(crate) fn key(&self) -> PublicKey {
        self.key.public()
    }

    /// All that it says now.
    pub(crate) fn records(&self) -> impl Iterator<Item = &Arc<SignedRecord>> {
        self.records.values()
    }

    /// Signs what changed by `body`, and the table over it unless it is of the moment; nothing if nothing did.
    pub(crate) fn publish(&mut self, body: &Body) -> Result<Vec<Arc<SignedRecord>>, RecordError> {
        let mut parts = body.parts()?;
        let base = parts.first().expect("every body has a part").0.base();
        // A part that is no longer needed is emptied, for its records stay in memory everywhere.
        let held: Vec<Section> = self.records.range(base..).map(|(section, _)| *section).collect();
        for section in held.into_iter().take_while(|section| section.base() == base) {
            if parts.iter().all(|(part, _)| *part != section) {
                parts.push((section, codec::encode(&Vec::<u8>::new())));
            }
        }
        let mut fresh = Vec::new();
        for (section, bytes) in parts {
            if self.records.get(&section).is_none_or(|record| record.body() != bytes) {
                fresh.push(self.sign(section, bytes)?);
            }
        }
        if !fresh.is_empty() && !base.is_of_the_moment() {
            fresh.push(self.table()?);
        }
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
