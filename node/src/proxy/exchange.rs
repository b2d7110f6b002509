//! One request from its head to the end of its response: what is counted when it is over, however it ends.

use crate::telemetry::{Flags, Protocol, Recorder, Summary};
use http::{HeaderMap, StatusCode};
use std::{sync::Arc, time::Instant};

/// Counts one request when it is dropped. Until [`Exchange::ended`] says otherwise, the caller went away.
#[derive(Debug)]
pub(super) struct Exchange {
    started: Instant,
    recorder: Option<Arc<Recorder>>,
    summary: Summary,
    ended: bool,
}

impl Exchange {
    /// A request came.
    pub(super) fn new(started: Instant, grpc: bool) -> Self {
        let protocol = if grpc { Protocol::Grpc } else { Protocol::Http };
        let summary = Summary { protocol, code: 0, grpc_status: None, flags: Flags::NONE };
        Self { started, recorder: None, summary, ended: false }
    }

    /// True for gRPC requests.
    pub(super) fn is_grpc(&self) -> bool {
        self.summary.protocol == Protocol::Grpc
    }

    /// Between whom it is. Without this call it is not counted.
    pub(super) fn between(&mut self, recorder: Arc<Recorder>) {
        self.recorder = Some(recorder);
    }

    /// The proxy had to do with the result.
    pub(super) fn flag(&mut self, flags: Flags) {
        self.summary.flags = self.summary.flags.with(flags);
    }

    /// The response's head.
    pub(super) fn answered(&mut self, status: StatusCode, headers: &HeaderMap) {
        self.summary.code = status.as_u16();
        self.trailers(headers);
    }

    /// Headers or trailers that may bear a gRPC status.
    pub(super) fn trailers(&mut self, headers: &HeaderMap) {
        if self.is_grpc()
            && let Some(status) = headers.get("grpc-status")
        {
            self.summary.grpc_status = status.to_str().ok().and_then(|status| status.parse().ok());
        }
    }

    /// All of the response went out.
    pub(super) fn ended(&mut self) {
        self.ended = true;
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let Some(recorder) = &self.recorder else { return };
        if !self.ended {
            self.summary.flags = self.summary.flags.with(Flags::DC);
        }
        recorder.record(self.summary, crate::clock::monotonic().duration_since(self.started));
    }
}
