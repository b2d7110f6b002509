//! Connections of bytes of applications beside this node: the route, one endpoint after the other until an application takes the
//! connection, and then the bytes. Whoever has a connection and a route can have it led on: [`lead`], then [`Led::carry`].

use super::{
    Speaker,
    affinity::Affinity,
    attempt::{Way, lost},
    by_name::Brought,
    observe,
    transport::{GONE, LATE, transport},
};
use crate::{
    balance::{Ask, Tried, outlier::Outcome},
    clock,
    mesh::{
        Protocol,
        error::{Code, Reset},
        stream::VirtualStream,
    },
    proxy::{
        cluster::{Member, Reach, Served},
        context::Context,
        direct::{self, Proxied},
        failure::{Cause, Failure},
        flight::{Flight, Room},
        inbound::{self, Arrival, Refused},
        tcp::{Account, Answer, End, Side, Spans, relay},
    },
    snapshot::{Carries, Snapshot},
};
use policy::{
    kinds::Tunnel,
    route::{self, Called, Route},
};
use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Endpoints that one connection is offered to. Nothing of it was sent before one took it, so that trying elsewhere is always safe.
const ATTEMPTS: usize = 3;
/// For a stream to end that was refused, so that its connection can be used again.
const FAREWELL: Duration = Duration::from_secs(1);

/// Where an application's connection comes from and where it came in.
#[derive(Debug, Clone, Copy)]
pub(in crate::proxy) struct Ends {
    pub(in crate::proxy) remote: SocketAddr,
    pub(in crate::proxy) local: SocketAddr,
    /// Of a captured connection: where the application meant to go.
    pub(in crate::proxy) dialled: Option<SocketAddr>,
}

/// Serves one connection of an application. `server_name` is there if it is TLS, and empty if that asks for none.
pub(super) async fn serve(
    context: &Arc<Context>,
    speaker: &Speaker,
    stream: TcpStream,
    ends: Ends,
    server_name: Option<&str>,
) {
    let route = |snapshot: &Snapshot, account: &mut Account| {
        routed(context, speaker, snapshot, speaker.fixed.as_ref(), (ends, server_name), account)
    };
    pass(context, speaker, stream, (ends, server_name, None), route, std::future::pending()).await;
}

/// Passes a connection on along its route, to its end or until somebody ends it. `account` is the namespace of the caller for whom a
/// gateway speaks.
pub(in crate::proxy) async fn pass(
    context: &Arc<Context>,
    speaker: &Speaker,
    stream: impl Side,
    (ends, server_name, account): (Ends, Option<&str>, Option<&str>),
    route: impl FnOnce(&Snapshot, &mut Account) -> Result<(Arc<Route>, u16), Cause>,
    until: impl Future<Output = End>,
) {
    let snapshot = context.current.load();
    let mut counted = Account::new(observe::begin_connection(context, speaker, &snapshot, ends, server_name));
    let led = match route(&snapshot, &mut counted) {
        Ok((route, port)) => {
            let brought = Brought { port, dialled: ends.dialled, names: [speaker.fixed_host(), server_name], account };
            lead(context, speaker, &snapshot, &route, (brought, ends), &mut counted).await
        }
        Err(cause) => Err(cause),
    };
    // What is carried may last for days.
    drop(snapshot);
    match led {
        Ok(led) => {
            counted.opened();
            led.carry(context, stream, counted, until).await;
        }
        Err(cause) => {
            tracing::debug!(service = %speaker.service, ?cause, "a connection led nowhere");
            counted.failed(cause, None);
            stream.reset();
        }
    }
}

/// The route, and the port that is addressed.
pub(super) fn routed(
    context: &Context,
    speaker: &Speaker,
    snapshot: &Snapshot,
    called: Option<&(Called, u16)>,
    (ends, server_name): (Ends, Option<&str>),
    account: &mut Account,
) -> Result<(Arc<Route>, u16), Cause> {
    let known = called.filter(|(called, port)| speaker.protocol(snapshot, called, *port).is_some());
    let Some((called, port)) = known else {
        account.between(context.recorder(speaker.to_nothing()));
        return Err(Cause::NoRoute);
    };
    account.between(context.recorder(speaker.to_service(&speaker.addressed(snapshot, called))));
    let connection = route::Connection { called, port: *port, source: &speaker.source, address: Some(ends.local.ip()) };
    let route = match server_name {
        Some(name) => route::route_tls(&snapshot.compiled, &connection, name),
        None => route::route_tcp(&snapshot.compiled, &connection),
    };
    Ok((route, *port))
}

