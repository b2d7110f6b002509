//! Ejection by the arithmetic of the field, and the bounds of what others' reports may cause.

mod ejection;
mod liars;

use super::*;

pub(super) fn key(name: &str) -> Key {
    name.into()
}

pub(super) fn keys(count: usize) -> Vec<Key> {
    (0..count).map(|number| key(&format!("e{number:03}"))).collect()
}

/// One node's view of one cluster `c`.
pub(super) struct Node {
    pub(super) outliers: Outliers,
    pub(super) policy: Arc<OutlierPolicy>,
    pub(super) endpoints: Vec<Key>,
    pub(super) tallies: Vec<Arc<Tally>>,
}

impl Node {
    pub(super) fn new(policy: OutlierPolicy, count: usize) -> Node {
        let (policy, endpoints) = (Arc::new(policy), keys(count));
        let mut outliers = Outliers::default();
        let tallies = outliers.set_cluster(&key("c"), Arc::clone(&policy), &endpoints, 0);
        Node { outliers, policy, endpoints, tallies }
    }

    /// An attempt ends; what follows.
    pub(super) fn attempt(&mut self, index: usize, outcome: Outcome, now: Millis) -> Vec<Effect> {
        let Some(why) = self.tallies[index].note(outcome, &self.policy, now) else { return Vec::new() };
        let event = Event::Tripped { cluster: key("c"), endpoint: Arc::clone(&self.endpoints[index]), why };
        self.outliers.handle(event, now, 0)
    }

    /// As many errors as the policy's count.
    pub(super) fn fail(&mut self, index: usize, now: Millis) -> Vec<Effect> {
        (0..self.policy.consecutive_errors).flat_map(|_| self.attempt(index, Outcome::Status(500), now)).collect()
    }

    pub(super) fn report(&mut self, index: usize, reporter: &str, failures: u32, now: Millis) {
        let endpoint = Arc::clone(&self.endpoints[index]);
        let effects = self.outliers.handle(Event::Report { endpoint, reporter: key(reporter), failures }, now, 0);
        assert_eq!(effects, [], "a report does nothing by itself");
    }

    /// Probes that begin now; the owner's answer to each.
    pub(super) fn probe(&mut self, healthy: impl Fn(&Key) -> bool, now: Millis) -> (Vec<Key>, Vec<Effect>) {
        let (mut probed, mut effects) = (Vec::new(), Vec::new());
        for effect in self.outliers.handle(Event::Tick, now, 0) {
            let Effect::Probe { endpoint } = effect else {
                effects.push(effect);
                continue;
            };
            let event = Event::Probed { endpoint: Arc::clone(&endpoint), healthy: healthy(&endpoint) };
            effects.extend(self.outliers.handle(event, now, 0));
            probed.push(endpoint);
        }
        (probed, effects)
    }

    pub(super) fn out(&self) -> Vec<usize> {
        (0..self.tallies.len()).filter(|index| self.tallies[*index].is_ejected()).collect()
    }
}

pub(super) fn eager(count: u32) -> OutlierPolicy {
    OutlierPolicy { consecutive_errors: count, max_ejection_percent: 100, ..OutlierPolicy::default() }
}
