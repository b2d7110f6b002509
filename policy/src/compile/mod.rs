//! Documents -> what the proxy reads, per host; what did not change is taken over from the previous one.

mod delegate;
pub mod entries;
mod find;
mod gateways;
mod policies;
mod routes;
pub(crate) mod rules;
mod sidecars;
mod workloads;

pub use entries::{At, Entries, EntryService, Named};
pub(crate) use find::PLAIN_HTTP;
pub use gateways::{Behind, Bytes, Doors, Hosts, LeftOut, Listener, Serves, TlsServer, VirtualHost};
pub use sidecars::Scope;
pub use workloads::{
    Counted, LogOutput, LogRule, Logs, MetricRule, MetricShape, Modes, Observed, TagShape, TraceRule, Traces, Workload,
    WorkloadLimit,
};

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, PoisonError, RwLock},
};

use certs::{
    codec::Millis,
    id::{ServiceName, TrustDomain},
};
use foldhash::fast::RandomState;

use crate::{
    changeset::ChangesetId,
    document::{DocumentId, Spec},
    history::{LiveValue, State},
    hosts,
    kinds::{
        ExportTo, GatewayName, HttpAction, HttpMatch, HttpRoute, MeshConfig, RouteDestination, TcpRoute, TlsRoute,
        VirtualService,
    },
    route::Route,
};
use routes::Maker;

/// Services whose default routes are kept; with more the cache begins anew.
const MAX_DEFAULTS: usize = 10_000;

/// What the proxy reads. Immutable, but for what is made when it is first needed: default routes and workloads.
#[derive(Debug, Default)]
pub struct Compiled {
    /// VirtualServices by the service that one of their hosts names, oldest first.
    exact: HashMap<ServiceName, Vec<Arc<Virtual>>>,
    /// VirtualServices by host that can be no service, e.g. `shop.internal`, oldest first.
    named: HashMap<Arc<str>, Vec<Arc<Virtual>>>,
    /// VirtualServices by wildcard host, most specific first, oldest first among equals.
    wild: Vec<(Arc<str>, Arc<Virtual>)>,
    by_id: HashMap<DocumentId, Arc<Virtual>>,
    gateways: gateways::Gateways,
    sidecars: sidecars::Sidecars,
    entries: Arc<Entries>,
    rules: rules::Rules,
    /// Shared with earlier builds, so that a policy stays the same object while its content does.
    policies: Arc<policies::Table>,
    /// Routes of services without a VirtualService, by the caller's namespace. Filled when first needed; as large as the services
    /// that are called times the namespaces that call from here.
    defaults: RwLock<HashMap<ServiceName, ByNamespace, RandomState>>,
    /// The same of hosts that ServiceEntries make.
    entry_defaults: RwLock<HashMap<Arc<str>, ByNamespace>>,
    workloads: workloads::Workloads,
    observed: Observed,
}

/// Routes of one service by the caller's namespace.
type ByNamespace = Vec<(String, Arc<Route>)>;

/// A VirtualService with its routes resolved.
#[derive(Debug)]
pub(crate) struct Virtual {
    pub(crate) id: DocumentId,
    created: Millis,
    /// The document's own, or only its namespace where it is confined.
    export_to: ExportTo,
    service: Arc<VirtualService>,
    /// The conditions of each rule for requests, those of delegates among them.
    conditions: Vec<Vec<HttpMatch>>,
    /// The routes as most callers see them.
    common: Routes,
    /// As callers of some namespaces see them: where DestinationRules differ.
    special: BTreeMap<String, Routes>,
    made_of: MadeOf,
}

/// A value of a document, and who sees it.
type Part = (DocumentId, ChangesetId, ExportTo);

/// What the routes of a VirtualService were made of: equal means equal routes.
#[derive(Debug)]
struct MadeOf {
    own: Part,
    /// The documents that it delegates to, there or not.
    delegates: Vec<(DocumentId, Option<(ChangesetId, ExportTo)>)>,
    /// The hosts that its rules lead to, with the ServiceEntries that make them and every DestinationRule for them.
    hosts: Vec<(String, entries::Owners, Vec<Part>)>,
}

/// One route for each rule.
#[derive(Debug)]
struct Routes {
    http: Vec<Arc<Route>>,
    tls: Vec<Arc<Route>>,
    tcp: Vec<Arc<Route>>,
}

impl Virtual {
    fn routes(&self, namespace: &str) -> &Routes {
        self.special.get(namespace).unwrap_or(&self.common)
    }

