//! One connection of bytes from its acceptance to its end, as one side reports it: counted while it goes on, logged when it is over.

use super::End;
use crate::{
    clock,
    proxy::failure::{Cause, TransportReason},
    telemetry::{Connected, Flags, Observed, Protocol, Recorder, Shape, Summary},
};
use policy::compile::MetricRule;
use std::{borrow::Cow, collections::BTreeMap, net::SocketAddr, sync::Arc, time::Instant};

/// Counts one connection when it is dropped; its bytes at once.
#[derive(Debug)]
pub(in crate::proxy) struct Account {
    started: Instant,
    recorder: Option<Arc<Recorder>>,
    /// Once it leads to an application.
    open: Option<Connected>,
    flags: Flags,
    received: u64,
    sent: u64,
    /// More is told of it than counts.
    observed: Option<Box<Observed>>,
    /// How its metrics differ from Istio's.
    counted: Option<Arc<MetricRule>>,
}

impl Account {
    /// A connection came.
    pub(in crate::proxy) fn new((observed, counted): (Option<Box<Observed>>, Option<Arc<MetricRule>>)) -> Self {
        Self {
            started: clock::monotonic(),
            recorder: None,
            open: None,
            flags: Flags::NONE,
            received: 0,
            sent: 0,
            observed,
            counted,
        }
    }

    /// Between whom it is. Without this call it is not counted.
    pub(in crate::proxy) fn between(&mut self, recorder: Arc<Recorder>) {
        self.recorder = Some(recorder);
    }

    /// Its route's name and Envoy's name of where it goes.
    pub(in crate::proxy) fn takes(&mut self, route: &str, cluster: &str) {
        if let Some(observed) = &mut self.observed {
            route.clone_into(&mut observed.entry.route);
            observed.entry.cluster = Some(cluster.to_owned());
        }
    }

    /// It is tried to lead it there.
    pub(in crate::proxy) fn reaches(&mut self, upstream: SocketAddr) {
        if let Some(observed) = &mut self.observed {
            observed.entry.upstream = Some(upstream);
        }
    }

    /// It leads to an application.
    pub(in crate::proxy) fn opened(&mut self) {
        let shape = self.shape();
        let open = self.recorder.as_ref().map(|recorder| recorder.connection(Flags::NONE, shape.as_ref()));
        if let Some(open) = &open {
            open.opened();
        }
        self.open = open;
    }

    /// It leads nowhere; `details` say more than the cause.
    pub(in crate::proxy) fn failed(&mut self, cause: Cause, details: Option<String>) {
        self.flags = self.flags.with(cause.answer().flags);
        self.details(details.map_or(Cow::Borrowed(cause.details()), Cow::Owned));
    }

    /// The labels of the endpoint that it is sent to.
    pub(in crate::proxy) fn reaches_labelled(&mut self, labels: &Arc<BTreeMap<String, String>>) {
        if let Some(observed) = &mut self.observed {
            observed.entry.upstream_labels = Some(Arc::clone(labels));
        }
    }

    /// What the transport said where the last attempt failed; nothing if it did not.
    pub(in crate::proxy) fn transport(&mut self, reason: Option<TransportReason>) {
        if let Some(observed) = &mut self.observed {
            observed.entry.transport_said(reason);
        }
    }

    /// It is over.
    pub(in crate::proxy) fn ended(&mut self, end: &End) {
        self.flags = self.flags.with(end.flags());
        if let Some(details) = end.details() {
            self.details(Cow::Borrowed(details));
        }
    }

    /// Bytes came from the caller.
    pub(super) fn received(&mut self, bytes: u64) {
        self.received += bytes;
        if let Some(open) = &self.open {
            open.received(bytes);
        }
    }

    /// Bytes went to the caller.
    pub(super) fn sent(&mut self, bytes: u64) {
        self.sent += bytes;
        if let Some(open) = &self.open {
            open.sent(bytes);
        }
    }

    fn shape(&self) -> Option<Shape> {
        let entry = self.observed.as_ref().map(|observed| &observed.entry);
        let duration = clock::monotonic().duration_since(self.started);
        Some(Shape::of(Arc::clone(self.counted.as_ref()?), entry, &self.summary(), duration))
    }

    fn summary(&self) -> Summary {
        Summary { protocol: Protocol::Tcp, code: 0, grpc_status: None, flags: self.flags }
    }

    fn details(&mut self, details: Cow<'static, str>) {
        if let Some(observed) = &mut self.observed {
            observed.entry.details = Some(details);
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        if let Some(recorder) = &self.recorder {
            let end = recorder.connection(self.flags, self.shape().as_ref());
            if self.open.is_some() {
                end.closed();
            } else {
                end.led_nowhere();
            }
        }
        if let Some(mut observed) = self.observed.take() {
            (observed.entry.received, observed.entry.sent) = (self.received, self.sent);
            let duration = clock::monotonic().duration_since(self.started);
            let pair = self.recorder.as_ref().map(|recorder| Arc::clone(recorder.pair()));
            observed.end(self.summary(), duration, pair);
        }
    }
}
