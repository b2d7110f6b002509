//! Gateways -> what a workload at the edge opens: its listeners, and the routes behind each host. Made when a workload is first
//! asked for; the next state makes it anew at once, so that no request waits for it.

mod bytes;
mod hosts;

pub use bytes::Bytes;
pub use hosts::{Hosts, VirtualHost};

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError, RwLock},
};

use certs::{codec::Millis, id::ServiceAccount};

use super::{Compiled, Virtual, seen_by};
use crate::{
    document::{DocumentId, ROOT_NAMESPACE, Spec},
    history::{LiveValue, State},
    hosts as names,
    kinds::{Bind, ExportTo, Gateway, GatewayName, PortProtocol, Server, ServerTls, ServerTlsMode},
    route::{Rule, Source, entries},
};

/// Workloads that are kept; with more the table begins anew. A node asks for its own.
const MAX_WORKLOADS: usize = 1_000;

/// Label of the workloads that a Gateway without a selector means: `istio: ingressgateway`, whatever its value.
const GATEWAY_LABEL: &str = "istio";

/// What Gateways open at one workload.
#[derive(Debug, Default)]
pub struct Doors {
    /// By port and address.
    pub listeners: Vec<Listener>,
    /// Servers that are not among them, and why.
    pub left_out: Vec<LeftOut>,
}

/// An address, and what is served there.
#[derive(Debug)]
pub struct Listener {
    /// The one address; all of the node's gateway if absent.
    pub bind: Option<Bind>,
    /// The port as documents and conditions name it.
    pub port: u16,
    /// What is spoken.
    pub serves: Serves,
    /// Only callers with an identity of the mesh are served (`ISTIO_MUTUAL`): they come over the mesh, where their TLS ends before it gets
    /// here. The server is chosen by what is asked for, because no server name comes with it.
    pub of_mesh: bool,
    /// The Gateways that have a server here, oldest first, each once.
    pub documents: Vec<DocumentId>,
}

/// What a listener speaks.
#[derive(Debug)]
pub enum Serves {
    /// HTTP: all servers together.
    Plain(Hosts),
    /// TLS: the server name chooses the server.
    Tls(Vec<TlsServer>),
    /// Anything: connections are passed on as they are.
    Bytes(Bytes),
}

/// What is behind TLS.
#[derive(Debug)]
pub enum Behind {
    /// TLS ends here, and requests come out.
    Requests(Hosts),
    /// TLS ends here, and bytes come out.
    Bytes(Bytes),
    /// TLS is passed on unopened.
    Unopened(Bytes),
}

/// A server that is met by TLS.
#[derive(Debug)]
pub struct TlsServer {
    /// Its Gateway.
    pub document: DocumentId,
    /// Its place among the document's servers.
    pub server: usize,
    /// The name of its port, which no other of the document's servers has.
    pub port_name: String,
    /// Server names: full ones, `*.example.com`, or `*` for every one and none.
    pub names: Vec<String>,
    /// How TLS is met.
    pub tls: ServerTls,
    /// What is served.
    pub behind: Behind,
}

/// A server that is not opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// Its Gateway.
    pub document: DocumentId,
    /// Its place among the document's servers.
    pub server: usize,
    /// Why, in words.
    pub why: String,
}

/// All Gateways, the VirtualServices at each, and the workloads that were asked for.
#[derive(Debug, Default)]
pub(super) struct Gateways {
    /// Oldest first.
    documents: Vec<Document>,
    attached: HashMap<GatewayName, Attached>,
    known: RwLock<HashMap<Key, Arc<Doors>>>,
}

/// A Gateway in effect.
#[derive(Debug)]
struct Document {
    id: DocumentId,
    created: Millis,
    /// All workloads, or only those of its namespace where it is confined.
    workloads: ExportTo,
    gateway: Arc<Gateway>,
}

/// The VirtualServices that name a Gateway.
#[derive(Debug, Default)]
struct Attached {
    oldest_first: Vec<Arc<Virtual>>,
    by_id: HashMap<DocumentId, usize>,
}

/// All that tells one workload from another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    namespace: String,
    labels: BTreeMap<String, String>,
}

