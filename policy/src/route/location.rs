//! Where redirects lead.

use super::{Request, Routed};
use crate::{
    hosts,
    kinds::{Redirect, RedirectPort},
};

impl Routed {
    /// The Location of a redirect.
    pub fn location(&self, redirect: &Redirect, request: &Request<'_>) -> String {
        let scheme = redirect.scheme.as_deref().unwrap_or(request.scheme);
        let port = match redirect.port {
            RedirectPort::Number(port) => Some(port),
            RedirectPort::Request => Some(self.port),
            RedirectPort::ProtocolDefault | RedirectPort::Unset => None,
        };
        let port = port.filter(|port| Some(*port) != default_port(scheme));
        let (host, given) = hosts::split_authority(request.authority);
        let host = match &redirect.authority {
            Some(authority) => authority.as_str(),
            // A port that was the old scheme's default goes with the scheme.
            None if port.is_some()
                || (scheme != request.scheme && given.is_some() && given == default_port(request.scheme)) =>
            {
                host
            }
            None => request.authority,
        };
        let path = match (&redirect.uri, &redirect.prefix_rewrite) {
            (Some(uri), _) => with_query(uri.clone(), request.uri.query()),
            (None, Some(text)) => with_query(self.replace_matched(request.uri.path(), text), request.uri.query()),
            (None, None) => request.uri.path_and_query().map_or("/", |whole| whole.as_str()).to_owned(),
        };
        match port {
            Some(port) => format!("{scheme}://{host}:{port}{path}"),
            None => format!("{scheme}://{host}{path}"),
        }
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

/// The request's query stays, unless the new path brings its own.
fn with_query(path: String, query: Option<&str>) -> String {
    match query {
        Some(query) if !path.contains('?') => format!("{path}?{query}"),
        Some(_) | None => path,
    }
}
