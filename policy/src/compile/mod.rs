//! Documents -> what the proxy reads, per host; what did not change is taken over from the previous one.

mod routes;
pub(crate) mod rules;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, PoisonError, RwLock},
};

use certs::{codec::Millis, id::ServiceName};

use crate::{
    changeset::ChangesetId,
    document::{DocumentId, Spec},
    history::{LiveValue, State},
    hosts,
    kinds::{ExportTo, HttpAction, HttpMatch, VirtualService},
    route::Route,
};

/// What the proxy reads. Immutable, but for a cache of default routes.
#[derive(Debug, Default)]
pub struct Compiled {
    /// VirtualServices by the service that one of their hosts names, oldest first.
    exact: HashMap<ServiceName, Vec<Arc<Virtual>>>,
    /// VirtualServices by wildcard host, most specific first, oldest first among equals.
    wild: Vec<(String, Arc<Virtual>)>,
    by_id: HashMap<DocumentId, Arc<Virtual>>,
    rules: rules::Rules,
    /// Routes of services without a VirtualService, by the caller's namespace. Filled when first needed; as large as the services
    /// that are called times the namespaces that call from here.
    defaults: RwLock<HashMap<ServiceName, ByNamespace>>,
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
    /// The routes, one per `http` of the document, as most callers see them.
    common: Vec<Arc<Route>>,
    /// As callers of some namespaces see them: where DestinationRules differ.
    special: BTreeMap<String, Vec<Arc<Route>>>,
    /// What the routes were made of: equal means equal routes.
    made_of: Vec<(DocumentId, ChangesetId, ExportTo)>,
}

impl Virtual {
    /// Conditions and route of each rule, as a caller in this namespace sees them.
    pub(crate) fn rules<'v>(&'v self, namespace: &str) -> impl Iterator<Item = (&'v [HttpMatch], &'v Arc<Route>)> {
        let routes = self.special.get(namespace).unwrap_or(&self.common);
        self.service.http.iter().map(|route| route.matches.as_slice()).zip(routes)
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
    /// Compiles a state; routes whose documents did not change are shared with `previous`.
    pub fn build(state: &State, previous: Option<&Arc<Compiled>>) -> Compiled {
        let rules =
            rules::Rules::new(state.effective().filter_map(|(id, value)| destination_rule(id, value)).collect());
        let mut compiled = Compiled { rules, ..Compiled::default() };
        let mut all: Vec<Arc<Virtual>> = Vec::new();
        for (id, value) in state.effective() {
            let Some(Spec::VirtualService(service)) = value.document.as_ref().ok().map(|document| &document.spec)
            else {
                continue;
            };
            let export_to = seen_by(&service.export_to, id, value);
            let made_of = compiled.made_of(id, value, &export_to, service);
            let before =
                previous.and_then(|previous| previous.by_id.get(id)).filter(|before| before.made_of == made_of);
            all.push(match before {
                Some(before) => before.clone(),
                None => Arc::new(compiled.resolve(id, value, export_to, service, made_of)),
            });
        }
        all.sort_by(|a, b| (a.created, &a.id.name, &a.id.namespace).cmp(&(b.created, &b.id.name, &b.id.namespace)));
        for virtual_service in all {
            compiled.add(virtual_service);
        }
        compiled.wild.sort_by(|a, b| hosts::by_specificity(&a.0, &b.0));
        compiled
    }

    fn add(&mut self, virtual_service: Arc<Virtual>) {
        for host in &virtual_service.service.hosts {
            if host.starts_with('*') {
                self.wild.push((host.clone(), virtual_service.clone()));
            } else if let Some(service) = hosts::service_of(host) {
                self.exact.entry(service).or_default().push(virtual_service.clone());
            }
        }
        self.by_id.insert(virtual_service.id.clone(), virtual_service);
    }

    /// Every document that takes part in the routes of a VirtualService.
    fn made_of(
        &self,
        id: &DocumentId,
        value: &LiveValue,
        export_to: &ExportTo,
        service: &VirtualService,
    ) -> Vec<(DocumentId, ChangesetId, ExportTo)> {
        let mut parts = vec![(id.clone(), value.changeset, export_to.clone())];
        for host in destination_hosts(service) {
            parts.extend(
                self.rules.covering(host).map(|rule| (rule.id.clone(), rule.changeset, rule.export_to.clone())),
            );
        }
        parts
    }

    fn resolve(
        &self,
        id: &DocumentId,
        value: &LiveValue,
        export_to: ExportTo,
        service: &Arc<VirtualService>,
        made_of: Vec<(DocumentId, ChangesetId, ExportTo)>,
    ) -> Virtual {
        let mut namespaces = BTreeSet::new();
        for host in destination_hosts(service) {
            self.rules.special_namespaces(host, &mut namespaces);
        }
        let routes = |client: &str| -> Vec<Arc<Route>> {
            let numbered = service.http.iter().enumerate();
            numbered.map(|(rule, http)| Arc::new(routes::of_document(&self.rules, client, id, rule, http))).collect()
        };
        let visible = namespaces.into_iter().filter(|namespace| export_to.includes(namespace));
        Virtual {
            special: visible.map(|namespace| (namespace.clone(), routes(&namespace))).collect(),
            // No namespace has an empty name: nothing is special about this caller.
            common: routes(""),
            id: id.clone(),
            created: value.document.as_ref().ok().and_then(|document| document.created).unwrap_or(value.time),
            service: service.clone(),
            export_to,
            made_of,
        }
    }

    /// The VirtualService that applies to a service for callers in this namespace: the most specific host, then the oldest.
    pub(crate) fn virtual_service(&self, service: &ServiceName, namespace: &str) -> Option<&Arc<Virtual>> {
        let visible = |candidate: &&Arc<Virtual>| candidate.export_to.includes(namespace);
        let exact = self.exact.get(service).into_iter().flatten().filter(visible);
        // `min_by_key` keeps the first of equals: the oldest.
        if let Some(found) = exact.min_by_key(|candidate| candidate.class(namespace)) {
            return Some(found);
        }
        if self.wild.is_empty() {
            return None;
        }
        let name = hosts::full_name(service);
        let mut hits =
            self.wild.iter().filter(|(host, candidate)| hosts::covers(host, &name) && visible(&candidate)).peekable();
        let best = hits.peek().map(|(host, _)| host.as_str())?;
        let same = hits.take_while(|(host, _)| host == best).map(|(_, candidate)| candidate);
        same.min_by_key(|candidate| candidate.class(namespace))
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
        let route = Arc::new(routes::default_of(&self.rules, namespace, service));
        let mut cache = self.defaults.write().unwrap_or_else(PoisonError::into_inner);
        let routes = cache.entry(service.clone()).or_default();
        if let Some(route) = known(routes) {
            return route;
        }
        routes.push((namespace.to_owned(), route.clone()));
        route
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

/// Hosts that the routes of a document forward to, without repetition.
fn destination_hosts(service: &VirtualService) -> BTreeSet<&str> {
    let destinations = service.http.iter().filter_map(|route| match &route.action {
        HttpAction::Route(destinations) => Some(destinations),
        HttpAction::Redirect(_) | HttpAction::Direct(_) => None,
    });
    destinations.flatten().map(|one| one.destination.host.as_str()).collect()
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
        export_to: seen_by(&rule.export_to, id, value),
        rule: rule.clone(),
    })
}

#[cfg(test)]
mod tests;
