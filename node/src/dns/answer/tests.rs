//! What is answered, what is passed on, what is refused, and that no bytes do harm.

use super::*;
use crate::{
    snapshot::{Endpoint, StatsTable},
    testing,
};
use policy::hosts::Protocol;
use proptest::prelude::*;
use std::collections::BTreeMap;

const CART: Ipv4Addr = Ipv4Addr::new(127, 240, 1, 2);
/// Of a host of a ServiceEntry.
const DB: Ipv4Addr = Ipv4Addr::new(127, 240, 1, 3);

struct World {
    node: NodeId,
    names: Names,
    services: Services,
}

impl World {
    /// `shop/cart` has ports; `shop/caller` has none.
    fn new() -> Self {
        let node = NodeId::new("web").unwrap();
        let stats = StatsTable::default();
        let endpoint = |name: &str, ports: Vec<ServicePort>| {
            let service = ServiceName::new("shop", name).unwrap();
            Endpoint { ports: ports.into(), ..testing::endpoint(node.as_str(), &service, &stats) }
        };
        let port = |name: &str, number| ServicePort { name: name.to_owned(), number, protocol: Protocol::Http };
        let services =
            Services::new([endpoint("cart", vec![port("http", 80), port("grpc-x", 81)]), endpoint("caller", vec![])]);
        let cart = ServiceName::new("shop", "cart").unwrap();
        Self {
            names: Names::new(
                BTreeMap::from([(Called::Service(cart), CART), (Called::Host("db.example".into()), DB)]),
                Vec::new(),
            ),
            node,
            services,
        }
    }

    fn judge(&self, packet: &[u8], carrier: Carrier) -> Verdict {
        let zone = Zone {
            node: &self.node,
            scope: "shop".into(),
            names: &self.names,
            services: &self.services,
            entries: &Entries::default(),
        };
        answer(&zone, packet, carrier)
    }

    fn ask(&self, name: &str, of: RecordType) -> Option<Message> {
        match self.judge(&query(name, of).to_vec().unwrap(), Carrier::Udp) {
            Verdict::Answer(bytes, _) => Some(Message::from_vec(&bytes).unwrap()),
            Verdict::Forward { .. } => None,
            Verdict::Drop => panic!("{name} was dropped"),
        }
    }

    fn code(&self, query: &Message) -> ResponseCode {
        match self.judge(&query.to_vec().unwrap(), Carrier::Udp) {
            Verdict::Answer(bytes, _) => Message::from_vec(&bytes).unwrap().metadata.response_code,
            Verdict::Drop | Verdict::Forward { .. } => panic!("{query:?} was not answered"),
        }
    }
}

fn query(name: &str, of: RecordType) -> Message {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), of));
    message
}

#[test]
fn every_form_of_a_name_leads_to_the_address() {
    let world = World::new();
    for name in ["cart.", "cart.shop.", "cart.shop.svc.", "CART.shop.svc.cluster.local.", "cart.shop.mesh."] {
        let answer = world.ask(name, RecordType::A).unwrap();
        assert_eq!(answer.answers.len(), 1, "{name}");
        assert_eq!(answer.answers[0].data, RData::A(A(CART)), "{name}");
        assert!(
            answer.metadata.authoritative && answer.metadata.recursion_available && answer.metadata.recursion_desired
        );
        assert_eq!((answer.metadata.id, answer.queries[0].name().to_ascii().as_str()), (7, name), "as it was asked");
    }
    let reverse = world.ask("2.1.240.127.in-addr.arpa.", RecordType::PTR).unwrap();
    assert_eq!(reverse.answers[0].data.to_string(), "cart.shop.svc.cluster.local.");
}

#[test]
fn a_host_outside_is_where_this_node_listens_for_it_and_the_rest_is_its_own_servers_to_say() {
    let world = World::new();
    let answer = world.ask("DB.example.", RecordType::A).unwrap();
    assert_eq!((answer.answers.len(), &answer.answers[0].data), (1, &RData::A(A(DB))));
    for of in [RecordType::AAAA, RecordType::HTTPS] {
        let none = world.ask("db.example.", of).unwrap();
        assert_eq!((none.metadata.response_code, none.answers.len()), (ResponseCode::NoError, 0), "{of}");
    }
    for (name, of) in [("db.example.", RecordType::MX), ("x.db.example.", RecordType::A), ("example.", RecordType::A)] {
        assert_eq!(world.ask(name, of), None, "{name} {of}");
    }
    let reverse = world.ask("3.1.240.127.in-addr.arpa.", RecordType::PTR).unwrap();
    assert_eq!(reverse.answers[0].data.to_string(), "db.example.");
}

#[test]
fn ports_have_srv_records() {
    let world = World::new();
    let answer = world.ask("_GRPC-x._tcp.cart.shop.mesh.", RecordType::SRV).unwrap();
    let RData::SRV(srv) = &answer.answers[0].data else { panic!("{answer:?}") };
    assert_eq!((srv.port, srv.target.to_ascii().as_str()), (81, "cart.shop.svc.cluster.local."));
    assert_eq!(answer.additionals[0].data, RData::A(A(CART)));
    assert_eq!(
        world.ask("_none._tcp.cart.shop.mesh.", RecordType::SRV).unwrap().metadata.response_code,
        ResponseCode::NXDomain
    );
}

