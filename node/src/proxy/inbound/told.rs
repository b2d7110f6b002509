//! What the application is told of a caller in headers. A caller says nothing of itself that counts; but a gateway is believed in
//! what it says of its clients: policy made it one, its namespace is one whose workloads may speak so, and TLS proves who it is.

use super::caller::Caller;
use crate::lock::lock;
use crate::{
    proxy::{context::is, http as body},
    snapshot::Snapshot,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header::FORWARDED};
use policy::compile::Compiled;
use std::{
    net::IpAddr,
    sync::{Arc, Weak},
};

/// Whether documents make a caller a gateway, as they last said.
#[derive(Debug, Default)]
pub(super) struct IsGateway {
    compiled: Weak<Compiled>,
    is: bool,
}

impl Caller {
    /// Replaces what a request's headers say of identity and way by what is known. Gives the address of the client for which a
    /// gateway speaks.
    pub(super) fn tell(&self, snapshot: &Snapshot, headers: &mut HeaderMap) -> Option<IpAddr> {
        let gateway = self.is_gateway(snapshot);
        let told = |name: &HeaderName| if gateway { headers.get(name).cloned() } else { None };
        let (address, client) = (told(&body::FORWARDED_FOR), told(&body::FORWARDED_CLIENT_CERT));
        let external = told(&body::EXTERNAL_ADDRESS);
        // Those of clients a gateway has removed: these are its routes' words.
        let written = [body::REAL_ADDRESS, FORWARDED].map(|name| told(&name).map(|value| (name, value)));
        let original = external.as_ref().and_then(read).or_else(|| address.as_ref().and_then(read));
        body::strip_identity(headers);
        headers.extend(written.into_iter().flatten());
        if let Some(external) = external {
            headers.insert(body::EXTERNAL_ADDRESS, external);
        }
        headers.insert(body::FORWARDED_FOR, address.unwrap_or_else(|| self.address.clone()));
        let Some(own) = &self.client_cert else { return original };
        // One element for each hop, the client's first.
        let certs = client.map(|client| [client.as_bytes(), b",", own.as_bytes()].concat());
        let certs = certs.and_then(|certs| HeaderValue::from_maybe_shared(Bytes::from(certs)).ok());
        headers.insert(body::FORWARDED_CLIENT_CERT, certs.unwrap_or_else(|| own.clone()));
        original
    }

    /// True if the caller speaks for clients outside the mesh.
    fn is_gateway(&self, snapshot: &Snapshot) -> bool {
        if self.who.identity.is_none() {
            // A Gateway that selects every workload does not mean those outside the mesh.
            return false;
        }
        let mut known = lock(&self.gateway);
        if !is(&known.compiled, &snapshot.compiled) {
            let source = &self.who.source;
            let is_gateway = snapshot.compiled.speaks_for_clients(&source.namespace, &source.labels);
            *known = IsGateway { compiled: Arc::downgrade(&snapshot.compiled), is: is_gateway };
        }
        known.is
    }
}

/// The address in a header; of several the last one, which the gateway itself has seen.
fn read(told: &HeaderValue) -> Option<IpAddr> {
    body::address_from_end(std::iter::once(told), 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_addresses_the_last_is_the_gateways_word() {
        let read = |told: &str| read(&HeaderValue::from_bytes(told.as_bytes()).unwrap());
        assert_eq!(read("10.9.9.9, 192.0.2.1"), Some(IpAddr::from([192, 0, 2, 1])));
        assert_eq!(read("::ffff:192.0.2.1"), Some(IpAddr::from([192, 0, 2, 1])));
        assert_eq!(read("é, 192.0.2.1"), Some(IpAddr::from([192, 0, 2, 1])), "whatever a client said before");
        assert_eq!((read("unknown"), read("192.0.2.1,")), (None, None));
    }
}
