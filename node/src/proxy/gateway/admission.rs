//! Whether a client's request is let in: by the AuthorizationPolicies that select the gateway's workload. Istio judges at
//! gateways as it does before applications.

use super::door::{Door, Entrance};
use crate::{
    clock,
    proxy::{context::Context, failure::Cause},
    snapshot::Snapshot,
};
use http::{HeaderValue, request::Parts, uri::PathAndQuery};
use policy::{
    authorize::{Decision, Head, Peer},
    compile::Workload,
    kinds::PathNormalization,
    normalize,
    token::Verified,
};
use std::net::SocketAddr;

const BAD_PATH: Cause = Cause::BadRequest("the path has no normal form");
const BAD_HOST: Cause = Cause::BadRequest("the host has no normal form");

impl Entrance {
    /// Judges a request that was received. A path at which some rule looks is forwarded in the form in which the rules saw it.
    ///
    /// # Errors
    /// It is not let in.
    pub(in crate::proxy) fn admit(
        &self,
        context: &Context,
        snapshot: &Snapshot,
        parts: &mut Parts,
        host: &HeaderValue,
        (remote, local): (SocketAddr, SocketAddr),
    ) -> Result<(), Cause> {
        normalize::forwardable(parts.uri.path()).map_err(|_| BAD_PATH)?;
        let seen = self.door.look(snapshot);
        let workload = &seen.workload;
        let user = self.authenticate(context, snapshot, workload, parts)?;
        if workload.authorizer.is_open() {
            return Ok(());
        }
        let looks = workload.authorizer.looks_at_paths();
        let level = if looks { workload.config.path_normalization } else { PathNormalization::None };
        let path = normalize::path(parts.uri.path(), level).map_err(|_| BAD_PATH)?;
        let scheme = self.scheme(&parts.headers);
        let port = if scheme == "https" { 443 } else { 80 };
        let host = host.to_str().ok().and_then(|host| normalize::host(host, port).ok()).ok_or(BAD_HOST)?;
        let head = Head {
            method: parts.method.as_str(),
            scheme,
            host: &host,
            called: None,
            path: &path,
            query: parts.uri.query(),
            headers: &parts.headers,
            token: user.as_ref().map(|verified| &*verified.token),
        };
        let peer = Peer {
            // A client's certificate is of no authority of this mesh.
            identity: None,
            address: Some(remote.ip().to_canonical()),
            original_address: Some(super::forwarded::external(&parts.headers).unwrap_or(remote.ip())),
            server_name: self.server_name(),
            destination: Some(local.ip().to_canonical()),
            port: self.door.port,
        };
        if let Some(ask) = workload.authorizer.ask(&peer, &head, &[]) {
            tracing::warn!(
                policy = %ask.cause.document, provider = %ask.provider, gateway = %self.door.speaker.load().service,
                "external authorisers are not asked at gateways yet: the request is refused"
            );
            return Err(Cause::Denied);
        }
        let decision = workload.authorizer.decide(&peer, &head);
        report(context, &self.door, || format!("{} {}", parts.method, parts.uri.path()), &decision);
        if !decision.allowed() {
            return Err(Cause::Denied);
        }
        if looks && path.as_str() != parts.uri.path() {
            let whole = match parts.uri.query() {
                Some(query) => format!("{}?{query}", path.as_str()),
                None => path.as_str().to_owned(),
            };
            parts.uri = PathAndQuery::try_from(whole).map_err(|_| BAD_PATH)?.into();
        }
        Ok(())
    }
}

impl Entrance {
    /// The user of the request, by the token that RequestAuthentications of the gateway's workload believe.
    fn authenticate(
        &self,
        context: &Context,
        snapshot: &Snapshot,
        workload: &Workload,
        parts: &mut Parts,
    ) -> Result<Option<Verified>, Cause> {
        if workload.tokens.is_empty() {
            return Ok(None);
        }
        workload.tokens.check(parts, &*snapshot.token_keys, clock::wall() / 1_000).map_err(|why| {
            context.verdicts.unauthenticated.add(1);
            Cause::Unauthenticated(why)
        })
    }
}

/// What is told of a decision about a request or a connection, beside the answer; `what` names it.
pub(super) fn report(context: &Context, door: &Door, what: impl Fn() -> String, decision: &Decision) {
    let service = || door.speaker.load().service.clone();
    if let Some(cause) = &decision.audit {
        context.verdicts.audited.add(1);
        tracing::info!(policy = %cause.document, rule = cause.rule, gateway = %service(), what = what(), "an AUDIT policy matches");
    }
    match &decision.dry_run {
        None => {}
        Some(verdict) if verdict.allowed => context.verdicts.would_allow.add(1),
        Some(verdict) => {
            context.verdicts.would_deny.add(1);
            let policy = verdict.cause.as_ref().map_or_else(|| "none".to_owned(), |cause| cause.document.to_string());
            tracing::info!(policy, gateway = %service(), what = what(), "a policy on trial would deny");
        }
    }
    if !decision.allowed() {
        context.verdicts.denied.add(1);
    }
}
