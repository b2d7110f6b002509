//! Requests that meet rules of filters, and their neighbours that do not.

use serde_json::Value;

use super::{Filter, Request, claim, comparison, first, holds, list, only, parts, written};

/// Requests that meet a rule in several ways, then with one thing as in no rule, which is how `odd` is, and with one thing that the
/// rule forbids. Where nothing is said of a caller but its namespace, its account is one of this trust domain.
pub fn requests(filters: &[Filter], odd: &Request, trust_domain: &str) -> Vec<Request> {
    let mut all = vec![odd.clone()];
    for rules in filters.iter().flat_map(|filter| [&filter.enforced, &filter.tried]).flatten() {
        for policy in &rules.policies {
            for permission in list(&policy["permissions"]) {
                for principal in list(&policy["principals"]) {
                    for choice in 0..6 {
                        let wish = Wish { choice, trust_domain };
                        let mut request = odd.clone();
                        wish.meet(permission, &mut request);
                        wish.meet(principal, &mut request);
                        all.extend(neighbours(&request, odd));
                        let mut never = Vec::new();
                        forbidden(permission, &mut never);
                        forbidden(principal, &mut never);
                        for matcher in never {
                            let mut bad = request.clone();
                            wish.meet(matcher, &mut bad);
                            all.push(bad);
                        }
                        all.push(request);
                    }
                }
            }
        }
    }
    all
}

/// The same with one thing as it is in another request, for each thing.
fn neighbours(one: &Request, other: &Request) -> Vec<Request> {
    let (one, other) = (one.clone(), other.clone());
    vec![
        Request { principal: other.principal, ..one.clone() },
        Request { method: other.method, ..one.clone() },
        Request { host: other.host, ..one.clone() },
        Request { path: other.path, ..one.clone() },
        Request { headers: other.headers, ..one.clone() },
        Request { claims: other.claims, ..one.clone() },
        Request { address: other.address, ..one.clone() },
        Request { original: other.original, ..one.clone() },
        Request { destination: other.destination, ..one.clone() },
        Request { port: other.port, ..one.clone() },
        Request { server_name: other.server_name, ..one },
    ]
}

/// How matchers are met where there are several ways.
struct Wish<'w> {
    /// The number of the way.
    choice: usize,
    trust_domain: &'w str,
}

impl Wish<'_> {
    /// Changes the request so that the matcher is met; what meets it already stays.
    fn meet(&self, matcher: &Value, request: &mut Request) {
        let (key, inner) = only(matcher);
        match key {
            "andRules" | "andIds" => return parts(inner).iter().for_each(|one| self.meet(one, request)),
            "orRules" | "orIds" => return self.meet(&parts(inner)[self.choice % parts(inner).len()], request),
            // What must not be met is not met by the other things of a request; that it is met comes by `forbidden`.
            "any" | "notRule" | "notId" => return,
            _ => {}
        }
        if holds(matcher, request) {
            return;
        }
        match key {
            "header" => {
                let wanted = inner.get("stringMatch").map_or("anything".to_owned(), example);
                match written(&inner["name"]) {
                    ":authority" => request.host = wanted,
                    ":method" => request.method = wanted.to_ascii_uppercase(),
                    name => drop(request.headers.insert(name.to_ascii_lowercase(), wanted)),
                }
            }
            "urlPath" => {
                let wanted = example(&inner["path"]);
                request.path = if wanted.starts_with('/') { wanted } else { format!("/{wanted}") };
            }
            "uriTemplate" => {
                let template = written(&inner["typedConfig"]["pathTemplate"]);
                request.path = template.replace("**", "x/y").replace('*', "x");
            }
            "destinationPort" => {
                request.port = inner.as_u64().and_then(|port| u16::try_from(port).ok()).expect("a port");
            }
            "destinationIp" => request.destination = first(inner),
            "directRemoteIp" | "sourceIp" => request.address = first(inner),
            "remoteIp" => request.original = first(inner),
            "requestedServerName" => request.server_name = Some(example(inner)),
            "authenticated" => request.principal = Some(self.caller(&example(&inner["principalName"]))),
            "metadata" => {
                if let Some(name) = claim(inner) {
                    let mut value = &inner["value"];
                    while let ("orMatch", several) = only(value) {
                        let several: Vec<&Value> = list(&several["valueMatchers"])
                            .iter()
                            .filter(|one| one.get("listMatch").is_none())
                            .collect();
                        value = several[self.choice % several.len()];
                    }
                    request.claims.insert(name.to_owned(), example(&value["stringMatch"]));
                }
            }
            other => panic!("a new matcher: {other}"),
        }
    }

    /// An identity near to the example of one.
    fn caller(&self, example: &str) -> String {
        let of = |namespace: &str, account: &str| format!("spiffe://{}/ns/{namespace}/sa/{account}", self.trust_domain);
        let named = example.split_once("/ns/").filter(|_| !example.contains("/sa/"));
        if let Some((_, rest)) = named {
            return of(rest.split('/').next().unwrap_or(rest), "a");
        }
        match example {
            "x" => of("x", "x"),
            // A pattern for any trust domain.
            _ => example.replace("spiffe://x/", &format!("spiffe://{}/", self.trust_domain)),
        }
    }
}

/// A text that meets the matcher.
fn example(matcher: &Value) -> String {
    let (key, wanted) = comparison(matcher);
    match key {
        "prefix" => format!("{}x", written(wanted)),
        "suffix" => format!("x{}", written(wanted)),
        "safeRegex" => {
            let text = written(&wanted["regex"]).replace("(.+/|)", "").replace("(/.+)?", "");
            text.replace(".*", "x").replace(".+", "x")
        }
        _ => written(wanted).to_owned(),
    }
}

/// Everything within that must not be met.
fn forbidden<'v>(matcher: &'v Value, found: &mut Vec<&'v Value>) {
    match only(matcher) {
        ("notRule" | "notId", inner) => found.push(inner),
        ("andRules" | "andIds" | "orRules" | "orIds", inner) => {
            parts(inner).iter().for_each(|one| forbidden(one, found));
        }
        _ => {}
    }
}
