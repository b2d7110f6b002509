//! What a message must be before chitchat sees it: digests of members only, values that are records signed by the
//! member and generation under whose name they stand, each under the version that its signature binds. Heartbeats are
//! replaced by this node's own judgement, so that nobody can keep up, or bring down, anybody in chitchat's eyes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv6Addr, SocketAddr},
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose};
use certs::{
    id::{NodeId, TrustDomain},
    sign::{Digest, PublicKey},
};

use super::{
    Feed, Known,
    wire::{self, Delta, Held, Id, Malformed, Message},
};
use crate::record::{RECORD_BYTES, Section, SignedRecord};

/// Members of one pool: with more, a digest would exceed what chitchat can send.
pub(super) const POOL: usize = 1_000;
/// The one seed: any random open link.
pub(super) const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V6(Ipv6Addr::new(0xfd5e, 0, 0, 0, 0, 0, 0, 1)), 1);

/// The members of a feed by their names in chitchat.
pub(super) struct Roster {
    pub(super) feed: Arc<Feed>,
    names: BTreeMap<String, NodeId>,
    addresses: BTreeMap<SocketAddr, NodeId>,
    linked: BTreeSet<NodeId>,
}

/// A message that may be handed over.
#[derive(Debug)]
pub(super) struct Passed {
    pub(super) message: Vec<u8>,
    /// Records that the feed lacks.
    pub(super) learned: Vec<Arc<SignedRecord>>,
    /// It spoke of members that the feed does not know.
    pub(super) unknown: bool,
}

/// A member's short name: 64 bits of its key's hash. Short, because digests hold all of them.
pub(super) fn name(key: &PublicKey) -> String {
    general_purpose::URL_SAFE_NO_PAD.encode(&Digest::of(&key.0).0[..8])
}

/// A member's synthetic address, within `fd5e::/16`.
pub(super) fn address(key: &PublicKey) -> SocketAddr {
    let mut octets = [0; 16];
    octets[..2].copy_from_slice(&[0xfd, 0x5e]);
    octets[2..].copy_from_slice(&Digest::of(&key.0).0[8..22]);
    SocketAddr::new(Ipv6Addr::from(octets).into(), 1)
}

/// The key under which a section's record is kept.
pub(super) fn key(section: Section) -> String {
    format!("s{section}")
}

/// A record as chitchat's text.
pub(super) fn value(record: &SignedRecord) -> String {
    general_purpose::STANDARD_NO_PAD.encode(record.bytes())
}

impl Roster {
    pub(super) fn new(feed: Arc<Feed>) -> Roster {
        let members = || feed.members.iter().take(POOL);
        let names = members().map(|(node, known)| (name(&known.record_key), node.clone())).collect();
        let addresses = members().map(|(node, known)| (address(&known.record_key), node.clone())).collect();
        let linked = feed.linked.iter().cloned().collect();
        Roster { names, addresses, linked, feed }
    }

    /// A peer's synthetic address.
    pub(super) fn address_of(&self, node: &NodeId) -> Option<SocketAddr> {
        self.feed.members.get(node).map(|known| address(&known.record_key))
    }

    /// The linked peer behind a synthetic address.
    pub(super) fn at(&self, address: &SocketAddr) -> Option<&NodeId> {
        self.addresses.get(address).filter(|node| self.linked.contains(*node))
    }

    /// Judges a peer's payload. `beat` rises with every call.
    pub(super) fn check(&self, trust_domain: &TrustDomain, payload: &[u8], beat: u64) -> Result<Passed, Malformed> {
        let mut unknown = false;
        let mut learned = Vec::new();
        let message = match wire::read(&wire::unpack(payload)?)? {
            Message::Syn { cluster, digest } => {
                if cluster != trust_domain.as_str() {
                    return Err("another mesh's gossip");
                }
                Message::Syn { cluster, digest: self.digest(digest, beat, &mut unknown)? }
            }
            Message::SynAck { digest, delta } => Message::SynAck {
                digest: self.digest(digest, beat, &mut unknown)?,
                delta: self.delta(trust_domain, delta, &mut unknown, &mut learned)?,
            },
            Message::Ack { delta } => {
                Message::Ack { delta: self.delta(trust_domain, delta, &mut unknown, &mut learned)? }
            }
            Message::BadCluster => return Err("a peer of this mesh calls it another"),
        };
        Ok(Passed { message: wire::write(&message), learned, unknown })
    }

