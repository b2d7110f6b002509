//! `IstioIngressListener`: how a workload's proxy takes what comes in on a port.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use super::{CaptureMode, ListenerPort};
use crate::{
    codes,
    decode::{At, Fields},
    kinds::{ConnectionPool, PortProtocol, ServerTls, UnixSocket, bind::decode_ip, server_tls::TlsOwner},
};

/// A listener for what comes to the workload.
#[derive(Debug, Clone, PartialEq)]
pub struct IngressListener {
    /// Unique among the listeners.
    pub port: ListenerPort,
    /// The one address that is listened to; the workload's own if absent.
    pub bind: Option<IpAddr>,
    /// How connections get here.
    pub capture: CaptureMode,
    /// Where the application is; the same port of the workload if absent.
    pub default_endpoint: Option<DefaultEndpoint>,
    /// TLS of clients outside the mesh, ended here.
    pub tls: Option<ServerTls>,
    /// Limits of what comes in on the port.
    pub connection_pool: Option<ConnectionPool>,
}

/// `defaultEndpoint`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DefaultEndpoint {
    /// `127.0.0.1:PORT`, `[::1]:PORT` or `:PORT`: on the machine itself.
    Loopback(SocketAddr),
    /// `0.0.0.0:PORT` or `[::]:PORT`: at the workload's own address.
    Workload {
        /// The application's port.
        port: u16,
    },
    /// `unix://`.
    Unix(UnixSocket),
}

pub(super) fn decode(fields: &Fields<'_>) -> Vec<IngressListener> {
    let list = fields.get("ingress");
    let items = list.as_ref().map(At::items).unwrap_or_default();
    let mut ports = BTreeSet::new();
    let mut listeners = Vec::new();
    for item in &items {
        let Some(listener) = IngressListener::decode(item) else { continue };
        if !ports.insert(listener.port.number) {
            item.error_as_istio(codes::DUPLICATE, "sidecar: ports on IP bound listeners must be unique", "");
        }
        listeners.push(listener);
    }
    listeners
}

impl IngressListener {
    fn decode(at: &At<'_>) -> Option<Self> {
        let fields = at.fields()?;
        let port = match fields.get("port") {
            Some(place) => ListenerPort::decode(&place).inspect(|port| {
                if port.number == 0 {
                    place.error_as_istio(codes::RANGE, "port number 0 must be in the range 1..65535", "");
                }
            }),
            None => {
                fields.at.error_as_istio(codes::MISSING, "sidecar: port is required for ingress listeners", "");
                None
            }
        };
        let bind = fields.filled("bind").and_then(|(text, at)| decode_ip(&at, text));
        let capture = CaptureMode::decode(&fields);
        let default_endpoint =
            fields.filled("defaultEndpoint").and_then(|(text, at)| DefaultEndpoint::decode(&at, text));
        let protocol = port.as_ref().map(|port| port.protocol);
        let tls = fields.get("tls").and_then(|at| {
            if protocol.is_some_and(|protocol| !protocol.is_some_and(PortProtocol::is_tls)) {
                let message = "server cannot have TLS settings for non HTTPS/TLS ports";
                at.error_as_istio(codes::SERVER_TLS, message, "write `protocol: HTTPS` or TLS");
            }
            ServerTls::decode(&at, TlsOwner::Sidecar, None)
        });
        let connection_pool = fields.get("connectionPool").and_then(|at| {
            let http = at.node.get("http").is_some();
            if http && protocol.is_some_and(|protocol| !protocol.is_some_and(PortProtocol::is_http)) {
                let message =
                    "sidecar: HTTP settings on a port that is not declared HTTP; only TCP settings will apply";
                at.warn(codes::IGNORED, message, "declare the port's protocol");
            }
            ConnectionPool::decode(&at)
        });
        fields.not_supported_because(&["bind", "tls"], "nodes take what comes to their services by the mesh's own TLS");
        let why = "where a service's application is, `target` of its `[[service]]` in skein.toml says";
        fields.not_supported_because(&["defaultEndpoint"], why);
        CaptureMode::refuse_unbuilt(&fields);
        fields.finish();
        Some(Self { port: port?, bind, capture, default_endpoint, tls, connection_pool })
    }
}

impl DefaultEndpoint {
    fn decode(at: &At<'_>, text: &str) -> Option<Self> {
        if UnixSocket::is_meant(text) {
            return UnixSocket::decode(at, text).map(Self::Unix);
        }
        let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).filter(|host| host.contains(':')).or(
            // An address of IPv6 stands in brackets, or its end would be taken for the port.
            Some(host).filter(|host| !host.contains([':', '[', ']'])),
        );
        let address = match host {
            Some("") => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            Some(host @ ("127.0.0.1" | "0.0.0.0" | "::1" | "::")) => host.parse().ok(),
            Some(_) | None => None,
        };
        let Some(address) = address else {
            let message = "sidecar: defaultEndpoint must be of form 127.0.0.1:<port>,0.0.0.0:<port>,[::1]:port,[::]:port,\
                           unix://filepath or unset";
            at.error_as_istio(codes::ADDRESS, message, "");
            return None;
        };
        let number = Some(port).filter(|port| port.bytes().all(|byte| byte.is_ascii_digit()));
        let number: Option<u16> = number.and_then(|port| port.parse().ok()).filter(|port| *port != 0);
        let Some(port) = number else {
            at.error(codes::RANGE, format!("sidecar: defaultEndpoint port ({port}) is not a number of 1 to 65535"));
            return None;
        };
        Some(if address.is_unspecified() {
            Self::Workload { port }
        } else {
            Self::Loopback(SocketAddr::new(address, port))
        })
    }
}
