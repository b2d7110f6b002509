//! Names that requests bring, where a ServiceEntry has them looked up as they come: the data plane asks, the agent answers. What was
//! answered counts for a while, so that a name is asked for once and not for every request.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use certs::codec::Millis;
use tokio::sync::{Notify, watch};

use crate::lock::lock;

/// Names, each with a port, that are remembered (Envoy's `max_hosts`); who has the most makes room.
const NAMES: usize = 1_024;
/// Names that callers of one namespace wait for at once; a further one is refused, so that nobody fills the table for others.
const WAITING: usize = 256;
/// How long an answer counts, milliseconds. The machine's resolver does not say how long it holds.
const FRESH: Millis = 30_000;
/// How long an answer is used while the next look is under way or fails, milliseconds.
const STALE: Millis = 300_000;
/// How long a failure counts, milliseconds.
const FAILED: Millis = 1_000;
/// How long a name is kept to be looked up when nobody waits for it (a copy of a request never does), milliseconds.
const ABANDONED: Millis = 5_000;
/// Addresses of one name that are kept: the next is used where one is not reached.
pub const ADDRESSES: usize = 3;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Wanted {
    /// A name.
    pub name: Arc<str>,
    /// The port to which the connection would go.
    pub port: u16,
    /// The document that lets the name be brought means this machine itself: its host ends in `localhost`.
    pub may_be_here: bool,
}

/// All of them, of one node.
#[derive(Debug, Default)]
pub struct Lookups {
    table: Mutex<HashMap<Wanted, Entry>>,
    wake: Notify,
}

#[derive(Debug)]
struct Entry {
    /// On whose account it is looked up: the namespace of one who asks.
    account: Arc<str>,
    /// The last that there was, the address to use first, and when.
    answer: Option<(Vec<IpAddr>, Millis)>,
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
    pub fn ask(&self, wanted: &Wanted, account: &str, now: Millis) -> Asked {
        let mut table = self.table();
        let young = |since: Millis, age: Millis| now.saturating_sub(since) < age;
        let (mut answer, mut state, mut of_other) = (None, State::Idle, false);
        if let Some(entry) = table.get_mut(wanted) {
            entry.used = now;
            let first = |(addresses, at): &(Vec<IpAddr>, Millis)| Some((*addresses.first()?, *at));
            answer = entry.answer.as_ref().and_then(first).filter(|(_, at)| young(*at, STALE));
            if let Some((address, _)) = answer.filter(|(_, at)| young(*at, FRESH)) {
                return Asked::Known(address);
            }
            if entry.state == State::Idle && entry.failed.is_some_and(|at| young(at, FAILED)) {
                return answer.map_or(Asked::Nothing, |(address, _)| Asked::Known(address));
            }
            (state, of_other) = (entry.state, *entry.account != *account);
        }
        let known = answer.map(|(address, _)| Asked::Known(address));
        match state {
            State::Idle => {
                let is_new = !table.contains_key(wanted);
                if waiting(&table, account) >= WAITING || (is_new && table.len() >= NAMES && !make_room(&mut table)) {
                    return known.unwrap_or(Asked::Full);
                }
            }
            // Who has fewer answers for it, so that it comes to its turn as if only they had asked.
            State::Waiting(_) if of_other => {
                let of = table.get(wanted).map(|entry| Arc::clone(&entry.account));
                if of.is_some_and(|of| waiting(&table, account) >= waiting(&table, &of)) {
                    of_other = false;
                }
            }
            State::Waiting(_) | State::UnderWay => {}
        }
        let entry = table.entry(wanted.clone()).or_insert_with(|| Entry {
            account: account.into(),
            answer: None,
            failed: None,
            state: State::Idle,
            used: now,
            ended: watch::Sender::new(0),
        });
        if of_other && state != State::UnderWay {
            entry.account = account.into();
        }
        if state == State::Idle {
            entry.state = State::Waiting(now);
            self.wake.notify_one();
        }
        known.unwrap_or_else(|| Asked::Wait(entry.ended.subscribe()))
    }

    /// Takes the names to look up now, where so many places are free. A place goes to the namespace that has the fewest looks under way,
    /// and there to the name that waits for longest. Nobody has more of them than stay free: however slow the names of one namespace
    /// are, another one finds a place.
    #[must_use]
    pub fn take(&self, free: usize, now: Millis) -> Vec<Wanted> {
        let mut table = self.table();
        table.retain(|_, entry| !entry.is_abandoned(now));
        let mut busy: BTreeMap<Arc<str>, usize> = BTreeMap::new();
        for entry in table.values().filter(|entry| entry.state == State::UnderWay) {
            *busy.entry(Arc::clone(&entry.account)).or_default() += 1;
        }
        let mut taken = Vec::new();
        while taken.len() < free {
            let load = |account: &Arc<str>| busy.get(account).copied().unwrap_or(0);
            let waiting = table.iter_mut().filter_map(|(key, entry)| match entry.state {
                State::Waiting(since) => Some(((load(&entry.account), since), key, entry)),
                State::Idle | State::UnderWay => None,
            });
            let next = waiting.min_by_key(|(rank, ..)| *rank);
            // Whoever has the fewest stands for all.
            let Some((_, key, entry)) = next.filter(|((load, _), ..)| *load < free - taken.len()) else { break };
            entry.state = State::UnderWay;
            *busy.entry(Arc::clone(&entry.account)).or_default() += 1;
            taken.push(key.clone());
        }
        taken
    }

