//! External authorisers that are asked by HTTP, over the mesh and on one node.

use super::{
    backend::{Arrived, Backend, ok},
    client::{Answer, Client, eventually, get, with},
    world::{Entry, World, mesh_config},
};

/// An AuthorizationPolicy of `default` with this spec, in YAML's flow style.
fn policy(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}}}\nspec: {spec}\n"
    )
}

/// One that has `opa` asked about what `reviews` is asked there.
fn custom(path: &str) -> String {
    policy(
        "custom",
        &format!(
            "{{selector: {{matchLabels: {{app: reviews}}}}, action: CUSTOM, provider: {{name: opa}}, \
              rules: [{{to: [{{operation: {{paths: ['{path}']}}}}]}}]}}"
        ),
    )
}

/// A MeshConfig in which `opa` is `ratings`, with these further fields.
fn opa(fields: &str) -> String {
    mesh_config(&format!(
        "{{extensionProviders: [{{name: opa, envoyExtAuthzHttp: {{service: ratings.default.svc.cluster.local, port: 9080{fields}}}}}]}}"
    ))
}

/// `reviews` on the last of so many nodes, and what authorises beside or far from it.
fn both(authoriser: fn(&Arrived) -> Vec<u8>, check: impl Fn(World, Backend, Backend)) {
    for nodes in [2, 1] {
        let (application, authoriser) = (Backend::named("hello"), Backend::scripted(authoriser));
        let entries =
            vec![Entry::new(nodes - 1, "reviews", "v1", &application), Entry::new(0, "ratings", "v1", &authoriser)];
        check(World::new(nodes, entries), application, authoriser);
    }
}

/// Lets in who shows `token: good`.
fn by_token(arrived: &Arrived) -> Vec<u8> {
    if arrived.header("token") == Some("good") {
        return b"HTTP/1.1 200 OK\r\nX-User: ann\r\nX-Role: a\r\nX-Role: b\r\nX-Seen: yes\r\nX-Other: no\r\nHost: evil\r\n\
                 X-Forwarded-Client-Cert: forged\r\nX-Envoy-Auth-Headers-To-Remove: Token, Host\r\nContent-Length: 0\r\n\r\n"
            .to_vec();
    }
    b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer\r\nX-Why: no token\r\nX-Skein-Outcome: overflow\r\nContent-Length: 6\r\n\r\ngo off"
        .to_vec()
}

#[test]
fn an_authoriser_is_told_of_a_request_and_changes_it() {
    both(by_token, |mut world, application, authoriser| {
        let fields = ", pathPrefix: /check, includeRequestHeadersInCheck: [Token, 'x-mine-*', x-forwarded-client-cert], \
                       includeAdditionalHeadersInCheck: {X-From: mesh}, headersToUpstreamOnAllow: ['x-*', host], \
                       headersToDownstreamOnAllow: [x-seen]";
        world.push(&format!("{}{}", opa(fields), custom("/a*")));
        let headers = "Token: good\r\nAuthorization: Basic x\r\nX-Mine-1: m\r\nX-Role: old\r\nX-Source-Principal: forged\r\n\
                       Secret: s\r\nX-Request-Id: r-1\r\n";
        let answer = with(world.nodes[0].outbound, "reviews:9080", "//a/./b?q=1", headers);
        assert_eq!((answer.status, answer.body.as_str(), answer.header("x-seen")), (200, "hello", Some("yes")));
        assert_eq!((answer.header("x-user"), answer.header("x-skein-check")), (None, None));
        let asked = authoriser.last();
        assert_eq!(asked.line(), "GET /check/a/b?q=1 HTTP/1.1", "the path is the one that is forwarded");
        let told = |name: &str| asked.header(name).map(str::to_owned);
        assert_eq!(told("host").as_deref(), Some("reviews:9080"));
        assert_eq!(told("authorization").as_deref(), Some("Basic x"));
        assert_eq!((told("x-mine-1").as_deref(), told("x-from").as_deref()), (Some("m"), Some("mesh")));
        assert_eq!((told("content-length").as_deref(), told("secret")), (Some("0"), None));
        assert_eq!(told("x-request-id").as_deref(), Some("r-1"));
        assert_eq!(told("x-source-principal").as_deref(), Some("spiffe://test.example/ns/default/sa/web"));
        assert!(told("x-forwarded-client-cert").unwrap().ends_with("URI=spiffe://test.example/ns/default/sa/reviews"));
        assert_eq!(told("x-skein-check"), None, "that stays between nodes");
        let got = application.last();
        assert_eq!(got.line(), "GET /a/b?q=1 HTTP/1.1");
        assert_eq!(
            (got.header("x-user"), got.header("token"), got.header("host")),
            (Some("ann"), None, Some("reviews:9080"))
        );
        assert!(got.header("x-forwarded-client-cert").unwrap().ends_with("sa/web"));
        let roles: Vec<&str> = got.head.lines().filter(|line| line.starts_with("x-role")).collect();
        assert_eq!(roles, ["x-role: a", "x-role: b"]);
        // What no rule matches is nobody's business.
        let before = authoriser.arrived().len();
        assert_eq!(get(world.nodes[0].outbound, "reviews", "/other").status, 200);
        assert_eq!(authoriser.arrived().len(), before);
    });
}

