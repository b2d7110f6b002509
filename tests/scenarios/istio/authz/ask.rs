//! What a caller in this mesh can be, and one request or connection of it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use certs::id::{ServiceAccount, SpiffeId, TrustDomain};
use harness::{
    bytes,
    cluster::TRUST_DOMAIN,
    http::Connection,
    rbac::{Request, Said},
};
use policy::{kinds::PathNormalization, normalize};
use serde_json::{Map, Value};

use super::{CONNECTIONS, FAR, Mesh, NEAR, REQUESTS, callers::Caller, stand_in};

/// Wishes that nobody here can present, by reason.
pub(super) type Unmet = BTreeMap<&'static str, usize>;

/// The header by which a gateway is told the port to call.
pub(super) const PORT: &str = "x-port";

/// A request or connection, how it comes, and what Istio's filters say of it.
#[derive(Debug, PartialEq)]
pub(super) struct Asked {
    pub(super) request: Request,
    pub(super) way: Way,
    pub(super) said: Said,
}

/// How a caller comes to the called one.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Way {
    /// From beside a node, whose certificate is shown.
    Mesh(Caller),
    /// From before a gateway that has the identity, and says of whom the request is.
    Gateway(Caller),
    /// Straight, without a certificate.
    Plaintext,
}

/// The request as it will look on arrival, and how it comes. What nobody here can present is as it is without the wish, and the
/// reason is counted.
pub(super) fn present(mut request: Request, odd: &Request, is_http: bool, unmet: &mut Unmet) -> (Request, Way) {
    let mut not = |because| *unmet.entry(because).or_default() += 1;
    if request.destination != odd.destination {
        not("a called address: a node is called at its own");
        request.destination = odd.destination;
    }
    if request.server_name.take().is_some() {
        not("a server name of the caller's choice: nodes ask each other for the called account");
    }
    if is_http {
        make_possible(&mut request, odd, &mut not);
    } else {
        // Nothing of a head is in bytes.
        let Request { principal, address, original, destination, port, .. } = request;
        request = Request { principal, address, original, destination, port, ..odd.clone() };
    }
    // Nobody wanted it to be another than the connection's.
    if request.original == odd.original {
        request.original = request.address;
    }
    let Some(account) = request.principal.as_deref().map(|principal| account(principal, odd, &mut not)) else {
        if request.original != request.address {
            not("an address that a gateway tells of a caller without an identity: it has its own");
            request.original = request.address;
        }
        return (request, Way::Plaintext);
    };
    if ![NEAR, FAR].map(stand_in).contains(&request.address) {
        not("a connection's address beside an identity: nodes call from their own");
        if request.original == request.address {
            request.original = odd.address;
        }
        request.address = odd.address;
    }
    if request.original != request.address && !is_http {
        not("a client's address for a connection of bytes: nobody tells it");
        request.original = request.address;
    }
    if request.original != request.address && account.namespace() == "foo" {
        not("a gateway in the namespace of the policies: they would hold at its door, too");
        request.original = request.address;
    }
    let trust_domain = TrustDomain::new(TRUST_DOMAIN).expect("a name");
    request.principal = Some(SpiffeId::service(trust_domain.clone(), account.clone()).uri());
    let called = ServiceAccount::new("foo", "default").expect("an account");
    request.server_name = Some(SpiffeId::service(trust_domain, called).dns_name());
    let caller = Caller::new(request.address, &account);
    let way = if request.original == request.address { Way::Mesh(caller) } else { Way::Gateway(caller) };
    (request, way)
}

/// The account of an identity, which is one of this mesh's.
fn account(principal: &str, odd: &Request, not: &mut impl FnMut(&'static str)) -> ServiceAccount {
    let of = |principal: &str| principal.parse::<SpiffeId>().ok();
    let identity = of(principal).filter(|identity| identity.account().is_some()).unwrap_or_else(|| {
        not("a principal that no certificate bears");
        odd.principal.as_deref().and_then(of).expect("an identity")
    });
    if identity.trust_domain.as_str() != TRUST_DOMAIN {
        not("an identity of another trust domain: no node trusts its authority");
    }
    identity.account().cloned().expect("a service's")
}

fn make_possible(request: &mut Request, odd: &Request, not: &mut impl FnMut(&'static str)) {
    if !request.claims.is_empty() && !request.claims.contains_key("iss") {
        not("a token of no issuer: it would not hold");
        request.claims.clear();
    }
    if normalize::host(&request.host, 80).is_err() {
        not("a host that cannot be");
        request.host.clone_from(&odd.host);
    }
    let path = normalize::path(&request.path, PathNormalization::default());
    if !path.is_ok_and(|path| path.as_str() == request.path) {
        not("a path that has another form");
        request.path.clone_from(&odd.path);
    }
}

impl Mesh {
    /// Whether it is let in.
    ///
    /// # Errors
    /// Neither is so: in words.
    pub(super) fn ask(&self, asked: &Asked, is_http: bool) -> Result<bool, String> {
        let Asked { request, way, said: _ } = asked;
        let service = if is_http { "foo/httpbin" } else { "foo/bytes" };
        let (from, to) = match way {
            Way::Mesh(caller) => (None, self.callers.upstream(&self.cluster, caller, service, request.port)),
            Way::Gateway(caller) => (None, self.callers.door(&self.cluster, caller)),
            Way::Plaintext => {
                let node = if is_http { REQUESTS } else { CONNECTIONS };
                let from = self.placed(&request.address.to_string()).parse().expect("an address");
                (Some(from), self.cluster.node(node).plaintext(service, request.port))
            }
        };
        if is_http { self.ask_request(asked, from, to) } else { connects(from, to) }
    }

    fn ask_request(&self, asked: &Asked, from: Option<IpAddr>, to: SocketAddr) -> Result<bool, String> {
        let Asked { request, way, said: _ } = asked;
        let mut headers: Vec<(&str, String)> =
            request.headers.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        if !request.claims.is_empty() {
            let claims = request.claims.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str())));
            let token = self.callers.issuer.token(&Value::Object(claims.collect::<Map<_, _>>()));
            headers.push(("authorization", format!("Bearer {token}")));
        }
        if matches!(way, Way::Gateway(_)) {
            headers.push(("x-forwarded-for", self.placed(&request.original.to_string())));
            headers.push((PORT, request.port.to_string()));
        }
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let connection = from.map_or_else(|| Connection::open(to), |from| Connection::open_from(from, to));
        let mut connection = connection.map_err(|error| error.to_string())?;
        let answer = connection.request(&request.method, &request.host, &request.path, &headers, b"")?;
        match (answer.status, answer.text().as_str()) {
            (200, "httpbin") => Ok(true),
            (403, "RBAC: access denied") => Ok(false),
            _ => Err(format!("{answer:?}")),
        }
    }
}

/// A connection that is not let in is reset, or ends with nothing said.
fn connects(from: Option<IpAddr>, to: SocketAddr) -> Result<bool, String> {
    let said = from.map_or_else(|| bytes::say(to, "mesh"), |from| bytes::say_from(from, to, "mesh"));
    match said.as_deref() {
        Ok("hello\nmesh") => Ok(true),
        Ok(other) => Err(other.to_owned()),
        Err(_) => Ok(false),
    }
}
