//! What this node tells others of endpoints that fail it: the first failure at once, then what changes, little and seldom.
//! Pure but for the counters that it reads.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use certs::codec::Millis;
use membership::statement::OutlierRecord;

use crate::snapshot::{Endpoint, EndpointId, EndpointStats};

/// Endpoints that are watched and told of at once; others wait until one has recovered.
pub(super) const LISTED: usize = 64;
/// Failures count for this long.
pub(super) const WINDOW_MS: Millis = 10_000;
/// Least time between two statements.
pub(super) const PAUSE_MS: Millis = 250;
/// Least time between two statements that only bring other numbers.
pub(super) const REFRESH_MS: Millis = 2_000;
/// Length of a part of the window.
const SLOT_MS: Millis = 1_000;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Reports {
    watched: BTreeMap<EndpointId, Watched>,
    told: Vec<OutlierRecord>,
    told_at: Option<Millis>,
}

#[derive(Debug)]
struct Watched {
    stats: Arc<EndpointStats>,
    total: u64,
    slots: VecDeque<Slot>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    begin: Millis,
    failures: u32,
    micros: u64,
    requests: u32,
}

impl Reports {
    /// An endpoint began to fail.
    pub(super) fn watch(&mut self, endpoint: &Endpoint, now: Millis) {
        let stats = &endpoint.stats;
        if self.watched.len() >= LISTED && !self.watched.contains_key(&endpoint.id) {
            // Its next error asks again.
            stats.take_errors();
            stats.unwatch();
            return;
        }
        let total = stats.total().saturating_sub(u64::from(stats.errors()));
        let begin = || Watched { stats: Arc::clone(stats), total, slots: VecDeque::new() };
        let watched = self.watched.entry(endpoint.id.clone()).or_insert_with(begin);
        if !Arc::ptr_eq(&watched.stats, stats) {
            // The endpoint went and came back.
            *watched = begin();
        }
        watched.look(now);
    }

    /// What to say now, all of it; `None` if the last word stands.
    pub(super) fn say(&mut self, now: Millis) -> Option<Vec<OutlierRecord>> {
        if self.told_at.is_some_and(|at| now < at + PAUSE_MS) {
            return None;
        }
        self.watched.values_mut().for_each(|watched| watched.look(now));
        let was_failing = |id: &EndpointId| self.told.iter().any(|line| is_of(line, id) && line.failures > 0);
        let mut lines = Vec::new();
        let mut is_news = false;
        for (id, watched) in &self.watched {
            let line = watched.line(id);
            is_news |= was_failing(id) != (line.failures > 0);
            // Who has recovered is told of once.
            if line.failures > 0 || was_failing(id) {
                lines.push(line);
            }
        }
        self.watched.retain(|_, watched| watched.fails() || !watched.stats.unwatch());
        let is_time = self.told_at.is_none_or(|at| now >= at + REFRESH_MS);
        if lines == self.told || !(is_news || is_time) {
            return None;
        }
        self.told.clone_from(&lines);
        self.told_at = Some(now);
        Some(lines)
    }

    /// Forgets everything. Gives what to say if something was said.
    pub(super) fn end(&mut self) -> Option<Vec<OutlierRecord>> {
        for watched in std::mem::take(&mut self.watched).into_values() {
            watched.stats.take_errors();
            watched.stats.unwatch();
        }
        self.told_at = None;
        (!std::mem::take(&mut self.told).is_empty()).then(Vec::new)
    }

    /// When [`Reports::say`] may have something to say; `None`: once something fails.
    pub(super) fn due(&self, now: Millis) -> Option<Millis> {
        let busy = !self.watched.is_empty() || !self.told.is_empty();
        let held_back = self.told_at.map(|at| at + PAUSE_MS).filter(|due| now < *due);
        busy.then(|| held_back.unwrap_or(now + PAUSE_MS))
    }
}

impl Watched {
    fn look(&mut self, now: Millis) {
        let (failures, micros) = self.stats.take_errors();
        let total = self.stats.total();
        let requests = u32::try_from(total.saturating_sub(self.total)).unwrap_or(u32::MAX);
        self.total = total;
        while self.slots.front().is_some_and(|slot| slot.begin + WINDOW_MS <= now) {
            self.slots.pop_front();
        }
        let begin = now - now % SLOT_MS;
        if self.slots.back().is_none_or(|slot| slot.begin != begin) {
            self.slots.push_back(Slot { begin, ..Slot::default() });
        }
        let slot = self.slots.back_mut().expect("just pushed");
        slot.failures = slot.failures.saturating_add(failures);
        slot.micros = slot.micros.saturating_add(micros);
        slot.requests = slot.requests.saturating_add(requests);
    }

    fn fails(&self) -> bool {
        self.slots.iter().any(|slot| slot.failures > 0)
    }

