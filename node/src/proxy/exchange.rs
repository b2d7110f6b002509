//! One request from its head to the end of its response: what is counted when it is over, however it ends.

use super::{
    failure::{Cause, Failure, TransportReason},
    http::{Completion, Messages},
    reply::GRPC_STATUS,
};
use crate::{
    clock,
    telemetry::{Flags, Measures, Observed, Protocol, Recorder, Shape, Summary},
};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use policy::compile::MetricRule;
use std::{borrow::Cow, collections::BTreeMap, net::SocketAddr, sync::Arc, time::Instant};

/// Counts one request when it is dropped. Until [`Exchange::ended`] says otherwise, the caller went away.
#[derive(Debug)]
pub(super) struct Exchange {
    started: Instant,
    recorder: Option<Arc<Recorder>>,
    summary: Summary,
    ended: bool,
    /// Of the request, from when it is being sent until it has come to its end: what is kept of it for retries is not held longer.
    body: Option<Completion>,
    /// Bytes of the request's body, and gRPC messages in it.
    received: (u64, u64),
    /// Bytes of the response's body.
    sent: u64,
    messages: Messages,
    /// More is told of it than counts.
    observed: Option<Box<Observed>>,
    /// How its metrics differ from Istio's.
    counted: Option<Arc<MetricRule>>,
}

impl Exchange {
    /// A request came.
    pub(super) fn new(started: Instant, grpc: bool) -> Self {
        let protocol = if grpc { Protocol::Grpc } else { Protocol::Http };
        let summary = Summary { protocol, code: 0, grpc_status: None, flags: Flags::NONE };
        let (recorder, ended, body, received, sent, messages, observed, counted) = Default::default();
        Self { started, recorder, summary, ended, body, received, sent, messages, observed, counted }
    }

    /// True for gRPC requests.
    pub(super) fn is_grpc(&self) -> bool {
        self.summary.protocol == Protocol::Grpc
    }

    /// Between whom it is. Without this call it is not counted.
    pub(super) fn between(&mut self, recorder: Arc<Recorder>) {
        self.recorder = Some(recorder);
    }

    /// What more is told of it than counts, and how its metrics differ from Istio's.
    pub(super) fn observe(&mut self, (observed, counted): (Option<Box<Observed>>, Option<Arc<MetricRule>>)) {
        (self.observed, self.counted) = (observed, counted);
    }

    /// It is sent to the application, or to an endpoint.
    pub(super) fn reaches(&mut self, upstream: SocketAddr) {
        if let Some(observed) = &mut self.observed {
            observed.entry.upstream = Some(upstream);
        }
    }

    /// Its route's name.
    pub(super) fn takes(&mut self, route: &str) {
        if let Some(observed) = &mut self.observed {
            route.clone_into(&mut observed.entry.route);
        }
    }

    /// Its body, of which nothing was read yet.
    pub(super) fn uploads(&mut self, body: Completion) {
        if self.is_grpc() {
            body.count_messages();
        }
        self.body = Some(body);
    }

    /// Its body; as one that has come to its end where nothing is sent of it any more.
    pub(super) fn upload(&self) -> Completion {
        self.body.clone().unwrap_or_default()
    }

    /// Notes how long the request's body was, once it has come to its end.
    fn settle(&mut self) {
        if let Some(body) = self.body.take_if(|body| body.is_complete()) {
            self.received = body.received();
        }
    }

    /// Envoy's name of where it goes.
    pub(super) fn goes_to(&mut self, cluster: &str) {
        if let Some(observed) = &mut self.observed {
            observed.entry.cluster = Some(cluster.to_owned());
        }
    }

    /// Why the proxy answered by itself, in Envoy's words.
    pub(super) fn details(&mut self, details: impl Into<Cow<'static, str>>) {
        if let Some(observed) = &mut self.observed {
            observed.entry.details = Some(details.into());
        }
    }

    /// The labels of the endpoint that it is sent to.
    pub(super) fn reaches_labelled(&mut self, labels: &Arc<BTreeMap<String, String>>) {
        if let Some(observed) = &mut self.observed {
            observed.entry.upstream_labels = Some(Arc::clone(labels));
        }
    }

    /// What the transport said where the last attempt failed; nothing if it did not.
    pub(super) fn transport(&mut self, reason: Option<TransportReason>) {
        if let Some(observed) = &mut self.observed {
            observed.entry.transport_said(reason);
        }
    }

    /// Takes what the transport said of a failure, and gives its cause.
    pub(super) fn failed_below(&mut self, failure: Failure) -> Cause {
        self.transport(failure.transport);
        failure.cause
    }

    /// Part of the response's body goes out.
    pub(super) fn sent(&mut self, data: Option<&Bytes>) {
        let Some(data) = data else { return };
        self.settle();
        self.sent += data.len() as u64;
        if self.is_grpc() {
            self.messages.pass(data);
        }
    }

    /// So many bytes went from the caller and to it after the protocol changed.
    pub(super) fn tunnelled(&mut self, received: u64, sent: u64) {
        self.settle();
        self.received.0 += received;
        self.sent += sent;
    }

    /// What is over when something else is than the response: a copy that counts nothing stays in its place.
    pub(super) fn take(&mut self) -> Self {
        let mut uncounted = Self::new(self.started, false);
        uncounted.ended();
        std::mem::replace(self, uncounted)
    }

    /// The proxy had to do with the result.
    pub(super) fn flag(&mut self, flags: Flags) {
        self.summary.flags = self.summary.flags.with(flags);
    }

    /// The response's head.
    pub(super) fn answered(&mut self, status: StatusCode, headers: &HeaderMap) {
        self.settle();
        self.summary.code = status.as_u16();
        if let Some(observed) = &mut self.observed {
            observed.entry.response = headers.clone();
            observed.entry.answered_after = Some(clock::monotonic().duration_since(self.started));
        }
        self.trailers(headers);
    }

    /// Headers or trailers that may bear a gRPC status.
    pub(super) fn trailers(&mut self, headers: &HeaderMap) {
        if self.is_grpc()
            && let Some(status) = headers.get(GRPC_STATUS)
        {
            self.summary.grpc_status = status.to_str().ok().and_then(|status| status.parse().ok());
        }
    }

    /// What could not be read as a request was refused for this cause; that was all.
    pub(super) fn refused(mut self, cause: Cause) {
        let answer = cause.answer();
        self.flag(answer.flags);
        self.details(cause.details());
        self.answered(answer.status, &HeaderMap::new());
        self.ended();
    }

    /// All of the response went out.
    pub(super) fn ended(&mut self) {
        self.ended = true;
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if !self.ended {
            self.summary.flags = self.summary.flags.with(Flags::DC);
        }
        let (received, asked) = self.body.as_ref().map_or(self.received, Completion::received);
        let measures = Measures {
            duration: clock::monotonic().duration_since(self.started),
            received,
            sent: self.sent,
            messages: (asked, self.messages.count()),
        };
        if let Some(observed) = &mut self.observed {
            (observed.entry.received, observed.entry.sent) = (received, self.sent);
        }
        if let Some(recorder) = &self.recorder {
            let entry = self.observed.as_ref().map(|observed| &observed.entry);
            let shape = self.counted.take().map(|rule| Shape::of(rule, entry, &self.summary, measures.duration));
            recorder.record(self.summary, &measures, shape);
        }
        if let Some(observed) = self.observed.take() {
            let pair = self.recorder.as_ref().map(|recorder| Arc::clone(recorder.pair()));
            observed.end(self.summary, measures.duration, pair);
        }
    }
}
