//! A mesh of real `skein run` processes, made as its README makes one: init, invite, join, run.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    PATIENCE,
    backend::Backend,
    configuration::configuration,
    eventually_within,
    net::Net,
    process::{Output, Running, Skein},
};

/// The mesh's name in all tests.
pub const TRUST_DOMAIN: &str = "test.example";

/// The port of every test service.
pub const SERVICE_PORT: u16 = 9080;

/// One service of a node, with the application behind it.
#[derive(Debug, Clone, Default)]
pub struct Service {
    /// `NAMESPACE/NAME`.
    pub name: String,
    /// Labels.
    pub labels: Vec<(String, String)>,
    /// Account, `default` if empty.
    pub account: String,
    /// The WorkloadGroup that it names, if any; with one `account` is granted and not written.
    pub group: String,
    /// A pure client: no port, no application.
    pub client: bool,
    /// A `check` table in TOML; empty means none, which is TCP.
    pub check: String,
    /// More than one on a node is told apart by it.
    pub instance: String,
    /// Its ports, all with the one application behind them; none means [`SERVICE_PORT`].
    pub ports: Vec<u16>,
    /// An application of the test's own; none is a recording backend.
    pub target: Option<SocketAddr>,
    /// What its ports speak; empty means HTTP.
    pub protocol: String,
    /// The test's own application listens at the node's address, at the numbers of the ports.
    pub own_ports: bool,
    /// The application is something of the node itself, at this port of its address.
    pub target_port: Option<u16>,
    /// Local users whose processes get its identity from the Workload API.
    pub uids: Vec<u32>,
    /// Callers outside the mesh come in, too: each port has one for them that is free.
    pub plaintext: bool,
}

impl Service {
    /// `NAMESPACE/NAME` with label `version`.
    pub fn version(name: &str, version: &str) -> Self {
        let app = name.rsplit('/').next().unwrap_or(name).to_owned();
        Self {
            name: name.to_owned(),
            labels: vec![("app".to_owned(), app), ("version".to_owned(), version.to_owned())],
            ..Self::default()
        }
    }

    /// A client identity without ports.
    pub fn client(name: &str) -> Self {
        Self { name: name.to_owned(), client: true, ..Self::default() }
    }

    fn granted(&self) -> String {
        if self.account.is_empty() { self.name.clone() } else { format!("{}={}", self.name, self.account) }
    }
}

/// What a test wants of a node.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Its services; the first one speaks at the outbound port.
    pub services: Vec<Service>,
    /// Further TOML at the end of skein.toml.
    pub extra: String,
    /// Further lines of `[runtime]`.
    pub runtime: String,
    /// Further lines of `[mesh]`.
    pub mesh: String,
    /// Further lines of `[gateway]`.
    pub gateway: String,
    /// Where the node is: `region/zone/subzone`.
    pub locality: String,
    /// Further variables of its environment.
    pub environment: Vec<(&'static str, String)>,
}

impl Plan {
    /// A node with these services.
    pub fn with(services: impl IntoIterator<Item = Service>) -> Self {
        Self { services: services.into_iter().collect(), ..Self::default() }
    }

    /// What the node must be granted; several endpoints of a service need one grant.
    fn granted(&self) -> BTreeSet<String> {
        self.services.iter().map(Service::granted).collect()
    }
}

/// One machine of the cluster, running or not.
#[derive(Debug)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its loopback address.
    pub ip: IpAddr,
    /// Its directory: skein.toml, data, agent.sock.
    pub dir: PathBuf,
    /// The process, while it runs.
    pub running: Option<Running>,
    /// Applications, in the order of the plan (clients left out).
    pub backends: Vec<Backend>,
    environment: Vec<(&'static str, String)>,
}

impl Node {
    /// The file that its commands are given with `--config`.
    pub fn config(&self) -> PathBuf {
        self.dir.join("skein.toml")
    }

