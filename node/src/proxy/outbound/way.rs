//! Where a request goes, or whom it was meant for.

use http::{HeaderValue, request::Parts};
use policy::route::{self, Addressed, NoRoute, Routed};

use super::{Cause, Requests, Way, forward};
use crate::snapshot::Snapshot;

/// Why a request goes nowhere.
pub(super) struct Missed {
    pub(super) cause: Cause,
    /// What it addressed, where that is known: its numbers are that one's.
    pub(super) host: Option<Addressed>,
}

impl From<Cause> for Missed {
    fn from(cause: Cause) -> Self {
        Self { cause, host: None }
    }
}

impl Requests<'_> {
    pub(super) fn way(&self, snapshot: &Snapshot, request: &forward::Outgoing) -> Result<Way, Missed> {
        let forward::Outgoing { head: forward::Head { parts, host }, user, .. } = request;
        let Some(entrance) = self.entrance else { return self.route(snapshot, parts, host).map(Way::Route) };
        let request = route::Request { token: user.as_deref(), ..self.policy_request(parts, host)? };
        Ok(entrance.enter(snapshot, &request)?)
    }

    fn route(&self, snapshot: &Snapshot, parts: &Parts, host: &HeaderValue) -> Result<Routed, Missed> {
        let request = self.policy_request(parts, host)?;
        if self.speaker.is_foreign(snapshot, request.authority, &parts.headers) {
            return Err(Cause::ForeignHost.into());
        }
        if self.meant.is_some_and(|meant| !meant.is(snapshot, &self.speaker.source, request.authority)) {
            return Err(Cause::Misdirected.into());
        }
        route::route(&snapshot.compiled, &*snapshot.services, &request).map_err(|no_route| {
            tracing::debug!(%no_route, "no route");
            match no_route {
                NoRoute::UnknownHost { .. } | NoRoute::NotImported { .. } => self.speaker.unknown(snapshot).into(),
                NoRoute::UnknownPort { host, .. } | NoRoute::NoMatch { host, .. } => {
                    Missed { cause: Cause::NoRoute, host: Some(host) }
                }
            }
        })
    }
}
