//! `Gateway`: what nodes at the edge listen to.

use std::collections::BTreeMap;

use super::{
    Bind, NamespacedHost, PortProtocol, ServerTls, ServerTlsMode, bind::UnixSocket, label_selector,
    namespaced_host::HostOwner, server_tls::TlsOwner,
};
use crate::{
    codes,
    decode::{At, Fields, is_label},
    hosts,
    parse::Metadata,
};

/// `Gateway`.
#[derive(Debug, Clone, PartialEq)]
pub struct Gateway {
    /// Labels of the workloads, in any namespace, that open the listeners; none means every gateway.
    pub selector: BTreeMap<String, String>,
    /// What is listened to; names of ports are unique.
    pub servers: Vec<Server>,
}

/// `Server`: a port, and the hosts that it serves.
#[derive(Debug, Clone, PartialEq)]
pub struct Server {
    /// For logs; may be empty.
    pub name: String,
    /// The port.
    pub port: ServerPort,
    /// The one address that is listened to, or a socket; all addresses if absent.
    pub bind: Option<Bind>,
    /// Which hosts VirtualServices may have here, and in which namespaces these may be. At least one.
    pub hosts: Vec<NamespacedHost>,
    /// How TLS is met; there if and only if the port speaks it, but for the redirect of plain HTTP.
    pub tls: Option<ServerTls>,
}

/// `Port` of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerPort {
    /// 0 for a Unix socket.
    pub number: u16,
    /// Unique in the Gateway.
    pub name: String,
    /// What it speaks.
    pub protocol: PortProtocol,
}

impl Gateway {
    pub(crate) fn decode(spec: &At<'_>, metadata: &Metadata) -> Option<Self> {
        let fields = spec.fields()?;
        let id = &metadata.id;
        if !hosts::is_dns_label(&id.name) {
            let message = format!("invalid gateway name: {:?}", id.name);
            fields.at.error_as_istio(codes::NAME, message, "the name of a Gateway is one DNS label, without dots");
        }
        let selector = fields.get("selector").map(|selector| selector_labels(&selector)).unwrap_or_default();
        let list = fields.get("servers");
        let items = list.as_ref().map(At::items).unwrap_or_default();
        if items.is_empty() {
            fields.at.error_as_istio(codes::MISSING, "gateway must have at least one server", "");
        }
        let mut servers: Vec<Server> = Vec::new();
        for item in &items {
            let Some(server) = Server::decode(item, &id.namespace) else { continue };
            if servers.iter().any(|other| other.port.name == server.port.name) {
                let message = format!("port names in servers must be unique: duplicate name {}", server.port.name);
                item.error_as_istio(codes::DUPLICATE, message, "");
            }
            servers.push(server);
        }
        fields.finish();
        Some(Self { selector, servers })
    }

    /// True if a workload with these labels, in any namespace, opens the listeners.
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        label_selector::selects(&self.selector, labels)
    }
}

/// A Gateway's selector, of which Istio checks nothing: what selects no workload is warned of.
fn selector_labels(at: &At<'_>) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    for (key, value) in at.entries() {
        let Some(text) = value.text() else { continue };
        if !is_label(key, text) {
            value.warn(codes::UNMATCHED_LABEL, format!("no workload can have the label `{key}: {text}`"), "");
        }
        labels.insert(key.to_owned(), text.to_owned());
    }
    labels
}

impl Server {
    fn decode(at: &At<'_>, namespace: &str) -> Option<Self> {
        let fields = at.fields()?;
        let hosts = decode_hosts(&fields, namespace);
        let bind = fields.filled("bind");
        let unix = bind.as_ref().is_some_and(|(text, _)| UnixSocket::is_meant(text));
        let port = match fields.get("port") {
            Some(port) => ServerPort::decode(&port, unix),
            None => {
                fields.at.error_as_istio(codes::MISSING, "port is required", "");
                None
            }
        };
        let bind = bind.and_then(|(text, at)| Bind::decode(&at, text));
        let protocol = port.as_ref().map(|port| port.protocol);
        let tls = fields.get("tls").and_then(|tls| ServerTls::decode(&tls, TlsOwner::Gateway, protocol));
        if protocol.is_some_and(PortProtocol::is_tls) && !fields.has("tls") {
            let message = "server must have TLS settings for HTTPS/TLS protocols";
            fields.at.error_as_istio(codes::SERVER_TLS, message, "write `tls: {mode: SIMPLE, credentialName: ...}`");
        }
        if tls.as_ref().is_some_and(|tls| tls.https_redirect)
            && protocol.is_some_and(|protocol| !protocol.is_http())
            && let Some(at) = fields.get("tls")
        {
            at.warn(codes::IGNORED, "tls.httpsRedirect should only be used with http servers", "");
        }
        refuse_unbuilt(&fields, protocol, bind.as_ref(), tls.as_ref());
        let name = fields.filled("name").map_or("", |(name, _)| name).to_owned();
        fields.ignored(&["defaultEndpoint"]);
        fields.finish();
        Some(Self { name, port: port?, bind, hosts, tls })
    }

