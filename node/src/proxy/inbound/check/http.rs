//! Asking by a copy of the request's head.

use super::{ANSWER_BYTES, Change, Changes, Denial, PARTIAL, Question, Verdict, Way, change};
use crate::proxy::http::{ResponseBody, is_proxys};
use ::http::{
    HeaderMap, HeaderName, HeaderValue, Request, StatusCode,
    header::{AUTHORIZATION, CONTENT_LENGTH, LOCATION, WWW_AUTHENTICATE},
    uri::PathAndQuery,
};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use policy::kinds::{HttpCheck, TextPattern};

/// The caller, as TLS proves it: no header of the request can say it.
const PRINCIPAL: HeaderName = HeaderName::from_static("x-source-principal");
/// In a consent, headers that are taken from the request.
const REMOVED: HeaderName = HeaderName::from_static("x-envoy-auth-headers-to-remove");

/// Of the way to the authoriser: the node that asks says it, not the authoriser.
const SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");

/// Asks; an error says in words why there is no answer.
pub(super) async fn ask(question: &Question<'_>, check: &HttpCheck) -> Result<Verdict, String> {
    let response = question.send(question.arriving.host.clone(), request(question, check)?).await?;
    let status = response.status();
    if status.is_server_error() {
        return Err(format!("it answered {status}"));
    }
    let (head, body) = response.into_parts();
    let body = collect(body).await;
    if status == StatusCode::OK {
        return Ok(Verdict::Allowed(consent(check, &head.headers)));
    }
    let headers = refusal(check, &head.headers);
    Ok(Verdict::Denied(Denial { status, headers, body: body? }))
}

fn request(question: &Question<'_>, check: &HttpCheck) -> Result<Request<Option<Bytes>>, String> {
    let path = PathAndQuery::try_from(format!("{}{}", check.path_prefix, question.path()));
    let body = question.body.as_ref().map(|body| body.bytes.clone()).filter(|body| !body.is_empty());
    let length = body.as_ref().map_or(0, Bytes::len);
    let mut request = Request::new(body);
    *request.method_mut() = question.parts.method.clone();
    *request.uri_mut() = path.map_err(|_| "its path would be none".to_owned())?.into();
    let headers = request.headers_mut();
    for (name, value) in &question.parts.headers {
        let told = *name == AUTHORIZATION || matches(&check.request_headers, name);
        if told && !is_proxys(name.as_str()) && !super::is_trace(name.as_str()) {
            headers.append(name, value.clone());
        }
    }
    headers.extend(question.traces().map(|(name, value)| (name.clone(), value.clone())));
    for (name, value) in &check.additional_headers {
        headers.insert(name, value.clone());
    }
    match &question.arriving.who.identity {
        Some(identity) => {
            let principal = HeaderValue::from_str(&identity.uri());
            headers.insert(PRINCIPAL, principal.map_err(|_| "the caller has no name".to_owned())?);
        }
        None => drop(headers.remove(PRINCIPAL)),
    }
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    if let Some(body) = &question.body {
        headers.insert(PARTIAL, HeaderValue::from_static(if body.is_whole { "false" } else { "true" }));
    }
    Ok(request)
}

async fn collect(body: ResponseBody) -> Result<Bytes, String> {
    let collected = Limited::new(body, ANSWER_BYTES).collect().await;
    collected.map(|body| body.to_bytes()).map_err(|error| format!("its answer: {error}"))
}

fn consent(check: &HttpCheck, headers: &HeaderMap) -> Changes {
    let lines = |patterns: &[TextPattern]| {
        let mut lines: Vec<Change> = Vec::new();
        let meant = |name: &HeaderName| ![REMOVED, SERVICE_TIME].contains(name) && matches(patterns, name);
        for (name, value) in headers.iter().filter(|(name, _)| meant(name)) {
            let way = if lines.iter().any(|line| line.name == *name) { Way::Append } else { Way::Set };
            change(&mut lines, name.clone(), value.clone(), way);
        }
        lines
    };
    let removed = headers.get_all(REMOVED).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    Changes {
        request: lines(&check.to_upstream_on_allow),
        removed: removed.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok()).collect(),
        response: lines(&check.to_downstream_on_allow),
        ..Changes::default()
    }
}

fn refusal(check: &HttpCheck, headers: &HeaderMap) -> HeaderMap {
    let patterns = &check.to_downstream_on_deny;
    let told = |name: &HeaderName| {
        patterns.is_empty() || [WWW_AUTHENTICATE, LOCATION].contains(name) || matches(patterns, name)
    };
    let own = |name: &HeaderName| *name == SERVICE_TIME || is_proxys(name.as_str());
    headers
        .iter()
        .filter(|(name, _)| told(name) && !own(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

fn matches(patterns: &[TextPattern], name: &HeaderName) -> bool {
    patterns.iter().any(|pattern| pattern.is_match(name.as_str()))
}
