//! `Sidecar`: what a workload's proxy sees of the mesh, and how it takes what comes in.

mod egress;
mod ingress;

use std::collections::BTreeMap;

use super::{ConnectionPool, PortProtocol, gateway::refuse_target, label_selector};
use crate::{
    codes,
    decode::{At, Fields},
    hosts,
    parse::Metadata,
};

pub use egress::{EgressHost, EgressListener, EgressProxy, OutboundTrafficPolicy};
pub use ingress::{DefaultEndpoint, IngressListener};

/// `Sidecar`. One applies to a workload, never several.
#[derive(Debug, Clone, PartialEq)]
pub struct Sidecar {
    /// Labels of the workloads, in the same namespace; `None` is all of them.
    pub selector: Option<BTreeMap<String, String>>,
    /// How requests to the workload are taken; none means as its services are registered.
    pub ingress: Vec<IngressListener>,
    /// Which services the workload sees, and at which ports; none means every one.
    pub egress: Vec<EgressListener>,
    /// What becomes of traffic to unknown destinations; `None` is the mesh's default.
    pub outbound: Option<OutboundTrafficPolicy>,
    /// Limits of what comes in, on ports whose listener has none of its own.
    pub inbound_connection_pool: Option<ConnectionPool>,
}

/// `SidecarPort`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerPort {
    /// 0 for a Unix socket.
    pub number: u16,
    /// May be empty.
    pub name: String,
    /// What it speaks; `None` is sniffed.
    pub protocol: Option<PortProtocol>,
}

/// `captureMode`: how connections get to a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum CaptureMode {
    /// As the node is set up; the default.
    #[default]
    Default,
    /// The kernel redirects them.
    Iptables,
    /// Applications address the listener themselves.
    None,
}

impl Sidecar {
    pub(crate) fn decode(spec: &At<'_>, metadata: &Metadata) -> Option<Self> {
        let fields = spec.fields()?;
        let namespace = &metadata.id.namespace;
        let sidecar = Self {
            selector: label_selector::decode(&fields),
            ingress: ingress::decode(&fields),
            egress: egress::decode(&fields, namespace),
            outbound: fields.get("outboundTrafficPolicy").and_then(|at| OutboundTrafficPolicy::decode(&at, namespace)),
            inbound_connection_pool: fields.get("inboundConnectionPool").and_then(|at| ConnectionPool::decode(&at)),
        };
        let parts = ["ingress", "egress", "outboundTrafficPolicy", "inboundConnectionPool"];
        if !parts.iter().any(|name| fields.is_set(name)) {
            fields.at.error_as_istio(codes::EMPTY, "sidecar: empty configuration provided", "");
        }
        fields.finish();
        Some(sidecar)
    }

    /// True if the document is for a workload of its namespace with these labels.
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.selector.as_ref().is_none_or(|selector| label_selector::selects(selector, labels))
    }
}

impl CaptureMode {
    fn decode(fields: &Fields<'_>) -> Self {
        let words = [("DEFAULT", Self::Default), ("IPTABLES", Self::Iptables), ("NONE", Self::None)];
        fields.get("captureMode").and_then(|word| word.word(&words)).unwrap_or_default()
    }

    /// Who captures, and whom, is not for documents to say.
    fn refuse_unbuilt(fields: &Fields<'_>) {
        if let Some(at) = fields.get("captureMode").filter(|at| at.node.text() != Some("DEFAULT")) {
            at.unbuilt("another `captureMode` than DEFAULT (`skein capture` on the machine says what is captured)");
        }
    }
}

impl ListenerPort {
    fn decode(at: &At<'_>) -> Option<Self> {
        let fields = at.fields()?;
        let number = match fields.get("number") {
            Some(number) => number.integer(0..=65_535).and_then(|number| u16::try_from(number).ok()),
            None => Some(0),
        };
        let protocol = PortProtocol::decode(&fields);
        let name = fields.filled("name").map_or("", |(name, at)| {
            if !hosts::is_dns_label(name) {
                at.error_as_istio(codes::NAME, format!("invalid port name: {name}"), "a port name is one DNS label");
            }
            name
        });
        refuse_target(&fields, "Sidecars");
        fields.finish();
        Some(Self { number: number?, name: name.to_owned(), protocol })
    }
}

#[cfg(test)]
mod tests;