    /// What a VirtualService with this host, in this namespace, serves here: of its host and the server's the more specific one.
    /// `None` if it may not attach.
    pub fn admits<'h>(&'h self, host: &'h str, namespace: &str) -> Option<&'h str> {
        let own = self.hosts_for(namespace).filter(|own| hosts::overlap(own, host));
        let both = own.map(|own| if hosts::covers(own, host) { host } else { own });
        both.min_by(|a, b| hosts::by_specificity(a, b))
    }

    /// The hosts that VirtualServices of a namespace may have here.
    pub fn hosts_for(&self, namespace: &str) -> impl Iterator<Item = &str> {
        self.hosts.iter().filter(move |own| own.is_of(namespace)).map(|own| own.host.as_str())
    }
}

/// Servers that this build does not open.
fn refuse_unbuilt(fields: &Fields<'_>, protocol: Option<PortProtocol>, bind: Option<&Bind>, tls: Option<&ServerTls>) {
    let place = |name| fields.get(name).unwrap_or(*fields.at);
    if let Some(other @ (PortProtocol::HttpProxy | PortProtocol::GrpcWeb | PortProtocol::Udp)) = protocol {
        place("port").unbuilt(format!("a server of {other}"));
    }
    let mode = tls.map(|tls| tls.mode).filter(|_| protocol.is_some_and(PortProtocol::is_tls));
    match mode {
        Some(
            ServerTlsMode::Simple
            | ServerTlsMode::Mutual
            | ServerTlsMode::OptionalMutual
            | ServerTlsMode::Passthrough
            | ServerTlsMode::IstioMutual,
        )
        | None => {}
        Some(mode @ ServerTlsMode::AutoPassthrough) => {
            place("tls").unbuilt(format!("a server in TLS mode {mode}"));
        }
    }
    if matches!(bind, Some(Bind::Unix(_))) {
        place("bind").unbuilt("a server at a Unix socket");
    }
}

fn decode_hosts(fields: &Fields<'_>, namespace: &str) -> Vec<NamespacedHost> {
    let list = fields.get("hosts");
    let items = list.as_ref().map(At::text_list).unwrap_or_default();
    if items.is_empty() {
        fields.at.error_as_istio(codes::MISSING, "server config must contain at least one host", "write \"*\" for all");
    }
    let host = |(text, at): &(&str, At<'_>)| {
        let parts = text.split_once('/').unwrap_or(("*", text));
        NamespacedHost::decode(at, parts, namespace, HostOwner::Gateway)
    };
    items.iter().filter_map(host).collect()
}

impl ServerPort {
    /// `unix` says that the server is bound to a Unix socket.
    fn decode(at: &At<'_>, unix: bool) -> Option<Self> {
        let fields = at.fields()?;
        let protocol = PortProtocol::decode_required(&fields);
        let number = match fields.get("number") {
            Some(number) => number.integer(0..=65_535).and_then(|number| u16::try_from(number).ok()),
            None => Some(0),
        };
        let place = fields.get("number").unwrap_or(*at);
        match (number, unix) {
            (Some(0), false) => {
                place.error_as_istio(codes::RANGE, "port number 0 must be in the range 1..65535", "");
            }
            (Some(1..), true) => {
                let message = "port number must be 0 for unix domain socket";
                place.error_as_istio(codes::LISTENER, message, "leave `number` out");
            }
            (Some(0), true) | (Some(1..), false) | (None, _) => {}
        }
        let name = fields.filled("name").map(|(name, _)| name.to_owned());
        if name.is_none() {
            at.error_as_istio(codes::MISSING, "port name must be set", "");
        }
        refuse_target(&fields, "Gateways");
        fields.finish();
        Some(Self { number: number?, name: name?, protocol: protocol? })
    }
}

/// `targetPort` is of ServiceEntries only.
pub(super) fn refuse_target(fields: &Fields<'_>, whose: &str) {
    if let Some(at) = fields.get("targetPort").filter(|at| at.integer(0..=i64::MAX).is_some_and(|port| port != 0)) {
        at.error_as_istio(codes::NOT_IN_ISTIO, format!("targetPort has no impact on {whose}"), "");
    }
}

#[cfg(test)]
mod tests;
