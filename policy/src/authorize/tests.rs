//! Tests of authorization: Istio's traps, the attack list, conflicts.

mod attacks;
mod conflicts;
mod traps;

use http::{HeaderName, HeaderValue};

use super::*;
use crate::{Spec, kinds::PathNormalization, normalize, parse};

/// The AuthorizationPolicies of a text, one live value each.
fn live(text: &str) -> Vec<Live> {
    let parsed = parse::yaml("policy.yaml", text, "shop");
    assert!(parsed.is_valid(), "{:#?}", parsed.problems);
    let one = |located: parse::Located| {
        let Spec::AuthorizationPolicy(policy) = located.document.spec else { panic!("another kind") };
        Live { id: Arc::new(located.document.id), values: vec![Some(policy)], unreadable: Vec::new() }
    };
    parsed.documents.into_iter().map(one).collect()
}

/// A document of namespace `shop` in flow style.
fn document(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {spec}\n---\n"
    )
}

fn authorizer(documents: &[Live]) -> Authorizer {
    let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
    let aliases = [TrustDomain::new("old.example").unwrap()];
    Authorizer::new(documents, "shop", &labels, &TrustDomain::new("prod.example").unwrap(), &aliases)
}

/// The authorizer of a workload with label `app=web` in `shop`, with one document for each spec.
fn of(specs: &[&str]) -> Authorizer {
    let text: String = specs.iter().enumerate().map(|(i, spec)| document(&format!("d{i}"), spec)).collect();
    authorizer(&live(&text))
}

/// A request, in the words of a test.
struct Ask {
    identity: Option<SpiffeId>,
    method: &'static str,
    host: &'static str,
    path: &'static str,
    headers: HeaderMap,
    token: Option<Token>,
    level: PathNormalization,
    port: u16,
    called: Option<(ServiceName, u16)>,
}

fn ask() -> Ask {
    Ask {
        identity: Some("spiffe://prod.example/ns/shop/sa/cart".parse().unwrap()),
        method: "GET",
        host: "web.shop",
        path: "/",
        headers: HeaderMap::new(),
        token: None,
        level: PathNormalization::Strict,
        port: 8080,
        called: None,
    }
}

impl Ask {
    fn from(mut self, identity: Option<&str>) -> Self {
        self.identity = identity.map(|uri| uri.parse().unwrap());
        self
    }

    fn method(mut self, method: &'static str) -> Self {
        self.method = method;
        self
    }

    fn host(mut self, host: &'static str) -> Self {
        self.host = host;
        self
    }

    fn called(mut self, service: &str, port: u16) -> Self {
        self.called = Some((service.parse().unwrap(), port));
        self
    }

    fn path(mut self, path: &'static str) -> Self {
        self.path = path;
        self
    }

    fn level(mut self, level: PathNormalization) -> Self {
        self.level = level;
        self
    }

    fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    fn header(mut self, name: &'static str, value: &[u8]) -> Self {
        self.headers.append(HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap());
        self
    }

    fn token(mut self, claims: &str) -> Self {
        self.token =
            Some(Token { claims: serde_json::from_str(claims).unwrap(), space_delimited: vec!["roles".into()] });
        self
    }

    fn peer(&self) -> Peer<'_> {
        Peer {
            identity: self.identity.as_ref(),
            address: Some("10.1.2.3".parse().unwrap()),
            original_address: None,
            server_name: None,
            destination: Some("10.9.9.9".parse().unwrap()),
            port: self.port,
        }
    }

    /// As the proxy does: 400 where the path or the host has no normal form.
    fn decision(&self, authorizer: &Authorizer) -> Result<Decision, normalize::Refused> {
        self.with_head(|head| authorizer.decide(&self.peer(), head))
    }

    /// Whom it must be asked about beside those that were.
    fn asks(&self, authorizer: &Authorizer, asked: &[Arc<str>]) -> Option<super::Ask> {
        self.with_head(|head| authorizer.ask(&self.peer(), head, asked)).unwrap()
    }

    fn with_head<T>(&self, look: impl FnOnce(&Head<'_>) -> T) -> Result<T, normalize::Refused> {
        let (raw, query) = self.path.split_once('?').map_or((self.path, None), |(path, query)| (path, Some(query)));
        let path = normalize::path(raw, self.level)?;
        let host = normalize::host(self.host, 80)?;
        let head = Head {
            method: self.method,
            scheme: "http",
            host: &host,
            path: &path,
            query,
            called: self.called.as_ref().map(|(service, port)| (service, *port)),
            headers: &self.headers,
            token: self.token.as_ref(),
        };
        Ok(look(&head))
    }

    fn passes(&self, authorizer: &Authorizer) -> bool {
        self.decision(authorizer).is_ok_and(|decision| decision.allowed())
    }

    fn connects(&self, authorizer: &Authorizer) -> bool {
        authorizer.decide_connection(&self.peer()).allowed()
    }
}
