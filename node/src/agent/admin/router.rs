//! Paths, and which door offers them.

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Path, Query, RawQuery, Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use certs::{
    id::{NodeId, ServiceName},
    sign::PublicKey,
};
use http::{HeaderMap, StatusCode};
use policy::{Kind, document::ROOT_NAMESPACE, kinds::Verb};
use serde::Deserialize;

use super::{
    Admin, Door, answers, api,
    error::{Body, Error},
    events, guard,
    look::{Documents, Look},
    metrics,
    past::LogFilter,
    serve::EACH,
};
use crate::telemetry::Wanted;

/// The largest request body, bytes: a changeset and its envelope, or a plan of its documents.
pub(super) const BODY_LIMIT: usize = 6 << 20;

/// Entries of a log that is watched.
const WATCHED: usize = 1_000;

/// Whether the answer goes on at every change.
#[derive(Debug, Default, Deserialize)]
struct Watch {
    #[serde(default)]
    watch: bool,
}

#[derive(Debug, Default, Deserialize)]
struct OfService {
    service: Option<ServiceName>,
}

#[derive(Debug, Default, Deserialize)]
struct Members {
    #[serde(default)]
    all: bool,
    #[serde(default)]
    reach: bool,
}

impl Members {
    const fn look(&self) -> Look {
        Look::Members { all: self.all, reach: self.reach }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        (self.status(), Json(Body { error: self })).into_response()
    }
}

impl Admin {
    /// What a door offers.
    pub(super) fn router(&self, door: &Door) -> Router {
        let admin = self.at(door);
        let router = match door {
            Door::Metrics => health(),
            Door::Loopback(_) => health().merge(looking()).layer(middleware::from_fn(guarded)),
            Door::Socket => {
                health().merge(looking()).merge(tapping(None)).merge(pushing()).merge(acting()).merge(keeping())
            }
            Door::Candidate(_) => signing(),
            Door::Operator(key) => {
                let acting = acting().layer(middleware::from_fn_with_state((admin.clone(), *key), may_act));
                let all = health().merge(looking()).merge(tapping(Some(*key))).merge(pushing()).merge(acting);
                all.layer(middleware::from_fn_with_state((admin.clone(), *key), may_look))
            }
        };
        router
            .fallback(|| async { Error::new("not_found", "there is nothing here").hint("see `skein --help`") })
            .method_not_allowed_fallback(|| async {
                let error = Error::new("forbidden", "this cannot be done here").hint("use the local socket or --node");
                (StatusCode::METHOD_NOT_ALLOWED, error.into_response())
            })
            .layer(middleware::from_fn_with_state(admin.places.answers.clone(), answers::in_pieces))
            .layer(DefaultBodyLimit::max(BODY_LIMIT))
            .with_state(admin)
    }

    /// What an operator is offered who has too many connections open.
    pub(super) fn crowded(&self) -> Router {
        Router::new().fallback(|| async {
            let message = format!("{EACH} connections of this key are open at this node, or very many of others");
            Error::new("too_many_requests", message)
                .hint("end other commands of yours that are under way, or ask another node with --node")
        })
    }

    /// Pages for browsers, under the guard of the loopback port.
    pub(super) fn pages(&self, pages: Router<Admin>) -> Router {
        pages.layer(middleware::from_fn(guarded)).with_state(self.at(&Door::Loopback([].into())))
    }
}

/// For probes and scrapers.
fn health() -> Router<Admin> {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics::metrics))
        .route("/v1/prometheus-targets", get(|State(admin): State<Admin>| async move { Json(admin.targets().await) }))
}