    /// Its HTTP proxy port, as its ready line says.
    ///
    /// # Panics
    /// When the node does not run or has none.
    pub fn outbound(&self) -> SocketAddr {
        let ready = &self.running.as_ref().expect("the node runs").ready;
        ready["outbound"][0]["listen"]
            .as_str()
            .and_then(|text| text.parse().ok())
            .unwrap_or_else(|| panic!("no outbound in {ready}"))
    }

    /// The port that leads to one port of one service, or host, as its ready line says.
    ///
    /// # Panics
    /// When the node does not run or has none.
    pub fn upstream(&self, service: &str, port: u16) -> SocketAddr {
        let ready = &self.running().ready;
        let all = ready["upstream"].as_array().cloned().unwrap_or_default();
        let leads = |row: &&Value| (row["service"] == service || row["host"] == service) && row["port"] == port;
        let found = all.iter().find(leads);
        let listen = found.and_then(|row| row["listen"].as_str()?.parse().ok());
        listen.unwrap_or_else(|| panic!("no upstream to {service} {port} in {ready}"))
    }

    /// Where callers outside the mesh reach a port of one service, as its ready line says.
    ///
    /// # Panics
    /// When the node does not run or has none.
    pub fn plaintext(&self, service: &str, port: u16) -> SocketAddr {
        let ready = &self.running().ready;
        let all = ready["plaintext"].as_array().cloned().unwrap_or_default();
        let found = all.iter().find(|row| row["service"] == service && row["port"] == port);
        let listen = found.and_then(|row| row["listen"].as_str()?.parse().ok());
        listen.unwrap_or_else(|| panic!("no plaintext of {service} {port} in {ready}"))
    }

    /// Any address of the ready line: `mesh`, `admin`.
    ///
    /// # Panics
    /// When the node does not run or has none.
    pub fn address(&self, field: &str) -> SocketAddr {
        let ready = &self.running.as_ref().expect("the node runs").ready;
        ready[field].as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("no {field} in {ready}"))
    }

    /// What it has written to standard output since it was ready.
    pub fn output(&self) -> Vec<String> {
        self.running().output()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.running().pid()
    }

    fn running(&self) -> &Running {
        self.running.as_ref().expect("the node runs")
    }

    /// Resident memory in bytes.
    pub fn resident(&self) -> u64 {
        self.running().resident()
    }
}

/// The mesh.
#[derive(Debug)]
pub struct Cluster {
    skein: Skein,
    dir: TempDir,
    net: Net,
    /// Its nodes by name.
    pub nodes: BTreeMap<String, Node>,
    /// The name of the first node, which is the enroller.
    pub first: String,
    /// How far ahead of the machine's clock nodes and commands begun from now on live: `40d`; empty for none.
    pub clock_offset: String,
}

impl Cluster {
    /// A mesh of one node, not yet running.
    ///
    /// # Panics
    /// When `init` fails.
    pub fn new(skein: Skein, first: &str, plan: &Plan) -> Self {
        let dir = tempfile::Builder::new().prefix("skein-").tempdir().expect("a temporary directory");
        let mut cluster = Self {
            skein,
            dir,
            net: Net::reserve(),
            nodes: BTreeMap::new(),
            first: first.to_owned(),
            clock_offset: String::new(),
        };
        cluster.prepare(first, plan);
        let mut words = vec!["init".to_owned(), TRUST_DOMAIN.to_owned(), "--name".to_owned(), first.to_owned()];
        for service in plan.granted() {
            words.extend(["--service".to_owned(), service]);
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        cluster.on(first, &words).expect_code(0);
        cluster
    }

    /// A running mesh: the plans in order, the first one inits.
    ///
    /// # Panics
    /// When any step fails.
    pub fn start(skein: Skein, plans: &[(&str, Plan)]) -> Self {
        let (first, plan) = plans.first().expect("at least one node");
        let mut cluster = Self::new(skein, first, plan);
        cluster.run(first);
        for (name, plan) in &plans[1..] {
            cluster.join(name, plan);
            cluster.run(name);
        }
        cluster
    }

    /// The operator's directory.
    pub fn operator(&self) -> PathBuf {
        self.dir.path().join("operator")
    }

    /// The directory of everything.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a file into the cluster's directory.
    ///
    /// # Panics
    /// When the disk is full.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).expect("the temporary directory is writable");
        path
    }

