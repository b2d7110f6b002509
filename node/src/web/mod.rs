//! The pages that every node serves: drawn from the same answers as the command line's JSON, so that both say the same. Server-side
//! HTML that works without a script; what does not come from here is not loaded.

mod events;
mod explain;
mod figures;
mod flow;
mod graph;
mod layout;
mod nodes;
mod overview;
mod policy;
mod services;
mod words;

use axum::{
    Router,
    extract::{Path, Query, RawQuery, State},
    http::header,
    response::{IntoResponse, Response},
    routing::get,
};
use certs::id::{NodeId, ServiceName};
use serde::Deserialize;

use self::layout::{Page, Tab};
use crate::agent::admin::{Admin, error::Error};

/// What is looked for on a page.
#[derive(Debug, Default, Deserialize)]
struct Search {
    /// Part of a name.
    #[serde(default)]
    q: String,
    /// Counted from 0.
    #[serde(default)]
    page: usize,
    /// Only this namespace.
    #[serde(default)]
    namespace: String,
}

/// The pages and what they load.
pub fn pages() -> Router<Admin> {
    Router::new()
        .route("/", get(overview))
        .route("/services", get(services))
        .route("/services/{namespace}/{name}", get(service))
        .route("/graph", get(graph))
        .route("/policy", get(policy))
        .route("/policy/changesets/{id}", get(changeset))
        .route("/policy/documents/{kind}/{namespace}/{name}", get(document))
        .route("/nodes", get(nodes))
        .route("/nodes/{node}", get(node))
        .route("/events", get(events))
        .route("/explain", get(explain))
        .route(
            "/assets/skein.css",
            get(|| async { asset("text/css; charset=utf-8", include_str!("assets/skein.css")) }),
        )
        .route(
            "/assets/skein.js",
            get(|| async { asset("text/javascript; charset=utf-8", include_str!("assets/skein.js")) }),
        )
        .route("/assets/icon.svg", get(|| async { asset("image/svg+xml", include_str!("assets/icon.svg")) }))
}

/// Part of the program; a new version of it brings new ones, so they are asked for again.
fn asset(kind: &'static str, text: &'static str) -> Response {
    layout::guarded(([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-cache")], text).into_response())
}

/// A page, or one that says what went wrong.
fn answer(page: Result<Page, Error>, admin: &Admin) -> Response {
    page.unwrap_or_else(|error| Page::of_error(&error)).response(admin)
}

async fn overview(State(admin): State<Admin>) -> Response {
    let traffic = admin.traffic().await;
    let services = admin.services(None).unwrap_or_default();
    let (status, outliers) = (admin.status(), admin.outliers());
    let seen = overview::Seen { status, services, outliers, events: admin.events(), traffic: &traffic };
    answer(Ok(Page::new("Overview", Tab::Overview, overview::page(&seen, admin.now()))), &admin)
}

async fn services(State(admin): State<Admin>, Query(search): Query<Search>) -> Response {
    let traffic = admin.traffic().await;
    let page = admin
        .services(None)
        .map(|all| Page::new("Services", Tab::Services, services::list(&all, &traffic, &search.q, search.page)));
    answer(page, &admin)
}

async fn service(State(admin): State<Admin>, Path((namespace, name)): Path<(String, String)>) -> Response {
    let traffic = admin.traffic().await;
    let page = ServiceName::new(&namespace, &name)
        .map_err(|error| Error::new("not_found", format!("{namespace}/{name} is no service: {error}")))
        .and_then(|of| {
            let service = admin.services(Some(&of))?;
            let (endpoints, outliers) = (admin.endpoints(Some(&of)), admin.outliers());
            let seen = services::Seen { service: &service, endpoints, outliers, routes: admin.routes() };
            Ok(Page::new(&of.to_string(), Tab::Services, services::one(&of, &seen, &traffic)))
        });
    answer(page, &admin)
}

async fn graph(State(admin): State<Admin>, Query(search): Query<Search>) -> Response {
    let traffic = admin.traffic().await;
    let services = admin.services(None).unwrap_or_default();
    answer(Ok(Page::new("Graph", Tab::Graph, graph::page(&services, &traffic, &search.namespace))), &admin)
}

async fn policy(State(admin): State<Admin>) -> Response {
    let filter = crate::agent::admin::LogFilter { limit: Some(policy::SHOWN), ..Default::default() };
    let log = match admin.log(&filter).await {
        Ok(log) => log,
        Err(error) => return answer(Err(error), &admin),
    };
    let conflicts = Admin::conflicts(State(admin.clone())).await.0;
    let proposals = Admin::proposals(State(admin.clone())).await.0;
    let seen = policy::Seen { documents: admin.documents(None), log, conflicts, proposals };
    answer(Ok(Page::new("Policy", Tab::Policy, policy::page(&seen))), &admin)
}

async fn changeset(State(admin): State<Admin>, Path(id): Path<String>) -> Response {
    answer(policy::changeset(&admin, &id).await, &admin)
}

async fn document(State(admin): State<Admin>, Path(names): Path<(String, String, String)>) -> Response {
    answer(policy::document(&admin, names).await, &admin)
}

async fn nodes(State(admin): State<Admin>) -> Response {
    let members = admin.matrix(false).await;
    answer(Ok(Page::new("Nodes", Tab::Nodes, nodes::list(&members, &admin.status()))), &admin)
}

async fn node(State(admin): State<Admin>, Path(node): Path<String>) -> Response {
    let page = NodeId::new(&node)
        .map_err(|error| Error::new("not_found", format!("{node} is no node: {error}")))
        .and_then(|node| admin.member(&node))
        .map(|detail| Page::new(detail.member.name.as_str(), Tab::Nodes, nodes::one(&detail)));
    answer(page, &admin)
}

async fn events(State(admin): State<Admin>) -> Response {
    answer(Ok(Page::new("Events", Tab::Overview, events::page(&admin.all_events(0).await))), &admin)
}

async fn explain(State(admin): State<Admin>, RawQuery(query): RawQuery) -> Response {
    let asked = explain::Asked::read(query.as_deref().unwrap_or_default());
    let explained = asked.query().map(|query| admin.explain(&query));
    answer(Ok(Page::new("Explain", Tab::Explain, explain::page(&asked, explained.as_ref()))), &admin)
}
