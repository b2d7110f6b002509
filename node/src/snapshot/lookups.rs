//! Names that requests bring, where a ServiceEntry has them looked up as they come: the data plane asks, the agent answers. What was
//! answered counts for a while, so that a name is asked for once and not for every request.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use certs::codec::Millis;
use tokio::sync::{Notify, watch};

/// Names, each with a port, that are remembered; whoever was not asked for the longest makes room (Envoy's `max_hosts`).
const NAMES: usize = 1_024;
/// Names that callers of one namespace wait for at once; a further one is refused, so that nobody fills the table for others.
const WAITING: usize = 256;
/// How long an answer counts, milliseconds. The machine's resolver does not say how long it holds.
const FRESH: Millis = 30_000;
/// How long an answer is used while the next look is under way or fails, milliseconds.
const STALE: Millis = 300_000;
/// How long a failure counts, milliseconds.
const FAILED: Millis = 1_000;

/// What is asked for: a name, and the port to which the connection would go.
pub type Wanted = (Arc<str>, u16);

/// All of them, of one node.
#[derive(Debug, Default)]
pub struct Lookups {
    table: Mutex<HashMap<Wanted, Entry>>,
    wake: Notify,
}

#[derive(Debug)]
struct Entry {
    /// On whose account it is looked up: a namespace.
    account: Arc<str>,
    /// The last that there was, and when.
    answer: Option<(IpAddr, Millis)>,
    /// When the last look failed, unless an answer came after it.
    failed: Option<Millis>,
    state: State,
    /// When somebody asked last.
    used: Millis,
    /// Counts the looks that have ended.
    ended: watch::Sender<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing is to be done.
    Idle,
    /// Since then.
    Waiting(Millis),
    UnderWay,
}

/// What a name is known to mean.
#[derive(Debug)]
pub enum Asked {
    /// This.
    Known(IpAddr),
    /// Nothing that is of use.
    Nothing,
    /// Not yet: ask again when this changes.
    Wait(watch::Receiver<u64>),
    /// Too many are asked for.
    Full,
}

impl Lookups {
    /// Asks on account of a namespace.
    pub fn ask(&self, name: &str, port: u16, account: &str, now: Millis) -> Asked {
        let mut table = self.table();
        let key: Wanted = (name.into(), port);
        if !table.contains_key(&key) {
            let waits = |entry: &&Entry| entry.state != State::Idle && *entry.account == *account;
            if table.values().filter(waits).count() >= WAITING || (table.len() >= NAMES && !make_room(&mut table)) {
                return Asked::Full;
            }
        }
        let entry = table.entry(key).or_insert_with(|| Entry {
            account: account.into(),
            answer: None,
            failed: None,
            state: State::Idle,
            used: now,
            ended: watch::Sender::new(0),
        });
        entry.used = now;
        let young = |since: Millis, age: Millis| now.saturating_sub(since) < age;
        let answer = entry.answer.filter(|(_, at)| young(*at, STALE));
        if let Some((address, _)) = answer.filter(|(_, at)| young(*at, FRESH)) {
            return Asked::Known(address);
        }
        if entry.state == State::Idle && !entry.failed.is_some_and(|at| young(at, FAILED)) {
            entry.state = State::Waiting(now);
            self.wake.notify_one();
        }
        match (answer, entry.state) {
            (Some((address, _)), _) => Asked::Known(address),
            (None, State::Idle) => Asked::Nothing,
            (None, State::Waiting(_) | State::UnderWay) => Asked::Wait(entry.ended.subscribe()),
        }
    }

    /// Takes the names to look up now, so many at most. A place goes to the namespace that has the fewest looks under way, and there to
    /// the name that waits for longest.
    #[must_use]
    pub fn take(&self, most: usize) -> Vec<Wanted> {
        let mut table = self.table();
        let mut busy: BTreeMap<Arc<str>, usize> = BTreeMap::new();
        for entry in table.values().filter(|entry| entry.state == State::UnderWay) {
            *busy.entry(Arc::clone(&entry.account)).or_default() += 1;
        }
        let mut taken = Vec::new();
        while taken.len() < most {
            let load = |account: &Arc<str>| busy.get(account).copied().unwrap_or(0);
            let waiting = table.iter_mut().filter_map(|(key, entry)| match entry.state {
                State::Waiting(since) => Some(((load(&entry.account), since), key, entry)),
                State::Idle | State::UnderWay => None,
            });
            let Some((_, key, entry)) = waiting.min_by_key(|(rank, ..)| *rank) else { break };
            entry.state = State::UnderWay;
            *busy.entry(Arc::clone(&entry.account)).or_default() += 1;
            taken.push(key.clone());
        }
        taken
    }

