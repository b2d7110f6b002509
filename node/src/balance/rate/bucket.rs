//! A bucket per key (a principal, a header's value) in a table of fixed size. A bucket that is full again tells nothing
//! more than a new one, so its place is free at once: nothing is ever swept.

use std::{
    hash::Hasher,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use twox_hash::XxHash64;

use super::gate::{Limit, Refused, Room, admit};

/// Places in which a key may lie.
const WAYS: usize = 8;

/// See the module. Shared by all workers, without a lock.
///
/// Where all places of a key are taken, the bucket that is nearest to full makes room: its key begins anew. Two threads
/// that meet at a key's very first request may begin two buckets, of which the next request finds one.
#[derive(Debug)]
pub struct Buckets {
    slots: Box<[Slot]>,
    seed: u64,
}

#[derive(Debug, Default)]
struct Slot {
    /// The key's hash; 0 is nobody's.
    key: AtomicU64,
    full_at: AtomicU64,
    /// How long an empty one takes until it is full.
    depth: AtomicU64,
}

impl Slot {
    /// How long it still takes until it is full, and an empty one.
    fn lack(&self, now: u64) -> (u64, u64) {
        (self.full_at.load(Relaxed).saturating_sub(now), self.depth.load(Relaxed).max(1))
    }
}

/// Whether one lacks less of what it holds than another: keys that are invented under a slow limit must not drive out the empty buckets
/// of a fast one.
fn is_fuller(one: (u64, u64), other: (u64, u64)) -> bool {
    u128::from(one.0) * u128::from(other.1) < u128::from(other.0) * u128::from(one.1)
}

impl Buckets {
    /// Room for so many keys that are short of full at once, 24 bytes each. `seed`: a random number, so that nobody
    /// outside can choose keys that meet.
    #[must_use]
    pub fn new(keys: usize, seed: u64) -> Buckets {
        let count = keys.max(WAYS).next_power_of_two();
        Buckets { slots: (0..count).map(|_| Slot::default()).collect(), seed }
    }

    /// Lets in a request of the key that these parts make up, or not. Every limit is a part too: one key, one limit.
    ///
    /// # Errors
    /// The key's bucket is empty.
    pub fn admit(&self, key: &[&[u8]], limit: &Limit, now_micros: u64) -> Result<Room, Refused> {
        let now = now_micros.saturating_mul(1_000);
        let pace = limit.pace(1.0);
        let slot = self.slot(self.hash(key), pace.depth, now);
        admit(&slot.full_at, pace, now)
    }

    /// Takes back that a request of this key was let in: another limit refused it.
    pub fn give_back(&self, key: &[&[u8]], limit: &Limit) {
        // A bucket that made room for another meanwhile was nearly full, and has nothing to be given back to.
        let key = self.hash(key);
        let Some(slot) = self.ways(key).iter().find(|slot| slot.key.load(Relaxed) == key) else { return };
        let period = limit.pace(1.0).period;
        let _ = slot.full_at.fetch_update(Relaxed, Relaxed, |full_at| Some(full_at.saturating_sub(period)));
    }

    fn hash(&self, key: &[&[u8]]) -> u64 {
        let mut hasher = XxHash64::with_seed(self.seed);
        for part in key {
            hasher.write_usize(part.len());
            hasher.write(part);
        }
        hasher.finish().max(1)
    }

    /// Where this key may lie.
    fn ways(&self, key: u64) -> &[Slot] {
        let sets = self.slots.len() / WAYS;
        let begin = usize::try_from(key % sets as u64).unwrap_or(0) * WAYS;
        &self.slots[begin..begin + WAYS]
    }

    fn slot(&self, key: u64, depth: u64, now: u64) -> &Slot {
        let ways = self.ways(key);
        let mut fullest = &ways[0];
        for slot in ways {
            if slot.key.load(Relaxed) == key {
                return slot;
            }
            if is_fuller(slot.lack(now), fullest.lack(now)) {
                fullest = slot;
            }
        }
        fullest.key.store(key, Relaxed);
        fullest.depth.store(depth, Relaxed);
        // What its last key used up is not this one's. A full bucket needs no reset.
        if fullest.full_at.load(Relaxed) > now {
            fullest.full_at.store(now, Relaxed);
        }
        fullest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Limit = Limit { requests: 1, interval: 1_000, burst: 2 };
    const SECOND: u64 = 1_000_000;

    #[test]
    fn each_key_has_its_own_bucket() {
        let buckets = Buckets::new(1_000, 7);
        for key in 0..100u32 {
            let key = key.to_le_bytes();
            let admitted = (0..5).filter(|_| buckets.admit(&[b"r", &key], &LIMIT, SECOND).is_ok()).count();
            assert_eq!(admitted, 2);
        }
        assert!(buckets.admit(&[b"r", &0u32.to_le_bytes()], &LIMIT, SECOND).is_err());
        assert!(buckets.admit(&[b"s", &0u32.to_le_bytes()], &LIMIT, SECOND).is_ok(), "another limit");
        assert!(buckets.admit(&[b"r\0\0", b"\0\0"], &LIMIT, SECOND).is_ok(), "parts do not run together");
    }

    #[test]
    fn what_is_given_back_may_be_taken_again() {
        let buckets = Buckets::new(64, 7);
        let admitted = || (0..5).filter(|_| buckets.admit(&[b"a"], &LIMIT, SECOND).is_ok()).count();
        assert_eq!(admitted(), 2);
        buckets.give_back(&[b"a"], &LIMIT);
        assert_eq!(admitted(), 1);
        // More than was taken is not to be had.
        (0..9).for_each(|_| buckets.give_back(&[b"a"], &LIMIT));
        assert_eq!(admitted(), 2);
    }

    #[test]
    fn what_is_given_back_takes_nobodys_place() {
        let buckets = Buckets::new(8, 7);
        let admitted = |key: u8| (0..5).filter(|_| buckets.admit(&[&[key]], &LIMIT, SECOND).is_ok()).count();
        assert_eq!((0..9).map(admitted).collect::<Vec<_>>(), [2; 9], "the last took the place of one before it");
        let held = |key: u8| buckets.slots.iter().any(|slot| slot.key.load(Relaxed) == buckets.hash(&[&[key]]));
        let lost = (0..9).find(|key| !held(*key)).expect("nine keys in eight places");
        buckets.give_back(&[&[lost]], &LIMIT);
        assert!((0..9).filter(|key| *key != lost).all(held));
        assert_eq!((0..9).filter(|key| *key != lost).map(admitted).sum::<usize>(), 0);
    }

    #[test]
    fn keys_under_a_slow_limit_drive_out_no_empty_bucket_of_a_fast_one() {
        let (buckets, slow) = (Buckets::new(8, 7), Limit { requests: 10, interval: 3_600_000, burst: 10 });
        while buckets.admit(&[b"fast"], &LIMIT, SECOND).is_ok() {}
        for key in 0..1_000u64 {
            assert!(buckets.admit(&[b"slow", &key.to_le_bytes()], &slow, SECOND).is_ok());
        }
        assert!(buckets.admit(&[b"fast"], &LIMIT, SECOND).is_err(), "it is still empty");
    }

    #[test]
    fn full_buckets_make_room() {
        let buckets = Buckets::new(64, 7);
        // A hundred times as many keys as places, one after the other: none is let in more often than it may.
        for key in 0..6_400u64 {
            let now = key * 4 * SECOND;
            let admitted = (0..5).filter(|_| buckets.admit(&[&key.to_le_bytes()], &LIMIT, now).is_ok()).count();
            assert_eq!(admitted, 2);
        }
        assert_eq!(buckets.slots.len(), 64);
    }

    #[test]
    fn beyond_its_size_the_table_is_lenient_and_stays_as_it_is() {
        let buckets = Buckets::new(8, 7);
        let admitted = (0..1_000u64).filter(|key| buckets.admit(&[&key.to_le_bytes()], &LIMIT, SECOND).is_ok()).count();
        assert_eq!((admitted, buckets.slots.len()), (1_000, 8));
    }
}
