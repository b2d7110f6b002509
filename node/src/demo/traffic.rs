//! The client of the demonstration: asks for the product page through a node's proxy port and counts what comes back.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::pending;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::Empty;
use tokio::time::{MissedTickBehavior, interval};

use super::bookinfo::{ATTEMPTS, PORT, VIA};
use super::client::Client;
use crate::clock::monotonic;

/// Requests a second.
pub(super) const RATE: u32 = 200;
/// Requests under way at a time; beyond, the client waits.
const MAX_OPEN: usize = 256;
/// How long the client waits for one answer: longer than the page waits for its own backends.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the client saw.
#[derive(Debug, Clone, Default)]
pub(super) struct Tally {
    pub(super) requests: u64,
    /// Anything but 200.
    pub(super) failed: u64,
    /// Answers that took more than one attempt somewhere.
    pub(super) retried: u64,
    /// Whole pages by the version of reviews in them.
    pub(super) split: BTreeMap<String, u64>,
    /// What the first failure was.
    pub(super) first_failure: Option<String>,
    pub(super) slowest: Duration,
}

/// A client, and how often it asks.
#[derive(Debug)]
pub(super) struct Traffic<'a> {
    pub(super) client: &'a Client,
    /// Who is signed in.
    pub(super) user: Option<&'static str>,
    /// Requests a second.
    pub(super) rate: u32,
}

/// How one request ended.
struct Outcome {
    took: Duration,
    result: Result<HeaderMap, String>,
}

impl Traffic<'_> {
    /// Sends until `count` requests are under way or `stop` comes, waits for the last answers, and counts into `tally`.
    pub(super) async fn run(&self, count: u64, stop: impl Future<Output = ()>, tally: &RefCell<Tally>) {
        let mut stop = std::pin::pin!(stop);
        let mut tick = interval(Duration::from_secs(1) / self.rate.max(1));
        tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut open = FuturesUnordered::new();
        let mut left = count;
        while left > 0 {
            tokio::select! {
                () = &mut stop => break,
                _ = tick.tick(), if open.len() < MAX_OPEN => {
                    left -= 1;
                    open.push(self.one());
                }
                Some(outcome) = open.next() => tally.borrow_mut().add(outcome),
            }
        }
        while let Some(outcome) = open.next().await {
            tally.borrow_mut().add(outcome);
        }
    }

    /// Sends `count` requests.
    pub(super) async fn count(&self, count: u64, tally: &RefCell<Tally>) {
        self.run(count, pending(), tally).await;
    }

    async fn one(&self) -> Outcome {
        let started = monotonic();
        let result = self.page().await;
        Outcome { took: started.elapsed(), result }
    }

    async fn page(&self) -> Result<HeaderMap, String> {
        let host = format!("productpage:{PORT}");
        let mut request = Request::get(format!("http://{host}/productpage")).header(header::HOST, host);
        if let Some(user) = self.user {
            request = request.header(header::COOKIE, format!("bookinfo-user={user}"));
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
        let (head, body) = self.client.send(request, PATIENCE).await.map_err(|error| error.to_string())?.into_parts();
        if head.status == StatusCode::OK {
            return Ok(head.headers);
        }
        Err(format!("{}: {}", head.status, reason(&String::from_utf8_lossy(&body))))
    }
}

impl Tally {
    fn add(&mut self, outcome: Outcome) {
        self.requests += 1;
        self.slowest = self.slowest.max(outcome.took);
        match outcome.result {
            Ok(headers) => {
                *self.split.entry(version(&headers)).or_default() += 1;
                let attempts = headers.get(ATTEMPTS).and_then(|value| value.to_str().ok());
                self.retried += u64::from(attempts.is_some_and(|attempts| attempts != "1"));
            }
            Err(error) => {
                self.failed += 1;
                self.first_failure.get_or_insert(error);
            }
        }
    }

    /// The part of whole pages that a version had, 0 to 1.
    pub(super) fn share(&self, version: &str) -> f64 {
        let all: u64 = self.split.values().sum();
        #[expect(clippy::cast_precision_loss, reason = "counts of a demonstration are small")]
        let share = |count: u64| count as f64 / all.max(1) as f64;
        self.split.get(version).map_or(0.0, |count| share(*count))
    }
}

/// The version of reviews that took part.
fn version(headers: &HeaderMap) -> String {
    let via = headers.get(VIA).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let reviews = via.split(", ").find_map(|pod| pod.strip_prefix("reviews-"));
    reviews.unwrap_or("none").to_owned()
}

/// What a failed page says, without its markup.
fn reason(page: &str) -> String {
    let alert = page.split_once(r#"role="alert">"#).map_or(page, |(_, rest)| rest);
    let end = alert.find("</div>").unwrap_or(alert.len());
    let mut text = String::new();
    let mut inside = false;
    for c in alert[..end].chars().take(300) {
        match c {
            '<' => inside = true,
            '>' => {
                inside = false;
                text.push(' ');
            }
            c if !inside => text.push(c),
            _ => {}
        }
    }
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_versions_retries_and_failures() {
        let mut headers = HeaderMap::new();
        headers.insert(VIA, "productpage-v1, details-v1, reviews-v2, ratings-v1".parse().expect("a value"));
        headers.insert(ATTEMPTS, "2".parse().expect("a value"));
        let mut tally = Tally::default();
        tally.add(Outcome { took: Duration::from_millis(3), result: Ok(headers) });
        let page = r#"<div class="error" role="alert"><b>Error</b>reviews answered 503</div>"#;
        tally.add(Outcome { took: Duration::from_millis(2), result: Err(reason(page)) });
        assert_eq!((tally.requests, tally.failed, tally.retried), (2, 1, 1));
        assert_eq!(tally.split, BTreeMap::from([("v2".to_owned(), 1)]));
        assert_eq!(tally.first_failure.as_deref(), Some("Error reviews answered 503"));
        assert!((tally.share("v2") - 1.0).abs() < f64::EPSILON);
    }
}
