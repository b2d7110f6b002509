//! What the application is told of a caller in headers. A caller says nothing of itself that counts; but a gateway is believed in
//! what it says of its clients: policy made it one, and TLS proves who it is.

use super::caller::Caller;
use crate::{proxy::http as body, snapshot::Snapshot};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};

impl Caller {
    /// Replaces what a request's headers say of identity and way by what is known.
    pub(super) fn tell(&self, snapshot: &Snapshot, headers: &mut HeaderMap) {
        let source = &self.who.source;
        let gateway = snapshot.compiled.is_gateway(&source.namespace, &source.labels);
        let told = |name| headers.get(name).filter(|_| gateway).cloned();
        let (address, client) = (told(body::FORWARDED_FOR), told(body::FORWARDED_CLIENT_CERT));
        body::strip_identity(headers);
        headers.insert(body::FORWARDED_FOR, address.unwrap_or_else(|| self.address.clone()));
        let own = &self.client_cert;
        // One element for each hop, the client's first.
        let certs = client.map(|client| [client.as_bytes(), b",", own.as_bytes()].concat());
        let certs = certs.and_then(|certs| HeaderValue::from_maybe_shared(Bytes::from(certs)).ok());
        headers.insert(body::FORWARDED_CLIENT_CERT, certs.unwrap_or_else(|| own.clone()));
    }
}
