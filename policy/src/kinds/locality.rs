//! `LocalityLoadBalancerSetting` and `ZoneAwareLoadBalancerSetting`: near endpoints before far ones.

use std::fmt;

use crate::{
    codes,
    decode::{At, Fields},
};

/// `LocalityLoadBalancerSetting`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LocalityLb {
    /// `None`: as the mesh says.
    pub enabled: Option<bool>,
    /// The first whose `from` covers the caller is used; localities that its `to` does not cover get no traffic.
    pub distribute: Vec<Distribute>,
    /// Region and the one that stands in for it. Never together with `distribute`.
    pub failover: Vec<(String, String)>,
    /// An endpoint's priority is the number of entries less the leading ones in which it matches the caller.
    pub failover_priority: Vec<PriorityLabel>,
}

/// Where the traffic of callers in a locality goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distribute {
    /// Of the callers.
    pub from: LocalityPattern,
    /// Of the endpoints, in percent; sums up to 100. A pattern's share is divided by the endpoints' weights.
    pub to: Vec<(LocalityPattern, u32)>,
}

/// `*`, `region/*`, `region/zone/*` or `region/zone/subzone`; a shorter form means the same as with `/*`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LocalityPattern {
    /// Parts that must be equal: none, region, zone and subzone.
    parts: Vec<String>,
    /// It ends with `*`.
    wildcard: bool,
}

/// An entry of `failoverPriority`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PriorityLabel {
    /// The label.
    pub key: String,
    /// `key=value`: the endpoint has this value. `None`: it has the caller's.
    pub value: Option<String>,
}

/// `ZoneAwareLoadBalancerSetting`: each zone's callers use its own endpoints as far as these suffice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZoneAwareLb {
    /// `None`: as the mesh says.
    pub enabled: Option<bool>,
    /// Region and the one that stands in for it.
    pub failover: Vec<(String, String)>,
    /// As for [`LocalityLb`], without the labels of topology.
    pub failover_priority: Vec<PriorityLabel>,
    /// With fewer endpoints the zones are not looked at.
    pub min_cluster_size: u64,
}

/// Labels of topology that failover by region deals with itself.
const TOPOLOGY: [&str; 3] =
    ["topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone"];
/// `minClusterSize`, where nothing is said.
const MIN_CLUSTER_SIZE: u64 = 6;

impl LocalityPattern {
    /// True if the pattern covers a locality, written `region/zone/subzone`; parts that are absent are empty.
    pub fn covers(&self, locality: &str) -> bool {
        let mut parts = locality.splitn(3, '/').chain(std::iter::repeat(""));
        self.parts.iter().all(|own| parts.next() == Some(own))
    }

    /// `None` if a part is empty or a `*` is not at the end.
    fn parse(text: &str) -> Option<Self> {
        let mut parts: Vec<String> = text.splitn(3, '/').map(str::to_owned).collect();
        let wildcard = parts.last().is_some_and(|last| last == "*");
        if wildcard {
            parts.pop();
        }
        let plain = parts.iter().all(|part| !part.is_empty() && !part.contains('*'));
        plain.then_some(Self { parts, wildcard })
    }

    /// True if a locality is covered by both and the one that stands first leaves nothing to the other: the earlier is as wide as
    /// the later, or the later is wide without saying so by `*`.
    fn hides(&self, later: &Self) -> bool {
        let hidden = later.parts.starts_with(&self.parts);
        let unsaid = !later.wildcard && later.parts.len() < 3 && self.parts.starts_with(&later.parts);
        hidden || unsaid
    }
}

impl fmt::Display for LocalityPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.parts.join("/"))?;
        match (self.wildcard, self.parts.is_empty()) {
            (true, true) => f.write_str("*"),
            (true, false) => f.write_str("/*"),
            (false, _) => Ok(()),
        }
    }
}

