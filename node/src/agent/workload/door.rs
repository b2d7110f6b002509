//! The socket: who comes, how many, and which method they call.

use std::{convert::Infallible, sync::Arc, time::Duration};

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
    mesh::crowd::{Crowd, Place},
    tasks::Tasks,
};

/// Mode of the socket: every local user may ask, the kernel says who it is.
pub const MODE: u32 = 0o666;
/// Connections at a time: all, and of one user.
const CONNECTIONS: (usize, usize) = (1024, 64);
/// Calls under way at a time: all, and of one user. Most are streams that wait for the next rotation.
const CALLS: (usize, usize) = (2048, 128);
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
    calls: Arc<Crowd<u32>>,
}

impl WorkloadApi {
    /// The service in front of an agent.
    pub fn new(agent: Agent, tasks: Tasks) -> Self {
        let inside = Crowd::new(CONNECTIONS.0, CONNECTIONS.1);
        Self { agent, tasks, inside, calls: Crowd::new(CALLS.0, CALLS.1) }
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
            let Some(place) = self.inside.enter_as(uid) else {
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
