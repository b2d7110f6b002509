//! What the DestinationRule that a service's own namespace has for it says of connections, in front of the application: as in
//! Istio, `connectionPool` holds at both ends.

use super::{
    super::{
        failure::Cause,
        flight::{Flight, Room, connection},
    },
    app::Terms,
    caller::Who,
};
use crate::{
    balance::PoolLimits,
    config::Protocol,
    snapshot::{Circuit, Circuits, Snapshot},
};
use http::Version;
use policy::{
    kinds::MeshConfig,
    route::{self, Action, ClusterPolicy},
};
use std::{sync::Arc, time::Duration};

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
    pub(super) fn of(circuits: &Circuits, snapshot: &Snapshot, who: &Who) -> Self {
        let config = snapshot.compiled.config();
        let routed = route::to_service(&snapshot.compiled, &who.service, who.port, who.service.namespace());
        let policy = match &routed.route.action {
            Action::Forward(destinations) => destinations.first().map(|one| one.common.policy(who.port)),
            Action::Redirect(_) | Action::Direct(_) => None,
        };
        let Some(policy) = policy else {
            return Self { terms: terms(&ClusterPolicy::default(), config), uses_callers: false, limits: None };
        };
        let limits = PoolLimits::from(&**policy);
        let limited = limits != PoolLimits::default();
        let circuit = || {
            let instance = who.instance.as_ref().map(|instance| format!("/{instance}")).unwrap_or_default();
            circuits.of(&format!("{}{instance}", who.service), &who.service, format!("inbound|{}||", who.port))
        };
        Self {
            terms: terms(policy, config),
            uses_callers: policy.connection_pool.http.use_client_protocol,
            limits: limited.then(|| (limits, circuit())),
        }
    }

    /// How the application is spoken to about a request that came by this version.
    pub(super) fn protocol(&self, declared: Protocol, came: Version) -> Protocol {
        match (self.uses_callers, came) {
            (false, _) => declared,
            (true, Version::HTTP_2) if declared == Protocol::Http => Protocol::Http2,
            (true, Version::HTTP_2) => declared,
            (true, _) => Protocol::Http,
        }
    }

    pub(super) const fn is_limited(&self) -> bool {
        self.limits.is_some()
    }

    /// Room for a request; none where nothing is limited. Who finds no connection waits as long as one may take to open.
    ///
    /// # Errors
    /// There is none.
    pub(super) async fn room(&self, protocol: Protocol) -> Result<Option<Flight>, Cause> {
        let Some((limits, circuit)) = &self.limits else { return Ok(None) };
        let of_connections = match protocol {
            Protocol::Http => Some(*limits),
            Protocol::Http2 | Protocol::Grpc => limits.multiplexed(),
        };
        let held = match of_connections {
            None => None,
            Some(limits) => {
                let given_up = async {
                    tokio::time::sleep(self.terms.connect).await;
                    Cause::Overflow
                };
                Some(connection(circuit, &limits, false, given_up).await?)
            }
        };
        let mut room = Room::new(Arc::clone(circuit), held);
        if room.admit(limits) { Ok(Some(Flight::of_application(room))) } else { Err(Cause::Overflow) }
    }
}

fn terms(policy: &ClusterPolicy, config: &MeshConfig) -> Terms {
    let (tcp, http) = (&policy.connection_pool.tcp, &policy.connection_pool.http);
    Terms {
        connect: tcp.connect_timeout.unwrap_or(config.connect_timeout),
        requests: http.max_requests_per_connection.unwrap_or(u32::MAX),
        streams: http.max_concurrent_streams.unwrap_or(u32::MAX),
        idle: http.idle_timeout.unwrap_or(Duration::MAX),
        age: tcp.max_connection_duration.unwrap_or(Duration::MAX),
        pings: http.http2_keepalive,
    }
}
