//! Istio's routing rules, one by one.

use std::time::Duration;

use http::HeaderValue;
use proptest::prelude::*;

mod entries;
mod sidecars;

use super::*;
use crate::{
    kinds::{Algorithm, Balance},
    testing::{Table, state_of},
};

/// A VirtualService for reviews with this `http`.
fn virtual_service(http: &str) -> String {
    let http: String = http.lines().map(|line| format!("  {line}\n")).collect();
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: reviews}}\nspec:\n  hosts: [reviews]\n  http:\n{http}"
    )
}

const RULE: &str = "---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec:
  host: reviews
  trafficPolicy:
    loadBalancer: {simple: ROUND_ROBIN}
    portLevelSettings:
    - {port: {number: 8080}, loadBalancer: {simple: RANDOM}}
    - {port: {number: 8081}, tls: null, loadBalancer: {}}
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}, trafficPolicy: {loadBalancer: {simple: RANDOM}}}
  - {name: all}
";

struct World {
    compiled: Compiled,
    table: Table,
}

struct Call {
    method: Method,
    authority: String,
    uri: String,
    headers: HeaderMap,
    source: Source,
    own_port: Option<u16>,
}

fn get(uri: &str) -> Call {
    Call {
        method: Method::GET,
        authority: "reviews".into(),
        uri: uri.into(),
        headers: HeaderMap::new(),
        source: Source {
            namespace: "default".into(),
            labels: BTreeMap::from([("app".to_owned(), "web".to_owned())]),
            account: "default/web".parse().unwrap(),
        },
        own_port: Some(15_001),
    }
}

impl Call {
    fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.append(name, HeaderValue::from_str(value).unwrap());
        self
    }

    fn to(mut self, authority: &str) -> Self {
        self.authority = authority.into();
        self
    }

    fn from(mut self, namespace: &str) -> Self {
        self.source.namespace = namespace.into();
        self
    }
}

impl World {
    fn new(text: &str) -> Self {
        let table = Table::new(&[
            ("default/reviews", &[9080]),
            ("default/ratings", &[9080, 9090]),
            ("prod/reviews", &[80]),
            ("default/multi", &[80, 8080]),
        ]);
        Self { compiled: Compiled::build(&state_of(text), None), table }
    }