    /// Rule and route of each of `tls`, as a caller in this namespace sees them.
    pub(crate) fn tls<'v>(&'v self, namespace: &str) -> impl Iterator<Item = (&'v TlsRoute, &'v Arc<Route>)> {
        self.service.tls.iter().zip(&self.routes(namespace).tls)
    }

    /// The same of each of `tcp`.
    pub(crate) fn tcp<'v>(&'v self, namespace: &str) -> impl Iterator<Item = (&'v TcpRoute, &'v Arc<Route>)> {
        self.service.tcp.iter().zip(&self.routes(namespace).tcp)
    }

    /// Conditions and route of each rule, as a caller in this namespace sees them.
    pub(crate) fn rules<'v>(&'v self, namespace: &str) -> impl Iterator<Item = (&'v [HttpMatch], &'v Arc<Route>)> {
        self.conditions.iter().map(Vec::as_slice).zip(&self.routes(namespace).http)
    }

    /// Istio's order among those that a caller sees: private to the namespace, exported to it by name, public.
    fn class(&self, namespace: &str) -> u8 {
        class(&self.export_to, &self.id, namespace)
    }
}

/// Istio's order among VirtualServices that a caller in `namespace` sees, lowest first.
pub(crate) fn class(export_to: &ExportTo, id: &DocumentId, namespace: &str) -> u8 {
    match export_to {
        ExportTo::Namespaces(only) if only.len() == 1 && id.namespace == namespace => 0,
        ExportTo::Namespaces(_) => 1,
        ExportTo::All => 2,
    }
}

impl Compiled {
    /// Compiles a state; routes whose documents did not change are shared with `previous`, and so are equal policies.
    pub fn build(state: &State, previous: Option<&Arc<Compiled>>) -> Compiled {
        let entries = Arc::new(Entries::new(state));
        let rules = state.effective().filter_map(|(id, value)| destination_rule(id, value)).collect();
        let rules = rules::Rules::new(rules, entries.clone());
        let workloads = workloads::Workloads::new(state, previous.map(|previous| &previous.workloads));
        let policies = previous.map(|previous| previous.policies.clone()).unwrap_or_default();
        let observed = workloads.observed();
        let (gateways, sidecars) = (gateways::Gateways::new(state), sidecars::Sidecars::new(state));
        let parts = Compiled { rules, workloads, policies, observed, ..Compiled::default() };
        let mut compiled = Compiled { gateways, sidecars, entries, ..parts };
        // What the mesh says of retries is part of every route: routes made under another word are made anew.
        let previous_config = previous.map(|previous| previous.config().retries.clone());
        let reusable = previous.filter(|_| previous_config.as_ref() == Some(&compiled.config().retries));
        let sources: BTreeMap<&DocumentId, Source<'_>> =
            state.effective().filter_map(|(id, value)| Some((id, Source::new(id, value)?))).collect();
        let mut all: Vec<(&GatewayName, Arc<Virtual>)> = Vec::new();
        for (id, source) in sources.iter().filter(|(_, source)| !source.service.is_delegate()) {
            for place in &source.service.gateways {
                let before = reusable.and_then(|previous| previous.made(place, id));
                let one = match before.filter(|before| compiled.unchanged(&before.made_of, source, &sources)) {
                    Some(before) => before.clone(),
                    None => {
                        let find = |delegate: &DocumentId| sources.get(delegate)?.rules_for(&id.namespace);
                        let found = delegate::rules(id, source.service, place, &find);
                        let made_of = compiled.made_of(id, source, &found, &sources);
                        Arc::new(compiled.resolve(id, source, &found, made_of))
                    }
                };
                all.push((place, one));
            }
        }
        all.sort_by(|(_, a), (_, b)| {
            (a.created, &a.id.name, &a.id.namespace).cmp(&(b.created, &b.id.name, &b.id.namespace))
        });
        for (place, virtual_service) in all {
            match place {
                GatewayName::Mesh => compiled.add(virtual_service),
                GatewayName::Gateway { .. } => compiled.gateways.attach(place, virtual_service),
            }
        }
        compiled.wild.sort_by(|a, b| hosts::by_specificity(&a.0, &b.0));
        if let Some(previous) = previous {
            compiled.keep_defaults(previous);
            compiled.gateways.keep(&previous.gateways);
        }
        compiled.policies.forget_unused();
        compiled
    }

