//! What a compiled route does, as people read it.

use policy::{
    kinds::{Abort, Fault, UriRewrite},
    route::{Action, Destination, Route, Subset},
};

/// One line: where requests go, or what answers them; then what else happens on the way.
pub(super) fn action(route: &Route) -> String {
    let action = match &route.action {
        Action::Forward(destinations) => {
            let total: u64 = destinations.iter().map(|one| u64::from(one.weight)).sum();
            destinations.iter().map(|one| destination(one, total, destinations.len())).collect::<Vec<_>>().join(", ")
        }
        Action::Redirect(redirect) => format!("redirect {}", redirect.code),
        Action::Direct(direct) => format!("answer {}", direct.status),
    };
    let mut extras = Vec::new();
    extras.extend(route.timeout.map(|timeout| format!("timeout {timeout:?}")));
    // What a document says of retries; the mesh's default is no news.
    if !route.retries.idempotent_reset {
        extras.push(format!("{} retries on {}", route.retries.attempts, route.retries.on));
    }
    extras.extend(route.fault.as_ref().map(fault));
    if let Some(rewrite) = &route.rewrite {
        extras.extend(rewrite.uri.as_ref().map(|uri| match uri {
            UriRewrite::Matched(text) => format!("path to {text}"),
            UriRewrite::Regex(pattern, text) => format!("path {} to {text}", pattern.source()),
        }));
        extras.extend(rewrite.authority.as_ref().map(|authority| format!("authority to {authority}")));
    }
    if !route.request_headers.is_empty() || !route.response_headers.is_empty() {
        extras.push("header operations".to_owned());
    }
    if extras.is_empty() { action } else { format!("{action} ({})", extras.join(", ")) }
}

fn destination(one: &Destination, total: u64, count: usize) -> String {
    let mut text = one.host.clone();
    text.extend(one.port.map(|port| format!(":{port}")));
    if !one.subset_name.is_empty() {
        text.push_str(&format!(" {}", one.subset_name));
    }
    if matches!(one.common.subset, Subset::Missing(_)) {
        text.push_str(" (no such subset: 503)");
    }
    // Without any weight the first of several gets everything.
    if count > 1 && total > 0 {
        text.push_str(&format!(" {}%", u64::from(one.weight) * 100 / total));
    }
    text
}

fn fault(fault: &Fault) -> String {
    let share = |per_million: u32| format!("{}%", f64::from(per_million) / 10_000.0);
    let delay = fault.delay.map(|delay| format!("delay {:?} for {}", delay.delay, share(delay.per_million)));
    let abort = fault.abort.map(|abort| {
        let answer = match abort.abort {
            Abort::Http(status) => status.to_string(),
            Abort::Grpc(status) => format!("gRPC {status}"),
        };
        format!("abort {answer} for {}", share(abort.per_million))
    });
    delay.into_iter().chain(abort).collect::<Vec<_>>().join(", ")
}

/// Names what differs between two routes that read alike.
pub(super) fn difference(a: &Route, b: &Route) -> Vec<&'static str> {
    let parts = [
        ("retries", a.retries != b.retries),
        ("fault", a.fault != b.fault),
        ("rewrite", a.rewrite != b.rewrite),
        ("request headers", a.request_headers != b.request_headers),
        ("response headers", a.response_headers != b.response_headers),
        ("endpoints or traffic policy", a.action != b.action),
    ];
    parts.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
}
