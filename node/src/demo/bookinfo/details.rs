//! Facts about the book.

use axum::Router;
use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::call::{ATTEMPTS, attempts};
use super::{App, json, via};

/// What `/details/0` answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Details {
    pub(super) id: u64,
    pub(super) author: String,
    pub(super) year: u32,
    #[serde(rename = "type")]
    pub(super) binding: String,
    pub(super) pages: u32,
    pub(super) publisher: String,
    pub(super) language: String,
    #[serde(rename = "ISBN-10")]
    pub(super) isbn_10: String,
    #[serde(rename = "ISBN-13")]
    pub(super) isbn_13: String,
}

pub(super) fn router(app: App) -> Router {
    Router::new()
        .route("/health", get(|| async { json(StatusCode::OK, &json!({"status": "Details is healthy"})) }))
        .route(
            "/details/{id}",
            get(move |id: Path<String>, headers: HeaderMap| async move { answer(app, &id, &headers) }),
        )
}

fn answer(app: App, id: &str, headers: &HeaderMap) -> Response {
    let Ok(id) = id.parse() else {
        return json(StatusCode::BAD_REQUEST, &json!({"error": "please provide numeric product id"}));
    };
    let details = Details {
        id,
        author: "William Shakespeare".into(),
        year: 1595,
        binding: "paperback".into(),
        pages: 200,
        publisher: "PublisherA".into(),
        language: "English".into(),
        isbn_10: "1234567890".into(),
        isbn_13: "123-1234567890".into(),
    };
    let attempts = attempts(headers).to_string();
    ([via(&app.pod())], [(ATTEMPTS, attempts)], json(StatusCode::OK, &details)).into_response()
}