    /// One VirtualService alone, whether or not nodes take it.
    #[cfg(test)]
    pub(crate) fn of_one(namespace: &str, service: &Arc<VirtualService>) -> Compiled {
        let id = DocumentId::new(crate::Kind::VirtualService, namespace, "one");
        let value = LiveValue {
            changeset: ChangesetId(certs::sign::Digest([0; 32])),
            document: Err(crate::history::Absent::Deleted),
            json: "".into(),
            authors: Vec::new(),
            time: 0,
            version: 1,
            confined: false,
        };
        let source = Source { value: &value, service, export_to: service.export_to.clone() };
        let mut compiled = Compiled::default();
        let found = delegate::rules(&id, service, &GatewayName::Mesh, &|_| None);
        let made_of = compiled.made_of(&id, &source, &found, &BTreeMap::new());
        let one = compiled.resolve(&id, &source, &found, made_of);
        compiled.add(Arc::new(one));
        compiled
    }

    fn add(&mut self, virtual_service: Arc<Virtual>) {
        for host in &virtual_service.service.hosts {
            if host.starts_with('*') {
                self.wild.push((host.as_str().into(), virtual_service.clone()));
            } else if let Some(service) = hosts::service_of(host) {
                self.exact.entry(service).or_default().push(virtual_service.clone());
            } else {
                self.named.entry(host.as_str().into()).or_default().push(virtual_service.clone());
            }
        }
        self.by_id.insert(virtual_service.id.clone(), virtual_service);
    }

    /// A VirtualService as it is for callers' proxies or at a Gateway.
    fn made(&self, place: &GatewayName, id: &DocumentId) -> Option<&Arc<Virtual>> {
        match place {
            GatewayName::Mesh => self.by_id.get(id),
            GatewayName::Gateway { .. } => self.gateways.find(place, id),
        }
    }

    /// Every document that takes part in the routes of a VirtualService.
    fn made_of(
        &self,
        id: &DocumentId,
        source: &Source<'_>,
        rules: &[delegate::Rule],
        sources: &BTreeMap<&DocumentId, Source<'_>>,
    ) -> MadeOf {
        let delegates = source.service.http.iter().filter_map(delegate_of).map(|delegate| {
            let found = sources.get(&delegate).map(|found| (found.value.changeset, found.export_to.clone()));
            (delegate, found)
        });
        let part = |rule: &rules::Rule| (rule.id.clone(), rule.changeset, rule.export_to.clone());
        let hosts = destination_hosts(source.service, rules).into_iter().map(|host| {
            let (owners, covering) = (self.entries.owners(&host), self.rules.covering(&host).map(part).collect());
            (host, owners, covering)
        });
        MadeOf {
            own: (id.clone(), source.value.changeset, source.export_to.clone()),
            delegates: delegates.collect(),
            hosts: hosts.collect(),
        }
    }

    /// True if nothing that took part has changed. Asked of every VirtualService at every change, so it copies nothing.
    fn unchanged(&self, made_of: &MadeOf, source: &Source<'_>, sources: &BTreeMap<&DocumentId, Source<'_>>) -> bool {
        let (_, changeset, export_to) = &made_of.own;
        let same_delegate = |(id, then): &(DocumentId, Option<(ChangesetId, ExportTo)>)| {
            let now = sources.get(id).map(|found| (found.value.changeset, &found.export_to));
            now == then.as_ref().map(|(changeset, export_to)| (*changeset, export_to))
        };
        let same_host = |(host, owners, then): &(String, entries::Owners, Vec<Part>)| {
            let now = self.rules.covering(host).map(|rule| (&rule.id, rule.changeset, &rule.export_to));
            now.eq(then.iter().map(|(id, changeset, export_to)| (id, *changeset, export_to)))
                && self.entries.owners(host) == *owners
        };
        *changeset == source.value.changeset
            && *export_to == source.export_to
            && made_of.delegates.iter().all(same_delegate)
            && made_of.hosts.iter().all(same_host)
    }

