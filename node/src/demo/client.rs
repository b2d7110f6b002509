//! An HTTP client that keeps a few connections to one proxy port. Nothing here runs on its own: a connection is driven
//! by the request that uses it, so no task outlives its caller.

use crate::lock::lock;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Bytes of an answer's body; a longer one is an error.
const MAX_BODY: usize = 1 << 20;
/// Connections kept open between requests.
const MAX_IDLE: usize = 64;

/// Sends requests to one address: a node's HTTP proxy port, or a server itself.
#[derive(Debug)]
pub(crate) struct Client {
    address: SocketAddr,
    idle: Mutex<Vec<Connection>>,
}

/// Why no answer came.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// No connection to the address.
    #[error("cannot connect to {0}: {1}")]
    Connect(SocketAddr, std::io::Error),
    /// The connection broke, or what came was not HTTP.
    #[error("the connection broke: {0}")]
    Broken(#[from] hyper::Error),
    /// The answer's body broke off or is longer than the limit.
    #[error("the answer broke off: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
    /// The whole exchange took too long.
    #[error("no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
}

/// One connection and what moves its bytes.
struct Connection {
    sender: http1::SendRequest<Empty<Bytes>>,
    driver: Pin<Box<http1::Connection<TokioIo<TcpStream>, Empty<Bytes>>>>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connection")
    }
}

/// How an exchange on a connection ended.
enum Exchange {
    Answer(Response<Bytes>),
    /// The connection was already closed; not a byte of the request was sent.
    Unsent(Box<Request<Empty<Bytes>>>),
    Failed(CallError),
}

impl Client {
    /// A client of the server or proxy at `address`.
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, idle: Mutex::default() }
    }

    /// Sends one request (a proxy wants its URI in absolute form) and reads the whole answer.
    ///
    /// # Errors
    /// What kept the answer from coming within `limit`. A request is never sent twice.
    pub(crate) async fn send(
        &self,
        request: Request<Empty<Bytes>>,
        limit: Duration,
    ) -> Result<Response<Bytes>, CallError> {
        tokio::time::timeout(limit, self.exchange(request)).await.unwrap_or(Err(CallError::Timeout(limit)))
    }

    async fn exchange(&self, mut request: Request<Empty<Bytes>>) -> Result<Response<Bytes>, CallError> {
        while let Some(mut connection) = self.take_idle() {
            match connection.exchange(request).await {
                Exchange::Answer(answer) => return Ok(self.keep(connection, answer)),
                Exchange::Unsent(again) => request = *again,
                Exchange::Failed(error) => return Err(error),
            }
        }
        let mut connection = self.connect().await?;
        match connection.exchange(request).await {
            Exchange::Answer(answer) => Ok(self.keep(connection, answer)),
            Exchange::Unsent(_) => {
                let closed = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
                Err(CallError::Connect(self.address, closed))
            }
            Exchange::Failed(error) => Err(error),
        }
    }

    async fn connect(&self) -> Result<Connection, CallError> {
        let stream = TcpStream::connect(self.address).await.map_err(|e| CallError::Connect(self.address, e))?;
        stream.set_nodelay(true).map_err(|e| CallError::Connect(self.address, e))?;
        let (sender, driver) = http1::handshake(TokioIo::new(stream)).await?;
        Ok(Connection { sender, driver: Box::pin(driver) })
    }

    /// An idle connection that the other side has not closed meanwhile.
    fn take_idle(&self) -> Option<Connection> {
        loop {
            let mut connection = lock(&self.idle).pop()?;
            if connection.driver.as_mut().now_or_never().is_none() {
                return Some(connection);
            }
        }
    }

    fn keep(&self, connection: Connection, answer: Response<Bytes>) -> Response<Bytes> {
        let mut idle = lock(&self.idle);
        if idle.len() < MAX_IDLE && !connection.sender.is_closed() {
            idle.push(connection);
        }
        answer
    }
}

impl Connection {
    async fn exchange(&mut self, request: Request<Empty<Bytes>>) -> Exchange {
        let Self { sender, driver } = self;
        let mut answer = pin!(round_trip(sender, request));
        tokio::select! {
            biased;
            answer = &mut answer => return answer,
            _end = driver => {}
        }
        // The connection is over, with or without an answer: whatever it left decides.
        answer.await
    }
}

async fn round_trip(sender: &mut http1::SendRequest<Empty<Bytes>>, request: Request<Empty<Bytes>>) -> Exchange {
    if sender.ready().await.is_err() {
        return Exchange::Unsent(Box::new(request));
    }
    let answer = match sender.try_send_request(request).await {
        Ok(answer) => answer,
        Err(mut error) => {
            return match error.take_message() {
                Some(request) => Exchange::Unsent(Box::new(request)),
                None => Exchange::Failed(CallError::Broken(error.into_error())),
            };
        }
    };
    let (head, body) = answer.into_parts();
    match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => Exchange::Answer(Response::from_parts(head, body.to_bytes())),
        Err(error) => Exchange::Failed(CallError::Body(error)),
    }
}
