//! The configuration: whether it can be read, whether what it names is there and free.

use std::{
    fs,
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    os::unix::fs::MetadataExt as _,
    path::Path,
    time::Duration,
};

use tokio::net::{TcpStream, lookup_host};

use super::{
    finding::{Finding, Verdict, warn_unless},
    machine::number,
};
use crate::{
    agent::whereabouts,
    cli::{context::Context, error::Error},
    config::{self, Cidr, Config},
};

/// How long an application, or the resolver, may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// Bytes of a socket's path (`sun_path`, with its end).
const SOCKET_PATH: usize = 108;
/// A network with a shorter prefix is no named one.
const WIDE: u128 = 1 << 24;

/// What a node here would run by.
#[derive(Debug)]
pub(super) enum Found {
    /// Its file says so.
    File(Config),
    /// There is no file yet.
    Defaults(Config),
}

impl Found {
    /// What is judged.
    pub(super) fn config(&self) -> &Config {
        match self {
            Self::File(config) | Self::Defaults(config) => config,
        }
    }
}

/// The configuration, and what is to be said of it; `None` if there is one that cannot be read, or another user's.
pub(super) fn read(ctx: &Context, findings: &mut Vec<Finding>) -> Option<Found> {
    let file = ctx.config_file();
    if !file.exists() {
        let mut message = format!("there is no {}", file.display());
        // Its node has the ports with right.
        let others = config::paths::of(true, |_| None).config_file;
        let is_others = ctx.globals.config.is_none() && others.exists();
        if is_others {
            message += &format!(", but {}: name it by --config", others.display());
        }
        if !is_others && ctx.globals.config.is_none() {
            message += "; if a node runs here by another file, name that by --config";
        }
        findings.push(Finding::amiss("configuration.present", Verdict::Warning, message).coded("not_joined"));
        return (!is_others).then(|| Found::Defaults(config::defaults(&file)));
    }
    findings.push(Finding::fine("configuration.present", format!("{} is there", file.display())));
    findings.push(private(&file));
    match ctx.config() {
        Ok(config) => {
            findings.push(Finding::fine("configuration.valid", format!("{} can be read", file.display())));
            Some(Found::File(config))
        }
        Err(error) => {
            findings.push(Finding::of("configuration.valid", Verdict::Error, &error));
            None
        }
    }
}

/// The file, the folder of services and what lies in it: each adds to what this node runs.
fn private(file: &Path) -> Finding {
    let open = |path: &Path| fs::metadata(path).is_ok_and(|about| about.mode() & 0o022 != 0);
    let folder = config::services_dir(file);
    let within = fs::read_dir(&folder).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
    let mut fragments: Vec<_> = within.filter(|path| path.extension().is_some_and(|end| end == "toml")).collect();
    fragments.sort();
    let mut files = [file.to_owned(), folder].into_iter().chain(fragments);
    if let Some(first) = files.find(|path| open(path)) {
        let message = format!("others may write {}", first.display());
        return Finding::amiss("configuration.private", Verdict::Error, message).coded("key_permissions");
    }
    Finding::fine("configuration.private", "only its owner may write it")
}

/// What can be said of a configuration by reading it; `cpus` and the range of ports that the kernel gives to others.
pub(super) fn judge(config: &Config, cpus: usize, range: Option<(u16, u16)>) -> Vec<Finding> {
    vec![
        warn_unless(
            config.workers <= cpus,
            "configuration.workers",
            format!("{} workers on {cpus} processors", config.workers),
        ),
        advertise(config),
        ephemeral(config, range),
        outbound(config),
        admin(&config.admin.allow),
        socket(&config.admin.socket),
    ]
}

fn advertise(config: &Config) -> Finding {
    let (listen, told) = (config.mesh.listen, config.mesh.advertise);
    let alone = |ip: IpAddr| ip.is_loopback() || ip.is_unspecified() || ip.is_multicast();
    match told {
        Some(told) if alone(told.ip()) && !listen.ip().is_loopback() => {
            let message = format!("others are told {told}, which leads nowhere from another machine");
            Finding::amiss("configuration.advertise", Verdict::Warning, message)
        }
        Some(told) if whereabouts::needs_translation(told, listen) => {
            let message = format!(
                "others are told {told}, and {listen} takes IPv4 only: `listen = \"[::]:{}\"` takes both, unless another device translates",
                listen.port()
            );
            Finding::amiss("configuration.advertise", Verdict::Warning, message)
        }
        Some(told) => Finding::fine("configuration.advertise", format!("others are told {told}")),
        None => Finding::fine("configuration.advertise", format!("the address of {listen} is found out")),
    }
}

