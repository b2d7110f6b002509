//! The choice of an endpoint for one cluster: first a priority and a place, then one among equals.
//!
//! Built anew when endpoints, their health or the policy change; a choice reads it without a lock and allocates nothing.
//! What changes between two builds (requests under way, ejections, warm-up) is read from the hosts' atomics.

use super::{
    Algorithm, Client, Host, LocalityPolicy, Millis, Tried, Warmup,
    dice::Dice,
    group::{Group, Manner},
    level::{Level, parts},
};

/// What of a DestinationRule concerns the choice. The default is that of a cluster without any.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct BalancePolicy {
    /// How one is chosen among equals.
    pub algorithm: Algorithm,
    /// How new endpoints begin; for LEAST_REQUEST and ROUND_ROBIN.
    pub warmup: Option<Warmup>,
    /// Which places come first.
    pub locality: LocalityPolicy,
    /// True where `outlierDetection` is set: only then priorities and `min_health_percent` count.
    pub detects_outliers: bool,
    /// Below this percentage of healthy endpoints all are used (panic); 0 is never.
    pub min_health_percent: u8,
}

/// What one choice depends on.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// Positions that earlier attempts of the request used: avoided while there is another.
    pub tried: &'a Tried,
    /// True if another priority or place is better than one that was tried (Istio's `retryRemoteLocalities`).
    pub leave: bool,
    /// The hash of the request's key ([`super::hash`]), for RING_HASH and MAGLEV; none is a random host.
    pub hash: Option<u64>,
    /// Drawn for each choice.
    pub random: u64,
    /// The time of the choice.
    pub now: Millis,
}

/// See the module.
#[derive(Debug)]
pub struct LoadBalancer {
    hosts: Box<[Host]>,
    groups: Box<[Place]>,
    panics: bool,
}

/// A group of equals and where its share of the requests ends; all shares together end at 1.
#[derive(Debug)]
struct Place {
    until: f64,
    group: Group,
}

impl LoadBalancer {
    /// Builds the tables. `seed` is where turns begin, so that callers do not walk in step.
    #[must_use]
    pub fn new(hosts: Vec<Host>, policy: &BalancePolicy, client: &Client, seed: u64) -> LoadBalancer {
        let mut order: Vec<usize> = (0..hosts.len()).filter(|position| hosts[*position].weight > 0).collect();
        order.sort_by(|a, b| hosts[*a].id.cmp(&hosts[*b].id));
        let shares = policy.locality.shares(client);
        if let Some(shares) = shares {
            order.retain(|position| shares.iter().any(|(pattern, _)| hosts[*position].locality.fits(pattern)));
        }
        let levels = levels(&hosts, &order, policy, client);
        let counts: Vec<Level> = levels
            .iter()
            .map(|level| Level {
                healthy: level.iter().filter(|position| hosts[**position].is_healthy()).count() as u64,
                total: level.len() as u64,
            })
            .collect();
        let threshold = if policy.detects_outliers { policy.min_health_percent } else { 0 };
        let parts = parts(&counts, threshold);
        let mut groups = Vec::new();
        for (level, part) in levels.iter().zip(&parts).filter(|(_, part)| part.percent > 0) {
            let chosen: Vec<usize> =
                level.iter().copied().filter(|position| part.panic || hosts[*position].is_healthy()).collect();
            let whole = f64::from(u32::try_from(part.percent).unwrap_or(100)) / 100.0;
            let manner = Manner { algorithm: policy.algorithm, warmup: policy.warmup, seed, panic: part.panic };
            let build = |members: &[usize], scale: &dyn Fn(&Host) -> f64| Group::new(&hosts, members, manner, scale);
            match shares.filter(|_| !part.panic) {
                None => groups.push((whole, build(&chosen, &|_| 1.0))),
                Some(shares) => groups.extend(distribute(&hosts, level, &chosen, shares, policy.algorithm, build)),
            }
        }
        LoadBalancer {
            panics: parts.iter().any(|part| part.panic && part.percent > 0),
            groups: ends(groups),
            hosts: hosts.into(),
        }
    }

