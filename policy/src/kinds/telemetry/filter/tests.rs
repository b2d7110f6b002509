//! Tests of filters.

use proptest::prelude::*;

use super::*;
use crate::{codes, parse};

/// A request to `/api/v1?x=1` that was answered 503.
#[derive(Default)]
struct Request {
    bare: bool,
}

impl Facts for Request {
    fn text(&self, fact: TextFact) -> Option<Cow<'_, str>> {
        Some(match fact {
            TextFact::Path => "/api/v1?x=1".into(),
            TextFact::UrlPath => "/api/v1".into(),
            TextFact::Query => "x=1".into(),
            TextFact::Host => "web:80".into(),
            TextFact::Scheme => "http".into(),
            TextFact::Method => "GET".into(),
            TextFact::Protocol => "HTTP/1.1".into(),
            TextFact::Cluster => "inbound|80||".into(),
            TextFact::TransportFailure => "invalid peer certificate: Expired".into(),
            TextFact::CodeDetails
            | TextFact::ServerName
            | TextFact::PeerUri
            | TextFact::SourceAddress
            | TextFact::DestinationAddress
            | TextFact::UpstreamAddress
            | TextFact::Route => return None,
        })
    }

    fn number(&self, fact: NumberFact) -> Option<i64> {
        match fact {
            NumberFact::Code => (!self.bare).then_some(503),
            NumberFact::RequestSize => Some(0),
            NumberFact::ResponseSize => Some(19),
            NumberFact::Duration => Some(250_000_000),
            NumberFact::DestinationPort => Some(9080),
            NumberFact::GrpcStatus | NumberFact::UpstreamPort | NumberFact::SourcePort => None,
        }
    }

    fn header(&self, message: Message, name: &str) -> Option<Cow<'_, str>> {
        match (message, name) {
            (Message::Request, "user-agent") if !self.bare => Some("curl/8".into()),
            (Message::Response, "x-a") => Some("b,c".into()),
            _ => None,
        }
    }

    fn upstream_label(&self, name: &str) -> Option<Cow<'_, str>> {
        (name == "App" && !self.bare).then(|| "cart".into())
    }

    fn is_mutual_tls(&self) -> bool {
        true
    }
}

fn asked(text: &str, request: &Request) -> bool {
    Filter::new(text).unwrap_or_else(|what| panic!("{text}: {what}")).is_match(request)
}

#[test]
fn what_is_true_is_logged() {
    for (text, expected) in [
        ("true", true),
        ("false", false),
        ("response.code >= 400", true),
        ("response.code >= 400 && request.path != '/health'", true),
        ("response.code == 503 || response.code == 504", true),
        ("response.code in [500, 0x1f7]", true),
        ("!(response.code in [500, 502])", true),
        ("request.path == '/filter-test'", false),
        ("request.url_path == '/api/v1'", true),
        ("request.url_path.contains('v1beta3')", false),
        ("connection.mtls && request.url_path.contains('v1')", true),
        ("!has(request.useragent) || !(request.useragent.startsWith(\"Amazon-Route53-Health-Check-Service\"))", true),
        ("request.headers['User-Agent'].endsWith('8')", true),
        ("request.headers.useragent == ''", false),
        ("'user-agent' in request.headers && !('x-a' in request.headers)", true),
        ("response.headers['x-a'] == \"b\\x2cc\"", true),
        ("request.url_path.matches('v[0-9]+$')", true),
        ("request.url_path.matches(r'^\\d')", false),
        ("size(request.query) == 3 && request.method.size() == 3", true),
        ("request.duration > duration('200ms') && request.duration < duration('1s')", true),
        ("request.duration - duration('100ms') == duration('150ms')", true),
        ("response.size * 2 + 2 == 40 && response.size % 2 == 1 && -response.size < -1", true),
        ("response.code == 200 ? false : request.method == 'POST' ? false : true", true),
        ("1 < 2 == true", true),
        ("!!true && !!!false && --1 == 1", true),
        ("xds.cluster_name.startsWith('inbound|')", true),
        ("upstream.transport_failure_reason.contains('Expired')", true),
        ("filter_state.upstream_peer.labels['App'] == 'cart'", true),
        ("upstream_peer.labels['App'].value == 'cart' && upstream_peer.labels.App == 'cart'", true),
        ("'App' in upstream_peer.labels && !('app' in filter_state.upstream_peer.labels)", true),
        ("has(filter_state.upstream_peer.labels['other'])", false),
        ("'''a''' == \"\"\"a\"\"\" && '\\u00e9' == 'é'", true),
    ] {
        assert_eq!(asked(text, &Request::default()), expected, "{text}");
    }
}

#[test]
fn what_cannot_be_told_is_not_logged_unless_the_rest_decides() {
    let bare = Request { bare: true };
    for (text, expected) in [
        ("response.code >= 400", false),
        ("!(response.code >= 400)", false),
        ("response.code >= 400 || true", true),
        ("true || response.code >= 400", true),
        ("response.code >= 400 || false", false),
        ("!(response.code >= 400 && false)", true),
        ("has(response.code)", false),
        ("!has(response.code) && !has(request.headers['user-agent'])", true),
        ("request.useragent == ''", false),
        ("filter_state.upstream_peer.labels['App'] != 'x'", false),
        ("200 in [response.code, 200]", true),
        ("201 in [response.code, 200]", false),
        ("response.size / request.size == 0", false),
        ("9223372036854775807 + response.size > 0", false),
        ("-9223372036854775808 < 0", true),
    ] {
        assert_eq!(asked(text, &bare), expected, "{text}");
    }
}

