//! What a request under way occupies until the end of its response: its place at the endpoint, and its room within the
//! limits of its cluster.

use crate::{
    balance::{Held, PoolLimits},
    snapshot::{Circuit, InFlight},
};
use std::sync::Arc;

/// A request under way; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Flight {
    _active: InFlight,
    /// In a box, because few clusters have limits.
    _room: Option<Box<Room>>,
}

/// Room of a request within the limits of its cluster.
#[derive(Debug)]
pub(super) struct Room {
    circuit: Arc<Circuit>,
    connection: Option<Held>,
    request: Option<Held>,
}

impl Flight {
    /// With its room, where the cluster has limits.
    pub(super) fn new(active: InFlight, room: Option<Room>) -> Self {
        Self { _active: active, _room: room.map(Box::new) }
    }
}

impl Room {
    /// With a connection of its own, if it needs one.
    pub(super) fn new(circuit: Arc<Circuit>, connection: Option<Held>) -> Self {
        Self { circuit, connection, request: None }
    }

    /// Takes one of the requests that may be under way; false if there are too many.
    pub(super) fn admit(&mut self, limits: &PoolLimits) -> bool {
        self.request = self.circuit.pool.request(limits).ok();
        self.request.is_some()
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.request = None;
        if self.connection.take().is_some() {
            self.circuit.freed.notify_one();
        }
    }
}
