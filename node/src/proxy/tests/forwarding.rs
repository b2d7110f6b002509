//! Requests find their way, over the mesh and on one node, and failures are hidden or told as Envoy tells them.

use super::{
    backend::{Backend, ok},
    client::{Client, get, with},
    world::{Entry, World},
};
use crate::mesh::Transport;

#[test]
fn a_request_reaches_an_endpoint_on_another_node() {
    let backend = Backend::named("v1");
    let world = World::new(2, vec![Entry::new(1, "reviews", "v1", &backend)]);
    let answer = get(world.nodes[0].outbound, "reviews:9080", "/x?y=z");
    assert_eq!((answer.status, answer.body.as_str()), (200, "v1"));
    let arrived = backend.last();
    assert_eq!(arrived.line(), "GET /x?y=z HTTP/1.1");
    assert_eq!(arrived.header("host"), Some("reviews:9080"));
}
