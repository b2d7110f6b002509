//! A virtual connection that carries HTTP, lent for one request and its response.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Frame, SizeHint};

use super::error::Error;

/// Why a request's body failed on our side.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a request to another node.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;

/// A virtual connection, ready for one request. Dropped unused, it goes back.
#[derive(Debug)]
pub struct Lease {}

/// A request that got no response.
#[derive(Debug)]
pub struct SendError {
    /// What happened.
    pub error: Error,
    /// The request, if it was never begun.
    pub request: Option<Box<Request<Body>>>,
}

impl Lease {
    /// Sends a request as it is (no header is added or taken) and waits for the response's head. The virtual connection
    /// goes back when the response's body has ended cleanly and the request's body was sent to its end; otherwise it is closed.
    /// For upgrades and CONNECT use `hyper::upgrade::on` with the response.
    ///
    /// # Errors
    /// No response came.
    #[expect(clippy::unused_async, reason = "signature first")]
    pub async fn send(self, _request: Request<Body>) -> Result<Response<LeasedBody>, SendError> {
        todo!()
    }
}

/// The body of a response; gives the virtual connection back at its clean end.
#[derive(Debug)]
pub struct LeasedBody {}

impl http_body::Body for LeasedBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        todo!()
    }

    fn is_end_stream(&self) -> bool {
        todo!()
    }

    fn size_hint(&self) -> SizeHint {
        todo!()
    }
}
