//! Signed records: a fact that one node states about itself. Whoever carries one, only its signature counts.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use certs::{
    codec::{self, Millis},
    id::{NodeId, TrustDomain},
    sign::{Digest, PublicKey, Signature, SigningKey},
};
use serde::{Deserialize, Serialize};

use crate::{brief, error::RecordError, said::Part};

/// Largest record, encoded, in bytes: its base64 form stays below the 8 KiB that chitchat carries well.
pub const RECORD_BYTES: usize = 6_000;
/// Largest body in bytes; the rest of a record is names, numbers and the signature.
pub const BODY_BYTES: usize = 5_600;
/// How far a generation may lie ahead of the reader's clock, in seconds: room for a clock that was wrong once, while
/// no generation can be so high that its owner could never exceed it.
pub const GENERATION_AHEAD_SECONDS: u64 = 366 * 86_400;

const VERSION: u8 = 1;
const KIND: &str = "skein.record/1";
const GENERATION_RANDOM_BITS: u32 = 24;

/// What a record speaks of. Sections that a reader does not know are relayed all the same: those below [`Section::MOMENT`] it keeps, those
/// from there on it passes on and forgets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Section(pub u16);

impl Section {
    /// `{section: sequence}` of all the node's sections; signed on change, and every 10 s to 60 s by the size of the mesh.
    pub const TABLE: Section = Section(0);
    /// The node's certificate chain.
    pub const IDENTITY: Section = Section(1);
    /// Where it listens, its locality and version.
    pub const ADDRESS: Section = Section(2);
    /// Up, draining or left.
    pub const STATUS: Section = Section(3);
    /// Digest of the changesets that it holds.
    pub const POLICY: Section = Section(4);
    /// First part of its services; parts follow one another.
    pub const SERVICES: Section = Section(0x100);
    /// First part of their health.
    pub const HEALTH: Section = Section(0x200);
    /// From here on all sections speak of the moment, those of builds to come, too: see [`crate::statement`].
    pub const MOMENT: Section = Section(0x8000);
    /// First part of how its requests fare: of the moment.
    pub const OUTLIERS: Section = Section(0x8100);
    /// First part of what is asked of it under limits of the whole mesh: of the moment.
    pub const DEMAND: Section = Section(0x8200);
    /// Whom it finds silent: of the moment.
    pub const SUSPICIONS: Section = Section(0x8300);
    /// Parts that each of these may have.
    pub const PARTS: u16 = 16;

    /// The part `number` of a section that has parts.
    pub(crate) fn part(self, number: u16) -> Section {
        Section(self.0 + number)
    }

    /// The section without its part: `SERVICES` for every part of it.
    #[must_use]
    pub fn base(self) -> Section {
        match self.0 & 0xff {
            part if self.0 >= Section::SERVICES.0 && part < Section::PARTS => Section(self.0 & 0xff00),
            _ => self,
        }
    }

    /// Whether it speaks of the moment: then it is worthless when old, and neither listed, repaired nor stored. The number alone says so,
    /// for nodes of different builds must count the same among what lasts.
    #[must_use]
    pub fn is_of_the_moment(self) -> bool {
        self >= Section::MOMENT
    }

