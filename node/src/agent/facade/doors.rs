//! This node's gateways: what is open, what keeps others shut, the credentials that they use.

use std::sync::Arc;

use super::Agent;
use crate::{
    agent::error::{Error, fail},
    secrets::Secrets,
    snapshot::Doors,
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
        self.doors().troubles.iter().map(|one| fail(one.code, &one.message, one.hint)).collect()
    }
}
