//! Whether a request is let in: by the policies of the service that it calls, on the head that is forwarded.

use super::{
    super::{context::Context, exchange::Exchange, failure::Cause, http::ResponseBody, reply},
    caller::Who,
    check::{Consulted, Denial, Due},
    limits::{Counted, Quota},
};
use crate::{
    clock,
    snapshot::{Snapshot, TokenKeys},
    telemetry::{Counter, Telemetry},
};
use http::{HeaderMap, HeaderValue, Response, header::WWW_AUTHENTICATE, request::Parts, uri::PathAndQuery};
use policy::{
    authorize::{self, Ask, Decision, Head, Peer, Token},
    compile::Workload,
    kinds::PathNormalization,
    normalize,
    token::Verified,
};
use std::{borrow::Cow, net::IpAddr, sync::Arc};

/// Why a request was not forwarded, and what its answer says beside that.
#[derive(Debug)]
pub(in crate::proxy) struct Refusal {
    pub(super) cause: Cause,
    /// Envoy's `response_code_details`, where they say more than the cause.
    pub(super) details: Option<String>,
    pub(super) headers: Option<Box<HeaderMap>>,
    /// Of an external authoriser: stands in place of the cause's own answer.
    pub(super) denial: Option<Box<Denial>>,
}

impl From<Cause> for Refusal {
    fn from(cause: Cause) -> Self {
        Self { cause, details: None, headers: None, denial: None }
    }
}

impl Refusal {
    /// The answer to the caller, of which the exchange is told.
    pub(in crate::proxy) fn answer(self, exchange: &mut Exchange) -> Response<ResponseBody> {
        let Self { cause, details, headers, denial } = self;
        let grpc = exchange.is_grpc();
        exchange.flag(cause.answer().flags);
        exchange.details(details.map_or(Cow::Borrowed(cause.details()), Cow::Owned));
        let mut response = match denial {
            Some(denial) => denial.answer(grpc),
            None => reply::failure(cause, grpc),
        };
        if let Some(headers) = headers {
            response.headers_mut().extend(*headers);
        }
        response
    }
}

/// How often policies refused, marked, or would have decided. Cheap to clone.
#[derive(Debug, Clone)]
pub(in crate::proxy) struct Verdicts {
    pub(in crate::proxy) unauthenticated: Counter,
    pub(in crate::proxy) denied: Counter,
    pub(in crate::proxy) audited: Counter,
    pub(in crate::proxy) would_allow: Counter,
    pub(in crate::proxy) would_deny: Counter,
    /// Of external authorisers.
    pub(super) allowed_outside: Counter,
    pub(super) denied_outside: Counter,
    pub(super) no_verdict_outside: Counter,
}

impl Verdicts {
    pub(in crate::proxy) fn new(telemetry: &Telemetry) -> Self {
        const DRY_RUN: &str = "skein_authorization_dry_run_total";
        let dry_run = |result| {
            let help = "Requests as policies with istio.io/dry-run would have decided";
            telemetry.counter(DRY_RUN, help, &[("result", result)])
        };
        let outside = |result| {
            let help = "Requests about which external authorisers were asked";
            telemetry.counter("skein_external_authorization_total", help, &[("result", result)])
        };
        let unauthenticated = "Requests whose token does not hold, or lacks";
        Self {
            unauthenticated: telemetry.counter("skein_authentication_refused_total", unauthenticated, &[]),
            denied: telemetry.counter("skein_authorization_denied_total", "Requests that policies refused", &[]),
            audited: telemetry.counter("skein_authorization_audited_total", "Requests that AUDIT policies met", &[]),
            would_allow: dry_run("allowed"),
            would_deny: dry_run("denied"),
            allowed_outside: outside("allowed"),
            denied_outside: outside("denied"),
            no_verdict_outside: outside("error"),
        }
    }
}

/// A request whose head is complete, on its way to the application's port, or into a gateway.
#[derive(Clone, Copy)]
pub(in crate::proxy) struct Arriving<'a> {
    pub(in crate::proxy) who: &'a Who,
    /// The application's port, or the gateway's; 0 while it is not known.
    pub(in crate::proxy) port: u16,
    pub(in crate::proxy) host: &'a HeaderValue,
    pub(in crate::proxy) scheme: &'static str,
    /// The client for which a gateway speaks.
    pub(in crate::proxy) original: Option<IpAddr>,
}

