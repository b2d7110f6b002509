//! What a node holds of all members, in short, as repair compares it: nine bytes for each member, where chitchat's own digest
//! takes sixty. Of equal numbers a mark tells whether they stand for the same records: it finds who contradicts itself to
//! two nodes that have never exchanged what they were told.

use std::{cmp::Ordering, collections::BTreeMap, sync::Arc};

use certs::{
    id::NodeId,
    sign::{Digest, PublicKey},
};
use serde::{Deserialize, Serialize};

use crate::{
    gossip::Feed,
    record::{Section, SignedRecord},
};

const RUN_BYTES: usize = 6;
/// The mark of what the sender does not hold as its number says.
const UNMARKED: u8 = 0;

/// A member's run: the first bytes of a hash of its key and generation. Who wants to share one with another member needs 2^48
/// tries, and gains that repair takes the one for the other until either restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Run([u8; RUN_BYTES]);

impl Run {
    pub(crate) fn of(key: &PublicKey, generation: u64) -> Run {
        let hash = Digest::of(&[&key.0[..], &generation.to_be_bytes()].concat());
        let (run, _) = hash.0.split_first_chunk().expect("SHA-256 has 32 bytes");
        Run(*run)
    }
}

/// A hash of all that the records of a run say.
pub(crate) fn content(records: &BTreeMap<Section, Arc<SignedRecord>>, generation: u64) -> u128 {
    let current = records.values().filter(|record| record.generation() == generation);
    let bytes: Vec<u8> = current.flat_map(|record| record.mark().to_be_bytes()).collect();
    first(&Digest::of(&bytes))
}

/// The first half of a hash as a number.
pub(crate) fn first(hash: &Digest) -> u128 {
    let (first, _) = hash.0.split_first_chunk().expect("SHA-256 has 32 bytes");
    u128::from_be_bytes(*first)
}

/// See the module: as it travels. Runs rise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Brief {
    /// Chosen for each: marks that can be foreseen could be made equal.
    salt: u128,
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    run: Run,
    /// The highest sequence of the run.
    version: u64,
    mark: u8,
}

/// What a node holds itself, by runs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Index(Vec<Held>);

/// One member of an index.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    run: Run,
    pub(crate) node: NodeId,
    /// The highest sequence of its run.
    pub(crate) version: u64,
    content: u128,
}

/// A brief beside an index.
#[derive(Debug, Default)]
pub(crate) struct Compared<'a> {
    /// Whom both know in the same run, and the version there.
    pub(crate) both: Vec<(&'a Held, u64)>,
    /// It speaks of runs that are not known here: of strangers, of newer ones, or of older ones.
    pub(crate) unknown: bool,
    /// Of whom it holds something else under the same number.
    pub(crate) differ: Vec<NodeId>,
}

#[cfg(test)]
impl Brief {
    /// Of how many members it speaks.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}

impl Index {
    pub(crate) fn new(feed: &Feed) -> Index {
        let held = feed.members.iter().map(|(node, known)| Held {
            run: known.run,
            node: node.clone(),
            version: known.version,
            content: known.content,
        });
        let mut held: Vec<Held> = held.collect();
        held.sort_unstable_by_key(|held| held.run);
        Index(held)
    }

    fn get(&self, run: Run) -> Option<&Held> {
        self.0.binary_search_by_key(&run, |held| held.run).ok().map(|index| &self.0[index])
    }

    /// All of it.
    pub(crate) fn brief(&self, salt: u128) -> Brief {
        let entry = |held: &Held| Entry { run: held.run, version: held.version, mark: mark(held.content, salt) };
        Brief { salt, entries: self.0.iter().map(entry).collect() }
    }

    /// Of these runs, each with a version that somebody else claims to hold for this node.
    pub(crate) fn brief_of(&self, claims: impl Iterator<Item = (Run, u64)>, salt: u128) -> Brief {
        let mut entries: Vec<Entry> = claims
            .map(|(run, version)| {
                let held = self.get(run).filter(|held| held.version == version);
                Entry { run, version, mark: held.map_or(UNMARKED, |held| mark(held.content, salt)) }
            })
            .collect();
        entries.sort_unstable_by_key(|entry| entry.run);
        entries.dedup_by_key(|entry| entry.run);
        Brief { salt, entries }
    }