impl Gateways {
    /// The Gateways of a state, with no VirtualService yet.
    pub(super) fn new(state: &State) -> Self {
        let mut documents: Vec<Document> =
            state.effective().filter_map(|(id, value)| Document::new(id, value)).collect();
        documents
            .sort_by(|a, b| (a.created, &a.id.name, &a.id.namespace).cmp(&(b.created, &b.id.name, &b.id.namespace)));
        Self { documents, ..Self::default() }
    }

    /// Takes in a VirtualService; the oldest comes first.
    pub(super) fn attach(&mut self, name: &GatewayName, virtual_service: Arc<Virtual>) {
        let attached = self.attached.entry(name.clone()).or_default();
        attached.by_id.insert(virtual_service.id.clone(), attached.oldest_first.len());
        attached.oldest_first.push(virtual_service);
    }

    /// A VirtualService as it is at a Gateway.
    pub(super) fn find(&self, name: &GatewayName, id: &DocumentId) -> Option<&Arc<Virtual>> {
        let attached = self.attached.get(name)?;
        attached.oldest_first.get(*attached.by_id.get(id)?)
    }

    /// Makes what was in use before, but for what nothing has changed of.
    pub(super) fn keep(&self, previous: &Self) {
        let before = previous.known.read().unwrap_or_else(PoisonError::into_inner);
        let again = before.iter().map(|(key, doors)| {
            let doors = if self.is_as_in(previous, key) { doors.clone() } else { Arc::new(self.make(key)) };
            (key.clone(), doors)
        });
        let again = again.collect();
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = again;
    }

    /// Whether a workload's doors are made of the very same documents.
    fn is_as_in(&self, previous: &Self, key: &Key) -> bool {
        let same = |(own, other): (&Document, &Document)| {
            let seen = self.seen(key, own).map(Arc::as_ptr);
            own.id == other.id
                && Arc::ptr_eq(&own.gateway, &other.gateway)
                && seen.eq(previous.seen(key, other).map(Arc::as_ptr))
        };
        let (own, others) = (self.selecting(key), previous.selecting(key));
        own.len() == others.len() && own.into_iter().zip(others).all(same)
    }

    /// The Gateways that select a workload, oldest first.
    fn selecting(&self, key: &Key) -> Vec<&Document> {
        self.documents.iter().filter(|document| document.selects(&key.namespace, &key.labels)).collect()
    }

    fn doors(&self, namespace: &str, labels: &BTreeMap<String, String>) -> Arc<Doors> {
        let key = Key { namespace: namespace.to_owned(), labels: labels.clone() };
        if let Some(known) = self.known.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return known.clone();
        }
        let made = Arc::new(self.make(&key));
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_WORKLOADS {
            known.clear();
        }
        known.entry(key).or_insert(made).clone()
    }

    /// The VirtualServices at a Gateway that its workload sees, oldest first.
    fn seen<'g>(&'g self, key: &Key, document: &Document) -> impl Iterator<Item = &'g Arc<Virtual>> {
        let attached = self.attached.get(&document.name()).into_iter().flat_map(|attached| &attached.oldest_first);
        attached.filter(|one| one.export_to.includes(&key.namespace))
    }

    fn make(&self, key: &Key) -> Doors {
        let mut opening = Opening { gateways: self, key, listeners: BTreeMap::new(), left_out: Vec::new() };
        for document in self.selecting(key) {
            for (index, server) in document.gateway.servers.iter().enumerate() {
                opening.add(document, index, server);
            }
        }
        opening.finish()
    }
}

impl Document {
    fn new(id: &DocumentId, value: &LiveValue) -> Option<Self> {
        let document = value.document.as_ref().ok()?;
        let Spec::Gateway(gateway) = &document.spec else { return None };
        Some(Self {
            id: id.clone(),
            created: document.created.unwrap_or(value.time),
            workloads: seen_by(&ExportTo::All, id, value),
            gateway: gateway.clone(),
        })
    }

    /// Without a selector it is for every gateway: for the workloads that say that they are one, as Istio's own do.
    fn selects(&self, namespace: &str, labels: &BTreeMap<String, String>) -> bool {
        let meant = !self.gateway.selector.is_empty() || labels.contains_key(GATEWAY_LABEL);
        meant && self.workloads.includes(namespace) && self.gateway.selects(labels)
    }

