//! The node's configuration: `skein.toml` and `services.d/*.toml` beside it.
//!
//! Two stages: [`raw`] is the text's shape and nothing else, [`check`] makes of it a [`Config`] that every other room may
//! believe. Parts that are not built yet are refused by name, never ignored.

mod check;
mod error;
mod listeners;
mod names;
pub mod paths;
mod raw;
mod service;
mod write;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use certs::id::{NodeId, ServiceAccount, ServiceName, TrustDomain};
use policy::route::Called;

pub use crate::mesh::Transport;

pub use self::{
    check::{read, read_text, service_from_toml},
    error::ConfigError,
    listeners::{Listeners, Place},
    write::{Minimal, defaults, ensure, service_file, service_to_toml, write_atomically},
};

/// Everything that the files say, checked, defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The file that was read; `services.d` lies beside it.
    pub file: PathBuf,
    /// `[node] name`.
    pub node: NodeId,
    /// `[node] trust_domain`.
    pub trust_domain: TrustDomain,
    /// `[node] locality`, `REGION/ZONE/SUBZONE`; empty if not given.
    pub locality: String,
    /// Where state lives, 0700.
    pub data_dir: PathBuf,
    /// Data runtimes, one thread each.
    pub workers: usize,
    /// How long requests may go on after TERM, once new ones are refused.
    pub drain: Duration,
    /// How long everything is answered after TERM: others hear in this time that the node leaves.
    pub farewell: Duration,
    /// Level and form of logs.
    pub log: Log,
    /// The one port between nodes.
    pub mesh: Mesh,
    /// Local administration.
    pub admin: Admin,
    /// The scrapers' address; none means off.
    pub metrics: Option<SocketAddr>,
    /// The socket of the Workload API; none means off.
    pub workload: Option<PathBuf>,
    /// Where Gateways open their ports.
    pub gateway: Gateway,
    /// `[secrets] files`: where documents may name certificate files; none means wherever the node may read.
    pub files: Option<crate::secrets::Folders>,
    /// Names of services for local applications; none means off.
    pub dns: Option<Dns>,
    /// Where captured connections are taken; none means off.
    pub capture: Option<Capture>,
    /// HTTP proxy ports, those of services included.
    pub outbounds: Vec<Outbound>,
    /// What runs beside this node.
    pub services: Vec<Service>,
    /// Explicit ports, one per service used.
    pub upstreams: Vec<Upstream>,
    /// Where something listens, and what says so.
    pub listeners: Listeners,
}

/// `[runtime] log` and `format`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// A `tracing` filter, e.g. `info` or `info,node::mesh=debug`.
    pub filter: String,
    /// How lines look.
    pub format: LogFormat,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `[mesh]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mesh {
    /// UDP and TCP address; port 0 picks a free one.
    pub listen: SocketAddr,
    /// What other nodes are told; none means the address used towards the enroller.
    pub advertise: Option<SocketAddr>,
    /// `HOST:PORT` of nodes to try first, beside the known ones.
    pub peers: Vec<String>,
    /// Which carriers may be used.
    pub transport: Transport,
}

/// `[admin]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// GET-only pages, metrics, health.
    pub listen: SocketAddr,
    /// The local socket, 0660.
    pub socket: PathBuf,
    /// Networks that may reach `listen` beside loopback.
    pub allow: Vec<Cidr>,
}

/// `[gateway]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    /// Where servers of Gateways listen that name no address.
    pub listen: std::net::IpAddr,
    /// Ports that are opened in place of those that documents name; 0 picks a free one.
    pub ports: std::collections::BTreeMap<u16, u16>,
    /// Where the file says the address, if it does.
    pub listen_place: Option<Place>,
    /// Where the file says the ports, by those that documents name.
    pub port_places: std::collections::BTreeMap<u16, Place>,
}

