//! What is opened where, and which rule takes a request at a gateway.

use std::collections::BTreeMap;

use http::{HeaderMap, Method, Uri};
use serde_json::json;

use super::*;
use crate::{
    authorize::Token,
    route::{Action, Entered, Request, enter},
    testing::Mesh,
};

fn gateway(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
    )
}

fn server(number: u16, hosts: &str) -> String {
    format!("{{port: {{number: {number}, name: http-{number}, protocol: HTTP}}, hosts: [{hosts}]}}")
}

fn selected(servers: &str) -> String {
    format!("{{selector: {{istio: ingressgateway}}, servers: [{servers}]}}")
}

/// A VirtualService whose rules are named after their destinations.
fn routes(name: &str, gateways: &str, hosts: &str, http: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}, namespace: default}}\nspec: {{hosts: [{hosts}], gateways: [{gateways}], http: [{http}]}}\n"
    )
}

fn rule(to: &str, conditions: &str) -> String {
    format!("{{{conditions}route: [{{destination: {{host: {to}}}}}]}}")
}

fn labels() -> BTreeMap<String, String> {
    BTreeMap::from([("istio".to_owned(), "ingressgateway".to_owned()), ("app".to_owned(), "edge".to_owned())])
}

struct Edge(Arc<Doors>);

impl Edge {
    fn new(text: &str) -> Self {
        Self(Compiled::build(&Mesh::new().push(text), None).doors("edge", &labels()))
    }

    /// Where a request goes: the destination's first label, `https`, or `404`.
    fn ask(&self, port: u16, host: &str, path: &str) -> String {
        let Some(listener) = self.0.listener(None, port) else { return "no listener".to_owned() };
        let Serves::Plain(hosts) = &listener.serves else { panic!("plain") };
        ask_of(hosts, port, host, path, "http")
    }
}

fn ask_of(hosts: &Hosts, port: u16, host: &str, path: &str, scheme: &str) -> String {
    ask_as(hosts, port, (host, path, scheme), None)
}

fn ask_as(hosts: &Hosts, port: u16, (host, path, scheme): (&str, &str, &str), token: Option<&Token>) -> String {
    let (uri, headers): (Uri, _) = (path.parse().unwrap(), HeaderMap::new());
    let account = ServiceAccount::new("edge", "edge").unwrap();
    let source = Source { namespace: "edge".to_owned(), labels: labels(), account };
    let request = Request {
        method: &Method::GET,
        uri: &uri,
        authority: host,
        scheme,
        headers: &headers,
        source: &source,
        fixed: None,
        token,
        own_port: None,
    };
    match enter(hosts, &request, port) {
        Entered::Nothing => "404".to_owned(),
        Entered::ToHttps => "https".to_owned(),
        Entered::Route(routed) => {
            assert_eq!(routed.port, port);
            let Action::Forward(destinations) = &routed.route.action else { panic!("forwards") };
            destinations[0].host.split('.').next().unwrap_or_default().to_owned()
        }
    }
}

#[test]
fn requests_find_the_narrower_of_two_hosts() {
    let edge = Edge::new(
        &[
            gateway(
                "istio-system",
                "public",
                &selected(&server(80, "'*.example.com', 'default/shop.org', 'other/closed.org'")),
            ),
            routes(
                "a",
                "istio-system/public",
                "a.example.com, '*.b.example.com', shop.org, closed.org",
                &rule("a", ""),
            ),
            routes("all", "istio-system/public", "'*'", &rule("all", "")),
            routes("elsewhere", "istio-system/other", "c.example.com", &rule("never", "")),
        ]
        .concat(),
    );
    for (host, to) in [
        ("a.example.com", "a"),
        ("A.Example.com:8080", "a"),
        ("x.b.example.com", "a"),
        ("c.example.com", "all"),
        ("example.com", "404"),
        ("shop.org", "a"),
        ("closed.org", "404"),
        ("10.0.0.1", "404"),
    ] {
        assert_eq!(edge.ask(80, host, "/"), to, "{host}");
    }
    assert_eq!(edge.ask(81, "a.example.com", "/"), "no listener");
}

