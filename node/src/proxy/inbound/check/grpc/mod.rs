//! Asking by gRPC: `envoy.service.auth.v3.Authorization/Check`.

mod messages;

use super::{ANSWER_BYTES, Change, Changes, Denial, PARTIAL, Question, Verdict, Way, change};
use crate::{
    clock,
    proxy::{http::ResponseBody, reply::GRPC_STATUS},
};
use ::http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{CONTENT_TYPE, TE},
};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use certs::id::SpiffeId;
use http_body_util::{BodyExt as _, Limited};
use messages::{
    Address, AttributeContext, CheckRequest, CheckResponse, DeniedHttpResponse, HeaderValueOption, HttpRequest,
    HttpResponse, OkHttpResponse, Peer, SocketAddress, Timestamp,
};
use policy::hosts;
use prost::Message as _;
use std::{collections::BTreeMap, net::IpAddr};

const PATH: &str = "/envoy.service.auth.v3.Authorization/Check";
/// Bytes before a message: compressed or not, and its length.
const PREFIX: usize = 5;
/// `google.rpc.Code`.
const OK: i32 = 0;

/// Asks; an error says in words why there is no answer.
pub(super) async fn ask(question: &Question<'_>) -> Result<Verdict, String> {
    let provider = &question.asker.provider;
    let host = format!("{}:{}", hosts::full_name(&provider.service), provider.port);
    let host = HeaderValue::from_str(&host).map_err(|_| "the service has no name".to_owned())?;
    let message = CheckRequest { attributes: Some(attributes(question)) };
    let mut frame = BytesMut::with_capacity(PREFIX + message.encoded_len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.encoded_len()).map_err(|_| "the question is too long".to_owned())?);
    message.encode(&mut frame).map_err(|error| error.to_string())?;
    let mut request = Request::new(Some(frame.freeze()));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::from_static(PATH);
    request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    request.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
    request.headers_mut().extend(question.traces().map(|(name, value)| (name.clone(), value.clone())));
    let response = question.send(host, request).await?;
    verdict(read(response).await?)
}

/// The one message of an answer.
async fn read(response: Response<ResponseBody>) -> Result<CheckResponse, String> {
    let (head, body) = response.into_parts();
    if head.status != StatusCode::OK {
        return Err(format!("it answered {}", head.status));
    }
    let collected = Limited::new(body, ANSWER_BYTES).collect().await.map_err(|error| format!("its answer: {error}"))?;
    let in_trailers = collected.trailers().and_then(|trailers| trailers.get(GRPC_STATUS));
    let status = in_trailers.or_else(|| head.headers.get(GRPC_STATUS));
    match status.map(HeaderValue::as_bytes) {
        Some(b"0") => message(collected.to_bytes()),
        Some(status) => Err(format!("it ended with gRPC status {}", String::from_utf8_lossy(status))),
        None => Err("it speaks no gRPC".to_owned()),
    }
}

fn message(mut body: Bytes) -> Result<CheckResponse, String> {
    if body.len() < PREFIX || body.get_u8() != 0 {
        return Err("its answer is no message".to_owned());
    }
    let length = body.get_u32();
    if usize::try_from(length) != Ok(body.len()) {
        return Err("its answer is not one message".to_owned());
    }
    CheckResponse::decode(body).map_err(|error| format!("its answer: {error}"))
}

fn verdict(said: CheckResponse) -> Result<Verdict, String> {
    let is_ok = said.status.as_ref().is_none_or(|status| status.code == OK);
    match (is_ok, said.http_response) {
        (true, Some(HttpResponse::Ok(ok))) => Ok(Verdict::Allowed(consent(&ok)?)),
        (true, None) => Ok(Verdict::Allowed(Changes::default())),
        // Whatever the status says: of two words the stricter counts.
        (_, Some(HttpResponse::Denied(denied))) => Ok(Verdict::Denied(refusal(&denied)?)),
        (false, None | Some(HttpResponse::Ok(_))) => {
            Ok(Verdict::Denied(Denial { status: StatusCode::FORBIDDEN, headers: HeaderMap::new(), body: Bytes::new() }))
        }
    }
}

