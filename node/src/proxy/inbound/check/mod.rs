//! External authorisers (ext_authz): what AuthorizationPolicies of action CUSTOM have asked before all else about a request that
//! arrives. They are services of the mesh, asked as the service that was called, along the way of its own requests.
//!
//! Sources: Istio's MeshConfig.extensionProviders, Envoy's ext_authz filter.

mod asker;
mod changes;
mod grpc;
mod http;

pub(in crate::proxy) use asker::Askers;

use super::{
    super::{
        context::Context,
        failure::Cause,
        http::{Beginning, RequestBody},
        reply,
    },
    admission::{Arriving, Refusal},
    caller::Who,
};
use ::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, request::Parts};
use asker::Asker;
use bytes::Bytes;
use certs::id::SpiffeId;
use changes::{Change, Changes, Way};
use policy::{
    authorize::Ask,
    kinds::{CheckProtocol, MeshConfig},
};
use std::{net::IpAddr, sync::Arc};

use crate::proxy::http::ResponseBody;

/// Marks what an authoriser is asked, between nodes only: who asks about that would go in circles.
pub(super) const CHECK: HeaderName = HeaderName::from_static("x-skein-check");
/// Says whether an authoriser was told all of the body.
const PARTIAL: HeaderName = HeaderName::from_static("x-envoy-auth-partial-body");
/// Most bytes of an authoriser's answer.
const ANSWER_BYTES: usize = 64 * 1024;

/// What external authorisers have said of a request so far.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Consulted {
    /// Who need not be asked any more.
    asked: Vec<Arc<str>>,
    /// What they want said in the response.
    response: Vec<Change>,
}

/// An authoriser that must be asked now.
#[derive(Debug)]
pub(in crate::proxy) struct Due {
    name: Arc<str>,
    asker: Arc<Asker>,
}

/// A request as an authoriser is asked about it.
struct Question<'q> {
    context: &'q Arc<Context>,
    arriving: &'q Arriving<'q>,
    /// The identity that this node showed the caller.
    own: SpiffeId,
    asker: &'q Asker,
    parts: &'q Parts,
    /// The beginning of its body, if the authoriser is told of it.
    body: Option<Beginning>,
    /// Bytes of the body, if the caller said how many.
    size: Option<u64>,
}

/// What an authoriser says.
enum Verdict {
    Allowed(Changes),
    Denied(Denial),
}

/// A refusal in an authoriser's own words.
#[derive(Debug)]
pub(super) struct Denial {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Consulted {
    /// The names of those that need not be asked.
    pub(super) fn asked(&self) -> &[Arc<str>] {
        &self.asked
    }

    /// What is to be done about an authoriser that a policy names; `None` if it is the called service itself, which is not asked
    /// about what it is asked. `nested`: the request is such a question.
    ///
    /// # Errors
    /// There is no such authoriser, or the question would go in circles.
    pub(super) fn due(
        &mut self,
        context: &Context,
        config: &MeshConfig,
        who: &Who,
        ask: Ask,
        nested: bool,
    ) -> Result<Option<Due>, Refusal> {
        let Some(provider) = config.provider(&ask.provider) else {
            tracing::debug!(policy = %ask.cause.document, provider = %ask.provider, "no such extension provider");
            return Err(no_verdict(FORBIDDEN, "ext_authz_error[no_such_provider]"));
        };
        if who.called() == Some((&provider.service, provider.port)) {
            self.asked.push(ask.provider);
            return Ok(None);
        }
        if nested {
            tracing::warn!(
                policy = %ask.cause.document, provider = %ask.provider, service = %who.service,
                "an external authoriser is itself under a policy that asks another one: keep it out of its selector"
            );
            // To who asked it is no verdict either.
            return Err(no_verdict(503, "ext_authz_error[asked_about_a_check]"));
        }
        let asker = context.asker(who, provider).ok_or(Cause::NotServedHere)?;
        Ok(Some(Due { name: ask.provider, asker }))
    }