    /// What somebody else holds, beside this; `None` if it names a run twice or out of order.
    pub(crate) fn compare(&self, brief: &Brief) -> Option<Compared<'_>> {
        let mut compared = Compared { both: Vec::with_capacity(brief.entries.len()), ..Compared::default() };
        let mut own = self.0.iter().peekable();
        let mut last = None;
        for entry in &brief.entries {
            if last.replace(entry.run) >= Some(entry.run) {
                return None;
            }
            while own.next_if(|held| held.run < entry.run).is_some() {}
            match own.peek().map(|held| held.run.cmp(&entry.run)) {
                Some(Ordering::Equal) => {
                    let held = own.next().expect("it was looked at");
                    let marked = entry.version == held.version && entry.mark != UNMARKED;
                    if marked && entry.mark != mark(held.content, brief.salt) {
                        compared.differ.push(held.node.clone());
                    }
                    compared.both.push((held, entry.version));
                }
                Some(Ordering::Less | Ordering::Greater) | None => compared.unknown = true,
            }
        }
        Some(compared)
    }
}

/// One of 255 marks of a content. Two contents share one by chance only, whoever made them, because the salt came later
/// (multiply-shift hashing, Dietzfelbinger et al. 1997).
fn mark(content: u128, salt: u128) -> u8 {
    let [high, ..] = content.wrapping_mul(salt | 1).to_be_bytes();
    high.max(1)
}

#[cfg(test)]
mod tests {
    use certs::{id::TrustDomain, sign::SigningKey};

    use super::*;
    use crate::gossip::Known;

    struct Scene {
        keys: Vec<SigningKey>,
    }

    fn node(index: usize) -> NodeId {
        NodeId::new(&format!("n{index}")).expect("valid")
    }

    impl Scene {
        fn new() -> Scene {
            Scene { keys: (0..8).map(|_| SigningKey::generate()).collect() }
        }

        /// Members with the sequence and the word of each.
        fn index(&self, generation: u64, said: &[(usize, u64, u8)]) -> Index {
            let mesh = TrustDomain::new("one.example").expect("valid");
            let members = said.iter().map(|(index, sequence, word)| {
                let key = &self.keys[*index];
                let (section, body) = (Section::POLICY, vec![*word]);
                let record = SignedRecord::sign(key, &mesh, &node(*index), generation, section, *sequence, body);
                let records = BTreeMap::from([(section, Arc::new(record.expect("fits")))]);
                (node(*index), Known::new(key.public(), generation, true, Arc::new(records)))
            });
            Index::new(&Feed { node: node(0), members: members.collect(), linked: Vec::new() })
        }
    }

    #[test]
    fn what_differs_is_found_whatever_the_salt() {
        let scene = Scene::new();
        let ours = scene.index(1, &[(0, 5, 1), (1, 5, 1), (2, 5, 1), (3, 5, 1)]);
        let theirs = scene.index(1, &[(0, 5, 1), (1, 6, 9), (2, 5, 2), (4, 5, 1)]);
        let mut found = 0;
        for salt in (0_u128..40).map(|number| first(&Digest::of(&number.to_be_bytes()))) {
            let brief = theirs.brief(salt);
            let compared = ours.compare(&brief).expect("in order");
            assert!(compared.unknown, "of n4 nothing is known");
            let mut both: Vec<(&NodeId, u64)> =
                compared.both.iter().map(|(held, version)| (&held.node, *version)).collect();
            both.sort();
            assert_eq!(both, [(&node(0), 5), (&node(1), 6), (&node(2), 5)]);
            assert!(compared.differ.iter().all(|differs| *differs == node(2)));
            found += compared.differ.len();
            assert!(ours.compare(&ours.brief(salt)).is_some_and(|same| same.differ.is_empty() && !same.unknown));
        }
        assert!(found >= 38, "{found} of 40");
    }

    #[test]
    fn another_run_is_unknown_and_disorder_is_refused() {
        let scene = Scene::new();
        let (ours, theirs) = (scene.index(1, &[(0, 5, 1)]), scene.index(2, &[(0, 5, 1)]));
        assert!(ours.compare(&theirs.brief(7)).is_some_and(|compared| compared.unknown && compared.both.is_empty()));
        let mut brief = scene.index(1, &[(0, 5, 1), (1, 5, 1)]).brief(7);
        brief.entries.reverse();
        assert!(ours.compare(&brief).is_none());
        brief.entries[1] = brief.entries[0].clone();
        assert!(ours.compare(&brief).is_none());
    }

    #[test]
    fn a_version_that_is_not_held_is_not_marked() {
        let scene = Scene::new();
        let (ours, theirs) = (scene.index(1, &[(0, 5, 1)]), scene.index(1, &[(0, 5, 2)]));
        let run = ours.0[0].run;
        for salt in 0..40 {
            let brief = theirs.brief_of([(run, 4), (run, 4)].into_iter(), salt);
            assert!(ours.compare(&brief).is_some_and(|compared| compared.differ.is_empty()));
            assert_eq!(brief.entries.len(), 1);
        }
    }
}
