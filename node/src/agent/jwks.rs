//! Keeps the keys of token issuers that documents name by URL or by issuer: fetched when a service beside this node believes
//! them, again every 20 minutes, and soon where a token names a key that is not among them. Old keys count until new ones come.

mod fetch;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use certs::codec::Millis;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use policy::token::{KeySet, Source};
use tokio::sync::{mpsc, watch};

use super::world::World;
use crate::{
    clock,
    config::{Service, SpeakerName},
    snapshot::Snapshot,
    tasks::Tasks,
    telemetry::Errand,
};
use fetch::Fetcher;

/// Between two fetches that went well, milliseconds; Istio's.
const REFRESH: Millis = 20 * 60_000;
/// After the first failure in a row; doubled with each.
const RETRY: Millis = 1_000;
/// Longest pause after failures.
const LONGEST_RETRY: Millis = 5 * 60_000;
/// A key that is missed is looked for no sooner after the last fetch: whoever makes up names of keys causes no more.
const MISSED_PAUSE: Millis = 30_000;
/// Fetches at once.
const AT_ONCE: usize = 8;
/// A fetch takes no longer, whatever its rule says.
const LONGEST_FETCH: Duration = Duration::from_secs(60);
/// Changes of the world within this time are one.
const SETTLE: Duration = Duration::from_millis(50);

/// When a source is fetched, and how that went. Pure.
#[derive(Debug, Default)]
struct Schedule {
    sources: BTreeMap<Source, Entry>,
}

#[derive(Debug)]
struct Entry {
    /// How long a fetch may take, and in whose name it is made.
    how: (Duration, SpeakerName),
    /// Uptime of the next fetch.
    next: Millis,
    /// Uptime of the last one.
    last: Option<Millis>,
    /// In a row.
    failures: u32,
}

impl Schedule {
    /// Follows what is wanted now.
    fn follow(&mut self, wanted: BTreeMap<Source, (Duration, SpeakerName)>, now: Millis) {
        self.sources.retain(|source, _| wanted.contains_key(source));
        for (source, how) in wanted {
            match self.sources.get_mut(&source) {
                Some(entry) => entry.how = how,
                None => drop(self.sources.insert(source, Entry { how, next: now, last: None, failures: 0 })),
            }
        }
    }

    /// A token named a key that this source's set has not.
    fn missed(&mut self, source: &Source) {
        let entry = self.sources.get_mut(source).filter(|entry| entry.failures == 0 && entry.next < Millis::MAX);
        if let Some(entry) = entry {
            let soonest = entry.last.unwrap_or_default() + MISSED_PAUSE;
            entry.next = entry.next.min(soonest);
        }
    }

    /// What is to be fetched now, so many at most: what is due for longest. They are due again once they were [`Schedule::fetched`].
    fn take_due(&mut self, now: Millis, most: usize) -> Vec<(Source, (Duration, SpeakerName))> {
        let mut due: Vec<_> = self.sources.iter_mut().filter(|(_, entry)| entry.next <= now).collect();
        due.sort_by_key(|(_, entry)| entry.next);
        let taken = due.into_iter().take(most).map(|(source, entry)| {
            entry.next = Millis::MAX;
            (source.clone(), entry.how.clone())
        });
        taken.collect()
    }

    /// Milliseconds to the next fetch; `None` if there is none.
    fn pause(&self, now: Millis) -> Option<Millis> {
        let waiting = self.sources.values().filter(|entry| entry.next < Millis::MAX);
        waiting.map(|entry| entry.next.saturating_sub(now)).min()
    }

    /// A fetch has ended. True if that is news: it failed for the first time, or went well again.
    fn fetched(&mut self, source: &Source, well: bool, now: Millis) -> bool {
        let Some(entry) = self.sources.get_mut(source) else { return false };
        entry.last = Some(now);
        let failed = entry.failures > 0;
        if well {
            entry.failures = 0;
            entry.next = now + REFRESH;
            failed
        } else {
            entry.next = now + (RETRY << entry.failures.min(20)).min(LONGEST_RETRY);
            entry.failures = entry.failures.saturating_add(1);
            !failed
        }
    }
}

/// Runs for ever. `services` are those beside this node, `reloads` count their changes; issuers in the mesh are asked by `errands`.
pub async fn run(
    world: Arc<World>,
    (mut reloads, services): (watch::Receiver<u64>, impl Fn() -> Vec<Service>),
    errands: mpsc::Sender<Errand>,
    tasks: Tasks,
) {
    let current = world.current();
    let (mut changes, fetcher) = (current.subscribe(), Fetcher::new(tasks, errands));
    let (mut schedule, mut fetches) = (Schedule::default(), FuturesUnordered::new());
    let keys = current.load().token_keys.clone();
    loop {
        let snapshot = current.load();
        schedule.follow(wanted(&snapshot, &services()), clock::uptime());
        keys.retain(|source| schedule.sources.contains_key(source));
        for (source, (time, speaker)) in schedule.take_due(clock::uptime(), AT_ONCE - fetches.len()) {
            let (fetcher, own, snapshot) = (&fetcher, world.own_ports(), Arc::clone(&snapshot));
            fetches.push(async move {
                let mesh = Some((&*snapshot, speaker));
                (fetcher.keys(&source, time.min(LONGEST_FETCH), &own, mesh).await, source)
            });
        }
        // Where all places are taken the next fetch begins when one has ended.
        let pause = schedule.pause(clock::uptime()).filter(|_| fetches.len() < AT_ONCE).map(Duration::from_millis);
        tokio::select! {
            Some((result, source)) = fetches.next() => {
                let news = schedule.fetched(&source, result.is_ok(), clock::uptime());
                match result {
                    Ok(set) => {
                        note(&source, &set, news);
                        keys.put(&source, Arc::new(set));
                    }
                    Err(why) if news => {
                        tracing::warn!(source = %name(&source), "keys of tokens cannot be fetched: {why}; tried again and again");
                    }
                    Err(why) => tracing::debug!(source = %name(&source), "keys of tokens cannot be fetched: {why}"),
                }
            }
            changed = changes.changed() => {
                if changed.is_err() {
                    return std::future::pending().await;
                }
                tokio::time::sleep(SETTLE).await;
            }
            changed = reloads.changed() => {
                if changed.is_err() {
                    return std::future::pending().await;
                }
            }
            () = keys.missed_one() => {
                for source in keys.take_missed() {
                    schedule.missed(&source);
                }
            }
            () = rest(pause) => {}
        }
    }
}