    fn name(&self) -> GatewayName {
        GatewayName::Gateway { namespace: self.id.namespace.clone(), name: self.id.name.clone() }
    }
}

/// The listeners of one workload while they are gathered. Whoever comes first is served, as in Istio: the oldest Gateway.
struct Opening<'g> {
    gateways: &'g Gateways,
    key: &'g Key,
    listeners: BTreeMap<(u16, Option<Bind>), Listener>,
    left_out: Vec<LeftOut>,
}

impl Opening<'_> {
    fn add(&mut self, document: &Document, index: usize, server: &Server) {
        let at = (server.port.number, server.bind.clone());
        let protocol = server.port.protocol;
        let of_mesh = server.tls.as_ref().is_some_and(|tls| tls.mode == ServerTlsMode::IstioMutual);
        let is_tls = protocol.is_tls() && !of_mesh;
        let is_http = protocol.is_http() || of_mesh && protocol == PortProtocol::Https;
        let bytes = || Bytes::new(document.name(), attached_to(self.gateways, self.key, document, server));
        let listener = self.listeners.entry(at).or_insert_with(|| Listener {
            bind: server.bind.clone(),
            port: server.port.number,
            serves: match (is_tls, is_http) {
                (true, _) => Serves::Tls(Vec::new()),
                (false, true) => Serves::Plain(Hosts::default()),
                (false, false) => Serves::Bytes(bytes()),
            },
            of_mesh,
            documents: Vec::new(),
        });
        let hosts = |hosts: &mut Hosts| attach(self.gateways, self.key, document, server, hosts);
        let is_alike = listener.of_mesh == of_mesh;
        let refused = match (&mut listener.serves, &server.tls) {
            (Serves::Plain(all), _) if is_alike && is_http => {
                hosts(all);
                None
            }
            // Made of this very server.
            (Serves::Bytes(_), _) if !is_tls && !is_http && listener.documents.is_empty() => None,
            (Serves::Tls(servers), Some(tls)) if is_tls => {
                let mut names: Vec<String> = server.hosts.iter().map(|host| host.host.clone()).collect();
                names.sort();
                names.dedup();
                let other = servers.iter().find(|other| other.names.iter().any(|name| names.contains(name)));
                if let Some(other) = other {
                    let host = names.iter().find(|name| other.names.contains(name)).map_or("", String::as_str);
                    Some(format!("`{host}` is served at port {} by {}", server.port.number, other.document))
                } else {
                    let behind = if tls.mode.is_passthrough() {
                        Behind::Unopened(bytes())
                    } else if protocol == PortProtocol::Https {
                        let mut own = Hosts::default();
                        hosts(&mut own);
                        Behind::Requests(own)
                    } else {
                        Behind::Bytes(bytes())
                    };
                    let (document, tls) = (document.id.clone(), tls.clone());
                    let port_name = server.port.name.clone();
                    servers.push(TlsServer { document, server: index, port_name, names, tls, behind });
                    None
                }
            }
            (serves @ (Serves::Plain(_) | Serves::Tls(_) | Serves::Bytes(_)), _) => {
                let spoken = match serves {
                    _ if listener.of_mesh => "mutual TLS of the mesh",
                    Serves::Plain(_) => "HTTP",
                    Serves::Tls(_) => "TLS",
                    Serves::Bytes(_) => "TCP",
                };
                let by = listener.documents.first().map(ToString::to_string).unwrap_or_default();
                Some(format!("port {} speaks {spoken} by {by}", server.port.number))
            }
        };
        match refused {
            None if !listener.documents.contains(&document.id) => listener.documents.push(document.id.clone()),
            None => {}
            Some(why) => self.left_out.push(LeftOut { document: document.id.clone(), server: index, why }),
        }
    }

    fn finish(self) -> Doors {
        let settled = |mut listener: Listener| {
            match &mut listener.serves {
                Serves::Plain(hosts) => hosts.settle(),
                Serves::Tls(servers) => servers.iter_mut().for_each(|server| {
                    if let Behind::Requests(hosts) = &mut server.behind {
                        hosts.settle();
                    }
                }),
                Serves::Bytes(_) => {}
            }
            listener
        };
        Doors { listeners: self.listeners.into_values().map(settled).collect(), left_out: self.left_out }
    }
}

