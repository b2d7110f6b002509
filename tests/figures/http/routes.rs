//! Ten thousand routes of a thousand services: what they cost a request.

use std::fmt::Write as _;

use crate::{
    Figure,
    policy::documents::{Mesh, nanoseconds_a_route},
};

const SERVICES: usize = 1_000;
const ROUTES: usize = 10;
const ROUNDS: usize = 9;

pub(super) fn figures() -> Vec<Figure> {
    let services = |count: usize| Mesh::of((0..count).map(service)).compiled();
    let (few, many) = (services(1), services(SERVICES));
    // In turn, and the best of each: what else the machine does meets both alike.
    let (mut of_few, mut of_many) = (f64::MAX, f64::MAX);
    for _ in 0..ROUNDS {
        of_few = of_few.min(nanoseconds_a_route(&few, "svc-0.default", "/nothing/before/the/last"));
        of_many = of_many.min(nanoseconds_a_route(&many, "svc-0.default", "/nothing/before/the/last"));
    }
    vec![
        Figure::at_most(
            "routing_10000_routes_over_10",
            of_many / of_few,
            "times",
            1.2,
            "one request's routing with 10,000 routes of 1,000 services over that with 10 of one, the best of 9 rounds each",
        ),
        Figure::stated("routing_10000_routes", of_many, "ns", "of that: one request that the last of ten routes takes"),
    ]
}

/// A service of ten routes; the last takes what the others leave.
fn service(number: usize) -> String {
    let mut text = format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: svc-{number}}}\nspec:\n  hosts: [svc-{number}]\n  http:\n"
    );
    for route in 1..ROUTES {
        let _ = writeln!(
            text,
            "  - match: [{{uri: {{prefix: /part-{route}/}}}}]\n    route: [{{destination: {{host: svc-{number}}}}}]"
        );
    }
    let _ = writeln!(text, "  - route: [{{destination: {{host: svc-{number}}}}}]");
    text
}
