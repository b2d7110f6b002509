//! What the sections of a node's records hold, and the limits that a reader demands of them.

use std::{collections::BTreeMap, net::SocketAddr};

use certs::{
    codec::{self, Millis},
    id::{ServiceAccount, ServiceName},
    sign::Digest,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    error::RecordError,
    message::Latest,
    record::{BODY_BYTES, Section},
    statement::{DEMANDS, DemandRecord, OUTLIERS, OutlierRecord, SUSPICIONS},
};

/// Longest text of a body (locality, version, label, port name, reason) in bytes.
pub const TEXT_BYTES: usize = 256;
/// Addresses of a node.
pub const ADDRESSES: usize = 8;
/// Certificates of an identity.
pub const CHAIN: usize = 4;
/// Changesets that a policy record names.
pub const RECENT: usize = 16;
/// Entries of a table.
pub const SECTIONS: usize = 64;

/// A node's certificates, its CA first, without the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// DER of each.
    pub chain: Vec<Vec<u8>>,
}

/// Where a node is and what it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// Its mesh addresses, the preferred one first.
    pub addresses: Vec<SocketAddr>,
    /// `region/zone`, or empty.
    pub locality: String,
    /// The build's version.
    pub version: String,
    /// Lowest and highest wire version that it speaks.
    pub wire: (u8, u8),
    /// When the process started.
    pub started: Millis,
}

/// The endpoints that a node serves.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Services {
    /// In any order.
    pub services: Vec<ServiceRecord>,
}

/// One endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceRecord {
    /// Tells two of one service on one node apart.
    pub instance: Option<String>,
    /// The service.
    pub service: ServiceName,
    /// Its identity.
    pub account: ServiceAccount,
    /// As in the configuration.
    pub labels: BTreeMap<String, String>,
    /// The ports of the service, not of the application.
    pub ports: Vec<PortRecord>,
    /// Share of the traffic relative to other endpoints.
    pub weight: u32,
}

/// One port of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRecord {
    /// Its name.
    pub name: String,
    /// The service port.
    pub number: u16,
    /// Istio's protocol word, lower case.
    pub protocol: String,
}

/// What the node's own checks say of its endpoints; an endpoint not listed is healthy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// In any order.
    pub endpoints: Vec<HealthRecord>,
}

/// The health of one endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthRecord {
    /// The endpoint's service.
    pub service: ServiceName,
    /// The endpoint's instance.
    pub instance: Option<String>,
    /// Its health.
    pub state: HealthState,
}

/// The result of an endpoint's checks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthState {
    /// May receive requests.
    pub healthy: bool,
    /// Since when.
    pub since: Millis,
    /// Why, for people.
    pub reason: String,
}

/// What policy a node holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Digest over the changesets that it holds.
    pub digest: Digest,
    /// How many these are.
    pub count: u64,
    /// The latest of them, newest first, at most [`RECENT`].
    pub recent: Vec<Digest>,
    /// Digest of the state that its requests follow, as its status gives it.
    pub applied: Digest,
    /// Length of its audit chain and digest of the last entry: noted by all who hear it, so that it cannot be rewritten later.
    pub audit: (u64, Digest),
}

/// What a node intends. A reader takes what it does not know for [`Status::Draining`]: it sends nothing new there, and nothing that is under
/// way ends. What leaves a node in service belongs into another section.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Status {
    /// In service.
    Up,
    /// Finishes what it has, wants nothing new.
    Draining,
    /// Stopped, or about to close its sockets.
    Left,
}

/// The sequence of each section of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// All but the table itself.
    pub entries: BTreeMap<Section, u64>,
}

