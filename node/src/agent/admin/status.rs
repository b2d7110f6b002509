//! How the mesh is, as this node sees it.

use certs::{codec::Millis, id::NodeId, join::MAX_MESSAGE, root::ends};
use membership::{
    gossip::POOL,
    view::{MemberState, View},
};
use policy::{
    DocumentId, Kind,
    history::{Claim, Conflict, State},
};

use super::{
    Admin,
    api::{self, Health, Problem},
    connections,
    error::Error,
    problems, rfc3339,
};
use crate::{
    agent::{NO_ENROLLER, drift, jwks, local::NOT_GRANTED},
    clock,
    config::SpeakerName,
    snapshot::{Doors, OpenDoor, PlaintextPort, Snapshot},
};

/// How many names a sentence names.
const NAMED: usize = 5;

impl Admin {
    /// The status.
    pub(crate) fn status(&self) -> api::Status {
        let (snapshot, view) = (self.agent.snapshot(), self.agent.view());
        let state = &snapshot.state;
        let expected = expected(state);
        let open = |node: &&NodeId| !is_open_invite(state, &view, node, self.agent.now());
        let (out, awaited): (Vec<NodeId>, Vec<NodeId>) =
            expected.iter().filter(open).cloned().partition(|node| view.quarantined().contains_key(node));
        let mut problems: Vec<_> = self.agent.troubles().into_iter().map(own).collect();
        problems.extend(missing(state, &view, &awaited));
        problems.extend(quarantined(&out));
        problems.extend(crowded(expected.len()));
        problems.extend(long_chain(state.role_set_bytes));
        problems.extend(state.conflicts.iter().map(|one| conflict(state, one)));
        problems.extend(self.unhealthy());
        problems.extend(self.spared());
        problems.extend(self.without_keys(&snapshot));
        problems.extend(self.agent.draining().then(drained));
        problems.extend(self.tasks.panics().into_iter().map(panicked));
        let enrollers = enrollers(state, &view);
        if enrollers == 0 {
            problems.push(problem(
                "no_enroller",
                "no enroller is alive: nobody can join, certificates are not renewed".to_owned(),
                NO_ENROLLER,
            ));
        }
        problems.sort_by_key(|problem| std::cmp::Reverse(problem.severity));
        let identity = self.agent.identity();
        let lanes = self.agent.gossip_rate();
        let leaf_expires = identity.leafs.iter().map(|leaf| leaf.not_after).min();
        api::Status {
            node: self.agent.node().clone(),
            trust_domain: self.agent.trust_domain().clone(),
            state: problems.first().map_or(Health::Ok, |worst| worst.severity),
            problems,
            members: api::Seen { seen: view.seen(), expected: expected.len() },
            policy: api::PolicyStatus { digest: state.digest.to_string(), stale: stale(&view, self.agent.node()) },
            certificates: api::Certificates {
                node_ca_expires: rfc3339(identity.ca_not_after),
                node_ca_begins: rfc3339(identity.ca_not_before),
                leaf_expires: leaf_expires.map(rfc3339).unwrap_or_default(),
                enrollers,
                enroller_ca_expires: identity.enroller.map(rfc3339),
                enroller_root: self.agent.enroller_root().map(|standing| standing.to_string()),
            },
            root: self.root_change(state),
            clock: self.clock(),
            clock_offset_ms: clock::offset(),
            gateways: gateways(&self.agent.doors()),
            plaintext: self.plaintext(&snapshot),
            connections: self.connections().into_values().fold(api::NodeConnections::default(), connections::sum),
            memory_bytes: resident(),
            gossip_bytes_per_s: lanes.values().sum(),
            gossip_lanes: lanes.into_iter().map(|(lane, bytes)| (lane.to_owned(), bytes)).collect(),
        }
    }

    fn plaintext(&self, snapshot: &Snapshot) -> Vec<api::Plaintext> {
        let config = self.agent.config();
        let row = |open: &PlaintextPort| {
            let service = config.services.iter().find(|service| SpeakerName::of(service) == open.service)?;
            let port = service.ports.iter().find(|port| port.number == open.port)?;
            let namespace = service.name.namespace();
            let workload = snapshot.compiled.workload(&snapshot.trust_domain, namespace, &service.labels);
            Some(api::Plaintext {
                listen: open.listen.to_string(),
                service: open.service.to_string(),
                port: open.port,
                mode: workload.mutual_tls.on(port.target.port()).as_str().to_owned(),
            })
        };
        self.agent.plaintext().iter().filter_map(row).collect()
    }

