//! What others' reports cause here: an alert and, where this node uses the endpoint, a probe of its own. Whatever the
//! number of reporters, there is one alert for an endpoint and one probe at a time, and while probes find nothing the
//! pause between them doubles.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{Key, Millis};

/// How long thresholds are lowered after the last report.
pub const ALERT_MS: Millis = 30_000;
/// Endpoints that this node does not use and that are under alert all the same, in case it begins to.
pub const MAX_ALERTS: usize = 4_096;
/// Probes under way at once.
pub const MAX_PROBES: usize = 32;
/// Of these, of one owner: it holds up what others wait for no more than that, however many endpoints it has.
pub const MAX_PROBES_OF_OWNER: usize = 4;
/// A probe that has not ended by then is given up and counts for nothing.
pub const PROBE_MS: Millis = 5_000;
/// All nodes hear of a report at about the same time: before it probes, each waits for a random time of up to this much per member.
pub const SPREAD_EACH_MS: Millis = 1;
/// The longest such time, however many members there are.
pub const SPREAD_MS: Millis = 250;
/// Least time between the end of a probe and the next of the same endpoint; the owner runs its check as often.
pub const PAUSE_MS: Millis = 1_000;
/// The most that this time grows to while reports go on and probes find the endpoint healthy.
pub const LARGEST_PAUSE_MS: Millis = 32_000;
/// With no more members than this a node also probes what it does not use yet, so that it knows when it begins to: then all
/// who ask an owner at once are few.
pub const FEW_MEMBERS: usize = 32;
/// Reporters that are remembered by name.
const WITNESSES: usize = 16;

/// See the module.
#[derive(Debug)]
pub(super) struct Alarm {
    alerts: BTreeMap<Key, Alert>,
    spread: Millis,
    /// Whether what is not used is probed, too.
    pub(super) looks_ahead: bool,
}

impl Default for Alarm {
    fn default() -> Self {
        Self { alerts: BTreeMap::new(), spread: SPREAD_MS, looks_ahead: false }
    }
}

#[derive(Debug)]
struct Alert {
    until: Millis,
    witnesses: BTreeSet<Key>,
    probe: Probe,
    /// The last probe of this node's own found it failing.
    failing: bool,
    /// No probe before.
    earliest: Millis,
    pause: Millis,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Probe {
    None,
    At(Millis),
    Since(Millis),
}

impl Alarm {
    /// How many nodes may hear of a report together.
    pub(super) fn set_members(&mut self, members: usize) {
        self.looks_ahead = members <= FEW_MEMBERS;
        let members = Millis::try_from(members).unwrap_or(Millis::MAX);
        self.spread = members.saturating_mul(SPREAD_EACH_MS).clamp(1, SPREAD_MS);
    }

    /// Ends all alerts.
    pub(super) fn hush(&mut self) {
        self.alerts.clear();
    }

    /// Another node reports failures. Until when the alert holds; `None` if there is no room for one more.
    pub(super) fn report(
        &mut self,
        endpoint: &Key,
        reporter: Key,
        used: bool,
        now: Millis,
        random: u64,
    ) -> Option<Millis> {
        if !used && self.alerts.len() >= MAX_ALERTS && !self.alerts.contains_key(endpoint) {
            self.expire(now);
            if self.alerts.len() >= MAX_ALERTS {
                return None;
            }
        }
        let alert = self.alerts.entry(Arc::clone(endpoint)).or_insert_with(|| Alert {
            until: now,
            witnesses: BTreeSet::new(),
            probe: Probe::None,
            failing: false,
            earliest: now + random % self.spread,
            pause: PAUSE_MS,
        });
        alert.until = now + ALERT_MS;
        if alert.witnesses.len() < WITNESSES {
            alert.witnesses.insert(reporter);
        }
        if alert.probe == Probe::None {
            alert.probe = Probe::At(alert.earliest.max(now));
        }
        Some(alert.until)
    }

    /// Until when an endpoint is under alert.
    pub(super) fn until(&self, endpoint: &Key) -> Option<Millis> {
        self.alerts.get(endpoint).map(|alert| alert.until)
    }

    pub(super) fn witnesses(&self, endpoint: &Key) -> impl Iterator<Item = &Key> {
        self.alerts.get(endpoint).into_iter().flat_map(|alert| &alert.witnesses)
    }