    /// A look has ended: with addresses that may be used, or without. These are told apart while nobody judges anew
    /// ([`Lookups::judge`]), so that none slips through.
    pub fn answer(&self, wanted: &Wanted, usable: impl FnOnce() -> Vec<IpAddr>, now: Millis) {
        let mut table = self.table();
        let Some(entry) = table.get_mut(wanted) else { return };
        entry.state = State::Idle;
        let mut addresses = usable();
        addresses.truncate(ADDRESSES);
        if addresses.is_empty() {
            entry.failed = Some(now);
        } else {
            (entry.answer, entry.failed) = (Some((addresses, now)), None);
        }
        entry.ended.send_modify(|count| *count += 1);
    }

    /// Other addresses are forbidden now: forgets what names meant of these.
    pub fn judge(&self, is_allowed: impl Fn(&Wanted, IpAddr) -> bool) {
        for (wanted, entry) in &mut *self.table() {
            if let Some((addresses, _)) = &mut entry.answer {
                addresses.retain(|address| is_allowed(wanted, *address));
            }
        }
    }

    /// Nobody answers at the address: the next one of its name is used.
    pub fn unreached(&self, wanted: &Wanted, address: IpAddr) {
        if let Some((addresses, _)) = self.table().get_mut(wanted).and_then(|entry| entry.answer.as_mut())
            && addresses.first() == Some(&address)
        {
            addresses.rotate_left(1);
        }
    }

    /// The address of a name that is used now.
    pub fn first(&self, wanted: &Wanted) -> Option<IpAddr> {
        self.table().get(wanted)?.answer.as_ref()?.0.first().copied()
    }

    /// Resolves when something may wait to be looked up.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    fn table(&self) -> MutexGuard<'_, HashMap<Wanted, Entry>> {
        lock(&self.table)
    }
}

impl Entry {
    /// True if whoever waited for an answer is gone, and there is none that could be used meanwhile.
    fn is_abandoned(&self, now: Millis) -> bool {
        let is_late = matches!(self.state, State::Waiting(since) if now.saturating_sub(since) >= ABANDONED);
        let is_of_use = self.answer.as_ref().is_some_and(|(_, at)| now.saturating_sub(*at) < STALE);
        is_late && !is_of_use && self.ended.receiver_count() == 0
    }
}

/// Names that wait on account of a namespace.
fn waiting(table: &HashMap<Wanted, Entry>, account: &str) -> usize {
    table.values().filter(|entry| entry.state != State::Idle && *entry.account == *account).count()
}

