//! What was asked of whom in the whole mesh.

use std::sync::Arc;

use super::{Admin, api};

impl Admin {
    /// What was asked of whom in the last quarter of an hour, as all nodes saw it that answer.
    pub(crate) async fn traffic(&self) -> Arc<api::Traffic> {
        self.traffic.get(async { Arc::new(self.agent.traffic(self.telemetry.exchanged()).await) }).await
    }
}
