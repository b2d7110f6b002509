//! Every rule that requests for a service may meet, in the order in which they are tried: for people, not for requests.

use std::sync::Arc;

use certs::id::ServiceName;

use super::Route;
use crate::{compile::Compiled, kinds::HttpMatch};

/// Conditions of a rule and the route that requests take which meet them.
#[derive(Debug, Clone)]
pub struct Rule<'c> {
    /// Any of them; none means always.
    pub conditions: &'c [HttpMatch],
    /// The route.
    pub route: Arc<Route>,
}

/// The rules of a service for callers in a namespace; only the default route where no VirtualService speaks of it.
pub fn rules<'c>(compiled: &'c Compiled, service: &ServiceName, namespace: &str) -> Vec<Rule<'c>> {
    match compiled.virtual_service(service, namespace) {
        Some(found) => {
            let rule = |(conditions, route): (&'c [HttpMatch], &Arc<Route>)| Rule { conditions, route: route.clone() };
            found.rules(namespace).map(rule).collect()
        }
        None => vec![Rule { conditions: &[], route: compiled.default_route(service, namespace) }],
    }
}

/// The rules of a VirtualService's host that is no service, a wildcard perhaps; none where no document names it for these callers.
pub fn rules_of_name<'c>(compiled: &'c Compiled, host: &str, namespace: &str) -> Vec<Rule<'c>> {
    let found = compiled.claiming(host, namespace).into_iter();
    let rules = found.flat_map(|found| found.rules(namespace));
    rules.map(|(conditions, route)| Rule { conditions, route: route.clone() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::state_of;

    #[test]
    fn rules_come_in_order_and_the_default_stands_alone() {
        let state = state_of(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec:\n  hosts: [a]\n  exportTo: [.]\n  http:\n  - match: [{uri: {prefix: /x}}]\n    route: [{destination: {host: b}}]\n  - route: [{destination: {host: a}}]\n",
        );
        let compiled = Compiled::build(&state, None);
        let service = ServiceName::new("default", "a").unwrap();
        let found = rules(&compiled, &service, "default");
        assert_eq!(found.iter().map(|rule| rule.conditions.len()).collect::<Vec<_>>(), [1, 0]);
        let elsewhere = rules(&compiled, &service, "shop");
        assert_eq!((elsewhere.len(), elsewhere[0].route.document.as_ref()), (1, None));
    }
}
