//! The nodes of a simulated mesh: keys made of the seed, and a notary who knows them, so that a thousand engines check
//! each record once and not a thousand times. Signatures are real; certificates are this notary's word.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    sync::{Arc, Mutex, PoisonError},
};

use certs::{
    codec::Millis,
    grant::{GrantedService, NodeGrant},
    id::{NodeId, ServiceAccount, ServiceName, TrustDomain},
    sign::{Digest, PublicKey, SigningKey},
    verify::{Authority, NodeCaFacts},
};

use crate::{error::RecordError, notary::Notary, record::SignedRecord};

/// The time at which simulations begin.
pub const START: Millis = 1_800_000_000_000;
/// Bytes of a node's certificates, as real ones have.
const CHAIN_BYTES: usize = 1_100;
/// How long certificates hold: longer than any simulation.
const LIFE_MS: u64 = 365 * 86_400_000;
/// Records that are remembered as read: what comes later is read again.
const READ: usize = 200_000;

/// What a node holds after joining.
#[derive(Debug, Clone)]
pub struct Citizen {
    /// Its name.
    pub node: NodeId,
    /// Signs its records.
    pub record_key: Arc<SigningKey>,
    /// Its certificates.
    pub chain: Vec<Vec<u8>>,
}

/// Everybody, and what makes them count.
#[derive(Debug)]
pub struct Population {
    /// By number.
    pub citizens: Vec<Citizen>,
    /// Grants one service to each.
    pub authority: Arc<Authority>,
    /// Knows them all.
    pub notary: Arc<dyn Notary>,
}

/// Records by the end of their signatures, and whether they were found signed.
type Read = HashMap<u64, (Arc<SignedRecord>, bool)>;

/// What certificates would say, and what was read and found signed.
#[derive(Debug)]
struct Registry {
    facts: BTreeMap<NodeId, Arc<NodeCaFacts>>,
    read: Mutex<Read>,
}

impl Population {
    /// `count` nodes, `n0000` and so on; the same for the same seed.
    #[must_use]
    pub fn new(count: usize, seed: u64) -> Population {
        let trust_domain = TrustDomain::new("sim.example").expect("a valid name");
        let mut authority = Authority::new(trust_domain, Vec::new());
        let (mut citizens, mut facts) = (Vec::new(), BTreeMap::new());
        for number in 0..count {
            let name = name(number);
            let node = NodeId::new(&name).expect("a valid name");
            let record_key = Arc::new(key(seed, number));
            let grant = grant(&node);
            facts.insert(node.clone(), Arc::new(certified(&grant, record_key.public())));
            authority.grants.insert(node.clone(), Arc::new(grant));
            let mut certificate = name.into_bytes();
            // As little of it can be packed as of a real one.
            while certificate.len() < CHAIN_BYTES {
                certificate.extend(Digest::of(&certificate).0);
            }
            certificate.truncate(CHAIN_BYTES);
            citizens.push(Citizen { node, record_key, chain: vec![certificate] });
        }
        let notary = Arc::new(Registry { facts, read: Mutex::default() });
        Population { citizens, authority: Arc::new(authority), notary }
    }

    /// The service of a node.
    #[must_use]
    pub fn service(node: &NodeId) -> ServiceName {
        format!("default/{node}").parse().expect("a node's name is one of a service")
    }
}

/// A node's name by its number.
fn name(number: usize) -> String {
    format!("n{number:04}")
}

fn grant(node: &NodeId) -> NodeGrant {
    let service = Population::service(node);
    NodeGrant {
        node: node.clone(),
        epoch: 1,
        services: vec![GrantedService { account: ServiceAccount::default_of(&service), service }],
        token_hash: None,
        redeemer: None,
        token_expires: None,
        enroller: false,
        retired: false,
    }
}

/// An Ed25519 key whose secret half anybody can compute: for simulations only.
fn key(seed: u64, number: usize) -> SigningKey {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let secret = Digest::of(format!("skein simulation {seed} {number}").as_bytes());
    let mut der = vec![0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    der.extend(secret.0);
    let mut pem = "-----BEGIN PRIVATE KEY-----\n".to_owned();
    // Writing to a string does not fail.
    let _ = writeln!(pem, "{}\n-----END PRIVATE KEY-----", STANDARD.encode(der));
    SigningKey::from_pem(&pem).expect("any 32 bytes are an Ed25519 key")
}

impl Registry {
    fn read(&self) -> std::sync::MutexGuard<'_, Read> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Notary for Registry {
    fn read(&self, bytes: &[u8]) -> Result<Arc<SignedRecord>, RecordError> {
        let place = place(bytes);
        if let Some((record, _)) = self.read().get(&place).filter(|(record, _)| **record.bytes() == *bytes) {
            return Ok(record.clone());
        }
        let record = Arc::new(SignedRecord::decode(bytes)?);
        let mut read = self.read();
        if read.len() >= READ {
            read.clear();
        }
        read.insert(place, (record.clone(), false));
        Ok(record)
    }

    fn signed(&self, record: &SignedRecord, mesh: &TrustDomain, key: &PublicKey) -> Result<(), RecordError> {
        let place = place(record.bytes());
        // Each node has one key, so whether a record holds depends on its bytes alone.
        if self.read().get(&place).is_some_and(|(known, holds)| *holds && known.bytes() == record.bytes()) {
            return Ok(());
        }
        record.verify(mesh, key)?;
        let mut read = self.read();
        match read.get_mut(&place).filter(|(known, _)| known.bytes() == record.bytes()) {
            Some((_, holds)) => *holds = true,
            None => drop(read.insert(place, (Arc::new(record.clone()), true))),
        }
        Ok(())
    }

    fn certified(
        &self,
        node: &NodeId,
        _chain: Vec<Vec<u8>>,
        _authority: &Authority,
        _now: Millis,
    ) -> Result<Arc<NodeCaFacts>, RecordError> {
        let unknown = || RecordError::Identity { node: node.clone(), why: "nobody of this simulation".to_owned() };
        self.facts.get(node).cloned().ok_or_else(unknown)
    }
}

/// The last eight bytes: they are of the signature.
fn place(bytes: &[u8]) -> u64 {
    bytes.last_chunk().map_or(0, |last| u64::from_be_bytes(*last))
}

fn certified(grant: &NodeGrant, record_key: PublicKey) -> NodeCaFacts {
    NodeCaFacts {
        node: grant.node.clone(),
        epoch: grant.epoch,
        enroller: grant.node.clone(),
        grant: grant.certified(record_key),
        record_key,
        ca_key: Digest::of(&record_key.0),
        root: Digest::of(b"root"),
        not_before: START,
        not_after: START + LIFE_MS,
    }
}
