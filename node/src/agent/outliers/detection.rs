//! Which services have `outlierDetection` in some document: of others nothing is heard, alerted or probed.

use std::{collections::BTreeMap, sync::Arc};

use certs::id::ServiceName;
use policy::{
    document::Spec,
    history::State,
    hosts,
    kinds::{DestinationRule, TrafficPolicy},
};

use crate::snapshot::{Services, Snapshot};

/// Hosts of the rules that detect outliers, and which services they cover.
#[derive(Debug, Default)]
pub(super) struct Detection {
    of: Option<(Arc<State>, Arc<Services>)>,
    hosts: Vec<String>,
    /// Of every service that has endpoints.
    covered: BTreeMap<ServiceName, bool>,
}

impl Detection {
    /// Takes over the documents in effect and the services. Hosts are compared once for a service, as long as documents stay.
    pub(super) fn follow(&mut self, snapshot: &Snapshot) {
        let (state, services) = (&snapshot.state, &snapshot.services);
        let (same_state, same_services) = self.of.as_ref().map_or((false, false), |(old_state, old_services)| {
            (Arc::ptr_eq(old_state, state), Arc::ptr_eq(old_services, services))
        });
        if same_state && same_services {
            return;
        }
        if !same_state {
            self.hosts = hosts(state);
            self.covered.clear();
        }
        let before = std::mem::take(&mut self.covered);
        let covers = |name: &ServiceName| before.get(name).copied().unwrap_or_else(|| self.matches(name));
        self.covered = services.iter().map(|service| (service.name.clone(), covers(&service.name))).collect();
        self.of = Some((Arc::clone(state), Arc::clone(services)));
    }

    /// True if some caller of the service may detect outliers of it.
    pub(super) fn covers(&self, service: &ServiceName) -> bool {
        // One that came just now is not listed yet.
        self.covered.get(service).copied().unwrap_or_else(|| self.matches(service))
    }

    fn matches(&self, service: &ServiceName) -> bool {
        let name = hosts::full_name(service);
        self.hosts.iter().any(|host| hosts::covers(host, &name))
    }
}

fn hosts(state: &State) -> Vec<String> {
    let documents = state.effective().filter_map(|(_, value)| value.document.as_ref().ok());
    let rules = documents.filter_map(|document| {
        let Spec::DestinationRule(rule) = &document.spec else { return None };
        detects(rule).then(|| rule.host.clone())
    });
    let mut hosts: Vec<String> = rules.collect();
    hosts.sort();
    hosts.dedup();
    hosts
}

fn detects(rule: &DestinationRule) -> bool {
    let block = |policy: &TrafficPolicy| {
        policy.blocks.outlier_detection.is_some()
            || policy.ports.iter().any(|(_, port)| port.outlier_detection.is_some())
    };
    rule.policy.as_ref().is_some_and(block)
        || rule.subsets.iter().any(|subset| subset.policy.as_ref().is_some_and(block))
}