/// What happens next to a request that nothing forbids so far.
pub(in crate::proxy) enum Next {
    /// It goes on, of this user.
    Go(Option<Verified>),
    Ask(Due),
}

/// What is said in the response, whatever becomes of the request.
#[derive(Default)]
pub(in crate::proxy) struct Told {
    pub(in crate::proxy) outside: Consulted,
    /// The matched rate limit with the fewest requests left.
    quota: Option<Quota>,
}

impl Told {
    pub(in crate::proxy) fn mark(self, headers: &mut HeaderMap) {
        self.outside.mark(headers);
        if let Some(quota) = self.quota {
            quota.tell(headers);
        }
    }
}

impl Arriving<'_> {
    /// All that the documents have judged of a request: whom it must be asked about first, whose token it shows, policies, limits.
    /// `nested`: it is itself what an authoriser is asked.
    ///
    /// # Errors
    /// It is not let in.
    pub(in crate::proxy) fn next(
        &self,
        context: &Context,
        snapshot: &Snapshot,
        (workload, counted): (&Workload, &[Counted]),
        parts: &mut Parts,
        told: &mut Told,
        nested: bool,
    ) -> Result<Next, Refusal> {
        while let Some(ask) = self.ask(workload, parts, told.outside.asked())? {
            if let Some(due) = told.outside.due(context, &workload.config, self.who, ask, nested)? {
                return Ok(Next::Ask(due));
            }
        }
        // As in Istio after those: who is asked sees the token, and may have brought it.
        let token = self.authenticate(context, workload, &snapshot.token_keys, parts)?;
        self.admit(context, workload, parts, token.as_ref().map(|verified| &*verified.token))?;
        if !workload.limits.is_empty() {
            let now = clock::uptime_micros();
            told.quota = self.find_room(&snapshot.limits, workload, counted, parts, now)?;
        }
        Ok(Next::Go(token))
    }

    /// HTTP's own port for the way by which it came: an authority with it is one without a port.
    pub(super) fn own_port(&self) -> u16 {
        if self.scheme == "https" { 443 } else { 80 }
    }

    /// Verifies the token that the request shows, by what the documents say of the workload. What goes on of it, and of headers that
    /// only the proxy may write, is theirs to say.
    ///
    /// # Errors
    /// The token does not hold, or there is none where one is required.
    fn authenticate(
        &self,
        context: &Context,
        workload: &Workload,
        keys: &TokenKeys,
        parts: &mut Parts,
    ) -> Result<Option<Verified>, Refusal> {
        if workload.tokens.is_empty() {
            return Ok(None);
        }
        workload.tokens.check(parts, keys, clock::wall() / 1_000).map_err(|why| {
            context.verdicts.unauthenticated.add(1);
            let url = format!("{}://{}{}", self.scheme, self.host.to_str().unwrap_or_default(), parts.uri.path());
            let challenge = HeaderValue::from_str(&why.challenge(&url)).ok();
            let headers = challenge.map(|challenge| Box::new(HeaderMap::from_iter([(WWW_AUTHENTICATE, challenge)])));
            Refusal { cause: Cause::Unauthenticated(why), details: Some(why.details()), headers, denial: None }
        })
    }

    /// Who must be asked about the request first, beside those that were.
    ///
    /// # Errors
    /// Host or path have no normal form.
    fn ask(&self, workload: &Workload, parts: &mut Parts, asked: &[Arc<str>]) -> Result<Option<Ask>, Refusal> {
        normalize::forwardable(parts.uri.path()).map_err(|_| BAD_PATH)?;
        if !workload.authorizer.asks() {
            return Ok(None);
        }
        let (ask, path) = self.judge(workload, parts, None, |peer, head| workload.authorizer.ask(peer, head, asked))?;
        rewrite(parts, path)?;
        Ok(ask)
    }

    /// Judges the request by what the documents say of the workload. A path at which some rule looks is forwarded in the form in
    /// which the rules saw it.
    ///
    /// # Errors
    /// It is not let in.
    fn admit(
        &self,
        context: &Context,
        workload: &Workload,
        parts: &mut Parts,
        token: Option<&Token>,
    ) -> Result<(), Refusal> {
        if workload.authorizer.is_open() {
            return Ok(());
        }
        let decide = |peer: &Peer<'_>, head: &Head<'_>| workload.authorizer.decide(peer, head);
        let (decision, path) = self.judge(workload, parts, token, decide)?;
        self.report(context, parts, &decision);
        if !decision.allowed() {
            return Err(Refusal { details: decision.details(), ..Cause::Denied.into() });
        }
        rewrite(parts, path)?;
        Ok(())
    }

    /// What the policies say that need nobody asked.
    ///
    /// # Errors
    /// Host or path have no normal form.
    pub(super) fn decide(&self, workload: &Workload, parts: &Parts, token: Option<&Token>) -> Result<Decision, Cause> {
        Ok(self.judge(workload, parts, token, |peer, head| workload.authorizer.decide(peer, head))?.0)
    }

    /// What is said of the request as policies see it, and path and query to forward if they differ from what came.
    fn judge<T>(
        &self,
        workload: &Workload,
        parts: &Parts,
        token: Option<&Token>,
        say: impl FnOnce(&Peer<'_>, &Head<'_>) -> T,
    ) -> Result<(T, Option<String>), Cause> {
        let looks = workload.authorizer.looks_at_paths();
        let level = if looks { workload.config.path_normalization } else { PathNormalization::None };
        let path = normalize::path(parts.uri.path(), level).map_err(|_| BAD_PATH)?;
        let host =
            self.host.to_str().ok().and_then(|host| normalize::host(host, self.own_port()).ok()).ok_or(BAD_HOST)?;
        let head = Head {
            method: parts.method.as_str(),
            scheme: self.scheme,
            host: &host,
            called: self.who.called(),
            path: &path,
            query: parts.uri.query(),
            headers: &parts.headers,
            token,
        };
        let said = say(&self.who.peer(self.port, self.original), &head);
        let rewritten = (looks && path.as_str() != parts.uri.path()).then(|| match parts.uri.query() {
            Some(query) => format!("{}?{query}", path.as_str()),
            None => path.as_str().to_owned(),
        });
        Ok((said, rewritten))
    }

    /// What is told of a decision beside the answer.
    fn report(&self, context: &Context, parts: &Parts, decision: &Decision) {
        let what = || format!("{} {}", parts.method, parts.uri.path());
        report(context, self.who, what, decision);
    }
}

