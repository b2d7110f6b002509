//! What files say of the mesh: Kubernetes Services, workloads, Secrets and Namespaces beside the documents, so that lint knows
//! hosts and labels without asking a node.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use certs::id::ServiceName;

use crate::{
    Registry,
    hosts::{Inventory, Protocol, ServicePort, Workload},
    kinds::{KubernetesObject, KubernetesPort},
};

type Labels = BTreeMap<String, String>;

/// What Kubernetes files show of a mesh.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    services: BTreeMap<ServiceName, (Vec<KubernetesPort>, Labels)>,
    /// Pods, and the pods of what makes some.
    workloads: Vec<(String, Arc<Labels>)>,
    /// Workloads by namespace, key and value of a label.
    by_label: HashMap<(String, String, String), Vec<usize>>,
    namespaces: BTreeSet<String>,
    /// Namespaces as objects of their own: only then those that are not among them are not there.
    names_namespaces: bool,
    credentials: BTreeSet<String>,
}

impl Facts {
    /// The facts of the objects that stand beside the documents of some files.
    pub fn new(objects: impl IntoIterator<Item = KubernetesObject>) -> Self {
        let mut facts = Self::default();
        for object in objects {
            facts.add(object);
        }
        facts
    }

    fn add(&mut self, object: KubernetesObject) {
        match object.kind.as_str() {
            "Namespace" => {
                self.names_namespaces = true;
                self.namespaces.insert(object.name);
                return;
            }
            "Secret" => {
                self.credentials.insert(object.name);
            }
            "Service" => {
                if let Ok(name) = ServiceName::new(&object.namespace, &object.name) {
                    let ports = object.service.map(|service| service.ports).unwrap_or_default();
                    self.services.insert(name, (ports, object.labels));
                }
            }
            "Pod" | "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "Job" => {
                for (key, value) in &object.labels {
                    let label = (object.namespace.clone(), key.clone(), value.clone());
                    self.by_label.entry(label).or_default().push(self.workloads.len());
                }
                self.workloads.push((object.namespace.clone(), Arc::new(object.labels)));
            }
            _ => return,
        }
        self.namespaces.insert(object.namespace);
    }

    /// The workloads that a Service selects.
    fn selected(&self, service: &ServiceName, selector: &Labels) -> impl Iterator<Item = usize> {
        // The rarest label leaves the fewest to look at. A Service without a selector selects none.
        let of_label = |(key, value): (&String, &String)| {
            let found = self.by_label.get(&(service.namespace().to_owned(), key.clone(), value.clone()));
            found.map_or(&[][..], Vec::as_slice)
        };
        let rarest = selector.iter().map(of_label).min_by_key(|found| found.len()).unwrap_or_default();
        rarest.iter().copied().filter(move |index| has(&self.workloads[*index].1, selector))
    }
}

/// True if all of the wanted labels are there.
fn has(labels: &Labels, wanted: &Labels) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

fn protocol_of(word: &str) -> Protocol {
    match word.to_ascii_lowercase().as_str() {
        "http" | "grpc-web" => Protocol::Http,
        "http2" => Protocol::Http2,
        "grpc" => Protocol::Grpc,
        "tls" | "https" => Protocol::Tls,
        "tcp" | "mongo" | "redis" | "mysql" | "udp" => Protocol::Tcp,
        _ => Protocol::Sniffed,
    }
}

impl Registry for Facts {
    fn ports(&self, service: &ServiceName) -> Option<Arc<[ServicePort]>> {
        let (ports, _) = self.services.get(service)?;
        let port = |port: &KubernetesPort| ServicePort {
            name: port.name.clone(),
            number: port.number,
            protocol: protocol_of(&port.protocol),
        };
        Some(ports.iter().map(port).collect())
    }

    fn services(&self) -> Vec<ServiceName> {
        self.services.keys().cloned().collect()
    }

    /// True where the files show no workload at all: then labels are not known.
    fn labels_exist(&self, service: &ServiceName, labels: &Labels) -> bool {
        let Some((_, selector)) = self.services.get(service) else { return true };
        let mut selected = self.selected(service, selector);
        self.workloads.is_empty() || selected.any(|index| has(&self.workloads[index].1, labels))
    }

    fn inventory(&self) -> Inventory {
        let mut all: Vec<Workload> = Vec::new();
        all.extend(
            self.workloads.iter().map(|(_, labels)| Workload { labels: Arc::clone(labels), ..Workload::default() }),
        );
        for (name, (ports, selector)) in &self.services {
            for index in self.selected(name, selector) {
                all[index].ports.extend(ports.iter().map(|port| (port.target, protocol_of(&port.protocol))));
            }
        }
        let mut workloads: BTreeMap<String, BTreeSet<Workload>> = BTreeMap::new();
        for ((namespace, _), workload) in self.workloads.iter().zip(all) {
            workloads.entry(namespace.clone()).or_default().insert(workload);
        }
        Inventory {
            workloads: Some(workloads).filter(|workloads| !workloads.is_empty()),
            complete: false,
            namespaces: self.names_namespaces.then(|| self.namespaces.clone()),
            credentials: Some(self.credentials.clone()).filter(|credentials| !credentials.is_empty()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse;

    const FILE: &str = "apiVersion: v1
kind: Service
metadata: {name: reviews}
spec:
  selector: {app: reviews}
  ports: [{name: http, port: 80, targetPort: 9080}, {name: tcp-admin, port: 81}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: reviews}
spec: {template: {metadata: {labels: {app: reviews, version: v1}}}}
---
apiVersion: v1
kind: Secret
metadata: {name: certificate, namespace: edge}
";

    fn facts(text: &str) -> Facts {
        Facts::new(parse::yaml("a.yaml", text, "default").kubernetes)
    }

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn labels_are_those_of_the_services_workloads() {
        let known = facts(FILE);
        let name = ServiceName::new("default", "reviews").unwrap();
        assert_eq!(known.ports(&name).unwrap()[0].protocol, Protocol::Http);
        assert!(known.labels_exist(&name, &labels(&[("version", "v1")])));
        assert!(!known.labels_exist(&name, &labels(&[("version", "v2")])));
        let alone = facts(FILE.split("---").next().unwrap());
        assert!(alone.labels_exist(&name, &labels(&[("version", "v2")])));
    }

    #[test]
    fn workloads_have_the_ports_of_their_services() {
        let inventory = facts(FILE).inventory();
        let workloads = &inventory.workloads.unwrap()["default"];
        let ports = BTreeMap::from([(9_080, Protocol::Http), (81, Protocol::Tcp)]);
        let labels = Arc::new(labels(&[("app", "reviews"), ("version", "v1")]));
        assert_eq!(*workloads, BTreeSet::from([Workload { labels, ports }]));
        assert_eq!(inventory.credentials, Some(BTreeSet::from(["certificate".to_owned()])));
        assert_eq!((inventory.namespaces, inventory.complete), (None, false));
        let with = facts(&format!("{FILE}---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: shop}}\n"));
        let names: Vec<String> = with.inventory().namespaces.unwrap().into_iter().collect();
        assert_eq!(names, ["default", "edge", "shop"]);
        assert_eq!(facts("").inventory(), Inventory::default());
    }
}
