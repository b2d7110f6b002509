//! The page that a browser sees, and the same as JSON. A backend's error is passed on as 502; nothing is hidden.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::call::{self, ATTEMPTS, Answer, END_USER, Failure, attempts};
use super::details::Details;
use super::page::Page;
use super::ratings::Ratings;
use super::reviews::{Rating, Reviews};
use super::{App, json, session, via};
use crate::clock::monotonic;
use crate::demo::client::Client;

/// How long it waits for a backend: long enough for a node's death to be noticed and the request to be retried.
const PATIENCE: Duration = Duration::from_secs(6);

struct Productpage {
    pod: String,
    client: Client,
}

/// One call's result, and how long it took.
struct Timed<T> {
    result: Result<Answer<T>, Failure>,
    took: Duration,
}

pub(super) fn router(app: App, proxy: SocketAddr) -> Router {
    let state = Arc::new(Productpage { pod: app.pod(), client: Client::new(proxy) });
    Router::new()
        .route("/", get(|| async { Redirect::to("/productpage") }))
        .route("/health", get(|| async { "Product page is healthy" }))
        .route("/productpage", get(page))
        .route("/login", post(login))
        .route("/logout", get(logout).post(logout))
        .route("/api/v1/products", get(|| async { json(StatusCode::OK, &products()) }))
        .route("/api/v1/products/{id}", get(product))
        .route("/api/v1/products/{id}/reviews", get(reviews))
        .route("/api/v1/products/{id}/ratings", get(ratings))
        .with_state(state)
}

impl Productpage {
    async fn get<T: DeserializeOwned>(&self, service: &'static str, id: &str, incoming: &HeaderMap) -> Timed<T> {
        let started = monotonic();
        let result = call::get(&self.client, service, &format!("/{service}/{id}"), &as_user(incoming), PATIENCE).await;
        Timed { result, took: started.elapsed() }
    }

    /// A backend's answer as JSON, or its error as 502.
    async fn api<T>(&self, service: &'static str, id: &str, incoming: &HeaderMap) -> Response
    where
        T: DeserializeOwned + Serialize,
    {
        if id.parse::<u64>().is_err() {
            return json(StatusCode::NOT_FOUND, &json!({"error": "there is no such product"}));
        }
        let mut path = vec![self.pod.clone()];
        let mut most = attempts(incoming);
        let Timed { result, .. } = self.get::<T>(service, id, incoming).await;
        note(&result, &mut path, &mut most);
        let answer = match result {
            Ok(answer) => json(StatusCode::OK, &answer.value),
            Err(failure) => json(StatusCode::BAD_GATEWAY, &json!({"error": failure.to_string()})),
        };
        (report(&path, most), answer).into_response()
    }
}

async fn page(State(state): State<Arc<Productpage>>, incoming: HeaderMap) -> Response {
    let (details, reviews) =
        tokio::join!(state.get::<Details>("details", "0", &incoming), state.get::<Reviews>("reviews", "0", &incoming));
    let mut path = vec![state.pod.clone()];
    let mut most = attempts(&incoming);
    note(&details.result, &mut path, &mut most);
    note(&reviews.result, &mut path, &mut most);
    let user = session::user(&incoming);
    let page = Page {
        pod: &state.pod,
        user: user.as_deref(),
        details: details.result.as_ref().map(|answer| &answer.value),
        reviews: reviews.result.as_ref().map(|answer| &answer.value),
        paths: [via_of(&details.result), via_of(&reviews.result)],
        took: (details.took, reviews.took),
    };
    let whole = page.details.is_ok() && page.reviews.is_ok_and(has_all_stars);
    let status = if whole { StatusCode::OK } else { StatusCode::BAD_GATEWAY };
    let html = page.html();
    (status, report(&path, most), [(header::CACHE_CONTROL, "no-store")], Html(html)).into_response()
}

async fn product(State(state): State<Arc<Productpage>>, Path(id): Path<String>, incoming: HeaderMap) -> Response {
    state.api::<Details>("details", &id, &incoming).await
}

async fn reviews(State(state): State<Arc<Productpage>>, Path(id): Path<String>, incoming: HeaderMap) -> Response {
    state.api::<Reviews>("reviews", &id, &incoming).await
}

async fn ratings(State(state): State<Arc<Productpage>>, Path(id): Path<String>, incoming: HeaderMap) -> Response {
    state.api::<Ratings>("ratings", &id, &incoming).await
}

async fn login(form: Bytes) -> Response {
    match session::from_form(&form) {
        Some(user) => {
            ([(header::SET_COOKIE, session::cookie(Some(&user)))], Redirect::to("/productpage")).into_response()
        }
        None => (StatusCode::BAD_REQUEST, "A user's name has 1 to 32 letters, digits, dots, dashes.\n").into_response(),
    }
}

async fn logout() -> Response {
    ([(header::SET_COOKIE, session::cookie(None))], Redirect::to("/productpage")).into_response()
}

/// The request's headers with the signed-in user in `end-user`, and nobody else.
fn as_user(incoming: &HeaderMap) -> HeaderMap {
    let mut headers = incoming.clone();
    headers.remove(END_USER);
    if let Some(user) = session::user(incoming).and_then(|user| HeaderValue::from_str(&user).ok()) {
        headers.insert(END_USER, user);
    }
    headers
}

/// Adds a call to what the answer says of its making.
fn note<T>(result: &Result<Answer<T>, Failure>, path: &mut Vec<String>, most: &mut u32) {
    if let Ok(answer) = result {
        path.extend(answer.via.split(", ").map(str::to_owned));
        *most = (*most).max(answer.attempts);
    }
}

fn via_of<T>(result: &Result<Answer<T>, Failure>) -> Option<&str> {
    result.as_ref().ok().map(|answer| answer.via.as_str())
}

/// What the answer's headers say of its making.
fn report(path: &[String], most: u32) -> HeaderMap {
    let (name, value) = via(&path.join(", "));
    HeaderMap::from_iter([(name, value), (HeaderName::from_static(ATTEMPTS), HeaderValue::from(most))])
}

fn has_all_stars(reviews: &Reviews) -> bool {
    !reviews.reviews.iter().any(|review| matches!(review.rating, Some(Rating::Failed { .. })))
}

fn products() -> serde_json::Value {
    json!([{
        "id": 0,
        "title": "The Comedy of Errors",
        "descriptionHtml": "<a href=\"https://en.wikipedia.org/wiki/The_Comedy_of_Errors\">Wikipedia Summary</a>: \
            The Comedy of Errors is one of <b>William Shakespeare's</b> early plays. It is his shortest and one of his \
            most farcical comedies, with a major part of the humour coming from slapstick and mistaken identity, in \
            addition to puns and word play."
    }])
}