    /// Tokens of which nobody can tell whether they hold.
    fn without_keys(&self, snapshot: &Snapshot) -> Option<Problem> {
        let missing = jwks::without_keys(snapshot, &self.agent.config().services);
        let first = missing.first()?;
        let more = if missing.len() > 1 { format!(" and {} more", missing.len() - 1) } else { String::new() };
        let message =
            format!("keys of tokens by {first}{more} could not be fetched: requests with such tokens get 401");
        let hint = "this node must reach the URL; its log says what went wrong";
        Some(problem("token_keys_missing", message, hint))
    }

    fn root_change(&self, state: &State) -> api::RootChange {
        let trust = state.trust();
        api::RootChange {
            phase: trust.phase().to_string(),
            settled: self.agent.is_settled(),
            resting: self.agent.resting(),
            root_expires: trust.issuing().filter_map(|root| ends(root)).max().map(rfc3339).unwrap_or_default(),
        }
    }

    fn clock(&self) -> api::ClockFacts {
        let (measured, mark) = (self.agent.drift(), clock::mark());
        api::ClockFacts {
            drift_ms: measured.map(|measured| measured.ahead),
            peers: measured.map_or(0, |measured| measured.peers),
            bound_ms: drift::BOUND,
            proven: (mark > 0).then(|| rfc3339(mark)),
        }
    }

    fn unhealthy(&self) -> Vec<Problem> {
        // What is not granted is a problem of its own, with the command that mends it.
        let is_sick = |(_, healthy, reason): &(_, bool, String)| !healthy && reason != NOT_GRANTED;
        let services = self.agent.local_services().into_iter().filter(is_sick);
        let tell = |(service, _, reason): (crate::config::Service, bool, String)| {
            let message = format!("{} on this node is unhealthy: {reason}", service.name);
            problem("unhealthy_service", message, "is the application running, and its check right?")
        };
        services.map(tell).collect()
    }
}

/// Granted and neither retired nor evicted.
fn expected(state: &State) -> Vec<NodeId> {
    let counts = |node: &NodeId, epoch| !state.revocations().evicted(node, epoch);
    let grants = state.grants().values().filter(|grant| !grant.retired && counts(&grant.node, grant.epoch));
    let mut nodes: Vec<_> = grants.map(|grant| grant.node.clone()).collect();
    nodes.sort();
    nodes
}

/// Invited, and still has time to join.
fn is_open_invite(state: &State, view: &View, node: &NodeId, now: Millis) -> bool {
    let expires = state.grants().get(node).and_then(|grant| grant.token_expires);
    let never = view.member(node).is_none() && !view.quarantined().contains_key(node);
    never && expires.is_some_and(|expires| expires > now)
}

fn enrollers(state: &State, view: &View) -> usize {
    let able = |node: &NodeId| state.grants().get(node).is_some_and(|grant| grant.enroller && !grant.retired);
    view.members().values().filter(|member| member.usable() && able(&member.id)).count()
}

/// Nodes that should be seen and are not; one that announced its stop is no problem.
fn missing(state: &State, view: &View, expected: &[NodeId]) -> Option<Problem> {
    let gone: Vec<_> = expected
        .iter()
        .filter(|node| !view.member(node).is_some_and(|member| member.usable() || member.state == MemberState::Left))
        .collect();
    if gone.is_empty() {
        return None;
    }
    let names: Vec<_> = gone.iter().take(NAMED).map(ToString::to_string).collect();
    let more = if gone.len() > NAMED { ", ..." } else { "" };
    let message = format!(
        "you see {} of {} nodes; missing: {}{more}",
        expected.len() - gone.len(),
        expected.len(),
        names.join(", ")
    );
    // Nobody starts what never was: its token has ended, or it would not be awaited.
    let never = |node: &NodeId| {
        let invited = state.grants().get(node).is_some_and(|grant| grant.token_hash.is_some());
        invited && view.member(node).is_none()
    };
    let (never, gone): (Vec<_>, Vec<_>) = gone.into_iter().partition(|node| never(node));
    let start = "start them; `skein evict NODE` takes one out for good";
    let hint = match never.first() {
        None => start.to_owned(),
        Some(first) => {
            let start = if gone.is_empty() { String::new() } else { format!("{start}. ") };
            format!("{start}{first} was invited and did not join in time: invite it again, or `skein evict {first}`")
        }
    };
    Some(problem("members_missing", message, &hint))
}

