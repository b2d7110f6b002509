//! What browsers are told of requests from other origins: preflights are answered here, other answers are marked.

use super::body::ResponseBody;
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Response,
    header::{
        ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
        ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
        ACCESS_CONTROL_REQUEST_METHOD, ORIGIN,
    },
    request::Parts,
};
use policy::{
    kinds::{CorsPolicy, UnmatchedPreflights},
    route::Route,
};

/// What a route's policy makes of a request.
pub(super) enum Verdict<'r> {
    /// Nothing: there is no policy, no origin, or one that is not allowed.
    Silent,
    /// The answer is to be marked for this origin.
    Allowed(&'r CorsPolicy, HeaderValue),
    /// A preflight, and its answer.
    Preflight(Box<Response<ResponseBody>>),
}

/// Judges a request. Nothing is refused: it is the browser that heeds what it is told.
pub(super) fn judge<'r>(route: &'r Route, parts: &Parts) -> Verdict<'r> {
    let Some(policy) = &route.cors else { return Verdict::Silent };
    let Some(origin) = parts.headers.get(ORIGIN) else { return Verdict::Silent };
    let is_allowed = origin.to_str().is_ok_and(|origin| policy.allows(origin));
    let is_preflight = parts.method == Method::OPTIONS && parts.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    match (is_allowed, is_preflight, policy.unmatched_preflights) {
        (true, true, _) => Verdict::Preflight(Box::new(preflight(policy, origin))),
        (true, false, _) => Verdict::Allowed(policy, origin.clone()),
        (false, true, UnmatchedPreflights::Ignore) => Verdict::Preflight(Box::new(empty())),
        (false, true, UnmatchedPreflights::Forward) | (false, false, _) => Verdict::Silent,
    }
}

/// Marks the answer to a request from an allowed origin.
pub(super) fn mark(policy: &CorsPolicy, origin: HeaderValue, headers: &mut HeaderMap) {
    allow(policy, origin, headers);
    set_list(headers, ACCESS_CONTROL_EXPOSE_HEADERS, &policy.expose_headers);
}

fn preflight(policy: &CorsPolicy, origin: &HeaderValue) -> Response<ResponseBody> {
    let mut response = empty();
    let headers = response.headers_mut();
    allow(policy, origin.clone(), headers);
    set_list(headers, ACCESS_CONTROL_ALLOW_METHODS, &policy.allow_methods);
    set_list(headers, ACCESS_CONTROL_ALLOW_HEADERS, &policy.allow_headers);
    if let Some(age) = policy.max_age {
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from(age.as_secs()));
    }
    response
}

fn allow(policy: &CorsPolicy, origin: HeaderValue, headers: &mut HeaderMap) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    if policy.allow_credentials {
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
}

fn set_list(headers: &mut HeaderMap, name: HeaderName, list: &[String]) {
    // Methods and header names, as the document was checked for, are values of headers.
    if let Some(value) = HeaderValue::try_from(list.join(",")).ok().filter(|_| !list.is_empty()) {
        headers.insert(name, value);
    }
}

fn empty() -> Response<ResponseBody> {
    Response::new(ResponseBody::full(Bytes::new()))
}