fn ephemeral(config: &Config, range: Option<(u16, u16)>) -> Finding {
    let id = "configuration.ephemeral";
    let Some((first, last)) = range else { return Finding::fine(id, "the kernel does not say which ports it gives") };
    let within: Vec<String> = listeners(config)
        .map(|(address, _)| address.port())
        .chain([config.mesh.listen.port()])
        .chain(config.dns.as_ref().map(|dns| dns.listen.port()))
        .filter(|port| (first..=last).contains(port))
        .map(|port| port.to_string())
        .collect();
    if within.is_empty() {
        return Finding::fine(id, format!("the kernel gives {first} to {last} to others"));
    }
    let message =
        format!("{} lie in {first} to {last}, which the kernel gives to anybody's connections", within.join(", "));
    Finding::amiss(id, Verdict::Warning, message)
}

fn outbound(config: &Config) -> Finding {
    let addresses = config.outbounds.iter().map(|outbound| outbound.listen);
    let addresses = addresses.chain(config.upstreams.iter().map(|upstream| upstream.listen));
    let open: Vec<String> = addresses.filter(|at| !at.ip().is_loopback()).map(|at| at.to_string()).collect();
    if open.is_empty() {
        return Finding::fine("configuration.outbound", "applications' ports are on loopback");
    }
    let message = format!("other machines reach {}", open.join(", "));
    Finding::amiss("configuration.outbound", Verdict::Warning, message)
}

fn admin(allow: &[Cidr]) -> Finding {
    let wide: Vec<String> = allow.iter().filter(|network| network.size() > WIDE).map(ToString::to_string).collect();
    if wide.is_empty() {
        return Finding::fine("configuration.admin", "the pages are open to loopback and named networks");
    }
    let message = format!("{} may read the pages and metrics", wide.join(", "));
    Finding::amiss("configuration.admin", Verdict::Warning, message)
}

fn socket(path: &Path) -> Finding {
    let id = "configuration.socket";
    if path.as_os_str().len() >= SOCKET_PATH {
        let message = format!("{} is longer than the {} bytes of a socket's path", path.display(), SOCKET_PATH - 1);
        return Finding::amiss(id, Verdict::Error, message);
    }
    if let Some(there) = path.ancestors().skip(1).find(|folder| folder.exists()).filter(|there| !there.is_dir()) {
        let message = format!("{} cannot be made: {} is no directory", path.display(), there.display());
        return Finding::amiss(id, Verdict::Error, message);
    }
    Finding::fine(id, path.display().to_string())
}

/// TCP listeners beside the mesh port, and the check that sees to them.
fn listeners(config: &Config) -> impl Iterator<Item = (SocketAddr, &'static str)> {
    let admin = (config.admin.listen, "ports.admin");
    let metrics = config.metrics.map(|address| (address, "ports.metrics"));
    let outbounds = config.outbounds.iter().map(|outbound| (outbound.listen, "ports.applications"));
    let upstreams = config.upstreams.iter().map(|upstream| (upstream.listen, "ports.applications"));
    let captured = config.capture.iter().flat_map(|capture| {
        let here = SocketAddr::from(([127, 0, 0, 1], capture.port));
        let everywhere = capture.inbound_port.map(|port| SocketAddr::from(([0, 0, 0, 0], port)));
        [Some(here), everywhere].into_iter().flatten().map(|address| (address, "ports.captured"))
    });
    let ports = config.services.iter().flat_map(|service| &service.ports);
    let plaintext = ports.filter_map(|port| port.plaintext).map(|address| (address, "ports.plaintext"));
    [admin].into_iter().chain(metrics).chain(outbounds).chain(upstreams).chain(captured).chain(plaintext)
}

/// Whether what a node will listen on is free; for a node that does not run.
pub(super) fn ports(config: &Config) -> Vec<Finding> {
    let mesh = config.mesh.listen;
    let free = UdpSocket::bind(mesh).and(TcpListener::bind(mesh).map(drop));
    let port = |id, address, free| port(config, id, address, free);
    let mut findings = vec![port("ports.mesh", mesh, free)];
    if let Some(at) = config.dns.as_ref().map(|dns| dns.listen) {
        findings.push(port("ports.dns", at, UdpSocket::bind(at).and(TcpListener::bind(at).map(drop))));
    }
    let others = listeners(config).map(|(address, id)| port(id, address, TcpListener::bind(address).map(drop)));
    findings.extend(others);
    findings
}

