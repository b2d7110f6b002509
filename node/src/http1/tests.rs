//! Both ends of a connection against each other, and the server against bytes as they are written here.

use super::{
    BoxError, HeadLimits, Upgraded,
    client::{Connection, Error},
    server::{self, Body, Limits, OnUpgrade, Service},
};
use crate::tasks::Tasks;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode,
    header::{TE, TRAILER, UPGRADE},
};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt as _, Empty, Full, StreamBody, combinators::UnsyncBoxBody};
use std::{sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    sync::oneshot,
    time::timeout,
};

const LIMITS: Limits = Limits {
    head: HeadLimits { bytes: 4_096, lines: 20 },
    head_time: Duration::from_secs(60),
    idle: Duration::from_secs(60),
};
const PATIENCE: Duration = Duration::from_secs(20);

type Answer = UnsyncBoxBody<Bytes, BoxError>;

/// Answers with what it got, or as the path says.
struct Echo;

impl Service for Echo {
    type Body = Answer;

    async fn answer(&self, mut request: Request<Body>) -> Response<Answer> {
        let upgrade = OnUpgrade::of(&mut request);
        let empty = || Empty::new().map_err(|never| match never {}).boxed_unsync();
        let status = |status| Response::builder().status(status).body(empty()).unwrap();
        match request.uri().path() {
            "/early" => status(StatusCode::PAYLOAD_TOO_LARGE),
            "/upgrade" => {
                let joined = async move {
                    let mut stream: Upgraded = upgrade.connection().await.expect("it was 101");
                    let mut bytes = [0; 4];
                    stream.read_exact(&mut bytes).await.unwrap();
                    stream.write_all(&bytes).await.unwrap();
                    stream.shutdown().await.unwrap();
                };
                Tasks::new().detach("tunnel", joined);
                Response::builder().status(101).header(UPGRADE, "echo").body(empty()).unwrap()
            }
            "/stall" => std::future::pending().await,
            "/held" => {
                let held = request.into_body();
                let frames = stream::iter([Ok(Frame::data(Bytes::from_static(b"early")))]).map(move |frame| {
                    let _holds = &held;
                    frame
                });
                Response::new(StreamBody::new(frames).boxed_unsync())
            }
            "/trailers" => {
                let trailers =
                    HeaderMap::from_iter([(HeaderName::from_static("x-sum"), HeaderValue::from_static("7"))]);
                let frames = [Ok(Frame::data(Bytes::from_static(b"abc"))), Ok(Frame::trailers(trailers))];
                let body = StreamBody::new(stream::iter(frames)).boxed_unsync();
                Response::builder().header(TRAILER, "x-sum").body(body).unwrap()
            }
            _ => match request.into_body().collect().await {
                Ok(body) => {
                    let body = Full::new(body.to_bytes()).map_err(|never| match never {});
                    Response::new(body.boxed_unsync())
                }
                Err(_) => status(StatusCode::BAD_REQUEST),
            },
        }
    }
}

