//! What the access log tells of a request that arrives here. Nothing is gathered while the log is off.

use super::{
    super::{
        context::Context,
        exchange::Logged,
        http::{self as body, RequestBody},
    },
    caller::Caller,
};
use crate::{
    clock,
    snapshot::Snapshot,
    telemetry::{Entry, LogSide},
};
use certs::id::SpiffeId;
use http::{HeaderMap, Request, header::HOST};
use policy::compile::LogRule;
use std::sync::Arc;

/// Begins a line, if there is to be one.
pub(super) fn begin(context: &Context, caller: &Caller, request: &Request<RequestBody>) -> Option<Logged> {
    let snapshot = context.current.read();
    if !snapshot.compiled.logs_any() {
        return None;
    }
    let rule = rule(context, caller, &snapshot)?;
    let config = snapshot.compiled.config();
    let mut headers = request.headers().clone();
    let host = headers.remove(HOST).and_then(|host| host.to_str().ok().map(str::to_owned));
    let authority = host.or_else(|| request.uri().authority().map(ToString::to_string)).unwrap_or_default();
    // As the application is given them: the caller's word about itself is not to be read as ours.
    caller.tell(&snapshot, &mut headers);
    body::join_cookies(&mut headers);
    let who = &caller.who;
    let entry = Entry {
        side: LogSide::Server,
        began: clock::wall(),
        method: Some(request.method().clone()),
        path: request.uri().path_and_query().map_or("", |path| path.as_str()).to_owned(),
        version: request.version(),
        authority,
        request: headers,
        response: HeaderMap::new(),
        cluster: Some(format!("inbound|{}||", who.port)),
        // Istio's name of the one route in front of an application.
        route: "default".to_owned(),
        upstream: None,
        local: who.destination.into(),
        remote: who.address.into(),
        peer: who.identity.as_ref().map(SpiffeId::uri),
        server_name: who.server_name.clone(),
        details: None,
        received: 0,
        sent: 0,
        answered_after: None,
    };
    Some(Logged { log: context.access_log.clone(), rule, config: Arc::clone(config), entry })
}

/// Begins the line of what could not be read as a request, if there is to be one.
pub(super) fn begin_refused(context: &Context, caller: &Caller) -> Option<Logged> {
    let snapshot = context.current.read();
    if !snapshot.compiled.logs_any() {
        return None;
    }
    let rule = rule(context, caller, &snapshot)?;
    let who = &caller.who;
    let entry = Entry {
        cluster: Some(format!("inbound|{}||", who.port)),
        local: who.destination.into(),
        remote: who.address.into(),
        peer: who.identity.as_ref().map(SpiffeId::uri),
        server_name: who.server_name.clone(),
        ..Entry::of_connection(LogSide::Server, clock::wall())
    };
    Some(Logged { log: context.access_log.clone(), rule, config: Arc::clone(snapshot.compiled.config()), entry })
}

/// What holds for the called service; for one that is not served here, what holds in the mesh.
pub(super) fn rule(context: &Context, caller: &Caller, snapshot: &Snapshot) -> Option<Arc<LogRule>> {
    let (local, who) = (context.local.load(), &caller.who);
    match local.service(&who.service, who.instance.as_deref()) {
        Some(service) => caller.look(context, snapshot, &local, service, |rules| rules.workload.logs.server.clone()),
        None => {
            let file = snapshot.compiled.config().access_log.file?;
            Some(Arc::new(LogRule { file, filter: None }))
        }
    }
}
