//! Lines as Istio writes them, in text and as JSON.

use super::*;
use crate::telemetry::{Flags, Protocol, access_log::entry::LogSide};
use http::{HeaderMap, Method, Version};
use std::net::{IpAddr, SocketAddr};

fn entry() -> Entry {
    let header = |name: &'static str, value: &[u8]| {
        (http::HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap())
    };
    Entry {
        began: 1_700_000_000_123_000,
        method: Some(Method::GET),
        path: "/a\"b?c=d".to_owned(),
        version: Version::HTTP_11,
        scheme: "https",
        authority: "reviews".to_owned(),
        request: HeaderMap::from_iter([
            header("user-agent", b"curl\xff\x1b[31m"[..5].as_ref()),
            header("x-forwarded-for", b"10.0.0.1"),
            header("x-request-id", b"7"),
        ]),
        response: HeaderMap::from_iter([header("content-type", b"text/plain")]),
        side: LogSide::Server,
        cluster: Some("inbound|9080||".to_owned()),
        route: "default".to_owned(),
        upstream: Some("127.0.0.1:8080".parse().unwrap()),
        local: "10.0.0.2".parse::<IpAddr>().unwrap().into(),
        remote: "10.0.0.1".parse::<IpAddr>().unwrap().into(),
        peer: Some("spiffe://t.example/ns/shop/sa/web".to_owned()),
        server_name: Some("reviews.shop.t.example".to_owned()),
        details: None,
        transport_failure: None,
        upstream_labels: None,
        received: 3,
        sent: 42,
        answered_after: Some(Duration::from_millis(5)),
    }
}

fn summary(code: u16) -> Summary {
    Summary { protocol: Protocol::Http, code, grpc_status: None, flags: Flags::NONE }
}

#[test]
fn istios_text() {
    let line = entry().line(&AccessLog::default(), &LineFormat::default(), &summary(200), Duration::from_millis(7));
    assert_eq!(
        line,
        "[2023-11-14T22:13:20.123Z] \"GET /a\\\"b?c=d HTTP/1.1\" 200 - via_upstream - \"-\" 3 42 7 5 \"10.0.0.1\" \
         \"curl\\xff\" \"7\" \"reviews\" \"127.0.0.1:8080\" inbound|9080|| - 10.0.0.2 10.0.0.1 reviews.shop.t.example default\n"
    );
}

#[test]
fn what_the_transport_said_is_told_in_one_line() {
    let said = "invalid peer certificate: \"Expired\"\nGET /forged";
    let failed = Entry { transport_failure: Some(said.into()), ..entry() };
    let line = failed.line(&AccessLog::default(), &LineFormat::default(), &summary(503), Duration::ZERO);
    assert!(line.contains("\"invalid peer certificate: \\\"Expired\\\"\\x0aGET /forged\" 3 42"), "{line}");
    assert_eq!(line.matches('\n').count(), 1, "{line}");
    let json = AccessLog { json: true, ..AccessLog::default() };
    let json = failed.line(&json, &LineFormat::default(), &summary(503), Duration::ZERO);
    let value: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value["upstream_transport_failure_reason"], Value::from(said));
}

#[test]
fn what_the_transport_said_is_told_within_a_bound() {
    let mut failed = entry();
    failed.transport_said(Some("é".repeat(9_999).into()));
    let json = AccessLog { json: true, ..AccessLog::default() };
    let json = failed.line(&json, &LineFormat::default(), &summary(503), Duration::ZERO);
    let value: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value["upstream_transport_failure_reason"].as_str().map(str::len), Some(1_024));
}

#[test]
fn a_connection_has_nothing_of_a_request() {
    let details = Some("rbac[none]".into());
    let refused = Entry { method: None, details, response: HeaderMap::new(), answered_after: None, ..entry() };
    let of_tcp = Summary { protocol: Protocol::Tcp, ..summary(0) };
    let line = refused.line(&AccessLog::default(), &LineFormat::default(), &of_tcp, Duration::from_millis(7));
    assert!(
        line.contains("] \"- - -\" 0 - - rbac[none] \"-\" 3 42 7 - \"-\" \"-\" \"-\" \"-\" \"127.0.0.1:8080\""),
        "{line}"
    );
    let json = refused.line(
        &AccessLog { json: true, ..AccessLog::default() },
        &LineFormat::default(),
        &of_tcp,
        Duration::ZERO,
    );
    let value: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&value["method"], &value["protocol"], &value["authority"]), (&Value::Null, &Value::Null, &Value::Null));
    assert_eq!(value["connection_termination_details"], Value::from("rbac[none]"));
}

#[test]
fn a_rewritten_request_is_logged_by_the_path_that_was_asked_for() {
    let mut rewritten = Entry { version: Version::HTTP_2, route: String::new(), ..entry() };
    rewritten.request.insert(ORIGINAL_PATH, HeaderValue::from_static("/asked?x"));
    let line = |json| {
        let (log, format) = (AccessLog { json, ..AccessLog::default() }, LineFormat::default());
        rewritten.line(&log, &format, &summary(200), Duration::ZERO)
    };
    let (text, json) = (line(false), serde_json::from_str::<Value>(&line(true)).unwrap());
    assert!(text.contains("\"GET /asked?x HTTP/2\"") && text.ends_with(" -\n"), "{text}");
    assert_eq!((&json["path"], &json["route_name"]), (&Value::from("/asked?x"), &Value::Null));
}

