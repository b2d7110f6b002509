//! What the DestinationRule that a service's own namespace has for it says of connections, in front of the application: as in
//! Istio, `connectionPool` holds at both ends, and here the workload's Sidecar has the last word.

use super::{
    super::{
        failure::Cause,
        flight::{Flight, Room, connection},
    },
    app::{self, Terms},
    caller::Who,
};
use crate::{
    balance::PoolLimits,
    snapshot::{Circuit, Circuits, Snapshot},
};
use http::Version;
use policy::route::{self, Action, ClusterPolicy};
use std::{collections::BTreeMap, sync::Arc};

/// See the module. One for each port of a service beside this node, and each caller.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) terms: Terms,
    /// `useClientProtocol`.
    uses_callers: bool,
    /// What may be under way, where that is limited: counted by all workers and for all callers together.
    limits: Option<(PoolLimits, Arc<Circuit>)>,
}

impl Pool {
    /// Of the called port, by what holds now.
    pub(super) fn of(circuits: &Circuits, snapshot: &Snapshot, who: &Who, labels: &BTreeMap<String, String>) -> Self {
        let config = snapshot.compiled.config();
        let routed = route::to_service(&snapshot.compiled, &who.service, who.port, who.service.namespace());
        let policy = match &routed.route.action {
            Action::Forward(destinations) => destinations.first().map(|one| one.common.policy(who.port)),
            Action::Redirect(_) | Action::Direct(_) => None,
        };
        let mut policy = policy.map_or_else(ClusterPolicy::default, |policy| ClusterPolicy::clone(policy));
        let scope = snapshot.compiled.scope_of(who.service.namespace(), labels);
        if let Some(pool) = scope.inbound_pool(who.port) {
            policy.connection_pool = pool.clone();
        }
        let policy = &policy;
        let limits = PoolLimits::from(policy);
        let limited = limits != PoolLimits::default();
        let circuit = || {
            let instance = who.instance.as_ref().map(|instance| format!("/{instance}")).unwrap_or_default();
            circuits.of(&format!("{}{instance}", who.service), &who.service, format!("inbound|{}||", who.port))
        };
        Self {
            terms: Terms::of_application(policy, config),
            uses_callers: policy.connection_pool.http.use_client_protocol,
            limits: limited.then(|| (limits, circuit())),
        }
    }

    /// How the application is spoken to about a request that came by this version.
    pub(super) fn version(&self, declared: app::Version, came: Version) -> app::Version {
        match (self.uses_callers, came) {
            (false, _) => declared,
            (true, Version::HTTP_2) => app::Version::Http2,
            (true, _) => app::Version::Http1,
        }
    }

    pub(super) const fn is_limited(&self) -> bool {
        self.limits.is_some()
    }

    /// Room for a request; none where nothing is limited. Who finds no connection waits until it is given up.
    ///
    /// # Errors
    /// There is none.
    pub(super) async fn room(
        &self,
        version: app::Version,
        given_up: impl Future<Output = Cause>,
    ) -> Result<Option<Flight>, Cause> {
        let Some((limits, circuit)) = &self.limits else { return Ok(None) };
        let of_connections = match version {
            app::Version::Http1 => Some(*limits),
            app::Version::Http2 => limits.multiplexed(),
        };
        let held = match of_connections {
            None => None,
            Some(limits) => Some(connection(circuit, &limits, None, given_up).await?),
        };
        let mut room = Room::new(Arc::clone(circuit), held);
        if room.admit(limits) { Ok(Some(Flight::of_application(room))) } else { Err(Cause::Overflow) }
    }
}

impl Pool {
    /// Room for a connection of bytes; none where nothing is limited. Nobody waits for it.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn connection(&self) -> Result<Option<Flight>, Cause> {
        let Some((limits, circuit)) = &self.limits else { return Ok(None) };
        let held = circuit.connection(limits, None).map_err(|_| Cause::Overflow)?;
        Ok(Some(Flight::of_application(Room::new(Arc::clone(circuit), Some(held)))))
    }
}
