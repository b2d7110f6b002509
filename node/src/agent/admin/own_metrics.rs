//! What a node tells scrapers of itself: `skein_*`, and the process metrics that every exporter has.

use std::{
    fs,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use certs::{ca::life, codec::Millis, id::NodeId};
use membership::view::MemberState;
use nix::unistd::{SysconfVar, sysconf};

use super::{
    Admin, api,
    members::{QUARANTINED, word},
};
use crate::{
    mesh::{
        Counters, Limit, MAX_DATA_CONNECTIONS,
        occupancy::{Connected, Occupancy},
    },
    telemetry::{Kind, Sample, Telemetry},
};

type Labels = Vec<(&'static str, String)>;

/// Services of which endpoints are told; of a mesh with more, those first by name.
const SERVICES: usize = 2_000;

impl Admin {
    /// Registers everything; what is asked for is reckoned at each scrape.
    pub(super) fn register(&self) {
        // What is registered belongs to the telemetry: with a hold on that it would hold itself, and the store would never close.
        let told = Self { telemetry: Telemetry::new(1), ..self.clone() };
        let into = Registrar { telemetry: &self.telemetry, told: &told };
        into.mesh();
        into.connections();
        into.mesh_port();
        into.trust();
        into.node();
        into.process();
    }
}

/// Where metrics are registered, and of whom.
struct Registrar<'a> {
    telemetry: &'a Telemetry,
    told: &'a Admin,
}

impl Registrar<'_> {
    fn collect(&self, name: &'static str, help: &'static str, kind: Kind, samples: fn(&Admin) -> Vec<Sample>) {
        let admin = self.told.clone();
        self.telemetry.collect(name, help, kind, move || samples(&admin));
    }

    fn mesh(&self) {
        self.collect("skein_members", "Nodes by state, as this node sees them", Kind::Gauge, members);
        self.collect("skein_members_expected", "Nodes granted and neither evicted nor retired", Kind::Gauge, |admin| {
            one(admin.status().members.expected as f64)
        });
        self.collect("skein_problems", "What status finds wrong", Kind::Gauge, problems);
        self.collect("skein_endpoints", "Endpoints by service and health", Kind::Gauge, endpoints);
        self.collect("skein_policy_info", "Digest of the policy in effect", Kind::Gauge, |admin| {
            vec![sample(vec![("digest", admin.agent.state().digest.to_string())], 1.0)]
        });
        self.collect("skein_policy_documents", "Documents in effect by kind", Kind::Gauge, documents);
        self.collect(
            "skein_policy_stale_nodes",
            "Alive nodes that hold another set of changesets",
            Kind::Gauge,
            |admin| one(admin.status().policy.stale.len() as f64),
        );
        self.collect("skein_policy_conflicts", "Conflicts that an operator should settle", Kind::Gauge, |admin| {
            one(admin.agent.state().conflicts.len() as f64)
        });
        let help = "From the arrival of a changeset to the snapshot that requests follow";
        self.telemetry.histogram("skein_policy_apply_seconds", help, self.told.agent.apply_latency());
        self.collect("skein_links", "Open links with other nodes", Kind::Gauge, |admin| {
            one(admin.agent.linked() as f64)
        });
        self.collect("skein_membership_waiting", "What waits for the membership engine", Kind::Gauge, |admin| {
            one(admin.agent.waiting() as f64)
        });
        self.collect("skein_events_total", "Events noted by kind", Kind::Counter, |admin| {
            let row = |(kind, count): (&str, u64)| sample(vec![("kind", kind.to_owned())], count as f64);
            admin.agent.event_counts().into_iter().map(row).collect()
        });
    }

    fn connections(&self) {
        let help = "Connections with other nodes by conversation, direction and transport";
        self.collect("skein_mesh_connections", help, Kind::Gauge, connected);
        let help = "Data connections that this node dials at most";
        self.collect("skein_mesh_connections_limit", help, Kind::Gauge, |_| one(MAX_DATA_CONNECTIONS as f64));
        let help = "Requests under way on connections to other nodes";
        self.collect("skein_mesh_requests", help, Kind::Gauge, |admin| occupied(admin, |of| of.requests));
        let help = "Requests and connections of applications that wait for room on connections to other nodes";
        self.collect("skein_mesh_requests_waiting", help, Kind::Gauge, |admin| occupied(admin, |of| of.waiting));
        let help = "Streams open on QUIC connections to other nodes; a TCP connection carries one";
        self.collect("skein_mesh_streams", help, Kind::Gauge, |admin| occupied(admin, |of| of.streams));
    }

    /// What happened on the mesh port: both what this node asks for there and what it is asked for.
    fn mesh_port(&self) {
        let help = "Connections to other nodes that this node dialled, by transport, or in vain";
        self.collect("skein_mesh_dials_total", help, Kind::Counter, dials);
        let help =
            "Requests and connections of applications that met a limit of this node on their way to another (UO)";
        self.collect("skein_mesh_overflows_total", help, Kind::Counter, overflows);
        let help = "Dials after which TCP goes first for a minute: it answered, and UDP did not";
        self.counter("skein_mesh_udp_blocked_total", help, |happened| &happened.udp_blocked);
        let help = "Connections of other nodes that were accepted";
        self.counter("skein_mesh_accepted_total", help, |happened| &happened.accepted);
        let help = "Handshakes at the mesh port that failed, or for which there was no room";
        self.counter("skein_mesh_handshake_failures_total", help, |happened| &happened.handshake_failures);
        let help = "First packets whose sender had to prove its address";
        self.counter("skein_mesh_address_proofs_total", help, |happened| &happened.retries);
        let help = "Streams and connections of other nodes that were refused unread: this node drains, or has no room";
        self.counter("skein_mesh_refusals_total", help, |happened| &happened.refused);
        let help = "Connections that this node had dialled and that went on by renewed certificates";
        self.counter("skein_mesh_renewed_connections_total", help, |happened| &happened.proven);
        let help = "Connections closed because a node was gone, a peer no longer counted, or a certificate ended";
        self.counter("skein_mesh_revoked_connections_total", help, |happened| &happened.revoked);
    }

    fn counter(&self, name: &'static str, help: &'static str, of: fn(&Counters) -> &AtomicU64) {
        let admin = self.told.clone();
        self.telemetry.collect(name, help, Kind::Counter, move || one(count(of(admin.agent.mesh_counters()))));
    }

    fn trust(&self) {
        self.collect(
            "skein_certificate_expiry_timestamp_seconds",
            "When certificates of this node end, Unix time",
            Kind::Gauge,
            expiries,
        );
        self.collect(
            "skein_certificate_life_seconds",
            "How long certificates of this node live from their issue on",
            Kind::Gauge,
            lives,
        );
        self.collect("skein_enrollers", "Enrollers alive", Kind::Gauge, |admin| {
            one(admin.status().certificates.enrollers as f64)
        });
        self.collect(
            "skein_clock_drift_seconds",
            "How far this machine's clock is ahead of peers'",
            Kind::Gauge,
            |admin| admin.agent.drift().map_or_else(Vec::new, |drift| one(drift.ahead as f64 / 1_000.0)),
        );
    }

    fn node(&self) {
        let help = "Whether identity, policy and listeners are there, and the node is not drained";
        self.collect("skein_ready", help, Kind::Gauge, |admin| one(f64::from(u8::from(admin.agent.ready()))));
        self.collect("skein_draining", "Whether this node takes no new requests", Kind::Gauge, |admin| {
            one(f64::from(u8::from(admin.agent.draining())))
        });
        self.collect("skein_rate_limit_requests_total", "Requests that met a rate limit", Kind::Counter, limited);
        let help = "Requests an interval that this node lets through of a rate limit";
        self.collect("skein_rate_limit_share", help, Kind::Gauge, |admin| {
            admin.limits().iter().map(|limit| sample(limit_labels(limit), limit.share)).collect()
        });
        self.collect("skein_task_panics_total", "Tasks that panicked", Kind::Counter, |admin| {
            let row = |(task, count): (&str, u64)| sample(vec![("task", task.to_owned())], count as f64);
            admin.tasks.panics().into_iter().map(row).collect()
        });
    }

    fn process(&self) {
        self.collect("process_resident_memory_bytes", "Resident memory", Kind::Gauge, |admin| {
            one(admin.status().memory_bytes as f64)
        });
        self.collect("process_start_time_seconds", "When the process started, Unix time", Kind::Gauge, |admin| {
            one(seconds(admin.agent.started()))
        });
        self.collect("process_cpu_seconds_total", "User and system time spent", Kind::Counter, |_| {
            cpu_seconds().map_or_else(Vec::new, one)
        });
        self.collect("process_open_fds", "Open file descriptors", Kind::Gauge, |_| {
            fs::read_dir("/proc/self/fd").map_or_else(|_| Vec::new(), |open| one(open.count() as f64))
        });
        self.collect("process_max_fds", "File descriptors that may be open", Kind::Gauge, |_| {
            let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE);
            limit.map_or_else(|_| Vec::new(), |(soft, _)| one(soft as f64))
        });
    }
}

