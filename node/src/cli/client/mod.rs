//! Talks to a node: HTTP over the local socket, or over `skein-admin/1` to any node of the mesh.

mod remote;
mod target;

use std::{pin::Pin, time::Duration};

use bytes::Bytes;
use certs::id::NodeId;
use futures_util::future::{Fuse, FusedFuture as _, FutureExt as _};
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use policy::DocumentId;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    agent::{admin::api, state_dir::StateDir},
    cli::{
        context::Context,
        directory::{Directory, Known},
        error::{Body, Error, Result},
        output::{Format, remark},
        proof,
    },
    clock,
};

/// The largest answer that is read, bytes.
const ANSWER_LIMIT: usize = 256 << 20;
/// How long one node may take to be reached, before the next one is tried.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);

/// Documents that one call asks to have proven, to learn who counts no more.
const PROVEN: usize = 16;

/// Content types of requests.
const JSON: &str = "application/json";
const BYTES: &str = "application/octet-stream";

/// A byte stream to a node.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

type Connection = Pin<Box<dyn Future<Output = hyper::Result<()>>>>;

/// One connection to a node.
pub struct Client {
    sender: http1::SendRequest<Full<Bytes>>,
    connection: Fuse<Connection>,
    reached: String,
    timeout: Duration,
}

/// Connects to the node that the flags name, or to the first that answers: the local one, then those that the
/// operator knows. The operator's knowledge of the mesh is refreshed on the way.
///
/// # Errors
/// None answers (`unreachable`, with each address and why), or the one that does is not of this mesh.
pub async fn connect(ctx: &Context) -> Result<Client> {
    first(&found(target::candidates, ctx).await?, ctx).await
}

/// Connects to the node that the flags name, or to the one of this machine: for commands that mean "this node".
///
/// # Errors
/// As [`connect`].
pub async fn connect_here(ctx: &Context) -> Result<Client> {
    first(&found(target::here, ctx).await?, ctx).await
}

/// Whom to ask. A node that joined after the operator's last call is known to the mesh, though not yet to the operator:
/// then whoever answers is asked first, which refreshes what the operator knows.
async fn found(
    targets: impl Fn(&Context) -> Result<Vec<target::Target>>,
    ctx: &Context,
) -> Result<Vec<target::Target>> {
    match targets(ctx) {
        Err(error) if error.code == "not_found" => {
            let asked = match target::default(ctx) {
                Ok(others) => first(&others, ctx).await.is_ok(),
                Err(_) => false,
            };
            if asked { targets(ctx) } else { Err(error) }
        }
        result => result,
    }
}

/// Connects to the first of these nodes that answers, over the mesh.
///
/// # Errors
/// As [`connect`].
pub async fn connect_to(nodes: &[api::KnownNode], ctx: &Context) -> Result<Client> {
    let targets: Vec<_> = nodes
        .iter()
        .flat_map(|node| node.addresses.iter().map(|address| (node.name.clone(), address.clone())))
        .map(|(name, address)| target::Target::Mesh { name: Some(name), address })
        .collect();
    first(&targets, ctx).await
}

/// Connects to another node than this one, if one lives.
///
/// # Errors
/// As [`connect`].
pub async fn connect_elsewhere(client: &mut Client, ctx: &Context, than: &NodeId) -> Result<Option<Client>> {
    let mesh: api::Mesh = client.get("/v1/mesh").await?;
    let others: Vec<_> = mesh.nodes.into_iter().filter(|node| node.alive && node.name != *than).collect();
    if others.is_empty() {
        return Ok(None);
    }
    connect_to(&others, ctx).await.map(Some)
}

/// How long one node may take to be reached in this call.
fn limit(ctx: &Context) -> Duration {
    CONNECT_LIMIT.min(ctx.globals.timeout)
}