/// A connection to the echo; it ends when the signal comes.
fn served(buffer: usize) -> (DuplexStream, oneshot::Sender<()>, oneshot::Receiver<Result<(), server::Error>>) {
    let (near, far) = duplex(buffer);
    let ((close, closing), (told, ended)) = (oneshot::channel::<()>(), oneshot::channel());
    Tasks::new().detach("server", async move {
        let closing = async {
            if closing.await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        drop(told.send(server::serve(far, LIMITS, &Echo, closing).await));
    });
    (near, close, ended)
}

fn get(path: &str) -> http::request::Parts {
    Request::get(path).header("host", "a").body(()).unwrap().into_parts().0
}

fn post(path: &str) -> http::request::Parts {
    Request::post(path).header("host", "a").body(()).unwrap().into_parts().0
}

fn none() -> Empty<Bytes> {
    Empty::new()
}

/// Sends bytes and reads until the end of the connection, or until nothing more comes.
async fn raw(bytes: impl AsRef<[u8]>) -> String {
    let (mut near, _close, _ended) = served(1 << 20);
    near.write_all(bytes.as_ref()).await.unwrap();
    let mut read = vec![0; 1 << 16];
    let mut length = 0;
    while let Ok(Ok(more)) = timeout(Duration::from_secs(1), near.read(&mut read[length..])).await
        && more > 0
    {
        length += more;
    }
    String::from_utf8(read[..length].to_vec()).unwrap()
}

#[tokio::test]
async fn one_request_follows_the_other() {
    let (near, _close, _ended) = served(100);
    let (mut connection, tasks) = (Connection::new(near), Tasks::new());
    for round in 0..20usize {
        let text = "x".repeat(round * 700);
        let response = match round % 3 {
            0 => connection.send(&post("/"), Full::new(Bytes::from(text.clone())), &tasks).await.unwrap(),
            // Of a length that is not known.
            _ => {
                let frames = text.as_bytes().chunks(500).map(|chunk| Ok(Frame::data(Bytes::copy_from_slice(chunk))));
                let frames: Vec<Result<Frame<Bytes>, BoxError>> = frames.collect();
                connection.send(&post("/"), StreamBody::new(stream::iter(frames)), &tasks).await.unwrap()
            }
        };
        let mut body = response.into_body();
        let mut read = Vec::new();
        while let Some(frame) = body.frame().await {
            read.extend_from_slice(&frame.unwrap().into_data().unwrap());
        }
        assert!(read == text.as_bytes(), "round {round}");
        connection = body.release().expect("it goes on");
        assert!(connection.is_quiet());
    }
}

#[tokio::test]
async fn announced_trailers_arrive_where_they_are_read() {
    let tasks = Tasks::new();
    for (te, expected) in [(Some("trailers"), Some("7")), (None, None)] {
        let (near, _close, _ended) = served(4_096);
        let mut head = get("/trailers");
        head.headers.extend(te.map(|te| (TE, HeaderValue::from_static(te))));
        let collected =
            Connection::new(near).send(&head, none(), &tasks).await.unwrap().into_body().collect().await.unwrap();
        let trailer = collected.trailers().and_then(|trailers| trailers.get("x-sum")).cloned();
        assert_eq!(trailer.as_ref().map(|value| value.to_str().unwrap()), expected);
        assert_eq!(collected.to_bytes(), "abc");
    }
}

#[tokio::test]
async fn an_early_answer_ends_an_endless_request() {
    let (near, _close, ended) = served(1_000);
    let frames = stream::repeat_with(|| Ok::<_, BoxError>(Frame::data(Bytes::from_static(&[7; 1024]))));
    let (head, tasks) = (post("/early"), Tasks::new());
    let sent = Connection::new(near).send(&head, StreamBody::new(frames), &tasks);
    let response = timeout(PATIENCE, sent).await.unwrap().unwrap();
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let mut body = response.into_body();
    assert!(body.is_end_stream() && body.release().is_none());
    drop(body);
    timeout(PATIENCE, ended).await.expect("the connection ends").unwrap().ok();
}

/// A server that reads no more of a request keeps nothing of it once its answer cannot be one.
#[tokio::test]
async fn a_broken_answer_ends_the_rest_of_its_request() {
    for (answer, ends) in [(&b"zz\r\n"[..], false), (b"", true)] {
        let (near, mut far) = duplex(1_000);
        let (tasks, held) = (Tasks::new(), Arc::new(()));
        let (head, holds) = (post("/"), Arc::clone(&held));
        let frames = stream::repeat_with(move || {
            let _holds = &holds;
            Ok::<_, BoxError>(Frame::data(Bytes::from_static(&[7; 1024])))
        });
        far.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
        let sent = Connection::new(near).send(&head, StreamBody::new(frames), &tasks);
        let mut body = timeout(PATIENCE, sent).await.unwrap().unwrap().into_body();
        far.write_all(answer).await.unwrap();
        if ends {
            far.shutdown().await.unwrap();
        }
        let broken = timeout(PATIENCE, body.frame()).await.unwrap();
        assert!(matches!(broken, Some(Err(Error::Parse(_) | Error::Ended))), "{broken:?}");
        // The body is still there, as it is where the caller has not taken the error yet.
        let gone = async {
            while Arc::strong_count(&held) > 1 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, gone).await.expect("nobody keeps the request's body");
        drop(body);
    }
}

/// On threads, so that a deadlock does not stop the clock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_may_hold_the_body_of_its_request() {
    let (mut near, _close, ended) = served(4_096);
    near.write_all(b"POST /held HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc").await.unwrap();
    let mut read = String::new();
    timeout(PATIENCE, near.read_to_string(&mut read)).await.expect("an answer, and the end").unwrap();
    assert!(read.starts_with("HTTP/1.1 200 OK\r\n") && read.ends_with("early\r\n0\r\n\r\n"), "{read}");
    timeout(PATIENCE, ended).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_body_is_what_its_head_says() {
    let mut head = post("/");
    head.headers.insert("content-length", HeaderValue::from_static("5"));
    for text in ["abc", "abcdefg", ""] {
        let (near, _close, _ended) = served(4_096);
        let sent = Connection::new(near).send(&head, Full::new(Bytes::from(text)), &Tasks::new()).await;
        assert!(matches!(sent, Err(Error::Body(_))), "{text:?}: {sent:?}");
    }
}

#[tokio::test]
async fn a_caller_that_goes_away_ends_its_request() {
    // Many clients of HTTP/2 ask for it so, and mind no answer in HTTP/1.1.
    for headers in ["", "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n", "Upgrade: websocket\r\n"] {
        let (mut near, _close, ended) = served(4_096);
        near.write_all(format!("GET /stall HTTP/1.1\r\nHost: a\r\n{headers}\r\n").as_bytes()).await.unwrap();
        drop(near);
        assert!(timeout(PATIENCE, ended).await.unwrap().unwrap().is_err(), "{headers}");
    }
}

#[tokio::test]
async fn a_signal_ends_a_connection_between_two_requests() {
    let (near, close, ended) = served(4_096);
    let mut body = Connection::new(near).send(&get("/"), none(), &Tasks::new()).await.unwrap().into_body();
    let mut kept = body.release().expect("nothing has ended");
    assert!(kept.is_quiet());
    close.send(()).unwrap();
    timeout(PATIENCE, ended).await.unwrap().unwrap().unwrap();
    assert!(!kept.is_quiet());
}

#[tokio::test]
async fn a_protocol_changes_at_both_ends() {
    let (near, _close, _ended) = served(4_096);
    let mut head = get("/upgrade");
    head.headers.insert(UPGRADE, HeaderValue::from_static("echo"));
    let mut response = Connection::new(near).send(&head, none(), &Tasks::new()).await.unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    let mut stream = Upgraded::take(&mut response).expect("the connection");
    assert!(Upgraded::take(&mut response).is_none());
    stream.write_all(b"ping").await.unwrap();
    let mut read = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut read)).await.unwrap().unwrap();
    assert_eq!(read, "ping");
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let request = |text: &str| format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{text}", text.len());
    let read = raw(request("one") + &request("three") + "GET / HTTP/1.0\r\n\r\n").await;
    let (one, three) = (read.find("one").unwrap(), read.find("three").unwrap());
    assert!(one < three && read.matches("HTTP/1.1 200 OK\r\n").count() == 2, "{read}");
    assert!(read.contains("HTTP/1.0 200 OK\r\n") && read.contains("connection: close"), "{read}");
}