    fn resolve(&self, id: &DocumentId, source: &Source<'_>, rules: &[delegate::Rule], made_of: MadeOf) -> Virtual {
        let mut namespaces = BTreeSet::new();
        for host in destination_hosts(source.service, rules) {
            self.rules.special_namespaces(&host, &mut namespaces);
            self.entries.special_namespaces(&host, &mut namespaces);
        }
        let routes = |client: &str| {
            let maker = self.maker(client);
            let (tls, tcp) = (source.service.tls.iter().enumerate(), source.service.tcp.iter().enumerate());
            let l4 = |index, line, to: &[RouteDestination]| Arc::new(maker.l4_route(id, index, line, to));
            Routes {
                http: rules.iter().filter_map(|rule| maker.route(rule).map(Arc::new)).collect(),
                tls: tls.map(|(index, rule)| l4(index, rule.line, &rule.route)).collect(),
                tcp: tcp.map(|(index, rule)| l4(index, rule.line, &rule.route)).collect(),
            }
        };
        let visible = namespaces.into_iter().filter(|namespace| source.export_to.includes(namespace));
        let document = source.value.document.as_ref().ok();
        Virtual {
            special: visible.map(|namespace| (namespace.clone(), routes(&namespace))).collect(),
            // No namespace has an empty name: nothing is special about this caller.
            common: routes(""),
            conditions: rules.iter().map(|rule| rule.http.matches.clone()).collect(),
            id: id.clone(),
            created: document.and_then(|document| document.created).unwrap_or(source.value.time),
            service: source.service.clone(),
            export_to: source.export_to.clone(),
            made_of,
        }
    }

    fn maker<'m>(&'m self, client: &'m str) -> Maker<'m> {
        Maker { rules: &self.rules, client, retries: &self.config().retries, policies: &self.policies }
    }

    /// Makes the default routes that were in use before; those that come out the same stay the same objects.
    fn keep_defaults(&mut self, previous: &Arc<Compiled>) {
        let before = previous.defaults.read().unwrap_or_else(PoisonError::into_inner);
        let mut kept: HashMap<ServiceName, ByNamespace, RandomState> = HashMap::default();
        for (service, routes) in before.iter() {
            let again = routes.iter().map(|(namespace, route)| {
                let made = self.maker(namespace).default_route(service);
                (namespace.clone(), if made == **route { Arc::clone(route) } else { Arc::new(made) })
            });
            kept.insert(service.clone(), again.collect());
        }
        self.defaults = RwLock::new(kept);
        let before = previous.entry_defaults.read().unwrap_or_else(PoisonError::into_inner);
        let mut kept: HashMap<Arc<str>, ByNamespace> = HashMap::new();
        for (host, routes) in before.iter().filter(|(host, _)| !self.entries.owners(host).is_empty()) {
            let again = routes.iter().map(|(namespace, route)| {
                let made = self.maker(namespace).default_route_to(host);
                (namespace.clone(), if made == **route { Arc::clone(route) } else { Arc::new(made) })
            });
            kept.insert(host.clone(), again.collect());
        }
        self.entry_defaults = RwLock::new(kept);
    }

    /// The route of a service that no VirtualService speaks of.
    pub(crate) fn default_route(&self, service: &ServiceName, namespace: &str) -> Arc<Route> {
        let known =
            |routes: &ByNamespace| routes.iter().find(|(own, _)| own == namespace).map(|(_, route)| route.clone());
        let cache = self.defaults.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(route) = cache.get(service).and_then(known) {
            return route;
        }
        drop(cache);
        let route = Arc::new(self.maker(namespace).default_route(service));
        let mut cache = self.defaults.write().unwrap_or_else(PoisonError::into_inner);
        if cache.len() >= MAX_DEFAULTS {
            cache.clear();
        }
        let routes = cache.entry(service.clone()).or_default();
        if let Some(route) = known(routes) {
            return route;
        }
        routes.push((namespace.to_owned(), route.clone()));
        route
    }

    /// The route of a host that a ServiceEntry makes and of which no VirtualService speaks. As large as these hosts are many, times the
    /// namespaces that call from here.
    pub(crate) fn entry_route(&self, host: &Arc<str>, namespace: &str) -> Arc<Route> {
        let known =
            |routes: &ByNamespace| routes.iter().find(|(own, _)| own == namespace).map(|(_, route)| route.clone());
        let cache = self.entry_defaults.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(route) = cache.get(host).and_then(known) {
            return route;
        }
        drop(cache);
        let route = Arc::new(self.maker(namespace).default_route_to(host));
        let mut cache = self.entry_defaults.write().unwrap_or_else(PoisonError::into_inner);
        if cache.len() >= MAX_DEFAULTS {
            cache.clear();
        }
        let routes = cache.entry(host.clone()).or_default();
        if let Some(route) = known(routes) {
            return route;
        }
        routes.push((namespace.to_owned(), route.clone()));
        route
    }