/// The VirtualServices whose hosts meet those of a server, oldest first.
fn attached_to(gateways: &Gateways, key: &Key, document: &Document, server: &Server) -> Vec<Arc<Virtual>> {
    let meets = |one: &&Arc<Virtual>| {
        let hosts = &one.service.hosts;
        server.hosts_for(&one.id.namespace).any(|own| hosts.iter().any(|host| names::overlap(own, host)))
    };
    gateways.seen(key, document).filter(meets).cloned().collect()
}

/// The hosts of a server and of the VirtualServices there: of two that overlap the narrower one.
fn attach(gateways: &Gateways, key: &Key, document: &Document, server: &Server, hosts: &mut Hosts) {
    let redirects = server.tls.as_ref().is_some_and(|tls| tls.https_redirect) && !server.port.protocol.is_tls();
    // A route's conditions on its caller are on the gateway's workload.
    let Ok(account) = ServiceAccount::new("default", "default") else { return };
    let source = Source { namespace: key.namespace.clone(), labels: key.labels.clone(), account };
    for virtual_service in gateways.seen(key, document) {
        let mut rules: Option<Vec<Rule>> = None;
        for own in server.hosts_for(&virtual_service.id.namespace) {
            for host in virtual_service.service.hosts.iter().filter(|host| names::overlap(own, host)) {
                let rules = rules
                    .get_or_insert_with(|| entries(virtual_service.rules(&key.namespace), &source, server.port.number));
                let narrower = if names::covers(own, host) { host } else { own };
                let found = hosts.entry(narrower);
                found.rules.extend(rules.iter().cloned());
                found.redirects |= redirects;
            }
        }
    }
    if redirects {
        server.hosts.iter().for_each(|host| hosts.entry(&host.host).redirects = true);
    }
}

impl Doors {
    /// The listener at an address, as documents name it.
    pub fn listener(&self, bind: Option<&Bind>, port: u16) -> Option<&Listener> {
        self.listeners.iter().find(|listener| listener.port == port && listener.bind.as_ref() == bind)
    }
}

impl Listener {
    /// The server that a client means by the server name that it sends.
    pub fn tls_server(&self, server_name: Option<&str>) -> Option<&TlsServer> {
        let Serves::Tls(servers) = &self.serves else { return None };
        let specificity = |server: &TlsServer| {
            let covers = |own: &&String| match server_name {
                Some(name) => names::covers(own, name),
                None => *own == "*",
            };
            server.names.iter().filter(covers).map(|own| (own.starts_with('*'), Reverse(own.len()))).min()
        };
        let found = servers.iter().filter_map(|server| Some((specificity(server)?, server)));
        found.min_by_key(|(specificity, _)| *specificity).map(|(_, server)| server)
    }
}

impl Compiled {
    /// What Gateways open at a workload with these labels in `namespace`.
    pub fn doors(&self, namespace: &str, labels: &BTreeMap<String, String>) -> Arc<Doors> {
        self.gateways.doors(namespace, labels)
    }

    /// The Gateways that select a workload with these labels in `namespace`.
    pub fn gateways_of(&self, namespace: &str, labels: &BTreeMap<String, String>) -> impl Iterator<Item = GatewayName> {
        let selecting = self.gateways.documents.iter().filter(|document| document.selects(namespace, labels));
        selecting.map(Document::name)
    }

    /// True if a workload with these labels in `namespace` is believed in what it says of clients outside the mesh. That some Gateway
    /// selects it is not enough: labels are a workload's own words, its namespace is what operators granted. So it is one of the
    /// Gateway's own namespace, or of the mesh's, where gateways are that serve all others.
    pub fn speaks_for_clients(&self, namespace: &str, labels: &BTreeMap<String, String>) -> bool {
        let near = |document: &Document| namespace == ROOT_NAMESPACE || namespace == document.id.namespace;
        self.gateways.documents.iter().any(|document| near(document) && document.selects(namespace, labels))
    }

    /// True if some Gateway selects a workload with these labels in `namespace`.
    pub fn is_gateway(&self, namespace: &str, labels: &BTreeMap<String, String>) -> bool {
        self.gateways.documents.iter().any(|document| document.selects(namespace, labels))
    }
}

#[cfg(test)]
mod tests;