fn consent(ok: &OkHttpResponse) -> Result<Changes, String> {
    let name = |name: &String| HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("no header: {name:?}"));
    let pairs = ok.query_parameters_to_set.iter().map(|pair| (pair.key.clone(), pair.value.clone()));
    Ok(Changes {
        request: lines(&ok.headers)?,
        removed: ok.headers_to_remove.iter().map(name).collect::<Result<_, _>>()?,
        response: lines(&ok.response_headers_to_add)?,
        query_set: pairs.collect(),
        query_removed: ok.query_parameters_to_remove.clone(),
    })
}

fn refusal(denied: &DeniedHttpResponse) -> Result<Denial, String> {
    let code = denied.status.as_ref().map_or(0, |status| status.code);
    let status = match u16::try_from(code).ok().filter(|code| *code != 0) {
        None => StatusCode::FORBIDDEN,
        Some(code) => StatusCode::from_u16(code).map_err(|_| format!("it refuses with status {code}"))?,
    };
    if status.is_informational() {
        return Err(format!("it refuses with status {status}"));
    }
    let mut headers = HeaderMap::new();
    super::changes::apply(&lines(&denied.headers)?, &mut headers);
    Ok(Denial { status, headers, body: Bytes::from(denied.body.clone()) })
}

/// Header lines; `append` is false where nothing is said of it, as `ext_authz` has it.
fn lines(options: &[HeaderValueOption]) -> Result<Vec<Change>, String> {
    let mut lines = Vec::new();
    for option in options {
        let Some(header) = &option.header else { continue };
        let bytes = if header.raw_value.is_empty() { header.value.as_bytes() } else { &header.raw_value };
        let read = HeaderName::from_bytes(header.key.as_bytes()).ok().zip(HeaderValue::from_bytes(bytes).ok());
        let (name, value) = read.ok_or_else(|| format!("no header: {:?}", header.key))?;
        let way = match (option.append.as_ref().map(|append| append.value), option.append_action) {
            (Some(true), _) => Way::Append,
            (Some(false), _) | (None, 0 | 2) => Way::Set,
            (None, 1) => Way::AddIfAbsent,
            (None, 3) => Way::OverwriteIfPresent,
            (None, other) => return Err(format!("append_action {other} is not known")),
        };
        change(&mut lines, name, value, way);
    }
    Ok(lines)
}

fn attributes(question: &Question<'_>) -> AttributeContext {
    let who = question.arriving.who;
    let now = clock::wall();
    AttributeContext {
        source: Some(Peer {
            address: Some(address(question.client(), 0)),
            service: String::new(),
            labels: BTreeMap::new(),
            principal: who.identity.as_ref().map(SpiffeId::uri).unwrap_or_default(),
        }),
        destination: Some(Peer {
            address: Some(address(who.destination, who.port)),
            service: hosts::full_name(&who.service),
            labels: BTreeMap::new(),
            principal: question.own.uri(),
        }),
        request: Some(messages::Request {
            time: Some(Timestamp {
                seconds: i64::try_from(now / 1_000).unwrap_or(i64::MAX),
                nanos: i32::try_from(now % 1_000 * 1_000_000).unwrap_or_default(),
            }),
            http: Some(http_request(question)),
        }),
    }
}

fn address(ip: IpAddr, port: u16) -> Address {
    Address { socket_address: Some(SocketAddress { protocol: 0, address: ip.to_string(), port_value: port.into() }) }
}

