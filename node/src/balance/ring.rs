//! Consistent hashing: the ring and Maglev's table. Both depend on names and weights alone, so that every node with the
//! same endpoints sends the same key to the same one.

use twox_hash::XxHash64;

use super::Key;

/// Istio's `minimumRingSize` unless the policy says otherwise.
pub const DEFAULT_RING: u32 = 1_024;
/// The most places on a ring, whatever the weights and the policy: 16 MiB.
pub const LARGEST_RING: u32 = 1 << 20;
/// Maglev's table unless the policy says otherwise; a prime.
pub const DEFAULT_MAGLEV: u32 = 65_537;
/// The largest table that Istio accepts.
pub const LARGEST_MAGLEV: u32 = 5_000_011;

/// The hash of what a request is to be chosen by (xxHash64).
#[must_use]
pub fn hash(value: &[u8]) -> u64 {
    XxHash64::oneshot(0, value)
}

/// Endpoints on a ring, as often as their weight asks.
#[derive(Debug)]
pub(super) struct Ring {
    places: Box<[(u64, u32)]>,
}

impl Ring {
    /// Each host gets places in proportion to its weight, the lightest at least one and all at least `minimum`.
    pub(super) fn new(hosts: &[(Key, f64)], minimum: u32) -> Ring {
        let total: f64 = hosts.iter().map(|(_, weight)| weight).sum();
        let lightest = hosts.iter().map(|(_, weight)| weight / total).fold(1.0, f64::min);
        let scale = ((lightest * f64::from(minimum)).ceil() / lightest).min(f64::from(LARGEST_RING));
        let mut places = Vec::new();
        let (mut placed, mut due) = (0.0, 0.0);
        for (index, (name, weight)) in (0u32..).zip(hosts) {
            due += scale * weight / total;
            let mut copy = 0u32;
            while placed < due {
                places.push((hash(format!("{name}_{copy}").as_bytes()), index));
                copy += 1;
                placed += 1.0;
            }
        }
        places.sort_unstable();
        Ring { places: places.into() }
    }

    /// The hosts in the order in which the ring offers them to a key; the same one may come several times.
    pub(super) fn walk(&self, hash: u64) -> impl Iterator<Item = usize> {
        let begin = self.places.partition_point(|(place, _)| *place < hash);
        self.places[begin..].iter().chain(&self.places[..begin]).map(|(_, host)| *host as usize)
    }
}

/// Maglev's table: every place is one host's, and a host that leaves moves few of the others' places.
#[derive(Debug)]
pub(super) struct Maglev {
    places: Box<[u32]>,
}

impl Maglev {
    /// `size` becomes the next prime, because the permutations need one.
    pub(super) fn new(hosts: &[(Key, f64)], size: u32) -> Maglev {
        const FREE: u32 = u32::MAX;
        let size = prime(u64::from(size.min(LARGEST_MAGLEV)));
        let heaviest = hosts.iter().map(|(_, weight)| *weight).fold(0.0, f64::max);
        let mut walkers: Vec<Walker> = hosts.iter().map(|(name, weight)| Walker::new(name, *weight, size)).collect();
        let mut places = vec![FREE; if hosts.is_empty() { 0 } else { usize::try_from(size).unwrap_or(0) }];
        let mut left = places.len();
        let mut round = 0.0;
        while left > 0 {
            round += 1.0;
            for (index, walker) in (0u32..).zip(&mut walkers) {
                if round * walker.weight < walker.due {
                    continue;
                }
                walker.due += heaviest;
                let place = loop {
                    let place = walker.next(size);
                    if places[place] == FREE {
                        break place;
                    }
                };
                places[place] = index;
                left -= 1;
                if left == 0 {
                    break;
                }
            }
        }
        Maglev { places: places.into() }
    }

    /// The hosts in the order in which the table offers them to a key; the same one may come several times.
    pub(super) fn walk(&self, hash: u64) -> impl Iterator<Item = usize> {
        let size = self.places.len();
        let begin = usize::try_from(hash % size.max(1) as u64).unwrap_or(0);
        self.places[begin..].iter().chain(&self.places[..begin]).map(|host| *host as usize)
    }
}

/// A host on its way through its own permutation of the places.
struct Walker {
    place: u64,
    skip: u64,
    weight: f64,
    /// The host takes a place in each round that is this heavy for it.
    due: f64,
}

