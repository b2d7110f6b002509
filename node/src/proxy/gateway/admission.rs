//! Whether a client's request is let in: by what holds for the gateway's workload, external authorisers, users' tokens, policies
//! and limits, in this order. Istio judges at gateways as it does before applications.

use super::{LetIn, door::Entrance};
use crate::http1::copy_head;
use crate::proxy::{
    context::Context,
    failure::Cause,
    http::{self as body, Incoming, RequestBody},
    inbound::{Arriving, AtDoor, Next, Refusal, Standing, Told, Who},
};
use http::{HeaderValue, request::Parts};
use policy::authorize::Token;
use std::{net::IpAddr, sync::Arc};

/// A request that was let in.
pub(in crate::proxy) struct Admitted {
    pub(in crate::proxy) body: Incoming,
    /// The claims of its user if it shows a token.
    pub(in crate::proxy) user: Option<Arc<Token>>,
    /// Judged again when the rules change.
    pub(in crate::proxy) standing: Standing,
}

impl Entrance {
    /// Takes a request that was judged before this node brought it here, but for what only the gateway's port asks.
    ///
    /// # Errors
    /// The port is for callers of the mesh alone.
    pub(in crate::proxy) fn take(self: &Arc<Self>, let_in: LetIn, body: Incoming) -> Result<Admitted, Refusal> {
        let LetIn { user, standing, .. } = let_in;
        Ok(Admitted { body, user, standing: standing.at(self)? })
    }

    /// Judges a request that was received, and gives its body back. A path at which some rule looks is forwarded in the form in which the
    /// rules saw it; what authorisers and tokens change of the head is what is routed.
    ///
    /// # Errors
    /// It is not let in.
    pub(in crate::proxy) async fn admit(
        self: &Arc<Self>,
        context: &Arc<Context>,
        (parts, mut incoming): (&mut Parts, Incoming),
        host: &HeaderValue,
        local: IpAddr,
        told: &mut Told,
    ) -> Result<Admitted, Refusal> {
        let who = self.client(local);
        if !who.is_of_mesh() && self.door.is_of_mesh(&context.current.read()) {
            return Err(Cause::PlaintextRefused.into());
        }
        let original = self.external(&parts.headers);
        let scheme = self.scheme(&parts.headers);
        let arriving = Arriving { who: &who, port: self.door.port, host, scheme, original };
        loop {
            let due = {
                // Rules that change while somebody is asked count at once.
                let snapshot = context.current.load();
                let seen = self.door.look(&snapshot);
                let rules = (&*seen.workload, seen.counted.as_slice());
                match arriving.next(context, &snapshot, rules, parts, told, false)? {
                    Next::Ask(due) => due,
                    Next::Go(verified) => {
                        let door = Arc::clone(&self.door);
                        let rules = Box::new(move |snapshot: &_| Arc::clone(&door.look(snapshot).workload));
                        let place = AtDoor { rules, port: self.door.port, scheme };
                        let user = verified.as_ref().map(|verified| Arc::clone(&verified.token));
                        let head = (copy_head(parts), host.clone());
                        let standing = Standing::at_door(context, place, (&who, original), head, verified);
                        let standing = standing.at(self)?;
                        return Ok(Admitted { body: incoming, user, standing });
                    }
                }
            };
            let patience = body::patience(&context.limits(), &parts.headers);
            let mut body = RequestBody::once(incoming, &context.budget, patience);
            // Boxed, so that the many requests about which nobody is asked need no room for it.
            Box::pin(told.outside.ask(context, &arriving, due, parts, &mut body)).await?;
            incoming = Incoming::begun(body);
        }
    }

    /// Who opened the connection. The gateway's service changes with the configuration.
    fn client(&self, local: IpAddr) -> Arc<Who> {
        if let Some(sender) = &self.sender {
            return Arc::clone(sender);
        }
        let speaker = self.speaker().load();
        if let Some(known) = &*self.client.load()
            && known.0 == speaker.id
        {
            return Arc::clone(&known.1);
        }
        let who = Arc::new(Who::client(&speaker, self.door.port, self.server_name(), (self.peer, local)));
        self.client.store(Some(Arc::new((speaker.id, Arc::clone(&who)))));
        who
    }
}
