//! A request that enters at a gateway -> route, by the hosts of the listener where it came in.

use std::sync::Arc;

use super::{Addressed, Request, Route, Routed, Source, UriMatched, matching, works};
use crate::{
    compile::{Hosts, VirtualHost},
    kinds::HttpMatch,
};

/// A rule as it is at one gateway: conditions on the gateway itself are decided already.
#[derive(Debug, Clone)]
pub struct Rule {
    /// What the request must meet; `None` is always met.
    condition: Option<Arc<HttpMatch>>,
    route: Arc<Route>,
}

impl Rule {
    /// True if every request meets it.
    pub fn is_catch_all(&self) -> bool {
        self.condition.as_ref().is_none_or(|condition| condition.is_catch_all())
    }

    /// Where it leads.
    pub fn route(&self) -> &Arc<Route> {
        &self.route
    }
}

/// The rules of a VirtualService at a gateway's workload and port, up to one that takes everything.
pub(crate) fn entries<'v>(
    rules: impl Iterator<Item = (&'v [HttpMatch], &'v Arc<Route>)>,
    source: &Source,
    port: u16,
) -> Vec<Rule> {
    let mut entries = Vec::new();
    for (conditions, route) in rules.filter(|(_, route)| works(route)) {
        let rule = |condition| Rule { condition, route: route.clone() };
        if conditions.is_empty() {
            entries.push(rule(None));
            break;
        }
        for condition in conditions.iter().filter(|condition| matching::applies(condition, port, source)) {
            let of_request = HttpMatch {
                port: None,
                source_labels: Default::default(),
                source_namespace: None,
                gateways: None,
                ..condition.clone()
            };
            entries.push(rule(Some(Arc::new(of_request))));
        }
        if entries.iter().any(Rule::is_catch_all) {
            break;
        }
    }
    entries
}

/// What a gateway does with a request.
#[derive(Debug)]
pub enum Entered {
    /// It takes a route.
    Route(Routed),
    /// Its client is told to come by https.
    ToHttps,
    /// Nothing is there: 404 NR.
    Nothing,
}

/// Finds what a gateway does with a request; `port` is the listener's as documents name it.
pub fn enter(hosts: &Hosts, request: &Request<'_>, port: u16) -> Entered {
    let (name, _) = crate::hosts::split_authority(request.authority);
    let name = name.strip_suffix('.').unwrap_or(name);
    let found = if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        hosts.find(&name.to_ascii_lowercase())
    } else {
        hosts.find(name)
    };
    match found {
        None => Entered::Nothing,
        Some(host) if host.redirects && request.scheme != "https" => Entered::ToHttps,
        Some(host) => first(host, request).map_or(Entered::Nothing, |(route, matched, condition)| {
            let host = Addressed::Name(host.name.clone());
            Entered::Route(Routed { host, port, route, matched, condition })
        }),
    }
}

/// The first rule that takes the request.
fn first(host: &VirtualHost, request: &Request<'_>) -> Option<(Arc<Route>, UriMatched, Option<Arc<str>>)> {
    host.rules.iter().find_map(|rule| {
        let matched = match &rule.condition {
            None => UriMatched::Nothing,
            Some(condition) => matching::holds(condition, request)?,
        };
        Some((rule.route.clone(), matched, rule.condition.as_ref().and_then(|condition| condition.name.clone())))
    })
}
