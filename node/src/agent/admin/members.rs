//! Nodes as this node sees them.

use certs::{codec::Millis, id::NodeId};
use membership::{
    body::Status,
    view::{Member, MemberState},
};

use super::{Admin, api, error::Error, rfc3339};

/// How long those that left are shown.
const SHOW_LEFT: Millis = 3_600_000;
/// How long the dead are shown.
const SHOW_DEAD: Millis = 72 * 3_600_000;

impl Admin {
    /// The nodes by name; `all`: also those that are long gone.
    pub(super) fn members(&self, all: bool) -> Vec<api::Member> {
        let (view, now) = (self.agent.view(), self.agent.now());
        let shown = view.members().values().filter(|member| all || is_shown(member.state, member.since, now));
        shown.map(|member| self.row(member)).collect()
    }

    /// What is known of one node.
    ///
    /// # Errors
    /// `not_found`.
    pub(super) fn member(&self, node: &NodeId) -> Result<api::MemberDetail, Error> {
        let (view, state) = (self.agent.view(), self.agent.state());
        let grant = state.grants().get(node).map(|grant| (**grant).clone());
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
            member: self.row(member),
        })
    }

    fn row(&self, member: &Member) -> api::Member {
        api::Member {
            name: member.id.clone(),
            state: word(member.state).to_owned(),
            address: member.address.map(|address| address.to_string()).unwrap_or_default(),
            locality: member.locality.clone(),
            version: member.version.clone(),
            since: rfc3339(member.since),
            own: member.id == *self.agent.node(),
            rtt_ms: member.rtt.map(|rtt| (rtt.as_secs_f64() * 1e6).round() / 1e3),
            policy: member.policy.as_ref().map(|policy| policy.applied.to_string()),
        }
    }

    /// This node's own judgement, and what the member says of itself.
    fn reports(&self, member: &Member) -> Vec<api::Report> {
        let own = self.agent.node().clone();
        let path = match self.agent.link(&member.id) {
            _ if member.id == own => "this node itself".to_owned(),
            Some((carrier, remote)) => format!("over its own link ({carrier} to {remote})"),
            None => "without a link, by what others pass on".to_owned(),
        };
        let judgement =
            api::Report { by: own, says: word(member.state).to_owned(), path, since: rfc3339(member.since) };
        let intent = match member.status {
            Status::Up => "up",
            Status::Draining => "draining",
            Status::Left => "left",
        };
        let policy = member
            .policy
            .as_ref()
            .map_or_else(String::new, |policy| format!(", {} changesets, digest {}", policy.count, policy.applied));
        let word = api::Report {
            by: member.id.clone(),
            says: format!("{intent}, {} services{policy}", member.services.len()),
            path: "by records that it signed".to_owned(),
            since: rfc3339(member.started),
        };
        vec![judgement, word]
    }
}

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
    fn those_long_gone_are_hidden() {
        let now = 100 * SHOW_DEAD;
        assert!(is_shown(MemberState::Left, now - SHOW_LEFT, now));
        assert!(!is_shown(MemberState::Left, now - SHOW_LEFT - 1, now));
        assert!(is_shown(MemberState::Dead, now - SHOW_DEAD, now));
        assert!(!is_shown(MemberState::Dead, now - SHOW_DEAD - 1, now));
        assert!(is_shown(MemberState::Alive, 0, now));
    }
}