    fn with<T>(&self, call: &Call, then: impl FnOnce(Result<Routed, NoRoute>, &Request<'_>) -> T) -> T {
        let uri: Uri = call.uri.parse().unwrap();
        let request = Request {
            method: &call.method,
            uri: &uri,
            authority: &call.authority,
            scheme: "http",
            headers: &call.headers,
            source: &call.source,
            fixed: None,
            token: None,
            own_port: call.own_port,
        };
        then(route(&self.compiled, &self.table, &request), &request)
    }

    /// Name of the route that is taken, or of the refusal.
    fn takes(&self, call: &Call) -> String {
        self.with(call, |routed, _| match routed {
            Ok(routed) => routed.route.name.clone(),
            Err(NoRoute::UnknownHost { .. }) => "unknown host".into(),
            Err(NoRoute::NotImported { .. }) => "not imported".into(),
            Err(NoRoute::UnknownPort { .. }) => "unknown port".into(),
            Err(NoRoute::NoMatch { .. }) => "404".into(),
        })
    }

    fn destination(&self, call: &Call, random: u64) -> Destination {
        self.with(call, |routed, _| routed.unwrap().route.choose(|| random).unwrap().clone())
    }

    fn path(&self, uri: &str) -> String {
        self.with(&get(uri), |routed, request| routed.unwrap().path(request.uri).into_owned())
    }

    fn location(&self, call: &Call) -> String {
        self.with(call, |routed, request| {
            let routed = routed.unwrap();
            let Action::Redirect(redirect) = &routed.route.action else { panic!("a redirect") };
            routed.location(redirect, request)
        })
    }
}

#[test]
fn a_route_is_named_with_the_condition_that_held() {
    let world = World::new(&virtual_service(
        "- {name: main, match: [{name: a, uri: {prefix: /a}}, {uri: {prefix: /b}}], route: [{destination: {host: reviews}}]}\n- {route: [{destination: {host: reviews}}]}",
    ));
    let named = |uri: &str| world.with(&get(uri), |routed, _| routed.unwrap().name().into_owned());
    assert_eq!([named("/a"), named("/b"), named("/c")], ["main.a", "main", ""]);
}

#[test]
fn names_and_ports() {
    let world = World::new("");
    for (authority, taken) in [
        ("reviews", "default"),
        ("reviews:9080", "default"),
        ("Reviews.default.svc.cluster.local:15001", "default"),
        ("reviews.default", "default"),
        ("reviews.prod", "default"),
        ("reviews:1", "unknown port"),
        ("multi", "unknown port"),
        ("multi:8080", "default"),
        ("nobody", "unknown host"),
        ("example.com", "unknown host"),
        ("", "unknown host"),
    ] {
        assert_eq!(world.takes(&get("/").to(authority)), taken, "{authority}");
    }
    let only = world.destination(&get("/"), 0);
    assert_eq!(
        only.cluster(only.port(&world.table, world.compiled.entries(), "default", 9080)),
        "outbound|9080||reviews.default.svc.cluster.local"
    );
    assert_eq!(world.destination(&get("/").from("prod"), 0).service, Some("prod/reviews".parse().unwrap()));
    world.with(&get("/"), |routed, _| {
        let routed = routed.unwrap();
        assert_eq!(routed.virtual_host(), "reviews.default.svc.cluster.local:9080");
        assert_eq!(routed.route.retries, Retries::default());
        assert_eq!(routed.matched, UriMatched::Nothing);
    });
}

#[test]
fn conditions() {
    let world = World::new(&virtual_service(
        "- {name: exact, match: [{uri: {exact: /exact}}], route: [{destination: {host: reviews}}]}
- {name: fold, match: [{uri: {prefix: /FOLD}, ignoreUriCase: true}], route: [{destination: {host: reviews}}]}
- {name: regex, match: [{uri: {regex: '/r[0-9]+'}}], route: [{destination: {host: reviews}}]}
- {name: post, match: [{method: {exact: POST}}], route: [{destination: {host: reviews}}]}
- {name: authority, match: [{authority: {prefix: 'reviews:'}}], route: [{destination: {host: reviews}}]}
- {name: jason, match: [{headers: {end-user: {exact: jason}}}], route: [{destination: {host: reviews}}]}
- {name: joined, match: [{headers: {x-list: {exact: 'a,b'}}}], route: [{destination: {host: reviews}}]}
- {name: present, match: [{headers: {X-Present: {regex: '*'}}}], route: [{destination: {host: reviews}}]}
- {name: absent, match: [{uri: {prefix: /w}, withoutHeaders: {x-there: {}}}], route: [{destination: {host: reviews}}]}
- {name: not-x, match: [{uri: {prefix: /w}, withoutHeaders: {x-there: {exact: x}}}], route: [{destination: {host: reviews}}]}
- {name: query, match: [{queryParams: {user: {exact: 'j n'}}}], route: [{destination: {host: reviews}}]}
- {name: empty-query, match: [{queryParams: {flag: {exact: ''}}}], route: [{destination: {host: reviews}}]}
- {name: both, match: [{uri: {prefix: /a}, headers: {x: {prefix: z}}}, {uri: {prefix: /b}}], route: [{destination: {host: reviews}}]}",
    ));
    for (call, taken) in [
        (get("/exact"), "exact"),
        (get("/exact?x=1"), "exact"),
        (get("/exact/"), "404"),
        (get("/folder"), "fold"),
        (get("/r12"), "regex"),
        (get("/r12/x"), "404"),
        (get("/xr12"), "404"),
        (Call { method: Method::POST, ..get("/") }, "post"),
        (get("/").to("reviews:9080"), "authority"),
        (get("/").header("end-user", "jason"), "jason"),
        (get("/").header("end-user", "jason2"), "404"),
        (get("/").header("x-list", "a").header("x-list", "b"), "joined"),
        (get("/").header("x-present", ""), "present"),
        (get("/w"), "absent"),
        (get("/w").header("x-there", "y"), "not-x"),
        (get("/w").header("x-there", "x"), "404"),
        (get("/?user=j%20n&user=other"), "query"),
        (get("/?user=other&user=j%20n"), "404"),
        (get("/?flag"), "empty-query"),
        (get("/?flag="), "empty-query"),
        (get("/?flag=1"), "404"),
        (get("/ab").header("x", "zes"), "both"),
        (get("/ab"), "404"),
        (get("/b"), "both"),
    ] {
        assert_eq!(world.takes(&call), taken, "{} {} {:?}", call.authority, call.uri, call.headers);
    }
}

#[test]
fn a_missing_header_counts_as_empty_in_without_headers() {
    let world = World::new(&virtual_service(
        "- {name: exact, match: [{uri: {prefix: /e}, withoutHeaders: {who: {exact: jason}}}], route: [{destination: {host: reviews}}]}
- {name: regex, match: [{uri: {prefix: /r}, withoutHeaders: {who: {regex: '.*'}}}], route: [{destination: {host: reviews}}]}",
    ));
    assert_eq!(world.takes(&get("/e")), "exact");
    assert_eq!(world.takes(&get("/e").header("who", "jason")), "404");
    assert_eq!(world.takes(&get("/r")), "404");
}

#[test]
fn static_conditions_drop_matches() {
    let world = World::new(&virtual_service(
        "- {name: labels, match: [{sourceLabels: {app: admin}}], route: [{destination: {host: reviews}}]}
- {name: namespace, match: [{sourceNamespace: prod, port: 9080}], route: [{destination: {host: reviews}}]}",
    ));
    // No rule is for this caller: as if the VirtualService did not exist.
    assert_eq!(world.takes(&get("/")), "default");
    assert_eq!(world.takes(&get("/").from("prod").to("reviews.default")), "namespace");
    let world = World::new(&virtual_service(
        "- {name: gateways, match: [{sourceLabels: {app: admin}, gateways: [mesh]}], route: [{destination: {host: reviews}}]}",
    ));
    assert_eq!(world.takes(&get("/")), "gateways");
    let world = World::new(&virtual_service(
        "- {name: port, match: [{port: 1}, {uri: {exact: /x}}], route: [{destination: {host: reviews}}]}",
    ));
    assert_eq!(world.takes(&get("/")), "404");
}

#[test]
fn callers_may_be_any_workload_of_their_account() {
    let text = "apiVersion: skein.dev/v1\nkind: RateLimit\nmetadata: {name: l}\nspec: {rules: [{match: [{sourceLabels: {app: batch}}], limit: {requests: 1, interval: 1s}}]}\n";
    let parsed = crate::parse::yaml("f.yaml", text, "default");
    let crate::Spec::RateLimit(limit) = &parsed.documents[0].document.spec else { panic!("another kind") };
    let conditions = &limit.rules[0].matches;
    let app = |app: &str| Arc::new(BTreeMap::from([("app".to_owned(), app.to_owned())]));
    let world = World::new("");
    world.with(&get("/"), |_, request| {
        assert!(may_meet(conditions, request, 80, &[app("batch")]));
        assert!(may_meet(conditions, request, 80, &[app("web"), app("batch")]), "it may be either");
        assert!(may_meet(conditions, request, 80, &[]), "nothing is known");
        assert!(!may_meet(conditions, request, 80, &[app("web")]));
    });
}

fn balance(destination: &Destination, port: u16) -> Balance {
    match destination.common.policy(port).load_balancer.algorithm {
        Algorithm::Simple(balance) => balance,
        Algorithm::Passthrough | Algorithm::ConsistentHash(_) => panic!("simple"),
    }
}

#[test]
fn destinations_by_weight() {
    let text = virtual_service(
        "- route: [{destination: {host: reviews, subset: v1}, weight: 8}, {destination: {host: reviews, subset: v2}, weight: 2}, {destination: {host: ratings}}]",
    ) + RULE;
    let world = World::new(&text);
    let names: Vec<String> = (0..10).map(|random| world.destination(&get("/"), random).subset_name).collect();
    assert_eq!(names.iter().filter(|name| *name == "v1").count(), 8);
    assert_eq!(names.iter().filter(|name| *name == "v2").count(), 2);
    let first = world.destination(&get("/"), 0);
    assert_eq!(
        first.common.subset,
        Subset::Labels(Arc::new(BTreeMap::from([("version".to_owned(), "v1".to_owned())])))
    );
    assert_eq!(
        (balance(&first, 9080), balance(&first, 8080), balance(&first, 8081)),
        (Balance::RoundRobin, Balance::Random, Balance::LeastRequest)
    );
    let second = world.destination(&get("/"), 8);
    assert_eq!((balance(&second, 9080), balance(&second, 8081)), (Balance::Random, Balance::Random));
    assert_eq!(first.cluster(9080), "outbound|9080|v1|reviews.default.svc.cluster.local");
}

#[test]
fn subsets_and_hosts_that_do_not_exist() {
    let text = virtual_service(
        "- {match: [{uri: {exact: /none}}], route: [{destination: {host: reviews, subset: v9}}]}
- {match: [{uri: {exact: /all}}], route: [{destination: {host: reviews, subset: all}}]}
- {match: [{uri: {exact: /dotted}}], route: [{destination: {host: reviews.default}}]}
- route: [{destination: {host: ratings, port: {number: 9090}}}]",
    ) + RULE;
    let world = World::new(&text);
    assert_eq!(world.destination(&get("/none"), 0).common.subset, Subset::Missing("v9".into()));
    assert_eq!(world.destination(&get("/all"), 0).common.subset, Subset::All);
    assert_eq!(world.destination(&get("/dotted"), 0).service, None);
    let ratings = world.destination(&get("/"), 0);
    assert_eq!(ratings.port(&world.table, world.compiled.entries(), "default", 9080), 9090);
    assert_eq!(
        Destination { port: None, ..ratings.clone() }.port(&world.table, world.compiled.entries(), "default", 9080),
        9080
    );
}

#[test]
fn rewrites() {
    let world = World::new(&virtual_service(
        "- {match: [{uri: {prefix: /foo/}}], rewrite: {uri: /}, route: [{destination: {host: reviews}}]}
- {match: [{uri: {prefix: /foo}}], rewrite: {uri: /bar}, route: [{destination: {host: reviews}}]}
- {match: [{uri: {exact: /exact}}], rewrite: {uri: /new}, route: [{destination: {host: reviews}}]}
- {match: [{uri: {regex: '/re.*'}}], rewrite: {uri: /whole}, route: [{destination: {host: reviews}}]}
- {match: [{uri: {prefix: /service}}], rewrite: {uriRegexRewrite: {match: '^/service/([^/]+)(/.*)$', rewrite: '\\2/instance/\\1'}}, route: [{destination: {host: reviews}}]}
- {match: [{uri: {prefix: /same}}], route: [{destination: {host: reviews}}]}
- {match: [{uri: {exact: /own}}], rewrite: {uri: '/new?own=1'}, route: [{destination: {host: reviews}}]}
- {match: [{uri: {prefix: /products/}}], rewrite: {uriRegexRewrite: {match: '^/products/([0-9]+)$', rewrite: '/productpage?id=\\1'}}, route: [{destination: {host: reviews}}]}
- {rewrite: {uri: /v1/, authority: other}, route: [{destination: {host: reviews}}]}",
    ));
    for (from, to) in [
        ("/foo/x?q=1", "/x?q=1"),
        ("/foox", "/barx"),
        ("/exact?a", "/new?a"),
        ("/regex/x", "/whole"),
        ("/service/foo/v1/api?x", "/v1/api/instance/foo?x"),
        ("/same?x=1", "/same?x=1"),
        ("/own", "/new?own=1"),
        ("/own?lang=de&token=x", "/new?own=1&lang=de&token=x"),
        ("/products/5?lang=de", "/productpage?id=5&lang=de"),
        ("/a", "/v1/a"),
    ] {
        assert_eq!(world.path(from), to, "{from}");
    }
    world.with(&get("/a"), |routed, _| assert_eq!(routed.unwrap().authority(), Some("other")));
}

#[test]
fn redirects() {
    let world = World::new(&virtual_service(
        "- {match: [{uri: {exact: /full}}], redirect: {uri: /v1/bookRatings, authority: newratings.default.svc.cluster.local}}
- {match: [{uri: {prefix: /pre}}], redirect: {prefixRewrite: /post}}
- {match: [{uri: {prefix: /https}}], redirect: {scheme: https}}
- {match: [{uri: {prefix: /port}}], redirect: {port: 8443, scheme: https}}
- {match: [{uri: {prefix: /p80}}], redirect: {port: 80}}
- {match: [{uri: {prefix: /request}}], redirect: {authority: b, derivePort: FROM_REQUEST_PORT}}
- {match: [{uri: {prefix: /nothing}}], redirect: {uri: /x, redirectCode: 304}}
- {redirect: {uri: /x?y=1, redirectCode: 302}}",
    ));
    for (uri, authority, location) in [
        ("/full?q=1", "reviews", "http://newratings.default.svc.cluster.local/v1/bookRatings?q=1"),
        ("/prefix?q", "reviews", "http://reviews/postfix?q"),
        ("/https/a?q", "reviews:9080", "https://reviews:9080/https/a?q"),
        ("/port", "reviews:9080", "https://reviews:8443/port"),
        ("/p80", "reviews", "http://reviews/p80"),
        ("/p80", "reviews:9080", "http://reviews:9080/p80"),
        ("/request", "reviews", "http://b:9080/request"),
        ("/other?q", "reviews", "http://reviews/x?y=1"),
        ("/nothing", "reviews", "http://reviews/x?y=1"),
    ] {
        assert_eq!(world.location(&get(uri).to(authority)), location, "{uri} {authority}");
    }
}

#[test]
fn what_is_done_on_the_way() {
    let world = World::new(&virtual_service(
        "- name: all
  timeout: 1s
  retries: {attempts: 3, perTryTimeout: 250ms, retryOn: '503,reset'}
  fault: {delay: {fixedDelay: 7s, percentage: {value: 50}}, abort: {httpStatus: 555, percentage: {value: 0.5}}}
  headers: {request: {set: {x-a: b}, remove: [x-c]}, response: {add: {x-d: e}}}
  route: [{destination: {host: reviews}, headers: {request: {add: {x-f: g}}}}]",
    ));
    world.with(&get("/"), |routed, _| {
        let routed = routed.unwrap();
        assert_eq!(routed.route.timeout, Some(Duration::from_secs(1)));
        assert_eq!((routed.route.retries.attempts, routed.route.retries.idempotent_reset), (3, false));
        assert_eq!(routed.route.line, Some(7));
        let fault = routed.route.fault.as_ref().unwrap();
        assert_eq!((fault.delay(499_999), fault.delay(500_000)), (Some(Duration::from_secs(7)), None));
        assert_eq!((fault.abort(4_999), fault.abort(5_000)), (Some(crate::kinds::Abort::Http(555)), None));
        assert_eq!(routed.route.request_headers.remove, ["x-c"]);
        assert_eq!(routed.route.request_headers.add[0].0, "x-f", "what an only destination says is the route's");
        assert!(routed.route.choose(|| 0).unwrap().request_headers.is_empty());
    });
}

/// A VirtualService in front of services, under a name that is none; `more` stands before its rules.
fn facade(hosts: &str, more: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: facade}}\nspec:\n  hosts: [{hosts}]\n{more}  http:\n  \
         - {{name: ratings, match: [{{uri: {{prefix: /ratings}}}}], route: [{{destination: {{host: ratings, port: {{number: 9090}}}}}}]}}\n  \
         - {{name: admin, match: [{{uri: {{prefix: /admin}}, port: 81}}], route: [{{destination: {{host: reviews}}}}]}}\n  \
         - {{name: rest, match: [{{uri: {{prefix: /r}}}}], route: [{{destination: {{host: reviews}}}}]}}\n"
    )
}