    /// Whether other nodes keep it on their disks. Health is worth nothing after a restart: who is alive then says it anew.
    pub(crate) fn is_stored(self) -> bool {
        !self.is_of_the_moment() && self.base() != Section::HEALTH
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A record as it came: the bytes are kept and relayed, never encoded again. Believed only after [`verify`](Self::verify).
#[derive(Clone)]
pub struct SignedRecord {
    node: NodeId,
    generation: u64,
    section: Section,
    sequence: u64,
    trust_domain: TrustDomain,
    /// Where in the bytes the signed part begins and ends; the body ends it.
    payload: (u16, u16),
    body: u16,
    signature: Signature,
    /// Half of the hash of the payload.
    mark: u128,
    bytes: Arc<[u8]>,
    /// What the body says, once somebody has asked.
    said: OnceLock<Part>,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    version: u8,
    #[serde(with = "codec::bytes")]
    payload: Vec<u8>,
    #[serde(with = "codec::bytes")]
    signature: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct Payload {
    trust_domain: TrustDomain,
    node: NodeId,
    generation: u64,
    section: Section,
    sequence: u64,
    #[serde(with = "codec::bytes")]
    body: Vec<u8>,
}

impl SignedRecord {
    /// Signs a fact about `node`.
    ///
    /// # Errors
    /// `TooLarge` if the body does not fit.
    pub fn sign(
        key: &SigningKey,
        trust_domain: &TrustDomain,
        node: &NodeId,
        generation: u64,
        section: Section,
        sequence: u64,
        body: Vec<u8>,
    ) -> Result<SignedRecord, RecordError> {
        if body.len() > BODY_BYTES {
            let what = format!("section {section} of {node}");
            return Err(RecordError::TooLarge { what, size: body.len(), limit: BODY_BYTES });
        }
        let fact =
            Payload { trust_domain: trust_domain.clone(), node: node.clone(), generation, section, sequence, body };
        let payload = codec::encode(&fact);
        let signature = key.sign(KIND, &payload);
        let wire = Wire { version: VERSION, payload, signature: signature.0.to_vec() };
        SignedRecord::of(fact, wire.payload.len(), wire.signature.len(), signature, &codec::encode(&wire))
    }

    /// Reads a record without believing it.
    ///
    /// # Errors
    /// `TooLarge` or `Malformed`; also for a version that this build does not know.
    pub fn decode(bytes: &[u8]) -> Result<SignedRecord, RecordError> {
        if bytes.len() > RECORD_BYTES {
            let what = "record".to_owned();
            return Err(RecordError::TooLarge { what, size: bytes.len(), limit: RECORD_BYTES });
        }
        let malformed = |error: codec::CodecError| RecordError::Malformed(error.to_string());
        let wire: Wire = codec::decode::<Wire, RECORD_BYTES>(bytes).map_err(malformed)?;
        if wire.version != VERSION {
            return Err(RecordError::Malformed(format!("record version {}", wire.version)));
        }
        let signature: [u8; 64] =
            wire.signature.try_into().map_err(|_| RecordError::Malformed("signature length".to_owned()))?;
        let fact: Payload = codec::decode::<Payload, RECORD_BYTES>(&wire.payload).map_err(malformed)?;
        let record = SignedRecord::of(fact, wire.payload.len(), signature.len(), Signature(signature), bytes)?;
        if *record.payload() != wire.payload {
            return Err(RecordError::Malformed("a length that takes more bytes than it needs".to_owned()));
        }
        Ok(record)
    }

    /// One whose bytes end with a signature under its length of one byte, the signed part before it, at whose end the body is.
    fn of(
        fact: Payload,
        payload: usize,
        signed: usize,
        signature: Signature,
        bytes: &[u8],
    ) -> Result<SignedRecord, RecordError> {
        let end = bytes.len().checked_sub(signed + 1);
        let begin = end.and_then(|end| end.checked_sub(payload));
        let body = end.and_then(|end| end.checked_sub(fact.body.len()));
        let [Some(begin), Some(end), Some(body)] = [begin, end, body].map(|place| place?.try_into().ok()) else {
            return Err(RecordError::Malformed("lengths".to_owned()));
        };
        let mark = brief::first(&Digest::of(&bytes[usize::from(begin)..usize::from(end)]));
        let Payload { trust_domain, node, generation, section, sequence, body: _ } = fact;
        let (payload, bytes, said) = ((begin, end), bytes.into(), OnceLock::new());
        Ok(SignedRecord {
            node,
            generation,
            section,
            sequence,
            trust_domain,
            payload,
            body,
            signature,
            mark,
            bytes,
            said,
        })
    }

    /// Whether `key` signed it for this mesh.
    ///
    /// # Errors
    /// `TrustDomain` or `Signature`.
    pub fn verify(&self, trust_domain: &TrustDomain, key: &PublicKey) -> Result<(), RecordError> {
        if self.trust_domain != *trust_domain {
            return Err(RecordError::TrustDomain);
        }
        if key.verify(KIND, self.payload(), &self.signature) {
            Ok(())
        } else {
            Err(RecordError::Signature { node: self.node.clone(), section: self.section })
        }
    }

    /// The node that it speaks of.
    #[must_use]
    pub fn node(&self) -> &NodeId {
        &self.node
    }

    /// The run of that node which signed it.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// What it speaks of.
    #[must_use]
    pub fn section(&self) -> Section {
        self.section
    }

    /// Counts all records of a generation, whatever their section: one number is never used twice.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The encoded body.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.bytes[usize::from(self.body)..usize::from(self.payload.1)]
    }

    /// What the body says, read once however often it is asked for.
    pub(crate) fn said(&self) -> &Part {
        self.said.get_or_init(|| Part::read(self.section, self.body()))
    }

    /// The signature.
    #[must_use]
    pub fn signature(&self) -> &Signature {
        &self.signature
    }

    /// The whole record as it travels.
    #[must_use]
    pub fn bytes(&self) -> &Arc<[u8]> {
        &self.bytes
    }

    /// The signed part: two records of one (generation, sequence) with different ones prove equivocation.
    pub(crate) fn payload(&self) -> &[u8] {
        &self.bytes[usize::from(self.payload.0)..usize::from(self.payload.1)]
    }

    /// Half of the hash of what was signed.
    pub(crate) fn mark(&self) -> u128 {
        self.mark
    }

    /// Later in the life of the same node.
    pub(crate) fn rank(&self) -> (u64, u64) {
        (self.generation, self.sequence)
    }
}

impl PartialEq for SignedRecord {
    fn eq(&self, other: &SignedRecord) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for SignedRecord {}

impl fmt::Debug for SignedRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}#{}.{}", self.node, self.section, self.generation, self.sequence)
    }
}