async fn first(targets: &[target::Target], ctx: &Context) -> Result<Client> {
    let mut failures: Vec<(&target::Target, Error)> = Vec::new();
    for target in targets {
        let opened = tokio::time::timeout(limit(ctx), target::open(target, ctx)).await;
        match opened.unwrap_or_else(|_| Err(Error::new("unreachable", "no answer in time"))) {
            Ok(stream) => {
                let mut client = Client::over(stream, target.to_string(), ctx.globals.timeout).await?;
                if let Some((first, error)) = failures.first().filter(|_| ctx.output.format == Format::Table) {
                    remark(&format!("note: {first} does not answer ({}); asked {target} instead", error.message));
                }
                client.refresh(ctx).await?;
                return Ok(client);
            }
            Err(error) if error.code == "unreachable" => failures.push((target, error)),
            // A key that others can read, a node of another mesh: the next node would not mend it.
            Err(error) => return Err(error),
        }
    }
    let is_local = targets.iter().all(|target| matches!(target, target::Target::Socket(_)));
    if let Some(error) = not_joined(ctx).filter(|_| is_local && ctx.globals.node.is_none()) {
        return Err(error);
    }
    Err(unreachable(failures.iter().map(|(target, error)| (target.to_string(), error))))
}

/// What keeps a node from running here at all: this machine is part of no mesh.
fn not_joined(ctx: &Context) -> Option<Error> {
    let why = match ctx.config() {
        Ok(config) if StateDir::has_owner(&config.data_dir) => return None,
        Ok(config) => format!("{} holds no identity", config.data_dir.display()),
        Err(_) if ctx.config_file().exists() => return None,
        Err(_) => format!("there is no {}", ctx.config_file().display()),
    };
    let hint = "`skein init` founds a mesh, `skein join` joins one by a token of `skein invite`; or say whom to ask with --node HOST:PORT";
    Some(Error::new("not_joined", format!("this machine is not part of a mesh yet: {why}")).hint(hint))
}

fn unreachable<'a>(failures: impl Iterator<Item = (String, &'a Error)>) -> Error {
    let mut hint = String::new();
    let tried: Vec<String> = failures
        .map(|(target, error)| {
            if hint.is_empty() {
                hint.clone_from(&error.hint);
            }
            format!("{target}: {}", error.message)
        })
        .collect();
    if tried.is_empty() {
        return Error::new("unreachable", "no node is known")
            .hint("start one with `skein run`, or say whom to ask with --node HOST:PORT");
    }
    if hint.is_empty() {
        hint = "is the node running (`skein run`)? say whom to ask with --node HOST:PORT or unix:PATH".to_owned();
    }
    Error::new("unreachable", format!("no node answers ({})", tried.join("; "))).hint(hint)
}

