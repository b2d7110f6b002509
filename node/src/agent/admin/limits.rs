//! The rate limits of this node's services.

use policy::{compile::WorkloadLimit, kinds::LimitScope};

use super::{Admin, api};
use crate::config::{Service, SpeakerName};

impl Admin {
    /// One row for each rule of each service beside this node.
    pub(super) fn limits(&self) -> Vec<api::Limit> {
        let snapshot = self.agent.snapshot();
        let config = self.agent.config();
        let of = |service: &Service| {
            let namespace = service.name.namespace();
            let workload = snapshot.compiled.workload(&snapshot.trust_domain, namespace, &service.labels);
            let row = |limit: &WorkloadLimit| {
                let nodes = snapshot.services.get(&service.name).map_or(1, |service| service.nodes().len());
                let mesh = snapshot.limits.mesh(limit, &service.name, nodes);
                let counts = snapshot.limits.counts(&limit.id_at(&service.name, service.instance.as_deref()));
                let keys: Vec<String> = limit.rule.per.iter().map(ToString::to_string).collect();
                api::Limit {
                    service: SpeakerName::of(service).to_string(),
                    document: limit.document.to_string(),
                    rule: format!("rules[{}]", limit.index),
                    key: keys.join(","),
                    scope: match limit.rule.scope {
                        LimitScope::Node => "node",
                        LimitScope::Mesh => "mesh",
                    }
                    .to_owned(),
                    limit: limit.rule.requests,
                    interval_ms: u64::try_from(limit.rule.interval.as_millis()).unwrap_or(u64::MAX),
                    burst: limit.rule.burst,
                    share: mesh.as_ref().map_or(1.0, |mesh| mesh.share()) * f64::from(limit.rule.requests),
                    nodes: mesh.as_ref().map_or(1, |mesh| mesh.nodes()),
                    keys: mesh.map(|mesh| mesh.keys()),
                    admitted: counts.admitted(),
                    refused: counts.refused(),
                }
            };
            workload.limits.iter().map(row).collect::<Vec<_>>()
        };
        // A service without ports is not called, but that of a gateway is.
        let is_called = |service: &&Service| {
            !service.ports.is_empty() || snapshot.compiled.is_gateway(service.name.namespace(), &service.labels)
        };
        config.services.iter().filter(is_called).flat_map(of).collect()
    }
}
