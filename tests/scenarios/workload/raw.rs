//! Requests that no published client sends.

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::{application, node, own, socket};

/// An empty message.
const EMPTY: &[u8] = &[0, 0, 0, 0, 0];

/// Sends one request; gives the HTTP status, and what gRPC says.
async fn ask(
    socket: &std::path::Path,
    path: &str,
    sort: &str,
    metadata: &[&str],
    body: &'static [u8],
) -> (u16, String, String) {
    let stream = tokio::net::UnixStream::connect(socket).await.expect("the socket is there");
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
    let mut request = Request::post(format!("http://localhost{path}")).header(header::CONTENT_TYPE, sort);
    for value in metadata {
        request = request.header("workload.spiffe.io", *value);
    }
    let request = request.body(Full::new(Bytes::from_static(body))).expect("a request");
    let asked = async {
        let answer = sender.send_request(request).await.expect("an answer");
        let (status, mut fields) = (answer.status().as_u16(), answer.headers().clone());
        if !fields.contains_key("grpc-status") {
            // A stream that goes on is told by its first frame.
            let mut body = answer.into_body();
            let frame = body.frame().await;
            fields.extend(frame.and_then(Result::ok).and_then(|frame| frame.into_trailers().ok()).unwrap_or_default());
        }
        let said = |name: &str| fields.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        (status, said("grpc-status"), said("grpc-message"))
    };
    tokio::select! {
        answer = asked => answer,
        ended = connection => panic!("the connection ended: {ended:?}"),
    }
}

#[test]
fn what_the_standard_forbids_is_refused_as_it_says() {
    const FETCH: &str = "/SpiffeWorkloadAPI/FetchX509SVID";
    const GRPC: &str = "application/grpc";
    let (_cluster, dir) = node(&[own()]);
    let socket = socket(&dir);
    application(async {
        let ask =
            async |path: &str, sort: &str, metadata: &[&str], body| ask(&socket, path, sort, metadata, body).await;
        assert_eq!(ask(FETCH, GRPC, &["true"], EMPTY).await.1, "", "it goes on");
        for metadata in [&[][..], &["false"], &["TRUE"], &["true", "true"]] {
            for path in [FETCH, "/SpiffeWorkloadAPI/FetchX509Bundles", "/SpiffeWorkloadAPI/FetchJWTSVID", "/x"] {
                let (_, code, message) = ask(path, GRPC, metadata, EMPTY).await;
                assert!(
                    code == "3" && message.contains("security header missing"),
                    "{path} {metadata:?}: {code} {message}"
                );
            }
        }
        for method in ["FetchJWTSVID", "FetchJWTBundles", "ValidateJWTSVID", "FetchAnything"] {
            let (_, code, message) = ask(&format!("/SpiffeWorkloadAPI/{method}"), GRPC, &["true"], EMPTY).await;
            assert_eq!(code, "12", "{method}: {message}");
        }
        // Other packages' methods of the same name.
        assert_eq!(ask("/other.SpiffeWorkloadAPI/FetchX509SVID", GRPC, &["true"], EMPTY).await.1, "12");
        // Fields that a later version of the request may have do not hurt.
        assert_eq!(ask(FETCH, GRPC, &["true"], &[0, 0, 0, 0, 2, 8, 1]).await.1, "");
        for (body, code) in [(&[][..], "3"), (&[0, 0, 0, 0, 9], "3"), (&[1, 0, 0, 0, 0], "12"), (&[0; 64 << 10], "8")] {
            let (_, told, message) = ask(FETCH, GRPC, &["true"], body).await;
            assert_eq!(told, code, "{} bytes: {message}", body.len());
        }
        for sort in ["application/json", "application/grpc-web+proto", ""] {
            assert_eq!(ask(FETCH, sort, &["true"], EMPTY).await.0, 415, "{sort}");
        }
    });
}
