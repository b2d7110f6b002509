//! Connections of bytes that come in at a gateway: whatever a TCP server gets, what comes out of TLS that ends here, and TLS that
//! is passed on unopened. They are judged as at any service, when they come and whenever the rules change.

use super::door::{Door, Met};
use crate::{
    proxy::{
        context::Context,
        failure::Cause,
        inbound::{Who, report},
        outbound::{self, Ends},
        tcp::{Account, End, Side},
    },
    snapshot::Snapshot,
};
use policy::{
    authorize::Decision,
    compile::{Behind, Bytes, Doors, Serves},
    route::{self, Called, Connection, Route},
};
use std::{net::IpAddr, sync::Arc};

/// A connection of a client.
pub(super) struct Client {
    pub(super) ends: Ends,
    /// Whence the connection itself comes.
    pub(super) peer: IpAddr,
    /// The peer who called the gateway's service on this node, where that led here.
    pub(super) sender: Option<Arc<Who>>,
    /// Where TLS ended here.
    pub(super) met: Option<Met>,
    /// The name that it asks TLS for; empty for none, absent where it speaks no TLS.
    pub(super) server_name: Option<String>,
}

/// What of a connection depends on the door's servers.
enum Came<'c> {
    /// Nothing: it speaks no TLS.
    Plain,
    /// TLS ended here.
    Met(&'c Met),
    /// TLS is passed on by this name.
    Unopened(Option<&'c str>),
}

/// Serves a connection to its end.
pub(super) async fn serve(context: &Arc<Context>, door: &Door, stream: impl Side, client: Client) {
    let speaker = door.speaker.load_full();
    // From here on no change of the rules is missed.
    let mut changes = context.rules.subscribe();
    let name = client.server_name.as_deref().filter(|name| !name.is_empty());
    let outsider = || Arc::new(Who::client(&speaker, door.port, name, (client.peer, client.ends.local.ip())));
    let original = client.sender.is_none().then_some(client.ends.remote.ip());
    let who = client.sender.clone().unwrap_or_else(outsider);
    let route = |snapshot: &Snapshot, account: &mut Account| {
        account.between(context.recorder(speaker.to_nothing()));
        if !who.is_of_mesh() && door.is_of_mesh(snapshot) {
            return Err(Cause::PlaintextRefused);
        }
        let decision = judged((&who, original), door, snapshot);
        report(context, &who, || format!("a connection to port {}", door.port), &decision);
        if !decision.allowed() {
            return Err(Cause::Denied);
        }
        let doors = &door.look(snapshot).doors;
        let called = Called::Service(speaker.service.clone());
        let at = Connection {
            called: &called,
            port: door.port,
            source: &speaker.source,
            address: Some(client.ends.local.ip()),
        };
        let route = client.route(door, doors, &at).ok_or(Cause::NoRoute)?;
        Ok((route, door.port))
    };
    let came = match &client.met {
        Some(met) => Came::Met(met),
        None if client.server_name.is_some() => Came::Unopened(name),
        None => Came::Plain,
    };
    let until = ended(context, door, (&who, original), came, &mut changes);
    let how = (client.ends, client.server_name.as_deref(), who.namespace());
    outbound::pass(context, &speaker, stream, how, route, until).await;
}

impl Client {
    fn route(&self, door: &Door, doors: &Doors, at: &Connection<'_>) -> Option<Arc<Route>> {
        let tcp = |bytes: &Bytes| route::enter_tcp(bytes, at);
        let listener = doors.listener(door.bind.as_ref(), door.port)?;
        match &listener.serves {
            Serves::Plain(_) => None,
            Serves::Bytes(bytes) => tcp(bytes),
            Serves::Tls(_) => match &self.met {
                Some(met) => match &met.server(listener)?.behind {
                    Behind::Bytes(bytes) => tcp(bytes),
                    Behind::Requests(_) | Behind::Unopened(_) => None,
                },
                None => {
                    let name = self.server_name.as_deref().unwrap_or_default();
                    match &listener.tls_server(Some(name).filter(|name| !name.is_empty()))?.behind {
                        Behind::Unopened(bytes) => route::enter_tls(bytes, at, name),
                        Behind::Requests(_) | Behind::Bytes(_) => None,
                    }
                }
            },
        }
    }
}

fn judged((who, original): (&Who, Option<IpAddr>), door: &Door, snapshot: &Snapshot) -> Decision {
    door.look(snapshot).workload.authorizer.decide_connection(&who.peer(door.port, original))
}

/// Resolves when the rules forbid what they allowed, or the client must go.
async fn ended(
    context: &Context,
    door: &Door,
    (who, original): (&Who, Option<IpAddr>),
    came: Came<'_>,
    changes: &mut tokio::sync::watch::Receiver<u64>,
) -> End {
    loop {
        let snapshot = context.current.load();
        if door.is_over() {
            return End::Stopped;
        }
        let is_barred = !who.is_of_mesh() && door.is_of_mesh(&snapshot);
        let is_replaced = match came {
            Came::Plain => false,
            Came::Met(met) => door.is_replaced(&snapshot, met),
            Came::Unopened(name) => door.passes_no_more(&snapshot, name),
        };
        if is_barred || is_replaced || !judged((who, original), door, &snapshot).allowed() {
            tracing::info!(client = %who.address, gateway = %who.service, "ended a connection that policy denies now");
            return End::Denied;
        }
        drop(snapshot);
        if changes.changed().await.is_err() {
            // No rules come any more.
            return std::future::pending().await;
        }
    }
}
