//! Connections that outlive what was known of their callers, and of the services that they lead to.

use super::{
    backend::Backend,
    client::{Client, eventually},
    world::{Entry, World},
};
use crate::snapshot::{Endpoint, Services, Snapshot};
use std::sync::Arc;

const GET: &str = "GET / HTTP/1.1\r\nHost: reviews\r\n\r\n";

fn ask(client: &mut Client) -> u16 {
    client.ask(GET).expect("an answer").status
}

/// Waits until the serving node has counted so many requests with these labels.
fn counted(world: &World, many: u64, labels: &[&str]) {
    eventually(&format!("{many} of {labels:?}"), || {
        let metrics = world.metrics(1);
        let lines = metrics.lines().filter(|line| line.starts_with("istio_requests_total{reporter=\"destination\""));
        let lines = lines.filter(|line| labels.iter().all(|label| line.contains(label)));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum::<u64>() == many
    });
}

/// Has the serving node see the endpoints that are left, as `change` leaves them.
fn show(world: &World, change: impl FnMut(&mut Endpoint) -> bool) {
    let last = world.seen_by(1);
    let all = last.services.iter().flat_map(|service| service.endpoints.iter());
    let mut endpoints: Vec<Endpoint> = all.map(|endpoint| Endpoint::clone(endpoint)).collect();
    endpoints.retain_mut(change);
    let services = Arc::new(Services::new(endpoints));
    world.nodes[1].current.store(Arc::new(Snapshot { services, ..Snapshot::clone(&last) }));
}

#[test]
fn requests_count_for_what_the_service_is_now() {
    let backend = Backend::named("v1");
    let entry = Entry { plaintext: "127.0.0.1:0".parse().ok(), ..Entry::new(1, "reviews", "v1", &backend) };
    let mut world = World::new(2, vec![entry]);
    let mut clients = [world.nodes[0].outbound, world.nodes[1].plaintext[0]].map(Client::connect);
    assert_eq!(clients.each_mut().map(ask), [200, 200]);
    world.tier = "second";
    world.configure(1, &[]).unwrap();
    assert_eq!(clients.each_mut().map(ask), [200, 200], "the same connections");
    for way in ["connection_security_policy=\"mutual_tls\"", "connection_security_policy=\"none\""] {
        counted(&world, 1, &[way, "destination_canonical_revision=\"v1\""]);
        counted(&world, 1, &[way, "destination_canonical_revision=\"second\""]);
    }
    let connections: std::collections::BTreeSet<usize> =
        backend.arrived().iter().map(|asked| asked.connection).collect();
    assert!(connections.len() <= 2, "{connections:?}");
}

#[test]
fn a_caller_is_who_the_registry_says_now() {
    let backend = Backend::named("v1");
    let mut world = World::new(2, vec![Entry::new(1, "reviews", "v1", &backend)]);
    world.push(
        "apiVersion: skein.dev/v1\nkind: RateLimit\nmetadata: {name: second}\nspec: {selector: {matchLabels: {app: reviews}}, \
         rules: [{match: [{sourceLabels: {version: v2}}], limit: {requests: 1, interval: 1h, burst: 2}}]}\n",
    );
    let all = world.seen_by(1);
    let is_web = |endpoint: &Endpoint| endpoint.id.service.name() == "web";
    show(&world, |endpoint| !is_web(endpoint));
    let mut client = Client::connect(world.nodes[0].outbound);
    assert_eq!(ask(&mut client), 200, "it may have any labels: this counts for every limit");
    counted(&world, 1, &["source_workload=\"unknown\""]);
    world.nodes[1].current.store(all);
    assert_eq!(ask(&mut client), 200);
    counted(&world, 1, &["source_workload=\"web-v1\"", "response_code=\"200\""]);
    show(&world, |endpoint| {
        if is_web(endpoint) {
            Arc::make_mut(&mut endpoint.labels).insert("version".to_owned(), "v2".to_owned());
        }
        true
    });
    assert_eq!([ask(&mut client), ask(&mut client)], [200, 429], "limits of the new version hold");
    counted(&world, 1, &["source_workload=\"web-v2\"", "response_code=\"429\""]);
}