    /// Asks, and does with the request what the authoriser says.
    ///
    /// # Errors
    /// It refuses, or it gives no answer where that refuses.
    pub(in crate::proxy) async fn ask(
        &mut self,
        context: &Arc<Context>,
        arriving: &Arriving<'_>,
        due: Due,
        parts: &mut Parts,
        body: &mut RequestBody,
    ) -> Result<(), Refusal> {
        let provider = &due.asker.provider;
        let size = hyper::body::Body::size_hint(body).exact();
        let told = match provider.body {
            None => None,
            Some(limits) => {
                let beginning = body.read_ahead(limits.max_bytes).await?;
                if !beginning.is_whole && !limits.allow_partial {
                    return Err(Cause::BodyTooLarge.into());
                }
                Some(beginning)
            }
        };
        let own = SpiffeId::service(context.current.read().trust_domain.clone(), arriving.who.account.clone());
        let question = Question { context, arriving, own, asker: &due.asker, parts, body: told, size };
        let said = match &provider.protocol {
            CheckProtocol::Http(check) => http::ask(&question, check).await,
            CheckProtocol::Grpc => grpc::ask(&question).await,
        };
        let verdicts = &context.verdicts;
        match said {
            Ok(Verdict::Allowed(changes)) => {
                changes.apply(parts).map_err(|_| no_verdict(provider.status_on_error, "ext_authz_error"))?;
                verdicts.allowed_outside.add(1);
                self.response.extend(changes.response);
            }
            Ok(Verdict::Denied(denial)) => {
                verdicts.denied_outside.add(1);
                return Err(Refusal { denial: Some(Box::new(denial)), ..Cause::DeniedOutside.into() });
            }
            Err(why) => {
                tracing::debug!(provider = %provider.name, why, open = provider.fail_open, "no verdict of an authoriser");
                verdicts.no_verdict_outside.add(1);
                if !provider.fail_open {
                    return Err(Cause::NoVerdict(provider.status_on_error).into());
                }
            }
        }
        self.asked.push(due.name);
        Ok(())
    }

    /// Says in the response what they want said.
    pub(in crate::proxy) fn mark(self, headers: &mut HeaderMap) {
        changes::apply(&self.response, headers);
    }
}

/// Where no `statusOnError` is known.
const FORBIDDEN: u16 = 403;

fn no_verdict(status: u16, details: &str) -> Refusal {
    Refusal { details: Some(details.to_owned()), ..Cause::NoVerdict(status).into() }
}

impl Question<'_> {
    /// Path and query, as they are forwarded.
    fn path(&self) -> &str {
        self.parts.uri.path_and_query().map_or("/", |path| path.as_str())
    }

    /// Sends it; `host` is what it is addressed to.
    async fn send(
        &self,
        host: HeaderValue,
        mut request: ::http::Request<Option<Bytes>>,
    ) -> Result<Response<ResponseBody>, String> {
        request.headers_mut().insert(CHECK, HeaderValue::from_static("1"));
        self.asker
            .call(self.context, self.arriving.who.address, host, request)
            .await
            .map_err(|cause| cause.details().to_owned())
    }

    /// The address of who sent it, as far as that is known.
    fn client(&self) -> IpAddr {
        self.arriving.original.unwrap_or(self.arriving.who.address)
    }

    /// Headers by which the check belongs to the request's trace.
    fn traces(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        self.parts.headers.iter().filter(|(name, _)| is_trace(name.as_str()))
    }
}

fn is_trace(name: &str) -> bool {
    matches!(name, "x-request-id" | "traceparent" | "tracestate" | "b3") || name.starts_with("x-b3-")
}

impl Denial {
    /// The answer to the caller.
    pub(super) fn answer(self, grpc: bool) -> Response<ResponseBody> {
        let Self { status, headers, body } = self;
        let mut response = if grpc {
            let code = super::super::failure::grpc_status(status);
            reply::grpc_error(code, &String::from_utf8_lossy(&body))
        } else {
            reply::text(status, body)
        };
        for name in headers.keys() {
            // A gRPC caller reads its own sort of answer.
            if !(grpc && *name == ::http::header::CONTENT_TYPE) {
                response.headers_mut().remove(name);
                response.headers_mut().extend(headers.get_all(name).iter().map(|value| (name.clone(), value.clone())));
            }
        }
        response
    }
}

/// Adds a line, unless it is the proxy's alone to say.
fn change(list: &mut Vec<Change>, name: HeaderName, value: HeaderValue, way: Way) {
    if super::super::http::is_proxys(name.as_str()) {
        tracing::debug!(%name, "an authoriser may not set it");
    } else {
        list.push(Change { name, value, way });
    }
}
