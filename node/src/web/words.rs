//! Numbers, times and states as pages write them.

use certs::codec::Millis;
use maud::{Markup, html};

use crate::cli::look::span;
pub(super) use crate::cli::{
    client::segment,
    look::{ago, short, when},
};

/// A rate: `12.3/s`.
pub(super) fn rate(per_second: f64) -> String {
    match per_second {
        rate if rate <= 0.0 => "0/s".to_owned(),
        rate if rate < 0.1 => "<0.1/s".to_owned(),
        rate if rate < 100.0 => format!("{rate:.1}/s"),
        rate => format!("{rate:.0}/s"),
    }
}

/// What part of all failed, in percent; a dash without requests.
pub(super) fn share(failed: u64, all: u64) -> String {
    if all == 0 {
        return "–".to_owned();
    }
    match failed as f64 * 100.0 / all as f64 {
        share if share <= 0.0 => "0 %".to_owned(),
        share if share < 0.1 => "<0.1 %".to_owned(),
        share => format!("{share:.1} %"),
    }
}

/// A duration in milliseconds; a dash where there is none.
pub(super) fn millis(millis: Option<f64>) -> String {
    match millis {
        None => "–".to_owned(),
        Some(millis) if millis < 0.05 => "<0.1 ms".to_owned(),
        Some(millis) if millis < 10.0 => format!("{millis:.1} ms"),
        Some(millis) if millis < 10_000.0 => format!("{millis:.0} ms"),
        Some(millis) => format!("{:.0} s", millis / 1_000.0),
    }
}

/// Bytes in their greatest unit.
pub(super) fn bytes(bytes: u64) -> String {
    let bytes = bytes as f64;
    match bytes {
        bytes if bytes < 1024.0 => format!("{bytes} B"),
        bytes if bytes < 1024.0 * 1024.0 => format!("{:.1} KiB", bytes / 1024.0),
        bytes => format!("{:.1} MiB", bytes / 1024.0 / 1024.0),
    }
}

/// Bytes a second.
pub(super) fn bytes_rate(per_second: f64) -> String {
    // Below a byte a second nothing is worth saying.
    let whole = per_second.max(0.0).round() as u64;
    format!("{}/s", bytes(whole))
}

/// How long until a time, RFC 3339; `ended` if it is past, empty if it is no time.
pub(super) fn until(time: &str, now: Millis) -> String {
    let Ok(then) = time.parse::<jiff::Timestamp>() else { return String::new() };
    match Millis::try_from(then.as_millisecond()).unwrap_or(0).checked_sub(now) {
        Some(left) => span(left),
        None => "ended".to_owned(),
    }
}

/// A time of the past, as people say it, with the exact one beside it.
pub(super) fn past(time: &str) -> Markup {
    html! { time datetime=(time) title=(time) { (ago(time)) " ago" } }
}

/// A word of state with its sign, so that colour is not all that tells.
pub(super) fn state(word: &str) -> Markup {
    let (class, sign) = match word {
        "alive" | "healthy" | "ok" | "allow" | "applied" | "candidate" => ("good", "●"),
        "suspect" | "left" | "degraded" | "draining" | "panic" | "out" | "open" | "mixed" | "spared" => ("doubt", "▲"),
        "dead" | "evicted" | "quarantined" | "unhealthy" | "ejected" | "critical" | "deny" | "silent" => ("bad", "✕"),
        _ => ("plain", "○"),
    };
    html! { span class={ "state " (class) } { span aria-hidden="true" { (sign) } " " (word) } }
}

/// What is said to people, with what stands between backquotes as code.
pub(super) fn prose(text: &str) -> Markup {
    html! { @for (part, text) in text.split('`').enumerate() { @if part % 2 == 1 { code { (text) } } @else { (text) } } }
}

/// The path of the page of a service, or of a host of a ServiceEntry, by `NAMESPACE/NAME`, whatever instance follows; none for what is
/// neither.
pub(super) fn service_path(name: &str) -> Option<String> {
    let mut parts = name.split('/');
    let (namespace, name) = (parts.next()?, parts.next()?);
    Some(format!("/services/{}/{}", segment(namespace), segment(name)))
}

/// The path of a document's page, of `KIND NAMESPACE/NAME`, a `-` before it or not.
pub(super) fn document_path(document: &str) -> Option<String> {
    let (kind, rest) = document.trim_start_matches('-').split_once(' ')?;
    let (namespace, name) = rest.split_once('/')?;
    Some(format!("/policy/documents/{}/{}/{}", segment(kind), segment(namespace), segment(name)))
}

/// A link where there is a path.
pub(super) fn link(path: Option<String>, text: &str) -> Markup {
    html! { @if let Some(path) = path { a href=(path) { (text) } } @else { (text) } }
}

/// `1 node`, `2 nodes`.
pub(super) fn count(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Says where a page shows what some of the nodes tell, and not all.
pub(super) fn sample(asked: usize, unasked: usize) -> Markup {
    html! {
        @if unasked > 0 {
            div.problem.note {
                p {
                    strong { "A sample: " } (asked) " of " (asked + unasked) " nodes were asked what they saw. In a mesh this large this page's counts are theirs, and "
                    "those of who called them; other nodes draw other samples."
                }
                p.hint { "Prometheus has all nodes: " code { "/v1/prometheus-targets" } " names them. Services, endpoints, members and policy are not sampled." }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_what_matters() {
        assert_eq!(
            (rate(0.0), rate(0.04), rate(12.34), rate(1234.5)),
            ("0/s".into(), "<0.1/s".into(), "12.3/s".into(), "1234/s".into())
        );
        assert_eq!(
            (share(0, 0), share(0, 9), share(1, 10_000), share(1, 8)),
            ("–".into(), "0 %".into(), "<0.1 %".into(), "12.5 %".into())
        );
        assert_eq!(
            (millis(None), millis(Some(0.04)), millis(Some(1.26)), millis(Some(250.4)), millis(Some(30_000.0))),
            ("–".into(), "<0.1 ms".into(), "1.3 ms".into(), "250 ms".into(), "30 s".into())
        );
        assert_eq!((bytes(12), bytes(2048)), ("12 B".into(), "2.0 KiB".into()));
    }

    #[test]
    fn ends_are_counted_down() {
        assert_eq!(until("1970-01-02T00:00:00.000Z", 0), "24h");
        assert_eq!((until("1970-01-01T00:00:00Z", 1), until("", 1)), ("ended".into(), String::new()));
    }

    #[test]
    fn commands_in_prose_are_code() {
        let of = |text: &str| prose(text).into_string();
        assert_eq!(of("run `skein <x>`, or wait"), "run <code>skein &lt;x&gt;</code>, or wait");
        assert_eq!((of(""), of("plain")), (String::new(), "plain".to_owned()));
    }

    #[test]
    fn paths_hold_whatever_a_name_holds() {
        assert_eq!(service_path("shop/cart").as_deref(), Some("/services/shop/cart"));
        assert_eq!(service_path("shop/cart/blue").as_deref(), Some("/services/shop/cart"));
        assert_eq!(service_path("BlackHoleCluster"), None);
        let odd = document_path("-VirtualService shop/a?b#c").unwrap();
        assert_eq!(odd, "/policy/documents/VirtualService/shop/a%3Fb%23c");
    }
}
