//! The running demonstration: on each machine a sample service and the node beside it, all processes of their own.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::future::try_join_all;
use nix::sys::signal::Signal;
use serde_json::json;

use super::client::Client;
use super::machine::{FOUNDER, Machine, TRUST_DOMAIN};
use super::place::{self, Place};
use super::process::{self, Process};
use super::skein::Skein;
use super::watch::Watcher;

/// How long nodes may take to end before they are made to.
const END: Duration = Duration::from_secs(4);

/// Our own YAML, with the content of Istio's samples.
const POLICIES: [(&str, &str); 6] = [
    ("destination-rule-all.yaml", include_str!("policies/destination-rule-all.yaml")),
    ("virtual-service-all-v1.yaml", include_str!("policies/virtual-service-all-v1.yaml")),
    ("virtual-service-reviews-test-v2.yaml", include_str!("policies/virtual-service-reviews-test-v2.yaml")),
    ("virtual-service-reviews-50-v3.yaml", include_str!("policies/virtual-service-reviews-50-v3.yaml")),
    ("virtual-service-reviews-80-20.yaml", include_str!("policies/virtual-service-reviews-80-20.yaml")),
    ("virtual-service-reviews-v3.yaml", include_str!("policies/virtual-service-reviews-v3.yaml")),
];

/// Everything that runs.
#[derive(Debug)]
pub(super) struct Cluster {
    // Dropped first: processes end before their files go.
    nodes: Vec<Process>,
    apps: Vec<Process>,
    place: Place,
    pub(super) skein: Skein,
    pub(super) watchers: Vec<Watcher>,
    /// To the proxy port beside the product page.
    pub(super) client: Client,
}

impl Cluster {
    /// A place with everything that lies in it, and nothing running.
    ///
    /// # Errors
    /// The disk.
    pub(super) fn new(place: Place) -> anyhow::Result<Self> {
        let skein = Skein::new(place.operator())?;
        for (name, text) in POLICIES {
            std::fs::write(place.dir().join("policies").join(name), text)
                .with_context(|| format!("cannot write {name}"))?;
        }
        for machine in &place.machines {
            machine.dir.as_deref().map_or(Ok(()), place::private_dir)?;
            let file = machine.config_file();
            std::fs::write(&file, machine.config()).with_context(|| format!("cannot write {}", file.display()))?;
        }
        let watchers = place.machines.iter().map(Watcher::new).collect();
        let client = Client::new(place.machines[0].outbound);
        Ok(Self { place, skein, watchers, client, nodes: Vec::new(), apps: Vec::new() })
    }

    /// The machines, the founder first.
    pub(super) fn machines(&self) -> &[Machine] {
        &self.place.machines
    }

    /// The file of one of the policies.
    pub(super) fn policy(&self, name: &str) -> PathBuf {
        self.place.dir().join("policies").join(name)
    }

    /// Where operators reach a node: its mesh port.
    pub(super) fn at(&self, name: &str) -> String {
        let machine = self.machines().iter().find(|machine| machine.name() == name);
        machine.map(|machine| machine.mesh.to_string()).unwrap_or_default()
    }

    /// All watchers.
    pub(super) fn all(&self) -> Vec<&Watcher> {
        self.watchers.iter().collect()
    }

    /// All watchers but the one of `name`.
    pub(super) fn all_but(&self, name: &str) -> Vec<&Watcher> {
        self.watchers.iter().filter(|watcher| watcher.name != name).collect()
    }

    /// Starts the sample services.
    ///
    /// # Errors
    /// One does not start.
    pub(super) async fn start_apps(&mut self) -> anyhow::Result<()> {
        for number in 0..self.machines().len() {
            self.start_app(number)?;
        }
        for app in &mut self.apps {
            app.ready().await?;
        }
        Ok(())
    }

    /// Founds the mesh and runs its first node.
    ///
    /// # Errors
    /// `init` refuses, or the node does not start.
    pub(super) async fn found(&mut self) -> anyhow::Result<()> {
        self.skein.init(TRUST_DOMAIN, &self.place.machines[0]).await?;
        self.start_node(0)?;
        self.nodes[0].ready().await.map(drop)
    }

    /// Invites the others and makes them members; none runs yet.
    ///
    /// # Errors
    /// `invite` or `join` refuses.
    pub(super) async fn enrol(&self) -> anyhow::Result<()> {
        let founder = self.at(FOUNDER.name());
        let enrol = |machine| {
            let founder = &founder;
            async move {
                let invitation = self.skein.invite(machine, founder).await?;
                self.skein.join(machine, &invitation.token).await
            }
        };
        try_join_all(self.machines()[1..].iter().map(enrol)).await.map(drop)
    }

