//! A response's body on its way to the caller: streamed, with what must happen at its end.

use super::{Windowed, frame_guard::poll_idle, head::strip_trailers};
use crate::{
    mesh::lease::LeasedBody,
    proxy::{
        deadline::Deadline,
        exchange::Exchange,
        failure::Cause,
        flight::Flight,
        inbound::{AppBody, Watch},
        reply,
    },
    telemetry::Flags,
};
use bytes::Bytes;
use http::{Response, StatusCode};
use hyper::body::{Body, Frame, SizeHint};
use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::time::{Sleep, sleep};

/// Why a response ends that policy denies now.
const DENIED: &str = "policy denies the request now";

/// Any error of a body's source.
pub(in crate::proxy) use crate::http1::BoxError;

/// Where a relayed body comes from. Dropping it gives its connection back, or ends it. Boxed, because it is handed from one to the next on
/// its way to the caller.
pub(in crate::proxy) enum Source {
    /// Another node.
    Mesh(Box<Windowed<LeasedBody>>),
    /// An application beside this node.
    App(Box<AppBody>),
    /// This node's own inbound side.
    Here(Box<ResponseBody>),
}

impl Source {
    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self {
            Self::Mesh(body) => Pin::new(&mut **body).poll_frame(context),
            Self::App(body) => Pin::new(&mut **body).poll_frame(context),
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

    /// True if no byte is missing. By HTTP/2 the end may still be to come, for which whoever writes HTTP/1.1 does not wait.
    fn is_complete(&self) -> bool {
        self.is_end_stream() || self.size_hint().exact() == Some(0)
    }
}

/// What the caller's connection writes.
pub(in crate::proxy) enum ResponseBody {
    /// At hand.
    Full(Option<Bytes>, Option<Exchange>),
    /// From an endpoint.
    Relay(Relay),
}

/// What a body from an endpoint is tied to.
pub(in crate::proxy) struct Ties {
    /// Over when the body is.
    pub(in crate::proxy) exchange: Exchange,
    /// When the route's timeout comes.
    pub(in crate::proxy) deadline: Option<Deadline>,
    /// The request counts as under way at its endpoint until the body ends.
    #[expect(dead_code, reason = "it is held")]
    pub(in crate::proxy) flight: Option<Flight>,
    /// Ends the body when policy denies the request.
    pub(in crate::proxy) watch: Option<Watch>,
    /// Shortest silence after which the body ends (it may last twice as long).
    pub(in crate::proxy) idle: Duration,
}

/// A body from an endpoint.
pub(in crate::proxy) struct Relay {
    /// `None` once it was cut short.
    source: Option<Source>,
    ties: Ties,
    /// The silence that lasts, once there was any.
    silence: Option<Pin<Box<Sleep>>>,
    active: bool,
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

    /// From an endpoint.
    pub(in crate::proxy) fn relay(source: Source, mut ties: Ties) -> Self {
        if source.is_complete() {
            ties.exchange.ended();
            ties.deadline = None;
        }
        Self::Relay(Relay { source: Some(source), ties, silence: None, active: true })
    }

    /// Takes what would be over with the body of a response that changes the protocol: the caller's part, and on the same node the
    /// server's.
    pub(in crate::proxy) fn take_exchanges(&mut self) -> [Option<Exchange>; 2] {
        match self {
            Self::Full(_, exchange) => [exchange.take(), None],
            Self::Relay(relay) => {
                let own = relay.ties.exchange.take();
                let inner = match &mut relay.source {
                    Some(Source::Here(body)) => body.take_exchanges(),
                    Some(Source::Mesh(_) | Source::App(_)) | None => [None, None],
                };
                [Some(own), inner.into_iter().flatten().next()]
            }
        }
    }

    /// Why it must end, once it must: for whoever writes it and does not ask for more, because the caller does not read.
    pub(in crate::proxy) fn poll_over(&mut self, context: &mut Context<'_>) -> Poll<BoxError> {
        match self {
            Self::Full(..) => Poll::Pending,
            Self::Relay(relay) => relay.poll_over(context),
        }
    }

