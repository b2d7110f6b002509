//! Gateways: ports for clients outside the mesh, as Gateway documents say. A request that comes in at one takes the way of an
//! application's, with the gateway's service as its caller; who sent it is told in headers that nobody else can set.
//!
//! [`keep_doors`] opens and closes the ports when policy or configuration changes; [`serve`] serves one connection.

mod admission;
mod bytes;
mod door;
mod forwarded;
mod keeper;
mod proxied;
mod tls;
mod within;

pub(super) use admission::Admitted;
pub(super) use door::{Clients, Door, Entrance, Way};
pub use keeper::{DRAIN as GATEWAY_DRAIN, keep_doors};
pub(super) use within::{Known, LetIn, MadeFor};

use super::{
    context::Context,
    detect,
    http::Bounds,
    listen,
    outbound::{self, Ends},
};
use crate::mesh::crowd::Place;
use door::{Met, Refused, Spoken};
use policy::{hosts::Protocol, kinds::Limits};
use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};

/// Serves one connection of a client.
pub(super) async fn serve(context: Arc<Context>, door: Arc<Door>, stream: TcpStream, peer: SocketAddr) {
    listen::tune(&stream);
    let Ok(local) = stream.local_addr() else { return };
    let made_for = context.clients.made_for(peer);
    // What not every connection needs for as long as it lives is boxed.
    let met = tokio::select! {
        met = Box::pin(meet_client(&context, &door, stream, (peer, made_for.is_some()))) => met,
        () = door.closed() => return,
        () = context.draining() => return,
    };
    let (begun, remote, place) = match met {
        Ok(met) => met,
        Err(error) => {
            if made_for.is_none() && error.kind() == io::ErrorKind::TimedOut {
                context.clients.count(Refused::TimedOut);
            }
            return tracing::debug!(%error, "a client's connection came to nothing");
        }
    };
    let sender = match made_for {
        Some(MadeFor::Peer(who)) => Some(who),
        Some(MadeFor::Requests) | None => None,
    };
    // What this node made itself comes from whoever it was made for, whose port nobody knows.
    let remote = sender.as_ref().map_or(remote, |sender| SocketAddr::new(sender.address, 0));
    let (ends, peer) = (Ends { remote, local, dialled: None }, peer.ip());
    let bytes = |met, server_name| bytes::Client { ends, peer, sender: sender.clone(), met, server_name };
    let entrance = |met| Entrance::new(Arc::clone(&door), met, peer, sender.clone());
    let serving = async {
        match begun {
            Begun::Http { stream, is_http2 } => {
                outbound::serve_client(&context, stream, entrance(None), is_http2, (remote, local)).await;
            }
            Begun::Met(stream, met) if !met.configured.requests => {
                let name = met.name.clone().unwrap_or_default();
                Box::pin(bytes::serve(&context, &door, *stream, bytes(Some(met), Some(name)))).await;
            }
            Begun::Met(stream, met) => {
                let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                outbound::serve_client(&context, stream, entrance(Some(met)), is_http2, (remote, local)).await;
            }
            Begun::Bytes { stream, server_name } => {
                Box::pin(bytes::serve(&context, &door, stream, bytes(None, server_name))).await;
            }
        }
    };
    listen::holding(place, serving).await;
}

/// Learns who the client is, and what the connection carries. One client alone cannot keep the others out: its place is held with it.
/// What this node made itself is within the limits of the mesh, and no balancer brought it.
async fn meet_client(
    context: &Context,
    door: &Door,
    mut stream: TcpStream,
    (peer, is_within): (SocketAddr, bool),
) -> io::Result<(Begun, SocketAddr, Option<Place>)> {
    if is_within {
        return Ok((begin(context, door, stream, None).await?, peer, None));
    }
    let limits = context.limits();
    let is_believed = {
        let current = context.current.read();
        let balancers = current.compiled.config().gateways.proxy_protocol.as_ref();
        balancers.map(|balancers| balancers.trusts(peer.ip()))
    };
    let told = match is_believed {
        Some(true) => {
            let _place = greeting(context, peer.ip(), &limits)?;
            let told = proxied::read(&mut stream, &Bounds::of_applications(&limits)).await;
            told.inspect_err(|error| {
                if error.kind() == io::ErrorKind::InvalidData {
                    context.clients.count(Refused::ProxyProtocol);
                }
            })?
        }
        Some(false) => {
            context.clients.count(Refused::ProxyProtocol);
            return Err(io::Error::other("no balancer that is trusted"));
        }
        None => None,
    };
    let remote = told.unwrap_or(peer);
    let place = context.clients.admit(remote.ip(), &limits);
    let place = place.ok_or_else(|| io::Error::other("too many connections of one address, or of all"))?;
    Ok((begin(context, door, stream, Some(remote)).await?, remote, Some(place)))
}