    /// Runs the nodes that have joined.
    ///
    /// # Errors
    /// One does not start.
    pub(super) fn start_others(&mut self) -> anyhow::Result<()> {
        (1..self.machines().len()).try_for_each(|number| self.start_node(number))
    }

    /// Waits until the nodes that have joined say that they are ready.
    ///
    /// # Errors
    /// One does not.
    pub(super) async fn others_ready(&mut self) -> anyhow::Result<()> {
        for node in &mut self.nodes[1..] {
            node.ready().await?;
        }
        Ok(())
    }

    fn start_node(&mut self, number: usize) -> anyhow::Result<()> {
        let machine = &self.place.machines[number];
        let mut command = process::command(self.skein.program());
        command.arg("run").arg("--config").arg(machine.config_file());
        let node = Process::start(machine.name(), command, self.place.log(machine.name()))?;
        self.place.ledger.add(&node.name, node.pid)?;
        self.nodes.push(node);
        Ok(())
    }

    fn start_app(&mut self, number: usize) -> anyhow::Result<()> {
        let machine = &self.place.machines[number];
        let name = format!("{}-app", machine.name());
        let mut command = process::command(self.skein.program());
        command.args(["demo", "app", machine.name()]);
        command.args(["--listen", &machine.target.to_string(), "--proxy", &machine.outbound.to_string()]);
        let app = Process::start(&name, command, self.place.log(&name))?;
        self.place.ledger.add(&name, app.pid)?;
        self.apps.push(app);
        Ok(())
    }

    /// Kills a machine, node and sample service, as a power cut would.
    pub(super) fn kill(&self, name: &str) {
        for process in self.nodes.iter().chain(&self.apps).filter(|process| belongs(process, name)) {
            process.signal(Signal::SIGKILL);
        }
    }

    /// Brings a killed machine back.
    ///
    /// # Errors
    /// It does not start.
    pub(super) async fn bring_back(&mut self, name: &str) -> anyhow::Result<()> {
        for process in self.nodes.iter_mut().chain(&mut self.apps).filter(|process| belongs(process, name)) {
            process.ended().await?;
        }
        self.nodes.retain(|process| !belongs(process, name));
        self.apps.retain(|process| !belongs(process, name));
        let number = self.machines().iter().position(|machine| machine.name() == name);
        let number = number.with_context(|| format!("there is no machine {name}"))?;
        self.start_app(number)?;
        self.start_node(number)?;
        for process in self.nodes.iter_mut().chain(&mut self.apps).filter(|process| belongs(process, name)) {
            process.ready().await?;
        }
        Ok(())
    }

    /// What processes ended by themselves, and how; each is told once.
    pub(super) fn ended(&mut self) -> Vec<String> {
        let mut ended = Vec::new();
        for processes in [&mut self.nodes, &mut self.apps] {
            processes.retain_mut(|process| {
                let end = process.end();
                ended.extend(end.iter().map(|end| format!("{} {end}", process.name)));
                end.is_none()
            });
        }
        ended
    }

    /// Process id of a node that runs.
    pub(super) fn pid(&self, name: &str) -> Option<u32> {
        self.nodes.iter().find(|node| node.name == name).map(|node| node.pid)
    }

    /// What a program needs to use the mesh: one line.
    pub(super) fn handle(&self) -> String {
        let node = |machine: &Machine| {
            json!({
                "name": machine.name(),
                "pid": self.pid(machine.name()),
                "socket": machine.socket(),
                "admin": machine.admin,
                "mesh": machine.mesh,
                "outbound": machine.outbound,
                "services": [machine.service()],
            })
        };
        let nodes: Vec<_> = self.machines().iter().map(node).collect();
        json!({"operator_dir": self.place.operator(), "nodes": nodes}).to_string()
    }

    /// Ends all processes, nodes first, and removes all files; gives the directory of the logs if those are kept.
    ///
    /// # Errors
    /// Files that cannot be removed.
    pub(super) async fn end(mut self, keep_logs: bool) -> anyhow::Result<Option<PathBuf>> {
        process::end_all(&mut self.nodes, END).await;
        process::end_all(&mut self.apps, END).await;
        let dir = self.place.dir().display().to_string();
        self.place.clean(keep_logs).with_context(|| format!("cannot remove {dir}"))
    }
}

/// Whether a process is the node of the machine `name`, or its sample service.
fn belongs(process: &Process, name: &str) -> bool {
    process.name.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest == "-app")
}