impl Walker {
    fn new(name: &Key, weight: f64, size: u64) -> Walker {
        let place = hash(name.as_bytes()) % size;
        let skip = XxHash64::oneshot(1, name.as_bytes()) % (size - 1) + 1;
        Walker { place, skip, weight, due: weight }
    }

    fn next(&mut self, size: u64) -> usize {
        let place = self.place;
        self.place = (place + self.skip) % size;
        usize::try_from(place).unwrap_or(0)
    }
}

/// The least prime from `number` on, 2 at least.
fn prime(number: u64) -> u64 {
    let is_prime =
        |number: u64| (2..).take_while(|factor| factor * factor <= number).all(|f| !number.is_multiple_of(f));
    (number.max(2)..).find(|number| is_prime(*number)).unwrap_or(2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hosts(weights: &[f64]) -> Vec<(Key, f64)> {
        weights.iter().enumerate().map(|(index, weight)| (format!("node{index}/default/app").into(), *weight)).collect()
    }

    fn first(walk: impl Iterator<Item = usize>) -> usize {
        walk.take(1).last().expect("tables of some hosts have places")
    }

    #[test]
    fn the_hash_stays_the_same_on_all_machines_and_versions() {
        // The published vector of xxHash64 with seed 0.
        assert_eq!(hash(b""), 0xEF46_DB37_51D8_E999);
    }

    #[test]
    fn a_ring_has_the_least_size_and_follows_weights() {
        assert_eq!(Ring::new(&hosts(&[1.0; 4]), 1_024).places.len(), 1_024);
        assert_eq!(Ring::new(&hosts(&[1.0; 3]), 1_024).places.len(), 1_026, "the same number for each");
        assert_eq!(Ring::new(&hosts(&[1.0, 1e12]), 1_024).places.len(), LARGEST_RING as usize);
        let ring = Ring::new(&hosts(&[1.0, 3.0]), 1_024);
        let heavy = ring.places.iter().filter(|(_, host)| *host == 1).count();
        assert_eq!((heavy, ring.places.len()), (768, 1_024));
        assert_eq!(Ring::new(&[], 1_024).walk(7).count(), 0);
    }

    #[test]
    fn maglev_fills_its_table_by_weight() {
        let table = Maglev::new(&hosts(&[1.0, 2.0, 4.0]), 65_537);
        let mut counts = [0u32; 3];
        for place in &table.places {
            counts[*place as usize] += 1;
        }
        for (count, due) in counts.iter().zip([1.0, 2.0, 4.0]) {
            let share = f64::from(*count) / 65_537.0;
            assert!((share - due / 7.0).abs() < 0.001, "{counts:?}");
        }
        assert_eq!(Maglev::new(&[], 7).walk(3).count(), 0);
    }

    #[test]
    fn sizes_become_primes() {
        assert_eq!([0, 1, 2, 4, 90, 65_537].map(prime), [2, 2, 2, 5, 97, 65_537]);
        assert_eq!(prime(u64::from(LARGEST_MAGLEV)), 5_000_011);
    }

    #[test]
    fn who_leaves_moves_hardly_anybody_else() {
        let all = hosts(&[1.0; 10]);
        let nine = &all[..9];
        let (rings, tables) =
            ([&all[..], nine].map(|hosts| Ring::new(hosts, 1_024)), [&all[..], nine].map(|h| Maglev::new(h, 65_537)));
        let (mut by_ring, mut by_maglev) = (0, 0);
        for key in 0..10_000u32 {
            let hash = hash(&key.to_le_bytes());
            let [before, after] = [0, 1].map(|side| first(rings[side].walk(hash)));
            by_ring += u32::from(before != 9 && before != after);
            let [before, after] = [0, 1].map(|side| first(tables[side].walk(hash)));
            by_maglev += u32::from(before != 9 && before != after);
        }
        // The nine get more places each than the ten had, and a few keys follow.
        assert!(by_ring < 1_500, "{by_ring}");
        assert!(by_maglev < 1_000, "{by_maglev}");
    }

    proptest! {
        #[test]
        fn a_walk_meets_everybody(count in 1usize..30, key: u64) {
            let hosts = hosts(&vec![1.0; count]);
            let sorted = |walk: Vec<usize>| walk.into_iter().collect::<std::collections::BTreeSet<_>>().len();
            prop_assert_eq!(sorted(Ring::new(&hosts, 128).walk(key).collect()), count);
            prop_assert_eq!(sorted(Maglev::new(&hosts, 251).walk(key).collect()), count);
        }
    }
}
