//! What a node says: of itself, of trust, of the other nodes, of services.

use std::{collections::BTreeMap, time::Duration};

use certs::codec::Millis;

use super::finding::{Finding, Verdict, warn_unless};
use crate::{
    agent::admin::api::{Concerns, Health, Member, Mesh, Outlier, Ping, Problem, Service, Status, Traffic},
    cli::{
        client::{self, Client},
        context::Context,
        error::{Error, Result},
        look::span,
    },
    clock,
};

/// So many enrollers survive the loss of two.
const ENROLLERS: usize = 3;
/// Round trips above this are slow, milliseconds.
const SLOW: f64 = 250.0;
/// Nodes up to which every two have a link.
const DENSE: usize = 32;
/// Nodes that are asked on which path they are reached.
const PINGED: usize = 8;
/// Requests of a service below which a share of failures says nothing.
const FEW: u64 = 20;
/// Names that a sentence names.
const NAMED: usize = 5;

/// Which check a problem of `status` belongs to.
const PROBLEMS: &[(&str, &str)] = &[
    ("capture_ended", "node.capture"),
    ("certificate_", "trust.node_ca"),
    ("clock_", "clock.drift"),
    ("conflict", "mesh.conflicts"),
    ("draining", "node.draining"),
    ("endpoint_spared", "services.ejected"),
    ("enroller_", "trust.enroller_ca"),
    ("members_missing", "mesh.members"),
    ("mesh_nearly_full", "mesh.size"),
    ("no_enroller", "trust.enrollers"),
    ("not_granted", "configuration.granted"),
    ("not_reloaded", "node.reloaded"),
    ("policy_refused", "mesh.policy"),
    ("policy_stale", "mesh.policy"),
    ("refused", "node.refused"),
    ("role_set_conflict", "mesh.conflicts"),
    ("role_sets_large", "mesh.size"),
    ("root_", "trust.root"),
    ("storage_", "disk.space"),
    ("task_panicked", "node.tasks"),
    ("unhealthy_service", "services.local"),
    ("unreadable", "mesh.conflicts"),
    ("worker_stuck", "node.tasks"),
];

/// Everything that is asked.
#[derive(Debug, Clone)]
pub(super) struct Said {
    pub(super) status: Status,
    pub(super) mesh: Mesh,
    pub(super) members: Vec<Member>,
    pub(super) services: Vec<Service>,
    pub(super) outliers: Vec<Outlier>,
    pub(super) traffic: Traffic,
    pub(super) pings: Vec<Ping>,
    /// What other nodes say; not if the asked one is of a version that does not tell.
    pub(super) concerns: Result<Concerns>,
}

/// Asks a node, if one answers.
pub(super) async fn ask(ctx: &Context, expiring: Option<Duration>, findings: &mut Vec<Finding>) {
    match said(ctx).await {
        Ok(said) => {
            findings.push(Finding::fine("node.answers", format!("{} answers", said.status.node)));
            findings.extend(said.judge(env!("CARGO_PKG_VERSION"), clock::wall(), expiring));
        }
        Err(error) => findings.push(Finding::of("node.answers", Verdict::Error, &error)),
    }
}

async fn said(ctx: &Context) -> Result<Said> {
    let mut client = client::connect(ctx).await?;
    let members: Vec<Member> = client.get("/v1/members").await?;
    Ok(Said {
        status: client.get("/v1/status").await?,
        mesh: client.get("/v1/mesh").await?,
        services: client.get("/v1/services").await?,
        outliers: client.get("/v1/outliers").await?,
        traffic: client.get("/v1/traffic").await?,
        // A node of an earlier version knows no such question.
        concerns: match client.get("/v1/concerns").await {
            Err(error) if error.code != "not_found" => return Err(error),
            told => told,
        },
        pings: pings(&mut client, &members).await?,
        members,
    })
}

async fn pings(client: &mut Client, members: &[Member]) -> Result<Vec<Ping>> {
    let mut pings = Vec::new();
    for member in members.iter().filter(|member| member.state == "alive" && !member.own).take(PINGED) {
        pings.push(client.get(&format!("/v1/ping/{}", member.name)).await?);
    }
    Ok(pings)
}

