//! `HTTPRoute`: conditions, one action, and what is done on the way.

use std::{sync::Arc, time::Duration};

use super::{
    CorsPolicy, DelegateName, DirectResponse, Fault, HttpMatch, HttpRouteDestination, Mirroring, Redirect, Rewrite,
    RouteHeaders,
};
use crate::{
    codes,
    decode::{At, Fields},
    retry::Retries,
};

/// `HTTPRoute`. What is absent here a delegate's rule takes from the rule that delegates to it.
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
    /// As written: see [`HttpRoute::deadline`].
    pub timeout: Option<Duration>,
    /// Absent: the mesh's default.
    pub retries: Option<Retries>,
    /// At the caller.
    pub fault: Option<Fault>,
    /// Copies that are sent elsewhere.
    pub mirroring: Mirroring,
    /// What browsers are told.
    pub cors: Option<Arc<CorsPolicy>>,
    /// Header operations.
    pub headers: Option<RouteHeaders>,
}

/// What happens to a request.
#[derive(Debug, Clone, PartialEq)]
pub enum HttpAction {
    /// Forwarded to one of these, by weight.
    Route(Vec<HttpRouteDestination>),
    /// Answered 3xx.
    Redirect(Redirect),
    /// Answered here.
    Direct(DirectResponse),
    /// The rules of another VirtualService stand in this one's place.
    Delegate {
        /// The VirtualService without hosts that has the rules.
        to: DelegateName,
        /// The answer of those of its rules that give none.
        direct: Option<DirectResponse>,
    },
}

/// Where a rule stands: what is allowed in it, and what its short names mean.
pub(super) struct Scope<'s> {
    /// The document's own.
    pub(super) namespace: &'s str,
    /// The document has no hosts: others delegate to it.
    pub(super) delegate: bool,
    /// The document names gateways, and not the mesh.
    pub(super) only_gateways: bool,
}

impl HttpRoute {
    /// How long the whole request may take, retries included; `None` is for ever.
    pub fn deadline(&self) -> Option<Duration> {
        self.timeout.filter(|timeout| !timeout.is_zero())
    }

    pub(super) fn decode(at: &At<'_>, scope: &Scope<'_>) -> Option<Self> {
        let fields = at.fields()?;
        let name = fields.get("name").and_then(|name| name.text().map(str::to_owned)).unwrap_or_default();
        let list = fields.get("match");
        let items = list.as_ref().map(At::items).unwrap_or_default();
        let matches: Vec<HttpMatch> = items.iter().filter_map(|item| HttpMatch::decode(item, scope)).collect();
        check_actions(&fields, &name, scope);
        let action = decode_action(&fields, &matches, scope);
        let rewrite = fields.get("rewrite").and_then(|rewrite| Rewrite::decode(&rewrite));
        let timeout = fields.get("timeout").and_then(|timeout| timeout.duration_or_zero());
        let retries = fields.get("retries").and_then(|retries| Retries::decode(&retries));
        let fault = fields.get("fault").and_then(|fault| Fault::decode(&fault));
        let mirroring = Mirroring::decode(&fields, scope.namespace);
        let cors = fields.get("corsPolicy").and_then(|cors| CorsPolicy::decode(&cors)).map(Arc::new);
        let headers = fields.get("headers").map(|headers| RouteHeaders::decode(&headers));
        let sets_authority = headers.as_ref().is_some_and(|headers| headers.request.authority.is_some());
        if rewrite.as_ref().is_some_and(|rewrite| rewrite.authority.is_some()) && sets_authority {
            at.error(codes::EXCLUSIVE, "the authority is set twice: by rewrite and by headers");
        }
        fields.finish();
        let action = action?;
        warn_of_way(at, &action, headers.as_ref(), scope);
        Some(Self {
            line: at.line(),
            name,
            matches,
            action,
            rewrite,
            timeout,
            retries,
            fault,
            mirroring,
            cors,
            headers,
        })
    }
}

