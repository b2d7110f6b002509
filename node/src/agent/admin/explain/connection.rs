//! What becomes of a connection of bytes, or of TLS that stays shut.

use std::sync::Arc;

use policy::{
    compile::EntryService,
    hosts,
    route::{Action, Called, Connection, route_tcp, route_tls},
};

use super::{Forwarding, answer, authorization, authorization::Judge};
use crate::{agent::admin::api, balance::Carries, snapshot::Endpoint};

/// Explains a connection to a service's port; `server_name` is there if it is TLS.
pub(super) fn explain(judge: Judge<'_>, authority: &str, server_name: Option<&str>, explained: &mut api::Explanation) {
    let (snapshot, source) = (judge.snapshot, judge.source);
    let (host, port) = hosts::split_authority(authority);
    let service = hosts::resolve(host, &source.namespace, &*snapshot.services).map(Called::Service);
    let by_entry = || snapshot.compiled.entries().named(host, &source.namespace);
    let Some(called) = service.or_else(|| by_entry().map(|made| Called::Host(name(made, host)))) else {
        explained.answer = Some(answer(0, "NR", format!("no service is called `{host}`")));
        return;
    };
    explained.service = Some(called.to_string());
    let ports = match &called {
        Called::Service(service) => snapshot.services.get(service).map(|service| &*service.ports),
        Called::Host(_) => by_entry().map(|made| &*made.ports),
    };
    let known = ports.and_then(|ports| ports.iter().find(|known| Some(known.number) == port));
    let Some(known) = known.filter(|known| Carries::Bytes.suits(known.protocol)) else {
        let port = port.map_or_else(|| "it names no port".to_owned(), |port| format!("port {port} carries no bytes"));
        explained.answer = Some(answer(0, "NR", format!("{called}: {port}")));
        return;
    };
    // At which address of its machine a caller connects is not asked for: rules about it are taken not to match.
    let connection = Connection { called: &called, port: known.number, source, address: None };
    let bytes = route_tcp(&snapshot.compiled, &connection);
    let route = server_name.map_or_else(|| Arc::clone(&bytes), |name| route_tls(&snapshot.compiled, &connection, name));
    let list = if Arc::ptr_eq(&route, &bytes) { "tcp" } else { "tls" };
    explained.document = route.document.as_ref().map(ToString::to_string);
    explained.rule =
        Some(route.document.as_ref().map_or_else(|| route.name.clone(), |_| format!("{list}[{}]", route.rule)));
    explained.line = route.line;
    let Action::Forward(destinations) = &route.action else { return };
    let admits = |endpoint: &Endpoint, port: u16| judge.connection(endpoint, port);
    let (port, carries) = (known.number, Carries::Bytes);
    Forwarding { judge, port, carries, refused: 0, admits: &admits }.explain(destinations, explained);
    explained.authorization = authorization::together(&explained.endpoints);
    if explained.authorization.verdict == "deny" && explained.answer.is_none() {
        explained.answer = Some(answer(0, "", "every endpoint that may be chosen refuses the caller".to_owned()));
    }
}

/// The host that a connection is for; of a wildcard what was asked for.
fn name(made: &EntryService, host: &str) -> Arc<str> {
    if made.host.starts_with('*') {
        return host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase().into();
    }
    made.host.clone()
}