fn sample(labels: Labels, value: f64) -> Sample {
    Sample { labels, value }
}

fn one(value: f64) -> Vec<Sample> {
    vec![sample(Vec::new(), value)]
}

fn seconds(time: Millis) -> f64 {
    time as f64 / 1_000.0
}

/// Every state, so that one that nobody is in is 0 and not absent.
fn members(admin: &Admin) -> Vec<Sample> {
    let view = admin.agent.view();
    let states = [MemberState::Alive, MemberState::Suspect, MemberState::Dead, MemberState::Left, MemberState::Evicted];
    let count = |state| view.members().values().filter(|member| member.state == state).count();
    let row = |word: &str, count: usize| sample(vec![("state", word.to_owned())], count as f64);
    let quarantined = row(QUARANTINED, view.quarantined().len());
    states.into_iter().map(|state| row(word(state), count(state))).chain([quarantined]).collect()
}

fn problems(admin: &Admin) -> Vec<Sample> {
    let mut counts = std::collections::BTreeMap::new();
    for problem in admin.status().problems {
        let severity = if problem.severity == api::Health::Critical { "critical" } else { "degraded" };
        *counts.entry((problem.code, severity)).or_insert(0_u32) += 1;
    }
    let row = |((code, severity), count): ((String, &str), u32)| {
        sample(vec![("code", code), ("severity", severity.to_owned())], f64::from(count))
    };
    counts.into_iter().map(row).collect()
}