    fn prepare(&mut self, name: &str, plan: &Plan) {
        let octet = u8::try_from(self.nodes.len() + 1).expect("a small cluster");
        let ip = IpAddr::V4(self.net.address(octet));
        let dir = self.dir.path().join(name);
        std::fs::create_dir_all(dir.join("data")).expect("the temporary directory is writable");
        std::fs::set_permissions(dir.join("data"), std::os::unix::fs::PermissionsExt::from_mode(0o700))
            .expect("it is ours");
        let mut backends = Vec::new();
        let text = configuration(name, ip, &dir, plan, &mut backends);
        std::fs::write(dir.join("skein.toml"), text).expect("the temporary directory is writable");
        let environment = plan.environment.clone();
        let node = Node { name: name.to_owned(), ip, dir, running: None, backends, environment };
        self.nodes.insert(name.to_owned(), node);
    }

    /// A token for `name`, made at the enroller.
    ///
    /// # Panics
    /// When `invite` fails.
    pub fn invite(&self, name: &str, plan: &Plan, more: &[&str]) -> String {
        let mut words = vec!["invite".to_owned(), name.to_owned()];
        for service in plan.granted() {
            words.extend(["--service".to_owned(), service]);
        }
        if plan.services.is_empty() {
            words.push("--no-service".to_owned());
        }
        words.extend(more.iter().map(|word| (*word).to_owned()));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.on(&self.first, &words).expect_code(0).out.trim().to_owned()
    }

    /// Invites and joins, and starts nothing.
    ///
    /// # Panics
    /// When either fails.
    pub fn join(&mut self, name: &str, plan: &Plan) {
        let token = self.invite(name, plan, &[]);
        self.prepare(name, plan);
        self.join_with(name, &token).expect_code(0);
    }

    /// Prepares the directory of a node that a test joins by hand.
    pub fn prepare_only(&mut self, name: &str, plan: &Plan) {
        self.prepare(name, plan);
    }

    /// `join --token-file` on a prepared node.
    pub fn join_with(&self, name: &str, token: &str) -> Output {
        let file = self.file(&format!("{name}.token"), token);
        self.on(name, &["join", "--token-file", &file.to_string_lossy()])
    }

    /// Starts a node and waits until it is ready.
    ///
    /// # Panics
    /// When it does not become ready.
    pub fn run(&mut self, name: &str) {
        self.try_run(name).unwrap_or_else(|error| panic!("{name}: {error}\n{}", self.log(name)));
    }

    /// Starts a node.
    ///
    /// # Errors
    /// It did not become ready.
    pub fn try_run(&mut self, name: &str) -> Result<(), String> {
        let log = self.nodes[name].dir.join("log");
        let log = std::fs::OpenOptions::new().create(true).append(true).open(log).map_err(|error| error.to_string())?;
        self.try_run_into(name, log)
    }

    /// Starts a node whose standard error goes elsewhere than into its log.
    ///
    /// # Errors
    /// It did not become ready.
    pub fn try_run_into(&mut self, name: &str, stderr: std::fs::File) -> Result<(), String> {
        let mut command = self.command(name);
        command.arg("run").stderr(stderr).envs(self.nodes[name].environment.iter().cloned());
        let running = Running::start(command, PATIENCE)?;
        self.node_mut(name).running = Some(running);
        Ok(())
    }