    /// The member of an id in its present run. Others are left out without blame: a peer may know more, or less.
    fn member(&self, id: &Id, unknown: &mut bool) -> Option<(&NodeId, &Known)> {
        let node = self.names.get(&id.name);
        let Some((node, known)) = node.and_then(|node| Some((node, self.feed.members.get(node)?))) else {
            *unknown = true;
            return None;
        };
        *unknown |= id.generation > known.generation;
        let current = id.generation == known.generation && id.address == address(&known.record_key);
        current.then_some((node, known))
    }

    fn digest(&self, digest: Vec<Held>, beat: u64, unknown: &mut bool) -> Result<Vec<Held>, Malformed> {
        let mut kept: BTreeMap<NodeId, Held> = BTreeMap::new();
        for held in digest {
            let Some((node, known)) = self.member(&held.id, unknown) else { continue };
            if held.collected != 0 {
                return Err("a collection of deletions that nobody makes");
            }
            let heartbeat = if known.alive { beat } else { 1 };
            if kept.insert(node.clone(), Held { heartbeat, ..held }).is_some() {
                return Err("a digest that names a member twice");
            }
        }
        Ok(kept.into_values().collect())
    }

    fn delta(
        &self,
        trust_domain: &TrustDomain,
        delta: Vec<Delta>,
        unknown: &mut bool,
        learned: &mut Vec<Arc<SignedRecord>>,
    ) -> Result<Vec<Delta>, Malformed> {
        let mut kept: BTreeMap<NodeId, Delta> = BTreeMap::new();
        for news in delta {
            let Some((node, known)) = self.member(&news.id, unknown) else { continue };
            if news.collected != 0 || news.bare_version {
                return Err("a version without a value");
            }
            let records = values(trust_domain, node, known, &news)?;
            // Nobody tells this node what it says itself.
            if *node == self.feed.node || news.values.is_empty() {
                continue;
            }
            let lacked = |record: &Arc<SignedRecord>| {
                known.records.get(&record.section()).is_none_or(|held| held.rank() < record.rank())
            };
            learned.extend(records.into_iter().filter(lacked));
            if kept.insert(node.clone(), news).is_some() {
                return Err("a delta that names a member twice");
            }
        }
        Ok(kept.into_values().collect())
    }
}

fn values(
    trust_domain: &TrustDomain,
    node: &NodeId,
    known: &Known,
    news: &Delta,
) -> Result<Vec<Arc<SignedRecord>>, Malformed> {
    let mut records = Vec::new();
    let mut last = 0;
    for entry in &news.values {
        if entry.status != 0 || entry.version <= last || entry.value.len() > RECORD_BYTES * 2 {
            return Err("a value that is deleted, out of order or too large");
        }
        last = entry.version;
        let bytes = general_purpose::STANDARD_NO_PAD.decode(&entry.value).map_err(|_| "a value that is no base64")?;
        let record = SignedRecord::decode(&bytes).map_err(|_| "a value that is no record")?;
        let placed = record.node() == node
            && record.generation() == known.generation
            && record.sequence() == entry.version
            && entry.key == key(record.section());
        if !placed {
            return Err("a record under another's name, key or version");
        }
        let held = known.records.get(&record.section()).is_some_and(|held| held.bytes() == record.bytes());
        if !held && record.verify(trust_domain, &known.record_key).is_err() {
            return Err("a record whose signature does not hold");
        }
        records.push(Arc::new(record));
    }
    Ok(records)
}