fn connected(admin: &Admin) -> Vec<Sample> {
    let row = |(of, count): (Connected, usize)| {
        let words = [("conversation", of.conversation), ("direction", of.direction), ("transport", of.transport)];
        let labels =
            [("peer", of.peer.to_string())].into_iter().chain(words.map(|(name, word)| (name, word.to_owned())));
        sample(labels.collect(), count as f64)
    };
    admin.agent.connected().into_iter().map(row).collect()
}

fn count(counter: &AtomicU64) -> f64 {
    counter.load(Relaxed) as f64
}

fn dials(admin: &Admin) -> Vec<Sample> {
    let happened = admin.agent.mesh_counters();
    let results =
        [("quic", &happened.dialled_quic), ("tcp", &happened.dialled_tcp), ("failed", &happened.dial_failures)];
    results.map(|(result, counter)| sample(vec![("result", result.to_owned())], count(counter))).to_vec()
}

fn overflows(admin: &Admin) -> Vec<Sample> {
    let happened = admin.agent.mesh_counters();
    let row = |limit: Limit| sample(vec![("limit", limit.word().to_owned())], count(happened.overflows(limit)));
    Limit::ALL.map(row).to_vec()
}

fn occupied(admin: &Admin, of: fn(&Occupancy) -> usize) -> Vec<Sample> {
    let row = |(peer, occupancy): (NodeId, Occupancy)| sample(vec![("peer", peer.to_string())], of(&occupancy) as f64);
    admin.agent.occupancy().into_iter().map(row).collect()
}