    /// The position of the chosen host among those that the tables were built from; `None` if there is none to choose
    /// (503 `UH`).
    #[must_use]
    pub fn pick(&self, ask: &Ask<'_>) -> Option<usize> {
        let mut dice = Dice::new(ask.random);
        // One key goes to one priority, or it would go to several hosts.
        let point = ask.hash.map_or_else(|| dice.unit(), |hash| Dice::new(hash).unit());
        let at = self.groups.iter().position(|place| point < place.until)?;
        let chosen = &self.groups[at].group;
        let others = || self.groups[at + 1..].iter().chain(&self.groups[..at]).map(|place| &place.group);
        chosen
            .fresh(&self.hosts, ask, &mut dice)
            .or_else(
                || if ask.leave { others().find_map(|group| group.fresh(&self.hosts, ask, &mut dice)) } else { None },
            )
            .or_else(|| chosen.any(&self.hosts, ask, &mut dice))
            .or_else(|| others().find_map(|group| group.any(&self.hosts, ask, &mut dice)))
    }

    /// The hosts, as they were given.
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// True if some requests go to endpoints that are not healthy, because too few are.
    #[must_use]
    pub const fn panics(&self) -> bool {
        self.panics
    }
}

/// Positions by priority.
fn levels(hosts: &[Host], order: &[usize], policy: &BalancePolicy, client: &Client) -> Vec<Vec<usize>> {
    let ranked: Vec<&Host> = order.iter().map(|position| &hosts[*position]).collect();
    let priorities = policy.locality.priorities(&ranked, client, policy.detects_outliers);
    let mut levels = vec![Vec::new(); priorities.iter().max().map_or(0, |last| last + 1)];
    for (position, priority) in order.iter().zip(priorities) {
        levels[priority].push(*position);
    }
    levels
}

/// Groups by the patterns of `distribute`; a host belongs to the first that fits it. A pattern's percentage is that of its hosts
/// together; where too many of them fail it shrinks, as a priority's does.
fn distribute(
    hosts: &[Host],
    all: &[usize],
    chosen: &[usize],
    shares: &[(String, u32)],
    algorithm: Algorithm,
    build: impl Fn(&[usize], &dyn Fn(&Host) -> f64) -> Group,
) -> Vec<(f64, Group)> {
    let place_of = |host: &Host| shares.iter().position(|(pattern, _)| host.locality.fits(pattern));
    let within = |positions: &[usize], place: usize| -> Vec<usize> {
        positions.iter().copied().filter(|position| place_of(&hosts[*position]) == Some(place)).collect()
    };
    let places: Vec<(f64, Vec<usize>, usize)> = shares
        .iter()
        .enumerate()
        .map(|(place, (_, percent))| {
            let (all, healthy) = (within(all, place), within(chosen, place));
            (f64::from(*percent) * availability(healthy.len(), all.len()), healthy, place)
        })
        .filter(|(share, _, _)| *share > 0.0)
        .collect();
    match algorithm {
        Algorithm::LeastRequest | Algorithm::RoundRobin | Algorithm::Random | Algorithm::PeakEwma => {
            places.into_iter().map(|(share, members, _)| (share, build(&members, &|_| 1.0))).collect()
        }
        // One table for all places, or a key would have several homes: the shares go into the weights.
        Algorithm::RingHash { .. } | Algorithm::Maglev { .. } => {
            let mut scales = vec![0.0; shares.len()];
            for (share, members, place) in &places {
                let weight: f64 = members.iter().map(|position| f64::from(hosts[*position].weight)).sum();
                scales[*place] = share / weight;
            }
            let scale = |host: &Host| place_of(host).map_or(0.0, |place| scales[place]);
            vec![(1.0, build(chosen, &scale))]
        }
    }
}

/// The part of its share that a place can take: all while 1.4 times its healthy hosts are the whole.
fn availability(healthy: usize, all: usize) -> f64 {
    let [healthy, all] = [healthy, all].map(|count| f64::from(u32::try_from(count).unwrap_or(u32::MAX)));
    if all > 0.0 { (1.4 * healthy / all).min(1.0) } else { 0.0 }
}

fn ends(groups: Vec<(f64, Group)>) -> Box<[Place]> {
    let total: f64 = groups.iter().map(|(share, _)| share).sum();
    let last = groups.len().saturating_sub(1);
    let mut sum = 0.0;
    let place = |(index, (share, group)): (usize, (f64, Group))| {
        sum += share / total;
        // Rounding must not leave a gap at the end.
        Place { until: if index == last { 1.0 } else { sum }, group }
    };
    groups.into_iter().enumerate().map(place).collect()
}