#[test]
fn virtual_services_of_a_host_are_merged_and_what_takes_everything_comes_last() {
    let edge = Edge::new(
        &[
            gateway("default", "g", &selected(&server(80, "'*'"))),
            routes(
                "first",
                "g",
                "shop.org",
                &[rule("one", "match: [{uri: {prefix: /1}}], "), rule("rest", "")].join(", "),
            ),
            routes("second", "g", "shop.org", &rule("two", "match: [{uri: {prefix: /2}}, {port: 81}], ")),
            routes("third", "g", "shop.org", &rule("never", "match: [{uri: {prefix: /}}], ")),
        ]
        .concat(),
    );
    assert_eq!(
        [edge.ask(80, "shop.org", "/1"), edge.ask(80, "shop.org", "/2"), edge.ask(80, "shop.org", "/3")],
        ["one", "two", "rest"]
    );
}

#[test]
fn conditions_name_gateways_and_ports() {
    let text = [
        gateway("default", "g", &selected(&[server(80, "'*'"), server(81, "'*'")].join(", "))),
        gateway("default", "h", &selected(&server(82, "'*'"))),
        routes(
            "a",
            "g, h, mesh",
            "shop.org",
            &[
                rule("mesh", "match: [{gateways: [mesh]}], "),
                rule("h", "match: [{gateways: [h]}], "),
                rule("eightyone", "match: [{port: 81}], "),
                rule("stranger", "match: [{sourceLabels: {app: web}}], "),
                rule("edge", "match: [{sourceLabels: {app: edge}}], "),
            ]
            .join(", "),
        ),
    ]
    .concat();
    let edge = Edge::new(&text);
    assert_eq!(edge.ask(80, "shop.org", "/"), "edge");
    assert_eq!(edge.ask(81, "shop.org", "/"), "eightyone");
    assert_eq!(edge.ask(82, "shop.org", "/"), "h");
}

#[test]
fn https_is_asked_for_with_and_without_rules() {
    let redirecting =
        "{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*.example.com'], tls: {httpsRedirect: true}}";
    let edge = Edge::new(
        &[
            gateway("default", "g", &selected(redirecting)),
            gateway("default", "plain", &selected(&server(80, "shop.org"))),
            routes("a", "g, plain", "a.example.com, shop.org", &rule("a", "")),
        ]
        .concat(),
    );
    for (host, to) in [("a.example.com", "https"), ("b.example.com", "https"), ("shop.org", "a"), ("other.org", "404")]
    {
        assert_eq!(edge.ask(80, host, "/"), to, "{host}");
    }
    let Serves::Plain(hosts) = &edge.0.listeners[0].serves else { panic!("plain") };
    assert_eq!(ask_of(hosts, 80, "a.example.com", "/", "https"), "a", "a proxy before it has met TLS");
}

fn tls(number: u16, name: &str, hosts: &str) -> String {
    format!(
        "{{port: {{number: {number}, name: {name}, protocol: HTTPS}}, hosts: [{hosts}], tls: {{mode: SIMPLE, credentialName: {name}}}}}"
    )
}

#[test]
fn the_server_name_chooses_the_server() {
    let servers = [tls(443, "one", "one.org"), tls(443, "many", "'*.one.org'"), tls(443, "any", "'*'")].join(", ");
    let edge = Edge::new(&gateway("default", "g", &selected(&servers)));
    let listener = edge.0.listener(None, 443).unwrap();
    let chosen = |name: Option<&str>| listener.tls_server(name).map(|server| server.server);
    assert_eq!(
        [chosen(Some("one.org")), chosen(Some("a.one.org")), chosen(Some("x")), chosen(None)],
        [Some(0), Some(1), Some(2), Some(2)]
    );
    let strict = Edge::new(&gateway("default", "g", &selected(&tls(443, "one", "one.org"))));
    let listener = strict.0.listener(None, 443).unwrap();
    assert!(listener.tls_server(Some("two.org")).is_none() && listener.tls_server(None).is_none());
}

#[test]
fn the_oldest_server_counts_where_two_are_in_each_others_way() {
    let edge = Edge::new(
        &[
            gateway("default", "old", &selected(&[server(80, "'*'"), tls(443, "a", "a.org, b.org")].join(", "))),
            gateway("default", "new", &selected(&[tls(80, "c", "c.org"), tls(443, "d", "b.org, d.org")].join(", "))),
        ]
        .concat(),
    );
    let why: Vec<(String, usize, &str)> =
        edge.0.left_out.iter().map(|one| (one.document.name.clone(), one.server, one.why.as_str())).collect();
    assert_eq!(
        why,
        [
            ("new".to_owned(), 0, "port 80 speaks HTTP by Gateway default/old"),
            ("new".to_owned(), 1, "`b.org` is served at port 443 by Gateway default/old"),
        ]
    );
    assert_eq!(edge.0.listeners.iter().map(|one| one.port).collect::<Vec<_>>(), [80, 443]);
}