impl Client {
    async fn over(stream: Box<dyn Stream>, reached: String, timeout: Duration) -> Result<Self> {
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| lost(&reached, &error))?;
        let connection: Connection = Box::pin(connection);
        Ok(Self { sender, connection: connection.fuse(), reached, timeout })
    }

    /// What was reached, as people write it.
    pub fn reached(&self) -> &str {
        &self.reached
    }

    /// `GET path`.
    ///
    /// # Errors
    /// What the node answers, or that it went away.
    pub async fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T> {
        self.get_with_headers(path).await.map(|(value, _)| value)
    }

    /// `GET path`, and the headers beside the answer.
    ///
    /// # Errors
    /// What the node answers, or that it went away.
    pub async fn get_with_headers<T: DeserializeOwned>(&mut self, path: &str) -> Result<(T, HeaderMap)> {
        self.exchange(Method::GET, path, JSON, Bytes::new()).await
    }

    /// `POST path` with a body.
    ///
    /// # Errors
    /// What the node answers, or that it went away.
    pub async fn post<T: DeserializeOwned>(&mut self, path: &str, body: impl Into<Bytes>) -> Result<T> {
        self.exchange(Method::POST, path, BYTES, body.into()).await.map(|(value, _)| value)
    }

    /// `POST path` with a JSON body.
    ///
    /// # Errors
    /// What the node answers, or that it went away.
    pub async fn post_json<B: serde::Serialize, T: DeserializeOwned>(&mut self, path: &str, body: &B) -> Result<T> {
        let body = serde_json::to_vec(body)
            .map_err(|error| Error::new("failed", format!("cannot write the request: {error}")))?;
        self.exchange(Method::POST, path, JSON, body.into()).await.map(|(value, _)| value)
    }

    /// `GET path` whose answer is one JSON object a line, without end; `line` sees each.
    ///
    /// # Errors
    /// What the node answers, that it went away, or what `line` gives.
    pub async fn watch(&mut self, path: &str, mut line: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let response = self.send(Method::GET, path, JSON, Bytes::new()).await?;
        let mut body = response.into_body();
        let mut buffer = Vec::new();
        loop {
            let frame = drive(&mut self.connection, body.frame()).await;
            let Some(frame) = frame else {
                return Err(Error::new("unreachable", format!("{} ended the watch", self.reached)));
            };
            let frame = frame.map_err(|error| lost(&self.reached, &error))?;
            buffer.extend_from_slice(frame.data_ref().map_or(&[], |data| &data[..]));
            while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                let rest = buffer.split_off(end + 1);
                line(&buffer[..end])?;
                buffer = rest;
            }
            if buffer.len() > ANSWER_LIMIT {
                return Err(Error::new("failed", format!("{} sends a line without end", self.reached)));
            }
        }
    }

    async fn exchange<T: DeserializeOwned>(
        &mut self,
        method: Method,
        path: &str,
        kind: &'static str,
        body: Bytes,
    ) -> Result<(T, HeaderMap)> {
        let (head, body) = self.send(method, path, kind, body).await?.into_parts();
        let body = self.collect(body).await?;
        let value = serde_json::from_slice(&body).map_err(|error| {
            Error::new("failed", format!("{} answers what this version does not understand: {error}", self.reached))
                .hint("use the version of skein that the node runs")
        })?;
        Ok((value, head.headers))
    }

    /// Sends a request and gives the answer if it is a success.
    async fn send(
        &mut self,
        method: Method,
        path: &str,
        kind: &'static str,
        body: Bytes,
    ) -> Result<Response<Incoming>> {
        let request = Request::builder().method(method).uri(path).header(http::header::HOST, "skein");
        let request = request
            .header(http::header::CONTENT_TYPE, kind)
            .body(Full::new(body))
            .map_err(|error| Error::new("usage", format!("{path} cannot be asked for: {error}")))?;
        let sent = drive(&mut self.connection, self.sender.send_request(request));
        // The node keeps to the limit that the query names; this one only notices a node that hangs.
        let limit = self.timeout + Duration::from_secs(5);
        let response = tokio::time::timeout(limit, sent)
            .await
            .map_err(|_| Error::new("unreachable", format!("{} does not answer", self.reached)))?
            .map_err(|error| lost(&self.reached, &error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = self.collect(response.into_body()).await?;
        Err(serde_json::from_slice::<Body>(&body).map_or_else(
            |_| Error::new("failed", format!("{} answers {status} for {path}", self.reached)),
            |body| body.error,
        ))
    }

    async fn collect(&mut self, body: Incoming) -> Result<Bytes> {
        let collected = drive(&mut self.connection, Limited::new(body, ANSWER_LIMIT).collect()).await;
        collected.map(http_body_util::Collected::to_bytes).map_err(|error| lost(&self.reached, &*error))
    }

    /// Takes in who counts no more, where operators' signatures say so: one that nobody lets in could still pass for a node here.
    async fn learn_who_is_out(&mut self, directory: &Directory, known: &Known, mesh: &api::Mesh) {
        for document in known.out.doubtful(&mesh.out).take(PROVEN) {
            let Ok(history) = proof::of_document(self, known, &document).await else { return };
            let state = history.state(clock::wall());
            directory.note_out(|out| out.learn(&state, &document));
        }
    }

    /// Compares the node with what the operator knows, and refreshes that.
    async fn refresh(&mut self, ctx: &Context) -> Result<()> {
        let Ok(directory) = ctx.operator() else { return Ok(()) };
        let Ok(known) = directory.known() else { return Ok(()) };
        let mesh: api::Mesh = self.get("/v1/mesh").await?;
        if mesh.trust_domain != known.trust_domain || mesh.genesis != known.genesis {
            return Ok(());
        }
        directory.refresh(&known, &mesh);
        self.learn_who_is_out(&directory, &known, &mesh).await;
        if mesh.role_set > known.role_set
            && let Ok(history) = proof::of_document(self, &known, &DocumentId::role_set()).await
        {
            remote::keep_roots(&directory, &history);
        }
        Ok(())
    }
}

/// Waits for `work` while the connection moves.
async fn drive<T>(connection: &mut Fuse<Connection>, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            // How it ended is told by the work that needed it.
            _ = &mut *connection, if !connection.is_terminated() => {}
        }
    }
}

