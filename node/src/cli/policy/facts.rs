//! What files say of the mesh: Kubernetes Services and workloads beside the documents, so that lint knows hosts and
//! labels without asking a node.

use std::{collections::BTreeMap, sync::Arc};

use certs::id::ServiceName;
use policy::{
    Registry,
    history::State,
    hosts::{Protocol, ServicePort},
    kinds::KubernetesObject,
    parse::Located,
    validate,
};

use super::source::Source;

/// Adds the complaints between documents, each to the file that it is about; without those that their authors silenced.
pub(super) fn judge(sources: &mut [Source]) {
    let facts = Facts::new(sources.iter().flat_map(|source| source.parsed.kubernetes.iter().cloned()).collect());
    let documents: Vec<Located> = sources.iter().flat_map(|source| source.parsed.documents.iter().cloned()).collect();
    let problems = validate::between(&documents, &State::nothing(), &facts);
    for problem in problems.into_iter().filter(|problem| !validate::is_silenced(problem, &documents)) {
        let home = sources.iter().position(|source| source.file == problem.file).unwrap_or(0);
        if let Some(source) = sources.get_mut(home) {
            source.parsed.problems.push(problem);
        }
    }
}

type Labels = BTreeMap<String, String>;

/// Services and workloads of Kubernetes files.
struct Facts {
    services: BTreeMap<ServiceName, (Arc<[ServicePort]>, Labels)>,
    workloads: Vec<KubernetesObject>,
}

impl Facts {
    fn new(objects: Vec<KubernetesObject>) -> Self {
        let mut facts = Self { services: BTreeMap::new(), workloads: Vec::new() };
        for object in objects {
            let Some(service) = &object.service else {
                facts.workloads.push(object);
                continue;
            };
            let port = |(name, number, protocol): &(String, u16, String)| ServicePort {
                name: name.clone(),
                number: *number,
                protocol: protocol_of(protocol),
            };
            if let Ok(name) = ServiceName::new(&object.namespace, &object.name) {
                facts.services.insert(name, (service.ports.iter().map(port).collect(), object.labels.clone()));
            }
        }
        facts
    }
}

fn protocol_of(word: &str) -> Protocol {
    match word.to_ascii_lowercase().as_str() {
        "http" | "grpc-web" => Protocol::Http,
        "http2" => Protocol::Http2,
        "grpc" => Protocol::Grpc,
        "tls" | "https" => Protocol::Tls,
        "" => Protocol::Sniffed,
        _ => Protocol::Tcp,
    }
}

impl Registry for Facts {
    fn ports(&self, service: &ServiceName) -> Option<Arc<[ServicePort]>> {
        self.services.get(service).map(|(ports, _)| ports.clone())
    }

    fn services(&self) -> Vec<ServiceName> {
        self.services.keys().cloned().collect()
    }

    /// True where no file shows a workload of the service: then its labels are not known.
    fn labels_exist(&self, service: &ServiceName, labels: &BTreeMap<String, String>) -> bool {
        let Some((_, selector)) = self.services.get(service) else { return true };
        let has = |object: &KubernetesObject, wanted: &BTreeMap<String, String>| {
            wanted.iter().all(|(key, value)| object.labels.get(key) == Some(value))
        };
        let mut workloads = self
            .workloads
            .iter()
            .filter(|object| object.namespace == service.namespace() && !selector.is_empty() && has(object, selector))
            .peekable();
        workloads.peek().is_none() || workloads.any(|object| has(object, labels))
    }
}

#[cfg(test)]
mod tests {
    use policy::kinds::KubernetesService;

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn object(kind: &str, own: &[(&str, &str)], service: Option<KubernetesService>) -> KubernetesObject {
        KubernetesObject {
            kind: kind.to_owned(),
            namespace: "default".to_owned(),
            name: "reviews".to_owned(),
            labels: labels(own),
            service,
            file: "a.yaml".to_owned(),
            line: 1,
        }
    }

    #[test]
    fn labels_are_those_of_the_services_workloads() {
        let service = KubernetesService { ports: vec![("http".to_owned(), 9080, "HTTP".to_owned())] };
        let facts = Facts::new(vec![
            object("Service", &[("app", "reviews")], Some(service.clone())),
            object("Deployment", &[("app", "reviews"), ("version", "v1")], None),
        ]);
        let name = ServiceName::new("default", "reviews").unwrap();
        assert_eq!(facts.ports(&name).unwrap()[0].protocol, Protocol::Http);
        assert!(facts.labels_exist(&name, &labels(&[("version", "v1")])));
        assert!(!facts.labels_exist(&name, &labels(&[("version", "v2")])));
        let alone = Facts::new(vec![object("Service", &[("app", "reviews")], Some(service))]);
        assert!(alone.labels_exist(&name, &labels(&[("version", "v2")])));
    }
}
