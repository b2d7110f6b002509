//! `[[service]]`: what runs beside the node, its ports and its check.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use certs::id::{NodeId, ServiceAccount, ServiceName};
use toml::Spanned;

use super::{
    Check, Group, Port, Probe, Protocol, Service,
    check::{address, duration, name, number, unsupported},
    error::{ConfigError, Source},
    raw,
};

/// Most ports of one service.
const PORTS: usize = 32;
/// Most labels of one service.
const LABELS: usize = 32;
/// Most bytes of a label's key or value.
const LABEL_BYTES: usize = 253;
/// Most users of one service.
const USERS: usize = 32;
/// Checks oftener than this would be load of their own.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(50);

pub(super) fn service(source: Source<'_>, raw: &raw::Service) -> Result<Service, ConfigError> {
    let namespace = raw.namespace.as_ref().map_or("default", |n| n.get_ref());
    let service = name(source, &raw.name, |text| ServiceName::new(namespace, text))?;
    let account = match &raw.account {
        Some(account) => name(source, account, |text| ServiceAccount::new(namespace, text))?,
        None => name(source, &raw.name, |_| ServiceAccount::new(namespace, "default"))?,
    };
    // An instance follows the same grammar as a node: both are parts of an endpoint's id.
    let instance = raw.instance.as_ref().map(|text| name(source, text, |t| NodeId::new(t).map(|_| t.to_string())));
    let ports = ports(source, raw)?;
    let check = match (&raw.check, ports.first()) {
        (None, None) => None,
        (None, Some(port)) => Some(Check {
            probe: every(&ports),
            target: port.target,
            protocol: port.protocol,
            interval: Duration::from_secs(2),
            rise: 2,
            fall: 3,
            delay: Duration::ZERO,
            timeout: None,
        }),
        (Some(check), Some(first)) => Some(self::check(source, check, &ports, first)?),
        (Some(check), None) => {
            return Err(source.at(check.span(), "a service without ports has nothing to check", "remove `check`"));
        }
    };
    if let (Some(outbound), true) = (&raw.outbound, raw.name.get_ref().is_empty()) {
        return Err(source.at(outbound.span(), "a service needs a name", "give `name`"));
    }
    Ok(Service {
        name: service,
        instance: instance.transpose()?,
        account,
        labels: labels(source, raw)?,
        ports,
        check,
        outbound: raw.outbound.as_ref().map(|text| address(source, text)).transpose()?,
        uids: uids(source, raw)?,
        group: raw.group.as_ref().map(|text| group(source, raw, text)).transpose()?,
        weight: 1,
    })
}

fn group(source: Source<'_>, raw: &raw::Service, text: &Spanned<String>) -> Result<Group, ConfigError> {
    if !policy::hosts::is_document_name(text.get_ref()) {
        let message = format!("`{}` is not the name of a document", text.get_ref());
        return Err(source.at(text.span(), message, "name a WorkloadGroup of the service's namespace"));
    }
    Ok(Group { name: text.get_ref().clone(), account: raw.account.is_none(), check: raw.check.is_none() })
}

/// The users whose processes get the service's identity. They do not guard its proxy port, so both together would promise too much.
fn uids(source: Source<'_>, raw: &raw::Service) -> Result<Vec<u32>, ConfigError> {
    let Some(given) = &raw.uids else { return Ok(Vec::new()) };
    if raw.outbound.is_some() {
        return Err(unsupported(source, given.span(), "`uids` beside `outbound`"));
    }
    if given.get_ref().len() > USERS {
        return Err(source.at(given.span(), format!("more than {USERS} users"), "give fewer"));
    }
    let mut uids = Vec::new();
    for one in given.get_ref() {
        // The last one means "none" to the kernel.
        let uid: u32 = number(source, one, 0..=i64::from(u32::MAX) - 1)?;
        if uids.contains(&uid) {
            return Err(source.at(one.span(), format!("user {uid} is there twice"), "name each once"));
        }
        uids.push(uid);
    }
    Ok(uids)
}

