//! `HTTPRoute`: conditions, one action, and what is done on the way.

use std::time::Duration;

use super::{DirectResponse, Fault, HttpMatch, Redirect, Rewrite, RouteDestination, RouteHeaders};
use crate::retry::Retries;

/// `HTTPRoute`.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpRoute {
    /// Line in the pushed file, from 1; 0 if unknown.
    pub line: usize,
    /// For logs; may be empty.
    pub name: String,
    /// Any of them; none means always.
    pub matches: Vec<HttpMatch>,
    /// What happens to the request.
    pub action: HttpAction,
    /// Before forwarding.
    pub rewrite: Option<Rewrite>,
    /// Of the whole request, retries included; absent means none.
    pub timeout: Option<Duration>,
    /// Absent: the mesh's default.
    pub retries: Option<Retries>,
    /// At the caller.
    pub fault: Option<Fault>,
    /// Header operations.
    pub headers: RouteHeaders,
}

/// What happens to a request.
#[derive(Debug, Clone, PartialEq)]
pub enum HttpAction {
    /// Forwarded to one of these, by weight.
    Route(Vec<RouteDestination>),
    /// Answered 3xx.
    Redirect(Redirect),
    /// Answered here.
    Direct(DirectResponse),
}