#[test]
fn gateways_select_workloads_of_all_namespaces() {
    let text = [
        gateway("default", "chosen", &selected(&server(80, "'*'"))),
        gateway("default", "every", &format!("{{servers: [{}]}}", server(81, "'*'"))),
    ]
    .concat();
    let compiled = Compiled::build(&Mesh::new().push(&text), None);
    let ports = |labels: &[(&str, &str)]| {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let doors = compiled.doors("shop", &labels);
        assert_eq!(compiled.is_gateway("shop", &labels), !doors.listeners.is_empty());
        doors.listeners.iter().map(|listener| listener.port).collect::<Vec<_>>()
    };
    assert_eq!(ports(&[("istio", "ingressgateway")]), [80, 81]);
    assert_eq!(ports(&[("istio", "egressgateway")]), [81]);
    assert_eq!(ports(&[("app", "web")]), [] as [u16; 0], "nobody who is no gateway");
}

#[test]
fn only_gateways_of_namespaces_that_are_trusted_speak_for_clients() {
    let compiled = Compiled::build(&Mesh::new().push(&gateway("shop", "g", &selected(&server(80, "'*'")))), None);
    let labels = labels();
    let all = ["shop", "istio-system", "dev"]
        .map(|namespace| (compiled.is_gateway(namespace, &labels), compiled.speaks_for_clients(namespace, &labels)));
    assert_eq!(all, [(true, true), (true, true), (true, false)], "anybody labels services of its own");
    assert!(!compiled.speaks_for_clients("istio-system", &BTreeMap::new()));
}

#[test]
fn unchanged_rules_stay_the_same_objects() {
    let (mut mesh, first) = (Mesh::new(), gateway("default", "g", &selected(&server(80, "'*'"))));
    let before = Arc::new(Compiled::build(&mesh.push(&(first + &routes("a", "g", "a.org", &rule("a", "")))), None));
    before.doors("edge", &labels());
    let after = Compiled::build(&mesh.push(&routes("b", "g", "b.org", &rule("b", ""))), Some(&before));
    let route = |compiled: &Compiled| {
        let doors = compiled.doors("edge", &labels());
        let Serves::Plain(hosts) = &doors.listeners[0].serves else { panic!("plain") };
        Arc::clone(hosts.find("a.org").unwrap().rules[0].route())
    };
    assert!(Arc::ptr_eq(&route(&before), &route(&after)));
    assert_eq!(after.gateways.known.read().unwrap().len(), 1, "it was made before anybody asked");
}

#[test]
fn what_changes_nothing_of_a_gateway_makes_nothing_anew() {
    let other = |name: &str| {
        gateway("default", name, &format!("{{selector: {{istio: other}}, servers: [{}]}}", server(80, "'*'")))
    };
    let mut mesh = Mesh::new();
    let first = gateway("default", "g", &selected(&server(80, "'*'"))) + &routes("a", "g", "a.org", &rule("a", ""));
    let mut compiled = Arc::new(Compiled::build(&mesh.push(&first), None));
    let mut made_anew = |text: &str| {
        let before = compiled.doors("edge", &labels());
        compiled = Arc::new(Compiled::build(&mesh.push(text), Some(&compiled)));
        !Arc::ptr_eq(&before, &compiled.doors("edge", &labels()))
    };
    let policy = "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: deny, namespace: edge}\nspec: {}\n";
    assert!(!made_anew(policy), "whom it lets in is another matter");
    assert!(!made_anew(&routes("mesh", "mesh", "a.org", &rule("b", ""))), "for callers in the mesh");
    assert!(!made_anew(&other("elsewhere")), "for other workloads");
    assert!(!made_anew(&routes("there", "elsewhere", "c.org", &rule("c", ""))), "at their gateway");
    assert!(made_anew(&routes("b", "g", "b.org", &rule("b", ""))), "one more host");
    assert!(made_anew(&routes("b", "g", "b.org", &rule("c", ""))), "another destination");
    assert!(made_anew(&gateway("default", "g", &selected(&server(81, "'*'")))), "another port");
    assert!(made_anew(&gateway("default", "h", &selected(&server(82, "'*'")))), "one more Gateway");
    assert!(!made_anew(policy.replace("deny", "more").as_str()));
}