impl Said {
    /// What is to be said of it; `version` is this program's.
    pub(super) fn judge(&self, version: &str, now: Millis, expiring: Option<Duration>) -> Vec<Finding> {
        let mut findings: Vec<Finding> = self.status.problems.iter().map(problem).collect();
        findings.extend(self.trust(now));
        findings.extend(expiring.map(|within| self.expiring(now, within)));
        findings.extend(self.nodes(version));
        findings.extend(self.served());
        findings.push(self.elsewhere());
        findings.push(warn_operators(self.mesh.keys.iter().filter(|key| !key.recovery).count()));
        // What nobody complains of is well.
        for id in PROBLEMS.iter().map(|(_, id)| *id).chain(["node.problems"]) {
            if !findings.iter().any(|finding| finding.id == id) {
                findings.push(Finding::fine(id, "nothing is wrong"));
            }
        }
        findings
    }

    /// What the mesh's trust hangs on.
    fn trust(&self, now: Millis) -> Vec<Finding> {
        let status = &self.status;
        let enrollers = status.certificates.enrollers;
        let message = format!("{enrollers} of the {ENROLLERS} enrollers that a mesh should have are alive");
        let mut findings = vec![warn_unless(enrollers >= ENROLLERS, "trust.enrollers", message)];
        if let Some(few) = findings.last_mut().filter(|few| few.verdict != Verdict::Ok) {
            "few_enrollers".clone_into(&mut few.code);
        }
        let phase = status.root.phase.as_str();
        findings.push(if matches!(phase, "" | "steady") {
            Finding::fine("trust.root_change", "the root stays")
        } else {
            let message = format!("the mesh goes from one root to the next: {phase}");
            Finding::amiss("trust.root_change", Verdict::Warning, message).coded("root_change")
        });
        if let Some(drift) = status.clock.drift_ms.filter(|drift| drift.unsigned_abs() <= status.clock.bound_ms) {
            let message = format!("{drift:+} ms beside the median of {} peers", status.clock.peers);
            findings.push(Finding::fine("clock.drift", message));
        }
        let (begins, ends) = (at(&status.certificates.node_ca_begins), at(&status.certificates.node_ca_expires));
        if begins.zip(ends).is_some_and(|(begins, ends)| now > begins.midpoint(ends)) {
            let message = format!("the node CA of {} is past half of its life", status.node);
            findings.push(Finding::amiss("trust.node_ca", Verdict::Warning, message).coded("certificate_half"));
        }
        let leaf = &status.certificates.leaf_expires;
        findings.push(if at(leaf).is_some_and(|ends| ends > now) {
            Finding::fine("trust.leaf", format!("the first leaf ends at {leaf}"))
        } else {
            Finding::amiss("trust.leaf", Verdict::Error, "the node has no certificate of its own that counts")
        });
        findings
    }

    /// What other nodes say of themselves and this one does not.
    fn elsewhere(&self) -> Finding {
        let (id, own) = ("mesh.problems", &self.status.node);
        let concerns = match &self.concerns {
            Ok(concerns) => concerns,
            Err(error) => return self.not_told(error),
        };
        let others: Vec<_> = concerns.problems.iter().filter(|problem| !problem.nodes.contains(own)).collect();
        let mut told: Vec<String> = others
            .iter()
            .take(NAMED)
            .map(|problem| format!("{}: {} [{}]", listed(&problem.nodes), problem.message, problem.code))
            .collect();
        let more = others.len().saturating_sub(NAMED);
        if more > 0 {
            told.push(format!("and {more} more"));
        }
        if !concerns.silent.is_empty() {
            told.push(format!("alive and silent when asked: {}", listed(&concerns.silent)));
        }
        if !concerns.other_version.is_empty() {
            told.push(format!("of another version, which cannot answer: {}", listed(&concerns.other_version)));
        }
        let unasked = match concerns.unasked {
            0 => String::new(),
            unasked => format!("; {unasked} more were not asked, of a mesh this large"),
        };
        if told.is_empty() {
            return Finding::fine(id, format!("{} nodes say that nothing is amiss{unasked}", concerns.heard.len()));
        }
        let is_critical = others.iter().any(|problem| problem.severity == Health::Critical);
        let verdict = if is_critical { Verdict::Error } else { Verdict::Warning };
        Finding::amiss(id, verdict, told.join("; ") + &unasked)
    }