fn port(config: &Config, id: &'static str, address: SocketAddr, free: std::io::Result<()>) -> Finding {
    match free {
        Ok(()) => Finding::fine(id, format!("{address} is free")),
        Err(error) => {
            let place = config.listeners.place(address).map(|place| format!("{place}: ")).unwrap_or_default();
            let message = format!("{place}{address} cannot be used: {error}");
            Finding::amiss(id, Verdict::Error, message).coded("address_in_use")
        }
    }
}

/// Asks what the configuration names: applications, names of peers.
pub(super) async fn ask(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    for port in config.services.iter().flat_map(|service| &service.ports) {
        let connected = tokio::time::timeout(PATIENCE, TcpStream::connect(port.target)).await;
        let message = |rest: &str| format!("{} for port {} {rest}", port.target, port.number);
        findings.push(match connected {
            Ok(Ok(_)) => Finding::fine("applications.answer", message("accepts connections")),
            Ok(Err(error)) => {
                Finding::amiss("applications.answer", Verdict::Warning, message(&format!("does not: {error}")))
            }
            Err(_) => Finding::amiss("applications.answer", Verdict::Warning, message("does not answer")),
        });
    }
    for peer in &config.mesh.peers {
        let found = tokio::time::timeout(PATIENCE, lookup_host(peer)).await;
        let found = found.map_err(|_| "no answer in time".to_owned()).and_then(|found| {
            let count = found.map_err(|error| error.to_string())?.count();
            if count == 0 { Err("it has no address".to_owned()) } else { Ok(count) }
        });
        findings.push(match found {
            Ok(count) => Finding::fine("configuration.peers", format!("{peer} has {count} addresses")),
            Err(why) => Finding::amiss("configuration.peers", Verdict::Warning, format!("{peer} is not found: {why}")),
        });
    }
    findings.extend(names(config).await);
    findings
}

/// Whether the machine's resolver knows the name of a service that is here.
async fn names(config: &Config) -> Option<Finding> {
    let (id, dns) = ("names.machine", config.dns.as_ref()?);
    let service = config.services.iter().find(|service| !service.ports.is_empty())?;
    let name = format!("{}.{}.mesh", service.name.name(), service.name.namespace());
    let found = tokio::time::timeout(PATIENCE, lookup_host((name.as_str(), 0))).await;
    let found: Vec<IpAddr> = found.ok().and_then(Result::ok).into_iter().flatten().map(|at| at.ip()).collect();
    Some(match found.first() {
        Some(address) if dns.addresses.contains(*address) => Finding::fine(id, format!("{name} is {address}")),
        Some(address) => {
            let message = format!("{name} is {address}, which is not in {}", dns.addresses);
            Finding::amiss(id, Verdict::Warning, message)
        }
        None => Finding::amiss(id, Verdict::Warning, format!("this machine does not find {name}")),
    })
}

/// The ports that the kernel gives to connections that ask for none.
pub(super) fn port_range() -> Option<(u16, u16)> {
    let text: String = number("/proc/sys/net/ipv4/ip_local_port_range")?;
    let mut parts = text.split_whitespace().map_while(|part| part.parse().ok());
    parts.next().zip(parts.next())
}