/// Nodes that contradicted themselves: nothing that they say counts, and nobody links with them.
fn quarantined(nodes: &[NodeId]) -> Option<Problem> {
    let first = nodes.first()?;
    let names: Vec<_> = nodes.iter().take(NAMED).map(ToString::to_string).collect();
    let more = if nodes.len() > NAMED { ", ..." } else { "" };
    let message = format!("ignored, for they signed two different truths: {}{more}", names.join(", "));
    let hint = format!(
        "was its machine put back to a snapshot, or does a copy of it run? `skein invite {first} --replace` lets it in anew, \
         `skein evict {first}` takes it out for good"
    );
    Some(problem("node_quarantined", message, &hint))
}

/// Gossip carries one pool of nodes; who comes beyond it is refused.
fn crowded(expected: usize) -> Option<Problem> {
    let message = format!("{expected} nodes are granted; one mesh takes {POOL}");
    let hint = "retire or evict nodes that are gone, or part the mesh in two";
    (expected * 5 >= POOL * 4).then(|| problem("mesh_nearly_full", message, hint))
}

/// Whoever joins is shown every RoleSet in one message, and none may ever go.
fn long_chain(bytes: usize) -> Option<Problem> {
    const MIB: f64 = (1 << 20) as f64;
    let (all, most) = (bytes as f64 / MIB, MAX_MESSAGE as f64 / MIB);
    let message = format!("the RoleSets have {all:.1} MiB; from {most:.0} MiB on nobody can join this mesh");
    let hint = "have new RoleSets name little: remove operators with `skein operator remove NAME --void documents`, and others push anew what should stay";
    (bytes * 2 >= MAX_MESSAGE).then(|| problem("role_sets_large", message, hint))
}

/// A drain lasts until it is taken back or the node restarts, so it must not be forgotten.
fn drained() -> Problem {
    problem(
        "draining",
        "this node is drained: its services get no new requests".to_owned(),
        "`skein drain --undo` takes requests again",
    )
}

