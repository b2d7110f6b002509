//! All shares of several nodes: keys, statements, and nodes that come and go.

use super::*;
use crate::balance::rate::shares::Held;
use proptest::prelude::*;

const LIMIT: Limit = Limit { requests: 100, interval: 1_000, burst: 100 };
/// Fast enough that chance moves no share by much.
const FAST: Limit = Limit { requests: 1_000, burst: 1_000, ..LIMIT };
const RULE: u64 = 9;

fn key(node: usize) -> Key {
    format!("n{node:02}").into()
}

/// Nodes with one rule each, and the statements that are under way.
struct World {
    nodes: Vec<Shares>,
    tables: Vec<Arc<MeshRule>>,
    /// By the time of arrival and a number: to whom, from whom, what.
    news: BTreeMap<(Millis, usize), (usize, usize, Statement)>,
    last: BTreeMap<(usize, usize), Millis>,
    dice: Dice,
    now: Millis,
    sent: usize,
    latency: Millis,
}

impl World {
    fn new(count: usize, limit: Limit, mode: Mode, keyed: bool) -> World {
        let table = |_| Arc::new(MeshRule::new(RULE, limit, mode, keyed, count, 5));
        let mut world = World {
            nodes: (0..count).map(|node| Shares::new(key(node))).collect(),
            tables: (0..count).map(table).collect(),
            news: BTreeMap::new(),
            last: BTreeMap::new(),
            dice: Dice::new(3),
            now: 1_000,
            sent: 0,
            latency: WINDOW_MS,
        };
        world.members(&(0..count).collect::<Vec<_>>());
        world
    }

    /// These know each other and nobody else.
    fn members(&mut self, members: &[usize]) {
        let names: BTreeSet<Key> = members.iter().map(|node| key(*node)).collect();
        for node in members {
            self.nodes[*node].set_rules(vec![(Arc::clone(&self.tables[*node]), names.clone())], self.now);
        }
    }

    /// A statement takes its time, and does not overtake the one before it.
    fn say(&mut self, from: usize, statement: &Statement, reaches: &impl Fn(usize, usize) -> bool) {
        for to in (0..self.nodes.len()).filter(|to| *to != from && reaches(from, *to)) {
            let soonest = self.last.get(&(from, to)).copied().unwrap_or(0);
            let at = (self.now + self.dice.below(self.latency.max(1))).max(soonest);
            self.last.insert((from, to), at);
            self.sent += 1;
            self.news.insert((at, self.sent), (to, from, statement.clone()));
        }
    }

    /// One millisecond with this many requests a second on each node for each key; how many were let in.
    fn step(&mut self, rates: &[&[(u64, f64)]], reaches: impl Fn(usize, usize) -> bool) -> u64 {
        self.now += 1;
        let mut admitted = 0;
        for (table, rates) in self.tables.iter().zip(rates) {
            for (key, rate) in *rates {
                for _ in 0..arrivals(&mut self.dice, rate / 1_000.0) {
                    admitted += u64::from(table.admit(*key, self.now * 1_000).is_ok());
                }
            }
        }
        while let Some(arrival) = self.news.first_entry().filter(|arrival| arrival.key().0 <= self.now) {
            let (to, from, statement) = arrival.remove();
            self.nodes[to].heard(&key(from), statement, self.now);
        }
        for from in 0..self.nodes.len() {
            if (self.now + 41 * from as u64).is_multiple_of(WINDOW_MS)
                && let Some(statement) = self.nodes[from].close_window(self.now)
            {
                self.say(from, &statement, &reaches);
            }
        }
        admitted
    }

    fn run(&mut self, millis: u64, rates: &[&[(u64, f64)]]) -> u64 {
        (0..millis).map(|_| self.step(rates, |_, _| true)).sum()
    }

    fn shares(&self) -> Vec<f64> {
        self.tables.iter().map(|table| table.share()).collect()
    }
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() < 0.06
}

