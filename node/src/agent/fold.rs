//! From what members say to what requests read. Pure.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::SocketAddr,
    sync::Arc,
};

use certs::{codec::Millis, id::NodeId};
use membership::{
    body::{PortRecord, ServiceRecord, Status},
    view::{Member, MemberState, View},
};
use policy::hosts::{Protocol, ServicePort};

use crate::snapshot::{Endpoint, EndpointId, Services, StatsTable};

/// Groups the endpoints of all members by service; what members that did not change serve is taken over from `before`. `now` is
/// the process's uptime: when the warm-up of new endpoints begins.
pub(super) fn services(
    view: &View,
    own: &NodeId,
    stats: &StatsTable,
    now: Millis,
    before: &mut Before,
) -> Arc<Services> {
    let mut changed: BTreeMap<NodeId, Vec<Endpoint>> = BTreeMap::new();
    before.members.retain(|node, _| {
        let stays = view.members().contains_key(node);
        if !stays {
            changed.insert(node.clone(), Vec::new());
        }
        stays
    });
    for (node, member) in view.members() {
        if before.members.get(node).is_none_or(|old| !Arc::ptr_eq(old, member)) {
            changed.insert(node.clone(), endpoints(member, own, (stats, now), &mut before.alike));
            before.members.insert(node.clone(), member.clone());
        }
    }
    let ids = changed.keys().flat_map(|node| before.services.on(node)).map(|endpoint| endpoint.id.clone());
    before.gone.extend(ids);
    for endpoint in changed.values().flatten() {
        before.gone.remove(&endpoint.id);
    }
    before.services = Arc::new(before.services.with(changed));
    before.gone.retain(|id| !stats.forget(id, now));
    before.alike.forget_unused();
    before.services.clone()
}

/// What was last folded.
#[derive(Debug, Default)]
pub(super) struct Before {
    members: HashMap<NodeId, Arc<Member>>,
    services: Arc<Services>,
    /// Endpoints that are gone, with requests under way.
    gone: BTreeSet<EndpointId>,
    alike: Alike,
}

/// What endpoints have in common: most of a service have the same labels and ports, and hold them together. As many as differ.
#[derive(Debug, Default)]
struct Alike {
    labels: HashSet<Arc<BTreeMap<String, String>>>,
    ports: HashSet<Arc<[ServicePort]>>,
}

impl Alike {
    fn labels(&mut self, labels: &BTreeMap<String, String>) -> Arc<BTreeMap<String, String>> {
        if let Some(known) = self.labels.get(labels) {
            return Arc::clone(known);
        }
        let labels = Arc::new(labels.clone());
        self.labels.insert(Arc::clone(&labels));
        labels
    }

    fn ports(&mut self, records: &[PortRecord]) -> Arc<[ServicePort]> {
        let ports: Vec<ServicePort> = records.iter().map(port).collect();
        if let Some(known) = self.ports.get(&ports[..]) {
            return Arc::clone(known);
        }
        let ports: Arc<[ServicePort]> = ports.into();
        self.ports.insert(Arc::clone(&ports));
        ports
    }

    /// Lets go of what no endpoint holds any more.
    fn forget_unused(&mut self) {
        self.labels.retain(|labels| Arc::strong_count(labels) > 1);
        self.ports.retain(|ports| Arc::strong_count(ports) > 1);
    }
}

fn endpoints(member: &Member, own: &NodeId, stats: (&StatsTable, Millis), alike: &mut Alike) -> Vec<Endpoint> {
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
    let one = |service| endpoint(member, service, (address, local), &locality, stats, alike);
    member.services.iter().map(one).collect()
}

fn endpoint(
    member: &Member,
    service: &ServiceRecord,
    (address, local): (SocketAddr, bool),
    locality: &Arc<str>,
    (stats, now): (&StatsTable, Millis),
    alike: &mut Alike,
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
    let stats = stats.of(&id, now);
    stats.set_out(!healthy, now);
    Endpoint {
        address,
        account: service.account.clone(),
        labels: alike.labels(&service.labels),
        locality: locality.clone(),
        weight: service.weight,
        ports: alike.ports(&service.ports),
        healthy,
        reason,
        local,
        stats,
        id,
    }
}

/// What is not declared is sniffed, and so are protocols of newer nodes that this one does not know.
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

#[cfg(test)]
mod tests {
    use certs::{
        grant::GrantedService,
        id::{ServiceName, TrustDomain},
    };
    use membership::{
        body::{Address, Body, Health, HealthRecord, HealthState, Services as ServicesBody},
        engine::{Config, Engine, Event, Own},
    };

    use super::*;
    use crate::{
        agent::{book::Book, identity::Identity, init, state_dir::StateDir, store::Store},
        clock::Clock,
    };

    struct Node {
        engine: Engine,
        own: NodeId,
        stats: StatsTable,
        _folder: tempfile::TempDir,
    }