/// `[dns]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dns {
    /// UDP and TCP, on loopback; port 0 picks a free one.
    pub listen: SocketAddr,
    /// The loopback addresses that services get.
    pub addresses: Cidr,
    /// Who is asked for other names; none means whom `/etc/resolv.conf` names.
    pub upstreams: Option<Vec<SocketAddr>>,
    /// Ports of services that are not opened at the addresses: programs of this machine have them, or will.
    pub exclude_ports: std::collections::BTreeSet<u16>,
    /// Requests at the addresses may have a Host that the mesh does not know.
    pub any_host: bool,
    /// Who calls at the addresses; names without a namespace are of its own.
    pub speaker: SpeakerName,
}

/// `[capture]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capture {
    /// The port on loopback to which the kernel brings connections; 0 picks a free one.
    pub port: u16,
    /// The port on all addresses to which the kernel brings connections of other machines; 0 picks a free one, none means that
    /// none are taken.
    pub inbound_port: Option<u16>,
    /// Who calls by captured connections of this machine.
    pub speaker: SpeakerName,
}

/// An address block, `10.0.0.0/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    network: std::net::IpAddr,
    prefix: u8,
}

/// `[[outbound]]`, or `outbound` of a service: an HTTP proxy port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outbound {
    /// Where applications reach it.
    pub listen: SocketAddr,
    /// Who speaks here.
    pub speaker: SpeakerName,
}

/// The local service that speaks through a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpeakerName {
    /// Its name.
    pub service: ServiceName,
    /// Its instance, where a node has two of one service.
    pub instance: Option<String>,
}

/// `[[service]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// `NAMESPACE/NAME`.
    pub name: ServiceName,
    /// Tells two of one service on one node apart.
    pub instance: Option<String>,
    /// Whose identity it has.
    pub account: ServiceAccount,
    /// Labels that subsets and selectors read.
    pub labels: std::collections::BTreeMap<String, String>,
    /// Empty for a service that only calls others.
    pub ports: Vec<Port>,
    /// How its health is found out; none means that it has no ports.
    pub check: Option<Check>,
    /// Its own HTTP proxy port.
    pub outbound: Option<SocketAddr>,
    /// Local users whose processes get its identity from the Workload API.
    pub uids: Vec<u32>,
    /// The WorkloadGroup that says the rest.
    pub group: Option<Group>,
    /// Share of the traffic relative to other endpoints, at least 1; a group says it.
    pub weight: u32,
}

/// `group`: a WorkloadGroup of the service's namespace, and what the table leaves to it beside labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// `account` is not written.
    pub account: bool,
    /// `check` is not written.
    pub check: bool,
}

/// One port of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// The port's name, unique within the service.
    pub name: String,
    /// The service port that clients name.
    pub number: u16,
    /// What is spoken.
    pub protocol: Protocol,
    /// The local application.
    pub target: SocketAddr,
    /// Where callers outside the mesh reach it in plaintext, as PeerAuthentication allows; none means nowhere.
    pub plaintext: Option<SocketAddr>,
}

/// What a port speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.1.
    Http,
    /// HTTP/2 without TLS.
    Http2,
    /// gRPC: HTTP/2 with its statuses.
    Grpc,
    /// Bytes, of whatever protocol; also where the server speaks first.
    Tcp,
    /// TLS that the application itself ends, HTTPS among it; callers are routed by the name that they ask for.
    Tls,
    /// Not declared: found out from the first bytes of each caller.
    Sniffed,
}

/// How a local service's health is found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What is done.
    pub probe: Probe,
    /// Whom it asks: the target of one port; where each port is asked, the first one's.
    pub target: SocketAddr,
    /// What is spoken there: an HTTP check speaks the same.
    pub protocol: Protocol,
    /// Time between two checks.
    pub interval: Duration,
    /// Successes in a row that make an unhealthy service healthy.
    pub rise: u32,
    /// Failures in a row that make a healthy service unhealthy.
    pub fall: u32,
    /// How long nothing is asked after the start.
    pub delay: Duration,
    /// How long one answer may take; none: three intervals, at most 2 s.
    pub timeout: Option<Duration>,
}

