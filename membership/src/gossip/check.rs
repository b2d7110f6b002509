//! What a message must be before chitchat sees it: digests of members only, values that are records signed by the
//! member and generation under whose name they stand, each under the version that its signature binds. Heartbeats are
//! replaced by this node's own judgement, so that nobody can keep up, or bring down, anybody in chitchat's eyes.

use std::{
    cmp::Ordering,
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
    wire::{self, Delta, Held, Id, Malformed, Message, Short, Value},
};
use crate::{
    body::SECTIONS,
    brief::{self, Compared, Index},
    engine::ORIGIN_RECORDS,
    limit::Bucket,
    record::{RECORD_BYTES, Section, SignedRecord},
};

/// Members of one pool: with more, a digest would exceed what chitchat can send.
pub const POOL: usize = 1_000;
/// Runs of members that one chitchat may hear of: it keeps those that ended for a while, its digest names them all, and
/// from 1,022 on it panics.
const RUNS: usize = 1_020;
/// Former runs of one member beside its present one: of whoever starts anew more often one chitchat hears no more.
const FORMER_RUNS: usize = 8;
/// How long after its end chitchat may keep a run: it counts from when it takes it for dead itself.
const KEPT_MS: u64 = super::GRACE.as_secs() * 1_000 + 300_000;
/// Bytes of values of one member that one chitchat is given, of all its runs: what one run may hold at most.
const MEMBER_BYTES: usize = SECTIONS * RECORD_BYTES * 2;
/// Signatures of one peer's that are checked between two [`Given::refresh`]: a full message a second.
const CHECKS: u32 = 500;
/// A message of this node's chitchat with more bytes is full: there may be news that found no room.
const FULL_BYTES: usize = 48_000;
/// Bytes of one member's news that are much.
const MUCH_BYTES: usize = 32 << 10;
/// Digests for which a member that had much of a full message is passed over, so that it does not fill the next ones too.
const PASSED_OVER: u8 = 16;
/// The one seed: any random open link.
pub(super) const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V6(Ipv6Addr::new(0xfd5e, 0, 0, 0, 0, 0, 0, 1)), 1);

/// The members of a feed by their names in chitchat.
pub(super) struct Roster {
    pub(super) feed: Arc<Feed>,
    names: BTreeMap<String, NodeId>,
    addresses: BTreeMap<SocketAddr, NodeId>,
    linked: BTreeSet<NodeId>,
    runs: Index,
}

/// What one chitchat was given to keep, and by whom it was kept busy. It keeps former runs for [`super::GRACE`], and nobody can make it
/// forget one before.
#[derive(Debug, Default)]
pub(super) struct Given {
    members: BTreeMap<String, Kept>,
    /// How many runs that are.
    runs: usize,
    /// A member was not given because of all former runs.
    full: bool,
    /// Values of one author's that are new, whoever brings them: as many as the ledger takes.
    origins: BTreeMap<NodeId, Bucket>,
    /// Advances with each refresh.
    now: u64,
    /// Whose news no peer is told for so many digests.
    passed_over: BTreeMap<(String, u64), u8>,
    /// Signatures checked by peer since the last refresh.
    checks: BTreeMap<NodeId, u32>,
}

/// Of one member.
#[derive(Debug, Default)]
struct Kept {
    runs: BTreeMap<u64, Run>,
    /// Bytes of their values.
    bytes: usize,
    /// Values of its present run found no room beside those of former ones.
    short: bool,
}

#[derive(Debug, Default)]
struct Run {
    /// Bytes of its values by section.
    sections: BTreeMap<Section, usize>,
    /// When it ceased to be its member's present one.
    ended: Option<u64>,
}

impl Given {
    /// Notes who may be spoken of from now on, in which run. For a run that finds no room beside former ones chitchat is as if it did not
    /// know the member.
    pub(super) fn meet(&mut self, roster: &Roster) {
        for (name, kept) in &mut self.members {
            let known = roster.names.get(name).and_then(|node| roster.feed.members.get(node));
            for (generation, run) in &mut kept.runs {
                let present = known.is_some_and(|known| known.generation == *generation);
                run.ended = if present { None } else { run.ended.or(Some(self.now)) };
            }
        }
        for (name, node) in &roster.names {
            let Some(known) = roster.feed.members.get(node) else { continue };
            let kept = self.members.entry(name.clone()).or_default();
            // One that starts anew all the time is nobody else's trouble: it waits until its former runs are forgotten.
            if kept.runs.contains_key(&known.generation) || kept.runs.len() > FORMER_RUNS {
                continue;
            }
            if self.runs >= RUNS {
                self.full = true;
                continue;
            }
            kept.short = false;
            kept.runs.insert(known.generation, Run::default());
            self.runs += 1;
        }
    }

