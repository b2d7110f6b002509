//! What readers wrote. v2 and v3 ask ratings for the stars; without ratings they answer all the same and say so.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::call::{self, ATTEMPTS, attempts};
use super::ratings::Ratings;
use super::{App, json, via};
use crate::demo::client::Client;

/// Which reviews.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// No stars.
    V1,
    /// Black stars.
    V2,
    /// Red stars.
    V3,
}

impl Version {
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
            Self::V3 => "v3",
        }
    }

    /// The colour of its stars and how long it waits for them, as Istio's Bookinfo does; none has no stars.
    fn stars(self) -> Option<(&'static str, Duration)> {
        match self {
            Self::V1 => None,
            Self::V2 => Some(("black", Duration::from_secs(10))),
            Self::V3 => Some(("red", Duration::from_millis(2500))),
        }
    }
}

/// What `/reviews/0` answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Reviews {
    pub(super) id: String,
    pub(super) podname: String,
    pub(super) clustername: String,
    pub(super) reviews: Vec<Review>,
}

/// One reader's.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Review {
    pub(super) reviewer: String,
    pub(super) text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rating: Option<Rating>,
}

/// Stars, or why there are none.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Rating {
    /// How many of five, in which colour.
    Stars {
        /// How many of five.
        stars: u8,
        /// Black or red.
        color: String,
    },
    /// Why there are none.
    Failed {
        /// For people.
        error: String,
    },
}

const TEXTS: [(&str, &str); 2] = [
    ("Reviewer1", "An extremely entertaining play by Shakespeare. The slapstick humour is refreshing!"),
    (
        "Reviewer2",
        "Absolutely fun and entertaining. The play lacks thematic depth when compared to other plays by Shakespeare.",
    ),
];

pub(super) fn router(app: App, version: Version, proxy: SocketAddr) -> Router {
    let client = Arc::new(Client::new(proxy));
    Router::new()
        .route("/health", get(|| async { json(StatusCode::OK, &json!({"status": "Reviews is healthy"})) }))
        .route(
            "/reviews/{id}",
            get(move |Path(id): Path<String>, headers: HeaderMap| async move {
                answer(app, version, &client, id, &headers).await
            }),
        )
}

async fn answer(app: App, version: Version, client: &Client, id: String, headers: &HeaderMap) -> Response {
    if id.parse::<u64>().is_err() {
        return json(StatusCode::BAD_REQUEST, &json!({"error": "please provide numeric product ID"}));
    }
    let mut path = app.pod();
    let mut most = attempts(headers);
    let ratings = match version.stars() {
        None => None,
        Some((color, limit)) => {
            let answer = call::get::<Ratings>(client, "ratings", &format!("/ratings/{id}"), headers, limit).await;
            if let Ok(answer) = &answer {
                path = format!("{path}, {}", answer.via);
                most = most.max(answer.attempts);
            }
            Some((color, answer.map(|answer| answer.value)))
        }
    };
    let reviews = TEXTS.map(|(reviewer, text)| Review {
        reviewer: reviewer.into(),
        text: text.into(),
        rating: ratings.as_ref().map(|(color, ratings)| rating(reviewer, color, ratings.as_ref())),
    });
    let body = Reviews { id, podname: app.pod(), clustername: "null".into(), reviews: reviews.into() };
    ([via(&path)], [(ATTEMPTS, most.to_string())], json(StatusCode::OK, &body)).into_response()
}

fn rating(reviewer: &str, color: &str, ratings: Result<&Ratings, &call::Failure>) -> Rating {
    match ratings.map(|ratings| ratings.ratings.get(reviewer)) {
        Ok(Some(&stars)) => Rating::Stars { stars, color: color.into() },
        Ok(None) => Rating::Failed { error: format!("ratings knows no {reviewer}") },
        Err(failure) => Rating::Failed { error: format!("Ratings service is currently unavailable ({failure})") },
    }
}
