//! Names of hosts outside the mesh: what ServiceEntries make of them for applications that resolve them.

use std::net::{Ipv4Addr, SocketAddr};

use harness::{
    PATIENCE,
    backend::Backend,
    bytes::{Echo, say},
    cluster::{Cluster, Plan, Service},
    dns::{self, Resolver},
    eventually, http,
};
use hickory_proto::rr::{RData, RecordType};

use crate::{
    outside::{entry, loopback, push},
    skein,
};

/// Above those that only root may open.
const HTTP: u16 = 8081;
const BYTES: u16 = 5433;

/// A node that answers names in the name of `shop/web`, and asks this resolver for others.
fn asking(range: &str, resolver: &Resolver) -> Cluster {
    let extra = format!(
        "[dns]\nlisten = \"127.0.0.1:0\"\naddresses = \"{range}\"\nupstreams = [\"{}\"]\nas = \"shop/web\"\n",
        resolver.address
    );
    let plan = Plan { extra, ..Plan::with([Service::client("shop/web")]) };
    let cluster = Cluster::start(skein(), &[("web", plan)]);
    cluster.wait_members(PATIENCE);
    cluster
}

#[test]
fn hosts_of_entries_have_addresses_where_their_endpoints_are_listed() {
    let (range, resolver) = (dns::range(), Resolver::start());
    let (web, echo) = (Backend::start(loopback(), "outside").expect("a free port"), Echo::start(loopback(), "db"));
    let echo = echo.expect("a free port");
    let cluster = asking(&range, &resolver);
    let ports = format!(
        "ports: [{{number: {HTTP}, name: http, protocol: HTTP, targetPort: {}}}, {{number: {BYTES}, name: db, protocol: TCP, targetPort: {}}}]",
        web.address.port(),
        echo.address.port()
    );
    let listed = "endpoints: [{address: 127.0.0.1}]";
    let documents = [
        entry("api", &format!("{{hosts: [api.example.com], {ports}, resolution: STATIC, {listed}}}")),
        entry(
            "named",
            &format!("{{hosts: [named.example.com], {ports}, resolution: DNS, endpoints: [{{address: localhost}}]}}"),
        ),
        entry(
            "vip",
            &format!(
                "{{hosts: [vip.example.com], addresses: [10.9.8.7, '2001:db8::7'], {ports}, resolution: STATIC, {listed}}}"
            ),
        ),
        entry("itself", &format!("{{hosts: [itself.example.com], {ports}, resolution: DNS}}")),
    ];
    push(&cluster, &documents.concat());
    let server = cluster.node("web").address("dns");
    let address = |name: &str| {
        eventually(&format!("{name} has an address of its own"), || match dns::address(server, name)? {
            Resolver::ADDRESS => Err("the resolver's".to_owned()),
            address => Ok(address),
        })
    };
    let at: Vec<Ipv4Addr> = ["api.example.com.", "named.example.com."].into_iter().map(address).collect();
    assert!(at.iter().all(Ipv4Addr::is_loopback) && at[0] != at[1], "{at:?}");
    for address in at {
        let answer = eventually("requests get there", || {
            http::get(SocketAddr::new(address.into(), HTTP), "api.example.com", "/")
        });
        assert_eq!(answer.text(), "outside");
        let said = eventually("bytes get there", || say(SocketAddr::new(address.into(), BYTES), "hello"));
        assert_eq!(said, "db\nhello");
    }
    assert_eq!(dns::address(server, "vip.example.com."), Ok(Ipv4Addr::new(10, 9, 8, 7)));
    let six = dns::ask(server, "vip.example.com.", RecordType::AAAA).expect("an answer");
    assert!(matches!(&six.answers[0].data, RData::AAAA(six) if six.to_string() == "2001:db8::7"), "{six:?}");
    // What this node itself asks the resolver for must be told by that.
    assert_eq!(dns::address(server, "itself.example.com."), Ok(Resolver::ADDRESS));
    cluster.on("web", &["policy", "delete", "ServiceEntry", "api", "-n", "shop", "--wait", "all"]).expect_code(0);
    eventually("its name is the resolver's again", || match dns::address(server, "api.example.com.")? {
        Resolver::ADDRESS => Ok(()),
        address => Err(address.to_string()),
    });
}

/// Whoever is told an address is led by it to whom it was told for; where that is not so, the machine's resolvers have the word.
#[test]
fn addresses_of_documents_are_told_to_whom_they_lead() {
    let (range, resolver) = (dns::range(), Resolver::start());
    let cluster = asking(&range, &resolver);
    let of = |name: &str, address: &str, port: &str| {
        let listed = "resolution: STATIC, endpoints: [{address: 192.0.2.1}]";
        entry(name, &format!("{{hosts: [{name}.example.com], addresses: [{address}], ports: [{port}], {listed}}}"))
    };
    let (tls, tcp) = ("{number: 443, name: tls, protocol: TLS}", "{number: 5432, name: tcp, protocol: TCP}");
    let documents =
        [of("a", "240.0.0.7", tls), of("b", "240.0.0.7", tls), of("c", "240.0.0.8", tcp), of("d", "240.0.0.8", tcp)];
    push(&cluster, &documents.concat());
    let server = cluster.node("web").address("dns");
    let is = |name: &str, wanted: Ipv4Addr| {
        eventually(&format!("{name} is at {wanted}"), || {
            match dns::address(server, &format!("{name}.example.com."))? {
                found if found == wanted => Ok(()),
                found => Err(found.to_string()),
            }
        });
    };
    is("a", Ipv4Addr::new(240, 0, 0, 7));
    is("b", Ipv4Addr::new(240, 0, 0, 7));
    is("c", Ipv4Addr::new(240, 0, 0, 8));
    is("d", Resolver::ADDRESS);
    // What the caller's Sidecar does not import is nobody's.
    let sidecar = "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: default, namespace: shop}\n\
                   spec: {egress: [{hosts: ['./b.example.com', './d.example.com']}]}\n";
    push(&cluster, sidecar);
    is("a", Resolver::ADDRESS);
    is("b", Ipv4Addr::new(240, 0, 0, 7));
    is("d", Ipv4Addr::new(240, 0, 0, 8));
}