#[test]
fn what_is_not_there_is_told_with_how_long_that_may_be_kept() {
    let world = World::new();
    let none = |name: &str, of| {
        let answer = world.ask(name, of).unwrap_or_else(|| panic!("{name} was passed on"));
        assert!(answer.answers.is_empty(), "{name}");
        let RData::SOA(soa) = &answer.authorities[0].data else { panic!("{name}: no SOA") };
        assert_eq!((soa.minimum, answer.authorities[0].ttl), (NEGATIVE_TTL, NEGATIVE_TTL));
        assert!(answer.authorities[0].name.zone_of(answer.queries[0].name()), "{name}: {}", answer.authorities[0].name);
        answer.metadata.response_code
    };
    let no_data = ResponseCode::NoError;
    assert_eq!(none("cart.shop.mesh.", RecordType::AAAA), no_data, "IPv6 has one loopback address");
    assert_eq!(none("cart.", RecordType::AAAA), no_data);
    assert_eq!(none("cart.shop.svc.cluster.local.", RecordType::TXT), no_data);
    for between in [
        "mesh.",
        "svc.cluster.local.",
        "cluster.local.",
        "shop.mesh.",
        "shop.svc.cluster.local.",
        "_tcp.cart.shop.mesh.",
    ] {
        assert_eq!(none(between, RecordType::A), no_data, "{between} has names below it");
    }
    for missing in
        ["no.shop.mesh.", "cart.none.svc.cluster.local.", "none.mesh.", "x.cart.shop.mesh.", "caller.shop.mesh."]
    {
        assert_eq!(none(missing, RecordType::A), ResponseCode::NXDomain, "{missing}");
    }
}

#[test]
fn other_names_are_not_the_meshs_to_answer() {
    let world = World::new();
    for name in
        ["example.com.", "shop.", "none.shop.", "none.", ".", "mesh.example.", "xmesh.", "1.0.0.127.in-addr.arpa."]
    {
        assert_eq!(world.ask(name, RecordType::A), None, "{name}");
    }
    let packet = query("example.com.", RecordType::A).to_vec().unwrap();
    assert_eq!(world.judge(&packet, Carrier::Udp), Verdict::Forward { question_ends: packet.len() });
}

#[test]
fn what_is_no_plain_question_is_refused_or_dropped() {
    let world = World::new();
    let mut packet = query("cart.shop.mesh.", RecordType::A);
    packet.metadata.op_code = OpCode::Notify;
    assert_eq!(world.code(&packet), ResponseCode::NotImp);
    let mut packet = query("cart.shop.mesh.", RecordType::A);
    packet.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(world.code(&packet), ResponseCode::Refused);
    assert_eq!(world.code(&query("mesh.", RecordType::AXFR)), ResponseCode::Refused, "nobody gets all names at once");
    let mut packet = query("cart.shop.mesh.", RecordType::A);
    let again = packet.queries[0].clone();
    packet.add_query(again);
    assert_eq!(world.code(&packet), ResponseCode::FormErr);
    let mut packet = query("cart.shop.mesh.", RecordType::A);
    let mut edns = Edns::new();
    edns.set_version(1);
    packet.set_edns(edns);
    // 16, whose other name is BADSIG.
    assert_eq!(u16::from(world.code(&packet)), u16::from(ResponseCode::BADVERS));
    let mut packet = query("cart.shop.mesh.", RecordType::A).to_vec().unwrap();
    packet[2] |= 0x80;
    assert_eq!(world.judge(&packet, Carrier::Udp), Verdict::Drop, "an answer is not answered");
    assert_eq!(world.judge(&packet[..11], Carrier::Udp), Verdict::Drop);
}

#[test]
fn what_does_not_fit_is_fetched_by_tcp() {
    let mut response = response_to(&query("cart.", RecordType::A), &query("cart.", RecordType::A).queries[0]);
    for _ in 0..60 {
        response.add_answer(Record::from_rdata(Name::from_ascii("cart.").unwrap(), TTL, RData::A(A(CART))));
    }
    let plain = query("cart.", RecordType::A);
    let cut = Message::from_vec(&encode(response.clone(), &plain, Carrier::Udp).unwrap()).unwrap();
    assert!(cut.metadata.truncation && cut.answers.is_empty() && cut.queries.len() == 1);
    assert_eq!(Message::from_vec(&encode(response.clone(), &plain, Carrier::Tcp).unwrap()).unwrap().answers.len(), 60);
    let mut wide = plain;
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    wide.set_edns(edns);
    let whole = Message::from_vec(&encode(response, &wide, Carrier::Udp).unwrap()).unwrap();
    assert_eq!((whole.metadata.truncation, whole.answers.len()), (false, 60));
}

#[test]
fn who_cannot_be_asked_for_is_answered_all_the_same() {
    let packet = query("example.com.", RecordType::A).to_vec().unwrap();
    let failed = Message::from_vec(&failure(&packet)).unwrap();
    assert_eq!((failed.metadata.id, failed.metadata.response_code), (7, ResponseCode::ServFail));
    assert_eq!(failed.queries.len(), 1);
    assert!(!failure(b"").is_empty());
}

proptest! {
    #[test]
    fn no_packet_panics_and_no_answer_is_long(packet in proptest::collection::vec(any::<u8>(), 0..600)) {
        let world = World::new();
        for carrier in [Carrier::Udp, Carrier::Tcp] {
            if let Verdict::Answer(bytes, _) = world.judge(&packet, carrier) {
                prop_assert!(bytes.len() >= 12 && bytes.len() <= usize::from(LONGEST));
            }
        }
        let _ = failure(&packet);
    }

    #[test]
    fn no_damaged_query_panics(at in 0usize..200, byte: u8, cut in 0usize..200) {
        let world = World::new();
        let mut message = query("_grpc-x._tcp.cart.shop.svc.cluster.local.", RecordType::SRV);
        message.set_edns(Edns::new());
        let mut packet = message.to_vec().unwrap();
        let at = at % packet.len();
        packet[at] = byte;
        let _ = world.judge(&packet, Carrier::Udp);
        packet.truncate(cut);
        let _ = world.judge(&packet, Carrier::Udp);
    }
}
