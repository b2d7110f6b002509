//! Which endpoints a cluster does without for a while because they fail: Istio's `outlierDetection`, and what other
//! nodes' reports may cause.
//!
//! Attempts count in a [`Tally`] each, without a lock. What follows is rare and passes one door, [`Outliers::handle`]:
//! an event, the time and a random number in, effects out. The circuits hold it under one lock.
//!
//! Reports of others eject nothing and change no weight. They make this node look for itself (a probe, bounded) and
//! lower its thresholds to [`ALERT_THRESHOLD`] for a while, so that however many members lie, an endpoint that answers
//! stays, and one that does not goes out by this node's own count.

mod alarm;
mod cluster;
mod policy;
mod tally;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

pub use alarm::{
    ALERT_MS, FEW_MEMBERS, LARGEST_PAUSE_MS, MAX_ALERTS, MAX_PROBES, MAX_PROBES_OF_OWNER, PAUSE_MS, PROBE_MS,
    SPREAD_EACH_MS, SPREAD_MS,
};
pub use policy::{LONGEST_EJECTION_MS, OutlierPolicy, Statuses};
pub use tally::{ALERT_THRESHOLD, Outcome, Tally, Why};

use super::{Key, Millis};
use alarm::Alarm;
use cluster::Cluster;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// [`Tally::note`] answered.
    Tripped {
        /// The cluster of the attempt.
        cluster: Key,
        /// Where it went.
        endpoint: Key,
        /// What `note` said.
        why: Why,
    },
    /// Another node says how its requests fared with an endpoint.
    Report {
        /// Of which.
        endpoint: Key,
        /// Who says so.
        reporter: Key,
        /// Failures in its last seconds. With none there is nothing to look for: praise counts for nothing.
        failures: u32,
    },
    /// A probe that [`Effect::Probe`] asked for has ended.
    Probed {
        /// Of which endpoint.
        endpoint: Key,
        /// True if the owner's check passed just now; false if it failed, or the owner did not answer.
        healthy: bool,
    },
    /// Time has passed: at [`Outliers::due`] or at any other time. Only here endpoints return and probes begin.
    Tick,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Choose it no more: build the cluster's choice again.
    Ejected(Ejection),
    /// It met a limit, but too many are out already.
    Spared {
        /// Where.
        cluster: Key,
        /// Which.
        endpoint: Key,
        /// The limit.
        why: Why,
        /// True if it is known to fail already.
        again: bool,
    },
    /// Choose it again: build the cluster's choice again.
    Returned {
        /// Where.
        cluster: Key,
        /// Which.
        endpoint: Key,
    },
    /// Ask the endpoint's owner for a check, and tell by [`Event::Probed`].
    Probe {
        /// Of which.
        endpoint: Key,
    },
}

/// An endpoint that is out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ejection {
    /// The cluster that does without it.
    pub cluster: Key,
    /// Which.
    pub endpoint: Key,
    /// The limit that it met.
    pub why: Why,
    /// How often it went out of late, this time included.
    pub times: u32,
    /// It returns at the first sweep from then on.
    pub until: Millis,
}

/// An endpoint that fails and stays in, because no further one of its cluster may be out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spared {
    /// The cluster that goes on using it.
    pub cluster: Key,
    /// Which.
    pub endpoint: Key,
    /// The limit that it met last.
    pub why: Why,
    /// How often it went out of late.
    pub times: u32,
    /// It is forgotten at the first sweep from then on, unless it meets a limit again.
    pub until: Millis,
    /// `maxEjectionPercent`.
    pub percent: u8,
    /// Endpoints of the cluster.
    pub total: usize,
}

