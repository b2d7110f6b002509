//! The socket: who comes, how many, and which method they call.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use certs::codec::Millis;
use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};

use super::{
    authority::Authorities,
    feed::{Feed, Wants},
    grpc::{self, Answer, Code, Status},
};
use crate::{
    agent::Agent,
    lock::lock,
    mesh::crowd::{Crowd, Place},
    tasks::Tasks,
};

/// Mode of the socket: every local user may ask, the kernel says who it is.
pub const MODE: u32 = 0o666;
/// Connections at a time: all, and of one user; fewer of those who have no identity here, whose ids cost them nothing.
const CONNECTIONS: (usize, usize) = (1024, 64);
const STRANGERS: (usize, usize) = (64, 8);
/// Calls under way at a time: all, and of one user. Most are streams that wait for the next rotation.
const CALLS: (usize, usize) = (2048, 128);
/// Calls that one user may begin in a minute: each may cost two signatures.
const A_MINUTE: u32 = 600;
/// Calls of one connection at a time.
const CALLS_OF_ONE: u32 = 32;
/// Bytes of a request's header block, and of answers that a connection holds for a slow reader.
const HEADER_BYTES: u32 = 8 << 10;
const SEND_BYTES: usize = 64 << 10;
/// How long a stopping node waits for callers to hear of it.
const FAREWELL: Duration = Duration::from_millis(500);
/// Pause after an accept that failed, e.g. for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The service `SpiffeWorkloadAPI`. Cheap to clone.
#[derive(Clone)]
pub struct WorkloadApi {
    agent: Agent,
    tasks: Tasks,
    inside: Arc<Crowd<u32>>,
    strangers: Arc<Crowd<u32>>,
    calls: Arc<Crowd<u32>>,
    pace: Arc<Mutex<Pace>>,
}

/// Calls begun by each user in this minute.
#[derive(Debug, Default)]
struct Pace {
    minute: Millis,
    begun: HashMap<u32, u32>,
}

impl Pace {
    /// Counts one more; false if that is too many.
    fn takes(&mut self, uid: u32, now: Millis) -> bool {
        if self.minute != now / 60_000 {
            *self = Self { minute: now / 60_000, begun: HashMap::new() };
        }
        let begun = self.begun.entry(uid).or_default();
        *begun += 1;
        *begun <= A_MINUTE
    }
}

impl WorkloadApi {
    /// The service in front of an agent.
    pub fn new(agent: Agent, tasks: Tasks) -> Self {
        let crowd = |(all, each)| Crowd::new(all, each);
        let (inside, strangers, calls) = (crowd(CONNECTIONS), crowd(STRANGERS), crowd(CALLS));
        Self { agent, tasks, inside, strangers, calls, pace: Arc::default() }
    }

    /// Serves the socket until the node stops.
    pub async fn serve(self, listener: UnixListener) {
        loop {
            let accepted = tokio::select! {
                () = self.tasks.stopping() => return,
                accepted = listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!("a connection to the Workload API cannot be accepted: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            // Without credentials there is nobody to answer.
            let Ok(uid) = stream.peer_cred().map(|caller| caller.uid()) else { continue };
            let known = !self.agent.identities_of(uid).is_empty();
            let crowd = if known { &self.inside } else { &self.strangers };
            let Some(place) = crowd.enter_as(uid) else {
                tracing::warn!(uid, "too many connections to the Workload API");
                continue;
            };
            let api = self.clone();
            self.tasks.detach("workload", async move { api.converse(stream, uid, place).await });
        }
    }

    async fn converse(self, stream: UnixStream, uid: u32, place: Place<u32>) {
        let api = self.clone();
        let service = hyper::service::service_fn(move |request| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.answer(request, uid).await) }
        });
        let connection = http2::Builder::new(self.tasks.clone())
            .timer(TokioTimer::new())
            .max_concurrent_streams(CALLS_OF_ONE)
            .max_header_list_size(HEADER_BYTES)
            .max_send_buf_size(SEND_BYTES)
            .serve_connection(TokioIo::new(Authorities::new(stream)), service);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            served = &mut connection => if let Err(error) = served {
                tracing::debug!(uid, "a connection to the Workload API broke: {error}");
            },
            () = self.tasks.stopping() => {
                connection.as_mut().graceful_shutdown();
                let _ = tokio::time::timeout(FAREWELL, connection).await;
            }
        }
        drop(place);
    }

    async fn answer(&self, request: Request<Incoming>, uid: u32) -> Response<Answer> {
        if !grpc::is_grpc(&request) {
            return grpc::unsupported();
        }
        match self.call(request, uid).await {
            Ok(answer) => answer,
            Err(status) => {
                tracing::debug!(uid, code = status.code as u8, "the Workload API refuses: {}", status.message);
                grpc::refusal(&status)
            }
        }
    }

    async fn call(&self, request: Request<Incoming>, uid: u32) -> Result<Response<Answer>, Status> {
        grpc::demand_metadata(request.headers())?;
        let wants = match request.uri().path() {
            "/SpiffeWorkloadAPI/FetchX509SVID" => Wants::Svids,
            "/SpiffeWorkloadAPI/FetchX509Bundles" => Wants::Bundles,
            path => return Err(unserved(path)),
        };
        let pace = lock(&self.pace).takes(uid, self.agent.now());
        if !pace {
            let message = format!("more than {A_MINUTE} calls of user {uid} within a minute");
            return Err(Status::new(Code::ResourceExhausted, message));
        }
        let full = || Status::new(Code::ResourceExhausted, format!("more than {} calls of user {uid}", CALLS.1));
        let place = self.calls.enter_as(uid).ok_or_else(full)?;
        // Both requests are empty messages; fields that a later version adds are skipped, as protobuf has it.
        grpc::read(request.into_body()).await?;
        let mut feed = Feed::new(self.agent.clone(), self.tasks.clone(), uid, wants, place);
        let first = feed.next().await?;
        Ok(grpc::stream(first, feed))
    }
}

/// A method that this mesh does not have: its identities are certificates, and it signs no tokens.
fn unserved(path: &str) -> Status {
    match path {
        "/SpiffeWorkloadAPI/FetchJWTSVID"
        | "/SpiffeWorkloadAPI/FetchJWTBundles"
        | "/SpiffeWorkloadAPI/ValidateJWTSVID" => {
            Status::new(Code::Unimplemented, "this mesh issues X.509-SVIDs and no JWT-SVIDs")
        }
        _ => Status::new(Code::Unimplemented, "not a method of SpiffeWorkloadAPI"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_who_asks_too_often_waits_for_the_next_minute_and_holds_nobody_else_up() {
        let (mut pace, now) = (Pace::default(), 1_800_000_000_000);
        assert!((0..A_MINUTE).all(|_| pace.takes(1, now)));
        assert!(!pace.takes(1, now) && pace.takes(2, now));
        assert!(pace.takes(1, now + 60_000));
    }
}
