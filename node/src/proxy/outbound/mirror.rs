//! Copies of requests to mirrors: each goes its own way, nobody waits for its answer, and what does not fit is left out.

use super::{
    Requests,
    affinity::Affinity,
    attempt::{Try, Way},
    by_name::Brought,
    forward::{Head, carries},
};
use crate::{
    balance::{Ask, Tried},
    clock,
    proxy::{
        cluster::Cluster,
        context::Context,
        exchange::Exchange,
        failure::Cause,
        http::{BodyCopy, ResponseBody, Ties, Upload, is_grpc},
    },
    snapshot::{Snapshot, Wanted},
    telemetry::{Counter, Telemetry},
};
use http::HeaderValue;
use http_body_util::BodyExt;
use policy::{hosts::split_authority, route::Routed};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::sync::Semaphore;

/// Bytes of a body that are copied at most; a request with a longer one is not.
const BODY_LIMIT: usize = 256 * 1024;
/// Bytes of an answer that are read, so that its connection can be used again; then it is cut.
const ANSWER_LIMIT: usize = 1024 * 1024;
/// For a copy and its answer, where the route has no timeout.
const TIMEOUT: Duration = Duration::from_secs(15);

/// The node's places for copies, and how often there was none. Cheap to clone.
#[derive(Debug, Clone)]
pub(in crate::proxy) struct Mirrors {
    places: Arc<Semaphore>,
    /// Skipped, because too many were under way.
    full: Counter,
    /// Skipped, because the request's body was too long, came to no end, or the node kept too much.
    body: Counter,
}

impl Mirrors {
    /// Copies that one node has under way at most; further requests are not copied. What is still being uploaded has no place yet.
    pub(in crate::proxy) const COPIES: usize = 256;

    pub(in crate::proxy) fn new(telemetry: &Telemetry) -> Self {
        let skipped = |reason| {
            let help = "Requests that a route mirrors and that were not copied";
            telemetry.counter("skein_mirrored_requests_skipped_total", help, &[("reason", reason)])
        };
        Self { places: Arc::new(Semaphore::new(Self::COPIES)), full: skipped("full"), body: skipped("body") }
    }

    /// Copies under way.
    pub(in crate::proxy) fn under_way(&self) -> usize {
        Self::COPIES - self.places.available_permits()
    }
}

/// Begins the copies of a request, each with the route's own probability. A mirror that does not exist gets none.
pub(super) fn copy(requests: &Requests<'_>, snapshot: &Arc<Snapshot>, routed: &Routed, head: &Head, upload: &Upload) {
    let context = requests.context;
    for mirror in &routed.route.mirrors {
        if !mirror.takes(context.random()) {
            continue;
        }
        let (speaker, route) = (&requests.speaker, &routed.route);
        let (to, carries) = (&mirror.destination, carries(head.parts.version));
        let names = [speaker.fixed_host(), head.host.to_str().ok().map(|host| split_authority(host).0)];
        let brought = Brought { port: routed.port, dialled: requests.dialled, names, account: requests.account() };
        let placed = context.place_now(snapshot, speaker, to, brought);
        let Ok((cluster, by)) = placed.and_then(|placed| {
            let at = (routed.port, placed.at);
            Ok((context.cluster(snapshot, speaker, route, to, at, carries)?, placed.by))
        }) else {
            tracing::debug!(host = mirror.destination.host, "no such mirror");
            continue;
        };
        let copy = Copy {
            context: Arc::clone(context),
            speaker: Arc::clone(speaker),
            snapshot: Arc::clone(snapshot),
            cluster,
            by,
            head: Head { parts: head.parts.clone(), host: shadow(&head.host) },
            remote: requests.remote,
            local: requests.dialled.unwrap_or(requests.local),
        };
        let (body, timeout) = (upload.copy(BODY_LIMIT), routed.route.timeout);
        context.tasks.detach("copy of a request", async move {
            let mirrors = &copy.context.mirrors;
            let Some(body) = body.complete().await else { return mirrors.body.add(1) };
            let Ok(_place) = Arc::clone(&mirrors.places).try_acquire_owned() else { return mirrors.full.add(1) };
            in_time(timeout, copy.send(body)).await;
        });
    }
}

