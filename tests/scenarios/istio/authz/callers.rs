//! Who calls: a service without ports for each identity and node, its local ports to what it calls, its door as a gateway.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use certs::id::ServiceAccount;
use harness::{
    cluster::{Cluster, Plan, Service},
    eventually,
    tokens::Issuer,
};

use super::{
    FAR, NEAR, OTHER_PORT, STAND_INS,
    ask::{Asked, PORT, Way},
    stand_in,
};

/// An identity beside a node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Caller {
    /// Of its node.
    address: IpAddr,
    namespace: String,
    account: String,
}

impl Caller {
    pub(super) fn new(address: IpAddr, account: &ServiceAccount) -> Self {
        Self { address, namespace: account.namespace().to_owned(), account: account.account().to_owned() }
    }

    fn node(&self) -> &'static str {
        STAND_INS.iter().find(|(_, stands)| *stands == self.address).map_or(NEAR, |(node, _)| *node)
    }
}

/// All of them.
pub(super) struct Callers {
    /// Each is called `cN` by its place.
    all: Vec<Caller>,
    /// By whom, which service and port: in the order of its node's configuration.
    upstreams: Vec<(Caller, &'static str, u16)>,
    doors: BTreeSet<Caller>,
    ports: BTreeMap<IpAddr, BTreeSet<u16>>,
    issuers: BTreeSet<String>,
    pub(super) issuer: Issuer,
}

/// The first gateway's port.
const DOORS: u16 = 20_000;

impl Callers {
    /// Those that are needed for all that is asked.
    pub(super) fn of<'a>(asked: impl Iterator<Item = &'a Asked>) -> Self {
        let (mut all, mut doors) = (BTreeSet::new(), BTreeSet::new());
        let (mut upstreams, mut issuers) = (BTreeSet::new(), BTreeSet::new());
        let mut ports: BTreeMap<IpAddr, BTreeSet<u16>> = BTreeMap::new();
        for Asked { request, way, said: _ } in asked {
            ports.entry(request.destination).or_insert_with(|| [OTHER_PORT].into()).insert(request.port);
            issuers.extend(request.claims.get("iss").cloned());
            let service = if request.destination == stand_in(super::REQUESTS) { "foo/httpbin" } else { "foo/bytes" };
            match way {
                Way::Mesh(caller) => {
                    upstreams.insert((caller.clone(), service, request.port));
                    all.insert(caller.clone());
                }
                Way::Gateway(caller) => {
                    doors.insert(caller.clone());
                    all.insert(caller.clone());
                }
                Way::Plaintext => {}
            }
        }
        let (all, upstreams) = (all.into_iter().collect(), upstreams.into_iter().collect());
        Self { all, upstreams, doors, ports, issuers, issuer: Issuer::default() }
    }

    /// The ports at which a node is called.
    pub(super) fn ports(&self, called: IpAddr) -> Vec<u16> {
        self.ports.get(&called).into_iter().flatten().copied().collect()
    }

    fn place(&self, caller: &Caller) -> usize {
        self.all.binary_search(caller).expect("it is among them")
    }

    fn name(&self, caller: &Caller) -> String {
        format!("{}/c{}", caller.namespace, self.place(caller))
    }

    fn of_node(&self, address: IpAddr) -> impl Iterator<Item = &(Caller, &'static str, u16)> {
        self.upstreams.iter().filter(move |(caller, _, _)| caller.address == address)
    }

    /// The node of this address, with the callers beside it.
    pub(super) fn plan(&self, address: IpAddr) -> Plan {
        let services = self.all.iter().filter(|caller| caller.address == address).map(|caller| Service {
            account: caller.account.clone(),
            labels: vec![("who".to_owned(), format!("c{}", self.place(caller)))],
            ..Service::client(&self.name(caller))
        });
        let upstream = |(caller, service, port): &(Caller, &'static str, u16)| {
            let caller = self.name(caller);
            format!(
                "\n[[upstream]]\nlisten = \"127.0.0.1:0\"\nservice = \"{service}\"\nport = {port}\nas = \"{caller}\"\n"
            )
        };
        Plan { extra: self.of_node(address).map(upstream).collect(), ..Plan::with(services) }
    }

    /// Where a caller reaches a port.
    pub(super) fn upstream(&self, cluster: &Cluster, caller: &Caller, service: &str, port: u16) -> SocketAddr {
        let wanted = |one: &(Caller, &'static str, u16)| one.0 == *caller && one.1 == service && one.2 == port;
        let place = self.of_node(caller.address).position(wanted).expect("it was planned");
        let ready = &cluster.node(caller.node()).running.as_ref().expect("it runs").ready;
        let listen = ready["upstream"][place]["listen"].as_str().and_then(|text| text.parse().ok());
        listen.unwrap_or_else(|| panic!("no upstream {place} in {ready}"))
    }

    fn door_port(&self, caller: &Caller) -> u16 {
        DOORS + u16::try_from(self.place(caller)).expect("few callers")
    }

    /// Its port as a gateway.
    pub(super) fn door(&self, cluster: &Cluster, caller: &Caller) -> SocketAddr {
        SocketAddr::new(cluster.node(caller.node()).ip, self.door_port(caller))
    }

    /// The documents of the doors, and of the issuers of tokens.
    pub(super) fn documents(&self) -> String {
        let ports = self.ports(stand_in(super::REQUESTS));
        let route = |port: &u16| {
            format!(
                "{{match: [{{headers: {{{PORT}: {{exact: '{port}'}}}}}}], route: [{{destination: {{host: httpbin.foo.svc.cluster.local, port: {{number: {port}}}}}}}]}}"
            )
        };
        let routes = ports.iter().map(route).collect::<Vec<_>>().join(", ");
        let door = |caller: &Caller| {
            // What a gateway says of clients counts if the Gateway is of its own namespace.
            let (name, port, own) = (format!("c{}", self.place(caller)), self.door_port(caller), &caller.namespace);
            format!(
                "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: {name}, namespace: {own}}}\nspec: {{selector: {{who: {name}}}, servers: [{{port: {{number: {port}, name: http, protocol: HTTP}}, hosts: ['*']}}]}}\n---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}, namespace: edge}}\nspec: {{hosts: ['*'], gateways: [{own}/{name}], http: [{routes}]}}\n---\n"
            )
        };
        let keys = self.issuer.keys();
        let rule = |issuer: &String| format!("{{issuer: '{issuer}', jwks: '{keys}'}}");
        let rules = self.issuers.iter().map(rule).collect::<Vec<_>>().join(", ");
        let users = format!(
            "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: users, namespace: foo}}\nspec: {{jwtRules: [{rules}]}}\n"
        );
        self.doors.iter().map(door).chain([users]).collect()
    }

    /// Until every door is open.
    pub(super) fn wait_doors(&self, cluster: &Cluster) {
        for node in [NEAR, FAR] {
            let wanted = self.doors.iter().filter(|caller| caller.node() == node).count();
            eventually(&format!("{wanted} doors of {node} are open"), || {
                let status = cluster.json(node, &["status"]);
                let open = status["gateways"].as_array().map_or(0, Vec::len);
                if open == wanted { Ok(()) } else { Err(status.to_string()) }
            });
        }
    }
}