#[test]
fn a_node_alone_has_the_whole_limit_at_once() {
    let mut world = World::new(1, Limit { requests: 1, interval: 3_600_000, burst: 3 }, Mode::Split, false);
    let let_in = |world: &World| (0..5).filter(|_| world.tables[0].admit(1, world.now * 1_000).is_ok()).count();
    assert_eq!(let_in(&world), 3);
    world.run(500, &[&[]]);
    assert_eq!((let_in(&world), world.shares()), (0, vec![1.0]));
    assert_eq!(world.sent, 0);
    let refused = world.tables[0].admit(1, world.now * 1_000).unwrap_err();
    assert!(refused.after > 3_500_000 && refused.after <= 3_600_000, "{refused:?}");
}

#[test]
fn who_joins_takes_its_part_and_who_leaves_gives_it_back() {
    let mut world = World::new(3, FAST, Mode::Split, false);
    world.members(&[0, 1]);
    // What is asked counts as the whole limit at most.
    let busy: &[&[(u64, f64)]] = &[&[(1, 1_500.0)], &[(1, 500.0)], &[]];
    world.run(3_000, busy);
    let shares = world.shares();
    assert!(close(shares[0], 0.6 + 0.05) && close(shares[1], 0.3 + 0.05), "{shares:?}");
    world.members(&[0, 1, 2]);
    let begun = world.tables[2].share();
    assert!(close(begun, 0.1 / 3.0), "it heard what is asked of the others: {begun}");
    world.run(3_000, &[&[], &[(1, 500.0)], &[(1, 500.0)]]);
    let shares = world.shares();
    assert!(close(shares[0], 0.033) && close(shares[1], 0.48) && close(shares[2], 0.48), "{shares:?}");
    // Dead it keeps its share, for it may live elsewhere; left or evicted it does not.
    world.run(3_000, &[&[], &[(1, 500.0)], &[]]);
    world.members(&[0, 1]);
    world.run(1_000, &[&[], &[(1, 500.0)], &[]]);
    assert!(close(world.tables[1].share(), 0.95), "{:?}", world.shares());
}

#[test]
fn a_partition_and_a_restart_are_as_said() {
    let mut world = World::new(3, FAST, Mode::Split, false);
    let busy: [&[(u64, f64)]; 3] = [&[(1, 1_000.0)]; 3];
    world.run(3_000, &busy);
    for _ in 0..4_000 {
        world.step(&busy, |from, to| from != 2 && to != 2);
    }
    let sum: f64 = world.shares().iter().sum();
    assert!(
        sum <= 1.0 + 1e-9 && world.shares()[2] > 0.25,
        "cut off, it goes on with what it had: {:?}",
        world.shares()
    );
    // Restarted it says nothing yet, and what it said before counts no more.
    world.nodes[0].heard(&key(2), Statement::new(), world.now);
    world.nodes[1].heard(&key(2), Statement::new(), world.now);
    for _ in 0..1_000 {
        world.step(&[&[(1, 1_000.0)], &[(1, 1_000.0)], &[]], |from, to| from != 2 && to != 2);
    }
    assert!(close(world.tables[0].share(), 0.48), "{:?}", world.shares());
}

#[test]
fn each_key_has_its_own_limit_and_what_nobody_asks_about_is_forgotten() {
    let mut world = World::new(2, LIMIT, Mode::Split, true);
    let uneven: &[&[(u64, f64)]] = &[&[(1, 300.0), (2, 30.0)], &[(1, 30.0), (3, 300.0)]];
    world.run(2_000, uneven);
    let admitted = world.run(10_000, uneven);
    let due = 10.0 * (100.0 + 30.0 + 100.0);
    assert!((0.9..1.03).contains(&(admitted as f64 / due)), "{admitted} of {due}");
    world.run(5_000, &[&[], &[]]);
    let sent = world.sent;
    world.run(5_000, &[&[], &[]]);
    assert!(world.sent <= sent + 4, "that there is nothing to say is said a few times: {} {sent}", world.sent);
    world.run(10_000, &[&[], &[]]);
    let sent = world.sent;
    world.run(10_000, &[&[], &[]]);
    assert_eq!(world.sent, sent);
    assert_eq!(world.tables.iter().map(|table| table.keys()).collect::<Vec<_>>(), [0, 0]);
}

