//! What browsers are told.

use super::{
    backend::Backend,
    client::{Answer, Client},
    world::{Entry, World},
};

fn world(policy: &str, rest: &str) -> (World, Backend) {
    let backend = Backend::named("v1");
    let mut world = World::new(2, vec![Entry::new(1, "reviews", "v1", &backend)]);
    world.push(&format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: reviews}}\nspec:\n  hosts: [reviews]\n  \
         http:\n  - corsPolicy: {policy}\n    {rest}\n"
    ));
    (world, backend)
}

const ROUTE: &str = "route: [{destination: {host: reviews}}]";
const POLICY: &str = "{allowOrigins: [{exact: 'https://a.example'}, {prefix: 'https://b.'}], allowMethods: [GET, PUT], \
                      allowHeaders: [x-a, x-b], exposeHeaders: [x-c], maxAge: 24h, allowCredentials: true}";

fn ask(world: &World, method: &str, headers: &str) -> Answer {
    let request = format!("{method} / HTTP/1.1\r\nHost: reviews\r\n{headers}\r\n");
    Client::connect(world.nodes[0].outbound).ask(request).unwrap()
}

const ALLOWED: &str = "Origin: https://a.example\r\n";
const OTHER: &str = "Origin: https://evil.example\r\n";
const ASKS: &str = "Access-Control-Request-Method: DELETE\r\n";

#[test]
fn preflights_are_answered_here() {
    let (world, backend) = world(POLICY, ROUTE);
    let answer = ask(&world, "OPTIONS", &format!("{ALLOWED}{ASKS}"));
    assert_eq!((answer.status, answer.body.as_str()), (200, ""), "whatever method it asks for");
    for (name, value) in [
        ("access-control-allow-origin", "https://a.example"),
        ("access-control-allow-credentials", "true"),
        ("access-control-allow-methods", "GET,PUT"),
        ("access-control-allow-headers", "x-a,x-b"),
        ("access-control-max-age", "86400"),
    ] {
        assert_eq!(answer.header(name), Some(value), "{name}");
    }
    assert!(backend.arrived().is_empty());
}

#[test]
fn other_answers_are_marked_and_nothing_is_refused() {
    let (world, _backend) = world(POLICY, ROUTE);
    let answer = ask(&world, "GET", ALLOWED);
    assert_eq!((answer.status, answer.body.as_str()), (200, "v1"));
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://a.example"));
    assert_eq!(answer.header("access-control-expose-headers"), Some("x-c"));
    assert_eq!(answer.header("access-control-allow-methods"), None);
    let foreign = ask(&world, "GET", OTHER);
    assert_eq!((foreign.status, foreign.header("access-control-allow-origin")), (200, None));
    assert_eq!(ask(&world, "GET", "").header("access-control-allow-origin"), None);
    assert_eq!(ask(&world, "OPTIONS", ALLOWED).body, "v1", "without the method it is no preflight");
}

#[test]
fn preflights_of_others_are_forwarded_or_answered_without_a_word() {
    let (world, backend) = world(POLICY, ROUTE);
    assert_eq!(ask(&world, "OPTIONS", &format!("{OTHER}{ASKS}")).body, "v1");
    assert_eq!(backend.arrived().len(), 1);
    let (world, backend) = self::world("{allowOrigins: [{exact: x}], unmatchedPreflights: IGNORE}", ROUTE);
    let answer = ask(&world, "OPTIONS", &format!("{OTHER}{ASKS}"));
    assert_eq!((answer.status, answer.body.as_str(), answer.header("access-control-allow-origin")), (200, "", None));
    assert!(backend.arrived().is_empty());
}

#[test]
fn the_proxys_own_answers_are_marked_too() {
    let (direct, _backend) = world(POLICY, "directResponse: {status: 418}");
    let answer = ask(&direct, "GET", ALLOWED);
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (418, Some("https://a.example")));
    let (lost, _backend) = world(POLICY, "route: [{destination: {host: nobody}}]");
    let answer = ask(&lost, "GET", ALLOWED);
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (503, Some("https://a.example")));
}