fn endpoints(admin: &Admin) -> Vec<Sample> {
    let services = admin.services(None).unwrap_or_default();
    let rows = |service: &api::Service| {
        let name = format!("{}/{}", service.namespace, service.name);
        let row = |health: &str, count: usize| {
            sample(vec![("service", name.clone()), ("health", health.to_owned())], count as f64)
        };
        [row("healthy", service.healthy), row("unhealthy", service.endpoints - service.healthy)]
    };
    services.iter().filter(|service| !service.ports.is_empty()).take(SERVICES).flat_map(rows).collect()
}

fn documents(admin: &Admin) -> Vec<Sample> {
    let mut counts = std::collections::BTreeMap::new();
    for (id, _) in admin.agent.state().effective() {
        *counts.entry(id.kind.to_string()).or_insert(0_u32) += 1;
    }
    counts.into_iter().map(|(kind, count)| sample(vec![("kind", kind)], f64::from(count))).collect()
}

fn expiries(admin: &Admin) -> Vec<Sample> {
    let identity = admin.agent.identity();
    let leaf = identity.leafs.iter().map(|leaf| leaf.not_after).min();
    let root = admin.agent.state().trust().issuing().filter_map(|root| certs::root::ends(root)).max();
    let ends =
        [("node_ca", Some(identity.ca_not_after)), ("leaf", leaf), ("enroller_ca", identity.enroller), ("root", root)];
    let row = |(name, end): (&str, Option<Millis>)| Some(sample(vec![("certificate", name.to_owned())], seconds(end?)));
    ends.into_iter().filter_map(row).collect()
}

/// Of the same certificates that [`expiries`] tells of, but for the root: that is nobody's to set.
fn lives(admin: &Admin) -> Vec<Sample> {
    let identity = admin.agent.identity();
    let leaf = identity.leafs.iter().min_by_key(|leaf| leaf.not_after);
    let lives = [
        ("node_ca", Some(life(identity.ca_not_before, identity.ca_not_after))),
        ("leaf", leaf.map(|leaf| life(leaf.not_before, leaf.not_after))),
        ("enroller_ca", identity.enroller_life),
    ];
    let row =
        |(name, life): (&str, Option<Millis>)| Some(sample(vec![("certificate", name.to_owned())], seconds(life?)));
    lives.into_iter().filter_map(row).collect()
}

fn limit_labels(limit: &api::Limit) -> Labels {
    vec![("service", limit.service.clone()), ("document", limit.document.clone()), ("rule", limit.rule.clone())]
}

fn limited(admin: &Admin) -> Vec<Sample> {
    let rows = |limit: &api::Limit| {
        [("admitted", limit.admitted), ("refused", limit.refused)].map(|(result, count)| {
            let mut labels = limit_labels(limit);
            labels.push(("result", result.to_owned()));
            sample(labels, count as f64)
        })
    };
    admin.limits().iter().flat_map(rows).collect()
}

/// User and system time of this process.
fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let ticks = ticks(&stat)?;
    let each = sysconf(SysconfVar::CLK_TCK).ok().flatten()?;
    Some(ticks as f64 / each as f64)
}

/// The 14th and 15th field of proc_pid_stat(5); the second, the program's name, may hold anything.
fn ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let (user, system) = (fields.next()?.parse::<u64>().ok()?, fields.next()?.parse::<u64>().ok()?);
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_read_beside_any_name() {
        let stat = "12 (a) b) c) S 1 2 3 4 5 6 7 8 9 10 400 200 0 0 20 0 1 0 100";
        assert_eq!(ticks(stat), Some(600));
        assert_eq!(ticks("12 (a"), None);
        assert!(cpu_seconds().is_some_and(|spent| spent >= 0.0));
    }
}