/// What changes nothing.
fn looking() -> Router<Admin> {
    Router::new()
        .route("/v1/status", get(|admin, watch| answer(admin, watch, Look::Status)))
        .route("/v1/members", get(|admin, watch, Query(of): Query<Members>| answer(admin, watch, of.look())))
        .route("/v1/ping/{node}", get(Admin::ping))
        .route("/v1/members/{node}", get(|admin, watch, Path::<NodeId>(node)| answer(admin, watch, Look::Member(node))))
        .route(
            "/v1/services",
            get(|admin, watch, Query(of): Query<OfService>| answer(admin, watch, Look::Services(of.service))),
        )
        .route(
            "/v1/endpoints",
            get(|admin, watch, Query(of): Query<OfService>| answer(admin, watch, Look::Endpoints(of.service))),
        )
        .route("/v1/limits", get(|admin, watch| answer(admin, watch, Look::Limits)))
        .route("/v1/outliers", get(|admin, watch| answer(admin, watch, Look::Outliers)))
        .route("/v1/traffic", get(|State(admin): State<Admin>| async move { Json((*admin.traffic().await).clone()) }))
        .route("/v1/concerns", get(|admin, watch| answer(admin, watch, Look::Concerns)))
        .route("/v1/routes", get(|admin, watch| answer(admin, watch, Look::Routes)))
        .route("/v1/explain", get(explain))
        .route("/v1/events", get(events))
        .route("/v1/local/services", get(|admin, watch| answer(admin, watch, Look::LocalServices)))
        .route("/v1/identities", get(|admin, watch| answer(admin, watch, Look::Identities)))
        .route("/v1/mesh", get(|admin, watch| answer(admin, watch, Look::Mesh)))
        .route("/v1/ca/settled", get(Admin::settled))
        .route("/v1/policy", get(|admin, watch, Query(of): Query<Documents>| answer(admin, watch, Look::Documents(of))))
        .route("/v1/policy/log", get(log))
        .route("/v1/policy/export", get(|State(admin): State<Admin>| async move { admin.export().await }))
        .route("/v1/policy/conflicts", get(Admin::conflicts))
        .route("/v1/policy/proposals", get(Admin::proposals))
        .route("/v1/policy/audit", get(Admin::audit))
        .route("/v1/policy/audit/heads", get(|State(admin): State<Admin>| async move { Json(admin.audit_heads()) }))
        .route("/v1/policy/changesets/{id}", get(Admin::changeset))
        .route("/v1/policy/changesets/{id}/spread", get(Admin::spread))
        .route("/v1/policy/{kind}/{namespace}/{name}", get(Admin::document_at))
}

/// What requests say of themselves: for whoever may open the socket, and for operators, each as far as their roles go.
fn tapping(operator: Option<PublicKey>) -> Router<Admin> {
    let tap =
        move |State(admin): State<Admin>, Query(wanted): Query<Wanted>| async move { admin.tap(wanted, operator) };
    Router::new().route("/v1/tap", get(tap))
}

/// What carries an operator's signature in itself, and what is asked before it is signed.
fn pushing() -> Router<Admin> {
    let taking = Router::new()
        .route("/v1/policy", post(Admin::push))
        .route("/v1/policy/plan", post(Admin::plan))
        .route("/v1/policy/preview", post(Admin::preview));
    promptly(taking)
        .route("/v1/policy/changesets/{id}/receipts", get(Admin::receipts))
        // Whole documents as they were signed: of these nothing can be withheld.
        .route("/v1/policy/history", get(Admin::signed))
        .route("/v1/policy/changesets/{id}/proof", get(Admin::changeset_proof))
        .route("/v1/policy/proof/{kind}/{namespace}/{name}", get(Admin::document_proof))
}

/// What one needs to sign a RoleSet that brings its key in: the changeset, proven, and a place to put the signature.
fn signing() -> Router<Admin> {
    promptly(Router::new().route("/v1/policy", post(Admin::push)))
        .route("/v1/mesh", get(|admin, watch| answer(admin, watch, Look::Mesh)))
        .route("/v1/policy/changesets/{id}/proof", get(Admin::changeset_proof))
}

/// What is done to this node.
fn acting() -> Router<Admin> {
    let taking = Router::new()
        .route("/v1/drain", post(Admin::drain))
        .route("/v1/leave", post(|State(admin): State<Admin>| async move { admin.leave().map(Json) }))
        .route("/v1/ca/request", post(Admin::ca_request))
        .route("/v1/ca/certificate", post(Admin::ca_certificate))
        .route("/v1/local/services", post(Admin::service_add))
        .route("/v1/local/services/remove", post(Admin::service_remove));
    promptly(taking)
}

/// What never leaves this machine: only its own socket takes it and tells of it.
fn keeping() -> Router<Admin> {
    let taking = Router::new()
        .route("/v1/local/secrets", get(Admin::secret_list).post(Admin::secret_put))
        .route("/v1/local/secrets/remove", post(Admin::secret_remove))
        .route("/v1/local/capture", get(Admin::capture))
        .route("/v1/local/capture/ended", post(Admin::capture_ended));
    promptly(taking)
}

/// Routes that take bodies. All others read none, nor do those who are turned away: guards are layers around this one.
fn promptly<S: Clone + Send + Sync + 'static>(taking: Router<S>) -> Router<S> {
    taking.route_layer(middleware::from_fn(answers::prompt))
}

