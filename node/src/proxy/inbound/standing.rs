//! What was admitted and has not ended: answers that are awaited, responses under way, tunnels. All of it is judged again when the
//! rules change, and ends when it would be denied now.
//!
//! Each judges itself, in its own task, so a change costs a worker no long pause however much stands; a change of anything but
//! the rules costs nothing.

use super::{
    super::{context::Context, failure::Cause, gateway::Entrance, http::Completion},
    admission::Arriving,
    caller::Who,
};
use crate::snapshot::Snapshot;
use http::{Extensions, HeaderValue, Version, request::Parts};
use policy::{compile::Workload, token::Verified};
use std::{fmt, net::IpAddr, pin::Pin, sync::Arc, task};
use tokio::sync::watch;

/// What is kept of a request that was admitted.
#[derive(Debug, Clone)]
pub(in crate::proxy) struct Standing {
    request: Arc<Admitted>,
    /// The connection to a gateway's port by which it came there.
    entrance: Option<Arc<Entrance>>,
    changes: watch::Receiver<u64>,
}

/// See [`Standing`].
pub(super) struct Admitted {
    context: Arc<Context>,
    place: Place,
    who: Arc<Who>,
    /// As HTTP/1.1 carries it on.
    pub(super) parts: Parts,
    pub(super) host: HeaderValue,
    /// The client for which a gateway speaks.
    original: Option<IpAddr>,
    /// Of its user.
    token: Option<Verified>,
    /// The way in which it came carries trailers.
    trailers: bool,
}

/// Where it was admitted.
enum Place {
    /// Before an application.
    Application,
    /// At a gateway's port.
    Door(AtDoor),
}

/// What the documents say of a gateway's workload.
type AtGateway = dyn Fn(&Snapshot) -> Arc<Workload> + Send + Sync;

/// A gateway's port.
pub(in crate::proxy) struct AtDoor {
    /// What holds there now.
    pub(in crate::proxy) rules: Box<AtGateway>,
    pub(in crate::proxy) port: u16,
    /// By what the request came there.
    pub(in crate::proxy) scheme: &'static str,
}

impl fmt::Debug for Admitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admitted").field("who", &self.who).field("parts", &self.parts).finish_non_exhaustive()
    }
}

impl Standing {
    /// Of a request as it was admitted before an application; it came by this version. `changes` of the rules were looked for since
    /// before it was admitted: none is missed while it waits.
    pub(super) fn new(
        (context, changes): (&Arc<Context>, watch::Receiver<u64>),
        (who, original): (&Arc<Who>, Option<IpAddr>),
        head: (Parts, HeaderValue),
        token: Option<Verified>,
        came: Version,
    ) -> Self {
        Self::of((context, changes), Place::Application, (who, original), head, token, came)
    }

    /// The same of a client's request at a gateway.
    pub(in crate::proxy) fn at_door(
        context: &Arc<Context>,
        door: AtDoor,
        client: (&Arc<Who>, Option<IpAddr>),
        head: (Parts, HeaderValue),
        token: Option<Verified>,
    ) -> Self {
        let (came, changes) = (head.0.version, context.rules.subscribe());
        Self::of((context, changes), Place::Door(door), client, head, token, came)
    }

    fn of(
        (context, changes): (&Arc<Context>, watch::Receiver<u64>),
        place: Place,
        (who, original): (&Arc<Who>, Option<IpAddr>),
        (mut parts, host): (Parts, HeaderValue),
        token: Option<Verified>,
        came: Version,
    ) -> Self {
        // They hold the connection that may become a tunnel.
        parts.extensions = Extensions::new();
        let (context, who) = (Arc::clone(context), Arc::clone(who));
        let trailers = came == Version::HTTP_2;
        let request = Admitted { context, place, who, parts, host, original, token, trailers };
        Self { request: Arc::new(request), entrance: None, changes }
    }

    /// The same at a gateway's port, to which it has come.
    ///
    /// # Errors
    /// That is for callers of the mesh alone, and its caller is none. What else the documents ask of it was looked at on its way in.
    pub(in crate::proxy) fn at(mut self, entrance: &Arc<Entrance>) -> Result<Self, Cause> {
        if self.is_kept_out(entrance, &self.request.context.current.load()) {
            return Err(Cause::PlaintextRefused);
        }
        self.entrance = Some(Arc::clone(entrance));
        Ok(self)
    }

    /// Who sent it.
    pub(in crate::proxy) fn who(&self) -> &Who {
        &self.request.who
    }

    /// True if the gateway's port to which it came serves callers of the mesh alone, and its caller is none.
    fn is_kept_out(&self, entrance: &Entrance, snapshot: &Snapshot) -> bool {
        !self.request.who.is_of_mesh() && entrance.is_of_mesh(snapshot)
    }

