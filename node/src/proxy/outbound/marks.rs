//! What a route and its destination do to the headers of an answer, whoever gives it.

use super::{Answered, Requests, facts::RequestFacts, forward::Head};
use crate::proxy::{exchange::Exchange, failure::Cause};
use http::{
    HeaderMap, StatusCode,
    header::{CONNECTION, UPGRADE},
};
use policy::{
    headers::{HeaderOps, Side},
    route::{Destination, Routed},
};
use std::net::SocketAddr;

/// See the module.
pub(super) struct Marks<'r> {
    routed: &'r Routed,
    /// In the order in which they apply.
    operations: [Option<&'r HeaderOps>; 2],
    /// The request as it came, about which formatters may ask.
    asked: Head,
}

impl<'r> Marks<'r> {
    /// `None` where there is nothing to do, as for most.
    pub(super) fn of(routed: &'r Routed, destination: Option<&'r Destination>, head: &Head) -> Option<Box<Self>> {
        let operations =
            [destination.map(|destination| &*destination.response_headers), Some(&*routed.route.response_headers)];
        let asked = || Head { parts: head.parts.clone(), host: head.host.clone() };
        let is_any = operations.iter().flatten().any(|operations| !operations.is_empty());
        is_any.then(|| Box::new(Self { routed, operations, asked: asked() }))
    }

    /// Applies them. What is said of the connection stays, or a caller that is told to change the protocol would not know to which.
    pub(super) fn mark(
        &self,
        requests: &Requests<'_>,
        status: StatusCode,
        headers: &mut HeaderMap,
        upstream: Option<SocketAddr>,
    ) {
        let given = headers.clone();
        let facts = requests.facts(self.routed, &self.asked.parts, &self.asked.host);
        let facts = RequestFacts { response: Some((status, &given)), upstream, ..facts };
        for operations in self.operations.iter().flatten() {
            operations.apply(Side::Response, headers, &facts);
        }
        for name in [CONNECTION, UPGRADE] {
            if let Some(value) = given.get(&name) {
                headers.insert(name, value.clone());
            }
        }
    }
}

impl Requests<'_> {
    /// The answer to a request that failed on its route. As in Envoy the route's operations apply to it, too.
    pub(super) fn failed_there(
        &self,
        cause: Cause,
        marks: Option<&Marks<'_>>,
        exchange: &mut Exchange,
    ) -> Result<Answered, Cause> {
        let Some(marks) = marks else { return Err(cause) };
        let mut answered = self.failed(cause, exchange);
        let status = answered.status();
        marks.mark(self, status, answered.headers_mut(), None);
        Ok(answered)
    }
}