/// A connection that leads to an application, which has taken it and got nothing yet.
pub(in crate::proxy) struct Led {
    server: Server,
    spans: Spans,
    /// Its place at the endpoint and within the cluster's limits.
    flight: Flight,
}

enum Server {
    /// On another node.
    There(Box<VirtualStream>),
    /// Beside this one.
    Here(Box<Arrival>),
    /// Nobody's.
    Outside(direct::Stream),
}

/// Leads a connection along its route, which comes from there.
///
/// # Errors
/// Nobody takes it.
pub(in crate::proxy) async fn lead(
    context: &Arc<Context>,
    speaker: &Speaker,
    snapshot: &Arc<Snapshot>,
    route: &Arc<Route>,
    (brought, ends): (Brought<'_>, Ends),
    account: &mut Account,
) -> Result<Led, Cause> {
    let destination = route.choose(|| context.random()).ok_or(Cause::NoRoute)?;
    let (port, placed) = (brought.port, context.place(snapshot, speaker, destination, brought).await?);
    let mut tried = Tried::default();
    let mut attempt = 1;
    loop {
        // Looked up each time: a failure may have ejected whoever failed.
        let cluster = context.cluster(snapshot, speaker, route, destination, (port, placed.at), Carries::Bytes)?;
        account.between(Arc::clone(&cluster.nobody));
        account.takes(&route.name, &cluster.circuit.cluster);
        let key = cluster.consistent_hash();
        let hash = key.and_then(|key| Affinity::of_connection(key, ends.remote));
        let began = clock::uptime_micros();
        // Whoever took nothing is no better for being near.
        let ask = Ask { tried: &tried, leave: true, hash, random: context.random(), now: began / 1_000 };
        let position = cluster.pick(&ask)?;
        // A key's connections stay together, also when they fail.
        if key.is_none() {
            tried.add(position);
        }
        let member = &cluster.members[position];
        account.between(Arc::clone(&member.recorder));
        account.reaches_labelled(member.instance.labels());
        let proxied = cluster.proxied(ends.remote, ends.dialled.unwrap_or(ends.local));
        let (grpc, protocol, timed, by) = (false, Protocol::Tcp, false, placed.by.as_ref());
        let way = Way { context, speaker, snapshot, cluster: &cluster, by, grpc, protocol, timed, proxied };
        let address = way.address(member, port);
        account.reaches(address);
        match take(&way, member).await {
            Ok((server, flight)) => {
                account.transport(None);
                way.note(position, Outcome::Connected, began);
                return Ok(Led { server, spans: cluster.spans, flight });
            }
            Err(Failure { cause, transport }) => {
                account.transport(transport);
                way.failed(position, cause, began);
                way.avoid(address, cause);
                if attempt == ATTEMPTS || !may_try_elsewhere(cause) {
                    return Err(cause);
                }
            }
        }
        attempt += 1;
    }
}

fn may_try_elsewhere(cause: Cause) -> bool {
    matches!(cause, Cause::ConnectFailure | Cause::ResetBeforeRequest | Cause::RefusedStream | Cause::NotServedHere)
}

/// Offers a connection to a member.
async fn take(way: &Way<'_>, member: &Member) -> Result<(Server, Flight), Failure> {
    let (cluster, instance) = (way.cluster, &member.instance);
    let active = instance.stats().begin();
    let room = match &cluster.table.limits {
        Some(limits) => {
            let connection = cluster.circuit.connection(limits, None).map_err(|_| Cause::Overflow)?;
            Some(Room::new(Arc::clone(&cluster.circuit), Some(connection)))
        }
        None => None,
    };
    let taken = async {
        let mut server = match &member.reach {
            Reach::Mesh(served) if served.endpoint.local => here(way, served).await?,
            Reach::Mesh(served) => there(way, served).await?,
            Reach::Outside(_) => Server::Outside(way.open_outside(way.address(member, 0)).await?),
        };
        server.prepare(way).await.map_err(|error| {
            tracing::debug!(%error, "a connection was opened and cannot be used");
            Failure { cause: Cause::ConnectFailure, transport: Some(error.to_string().into()) }
        })?;
        Ok::<_, Failure>(server)
    };
    let given_up = |why: &str| Failure { cause: Cause::ConnectFailure, transport: Some(why.into()) };
    let server = tokio::select! {
        biased;
        server = taken => server?,
        // Nobody waits out the dialling of a node that is known to be dead by now.
        () = lost(instance) => return Err(given_up(GONE)),
        () = tokio::time::sleep(cluster.connect_timeout) => return Err(given_up(LATE)),
    };
    Ok((server, Flight::new(active, room)))
}

impl Server {
    /// Sends ahead what the policy wants there: to an endpoint outside the PROXY protocol's header has gone before its TLS.
    async fn prepare(&mut self, way: &Way<'_>) -> io::Result<()> {
        let proxied = way.proxied.filter(|_| !matches!(self, Self::Outside(_)));
        let tunnel = way.cluster.table.policy.tunnel.as_ref();
        if proxied.is_none() && tunnel.is_none() {
            return Ok(());
        }
        match self {
            Self::There(stream) => ahead(&mut **stream, proxied, tunnel).await,
            Self::Here(arrival) => ahead(&mut arrival.stream, proxied, tunnel).await,
            Self::Outside(stream) => ahead(stream, proxied, tunnel).await,
        }
    }
}

async fn ahead(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    proxied: Option<Proxied>,
    tunnel: Option<&Tunnel>,
) -> io::Result<()> {
    if let Some(proxied) = proxied {
        proxied.write(stream).await?;
    }
    match tunnel {
        Some(tunnel) => direct::ask(stream, tunnel).await,
        None => Ok(()),
    }
}

async fn here(way: &Way<'_>, member: &Served) -> Result<Server, Cause> {
    let opened = inbound::open(way.context, way.caller(member)).await;
    opened.map(|arrival| Server::Here(Box::new(arrival))).map_err(|Refused(cause)| cause)
}

async fn there(way: &Way<'_>, member: &Served) -> Result<Server, Failure> {
    let opened = way.context.mesh.tunnel(&way.call(member)).await;
    let mut stream = opened.map_err(|error| Failure {
        // Nothing was sent, so that no failure is the caller's own.
        cause: way.unreached(member, &error).unwrap_or(Cause::ConnectFailure),
        transport: transport(&error),
    })?;
    match Answer::read(&mut stream).await {
        Ok(Answer::Open) => Ok(Server::There(Box::new(stream))),
        Ok(Answer::Refused(cause)) => {
            let left = async {
                stream.shutdown().await?;
                stream.read(&mut [0]).await
            };
            // One that does not end is dropped, and its connection with it.
            drop(timeout(FAREWELL, left).await);
            Err(cause.into())
        }
        Err(error) if is_refusal(&error) => Err(Cause::RefusedStream.into()),
        Err(error) => {
            tracing::debug!(endpoint = %member.endpoint.id, %error, "a stream ended before its answer");
            way.context.report_failure(&member.endpoint.id.node);
            Err(Failure { cause: Cause::ResetBeforeRequest, transport: Some(error.to_string().into()) })
        }
    }
}

/// True if the other node drains.
fn is_refusal(error: &io::Error) -> bool {
    let reset = error.get_ref().and_then(|error| error.downcast_ref::<Reset>());
    reset.is_some_and(|reset| reset.code == Code::Refused)
}

impl Led {
    /// Carries the bytes of a caller until the end, which `until` may bring on.
    pub(in crate::proxy) async fn carry(
        self,
        context: &Context,
        caller: impl Side,
        account: Account,
        until: impl Future<Output = End>,
    ) {
        let Self { server, spans, flight } = self;
        let stopped = async {
            tokio::select! {
                () = context.cut() => End::Stopped,
                end = until => end,
            }
        };
        match server {
            Server::There(stream) => relay(&context.budget, (caller, *stream), &mut [account], spans, stopped).await,
            Server::Outside(stream) => relay(&context.budget, (caller, stream), &mut [account], spans, stopped).await,
            Server::Here(arrival) => {
                let (application, inner, denied) = arrival.split();
                let until = async {
                    tokio::select! {
                        end = denied => end,
                        end = stopped => end,
                    }
                };
                relay(&context.budget, (caller, application), &mut [account, inner], spans, until).await;
            }
        }
        drop(flight);
    }
}
