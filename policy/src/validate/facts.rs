//! Kubernetes' Services and Pods in the files that are linted: facts beside those of the mesh.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use certs::id::ServiceName;

use crate::{
    hosts::{Protocol, Registry, ServicePort},
    kinds::KubernetesObject,
};

/// A registry that also knows what some objects of Kubernetes say.
pub struct WithKubernetes<'r> {
    mesh: &'r dyn Registry,
    objects: &'r [KubernetesObject],
}

impl<'r> WithKubernetes<'r> {
    /// The mesh's registry and the objects of the files.
    pub fn new(mesh: &'r dyn Registry, objects: &'r [KubernetesObject]) -> Self {
        Self { mesh, objects }
    }

    fn service(&self, service: &ServiceName) -> Option<&KubernetesObject> {
        let is = |object: &&KubernetesObject| {
            object.service.is_some() && object.namespace == service.namespace() && object.name == service.name()
        };
        self.objects.iter().find(is)
    }
}

fn protocol(word: &str) -> Protocol {
    match word.to_ascii_lowercase().as_str() {
        "http" => Protocol::Http,
        "http2" => Protocol::Http2,
        "grpc" | "grpc-web" => Protocol::Grpc,
        "tls" | "https" => Protocol::Tls,
        "tcp" | "mongo" | "redis" | "mysql" => Protocol::Tcp,
        _ => Protocol::Sniffed,
    }
}

impl Registry for WithKubernetes<'_> {
    fn ports(&self, service: &ServiceName) -> Option<Arc<[ServicePort]>> {
        let found = self.mesh.ports(service);
        found.or_else(|| {
            let ports = &self.service(service)?.service.as_ref()?.ports;
            let port = |(name, number, word): &(String, u16, String)| ServicePort {
                name: name.clone(),
                number: *number,
                protocol: protocol(word),
            };
            Some(ports.iter().map(port).collect())
        })
    }

    fn services(&self) -> Vec<ServiceName> {
        let own = self.objects.iter().filter(|object| object.service.is_some());
        let own = own.filter_map(|object| ServiceName::new(&object.namespace, &object.name).ok());
        self.mesh.services().into_iter().chain(own).collect::<BTreeSet<_>>().into_iter().collect()
    }

    fn labels_exist(&self, service: &ServiceName, labels: &BTreeMap<String, String>) -> bool {
        if self.mesh.labels_exist(service, labels) {
            return true;
        }
        let Some(own) = self.service(service) else { return false };
        let includes = |all: &BTreeMap<String, String>, part: &BTreeMap<String, String>| {
            part.iter().all(|(key, value)| all.get(key) == Some(value))
        };
        let mut pods = self
            .objects
            .iter()
            .filter(|object| object.service.is_none() && object.namespace == own.namespace && !object.labels.is_empty())
            .filter(|object| includes(&object.labels, &own.labels))
            .peekable();
        // Without workloads in the files nothing is known of labels.
        pods.peek().is_none() || pods.any(|object| includes(&object.labels, labels))
    }
}
