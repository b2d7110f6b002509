//! Which destinations are services, by address and by name.

use super::{found::service, *};
use crate::{
    snapshot::{Endpoint, Names, Services, StatsTable},
    testing,
};
use certs::id::{ServiceAccount, ServiceName};
use policy::hosts::ServicePort;
use std::collections::BTreeMap;

const CART: Ipv4Addr = Ipv4Addr::new(127, 240, 0, 9);

fn cart() -> ServiceName {
    ServiceName::new("shop", "cart").unwrap()
}

fn services() -> Services {
    let port = |number, protocol| ServicePort { name: format!("p{number}"), number, protocol };
    let ports =
        [port(80, Protocol::Http), port(443, Protocol::Tls), port(9, Protocol::Sniffed), port(5432, Protocol::Tcp)];
    Services::new([Endpoint { ports: ports.into(), ..testing::endpoint("a", &cart(), &StatsTable::default()) }])
}

#[test]
fn a_services_address_leads_to_its_ports_and_no_other_loopback_address_anywhere() {
    let host = Called::Host("db.example".into());
    let names = BTreeMap::from([(Called::Service(cart()), CART), (host.clone(), Ipv4Addr::new(127, 240, 0, 11))]);
    let names = Names::new(names, Vec::new());
    let to = |text: &str| by_address(&services(), &names, text.parse().unwrap());
    let place = |port| Some(Destination::Mesh(Place::AtName(Called::Service(cart()), port)));
    assert_eq!(to("127.240.0.9:80"), place(80));
    assert_eq!(to("127.240.0.9:5432"), place(5432));
    assert_eq!(to("127.240.0.11:5432"), Some(Destination::Mesh(Place::AtName(host, 5432))));
    assert_eq!(to("127.240.0.9:81"), Some(Destination::Nowhere), "no such port");
    assert_eq!(to("127.240.0.10:80"), Some(Destination::Nowhere), "nobody's address");
    // The node's own pages are among what is refused.
    assert_eq!(to("127.0.0.1:15000"), Some(Destination::Nowhere));
    assert_eq!(to("[::1]:15000"), Some(Destination::Nowhere));
    assert_eq!(to("[::ffff:127.0.0.1]:15000"), Some(Destination::Nowhere));
    assert_eq!(to("10.0.0.1:80"), None);
    assert_eq!(to("[2001:db8::1]:80"), None);
}

#[test]
fn a_name_leads_to_a_port_that_may_be_called_by_name() {
    let place = |port| Place::Known(Called::Service(cart()), port);
    let to = |name: &str, port, spoken| service(&services(), name, "shop".into(), port, spoken);
    for name in ["cart", "cart.shop", "CART.shop.svc.cluster.local", "cart.shop.mesh"] {
        assert_eq!(to(name, 80, Protocol::Http), Some(place(80)), "{name}");
    }
    assert_eq!(to("cart", 443, Protocol::Tls), Some(place(443)));
    assert_eq!(to("cart", 9, Protocol::Http), Some(place(9)));
    assert_eq!(to("cart", 9, Protocol::Tls), Some(place(9)));
    for (name, port, spoken) in [
        ("cart", 81, Protocol::Http),
        ("cart", 443, Protocol::Http),
        ("cart", 80, Protocol::Tls),
        ("cart", 5432, Protocol::Http),
        ("cart.other", 80, Protocol::Http),
        ("www.example.com", 80, Protocol::Http),
        ("10.0.0.1", 80, Protocol::Http),
    ] {
        assert_eq!(to(name, port, spoken), None, "{name} {port}");
    }
}

#[test]
fn only_ports_of_what_its_caller_may_call_are_told_by_names() {
    const ENTRY: &str = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: db, namespace: data}\n\
        spec: {hosts: [db.example], ports: [{number: 4306, name: db}, {number: 5433, name: tcp, protocol: TCP}], \
        resolution: STATIC, endpoints: [{address: 192.0.2.1}]}\n---\n";
    let narrowed = |hosts: &str| {
        format!(
            "{ENTRY}apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: default, namespace: other}}\n\
             spec: {{egress: [{{hosts: [{hosts}]}}]}}\n"
        )
    };
    let source = |namespace: &str| Source {
        namespace: namespace.to_owned(),
        labels: BTreeMap::new(),
        account: ServiceAccount::new(namespace, "default").unwrap(),
    };
    let told = |documents: &str, namespace: &str| {
        let mut told: Vec<u16> =
            told_by_names(&testing::snapshot(documents, services()), &source(namespace)).into_iter().collect();
        told.sort_unstable();
        told
    };
    assert_eq!(told(ENTRY, "other"), [9, 80, 443, 4306], "what is of bytes is not");
    assert_eq!(told(&narrowed("shop/*"), "other"), [9, 80, 443]);
    assert_eq!(told(&narrowed("data/*"), "other"), [4306]);
    assert_eq!(told(&narrowed("./*"), "other"), [0; 0]);
    assert_eq!(told(&narrowed("./*"), "shop"), [9, 80, 443, 4306], "another caller");
}
