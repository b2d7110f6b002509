//! Outlier detection that ejects nobody: the share of endpoints that may be out is less than one of those that there are.

use std::collections::BTreeMap;

use super::{Check, Finding};
use crate::{
    Kind, Spec, codes, hosts,
    kinds::{DestinationRule, OutlierDetection, Resolution, ServiceEntry, TrafficPolicy},
};

impl Check<'_> {
    pub(super) fn ejections(&mut self, rule: &DestinationRule) {
        if let Some(policy) = &rule.policy {
            self.ejections_of(rule, policy, &BTreeMap::new(), "spec");
        }
        for (index, subset) in rule.subsets.iter().enumerate() {
            if let Some(policy) = &subset.policy {
                self.ejections_of(rule, policy, &subset.labels, &format!("spec.subsets[{index}]"));
            }
        }
    }

    fn ejections_of(
        &mut self,
        rule: &DestinationRule,
        policy: &TrafficPolicy,
        labels: &BTreeMap<String, String>,
        field: &str,
    ) {
        let ports = policy.ports.iter().enumerate();
        let ports = ports.map(|(index, (_, blocks))| (format!(".portLevelSettings[{index}]"), blocks));
        for (place, blocks) in [(String::new(), &policy.blocks)].into_iter().chain(ports) {
            if let Some(detection) = &blocks.outlier_detection {
                let place = format!("{field}.trafficPolicy{place}.outlierDetection");
                self.ejects_nobody(rule, detection, labels, place);
            }
        }
    }

    fn ejects_nobody(
        &mut self,
        rule: &DestinationRule,
        detection: &OutlierDetection,
        labels: &BTreeMap<String, String>,
        field: String,
    ) {
        let (percent, host) = (detection.max_ejection_percent, &rule.host);
        let default = if detection.says_max_ejection { "" } else { " (the default)" };
        let message = match self.endpoints(host, labels) {
            // None is there yet: what comes is not known.
            None | Some(0) if detection.says_max_ejection => return,
            None | Some(0) => {
                format!(
                    "without maxEjectionPercent no more than {percent} % may be out: of fewer than ten endpoints none is ever ejected"
                )
            }
            Some(known) if percent as usize * known >= 100 => return,
            Some(known) => {
                format!(
                    "one of the {known} endpoints of `{host}` is more than maxEjectionPercent {percent}{default}: none is ever ejected"
                )
            }
        };
        let finding = Finding::warning(codes::EJECTS_NOBODY, field, message);
        self.say(finding.hint("write a `maxEjectionPercent` by which one can go out, e.g. 100"));
    }

    /// How many endpoints the host has with these labels, as far as that is known.
    fn endpoints(&self, host: &str, labels: &BTreeMap<String, String>) -> Option<usize> {
        let registered = hosts::service_of(host).and_then(|service| self.world.registry.endpoints(&service, labels));
        let listed = |entry: &ServiceEntry| {
            let has = |all: &BTreeMap<String, String>| labels.iter().all(|(key, value)| all.get(key) == Some(value));
            let is_known = entry.resolution == Resolution::Static && entry.selector.is_none();
            is_known.then(|| entry.endpoints.iter().filter(|endpoint| has(&endpoint.labels)).count())
        };
        let mut entries = self.world.claiming(Kind::ServiceEntry, host);
        let of_entry = |spec: &Spec| if let Spec::ServiceEntry(entry) = spec { listed(entry) } else { None };
        registered.or_else(|| entries.find_map(|entry| of_entry(&entry.document.spec)))
    }
}