#[test]
fn json_has_istios_keys() {
    let log = AccessLog { json: true, ..AccessLog::default() };
    let denied = Entry { details: Some("rbac".into()), upstream: None, ..entry() };
    let line = denied.line(&log, &LineFormat::default(), &summary(403), Duration::from_millis(7));
    assert!(line.ends_with("}\n") && line.matches('\n').count() == 1, "{line}");
    let value: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&value["response_code"], &value["response_code_details"]), (&Value::from(403), &Value::from("rbac")));
    assert_eq!((&value["upstream_host"], &value["path"]), (&Value::Null, &Value::from("/a\"b?c=d")));
    assert_eq!(value.as_object().unwrap().len(), 24);
    assert_eq!(value["upstream_service_time"], Value::Null);
    let line = entry().line(&log, &LineFormat::default(), &summary(200), Duration::from_millis(7));
    let value: Value = serde_json::from_str(&line).unwrap();
    // What stands for a header is a string, what Envoy counts itself is a number.
    assert_eq!((&value["upstream_service_time"], &value["duration"]), (&Value::from("5"), &Value::from(7)));
}

#[test]
fn labels_are_an_object_in_their_order() {
    let labels =
        [("path", "%REQ(:PATH)%"), ("code", "%RESPONSE_CODE%"), ("sni", "%REQ(x-none)%"), ("both", "%REQ(:METHOD)% 1")];
    let labels = labels.map(|(name, format): (&str, &str)| (name.to_owned(), format.parse().unwrap())).to_vec();
    let format = LineFormat { text: None, labels };
    let line = entry().line(&AccessLog::default(), &format, &summary(200), Duration::ZERO);
    assert_eq!(line, "{\"path\":\"/a\\\"b?c=d\",\"code\":200,\"sni\":null,\"both\":\"GET 1\"}\n");
    let format = LineFormat { text: Some("%REQ(:PATH)%".parse().unwrap()), labels: Vec::new() };
    assert_eq!(
        entry().line(&AccessLog { json: true, ..AccessLog::default() }, &format, &summary(200), Duration::ZERO),
        "/a\\\"b?c=d\n"
    );
    assert_eq!(plain(&entry(), &"%REQ(user-agent)%".parse().unwrap(), &summary(200), Duration::ZERO), "curl\u{fffd}");
}

#[test]
fn operators_beside_istios_default() {
    let text = |format: &str, summary: &Summary| {
        let format = LineFormat { text: Some(format.parse().unwrap()), labels: Vec::new() };
        let entry = Entry { local: SocketAddr::from(([10, 0, 0, 2], 80)).into(), ..entry() };
        entry.line(&AccessLog::default(), &format, summary, Duration::from_millis(7))
    };
    assert_eq!(
        text(
            "%START_TIME(%Y/%m/%dT%H:%M:%S%z %s.%3f)% %REQ_WITHOUT_QUERY(:PATH)% %STREAM_ID% %REQ(:SCHEME)%",
            &summary(200)
        ),
        "2023/11/14T22:13:20+0000 1700000000.123 /a\\\"b 7 https\n"
    );
    assert_eq!(
        text(
            "%RESPONSE_DURATION% %RESPONSE_TX_DURATION% %DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_LOCAL_PORT% \
             %DOWNSTREAM_REMOTE_PORT% %UPSTREAM_REMOTE_ADDRESS% %UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %UPSTREAM_REMOTE_PORT%",
            &summary(200)
        ),
        "5 2 10.0.0.2 80 - 127.0.0.1:8080 127.0.0.1 8080\n"
    );
    let every = "%GRPC_STATUS% %GRPC_STATUS(SNAKE_STRING)% %GRPC_STATUS_NUMBER%";
    assert_eq!(text(every, &summary(200)), "- - -\n");
    let told = |status| text(every, &Summary { grpc_status: Some(status), ..summary(200) });
    assert_eq!((told(14), told(77)), ("Unavailable UNAVAILABLE 14\n".to_owned(), "77 77 77\n".to_owned()));
    assert_ne!(text("%HOSTNAME%", &summary(200)), "-\n");
}

#[test]
fn a110_nothing_in_a_value_begins_a_line_or_reaches_a_terminal() {
    let mut line = String::new();
    escape(&mut line, b"a\r\n[forged] \x1b[31m\t\xc3\xa4\"\\");
    assert_eq!(line, "a\\x0d\\x0a[forged] \\x1b[31m\\x09\\xc3\\xa4\\\"\\\\");
    let json = ascii(&Value::from("\u{9b}31m \u{1f600}\u{7f}").to_string());
    assert_eq!(json, "\"\\u009b31m \\ud83d\\ude00\\u007f\"");
    assert_eq!(serde_json::from_str::<String>(&json).unwrap(), "\u{9b}31m \u{1f600}\u{7f}");
}

#[test]
fn mutual_tls_is_who_proved_who_it_is_and_ports_are_those_that_were_meant() {
    let summary = summary(200);
    let of = |entry: &Entry| {
        let ended = Ended { entry, summary: &summary, duration: Duration::from_millis(7) };
        let port = |fact| ended.number(fact);
        (ended.is_mutual_tls(), port(NumberFact::DestinationPort), port(NumberFact::SourcePort))
    };
    assert_eq!(of(&entry()), (true, Some(9080), None));
    // Whoever comes in clear to a port that permits it, at the same node.
    let remote = SocketAddr::from(([10, 0, 0, 1], 4_711)).into();
    let local = SocketAddr::from(([127, 0, 0, 1], 15_001)).into();
    let in_clear = Entry { peer: None, local, remote, ..entry() };
    assert_eq!(of(&in_clear), (false, Some(9080), Some(4_711)));
    assert_eq!(of(&Entry { cluster: None, ..in_clear }), (false, Some(15_001), Some(4_711)));
}
