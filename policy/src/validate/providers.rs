//! External authorisers: that policies name ones that are there, and that those are services that can be asked.

use super::{Check, Finding};
use crate::{
    DocumentId, Kind, Spec, codes,
    hosts::{self, Protocol},
    kinds::{Action, AuthorizationPolicy, CheckProtocol, ExtensionProvider, MeshConfig},
};

const REFUSED: &str = "requests that it matches are refused";
const FIELD: &str = "spec.extensionProviders";

impl Check<'_> {
    /// The provider that a policy names is there.
    pub(super) fn provider(&mut self, policy: &AuthorizationPolicy) {
        let Some(name) = asked(policy) else { return };
        let config = self.world.entry(&DocumentId::mesh_wide(Kind::MeshConfig, "default"));
        let config = config
            .and_then(|entry| if let Spec::MeshConfig(config) = &entry.document.spec { Some(config) } else { None });
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

    /// Every provider can be asked, and every one that policies name is there.
    pub(super) fn providers(&mut self, config: &MeshConfig) {
        for (index, provider) in config.extension_providers.iter().enumerate() {
            let kind = match provider.protocol {
                CheckProtocol::Http(_) => "envoyExtAuthzHttp",
                CheckProtocol::Grpc => "envoyExtAuthzGrpc",
            };
            self.reach_provider(provider, &format!("{FIELD}[{index}].{kind}"));
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

    fn reach_provider(&mut self, provider: &ExtensionProvider, field: &str) {
        if !self.world.knows_services {
            return;
        }
        let host = hosts::full_name(&provider.service);
        let Some(ports) = self.world.registry.ports(&provider.service) else {
            let hint = self.world.hint_for_host(&host);
            let message = format!("no service is called `{host}`: until there is one, {}", on_error(provider));
            let finding = Finding::warning(codes::UNKNOWN_HOST, format!("{field}.service"), message);
            self.say(finding.hint(hint));
            return;
        };
        let Some(port) = ports.iter().find(|port| port.number == provider.port) else {
            let numbers: Vec<String> = ports.iter().map(|port| port.number.to_string()).collect();
            let message = format!("`{host}` has no port {}", provider.port);
            let finding = Finding::warning(codes::UNKNOWN_PORT, format!("{field}.port"), message);
            self.say(finding.hint(format!("its ports are {}", numbers.join(", "))));
            return;
        };
        let (can, needed) = match provider.protocol {
            CheckProtocol::Http(_) => (port.protocol.is_http(), "HTTP"),
            CheckProtocol::Grpc => (matches!(port.protocol, Protocol::Http2 | Protocol::Grpc), "grpc or http2"),
        };
        if !can {
            let message = format!("port {} of `{host}` speaks no {needed}: {}", provider.port, on_error(provider));
            let finding = Finding::warning(codes::PROVIDER_PORT, format!("{field}.port"), message);
            self.say(finding.hint(format!("name a port whose protocol is {needed}")));
        }
    }
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
