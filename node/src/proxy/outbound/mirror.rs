//! Copies of requests to mirrors: each goes its own way, nobody waits for its answer, and what does not fit is left out.

use super::{Requests, attempt::Way, forward::Head};
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
    snapshot::Snapshot,
};
use http::HeaderValue;
use http_body_util::BodyExt;
use policy::{hosts::split_authority, route::Routed};
use std::{sync::Arc, time::Duration};

/// Copies that one node has under way at most; further requests are not copied.
pub(in crate::proxy) const COPIES: usize = 256;
/// Bytes of a body that are copied at most; a request with a longer one is not.
const BODY_LIMIT: usize = 256 * 1024;
/// Bytes of an answer that are read, so that its connection can be used again; then it is cut.
const ANSWER_LIMIT: usize = 1024 * 1024;
/// For a copy and its answer, where the route has no timeout.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Begins the copies of a request, each with the route's own probability. A mirror that does not exist gets none.
pub(super) fn copy(requests: &Requests<'_>, snapshot: &Arc<Snapshot>, routed: &Routed, head: &Head, upload: &Upload) {
    let context = requests.context;
    for mirror in &routed.route.mirrors {
        if !mirror.takes(context.random()) {
            continue;
        }
        let (speaker, route) = (&requests.speaker, &routed.route);
        let Ok(cluster) = context.cluster(snapshot, speaker, route, &mirror.destination, routed.port) else {
            tracing::debug!(host = mirror.destination.host, "no such mirror");
            continue;
        };
        let Ok(slot) = Arc::clone(&context.mirrors).try_acquire_owned() else {
            tracing::debug!(host = mirror.destination.host, "too many copies are under way");
            continue;
        };
        let copy = Copy {
            context: Arc::clone(context),
            speaker: Arc::clone(speaker),
            snapshot: Arc::clone(snapshot),
            cluster,
            head: Head { parts: head.parts.clone(), host: shadow(&head.host) },
        };
        let (body, timeout) = (upload.copy(BODY_LIMIT), routed.route.timeout.unwrap_or(TIMEOUT));
        context.tasks.detach("copy of a request", async move {
            let Some(body) = body.complete().await else { return };
            if tokio::time::timeout(timeout, copy.send(body)).await.is_err() {
                tracing::debug!("a mirror did not answer in time");
            }
            drop(slot);
        });
    }
}

/// A copy and where it goes.
struct Copy {
    context: Arc<Context>,
    speaker: Arc<super::Speaker>,
    snapshot: Arc<Snapshot>,
    cluster: Arc<Cluster>,
    head: Head,
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
            grpc,
            timed: false,
        };
        let (tried, random, began) = (Tried::default(), self.context.random(), clock::uptime_micros());
        let now = began / 1_000;
        let position = self.cluster.pick(&Ask { tried: &tried, leave: false, hash: None, random, now })?;
        let upload = Upload::again(body, &self.context.budget);
        let body = upload.attempt().ok_or(Cause::ConnectionTermination)?;
        way.prepare(&mut self.head, None, position, 1)?;
        let head = &self.head.parts;
        let (response, flight) = way.attempt(position, (head, body), &upload.completion(), began, None).await?;
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

    #[test]
    fn shadows_keep_their_port() {
        let shadow = |host: &str| shadow(&HeaderValue::from_str(host).unwrap()).to_str().unwrap().to_owned();
        assert_eq!(shadow("httpbin:8000"), "httpbin-shadow:8000");
        assert_eq!(shadow("httpbin.default"), "httpbin.default-shadow");
    }
}
