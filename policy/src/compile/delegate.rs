//! Delegates: the rules of another VirtualService in a rule's place, one level deep.

use std::sync::Arc;

use crate::{
    document::DocumentId,
    kinds::{GatewayName, HttpAction, HttpMatch, HttpRoute, StringMatch, VirtualService},
};

/// A rule as it applies: of the document itself, or of a delegate.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    /// The document in which it stands.
    pub(super) document: DocumentId,
    /// Its place among that document's `http`.
    pub(super) index: usize,
    /// Never a delegation; conditions on gateways hold for the proxies that it is for.
    pub(super) http: HttpRoute,
}

/// The rules of a document for callers' proxies or for those of a Gateway, in order, those of its delegates in their places. `find`
/// gives a VirtualService that has no hosts and is exported to the document's namespace; what it does not find, or what
/// contradicts it, is left out.
pub(super) fn rules(
    id: &DocumentId,
    service: &VirtualService,
    place: &GatewayName,
    find: &dyn Fn(&DocumentId) -> Option<Arc<VirtualService>>,
) -> Vec<Rule> {
    let mut rules = Vec::new();
    for (index, http) in service.http.iter().enumerate() {
        match &http.action {
            HttpAction::Delegate { to, .. } => {
                let delegate = to.id();
                let leaves = find(&delegate).into_iter().flat_map(|found| found.http.clone()).enumerate();
                let merged = leaves.filter_map(|(index, leaf)| {
                    Some(Rule { document: delegate.clone(), index, http: merge(http, leaf)? })
                });
                rules.extend(merged);
            }
            HttpAction::Route(_) | HttpAction::Redirect(_) | HttpAction::Direct(_) => {
                rules.push(Rule { document: id.clone(), index, http: http.clone() });
            }
        }
    }
    of_place(service, place, rules)
}

/// Leaves out conditions for other proxies, and rules that had no other; and what stands behind a rule that takes everything.
fn of_place(service: &VirtualService, place: &GatewayName, rules: Vec<Rule>) -> Vec<Rule> {
    let mut kept = Vec::new();
    for mut rule in rules {
        let always = rule.http.matches.is_empty();
        let gateways = |condition: &HttpMatch| condition.gateways.as_ref().unwrap_or(&service.gateways).clone();
        rule.http.matches.retain(|condition| gateways(condition).contains(place));
        if rule.http.matches.is_empty() && !always {
            continue;
        }
        let ends = always || rule.http.matches.iter().any(HttpMatch::is_catch_all);
        kept.push(rule);
        if ends {
            break;
        }
    }
    kept
}

/// A delegate's rule under the rule that delegates to it; `None` if no request can meet the conditions of both.
fn merge(root: &HttpRoute, leaf: HttpRoute) -> Option<HttpRoute> {
    let HttpAction::Delegate { direct: answer, .. } = &root.action else { return Some(leaf) };
    let action = match (leaf.action, answer) {
        // A delegate's delegate is not followed.
        (HttpAction::Delegate { .. }, _) => return None,
        // As in Istio, the answer stands above forwarding, wherever it was written; a redirect above both.
        (HttpAction::Route(_), Some(answer)) => HttpAction::Direct(answer.clone()),
        (own @ (HttpAction::Route(_) | HttpAction::Redirect(_) | HttpAction::Direct(_)), _) => own,
    };
    Some(HttpRoute {
        line: leaf.line,
        name: joined(&root.name, leaf.name),
        matches: merge_matches(&root.matches, leaf.matches)?,
        action,
        rewrite: leaf.rewrite.or_else(|| root.rewrite.clone()),
        timeout: leaf.timeout.or(root.timeout),
        retries: leaf.retries.or_else(|| root.retries.clone()),
        fault: leaf.fault.or_else(|| root.fault.clone()),
        mirroring: leaf.mirroring.or(&root.mirroring),
        cors: leaf.cors.or_else(|| root.cors.clone()),
        headers: leaf.headers.or_else(|| root.headers.clone()),
    })
}

fn joined(root: &str, leaf: String) -> String {
    match (root.is_empty(), leaf.is_empty()) {
        (true, _) => leaf,
        (false, true) => root.to_owned(),
        (false, false) => format!("{root}-{leaf}"),
    }
}

