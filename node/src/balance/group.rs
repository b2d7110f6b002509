//! The choice among endpoints that are equal in priority and place. Each algorithm proposes; a proposal is refused if the
//! endpoint went out since the table was built, was tried by this request before, or gets less than its share for
//! now (warm-up, 429). So what changes from moment to moment needs no new table.

use std::{
    cmp::Ordering,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use super::{
    Ask, Host, Key, Warmup,
    dice::Dice,
    ring::{Maglev, Ring},
    weights::Weights,
};

/// Proposals before the first endpoint that will do is taken in order.
const PROPOSALS: usize = 8;
/// Unequal weights: up to as many hosts are all looked at, of more a sample.
const SMALL: usize = 16;
/// The size of that sample.
const SAMPLE: usize = 8;

/// How one endpoint is chosen among equals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Algorithm {
    /// Istio's default. Equal weights: of two by chance the one with fewer requests under way. Unequal: in proportion
    /// to weight / (requests under way + 1).
    #[default]
    LeastRequest,
    /// In turn, by weight.
    RoundRobin,
    /// By chance, by weight.
    Random,
    /// Of two by chance the one that is expected to answer sooner ([`super::Load::cost`]).
    PeakEwma,
    /// By the hash of a key: ring.
    RingHash {
        /// Places on the ring, at least.
        minimum_size: u32,
    },
    /// By the hash of a key: Maglev's table.
    Maglev {
        /// Its size; the next prime is taken.
        table_size: u32,
    },
}

/// See the module.
#[derive(Debug)]
pub(super) struct Group {
    /// Positions of its hosts, in the order of their names.
    members: Box<[u32]>,
    weights: Weights,
    table: Table,
    turn: AtomicU64,
    warmup: Option<Warmup>,
    /// Hosts that are out are chosen as well.
    panic: bool,
}

/// What holds for the groups of one table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    pub(super) algorithm: Algorithm,
    pub(super) warmup: Option<Warmup>,
    /// Where turns begin.
    pub(super) seed: u64,
    /// True if too few hosts are healthy, so that all are chosen from.
    pub(super) panic: bool,
}

#[derive(Debug)]
enum Table {
    LeastRequest,
    RoundRobin,
    Random,
    PeakEwma,
    Ring(Ring),
    Maglev(Maglev),
}

impl Group {
    /// `members`: positions, in the order of their hosts' names. `scale` multiplies a host's weight on rings and tables,
    /// where the shares of localities have no other place.
    pub(super) fn new(hosts: &[Host], members: &[usize], manner: Manner, scale: impl Fn(&Host) -> f64) -> Group {
        let Manner { algorithm, warmup, seed, panic } = manner;
        let by_name = || -> Vec<(Key, f64)> {
            let named = members.iter().map(|position| &hosts[*position]);
            named.map(|host| (Key::clone(&host.id), f64::from(host.weight.max(1)) * scale(host))).collect()
        };
        let (table, warmup) = match algorithm {
            Algorithm::LeastRequest => (Table::LeastRequest, warmup),
            Algorithm::RoundRobin => (Table::RoundRobin, warmup),
            Algorithm::Random => (Table::Random, None),
            Algorithm::PeakEwma => (Table::PeakEwma, None),
            Algorithm::RingHash { minimum_size } => (Table::Ring(Ring::new(&by_name(), minimum_size)), None),
            Algorithm::Maglev { table_size } => (Table::Maglev(Maglev::new(&by_name(), table_size)), None),
        };
        Group {
            members: members.iter().map(|position| u32::try_from(*position).unwrap_or(u32::MAX)).collect(),
            weights: Weights::new(members.iter().map(|position| hosts[*position].weight)),
            table,
            turn: AtomicU64::new(seed >> 1),
            warmup,
            panic,
        }
    }

    /// A host that is in and was not tried.
    pub(super) fn fresh(&self, hosts: &[Host], ask: &Ask<'_>, dice: &mut Dice) -> Option<usize> {
        let fits = |position: usize| self.is_in(&hosts[position]) && !ask.tried.contains(position);
        self.choose(hosts, ask, dice, fits)
    }

    /// A host that is in, tried or not.
    pub(super) fn any(&self, hosts: &[Host], ask: &Ask<'_>, dice: &mut Dice) -> Option<usize> {
        self.choose(hosts, ask, dice, |position| self.is_in(&hosts[position]))
    }

    fn is_in(&self, host: &Host) -> bool {
        self.panic || !host.is_out()
    }