impl Spared {
    /// Why it stays in, for people.
    #[must_use]
    pub fn reason(&self) -> String {
        let (percent, total) = (self.percent, self.total);
        match usize::from(percent) * total / 100 {
            0 => format!("maxEjectionPercent {percent} lets none of {total} endpoints go out"),
            most => format!("maxEjectionPercent {percent} lets no more than {most} of {total} endpoints go out"),
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Outliers {
    clusters: BTreeMap<Key, Cluster>,
    /// Which clusters hold an endpoint.
    holders: BTreeMap<Key, BTreeSet<Key>>,
    alarm: Alarm,
    /// One that was spared is so no more, and nobody has asked since.
    forgave: bool,
}

impl Outliers {
    /// Sets a cluster's policy and endpoints, all of them, healthy or not. What is known of endpoints that stay is kept:
    /// who is out stays out, whatever the new policy says, until its time is over.
    ///
    /// Returns the tallies in the order of `endpoints`.
    pub fn set_cluster(
        &mut self,
        cluster: &Key,
        policy: Arc<OutlierPolicy>,
        endpoints: &[Key],
        now: Millis,
    ) -> Vec<Arc<Tally>> {
        let before = self.clusters.get(cluster).map(Cluster::endpoints).unwrap_or_default();
        let known = self.clusters.entry(Arc::clone(cluster)).or_insert_with(|| Cluster::new(Arc::clone(&policy), now));
        let tallies = known.set(policy, endpoints, now);
        for gone in before.iter().filter(|endpoint| known.tally(endpoint).is_none()) {
            forget(&mut self.holders, gone, cluster);
        }
        for (endpoint, tally) in endpoints.iter().zip(&tallies) {
            self.holders.entry(Arc::clone(endpoint)).or_default().insert(Arc::clone(cluster));
            if let Some(until) = self.alarm.until(endpoint) {
                tally.alert(until);
                // What a probe found before the cluster had it counts as if it ended now.
                if self.alarm.found_failing(endpoint) && !before.contains(endpoint) {
                    tally.doubt(&known.policy());
                }
            }
        }
        tallies
    }

    /// Ends a cluster that has no policy any more, or no traffic: who was out returns.
    pub fn remove_cluster(&mut self, cluster: &Key) {
        let Some(removed) = self.clusters.remove(cluster) else { return };
        for endpoint in removed.endpoints() {
            forget(&mut self.holders, &endpoint, cluster);
        }
        removed.admit_all();
    }

    /// The one door.
    pub fn handle(&mut self, event: Event, now: Millis, random: u64) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Tripped { cluster, endpoint, why } => {
                if let Some(known) = self.clusters.get_mut(&cluster) {
                    effects.extend(known.trip(&cluster, &endpoint, why, now));
                }
            }
            Event::Report { endpoint, reporter, failures } => {
                // An owner that sees its endpoint fail has its health to say so; its word would cost others probes.
                if failures > 0 && alarm::owner(&endpoint) != &*reporter {
                    self.suspect(&endpoint, reporter, now, random);
                }
            }
            Event::Probed { endpoint, healthy } => {
                if self.alarm.probed(&endpoint, healthy, now, random) && !healthy {
                    self.charge(&endpoint, now, &mut effects);
                }
            }
            Event::Tick => {
                for (name, cluster) in &mut self.clusters {
                    self.forgave |= cluster.sweep_if_due(name, now, &mut effects);
                }
                let (clusters, holders, ahead) = (&self.clusters, &self.holders, self.alarm.looks_ahead);
                let begun = self.alarm.probes(now, |endpoint| is_used(clusters, holders, endpoint, ahead));
                effects.extend(begun.into_iter().map(|endpoint| Effect::Probe { endpoint }));
            }
        }
        effects
    }

    /// Sets how many members the mesh has: the more there are, the longer probes of one report spread over time.
    pub fn set_members(&mut self, members: usize) {
        self.alarm.set_members(members);
    }

    /// Forgets what others reported: thresholds are the policies' own again. Who is out stays out.
    pub fn hush(&mut self) {
        self.alarm.hush();
        self.clusters.values().for_each(Cluster::hush);
    }

    /// When [`Event::Tick`] is due next. Walks over all clusters and alerts: ask once after a batch of events.
    #[must_use]
    pub fn due(&self) -> Option<Millis> {
        let sweeps = self.clusters.values().map(Cluster::due);
        let ahead = self.alarm.looks_ahead;
        let probes = self.alarm.due(|endpoint| is_used(&self.clusters, &self.holders, endpoint, ahead));
        sweeps.chain(probes).min()
    }

    /// All that are out now, by cluster and endpoint.
    pub fn ejections(&self) -> impl Iterator<Item = Ejection> {
        self.clusters.iter().flat_map(|(name, cluster)| cluster.ejections(name))
    }

    /// All that fail and stay in, by cluster and endpoint.
    pub fn spared(&self) -> impl Iterator<Item = Spared> {
        self.clusters.iter().flat_map(|(name, cluster)| cluster.spared(name))
    }

    /// Whether one that was spared is so no more since this was asked last.
    pub fn has_forgiven(&mut self) -> bool {
        std::mem::take(&mut self.forgave)
    }

    /// Other nodes that report an endpoint now, by name, the first 16.
    pub fn witnesses(&self, endpoint: &Key) -> impl Iterator<Item = &Key> {
        self.alarm.witnesses(endpoint)
    }

    /// True if it is reported, and the owner that was asked last found it failing.
    #[cfg(test)]
    pub(crate) fn found_failing(&self, endpoint: &Key) -> bool {
        self.alarm.found_failing(endpoint)
    }

    fn suspect(&mut self, endpoint: &Key, reporter: Key, now: Millis, random: u64) {
        let holders = self.holders.get(endpoint);
        let Some(until) = self.alarm.report(endpoint, reporter, holders.is_some(), now, random) else { return };
        for cluster in holders.into_iter().flatten() {
            if let Some(tally) = self.clusters.get(cluster).and_then(|cluster| cluster.tally(endpoint)) {
                tally.alert(until);
            }
        }
    }

    fn charge(&mut self, endpoint: &Key, now: Millis, effects: &mut Vec<Effect>) {
        for name in self.holders.get(endpoint).into_iter().flatten() {
            if let Some(cluster) = self.clusters.get_mut(name) {
                effects.extend(cluster.charge(name, endpoint, now));
            }
        }
    }
}

/// True if some cluster sends requests there, or none knows it and this node looks `ahead`: only then is a probe worth its
/// cost.
fn is_used(
    clusters: &BTreeMap<Key, Cluster>,
    holders: &BTreeMap<Key, BTreeSet<Key>>,
    endpoint: &Key,
    ahead: bool,
) -> bool {
    let Some(holders) = holders.get(endpoint) else { return ahead };
    let mut tallies = holders.iter().filter_map(|name| clusters.get(name)?.tally(endpoint));
    tallies.any(|tally| !tally.is_ejected())
}

fn forget(holders: &mut BTreeMap<Key, BTreeSet<Key>>, endpoint: &Key, cluster: &Key) {
    if let Some(clusters) = holders.get_mut(endpoint) {
        clusters.remove(cluster);
        if clusters.is_empty() {
            holders.remove(endpoint);
        }
    }
}
