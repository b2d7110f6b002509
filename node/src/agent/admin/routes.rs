//! The rules of every host, as people read them.

use policy::{
    DocumentId, Spec,
    history::State,
    kinds::{
        DestinationHost, ExportTo, HttpAction, HttpMatch, HttpRoute, L4Match, RouteDestination, StringMatch, TcpRoute,
        TlsMatch, TlsRoute,
    },
};

use super::api::Route;

/// One row for each host and rule, in the order in which rules are tried.
pub(super) fn rows(state: &State) -> Vec<Route> {
    let mut rows = Vec::new();
    for (id, value) in state.effective() {
        let Ok(document) = &value.document else { continue };
        if let Spec::VirtualService(service) = &document.spec {
            let first = rows.len();
            for host in &service.hosts {
                rows.extend(service.http.iter().enumerate().map(|(index, route)| row(host, id, index, route)));
                let of_tls = |(index, rule): (usize, &TlsRoute)| {
                    let when = any(&rule.matches, "", tls_conditions);
                    connections(host, id, format!("tls[{index}] if {when}"), &rule.route)
                };
                rows.extend(service.tls.iter().enumerate().map(of_tls));
                let of_tcp = |(index, rule): (usize, &TcpRoute)| {
                    let when = any(&rule.matches, "", l4_conditions);
                    let when = if rule.matches.is_empty() { String::new() } else { format!(" if {when}") };
                    connections(host, id, format!("tcp[{index}]{when}"), &rule.route)
                };
                rows.extend(service.tcp.iter().enumerate().map(of_tcp));
            }
            for row in &mut rows[first..] {
                row.gateways = service.gateways.iter().map(ToString::to_string).collect();
                row.export_to = exported(&service.export_to);
            }
        }
    }
    rows.sort_by(|a, b| a.host.cmp(&b.host));
    rows
}

fn row(host: &str, id: &DocumentId, index: usize, route: &HttpRoute) -> Route {
    let matches: Vec<_> = route.matches.iter().map(conditions).collect();
    let name = if route.name.is_empty() { format!("http[{index}]") } else { route.name.clone() };
    let when = if matches.is_empty() { String::new() } else { format!(" if {}", matches.join(" or ")) };
    Route {
        host: host.to_owned(),
        document: Some(id.to_string()),
        rule: format!("{name}{when}"),
        action: action(route),
        gateways: Vec::new(),
        export_to: Vec::new(),
    }
}

/// For whom a document counts.
fn exported(to: &ExportTo) -> Vec<String> {
    match to {
        ExportTo::All => vec!["*".to_owned()],
        ExportTo::Namespaces(namespaces) => namespaces.iter().cloned().collect(),
    }
}

fn connections(host: &str, id: &DocumentId, rule: String, to: &[RouteDestination]) -> Route {
    let action = destinations(to.iter().map(|one| (&one.destination, one.weight)));
    let (gateways, export_to) = Default::default();
    Route { host: host.to_owned(), document: Some(id.to_string()), rule, action, gateways, export_to }
}

fn action(route: &HttpRoute) -> String {
    let action = match &route.action {
        HttpAction::Route(to) => destinations(to.iter().map(|one| (&one.destination, one.weight))),
        HttpAction::Redirect(redirect) => format!("redirect {}", redirect.code),
        HttpAction::Direct(direct) => format!("answer {}", direct.status),
        HttpAction::Delegate { to, .. } => format!("rules of {}/{}", to.namespace, to.name),
    };
    let mut extras = Vec::new();
    extras.extend(route.deadline().map(|timeout| format!("timeout {timeout:?}")));
    extras.extend(route.retries.as_ref().map(|retries| format!("{} attempts more", retries.attempts)));
    extras.extend(route.fault.as_ref().map(|_| "fault".to_owned()));
    extras.extend(route.rewrite.as_ref().map(|_| "rewrite".to_owned()));
    if extras.is_empty() { action } else { format!("{action} ({})", extras.join(", ")) }
}

fn destinations<'d>(to: impl Iterator<Item = (&'d DestinationHost, u32)> + Clone) -> String {
    let total: u32 = to.clone().map(|(_, weight)| weight).sum();
    to.map(|(to, weight)| destination(to, weight, total)).collect::<Vec<_>>().join(", ")
}

fn destination(to: &DestinationHost, weight: u32, total: u32) -> String {
    let mut text = to.host.clone();
    text.extend(to.port.map(|port| format!(":{port}")));
    text.extend(to.subset.as_ref().map(|subset| format!(" {subset}")));
    if total > 0 {
        text.push_str(&format!(" {}%", u64::from(weight) * 100 / u64::from(total)));
    }
    text
}

/// All conditions of a rule, of which any is enough.
pub(super) fn any<C>(conditions: &[C], of: &str, text: fn(&C) -> String) -> String {
    let all: Vec<String> = conditions.iter().map(text).collect();
    format!("{of}{}", if all.is_empty() { "always".to_owned() } else { all.join(" or ") })
}

/// One condition of a rule for TLS.
pub(super) fn tls_conditions(condition: &TlsMatch) -> String {
    let names = format!("sni={}", condition.sni_hosts.join(","));
    match l4_conditions(&condition.connection).as_str() {
        "always" => names,
        more => format!("{names} and {more}"),
    }
}

/// One condition of a rule for connections.
pub(super) fn l4_conditions(condition: &L4Match) -> String {
    let mut parts = Vec::new();
    if !condition.destination_subnets.is_empty() {
        let subnets: Vec<String> = condition.destination_subnets.iter().map(ToString::to_string).collect();
        parts.push(format!("to {}", subnets.join(",")));
    }
    parts.extend(condition.port.map(|port| format!("port={port}")));
    parts.extend(condition.source_labels.iter().map(|(key, value)| format!("source {key}={value}")));
    parts.extend(condition.source_namespace.as_ref().map(|namespace| format!("source namespace={namespace}")));
    if parts.is_empty() { "always".to_owned() } else { parts.join(" and ") }
}

/// One condition of a rule.
pub(super) fn conditions(condition: &HttpMatch) -> String {
    let named = |name: &str, matched: &StringMatch| match matched {
        StringMatch::Exact(text) => format!("{name}={text}"),
        StringMatch::Prefix(text) => format!("{name}={text}*"),
        StringMatch::Regex(_) => format!("{name} ~ regex"),
        StringMatch::Present => format!("{name} present"),
    };
    let mut parts = Vec::new();
    for (name, matched) in [
        ("path", &condition.uri),
        ("scheme", &condition.scheme),
        ("method", &condition.method),
        ("authority", &condition.authority),
    ] {
        parts.extend(matched.as_ref().map(|matched| named(name, matched)));
    }
    parts.extend(condition.headers.iter().map(|(name, matched)| named(name, matched)));
    let claim = |path: &[String]| format!("claim {}", path.join("."));
    parts.extend(condition.claims.iter().map(|(path, matched)| named(&claim(path), matched)));
    parts
        .extend(condition.without_claims.iter().map(|(path, matched)| format!("not {}", named(&claim(path), matched))));
    parts.extend(condition.without_headers.iter().map(|(name, matched)| format!("not {}", named(name, matched))));
    parts.extend(condition.query_params.iter().map(|(name, matched)| named(&format!("?{name}"), matched)));
    parts.extend(condition.port.map(|port| format!("port={port}")));
    parts.extend(condition.source_labels.iter().map(|(key, value)| format!("source {key}={value}")));
    parts.extend(condition.source_namespace.as_ref().map(|namespace| format!("source namespace={namespace}")));
    if parts.is_empty() { "always".to_owned() } else { parts.join(" and ") }
}
