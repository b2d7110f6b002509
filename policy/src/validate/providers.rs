//! Extension providers: that policies and Telemetries name ones that are there, and that those are services that can be called.

use certs::id::ServiceName;

use super::{Check, Finding};
use crate::{
    DocumentId, Kind, Spec, codes,
    hosts::{self, Protocol},
    kinds::{
        Action, AuthorizationPolicy, CheckProtocol, CollectorPlace, ENVOY, ExportProtocol, ExtensionProvider,
        MeshConfig, PROMETHEUS, Telemetry, TelemetryKind,
    },
};

const REFUSED: &str = "requests that it matches are refused";
const NOWHERE: &str = "what is observed goes nowhere";
const FIELD: &str = "spec.extensionProviders";

impl<'w> Check<'w> {
    /// The provider that a policy names is there.
    pub(super) fn provider(&mut self, policy: &AuthorizationPolicy) {
        let Some(name) = asked(policy) else { return };
        let config = self.config();
        let is_known = config.map_or(!self.world.is_mesh, |config| config.provider(name).is_some());
        if is_known {
            return;
        }
        let known = config.map(|config| config.extension_providers.as_slice()).unwrap_or_default();
        let near = crate::decode::nearest(name, known.iter().map(|provider| &*provider.name));
        let message = format!("no extension provider of the MeshConfig is called `{name}`: {REFUSED}");
        let finding = Finding::warning(codes::UNKNOWN_PROVIDER, "spec.provider.name", message);
        self.say(finding.hint(match near {
            Some(near) => format!("did you mean `{near}`?"),
            None => "push a MeshConfig whose extensionProviders has it first, or with it".to_owned(),
        }));
    }

    fn config(&self) -> Option<&'w MeshConfig> {
        let entry = self.world.entry(&DocumentId::mesh_wide(Kind::MeshConfig, "default"))?;
        if let Spec::MeshConfig(config) = &entry.document.spec { Some(config) } else { None }
    }

    /// The providers that a Telemetry names are there, and take what it gives them.
    pub(super) fn telemetry_providers(&mut self, telemetry: &Telemetry) {
        let config = self.config();
        if config.is_none() && !self.world.is_mesh {
            return;
        }
        let default = MeshConfig::default();
        let known: Vec<&str> =
            config.unwrap_or(&default).telemetry_providers.iter().map(|provider| &*provider.name).collect();
        for (field, name) in unknown(telemetry, config.unwrap_or(&default)) {
            let near = crate::decode::nearest(&name, known.iter().copied());
            let message =
                format!("no extension provider of the MeshConfig that takes this is called `{name}`: {NOWHERE}");
            let finding = Finding::warning(codes::UNKNOWN_PROVIDER, field, message);
            self.say(finding.hint(match near {
                Some(near) if near != name => format!("did you mean `{near}`?"),
                Some(_) | None => "push a MeshConfig whose extensionProviders has it first, or with it".to_owned(),
            }));
        }
    }

    /// Every collector can be called, and every provider that Telemetries name is there.
    fn collectors(&mut self, config: &MeshConfig) {
        for provider in &config.telemetry_providers {
            let Some(collector) = provider.kind.collector() else { continue };
            let CollectorPlace::Service(service) = &collector.place else { continue };
            let field = format!("{FIELD}[{}].{}", provider.index, provider.kind.field());
            let is_grpc = collector.protocol == ExportProtocol::Grpc;
            self.reach_provider(service, collector.port, is_grpc, &field, NOWHERE);
        }
        let missing: Vec<String> = self
            .world
            .all(Kind::Telemetry)
            .flat_map(|entry| {
                let Spec::Telemetry(telemetry) = &entry.document.spec else { return Vec::new() };
                let id = entry.id();
                let say =
                    |(_, name): (String, String)| format!("{id} names `{name}`, which is none of them: {NOWHERE}");
                unknown(telemetry, config).into_iter().map(say).collect()
            })
            .collect();
        for message in missing {
            let finding = Finding::warning(codes::UNKNOWN_PROVIDER, FIELD, message);
            self.say(finding.hint("add it, or change that Telemetry first"));
        }
    }

    /// Every provider can be asked, and every one that policies name is there.
    pub(super) fn providers(&mut self, config: &MeshConfig) {
        self.collectors(config);
        for provider in &config.extension_providers {
            let (kind, is_grpc) = match provider.protocol {
                CheckProtocol::Http(_) => ("envoyExtAuthzHttp", false),
                CheckProtocol::Grpc => ("envoyExtAuthzGrpc", true),
            };
            let field = format!("{FIELD}[{}].{kind}", provider.index);
            self.reach_provider(&provider.service, provider.port, is_grpc, &field, &on_error(provider));
        }
        let missing: Vec<String> = self
            .world
            .all(Kind::AuthorizationPolicy)
            .filter_map(|entry| {
                let Spec::AuthorizationPolicy(policy) = &entry.document.spec else { return None };
                let name = asked(policy).filter(|name| config.provider(name).is_none())?;
                Some(format!("{} has `{name}` asked, which is none of them: {REFUSED}", entry.id()))
            })
            .collect();
        for message in missing {
            let finding = Finding::warning(codes::UNKNOWN_PROVIDER, FIELD, message);
            self.say(finding.hint("add it, or delete that policy first"));
        }
    }

    /// Complains of a provider that cannot be called; `otherwise` is what happens then.
    fn reach_provider(&mut self, service: &ServiceName, number: u16, is_grpc: bool, field: &str, otherwise: &str) {
        if !self.world.knows_services {
            return;
        }
        let host = hosts::full_name(service);
        let Some(ports) = self.world.registry.ports(service) else {
            let hint = self.world.hint_for_host(&host);
            let message = format!("no service is called `{host}`: until there is one, {otherwise}");
            let finding = Finding::warning(codes::UNKNOWN_HOST, format!("{field}.service"), message);
            self.say(finding.hint(hint));
            return;
        };
        let Some(port) = ports.iter().find(|port| port.number == number) else {
            let numbers: Vec<String> = ports.iter().map(|port| port.number.to_string()).collect();
            let message = format!("`{host}` has no port {number}");
            let finding = Finding::warning(codes::UNKNOWN_PORT, format!("{field}.port"), message);
            self.say(finding.hint(format!("its ports are {}", numbers.join(", "))));
            return;
        };
        let (can, needed) = match is_grpc {
            false => (port.protocol.is_http(), "HTTP"),
            true => (matches!(port.protocol, Protocol::Http2 | Protocol::Grpc), "grpc or http2"),
        };
        if !can {
            let message = format!("port {number} of `{host}` speaks no {needed}: {otherwise}");
            let finding = Finding::warning(codes::PROVIDER_PORT, format!("{field}.port"), message);
            self.say(finding.hint(format!("name a port whose protocol is {needed}")));
        }
    }
}