#[test]
fn a_rule_that_went_and_comes_again_is_followed_again() {
    let mut world = World::new(2, FAST, Mode::Split, false);
    let busy: [&[(u64, f64)]; 2] = [&[(1, 800.0)], &[(1, 800.0)]];
    world.run(1_000, &busy);
    for node in &mut world.nodes {
        node.set_rules(Vec::new(), world.now);
    }
    world.members(&[0, 1]);
    world.run(3_000, &[&[(1, 800.0)], &[]]);
    assert!(close(world.tables[0].share(), 0.95), "{:?}", world.shares());
}

#[test]
fn a_first_request_of_a_key_finds_its_equal_share_or_the_tenth() {
    let mut world = World::new(4, LIMIT, Mode::Split, true);
    let at_once = |world: &World, node: usize, key: u64| {
        (0..200).filter(|_| world.tables[node].admit(key, world.now * 1_000).is_ok()).count()
    };
    assert_eq!(at_once(&world, 0, 7), 25);
    let busy: &[&[(u64, f64)]] = &[&[], &[(8, 500.0)], &[], &[]];
    world.run(1_000, busy);
    assert_eq!(at_once(&world, 0, 8), 2, "all of it is asked elsewhere");
    assert_eq!(at_once(&world, 0, 9), 25);
}

#[test]
fn strangers_who_make_up_keys_get_their_part_of_the_tenth_and_cost_a_bounded_amount() {
    let mut world = World::new(2, Limit { requests: 10, interval: 60_000, burst: 10 }, Mode::Split, true);
    let now = world.now * 1_000;
    assert_eq!((0..99).filter(|_| world.tables[0].admit(77, now).is_ok()).count(), 5);
    let admitted = (1_000..101_000).filter(|key| world.tables[0].admit(*key, now).is_ok()).count();
    assert_eq!((admitted, world.tables[0].keys()), (100_000, MESH_KEYS));
    assert_eq!((0..99).filter(|_| world.tables[0].admit(77, now).is_ok()).count(), 0, "who used more stays");
    let mut largest = 0;
    for _ in 0..3_000 {
        world.step(&[&[], &[]], |_, _| true);
        let statements = world.news.values().map(|(_, _, statement)| statement.len());
        largest = largest.max(statements.max().unwrap_or(0));
    }
    assert_eq!(largest, VOICES_EACH);
}

#[test]
fn a_hard_limit_of_many_keys_names_few_and_forgets_no_gift() {
    let mut world = World::new(3, LIMIT, Mode::Hard, true);
    let keys: Vec<(u64, f64)> = (1..60).map(|key| (key, 60.0)).collect();
    world.run(3_000, &[&[], &keys, &[]]);
    let given = world.news.values().map(|(_, _, statement)| statement.len()).max().unwrap_or(0);
    assert!(given <= HARD_VOICES, "{given}");
    // What was given away makes no room for strangers, so it never comes back to life.
    let now = world.now * 1_000;
    for stranger in 1_000..50_000 {
        let _ = world.tables[0].admit(stranger, now);
    }
    let before = world.tables[0].keys();
    world.run(300, &[&[], &keys, &[]]);
    assert!(before <= MESH_KEYS && world.tables[0].keys() <= MESH_KEYS);
}

#[test]
fn a_key_that_is_new_since_the_last_window_follows_what_is_heard() {
    let world = &mut World::new(4, LIMIT, Mode::Split, true);
    assert!(world.tables[0].admit(5, world.now * 1_000).is_ok());
    let said = Said { demand: WHOLE, ..Said::default() };
    world.nodes[0].heard(&key(1), Statement::from([(LimitId { number: RULE, key: 5 }, said)]), world.now);
    let more = (0..99).filter(|_| world.tables[0].admit(5, world.now * 1_000).is_ok()).count();
    assert!(more <= 2, "{more} beyond the first");
}

