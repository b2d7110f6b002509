//! `IstioEgressListener` and `OutboundTrafficPolicy`: what a workload sees, and what becomes of what it does not see.

use std::collections::BTreeSet;

use super::{CaptureMode, ListenerPort};
use crate::{
    codes,
    decode::{At, Fields},
    hosts,
    kinds::{Bind, NamespacedHost, PortProtocol, namespaced_host::HostOwner},
};

/// A listener for what the workload sends, with the services that it leads to.
#[derive(Debug, Clone, PartialEq)]
pub struct EgressListener {
    /// The port, unique among the listeners; `None`, allowed for the last one, stands for every port of the services.
    pub port: Option<ListenerPort>,
    /// The one address that is listened to, or a socket.
    pub bind: Option<Bind>,
    /// How connections get here.
    pub capture: CaptureMode,
    /// Imported and excluded services; at least one.
    pub hosts: Vec<EgressHost>,
}

/// An entry of an egress listener's `hosts`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EgressHost {
    /// Which services; of `.` the document's own namespace.
    pub services: NamespacedHost,
    /// `.` is written: of the root namespace's Sidecar that is the namespace of each workload to which it applies.
    pub is_own: bool,
    /// They are taken out (`~namespace/dnsName`, `~/dnsName` for every namespace), whatever imports them.
    pub excluded: bool,
}

/// What becomes of traffic to destinations that the mesh does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutboundTrafficPolicy {
    /// It is refused. Also if the block is there and its `mode` is not.
    RegistryOnly,
    /// It passes, by way of a proxy if one is named.
    AllowAny(Option<EgressProxy>),
}

/// `egressProxy`: the service that unknown traffic is sent to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EgressProxy {
    /// Its host, expanded, lower case.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Which of its endpoints.
    pub subset: Option<String>,
}

pub(super) fn decode(fields: &Fields<'_>, namespace: &str) -> Vec<EgressListener> {
    let list = fields.get("egress");
    let items = list.as_ref().map(At::items).unwrap_or_default();
    let (mut ports, mut sockets) = (BTreeSet::new(), BTreeSet::new());
    let mut listeners = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let Some(listener) = EgressListener::decode(item, namespace) else { continue };
        match &listener.port {
            None if index + 1 < items.len() => {
                let message = "sidecar: the egress listener with empty port should be the last listener in the list";
                item.error_as_istio(codes::EGRESS, message, "there is one such listener, for what no other port takes");
            }
            Some(ListenerPort { number: 0, .. }) if !sockets.insert(listener.bind.clone()) => {
                let message = "sidecar: unix domain socket values for listeners must be unique";
                item.error_as_istio(codes::DUPLICATE, message, "");
            }
            Some(ListenerPort { number: number @ 1.., .. }) if !ports.insert(*number) => {
                item.error_as_istio(codes::DUPLICATE, "sidecar: ports on IP bound listeners must be unique", "");
            }
            Some(_) | None => {}
        }
        listeners.push(listener);
    }
    listeners
}

impl EgressListener {
    fn decode(at: &At<'_>, namespace: &str) -> Option<Self> {
        let fields = at.fields()?;
        let place = fields.get("port");
        let port = place.as_ref().map(ListenerPort::decode);
        let capture = CaptureMode::decode(&fields);
        let bind = match &port {
            Some(Some(port)) => decode_bind(&fields, port.number, capture),
            Some(None) => None,
            None => {
                without_port(&fields);
                None
            }
        };
        let hosts = decode_hosts(&fields, namespace);
        refuse_unbuilt(&fields, port.as_ref().and_then(Option::as_ref), bind.as_ref());
        fields.finish();
        let port = match port {
            Some(port) => Some(port?),
            None => None,
        };
        Some(Self { port, bind, capture, hosts })
    }

