//! Who of one cluster is out and for how long: Envoy's arithmetic of ejection.

use std::{collections::BTreeMap, sync::Arc};

use super::{Effect, Ejection, Key, Millis, OutlierPolicy, Spared, Tally, Why};

/// A cluster with `outlierDetection`.
#[derive(Debug)]
pub(super) struct Cluster {
    policy: Arc<OutlierPolicy>,
    seats: BTreeMap<Key, Seat>,
    out: usize,
    sweep_due: Millis,
}

/// One endpoint's.
#[derive(Debug, Default)]
struct Seat {
    tally: Arc<Tally>,
    /// Recent ejections: one more with each, one less with each sweep that finds it in.
    times: u32,
    ejected: Option<(Millis, Why)>,
    /// When it last met a limit and stayed in, for as long as an ejection would have lasted.
    spared: Option<(Millis, Why)>,
}

impl Cluster {
    pub(super) fn new(policy: Arc<OutlierPolicy>, now: Millis) -> Cluster {
        let sweep_due = now + policy.interval.max(1);
        Cluster { policy, seats: BTreeMap::new(), out: 0, sweep_due }
    }

    pub(super) fn set(&mut self, policy: Arc<OutlierPolicy>, endpoints: &[Key], now: Millis) -> Vec<Arc<Tally>> {
        if policy.interval != self.policy.interval {
            self.sweep_due = now + policy.interval.max(1);
        }
        self.policy = policy;
        let mut before = std::mem::take(&mut self.seats);
        for endpoint in endpoints {
            let seat = before.remove(endpoint).unwrap_or_default();
            self.seats.entry(Arc::clone(endpoint)).or_insert(seat);
        }
        for seat in before.values() {
            seat.tally.admit();
        }
        self.out = self.seats.values().filter(|seat| seat.ejected.is_some()).count();
        endpoints.iter().map(|endpoint| Arc::clone(&self.seats[endpoint].tally)).collect()
    }

    pub(super) fn endpoints(&self) -> Vec<Key> {
        self.seats.keys().cloned().collect()
    }

    pub(super) fn policy(&self) -> Arc<OutlierPolicy> {
        Arc::clone(&self.policy)
    }

    pub(super) fn tally(&self, endpoint: &Key) -> Option<&Arc<Tally>> {
        self.seats.get(endpoint).map(|seat| &seat.tally)
    }

    pub(super) fn hush(&self) {
        self.seats.values().for_each(|seat| seat.tally.hush());
    }

    pub(super) fn admit_all(self) {
        for seat in self.seats.values() {
            seat.tally.admit();
        }
    }

    /// An endpoint met a limit. Nothing follows if it has left meanwhile or is out already.
    pub(super) fn trip(&mut self, name: &Key, endpoint: &Key, why: Why, now: Millis) -> Option<Effect> {
        let total = self.seats.len();
        let seat = self.seats.get_mut(endpoint).filter(|seat| seat.ejected.is_none())?;
        if !self.policy.may_eject(self.out, total) {
            let again = seat.spared.replace((now, why)).is_some();
            return Some(Effect::Spared { cluster: Arc::clone(name), endpoint: Arc::clone(endpoint), why, again });
        }
        seat.spared = None;
        let (base, longest) = (self.policy.base_ejection, self.policy.longest_ejection());
        // The count stops growing where it would lengthen nothing, or good behaviour would take ever longer to show.
        if u64::from(seat.times).saturating_mul(base) < longest.saturating_add(base) {
            seat.times = seat.times.saturating_add(1);
        }
        seat.ejected = Some((now, why));
        seat.tally.eject();
        self.out += 1;
        seat.ejection(&self.policy, name, endpoint).map(Effect::Ejected)
    }

    /// A probe of this node's own found the endpoint failing.
    pub(super) fn charge(&mut self, name: &Key, endpoint: &Key, now: Millis) -> Option<Effect> {
        let why = self.tally(endpoint)?.charge(&self.policy, now)?;
        self.trip(name, endpoint, why, now)
    }

    pub(super) const fn due(&self) -> Millis {
        self.sweep_due
    }

    /// Lets those return whose time is over, and forgives the others a little. One that is late is one all the same. True if one that
    /// was spared is so no more.
    pub(super) fn sweep_if_due(&mut self, name: &Key, now: Millis, effects: &mut Vec<Effect>) -> bool {
        let mut forgives = false;
        if now < self.sweep_due {
            return forgives;
        }
        self.sweep_due = now + self.policy.interval.max(1);
        for (endpoint, seat) in &mut self.seats {
            let spared = seat.spared.filter(|(since, _)| since.saturating_add(self.policy.base_ejection) > now);
            forgives |= spared != seat.spared;
            seat.spared = spared;
            match seat.until(&self.policy) {
                None => seat.times = seat.times.saturating_sub(1),
                Some(until) if until <= now => {
                    seat.ejected = None;
                    seat.tally.admit();
                    self.out -= 1;
                    effects.push(Effect::Returned { cluster: Arc::clone(name), endpoint: Arc::clone(endpoint) });
                }
                Some(_) => {}
            }
        }
        forgives
    }

    pub(super) fn ejections(&self, name: &Key) -> impl Iterator<Item = Ejection> {
        self.seats.iter().filter_map(move |(endpoint, seat)| seat.ejection(&self.policy, name, endpoint))
    }

    /// Those that failed of late and could not go out now either.
    pub(super) fn spared(&self, name: &Key) -> impl Iterator<Item = Spared> {
        let (total, percent) = (self.seats.len(), self.policy.max_ejection_percent);
        let one_may_go = self.policy.may_eject(self.out, total);
        let seats = self.seats.iter().filter(move |_| !one_may_go);
        seats.filter_map(move |(endpoint, seat)| {
            let (since, why) = seat.spared.filter(|_| seat.ejected.is_none())?;
            let until = since.saturating_add(self.policy.base_ejection);
            let (cluster, endpoint) = (Arc::clone(name), Arc::clone(endpoint));
            Some(Spared { cluster, endpoint, why, times: seat.times, until, percent, total })
        })
    }
}

impl Seat {
    fn until(&self, policy: &OutlierPolicy) -> Option<Millis> {
        let (since, _) = self.ejected?;
        let long = policy.base_ejection.saturating_mul(u64::from(self.times)).min(policy.longest_ejection());
        Some(since.saturating_add(long))
    }

    fn ejection(&self, policy: &OutlierPolicy, cluster: &Key, endpoint: &Key) -> Option<Ejection> {
        let (until, (_, why)) = (self.until(policy)?, self.ejected?);
        Some(Ejection { cluster: Arc::clone(cluster), endpoint: Arc::clone(endpoint), why, times: self.times, until })
    }
}
