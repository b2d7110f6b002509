//! This node's gateways: what is open, what keeps others shut, the credentials that they use.

use std::sync::Arc;

use super::Agent;
use crate::{
    agent::error::{Error, fail},
    secrets::Secrets,
    snapshot::{Doors, Trouble},
};

impl Agent {
    /// What the data plane says of them.
    pub fn doors(&self) -> Arc<Doors> {
        self.inner.sync.world.current().doors()
    }

    /// The node's own credentials.
    pub fn secrets(&self) -> &Secrets {
        &self.inner.secrets
    }

    /// What of it is to be mended.
    pub(super) fn door_troubles(&self) -> Vec<Error> {
        self.doors().troubles.iter().map(told).collect()
    }

    /// What keeps services outside the mesh from being reached as documents say.
    pub(super) fn outside_troubles(&self) -> Vec<Error> {
        let world = &self.inner.sync.world;
        let tls = world.current().tls_troubles();
        world.outside_troubles().iter().chain(&*tls).map(told).collect()
    }
}

fn told(one: &Trouble) -> Error {
    fail(one.code, &one.message, one.hint)
}
