//! What one node says of itself: its records, folded, without what its grant does not allow.

use std::{collections::BTreeMap, sync::Arc};

use certs::{
    grant::{Grant, NodeGrant},
    sign::{Digest, PublicKey},
    verify::{Authority, NodeCaFacts},
};

use crate::{
    body::{Address, Checked as _, HealthRecord, HealthState, Policy, ServiceRecord, Status, Table},
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
    pub(crate) address: Option<Arc<Address>>,
    pub(crate) policy: Option<Arc<Policy>>,
    pub(crate) services: Arc<[ServiceRecord]>,
    pub(crate) health: Arc<BTreeMap<EndpointKey, HealthState>>,
}

/// What one record says of its author, shared by all who hold it.
#[derive(Debug, Clone)]
pub(crate) enum Part {
    Table(Arc<Table>),
    Address(Arc<Address>),
    Status(Status),
    Policy(Arc<Policy>),
    Services(Arc<[ServiceRecord]>),
    Health(Arc<[HealthRecord]>),
    /// What no reader takes, or none folds.
    Other,
}

impl Part {
    pub(crate) fn read(section: Section, body: &[u8]) -> Part {
        let read = match section.base() {
            Section::TABLE => Table::read(body).map(|table| Part::Table(Arc::new(table))),
            Section::ADDRESS => Address::read(body).map(|address| Part::Address(Arc::new(address))),
            // Whatever a later build means by its word, it is not simply that all is well.
            Section::STATUS => Ok(Part::Status(Status::read(body).unwrap_or(Status::Draining))),
            Section::POLICY => Policy::read(body).map(|policy| Part::Policy(Arc::new(policy))),
            Section::SERVICES => Vec::read(body).map(|services| Part::Services(services.into())),
            Section::HEALTH => Vec::read(body).map(|health| Part::Health(health.into())),
            _ => Ok(Part::Other),
        };
        read.unwrap_or(Part::Other)
    }
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
        let parts = |base: Section| {
            let parts = records.range(base..).take_while(move |(section, _)| section.base() == base);
            parts.map(|(_, record)| record).filter(|record| counts(record)).map(|record| record.said())
        };
        let one = |section: Section| records.get(&section).filter(|record| counts(record)).map(|record| record.said());
        let status = records.get(&Section::STATUS).filter(|record| record.generation() == generation);
        Said {
            generation,
            epoch: facts.epoch,
            record_key: facts.record_key,
            ca_key: facts.ca_key,
            root: facts.root,
            status: if let Some(Part::Status(status)) = status.map(|record| record.said()) {
                *status
            } else {
                Status::Up
            },
            address: if let Some(Part::Address(address)) = one(Section::ADDRESS) {
                Some(address.clone())
            } else {
                None
            },
            policy: if let Some(Part::Policy(policy)) = one(Section::POLICY) { Some(policy.clone()) } else { None },
            services: services(parts(Section::SERVICES), facts, authority),
            health: Arc::new(health(parts(Section::HEALTH))),
        }
    }
}

/// Those that certificate and operators allow, each under the account that operators gave it: a node that serves two services passes
/// for neither under the account of the other.
fn services<'a>(
    parts: impl Iterator<Item = &'a Part>,
    facts: &NodeCaFacts,
    authority: &Authority,
) -> Arc<[ServiceRecord]> {
    let (grant, signed): (&Grant, Option<&Arc<NodeGrant>>) = (&facts.grant, authority.grants.get(&facts.node));
    let parts = parts.filter_map(|part| if let Part::Services(services) = part { Some(services) } else { None });
    let parts: Vec<&Arc<[ServiceRecord]>> = parts.collect();
    let allowed = |service: &&ServiceRecord| {
        grant.allows_service(&service.service)
            && grant.allows_account(&service.account)
            && signed.is_some_and(|signed| signed.pairs(&service.service, &service.account))
            && !authority.revocations.account_revoked(&service.account)
    };
    let key = |service: &ServiceRecord| (service.service.clone(), service.instance.clone());
    if let [all] = parts[..]
        && all.is_sorted_by(|one, other| (&one.service, &one.instance) < (&other.service, &other.instance))
        && all.iter().all(|service| allowed(&service))
    {
        return all.clone();
    }
    let mut granted: BTreeMap<EndpointKey, &ServiceRecord> = BTreeMap::new();
    for service in parts.into_iter().flat_map(|part| part.iter()).filter(allowed) {
        granted.entry(key(service)).or_insert(service);
    }
    granted.into_values().cloned().collect()
}

fn health<'a>(parts: impl Iterator<Item = &'a Part>) -> BTreeMap<EndpointKey, HealthState> {
    let parts = parts.filter_map(|part| if let Part::Health(health) = part { Some(health) } else { None });
    let all = parts.flat_map(|part| part.iter());
    all.map(|entry| ((entry.service.clone(), entry.instance.clone()), entry.state.clone())).collect()
}
