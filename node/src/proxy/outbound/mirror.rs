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
        http::{BodyCopy, Copying, ResponseBody, Ties, Upload, is_grpc},
    },
    snapshot::{Snapshot, Wanted},
    telemetry::{Counter, Telemetry},
};
use http::HeaderValue;
use http_body_util::BodyExt;
use policy::{
    hosts::split_authority,
    route::{Route, Routed},
};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::sync::Semaphore;

/// Bytes of a body that are copied at most; a request with a longer one is not.
const BODY_LIMIT: usize = 256 * 1024;
/// Bytes of an answer that are read, so that its connection can be used again; then it is cut.
const ANSWER_LIMIT: usize = 1024 * 1024;
/// For the body of a request to pass by; one that takes longer is not copied.
const UPLOAD: Duration = Duration::from_secs(60);
/// For a copy and its answer, where the route has no timeout.
const TIMEOUT: Duration = Duration::from_secs(15);

/// The node's places for copies, and how often there was none. Cheap to clone.
#[derive(Debug, Clone)]
pub(in crate::proxy) struct Mirrors {
    places: Arc<Semaphore>,
    /// Skipped, because too many were under way.
    full: Counter,
    /// Skipped, because the request's body was too long, came to no end in time, or the node kept too much.
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
pub(super) fn copy(requests: &Requests<'_>, routed: &Routed, head: &Head, upload: &Upload) {
    let context = requests.context;
    for (number, mirror) in routed.route.mirrors.iter().enumerate() {
        if !mirror.takes(context.random()) {
            continue;
        }
        let name = |name: Option<&str>| name.map(Box::from);
        let waiting = Waiting {
            context: Arc::clone(context),
            speaker: Arc::clone(&requests.speaker),
            route: Arc::clone(&routed.route),
            number,
            port: routed.port,
            names: [
                name(requests.speaker.fixed_host()),
                name(head.host.to_str().ok().map(|host| split_authority(host).0)),
            ],
            account: name(requests.account()),
            head: Head { parts: head.parts.clone(), host: shadow(&head.host) },
            remote: requests.remote,
            local: requests.local,
            dialled: requests.dialled,
        };
        let body = upload.copy(BODY_LIMIT);
        context.tasks.detach("copy of a request", waiting.go(body));
    }
}

/// A copy whose body may still be on its way. A stream may last for days, so it holds nothing of the world that its request began in:
/// it goes by the one that there is when it goes.
struct Waiting {
    context: Arc<Context>,
    speaker: Arc<super::Speaker>,
    route: Arc<Route>,
    /// Which of the route's mirrors.
    number: usize,
    port: u16,
    /// See [`Brought`].
    names: [Option<Box<str>>; 2],
    account: Option<Box<str>>,
    head: Head,
    remote: SocketAddr,
    local: SocketAddr,
    dialled: Option<SocketAddr>,
}

impl Waiting {
    async fn go(self, body: Copying) {
        let context = Arc::clone(&self.context);
        let mirrors = &context.mirrors;
        let Some(body) = whole(body).await else { return mirrors.body.add(1) };
        let Ok(_place) = Arc::clone(&mirrors.places).try_acquire_owned() else { return mirrors.full.add(1) };
        let (timeout, copy) = (self.route.timeout, self.placed());
        if let Some(copy) = copy {
            in_time(timeout, copy.send(body)).await;
        }
    }

    /// Where it goes now; `None` if there is no such mirror.
    fn placed(self) -> Option<Copy> {
        let Self { context, speaker, route, number, port, names, account, head, remote, local, dialled } = self;
        let snapshot = context.current.load();
        let to = &route.mirrors.get(number)?.destination;
        let names = names.each_ref().map(Option::as_deref);
        let brought = Brought { port, dialled, names, account: account.as_deref() };
        let carries = carries(head.parts.version);
        let placed = context.place_now(&snapshot, &speaker, to, brought).and_then(|placed| {
            Ok((context.cluster(&snapshot, &speaker, &route, to, (port, placed.at), carries)?, placed.by))
        });
        let Ok((cluster, by)) = placed else {
            tracing::debug!(host = to.host, "no such mirror");
            return None;
        };
        Some(Copy { context, speaker, snapshot, cluster, by, head, remote, local: dialled.unwrap_or(local) })
    }
}

/// The body once it has passed by, if that is soon: what a slow one has kept is room that others need.
async fn whole(body: Copying) -> Option<BodyCopy> {
    tokio::time::timeout(UPLOAD, body.complete()).await.ok().flatten()
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
    use crate::proxy::http::{Copier, ReplayBudget};

    #[tokio::test(start_paused = true)]
    async fn a_mirror_that_does_not_answer_is_given_up() {
        for (of_route, time) in [(None, TIMEOUT), (Some(Duration::from_secs(2)), Duration::from_secs(2))] {
            let within = |time| tokio::time::timeout(time, in_time(of_route, std::future::pending()));
            assert!(within(time - Duration::from_millis(10)).await.is_err());
            assert!(within(time + Duration::from_millis(10)).await.is_ok());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_comes_to_no_end_is_given_up_and_nothing_more_of_it_is_kept() {
        let budget = ReplayBudget::default();
        let (mut copier, copying) = Copier::new(BODY_LIMIT, budget.clone());
        assert!(copier.take(&bytes::Bytes::from_static(b"begin")));
        assert!(whole(copying).await.is_none(), "it waits for ever");
        assert_eq!(budget.taken(), 0, "and what came so far has made room");
        assert!(!copier.take(&bytes::Bytes::from_static(b"more")), "nobody waits for it");
        let (copier, copying) = Copier::new(BODY_LIMIT, budget);
        copier.end();
        assert!(whole(copying).await.is_some());
    }

    #[test]
    fn shadows_keep_their_port() {
        let shadow = |host: &str| shadow(&HeaderValue::from_str(host).unwrap()).to_str().unwrap().to_owned();
        assert_eq!(shadow("httpbin:8000"), "httpbin-shadow:8000");
        assert_eq!(shadow("httpbin.default"), "httpbin.default-shadow");
    }
}