    impl Node {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let dir = StateDir::open(&folder.path().join("state")).unwrap();
            let (trust_domain, own) = (TrustDomain::new("t.example").unwrap(), NodeId::new("a").unwrap());
            let (now, operator) = (Clock.now(), certs::sign::SigningKey::generate());
            let services: [GrantedService; 1] = ["default/web".parse().unwrap()];
            let wish = init::Init {
                trust_domain: &trust_domain,
                node: &own,
                services: &services,
                root: &certs::root::Root::generate(&trust_domain, now),
                operator: ("ann", &operator),
                recovery: None,
                address: None,
                now,
            };
            init::init(&dir, &wish).unwrap();
            let identity = Identity::load(&dir, &dir.owner().unwrap().unwrap()).unwrap();
            let store = Arc::new(Store::open(&dir.store()).unwrap());
            let state = Book::load(store, &trust_domain, now).unwrap().first_state(now);
            let who = Own {
                node: own.clone(),
                record_key: identity.record_key().clone(),
                generation: membership::record::next_generation(0, 0, now, 7),
                identity: identity.ca().chain().to_vec(),
            };
            let authority = Arc::new(state.authority(&trust_domain));
            let config = Config { trust_domain, peers: Vec::new(), last_known: Vec::new() };
            let (engine, stats) = (Engine::new(config, who, authority, 7, now), StatsTable::default());
            Self { engine, own, stats, _folder: folder }
        }

        fn say(&mut self, body: Body) {
            self.engine.handle(Event::Publish(vec![body]), Clock.now());
        }

        fn fold(&self, before: &mut Before) -> Arc<Services> {
            services(self.engine.view(), &self.own, &self.stats, 1, before)
        }
    }

    fn web() -> ServiceName {
        ServiceName::new("default", "web").unwrap()
    }

    fn record(name: &ServiceName) -> ServiceRecord {
        ServiceRecord {
            instance: None,
            service: name.clone(),
            account: certs::id::ServiceAccount::default_of(name),
            labels: BTreeMap::from([("version".to_string(), "v1".to_string())]),
            ports: vec![PortRecord { name: "http".into(), number: 80, protocol: "of tomorrow".into() }],
            weight: 1,
        }
    }

    #[test]
    fn granted_services_become_endpoints_with_their_owners_health() {
        let mut node = Node::new();
        node.say(Body::Address(Address {
            addresses: vec!["127.0.0.1:15008".parse().unwrap()],
            locality: "eu/eu-1".into(),
            version: "1".into(),
            wire: (1, 1),
            started: 0,
        }));
        let foreign = ServiceName::new("bank", "vault").unwrap();
        node.say(Body::Services(ServicesBody { services: vec![record(&web()), record(&foreign)] }));
        let mut before = Before::default();
        let folded = node.fold(&mut before);
        assert!(folded.get(&foreign).is_none());
        let endpoint = folded.get(&web()).unwrap().endpoints[0].clone();
        assert!(
            endpoint.healthy
                && !endpoint.stats.is_out()
                && endpoint.local
                && endpoint.ports[0].protocol == Protocol::Sniffed
        );
        assert_eq!((endpoint.address.port(), endpoint.locality.as_ref()), (15008, "eu/eu-1"));

        let state = HealthState { healthy: false, since: 0, reason: "503".into() };
        let said = HealthRecord { service: web(), instance: None, state };
        node.say(Body::Health(Health { endpoints: vec![said] }));
        let sick = node.fold(&mut before).get(&web()).unwrap().endpoints[0].clone();
        assert!(!sick.healthy && sick.reason.as_ref() == "503" && sick.stats.is_out());

        node.say(Body::Health(Health::default()));
        node.say(Body::Status(Status::Draining));
        let draining = node.fold(&mut before).get(&web()).unwrap().endpoints[0].clone();
        assert!(!draining.healthy && draining.reason.contains("draining"));
    }

    #[test]
    fn endpoints_hold_together_what_they_have_in_common() {
        let mut node = Node::new();
        let second = ServiceRecord { instance: Some("b".into()), ..record(&web()) };
        node.say(Body::Services(ServicesBody { services: vec![record(&web()), second] }));
        let mut before = Before::default();
        let folded = node.fold(&mut before);
        let [one, other] = &folded.get(&web()).unwrap().endpoints[..] else { panic!("two") };
        assert!(Arc::ptr_eq(&one.labels, &other.labels) && Arc::ptr_eq(&one.ports, &other.ports));
        drop(folded);
        node.say(Body::Services(ServicesBody { services: Vec::new() }));
        node.fold(&mut before);
        assert!(before.alike.labels.is_empty() && before.alike.ports.is_empty(), "nothing is kept for nobody");
    }

    #[test]
    fn endpoints_of_members_that_did_not_change_are_taken_over() {
        let mut node = Node::new();
        node.say(Body::Services(ServicesBody { services: vec![record(&web())] }));
        let mut before = Before::default();
        let labels = |services: &Services| services.get(&web()).unwrap().endpoints[0].labels.clone();
        let first = labels(&node.fold(&mut before));
        assert!(Arc::ptr_eq(&first, &labels(&node.fold(&mut before))));
        let endpoint = node.fold(&mut before).get(&web()).unwrap().endpoints[0].clone();
        let (stats, id) = (endpoint.stats.clone(), endpoint.id.clone());
        let under_way = stats.begin();
        node.say(Body::Services(ServicesBody { services: Vec::new() }));
        assert!(node.fold(&mut before).get(&web()).is_none() && stats.is_out());
        assert!(Arc::ptr_eq(&node.stats.of(&id, 1), &stats), "its requests end first");
        drop(under_way);
        node.fold(&mut before);
        assert!(!Arc::ptr_eq(&node.stats.of(&id, 1), &stats));
    }
}