impl LocalityLb {
    pub(super) fn decode(at: &At<'_>, guarded: bool) -> Option<Self> {
        let fields = at.fields()?;
        let enabled = fields.get("enabled").and_then(|at| at.boolean());
        let list = fields.get("distribute");
        let items = list.as_ref().map(At::items).unwrap_or_default();
        let distribute: Vec<(At<'_>, Distribute)> =
            items.iter().filter_map(|item| Some((*item, Distribute::decode(item)?))).collect();
        check_overlap(distribute.iter().map(|(at, one)| (at, &one.from)));
        let failover = decode_failover(&fields, "locality lb failover", guarded);
        let failover_priority = decode_priority(&fields);
        if !items.is_empty() && !failover.is_empty() {
            let message = "can not simultaneously specify 'distribute' and 'failover'";
            at.error_as_istio(codes::EXCLUSIVE, message, "");
        }
        let topology = failover_priority.iter().find(|label| TOPOLOGY.contains(&label.key.as_str()));
        if let Some(label) = topology.filter(|label| label.value.is_none() && !failover.is_empty()) {
            let message = format!(
                "can not simultaneously set 'failover' and topology label '{}' in 'failover_priority'",
                label.key
            );
            at.error_as_istio(codes::EXCLUSIVE, message, "");
        }
        fields.finish();
        let distribute = distribute.into_iter().map(|(_, one)| one).collect();
        Some(Self { enabled, distribute, failover, failover_priority })
    }
}

impl Distribute {
    fn decode(at: &At<'_>) -> Option<Self> {
        let fields = at.fields()?;
        let from = fields.required("from").and_then(|at| decode_pattern(at.text()?, &at));
        let map = fields.get("to");
        let entries = map.as_ref().map(At::entries).unwrap_or_default();
        let (mut to, mut sum) = (Vec::new(), 0_i64);
        for (text, at) in &entries {
            let Some(weight) = at.integer(i64::MIN..=i64::MAX) else { continue };
            if !(1..=100).contains(&weight) {
                at.error_as_istio(codes::LOCALITY, "locality weight must be in range [1, 100]", "");
            }
            sum = sum.saturating_add(weight);
            let weight = u32::try_from(weight).unwrap_or_default();
            to.extend(decode_pattern(text, at).map(|pattern| (at, pattern, weight)));
        }
        if sum != 100 {
            at.error_as_istio(codes::LOCALITY, format!("total locality weight {sum} != 100"), "");
        }
        check_overlap(to.iter().map(|(at, pattern, _)| (*at, pattern)));
        let to = to.iter().map(|(_, pattern, weight)| (pattern.clone(), *weight)).collect();
        fields.finish();
        Some(Self { from: from?, to })
    }
}

fn decode_pattern(text: &str, at: &At<'_>) -> Option<LocalityPattern> {
    let pattern = LocalityPattern::parse(text);
    if pattern.is_none() {
        let message = match text.matches('*').count() {
            0 => format!("locality {text} must not contain empty region/zone/subzone info"),
            _ => format!("locality {text} wildcard '*' number can not exceed 1 and must be in the end"),
        };
        at.error_as_istio(codes::LOCALITY, message, "write region/zone/subzone, region/zone/*, region/* or *");
    }
    pattern
}

fn check_overlap<'p>(patterns: impl Iterator<Item = (&'p At<'p>, &'p LocalityPattern)>) {
    let mut seen: Vec<&LocalityPattern> = Vec::new();
    for (at, pattern) in patterns {
        if seen.iter().any(|earlier| earlier.hides(pattern)) {
            let message = format!("locality {pattern} overlap with previous specified ones");
            at.error_as_istio(codes::LOCALITY, message, "put the narrower first");
        }
        seen.push(pattern);
    }
}

fn decode_failover(fields: &Fields<'_>, what: &str, guarded: bool) -> Vec<(String, String)> {
    let list = fields.get("failover");
    let items = list.as_ref().map(At::items).unwrap_or_default();
    let decoded: Vec<(String, String)> = items.iter().filter_map(|item| decode_regions(item, what)).collect();
    let any = !items.is_empty() || fields.get("failoverPriority").is_some_and(|list| !list.is_empty_list());
    if any && !guarded {
        let message = "outlier detection policy must be provided for failover";
        fields.at.warn(codes::FAILOVER_IDLE, message, "without outlierDetection nothing fails over");
    }
    decoded
}

fn decode_regions(item: &At<'_>, what: &str) -> Option<(String, String)> {
    let own = item.fields()?;
    let text = |name| own.get(name).and_then(|at| at.text()).unwrap_or_default().to_owned();
    let (from, to) = (text("from"), text("to"));
    own.finish();
    let regions = [&from, &to];
    let wrong = if from == to {
        Some("settings must specify different regions")
    } else if regions.iter().any(|region| region.contains('/')) {
        Some("only specify region")
    } else if regions.iter().any(|region| region.contains('*')) {
        Some("region should not contain '*' wildcard")
    } else {
        None
    };
    if let Some(wrong) = wrong {
        item.error_as_istio(codes::LOCALITY, format!("{what} {wrong}"), "");
    }
    Some((from, to))
}

fn decode_priority(fields: &Fields<'_>) -> Vec<PriorityLabel> {
    let Some(list) = fields.get("failoverPriority") else { return Vec::new() };
    let label = |text: &str| match text.split_once('=') {
        Some((key, value)) => PriorityLabel { key: key.to_owned(), value: Some(value.to_owned()) },
        None => PriorityLabel { key: text.to_owned(), value: None },
    };
    list.text_list().iter().map(|(text, _)| label(text)).collect()
}