/// A called node says itself who calls, unless a gateway does: what a rule for the mesh writes there, services outside alone get.
fn warn_of_way(at: &At<'_>, action: &HttpAction, headers: Option<&RouteHeaders>, scope: &Scope<'_>) {
    if scope.delegate || scope.only_gateways {
        return;
    }
    let destinations = match action {
        HttpAction::Route(destinations) => destinations.as_slice(),
        HttpAction::Redirect(_) | HttpAction::Direct(_) | HttpAction::Delegate { .. } => &[],
    };
    let all = headers.into_iter().chain(destinations.iter().map(|one| &one.headers));
    if let Some(name) = all.flat_map(|headers| headers.request.of_way()).next() {
        let message =
            format!("services of the mesh are told `{name}` by their own nodes, whatever a caller's rule writes");
        at.warn(codes::WITHOUT_EFFECT, message, "write it where clients come in, by `gateways`, or take another name");
    }
}

fn decode_action(fields: &Fields<'_>, matches: &[HttpMatch], scope: &Scope<'_>) -> Option<HttpAction> {
    let redirect = fields.get("redirect").map(|redirect| Redirect::decode(&redirect, matches));
    let direct = fields.get("directResponse").map(|direct| DirectResponse::decode(&direct));
    let route = fields.get("route").map(|route| HttpRouteDestination::decode_list(&route, scope.namespace));
    let route = route.filter(|route| !route.is_empty());
    if let Some(delegate) = fields.get("delegate") {
        let to = DelegateName::decode(&delegate, scope.namespace)?;
        return Some(HttpAction::Delegate { to, direct: direct.flatten() });
    }
    match (route, redirect, direct) {
        (Some(route), _, _) => Some(HttpAction::Route(route)),
        (None, Some(redirect), _) => Some(HttpAction::Redirect(redirect?)),
        (None, None, Some(direct)) => Some(HttpAction::Direct(direct?)),
        (None, None, None) => None,
    }
}

/// One action, and what may stand beside it.
fn check_actions(fields: &Fields<'_>, name: &str, scope: &Scope<'_>) {
    let at = fields.at;
    let has_route = fields.get("route").is_some_and(|route| !route.is_empty_list());
    let has = |field: &'static str| if field == "route" { has_route } else { fields.has(field) };
    let refuse = |message: String, hint: &str| at.error_as_istio(codes::EXCLUSIVE, message, hint);
    if fields.has("delegate") {
        if scope.delegate {
            let hint = "write the rules here: only a VirtualService with hosts may delegate";
            refuse("delegate HTTP route cannot contain delegate".to_owned(), hint);
        }
        for action in ["redirect", "route"].into_iter().filter(|action| has(action)) {
            let hint = format!("leave `{action}` out: the rules of the delegate say it");
            refuse(format!("root HTTP route {name} must not specify {action}"), &hint);
        }
        return;
    }
    let (action, word, beside): (_, _, &[&'static str]) = if has("redirect") {
        ("redirect", "redirect", &["route", "fault", "rewrite", "directResponse"])
    } else if has("directResponse") {
        ("directResponse", "direct_response", &["route", "fault", "rewrite"])
    } else {
        if !has_route {
            let hint = "write one of `route`, `redirect`, `directResponse`";
            at.error_as_istio(codes::NO_ACTION, "HTTP route, redirect or direct_response is required", hint);
        }
        return;
    };
    for other in beside.iter().filter(|other| has(other) && **other != action) {
        let hint = format!("nothing is forwarded by `{action}`: leave out one of `{action}` and `{other}`");
        let (rule, other) = match *other {
            "directResponse" => ("HTTP route rule", "direct_response"),
            "rewrite" => ("HTTP route rule", "rewrite"),
            plain => ("HTTP route", plain),
        };
        refuse(format!("{rule} cannot contain both {other} and {word}"), &hint);
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