/// The generation of a starting process: above the `stored` one, above that of own records which peers hold, and not
/// below the clock. One that lies farther ahead of the clock than peers take counts for nothing: it was drawn by a clock that was wrong.
/// Must be durable before use. The low 24 bits are `random`, so that two copies of one state differ.
#[must_use]
pub fn next_generation(stored: u64, seen: u64, now: Millis, random: u32) -> u64 {
    let counts = |generation: &u64| plausible_generation(*generation, now);
    let last = [stored, seen].into_iter().filter(counts).max().unwrap_or(0);
    let counter = (last >> GENERATION_RANDOM_BITS).max(now / 1_000) + 1;
    (counter << GENERATION_RANDOM_BITS) | u64::from(random & ((1 << GENERATION_RANDOM_BITS) - 1))
}

/// Whether a generation is one that a node with a sane clock may have.
pub(crate) fn plausible_generation(generation: u64, now: Millis) -> bool {
    generation >> GENERATION_RANDOM_BITS <= now / 1_000 + GENERATION_AHEAD_SECONDS
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sign(key: &SigningKey, mesh: &str, body: Vec<u8>) -> Result<SignedRecord, RecordError> {
        let node = NodeId::new("a").expect("valid");
        SignedRecord::sign(key, &TrustDomain::new(mesh).expect("valid"), &node, 1, Section::POLICY, 2, body)
    }

    #[test]
    fn only_the_key_and_the_mesh_count() {
        let (key, other) = (SigningKey::generate(), SigningKey::generate());
        let mesh = TrustDomain::new("one.example").expect("valid");
        let record = sign(&key, "one.example", vec![1, 2]).expect("fits");
        let read = SignedRecord::decode(record.bytes()).expect("own");
        assert_eq!(read, record);
        assert_eq!(read.verify(&mesh, &key.public()), Ok(()));
        assert!(matches!(read.verify(&mesh, &other.public()), Err(RecordError::Signature { .. })));
        let foreign = sign(&key, "two.example", vec![1, 2]).expect("fits");
        assert_eq!(foreign.verify(&mesh, &key.public()), Err(RecordError::TrustDomain));
    }

    #[test]
    fn the_largest_body_fits_and_no_larger_one() {
        let key = SigningKey::generate();
        let record = sign(&key, "a-rather-long-trust-domain.example", vec![0xff; BODY_BYTES]).expect("fits");
        assert!(record.bytes().len() <= RECORD_BYTES);
        assert!(SignedRecord::decode(record.bytes()).is_ok());
        assert!(matches!(sign(&key, "one.example", vec![0; BODY_BYTES + 1]), Err(RecordError::TooLarge { .. })));
        assert!(SignedRecord::decode(&vec![0; RECORD_BYTES + 1]).is_err());
    }

    #[test]
    fn generations_rise_whatever_the_clock_says() {
        let first = next_generation(0, 0, 1_800_000_000_000, u32::MAX);
        let earlier = 1_800_000_000_000 - 300 * 86_400_000;
        assert!(next_generation(first, 0, earlier, 0) > first);
        assert!(next_generation(0, first, earlier, 0) > first);
        assert!(next_generation(0, 0, 1_800_000_001_000, 0) > first);
        assert!(plausible_generation(first, 1_800_000_000_000));
        assert!(!plausible_generation(u64::MAX, 1_800_000_000_000));
    }

    #[test]
    fn a_clock_that_was_years_ahead_once_makes_no_node_mute() {
        let now = 1_800_000_000_000;
        let first = next_generation(0, 0, now, 0);
        let ahead = next_generation(first, 0, now + 400 * 86_400_000, 0);
        assert!(ahead > first && !plausible_generation(ahead, now));
        for (stored, seen) in [(ahead, 0), (0, ahead), (u64::MAX, ahead)] {
            let next = next_generation(stored, seen, now, 0);
            assert!(plausible_generation(next, now) && next > (now / 1_000) << GENERATION_RANDOM_BITS, "{next}");
        }
        // What is plausible still counts beside it.
        assert!(next_generation(first, ahead, now, 0) > first);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), flips in proptest::collection::vec((0_usize..200, any::<u8>()), 1..4)) {
            let _ = SignedRecord::decode(&bytes);
            let key = SigningKey::generate();
            let record = sign(&key, "one.example", vec![7; 20]).expect("fits");
            let mut changed = record.bytes().to_vec();
            for (index, value) in flips {
                let index = index % changed.len();
                changed[index] = value;
            }
            if let Ok(read) = SignedRecord::decode(&changed) {
                let holds = read.verify(&TrustDomain::new("one.example").expect("valid"), &key.public()).is_ok();
                prop_assert_eq!(holds, read.payload() == record.payload() && read.signature() == record.signature());
            }
        }
    }
}
