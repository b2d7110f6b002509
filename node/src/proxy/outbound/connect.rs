//! CONNECT at a proxy port: a tunnel to a port of bytes, of a service or of a host that a ServiceEntry makes. Nothing else is led
//! anywhere, so that no node is an open proxy.

use super::{
    Connection, Speaker,
    by_name::{Brought, host},
    observe, tcp,
};
use crate::{
    clock,
    http1::server::OnUpgrade,
    proxy::{
        context::Context,
        detect,
        failure::Cause,
        http::{Bounds, Incoming, ResponseBody},
        listen, reply,
        tcp::Account,
    },
    snapshot::Snapshot,
};
use bytes::Bytes;
use http::{Request, Response, StatusCode, Version, header::HOST};
use hyper::body::Body as _;
use policy::{
    hosts::{self, Protocol},
    route::{self, Called},
};
use std::{sync::Arc, time::Duration};

/// For a caller to take over its connection once it was told that the tunnel is open.
const HANDOVER: Duration = Duration::from_secs(10);

/// Answers a CONNECT. Where the port declares TLS, the route waits for the name that the client asks for, so that the answer comes
/// first; elsewhere a refusal is told in the answer.
pub(super) async fn answer(connection: &Connection, mut request: Request<Incoming>) -> Response<ResponseBody> {
    let on_upgrade = OnUpgrade::of(&mut request);
    let (context, speaker) = (&connection.context, connection.speaker.load_full());
    let snapshot = context.current.load();
    // What is called is what the request names, whatever was dialled.
    let ends = tcp::Ends { remote: connection.remote, local: connection.local, dialled: None };
    let account = || Account::new(observe::begin_connection(context, &speaker, &snapshot, ends, None));
    let (called, declared) = match asked(&speaker, &snapshot, &request) {
        Ok(asked) => asked,
        Err(cause) => {
            let mut account = account();
            account.between(context.recorder(speaker.to_nothing()));
            account.failed(cause, None);
            return reply::failure(cause, false);
        }
    };
    if declared == Protocol::Tls {
        let tunnel = after_hello(Arc::clone(context), speaker, called, ends, on_upgrade);
        detach(context, tunnel);
        return opened();
    }
    let mut account = account();
    match lead(context, &speaker, &snapshot, &called, (ends, None), &mut account).await {
        Ok(led) => {
            let tunnel = carry(Arc::clone(context), led, on_upgrade, account);
            detach(context, tunnel);
            opened()
        }
        Err(cause) => {
            account.failed(cause, None);
            reply::failure(cause, false)
        }
    }
}

/// The tunnel goes on without the connection's task, and holds what that occupies.
fn detach(context: &Context, tunnel: impl Future<Output = ()> + Send + 'static) {
    let place = listen::place();
    let tunnel = async move {
        let _place = place;
        tunnel.await;
    };
    context.tasks.detach("tunnel", context.open.track_future(tunnel));
}

fn opened() -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::full(Bytes::new()));
    *response.status_mut() = StatusCode::OK;
    response
}

/// What is called, and what is spoken there.
fn asked(
    speaker: &Speaker,
    snapshot: &Snapshot,
    request: &Request<Incoming>,
) -> Result<((Called, u16), Protocol), Cause> {
    if speaker.fixed.is_some() {
        return Err(Cause::Unsupported("CONNECT is for proxy ports"));
    }
    if !request.body().is_end_stream() {
        return Err(Cause::BadRequest("CONNECT has no body"));
    }
    let authority = request.uri().authority().filter(|_| request.uri().path_and_query().is_none());
    let authority = authority.map(http::uri::Authority::as_str).ok_or(Cause::BadRequest("not an authority"))?;
    let mut named = request.headers().get_all(HOST).iter();
    let (host, more) = (named.next(), named.next());
    let same = match host {
        Some(host) => host.to_str().is_ok_and(|host| is_same(host, authority)),
        // Before HTTP/1.1 there was no such header, and some clients ask for tunnels as then.
        None => request.version() == Version::HTTP_10,
    };
    if !same || more.is_some() {
        return Err(Cause::BadRequest("Host differs from the request target"));
    }
    let (host, Some(port)) = hosts::split_authority(authority) else {
        return Err(Cause::BadRequest("CONNECT names a port"));
    };
    let called = route::called(&snapshot.compiled, &*snapshot.services, &speaker.source, (host, Some(port)));
    let called = called.ok_or_else(|| speaker.unknown(snapshot))?;
    match speaker.protocol(snapshot, &called, port).ok_or(Cause::NoRoute)? {
        // What is meant as requests would pass by the rules for requests.
        Protocol::Http | Protocol::Http2 | Protocol::Grpc => Err(Cause::NoRoute),
        declared @ (Protocol::Tcp | Protocol::Tls | Protocol::Sniffed) => Ok(((called, port), declared)),
    }
}