#[test]
fn hosts_that_are_no_service_are_routed() {
    let world = World::new(&facade("shop.internal", ""));
    for (authority, path, taken) in [
        ("shop.internal", "/ratings", "ratings"),
        ("Shop.Internal.", "/ratings", "ratings"),
        ("shop.internal:15001", "/r", "rest"),
        ("shop.internal:80", "/r", "rest"),
        ("shop.internal:8080", "/r", "unknown port"),
        ("shop.internal", "/admin", "404"),
        ("shop.internal", "/", "404"),
        ("a.shop.internal", "/r", "unknown host"),
        ("reviews", "/anything", "default"),
    ] {
        assert_eq!(world.takes(&get(path).to(authority)), taken, "{authority} {path}");
    }
    let only = world.destination(&get("/r").to("shop.internal"), 0);
    assert_eq!(only.port(&world.table, world.compiled.entries(), "default", 80), 9080, "the service's only port");
    world.with(&get("/r").to("shop.internal"), |routed, _| {
        let routed = routed.unwrap();
        assert_eq!((routed.virtual_host(), routed.host.service()), ("shop.internal:80".to_owned(), None));
    });
}

#[test]
fn a_name_beside_services_has_their_ports_and_wildcards_are_for_names_or_services() {
    let world = World::new(&facade("shop.internal, reviews", ""));
    for (authority, taken) in [
        ("shop.internal", "rest"),
        ("shop.internal:9080", "rest"),
        ("shop.internal:80", "unknown port"),
        ("reviews", "rest"),
    ] {
        assert_eq!(world.takes(&get("/r").to(authority)), taken, "{authority}");
    }
    let world = World::new(&facade("'*.internal'", ""));
    assert_eq!(world.takes(&get("/r").to("a.b.internal")), "rest");
    assert_eq!(world.takes(&get("/r").to("internal")), "unknown host");
    world.with(&get("/r").to("a.internal"), |routed, _| assert_eq!(routed.unwrap().virtual_host(), "*.internal:80"));
    let world = World::new(&facade("'*.default.svc.cluster.local'", ""));
    assert_eq!(world.takes(&get("/r").to("reviews")), "rest");
    assert_eq!(world.takes(&get("/r").to("nobody.default.svc.cluster.local")), "unknown host");
    let world = World::new(&facade("nobody", ""));
    assert_eq!(world.takes(&get("/r").to("nobody.default.svc.cluster.local")), "rest");
    assert_eq!(world.takes(&get("/r").to("nobody")), "unknown host", "as in Istio only its full name");
}

