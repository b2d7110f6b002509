//! Requests that turn their connection into a tunnel (WebSocket): passed on when the application agrees.

use super::{context::Context, failure::Cause, inbound::Standing};
use crate::http1::{Upgraded, server::OnUpgrade};
use http::{
    HeaderMap, HeaderValue, Method, Response, StatusCode, Version,
    header::{CONNECTION, UPGRADE},
    request::Parts,
};
use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

/// Buffer per direction, bytes.
const BUFFER: usize = 16 * 1024;

/// The protocol that a request asks for. Only a GET may ask, and the caller looks whether it has a body: bytes of one would stand
/// before those of the tunnel. `h2c` is never taken up.
pub(super) fn asked(parts: &Parts) -> Option<HeaderValue> {
    let protocol = parts.headers.get(UPGRADE)?;
    let named = parts.headers.get_all(CONNECTION).iter().any(|value| {
        value.to_str().is_ok_and(|value| value.split(',').any(|name| name.trim().eq_ignore_ascii_case("upgrade")))
    });
    let may = parts.method == Method::GET && parts.version == Version::HTTP_11 && named;
    (may && !protocol.as_bytes().eq_ignore_ascii_case(b"h2c")).then(|| protocol.clone())
}

/// Says in a message that its connection changes protocol.
pub(super) fn mark(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
}

/// Undoes [`mark`].
pub(super) fn unmark(headers: &mut HeaderMap) {
    headers.remove(CONNECTION);
    headers.remove(UPGRADE);
}

/// Checks a 101 against what was asked, before hop-by-hop headers are stripped.
///
/// # Errors
/// Nobody asked.
pub(super) fn answered<B>(response: &Response<B>, asked: bool) -> Result<Option<HeaderValue>, Cause> {
    match (response.status() == StatusCode::SWITCHING_PROTOCOLS, asked) {
        (false, _) => Ok(None),
        (true, true) => response.headers().get(UPGRADE).cloned().map(Some).ok_or(Cause::UpstreamProtocol),
        (true, false) => Err(Cause::UpstreamProtocol),
    }
}

/// Joins the caller's connection with that of a 101 response, as soon as both are free. Where the server is beside this node, the
/// tunnel ends when policy denies it.
pub(super) fn join<B>(context: &Context, caller: OnUpgrade, response: &mut Response<B>) {
    join_holding(context, caller, response, ());
}

/// As [`join`]; `held` is dropped when the tunnel has ended.
pub(super) fn join_holding<B>(
    context: &Context,
    caller: OnUpgrade,
    response: &mut Response<B>,
    held: impl Send + 'static,
) {
    let server = Upgraded::take(response);
    let standing = response.extensions_mut().remove::<Standing>();
    // Shortest silence, in both directions, after which the tunnel ends (it may last twice as long).
    let idle = context.limits().stream_idle;
    context.tasks.detach("upgraded connection", async move {
        let _held = held;
        let (Some(caller), Some(server)) = (caller.connection().await, server) else {
            tracing::debug!("a connection ended before its protocol changed");
            return;
        };
        let (caller_read, caller_write) = tokio::io::split(caller);
        let (server_read, server_write) = tokio::io::split(server);
        let active = AtomicBool::new(true);
        let both = async {
            tokio::try_join!(
                copy(caller_read, server_write, &active, idle),
                copy(server_read, caller_write, &active, idle)
            )
        };
        let forbidden = async {
            match standing {
                Some(mut standing) => standing.forbidden().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ended = both => if let Err(error) = ended {
                tracing::debug!(%error, "upgraded connection ended");
            },
            () = forbidden => {}
        }
    });
}

/// Copies until the end, which is passed on.
async fn copy(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    active: &AtomicBool,
    idle: Duration,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = match timeout(idle, from.read(&mut buffer)).await {
            Ok(length) => length?,
            Err(_) if active.swap(false, Ordering::Relaxed) => continue,
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        };
        active.store(true, Ordering::Relaxed);
        if length == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..length]).await?;
        to.flush().await?;
    }
}
