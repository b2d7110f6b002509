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
pub const POOL: usize = 1_000;
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

    /// Whether chitchat's digest stays within what it can send, given whom it holds already and all who may come.
    pub(super) fn fits<'a>(&self, held: impl Iterator<Item = (&'a str, u64)>) -> bool {
        let present = |name: &str, generation: u64| {
            let known = self.names.get(name).and_then(|node| self.feed.members.get(node));
            known.is_some_and(|known| known.generation == generation)
        };
        let gone = held.filter(|(name, generation)| !present(name, *generation)).count();
        gone + self.names.len() <= POOL
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

    /// What this node's chitchat wants to send, without former members and the earlier runs of present ones. chitchat keeps
    /// their state for [`super::GRACE`]; whoever got it would leave it out, seem to lack it, and get it again every round.
    pub(super) fn trim(&self, message: &[u8]) -> Result<Vec<u8>, Malformed> {
        let current = |id: &Id| self.member(id, &mut false).is_some();
        let mut message = wire::read(message)?;
        let (digest, delta) = match &mut message {
            Message::Syn { digest, .. } => (Some(digest), None),
            Message::SynAck { digest, delta } => (Some(digest), Some(delta)),
            Message::Ack { delta } => (None, Some(delta)),
            Message::BadCluster => (None, None),
        };
        digest.into_iter().for_each(|digest| digest.retain(|held| current(&held.id)));
        delta.into_iter().for_each(|delta| delta.retain(|news| current(&news.id)));
        Ok(wire::write(&message))
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

#[cfg(test)]
mod tests {
    use certs::sign::SigningKey;
    use chitchat::{ChitchatMessage, Deserializable};
    use proptest::prelude::*;

    use super::{super::wire::Value, *};

    const GENERATION: u64 = 9;

    struct Scene {
        trust_domain: TrustDomain,
        keys: Vec<SigningKey>,
        roster: Roster,
    }

    /// Node 0 is this one, 1 the victim, 2 the sender.
    fn scene() -> Scene {
        let keys: Vec<SigningKey> = (0..3).map(|_| SigningKey::generate()).collect();
        let known = |key: &SigningKey| Known {
            record_key: key.public(),
            generation: GENERATION,
            alive: true,
            records: Arc::default(),
        };
        let node = |index: usize| NodeId::new(&format!("n{index}")).expect("valid");
        let members = keys.iter().enumerate().map(|(index, key)| (node(index), known(key))).collect();
        let feed = Feed { node: node(0), members, linked: vec![node(1), node(2)] };
        let trust_domain = TrustDomain::new("test.example").expect("valid");
        Scene { trust_domain, keys, roster: Roster::new(Arc::new(feed)) }
    }

    impl Scene {
        fn id(&self, of: usize) -> Id {
            let key = self.keys[of].public();
            Id { name: name(&key), generation: GENERATION, address: address(&key) }
        }

        fn value(&self, of: usize, signer: usize, sequence: u64) -> Value {
            let node = NodeId::new(&format!("n{of}")).expect("valid");
            let key = &self.keys[signer];
            let record =
                SignedRecord::sign(key, &self.trust_domain, &node, GENERATION, Section::POLICY, sequence, vec![1]);
            let value = value(&record.expect("fits"));
            Value { key: super::key(Section::POLICY), value, version: sequence, status: 0 }
        }

        fn delta(&self, of: usize, values: Vec<Value>) -> Message {
            let delta = Delta { id: self.id(of), collected: 0, from: 0, values, bare_version: false };
            Message::Ack { delta: vec![delta] }
        }

        fn check(&self, message: &Message) -> Result<Passed, Malformed> {
            self.roster.check(&self.trust_domain, &wire::pack(&wire::write(message)), 50)
        }
    }

    #[test]
    fn an_honest_value_passes_and_chitchat_reads_it() {
        let scene = scene();
        let passed = scene.check(&scene.delta(1, vec![scene.value(1, 1, 4)])).expect("honest");
        assert_eq!(passed.learned.len(), 1);
        let message = ChitchatMessage::deserialize(&mut passed.message.as_slice()).expect("readable");
        assert!(matches!(message, ChitchatMessage::Ack { .. }));
    }

    #[test]
    fn what_chitchat_would_believe_is_refused() {
        let scene = scene();
        let good = scene.value(1, 1, 4);
        let changed = |change: &dyn Fn(&mut Value)| {
            let mut value = good.clone();
            change(&mut value);
            scene.delta(1, vec![value])
        };
        let mut bare = scene.delta(1, vec![good.clone()]);
        let mut collected = bare.clone();
        if let Message::Ack { delta } = &mut bare {
            delta[0].bare_version = true;
        }
        if let Message::Ack { delta } = &mut collected {
            delta[0].collected = u64::MAX;
        }
        let hostile = [
            ("signed by another", scene.delta(1, vec![scene.value(1, 2, 4)])),
            ("under another's name", scene.delta(1, vec![scene.value(2, 2, 4)])),
            ("version raised", changed(&|value| value.version = u64::MAX)),
            ("key moved", changed(&|value| value.key = "s7".to_owned())),
            ("key not ASCII", changed(&|value| value.key = "\u{e9}".to_owned())),
            ("deleted", changed(&|value| value.status = 1)),
            ("deleted later", changed(&|value| value.status = 2)),
            ("unknown status", changed(&|value| value.status = 200)),
            ("no record", changed(&|value| value.value = "AAAA".to_owned())),
            ("versions fall", scene.delta(1, vec![good.clone(), scene.value(1, 1, 3)])),
            ("bare version below the last value", bare),
            ("collection of deletions", collected),
        ];
        for (what, message) in hostile {
            assert!(scene.check(&message).is_err(), "{what} passed");
        }
    }

    #[test]
    fn news_about_this_node_and_strangers_is_left_out() {
        let scene = scene();
        let mut stranger = scene.id(1);
        stranger.name = "stranger".to_owned();
        let mut old = scene.id(2);
        old.generation -= 1;
        let held = |id: Id| Held { id, heartbeat: u64::MAX, collected: 0, version: u64::MAX };
        let digest = vec![held(scene.id(1)), held(stranger), held(old), held(scene.id(0))];
        let own =
            Delta { id: scene.id(0), collected: 0, from: 0, values: vec![scene.value(0, 0, 7)], bare_version: false };
        let passed = scene.check(&Message::SynAck { digest, delta: vec![own] }).expect("no blame");
        assert!(passed.unknown && passed.learned.is_empty());
        let Ok(Message::SynAck { digest, delta }) = wire::read(&passed.message) else { panic!("a SynAck") };
        assert!(delta.is_empty());
        let heartbeats: Vec<u64> = digest.iter().map(|held| held.heartbeat).collect();
        assert_eq!(heartbeats, [50, 50], "this node's judgement instead of the sender's");
    }

    #[test]
    fn earlier_runs_and_former_members_are_not_sent() {
        let scene = scene();
        let mut stranger = scene.id(1);
        stranger.name = "stranger".to_owned();
        let mut old = scene.id(2);
        old.generation -= 1;
        let held = |id: Id| Held { id, heartbeat: 1, collected: 0, version: 1 };
        let news = |id: Id| Delta { id, collected: 0, from: 0, values: Vec::new(), bare_version: true };
        let message = |ids: &[Id]| Message::SynAck {
            digest: ids.iter().cloned().map(held).collect(),
            delta: ids.iter().cloned().map(news).collect(),
        };
        let whole = wire::write(&message(&[scene.id(0), stranger, scene.id(1), old]));
        let sent = scene.roster.trim(&whole).expect("chitchat's own");
        assert_eq!(wire::read(&sent), Ok(message(&[scene.id(0), scene.id(1)])));
    }

    #[test]
    fn a_digest_of_many_fakes_costs_nothing() {
        let scene = scene();
        let fake = |index: u16| {
            let id = Id { name: format!("{index}"), generation: 1, address: ANY };
            Held { id, heartbeat: 1, collected: 0, version: 1 }
        };
        let digest: Vec<Held> = (0..1_000).map(fake).collect();
        let message = Message::Syn { cluster: "test.example".to_owned(), digest };
        let passed = scene.check(&message).expect("no blame");
        assert!(passed.message.len() < 100);
    }

    #[test]
    fn bombs_do_not_unpack() {
        let scene = scene();
        let zeros = vec![0_u8; 50 << 20];
        let outer = wire::pack(&zeros);
        assert!(outer.len() < 100_000);
        assert!(scene.roster.check(&scene.trust_domain, &outer, 1).is_err());
        // Many blocks, each small when packed and 64 KiB when not.
        let block = zstd::bulk::compress(&zeros[..60_000], 1).expect("packs");
        let mut bytes = vec![0x53, 0xb0, 0, 2];
        for _ in 0..1_000 {
            bytes.push(1);
            bytes.extend(u16::try_from(block.len()).expect("small").to_le_bytes());
            bytes.extend(&block);
        }
        bytes.push(0);
        assert!(scene.roster.check(&scene.trust_domain, &wire::pack(&bytes), 1).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600), kind in 0_u8..5) {
            let scene = scene();
            let _ = scene.roster.check(&scene.trust_domain, &bytes, 1);
            let _ = scene.roster.check(&scene.trust_domain, &wire::pack(&bytes), 1);
            let mut framed = vec![0x53, 0xb0, 0, kind];
            framed.extend(bytes);
            if let Ok(passed) = scene.roster.check(&scene.trust_domain, &wire::pack(&framed), 1) {
                prop_assert!(ChitchatMessage::deserialize(&mut passed.message.as_slice()).is_ok());
            }
        }

        #[test]
        fn what_is_written_is_read(version in any::<u64>(), heartbeat in any::<u64>(), text in "\\PC{0,40}") {
            let scene = scene();
            let digest = vec![Held { id: scene.id(1), heartbeat, collected: version, version }];
            let values = vec![Value { key: text.clone(), value: text, version, status: 1 }; 3];
            let delta = vec![Delta { id: scene.id(2), collected: 1, from: version, values, bare_version: false }];
            let message = Message::SynAck { digest, delta };
            prop_assert_eq!(wire::read(&wire::write(&message)), Ok(message));
        }
    }
}