async fn answer(State(admin): State<Admin>, Query(Watch { watch }): Query<Watch>, look: Look) -> Response {
    if watch {
        return admin.watch(look).await.unwrap_or_else(IntoResponse::into_response);
    }
    match admin.look(&look).await {
        Ok(value) => Json(value).into_response(),
        Err(error) => error.into_response(),
    }
}

/// A log that is watched is kept for as long, so only its latest entries are.
async fn log(
    State(admin): State<Admin>,
    Query(Watch { watch }): Query<Watch>,
    Query(mut filter): Query<LogFilter>,
) -> Response {
    if watch {
        filter.limit = Some(filter.limit.unwrap_or(WATCHED).min(WATCHED));
        return admin.watch(Look::Log(filter)).await.unwrap_or_else(IntoResponse::into_response);
    }
    admin.written_log(&filter).await.unwrap_or_else(IntoResponse::into_response)
}

async fn guarded(request: Request, next: Next) -> Response {
    match guard::method(request.method()).and_then(|()| guard::headers(request.headers())) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

/// Asks at every request, so that a role that was taken away is gone at once.
async fn may_look(State((admin, key)): State<(Admin, PublicKey)>, request: Request, next: Next) -> Response {
    if admin.agent.state().has_verb(&key, Verb::View) {
        return next.run(request).await;
    }
    role_missing(format!("the key {key} has no role with the verb `view`"))
}

/// What acts on the node itself takes the right to admit nodes, everywhere and alone: here nobody else signs.
async fn may_act(State((admin, key)): State<(Admin, PublicKey)>, request: Request, next: Next) -> Response {
    if admin.agent.state().may(&key, Verb::Invite, Kind::NodeGrant, ROOT_NAMESPACE) {
        return next.run(request).await;
    }
    role_missing(format!(
        "no role of threshold 1 lets the key {key} `invite` NodeGrants in every namespace, which acting on a node takes"
    ))
}

fn role_missing(message: String) -> Response {
    Error::new("role_missing", message).hint("`skein operator list` shows the roles").into_response()
}

async fn ready(State(admin): State<Admin>) -> Response {
    if admin.agent.ready() {
        return "ready\n".into_response();
    }
    let why = if admin.agent.draining() {
        "not ready: drained\n"
    } else if admin.agent.stuck_workers().is_some() {
        "not ready: a worker or the thread of links is stuck\n"
    } else {
        "not ready: identity, policy or listeners are missing\n"
    };
    (StatusCode::SERVICE_UNAVAILABLE, why).into_response()
}

async fn events(
    State(admin): State<Admin>,
    Query(filter): Query<events::Filter>,
) -> Result<(HeaderMap, Json<Vec<api::Event>>), Error> {
    let (events, unheard) = admin.timeline(&filter).await?;
    Ok((events::headers(&unheard), Json(events)))
}

async fn explain(State(admin): State<Admin>, RawQuery(query): RawQuery) -> Result<Json<api::Explanation>, Error> {
    admin.explain(query.as_deref().unwrap_or_default()).map(Json)
}

#[cfg(test)]
mod tests {
    use std::{io, time::Duration};

    use futures_util::stream;
    use hyper::service::Service as _;
    use hyper_util::service::TowerToHyperService;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_body_is_read_where_one_is_taken_and_after_the_guards() {
        let turned_away = middleware::from_fn(|_: Request, _: Next| async { StatusCode::FORBIDDEN });
        let guarded = promptly::<()>(Router::new().route("/guarded", post(|| async { "ok" }))).layer(turned_away);
        let router = promptly::<()>(Router::new().route("/taken", post(|| async { "ok" })))
            .route("/seen", get(|| async { "ok" }))
            .merge(guarded)
            .fallback(|| async { StatusCode::NOT_FOUND });
        let service = TowerToHyperService::new(router);
        let asked = async |method: &str, path: &str| {
            let never = axum::body::Body::from_stream(stream::pending::<Result<&'static str, io::Error>>());
            let request = http::Request::builder().method(method).uri(path).body(never).unwrap();
            let answered = tokio::time::timeout(Duration::from_secs(1), service.call(request)).await;
            answered.ok().map(|response| response.unwrap().status().as_u16())
        };
        for (method, path, status) in
            [("GET", "/seen", 200), ("POST", "/seen", 405), ("POST", "/nowhere", 404), ("POST", "/guarded", 403)]
        {
            assert_eq!(asked(method, path).await, Some(status), "{method} {path} waits for no body");
        }
        assert_eq!(asked("POST", "/taken").await, None, "it is waited for");
    }
}