/// A configuration that the node's own state does not go with.
pub(super) fn owner(error: &Error) -> Finding {
    Finding::of("state.owner", Verdict::Error, error)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{cli::check::finding::not_well, config};

    fn config(more: &str) -> Config {
        let text = format!("[node]\nname = \"web-1\"\ntrust_domain = \"t.example\"\n[runtime]\nworkers = 2\n{more}");
        config::read_text(Path::new("/etc/skein/skein.toml"), &text, &[]).unwrap()
    }

    /// Every finding of this file, provoked; some by sockets of this process.
    pub(in crate::cli::check) async fn provoked() -> Vec<Finding> {
        let taken: [TcpListener; 7] = std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").unwrap());
        let [mesh, admin, metrics, outbound, dns, captured, plaintext] =
            taken.each_ref().map(|taken| taken.local_addr().unwrap().port());
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let long = "x".repeat(SOCKET_PATH);
        let bad = config(&format!(
            "[mesh]\nlisten = \"0.0.0.0:{mesh}\"\nadvertise = \"127.0.0.1:{mesh}\"\npeers = [\"no.such.host.invalid:15008\"]\n\
             [admin]\nlisten = \"127.0.0.1:{admin}\"\nsocket = \"/{long}\"\nallow = [\"0.0.0.0/0\"]\n\
             [metrics]\nlisten = \"127.0.0.1:{metrics}\"\n[capture]\nport = {captured}\n[dns]\nlisten = \"127.0.0.1:{dns}\"\n\
             [[outbound]]\nhttp = \"0.0.0.0:{outbound}\"\nas = \"shop/web\"\n\
             [[service]]\nname = \"web\"\nnamespace = \"shop\"\n\
             ports = [{{ name = \"http\", port = 80, protocol = \"http\", target = \"{closed}\", plaintext = \"127.0.0.1:{plaintext}\" }}]\n"
        ));
        let mut findings = judge(&bad, 1, Some((1_024, u16::MAX)));
        findings.extend(ports(&bad));
        findings.extend(ask(&bad).await);
        drop(taken);
        findings
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_named_by_its_line() {
        let findings = provoked().await;
        let of = |id: &str| findings.iter().find(|one| one.id == id).unwrap().message.clone();
        for (id, begins) in [
            ("ports.mesh", "/etc/skein/skein.toml:7:10: [mesh] listen: 0.0.0.0:"),
            ("ports.applications", "/etc/skein/skein.toml:21:8: [[outbound]] http: 0.0.0.0:"),
            ("ports.plaintext", "/etc/skein/skein.toml:26:"),
        ] {
            assert!(of(id).starts_with(begins), "{id}: {}", of(id));
        }
    }

    #[test]
    fn a_plain_configuration_has_nothing_to_mend() {
        assert_eq!(not_well(&judge(&config(""), 2, Some((32_768, 60_999)))), []);
    }

    #[test]
    fn an_address_of_ipv6_is_told_only_with_a_port_that_takes_it() {
        let judged = |listen: &str| {
            advertise(&config(&format!("[mesh]\nlisten = \"{listen}\"\nadvertise = \"[2001:db8::7]:15008\"\n")))
        };
        let found = judged("0.0.0.0:15008");
        assert!(found.verdict == Verdict::Warning && found.message.contains("[::]:15008"), "{}", found.message);
        assert_eq!(judged("[::]:15008").verdict, Verdict::Ok);
    }

    #[tokio::test]
    async fn each_fault_is_found() {
        use Verdict::{Error, Warning};
        let wanted = [
            ("configuration.workers", Warning),
            ("configuration.advertise", Warning),
            ("configuration.ephemeral", Warning),
            ("configuration.outbound", Warning),
            ("configuration.admin", Warning),
            ("configuration.socket", Error),
            ("ports.mesh", Error),
            ("ports.dns", Error),
            ("ports.admin", Error),
            ("ports.metrics", Error),
            ("ports.applications", Error),
            ("ports.captured", Error),
            ("ports.plaintext", Error),
            ("applications.answer", Warning),
            ("configuration.peers", Warning),
            ("names.machine", Warning),
        ];
        assert_eq!(not_well(&provoked().await), wanted);
    }

    #[test]
    fn a_configuration_that_is_not_there_or_cannot_be_read_is_told() {
        use clap::FromArgMatches as _;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("skein.toml");
        let line = ["skein", "check", "--config", file.to_str().unwrap()];
        let matches = crate::cli::grammar::command().try_get_matches_from(line).unwrap();
        let ctx = Context::new(crate::cli::grammar::Cli::from_arg_matches(&matches).unwrap().globals);
        let found = |ctx: &Context| {
            let mut findings = Vec::new();
            let found = read(ctx, &mut findings);
            (found.map(|found| matches!(found, Found::Defaults(_))), not_well(&findings))
        };
        assert_eq!(found(&ctx), (Some(true), vec![("configuration.present", Verdict::Warning)]));
        fs::write(&file, "[nod]").unwrap();
        assert_eq!(found(&ctx), (None, vec![("configuration.valid", Verdict::Error)]));
    }

    #[test]
    fn a_socket_is_made_in_a_directory() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        assert_eq!(socket(&file.join("agent.sock")).verdict, Verdict::Error);
        assert_eq!(socket(&folder.path().join("later/agent.sock")).verdict, Verdict::Ok);
    }

    #[test]
    fn who_else_may_write_it_is_seen() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("skein.toml");
        fs::write(&file, "").unwrap();
        for (mode, verdict) in [(0o644, Verdict::Ok), (0o664, Verdict::Error), (0o646, Verdict::Error)] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(private(&file).verdict, verdict, "{mode:o}");
        }
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        // What is beside it counts the same, if it is read.
        let more = folder.path().join("services.d");
        fs::create_dir(&more).unwrap();
        for (name, verdict) in [("notes.txt", Verdict::Ok), ("cart.toml", Verdict::Error)] {
            fs::write(more.join(name), "").unwrap();
            fs::set_permissions(more.join(name), fs::Permissions::from_mode(0o666)).unwrap();
            assert_eq!(private(&file).verdict, verdict, "{name}");
        }
        fs::remove_file(more.join("cart.toml")).unwrap();
        fs::set_permissions(&more, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(private(&file).message.contains("services.d"), "{:?}", private(&file));
    }
}