/// Every pair that goes together; `None` if some condition of the delegate goes with none of the root's.
fn merge_matches(root: &[HttpMatch], leaf: Vec<HttpMatch>) -> Option<Vec<HttpMatch>> {
    if root.is_empty() {
        return Some(leaf);
    }
    if leaf.is_empty() {
        return Some(root.to_vec());
    }
    let mut merged = Vec::new();
    for own in leaf {
        let before = merged.len();
        merged.extend(root.iter().filter(|root| !conflict(root, &own)).map(|root| merge_match(root, own.clone())));
        if merged.len() == before {
            return None;
        }
    }
    Some(merged)
}

/// The conditions of both; where both have one, the delegate's is the narrower.
fn merge_match(root: &HttpMatch, leaf: HttpMatch) -> HttpMatch {
    let name = match (&root.name, leaf.name) {
        (Some(root), Some(leaf)) => Some(format!("{root}-{leaf}").into()),
        (root, leaf) => leaf.or_else(|| root.clone()),
    };
    HttpMatch {
        name,
        uri: leaf.uri.or_else(|| root.uri.clone()),
        ignore_uri_case: leaf.ignore_uri_case,
        scheme: leaf.scheme.or_else(|| root.scheme.clone()),
        method: leaf.method.or_else(|| root.method.clone()),
        authority: leaf.authority.or_else(|| root.authority.clone()),
        headers: union(&root.headers, leaf.headers),
        without_headers: union(&root.without_headers, leaf.without_headers),
        query_params: union(&root.query_params, leaf.query_params),
        claims: union(&root.claims, leaf.claims),
        without_claims: union(&root.without_claims, leaf.without_claims),
        port: leaf.port.or(root.port),
        source_labels: root.source_labels.clone().into_iter().chain(leaf.source_labels).collect(),
        source_namespace: leaf.source_namespace.or_else(|| root.source_namespace.clone()),
        gateways: leaf.gateways.or_else(|| root.gateways.clone()),
    }
}

fn union<K: Ord + Clone>(root: &[(K, StringMatch)], leaf: Vec<(K, StringMatch)>) -> Vec<(K, StringMatch)> {
    let mut all = leaf;
    let more: Vec<_> = root.iter().filter(|(key, _)| all.iter().all(|(own, _)| own != key)).cloned().collect();
    all.extend(more);
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

/// True if the delegate's condition is not within the root's.
fn conflict(root: &HttpMatch, leaf: &HttpMatch) -> bool {
    let one = |root: &Option<StringMatch>, leaf: &Option<StringMatch>| match (root, leaf) {
        (Some(root), Some(leaf)) => !within(root, leaf),
        (None, _) | (_, None) => false,
    };
    let sources =
        leaf.source_labels.iter().any(|(key, own)| root.source_labels.get(key).is_some_and(|root| root != own));
    let gateways = match (&root.gateways, &leaf.gateways) {
        (Some(root), Some(leaf)) => leaf.iter().any(|gateway| !root.contains(gateway)),
        (None, _) | (_, None) => false,
    };
    one(&root.uri, &leaf.uri)
        || one(&root.scheme, &leaf.scheme)
        || one(&root.method, &leaf.method)
        || one(&root.authority, &leaf.authority)
        || any_outside(&root.headers, &leaf.headers)
        || any_outside(&root.without_headers, &leaf.without_headers)
        || any_outside(&root.query_params, &leaf.query_params)
        || any_outside(&root.claims, &leaf.claims)
        || any_outside(&root.without_claims, &leaf.without_claims)
        || root.ignore_uri_case != leaf.ignore_uri_case
        || matches!((root.port, leaf.port), (Some(root), Some(leaf)) if root != leaf)
        || root.source_namespace.is_some() && leaf.source_namespace != root.source_namespace
        || sources
        || gateways
}

fn any_outside<K: PartialEq>(root: &[(K, StringMatch)], leaf: &[(K, StringMatch)]) -> bool {
    leaf.iter().any(|(key, own)| root.iter().any(|(other, root)| other == key && !within(root, own)))
}

/// True if what the delegate's value takes is surely part of what the root's takes. Of a regular expression nothing is known.
fn within(root: &StringMatch, leaf: &StringMatch) -> bool {
    match (root, leaf) {
        (StringMatch::Exact(root), StringMatch::Exact(leaf)) => root == leaf,
        (StringMatch::Prefix(root), StringMatch::Exact(leaf) | StringMatch::Prefix(leaf)) => leaf.starts_with(root),
        (StringMatch::Exact(_), StringMatch::Prefix(_))
        | (StringMatch::Regex(_) | StringMatch::Present, _)
        | (_, StringMatch::Regex(_) | StringMatch::Present) => false,
    }
}

#[cfg(test)]
mod tests;
