//! Answers that routes give by themselves.

use super::{Answered, Requests, facts::RequestFacts, forward};
use crate::proxy::{exchange::Exchange, http::ResponseBody, reply};
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header::LOCATION};
use policy::{
    headers::Side as Headers,
    kinds::{DirectResponse, Redirect},
    route::Routed,
};

impl Requests<'_> {
    pub(super) fn redirect(
        &self,
        routed: &Routed,
        redirect: &Redirect,
        head: &forward::Head,
    ) -> Response<ResponseBody> {
        let mut response = Response::new(ResponseBody::full(Bytes::new()));
        *response.status_mut() = StatusCode::from_u16(redirect.code).unwrap_or(StatusCode::MOVED_PERMANENTLY);
        let location =
            self.policy_request(&head.parts, &head.host).ok().map(|request| routed.location(redirect, &request));
        if let Some(location) = location.and_then(|location| HeaderValue::try_from(location).ok()) {
            response.headers_mut().insert(LOCATION, location);
        }
        response
    }

    /// An answer by the route itself; the route's response operations apply to it.
    pub(super) fn local(
        &self,
        routed: &Routed,
        request: &forward::Outgoing,
        mut response: Response<ResponseBody>,
        exchange: &mut Exchange,
    ) -> Answered {
        self.count_service(routed, exchange);
        exchange.details("direct_response");
        if !routed.route.response_headers.is_empty() {
            let given = response.headers().clone();
            let facts = self.facts(routed, &request.head.parts, &request.head.host);
            let facts = RequestFacts { response: Some((response.status(), &given)), ..facts };
            routed.route.response_headers.apply(Headers::Response, response.headers_mut(), &facts);
        }
        Answered::Here(Box::new(response))
    }
}

pub(super) fn respond(direct: &DirectResponse) -> Response<ResponseBody> {
    let status = StatusCode::from_u16(direct.status).unwrap_or(StatusCode::OK);
    let body = Bytes::copy_from_slice(&direct.body);
    let mut response = reply::text(status, body);
    if !direct.text {
        response.headers_mut().remove(http::header::CONTENT_TYPE);
    }
    response
}