    fn choose(&self, hosts: &[Host], ask: &Ask<'_>, dice: &mut Dice, fits: impl Fn(usize) -> bool) -> Option<usize> {
        if self.members.is_empty() {
            return None;
        }
        let hash = ask.hash.unwrap_or_else(|| dice.next());
        match &self.table {
            Table::Ring(ring) => return self.first_of(ring.walk(hash).take(self.steps()).chain(self.from(hash)), fits),
            Table::Maglev(table) => {
                return self.first_of(table.walk(hash).take(self.steps()).chain(self.from(hash)), fits);
            }
            Table::LeastRequest | Table::RoundRobin | Table::Random | Table::PeakEwma => {}
        }
        let mut held_back = None;
        for _ in 0..PROPOSALS {
            let position = self.position(self.propose(hosts, ask, dice));
            if !fits(position) {
                continue;
            }
            let share = hosts[position].load.share(self.warmup.as_ref(), ask.now);
            if share >= 1.0 || dice.unit() < share {
                return Some(position);
            }
            held_back = Some(position);
        }
        held_back.or_else(|| self.first_of(self.from(dice.next()), fits))
    }

    fn propose(&self, hosts: &[Host], ask: &Ask<'_>, dice: &mut Dice) -> usize {
        match &self.table {
            Table::LeastRequest if self.weights.are_equal() => {
                self.better_of_two(dice, |index| self.host(hosts, index).load.active(), |a, b| a.cmp(b))
            }
            Table::LeastRequest => self.least_weighted(hosts, dice),
            Table::RoundRobin => self.weights.turn(self.turn.fetch_add(1, Relaxed)),
            Table::PeakEwma => self.better_of_two(
                dice,
                |index| f64::from(self.host(hosts, index).load.cost(ask.now)) / as_f64(self.weights.of(index)),
                f64::total_cmp,
            ),
            Table::Random | Table::Ring(_) | Table::Maglev(_) => self.weights.at(dice.below(self.weights.total())),
        }
    }

    /// Power of two choices: of two different hosts by chance the one that is less, the first if they are alike.
    fn better_of_two<T>(
        &self,
        dice: &mut Dice,
        burden: impl Fn(usize) -> T,
        compare: impl Fn(&T, &T) -> Ordering,
    ) -> usize {
        let count = self.members.len();
        if count == 1 {
            return 0;
        }
        let one = usize::try_from(dice.below(count as u64)).unwrap_or(0);
        let offset = 1 + usize::try_from(dice.below(count as u64 - 1)).unwrap_or(0);
        let other = if one + offset < count { one + offset } else { one + offset - count };
        if compare(&burden(other), &burden(one)).is_lt() { other } else { one }
    }

    /// A draw in proportion to weight / (requests under way + 1). Of many hosts a sample by weight is drawn first, and
    /// one of it by 1 / (requests under way + 1): the same proportion, nearly, at a cost that does not grow.
    fn least_weighted(&self, hosts: &[Host], dice: &mut Dice) -> usize {
        let ease = |index: usize| 1.0 / (f64::from(self.host(hosts, index).load.active()) + 1.0);
        let mut sample = [(0, 0.0); SMALL];
        let count = if self.members.len() <= SMALL {
            for (index, place) in sample.iter_mut().enumerate().take(self.members.len()) {
                *place = (index, ease(index) * as_f64(self.weights.of(index)));
            }
            self.members.len()
        } else {
            for place in &mut sample[..SAMPLE] {
                let index = self.weights.at(dice.below(self.weights.total()));
                *place = (index, ease(index));
            }
            SAMPLE
        };
        let sample = &sample[..count];
        let mut left = dice.unit() * sample.iter().map(|(_, score)| score).sum::<f64>();
        let chosen = sample.iter().find(|(_, score)| {
            left -= score;
            left < 0.0
        });
        chosen.or(sample.last()).map_or(0, |(index, _)| *index)
    }

    fn first_of(&self, indices: impl Iterator<Item = usize>, fits: impl Fn(usize) -> bool) -> Option<usize> {
        indices.map(|index| self.position(index)).find(|position| fits(*position))
    }

    /// Places of a ring or a table that are looked at. They repeat their hosts, so a walk in which none will do ends long
    /// before the last place; after it come the hosts in order.
    fn steps(&self) -> usize {
        4 * self.members.len()
    }

    /// All, beginning anywhere.
    fn from(&self, random: u64) -> impl Iterator<Item = usize> + use<> {
        let count = self.members.len();
        let begin = usize::try_from(random % count.max(1) as u64).unwrap_or(0);
        (begin..count).chain(0..begin)
    }

    fn position(&self, index: usize) -> usize {
        self.members[index] as usize
    }

    fn host<'a>(&self, hosts: &'a [Host], index: usize) -> &'a Host {
        &hosts[self.position(index)]
    }
}

fn as_f64(weight: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "weights above 2^53 may lose their last bits")]
    let weight = weight as f64;
    weight
}