    /// Why the asked node does not tell of the others: one of an earlier version knows no such question.
    fn not_told(&self, error: &Error) -> Finding {
        let own = &self.status.node;
        let version = self.members.iter().find(|member| member.own).map_or("", |member| member.version.as_str());
        let version = if version.is_empty() { String::new() } else { format!(" (version {version})") };
        let message = format!("{own}{version} does not tell what others say of themselves: {}", error.message);
        let finding = Finding::amiss("mesh.problems", Verdict::Warning, message).coded("mesh_problems_unknown");
        Finding { hint: "ask a node of this program's version: --node NODE".to_owned(), ..finding }
    }

    /// What people must renew, and a node CA that is not renewed though it should be.
    fn expiring(&self, now: Millis, within: Duration) -> Finding {
        let certificates = &self.status.certificates;
        let limit = now.saturating_add(Millis::try_from(within.as_millis()).unwrap_or(Millis::MAX));
        let (begins, ends) = (at(&certificates.node_ca_begins), at(&certificates.node_ca_expires));
        let late = begins.zip(ends).is_some_and(|(begins, ends)| now > begins.midpoint(ends));
        let ends = [
            ("the enroller CA", certificates.enroller_ca_expires.as_deref().and_then(at)),
            ("the root", at(&self.status.root.root_expires)),
            ("the node CA", ends.filter(|_| late)),
        ];
        // Each renews its own CA; an enroller's is for people to renew, whichever node is asked.
        let told = self.concerns.as_ref().map_or(&[][..], |concerns| &concerns.certificates);
        let others = told.iter().filter(|of| of.node != self.status.node);
        let others = others.filter_map(|of| Some((&of.node, of.enroller_ca_expires.as_deref().and_then(at)?)));
        let others = others.map(|(node, ends)| (format!("the enroller CA of {node}"), Some(ends)));
        let soon: Vec<String> = ends
            .map(|(name, ends)| (name.to_owned(), ends))
            .into_iter()
            .chain(others)
            .filter_map(|(name, ends)| ends.filter(|ends| *ends < limit).map(|ends| (name, ends)))
            .map(|(name, ends)| format!("{name} ends in {}", span(ends.saturating_sub(now))))
            .collect();
        let id = "trust.expiring";
        let (unseen, is_sample) = self.unseen();
        if !soon.is_empty() {
            return Finding::amiss(id, Verdict::Error, soon.join(", ") + &unseen).coded("certificate_expiring");
        }
        let message = format!("nothing ends within {}{unseen}", span(limit - now));
        if unseen.is_empty() || is_sample {
            return Finding::fine(id, message);
        }
        let hint = "ask again, or with --node NODE a node that all others answer";
        Finding { hint: hint.to_owned(), ..Finding::amiss(id, Verdict::Warning, message).coded("certificates_unseen") }
    }

    /// Whose certificates were not seen; and whether that is only because a large mesh is sampled.
    fn unseen(&self) -> (String, bool) {
        let Ok(concerns) = &self.concerns else {
            let own = &self.status.node;
            return (format!("; {own} does not tell of the certificates of other nodes"), false);
        };
        let mut text = String::new();
        let unheard: Vec<_> = concerns.silent.iter().chain(&concerns.other_version).cloned().collect();
        if !unheard.is_empty() {
            text = format!("; the certificates of {} were not seen", listed(&unheard));
        }
        if concerns.unasked > 0 {
            text += &format!("; {} more nodes were not asked, of a mesh this large", concerns.unasked);
        }
        (text, unheard.is_empty())
    }

