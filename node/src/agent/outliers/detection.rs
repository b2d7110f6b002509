//! Which services have `outlierDetection` in some document: of others nothing is heard, alerted or probed.

use std::sync::Arc;

use certs::id::ServiceName;
use policy::{
    document::Spec,
    history::State,
    hosts,
    kinds::{DestinationRule, TrafficPolicy},
};

/// Hosts of the rules that detect outliers.
#[derive(Debug)]
pub(super) struct Detection {
    state: Arc<State>,
    hosts: Vec<String>,
}

impl Detection {
    /// Of the documents in effect.
    pub(super) fn of(state: &Arc<State>) -> Self {
        let mut hosts: Vec<String> = Vec::new();
        for (_, value) in state.effective() {
            let Ok(document) = &value.document else { continue };
            let Spec::DestinationRule(rule) = &document.spec else { continue };
            if detects(rule) {
                hosts.push(rule.host.clone());
            }
        }
        hosts.sort();
        hosts.dedup();
        Self { state: Arc::clone(state), hosts }
    }

    /// True if it was made of this state.
    pub(super) fn is_of(&self, state: &Arc<State>) -> bool {
        Arc::ptr_eq(&self.state, state)
    }

    /// True if some caller of the service may detect outliers of it.
    pub(super) fn covers(&self, service: &ServiceName) -> bool {
        let name = hosts::full_name(service);
        self.hosts.iter().any(|host| hosts::covers(host, &name))
    }
}

fn detects(rule: &DestinationRule) -> bool {
    let block = |policy: &TrafficPolicy| {
        policy.blocks.outlier_detection.is_some()
            || policy.ports.iter().any(|(_, port)| port.outlier_detection.is_some())
    };
    rule.policy.as_ref().is_some_and(block)
        || rule.subsets.iter().any(|subset| subset.policy.as_ref().is_some_and(block))
}
