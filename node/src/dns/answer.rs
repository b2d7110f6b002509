//! From a query's bytes to what is to be done with it: an answer of the mesh's own, a refusal, or a question for the machine's
//! resolvers. Pure.

use crate::snapshot::{Names, Services};
use certs::id::{NodeId, ServiceName};
use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{
        DNSClass, Name, RData, Record, RecordType,
        rdata::{A, AAAA, PTR, SOA, SRV},
    },
};
use policy::{
    compile::{Entries, Scope},
    hosts::{self, REGISTRY_SUFFIX, ServicePort},
    kinds::Subnet,
    route::Called,
};
use std::net::{IpAddr, Ipv4Addr};

/// How long an answer may be kept, seconds. The address of a service does not change while the node runs.
const TTL: u32 = 30;
/// How long it may be kept that there is no such name, seconds: a service may appear at any time.
const NEGATIVE_TTL: u32 = 5;
/// Bytes of an answer by UDP to who says nothing of what it takes (RFC 1035, 4.2.1).
const PLAIN: u16 = 512;
/// Bytes of the longest answer by UDP (RFC 9715: no fragments).
const LONGEST: u16 = 1232;
/// Bytes of a message's header.
const HEADER: usize = 12;
/// Zones that are the mesh's alone: what is not in them does not exist.
const ZONES: [&str; 3] = ["mesh", "svc", "cluster.local"];

/// How a query came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Carrier {
    Udp,
    Tcp,
}

/// What is to be done with a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing: it is no query. Who answers answers begins a ping-pong.
    Drop,
    /// It is answered so.
    Answer(Vec<u8>, Outcome),
    /// It is not for the mesh to say. This much of the packet is header and question.
    Forward {
        /// Bytes.
        question_ends: usize,
    },
}

/// What a query came to, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// A record of the mesh.
    Answered,
    /// The mesh has no such name, or no such record of it.
    Negative,
    /// Not one that can be answered.
    Refused,
}

/// What is known of names.
#[derive(Debug, Clone, Copy)]
pub(super) struct Zone<'a> {
    pub(super) node: &'a NodeId,
    /// What whoever speaks by captured connections and names sees of the mesh; in its namespace names without one are looked for.
    pub(super) scope: Scope<'a>,
    pub(super) names: &'a Names,
    pub(super) services: &'a Services,
    pub(super) entries: &'a Entries,
}

/// What a name means.
#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    /// A service, by whatever form of its name.
    Service(ServiceName, Ipv4Addr),
    /// `_PORT._tcp.SERVICE`.
    Port(ServiceName, Ipv4Addr, ServicePort),
    /// A host that a ServiceEntry makes.
    Host(Vec<IpAddr>),
    /// The reverse of an address.
    Address(Called),
    /// In a zone of the mesh, with names below it but no records of its own.
    Between,
    /// In a zone of the mesh, where it does not exist.
    Nothing,
    /// Not in a zone of the mesh.
    Foreign,
}

/// Judges a packet.
pub(super) fn answer(zone: &Zone<'_>, packet: &[u8], carrier: Carrier) -> Verdict {
    let Some(header) = packet.get(..HEADER) else { return Verdict::Drop };
    let (id, is_response) = (u16::from_be_bytes([header[0], header[1]]), header[2] & 0x80 != 0);
    if is_response {
        return Verdict::Drop;
    }
    let op_code = OpCode::from_u8((header[2] >> 3) & 0xf);
    let Ok(query) = Message::from_vec(packet) else { return refusal(id, op_code, ResponseCode::FormErr) };
    let (1, [asked], Some(question_ends)) = (query.queries.len(), &query.queries[..], question_ends(packet)) else {
        return refusal(
            id,
            op_code,
            if op_code == OpCode::Query { ResponseCode::FormErr } else { ResponseCode::NotImp },
        );
    };
    let mut response = response_to(&query, asked);
    let finish = |response: Message, outcome| match encode(response, &query, carrier) {
        Some(bytes) => Verdict::Answer(bytes, outcome),
        None => refusal(id, op_code, ResponseCode::ServFail),
    };
    let refuse = |mut response: Message, code| {
        response.metadata.response_code = code;
        finish(response, Outcome::Refused)
    };
    if op_code != OpCode::Query {
        return refuse(response, ResponseCode::NotImp);
    }
    if query.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        return refuse(response, ResponseCode::BADVERS);
    }
    if asked.query_class() != DNSClass::IN || matches!(asked.query_type(), RecordType::AXFR | RecordType::IXFR) {
        return refuse(response, ResponseCode::Refused);
    }
    let meaning = zone.meaning(&asked.name().to_ascii().to_ascii_lowercase());
    // Of a host outside the mesh tells where it is reached, and its own servers all else.
    let places = [RecordType::A, RecordType::AAAA, RecordType::ANY, RecordType::HTTPS, RecordType::SVCB];
    let is_others = matches!(meaning, Meaning::Host(_)) && !places.contains(&asked.query_type());
    if meaning == Meaning::Foreign || is_others {
        return Verdict::Forward { question_ends };
    }
    response.metadata.authoritative = true;
    let outcome = zone.fill(&mut response, asked, &meaning);
    finish(response, outcome)
}