    /// What ServiceEntries make.
    pub fn entries(&self) -> &Arc<Entries> {
        &self.entries
    }

    /// What the documents say of a workload with these labels in `namespace`.
    pub fn workload(
        &self,
        trust_domain: &TrustDomain,
        namespace: &str,
        labels: &BTreeMap<String, String>,
    ) -> Arc<Workload> {
        self.workloads.get(trust_domain, namespace, labels)
    }

    /// Whether this RateLimit selects a workload with these labels in `namespace`: the limits of [`Compiled::workload`],
    /// without making it.
    pub fn is_limited_by(&self, document: &DocumentId, namespace: &str, labels: &BTreeMap<String, String>) -> bool {
        self.workloads.is_limited_by(document, namespace, labels)
    }

    /// What documents have observed of requests at all.
    pub fn observed(&self) -> &Observed {
        &self.observed
    }

    /// The MeshConfig in effect; its defaults where there is none.
    pub fn config(&self) -> &Arc<MeshConfig> {
        self.workloads.config()
    }

    /// Host and VirtualService of every host that documents speak of, for display.
    pub fn hosts(&self) -> Vec<(String, DocumentId)> {
        let mut hosts: Vec<(String, DocumentId)> = self
            .by_id
            .values()
            .flat_map(|one| one.service.hosts.iter().map(|host| (host.clone(), one.id.clone())))
            .collect();
        hosts.sort();
        hosts
    }
}

/// A VirtualService in effect.
struct Source<'s> {
    value: &'s LiveValue,
    service: &'s Arc<VirtualService>,
    /// The document's own, or only its namespace where it is confined.
    export_to: ExportTo,
}

impl<'s> Source<'s> {
    fn new(id: &DocumentId, value: &'s LiveValue) -> Option<Self> {
        let Spec::VirtualService(service) = &value.document.as_ref().ok()?.spec else { return None };
        Some(Self { value, service, export_to: seen_by(&service.export_to, id, value) })
    }

    /// What rules of this namespace find if they delegate to it: a VirtualService without hosts that they see.
    fn rules_for(&self, namespace: &str) -> Option<Arc<VirtualService>> {
        let found = self.service.is_delegate() && self.export_to.includes(namespace);
        found.then(|| self.service.clone())
    }
}

fn delegate_of(route: &HttpRoute) -> Option<DocumentId> {
    match &route.action {
        HttpAction::Delegate { to, .. } => Some(to.id()),
        HttpAction::Route(_) | HttpAction::Redirect(_) | HttpAction::Direct(_) => None,
    }
}

/// Hosts that rules forward to or mirror to, without repetition.
fn destination_hosts(service: &VirtualService, rules: &[delegate::Rule]) -> BTreeSet<String> {
    let l4 = service.tls.iter().map(|rule| &rule.route).chain(service.tcp.iter().map(|rule| &rule.route));
    let mut hosts: BTreeSet<String> = l4.flatten().map(|one| one.destination.host.clone()).collect();
    for rule in rules {
        if let HttpAction::Route(destinations) = &rule.http.action {
            hosts.extend(destinations.iter().map(|one| one.destination.host.clone()));
        }
        hosts.extend(rule.http.mirroring.effective().into_iter().map(|mirror| mirror.destination.host));
    }
    hosts
}

/// Who sees a document: whom it names, or only its namespace where its signers have no role elsewhere.
pub(crate) fn seen_by(export_to: &ExportTo, id: &DocumentId, value: &LiveValue) -> ExportTo {
    if value.confined { ExportTo::Namespaces(BTreeSet::from([id.namespace.clone()])) } else { export_to.clone() }
}

pub(crate) fn destination_rule(id: &DocumentId, value: &LiveValue) -> Option<rules::Rule> {
    let document = value.document.as_ref().ok()?;
    let Spec::DestinationRule(rule) = &document.spec else { return None };
    Some(rules::Rule {
        id: id.clone(),
        changeset: value.changeset,
        created: document.created.unwrap_or(value.time),
        export_to: match &rule.workload_selector {
            // A rule for some callers of its namespace is for no other, as in Istio.
            Some(_) => ExportTo::Namespaces(BTreeSet::from([id.namespace.clone()])),
            None => seen_by(&rule.export_to, id, value),
        },
        rule: rule.clone(),
    })
}

#[cfg(test)]
mod tests;