/// What keeps running was begun again; a request or connection was lost. Either way somebody should hear of it.
fn panicked((task, count): (&'static str, u64)) -> Problem {
    problem(
        "task_panicked",
        format!("the task `{task}` panicked {count} times since the node started"),
        "it is a defect: the log has its place, report it; this stands until the node starts again",
    )
}

/// Alive nodes that hold another set of changesets than this one.
fn stale(view: &View, own: &NodeId) -> Vec<NodeId> {
    let Some(digest) = view.member(own).and_then(|own| own.policy.as_ref()).map(|policy| policy.digest) else {
        return Vec::new();
    };
    let differs = |member: &membership::view::Member| {
        member.state == MemberState::Alive && member.policy.as_ref().is_none_or(|policy| policy.digest != digest)
    };
    view.members().values().filter(|member| differs(member)).map(|member| member.id.clone()).collect()
}

fn conflict(state: &State, conflict: &Conflict) -> Problem {
    match conflict {
        Conflict::Values(document, claims) => {
            let of = |claim: &Claim| format!("{} by {}", claim.changeset, claim.authors.join(", "));
            let lost: Vec<_> = claims.iter().filter(|claim| !claim.in_effect).map(of).collect();
            let outcome = if document.kind.heeds_all() || lost.is_empty() {
                "all of them hold together".to_owned()
            } else {
                format!("not in effect: {}", lost.join("; "))
            };
            let message =
                format!("{document} has {} live values, pushed apart from each other; {outcome}", claims.len());
            problem("conflict", message, "`skein policy conflicts` shows them and the command that settles it")
        }
        Conflict::RoleSets(changesets) => problem(
            "role_set_conflict",
            format!("{} RoleSets follow the one in force: none of them counts", changesets.len()),
            "sign one that follows all of them; `skein policy conflicts` shows them",
        ),
        Conflict::Unreadable(document, changeset) if closes(state, document) => problem(
            "unreadable_authorization",
            format!(
                "this build cannot read {document} of changeset {changeset}, and nothing older stands in its place: the \
                 workloads that it may select refuse {}",
                if document.kind == Kind::AuthorizationPolicy { "every request (403)" } else { "plaintext" }
            ),
            "run the version of skein for which it was written, or push one that this version reads",
        ),
        Conflict::Unreadable(document, changeset)
            if matches!(document.kind, Kind::RoleSet | Kind::NodeGrant | Kind::Revocation) =>
        {
            let stands = match document.kind == Kind::Revocation {
                true => "what it can read of it holds, beside what stood before",
                false => "what stood before holds, without the keys that a RoleSet removes",
            };
            let message = format!("this build cannot read {document} of changeset {changeset}: {stands}");
            problem("unreadable_authority", message, "run the version of skein for which it was written")
        }
        Conflict::Unreadable(document, changeset) => problem(
            "unreadable",
            format!("this build cannot apply {document} of changeset {changeset}"),
            "run the version of skein for which it was written",
        ),
    }
}

/// True if nothing that can be read stands in place of the document, and that closes what it may be for.
fn closes(state: &State, document: &DocumentId) -> bool {
    matches!(document.kind, Kind::AuthorizationPolicy | Kind::PeerAuthentication)
        && state.documents.get(document).is_some_and(|live| !live.blind.is_empty())
}

/// What the node itself finds wrong.
fn own(error: Error) -> Problem {
    problem(&error.code, error.message, &error.hint)
}

fn gateways(doors: &Doors) -> Vec<api::OpenGateway> {
    let one = |door: &OpenDoor| api::OpenGateway {
        listen: door.listen.to_string(),
        port: door.port,
        protocol: door.protocol.to_owned(),
        service: door.service.clone(),
        documents: door.documents.iter().map(ToString::to_string).collect(),
        hosts: door.hosts.clone(),
    };
    doors.open.iter().map(one).collect()
}

pub(super) fn problem(code: &str, message: String, hint: &str) -> Problem {
    let severity = problems::severity(code);
    Problem { code: code.to_owned(), message, hint: hint.to_owned(), severity }
}

/// Resident memory of this process in bytes; 0 if the kernel does not say.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0);
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    pages * page.and_then(|page| u64::try_from(page).ok()).unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use policy::history::{Absent, Live, LiveValue};

    use super::*;

    #[test]
    fn a_process_has_memory() {
        assert!(resident() > 1 << 20);
    }

    #[test]
    fn a_mesh_warns_before_it_is_full() {
        assert_eq!(crowded(POOL / 5 * 4 - 1), None);
        assert_eq!(crowded(POOL / 5 * 4).unwrap().code, "mesh_nearly_full");
    }

    #[test]
    fn a_mesh_warns_before_nobody_can_join() {
        assert_eq!(long_chain(MAX_MESSAGE / 2 - 1), None);
        let problem = long_chain(MAX_MESSAGE / 2).unwrap();
        assert_eq!((&*problem.code, problem.severity), ("role_sets_large", Health::Degraded));
        assert!(problem.message.contains("4.0 MiB") && problem.hint.contains("--void"), "{problem:?}");
    }

    #[test]
    fn what_must_be_mended_at_once_is_critical() {
        assert_eq!(own(Error::new("storage_full", "")).severity, Health::Critical);
        assert_eq!(own(Error::new("not_granted", "")).severity, Health::Degraded);
        assert_eq!(own(Error::new("not_reloaded", "")).severity, Health::Degraded);
    }

    #[test]
    fn what_closes_because_it_cannot_be_read_is_critical() {
        let changeset = policy::changeset::ChangesetId(certs::sign::Digest([1; 32]));
        let value = LiveValue {
            changeset,
            document: Err(Absent::Unreadable([].into())),
            json: "{}".into(),
            authors: Vec::new(),
            time: 0,
            version: 1,
            confined: false,
        };
        let told = |kind: Kind, blind: Vec<LiveValue>| {
            let id = DocumentId::new(kind, "shop", "a");
            let live = Live { values: vec![value.clone()], blind, ..Live::default() };
            let mut state = State::nothing();
            state.documents.insert(id.clone(), Arc::new(live));
            let problem = conflict(&state, &Conflict::Unreadable(id, changeset));
            (problem.code, problem.severity)
        };
        let closed = ("unreadable_authorization".to_owned(), Health::Critical);
        assert_eq!(told(Kind::AuthorizationPolicy, vec![value.clone()]), closed);
        assert_eq!(told(Kind::PeerAuthentication, vec![value.clone()]), closed);
        let yields = ("unreadable".to_owned(), Health::Degraded);
        assert_eq!(told(Kind::AuthorizationPolicy, Vec::new()), yields, "an older value stands in its place");
        assert_eq!(told(Kind::VirtualService, vec![value.clone()]), yields);
        for kind in [Kind::RoleSet, Kind::NodeGrant, Kind::Revocation] {
            assert_eq!(told(kind, Vec::new()), ("unreadable_authority".to_owned(), Health::Critical));
        }
    }

    #[test]
    fn those_never_seen_are_missing() {
        let nodes = [NodeId::new("a").unwrap(), NodeId::new("b").unwrap()];
        let problem = missing(&State::nothing(), &View::default(), &nodes).unwrap();
        assert_eq!(problem.message, "you see 0 of 2 nodes; missing: a, b");
        assert_eq!(missing(&State::nothing(), &View::default(), &[]), None);
    }
}
