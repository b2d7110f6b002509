//! From what members say to what requests read. Pure.

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use certs::id::NodeId;
use membership::{
    body::{PortRecord, ServiceRecord, Status},
    view::{Member, MemberState, View},
};
use policy::hosts::{Protocol, ServicePort};

use crate::snapshot::{Endpoint, EndpointId, Services, StatsTable};

/// Groups the endpoints of all members by service; those of unchanged members are taken over from `before`.
pub(super) fn services(view: &View, own: &NodeId, stats: &StatsTable, before: &mut Before) -> Services {
    let mut kept = HashMap::with_capacity(view.members().len());
    for (node, member) in view.members() {
        let endpoints = match before.by_member.remove(node) {
            Some((old, endpoints)) if Arc::ptr_eq(&old, member) => endpoints,
            _ => endpoints(member, own, stats).into(),
        };
        kept.insert(node.clone(), (member.clone(), endpoints));
    }
    before.by_member = kept;
    Services::new(before.by_member.values().flat_map(|(_, endpoints)| endpoints.iter().cloned()))
}

/// The endpoints of each member as last folded.
#[derive(Debug, Default)]
pub(super) struct Before {
    by_member: HashMap<NodeId, (Arc<Member>, Arc<[Endpoint]>)>,
}

fn endpoints(member: &Member, own: &NodeId, stats: &StatsTable) -> Vec<Endpoint> {
    let local = member.id == *own;
    // Nobody dials a local endpoint, so that it needs no address.
    let nowhere = local.then(|| SocketAddr::from(([0, 0, 0, 0], 0)));
    let Some(address) = member.address.or(nowhere) else { return Vec::new() };
    // Evicted members are forgotten; the dead and the departed keep their services' names, so that a request for one is told that
    // nobody is there to serve it (503 UH) and not that it does not exist.
    if !local && member.state == MemberState::Evicted {
        return Vec::new();
    }
    let locality: Arc<str> = member.locality.as_str().into();
    member.services.iter().map(|service| endpoint(member, service, address, local, &locality, stats)).collect()
}

fn endpoint(
    member: &Member,
    service: &ServiceRecord,
    address: SocketAddr,
    local: bool,
    locality: &Arc<str>,
    stats: &StatsTable,
) -> Endpoint {
    let id = EndpointId {
        node: member.id.clone(),
        service: service.service.clone(),
        instance: service.instance.as_deref().map(Into::into),
    };
    let said = member.health_of(&service.service, service.instance.as_deref());
    let (healthy, reason) = match (member.state, member.status, said) {
        (MemberState::Dead, _, _) if !local => (false, "the node does not answer".into()),
        (MemberState::Left | MemberState::Evicted, _, _) if !local => (false, "the node has left".into()),
        (_, Status::Draining | Status::Left, _) => (false, "the node is draining".into()),
        (_, Status::Up, Some(health)) if !health.healthy => (false, health.reason.as_str().into()),
        (_, Status::Up, _) => (true, "".into()),
    };
    Endpoint {
        address,
        account: service.account.clone(),
        labels: Arc::new(service.labels.clone()),
        locality: locality.clone(),
        weight: service.weight,
        ports: service.ports.iter().map(port).collect(),
        healthy,
        reason,
        local,
        stats: stats.of(&id),
        id,
    }
}

/// Protocols of newer nodes that this one does not know are sniffed.
fn port(record: &PortRecord) -> ServicePort {
    let protocol = match record.protocol.as_str() {
        "http" => Protocol::Http,
        "http2" => Protocol::Http2,
        "grpc" => Protocol::Grpc,
        "tcp" => Protocol::Tcp,
        "tls" => Protocol::Tls,
        _ => Protocol::Sniffed,
    };
    ServicePort { name: record.name.clone(), number: record.number, protocol }
}
