//! From the text's shape to a [`Config`]: names, addresses, references, defaults.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    ops::Range,
    path::Path,
    time::Duration,
};

use certs::id::{NodeId, TrustDomain};
use policy::route::Called;
use toml::Spanned;

use crate::secrets::Folders;

use super::{
    Admin, Cidr, Config, Gateway, Listeners, Log, LogFormat, Mesh, Outbound, Service, SpeakerName, Transport, Upstream,
    error::{ConfigError, Source, whole},
    listeners::Place,
    names, paths, raw,
    service::service,
};

/// Most bytes of one configuration file.
const FILE_BYTES: u64 = 1 << 20;
/// Most data runtimes: the steering byte tells 240 apart.
const WORKERS: i64 = 240;
/// Most services of one node.
const SERVICES: usize = 200;

/// Reads `file` and `services.d` beside it.
///
/// # Errors
/// The first complaint, with file, line and column.
pub fn read(file: &Path) -> Result<Config, ConfigError> {
    let text = load(file)?;
    let mut fragments = Vec::new();
    let folder = super::services_dir(file);
    match std::fs::read_dir(&folder) {
        Ok(entries) => {
            let mut names: Vec<_> = entries.filter_map(Result::ok).map(|e| e.path()).collect();
            names.retain(|p| p.extension().is_some_and(|e| e == "toml"));
            names.sort();
            for name in names {
                let text = load(&name)?;
                fragments.push((name, text));
            }
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(whole(&folder, format!("cannot be read: {e}"), "check the folder's permissions")),
    }
    let fragments: Vec<_> = fragments.iter().map(|(p, t)| (p.as_path(), t.as_str())).collect();
    read_text(file, &text, &fragments)
}

fn load(file: &Path) -> Result<String, ConfigError> {
    let size = std::fs::metadata(file).map(|m| m.len());
    match size {
        Ok(bytes) if bytes > FILE_BYTES => {
            return Err(whole(file, format!("is {bytes} bytes, more than {FILE_BYTES}"), "split it into services.d"));
        }
        Ok(_) | Err(_) => {}
    }
    std::fs::read_to_string(file).map_err(|e| {
        let hint = if e.kind() == std::io::ErrorKind::NotFound {
            "`skein init` or `skein join` writes it; --config names another"
        } else {
            "check the file's permissions"
        };
        whole(file, format!("cannot be read: {e}"), hint)
    })
}

/// Checks the text of `skein.toml` and of the files in `services.d`, each with its path.
///
/// # Errors
/// As [`read`].
pub fn read_text(file: &Path, text: &str, fragments: &[(&Path, &str)]) -> Result<Config, ConfigError> {
    let source = Source { file, text };
    let mut main: raw::File = parse(source)?;
    let top = raw::Fragment {
        outbound: std::mem::take(&mut main.outbound),
        service: std::mem::take(&mut main.service),
        upstream: std::mem::take(&mut main.upstream),
    };
    let mut parts = vec![(source, top)];
    for &(file, text) in fragments {
        let source = Source { file, text };
        parts.push((source, parse(source)?));
    }
    let mut config = top_level(source, &main)?;
    fill(&mut config, source, &main, &parts)?;
    Ok(config)
}

/// Parses the text of one `[[service]]` table, as `service add` gives it.
///
/// # Errors
/// As [`read`].
pub fn service_from_toml(file: &Path, text: &str) -> Result<Service, ConfigError> {
    let source = Source { file, text };
    let fragment: raw::Fragment = parse(source)?;
    match fragment.service.as_slice() {
        [one] if fragment.outbound.is_empty() && fragment.upstream.is_empty() => service(source, one),
        _ => Err(source.whole("must hold exactly one [[service]]", "give one service at a time")),
    }
}

fn parse<T: serde::de::DeserializeOwned>(source: Source<'_>) -> Result<T, ConfigError> {
    toml::from_str(source.text).map_err(|e| {
        let message = e.message().to_string();
        let hint = if message.starts_with("unknown field") {
            "unknown keys are refused; check the spelling"
        } else if message.starts_with("invalid type") {
            "write it as it is expected; `skein init` writes a commented configuration"
        } else {
            "the configuration is TOML; `skein init` writes a commented one"
        };
        source.at(e.span().unwrap_or(0..0), message, hint)
    })
}

/// A key whose part is not built yet.
pub(super) fn unsupported(source: Source<'_>, span: Range<usize>, what: &str) -> ConfigError {
    source.at(span, format!("{what} is not supported yet"), "remove it; this version has nothing that would act on it")
}

fn top_level(source: Source<'_>, raw: &raw::File) -> Result<Config, ConfigError> {
    let defaults = paths::current();
    Ok(Config {
        file: source.file.to_path_buf(),
        node: name(source, &raw.node.name, NodeId::new)?,
        trust_domain: name(source, &raw.node.trust_domain, TrustDomain::new)?,
        locality: raw.node.locality.as_ref().map_or(Ok(String::new()), |l| locality(source, l))?,
        data_dir: raw.node.data_dir.clone().unwrap_or(defaults.data_dir),
        workers: match &raw.runtime.workers {
            Some(n) => number(source, n, 1..=WORKERS)?,
            None => std::thread::available_parallelism().map_or(1, usize::from).min(WORKERS as usize),
        },
        drain: raw
            .runtime
            .drain
            .as_ref()
            .map_or(Ok(Duration::from_secs(8)), |d| duration(source, d, Duration::ZERO))?,
        farewell: raw
            .runtime
            .farewell
            .as_ref()
            .map_or(Ok(Duration::from_millis(300)), |d| duration(source, d, Duration::ZERO))?,
        log: log(source, &raw.runtime)?,
        mesh: mesh(source, &raw.mesh)?,
        admin: Admin {
            listen: raw.admin.listen.as_ref().map_or(Ok(([127, 0, 0, 1], 15000).into()), |a| address(source, a))?,
            socket: raw.admin.socket.clone().unwrap_or(defaults.socket),
            allow: raw.admin.allow.iter().map(|c| cidr(source, c)).collect::<Result<_, _>>()?,
        },
        metrics: raw.metrics.listen.as_ref().map(|a| address(source, a)).transpose()?,
        workload: raw.workload.as_ref().map(|workload| workload.socket.clone().unwrap_or(defaults.workload)),
        gateway: gateway(source, &raw.gateway)?,
        files: raw.secrets.as_ref().map(|secrets| folders(source, secrets)).transpose()?,
        dns: None,
        capture: None,
        outbounds: Vec::new(),
        services: Vec::new(),
        upstreams: Vec::new(),
        listeners: Listeners::default(),
    })
}

fn folders(source: Source<'_>, raw: &raw::Secrets) -> Result<Folders, ConfigError> {
    let folder = |text: &Spanned<String>| match Path::new(text.get_ref()) {
        path if path.is_absolute() => Ok(path.to_path_buf()),
        _ => Err(source.at(text.span(), "not an absolute path", "write the folder in full, like /etc/shop/tls")),
    };
    let of = |(namespace, folders): (&String, &Vec<Spanned<String>>)| {
        Ok((namespace.clone(), folders.iter().map(folder).collect::<Result<_, _>>()?))
    };
    raw.files.iter().map(of).collect()
}

fn log(source: Source<'_>, raw: &raw::Runtime) -> Result<Log, ConfigError> {
    let filter = raw.log.as_ref().map_or("info", |l| l.get_ref()).to_string();
    if let Some(text) = &raw.log {
        crate::logging::filter(text.get_ref()).map_err(|e| {
            source.at(text.span(), format!("`{filter}` is no log filter: {e}"), "error, warn, info, debug or trace")
        })?;
    }
    let format = match raw.format.as_ref().map(raw::place) {
        None | Some(("text", _)) => LogFormat::Text,
        Some(("json", _)) => LogFormat::Json,
        Some((other, span)) => return Err(source.at(span, format!("unknown log format `{other}`"), "text or json")),
    };
    Ok(Log { filter, format })
}

fn mesh(source: Source<'_>, raw: &raw::Mesh) -> Result<Mesh, ConfigError> {
    let advertise = raw.advertise.as_ref().map(|a| address(source, a)).transpose()?;
    if let (Some(text), Some(at)) = (&raw.advertise, advertise)
        && (at.ip().is_unspecified() || at.port() == 0)
    {
        return Err(source.at(text.span(), format!("nobody can dial {at}"), "give the address that other nodes use"));
    }
    let peer = |text: &Spanned<String>| {
        let valid = text.get_ref().rsplit_once(':').is_some_and(|(host, port)| {
            // One of IPv6 is in brackets; the zone of one of a link is the interface's number.
            let is_named = !host.contains([':', '[', ']']) || text.get_ref().parse::<SocketAddr>().is_ok();
            let is_whole = !host.is_empty() && !host.contains(char::is_whitespace);
            is_named && is_whole && port.parse::<u16>().is_ok_and(|p| p > 0)
        });
        let hint = "e.g. 10.0.0.4:15008 or [2001:db8::4]:15008";
        let bad = || source.at(text.span(), format!("`{}` is no HOST:PORT", text.get_ref()), hint);
        valid.then(|| text.get_ref().clone()).ok_or_else(bad)
    };
    Ok(Mesh {
        listen: raw.listen.as_ref().map_or(Ok(([0, 0, 0, 0], 15008).into()), |a| address(source, a))?,
        advertise,
        peers: raw.peers.iter().map(peer).collect::<Result<_, _>>()?,
        transport: match raw.transport.as_ref().map(raw::place) {
            None | Some(("auto", _)) => Transport::Auto,
            Some(("quic", _)) => Transport::Quic,
            Some(("tcp", _)) => Transport::Tcp,
            Some((other, span)) => {
                return Err(source.at(span, format!("unknown transport `{other}`"), "auto, quic or tcp"));
            }
        },
    })
}

fn gateway(source: Source<'_>, raw: &raw::Gateway) -> Result<Gateway, ConfigError> {
    let default = Gateway::default();
    let bad = |text: &Spanned<String>| {
        let message = format!("`{}` is no address", text.get_ref());
        source.at(
            text.span(),
            message,
            "an address of this machine without port, e.g. 0.0.0.0: the Gateway says the port",
        )
    };
    let listen = raw.listen.as_ref().map(|text| text.get_ref().parse().map_err(|_| bad(text))).transpose()?;
    let (mut ports, mut port_places) = (BTreeMap::new(), BTreeMap::new());
    for (text, own) in &raw.ports {
        let Some(asked) = text.parse::<u16>().ok().filter(|port| *port > 0) else {
            let message = format!("`{text}` is no port of a Gateway");
            return Err(source.at(
                own.span(),
                message,
                "a port that documents name and the one to listen at: 80 = 8080",
            ));
        };
        ports.insert(asked, number(source, own, 0..=65535)?);
        port_places.insert(asked, Place::of(source, own.span(), "[gateway] ports"));
    }
    let listen_place = raw.listen.as_ref().map(|text| Place::of(source, text.span(), "[gateway] listen"));
    Ok(Gateway { listen: listen.unwrap_or(default.listen), ports, listen_place, port_places })
}

/// Collects services, ports and who speaks there, and sees that no two share an address.
fn fill(
    config: &mut Config,
    main: Source<'_>,
    raw: &raw::File,
    parts: &[(Source<'_>, raw::Fragment)],
) -> Result<(), ConfigError> {
    config.listeners.take(config.mesh.listen, place_of(main, raw.mesh.listen.as_ref(), "[mesh] listen"))?;
    config.listeners.take(config.admin.listen, place_of(main, raw.admin.listen.as_ref(), "[admin] listen"))?;
    if let (Some(text), Some(at)) = (&raw.metrics.listen, config.metrics) {
        config.listeners.take(at, Place::of(main, text.span(), "[metrics] listen"))?;
    }
    let mut seen = BTreeSet::new();
    for (source, part) in parts {
        for raw in &part.service {
            let one = service(*source, raw)?;
            if let (Some(uids), None) = (&raw.uids, &config.workload) {
                let hint = "write [workload] into skein.toml; its `socket` has a default";
                return Err(source.at(uids.span(), "`uids` is for the Workload API, which is off", hint));
            }
            let who = SpeakerName::of(&one).to_string();
            if !seen.insert(who.clone()) {
                let message = format!("the service {who} is there twice");
                return Err(source.at(raw.name.span(), message, "`instance` tells two of one service apart"));
            }
            if config.services.len() == SERVICES {
                return Err(source.at(raw.name.span(), format!("more than {SERVICES} services"), "use more nodes"));
            }
            config.services.push(one);
        }
    }
    for (source, part) in parts {
        ports(config, *source, part)?;
    }
    if let Some(dns) = &raw.dns {
        let made = names::dns(main, dns.get_ref(), dns.span(), &config.services)?;
        config.listeners.take(made.listen, place_of(main, dns.get_ref().listen.as_ref(), "[dns] listen"))?;
        config.dns = Some(made);
    }
    if let Some(capture) = &raw.capture {
        let made = names::capture(main, capture.get_ref(), capture.span(), &config.services)?;
        let at = SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, made.port));
        config.listeners.take(at, place_of(main, capture.get_ref().port.as_ref(), "[capture] port"))?;
        if let (Some(text), Some(port)) = (&capture.get_ref().inbound_port, made.inbound_port) {
            if port == made.port && port > 0 {
                let message = format!("port {port} is taken by [capture] port");
                return Err(main.at(text.span(), message, "every listener needs an address of its own"));
            }
            let at = SocketAddr::from((std::net::Ipv4Addr::UNSPECIFIED, port));
            config.listeners.take(at, Place::of(main, text.span(), "[capture] inbound_port"))?;
        }
        config.capture = Some(made);
    }
    Ok(())
}

/// Where a key stands that has a default.
fn place_of<T>(source: Source<'_>, written: Option<&Spanned<T>>, key: &str) -> Place {
    written.map_or_else(|| Place::default_of(source, key), |value| Place::of(source, value.span(), key))
}

fn ports(config: &mut Config, source: Source<'_>, part: &raw::Fragment) -> Result<(), ConfigError> {
    for raw in part.service.iter().flat_map(|service| &service.ports) {
        let Some(text) = &raw.plaintext else { continue };
        let what = format!("[[service]] plaintext of port {}", raw.port.get_ref());
        config.listeners.take(address(source, text)?, Place::of(source, text.span(), &what))?;
    }
    for raw in &part.service {
        let Some(text) = &raw.outbound else { continue };
        let one = service(source, raw)?;
        let listen = address(source, text)?;
        let what = format!("[[service]] outbound of {}", one.name);
        config.listeners.take(listen, Place::of(source, text.span(), &what))?;
        config.outbounds.push(Outbound { listen, speaker: SpeakerName::of(&one) });
    }
    for raw in &part.outbound {
        if let Some(uids) = &raw.uids {
            return Err(unsupported(source, uids.span(), "`uids`"));
        }
        let listen = address(source, &raw.http)?;
        config.listeners.take(listen, Place::of(source, raw.http.span(), "[[outbound]] http"))?;
        let speaker = speaker(source, raw.speaker.as_ref(), raw.http.span(), &config.services)?;
        config.outbounds.push(Outbound { listen, speaker });
    }
    for raw in &part.upstream {
        if let Some(uids) = &raw.uids {
            return Err(unsupported(source, uids.span(), "`uids`"));
        }
        let listen = address(source, &raw.listen)?;
        config.listeners.take(listen, Place::of(source, raw.listen.span(), "[[upstream]] listen"))?;
        config.upstreams.push(Upstream {
            listen,
            called: called(source, raw)?,
            port: number(source, &raw.port, 1..=65535)?,
            speaker: speaker(source, raw.speaker.as_ref(), raw.listen.span(), &config.services)?,
        });
    }
    Ok(())
}

/// What an explicit port leads to.
fn called(source: Source<'_>, raw: &raw::Upstream) -> Result<Called, ConfigError> {
    match (&raw.service, &raw.host) {
        (Some(service), None) => {
            name(source, service, |text| text.parse::<certs::id::ServiceName>()).map(Called::Service)
        }
        (None, Some(host)) => {
            let text = host.get_ref();
            if !policy::hosts::is_dns_name(text) {
                let message = format!("`{text}` is no host name");
                return Err(source.at(host.span(), message, "the host of a ServiceEntry, e.g. api.example.com"));
            }
            Ok(Called::Host(text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase().into()))
        }
        (Some(_), Some(host)) => {
            Err(source.at(host.span(), "`service` and `host` are both given", "a port leads to one of them"))
        }
        (None, None) => Err(source.at(
            raw.listen.span(),
            "neither `service` nor `host` is given",
            "service = \"NAMESPACE/NAME\", or the host of a ServiceEntry: host = \"api.example.com\"",
        )),
    }
}

pub(super) fn speaker(
    source: Source<'_>,
    given: Option<&Spanned<String>>,
    fallback: Range<usize>,
    services: &[Service],
) -> Result<SpeakerName, ConfigError> {
    let Some(text) = given else {
        return match services {
            [one] => Ok(SpeakerName::of(one)),
            [] => Err(source.at(
                fallback,
                "nobody speaks here: the node has no service",
                "add a [[service]] with name and namespace; without `ports` it is a client identity",
            )),
            _ => Err(source.at(fallback, "`as` is missing", "name the service that speaks here; the node has several")),
        };
    };
    // One without an instance is named by what is only the beginning of the others' names.
    if let Some(exact) = services.iter().map(SpeakerName::of).find(|s| s.to_string() == *text.get_ref()) {
        return Ok(exact);
    }
    let mut found = services.iter().map(SpeakerName::of).filter(|s| s.service.to_string() == *text.get_ref());
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one),
        (Some(_), Some(_)) => {
            let message = format!("`{}` has several instances here", text.get_ref());
            Err(source.at(text.span(), message, "write NAMESPACE/NAME/INSTANCE"))
        }
        (None, _) => {
            let message = format!("`{}` is no service of this node", text.get_ref());
            Err(source.at(text.span(), message, "`as` names a [[service]] as NAMESPACE/NAME"))
        }
    }
}