    fn nodes(&self, version: &str) -> Vec<Finding> {
        let (status, members) = (&self.status, &self.members);
        let alive: Vec<&Member> = members.iter().filter(|member| member.state == "alive").collect();
        let own = alive.iter().find(|member| member.own).map_or(version, |member| member.version.as_str());
        let mut versions: Vec<&str> = alive.iter().map(|member| member.version.as_str()).collect();
        versions.sort_unstable();
        versions.dedup();
        let unlinked: Vec<String> = alive
            .iter()
            .filter(|member| !member.own && member.rtt_ms.is_none())
            .map(|member| member.name.to_string())
            .collect();
        let slow: Vec<String> = alive
            .iter()
            .filter_map(|member| Some((member, member.rtt_ms.filter(|rtt| *rtt > SLOW)?)))
            .map(|(member, rtt)| format!("{} {rtt:.0} ms", member.name))
            .collect();
        let by_tcp: Vec<String> =
            self.pings.iter().filter(|ping| ping.carrier == "tcp").map(|ping| ping.node.to_string()).collect();
        let asked = self.pings.iter().filter(|ping| ping.carrier != "tcp" && ping.lost.is_none()).count();
        let others = alive.iter().filter(|member| !member.own).count();
        let by_quic = format!("of {others} other nodes {asked} were asked and answered over QUIC");
        let stale: Vec<String> = status.policy.stale.iter().map(ToString::to_string).collect();
        vec![
            warn_unless(own == version, "node.version", format!("this is {version}, the node runs {own}")),
            warn_unless(
                versions.len() <= 1,
                "mesh.versions",
                format!("{} nodes run {}", alive.len(), versions.join(", ")),
            ),
            named(&stale, "mesh.policy", "another set of changesets is at", "all nodes hold the same"),
            named(
                if alive.len() > DENSE { &[] } else { &unlinked },
                "mesh.links",
                "there is no link with",
                "every node is linked, or the mesh has more than 32",
            ),
            named(&slow, "mesh.round_trips", "the way is slow to", "round trips are short"),
            named(&by_tcp, "mesh.carrier", "UDP is blocked, or was slow when the link was made: over TCP to", &by_quic),
        ]
    }

    fn served(&self) -> Vec<Finding> {
        let name = |service: &Service| format!("{}/{}", service.namespace, service.name);
        let called = self.services.iter().filter(|service| !service.ports.is_empty());
        let dead: Vec<String> = called.filter(|service| service.healthy == 0 && !service.by_name).map(name).collect();
        let panic: Vec<String> = self.services.iter().filter(|service| service.panic).map(name).collect();
        let out = self.outliers.iter().filter(|outlier| outlier.spared_by.is_none());
        let mut ejected: Vec<String> = out.map(|outlier| outlier.endpoint.clone()).collect();
        ejected.dedup();
        let mut sums: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for edge in &self.traffic.edges {
            let sum = sums.entry(&edge.service).or_default();
            *sum = (sum.0.saturating_add(edge.requests), sum.1.saturating_add(edge.failed));
        }
        let failing: Vec<String> = sums
            .into_iter()
            .filter(|(_, (all, failed))| *all >= FEW && failed.saturating_mul(10) >= *all)
            .map(|(service, (all, failed))| format!("{service} ({failed} of {all})"))
            .collect();
        vec![
            named(&dead, "services.endpoints", "no endpoint is healthy of", "every service has a healthy endpoint"),
            named(&panic, "services.panic", "all endpoints are used, healthy or not, of", "no service is in panic"),
            named(&ejected, "services.ejected", "left out because they fail:", "no endpoint is ejected"),
            named(&failing, "services.failing", "one request in ten and more fails of", "requests succeed"),
        ]
    }
}

/// Fine if nothing has a name.
fn named(names: &[String], id: &'static str, amiss: &str, fine: &str) -> Finding {
    if names.is_empty() {
        return Finding::fine(id, fine);
    }
    Finding::amiss(id, Verdict::Warning, format!("{amiss} {}", listed(names)))
}

/// The first of them, and how many more there are.
fn listed(names: &[impl ToString]) -> String {
    let shown = names.iter().take(NAMED).map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if names.len() > NAMED { format!("{shown} and {} more", names.len() - NAMED) } else { shown }
}

fn warn_operators(count: usize) -> Finding {
    if count >= 2 {
        return Finding::fine("operator.several", format!("{count} operators may sign"));
    }
    let message = "only one operator key exists: if it is lost, only recovery.key helps";
    Finding::amiss("operator.several", Verdict::Warning, message).coded("one_operator")
}

/// A problem as the node tells it.
fn problem(problem: &Problem) -> Finding {
    let verdict = if problem.severity == Health::Critical { Verdict::Error } else { Verdict::Warning };
    let found = PROBLEMS.iter().find(|(code, _)| problem.code.starts_with(code));
    let id = found.map_or("node.problems", |(_, id)| *id);
    let error = Error::new(problem.code.clone(), &problem.message).hint(&problem.hint);
    Finding::of(id, verdict, &error)
}

fn at(text: &str) -> Option<Millis> {
    text.parse::<jiff::Timestamp>().ok().and_then(|at| Millis::try_from(at.as_millisecond()).ok())
}

#[cfg(test)]
pub(super) mod tests;