/// What a node may publish about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// After a renewal.
    Identity(Identity),
    /// At start and when it moves.
    Address(Address),
    /// Replaces all of the node's endpoints.
    Services(Services),
    /// Replaces all of their health.
    Health(Health),
    /// After every fold.
    Policy(Policy),
    /// On drain and leave.
    Status(Status),
    /// How requests fare: replaces all that it said of them. Of the moment.
    Outliers(Vec<OutlierRecord>),
    /// What is asked of it: replaces all that it said of it. Of the moment.
    Demand(Vec<DemandRecord>),
    /// Whom it finds silent, and the highest number of theirs that it knows: a higher one refutes. Replaces all that it said of
    /// it. Of the moment.
    Suspicions(Vec<Latest>),
}

impl Body {
    /// Encodes it as one record per section, splitting lists by size.
    ///
    /// # Errors
    /// A field that breaks its rule, an endpoint that fits into no record, or more parts than are allowed.
    pub fn parts(&self) -> Result<Vec<(Section, Vec<u8>)>, RecordError> {
        match self {
            Body::Identity(body) => single(Section::IDENTITY, "identity", body),
            Body::Address(body) => single(Section::ADDRESS, "address", body),
            Body::Policy(body) => single(Section::POLICY, "policy", body),
            Body::Status(body) => single(Section::STATUS, "status", body),
            Body::Services(body) => split(Section::SERVICES, "services", &body.services, ANY, ServiceRecord::check),
            Body::Health(body) => split(Section::HEALTH, "health", &body.endpoints, ANY, HealthRecord::check),
            Body::Outliers(all) => split(Section::OUTLIERS, "outliers", all, OUTLIERS, OutlierRecord::check),
            Body::Suspicions(all) => split(Section::SUSPICIONS, "suspicions", all, SUSPICIONS, |_| Ok(())),
            Body::Demand(all) => split(Section::DEMAND, "demand", all, DEMANDS, DemandRecord::check),
        }
    }
}

/// A body that a reader may use: decoded, and within its limits.
pub(crate) trait Checked: Serialize + DeserializeOwned {
    fn check(&self) -> Result<(), RecordError>;

    fn read(bytes: &[u8]) -> Result<Self, RecordError> {
        let body: Self =
            codec::decode::<Self, BODY_BYTES>(bytes).map_err(|error| RecordError::Malformed(error.to_string()))?;
        body.check()?;
        Ok(body)
    }
}

fn single<T: Checked>(section: Section, what: &str, body: &T) -> Result<Vec<(Section, Vec<u8>)>, RecordError> {
    body.check()?;
    let bytes = codec::encode(body);
    if bytes.len() > BODY_BYTES {
        return Err(RecordError::TooLarge { what: what.to_owned(), size: bytes.len(), limit: BODY_BYTES });
    }
    Ok(vec![(section, bytes)])
}

/// Bytes of a part beside its items: their count.
const COUNT_BYTES: usize = 9;
/// Items of a part that only their size limits.
const ANY: usize = BODY_BYTES;

fn split<T: Serialize + Clone>(
    section: Section,
    what: &'static str,
    items: &[T],
    most: usize,
    check: impl Fn(&T) -> Result<(), RecordError>,
) -> Result<Vec<(Section, Vec<u8>)>, RecordError> {
    let mut parts: Vec<Vec<T>> = vec![Vec::new()];
    let mut size = COUNT_BYTES;
    for item in items {
        check(item)?;
        let bytes = codec::encode(item).len();
        if bytes + COUNT_BYTES > BODY_BYTES {
            let what = format!("one entry of {what}");
            return Err(RecordError::TooLarge { what, size: bytes, limit: BODY_BYTES - COUNT_BYTES });
        }
        if size + bytes > BODY_BYTES || parts.last().is_some_and(|part| part.len() >= most) {
            parts.push(Vec::new());
            size = COUNT_BYTES;
        }
        size += bytes;
        parts.last_mut().expect("starts with one part").push(item.clone());
    }
    if parts.len() > usize::from(Section::PARTS) {
        return Err(RecordError::TooMany { what, parts: parts.len(), limit: usize::from(Section::PARTS) });
    }
    Ok((0..).zip(parts).map(|(number, part)| (section.part(number), codec::encode(&part))).collect())
}

