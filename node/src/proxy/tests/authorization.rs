//! AuthorizationPolicy at the server's side: tunnels that are open when policy changes, and what is forwarded of a path.

use super::{
    backend::{Backend, ok},
    client::{Client, get, with},
    world::{Entry, World},
};

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: reviews\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

pub(super) fn deny(path: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: deny}}\nspec: {{action: DENY, rules: [{{to: [{{operation: {{paths: ['{path}']}}}}]}}]}}\n"
    )
}

/// Over the mesh and on one node.
fn both(check: impl Fn(World, &Backend)) {
    for nodes in [2, 1] {
        let backend = Backend::scripted(|arrived| {
            let answer = b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
            if arrived.header("upgrade").is_some() { answer.to_vec() } else { ok("v1") }
        });
        check(World::new(nodes, vec![Entry::new(nodes - 1, "reviews", "v1", &backend)]), &backend);
    }
}

#[test]
fn a_tunnel_that_policy_denies_now_is_closed() {
    both(|mut world, _| {
        let mut tunnel = Client::connect(world.nodes[0].outbound);
        assert_eq!(tunnel.ask(UPGRADE).expect("an answer").status, 101);
        world.push(&deny("/other"));
        assert!(tunnel.rest().is_empty(), "a change that does not concern it leaves it open");
        // The backend reads what comes as requests: that it answers shows that the tunnel is open.
        assert_eq!(tunnel.ask("GET / HTTP/1.1\r\n\r\n").expect("the tunnel is open").body, "v1");
        world.push(&deny("/chat"));
        assert!(tunnel.is_closed());
        assert_eq!(Client::connect(world.nodes[0].outbound).ask(UPGRADE).expect("an answer").status, 403);
    });
}

#[test]
fn a_policy_that_a_node_cannot_read_lets_nobody_in_until_it_can() {
    both(|mut world, backend| {
        let newer = |json: String| {
            let changed = json.replace("\"action\"", "\"fromTheFuture\":1,\"action\"");
            assert_ne!(changed, json);
            changed
        };
        let asked = |world: &World| get(world.nodes[0].outbound, "reviews", "/").status;
        assert_eq!(asked(&world), 200);
        world.push_as(&deny("/other"), newer);
        let before = backend.arrived().len();
        assert_eq!(asked(&world), 403);
        assert_eq!(backend.arrived().len(), before);
        world.push(&deny("/other"));
        assert_eq!(asked(&world), 200);
        // From now on an older value stands in its place.
        world.push_as(&deny("/"), newer);
        assert_eq!(asked(&world), 200);
        assert_eq!(get(world.nodes[0].outbound, "reviews", "/other").status, 403);
    });
}

#[test]
fn a_path_is_forwarded_as_rules_saw_it_and_as_routes_saw_it_where_none_looks() {
    both(|mut world, backend| {
        let forwarded = |world: &World, path: &str| {
            let status = get(world.nodes[0].outbound, "reviews", path).status;
            (status, backend.last().line().to_owned())
        };
        let routed = "GET //a/~b/%2fc?q=//x HTTP/1.1";
        assert_eq!(forwarded(&world, "//a/%7eb/x/../%2fc?q=//x"), (200, routed.to_owned()), "no rule looks at paths");
        world.push(&deny("/admin"));
        assert_eq!(forwarded(&world, "//a/%7eb/.//c?q=//x"), (200, "GET /a/~b/c?q=//x HTTP/1.1".to_owned()));
        let before = backend.arrived().len();
        assert_eq!(forwarded(&world, "//a/%2f").0, 400, "it has no normal form");
        assert_eq!(forwarded(&world, "/x/../%61dmin").0, 403);
        assert_eq!(backend.arrived().len(), before);
    });
}

#[test]
fn cookies_are_judged_as_the_application_reads_them() {
    both(|mut world, backend| {
        world.push(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: deny}\nspec: {action: DENY, rules: [{when: [{key: 'request.headers[cookie]', values: ['a=1; b=2']}]}]}\n",
        );
        let cookies = |headers: &str| with(world.nodes[0].outbound, "reviews", "/", headers).status;
        assert_eq!(cookies("Cookie: a=1; b=2\r\n"), 403);
        assert_eq!(cookies("Cookie: a=1\r\nCookie: b=2\r\n"), 403, "two lines say the same");
        assert_eq!(cookies("Cookie: b=2\r\nCookie: a=1\r\n"), 200);
        assert_eq!(backend.last().header("cookie"), Some("b=2; a=1"), "what was judged is what is forwarded");
    });
}

#[test]
fn a_caller_on_the_services_own_node_has_the_nodes_address() {
    let backend = Backend::named("v1");
    let entry = Entry { address: "127.0.0.9:1".parse().ok(), ..Entry::new(0, "reviews", "v1", &backend) };
    let mut world = World::new(1, vec![entry]);
    let asked = |world: &mut World, condition: &str| {
        world.push(&format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: only}}\nspec: {{action: ALLOW, rules: [{condition}]}}\n"
        ));
        get(world.nodes[0].outbound, "reviews", "/").status
    };
    assert_eq!(asked(&mut world, "{from: [{source: {ipBlocks: [127.0.0.9]}}]}"), 200);
    assert_eq!(asked(&mut world, "{when: [{key: destination.ip, values: [127.0.0.9]}]}"), 200);
    assert_eq!(asked(&mut world, "{from: [{source: {ipBlocks: [127.0.0.1]}}]}"), 403);
    assert_eq!(backend.last().header("x-forwarded-for"), Some("127.0.0.9"));
}
