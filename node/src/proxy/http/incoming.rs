//! The body of a request as it comes, by either version of HTTP, or of one that this proxy makes itself.

use crate::http1::{BoxError, server};
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use std::{
    pin::Pin,
    task::{Context, Poll},
};

/// See the module.
#[derive(Debug)]
pub(in crate::proxy) enum Incoming {
    Http1(server::Body),
    Http2(hyper::body::Incoming),
    /// At hand; `None` once it was taken, and where there is none.
    Own(Option<Bytes>),
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut *self {
            Self::Http1(body) => Pin::new(body).poll_frame(context),
            Self::Http2(body) => Pin::new(body).poll_frame(context).map_err(Into::into),
            Self::Own(body) => Poll::Ready(body.take().map(|data| Ok(Frame::data(data)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
            Self::Own(body) => body.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
            Self::Own(body) => SizeHint::with_exact(body.as_ref().map_or(0, |data| data.len() as u64)),
        }
    }
}