/// Lets a name go of the namespace that has the most: the one that was not asked for the longest. False if all are being looked up.
fn make_room(table: &mut HashMap<Wanted, Entry>) -> bool {
    let mut names: BTreeMap<Arc<str>, usize> = BTreeMap::new();
    for entry in table.values() {
        *names.entry(Arc::clone(&entry.account)).or_default() += 1;
    }
    let rank = |entry: &Entry| (std::cmp::Reverse(names.get(&entry.account).copied()), entry.used);
    let idle = table.iter().filter(|(_, entry)| entry.state == State::Idle);
    let next = idle.min_by_key(|(_, entry)| rank(entry)).map(|(key, _)| key.clone());
    next.is_some_and(|key| table.remove(&key).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn wanted(name: &str) -> Wanted {
        Wanted { name: name.into(), port: 80, may_be_here: false }
    }

    fn known(asked: &Asked) -> Option<IpAddr> {
        if let Asked::Known(address) = asked { Some(*address) } else { None }
    }

    fn is_wait(asked: &Asked) -> bool {
        matches!(asked, Asked::Wait(_))
    }

    #[test]
    fn a_name_is_looked_up_once_and_again_when_its_answer_is_old() {
        let lookups = Lookups::default();
        let ask = |now| lookups.ask(&wanted("a.example"), "shop", now);
        let wait = |asked: Asked| if let Asked::Wait(ended) = asked { ended } else { panic!("{asked:?}") };
        let (first, second) = (wait(ask(0)), wait(ask(1)));
        let taken = lookups.take(4, 1);
        assert_eq!(taken, [wanted("a.example")]);
        wait(ask(2));
        assert!(lookups.take(4, 2).is_empty(), "it is under way");
        lookups.answer(&taken[0], || vec![address(1)], 10);
        assert!([first, second].iter().all(|ended| ended.has_changed().unwrap()));
        assert_eq!(known(&ask(11)), Some(address(1)));
        assert!(lookups.take(4, 11).is_empty());
        // An old one is used while it is looked up again, and while that fails.
        assert_eq!(known(&ask(10 + FRESH)), Some(address(1)));
        let taken = lookups.take(4, 10 + FRESH);
        lookups.answer(&taken[0], Vec::new, 11 + FRESH);
        assert_eq!(known(&ask(12 + FRESH)), Some(address(1)));
        assert!(lookups.take(4, 12 + FRESH).is_empty(), "not at once");
        assert_eq!(known(&ask(11 + FRESH + FAILED)), Some(address(1)));
        assert_eq!(lookups.take(4, 11 + FRESH + FAILED).len(), 1);
        wait(ask(10 + STALE));
        lookups.answer(&taken[0], Vec::new, 20 + STALE);
        assert!(matches!(ask(21 + STALE), Asked::Nothing));
        wait(ask(20 + STALE + FAILED));
        lookups.answer(&taken[0], || vec![address(2), address(3)], 30 + STALE + FAILED);
        assert_eq!(known(&ask(31 + STALE + FAILED)), Some(address(2)));
        // One that nobody answers at is used after the others.
        lookups.unreached(&taken[0], address(2));
        lookups.unreached(&taken[0], address(2));
        assert_eq!(known(&ask(31 + STALE + FAILED)), Some(address(3)));
        // What is forbidden now is forgotten, and nothing else.
        lookups.judge(|_, address| address.to_string() != "10.0.0.3");
        assert_eq!(known(&ask(32 + STALE + FAILED)), Some(address(2)));
        lookups.judge(|_, _| false);
        wait(ask(32 + STALE + FAILED));
    }

    #[test]
    fn nobody_fills_the_table_for_others() {
        let lookups = Lookups::default();
        let flood = |number: usize, now| lookups.ask(&wanted(&format!("{number}.evil.example")), "evil", now);
        let held: Vec<Asked> = (0..WAITING).map(|number| flood(number, 0)).collect();
        assert!(held.iter().all(is_wait));
        assert!(matches!(flood(WAITING, 0), Asked::Full));
        assert!(is_wait(&flood(0, 0)), "one that is asked for already");
        assert!(is_wait(&lookups.ask(&wanted("a.example"), "shop", 9)));
        let taken = lookups.take(2, 9);
        assert_eq!(taken.iter().filter(|wanted| &*wanted.name == "a.example").count(), 1, "{taken:?}");
        drop(held);
        assert!(lookups.take(1, ABANDONED + 9).is_empty(), "nobody waits for them any more");
    }

    #[test]
    fn names_that_are_known_are_asked_for_again_no_more_at_once_than_new_ones() {
        let lookups = Lookups::default();
        let ask = |number: usize, now| lookups.ask(&wanted(&format!("{number}.evil.example")), "evil", now);
        for number in 0..NAMES {
            assert!(is_wait(&ask(number, 0)));
            for wanted in lookups.take(8, 0) {
                lookups.answer(&wanted, || vec![address(1)], 0);
            }
        }
        let old = STALE + 1;
        let asked: Vec<Asked> = (0..NAMES).map(|number| ask(number, old)).collect();
        assert_eq!(asked.iter().filter(|asked| is_wait(asked)).count(), WAITING);
        assert!(asked.iter().skip(WAITING).all(|asked| matches!(asked, Asked::Full)));
        assert!(is_wait(&lookups.ask(&wanted("a.example"), "shop", old)), "there is room for others");
    }

    #[test]
    fn slow_names_of_one_namespace_leave_places_for_others() {
        let lookups = Lookups::default();
        let ask = |name: &str, account, now| lookups.ask(&wanted(name), account, now);
        let slow: Vec<Asked> = (0..20).map(|number| ask(&format!("{number}.slow.example"), "evil", number)).collect();
        assert!(slow.iter().all(is_wait));
        let taken = lookups.take(8, 20);
        assert_eq!(taken.len(), 4, "half of them");
        assert!(lookups.take(4, 20).is_empty());
        // A name that somebody slow asked for first, and has to wait for, is looked up for whoever has a place.
        let name = slow.len() - 1;
        let name = format!("{name}.slow.example");
        assert!(!taken.iter().any(|wanted| *wanted.name == *name));
        assert!(is_wait(&ask(&name, "shop", 20)));
        assert_eq!(lookups.take(4, 20), [wanted(&name)]);
        assert!(is_wait(&ask("a.example", "bank", 20)));
        assert_eq!(lookups.take(3, 20), [wanted("a.example")]);
    }

    #[test]
    fn who_has_the_most_names_makes_room() {
        let lookups = Lookups::default();
        let has = |name: &str| lookups.table().contains_key(&wanted(name));
        let mut now = 0;
        let mut learn = |name: &str, account| {
            now += 1;
            lookups.ask(&wanted(name), account, now);
            for wanted in lookups.take(8, now) {
                lookups.answer(&wanted, || vec![address(1)], now);
            }
        };
        learn("a.example", "shop");
        for number in 0..2 * NAMES {
            learn(&format!("{number}.evil.example"), "evil");
        }
        assert_eq!(lookups.table().len(), NAMES);
        assert!(has("a.example"), "it is the oldest, and the only one of its namespace");
        assert!(has(&format!("{}.evil.example", 2 * NAMES - 1)) && !has("0.evil.example"));
    }
}