impl ZoneAwareLb {
    pub(super) fn decode(at: &At<'_>, guarded: bool) -> Option<Self> {
        let fields = at.fields()?;
        let enabled = fields.get("enabled").and_then(|at| at.boolean());
        let failover = decode_failover(&fields, "zone aware lb failover", guarded);
        let failover_priority = decode_priority(&fields);
        for label in failover_priority.iter().filter(|label| label.value.is_none()) {
            if TOPOLOGY.contains(&label.key.as_str()) {
                let message =
                    format!("'failover_priority' for zone aware lb must not use topology label '{}'", label.key);
                at.error_as_istio(codes::LOCALITY, message, "regions and zones are looked at without it");
            }
        }
        let size = fields.get("minClusterSize").map_or(Some(0), |at| at.integer(0..=i64::MAX));
        let explicit = fields.has("minClusterSize");
        fields.finish();
        let size = u64::try_from(size?).unwrap_or_default();
        let min_cluster_size = if explicit { size } else { MIN_CLUSTER_SIZE };
        Some(Self { enabled, failover, failover_priority, min_cluster_size })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{complaints, spec_of};

    fn rule(setting: &str, text: &str) -> String {
        format!("{{host: a, trafficPolicy: {{outlierDetection: {{}}, loadBalancer: {{{setting}: {text}}}}}}}")
    }

    #[test]
    fn patterns_cover_localities() {
        for (pattern, locality, covered) in [
            ("*", "eu/a/1", true),
            ("*", "", true),
            ("eu/*", "eu/a/1", true),
            ("eu", "eu/a", true),
            ("eu", "europe/a", false),
            ("eu/a/*", "eu/b/1", false),
            ("eu/a", "eu/a/1", true),
            ("eu/a/1", "eu/a/1", true),
            ("eu/a/1", "eu/a", false),
        ] {
            assert_eq!(LocalityPattern::parse(pattern).unwrap().covers(locality), covered, "{pattern} {locality}");
        }
        for bad in ["", "eu//1", "*/a", "e*", "eu/*/1", "eu/a/b/*x"] {
            assert!(LocalityPattern::parse(bad).is_none(), "{bad}");
        }
        assert_eq!(
            ["*", "eu/*", "eu/a"].map(|text| LocalityPattern::parse(text).unwrap().to_string()),
            ["*", "eu/*", "eu/a"]
        );
    }

    #[test]
    fn settings() {
        let spec = spec_of(
            "DestinationRule",
            &rule(
                "localityLbSetting",
                "{enabled: false, distribute: [{from: eu/a/*, to: {eu/a/*: 80, 'us/*': 20}}], failoverPriority: [version, app=x]}",
            ),
        );
        let policy = spec.destination_rule().unwrap().policy.clone().unwrap();
        let setting = policy.blocks.load_balancer.unwrap().locality.unwrap();
        assert_eq!((setting.enabled, setting.distribute[0].to[1].1), (Some(false), 20));
        assert_eq!(setting.failover_priority[1], PriorityLabel { key: "app".into(), value: Some("x".into()) });
        let spec = spec_of("DestinationRule", &rule("zoneAwareLbSetting", "{failover: [{from: a, to: b}]}"));
        let policy = spec.destination_rule().unwrap().policy.clone().unwrap();
        assert_eq!(policy.blocks.load_balancer.unwrap().zone_aware.map(|zones| zones.min_cluster_size), Some(6));
    }

    #[test]
    fn what_a_setting_cannot_be() {
        let to = "to: {'*': 100}";
        for (setting, text, code) in [
            (
                "localityLbSetting",
                "{distribute: [{from: a, to: {b: 100}}], failover: [{from: a, to: b}]}".to_owned(),
                codes::EXCLUSIVE,
            ),
            (
                "localityLbSetting",
                "{failover: [{from: a, to: b}], failoverPriority: [topology.kubernetes.io/zone]}".into(),
                codes::EXCLUSIVE,
            ),
            (
                "localityLbSetting",
                format!("{{distribute: [{{from: 'a/*', {to}}}, {{from: a/b, {to}}}]}}"),
                codes::LOCALITY,
            ),
            (
                "localityLbSetting",
                format!("{{distribute: [{{from: a/b/c, {to}}}, {{from: a, {to}}}]}}"),
                codes::LOCALITY,
            ),
            ("localityLbSetting", "{distribute: [{from: a, to: {b: 99}}]}".into(), codes::LOCALITY),
            ("localityLbSetting", "{distribute: [{from: a, to: {b: 101, c: -1}}]}".into(), codes::LOCALITY),
            ("localityLbSetting", "{failover: [{from: a/b, to: c}]}".into(), codes::LOCALITY),
            ("zoneAwareLbSetting", "{failoverPriority: [topology.istio.io/subzone]}".into(), codes::LOCALITY),
            ("zoneAwareLbSetting", "{failover: [{from: a, to: a}]}".into(), codes::LOCALITY),
        ] {
            let found = complaints("DestinationRule", &rule(setting, &text));
            assert!(found.iter().any(|(found, _)| *found == code), "{text}: {found:?}");
        }
        // A wide pattern that says so may stand behind a narrow one.
        let narrow_first =
            format!("{{distribute: [{{from: a/b/c, {to}}}, {{from: 'a/*', {to}}}, {{from: '*', {to}}}]}}");
        let found = complaints("DestinationRule", &rule("localityLbSetting", &narrow_first));
        assert!(found.is_empty(), "{found:?}");
        let alone = "{host: a, trafficPolicy: {loadBalancer: {localityLbSetting: {failover: [{from: a, to: b}]}}}}";
        assert!(complaints("DestinationRule", alone).iter().any(|(code, _)| *code == codes::FAILOVER_IDLE));
    }
}
