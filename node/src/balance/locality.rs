//! Where endpoints are and in which order of priority a client uses them: Istio's `localityLbSetting`.

use std::{collections::BTreeMap, sync::Arc};

use policy::kinds::LocalityLb;

use super::Host;

/// Region, zone and subzone, each possibly empty.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Locality {
    /// The largest part.
    pub region: Arc<str>,
    /// Part of the region.
    pub zone: Arc<str>,
    /// Part of the zone.
    pub subzone: Arc<str>,
}

/// Who chooses.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Client {
    /// Where it is.
    pub locality: Locality,
    /// Its labels.
    pub labels: Arc<BTreeMap<String, String>>,
    /// What counts where a rule says nothing of localities: `MeshConfig.localityLbSetting`.
    pub setting: Arc<LocalityLb>,
}

/// `localityLbSetting`, a rule's own or the mesh's. The default is the mesh's default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalityPolicy {
    /// False leaves localities out of account, except where `distribute` is set. What a DestinationRule switches off sets none,
    /// as in Istio.
    pub enabled: bool,
    /// Shares by locality; the first entry whose `from` fits the client counts. Excludes the others.
    pub distribute: Vec<Distribute>,
    /// Which region follows a client's own.
    pub failover: Vec<Failover>,
    /// Labels by which endpoints are ranked, the most important first: `key` or `key=value`.
    pub failover_priority: Vec<String>,
}

/// An entry of `distribute`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distribute {
    /// A pattern of clients' localities.
    pub from: String,
    /// Patterns of endpoints' localities and their percentages: the first that fits an endpoint counts, what fits none gets nothing.
    pub to: Vec<(String, u32)>,
}

/// An entry of `failover`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failover {
    /// A client's region.
    pub from: String,
    /// The region to use before all others.
    pub to: String,
}

impl Default for LocalityPolicy {
    fn default() -> Self {
        LocalityPolicy { enabled: true, distribute: Vec::new(), failover: Vec::new(), failover_priority: Vec::new() }
    }
}

impl Locality {
    /// Reads `region/zone/subzone`, the later parts possibly missing.
    #[must_use]
    pub fn new(text: &str) -> Locality {
        let mut parts = text.splitn(3, '/').map(Arc::from);
        let mut part = || parts.next().unwrap_or_default();
        Locality { region: part(), zone: part(), subzone: part() }
    }

    /// True if a pattern covers it: `*` fits all, and what a pattern leaves out does too.
    #[must_use]
    pub fn fits(&self, pattern: &str) -> bool {
        let mut parts = pattern.splitn(3, '/');
        let region = parts.next().unwrap_or_default();
        let fits =
            |part: Option<&str>, own: &str| part.is_none_or(|part| part.is_empty() || part == "*" || part == own);
        (region == "*" || region == &*self.region)
            && fits(parts.next(), &self.zone)
            && fits(parts.next(), &self.subzone)
    }

    /// 0 to 3: how far another is.
    fn distance(&self, other: &Locality) -> u32 {
        match () {
            () if self == other => 0,
            () if (&self.region, &self.zone) == (&other.region, &other.zone) => 1,
            () if self.region == other.region => 2,
            () => 3,
        }
    }
}

impl LocalityPolicy {
    /// The entry of `distribute` that counts for a client.
    pub(super) fn shares(&self, client: &Client) -> Option<&[(String, u32)]> {
        let entry = self.distribute.iter().find(|entry| client.locality.fits(&entry.from))?;
        Some(&entry.to)
    }

    /// Each host's priority, 0 first, without gaps. `fails_over` says whether outliers are detected: without, Istio
    /// sets no priorities, because nothing would ever move to the next.
    pub(super) fn priorities(&self, hosts: &[&Host], client: &Client, fails_over: bool) -> Vec<usize> {
        if !fails_over || !self.enabled || !self.distribute.is_empty() {
            return vec![0; hosts.len()];
        }
        let ranks: Vec<u32> = hosts.iter().map(|host| self.rank(host, client)).collect();
        let mut levels = ranks.clone();
        levels.sort_unstable();
        levels.dedup();
        ranks.iter().map(|rank| levels.binary_search(rank).unwrap_or(0)).collect()
    }

    fn rank(&self, host: &Host, client: &Client) -> u32 {
        if self.failover_priority.is_empty() {
            return self.region_rank(host, client);
        }
        let by_labels = self.label_rank(host, client);
        // Both together: labels first; regions have five ranks.
        if self.failover.is_empty() { by_labels } else { by_labels * 5 + self.region_rank(host, client) }
    }

    fn region_rank(&self, host: &Host, client: &Client) -> u32 {
        let distance = client.locality.distance(&host.locality);
        let next = self.failover.iter().find(|entry| *entry.from == *client.locality.region);
        match next {
            Some(next) if distance == 3 && *next.to != *host.locality.region => 4,
            Some(_) | None => distance,
        }
    }

    /// The number of keys less those that agree before the first that does not.
    fn label_rank(&self, host: &Host, client: &Client) -> u32 {
        let agrees = |entry: &String| {
            let (key, wanted) = match entry.split_once('=') {
                Some((key, value)) => (key, value),
                None => (entry.as_str(), value(entry, &client.labels, &client.locality)),
            };
            value(key, &host.labels, &host.locality) == wanted
        };
        let rank = |keys: &[String]| keys.len() - keys.iter().take_while(|key| agrees(key)).count();
        let keys = &self.failover_priority;
        // Another network is farther than all in this one, but among its own the other keys still count.
        let rank = match keys.split_first() {
            Some((first, rest)) if first.split('=').next() == Some(NETWORK) => {
                rank(rest) + if agrees(first) { 0 } else { keys.len() }
            }
            Some(_) | None => rank(keys),
        };
        u32::try_from(rank).unwrap_or(u32::MAX / 8)
    }
}

const NETWORK: &str = "topology.istio.io/network";

/// A label's value; a locality's own names count as labels.
fn value<'a>(key: &str, labels: &'a BTreeMap<String, String>, locality: &'a Locality) -> &'a str {
    let part = match key {
        "topology.kubernetes.io/region" => &locality.region,
        "topology.kubernetes.io/zone" => &locality.zone,
        "topology.istio.io/subzone" => &locality.subzone,
        _ => return labels.get(key).map_or("", String::as_str),
    };
    if part.is_empty() { labels.get(key).map_or("", String::as_str) } else { part }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_cover_what_they_leave_out() {
        let place = Locality::new("r1/z1/s1");
        for fits in ["*", "r1", "r1/*", "r1/z1", "r1/z1/*", "r1/z1/s1"] {
            assert!(place.fits(fits), "{fits}");
        }
        for other in ["r2/*", "r1/z2", "r1/z1/s2", "", "r"] {
            assert!(!place.fits(other), "{other}");
        }
        assert!(Locality::new("").fits(""));
    }

    #[test]
    fn a_locality_has_up_to_three_parts() {
        let place = Locality::new("r/z/s/t");
        assert_eq!((&*place.region, &*place.zone, &*place.subzone), ("r", "z", "s/t"));
        assert_eq!(Locality::new(""), Locality::default());
        assert_eq!(Locality::new("r"), Locality::new("r//"));
    }
}
