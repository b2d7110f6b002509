//! One rule of a document -> the route that requests read.

use std::sync::Arc;

use certs::id::ServiceName;

use super::{
    delegate::Rule,
    policies::Table,
    rules::{Candidate, Rules},
};
use crate::{
    document::DocumentId,
    hosts,
    kinds::{DestinationHost, HttpAction, HttpRouteDestination, RouteDestination, RouteHeaders},
    retry::Retries,
    route::{Action, Destination, Mirror, Route, Subset, Target},
};

/// What routes are made with, for the callers of one namespace.
pub(super) struct Maker<'m> {
    pub(super) rules: &'m Rules,
    pub(super) client: &'m str,
    /// For routes that say nothing of it.
    pub(super) retries: &'m Retries,
    pub(super) policies: &'m Table,
}

impl Maker<'_> {
    /// The route of a rule. `None` for a delegation, which has no route of its own.
    pub(super) fn route(&self, rule: &Rule) -> Option<Route> {
        let http = &rule.http;
        let mut headers = http.headers.clone().unwrap_or_default();
        let action = match &http.action {
            HttpAction::Route(destinations) => {
                let mut destinations: Vec<_> = destinations.iter().map(|one| self.weighted(one)).collect();
                if let [only] = &mut *destinations {
                    // As in Istio: what the only destination says of headers follows what the route says, as if the route said both.
                    headers.request = headers.request.followed_by(std::mem::take(&mut only.request_headers));
                    headers.response = headers.response.followed_by(std::mem::take(&mut only.response_headers));
                }
                Action::Forward(destinations)
            }
            HttpAction::Redirect(redirect) => Action::Redirect(redirect.clone()),
            HttpAction::Direct(direct) => Action::Direct(direct.clone()),
            HttpAction::Delegate { .. } => return None,
        };
        let mirrors = http.mirroring.effective().into_iter().map(|mirror| Mirror {
            destination: self.destination(&mirror.destination, 0, &RouteHeaders::default()),
            per_million: mirror.per_million,
        });
        Some(Route {
            document: Some(rule.document.clone()),
            rule: rule.index,
            line: Some(http.line).filter(|line| *line > 0),
            name: http.name.clone(),
            action,
            timeout: http.deadline(),
            retries: http.retries.clone().unwrap_or_else(|| self.retries.clone()),
            fault: http.fault.clone(),
            cors: http.cors.clone(),
            mirrors: mirrors.collect(),
            rewrite: http.rewrite.clone(),
            request_headers: headers.request,
            response_headers: headers.response,
        })
    }

    /// The route of a service that no VirtualService speaks of.
    pub(super) fn default_route(&self, service: &ServiceName) -> Route {
        self.default_route_to(&hosts::full_name(service))
    }

    /// The same of any host.
    pub(super) fn default_route_to(&self, host: &str) -> Route {
        let to = DestinationHost { host: host.to_owned(), subset: None, port: None };
        let only = self.destination(&to, 0, &RouteHeaders::default());
        Route { name: "default".to_owned(), retries: self.retries.clone(), ..plain(vec![only]) }
    }

    /// The route of a rule for connections.
    pub(super) fn l4_route(&self, id: &DocumentId, rule: usize, line: usize, to: &[RouteDestination]) -> Route {
        let headers = RouteHeaders::default();
        let to = to.iter().map(|one| self.destination(&one.destination, one.weight, &headers)).collect();
        Route { document: Some(id.clone()), rule, line: Some(line).filter(|line| *line > 0), ..plain(to) }
    }

    fn weighted(&self, one: &HttpRouteDestination) -> Destination {
        self.destination(&one.destination, one.weight, &one.headers)
    }

    fn destination(&self, to: &DestinationHost, weight: u32, headers: &RouteHeaders) -> Destination {
        let seen = self.rules.seen_from(self.client, &to.host);
        let subset = to.subset.as_deref();
        let selected = seen.selected(self.client);
        Destination {
            service: hosts::service_of(&to.host),
            host: to.host.clone(),
            port: to.port,
            subset_name: subset.unwrap_or_default().to_owned(),
            weight,
            request_headers: headers.request.clone(),
            response_headers: headers.response.clone(),
            common: self.target(&seen.common(), &to.host, subset),
            selected: selected
                .iter()
                .map(|(selector, candidate)| ((*selector).clone(), self.target(candidate, &to.host, subset)))
                .collect(),
        }
    }

    fn target(&self, candidate: &Candidate<'_>, host: &str, named: Option<&str>) -> Target {
        let found = named.and_then(|name| candidate.subset(name));
        let subset = match (named, found) {
            (None, _) => Subset::All,
            (Some(name), None) => Subset::Missing(name.to_owned()),
            (Some(_), Some(found)) if found.labels.is_empty() => Subset::All,
            (Some(_), Some(found)) => Subset::Labels(Arc::clone(&found.labels)),
        };
        let own = found.and_then(|found| found.policy.as_ref());
        let name = named.unwrap_or_default();
        let policies = self.policies.policies(host, name, candidate.policy(), own);
        Target { subset, policies, documents: candidate.documents(named) }
    }
}

/// A route that forwards and does nothing on the way.
fn plain(destinations: Vec<Destination>) -> Route {
    let headers = RouteHeaders::default();
    Route {
        document: None,
        rule: 0,
        line: None,
        name: String::new(),
        action: Action::Forward(destinations),
        timeout: None,
        retries: Retries::default(),
        fault: None,
        cors: None,
        mirrors: Vec::new(),
        rewrite: None,
        request_headers: headers.request,
        response_headers: headers.response,
    }
}