    /// Ties the end of the request to that of an answer which is at hand, without its body where none may go out.
    pub(in crate::proxy) fn tied(response: Response<Self>, is_head: bool, exchange: Exchange) -> Response<Self> {
        let without = is_head || matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        response.map(|body| if without { Self::full(Bytes::new()) } else { body }.with(exchange))
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
        let Some(source) = &mut self.source else { return Poll::Ready(None) };
        if let Some(deadline) = &mut self.ties.deadline
            && Pin::new(deadline).poll(context).is_ready()
        {
            return Poll::Ready(Some(Err(self.late())));
        }
        let polled = source.poll_frame(context);
        if let Some(watch) = &mut self.ties.watch
            && watch.is_over(polled.is_pending(), context)
        {
            return Poll::Ready(Some(self.denied()));
        }
        let Poll::Ready(frame) = polled else { return self.poll_silence(context) };
        self.active = true;
        let exchange = &mut self.ties.exchange;
        Poll::Ready(match frame {
            Some(Ok(frame)) => Some(Ok(self.passed(frame))),
            Some(Err(error)) => {
                // Nobody answers any more, so what the caller still sends is of no use.
                exchange.upload().cut();
                exchange.flag(Flags::UC);
                exchange.ended();
                Some(Err(error))
            }
            None => {
                exchange.ended();
                None
            }
        })
    }

    /// The longest silence.
    fn poll_silence(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let idle = self.ties.idle;
        let silence = self.silence.get_or_insert_with(|| Box::pin(sleep(idle)));
        if poll_idle(silence, &mut self.active, idle, context).is_ready() {
            return Poll::Ready(Some(Err(self.cut(Flags::SI, "silence within the response"))));
        }
        Poll::Pending
    }

    /// See [`ResponseBody::poll_over`].
    fn poll_over(&mut self, context: &mut Context<'_>) -> Poll<BoxError> {
        if let Some(deadline) = &mut self.ties.deadline
            && Pin::new(deadline).poll(context).is_ready()
        {
            return Poll::Ready(self.late());
        }
        if let Some(watch) = &mut self.ties.watch
            && watch.is_over(true, context)
        {
            return Poll::Ready(self.cut(Flags::NONE, DENIED));
        }
        match &mut self.source {
            Some(Source::Here(body)) => {
                let why = ready!(body.poll_over(context));
                self.ties.exchange.upload().cut();
                self.ties.exchange.flag(Flags::UC);
                self.ties.exchange.ended();
                Poll::Ready(why)
            }
            Some(Source::Mesh(_) | Source::App(_)) | None => Poll::Pending,
        }
    }

    fn late(&mut self) -> BoxError {
        self.cut(Flags::UT, "route timeout within the response")
    }

    /// Ends both directions: what the caller still sends reaches nobody.
    fn cut(&mut self, flags: Flags, why: &'static str) -> BoxError {
        self.source = None;
        self.ties.exchange.upload().cut();
        self.ties.exchange.flag(flags);
        self.ties.exchange.ended();
        why.into()
    }

    /// Policy denies the request now: gRPC is told in trailers, where the way there has any, the length is open and the caller has
    /// sent all; others see the exchange break off.
    fn denied(&mut self) -> Result<Frame<Bytes>, BoxError> {
        let trailers = self.ties.watch.as_ref().is_some_and(Watch::may_end_in_order);
        let open = self.source.as_ref().is_some_and(|source| source.size_hint().exact().is_none());
        if !(trailers && open && self.ties.exchange.is_grpc()) {
            return Err(self.cut(Flags::NONE, DENIED));
        }
        let trailers = reply::grpc_trailers(Cause::Denied.grpc_status(), Cause::Denied.answer().body);
        self.source = None;
        self.ties.exchange.trailers(&trailers);
        self.ties.exchange.ended();
        Ok(Frame::trailers(trailers))
    }

    fn passed(&mut self, frame: Frame<Bytes>) -> Frame<Bytes> {
        let exchange = &mut self.ties.exchange;
        let frame = match frame.into_trailers() {
            Ok(mut trailers) => {
                strip_trailers(&mut trailers);
                exchange.trailers(&trailers);
                Frame::trailers(trailers)
            }
            Err(frame) => {
                exchange.sent(frame.data_ref());
                frame
            }
        };
        if self.source.as_ref().is_none_or(Source::is_complete) {
            exchange.ended();
            // All has come in time. How long the caller takes to read the rest is its own affair.
            self.ties.deadline = None;
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
                    exchange.sent(bytes.as_ref());
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
            Self::Relay(relay) => relay.source.as_ref().is_none_or(Source::is_end_stream),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes, _) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Relay(relay) => relay.source.as_ref().map_or_else(|| SizeHint::with_exact(0), Source::size_hint),
        }
    }
}
