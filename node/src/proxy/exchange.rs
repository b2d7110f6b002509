//! One request from its head to the end of its response: what is counted when it is over, however it ends.

use super::{
    failure::Cause,
    http::{Completion, Messages},
};
use crate::{
    clock,
    telemetry::{AccessLog, Entry, Flags, Measures, Protocol, Recorder, Summary},
};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use policy::{compile::LogRule, kinds::MeshConfig};
use std::{borrow::Cow, net::SocketAddr, sync::Arc, time::Instant};

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
    logged: Option<Box<Logged>>,
}

/// A request that gets a line in the access log.
#[derive(Debug)]
pub(super) struct Logged {
    pub(super) log: AccessLog,
    /// Says where, and for which requests.
    pub(super) rule: Arc<LogRule>,
    /// Says how.
    pub(super) config: Arc<MeshConfig>,
    pub(super) entry: Entry,
}

impl Exchange {
    /// A request came.
    pub(super) fn new(started: Instant, grpc: bool) -> Self {
        let protocol = if grpc { Protocol::Grpc } else { Protocol::Http };
        let summary = Summary { protocol, code: 0, grpc_status: None, flags: Flags::NONE };
        let (recorder, ended, body, received, sent, messages, logged) = Default::default();
        Self { started, recorder, summary, ended, body, received, sent, messages, logged }
    }

    /// True for gRPC requests.
    pub(super) fn is_grpc(&self) -> bool {
        self.summary.protocol == Protocol::Grpc
    }

    /// Between whom it is. Without this call it is not counted.
    pub(super) fn between(&mut self, recorder: Arc<Recorder>) {
        self.recorder = Some(recorder);
    }

    /// It gets a line in the access log.
    pub(super) fn log(&mut self, logged: Logged) {
        self.logged = Some(Box::new(logged));
    }

    /// It is sent to the application, or to an endpoint.
    pub(super) fn reaches(&mut self, upstream: SocketAddr) {
        if let Some(logged) = &mut self.logged {
            logged.entry.upstream = Some(upstream);
        }
    }

    /// Its route's name.
    pub(super) fn takes(&mut self, route: &str) {
        if let Some(logged) = &mut self.logged {
            route.clone_into(&mut logged.entry.route);
        }
    }

    /// Its body, of which nothing was read yet.
    pub(super) fn uploads(&mut self, body: Completion) {
        if self.is_grpc() {
            body.count_messages();
        }
        self.body = Some(body);
    }

    /// Notes how long the request's body was, once it has come to its end.
    fn settle(&mut self) {
        if let Some(body) = self.body.take_if(|body| body.is_complete()) {
            self.received = body.received();
        }
    }

    /// Envoy's name of where it goes.
    pub(super) fn goes_to(&mut self, cluster: &str) {
        if let Some(logged) = &mut self.logged {
            logged.entry.cluster = Some(cluster.to_owned());
        }
    }

    /// Why the proxy answered by itself, in Envoy's words.
    pub(super) fn details(&mut self, details: impl Into<Cow<'static, str>>) {
        if let Some(logged) = &mut self.logged {
            logged.entry.details = Some(details.into());
        }
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

    /// The proxy had to do with the result.
    pub(super) fn flag(&mut self, flags: Flags) {
        self.summary.flags = self.summary.flags.with(flags);
    }

    /// The response's head.
    pub(super) fn answered(&mut self, status: StatusCode, headers: &HeaderMap) {
        self.settle();
        self.summary.code = status.as_u16();
        if let Some(logged) = &mut self.logged {
            logged.entry.response = headers.clone();
            logged.entry.answered_after = Some(clock::monotonic().duration_since(self.started));
        }
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
        if let Some(recorder) = &self.recorder {
            recorder.record(self.summary, &measures);
        }
        if let Some(logged) = &mut self.logged {
            let Logged { log, rule, config, entry } = &mut **logged;
            (entry.received, entry.sent) = (received, self.sent);
            if entry.is_wanted(rule.filter.as_ref(), &self.summary, measures.duration) {
                log.write(rule.file, entry.line(&config.access_log, &self.summary, measures.duration));
            }
        }
    }
}
