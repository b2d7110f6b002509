//! Writing configuration: the first `skein.toml`, and the files of `service add`.

use std::{
    fmt::Write as _,
    io::Write as _,
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use certs::id::{NodeId, TrustDomain};

use super::{Config, ConfigError, Port, Probe, Service, error::whole, paths::folder_of, read, read_text};

/// What a new `skein.toml` says beside its defaults, and beside the places of this user, which are not those of another one.
#[derive(Debug, Clone)]
pub struct Minimal {
    /// `[node] name`.
    pub node: NodeId,
    /// `[node] trust_domain`.
    pub trust_domain: TrustDomain,
    /// `[mesh] advertise`, where it is known already.
    pub advertise: Option<SocketAddr>,
}

/// Reads `file` if it is there and sees that it agrees; writes a minimal one otherwise.
///
/// # Errors
/// A file that cannot be read or written, is not valid, or names another node or trust domain. Nothing is written then.
pub fn ensure(file: &Path, minimal: &Minimal) -> Result<Config, ConfigError> {
    if !file.exists() {
        let folder = folder_of(file);
        std::fs::create_dir_all(folder).map_err(|e| cannot(folder, &e))?;
        write_atomically(file, &text(minimal)).map_err(|e| cannot(file, &e))?;
        return read(file);
    }
    let config = read(file)?;
    let disagrees = |key: &str, there: &str, wanted: &str| {
        let message = format!("{key} is `{there}`, not `{wanted}`");
        whole(file, message, "correct the file or name another with --config")
    };
    if config.node != minimal.node {
        return Err(disagrees("[node] name", config.node.as_str(), minimal.node.as_str()));
    }
    if config.trust_domain != minimal.trust_domain {
        return Err(disagrees("[node] trust_domain", config.trust_domain.as_str(), minimal.trust_domain.as_str()));
    }
    Ok(config)
}

/// What a node has of which `file` says nothing but its names, as long as it is not there.
pub fn defaults(file: &Path) -> Config {
    let names = NodeId::new("node").ok().zip(TrustDomain::new("mesh.example").ok());
    let (node, trust_domain) = names.expect("both are names");
    read_text(file, &text(&Minimal { node, trust_domain, advertise: None }), &[]).expect("what is written is valid")
}

fn cannot(path: &Path, error: &std::io::Error) -> ConfigError {
    whole(path, format!("cannot be written: {error}"), "check the folder's permissions, or name another with --config")
}

fn text(minimal: &Minimal) -> String {
    let paths = super::paths::current();
    let advertise = minimal.advertise.map_or_else(
        || "# advertise = \"10.0.0.5:15008\"    # default: the address used towards the enroller\n".to_string(),
        |at| format!("advertise = \"{at}\"\n"),
    );
    format!(
        r#"# Skein node. Lines that start with `#` show defaults.
[node]
name = "{}"
trust_domain = "{}"
# locality = "eu/eu-1a"
data_dir = {}

[runtime]
# workers = 4                       # default: the cgroup's CPUs
# farewell = "300ms"                # after TERM everything is answered for so long; behind a balancer its probes' time
# drain = "8s"                      # then what is under way may go on for so long
# log = "info"
# format = "text"                   # or "json"

[mesh]
# listen = "0.0.0.0:15008"
{advertise}# peers = []                        # default: known nodes
# transport = "auto"                # or "quic", "tcp"

[admin]
# listen = "127.0.0.1:15000"
socket = {}
# allow = []                        # default: loopback only

# [metrics]                         # a port for scrapers and balancers: /metrics, /healthz, /readyz; default: off
# listen = "0.0.0.0:15020"

# [gateway]                         # where Gateways that select a service of this node open their ports
# listen = "0.0.0.0"
# ports = {{ 80 = 8080 }}             # a port that documents name, and the one to open for it; default: the same

# [secrets]                         # where documents may name certificate files, by namespace; default: wherever the node may read
# files = {{ shop = ["/etc/shop/tls"] }}

# [workload]                        # SPIFFE Workload API for the `uids` of services; default: off
# socket = "{}"

# [dns]                             # names of services for applications; default: off
# listen = "127.0.0.1:15053"
# addresses = "127.240.0.0/16"      # one for each service, on this machine only
# upstreams = ["10.0.0.2"]          # who knows other names; default: whom /etc/resolv.conf names
# as = "default/reviews"            # who calls at the addresses

# [capture]                         # takes what `skein capture on` redirects; default: off
# port = 15002
# inbound_port = 15006              # takes what comes from other machines to services' own ports; default: off
# as = "default/reviews"            # who calls by captured connections

# Services of this machine follow here or in services.d/*.toml:
# [[service]]
# name = "reviews"                  # instance = "two" tells two of one service on one node apart
# namespace = "default"
# account = "reviews"               # whose identity it has; default: "default"
# labels = {{ app = "reviews", version = "v1" }}
# group = "reviews"                 # a WorkloadGroup says more labels, account, check
# ports = [{{ name = "http", port = 9080, protocol = "http", target = "127.0.0.1:9080" }}]
#                                   # plaintext = "10.0.0.5:9080" lets callers outside the mesh in, as PeerAuthentication allows
# check = {{ http = "/health", port = 9080, interval = "2s", timeout = "2s", rise = 2, fall = 3 }}
#                                   # default: a connection to each port; port = one of `ports`, default the first;
#                                   # target = "127.0.0.1:8081" asks elsewhere, where nobody can call
# uids = [1000]                     # users whose processes get this service's identity
#                                   # outbound = "127.0.0.1:15004", in place of uids, is an HTTP proxy port of its own
#
# [[outbound]]
# http = "127.0.0.1:15001"          # HTTP proxy port for applications
# as = "default/reviews"
#
# [[upstream]]                      # a port that leads to one port of one service, TCP ones too
# listen = "127.0.0.1:5432"
# service = "default/postgres"      # or the host of a ServiceEntry: host = "db.example.com"
# port = 5432
# as = "default/reviews"
"#,
        minimal.node,
        minimal.trust_domain,
        quoted(&paths.data_dir.to_string_lossy()),
        quoted(&paths.socket.to_string_lossy()),
        paths.workload.display(),
    )
}

/// A string as TOML writes it.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// The file in `services.d` that holds a service added at run time.
pub fn service_file(config: &Config, service: &Service) -> PathBuf {
    let instance = service.instance.as_ref().map(|i| format!(".{i}")).unwrap_or_default();
    config.services_dir().join(format!("{}.{}{instance}.toml", service.name.namespace(), service.name.name()))
}

/// One service as the text of a `services.d` file.
pub fn service_to_toml(service: &Service) -> String {
    let mut out = String::from("[[service]]\n");
    let mut line = |text: String| {
        out.push_str(&text);
        out.push('\n');
    };
    line(format!("name = {}", quoted(service.name.name())));
    line(format!("namespace = {}", quoted(service.name.namespace())));
    if let Some(instance) = &service.instance {
        line(format!("instance = {}", quoted(instance)));
    }
    let left = service.group.as_ref();
    if let Some(group) = left {
        line(format!("group = {}", quoted(&group.name)));
    }
    if left.is_none_or(|group| !group.account) {
        line(format!("account = {}", quoted(service.account.account())));
    }
    if !service.labels.is_empty() {
        let labels: Vec<_> = service.labels.iter().map(|(k, v)| format!("{} = {}", quoted(k), quoted(v))).collect();
        line(format!("labels = {{ {} }}", labels.join(", ")));
    }
    let ports: Vec<_> = service
        .ports
        .iter()
        .map(|p| {
            let protocol = match p.protocol.as_str() {
                "" => String::new(),
                word => format!("protocol = \"{word}\", "),
            };
            let plaintext = p.plaintext.map(|at| format!(", plaintext = \"{at}\"")).unwrap_or_default();
            let (name, number, target) = (quoted(&p.name), p.number, p.target);
            format!("{{ name = {name}, port = {number}, {protocol}target = \"{target}\"{plaintext} }}")
        })
        .collect();
    if !ports.is_empty() {
        line(format!("ports = [{}]", ports.join(", ")));
    }
    if let Some(check) = service.check.as_ref().filter(|_| left.is_none_or(|group| !group.check)) {
        let mut text = match &check.probe {
            Probe::Http(path) => format!("http = {}", quoted(path)),
            Probe::Grpc(name) => format!("grpc = {}", quoted(name)),
            Probe::Tcp | Probe::Ports(_) => "tcp = true".to_string(),
        };
        // Only where it is not the one that is asked without: builds that know of no such key can go on reading the file.
        let is_asked = |port: &&Port| (port.target, port.protocol) == (check.target, check.protocol);
        let unsaid = match check.probe {
            Probe::Http(_) | Probe::Grpc(_) => service.ports.first().is_some_and(|first| is_asked(&first)),
            Probe::Ports(_) => true,
            Probe::Tcp => false,
        };
        let _ = match service.ports.iter().find(is_asked) {
            _ if unsaid => Ok(()),
            Some(port) => write!(text, ", port = {}", port.number),
            None => write!(text, ", target = \"{}\"", check.target),
        };
        if let Some(timeout) = check.timeout {
            let _ = write!(text, ", timeout = \"{}ms\"", timeout.as_millis());
        }
        let _ = write!(
            text,
            ", interval = \"{}ms\", rise = {}, fall = {}",
            check.interval.as_millis(),
            check.rise,
            check.fall
        );
        line(format!("check = {{ {text} }}"));
    }
    if let Some(outbound) = service.outbound {
        line(format!("outbound = \"{outbound}\""));
    }
    out
}

/// Writes `text` so that a reader sees the old file or the new one, never half of one.
///
/// # Errors
/// What the file system says.
pub fn write_atomically(file: &Path, text: &str) -> std::io::Result<()> {
    let mut temporary = file.as_os_str().to_owned();
    temporary.push(".new");
    let _ = std::fs::remove_file(&temporary);
    let mut out = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(&temporary)?;
    out.write_all(text.as_bytes())?;
    out.sync_all()?;
    std::fs::rename(&temporary, file)?;
    std::fs::File::open(folder_of(file))?.sync_all()
}