/// What is told of a decision about a request or a connection, beside the answer; `what` names it.
pub(in crate::proxy) fn report(context: &Context, who: &Who, what: impl Fn() -> String, decision: &Decision) {
    let log = |why: &str, cause: &authorize::Cause| {
        tracing::info!(
            policy = %cause.document, rule = cause.rule, source = who.name(), service = %who.service,
            what = what(), "{why}"
        );
    };
    if let Some(cause) = &decision.audit {
        context.verdicts.audited.add(1);
        log("an AUDIT policy matches", cause);
    }
    match &decision.dry_run {
        None => {}
        Some(verdict) if verdict.allowed => context.verdicts.would_allow.add(1),
        Some(verdict) => {
            context.verdicts.would_deny.add(1);
            match &verdict.cause {
                Some(cause) => log("a policy on trial would deny", cause),
                None => tracing::info!(
                    source = who.name(), service = %who.service, what = what(),
                    "no ALLOW policy on trial matches: it would be denied"
                ),
            }
        }
    }
    if !decision.allowed() {
        context.verdicts.denied.add(1);
    }
}

/// Gives the request the path that the rules saw.
fn rewrite(parts: &mut Parts, path: Option<String>) -> Result<(), Cause> {
    if let Some(path) = path {
        parts.uri = PathAndQuery::try_from(path).map_err(|_| BAD_PATH)?.into();
    }
    Ok(())
}

const BAD_PATH: Cause = Cause::BadRequest("the path has no normal form");
const BAD_HOST: Cause = Cause::BadRequest("the host has no normal form");
