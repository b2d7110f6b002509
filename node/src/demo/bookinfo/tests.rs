//! All six services on loopback, without a mesh: a small proxy by name stands for the nodes.
#![expect(clippy::disallowed_methods, reason = "a test's servers end with its runtime")]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::Empty;

use super::*;
use crate::demo::client::Client;

/// What a test talks to, and the requests that the services sent to each other.
struct Bookinfo {
    page: SocketAddr,
    seen: Arc<Mutex<Vec<HeaderMap>>>,
}

/// Starts the services with one version of reviews. Each request's service is in its URI; the proxy knows where it is.
async fn start(reviews: App, without: &[App]) -> Bookinfo {
    let proxy = bind().await;
    let proxy_address = proxy.local_addr().expect("bound");
    let mut addresses = HashMap::new();
    for app in [App::Productpage, App::Details, reviews, App::Ratings] {
        let listener = bind().await;
        if !without.contains(&app) {
            addresses.insert(app.service(), listener.local_addr().expect("bound"));
            tokio::spawn(serve(app, listener, proxy_address, std::future::pending()));
        }
    }
    let page = addresses["productpage"];
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let forward = move |request: axum::extract::Request| async move {
        log.lock().expect("no panic").push(request.headers().clone());
        let service = request.uri().host().expect("absolute form").to_owned();
        let Some(address) = addresses.get(service.as_str()) else {
            return (StatusCode::SERVICE_UNAVAILABLE, "no healthy upstream").into_response();
        };
        let mut onward = Request::new(Empty::<Bytes>::new());
        *onward.uri_mut() = request.uri().path().parse().expect("a path");
        *onward.headers_mut() = request.headers().clone();
        onward.headers_mut().insert("x-envoy-attempt-count", HeaderValue::from_static("2"));
        let client = Client::new(*address);
        client.send(onward, Duration::from_secs(5)).await.expect("an answer").map(axum::body::Body::from)
    };
    tokio::spawn(async move { axum::serve(proxy, Router::new().fallback(forward)).await });
    Bookinfo { page, seen }
}

async fn bind() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port")
}

async fn get(address: SocketAddr, path: &str, headers: &[(&'static str, &'static str)]) -> Response<String> {
    let mut request = Request::get(path).header(header::HOST, "productpage");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Empty::new()).expect("valid");
    let answer = Client::new(address).send(request, Duration::from_secs(5)).await.expect("an answer");
    answer.map(|body| String::from_utf8(body.to_vec()).expect("text"))
}

#[tokio::test]
async fn the_page_shows_the_version_that_answered() {
    for (version, colour) in
        [(reviews::Version::V1, None), (reviews::Version::V2, Some("black")), (reviews::Version::V3, Some("red"))]
    {
        let app = App::Reviews(version);
        let Bookinfo { page: address, .. } = start(app, &[]).await;
        let page = get(address, "/productpage", &[]).await;
        assert_eq!(page.status(), StatusCode::OK, "{}", page.body());
        assert_eq!(page.body().contains("aria-label=\"5 of 5 stars\""), colour.is_some());
        assert!(colour.is_none_or(|colour| page.body().contains(&format!("stars {colour}"))));
        let via = page.headers()[VIA].to_str().expect("text");
        let ratings = if colour.is_some() { ", ratings-v1" } else { "" };
        assert_eq!(via, format!("productpage-v1, details-v1, {}{ratings}", app.pod()));
        assert_eq!(page.headers()[ATTEMPTS], "2");
    }
}

#[tokio::test]
async fn answers_are_those_of_istios_bookinfo() {
    let Bookinfo { page: address, .. } = start(App::Reviews(reviews::Version::V2), &[]).await;
    let body = |path| async move {
        serde_json::from_str::<serde_json::Value>(get(address, path, &[]).await.body()).expect("JSON")
    };
    assert_eq!(body("/api/v1/products/0").await["ISBN-13"], "123-1234567890");
    assert_eq!(
        body("/api/v1/products/0/ratings").await,
        serde_json::json!({"id": 0, "ratings": {"Reviewer1": 5, "Reviewer2": 4}})
    );
    let reviews = body("/api/v1/products/0/reviews").await;
    assert_eq!(reviews["reviews"][1]["rating"], serde_json::json!({"stars": 4, "color": "black"}));
    assert_eq!(reviews["podname"], "reviews-v2");
    assert_eq!(get(address, "/health", &[]).await.body(), "Product page is healthy");
}

#[tokio::test]
async fn an_error_behind_the_page_is_shown_and_is_502() {
    let reviews = App::Reviews(reviews::Version::V3);
    for missing in [App::Details, reviews, App::Ratings] {
        let Bookinfo { page: address, .. } = start(reviews, &[missing]).await;
        let page = get(address, "/productpage", &[]).await;
        assert_eq!(page.status(), StatusCode::BAD_GATEWAY);
        assert!(page.body().contains("no healthy upstream"), "{}", page.body());
        assert!(page.body().contains("The Comedy of Errors"));
    }
}

#[tokio::test]
async fn user_and_trace_reach_every_backend() {
    let bookinfo = start(App::Reviews(reviews::Version::V2), &[]).await;
    let headers = [("cookie", "bookinfo-user=jason"), ("end-user", "other"), ("x-b3-traceid", "1234")];
    let page = get(bookinfo.page, "/productpage", &headers).await;
    assert!(page.body().contains("<b>jason</b>"));
    let seen = bookinfo.seen.lock().expect("no panic");
    assert_eq!(seen.len(), 3, "details, reviews, ratings");
    assert!(seen.iter().all(|headers| headers["end-user"] == "jason" && headers["x-b3-traceid"] == "1234"));
}