impl Checked for Identity {
    fn check(&self) -> Result<(), RecordError> {
        count("chain", self.chain.len(), CHAIN)
    }
}

impl Checked for Address {
    fn check(&self) -> Result<(), RecordError> {
        count("addresses", self.addresses.len(), ADDRESSES)?;
        text("locality", &self.locality)?;
        text("version", &self.version)
    }
}

impl Checked for Policy {
    fn check(&self) -> Result<(), RecordError> {
        count("recent", self.recent.len(), RECENT)
    }
}

impl Checked for Status {
    fn check(&self) -> Result<(), RecordError> {
        Ok(())
    }
}

impl Checked for Table {
    fn check(&self) -> Result<(), RecordError> {
        count("table", self.entries.len(), SECTIONS)
    }
}

impl Checked for Vec<ServiceRecord> {
    fn check(&self) -> Result<(), RecordError> {
        self.iter().try_for_each(ServiceRecord::check)
    }
}

impl Checked for Vec<HealthRecord> {
    fn check(&self) -> Result<(), RecordError> {
        self.iter().try_for_each(HealthRecord::check)
    }
}

impl ServiceRecord {
    fn check(&self) -> Result<(), RecordError> {
        self.instance.iter().try_for_each(|instance| text("instance", instance))?;
        for (key, value) in &self.labels {
            text("label", key)?;
            text("label", value)?;
        }
        for port in &self.ports {
            text("port name", &port.name)?;
            text("port protocol", &port.protocol)?;
        }
        Ok(())
    }
}

impl HealthRecord {
    fn check(&self) -> Result<(), RecordError> {
        self.instance.iter().try_for_each(|instance| text("instance", instance))?;
        text("reason", &self.state.reason)
    }
}

pub(crate) fn count(field: &'static str, given: usize, limit: usize) -> Result<(), RecordError> {
    if given > limit { Err(RecordError::Invalid { field, rule: "too many entries" }) } else { Ok(()) }
}

/// Text of peers ends on terminals and in metrics: short, and without control characters.
pub(crate) fn text(field: &'static str, given: &str) -> Result<(), RecordError> {
    if given.len() > TEXT_BYTES {
        return Err(RecordError::Invalid { field, rule: "at most 256 bytes" });
    }
    if given.chars().any(char::is_control) {
        return Err(RecordError::Invalid { field, rule: "no control characters" });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::service;

    #[test]
    fn many_services_are_split_and_too_many_refused() {
        let many = |count: usize| {
            let services = (0..count).map(|index| service(&format!("s{index}"))).collect();
            Body::Services(Services { services })
        };
        let parts = many(400).parts().expect("fits");
        assert!(parts.len() > 1);
        let read: usize = parts.iter().map(|(_, body)| Vec::<ServiceRecord>::read(body).expect("own").len()).sum();
        assert_eq!(read, 400);
        assert!(parts.iter().all(|(section, body)| section.base() == Section::SERVICES && body.len() <= BODY_BYTES));
        assert!(matches!(many(5_000).parts(), Err(RecordError::TooMany { .. })));
    }

    #[test]
    fn one_service_too_large_is_refused_by_name() {
        let mut large = service("large");
        large.labels = (0..100).map(|index| (format!("label{index}"), "x".repeat(200))).collect();
        let error = Body::Services(Services { services: vec![large] }).parts().expect_err("too large");
        assert!(error.to_string().starts_with("one entry of services takes"), "{error}");
    }

    #[test]
    fn control_characters_and_long_texts_do_not_travel() {
        for text in ["\u{1b}[31m".to_owned(), "x".repeat(300)] {
            let mut evil = service("evil");
            evil.instance = Some(text);
            assert!(Body::Services(Services { services: vec![evil] }).parts().is_err());
        }
    }
}
