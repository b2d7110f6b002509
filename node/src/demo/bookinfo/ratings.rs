//! The stars that readers gave.

use std::collections::BTreeMap;

use axum::Router;
use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::call::{ATTEMPTS, attempts};
use super::{App, json, via};

/// What `/ratings/0` answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Ratings {
    pub(super) id: u64,
    /// Stars by reviewer.
    pub(super) ratings: BTreeMap<String, u8>,
}

pub(super) fn router(app: App) -> Router {
    Router::new()
        .route("/health", get(|| async { json(StatusCode::OK, &json!({"status": "Ratings is healthy"})) }))
        .route(
            "/ratings/{id}",
            get(move |id: Path<String>, headers: HeaderMap| async move { answer(app, &id, &headers) }),
        )
}

fn answer(app: App, id: &str, headers: &HeaderMap) -> Response {
    let Ok(id) = id.parse() else {
        return json(StatusCode::BAD_REQUEST, &json!({"error": "please provide numeric product ID"}));
    };
    let ratings = Ratings { id, ratings: BTreeMap::from([("Reviewer1".into(), 5), ("Reviewer2".into(), 4)]) };
    let attempts = attempts(headers).to_string();
    ([via(&app.pod())], [(ATTEMPTS, attempts)], json(StatusCode::OK, &ratings)).into_response()
}