/// What is sent to who asked when nobody could be asked.
pub(super) fn failure(packet: &[u8]) -> Vec<u8> {
    let id = packet.get(..2).map_or(0, |id| u16::from_be_bytes([id[0], id[1]]));
    let response = Message::from_vec(packet).ok().and_then(|query| {
        let asked = query.queries.first()?;
        let mut response = response_to(&query, asked);
        response.metadata.response_code = ResponseCode::ServFail;
        response.to_vec().ok()
    });
    response.unwrap_or_else(|| bare(id, OpCode::Query, ResponseCode::ServFail))
}

impl Zone<'_> {
    /// `name` is lower case and ends with a dot.
    fn meaning(&self, name: &str) -> Meaning {
        let name = name.strip_suffix('.').unwrap_or(name);
        if let Some((service, address)) = self.service(name) {
            return Meaning::Service(service, address);
        }
        if let Some(reversed) = name.strip_suffix(".in-addr.arpa") {
            let called = address_of(reversed).and_then(|address| self.names.called(address));
            return called.map_or(Meaning::Foreign, |called| Meaning::Address(called.clone()));
        }
        if let Some(addresses) = self.host(name) {
            return Meaning::Host(addresses);
        }
        let below = name.split_once("._tcp.").or_else(|| name.strip_prefix("_tcp.").map(|rest| ("", rest)));
        if let Some((port, rest)) = below
            && let Some((service, address)) = self.service(rest)
        {
            return match self.port(&service, port) {
                Some(port) => Meaning::Port(service, address, port),
                None if port.is_empty() => Meaning::Between,
                None => Meaning::Nothing,
            };
        }
        if !ZONES.iter().any(|zone| name.strip_suffix(zone).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
        {
            return Meaning::Foreign;
        }
        // Whoever asks step by step (RFC 9156) must not be told that there is nothing below.
        let is_apex = ZONES.contains(&name) || name == REGISTRY_SUFFIX;
        let namespace = ["mesh", "svc", REGISTRY_SUFFIX]
            .iter()
            .find_map(|zone| name.strip_suffix(zone)?.strip_suffix('.').filter(|rest| !rest.contains('.')));
        if is_apex || namespace.is_some_and(|namespace| self.names.has_namespace(namespace)) {
            return Meaning::Between;
        }
        Meaning::Nothing
    }

    /// The service of that name, if it is one that applications can call.
    fn service(&self, name: &str) -> Option<(ServiceName, Ipv4Addr)> {
        let service = hosts::named(name, self.scope.namespace)?;
        let service = Called::Service(service);
        let address = self.names.address(&service)?;
        if let Called::Service(service) = service { Some((service, address)) } else { None }
    }

    /// The addresses of a host of a ServiceEntry: those that it gives, else the one at which this node listens for it.
    fn host(&self, name: &str) -> Option<Vec<IpAddr>> {
        if let Some(address) = self.names.address(&Called::Host(name.into())) {
            return Some(vec![address.into()]);
        }
        let made = self.entries.find(name, self.scope)?;
        // Several hosts may have an address: what would be led to another's servers there is told its own by the resolvers.
        let leads = |address: &IpAddr| self.entries.leads(made, *address, self.scope);
        let addresses: Vec<IpAddr> = made.entry.addresses.iter().filter_map(Subnet::only).filter(leads).collect();
        (!addresses.is_empty()).then_some(addresses)
    }

    fn port(&self, service: &ServiceName, asked: &str) -> Option<ServicePort> {
        let asked = asked.strip_prefix('_')?;
        let service = self.services.get(service)?;
        service.ports.iter().find(|port| port.name.eq_ignore_ascii_case(asked)).cloned()
    }

    /// Fills in what is known of the name, or that nothing is.
    fn fill(&self, response: &mut Message, asked: &Query, meaning: &Meaning) -> Outcome {
        let (name, of) = (asked.name().clone(), asked.query_type());
        let any = of == RecordType::ANY;
        let record = |data| Record::from_rdata(name.clone(), TTL, data);
        match meaning {
            Meaning::Service(_, address) if any || of == RecordType::A => {
                response.add_answer(record(RData::A(A(*address))));
            }
            Meaning::Host(addresses) => {
                let fits = |address: &&IpAddr| any || address.is_ipv4() == (of == RecordType::A);
                let asked = any || matches!(of, RecordType::A | RecordType::AAAA);
                let mut found = addresses.iter().filter(|_| asked).filter(fits).peekable();
                if found.peek().is_none() {
                    return self.nothing(response, &name);
                }
                for address in found {
                    let data = match address {
                        IpAddr::V4(address) => RData::A(A(*address)),
                        IpAddr::V6(address) => RData::AAAA(AAAA(*address)),
                    };
                    response.add_answer(record(data));
                }
            }
            Meaning::Port(service, address, port) if any || of == RecordType::SRV => {
                let Some(target) = full_name(service) else { return self.nothing(response, &name) };
                response.add_answer(record(RData::SRV(SRV::new(0, 0, port.number, target.clone()))));
                response.add_additional(Record::from_rdata(target, TTL, RData::A(A(*address))));
            }
            Meaning::Address(called) if any || of == RecordType::PTR => {
                let target = match called {
                    Called::Service(service) => full_name(service),
                    Called::Host(host) => Name::from_ascii(format!("{host}.")).ok(),
                };
                let Some(target) = target else { return self.nothing(response, &name) };
                response.add_answer(record(RData::PTR(PTR(target))));
            }
            Meaning::Nothing => {
                response.metadata.response_code = ResponseCode::NXDomain;
                return self.nothing(response, &name);
            }
            Meaning::Service(..) | Meaning::Port(..) | Meaning::Address(_) | Meaning::Between | Meaning::Foreign => {
                return self.nothing(response, &name);
            }
        }
        Outcome::Answered
    }

    /// How long that may be kept (RFC 2308).
    fn nothing(&self, response: &mut Message, name: &Name) -> Outcome {
        let zone =
            ZONES.iter().filter_map(|zone| Name::from_ascii(format!("{zone}.")).ok()).find(|zone| zone.zone_of(name));
        let server = Name::from_ascii(format!("{}.node.mesh.", self.node)).unwrap_or_else(|_| Name::root());
        let mail = Name::from_ascii("nobody.mesh.").unwrap_or_else(|_| Name::root());
        let soa = SOA::new(server, mail, 1, 60, 60, 60, NEGATIVE_TTL);
        response.add_authority(Record::from_rdata(zone.unwrap_or_else(|| name.clone()), NEGATIVE_TTL, RData::SOA(soa)));
        Outcome::Negative
    }
}