fn labels(source: Source<'_>, raw: &raw::Service) -> Result<BTreeMap<String, String>, ConfigError> {
    if raw.labels.len() > LABELS {
        return Err(source.at(raw.name.span(), format!("more than {LABELS} labels"), "give fewer"));
    }
    for (key, value) in &raw.labels {
        if key.is_empty() || key.len() > LABEL_BYTES || value.get_ref().len() > LABEL_BYTES {
            let message = format!("the label `{key}` is empty or longer than {LABEL_BYTES} bytes");
            return Err(source.at(value.span(), message, "labels are short words"));
        }
    }
    Ok(raw.labels.iter().map(|(k, v)| (k.clone(), v.get_ref().clone())).collect())
}

fn ports(source: Source<'_>, raw: &raw::Service) -> Result<Vec<Port>, ConfigError> {
    let mut ports: Vec<Port> = Vec::new();
    for raw in &raw.ports {
        let one = port(source, raw)?;
        if ports.iter().any(|p| p.number == one.number || p.name == one.name) {
            let message = format!("port {} `{}` is there twice", one.number, one.name);
            return Err(source.at(raw.port.span(), message, "numbers and names are unique within a service"));
        }
        if ports.len() == PORTS {
            return Err(source.at(raw.port.span(), format!("more than {PORTS} ports"), "split the service"));
        }
        ports.push(one);
    }
    Ok(ports)
}

fn port(source: Source<'_>, raw: &raw::Port) -> Result<Port, ConfigError> {
    let number: u16 = number(source, &raw.port, 1..=65535)?;
    let protocol = match (&raw.protocol, &raw.name) {
        (Some(given), _) => protocol(source, given)?,
        (None, given) => selected(source, number, given.as_ref())?,
    };
    let label = raw.name.as_ref().map(|text| name(source, text, |t| NodeId::new(t).map(|_| t.to_string())));
    let target =
        raw.target.as_ref().map_or(Ok(SocketAddr::from(([127, 0, 0, 1], number))), |t| self::target(source, t))?;
    let name = label.transpose()?.unwrap_or_else(|| match protocol.as_str() {
        "" => number.to_string(),
        word => word.to_owned(),
    });
    let plaintext = raw.plaintext.as_ref().map(|text| plaintext(source, text, target)).transpose()?;
    Ok(Port { name, number, protocol, target, plaintext })
}

/// Where callers outside the mesh come in: not where the application itself listens.
fn plaintext(source: Source<'_>, text: &Spanned<String>, target: SocketAddr) -> Result<SocketAddr, ConfigError> {
    let at = address(source, text)?;
    let is_anywhere = at.ip().is_unspecified() || target.ip().is_unspecified();
    if at.port() == target.port() && (at.ip() == target.ip() || is_anywhere) {
        let message = format!("{at} is where the application listens ({target})");
        let hint = "let the application listen at 127.0.0.1 and write an address of this machine here, or another port";
        return Err(source.at(text.span(), message, hint));
    }
    Ok(at)
}

/// What may be declared. Istio's words, and PostgreSQL's, which Istio leaves to be found out.
const WORDS: &str = "http, http2, grpc, tcp, tls, https, mongo, mysql, postgres or redis; none is found out";
/// Istio's words for what nodes do not carry.
const NOT_BUILT: [&str; 3] = ["grpc-web", "udp", "http_proxy"];
/// Where servers speak first, Istio does not wait for a caller's first bytes: SMTP, DNS, MySQL, MongoDB.
const SERVER_FIRST: [u16; 4] = [25, 53, 3306, 27017];

fn known(word: &str) -> Option<Protocol> {
    match word {
        "http" => Some(Protocol::Http),
        "http2" => Some(Protocol::Http2),
        "grpc" => Some(Protocol::Grpc),
        "tcp" | "mongo" | "mysql" | "postgres" | "postgresql" | "redis" => Some(Protocol::Tcp),
        "tls" | "https" => Some(Protocol::Tls),
        _ => None,
    }
}

fn protocol(source: Source<'_>, text: &Spanned<String>) -> Result<Protocol, ConfigError> {
    let word = text.get_ref().to_ascii_lowercase();
    known(&word).ok_or_else(|| {
        if NOT_BUILT.contains(&word.as_str()) {
            unsupported(source, text.span(), &format!("the protocol `{word}`"))
        } else {
            source.at(text.span(), format!("unknown protocol `{word}`"), WORDS)
        }
    })
}

