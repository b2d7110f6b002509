//! Objects of Kubernetes that stand beside Istio's in people's files: facts for lint, refused by push.

use std::collections::BTreeMap;

/// A Kubernetes object that lint recognises.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KubernetesObject {
    /// `Service`, `Pod`, `Deployment`, `Namespace`, `Secret`...
    pub kind: String,
    /// Namespace, the default one if not given.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Labels of the pods that it makes; for a Service its selector.
    pub labels: BTreeMap<String, String>,
    /// For a Service: its ports.
    pub service: Option<KubernetesService>,
    /// Where it stands.
    pub file: String,
    /// Line of it, from 1.
    pub line: usize,
}

/// What lint needs of a Service.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KubernetesService {
    /// Name, number and protocol word (by Istio's rules of port naming).
    pub ports: Vec<(String, u16, String)>,
}
