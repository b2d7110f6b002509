//! One endpoint out of many.
//!
//! Endpoints that an earlier attempt of the same request used are avoided as long as another one exists
//! (Istio's `retryIgnorePreviousHosts`), and those that went out since then always; without any candidate the answer is
//! `None` (503 `UH`).

use policy::kinds::Balance;

/// What the choice needs to know of an endpoint.
pub trait Candidate {
    /// Its share relative to the others; 0 counts as 1, as in Istio's WorkloadEntry.
    fn weight(&self) -> u32;
    /// Requests that this node has under way to it.
    fn active(&self) -> u32;
    /// True if it went out after the list of candidates was made.
    fn is_out(&self) -> bool;
}

/// Positions of candidates that earlier attempts of one request used. Holds the last 8: more attempts than that
/// may meet an old endpoint again.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tried {
    positions: [u32; Self::LIMIT],
    count: usize,
}

impl Tried {
    const LIMIT: usize = 8;

    /// Before the first attempt.
    pub const NONE: Tried = Tried { positions: [0; Self::LIMIT], count: 0 };

    /// Remembers a position, forgetting the oldest beyond the limit.
    pub fn add(&mut self, position: usize) {
        self.positions[self.count % Self::LIMIT] = u32::try_from(position).unwrap_or(u32::MAX);
        self.count += 1;
    }

    /// True if the position was used.
    #[must_use]
    pub fn contains(&self, position: usize) -> bool {
        self.positions[..self.count.min(Self::LIMIT)].iter().any(|tried| *tried as usize == position)
    }

    /// True before the first attempt.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// The position of the chosen candidate.
///
/// `turn` counts the choices made by this caller in this cluster (round robin), `random` is drawn per choice.
#[must_use]
pub fn pick<C: Candidate>(candidates: &[C], balance: Balance, tried: &Tried, turn: u64, random: u64) -> Option<usize> {
    if candidates.is_empty() {
        return None;
    }
    if tried.is_empty() {
        let position = choose(candidates, balance, &All(candidates.len()), turn, random)?;
        if !candidates[position].is_out() {
            return Some(position);
        }
    }
    let there: Vec<usize> = (0..candidates.len()).filter(|position| !candidates[*position].is_out()).collect();
    let fresh: Vec<usize> = there.iter().copied().filter(|position| !tried.contains(*position)).collect();
    let remaining = if fresh.is_empty() { there } else { fresh };
    if remaining.is_empty() { None } else { choose(candidates, balance, &Remaining(remaining), turn, random) }
}

/// The positions among which a choice is made: all, without a list, or those that remain.
trait Positions {
    fn len(&self) -> usize;
    fn at(&self, index: usize) -> usize;
}

struct All(usize);

impl Positions for All {
    fn len(&self) -> usize {
        self.0
    }

