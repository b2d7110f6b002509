//! What the access log tells of a request that arrives here. Nothing is gathered while the log is off.

use super::{
    super::{
        context::Context,
        exchange::Logged,
        http::{self as body, RequestBody},
    },
    caller::Caller,
};
use crate::{clock, telemetry::Entry};
use http::{HeaderMap, Request, header::HOST};
use std::sync::Arc;

/// Begins a line, if there is to be one.
pub(super) fn begin(context: &Context, caller: &Caller, request: &Request<RequestBody>) -> Option<Logged> {
    let snapshot = context.current.read();
    let config = snapshot.compiled.config();
    config.access_log.file?;
    let mut headers = request.headers().clone();
    let host = headers.remove(HOST).and_then(|host| host.to_str().ok().map(str::to_owned));
    let authority = host.or_else(|| request.uri().authority().map(ToString::to_string)).unwrap_or_default();
    // As the application is given them: the caller's word about itself is not to be read as ours.
    body::strip_identity(&mut headers);
    body::join_cookies(&mut headers);
    headers.insert(body::FORWARDED_CLIENT_CERT, caller.client_cert.clone());
    headers.insert(body::FORWARDED_FOR, caller.address.clone());
    let who = &caller.who;
    let entry = Entry {
        began: clock::wall(),
        method: request.method().clone(),
        path: request.uri().path_and_query().map_or("", |path| path.as_str()).to_owned(),
        version: request.version(),
        authority,
        request: headers,
        response: HeaderMap::new(),
        port: who.port,
        upstream: None,
        local: who.destination,
        remote: who.address,
        peer: who.identity.uri(),
        server_name: who.server_name.clone(),
        details: None,
        received: 0,
        sent: 0,
        answered_after: None,
    };
    Some(Logged {
        log: context.access_log.clone(),
        config: Arc::clone(config),
        entry,
        body: request.body().completion(),
    })
}