/// A place for one that has not said yet who it is.
fn greeting(context: &Context, from: IpAddr, limits: &Limits) -> io::Result<Place> {
    context.clients.greet(from, limits).ok_or_else(|| io::Error::other("too many handshakes"))
}

/// A connection of which is known what it carries.
enum Begun {
    Http {
        stream: TcpStream,
        is_http2: bool,
    },
    Met(Box<TlsStream<TcpStream>>, Met),
    /// `server_name` is there where TLS passes unopened, and empty if that asks for none.
    Bytes {
        stream: TcpStream,
        server_name: Option<String>,
    },
}

/// `client` is a client's address; none of what this node made itself.
async fn begin(context: &Context, door: &Door, stream: TcpStream, client: Option<SocketAddr>) -> io::Result<Begun> {
    let bounds = Bounds::of_applications(&context.limits());
    match door.spoken {
        Spoken::Bytes => Ok(Begun::Bytes { stream, server_name: None }),
        Spoken::Http => {
            let is_http2 = is_http2(&stream, &bounds).await?;
            Ok(Begun::Http { stream, is_http2 })
        }
        Spoken::Tls => {
            let limits = context.limits();
            let _place = client.map(|client| greeting(context, client.ip(), &limits)).transpose()?;
            timeout(limits.tls_handshake_timeout, greet(context, door, stream, &bounds)).await?
        }
    }
}

/// Looks at what a client says first where some server passes TLS on, and meets TLS elsewhere.
async fn greet(context: &Context, door: &Door, stream: TcpStream, bounds: &Bounds) -> io::Result<Begun> {
    if door.passes_tls_on(&context.current.load()) {
        let detect::Spoken::Tls(name) = detect::detect(&stream, Protocol::Tls, None, bounds).await? else {
            return Err(io::Error::other("no TLS"));
        };
        let name = name.map(|name| name.to_ascii_lowercase());
        if door.passes_on(&context.current.load(), name.as_deref()) {
            return Ok(Begun::Bytes { stream, server_name: Some(name.unwrap_or_default()) });
        }
    }
    let (stream, met) = meet(context, door, stream).await?;
    Ok(Begun::Met(Box::new(stream), met))
}

/// Meets TLS: the name that the client asks for chooses the server.
async fn meet(context: &Context, door: &Door, stream: TcpStream) -> io::Result<(TlsStream<TcpStream>, Met)> {
    let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await?;
    let name = start.client_hello().server_name().map(str::to_ascii_lowercase);
    let found = door.server(&context.current.load(), name.as_deref());
    let configured = found.ok_or_else(|| io::Error::other(format!("nothing is served as {name:?}")))?;
    let stream = start.into_stream(Arc::clone(&configured.config)).await?;
    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let client = shown.and_then(|leaf| forwarded::element(leaf));
    Ok((stream, Met { configured, name, client }))
}

/// HTTP/2 with prior knowledge begins with `PRI`; the bytes stay unread. Clients have no longer for the first byte than for a head.
async fn is_http2(stream: &TcpStream, bounds: &Bounds) -> io::Result<bool> {
    let looking = async {
        let (mut first, mut pauses) = ([0; 3], detect::Pauses::default());
        loop {
            let length = stream.peek(&mut first).await?;
            if length == 0 || !b"PRI".starts_with(&first[..length]) {
                return Ok(false);
            }
            if length == first.len() {
                return Ok(true);
            }
            pauses.rest().await;
        }
    };
    timeout(bounds.head_time, looking).await?
}