/// Text as one part of a path.
pub fn segment(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

fn lost(reached: &str, error: &dyn std::fmt::Display) -> Error {
    Error::new("unreachable", format!("the connection to {reached} was lost: {error}"))
        .hint("the node stopped or refused; see its log")
}

#[cfg(test)]
mod tests {
    use hyper::service::service_fn;

    use super::*;

    /// Asks a node that gives this answer.
    async fn asked<T: DeserializeOwned>(status: u16, body: &'static str) -> Result<T> {
        let (near, far) = tokio::io::duplex(64 << 10);
        let answer = move |_| async move {
            Ok::<_, std::convert::Infallible>(Response::builder().status(status).body(body.to_owned()).unwrap())
        };
        let node = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(far), service_fn(answer));
        let ask = async {
            let mut client = Client::over(Box::new(near), "test".to_owned(), Duration::from_secs(5)).await?;
            client.get("/v1/x").await
        };
        tokio::select! {
            asked = ask => asked,
            ended = node => panic!("the node ended first: {ended:?}"),
        }
    }

    #[tokio::test]
    async fn answers_are_read() {
        assert_eq!(asked::<Vec<u32>>(200, "[1, 2]").await, Ok(vec![1, 2]));
    }

    #[tokio::test]
    async fn a_nodes_error_is_passed_on() {
        let body = r#"{"error":{"code":"stale_parent","message":"m","hint":"h"}}"#;
        let error = asked::<Vec<u32>>(409, body).await.unwrap_err();
        assert_eq!((&*error.code, &*error.message, &*error.hint), ("stale_parent", "m", "h"));
        assert_eq!(error.class().exit_code(), 5);
    }

    #[tokio::test]
    async fn what_is_not_understood_is_a_failure() {
        assert_eq!(asked::<Vec<u32>>(500, "oh").await.unwrap_err().code, "failed");
        assert_eq!(asked::<Vec<u32>>(200, "{}").await.unwrap_err().code, "failed");
    }

    #[tokio::test]
    async fn a_node_that_goes_away_is_unreachable() {
        let (near, far) = tokio::io::duplex(64);
        let mut client = Client::over(Box::new(near), "test".to_owned(), Duration::from_secs(5)).await.unwrap();
        drop(far);
        assert_eq!(client.get::<Vec<u32>>("/v1/x").await.unwrap_err().code, "unreachable");
    }

    #[test]
    fn all_failures_are_named() {
        let refused = Error::new("unreachable", "refused").hint("start it");
        let error = unreachable([("a".to_owned(), &refused), ("b".to_owned(), &refused)].into_iter());
        assert_eq!(error.message, "no node answers (a: refused; b: refused)");
        assert_eq!(error.hint, "start it");
    }
}
