//! The pages that every node serves: drawn from the same answers as the command line's JSON, so that both say the same. Server-side
//! HTML that works without a script; what does not come from here is not loaded.

mod events;
mod explain;
mod figures;
mod flow;
mod graph;
mod layout;
mod named;
mod nodes;
mod overview;
mod paging;
mod policy;
mod services;
pub mod tap;
mod words;

use axum::{
    Router,
    extract::{FromRequestParts, Path, Query, RawQuery, State},
    http::{header, request::Parts},
    response::{IntoResponse, Response},
    routing::get,
};
use certs::id::{NodeId, ServiceName};
use serde::Deserialize;

use self::{
    layout::{Page, Tab},
    named::Of,
};
use crate::{
    agent::admin::{Admin, api},
    error::Error,
};

pub(crate) use layout::guarded;

/// What all pages load.
pub(crate) const CSS: &str = include_str!("assets/skein.css");
pub(crate) const SCRIPT: &str = include_str!("assets/skein.js");
pub(crate) const ICON: &str = include_str!("assets/icon.svg");

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
        .route("/assets/skein.css", get(|| async { asset("text/css; charset=utf-8", CSS) }))
        .route("/assets/skein.js", get(|| async { asset("text/javascript; charset=utf-8", SCRIPT) }))
        .route("/assets/icon.svg", get(|| async { asset("image/svg+xml", ICON) }))
}

/// Part of the program; a new version of it brings new ones, so they are asked for again.
fn asset(kind: &'static str, text: &'static str) -> Response {
    layout::guarded(([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-cache")], text).into_response())
}

/// A page, or one that says what went wrong.
fn answer(page: Result<Page, Error>, admin: &Admin) -> Response {
    page.unwrap_or_else(|error| Page::of_error(&error)).response(admin)
}

/// What is looked for, or a page that says why that cannot be read.
struct Asked(Search);

impl FromRequestParts<Admin> for Asked {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, admin: &Admin) -> Result<Self, Response> {
        match Query::try_from_uri(&parts.uri) {
            Ok(Query(search)) => Ok(Self(search)),
            Err(rejection) => {
                let why = format!("what is asked of this page cannot be read: {}", rejection.body_text());
                let error =
                    Error::new("bad_request", why).hint("`page` is a number from 0; `q` and `namespace` are names");
                Err(answer(Err(error), admin))
            }
        }
    }
}

async fn overview(State(admin): State<Admin>) -> Response {
    let traffic = admin.traffic().await;
    let services = admin.services(None).unwrap_or_default();
    let (status, outliers) = (admin.status(), admin.outliers());
    let told = admin.all_events().await;
    let concerns = admin.concerns().await;
    let seen =
        overview::Seen { status, services, outliers, events: &told.events, traffic: &traffic, concerns: &concerns };
    answer(Ok(Page::new("Overview", Tab::Overview, overview::page(&seen, admin.now()))), &admin)
}

async fn services(State(admin): State<Admin>, Asked(search): Asked) -> Response {
    let traffic = admin.traffic().await;
    let page = admin
        .services(None)
        .map(|all| Page::new("Services", Tab::Services, services::list(&all, &traffic, &search.q, search.page)));
    answer(page, &admin)
}

async fn service(
    State(admin): State<Admin>,
    Path((namespace, name)): Path<(String, String)>,
    Asked(search): Asked,
) -> Response {
    let traffic = admin.traffic().await;
    let page = about(&admin, namespace, name).map(|(of, service, endpoints)| {
        let (outliers, routes) = (admin.outliers(), admin.routes());
        let seen = services::Seen { service: &service, endpoints, outliers, routes, page: search.page };
        Page::new(&of.to_string(), Tab::Services, services::one(&of, &seen, &traffic))
    });
    answer(page, &admin)
}

/// A service and its endpoints, or a host of a ServiceEntry and its.
fn about(admin: &Admin, namespace: String, name: String) -> Result<(Of, Vec<api::Service>, Vec<api::Endpoint>), Error> {
    let (entry, endpoints) = admin.entry(&namespace, &name);
    let known = ServiceName::new(&namespace, &name)
        .map_err(|error| Error::new("not_found", format!("{namespace}/{name} is no service: {error}")))
        .and_then(|of| Ok((admin.services(Some(&of))?, of)));
    match known {
        Ok((service, of)) => {
            let endpoints = admin.endpoints(Some(&of));
            Ok((Of::service(of), service, endpoints))
        }
        Err(_) if !entry.is_empty() => Ok((Of::entry(namespace, name), entry, endpoints)),
        Err(error) => Err(error),
    }
}

async fn graph(State(admin): State<Admin>, Asked(search): Asked) -> Response {
    let traffic = admin.traffic().await;
    let services = admin.services(None).unwrap_or_default();
    answer(Ok(Page::new("Graph", Tab::Graph, graph::page(&services, &traffic, &search.namespace, search.page))), &admin)
}

async fn policy(State(admin): State<Admin>, Asked(search): Asked) -> Response {
    let filter = crate::agent::admin::LogFilter { limit: Some(policy::SHOWN), ..Default::default() };
    let log = match admin.log(&filter).await {
        Ok(log) => log,
        Err(error) => return answer(Err(error), &admin),
    };
    let conflicts = Admin::conflicts(State(admin.clone())).await.0;
    let proposals = Admin::proposals(State(admin.clone())).await.0;
    let seen = policy::Seen { documents: admin.documents(&Default::default()), log, conflicts, proposals };
    answer(Ok(Page::new("Policy", Tab::Policy, policy::page(&seen, search.page))), &admin)
}

async fn changeset(State(admin): State<Admin>, Path(id): Path<String>) -> Response {
    answer(policy::changeset(&admin, &id).await, &admin)
}

async fn document(State(admin): State<Admin>, Path(names): Path<(String, String, String)>) -> Response {
    answer(policy::document(&admin, names).await, &admin)
}

async fn nodes(State(admin): State<Admin>, Asked(search): Asked) -> Response {
    // Nobody is asked for a matrix that is not drawn.
    let members = match admin.members(false) {
        many if many.len() > nodes::MATRIX => many,
        _ => admin.reaching().await,
    };
    answer(Ok(Page::new("Nodes", Tab::Nodes, nodes::list(&members, &admin.status(), search.page))), &admin)
}

async fn node(State(admin): State<Admin>, Path(node): Path<String>) -> Response {
    let page = NodeId::new(&node)
        .map_err(|error| Error::new("not_found", format!("{node} is no node: {error}")))
        .and_then(|node| admin.member(&node))
        .map(|detail| Page::new(detail.member.name.as_str(), Tab::Nodes, nodes::one(&detail)));
    answer(page, &admin)
}

async fn events(State(admin): State<Admin>) -> Response {
    let told = admin.all_events().await;
    answer(Ok(Page::new("Events", Tab::Overview, events::page(&told))), &admin)
}

async fn explain(State(admin): State<Admin>, RawQuery(query): RawQuery) -> Response {
    let asked = explain::Asked::read(query.as_deref().unwrap_or_default());
    let explained = asked.query().map(|query| admin.explain(&query));
    answer(Ok(Page::new("Explain", Tab::Explain, explain::page(&asked, explained.as_ref()))), &admin)
}