    /// True if workloads in the namespace `client` see a service of `namespace` here: some entry imports it and none takes it out. `host`
    /// may be a wildcard of a ServiceEntry.
    pub fn imports(&self, host: &str, namespace: &str, client: &str) -> bool {
        let named = |excluded| {
            let mut entries = self.hosts.iter().filter(move |entry| entry.excluded == excluded);
            entries.any(|entry| entry.is_of(namespace, client) && hosts::covers(&entry.services.host, host))
        };
        named(false) && !named(true)
    }

    /// True if workloads in the namespace `client` heed the rules of a VirtualService of `namespace` for the host: some entry imports a
    /// part of it, and none takes all of it out.
    pub fn heeds(&self, host: &str, namespace: &str, client: &str) -> bool {
        let mut own = self.hosts.iter().filter(|entry| entry.is_of(namespace, client));
        let taken_out = |entry: &EgressHost| entry.excluded && hosts::covers(&entry.services.host, host);
        let imported = |entry: &EgressHost| !entry.excluded && hosts::overlap(&entry.services.host, host);
        own.clone().any(imported) && !own.any(taken_out)
    }
}

/// Whatever would have a node open a place for applications: its operator says where they reach the mesh.
fn refuse_unbuilt(fields: &Fields<'_>, port: Option<&ListenerPort>, bind: Option<&Bind>) {
    match bind {
        Some(Bind::Unix(_)) => {
            fields.not_supported_because(&["bind"], "nodes listen at no Unix socket for applications")
        }
        Some(Bind::Ip(_)) => {
            fields.not_supported_because(&["bind"], "`[[outbound]]` and `[[upstream]]` of skein.toml open ports");
        }
        None => {}
    }
    if port.is_some_and(|port| port.protocol == Some(PortProtocol::HttpProxy)) {
        fields.not_supported_because(&["port"], "`[[outbound]]` of skein.toml opens a proxy port");
    }
    CaptureMode::refuse_unbuilt(fields);
}

/// A socket has no port and no kernel that redirects to it.
fn decode_bind(fields: &Fields<'_>, number: u16, capture: CaptureMode) -> Option<Bind> {
    let place = |name| fields.get(name).unwrap_or(*fields.at);
    let bind = fields.filled("bind").map(|(text, at)| Bind::decode(&at, text));
    match (number, &bind) {
        (0, None | Some(Some(Bind::Ip(_)))) => {
            let message = "sidecar: ports with 0 value must have a unix domain socket bind address";
            place("port").error_as_istio(codes::LISTENER, message, "write `bind: unix:///path` or the port's number");
        }
        (1.., Some(Some(Bind::Unix(_)))) => {
            let message = "a Unix socket has no port: the number must be 0";
            place("bind").error_hint(codes::LISTENER, message, "leave `number` out");
        }
        (0, Some(_)) | (1.., _) => {}
    }
    if number == 0 && capture == CaptureMode::Iptables {
        let message = "sidecar: captureMode must be DEFAULT/NONE for unix domain socket listeners";
        place("captureMode").error_as_istio(codes::LISTENER, message, "");
    }
    bind.flatten()
}

/// Istio takes no notice of an address without a port.
fn without_port(fields: &Fields<'_>) {
    if let Some((_, at)) = fields.filled("bind") {
        at.warn(codes::IGNORED, "`bind` has no meaning without `port`", "name the port");
    }
}

fn decode_hosts(fields: &Fields<'_>, namespace: &str) -> Vec<EgressHost> {
    let list = fields.get("hosts");
    let items = list.as_ref().map(At::text_list).unwrap_or_default();
    if items.is_empty() {
        let message = "sidecar: egress listener must contain at least one host";
        fields.at.error_as_istio(codes::MISSING, message, "write \"*/*\" for every service, \"~/*\" for none");
    }
    let mut hosts: Vec<EgressHost> = Vec::new();
    for (text, at) in items {
        let Some(host) = EgressHost::decode(&at, text, namespace) else { continue };
        if hosts.iter().any(|other| repeats(&host, other)) {
            at.warn(codes::COVERED_HOST, format!("duplicated egress host: {text}"), "");
        }
        hosts.push(host);
    }
    hosts
}

