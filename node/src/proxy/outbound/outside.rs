//! Attempts at endpoints that no node serves: this node connects to them by itself, in clear or by TLS as a DestinationRule says.

use super::attempt::{Try, Way};
use crate::{
    descriptors, mesh,
    proxy::{
        cluster::{Member, Outward, Security},
        direct::{Stream, Target},
        failure::{Cause, Failure},
        http::{self as body, RequestBody},
        inbound::Version,
    },
};
use http::{Response, header::HOST, request::Parts};
use policy::hosts::split_authority;
use std::net::{IpAddr, SocketAddr};

/// The documents' TLS cannot be begun; why not is among the node's problems.
const UNREADY: &str = "TLS error: what the DestinationRule asks for is not there; `skein status` says what";

impl Way<'_> {
    /// True if endpoints outside are met by TLS.
    pub(super) fn speaks_tls(&self) -> bool {
        self.cluster.outward.as_ref().is_some_and(|outward| matches!(outward.tls, Security::Tls(_)))
    }

    /// Where a member is reached, whose service has this port: of a name that was looked up where it is reached by now.
    pub(super) fn address(&self, member: &Member, port: u16) -> SocketAddr {
        let address = member.address(port);
        let first = self.by.and_then(|by| self.context.current.lookups().first(by));
        first.map_or(address, |first| SocketAddr::new(first, address.port()))
    }

    /// Sends a request there. What the server says of this mesh's own matters counts for nothing.
    pub(super) async fn outside(
        &self,
        address: SocketAddr,
        head: &Parts,
        request: RequestBody,
        one: &mut Try<'_>,
    ) -> Result<Response<body::Source>, Cause> {
        let outward = self.outward()?;
        let version = match self.protocol {
            mesh::Protocol::Http2 => Version::Http2,
            mesh::Protocol::Http1 | mesh::Protocol::Tcp => Version::Http1,
        };
        let host = head.uri.authority().map(http::uri::Authority::as_str);
        let host = host.or_else(|| head.headers.get(HOST)?.to_str().ok()).unwrap_or_default();
        let host = self.by.map_or(split_authority(host).0, |by| &by.name);
        let target = self.target(outward, address, self.named(outward, host)).await;
        let target = target.map_err(|failure| failure.told(one.transport))?;
        *one.with_endpoint = true;
        let answer = self.context.apps.send(&target, version, head, request, &outward.terms, one.limit);
        let mut response = answer.await.map_err(|failure| {
            self.avoid(address, failure.cause);
            failure.told(one.transport)
        })?;
        body::strip_own(response.headers_mut());
        Ok(response.map(body::Source::App))
    }

    /// A connection of bytes to there.
    pub(super) async fn open_outside(&self, address: SocketAddr) -> Result<Stream, Failure> {
        let outward = self.outward()?;
        let host = self.by.map_or(&*outward.host, |by| &by.name);
        // Where nobody names a host, none is asked for, and the server shows itself by its address.
        let own = host.starts_with('*').then(|| address.ip().to_string());
        let target = self.target(outward, address, own.as_deref().unwrap_or(host)).await?;
        let stream = target.connect(outward.terms.connect, outward.terms.keepalive).await.map_err(|error| {
            tracing::debug!(%address, %error, "an endpoint outside does not answer");
            Failure::unconnected(&error)
        })?;
        if descriptors::leaves_room(&stream) { Ok(stream) } else { Err(Cause::Overflow.into()) }
    }

    /// The host that TLS asks for. No address can be that (RFC 6066, 3): then the document's own host is meant, if it has one.
    fn named<'h>(&self, outward: &'h Outward, host: &'h str) -> &'h str {
        let is_address = host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
        if is_address && !outward.host.starts_with('*') { &outward.host } else { host }
    }

    /// Nobody answers there: what was looked up has other addresses, perhaps.
    pub(super) fn avoid(&self, address: SocketAddr, cause: Cause) {
        if let Some(by) = self.by.filter(|_| cause == Cause::ConnectFailure) {
            self.context.current.lookups().unreached(by, address.ip());
        }
    }

    fn outward(&self) -> Result<&Outward, Cause> {
        self.cluster.outward.as_deref().ok_or(Cause::ConnectFailure)
    }

    async fn target(&self, outward: &Outward, address: SocketAddr, host: &str) -> Result<Target, Failure> {
        let unready = |cause| Failure { cause, transport: Some(UNREADY.into()) };
        let session = match &outward.tls {
            Security::Clear => None,
            Security::Tls(slot) => {
                let http2 = self.protocol == mesh::Protocol::Http2;
                Some(slot.session(host, http2, outward.terms.connect).await.map_err(unready)?)
            }
            Security::Impossible => return Err(unready(Cause::ConnectFailure)),
        };
        Ok(Target::new(address, session, self.proxied))
    }
}
