//! What becomes of a connection of bytes, or of TLS that stays shut.

use std::sync::Arc;

use policy::{
    hosts,
    route::{self, Action, Called, Connection, route_tcp, route_tls},
};

use super::{Forwarding, answer, authorization, authorization::Judge};
use crate::{
    agent::admin::api,
    snapshot::{Carries, Endpoint},
};

/// Explains a connection to a service's port; `server_name` is there if it is TLS.
pub(super) fn explain(judge: Judge<'_>, authority: &str, server_name: Option<&str>, explained: &mut api::Explanation) {
    let (snapshot, source) = (judge.snapshot, judge.source);
    let (host, port) = hosts::split_authority(authority);
    let (compiled, services) = (&snapshot.compiled, &*snapshot.services);
    let scope = compiled.scope(source);
    let Some(called) = route::called(compiled, services, source, (host, port)) else {
        let exists = hosts::resolve(host, &source.namespace, services).is_some()
            || compiled.entries().named(host, source.namespace.as_str()).is_some();
        let why = match scope.sidecar.filter(|_| exists) {
            Some((sidecar, _)) => {
                explained.document = Some(sidecar.to_string());
                format!("{sidecar} does not import `{host}`")
            }
            None => format!("no service is called `{host}`"),
        };
        explained.answer = Some(answer(0, "NR", why));
        return;
    };
    explained.service = Some(called.to_string());
    let (ports, imported): (_, Box<dyn Fn(u16) -> bool>) = match &called {
        Called::Service(service) => {
            (services.get(service).map(|service| &*service.ports), Box::new(scope.imported_at(service)))
        }
        Called::Host(host) => {
            let made = compiled.entries().find(host, scope);
            let seen = move |port| made.is_some_and(|made| scope.at(port).imports(&made.host, &made.namespace));
            (made.map(|made| &*made.ports), Box::new(seen))
        }
    };
    let found = ports.and_then(|ports| ports.iter().find(|known| Some(known.number) == port));
    let known = found.filter(|known| Carries::Bytes.suits(known.protocol) && imported(known.number));
    let Some(known) = known else {
        let why = match (port, found) {
            (Some(port), Some(found)) if !imported(port) => {
                format!("the caller's Sidecar does not import port {} of {called}", found.number)
            }
            (Some(port), Some(_)) => format!("port {port} of {called} carries requests: ask with http://{authority}/"),
            (Some(port), None) => format!("{called} has no port {port}"),
            (None, _) => format!("the URL names no port of {called}"),
        };
        explained.answer = Some(answer(0, "NR", why));
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
