//! Connections that a request turned into a tunnel: judged again at every change of the world, and closed when the request would be
//! denied now.

use super::{
    super::{context::Context, local::Local},
    admission::Arriving,
    caller::{self, Who},
};
use crate::snapshot::Current;
use arc_swap::ArcSwap;
use http::{HeaderValue, request::Parts};
use std::sync::Arc;

/// What is kept of a request that asks for a tunnel. It goes with the answer to whoever joins the two connections.
#[derive(Debug, Clone)]
pub(in crate::proxy) struct Tunnel(Arc<Standing>);

#[derive(Debug)]
struct Standing {
    current: Current,
    local: Arc<ArcSwap<Local>>,
    who: Arc<Who>,
    parts: Parts,
    host: HeaderValue,
}

impl Tunnel {
    /// Of a request as it was admitted.
    pub(super) fn new(context: &Context, who: &Arc<Who>, parts: &Parts, host: &HeaderValue) -> Self {
        let mut parts = parts.clone();
        // They hold the connection that is to become a tunnel.
        parts.extensions = http::Extensions::new();
        let (current, local) = (context.current.clone(), Arc::clone(&context.local));
        Self(Arc::new(Standing { current, local, who: Arc::clone(who), parts, host: host.clone() }))
    }

    /// Resolves when the request would not be let in any more.
    pub(in crate::proxy) async fn forbidden(&self) {
        let mut changes = self.0.current.subscribe();
        while self.0.is_allowed() {
            if changes.changed().await.is_err() {
                // No world comes any more.
                return std::future::pending().await;
            }
        }
        tracing::info!(source = %self.0.who.identity, service = %self.0.who.service, "closed a tunnel that policy denies now");
    }
}

impl Standing {
    fn is_allowed(&self) -> bool {
        let (snapshot, local, who) = (self.current.load(), self.local.load(), &*self.who);
        // A service that is gone says nothing of the connections that it still has.
        let Some((service, port)) = local.port(&who.service, who.instance.as_deref(), &who.account, who.port) else {
            return true;
        };
        let workload = caller::workload(&snapshot, service);
        let arriving = Arriving { who, port: port.target.port(), host: &self.host };
        workload.authorizer.is_open()
            || arriving.decide(&workload, &self.parts).is_ok_and(|(decision, _)| decision.allowed())
    }
}
