//! Answers that routes give by themselves.

use super::{Answered, Requests, facts::RequestFacts, forward};
use crate::proxy::{exchange::Exchange, failure::grpc_status, http::ResponseBody, reply};
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header::LOCATION};
use policy::{
    headers::Side as Headers,
    kinds::{DirectResponse, Redirect},
    route::Routed,
};

/// The gRPC status of what none fits.
const UNKNOWN: u8 = 2;

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
        (mut response, text): (Response<ResponseBody>, &[u8]),
        exchange: &mut Exchange,
    ) -> Answered {
        self.count_service(routed, exchange);
        exchange.details("direct_response");
        if exchange.is_grpc() {
            response = for_grpc(response, text);
        }
        if !routed.route.response_headers.is_empty() {
            let given = response.headers().clone();
            let facts = self.facts(routed, &request.head.parts, &request.head.host);
            let facts = RequestFacts { response: Some((response.status(), &given)), ..facts };
            routed.route.response_headers.apply(Headers::Response, response.headers_mut(), &facts);
        }
        Answered::Here(Box::new(response))
    }
}

/// As a gRPC caller reads it: the status among the headers, and the text as its message.
fn for_grpc(response: Response<ResponseBody>, text: &[u8]) -> Response<ResponseBody> {
    let status = match response.status() {
        // Without a message no call has succeeded.
        StatusCode::OK => UNKNOWN,
        status => grpc_status(status),
    };
    let mut answer = reply::grpc_error(status, &String::from_utf8_lossy(text));
    answer.headers_mut().extend(response.headers().get(LOCATION).cloned().map(|location| (LOCATION, location)));
    answer
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
