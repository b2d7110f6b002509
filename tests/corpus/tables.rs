//! Istio's own tables of hosts and of what is retried.

#![expect(clippy::unwrap_used, reason = "a table that cannot be read fails the test")]

use http::Method;
use policy::{
    hosts,
    retry::{Outcome, Retries, RetryOn},
};
use serde_json::Value;

use crate::corpus;

fn table(name: &str) -> Vec<Value> {
    let Some(root) = corpus() else { return Vec::new() };
    let text = std::fs::read_to_string(root.join("tables").join(name)).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn text<'v>(row: &'v Value, name: &str) -> &'v str {
    row[name].as_str().unwrap()
}

fn texts<'v>(row: &'v Value, name: &str) -> Vec<&'v str> {
    row[name].as_array().unwrap().iter().map(|item| item.as_str().unwrap()).collect()
}

#[test]
fn hosts_meet_as_in_istio() {
    for row in table("host-matches.json") {
        assert_eq!(hosts::overlap(text(&row, "a"), text(&row, "b")), row["overlap"] == true, "{row}");
    }
    for row in table("host-subset-of.json") {
        assert_eq!(hosts::covers(text(&row, "of"), text(&row, "a")), row["subset"] == true, "{row}");
    }
    for row in table("host-lists-intersection.json") {
        let (a, b, both) = (texts(&row, "a"), texts(&row, "b"), texts(&row, "intersection"));
        let meet = a.iter().any(|a| b.iter().any(|b| hosts::overlap(a, b)));
        assert_eq!(meet, !both.is_empty(), "{row}");
        let within = |list: &[&str], host: &str| list.iter().any(|own| hosts::covers(own, host));
        assert!(both.iter().all(|host| within(&a, host) && within(&b, host)), "{row}");
    }
}

#[test]
fn hosts_are_ordered_as_in_istio() {
    for row in table("host-more-specific.json") {
        let order = hosts::by_specificity(text(&row, "a"), text(&row, "b"));
        assert_eq!(order.is_le(), row["a_more_specific"] == true, "{row}");
    }
    for row in table("host-specificity-sort.json") {
        let mut sorted = texts(&row, "in");
        sorted.sort_by(|a, b| hosts::by_specificity(a, b));
        assert_eq!(sorted, texts(&row, "want"), "{row}");
    }
}

/// `None`: something after the answer began, of which the decision is never asked.
fn outcome(words: &str) -> Option<Outcome> {
    let answer = |status, grpc| Outcome::Answer { status, grpc, rate_limited: false, overloaded: false };
    let status = words.strip_prefix("status ").and_then(|rest| rest.split(' ').next()?.parse().ok());
    Some(match words {
        _ if status.is_some() => answer(status?, None),
        "grpc-status 13 in response headers" => answer(200, Some(13)),
        "connect failure" => Outcome::ConnectFailure,
        "per-try timeout" => Outcome::PerTryTimeout,
        "route timeout" => Outcome::RouteTimeout,
        "response headers already forwarded to the client" => return None,
        reset if reset.contains("reset") => Outcome::Reset,
        other => panic!("a new outcome: {other}"),
    })
}

#[test]
fn what_is_retried_is_istios() {
    for row in table("retry-on.json") {
        let Some(outcome) = outcome(text(&row, "outcome")) else { continue };
        let on = RetryOn::parse(text(&row, "retry_on")).unwrap();
        let retries = Retries { on, idempotent_reset: false, ..Retries::default() };
        assert_eq!(retries.retriable(&Method::GET, outcome), row["retry"] == true, "{row}");
    }
}