fn http_request(question: &Question<'_>) -> HttpRequest {
    let parts = question.parts;
    let host = String::from_utf8_lossy(question.arriving.host.as_bytes()).into_owned();
    let mut headers: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in &parts.headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        headers
            .entry(name.as_str().to_owned())
            .and_modify(|known| {
                known.push(',');
                known.push_str(&value);
            })
            .or_insert_with(|| value.clone().into_owned());
    }
    let pseudo = [
        (":method", parts.method.as_str()),
        (":path", question.path()),
        (":authority", host.as_str()),
        (":scheme", question.arriving.scheme),
    ];
    headers.extend(pseudo.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let as_bytes = question.asker.provider.body.is_some_and(|body| body.as_bytes);
    let (mut body, mut raw_body) = (String::new(), Vec::new());
    if let Some(told) = &question.body {
        headers.insert(PARTIAL.as_str().to_owned(), (!told.is_whole).to_string());
        if as_bytes {
            raw_body = told.bytes.to_vec();
        } else {
            body = String::from_utf8_lossy(&told.bytes).into_owned();
        }
    }
    HttpRequest {
        id: headers.get("x-request-id").cloned().unwrap_or_default(),
        method: parts.method.as_str().to_owned(),
        headers,
        path: question.path().to_owned(),
        host,
        scheme: question.arriving.scheme.to_owned(),
        size: question.size.and_then(|size| i64::try_from(size).ok()).unwrap_or(-1),
        protocol: if parts.version == Version::HTTP_2 { "HTTP/2" } else { "HTTP/1.1" }.to_owned(),
        body,
        raw_body,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use messages::{BoolValue, HttpStatus, Status};

    fn header(key: &str, value: &str, append: Option<bool>, append_action: i32) -> HeaderValueOption {
        let header = messages::HeaderValue { key: key.into(), value: value.into(), raw_value: Vec::new() };
        HeaderValueOption { header: Some(header), append: append.map(|value| BoolValue { value }), append_action }
    }

    fn said(code: i32, http_response: Option<HttpResponse>) -> Result<Verdict, String> {
        verdict(CheckResponse { status: Some(Status { code, message: String::new() }), http_response })
    }

    #[test]
    fn an_answer_is_read_as_envoy_reads_it() {
        let ok = OkHttpResponse {
            headers: vec![
                header("x-user", "ann", None, 0),
                header("X-More", "b", Some(true), 0),
                header("host", "h", None, 0),
            ],
            headers_to_remove: vec!["authorization".into()],
            response_headers_to_add: vec![header("x-seen", "1", None, 1)],
            ..OkHttpResponse::default()
        };
        let Ok(Verdict::Allowed(changes)) = said(0, Some(HttpResponse::Ok(ok.clone()))) else { panic!("allowed") };
        let ways: Vec<_> = changes.request.iter().map(|line| (line.name.as_str(), line.way)).collect();
        assert_eq!(ways, [("x-user", Way::Set), ("x-more", Way::Append)], "the host is the proxy's");
        assert_eq!((changes.removed.len(), changes.response[0].way), (1, Way::AddIfAbsent));
        assert!(matches!(said(7, Some(HttpResponse::Ok(ok))), Ok(Verdict::Denied(_))));
        assert!(matches!(said(0, None), Ok(Verdict::Allowed(_))));
        let denied = DeniedHttpResponse {
            status: Some(HttpStatus { code: 302 }),
            headers: vec![header("location", "/login", None, 0)],
            body: "go".into(),
        };
        for code in [0, 16] {
            let Ok(Verdict::Denied(denial)) = said(code, Some(HttpResponse::Denied(denied.clone()))) else { panic!() };
            assert_eq!((denial.status, denial.body), (StatusCode::FOUND, Bytes::from_static(b"go")));
            assert_eq!(denial.headers["location"], "/login");
        }
        let Ok(Verdict::Denied(plain)) = said(7, None) else { panic!("denied") };
        assert_eq!(plain.status, StatusCode::FORBIDDEN);
    }

    #[test]
    fn what_cannot_be_done_is_no_answer() {
        let ok = |headers: Vec<HeaderValueOption>| {
            Some(HttpResponse::Ok(OkHttpResponse { headers, ..OkHttpResponse::default() }))
        };
        assert!(said(0, ok(vec![header("a b", "1", None, 0)])).is_err());
        assert!(said(0, ok(vec![header("a", "1\n", None, 0)])).is_err());
        assert!(said(0, ok(vec![header("a", "1", None, 9)])).is_err());
        let refused = |code| {
            Some(HttpResponse::Denied(DeniedHttpResponse {
                status: Some(HttpStatus { code }),
                ..DeniedHttpResponse::default()
            }))
        };
        assert!(said(7, refused(100)).is_err() && said(7, refused(7_000)).is_err());
        for bytes in [&b""[..], &[1, 0, 0, 0, 0], &[0, 0, 0, 0, 9], &[0, 0, 0, 0, 1, 0xff]] {
            assert!(message(Bytes::copy_from_slice(bytes)).is_err(), "{bytes:?}");
        }
        assert!(message(Bytes::from_static(&[0, 0, 0, 0, 0])).is_ok());
    }
}
