//! What the Workload API asks of the agent: who a local user's processes are, and certificates for them.

use std::sync::Arc;

use certs::{
    ca::Svid,
    codec::Millis,
    id::{ServiceName, SpiffeId},
    verify::Authority,
};

use super::Agent;
use crate::agent::{
    identity::{NotHanded, millis},
    local::covers,
};

impl Agent {
    /// Whose identities the processes of a local user may have: those of the services that name the user, as far as they are
    /// granted, in the configuration's order and each once; with it the first service that has it.
    pub fn identities_of(&self, uid: u32) -> Vec<(SpiffeId, ServiceName)> {
        let (config, state) = (self.config(), self.state());
        let grant = state.grants().get(self.node()).filter(|grant| !grant.retired);
        let mut found: Vec<(SpiffeId, ServiceName)> = Vec::new();
        let theirs = config.services.iter().filter(|service| service.uids.contains(&uid));
        for service in theirs.filter(|service| grant.is_some_and(|grant| covers(grant, service))) {
            let id = SpiffeId::service(self.trust_domain().clone(), service.account.clone());
            if !found.iter().any(|(known, _)| *known == id) {
                found.push((id, service.name.clone()));
            }
        }
        found
    }

    /// DER of each root that this mesh believes now.
    pub fn roots(&self) -> Vec<Vec<u8>> {
        self.inner.sync.world.authority().load().roots.clone()
    }

    /// How long leafs of services last, by policy.
    pub fn leaf_life(&self) -> Millis {
        millis(self.state().lifetimes().leaf)
    }

    /// Whom this node believes now: another one after each change.
    pub fn authority(&self) -> Arc<Authority> {
        self.inner.sync.world.authority().load_full()
    }

    /// A leaf with a key of its own for an application of a local user. Who may have it is the caller's to know.
    ///
    /// # Errors
    /// [`NotHanded`].
    pub fn hand_out(&self, id: &SpiffeId, uid: u32) -> Result<Svid, NotHanded> {
        let sync = &self.inner.sync;
        let authority = sync.world.authority().load();
        sync.identity.hand_out(id, self.leaf_life(), uid, &authority, self.now())
    }
}