#[tokio::test]
async fn who_waits_for_a_word_gets_it_once_and_before_the_answer() {
    let head = "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
    let (mut near, _close, _ended) = served(4_096);
    near.write_all(head.as_bytes()).await.unwrap();
    let mut word = [0; 25];
    timeout(PATIENCE, near.read_exact(&mut word)).await.unwrap().unwrap();
    assert_eq!(&word, b"HTTP/1.1 100 Continue\r\n\r\n");
    near.write_all(b"ab").await.unwrap();
    let mut answer = [0; 15];
    timeout(PATIENCE, near.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
    // Who does not wait needs no word.
    assert!(raw(format!("{head}ab")).await.starts_with("HTTP/1.1 200 OK"));
}

#[tokio::test]
async fn what_is_refused_is_answered_and_ends_the_connection() {
    for (bytes, status) in [
        ("GET / HTTP/1.1\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx", "400"),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "400"),
        (&format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(9_000)), "431"),
        (&format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(21)), "431"),
    ] {
        let read = raw(bytes).await;
        assert!(read.starts_with(&format!("HTTP/1.1 {status} ")), "{bytes:.40?}: {read}");
        assert!(read.contains("connection: close\r\n") && read.matches("HTTP/1.1").count() == 1, "{read}");
    }
}

#[tokio::test]
async fn a_response_that_is_none_is_an_error_and_one_cut_off_is_no_end() {
    async fn answered(bytes: impl Into<String>) -> Result<Bytes, Error> {
        let bytes = bytes.into();
        let (near, mut far) = duplex(4_096);
        Tasks::new().detach("server", async move {
            far.read_exact(&mut [0; 16]).await.unwrap();
            // Nobody reads on what is refused.
            drop(far.write_all(bytes.as_bytes()).await);
        });
        let response = Connection::new(near).send(&get("/"), none(), &Tasks::new()).await?;
        Ok(response.into_body().collect().await?.to_bytes())
    }
    let interim = |count| "HTTP/1.1 103 x\r\n\r\n".repeat(count) + "HTTP/1.1 204 x\r\n\r\n";
    assert!(answered(interim(16)).await.is_ok());
    let long = |length: usize| {
        let rest = "HTTP/1.1 204 x\r\nX: \r\n\r\n".len();
        format!("HTTP/1.1 204 x\r\nX: {}\r\n\r\n", "y".repeat(length - rest))
    };
    let lines = |lines| format!("HTTP/1.1 204 x\r\n{}\r\n", "X: y\r\n".repeat(lines));
    assert!(answered(long(65_536)).await.is_ok() && answered(lines(132)).await.is_ok());
    for beyond in [interim(17), long(65_537), lines(133)] {
        assert!(matches!(answered(beyond).await, Err(Error::Parse(_))));
    }
    for bad in ["hello\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx"] {
        assert!(matches!(answered(bad).await, Err(Error::Parse(_))), "{bad:?}");
    }
    for cut in [
        "",
        "HTTP/1.1 200",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ] {
        assert!(matches!(answered(cut).await, Err(Error::Ended)), "{cut:?}");
    }
    assert_eq!(answered("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 200 OK\r\n\r\nto the end").await.unwrap(), "to the end");
}