    fn at(&self, index: usize) -> usize {
        index
    }
}

struct Remaining(Vec<usize>);

impl Positions for Remaining {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn at(&self, index: usize) -> usize {
        self.0[index]
    }
}

fn choose<C: Candidate, P: Positions>(
    candidates: &[C],
    balance: Balance,
    among: &P,
    turn: u64,
    random: u64,
) -> Option<usize> {
    let weight = |index: usize| u64::from(candidates[among.at(index)].weight().max(1));
    let first = weight(0);
    let equal = (1..among.len()).all(|index| weight(index) == first);
    let index = match balance {
        Balance::LeastRequest if equal => least_of_two(candidates, among, random),
        Balance::LeastRequest => least_weighted(candidates, among, random),
        Balance::RoundRobin if equal => below(turn, among.len()),
        Balance::RoundRobin => {
            let total = (0..among.len()).map(weight).sum();
            at_share(among.len(), spread(turn, total), weight)
        }
        Balance::Random if equal => below(random, among.len()),
        Balance::Random => {
            let total: u64 = (0..among.len()).map(weight).sum();
            at_share(among.len(), random % total, weight)
        }
    };
    Some(among.at(index))
}

/// Power of two choices: of two different candidates the one with fewer requests under way.
fn least_of_two<C: Candidate, P: Positions>(candidates: &[C], among: &P, random: u64) -> usize {
    let count = among.len();
    if count == 1 {
        return 0;
    }
    let one = below(random & u64::from(u32::MAX), count);
    let offset = 1 + below(random >> 32, count - 1);
    let other = (one + offset) % count;
    if candidates[among.at(other)].active() < candidates[among.at(one)].active() { other } else { one }
}

/// Unequal weights: a draw in proportion to weight / (active + 1), which is what Envoy's schedule tends to.
fn least_weighted<C: Candidate, P: Positions>(candidates: &[C], among: &P, random: u64) -> usize {
    let score = |index: usize| {
        let candidate = &candidates[among.at(index)];
        f64::from(candidate.weight().max(1)) / (f64::from(candidate.active()) + 1.0)
    };
    let total: f64 = (0..among.len()).map(score).sum();
    #[expect(clippy::cast_precision_loss, reason = "53 bits of a random number are plenty")]
    let mut left = (random >> 11) as f64 / (1u64 << 53) as f64 * total;
    for index in 0..among.len() {
        left -= score(index);
        if left < 0.0 {
            return index;
        }
    }
    among.len() - 1
}

/// `value` modulo `count`, as an index.
fn below(value: u64, count: usize) -> usize {
    usize::try_from(value % count as u64).unwrap_or(0)
}

/// The index into whose share of the summed weights `share` falls.
fn at_share(count: usize, mut share: u64, weight: impl Fn(usize) -> u64) -> usize {
    for index in 0..count {
        let own = weight(index);
        if share < own {
            return index;
        }
        share -= own;
    }
    count - 1
}

/// Walks 0..total in steps near the golden section, so that each `total` turns meet every share exactly once and
/// heavy candidates are not served in a row.
fn spread(turn: u64, total: u64) -> u64 {
    let mut step = (total * 618 / 1000).max(1);
    while gcd(step, total) != 1 {
        step += 1;
    }
    let position = u128::from(turn) * u128::from(step) % u128::from(total);
    u64::try_from(position).unwrap_or(0)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone, Copy)]
    struct Host {
        weight: u32,
        active: u32,
        out: bool,
    }

    impl Candidate for Host {
        fn weight(&self) -> u32 {
            self.weight
        }

        fn active(&self) -> u32 {
            self.active
        }

        fn is_out(&self) -> bool {
            self.out
        }
    }

    fn host(weight: u32, active: u32) -> Host {
        Host { weight, active, out: false }
    }

    /// A fixed sequence that fills 64 bits (splitmix64).
    fn random(seed: u64) -> u64 {
        let mut z = seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn counts(hosts: &[Host], balance: Balance, draws: u64) -> Vec<u64> {
        let mut counts = vec![0; hosts.len()];
        for draw in 0..draws {
            let chosen = pick(hosts, balance, &Tried::default(), draw, random(draw)).expect("hosts are not empty");
            counts[chosen] += 1;
        }
        counts
    }

    #[test]
    fn nothing_to_choose_from_is_an_answer() {
        let none: [Host; 0] = [];
        assert_eq!(pick(&none, Balance::LeastRequest, &Tried::default(), 0, 0), None);
    }

    #[test]
    fn what_went_out_since_is_never_chosen() {
        let mut hosts = [host(1, 0), host(1, 9), host(1, 9)];
        (hosts[0].out, hosts[2].out) = (true, true);
        let mut tried = Tried::default();
        for _ in 0..2 {
            for draw in 0..50 {
                assert_eq!(pick(&hosts, Balance::LeastRequest, &tried, draw, random(draw)), Some(1));
            }
            // One that was tried is still better than one that is out.
            tried.add(1);
        }
        hosts[1].out = true;
        assert_eq!(pick(&hosts, Balance::Random, &tried, 0, 0), None);
        assert_eq!(pick(&hosts[..1], Balance::Random, &Tried::default(), 0, 0), None);
    }

    #[test]
    fn round_robin_takes_turns() {
        assert_eq!(counts(&[host(1, 9), host(1, 0), host(1, 0)], Balance::RoundRobin, 30), [10, 10, 10]);
        let turns: Vec<_> = (0..6)
            .map(|turn| pick(&[host(1, 0), host(1, 0)], Balance::RoundRobin, &Tried::default(), turn, 7))
            .collect();
        assert_eq!(turns, [Some(0), Some(1), Some(0), Some(1), Some(0), Some(1)]);
    }

    #[test]
    fn round_robin_follows_weights_exactly() {
        assert_eq!(counts(&[host(3, 0), host(1, 0), host(6, 0)], Balance::RoundRobin, 1000), [300, 100, 600]);
    }

    #[test]
    fn least_request_prefers_the_idle() {
        let counts = counts(&[host(1, 10), host(1, 0), host(1, 10)], Balance::LeastRequest, 3000);
        assert!(counts[1] > 1800 && counts[1] < 2200, "two of three pairs hold the idle host: {counts:?}");
    }

    #[test]
    fn least_request_follows_weights_when_all_are_idle() {
        let counts = counts(&[host(3, 0), host(1, 0)], Balance::LeastRequest, 10_000);
        assert!((7200..7800).contains(&counts[0]), "{counts:?}");
    }

    #[test]
    fn random_follows_weights() {
        let counts = counts(&[host(9, 0), host(1, 0)], Balance::Random, 10_000);
        assert!((8800..9200).contains(&counts[0]), "{counts:?}");
    }

    proptest! {
        #[test]
        fn tried_hosts_are_avoided_while_another_is_left(
            weights in proptest::collection::vec((0u32..5, 0u32..5), 2..7),
            skipped in proptest::collection::vec(0usize..7, 0..8),
            (turn, random) in (any::<u64>(), any::<u64>()),
        ) {
            let hosts: Vec<_> = weights.iter().map(|(weight, active)| host(*weight, *active)).collect();
            let mut tried = Tried::default();
            for position in &skipped {
                tried.add(*position);
            }
            let all_tried = (0..hosts.len()).all(|position| tried.contains(position));
            for balance in [Balance::LeastRequest, Balance::RoundRobin, Balance::Random] {
                let chosen = pick(&hosts, balance, &tried, turn, random).expect("hosts are not empty");
                prop_assert!(chosen < hosts.len());
                prop_assert!(all_tried || !tried.contains(chosen));
            }
        }
    }
}