    /// A look has ended: with an address that may be used, or without.
    pub fn answer(&self, wanted: &Wanted, address: Option<IpAddr>, now: Millis) {
        let mut table = self.table();
        let Some(entry) = table.get_mut(wanted) else { return };
        entry.state = State::Idle;
        match address {
            Some(address) => (entry.answer, entry.failed) = (Some((address, now)), None),
            None => entry.failed = Some(now),
        }
        entry.ended.send_modify(|count| *count += 1);
    }

    /// Forgets what names meant: other addresses are forbidden now.
    pub fn forget(&self) {
        for entry in self.table().values_mut() {
            (entry.answer, entry.failed) = (None, None);
        }
    }

    /// Resolves when something may wait to be looked up.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    fn table(&self) -> MutexGuard<'_, HashMap<Wanted, Entry>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets the name go that was not asked for the longest; false if all are being looked up.
fn make_room(table: &mut HashMap<Wanted, Entry>) -> bool {
    let idle = table.iter().filter(|(_, entry)| entry.state == State::Idle);
    let oldest = idle.min_by_key(|(_, entry)| entry.used).map(|(key, _)| key.clone());
    oldest.is_some_and(|key| table.remove(&key).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn known(asked: &Asked) -> Option<IpAddr> {
        if let Asked::Known(address) = asked { Some(*address) } else { None }
    }

    #[test]
    fn a_name_is_looked_up_once_and_again_when_its_answer_is_old() {
        let lookups = Lookups::default();
        let ask = |now| lookups.ask("a.example", 80, "shop", now);
        let wait = |asked: Asked| if let Asked::Wait(ended) = asked { ended } else { panic!("{asked:?}") };
        let (first, second) = (wait(ask(0)), wait(ask(1)));
        let taken = lookups.take(4);
        assert_eq!(taken, [("a.example".into(), 80)]);
        wait(ask(2));
        assert!(lookups.take(4).is_empty(), "it is under way");
        lookups.answer(&taken[0], Some(address(1)), 10);
        assert!([first, second].iter().all(|ended| ended.has_changed().unwrap()));
        assert_eq!(known(&ask(11)), Some(address(1)));
        assert!(lookups.take(4).is_empty());
        // An old one is used while it is looked up again, and while that fails.
        assert_eq!(known(&ask(10 + FRESH)), Some(address(1)));
        let taken = lookups.take(4);
        lookups.answer(&taken[0], None, 11 + FRESH);
        assert_eq!(known(&ask(12 + FRESH)), Some(address(1)));
        assert!(lookups.take(4).is_empty(), "not at once");
        assert_eq!(known(&ask(11 + FRESH + FAILED)), Some(address(1)));
        assert_eq!(lookups.take(4).len(), 1);
        wait(ask(10 + STALE));
        lookups.answer(&taken[0], None, 20 + STALE);
        assert!(matches!(ask(21 + STALE), Asked::Nothing));
        wait(ask(20 + STALE + FAILED));
        lookups.answer(&taken[0], Some(address(2)), 30 + STALE + FAILED);
        assert_eq!(known(&ask(31 + STALE + FAILED)), Some(address(2)));
        lookups.forget();
        wait(ask(32 + STALE + FAILED));
    }

    #[test]
    fn nobody_fills_the_table_for_others() {
        let lookups = Lookups::default();
        let flood = |number: usize, now| lookups.ask(&format!("{number}.evil.example"), 80, "evil", now);
        for number in 0..WAITING {
            assert!(matches!(flood(number, 0), Asked::Wait(_)));
        }
        assert!(matches!(flood(WAITING, 0), Asked::Full));
        assert!(matches!(flood(0, 0), Asked::Wait(_)), "one that is asked for already");
        assert!(matches!(lookups.ask("a.example", 80, "shop", 9), Asked::Wait(_)));
        let taken = lookups.take(2);
        assert_eq!(taken.iter().filter(|(name, _)| &**name == "a.example").count(), 1, "{taken:?}");
        // Of answered ones the least used go.
        for number in 0..2 * NAMES {
            let now = Millis::try_from(number).unwrap() + 100;
            lookups.ask(&format!("{number}.shop.example"), 80, "shop", now);
            for wanted in lookups.take(usize::MAX) {
                lookups.answer(&wanted, Some(address(1)), now);
            }
        }
        assert_eq!(lookups.table().len(), NAMES);
        assert!(lookups.table().contains_key(&(format!("{}.shop.example", 2 * NAMES - 1).into(), 80)));
    }
}
