//! `/metrics`: a few answers at a time, each sent as it is made, so that neither many series nor slow readers take this node's memory.

mod gzip;

use std::{io, time::Duration};

use axum::{
    body::Body,
    extract::State,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use futures_util::{StreamExt as _, future, stream};
use http::{HeaderMap, HeaderValue, header};

use super::{Admin, error::Error};
use crate::{clock::monotonic, telemetry::Format};

/// Answers that are under way at a time: those of two scrapers, and of two who look.
pub(super) const AT_ONCE: usize = 4;
/// How long a further one waits for its turn.
const TURN: Duration = Duration::from_secs(5);
/// How long an answer may take in all; Prometheus gives up after 10 s unless told otherwise.
const LONGEST: Duration = Duration::from_secs(60);

/// `GET /metrics`.
///
/// # Errors
/// `too_many_requests`.
pub(super) async fn metrics(State(admin): State<Admin>, headers: HeaderMap) -> Result<Response, Error> {
    let turn = tokio::time::timeout(TURN, admin.scrapes.clone().acquire_owned()).await;
    let Ok(Ok(turn)) = turn else {
        let message = format!("{AT_ONCE} scrapes are under way that do not end");
        return Err(Error::new("too_many_requests", message).hint("see who asks for /metrics and does not read it"));
    };
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let format = Format::accepted(accept);
    let until = monotonic() + LONGEST;
    let pieces = admin.telemetry.render(format).map(move |piece| {
        let _turn = &turn;
        if monotonic() < until { Ok(piece) } else { Err(io::Error::from(io::ErrorKind::TimedOut)) }
    });
    let zipped = gzip::is_accepted(headers.get_all(header::ACCEPT_ENCODING));
    let body = if zipped { sent(gzip::Pieces::new(pieces)) } else { sent(pieces.map(|piece| piece.map(Bytes::from))) };
    let kind = [(header::CONTENT_TYPE, format.content_type()), (header::VARY, "accept, accept-encoding")];
    let mut response = (kind, body).into_response();
    if zipped {
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    Ok(response)
}

/// Between two pieces whatever else waits gets its turn: a reader that is always ready must not hold the runtime.
pub(super) fn sent(pieces: impl Iterator<Item = io::Result<Bytes>> + Send + 'static) -> Body {
    let in_turn = stream::iter(pieces).then(|piece| async {
        tokio::task::yield_now().await;
        piece
    });
    // What a piece is in is sometimes told by a later one.
    Body::from_stream(in_turn.filter(|piece| future::ready(!piece.as_ref().is_ok_and(Bytes::is_empty))))
}
