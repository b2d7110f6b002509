//! One `http` rule of a document -> the route that requests read.

use std::sync::Arc;

use certs::id::ServiceName;

use super::rules::Rules;
use crate::{
    document::DocumentId,
    hosts,
    kinds::{HttpAction, HttpRoute, RouteDestination, RouteHeaders},
    retry::Retries,
    route::{Action, Destination, Route, Subset},
};

/// The route of a rule, as callers in `client` see it.
pub(super) fn of_document(rules: &Rules, client: &str, id: &DocumentId, rule: usize, http: &HttpRoute) -> Route {
    let action = match &http.action {
        HttpAction::Route(destinations) => {
            Action::Forward(destinations.iter().map(|one| destination(rules, client, one)).collect())
        }
        HttpAction::Redirect(redirect) => Action::Redirect(redirect.clone()),
        HttpAction::Direct(direct) => Action::Direct(direct.clone()),
    };
    Route {
        document: Some(id.clone()),
        rule,
        line: Some(http.line).filter(|line| *line > 0),
        name: http.name.clone(),
        action,
        timeout: http.timeout,
        retries: http.retries.clone().unwrap_or_default(),
        fault: http.fault.clone(),
        rewrite: http.rewrite.clone(),
        request_headers: http.headers.request.clone(),
        response_headers: http.headers.response.clone(),
    }
}

/// The route of a service that no VirtualService speaks of.
pub(super) fn default_of(rules: &Rules, client: &str, service: &ServiceName) -> Route {
    let headers = RouteHeaders::default();
    let host = hosts::full_name(service);
    let (balance, port_balance) = rules.seen_from(client, &host).balance(None);
    let only = Destination {
        service: Some(service.clone()),
        host,
        port: None,
        subset: Subset::All,
        subset_name: String::new(),
        weight: 0,
        request_headers: headers.request.clone(),
        response_headers: headers.response.clone(),
        balance,
        port_balance,
    };
    Route {
        document: None,
        rule: 0,
        line: None,
        name: "default".to_owned(),
        action: Action::Forward(vec![only]),
        timeout: None,
        retries: Retries::default(),
        fault: None,
        rewrite: None,
        request_headers: headers.request,
        response_headers: headers.response,
    }
}

fn destination(rules: &Rules, client: &str, one: &RouteDestination) -> Destination {
    let host = &one.destination.host;
    let seen = rules.seen_from(client, host);
    let named = one.destination.subset.as_deref();
    let found = named.and_then(|name| seen.subset(name));
    let (balance, port_balance) = seen.balance(found);
    let subset = match (named, found) {
        (None, _) => Subset::All,
        (Some(name), None) => Subset::Missing(name.to_owned()),
        (Some(_), Some(found)) if found.labels.is_empty() => Subset::All,
        (Some(_), Some(found)) => Subset::Labels(Arc::clone(&found.labels)),
    };
    Destination {
        service: hosts::service_of(host),
        host: host.clone(),
        port: one.destination.port,
        subset,
        subset_name: named.unwrap_or_default().to_owned(),
        weight: one.weight,
        request_headers: one.headers.request.clone(),
        response_headers: one.headers.response.clone(),
        balance,
        port_balance,
    }
}
