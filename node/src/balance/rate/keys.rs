//! The gates of one rule of the mesh at one service of this node: one for each key that is asked about, in a table of
//! fixed size, so that strangers who make up keys cost a bounded amount. Shared by all workers, without a lock.

use std::{
    collections::HashSet,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

use arc_swap::ArcSwap;

use super::{
    gate::{Gate, Limit, Refused, Room},
    share::{EQUAL_PART, Mode, equal},
};

/// Keys of one rule at one service of a node that may be short of full at once; about 150 bytes each, taken when the
/// first of them is asked about.
pub const MESH_KEYS: usize = 1_024;
/// Places in which a key may lie.
const WAYS: usize = 8;

/// See the module.
///
/// Where all places of a key are taken, the one of which least is used makes room and its key begins anew, with a full bucket of its equal
/// part of the tenth that is split equally. In [`Mode::Hard`] a key that gave its share away never makes room, because
/// the gift would come back to life; keys without a place then share one bucket of an equal share.
#[derive(Debug)]
pub struct MeshRule {
    number: u64,
    limit: Limit,
    mode: Mode,
    seed: u64,
    count: usize,
    slots: OnceLock<Box<[Slot]>>,
    /// A bit for each slot: somebody asks there of whom the shares do not know.
    fresh: Box<[AtomicU64]>,
    /// How many nodes share.
    nodes: AtomicUsize,
    /// Keys of which others say that they are asked.
    spoken: ArcSwap<HashSet<u64>>,
    rest: Gate,
}

#[derive(Debug)]
struct Slot {
    /// The key's hash; 0 is nobody's.
    key: AtomicU64,
    /// Whether the shares know of it, or will by its bit in `fresh`.
    awake: AtomicBool,
    /// Whether its key must stay.
    pinned: AtomicBool,
    gate: Arc<Gate>,
}

impl MeshRule {
    /// `number` names the rule and the service in the whole mesh. `keyed`: there is more than one key. `seed`: a random
    /// number, so that nobody outside can choose keys that meet. `nodes`: how many share, as far as is known.
    #[must_use]
    pub fn new(number: u64, limit: Limit, mode: Mode, keyed: bool, nodes: usize, seed: u64) -> MeshRule {
        let count = if keyed { MESH_KEYS } else { 1 };
        MeshRule {
            number,
            limit,
            mode,
            seed,
            count,
            slots: OnceLock::new(),
            fresh: (0..count.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
            nodes: AtomicUsize::new(nodes.max(1)),
            spoken: ArcSwap::default(),
            rest: Gate::new(limit.pace(equal(nodes))),
        }
    }

    /// Its name in the mesh.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// What all nodes let in together.
    #[must_use]
    pub const fn limit(&self) -> Limit {
        self.limit
    }

    /// How its nodes divide it.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// Lets a request of this key in, or not. A rule without keys has one, whatever its number.
    ///
    /// # Errors
    /// This node's share of the key's limit is used up. The wait is that of an interval at most: by then the share has
    /// grown, if the others leave room.
    pub fn admit(&self, key: u64, now_micros: u64) -> Result<Room, Refused> {
        let now = now_micros.saturating_mul(1_000);
        let verdict = match self.slot(key.max(1), now) {
            Some(slot) => slot.gate.admit(now_micros),
            None => self.rest.admit(now_micros),
        };
        verdict.map_err(|refused| Refused { after: refused.after.min(self.limit.interval.max(1)) })
    }

    /// Takes back that a request of this key was let in: another limit refused it.
    pub fn give_back(&self, key: u64) {
        if let Some(slot) = self.ways(key.max(1)).iter().find(|slot| slot.key.load(Relaxed) == key.max(1)) {
            slot.gate.give_back();
        }
    }

    /// This node's part of the limit, 1 being the whole; for a rule with keys that of one which nobody asks about.
    #[must_use]
    pub fn share(&self) -> f64 {
        let awake = self.slots.get().and_then(|slots| slots.first()).filter(|slot| slot.awake.load(Relaxed));
        match awake {
            Some(slot) if self.count == 1 => slot.gate.part(&self.limit),
            Some(_) | None => self.first_part(1),
        }
    }

    /// How many nodes share it.
    #[must_use]
    pub fn nodes(&self) -> usize {
        self.nodes.load(Relaxed)
    }

    /// Keys that are short of full or asked about.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.slots.get().map_or(0, |slots| slots.iter().filter(|slot| slot.awake.load(Relaxed)).count())
    }

    /// Sets how many share.
    pub(super) fn set_nodes(&self, nodes: usize, now: u64) {
        self.nodes.store(nodes.max(1), Relaxed);
        self.rest.set(self.limit.pace(equal(nodes)), now);
    }

    /// Sets of which keys others speak.
    pub(super) fn set_spoken(&self, keys: HashSet<u64>) {
        self.spoken.store(Arc::new(keys));
    }

    /// The slots where somebody asks of whom the shares do not know yet, with their keys and gates.
    pub(super) fn fresh(&self) -> Vec<(usize, u64, Arc<Gate>)> {
        let Some(slots) = self.slots.get() else { return Vec::new() };
        let mut found = Vec::new();
        for (word, bits) in self.fresh.iter().enumerate() {
            // Most often there are none, and a look costs less than a swap.
            let mut bits = if bits.load(Relaxed) == 0 { 0 } else { bits.swap(0, Relaxed) };
            while bits != 0 {
                let index = word * 64 + bits.trailing_zeros() as usize;
                bits &= bits - 1;
                let slot = slots.get(index).map(|slot| (index, slot.key.load(Relaxed), Arc::clone(&slot.gate)));
                found.extend(slot.filter(|(_, key, _)| *key != 0));
            }
        }
        found
    }

    /// The shares begin with this rule: whoever is awake is news to them.
    pub(super) fn begin_shares(&self) {
        for (index, slot) in self.slots.get().into_iter().flatten().enumerate() {
            if slot.awake.load(Relaxed) {
                self.fresh[index / 64].fetch_or(1 << (index % 64), Relaxed);
            }
        }
    }

    /// Whether the slot is still this key's.
    pub(super) fn holds(&self, index: usize, key: u64) -> bool {
        self.at(index).is_some_and(|slot| slot.key.load(Relaxed) == key)
    }

    /// The shares forget the slot: whoever asks next wakes it.
    pub(super) fn sleep(&self, index: usize) {
        if let Some(slot) = self.at(index) {
            slot.awake.store(false, Relaxed);
        }
    }

    /// The slot is nobody's, if it is still this key's.
    pub(super) fn clear(&self, index: usize, key: u64) {
        if let Some(slot) = self.at(index)
            && slot.key.compare_exchange(key, 0, Relaxed, Relaxed).is_ok()
        {
            slot.pinned.store(false, Relaxed);
            slot.awake.store(false, Relaxed);
        }
    }

    /// What a worker does at a key's first request: two that meet there may do it at two slots.
    #[cfg(test)]
    pub(super) fn take_at(&self, way: usize, key: u64, now: u64) -> usize {
        let index = self.begin(key) + way;
        self.take(index, &self.slots()[index], key, self.first_part(key), now);
        index
    }

    /// What a worker does whose key finds no other place.
    #[cfg(test)]
    pub(super) fn take_from(&self, index: usize, key: u64, part: f64, now: u64) {
        self.take(index, &self.slots()[index], key, part, now);
    }

    #[cfg(test)]
    pub(super) fn part_at(&self, index: usize) -> f64 {
        self.slots()[index].gate.part(&self.limit)
    }

    /// The slot's key must stay from now on, or need not any more.
    pub(super) fn pin(&self, index: usize, pinned: bool) {
        if let Some(slot) = self.at(index) {
            slot.pinned.store(pinned, Relaxed);
        }
    }

    fn at(&self, index: usize) -> Option<&Slot> {
        self.slots.get().and_then(|slots| slots.get(index))
    }

    fn slots(&self) -> &[Slot] {
        let empty = || {
            let gate = Arc::new(Gate::new(self.limit.pace(0.0)));
            Slot { key: AtomicU64::new(0), awake: AtomicBool::new(false), pinned: AtomicBool::new(false), gate }
        };
        self.slots.get_or_init(|| (0..self.count).map(|_| empty()).collect())
    }

    /// Where this key may lie.
    fn ways(&self, key: u64) -> &[Slot] {
        let begin = self.begin(key);
        &self.slots()[begin..self.count.min(begin + WAYS)]
    }

    fn begin(&self, key: u64) -> usize {
        let sets = (self.count / WAYS).max(1) as u64;
        let mixed = (key ^ self.seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        usize::try_from(mixed % sets).unwrap_or(0) * WAYS
    }

    fn slot(&self, key: u64, now: u64) -> Option<&Slot> {
        let key = if self.count == 1 { 1 } else { key };
        let (begin, ways) = (self.begin(key), self.ways(key));
        if let Some(index) = ways.iter().position(|slot| slot.key.load(Relaxed) == key) {
            let slot = &ways[index];
            if !slot.awake.load(Relaxed) {
                self.take(begin + index, slot, key, self.first_part(key), now);
            }
            return Some(slot);
        }
        if let Some(index) = ways.iter().position(|slot| !slot.awake.load(Relaxed)) {
            self.take(begin + index, &ways[index], key, self.first_part(key), now);
            return Some(&ways[index]);
        }
        let movable = ways.iter().enumerate().filter(|(_, slot)| !slot.pinned.load(Relaxed));
        let (index, slot) = movable.min_by_key(|(_, slot)| slot.gate.used(now))?;
        self.take(begin + index, slot, key, self.least_part(), now);
        Some(slot)
    }

    fn take(&self, index: usize, slot: &Slot, key: u64, part: f64, now: u64) {
        slot.gate.begin(self.limit.pace(part), now);
        slot.key.store(key, Relaxed);
        slot.awake.store(true, Relaxed);
        self.fresh[index / 64].fetch_or(1 << (index % 64), Relaxed);
    }

    /// What a key begins with.
    fn first_part(&self, key: u64) -> f64 {
        match self.mode {
            Mode::Split if self.spoken.load().contains(&key) => self.least_part(),
            Mode::Split | Mode::Hard => equal(self.nodes()),
        }
    }

    /// What nobody's demand takes.
    fn least_part(&self) -> f64 {
        match self.mode {
            Mode::Split => EQUAL_PART * equal(self.nodes()),
            // An equal share is every node's own until it gives it away.
            Mode::Hard => equal(self.nodes()),
        }
    }
}
