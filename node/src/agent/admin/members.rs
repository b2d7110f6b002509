//! Nodes as this node sees them.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{Path, State},
};
use certs::{codec::Millis, id::NodeId};
use membership::{
    body::Status,
    view::{Member, MemberState, Quarantined},
};
use policy::history;

use super::{Admin, api, error::Error, rfc3339};

/// How long those that left are shown.
const SHOW_LEFT: Millis = 3_600_000;
/// How long a question waits for its answer, and for a link.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long the dead are shown.
const SHOW_DEAD: Millis = 72 * 3_600_000;

impl Admin {
    /// The nodes by name; `all`: also those that are long gone.
    pub(crate) fn members(&self, all: bool) -> Vec<api::Member> {
        let (view, state, now) = (self.agent.view(), self.agent.state(), self.agent.now());
        let shown = view.members().values().filter(|member| all || is_shown(member.state, member.since, now));
        let connections = self.connections();
        let row =
            |member: &Arc<Member>| self.row(member, &state, connections.get(&member.id).copied().unwrap_or_default());
        let mut rows: Vec<api::Member> = shown.map(row).collect();
        let out = view.quarantined().iter().filter(|(node, _)| view.member(node).is_none());
        rows.extend(out.map(|(node, found)| self.row_without(node, found, &state)));
        rows.sort_by(|one, other| one.name.cmp(&other.name));
        rows
    }

    /// The nodes that are shown, with whom each reaches. Asked for again within a moment, the same answer.
    pub(crate) async fn reaching(&self) -> Vec<api::Member> {
        self.matrix.get(self.matrix(false)).await
    }

    /// The same, with whom each node reaches.
    pub(super) async fn matrix(&self, all: bool) -> Vec<api::Member> {
        let (rows, unheard) = self.agent.reaches().await;
        let mut members = self.members(all);
        for member in &mut members {
            let paths = rows.get(&member.name).map(|row| row.paths.iter());
            member.reaches = paths.map(|paths| paths.map(|(node, micros)| (node.clone(), millis(*micros))).collect());
            member.other_version = unheard.other_version.contains(&member.name);
            let was_asked = member.other_version || unheard.silent.contains(&member.name);
            member.unasked = member.reaches.is_none() && !was_asked;
        }
        members
    }