    /// Whether chitchat lacks something of a member's present run for which it has no room.
    fn lacks_room(&self, id: &Id) -> bool {
        self.members.get(&id.name).is_none_or(|kept| kept.short || !kept.runs.contains_key(&id.generation))
    }

    /// Whether chitchat may hear of a run.
    fn met(&self, id: &Id) -> bool {
        self.members.get(&id.name).is_some_and(|kept| kept.runs.contains_key(&id.generation))
    }

    /// Whether a value of a member's may be given: of as many sections as a node may have, and as many bytes.
    pub(super) fn takes(&mut self, id: &Id, section: Section, bytes: usize) -> bool {
        let Some(kept) = self.members.get_mut(&id.name) else { return false };
        let Some(Run { sections, .. }) = kept.runs.get_mut(&id.generation) else { return false };
        let before = sections.get(&section).copied();
        if before.is_none() && sections.len() >= SECTIONS {
            return false;
        }
        let after = kept.bytes - before.unwrap_or(0) + bytes;
        if after > MEMBER_BYTES {
            kept.short = true;
            return false;
        }
        sections.insert(section, bytes);
        kept.bytes = after;
        true
    }

    /// Whether a new chitchat would hold more.
    pub(super) fn is_full(&self) -> bool {
        self.full
    }

    /// Peers' signatures are worth checking again, and chitchat has forgotten old runs; due every second. True if that left room.
    pub(super) fn refresh(&mut self) -> bool {
        self.checks.clear();
        self.now += 1_000;
        let (now, before) = (self.now, self.runs);
        for kept in self.members.values_mut() {
            let had = kept.runs.len();
            let forgotten = kept.runs.extract_if(.., |_, run| run.ended.is_some_and(|ended| now >= ended + KEPT_MS));
            let bytes: usize = forgotten.flat_map(|(_, run)| run.sections.into_values()).sum();
            let gone = had - kept.runs.len();
            if gone > 0 {
                (kept.bytes, kept.short) = (kept.bytes - bytes, false);
                self.runs -= gone;
            }
        }
        self.runs < before
    }

    /// Whether another new value of this author is worth a check.
    fn origin(&mut self, node: &NodeId) -> bool {
        let (now, (rate, burst)) = (self.now, ORIGIN_RECORDS);
        self.origins.entry(node.clone()).or_insert_with(|| Bucket::new(rate, burst, now)).take(now)
    }

    fn check(&mut self, from: &NodeId) -> bool {
        let checks = self.checks.entry(from.clone()).or_default();
        *checks += 1;
        *checks <= CHECKS
    }

    fn digest_came(&mut self) {
        self.passed_over.retain(|_, digests| {
            *digests -= 1;
            *digests > 0
        });
    }

    fn sent(&mut self, delta: &[Delta]) {
        let much = delta.iter().filter(|news| news.size() > MUCH_BYTES);
        self.passed_over.extend(much.map(|news| ((news.id.name.clone(), news.id.generation), PASSED_OVER)));
    }
}

/// A message that may be handed over.
#[derive(Debug)]
pub(super) struct Passed {
    pub(super) message: Vec<u8>,
    /// Records that the feed lacks.
    pub(super) learned: Vec<Arc<SignedRecord>>,
    /// It spoke of members that the feed does not know.
    pub(super) unknown: bool,
    /// Of whom the peer holds something else under the same number.
    pub(super) differ: Vec<NodeId>,
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

/// A member's present run as chitchat names it.
fn id(known: &Known) -> Id {
    let Known { record_key, generation, .. } = known;
    Id { name: name(record_key), generation: *generation, address: address(record_key) }
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
        let (linked, runs) = (feed.linked.iter().cloned().collect(), Index::new(&feed));
        Roster { names, addresses, linked, runs, feed }
    }