/// Gives a copy the time of its route, or that of copies.
async fn in_time(of_route: Option<Duration>, sending: impl Future<Output = ()>) {
    if tokio::time::timeout(of_route.unwrap_or(TIMEOUT), sending).await.is_err() {
        tracing::debug!("a mirror did not answer in time");
    }
}

/// A copy and where it goes.
struct Copy {
    context: Arc<Context>,
    speaker: Arc<super::Speaker>,
    snapshot: Arc<Snapshot>,
    cluster: Arc<Cluster>,
    /// What was looked up to know where it goes.
    by: Option<Wanted>,
    head: Head,
    /// The application that sent the original.
    remote: SocketAddr,
    /// Where it sent that.
    local: SocketAddr,
}

impl Copy {
    async fn send(mut self, body: BodyCopy) {
        if let Err(cause) = self.try_send(body).await {
            tracing::debug!(?cause, "a copy failed");
        }
    }

    async fn try_send(&mut self, body: BodyCopy) -> Result<(), Cause> {
        let grpc = is_grpc(&self.head.parts.headers);
        let way = Way {
            context: &self.context,
            speaker: &self.speaker,
            snapshot: &self.snapshot,
            cluster: &self.cluster,
            by: self.by.as_ref(),
            grpc,
            protocol: self.cluster.protocol(self.head.parts.version, None),
            timed: false,
            proxied: self.cluster.proxied(self.remote, self.local),
        };
        let (tried, random, began) = (Tried::default(), self.context.random(), clock::uptime_micros());
        let now = began / 1_000;
        // A cookie that would be made has no caller to keep it.
        let key = self.cluster.consistent_hash();
        let hash = key.and_then(|key| Affinity::of(key, (&self.head.parts, &self.head.host), self.remote, random).hash);
        let position = self.cluster.pick(&Ask { tried: &tried, leave: false, hash, random, now })?;
        let upload = Upload::again(body, &self.context.budget);
        let body = upload.attempt().ok_or(Cause::ConnectionTermination)?;
        way.prepare(&mut self.head, None, 1)?;
        let (sent, mut with_endpoint) = (upload.completion(), false);
        let (with_endpoint, told) = (&mut with_endpoint, &mut None);
        let one = Try { position, began, limit: None, sent: &sent, with_endpoint, told, transport: &mut None };
        let (response, flight) = way.attempt(one, &self.head.parts, body).await?;
        // Without `between` it is not counted.
        let exchange = Exchange::new(clock::monotonic(), grpc);
        let idle = self.context.limits().stream_idle;
        let ties = Ties { exchange, deadline: None, flight: Some(flight), watch: None, idle };
        let mut answer = ResponseBody::relay(response.into_body(), ties);
        let mut read = 0;
        while let Some(Ok(frame)) = answer.frame().await {
            read += frame.data_ref().map_or(0, bytes::Bytes::len);
            if read > ANSWER_LIMIT {
                break;
            }
        }
        Ok(())
    }
}

/// `-shadow` behind the host, before the port.
fn shadow(host: &HeaderValue) -> HeaderValue {
    let Ok(text) = host.to_str() else { return host.clone() };
    let name = split_authority(text).0;
    let port = text.get(name.len()..).unwrap_or_default();
    HeaderValue::try_from(format!("{name}-shadow{port}")).unwrap_or_else(|_| host.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_mirror_that_does_not_answer_is_given_up() {
        for (of_route, time) in [(None, TIMEOUT), (Some(Duration::from_secs(2)), Duration::from_secs(2))] {
            let within = |time| tokio::time::timeout(time, in_time(of_route, std::future::pending()));
            assert!(within(time - Duration::from_millis(10)).await.is_err());
            assert!(within(time + Duration::from_millis(10)).await.is_ok());
        }
    }

    #[test]
    fn shadows_keep_their_port() {
        let shadow = |host: &str| shadow(&HeaderValue::from_str(host).unwrap()).to_str().unwrap().to_owned();
        assert_eq!(shadow("httpbin:8000"), "httpbin-shadow:8000");
        assert_eq!(shadow("httpbin.default"), "httpbin.default-shadow");
    }
}