    /// True if it is served no more at the gateway's port to which it came: nobody would get there as its client did, or only callers of
    /// the mesh would.
    fn is_barred(&self) -> bool {
        self.entrance.as_ref().is_some_and(|entrance| {
            let snapshot = self.request.context.current.load();
            entrance.is_over(&snapshot) || self.is_kept_out(entrance, &snapshot)
        })
    }

    /// The request.
    pub(super) fn admitted(&self) -> Arc<Admitted> {
        Arc::clone(&self.request)
    }

    /// Resolves when the request would not be let in any more.
    pub(in crate::proxy) async fn forbidden(&mut self) {
        loop {
            if self.changes.changed().await.is_err() {
                // No rules come any more.
                return std::future::pending().await;
            }
            if self.is_barred() || !self.request.is_allowed() {
                return self.report();
            }
        }
    }

    /// True if the rules have changed since they were last looked at, and forbid it now.
    pub(super) fn is_forbidden(&mut self) -> bool {
        // An error means that no rules come any more.
        if !self.changes.has_changed().unwrap_or(false) {
            return false;
        }
        self.changes.mark_unchanged();
        let forbidden = self.is_barred() || !self.request.is_allowed();
        if forbidden {
            self.report();
        }
        forbidden
    }

    fn report(&self) {
        let who = &self.request.who;
        tracing::info!(source = who.name(), service = %who.service, "ended a stream that policy denies now");
    }
}

impl Admitted {
    /// External authorisers are not consulted again: neither the one that admitted it nor one that a later policy adds.
    fn is_allowed(&self) -> bool {
        let (snapshot, who) = (self.context.current.load(), &*self.who);
        let (workload, port, scheme) = match &self.place {
            Place::Door(door) => ((door.rules)(&snapshot), door.port, door.scheme),
            Place::Application => match who.judged_again(&snapshot, &self.context.local.load()) {
                Ok(Some((workload, port))) => (workload, port, "http"),
                Ok(None) => return true,
                Err(_) => return false,
            },
        };
        let (host, original) = (&self.host, self.original);
        let arriving = Arriving { who, port, host, scheme, original };
        // A token of an issuer that is believed no more says nothing any more.
        let token = self.token.as_ref().filter(|verified| workload.tokens.believe(verified));
        let token = token.map(|verified| &*verified.token);
        workload.authorizer.is_open()
            || arriving.decide(&workload, &self.parts, token).is_ok_and(|decision| decision.allowed())
    }
}

/// Watches over a response while its body is under way. Nothing is allocated for one that never lets its reader wait.
pub(in crate::proxy) struct Watch {
    state: State,
    /// The way to the caller carries trailers.
    trailers: bool,
    /// Of the request's body.
    sent: Completion,
}

enum State {
    Idle(Standing),
    Waiting(Pin<Box<dyn Future<Output = ()> + Send>>),
}

impl Watch {
    pub(in crate::proxy) fn new(standing: Standing, sent: Completion) -> Self {
        Self { trailers: standing.request.trailers, state: State::Idle(standing), sent }
    }

    /// True if the response may end with trailers. Not while the caller still sends: an orderly end of one direction leaves the
    /// other open, and what is denied would go on arriving.
    pub(in crate::proxy) fn may_end_in_order(&self) -> bool {
        self.trailers && self.sent.is_complete()
    }

    /// True if the response must end. `waits`: there is nothing else to wake its reader.
    pub(in crate::proxy) fn is_over(&mut self, waits: bool, context: &mut task::Context<'_>) -> bool {
        if let State::Idle(standing) = &mut self.state {
            if standing.is_forbidden() {
                return true;
            }
            if !waits {
                return false;
            }
            let mut standing = standing.clone();
            self.state = State::Waiting(Box::pin(async move { standing.forbidden().await }));
        }
        match &mut self.state {
            State::Waiting(forbidden) => forbidden.as_mut().poll(context).is_ready(),
            State::Idle(_) => false,
        }
    }
}

/// Tells one worker's requests of every change of what they are admitted by: policy, the services beside this node, and what ends
/// connections to its gateways.
pub(in crate::proxy) async fn watch_rules(context: Arc<Context>) {
    let (mut worlds, mut reloads) = (context.current.subscribe(), context.reloads.subscribe());
    let mut evictions = context.evictions.subscribe();
    let mut seen = context.basis();
    loop {
        let changed = tokio::select! {
            changed = worlds.changed() => changed.map(|()| false),
            changed = reloads.changed() => changed.map(|()| false),
            changed = evictions.changed() => changed.map(|()| true),
        };
        let Ok(is_eviction) = changed else { return std::future::pending().await };
        let now = context.basis();
        if is_eviction || now != seen {
            seen = now;
            context.rules.send_modify(|count| *count += 1);
        }
    }
}
