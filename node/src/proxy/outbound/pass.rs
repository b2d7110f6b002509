//! Requests of captured connections of HTTP/2 that mean nothing of the mesh: they go on to where their connection meant to go, as bytes
//! do (Istio's PassthroughCluster).

use super::{
    Answered, Requests,
    forward::{Head, Outgoing},
};
use crate::{
    proxy::{
        direct::Target,
        exchange::Exchange,
        failure::Cause,
        http::{self as body, Incoming, RequestBody},
        inbound::{Terms, Version, to_http2},
    },
    snapshot::Snapshot,
};
use http::Method;
use policy::route::ClusterPolicy;
use std::net::SocketAddr;

/// Sends a request to `original`, by HTTP/2 with prior knowledge as it came.
pub(super) async fn pass(
    requests: &Requests<'_>,
    snapshot: &Snapshot,
    original: SocketAddr,
    outgoing: &mut Outgoing,
    exchange: &mut Exchange,
) -> Result<Answered, Cause> {
    let (context, config) = (requests.context, snapshot.compiled.config());
    exchange.between(context.recorder(requests.speaker.to_outside()));
    exchange.takes("allow_any");
    exchange.goes_to("PassthroughCluster");
    let Outgoing { head: Head { parts, host }, upgrade, incoming, user: _ } = outgoing;
    if upgrade.is_some() || parts.method == Method::CONNECT {
        return Err(Cause::NoWebSocket);
    }
    exchange.reaches(original);
    let incoming = std::mem::replace(incoming, Incoming::Own(None));
    let patience = body::patience(&config.limits, &parts.headers);
    let body = RequestBody::once(incoming, &context.budget, patience);
    let sent = body.completion();
    exchange.uploads(sent.clone());
    to_http2(parts, host, "http")?;
    let terms = Terms::of(&ClusterPolicy::default(), config);
    let answer = context.apps.send(&Target::plain(original), Version::Http2, parts, body, &terms, None).await;
    let mut response = answer.map_err(|failure| exchange.failed_below(failure))?;
    sent.answered(config.limits.stream_idle);
    body::strip_hop_by_hop(response.headers_mut());
    body::strip_own(response.headers_mut());
    Ok(Answered::Endpoint(response.map(body::Source::App), None, None))
}
