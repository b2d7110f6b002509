//! What one node says of itself: its records, folded, without what its grant does not allow.

use std::{collections::BTreeMap, sync::Arc};

use certs::{
    grant::{Grant, NodeGrant},
    sign::{Digest, PublicKey},
    verify::{Authority, NodeCaFacts},
};

use crate::{
    body::{Address, Checked, HealthRecord, HealthState, Policy, ServiceRecord, Status, Table},
    record::{Section, SignedRecord},
    view::EndpointKey,
};

/// See the module.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Said {
    pub(crate) generation: u64,
    pub(crate) epoch: u64,
    pub(crate) record_key: PublicKey,
    pub(crate) ca_key: Digest,
    pub(crate) root: Digest,
    pub(crate) status: Status,
    pub(crate) address: Option<Address>,
    pub(crate) policy: Option<Arc<Policy>>,
    pub(crate) services: Arc<[ServiceRecord]>,
    pub(crate) health: Arc<BTreeMap<EndpointKey, HealthState>>,
}

impl Said {
    /// A node of which only the identity is known.
    pub(crate) fn nothing(generation: u64, facts: &NodeCaFacts) -> Said {
        Said {
            generation,
            epoch: facts.epoch,
            record_key: facts.record_key,
            ca_key: facts.ca_key,
            root: facts.root,
            status: Status::Up,
            address: None,
            policy: None,
            services: Arc::default(),
            health: Arc::default(),
        }
    }

    /// A function of the records alone, so that every node that holds them sees the same.
    pub(crate) fn fold(
        records: &BTreeMap<Section, Arc<SignedRecord>>,
        table: &Table,
        facts: &NodeCaFacts,
        authority: &Authority,
    ) -> Said {
        let generation = records.values().map(|record| record.generation()).max().unwrap_or_default();
        let listed = records.get(&Section::TABLE).map_or(0, |record| record.generation());
        // A table speaks for its generation: what it does not list is withdrawn; what is older waits to be fetched.
        let counts = |record: &SignedRecord| {
            record.generation() > listed
                || (record.generation() == listed && table.entries.contains_key(&record.section()))
        };
        let bodies = |base: Section| {
            let parts = records.range(base..).take_while(move |(section, _)| section.base() == base);
            parts.map(|(_, record)| record).filter(|record| counts(record)).map(|record| record.body())
        };
        let one = |section: Section| records.get(&section).filter(|record| counts(record)).map(|record| record.body());
        let status = records.get(&Section::STATUS).filter(|record| record.generation() == generation);
        Said {
            generation,
            epoch: facts.epoch,
            record_key: facts.record_key,
            ca_key: facts.ca_key,
            root: facts.root,
            status: status.and_then(|record| Status::read(record.body()).ok()).unwrap_or(Status::Up),
            address: one(Section::ADDRESS).and_then(|body| Address::read(body).ok()),
            policy: one(Section::POLICY).and_then(|body| Policy::read(body).ok()).map(Arc::new),
            services: services(bodies(Section::SERVICES), facts, authority),
            health: Arc::new(health(bodies(Section::HEALTH))),
        }
    }
}

/// Those that certificate and operators allow, each under the account that operators gave it: a node that serves two services passes
/// for neither under the account of the other.
fn services<'a>(
    parts: impl Iterator<Item = &'a [u8]>,
    facts: &NodeCaFacts,
    authority: &Authority,
) -> Arc<[ServiceRecord]> {
    let (grant, signed): (&Grant, Option<&Arc<NodeGrant>>) = (&facts.grant, authority.grants.get(&facts.node));
    let all = parts.filter_map(|body| Vec::<ServiceRecord>::read(body).ok()).flatten();
    let mut granted: BTreeMap<EndpointKey, ServiceRecord> = BTreeMap::new();
    for service in all {
        let allowed = grant.allows_service(&service.service)
            && grant.allows_account(&service.account)
            && signed.is_some_and(|signed| signed.pairs(&service.service, &service.account))
            && !authority.revocations.account_revoked(&service.account);
        if allowed {
            granted.entry((service.service.clone(), service.instance.clone())).or_insert(service);
        }
    }
    granted.into_values().collect()
}

fn health<'a>(parts: impl Iterator<Item = &'a [u8]>) -> BTreeMap<EndpointKey, HealthState> {
    let all = parts.filter_map(|body| Vec::<HealthRecord>::read(body).ok()).flatten();
    all.map(|entry| ((entry.service, entry.instance), entry.state)).collect()
}