/// True if a Host header names what is asked for. Many clients leave out the port there, or a dot at the end.
fn is_same(host: &str, authority: &str) -> bool {
    let ((named, port), (wanted, wanted_port)) = (hosts::split_authority(host), hosts::split_authority(authority));
    let names = [named, wanted].map(|name| name.strip_suffix('.').unwrap_or(name));
    let has_port = named.len() < host.len();
    names[0].eq_ignore_ascii_case(names[1]) && (!has_port || port.is_some() && port == wanted_port)
}

async fn lead(
    context: &Arc<Context>,
    speaker: &Speaker,
    snapshot: &Arc<Snapshot>,
    called: &(Called, u16),
    (ends, server_name): (tcp::Ends, Option<&str>),
    account: &mut Account,
) -> Result<tcp::Led, Cause> {
    let (route, port) = tcp::routed(context, speaker, snapshot, Some(called), (ends, server_name), account)?;
    let brought = Brought { port, dialled: ends.dialled, names: [host(&called.0), server_name], account: None };
    tcp::lead(context, speaker, snapshot, &route, (brought, ends), account).await
}

async fn carry(context: Arc<Context>, led: tcp::Led, on_upgrade: OnUpgrade, mut account: Account) {
    let Ok(Some(caller)) = tokio::time::timeout(HANDOVER, on_upgrade.connection()).await else { return };
    account.opened();
    led.carry(&context, caller, account, std::future::pending()).await;
}

/// Leads a tunnel by the name that its client asks for.
async fn after_hello(
    context: Arc<Context>,
    speaker: Arc<Speaker>,
    called: (Called, u16),
    ends: tcp::Ends,
    on_upgrade: OnUpgrade,
) {
    let Ok(Some(mut caller)) = tokio::time::timeout(HANDOVER, on_upgrade.connection()).await else { return };
    let began = clock::uptime();
    let bounds = Bounds::of_applications(&context.limits());
    let hello = detect::server_name(&mut caller, &bounds);
    let name = tokio::select! {
        name = hello => name,
        () = context.draining() => return,
    };
    let Ok(name) = name else {
        return tracing::debug!(waited = clock::uptime() - began, "a tunnel ended before it asked for a server");
    };
    let (snapshot, name) = (context.current.load(), name.unwrap_or_default());
    let mut account = Account::new(observe::begin_connection(&context, &speaker, &snapshot, ends, Some(&name)));
    let led = lead(&context, &speaker, &snapshot, &called, (ends, Some(&name)), &mut account).await;
    // What is carried may last for days.
    drop(snapshot);
    match led {
        Ok(led) => {
            account.opened();
            led.carry(&context, caller, account, std::future::pending()).await;
        }
        Err(cause) => {
            tracing::debug!(service = %speaker.service, ?cause, "a tunnel led nowhere");
            account.failed(cause, None);
            crate::proxy::tcp::Side::reset(caller);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_may_leave_out_what_the_target_says() {
        let target = "Db.example.com:5432";
        for host in ["db.example.com:5432", "db.example.com", "DB.example.com.", "db.example.com.:5432"] {
            assert!(is_same(host, target), "{host:?}");
        }
        for host in [
            "",
            "other.example.com",
            "other.example.com:5432",
            "db.example.com:443",
            "db.example.com:",
            "db.example.com:x",
        ] {
            assert!(!is_same(host, target), "{host:?}");
        }
        assert!(is_same("[2001:db8::1]", "[2001:db8::1]:443") && !is_same("[2001:db8::2]", "[2001:db8::1]:443"));
    }
}
