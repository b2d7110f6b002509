//! Istio's documents of `authz` against the filters that Istio makes of them: both are asked about requests that are made of what
//! the filters look at, each as it is wanted and with one thing changed.

use std::{net::IpAddr, path::Path};

use certs::id::{SpiffeId, TrustDomain};
use harness::rbac::{self, ASKING, CASES, Case, Request, Said, requests};
use http::{HeaderMap, HeaderName, HeaderValue};
use policy::{
    Spec,
    authorize::{Authorizer, Decision, Head, Live, Peer, Token},
    kinds::PathNormalization,
    normalize, parse,
};
use serde_json::Value;

use crate::corpus;

/// Nothing that a rule means.
fn odd() -> Request {
    let address = IpAddr::from([11, 11, 11, 11]);
    Request::odd(address, address, 1)
}

/// What our code says; `None` if the proxy would not come so far: the caller's name, the host or the path cannot be.
fn decide(request: &Request, authorizer: &Authorizer, is_http: bool) -> Option<Decision> {
    let identity: Option<SpiffeId> = match &request.principal {
        Some(text) => Some(text.parse().ok()?),
        None => None,
    };
    let peer = Peer {
        identity: identity.as_ref(),
        address: Some(request.address),
        original_address: Some(request.original),
        server_name: request.server_name.as_deref(),
        destination: Some(request.destination),
        port: request.port,
    };
    if !is_http {
        return Some(authorizer.decide_connection(&peer));
    }
    let mut headers = HeaderMap::new();
    for (name, value) in &request.headers {
        headers.insert(name.parse::<HeaderName>().ok()?, HeaderValue::from_str(value).ok()?);
    }
    let claims = request.claims.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str())));
    let token = Token { claims: claims.collect(), space_delimited: Vec::new() };
    let head = Head {
        method: &request.method,
        scheme: "http",
        host: &normalize::host(&request.host, 80).ok()?,
        path: &normalize::path(&request.path, PathNormalization::Base)
            .ok()
            .filter(|path| path.as_str() == request.path)?,
        query: None,
        called: None,
        headers: &headers,
        token: (!request.claims.is_empty()).then_some(&token),
    };
    Some(authorizer.decide(&peer, &head))
}

fn authorizer(root: &Path, case: &Case) -> Authorizer {
    let parsed = parse::yaml(case.documents, &case.text(root), "default");
    let documents: Vec<Live> = parsed
        .documents
        .into_iter()
        .map(|located| {
            let Spec::AuthorizationPolicy(policy) = located.document.spec else { panic!("another kind") };
            Live { id: located.document.id.into(), values: vec![Some(policy)], unreadable: Vec::new() }
        })
        .collect();
    let labels = [("app", "httpbin"), ("version", "v1")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    let names: Vec<TrustDomain> = case.trust_domains.iter().map(|name| TrustDomain::new(name).unwrap()).collect();
    Authorizer::new(&documents, "foo", &labels.into(), &names[0], &names[1..])
}

#[test]
fn every_filter_of_istios_decides_as_we_do() {
    let Some(root) = corpus() else { return };
    let (mut decided, mut left_out, mut wrong) = (0, 0, Vec::new());
    for case in &CASES {
        let filters = case.filters(&root, str::to_owned);
        let authorizer = authorizer(&root, case);
        let (mut allowed, mut refused) = (0, 0);
        for request in requests(&filters, &odd(), case.trust_domains[0]) {
            let Some(decision) = decide(&request, &authorizer, case.is_http()) else {
                left_out += 1;
                continue;
            };
            let said = Said::of(&filters, &request);
            let ours = (decision.allowed(), decision.dry_run.map(|verdict| verdict.allowed));
            if ours != (said.allowed, said.tried) {
                wrong.push(format!("{}: {ours:?}, Istio {said:?}: {request:?}", case.documents));
            }
            *(if ours.0 { &mut allowed } else { &mut refused }) += 1;
            decided += 1;
        }
        println!("authz {}: {allowed} allowed, {refused} refused, as Istio's filters do", case.documents);
    }
    assert!(wrong.is_empty(), "{} of {decided}:\n{}", wrong.len(), wrong[..wrong.len().min(5)].join("\n"));
    println!("{decided} decisions on {} documents, {left_out} requests that cannot be", CASES.len());
    assert!(decided > 1_000);
}

#[test]
fn connections_about_which_istio_asks_are_refused() {
    let Some(root) = corpus() else { return };
    let (authorizer, filters) = (authorizer(&root, &ASKING), ASKING.filters(&root, str::to_owned));
    let marks = filters[0].tried.as_ref().expect("Istio marks by a filter on trial");
    let (mut marked, mut others) = (0, 0);
    for request in requests(&filters, &odd(), ASKING.trust_domains[0]) {
        let Some(decision) = decide(&request, &authorizer, false) else { continue };
        assert_eq!(decision.allowed(), !marks.is_met(&request), "{request:?}");
        *(if decision.allowed() { &mut others } else { &mut marked }) += 1;
    }
    println!("authz {}: {marked} refused, {others} allowed", ASKING.documents);
    assert!(marked > 0);
}

#[test]
fn every_document_is_in_a_list() {
    let Some(root) = corpus() else { return };
    assert_eq!(rbac::unlisted(&root), Vec::<String>::new());
}
