//! `HTTPRoute`: conditions, one action, and what is done on the way.

use std::time::Duration;

use super::{DirectResponse, Fault, HttpMatch, Redirect, Rewrite, RouteDestination, RouteHeaders};
use crate::{codes, decode::At, retry::Retries};

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

/// Fields of Istio that this build does not apply.
const NOT_BUILT: [&str; 6] = ["delegate", "mirror", "mirrors", "mirrorPercentage", "mirrorPercent", "corsPolicy"];

impl HttpRoute {
    pub(super) fn decode(at: &At<'_>, namespace: &str) -> Option<Self> {
        let fields = at.fields()?;
        let name = fields.get("name").and_then(|name| name.text().map(str::to_owned)).unwrap_or_default();
        let list = fields.get("match");
        let items = list.as_ref().map(At::items).unwrap_or_default();
        let matches: Vec<HttpMatch> = items.iter().filter_map(HttpMatch::decode).collect();
        check_exclusive(at, &fields);
        let redirect = fields.get("redirect").map(|redirect| Redirect::decode(&redirect, &matches));
        let direct = fields.get("directResponse").map(|direct| DirectResponse::decode(&direct));
        let route = fields.get("route").map(|route| RouteDestination::decode_list(&route, namespace));
        let rewrite = fields.get("rewrite").and_then(|rewrite| Rewrite::decode(&rewrite));
        let timeout =
            fields.get("timeout").and_then(|timeout| timeout.duration_or_zero()).filter(|timeout| !timeout.is_zero());
        let retries = fields.get("retries").and_then(|retries| Retries::decode(&retries));
        let fault = fields.get("fault").and_then(|fault| Fault::decode(&fault));
        let headers = fields.get("headers").map(|headers| RouteHeaders::decode(&headers)).unwrap_or_default();
        if rewrite.as_ref().is_some_and(|rewrite| rewrite.authority.is_some()) && headers.request.authority.is_some() {
            at.error(codes::EXCLUSIVE, "the authority is set twice: by rewrite and by headers");
        }
        fields.not_supported(&NOT_BUILT);
        fields.finish();
        let action = match (route, redirect, direct) {
            (Some(route), _, _) => HttpAction::Route(route),
            (None, Some(redirect), _) => HttpAction::Redirect(redirect?),
            (None, None, Some(direct)) => HttpAction::Direct(direct?),
            (None, None, None) => return None,
        };
        Some(Self { line: at.line(), name, matches, action, rewrite, timeout, retries, fault, headers })
    }
}

/// One action, and what may stand beside it.
fn check_exclusive(at: &At<'_>, fields: &crate::decode::Fields<'_>) {
    let actions = ["route", "redirect", "directResponse", "delegate"];
    let given: Vec<&str> = actions.into_iter().filter(|name| fields.has(name)).collect();
    match given.as_slice() {
        [] => at.error_as_istio(codes::NO_ACTION, "HTTP route, redirect or direct_response is required", ""),
        [_] => {}
        several => at.error(codes::EXCLUSIVE, format!("{} exclude each other", several.join(" and "))),
    }
    for action in ["redirect", "directResponse"].into_iter().filter(|action| fields.has(action)) {
        for beside in ["fault", "rewrite"].into_iter().filter(|beside| fields.has(beside)) {
            at.error(codes::EXCLUSIVE, format!("{action} and {beside} exclude each other"));
        }
    }
}

/// Warns of rules behind one that catches all, and of conditions that stand twice.
pub(super) fn warn_unreachable(routes: &[At<'_>], decoded: &[HttpRoute]) {
    if routes.len() != decoded.len() {
        return;
    }
    let mut ended = false;
    let mut seen: Vec<&HttpMatch> = Vec::new();
    for (at, route) in routes.iter().zip(decoded) {
        if ended {
            at.warn(codes::UNREACHABLE_RULE, "no request reaches this rule: one before it takes all", "move it up");
            continue;
        }
        for condition in &route.matches {
            let same =
                |other: &&&HttpMatch| HttpMatch { name: condition.name.clone(), ..(***other).clone() } == *condition;
            if seen.iter().find(same).is_some() {
                at.warn(codes::DUPLICATE_MATCH, "this condition stands in a rule before", "");
            }
            seen.push(condition);
        }
        ended = route.matches.is_empty() || route.matches.iter().any(HttpMatch::is_catch_all);
    }
}
