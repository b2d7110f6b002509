//! What operators need to know of a mesh.

use std::sync::Arc;

use certs::{grant::NodeGrant, id::NodeId, root::bundle_to_pem};
use membership::view::{MemberState, View};
use policy::history::State;

use super::{Admin, api};

impl Admin {
    /// The mesh: its name, its first changeset, its keys, and the nodes by which it is reached.
    pub(super) fn mesh(&self) -> api::Mesh {
        let (state, view) = (self.agent.state(), self.agent.view());
        let set = &state.role_set.set;
        let key = |key: &policy::kinds::RoleKey| api::Key {
            name: key.name.clone(),
            public_key: key.key.to_string(),
            roles: set
                .roles
                .iter()
                .filter(|role| role.keys.contains(&key.name))
                .map(|role| role.name.clone())
                .collect(),
            recovery: key.recovery,
        };
        let node = |member: &std::sync::Arc<membership::view::Member>| api::KnownNode {
            name: member.id.clone(),
            addresses: member.addresses.iter().map(ToString::to_string).collect(),
            // Of itself the node knows whether it can, too.
            enroller: state.grants().get(&member.id).is_some_and(|grant| grant.enroller && !grant.retired)
                && (member.id != *self.agent.node() || self.agent.identity().enroller.is_some()),
            alive: matches!(member.state, MemberState::Alive | MemberState::Suspect),
        };
        api::Mesh {
            trust_domain: self.agent.trust_domain().clone(),
            node: self.agent.node().clone(),
            genesis: state.genesis,
            role_set: state.role_set.number,
            keys: set.keys.iter().map(key).collect(),
            bundle: bundle_to_pem(&state.trust().roots),
            out: api::Out::by(&state),
            nodes: view.members().values().filter(|member| member.state != MemberState::Evicted).map(node).collect(),
            joined: self.joined(&state, &view),
        }
    }

    fn joined(&self, state: &State, view: &View) -> Vec<NodeId> {
        let snapshot = self.agent.snapshot();
        let joined = |grant: &&Arc<NodeGrant>| {
            let known = snapshot.authority.known_keys.get(&grant.node);
            known.is_some_and(|known| known.epoch == grant.epoch) && view.member(&grant.node).is_none()
        };
        let mut names: Vec<_> = state.grants().values().filter(joined).map(|grant| grant.node.clone()).collect();
        names.sort();
        names
    }
}