/// True if one of two imports says nothing that the other does not say.
fn repeats(host: &EgressHost, other: &EgressHost) -> bool {
    let everything = |host: &EgressHost| host.services.namespace.is_none() && host.services.host == "*";
    let of_one = host.services.namespace == other.services.namespace;
    let covered = [host, other].iter().any(|one| one.services.host == "*") || host.services.host == other.services.host;
    !host.excluded && !other.excluded && (everything(host) || everything(other) || of_one && covered)
}

impl EgressHost {
    fn is_of(&self, namespace: &str, client: &str) -> bool {
        if self.is_own { namespace == client } else { self.services.is_of(namespace) }
    }

    fn decode(at: &At<'_>, text: &str, own: &str) -> Option<Self> {
        let Some((namespace, name)) = text.split_once('/') else {
            let hint = format!("write */{text}, or ./{text} for the own namespace");
            at.error_as_istio(codes::HOST, "host must be of form namespace/dnsName", &hint);
            return None;
        };
        let (namespace, excluded) = match namespace.strip_prefix('~') {
            Some("") => ("*", true),
            Some(namespace) => (namespace, true),
            None => (namespace, false),
        };
        let services = NamespacedHost::decode(at, (namespace, name), own, HostOwner::Sidecar)?;
        Some(Self { services, is_own: namespace == ".", excluded })
    }
}

impl OutboundTrafficPolicy {
    pub(super) fn decode(at: &At<'_>, namespace: &str) -> Option<Self> {
        let fields = at.fields()?;
        let words = [("REGISTRY_ONLY", false), ("ALLOW_ANY", true)];
        let (any, read) = match fields.get("mode") {
            Some(mode) if mode.node.text() == Some("ALLOW_ANY_DYNAMIC_DNS") => {
                let message =
                    "sidecar: ALLOW_ANY_DYNAMIC_DNS mode is only supported in MeshConfig, not in Sidecar resource";
                mode.error_as_istio(codes::WORD, message, "write ALLOW_ANY");
                (false, false)
            }
            Some(mode) => (mode.word(&words).unwrap_or(false), true),
            None => (false, true),
        };
        let proxy = fields.get("egressProxy");
        if let Some(at) = proxy.as_ref().filter(|_| read && !any) {
            let message = "sidecar: egress_proxy must be set only with ALLOW_ANY outbound_traffic_policy mode";
            at.error_as_istio(codes::EGRESS, message, "write `mode: ALLOW_ANY`");
        }
        let proxy = proxy.and_then(|at| EgressProxy::decode(&at, namespace));
        fields.not_supported(&["egressProxy"]);
        fields.finish();
        Some(if any { Self::AllowAny(proxy) } else { Self::RegistryOnly })
    }
}

impl EgressProxy {
    fn decode(at: &At<'_>, namespace: &str) -> Option<Self> {
        let fields = at.fields()?;
        let host = fields.required("host").and_then(|at| {
            let host = at.filled_text()?;
            if !hosts::is_dns_name(host) {
                at.error(codes::HOST, format!("`{host}` is not a host name"));
                return None;
            }
            Some(hosts::expand(host, namespace))
        });
        let port = match fields.get("port") {
            Some(port) => decode_number(&port),
            None => {
                at.error_as_istio(codes::MISSING, "sidecar: egress_proxy port must be non-nil", "");
                None
            }
        };
        let subset = fields.filled("subset").map(|(subset, at)| {
            if !hosts::is_dns_label(subset) {
                at.error_as_istio(codes::NAME, format!("subset name is invalid: {subset}"), "");
            }
            subset.to_owned()
        });
        fields.finish();
        Some(Self { host: host?, port: port?, subset })
    }
}

/// `PortSelector`.
fn decode_number(at: &At<'_>) -> Option<u16> {
    let fields = at.fields()?;
    let number = fields.required("number").and_then(|number| number.port());
    fields.finish();
    number
}