#[test]
fn a_refusal_is_in_the_authorisers_words() {
    both(by_token, |mut world, application, _| {
        world.push(&format!("{}{}", opa(", includeRequestHeadersInCheck: [token]"), custom("/a*")));
        let words = |answer: &Answer| {
            let header = |name: &str| answer.header(name).map(str::to_owned);
            (answer.status, answer.body.clone(), header("www-authenticate"), header("x-why"))
        };
        let some = |text: &str| Some(text.to_owned());
        let refused = get(world.nodes[0].outbound, "reviews", "/a");
        assert_eq!(words(&refused), (401, "go off".to_owned(), some("Bearer"), some("no token")));
        world.push(&opa(", includeRequestHeadersInCheck: [token], headersToDownstreamOnDeny: [x-other]"));
        let refused = get(world.nodes[0].outbound, "reviews", "/a");
        assert_eq!(words(&refused), (401, "go off".to_owned(), some("Bearer"), None));
        assert!(application.arrived().is_empty());
        let metrics = world.metrics(world.nodes.len() - 1);
        assert!(metrics.contains("skein_external_authorization_total{result=\"denied\"} 2"), "{metrics}");
        let flagged = |line: &&str| line.contains("response_code=\"401\"") && line.contains("response_flags=\"UAEX\"");
        assert!(metrics.lines().any(|line| flagged(&line)), "{metrics}");
    });
}

#[test]
fn what_is_counted_of_an_authoriser_has_the_labels_that_documents_say() {
    both(by_token, |mut world, _, _| {
        let telemetry = "---\napiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {name: labels}\n\
                         spec: {metrics: [{overrides: [{match: {metric: REQUEST_COUNT, mode: CLIENT}, tagOverrides: \
                         {response_flags: {operation: REMOVE}, asked: {value: request.url_path}}}]}]}\n";
        world.push(&format!("{}{}{telemetry}", opa(", includeRequestHeadersInCheck: [token]"), custom("/a*")));
        assert_eq!(with(world.nodes[0].outbound, "reviews", "/a", "Token: good\r\n").status, 200);
        let asked = |line: &&str| {
            line.starts_with("istio_requests_total{reporter=\"source\"") && line.contains("_service_name=\"ratings\"")
        };
        eventually("it is counted so, and not otherwise", || {
            let metrics = world.metrics(world.nodes.len() - 1);
            let mut lines = metrics.lines().filter(asked).peekable();
            lines.peek().is_some()
                && lines.all(|line| line.contains("asked=\"/a\"") && !line.contains("response_flags"))
        });
    });
}