/// The providers that a Telemetry names and that do not take what it gives them, with their places.
fn unknown(telemetry: &Telemetry, config: &MeshConfig) -> Vec<(String, String)> {
    let mut unknown = Vec::new();
    let mut look = |list: &str, index: usize, names: &[String], fits: &dyn Fn(&TelemetryKind) -> bool, own: &str| {
        for (place, name) in names.iter().enumerate() {
            let found = config.telemetry_provider(name).map(|provider| fits(&provider.kind));
            if !found.unwrap_or(name == own) {
                unknown.push((format!("spec.{list}[{index}].providers[{place}].name"), name.clone()));
            }
        }
    };
    for (index, tracing) in telemetry.tracing.iter().enumerate() {
        look("tracing", index, &tracing.providers, &|kind| matches!(kind, TelemetryKind::Spans(_)), "");
    }
    for (index, log) in telemetry.access_logging.iter().enumerate() {
        look("accessLogging", index, &log.providers, &TelemetryKind::takes_log, ENVOY);
    }
    for (index, metrics) in telemetry.metrics.iter().enumerate() {
        look("metrics", index, &metrics.providers, &|kind| matches!(kind, TelemetryKind::Prometheus), PROMETHEUS);
    }
    unknown
}

/// The authoriser that a policy has asked.
fn asked(policy: &AuthorizationPolicy) -> Option<&str> {
    policy.provider.as_deref().filter(|_| policy.action == Action::Custom && !policy.rules.is_empty())
}

fn on_error(provider: &ExtensionProvider) -> String {
    if provider.fail_open {
        "what its policies match is let in (failOpen)".to_owned()
    } else {
        format!("what its policies match is refused with {}", provider.status_on_error)
    }
}
