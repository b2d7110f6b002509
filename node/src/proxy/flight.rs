//! What a request under way occupies until the end of its response: its place at the endpoint, and its room within the
//! limits of its cluster.

use super::failure::Cause;
use crate::{
    balance::{Held, Key, PoolLimits, RetryLimit},
    clock,
    snapshot::{Circuit, Connection, InFlight},
};
use std::{pin::pin, sync::Arc};

/// A request under way; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Flight {
    /// None at the application itself, which is not chosen among others.
    _active: Option<InFlight>,
    /// In a box, because few clusters have limits.
    _room: Option<Box<Room>>,
}

/// Room of a request within the limits of its cluster.
#[derive(Debug)]
pub(super) struct Room {
    circuit: Arc<Circuit>,
    connection: Option<Connection>,
    request: Option<(Held, RetryLimit)>,
}

impl Flight {
    /// With its room, where the cluster has limits.
    pub(super) fn new(active: InFlight, room: Option<Room>) -> Self {
        Self { _active: Some(active), _room: room.map(Box::new) }
    }

    /// In front of an application that has limits.
    pub(super) fn of_application(room: Room) -> Self {
        Self { _active: None, _room: Some(Box::new(room)) }
    }
}

/// One of the connections that a cluster may have. Where there is none it is waited for as long as not too many wait, and until it is
/// given up.
pub(super) async fn connection(
    circuit: &Arc<Circuit>,
    limits: &PoolLimits,
    endpoint: Option<(&Key, u32)>,
    given_up: impl Future<Output = Cause>,
) -> Result<Connection, Cause> {
    if let Ok(held) = circuit.connection(limits, endpoint) {
        return Ok(held);
    }
    let _pending = circuit.pool.pending(limits).map_err(|_| Cause::Overflow)?;
    let mut given_up = pin!(given_up);
    let line = endpoint.map(|(endpoint, _)| circuit.line(endpoint)).unwrap_or_default();
    loop {
        let (mut freed, mut own) = (pin!(circuit.freed.notified()), pin!(line.notified()));
        // From here on no connection's end is missed.
        freed.as_mut().enable();
        own.as_mut().enable();
        if let Ok(held) = circuit.connection(limits, endpoint) {
            return Ok(held);
        }
        tokio::select! {
            () = freed.as_mut() => {}
            () = own.as_mut() => {}
            cause = given_up.as_mut() => return Err(cause),
        }
    }
}

impl Room {
    /// With a connection of its own, if it needs one.
    pub(super) fn new(circuit: Arc<Circuit>, connection: Option<Connection>) -> Self {
        Self { circuit, connection, request: None }
    }

    /// Takes one of the requests that may be under way; false if there are too many.
    pub(super) fn admit(&mut self, limits: &PoolLimits) -> bool {
        self.request = self.circuit.pool.request(limits).ok().map(|held| (held, limits.retries));
        self.request.is_some()
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if let Some((held, retries)) = self.request.take() {
            drop(held);
            self.circuit.pool.ended(retries, clock::uptime());
        }
        if self.connection.take().is_some() {
            self.circuit.freed.notify_one();
        }
    }
}