/// Istio's choice where no protocol is written: the first part of the port's name, `http` or `mysql-main`; else some ports are
/// known to be of servers that speak first; else what a caller sends tells.
fn selected(source: Source<'_>, number: u16, name: Option<&Spanned<String>>) -> Result<Protocol, ConfigError> {
    if let Some(name) = name {
        let text = name.get_ref();
        let word = text.split('-').next().unwrap_or_default();
        if text.starts_with("grpc-web") || NOT_BUILT.contains(&word) {
            let word = if text.starts_with("grpc-web") { "grpc-web" } else { word };
            return Err(unsupported(source, name.span(), &format!("the protocol `{word}`")));
        }
        if let Some(protocol) = known(word) {
            return Ok(protocol);
        }
    }
    Ok(if SERVER_FIRST.contains(&number) { Protocol::Tcp } else { Protocol::Sniffed })
}

/// Whether all of a service is there, as far as a connection tells.
fn every(ports: &[Port]) -> Probe {
    Probe::Ports(ports.iter().map(|port| (port.number, port.target)).collect())
}

fn check(source: Source<'_>, raw: &Spanned<raw::Check>, ports: &[Port], first: &Port) -> Result<Check, ConfigError> {
    let (span, raw) = (raw.span(), raw.get_ref());
    let chosen = raw.port.as_ref().map(|number| checked(source, number, ports)).transpose()?;
    let elsewhere = raw.target.as_ref().map(|text| self::target(source, text)).transpose()?;
    if let (Some(text), Some(_)) = (&raw.target, chosen) {
        return Err(source.at(
            text.span(),
            "a check asks at one place",
            "keep `port`, one of `ports`, or `target`, any address",
        ));
    }
    let port = chosen.unwrap_or(first);
    let (target, protocol) = elsewhere.map_or((port.target, port.protocol), |target| (target, Protocol::Http));
    let probe = match (&raw.http, &raw.grpc, &raw.tcp) {
        (Some(path), None, None) => {
            if !path.get_ref().starts_with('/') || path.get_ref().contains(|c: char| c.is_control() || c == ' ') {
                return Err(source.at(path.span(), format!("`{}` is no path", path.get_ref()), "e.g. /health"));
            }
            Probe::Http(path.get_ref().clone())
        }
        (None, Some(service), None) => Probe::Grpc(service.get_ref().clone()),
        (None, None, Some(tcp)) if !tcp.get_ref() => {
            return Err(source.at(tcp.span(), "a check cannot be switched off", "remove it; none means tcp"));
        }
        (None, None, _) if chosen.is_none() && elsewhere.is_none() => every(ports),
        (None, None, _) => Probe::Tcp,
        (_, _, _) => return Err(source.at(span, "a check is one of http, grpc and tcp", "keep one of them")),
    };
    if protocol == Protocol::Tls && matches!(probe, Probe::Http(_) | Probe::Grpc(_)) {
        let message = format!("port {} speaks TLS, which a check of http or grpc does not", port.number);
        return Err(source.at(span, message, "leave `check` out, or name a port without TLS: port = 9090"));
    }
    let interval = raw.interval.as_ref().map_or(Ok(Duration::from_secs(2)), |i| duration(source, i, SHORTEST_INTERVAL));
    Ok(Check {
        probe,
        target,
        protocol,
        interval: interval?,
        rise: raw.rise.as_ref().map_or(Ok(2), |n| number(source, n, 1..=100))?,
        fall: raw.fall.as_ref().map_or(Ok(3), |n| number(source, n, 1..=100))?,
        delay: Duration::ZERO,
        timeout: raw.timeout.as_ref().map(|text| duration(source, text, SHORTEST_INTERVAL)).transpose()?,
    })
}

/// Where an application listens.
fn target(source: Source<'_>, text: &Spanned<String>) -> Result<SocketAddr, ConfigError> {
    let target = address(source, text)?;
    if target.port() == 0 {
        return Err(source.at(text.span(), "a target needs a port", "name the port that the application listens on"));
    }
    Ok(target)
}

/// The port that a check names: one of the service's.
fn checked<'p>(source: Source<'_>, asked: &Spanned<i64>, ports: &'p [Port]) -> Result<&'p Port, ConfigError> {
    let found = ports.iter().find(|port| i64::from(port.number) == *asked.get_ref());
    found.ok_or_else(|| {
        let numbers: Vec<_> = ports.iter().map(|port| port.number.to_string()).collect();
        let message = format!("the service has no port {}", asked.get_ref());
        source.at(asked.span(), message, format!("name one of `ports`: {}", numbers.join(", ")))
    })
}