#[test]
fn what_an_authoriser_adds_stands_beside_a_failure_too() {
    for nodes in [2, 1] {
        // The application hangs up, which the caller's node may meet by another attempt; at last it answers by itself.
        let (application, authoriser) = (Backend::scripted(|_| Vec::new()), Backend::scripted(by_token));
        let entries =
            vec![Entry::new(nodes - 1, "reviews", "v1", &application), Entry::new(0, "ratings", "v1", &authoriser)];
        let mut world = World::new(nodes, entries);
        let fields = ", includeRequestHeadersInCheck: [token], headersToDownstreamOnAllow: [x-seen]";
        world.push(&format!("{}{}", opa(fields), custom("/a*")));
        let answer = with(world.nodes[0].outbound, "reviews", "/a", "Token: good\r\n");
        assert_eq!((answer.status, answer.header("x-seen")), (503, Some("yes")), "{answer:?}");
        assert_eq!((answer.header("x-other"), answer.header("x-skein-outcome")), (None, None));
    }
}

#[test]
fn authorisers_come_before_deny_and_what_they_say_is_judged() {
    both(by_token, |mut world, _, authoriser| {
        let deny = "{action: DENY, rules: [{when: [{key: 'request.headers[x-user]', values: [ann]}]}]}";
        let fields = ", includeRequestHeadersInCheck: [token], headersToUpstreamOnAllow: [x-user]";
        world.push(&format!("{}{}{}", opa(fields), custom("/*"), policy("deny", deny)));
        let good = with(world.nodes[0].outbound, "reviews", "/", "Token: good\r\n");
        assert_eq!((good.status, good.body.as_str()), (403, "RBAC: access denied"));
        // It is DENY that says no, and yet the authoriser was asked.
        assert_eq!(authoriser.arrived().len(), 1);
        assert_eq!(with(world.nodes[0].outbound, "reviews", "/", "X-User: ann\r\n").status, 401);
    });
}

#[test]
fn without_an_answer_policy_says_what_happens() {
    let broken = |arrived: &Arrived| match arrived.line() {
        "GET /503 HTTP/1.1" => b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n".to_vec(),
        "GET /long HTTP/1.1" => ok(&"x".repeat(100_000)).replace_status(),
        "GET /slow HTTP/1.1" => {
            std::thread::sleep(std::time::Duration::from_secs(20));
            Vec::new()
        }
        _ => Vec::new(),
    };
    both(broken, |mut world, application, _| {
        let statuses = |world: &World| {
            ["/503", "/long", "/slow", "/closed"].map(|path| get(world.nodes[0].outbound, "reviews", path).status)
        };
        world.push(&format!("{}{}", opa(", timeout: 300ms"), custom("/*")));
        assert_eq!(statuses(&world), [403; 4]);
        world.push(&opa(", timeout: 300ms, statusOnError: '502'"));
        assert_eq!(statuses(&world), [502; 4]);
        assert!(application.arrived().is_empty());
        world.push(&opa(", timeout: 300ms, failOpen: true"));
        assert_eq!(statuses(&world), [200; 4]);
        // A service that is not there, and a provider that is not.
        world.push(&opa(", failOpen: false").replace("ratings.", "nobody."));
        assert_eq!(get(world.nodes[0].outbound, "reviews", "/").status, 403);
        world.push(&mesh_config("{}"));
        assert_eq!(get(world.nodes[0].outbound, "reviews", "/").status, 403);
    });
}

trait Refused {
    fn replace_status(self) -> Self;
}

impl Refused for Vec<u8> {
    /// The same answer as a refusal.
    fn replace_status(mut self) -> Self {
        drop(self.splice(9..12, *b"403"));
        self
    }
}

#[test]
fn bodies_are_told_as_far_as_policy_says_and_forwarded_whole() {
    both(
        |_| ok(""),
        |mut world, application, authoriser| {
            let post = |world: &World, framed: &str| {
                let head = "POST /a HTTP/1.1\r\nHost: reviews\r\n";
                Client::connect(world.nodes[0].outbound).ask(format!("{head}{framed}")).expect("an answer").status
            };
            let (fits, long) = (
                "Content-Length: 4\r\n\r\nabcd",
                "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n",
            );
            world.push(&format!("{}{}", opa(", includeRequestBodyInCheck: {maxRequestBytes: 4}"), custom("/*")));
            assert_eq!(post(&world, fits), 200);
            let told = |authoriser: &Backend| {
                let asked = authoriser.last();
                let partial = asked.header("x-envoy-auth-partial-body").map(str::to_owned);
                (String::from_utf8(asked.body.clone()).unwrap(), partial)
            };
            assert_eq!(told(&authoriser), ("abcd".to_owned(), Some("false".to_owned())));
            assert_eq!(application.last().body, b"abcd");
            assert_eq!((post(&world, long), application.arrived().len()), (413, 1));
            world.push(&opa(", includeRequestBodyInCheck: {maxRequestBytes: 4, allowPartialMessage: true}"));
            assert_eq!(post(&world, long), 200);
            assert_eq!(told(&authoriser), ("abcd".to_owned(), Some("true".to_owned())));
            assert_eq!(application.last().body, b"abcdef");
            assert_eq!(get(world.nodes[0].outbound, "reviews", "/").status, 200, "a request without a body");
            assert_eq!(told(&authoriser), (String::new(), Some("false".to_owned())));
        },
    );
}

