//! The body of a request as it comes, by either version of HTTP, or of one that this proxy makes itself.

use super::{
    RequestBody,
    windowed::{Full, Windowed},
};
use crate::{
    http1::{BoxError, server},
    proxy::failure::Cause,
};
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

/// See the module.
#[derive(Debug)]
pub(in crate::proxy) enum Incoming {
    Http1(server::Body),
    Http2(Windowed<hyper::body::Incoming>),
    /// At hand; `None` once it was taken, and where there is none.
    Own(Option<Bytes>),
    /// Of whose beginning somebody was told.
    Begun(Box<RequestBody>),
}

impl Incoming {
    /// What is left to send of a body after somebody was told of its beginning. Whoever sends it is patient or is not.
    pub(in crate::proxy) fn begun(body: RequestBody) -> Self {
        body.completion().answered(Duration::MAX);
        Self::Begun(Box::new(body))
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut *self {
            Self::Http1(body) => Pin::new(body).poll_frame(context),
            Self::Http2(body) => Pin::new(body).poll_frame(context),
            Self::Begun(body) => Pin::new(body).poll_frame(context).map_err(Into::into),
            Self::Own(body) => Poll::Ready(body.take().map(|data| Ok(Frame::data(data)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
            Self::Begun(body) => body.is_end_stream(),
            Self::Own(body) => body.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
            Self::Begun(body) => body.size_hint(),
            Self::Own(body) => SizeHint::with_exact(body.as_ref().map_or(0, |data| data.len() as u64)),
        }
    }
}

/// What it means that a body failed with this error.
pub(super) fn broken(error: &BoxError) -> Cause {
    if error.is::<Full>() { Cause::Overflow } else { Cause::BadRequest("request body broken off") }
}