    /// A peer's synthetic address.
    pub(super) fn address_of(&self, node: &NodeId) -> Option<SocketAddr> {
        self.feed.members.get(node).map(|known| address(&known.record_key))
    }

    /// The linked peer behind a synthetic address.
    pub(super) fn at(&self, address: &SocketAddr) -> Option<&NodeId> {
        self.addresses.get(address).filter(|node| self.linked.contains(*node))
    }

    /// All members but this node, as chitchat names them.
    pub(super) fn others(&self) -> impl Iterator<Item = (Id, &Known)> {
        self.names.values().filter(|node| **node != self.feed.node).filter_map(|node| {
            let known = self.feed.members.get(node)?;
            Some((id(known), known))
        })
    }

    /// Judges a payload of `from`: a short digest, with news where it answers one, or news alone. `beat` rises with every call.
    pub(super) fn check(
        &self,
        trust_domain: &TrustDomain,
        from: &NodeId,
        payload: &[u8],
        beat: u64,
        given: &mut Given,
    ) -> Result<Passed, Malformed> {
        let bytes = wire::unpack(payload)?;
        let short = Short::read(&bytes)?;
        let compared = short.as_ref().map(|short| self.runs.compare(&short.digest));
        let compared = compared.unwrap_or_else(|| Some(Compared::default()));
        let Compared { both, unknown, differ } = compared.ok_or("a digest that names a member twice")?;
        let mut sight = Sight { roster: self, trust_domain, from, beat, given, unknown, learned: Vec::new() };
        let message = match short {
            Some(Short { cluster: Some(cluster), .. }) if cluster != trust_domain.as_str() => {
                return Err("another mesh's gossip");
            }
            Some(Short { cluster: Some(cluster), .. }) => Message::Syn { cluster, digest: sight.digest(both) },
            Some(short) => Message::SynAck { digest: sight.digest(both), delta: sight.delta(short.news()?)? },
            None => match wire::read(&bytes)? {
                Message::Ack { delta } => Message::Ack { delta: sight.delta(delta)? },
                Message::Syn { .. } | Message::SynAck { .. } | Message::BadCluster => {
                    return Err("a message as no member writes it");
                }
            },
        };
        Ok(Passed { message: wire::write(&message), learned: sight.learned, unknown: sight.unknown, differ })
    }

    /// A message of this node's own chitchat as a peer reads it.
    pub(super) fn pack(&self, message: Message, salt: u128) -> Vec<u8> {
        let brief = |digest: Vec<Held>| {
            let claims = digest.iter().filter_map(|held| {
                let (_, known) = self.member(&held.id, &mut false)?;
                Some((known.run, held.version))
            });
            self.runs.brief_of(claims, salt)
        };
        let bytes = match message {
            Message::Syn { cluster, digest } => Short::new(Some(cluster), brief(digest), Vec::new()).write(),
            Message::SynAck { digest, delta } => Short::new(None, brief(digest), delta).write(),
            Message::Ack { .. } | Message::BadCluster => wire::write(&message),
        };
        wire::pack(&bytes)
    }

    /// What this node's chitchat wants to send, without former members and the earlier runs of present ones. chitchat keeps
    /// their state for [`super::GRACE`]; whoever got it would leave it out, seem to lack it, and get it again every round.
    pub(super) fn trim(&self, message: &[u8], given: &mut Given) -> Result<Message, Malformed> {
        let current = |id: &Id| self.member(id, &mut false).is_some();
        let full = message.len() > FULL_BYTES;
        let mut message = wire::read_own(message)?;
        let (digest, delta) = match &mut message {
            Message::Syn { digest, .. } => (Some(digest), None),
            Message::SynAck { digest, delta } => (Some(digest), Some(delta)),
            Message::Ack { delta } => (None, Some(delta)),
            Message::BadCluster => (None, None),
        };
        if let Some(digest) = digest {
            digest.retain(|held| current(&held.id) && !given.lacks_room(&held.id));
            // What there is no room for would be told again every round. This node learned it all the same.
            let whole = self.others().filter(|(id, _)| given.lacks_room(id));
            digest.extend(whole.map(|(id, known)| Held { id, heartbeat: 1, collected: 0, version: known.version }));
        }
        if let Some(delta) = delta {
            delta.retain(|news| current(&news.id));
            wire::cut(delta);
            if full {
                given.sent(delta);
            }
        }
        Ok(message)
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
}

/// The view of one message.
struct Sight<'a> {
    roster: &'a Roster,
    trust_domain: &'a TrustDomain,
    from: &'a NodeId,
    beat: u64,
    given: &'a mut Given,
    unknown: bool,
    learned: Vec<Arc<SignedRecord>>,
}