fn full_name(service: &ServiceName) -> Option<Name> {
    Name::from_ascii(format!("{}.", hosts::full_name(service))).ok()
}

/// `4.3.2.1` is 1.2.3.4.
fn address_of(reversed: &str) -> Option<Ipv4Addr> {
    let parsed: Ipv4Addr = reversed.parse().ok()?;
    let [a, b, c, d] = parsed.octets();
    Some(Ipv4Addr::new(d, c, b, a))
}

fn response_to(query: &Message, asked: &Query) -> Message {
    let mut response = Message::new(query.metadata.id, MessageType::Response, query.metadata.op_code);
    response.metadata.recursion_desired = query.metadata.recursion_desired;
    response.metadata.recursion_available = true;
    response.metadata.checking_disabled = query.metadata.checking_disabled;
    response.add_query(asked.clone());
    if query.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(LONGEST);
        response.set_edns(edns);
    }
    response
}

/// By UDP no longer than who asked takes: else it is told to come again by TCP.
fn encode(response: Message, query: &Message, carrier: Carrier) -> Option<Vec<u8>> {
    let bytes = response.to_vec().ok()?;
    let limit = query.edns.as_ref().map_or(PLAIN, |edns| edns.max_payload().clamp(PLAIN, LONGEST));
    if carrier == Carrier::Tcp || bytes.len() <= usize::from(limit) {
        return Some(bytes);
    }
    response.truncate().to_vec().ok()
}

fn refusal(id: u16, op_code: OpCode, code: ResponseCode) -> Verdict {
    Verdict::Answer(bare(id, op_code, code), Outcome::Refused)
}

/// A header and nothing else.
fn bare(id: u16, op_code: OpCode, code: ResponseCode) -> Vec<u8> {
    Message::error_msg(id, op_code, code).to_vec().unwrap_or_default()
}

/// Where the one question of a query ends. Its name is the first of the packet and cannot point anywhere.
fn question_ends(packet: &[u8]) -> Option<usize> {
    let mut at = HEADER;
    loop {
        match *packet.get(at)? {
            0 => return Some(at + 5).filter(|end| *end <= packet.len()),
            length @ 1..=63 => at += 1 + usize::from(length),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests;