/// A name by its own grammar.
pub(super) fn name<T>(
    source: Source<'_>,
    text: &Spanned<String>,
    make: impl Fn(&str) -> Result<T, certs::id::NameError>,
) -> Result<T, ConfigError> {
    make(text.get_ref()).map_err(|e| {
        source.at(text.span(), e.to_string(), "lower-case letters, digits and `-`, at most 63 characters a part")
    })
}

pub(super) fn address(source: Source<'_>, text: &Spanned<String>) -> Result<SocketAddr, ConfigError> {
    let bad = |_| source.at(text.span(), format!("`{}` is no ADDRESS:PORT", text.get_ref()), "e.g. 127.0.0.1:15001");
    text.get_ref().parse().map_err(bad)
}

pub(super) fn number<T: TryFrom<i64>>(
    source: Source<'_>,
    value: &Spanned<i64>,
    range: std::ops::RangeInclusive<i64>,
) -> Result<T, ConfigError> {
    let refused = || {
        let message = format!("{} is not within {} to {}", value.get_ref(), range.start(), range.end());
        source.at(value.span(), message, "choose a number in that range")
    };
    if !range.contains(value.get_ref()) {
        return Err(refused());
    }
    T::try_from(*value.get_ref()).map_err(|_| refused())
}

/// `500ms`, `2s`, `1m`, `1h`; at least `least`, at most an hour.
pub(super) fn duration(source: Source<'_>, text: &Spanned<String>, least: Duration) -> Result<Duration, ConfigError> {
    const MOST: Duration = Duration::from_secs(3600);
    let given = text.get_ref();
    let digits = given.find(|c: char| !c.is_ascii_digit()).unwrap_or(given.len());
    let unit = match &given[digits..] {
        "ms" => Some(1),
        "s" => Some(1_000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    };
    let value = given[..digits].parse::<u32>().ok().zip(unit).map(|(n, ms)| Duration::from_millis(u64::from(n) * ms));
    match value {
        Some(value) if value >= least && value <= MOST => Ok(value),
        Some(_) => Err(source.at(text.span(), format!("`{given}` is out of range"), format!("{least:?} to 1h"))),
        None => {
            Err(source.at(text.span(), format!("`{given}` is no duration"), "a number and ms, s, m or h: 500ms, 2s"))
        }
    }
}

fn locality(source: Source<'_>, text: &Spanned<String>) -> Result<String, ConfigError> {
    let parts: Vec<_> = text.get_ref().split('/').collect();
    let fine = |part: &&str| {
        !part.is_empty() && part.len() <= 63 && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    if parts.len() <= 3 && parts.iter().all(fine) {
        return Ok(text.get_ref().clone());
    }
    let message = format!("`{}` is no locality", text.get_ref());
    Err(source.at(text.span(), message, "REGION[/ZONE[/SUBZONE]], e.g. eu/eu-1a"))
}

fn cidr(source: Source<'_>, text: &Spanned<String>) -> Result<Cidr, ConfigError> {
    Cidr::parse(text.get_ref()).map_err(|message| source.at(text.span(), message, "e.g. 10.0.0.0/8"))
}
