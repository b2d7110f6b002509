//! Every rule that requests and connections for a service may meet, in the order in which they are tried: for people, not for requests.

use std::sync::Arc;

use certs::id::ServiceName;

use super::Route;
use crate::{
    compile::{Compiled, Scope, Virtual},
    hosts,
    kinds::{HttpMatch, L4Match, TlsMatch},
};

/// When a rule holds: if any of these does. None means always.
#[derive(Debug, Clone, Copy)]
pub enum Conditions<'c> {
    /// For requests.
    Requests(&'c [HttpMatch]),
    /// For connections of TLS.
    Tls(&'c [TlsMatch]),
    /// For connections of bytes.
    Bytes(&'c [L4Match]),
}

/// Conditions of a rule and the route that is taken where they hold.
#[derive(Debug, Clone)]
pub struct Rule<'c> {
    /// When.
    pub conditions: Conditions<'c>,
    /// The route.
    pub route: Arc<Route>,
}

/// The rules of a service for callers who see this much. Where no VirtualService has rules for requests the default route is theirs.
pub fn rules<'c, 's>(compiled: &'c Compiled, service: &ServiceName, scope: impl Into<Scope<'s>>) -> Vec<Rule<'c>> {
    let scope = scope.into();
    let namespace = scope.namespace;
    if !scope.imports(&hosts::full_name(service), service.namespace()) {
        return Vec::new();
    }
    let mut rules: Vec<Rule<'c>> =
        compiled.virtual_service(service, scope).into_iter().flat_map(|found| of(found, namespace)).collect();
    if !rules.iter().any(|rule| matches!(rule.conditions, Conditions::Requests(_))) {
        let route = compiled.default_route(service, namespace);
        rules.insert(0, Rule { conditions: Conditions::Requests(&[]), route });
    }
    rules
}

/// The rules of a VirtualService's host that is no service, a wildcard perhaps; none where no document names it for these callers.
pub fn rules_of_name<'c>(compiled: &'c Compiled, host: &str, scope: Scope<'_>) -> Vec<Rule<'c>> {
    compiled.claiming(host, scope).into_iter().flat_map(|found| of(found, scope.namespace)).collect()
}

fn of<'c>(found: &'c Virtual, namespace: &str) -> Vec<Rule<'c>> {
    let rule = |conditions, route: &Arc<Route>| Rule { conditions, route: route.clone() };
    let http = found.rules(namespace).map(|(when, route)| rule(Conditions::Requests(when), route));
    let tls = found.tls(namespace).map(|(one, route)| rule(Conditions::Tls(&one.matches), route));
    let tcp = found.tcp(namespace).map(|(one, route)| rule(Conditions::Bytes(&one.matches), route));
    http.chain(tls).chain(tcp).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::state_of;

    #[test]
    fn rules_come_in_order_and_the_default_stands_alone() {
        let state = state_of(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: b}\nspec: {hosts: [b], tcp: [{route: [{destination: {host: a}}]}]}\n---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec:\n  hosts: [a]\n  exportTo: [.]\n  http:\n  - match: [{uri: {prefix: /x}}]\n    route: [{destination: {host: b}}]\n  - route: [{destination: {host: a}}]\n",
        );
        let compiled = Compiled::build(&state, None);
        let service = ServiceName::new("default", "a").unwrap();
        let found = rules(&compiled, &service, "default");
        let count = |rule: &Rule<'_>| match rule.conditions {
            Conditions::Requests(when) => when.len(),
            Conditions::Tls(_) | Conditions::Bytes(_) => usize::MAX,
        };
        assert_eq!(found.iter().map(count).collect::<Vec<_>>(), [1, 0]);
        let bytes = rules(&compiled, &ServiceName::new("default", "b").unwrap(), "default");
        assert_eq!(bytes.iter().map(count).collect::<Vec<_>>(), [0, usize::MAX], "requests take the default route");
        let elsewhere = rules(&compiled, &service, "shop");
        assert_eq!((elsewhere.len(), elsewhere[0].route.document.as_ref()), (1, None));
    }
}