#[test]
fn claims_choose_among_the_rules() {
    let when = |conditions: &str| format!("match: [{{{conditions}}}], ");
    let http = [
        rule("staff", &when("headers: {'@request.auth.claims[realm][roles]': {exact: staff}}")),
        rule("early", &when("headers: {'@request.auth.claims.sub': {prefix: a}, x: {exact: z}}")),
        rule("scoped", &when("headers: {'@request.auth.claims.scope': {regex: 'b+'}}")),
        rule("known", &when("headers: {'@request.auth.claims.sub': {}}")),
        rule("unlisted", &when("uri: {prefix: /without}, withoutHeaders: {'@request.auth.claims.sub': {exact: bob}}")),
    ];
    let edge = Edge::new(
        &[
            gateway("default", "public", &selected(&server(80, "'*'"))),
            routes("all", "public", "a.org", &http.join(", ")),
        ]
        .concat(),
    );
    let Serves::Plain(hosts) = &edge.0.listener(None, 80).unwrap().serves else { panic!("plain") };
    let ask = |path: &str, claims: Option<serde_json::Value>| {
        let token = claims.map(|claims| Token { claims: claims.as_object().unwrap().clone(), ..Token::default() });
        ask_as(hosts, 80, ("a.org", path, "http"), token.as_ref())
    };
    for (claims, taken) in [
        (json!({"sub": "bob", "realm": {"roles": ["guest", "staff"]}}), "staff"),
        (json!({"sub": "bob", "realm": {"roles": "staff"}}), "staff"),
        (json!({"sub": "bob", "realm": {"roles": ["guest"]}}), "known"),
        (json!({"sub": "alice"}), "known"),
        (json!({"scope": "a bbb"}), "scoped"),
        (json!({"sub": 7}), "404"),
        (json!({}), "404"),
    ] {
        assert_eq!(ask("/", Some(claims.clone())), taken, "{claims}");
    }
    assert_eq!(ask("/", None), "404", "no token, no claims");
    assert_eq!(ask("/without", None), "unlisted", "what is not there is not what is excluded");
    assert_eq!(ask("/without", Some(json!({"sub": ["bob"]}))), "known");
}

#[test]
fn what_only_the_mesh_may_call_shares_no_port_with_others() {
    let mutual = |number: u16, name: &str, protocol: &str, host: &str| {
        format!(
            "{{port: {{number: {number}, name: {name}, protocol: {protocol}}}, hosts: [{host}], tls: {{mode: ISTIO_MUTUAL}}}}"
        )
    };
    let simple = "{port: {number: 443, name: simple, protocol: HTTPS}, hosts: [c.example], tls: {mode: SIMPLE, credentialName: c}}";
    let servers = [
        mutual(443, "a", "HTTPS", "a.example"),
        mutual(443, "b", "HTTPS", "b.example"),
        simple.to_owned(),
        mutual(9000, "bytes", "TLS", "db.example"),
        mutual(9000, "others", "TLS", "other.example"),
    ];
    let edge = Edge::new(
        &[
            gateway("istio-system", "out", &selected(&servers.join(", "))),
            routes("a", "istio-system/out", "a.example", &rule("a", "")),
            routes("b", "istio-system/out", "b.example", &rule("b", "match: [{port: 443}], ")),
            routes("c", "istio-system/out", "c.example", &rule("c", "")),
        ]
        .concat(),
    );
    assert_eq!(["a.example", "b.example", "c.example"].map(|host| edge.ask(443, host, "/")), ["a", "b", "404"]);
    let bytes = edge.0.listener(None, 9000).expect("it is open");
    assert!(matches!(bytes.serves, Serves::Bytes(_)) && bytes.of_mesh);
    let why: Vec<(usize, &str)> = edge.0.left_out.iter().map(|one| (one.server, one.why.as_str())).collect();
    let of_mesh = |port| format!("port {port} speaks mutual TLS of the mesh by Gateway istio-system/out");
    assert_eq!(why, [(2, of_mesh(443).as_str()), (4, of_mesh(9000).as_str())]);
}