#[test]
fn nobody_is_asked_in_circles() {
    both(
        |_| ok(""),
        |mut world, _, authoriser| {
            let all = |name: &str, provider: &str, app: &str| {
                let select =
                    if app.is_empty() { String::new() } else { format!("selector: {{matchLabels: {{app: {app}}}}}, ") };
                policy(name, &format!("{{{select}action: CUSTOM, provider: {{name: {provider}}}, rules: [{{}}]}}"))
            };
            // A policy for the whole namespace is for the authoriser, too: it is not asked about what it is asked.
            world.push(&format!("{}{}", opa(""), all("custom", "opa", "")));
            assert_eq!(get(world.nodes[0].outbound, "reviews", "/").status, 200);
            assert_eq!(authoriser.arrived().len(), 1);
            // Two that are to be asked about each other refuse.
            let http = |name: &str, service: &str| {
                format!(
                    "{{name: {name}, envoyExtAuthzHttp: {{service: {service}.default.svc.cluster.local, port: 9080}}}}"
                )
            };
            let config = mesh_config(&format!(
                "{{extensionProviders: [{}, {}]}}",
                http("opa", "ratings"),
                http("opb", "reviews")
            ));
            world.push(&format!("{config}{}{}", all("custom", "opa", "reviews"), all("back", "opb", "ratings")));
            assert_eq!(get(world.nodes[0].outbound, "reviews", "/").status, 403);
            assert_eq!(authoriser.arrived().len(), 1);
            // What says so is nothing that a caller can say.
            world.push(&format!("{}{}{}", opa(""), all("custom", "opa", "reviews"), all("back", "opa", "ratings")));
            assert_eq!(with(world.nodes[0].outbound, "reviews", "/", "X-Skein-Check: 1\r\n").status, 200);
        },
    );
}

#[test]
fn what_was_let_in_stands_until_another_policy_forbids_it() {
    for nodes in [2, 1] {
        let application = Backend::scripted(|arrived| {
            let answer = b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
            if arrived.header("upgrade").is_some() { answer.to_vec() } else { ok("v1") }
        });
        let authoriser = Backend::scripted(by_token);
        let entries =
            vec![Entry::new(nodes - 1, "reviews", "v1", &application), Entry::new(0, "ratings", "v1", &authoriser)];
        let mut world = World::new(nodes, entries);
        let upgrade = "GET /chat HTTP/1.1\r\nHost: reviews\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n";
        let mut before = Client::connect(world.nodes[0].outbound);
        assert_eq!(before.ask(format!("{upgrade}\r\n")).expect("an answer").status, 101);
        world.push(&format!("{}{}", opa(", includeRequestHeadersInCheck: [token]"), custom("/*")));
        let mut after = Client::connect(world.nodes[0].outbound);
        assert_eq!(after.ask(format!("{upgrade}Token: good\r\n\r\n")).expect("an answer").status, 101);
        for tunnel in [&mut before, &mut after] {
            assert_eq!(tunnel.ask("GET / HTTP/1.1\r\n\r\n").expect("the tunnel is open").body, "v1");
        }
        assert_eq!(
            Client::connect(world.nodes[0].outbound).ask(format!("{upgrade}\r\n")).expect("an answer").status,
            401
        );
        world.push(&policy("deny", "{action: DENY, rules: [{to: [{operation: {paths: [/chat]}}]}]}"));
        assert!(before.is_closed() && after.is_closed());
    }
}