    /// What a node has logged so far.
    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.nodes[name].dir.join("log")).unwrap_or_default()
    }

    /// SIGKILL.
    pub fn kill(&mut self, name: &str) {
        if let Some(running) = self.node_mut(name).running.take() {
            running.kill();
        }
    }

    /// SIGTERM, and waits for the end.
    pub fn terminate(&mut self, name: &str) -> Option<std::process::ExitStatus> {
        self.node_mut(name).running.take().map(Running::terminate)
    }

    /// A node that must exist.
    ///
    /// # Panics
    /// When it does not.
    pub fn node(&self, name: &str) -> &Node {
        &self.nodes[name]
    }

    /// The same, e.g. to end its applications.
    ///
    /// # Panics
    /// When there is none of that name.
    pub fn node_mut(&mut self, name: &str) -> &mut Node {
        self.nodes.get_mut(name).expect("the node was prepared")
    }

    /// A command of `skein` on a node, as its operator, to be given words.
    pub fn command(&self, name: &str) -> std::process::Command {
        let mut command = self.skein.command();
        command
            .arg("--config")
            .arg(self.nodes[name].config())
            .env("SKEIN_OPERATOR", self.operator())
            .env("NO_COLOR", "1")
            .env("HOME", self.dir.path());
        if !self.clock_offset.is_empty() {
            command.env("SKEIN_CLOCK_OFFSET", &self.clock_offset);
        }
        command
    }

    /// Runs a command of `skein` on a node, as its operator.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn on(&self, name: &str, words: &[&str]) -> Output {
        let output = self.command(name).args(words).output().expect("skein can be started");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Output { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
    }

    /// A command with `-o json` that must succeed.
    ///
    /// # Panics
    /// When it fails.
    pub fn json(&self, name: &str, words: &[&str]) -> Value {
        let mut all = words.to_vec();
        all.extend(["-o", "json"]);
        self.on(name, &all).expect_code(0).json()
    }

    /// Pushes text at a node; `more` are further flags.
    pub fn push(&self, name: &str, text: &str, more: &[&str]) -> Output {
        static FILES: AtomicU16 = AtomicU16::new(0);
        let file = self.file(&format!("push-{}.yaml", FILES.fetch_add(1, Ordering::Relaxed)), text);
        let file = file.to_string_lossy().into_owned();
        let mut words = vec!["policy", "push", &file, "-o", "json"];
        words.extend(more);
        self.on(name, &words)
    }

    /// Waits until every running node sees `count` healthy endpoints of `service`.
    ///
    /// # Panics
    /// When one does not within [`PATIENCE`].
    pub fn wait_endpoints(&self, service: &str, count: usize) {
        for name in self.running() {
            eventually_within(&format!("{name} sees {count} of {service}"), PATIENCE, || {
                let seen = self.healthy(name, service);
                if seen == count { Ok(()) } else { Err(format!("{seen} seen")) }
            });
        }
    }

    /// Healthy endpoints of a service as one node sees them.
    pub fn healthy(&self, name: &str, service: &str) -> usize {
        let endpoints = self.json(name, &["endpoints"]);
        let endpoints = endpoints.as_array().cloned().unwrap_or_default();
        let of = |endpoint: &&Value| {
            let full = format!(
                "{}/{}",
                endpoint["namespace"].as_str().unwrap_or(""),
                endpoint["service"].as_str().unwrap_or("")
            );
            (endpoint["service"] == service || full == service) && endpoint["health"] == "healthy"
        };
        endpoints.iter().filter(of).count()
    }

    /// Members alive as one node sees them.
    pub fn alive(&self, name: &str) -> usize {
        let members = self.json(name, &["members"]);
        members.as_array().map_or(0, |members| members.iter().filter(|member| member["state"] == "alive").count())
    }

    /// Names of the nodes that run.
    pub fn running(&self) -> Vec<&str> {
        self.nodes.values().filter(|node| node.running.is_some()).map(|node| node.name.as_str()).collect()
    }

    /// Waits until every running node sees all running nodes alive.
    ///
    /// # Panics
    /// When one does not within `patience`.
    pub fn wait_members(&self, patience: Duration) {
        let running = self.running();
        for name in &running {
            eventually_within(&format!("{name} sees {} members", running.len()), patience, || {
                let seen = self.alive(name);
                if seen == running.len() { Ok(()) } else { Err(format!("{seen} seen")) }
            });
        }
    }
}