    fn line(&self, id: &EndpointId) -> OutlierRecord {
        let sum = |of: fn(&Slot) -> u32| self.slots.iter().map(of).fold(0, u32::saturating_add);
        let failures = sum(|slot| slot.failures);
        let micros = self.slots.iter().map(|slot| slot.micros).fold(0, u64::saturating_add);
        OutlierRecord {
            node: id.node.clone(),
            service: id.service.clone(),
            instance: id.instance.as_deref().map(str::to_owned),
            failures,
            // A request that failed in the window may have begun before.
            requests: sum(|slot| slot.requests).max(failures),
            latency_us: u32::try_from(micros / u64::from(failures.max(1))).unwrap_or(u32::MAX),
        }
    }
}

/// Which endpoint a record speaks of.
pub(super) fn id(record: &OutlierRecord) -> EndpointId {
    let instance = record.instance.as_deref().map(Arc::from);
    EndpointId { node: record.node.clone(), service: record.service.clone(), instance }
}

fn is_of(record: &OutlierRecord, id: &EndpointId) -> bool {
    (&record.node, &record.service) == (&id.node, &id.service) && record.instance.as_deref() == id.instance.as_deref()
}

#[cfg(test)]
mod tests {
    use certs::id::ServiceName;

    use super::*;
    use crate::{snapshot::StatsTable, testing};

    fn endpoint(node: &str, stats: &StatsTable) -> Endpoint {
        testing::endpoint(node, &ServiceName::new("shop", "cart").unwrap(), stats)
    }

    /// An attempt that fails; true if the endpoint is to be watched.
    fn fail(endpoint: &Endpoint) -> bool {
        drop(endpoint.stats.begin());
        endpoint.stats.erred(500)
    }

    fn lines(said: Option<Vec<OutlierRecord>>) -> Vec<(String, u32, u32)> {
        said.into_iter().flatten().map(|line| (line.node.to_string(), line.failures, line.requests)).collect()
    }

    #[test]
    fn the_first_failure_is_told_at_once_and_recovery_once() {
        let (stats, mut reports) = (StatsTable::default(), Reports::default());
        let a = endpoint("a", &stats);
        assert!(reports.due(0).is_none() && reports.say(0).is_none());
        assert!(fail(&a) && !fail(&a), "watched once");
        reports.watch(&a, 1_000);
        let first = reports.say(1_000).unwrap();
        assert_eq!((first[0].failures, first[0].latency_us), (2, 500));
        // Other numbers come later, other endpoints soon.
        let b = endpoint("b", &stats);
        assert!(!fail(&a) && fail(&b));
        reports.watch(&b, 1_010);
        assert_eq!(reports.say(1_010), None);
        assert_eq!(reports.due(1_010), Some(1_250));
        assert_eq!(lines(reports.say(1_250)), [("a".into(), 3, 3), ("b".into(), 1, 1)]);
        fail(&a);
        drop(a.stats.begin());
        assert_eq!(reports.say(2_000), None);
        assert_eq!(lines(reports.say(3_300)), [("a".into(), 4, 5), ("b".into(), 1, 1)]);
        // The window passes over what failed first.
        assert_eq!(lines(reports.say(11_000)), [("a".into(), 1, 2), ("b".into(), 0, 0)]);
        assert!(fail(&b), "forgotten: it is to be watched anew");
        assert_eq!(lines(reports.say(13_500)), [("a".into(), 0, 0)]);
        assert_eq!(reports.say(14_000), None);
        assert_eq!(lines(reports.say(15_500)), []);
        assert!(reports.due(15_500).is_none() && reports.say(99_000).is_none());
    }

    #[test]
    fn no_more_are_watched_than_are_told_of() {
        let (stats, mut reports) = (StatsTable::default(), Reports::default());
        let all: Vec<Endpoint> = (0..2 * LISTED).map(|index| endpoint(&format!("n{index}"), &stats)).collect();
        for endpoint in &all {
            assert!(fail(endpoint));
            reports.watch(endpoint, 0);
        }
        assert_eq!(reports.say(0).unwrap().len(), LISTED);
        assert!(fail(&all[LISTED]), "it asks again");
        assert!(!fail(&all[0]));
        reports.say(20_000);
        reports.watch(&all[LISTED], 20_300);
        assert_eq!(lines(reports.say(20_300)).last().map(|(name, ..)| name.clone()), Some(format!("n{LISTED}")));
    }

    #[test]
    fn the_end_takes_back_what_was_said() {
        let (stats, mut reports) = (StatsTable::default(), Reports::default());
        let a = endpoint("a", &stats);
        assert!(fail(&a));
        assert_eq!(reports.end(), None);
        reports.watch(&a, 0);
        assert!(reports.say(0).is_some());
        assert_eq!(reports.end(), Some(Vec::new()));
        assert!(reports.due(1).is_none() && fail(&a), "nobody watches it");
    }
}
