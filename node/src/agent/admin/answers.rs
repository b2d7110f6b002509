//! Requests and answers under way: who sends a body slowly, or asks for long answers and does not read them, takes neither memory nor
//! places from others.

use std::{io, sync::Arc, time::Duration};

use axum::{
    body::{self, Body, HttpBody as _},
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use http::header;
use serde::Serialize;
use tokio::sync::Semaphore;

use super::{error::Error, metrics::sent, router::BODY_LIMIT};
use crate::clock::monotonic;

/// KiB of long answers that are under way through doors of one kind.
pub(super) const ROOM: usize = 64 << 10;
/// Answers up to so many bytes are not counted.
const SHORT: u64 = 64 << 10;
/// Bytes that are handed on at a time.
const PIECE: usize = 64 << 10;
/// How long a long answer may take in all.
const LONGEST: Duration = Duration::from_secs(300);
/// How long a request's body may take.
const BODY_TIME: Duration = Duration::from_secs(30);

/// Reads a request's body before anything is done with it, in time. For routes that take one, inside their guards: it is held whole.
pub(super) async fn prompt(request: Request, next: Next) -> Response {
    prompt_within(BODY_TIME, request, async |request| next.run(request).await).await
}

async fn prompt_within(limit: Duration, request: Request, next: impl AsyncFnOnce(Request) -> Response) -> Response {
    let (head, body) = request.into_parts();
    match tokio::time::timeout(limit, body::to_bytes(body, BODY_LIMIT)).await {
        Ok(Ok(body)) => next(Request::from_parts(head, Body::from(body))).await,
        Ok(Err(_)) => {
            let message = format!("the request broke off, or has more than {} MiB", BODY_LIMIT >> 20);
            Error::new("too_large", message).hint("push fewer documents at once").into_response()
        }
        Err(_) => {
            let message = format!("the request did not come within {} s", limit.as_secs());
            Error::new("bad_request", message).hint("ask a node to which the way is faster").into_response()
        }
    }
}

/// Sends a long answer piece by piece, as far as there is room; what is in no piece yet is counted.
pub(super) async fn in_pieces(State(room): State<Arc<Semaphore>>, request: Request, next: Next) -> Response {
    bounded(room, next.run(request).await).await
}

async fn bounded(room: Arc<Semaphore>, response: Response) -> Response {
    let Some(length) = response.body().size_hint().exact().filter(|length| *length > SHORT) else { return response };
    let wanted = usize::try_from(length.div_ceil(1024)).unwrap_or(ROOM).min(ROOM);
    let Ok(place) = room.try_acquire_many_owned(u32::try_from(wanted).unwrap_or(u32::MAX)) else {
        let message = format!("long answers under way hold {} MiB already", ROOM >> 10);
        return Error::new("too_many_requests", message)
            .hint("see who asks and does not read; ask again")
            .into_response();
    };
    let (head, body) = response.into_parts();
    let Ok(whole) = body::to_bytes(body, usize::MAX).await else {
        return Error::new("failed", "the answer broke off").into_response();
    };
    let until = monotonic() + LONGEST;
    let pieces = (0..whole.len()).step_by(PIECE).map(move |at| {
        let _held = &place;
        match monotonic() < until {
            // A copy: what the connection still holds at the end is no hold on the whole.
            true => Ok(Bytes::copy_from_slice(&whole[at..whole.len().min(at + PIECE)])),
            false => Err(io::Error::from(io::ErrorKind::TimedOut)),
        }
    });
    Response::from_parts(head, sent(pieces))
}

/// An answer in JSON. Blocks while it is written.
///
/// # Errors
/// `failed`.
pub(super) fn encoded<T: Serialize>(value: &T) -> Result<Response, Error> {
    let text = serde_json::to_vec(value).map_err(|error| Error::new("failed", format!("no JSON: {error}")))?;
    Ok(([(header::CONTENT_TYPE, "application/json")], text).into_response())
}

#[cfg(test)]
mod tests {
    use futures_util::{StreamExt as _, stream};

    use super::*;

    fn answer(bytes: usize) -> Response {
        "x".repeat(bytes).into_response()
    }

    #[tokio::test]
    async fn long_answers_that_nobody_reads_leave_room_for_short_ones_only() {
        let room = Arc::new(Semaphore::new(ROOM));
        let half = bounded(room.clone(), answer(40 << 20)).await;
        assert_eq!((half.status().as_u16(), room.available_permits()), (200, 24 << 10));
        assert_eq!(bounded(room.clone(), answer(40 << 20)).await.status().as_u16(), 429);
        assert_eq!(bounded(room.clone(), answer(1_000)).await.status().as_u16(), 200);
        let read = body::to_bytes(half.into_body(), usize::MAX).await.unwrap();
        assert_eq!((read.len(), room.available_permits()), (40 << 20, ROOM));
        // One that is longer than all the room has it alone.
        drop(bounded(room.clone(), answer(70 << 20)).await);
        assert_eq!(room.available_permits(), ROOM);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_not_waited_for() {
        let slow = Body::from_stream(stream::iter([Ok::<_, io::Error>("x")]).chain(stream::pending()));
        let asked = |body: Body| prompt_within(BODY_TIME, Request::new(body), async |_| "taken".into_response());
        assert_eq!(asked(slow).await.status().as_u16(), 400);
        assert_eq!(asked("whole".into()).await.status().as_u16(), 200);
        assert_eq!(asked("x".repeat(BODY_LIMIT + 1).into()).await.status().as_u16(), 413);
    }
}