#[test]
fn names_are_for_those_who_see_their_document() {
    let world = World::new(&facade("shop.internal", "  exportTo: [.]\n"));
    assert_eq!(world.takes(&get("/r").to("shop.internal")), "rest");
    assert_eq!(world.takes(&get("/r").from("prod").to("shop.internal")), "unknown host");
    let more = facade("a.internal", "").replace("name: facade", "name: younger").replace("name: rest", "name: second");
    let world = World::new(&format!("{}---\n{more}", facade("'*.internal'", "")));
    assert_eq!(world.takes(&get("/r").to("a.internal")), "second", "the most specific host");
    assert_eq!(world.takes(&get("/r").to("b.internal")), "rest");
    let only =
        facade("shop.internal", "").replace("match: [{uri: {prefix: /r}}]", "match: [{sourceLabels: {app: other}}]");
    let only = only
        .replace("uri: {prefix: /ratings}", "sourceLabels: {app: other}")
        .replace("port: 81", "sourceLabels: {app: other}");
    assert_eq!(World::new(&only).takes(&get("/r").to("shop.internal")), "unknown host", "no rule is for this caller");
}

proptest! {
    /// The first rule that matches wins, whatever the rules: compared with a scan of the list.
    #[test]
    fn the_first_match_wins(prefixes in proptest::collection::vec("/[ab]{0,3}", 1..6), path in "/[ab]{0,4}") {
        let rules: Vec<String> = prefixes
            .iter()
            .enumerate()
            .map(|(index, prefix)| format!("- {{name: r{index}, match: [{{uri: {{prefix: {prefix}}}}}], route: [{{destination: {{host: reviews}}}}]}}"))
            .collect();
        let world = World::new(&virtual_service(&rules.join("\n")));
        let expected = prefixes.iter().position(|prefix| path.starts_with(prefix.as_str()));
        let expected = expected.map_or("404".to_owned(), |index| format!("r{index}"));
        prop_assert_eq!(world.takes(&get(&path)), expected);
    }
}