async fn rest(pause: Option<Duration>) {
    match pause {
        Some(pause) => tokio::time::sleep(pause).await,
        None => std::future::pending().await,
    }
}

fn note(source: &Source, set: &KeySet, news: bool) {
    if set.is_empty() {
        tracing::warn!(source = %name(source), unusable = set.unusable(), "no key of this set can verify a token");
    } else if news {
        tracing::info!(source = %name(source), keys = set.len(), "keys of tokens are fetched again");
    }
}

fn name(source: &Source) -> &str {
    match source {
        Source::Url(url) => url,
        Source::Issuer(issuer) => issuer,
    }
}

/// What the services beside this node need, how long a fetch may take, and in whose name an issuer in the mesh is asked.
fn wanted(snapshot: &Snapshot, services: &[Service]) -> BTreeMap<Source, (Duration, SpeakerName)> {
    let mut wanted: BTreeMap<Source, (Duration, SpeakerName)> = BTreeMap::new();
    for service in services {
        let namespace = service.name.namespace();
        let workload = snapshot.compiled.workload(&snapshot.trust_domain, namespace, &service.labels);
        for (source, time) in workload.tokens.sources() {
            let (longest, _) = wanted.entry(source.clone()).or_insert_with(|| (time, SpeakerName::of(service)));
            *longest = (*longest).max(time);
        }
    }
    wanted
}

/// Issuers whose keys are missing: what tokens of theirs meet is a refusal.
pub fn without_keys(snapshot: &Snapshot, services: &[Service]) -> Vec<String> {
    use policy::token::Keys as _;
    let missing = wanted(snapshot, services).into_keys().filter(|source| snapshot.token_keys.of(source).is_none());
    let mut missing: Vec<String> = missing.map(|source| name(&source).to_owned()).collect();
    missing.sort();
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source() -> Source {
        Source::Url("http://a".to_owned())
    }

    fn how() -> (Duration, SpeakerName) {
        let service = certs::id::ServiceName::new("shop", "web").unwrap();
        (Duration::from_secs(5), SpeakerName { service, instance: None })
    }

    fn schedule() -> Schedule {
        let mut schedule = Schedule::default();
        schedule.follow(BTreeMap::from([(source(), how())]), 0);
        schedule
    }

    #[test]
    fn what_is_wanted_is_fetched_at_once_and_then_now_and_then() {
        let mut schedule = schedule();
        assert_eq!(schedule.take_due(0, 9), [(source(), how())]);
        assert_eq!((schedule.take_due(0, 9).len(), schedule.pause(0)), (0, None), "it is under way");
        schedule.missed(&source());
        assert_eq!(schedule.pause(0), None, "and brings what is missed");
        assert!(!schedule.fetched(&source(), true, 0), "no news");
        assert!(schedule.take_due(REFRESH - 1, 9).is_empty());
        assert_eq!(schedule.pause(0), Some(REFRESH));
        assert_eq!(schedule.take_due(REFRESH, 9).len(), 1);
        schedule.follow(BTreeMap::new(), 0);
        assert_eq!(schedule.pause(0), None);
    }

    #[test]
    fn failures_pause_longer_and_longer() {
        let mut schedule = schedule();
        let mut now = 0;
        let mut pauses = Vec::new();
        for turn in 0..12 {
            assert_eq!(schedule.fetched(&source(), false, now), turn == 0, "told once");
            pauses.push(schedule.pause(now).unwrap());
            now += schedule.pause(now).unwrap();
        }
        assert!(pauses.is_sorted());
        assert_eq!((pauses[0], pauses[11]), (RETRY, LONGEST_RETRY));
        assert!(schedule.fetched(&source(), true, now), "told that it works again");
    }

    #[test]
    fn a_missed_key_hastens_the_next_fetch_but_not_often() {
        let mut schedule = schedule();
        schedule.fetched(&source(), true, 1_000);
        schedule.missed(&source());
        assert!(schedule.take_due(1_000 + MISSED_PAUSE - 1, 9).is_empty());
        assert_eq!(schedule.take_due(1_000 + MISSED_PAUSE, 9).len(), 1);
        schedule.fetched(&source(), false, 40_000);
        schedule.missed(&source());
        assert_eq!(schedule.pause(40_000), Some(RETRY), "what fails is tried again anyway");
    }
}