impl Sight<'_> {
    /// A peer's digest as chitchat reads it, of members whom both know in the same run.
    fn digest(&mut self, both: Vec<(&brief::Held, u64)>) -> Vec<Held> {
        self.given.digest_came();
        let held = both.into_iter().filter_map(|(held, version)| {
            let known = self.roster.feed.members.get(&held.node)?;
            let id = id(known);
            // Who seems to hold everything of a member is told nothing of it.
            let passed_over = self.given.passed_over.contains_key(&(id.name.clone(), id.generation));
            let (heartbeat, version) =
                (if known.alive { self.beat } else { 1 }, if passed_over { u64::MAX } else { version });
            let met = self.roster.names.contains_key(&id.name) && self.given.met(&id);
            met.then_some(Held { id, heartbeat, collected: 0, version })
        });
        held.collect()
    }

    fn delta(&mut self, delta: Vec<Delta>) -> Result<Vec<Delta>, Malformed> {
        let mut kept: BTreeMap<NodeId, Delta> = BTreeMap::new();
        for news in delta {
            let Some((node, known)) = self.roster.member(&news.id, &mut self.unknown) else { continue };
            if news.collected != 0 || news.bare_version {
                return Err("a version without a value");
            }
            let learned = self.learned.len();
            let values = self.values(node, known, &news.id, news.values)?;
            // Nobody tells this node what it says itself; who forges it is hostile all the same.
            if *node == self.roster.feed.node {
                self.learned.truncate(learned);
                continue;
            }
            if !values.is_empty() && kept.insert(node.clone(), Delta { values, ..news }).is_some() {
                return Err("a delta that names a member twice");
            }
        }
        Ok(kept.into_values().collect())
    }

    /// The values that chitchat may have: new to this node, or held by it as they are. Older ones are worth no check, and
    /// what is newer than they are follows.
    fn values(&mut self, node: &NodeId, known: &Known, id: &Id, values: Vec<Value>) -> Result<Vec<Value>, Malformed> {
        let (mut kept, mut last) = (Vec::new(), 0);
        for value in values {
            if value.status != 0 || value.version <= last || value.value.len() > RECORD_BYTES * 2 {
                return Err("a value that is deleted, out of order or too large");
            }
            last = value.version;
            let record = placed(node, known, &value)?;
            let held = known.records.get(&record.section());
            let rank = held.map_or(Ordering::Greater, |held| record.rank().cmp(&held.rank()));
            if rank == Ordering::Less || record.section().is_of_the_moment() {
                continue;
            }
            let (section, size) = (record.section(), value.value.len());
            if held.is_none_or(|held| held.bytes() != record.bytes()) {
                // Those that follow it would say that it came.
                if !self.given.check(self.from) {
                    break;
                }
                if record.verify(self.trust_domain, &known.record_key).is_err() {
                    return Err("a record whose signature does not hold");
                }
                // Counted once it is its author's: anybody may make up what is not.
                if !self.given.origin(node) {
                    break;
                }
                let contradicts = held.is_some_and(|held| held.payload() != record.payload());
                self.learned.push(Arc::new(record));
                if rank == Ordering::Equal && contradicts {
                    continue;
                }
            }
            if self.given.takes(id, section, size) {
                kept.push(value);
            }
        }
        Ok(kept)
    }
}

/// The record of a value, in the place that its signature binds.
fn placed(node: &NodeId, known: &Known, value: &Value) -> Result<SignedRecord, Malformed> {
    let bytes = general_purpose::STANDARD_NO_PAD.decode(&value.value).map_err(|_| "a value that is no base64")?;
    let record = SignedRecord::decode(&bytes).map_err(|_| "a value that is no record")?;
    let placed = record.node() == node
        && record.generation() == known.generation
        && record.sequence() == value.version
        && value.key == key(record.section());
    if placed { Ok(record) } else { Err("a record under another's name, key or version") }
}

#[cfg(test)]
mod tests;