#[test]
fn ids_travel() {
    let id = LimitId { number: 0x0102_0304_0506_0708, key: u64::MAX - 5 };
    assert_eq!(LimitId::of(id.bytes()), id);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    /// Whatever is asked where: while news takes no longer than a window, all nodes together let in no more than the limit times
    /// the time and a burst, and one for each node, whose bucket holds one at least.
    #[test]
    fn never_more_than_the_limit_and_a_burst(
        count in 2usize..6,
        shifts in proptest::collection::vec(proptest::array::uniform5(0u32..400), 1..8),
        millis in 150u64..1_500,
        burst in 1u32..150,
    ) {
        let limit = Limit { burst, ..LIMIT };
        let mut world = World::new(count, limit, Mode::Split, false);
        let (mut level, mut most, mut sum) = (0.0f64, 0.0f64, 0.0f64);
        for rates in &shifts {
            let rates: Vec<[(u64, f64); 1]> = rates.iter().map(|rate| [(1, f64::from(*rate))]).collect();
            let rates: Vec<&[(u64, f64)]> = rates.iter().map(|rate| &rate[..]).take(count).collect();
            for _ in 0..millis {
                level = (level - 0.1).max(0.0) + world.step(&rates, |_, _| true) as f64;
                most = most.max(level);
                sum = sum.max(world.shares().iter().sum());
            }
        }
        prop_assert!(sum <= 1.0 + 1e-6, "{sum}");
        prop_assert!(most <= f64::from(burst) + count as f64 + 0.5, "{most} of {burst} on {count}");
    }
}

#[test]
fn of_two_slots_that_one_key_took_one_stays() {
    for (ways, mode) in [([1, 4], Mode::Split), ([4, 1], Mode::Split), ([4, 1], Mode::Hard)] {
        for at_once in [true, false] {
            let mut world = World::new(2, FAST, mode, true);
            let first = world.tables[0].take_at(ways[0], 7, world.now * 1_000_000);
            if !at_once {
                world.run(WINDOW_MS, &[&[], &[]]);
            }
            let second = world.tables[0].take_at(ways[1], 7, world.now * 1_000_000);
            world.run(2_000, &[&[(7, 900.0)], &[(7, 100.0)]]);
            let table = &world.tables[0];
            let kept = if at_once { first.min(second) } else { first };
            assert_eq!([first, second].map(|slot| table.holds(slot, 7)), [first == kept, second == kept]);
            assert_eq!(table.keys(), 1);
            let Held { index, limit } = &world.nodes[0].rules[&RULE].keys[&7];
            assert_eq!((*index, limit.share() > 0.6), (kept, true), "its gate is the one that is managed");
            world.run(20_000, &[&[], &[]]);
            assert!(mode == Mode::Hard || world.tables[0].keys() == 0, "forgotten when nobody asks");
        }
    }
}

#[test]
fn a_key_that_made_room_has_no_say_in_its_old_gate() {
    let mut world = World::new(2, FAST, Mode::Split, true);
    let now = world.now * 1_000_000;
    let table = Arc::clone(&world.tables[0]);
    let slot = table.take_at(0, 7, now);
    world.run(WINDOW_MS, &[&[], &[]]);
    assert!(world.nodes[0].rules[&RULE].keys.contains_key(&7));
    table.take_from(slot, 8, 0.05, world.now * 1_000_000);
    let part = || table.part_at(slot);
    let before = part();
    let id = LimitId { number: RULE, key: 7 };
    let said = Said { demand: 900_000, given: BTreeMap::new() };
    // The window is not over, and the new key not known yet.
    world.nodes[0].rules.get_mut(&RULE).unwrap().table.fresh();
    world.nodes[0].heard(&key(1), Statement::from([(id, said)]), world.now);
    assert!((part() - before).abs() < 1e-9, "{} became {}", before, part());
    let names = (0..3).map(key).collect();
    world.nodes[0].set_rules(vec![(Arc::clone(&table), names)], world.now);
    assert!((part() - before).abs() < 1e-9, "{} became {}", before, part());
}