#[test]
fn what_is_not_known_here_is_refused_by_name_and_place() {
    for (expression, named) in [
        ("request.time > 5", "`request.time`"),
        ("metadata.filter_metadata['a'] == 'b'", "`metadata.filter_metadata`"),
        ("filter_state.upstream_peer.namespace == 'b'", "`filter_state.upstream_peer.namespace`"),
        ("filter_state.downstream_peer.labels['a'] == 'b'", "`filter_state.downstream_peer`"),
        ("upstream_peer.labels == 'b'", "a map of labels"),
        ("wasm", "`wasm`"),
        ("response.flags != 0", "`response.flags`"),
        ("response.code >= '400'", "a text where a number is needed"),
        ("response.code", "not true or false"),
        ("response.code + 'a' == 1", "a text where a number is needed"),
        ("response.code > 1.5", "the number `1.5`"),
        ("response.code > 400u", "the number `400u`"),
        ("request.path == b'a'", "the literal b'a'"),
        ("request.headers == request.headers", "a map of headers"),
        ("[1] == [1]", "a list other than after `in`"),
        ("request.path in 'abc'", "`in` with anything but"),
        ("response.code in ['a']", "`in` with another type"),
        ("[1].all(x, x > 0)", "the function `all`"),
        ("int(request.path) == 1", "the function `int`"),
        ("has(request.path, request.path)", "number of arguments"),
        ("request.path.matches(request.host)", "anything but a literal"),
        ("request.path.matches('(')", "not a regular expression"),
        ("duration('x') == duration('1s')", "the duration `x`"),
        ("request.duration > 5", "a number where a duration is needed"),
        ("request.path.name == 'a'", "the field `name`"),
        ("a{b: 1} == 2", "`a`"),
        ("request.path[0] == 'a'", "an index other than into headers"),
        ("null == request.path", "`null`"),
    ] {
        let yaml = serde_json::to_string(expression).unwrap();
        let text = format!(
            "apiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {{name: a}}\nspec:\n  accessLogging:\n  - filter:\n      expression: {yaml}\n"
        );
        let parsed = parse::yaml("f", &text, "default");
        let [problem] = parsed.problems.as_slice() else { panic!("{expression}: {:#?}", parsed.problems) };
        assert_eq!((problem.code, problem.line), (codes::NOT_SUPPORTED, 7), "{expression}");
        assert_eq!(problem.field, "spec.accessLogging[0].filter.expression", "{expression}");
        assert!(problem.message.contains(named), "{expression}: {}", problem.message);
    }
}

#[test]
fn the_longest_and_deepest_expressions_need_little_stack() {
    let deep = format!("{}true{}", "(".repeat(31), ")".repeat(31));
    let long = format!("true{}", " || !true".repeat(110));
    let nots = format!("{}true", "!".repeat(1_000));
    let chosen = format!("{}true", "false?true:".repeat(90));
    let minuses = format!("1 == {}1", "-".repeat(1_000));
    // Each bracket with as many operators around it as fit.
    let mixed = format!("{}1{} > 0", "(1+1*".repeat(31), ")".repeat(31));
    let run = move || {
        for text in [&deep, &long, &nots, &chosen, &minuses, &mixed] {
            assert!(asked(text, &Request::default()), "{text}");
        }
        for text in ["1".to_owned() + &"+1".repeat(40) + " == 41", "true".to_owned() + &" == true".repeat(40)] {
            assert!(Filter::new(&text).is_err(), "{text}");
        }
    };
    std::thread::Builder::new().stack_size(1 << 20).spawn(run).unwrap().join().unwrap();
}

proptest! {
    #[test]
    fn any_expression_of_the_language_is_taken_or_refused(
        parts in prop::collection::vec(prop::sample::select(vec![
            "true", "1", "'a'", "b'a'", "response.code", "request.path", "request.headers", "connection.mtls", "has", "size",
            "(", ")", "[", "]", ".", ",", "?", ":", "!", "-", "+", "*", "%", "==", "<", "&&", "||", "in", "matches", "{", "}", "x",
        ]), 0..24),
    ) {
        let text = parts.join(" ");
        if expression::check(&text).is_ok()
            && let Ok(filter) = Filter::new(&text)
        {
            filter.is_match(&Request::default());
            filter.is_match(&Request { bare: true });
        }
    }
}

#[test]
fn labels_say_texts_numbers_and_truths() {
    let value = |source: &str| {
        let root = expression::tokens(source).and_then(|tokens| build::scalar(&tokens));
        root.map(|root| TagValue { source: source.to_owned(), root }.text(&Request::default()))
    };
    for (source, wanted) in [
        ("request.host", Some("web:80")),
        ("'a'", Some("a")),
        ("response.code", Some("503")),
        ("connection.mtls", Some("true")),
        ("request.method + '_' + string(response.code / 100) + 'xx'", Some("GET_5xx")),
        ("request.url_path.startsWith('/api') ? 'api' : 'other'", Some("api")),
        ("has(request.headers['x-none']) ? request.headers['x-none'] : 'none'", Some("none")),
        ("request.headers['x-none']", None),
    ] {
        assert_eq!(value(source), Ok(wanted.map(str::to_owned)), "{source}");
    }
    for source in [
        "request.duration",
        "request.headers",
        "['a']",
        "'a' + 1",
        "string(request.duration)",
        "request.host request.host",
    ] {
        assert!(value(source).is_err(), "{source}");
    }
}
