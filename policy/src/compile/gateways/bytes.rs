//! What is behind a server of a gateway that takes connections and not requests.

use std::sync::Arc;

use super::super::Virtual;
use crate::kinds::GatewayName;

/// The VirtualServices whose rules for connections hold at a server.
#[derive(Debug)]
pub struct Bytes {
    gateway: GatewayName,
    /// Oldest first.
    attached: Vec<Arc<Virtual>>,
}

impl Bytes {
    pub(super) fn new(gateway: GatewayName, attached: Vec<Arc<Virtual>>) -> Self {
        Self { gateway, attached }
    }

    /// The Gateway, as rules name it.
    pub(crate) fn gateway(&self) -> &GatewayName {
        &self.gateway
    }

    pub(crate) fn attached(&self) -> impl Iterator<Item = &Virtual> {
        self.attached.iter().map(|one| &**one)
    }
}