/// What a check does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// GET of this path answers 2xx or 3xx.
    Http(String),
    /// `grpc.health.v1.Health/Check` of this service answers SERVING.
    Grpc(String),
    /// A connection is accepted.
    Tcp,
    /// A connection is accepted on each port of the service: its number and its target.
    Ports(Vec<(u16, SocketAddr)>),
}

/// `[[upstream]]`: a local port that leads to one service port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// Where the application connects.
    pub listen: SocketAddr,
    /// What it leads to: a service, or a host of a ServiceEntry.
    pub called: Called,
    /// Its port.
    pub port: u16,
    /// Who speaks here.
    pub speaker: SpeakerName,
}

impl Default for Gateway {
    fn default() -> Self {
        let (ports, listen_place, port_places) = Default::default();
        Self { listen: std::net::Ipv4Addr::UNSPECIFIED.into(), ports, listen_place, port_places }
    }
}

impl Protocol {
    /// Istio's word; empty where nothing is declared.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Sniffed => "",
        }
    }
}

impl SpeakerName {
    /// `NAMESPACE/NAME[/INSTANCE]`.
    pub fn of(service: &Service) -> Self {
        Self { service: service.name.clone(), instance: service.instance.clone() }
    }
}

impl std::fmt::Display for SpeakerName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.service)?;
        self.instance.iter().try_for_each(|i| write!(f, "/{i}"))
    }
}

impl Config {
    /// Whose identities the services have.
    pub fn accounts(&self) -> std::collections::BTreeSet<ServiceAccount> {
        self.services.iter().map(|service| service.account.clone()).collect()
    }

    /// The folder of further `[[service]]` tables.
    pub fn services_dir(&self) -> PathBuf {
        services_dir(&self.file)
    }
}

/// `services.d` beside `file`.
pub fn services_dir(file: &Path) -> PathBuf {
    file.parent().unwrap_or(Path::new(".")).join("services.d")
}

impl Cidr {
    /// Parses `ADDRESS/PREFIX`; a bare address means only it.
    ///
    /// # Errors
    /// Says in words what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (address, prefix) = text.split_once('/').unwrap_or((text, ""));
        let network: std::net::IpAddr =
            address.parse().map_err(|_| format!("`{text}` is not a network such as 10.0.0.0/8"))?;
        let most = if network.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            "" => most,
            digits => {
                digits.parse().ok().filter(|p| *p <= most).ok_or(format!("`{text}`: the prefix is 0 to {most}"))?
            }
        };
        Ok(Self { network, prefix })
    }

    /// True if it is one of IPv4.
    pub fn is_ipv4(&self) -> bool {
        self.network.is_ipv4()
    }

    /// How many addresses it has.
    pub fn size(&self) -> u128 {
        let most = if self.network.is_ipv4() { 32 } else { 128 };
        1_u128.checked_shl(most - u32::from(self.prefix)).unwrap_or(u128::MAX)
    }

    /// The address at this place of it, from 0; `None` beyond its end, and of IPv6.
    pub fn nth(&self, place: u32) -> Option<std::net::Ipv4Addr> {
        let std::net::IpAddr::V4(network) = self.network else { return None };
        let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
        (u128::from(place) < self.size()).then(|| ((network.to_bits() & mask) + place).into())
    }

    /// Whether `address` lies within.
    pub fn contains(&self, address: std::net::IpAddr) -> bool {
        use std::net::IpAddr::{V4, V6};
        let same = |a: u128, b: u128, bits: u32| self.prefix == 0 || (a ^ b) >> (bits - u32::from(self.prefix)) == 0;
        match (self.network, address.to_canonical()) {
            (V4(a), V4(b)) => same(a.to_bits().into(), b.to_bits().into(), 32),
            (V6(a), V6(b)) => same(a.to_bits(), b.to_bits(), 128),
            (V4(_), V6(_)) | (V6(_), V4(_)) => false,
        }
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

#[cfg(test)]
mod tests;
