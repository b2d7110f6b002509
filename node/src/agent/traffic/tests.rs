//! What is believed of whom, and how both sides make one picture.

use super::*;
use certs::id::{ServiceAccount, ServiceName};

fn records(services: &[(&str, &str)]) -> Arc<[ServiceRecord]> {
    let record = |(name, version): &(&str, &str)| ServiceRecord {
        instance: None,
        service: ServiceName::new("shop", name).unwrap(),
        account: ServiceAccount::new("shop", name).unwrap(),
        labels: BTreeMap::from([("version".to_owned(), (*version).to_owned())]),
        ports: Vec::new(),
        weight: 1,
    };
    services.iter().map(record).collect()
}

fn party(service: &str, version: &str) -> Party {
    Party { namespace: "shop".into(), service: service.into(), version: version.into() }
}

fn said(by_caller: bool, requests: u64) -> Said {
    let ends = Ends {
        by_caller,
        from: party("web", "v1"),
        to: party("cart", "v2"),
        namespace: "shop".into(),
        service: "cart".into(),
        mutual_tls: (!by_caller).then_some(true),
    };
    let connections = vec![Connections { ends: ends.clone(), open: 1, slots: vec![(requests, 1, 50, 20)] }];
    let pair = Pair {
        ends,
        grpc: false,
        slots: vec![(requests, 1)],
        buckets: vec![0, 0, requests],
        failures: vec![("503 UH".into(), 1)],
    };
    Said { partial: 0, span: 10_000, left_out: 0, pairs: vec![pair], connections }
}

fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

#[test]
fn both_sides_make_one_edge_and_who_saw_more_counts() {
    let mut picture = Picture::default();
    picture.add(node("a"), &records(&[("web", "v1")]), said(true, 20));
    picture.add(node("b"), &records(&[("cart", "v2")]), said(false, 30));
    let traffic = picture.traffic(node("a"), Unheard { silent: vec![node("c")], unasked: 3, ..Unheard::default() });
    assert_eq!((traffic.heard.len(), traffic.edges.len(), traffic.window_s), (2, 1, 10));
    let edge = &traffic.edges[0];
    assert_eq!((edge.requests, edge.failed, &*edge.security, &*edge.service), (30, 1, "mutual_tls", "shop/cart"));
    assert_eq!((edge.rate, edge.p50_ms, edge.slots[0]), (3.0, Some(3.0), [30, 1]));
    let stream = &traffic.connections[0];
    assert_eq!((traffic.connections.len(), &*stream.service, &*stream.security), (1, "shop/cart", "mutual_tls"));
    assert_eq!((stream.open, stream.opened, stream.failed, stream.sent, stream.received), (1, 30, 1, 50, 20));
    assert_eq!((stream.rate, stream.sent_rate, stream.received_rate), (3.0, 5.0, 2.0));
}

#[test]
fn several_nodes_of_a_service_add_up() {
    let mut picture = Picture::default();
    for name in ["a", "b"] {
        picture.add(node(name), &records(&[("web", "v1")]), said(true, 20));
    }
    let edge = &picture.traffic(node("a"), Unheard::default()).edges[0];
    assert_eq!((edge.requests, edge.rate, edge.failures["503 UH"]), (40, 4.0, 2));
}

#[test]
fn a_node_speaks_of_its_own_services_only() {
    let edges = |services: &[(&str, &str)], said: Said| {
        let mut picture = Picture::default();
        picture.add(node("a"), &records(services), said);
        let traffic = picture.traffic(node("a"), Unheard::default());
        assert_eq!(traffic.edges.len(), traffic.connections.len(), "both are believed alike");
        traffic.edges.len()
    };
    assert_eq!(edges(&[("web", "v1")], said(true, 1)), 1);
    assert_eq!(edges(&[("cart", "v2")], said(true, 1)), 0, "it does not call as web");
    assert_eq!(edges(&[("web", "v1")], said(false, 1)), 0, "it does not serve cart");
    assert_eq!(edges(&[("web", "v9")], said(true, 1)), 1, "it was another version a moment ago");
    let mut long = said(true, 1);
    long.pairs[0].ends.to.service = "x".repeat(NAME + 1);
    long.connections[0].ends.to.service = "x".repeat(NAME + 1);
    assert_eq!(edges(&[("web", "v1")], long), 0);
    let mut vast = said(true, u64::MAX);
    vast.pairs.push(vast.pairs[0].clone());
    vast.connections[0].slots[0] = (u64::MAX, u64::MAX, u64::MAX, u64::MAX);
    vast.connections.push(vast.connections[0].clone());
    assert_eq!(edges(&[("web", "v1")], vast), 1, "numbers beyond all bounds do no harm");
    let many = Said { pairs: vec![said(true, 1).pairs[0].clone(); PAIRS + 1], ..said(true, 1) };
    let mut picture = Picture::default();
    picture.add(node("a"), &records(&[("web", "v1")]), many);
    assert_eq!(picture.traffic(node("a"), Unheard::default()).edges[0].requests, PAIRS as u64);
}

#[test]
fn a_party_is_named_after_its_service() {
    let labels = BTreeMap::from([("version".to_owned(), "v1".to_owned()), ("app".to_owned(), "x".to_owned())]);
    let domain = certs::id::TrustDomain::new("t.example").unwrap();
    let (name, account) = (ServiceName::new("shop", "web").unwrap(), ServiceAccount::new("shop", "web").unwrap());
    let workload = Workload::of_service(&domain, &name, &account, &labels);
    assert_eq!(Party::of(&workload), party("web", "v1"));
    assert_eq!(Party::of(&Workload::unknown()).service, "unknown");
}