    /// The probes that begin now, of endpoints that are worth one: what has been due longest first.
    pub(super) fn probes(&mut self, now: Millis, is_worth: impl Fn(&Key) -> bool) -> Vec<Key> {
        self.expire(now);
        let mut due: Vec<(Millis, Key)> = self
            .alerts
            .iter()
            .filter_map(|(endpoint, alert)| match alert.probe {
                Probe::At(at) if at <= now && is_worth(endpoint) => Some((at, Arc::clone(endpoint))),
                Probe::None | Probe::At(_) | Probe::Since(_) => None,
            })
            .collect();
        due.sort();
        let mut running = self.running();
        let begun: Vec<Key> =
            due.iter().filter(|(_, endpoint)| running.begin(endpoint)).map(|(_, endpoint)| endpoint.clone()).collect();
        for endpoint in &begun {
            if let Some(alert) = self.alerts.get_mut(endpoint) {
                alert.probe = Probe::Since(now);
            }
        }
        begun
    }

    /// A probe ended. False if none was under way, or it had been given up.
    pub(super) fn probed(&mut self, endpoint: &Key, healthy: bool, now: Millis, random: u64) -> bool {
        let Some(alert) = self.alerts.get_mut(endpoint) else { return false };
        let Probe::Since(since) = alert.probe else { return false };
        alert.probe = Probe::None;
        let pause = if healthy { alert.pause } else { PAUSE_MS };
        let in_time = now < since + PROBE_MS;
        alert.failing = in_time && !healthy;
        alert.earliest = now + pause + random % (pause / 4);
        alert.pause = if healthy { (pause * 2).min(LARGEST_PAUSE_MS) } else { PAUSE_MS };
        in_time
    }

    /// True if it is reported, and this node's own last probe found it failing.
    pub(super) fn found_failing(&self, endpoint: &Key) -> bool {
        self.alerts.get(endpoint).is_some_and(|alert| alert.failing)
    }

    /// When the next probe is to begin, or one is to be given up.
    pub(super) fn due(&self, is_worth: impl Fn(&Key) -> bool) -> Option<Millis> {
        let running = self.running();
        let times = self.alerts.iter().filter_map(|(endpoint, alert)| match alert.probe {
            Probe::None => None,
            Probe::At(at) => (running.has_room(endpoint) && is_worth(endpoint)).then_some(at),
            Probe::Since(since) => Some(since + PROBE_MS),
        });
        times.min()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.alerts.len()
    }

    fn running(&self) -> Running<'_> {
        let mut running = Running::default();
        let probed = self.alerts.iter().filter(|(_, alert)| matches!(alert.probe, Probe::Since(_)));
        probed.for_each(|(endpoint, _)| running.add(endpoint));
        running
    }

    /// Gives up probes that take too long, and ends alerts.
    fn expire(&mut self, now: Millis) {
        self.alerts.retain(|_, alert| {
            if matches!(alert.probe, Probe::Since(since) if now >= since + PROBE_MS) {
                alert.probe = Probe::None;
            }
            now < alert.until || matches!(alert.probe, Probe::Since(_))
        });
    }
}

/// Probes under way, all and by owner.
#[derive(Debug, Default)]
struct Running<'k> {
    all: usize,
    by_owner: BTreeMap<&'k str, usize>,
}

impl<'k> Running<'k> {
    fn has_room(&self, endpoint: &Key) -> bool {
        self.all < MAX_PROBES
            && self.by_owner.get(owner(endpoint)).is_none_or(|of_owner| *of_owner < MAX_PROBES_OF_OWNER)
    }

    fn add(&mut self, endpoint: &'k Key) {
        self.all += 1;
        *self.by_owner.entry(owner(endpoint)).or_default() += 1;
    }

    /// Takes a place if there is one.
    fn begin(&mut self, endpoint: &'k Key) -> bool {
        let has_room = self.has_room(endpoint);
        if has_room {
            self.add(endpoint);
        }
        has_room
    }
}

/// The node that an endpoint is on, and that answers its probes: what its id, as text, begins with.
pub(super) fn owner(endpoint: &Key) -> &str {
    endpoint.split_once('/').map_or(endpoint, |(node, _)| node)
}
