//! One machine of the demonstration: which service it runs, where it listens, and its `skein.toml`.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::bookinfo::{App, PORT};

/// The mesh's name.
pub(super) const TRUST_DOMAIN: &str = "bookinfo.example";
/// Who founds the mesh and lets the others in.
pub(super) const FOUNDER: App = App::Productpage;

/// Where everything of a node listens.
#[derive(Debug, Clone)]
pub(super) struct Machine {
    pub(super) app: App,
    /// The mesh port, UDP and TCP.
    pub(super) mesh: SocketAddr,
    /// Where others reach it, if `mesh` does not say so.
    pub(super) advertise: Option<IpAddr>,
    pub(super) admin: SocketAddr,
    /// Where Prometheus scrapes it.
    pub(super) metrics: SocketAddr,
    /// The HTTP proxy port.
    pub(super) outbound: SocketAddr,
    /// Where the sample service listens.
    pub(super) target: SocketAddr,
    /// Configuration, state and socket in a directory of its own; none means where a machine has them.
    pub(super) dir: Option<PathBuf>,
}

impl Machine {
    /// A machine on a loopback address of its own.
    pub(super) fn on_loopback(app: App, ip: Ipv4Addr, offset: u16, dir: PathBuf) -> Self {
        let at = |port| SocketAddr::new(IpAddr::V4(ip), port + offset);
        Self {
            app,
            mesh: at(15008),
            advertise: None,
            admin: at(15000),
            metrics: at(15020),
            outbound: at(15001),
            target: at(PORT),
            dir: Some(dir),
        }
    }

    /// A container, which has its ports for itself.
    pub(super) fn in_container(app: App, advertise: IpAddr) -> Self {
        let local = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        let everywhere = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port);
        Self {
            app,
            mesh: everywhere(15008),
            advertise: Some(advertise),
            admin: local(15000),
            metrics: everywhere(15020),
            outbound: local(15001),
            target: local(PORT),
            dir: None,
        }
    }

    /// The node's name.
    pub(super) fn name(&self) -> &'static str {
        self.app.name()
    }

    /// `NAMESPACE/NAME` of its service.
    pub(super) fn service(&self) -> String {
        format!("default/{}", self.app.service())
    }

    /// What an operator grants it: `NAMESPACE/NAME=ACCOUNT`.
    pub(super) fn grant(&self) -> String {
        format!("{}=bookinfo-{}", self.service(), self.app.service())
    }

    /// Its control socket.
    pub(super) fn socket(&self) -> PathBuf {
        self.dir.as_deref().unwrap_or(Path::new("/run/skein")).join("agent.sock")
    }

    /// Its configuration file.
    pub(super) fn config_file(&self) -> PathBuf {
        self.dir.as_deref().unwrap_or(Path::new("/etc/skein")).join("skein.toml")
    }

    /// Where it keeps its keys and what it knows.
    pub(super) fn data_dir(&self) -> PathBuf {
        self.dir.as_deref().map_or_else(|| PathBuf::from("/var/lib/skein"), |dir| dir.join("data"))
    }

    /// The text of its `skein.toml`.
    pub(super) fn config(&self) -> String {
        let (service, version) = (self.app.service(), self.app.version());
        let mut text = String::new();
        let mut put = |line: std::fmt::Arguments<'_>| writeln!(text, "{line}").expect("a String takes all");
        put(format_args!("[node]\nname = {:?}\ntrust_domain = {TRUST_DOMAIN:?}", self.name()));
        put(format_args!("data_dir = {:?}", self.data_dir()));
        put(format_args!("[runtime]\nworkers = 2\ndrain = \"2s\"\n[mesh]\nlisten = \"{}\"", self.mesh));
        if let Some(ip) = self.advertise {
            put(format_args!("advertise = \"{}\"", SocketAddr::new(ip, self.mesh.port())));
        }
        put(format_args!("[admin]\nlisten = \"{}\"\nsocket = {:?}", self.admin, self.socket()));
        put(format_args!("[metrics]\nlisten = \"{}\"", self.metrics));
        put(format_args!("[[outbound]]\nhttp = \"{}\"\nas = {:?}", self.outbound, self.service()));
        put(format_args!("[[service]]\nname = {service:?}\nnamespace = \"default\"\naccount = \"bookinfo-{service}\""));
        put(format_args!("labels = {{ app = {service:?}, version = {version:?} }}"));
        let target = self.target;
        put(format_args!("ports = [{{ name = \"http\", port = {PORT}, protocol = \"http\", target = \"{target}\" }}]"));
        put(format_args!("check = {{ http = \"/health\", interval = \"1s\" }}"));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_toml_with_the_designs_keys() {
        let machine = Machine::in_container(App::ALL[3], IpAddr::V4(Ipv4Addr::new(10, 0, 0, 5)));
        let config: toml::Table = machine.config().parse().expect("TOML");
        assert_eq!(config["node"]["name"].as_str(), Some("reviews-v2"));
        assert_eq!(config["mesh"]["advertise"].as_str(), Some("10.0.0.5:15008"));
        assert_eq!(config["metrics"]["listen"].as_str(), Some("0.0.0.0:15020"));
        assert_eq!(config["service"][0]["labels"]["version"].as_str(), Some("v2"));
        assert_eq!(config["service"][0]["ports"][0]["port"].as_integer(), Some(9080));
        assert_eq!(machine.grant(), "default/reviews=bookinfo-reviews");
    }
}
