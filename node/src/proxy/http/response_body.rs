//! A response's body on its way to the caller: streamed, with what must happen at its end.

use super::head::strip_trailers;
use crate::{
    mesh::lease::LeasedBody,
    proxy::{deadline::Deadline, exchange::Exchange, flight::Flight, inbound::AppBody},
    telemetry::Flags,
};
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

/// Any error of a body's source.
pub(in crate::proxy) type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// Where a relayed body comes from. Dropping it gives its connection back, or ends it.
pub(in crate::proxy) enum Source {
    /// Another node.
    Mesh(LeasedBody),
    /// An application beside this node.
    App(AppBody),
    /// This node's own inbound side.
    Here(Box<ResponseBody>),
}

impl Source {
    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self {
            Self::Mesh(body) => Pin::new(body).poll_frame(context).map_err(Into::into),
            Self::App(body) => Pin::new(body).poll_frame(context).map_err(Into::into),
            Self::Here(body) => Pin::new(&mut **body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Mesh(body) => body.is_end_stream(),
            Self::App(body) => body.is_end_stream(),
            Self::Here(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Mesh(body) => body.size_hint(),
            Self::App(body) => body.size_hint(),
            Self::Here(body) => body.size_hint(),
        }
    }
}

/// What the caller's connection writes.
pub(in crate::proxy) enum ResponseBody {
    /// At hand.
    Full(Option<Bytes>, Option<Exchange>),
    /// From an endpoint.
    Relay(Relay),
}

/// A body from an endpoint.
pub(in crate::proxy) struct Relay {
    source: Source,
    exchange: Exchange,
    /// When the route's timeout comes.
    deadline: Option<Deadline>,
    /// The request counts as under way at its endpoint until here.
    _flight: Option<Flight>,
}

impl fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(..) => "Full",
            Self::Relay(_) => "Relay",
        })
    }
}

impl ResponseBody {
    /// At hand, perhaps empty.
    pub(in crate::proxy) fn full(bytes: Bytes) -> Self {
        Self::Full((!bytes.is_empty()).then_some(bytes), None)
    }

    /// From an endpoint; `exchange` is over when the body is.
    pub(in crate::proxy) fn relay(
        source: Source,
        mut exchange: Exchange,
        deadline: Option<Deadline>,
        flight: Option<Flight>,
    ) -> Self {
        if source.is_end_stream() {
            exchange.ended();
        }
        Self::Relay(Relay { source, exchange, deadline, _flight: flight })
    }

    /// Ties the end of the request to the end of a body that is at hand.
    pub(in crate::proxy) fn with(self, mut exchange: Exchange) -> Self {
        match self {
            Self::Full(bytes, _) => {
                if bytes.is_none() {
                    exchange.ended();
                }
                Self::Full(bytes, Some(exchange))
            }
            Self::Relay(relay) => Self::Relay(relay),
        }
    }
}

impl Relay {
    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Poll::Ready(frame) = self.source.poll_frame(context) else {
            if let Some(deadline) = &mut self.deadline
                && Pin::new(deadline).poll(context).is_ready()
            {
                self.exchange.flag(Flags::UT);
                self.exchange.ended();
                return Poll::Ready(Some(Err("route timeout within the response".into())));
            }
            return Poll::Pending;
        };
        Poll::Ready(match frame {
            Some(Ok(frame)) => Some(Ok(self.passed(frame))),
            Some(Err(error)) => {
                self.exchange.flag(Flags::UC);
                self.exchange.ended();
                Some(Err(error))
            }
            None => {
                self.exchange.ended();
                None
            }
        })
    }

    fn passed(&mut self, frame: Frame<Bytes>) -> Frame<Bytes> {
        let frame = match frame.into_trailers() {
            Ok(mut trailers) => {
                strip_trailers(&mut trailers);
                self.exchange.trailers(&trailers);
                Frame::trailers(trailers)
            }
            Err(frame) => {
                self.exchange.sent(frame.data_ref().map_or(0, Bytes::len));
                frame
            }
        };
        if self.source.is_end_stream() {
            self.exchange.ended();
        }
        frame
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut *self {
            Self::Full(bytes, exchange) => {
                if let Some(exchange) = exchange {
                    exchange.sent(bytes.as_ref().map_or(0, Bytes::len));
                    exchange.ended();
                }
                Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes))))
            }
            Self::Relay(relay) => relay.poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(bytes, _) => bytes.is_none(),
            Self::Relay(relay) => relay.source.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes, _) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Relay(relay) => relay.source.size_hint(),
        }
    }
}