    /// One question to a node.
    pub(super) async fn ping(State(admin): State<Admin>, Path(node): Path<NodeId>) -> Result<Json<api::Ping>, Error> {
        let asked = match admin.agent.ping(&node, PATIENCE).await {
            Ok(asked) => asked,
            Err(error) if &*error.code == "unreachable" => {
                let (carrier, remote) = Default::default();
                let lost = Some(error.message.to_string());
                return Ok(Json(api::Ping { node, carrier, remote, rtt_ms: None, lost }));
            }
            Err(error) => return Err(error),
        };
        let micros = |took: Duration| millis(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        Ok(Json(api::Ping {
            node,
            carrier: asked.carrier.to_owned(),
            remote: asked.remote.to_string(),
            rtt_ms: asked.took.as_ref().ok().map(|took| micros(*took)),
            lost: asked.took.err().map(|error| error.to_string()),
        }))
    }

    /// What is known of one node.
    ///
    /// # Errors
    /// `not_found`.
    pub(crate) fn member(&self, node: &NodeId) -> Result<api::MemberDetail, Error> {
        let (view, state) = (self.agent.view(), self.agent.state());
        let grant = state.grants().get(node).map(|grant| (**grant).clone());
        if let (None, Some(found)) = (view.member(node), view.quarantined().get(node)) {
            return Ok(self.quarantined(node, found, &state));
        }
        let member = view.member(node).ok_or_else(|| {
            let message =
                if grant.is_some() { "was invited and has never been seen" } else { "is not a node of this mesh" };
            Error::new("not_found", format!("{node} {message}")).hint("`skein members --all` lists the nodes")
        })?;
        let services = member.services.iter().map(|service| match &service.instance {
            Some(instance) => format!("{}/{instance}", service.service),
            None => service.service.to_string(),
        });
        Ok(api::MemberDetail {
            generation: member.generation,
            epoch: member.epoch,
            started: (member.started > 0).then(|| rfc3339(member.started)),
            reports: self.reports(member),
            services: services.collect(),
            grant,
            member: self.row(member, &state, self.connections().get(node).copied().unwrap_or_default()),
        })
    }

    /// What is known of one that contradicted itself.
    fn quarantined(&self, node: &NodeId, found: &Quarantined, mesh: &history::State) -> api::MemberDetail {
        let says = format!(
            "quarantined: it signed two different records under number {} of this run; it counts again once it is invited anew \
             (`skein invite {node} --replace`)",
            found.sequence
        );
        let by = self.agent.node().clone();
        let report =
            api::Report { by, says, path: "by its own two signatures".to_owned(), since: rfc3339(found.since) };
        api::MemberDetail {
            generation: found.generation,
            epoch: found.epoch,
            started: None,
            reports: vec![report],
            services: Vec::new(),
            grant: mesh.grants().get(node).map(|grant| (**grant).clone()),
            member: self.row_without(node, found, mesh),
        }
    }

    /// Of one that contradicted itself nothing that it says is known.
    fn row_without(&self, node: &NodeId, found: &Quarantined, mesh: &history::State) -> api::Member {
        let (address, locality, version) = Default::default();
        api::Member {
            name: node.clone(),
            state: QUARANTINED.to_owned(),
            address,
            locality,
            version,
            since: rfc3339(found.since),
            own: node == self.agent.node(),
            enroller: is_enroller(mesh, node),
            rtt_ms: None,
            loss: None,
            reaches: None,
            unasked: false,
            other_version: false,
            policy: None,
            connections: self.connections().get(node).copied().unwrap_or_default(),
        }
    }

    fn row(&self, member: &Member, mesh: &history::State, connections: api::NodeConnections) -> api::Member {
        api::Member {
            name: member.id.clone(),
            state: word(member.state).to_owned(),
            address: member.address.map(|address| address.to_string()).unwrap_or_default(),
            locality: member.locality.clone(),
            version: member.version.clone(),
            since: rfc3339(member.since),
            own: member.id == *self.agent.node(),
            enroller: is_enroller(mesh, &member.id),
            rtt_ms: member.rtt.map(|rtt| (rtt.as_secs_f64() * 1e6).round() / 1e3),
            loss: member.loss.map(|loss| (loss * 1e3).round() / 1e3),
            reaches: None,
            unasked: false,
            other_version: false,
            policy: member.policy.as_ref().map(|policy| policy.applied.to_string()),
            connections,
        }
    }

    /// This node's own judgement, what the member says of itself, and who finds it silent.
    fn reports(&self, member: &Member) -> Vec<api::Report> {
        let judgement = api::Report {
            by: self.agent.node().clone(),
            says: word(member.state).to_owned(),
            path: self.path(&member.id),
            since: rfc3339(member.since),
        };
        let intent = match member.status {
            Status::Up => "up",
            Status::Draining => "draining",
            Status::Left => "left",
        };
        let policy = member.policy.as_ref().map_or_else(String::new, |policy| {
            // As much of a digest as tells it from others.
            format!(", {}, policy {:.12}", counted(policy.count, "changeset"), policy.applied.to_string())
        });
        let word = api::Report {
            by: member.id.clone(),
            says: format!("{intent}, {}{policy}", counted(member.services.len() as u64, "service")),
            path: self.path(&member.id),
            since: rfc3339(member.status_since),
        };
        let accused = self.agent.accusers(&member.id).into_iter().map(|(by, since)| api::Report {
            path: self.path(&by),
            by,
            says: "silent".to_owned(),
            since: rfc3339(since),
        });
        [judgement, word].into_iter().chain(accused).collect()
    }

    /// How what a node says reaches this one.
    fn path(&self, node: &NodeId) -> String {
        match self.agent.link(node) {
            _ if node == self.agent.node() => "this node itself".to_owned(),
            Some((carrier, remote)) => format!("over its link with this node ({carrier} to {remote})"),
            None => {
                let since = self.agent.without_link(node).map(rfc3339);
                let since = since.map(|since| format!(" since {since}")).unwrap_or_default();
                format!("passed on by others: no link with this node{since}")
            }
        }
    }
}

/// `1 service`, `2 services`.
fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn is_enroller(mesh: &history::State, node: &NodeId) -> bool {
    mesh.grants().get(node).is_some_and(|grant| grant.enroller && !grant.retired)
}

/// The word for those that are no members because they contradicted themselves.
pub(super) const QUARANTINED: &str = "quarantined";

/// A state's word in the contract.
pub(super) fn word(state: MemberState) -> &'static str {
    match state {
        MemberState::Alive => "alive",
        MemberState::Suspect => "suspect",
        MemberState::Dead => "dead",
        MemberState::Left => "left",
        MemberState::Evicted => "evicted",
    }
}

fn millis(micros: u64) -> f64 {
    micros as f64 / 1e3
}

fn is_shown(state: MemberState, since: Millis, now: Millis) -> bool {
    let age = now.saturating_sub(since);
    match state {
        MemberState::Alive | MemberState::Suspect | MemberState::Evicted => true,
        MemberState::Left => age <= SHOW_LEFT,
        MemberState::Dead => age <= SHOW_DEAD,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_one() {
        assert_eq!([0, 1, 2].map(|count| counted(count, "service")), ["0 services", "1 service", "2 services"]);
    }

    #[test]
    fn those_long_gone_are_hidden() {
        let now = 100 * SHOW_DEAD;
        assert!(is_shown(MemberState::Left, now - SHOW_LEFT, now));
        assert!(!is_shown(MemberState::Left, now - SHOW_LEFT - 1, now));
        assert!(is_shown(MemberState::Dead, now - SHOW_DEAD, now));
        assert!(!is_shown(MemberState::Dead, now - SHOW_DEAD - 1, now));
        assert!(is_shown(MemberState::Alive, 0, now));
    }
}
