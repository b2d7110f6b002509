//! Objects of Kubernetes that stand beside Istio's in people's files: facts for lint, refused by push.

use std::collections::BTreeMap;

use crate::tree::{Node, Value};

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
    /// Its ports.
    pub ports: Vec<KubernetesPort>,
}

/// A port of a Service.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KubernetesPort {
    /// Its name, may be empty.
    pub name: String,
    /// The number that callers address.
    pub number: u16,
    /// The workloads' port; the same number where none or only a name is given.
    pub target: u16,
    /// Protocol word, by Istio's rules of port naming.
    pub protocol: String,
}

/// Kinds that stand beside Istio's in people's files, by API group.
const KINDS: [(&str, &[&str]); 4] = [
    ("", &["Service", "Pod", "Namespace", "Secret", "ServiceAccount", "ConfigMap"]),
    ("apps", &["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"]),
    ("batch", &["Job"]),
    ("networking.k8s.io", &["NetworkPolicy", "Ingress"]),
];

/// The object, if it is one of Kubernetes that lint recognises. Read leniently: its rules are not ours.
pub(crate) fn read(
    api: &str,
    kind: &str,
    node: &Node,
    file: &str,
    default_namespace: &str,
) -> Option<KubernetesObject> {
    let group = api.split_once('/').map_or("", |(group, _)| group);
    KINDS.iter().find(|(own, kinds)| *own == group && kinds.contains(&kind))?;
    let metadata = node.get("metadata");
    let text = |name| metadata.and_then(|metadata| metadata.get(name)).and_then(Node::text);
    let spec = node.get("spec");
    let labels = match (kind, spec) {
        ("Service", Some(spec)) => texts(spec.get("selector")),
        ("Pod", _) => texts(metadata.and_then(|metadata| metadata.get("labels"))),
        (_, Some(spec)) => {
            let template = spec.get("template").and_then(|template| template.get("metadata"));
            texts(template.and_then(|metadata| metadata.get("labels")))
        }
        (_, None) => BTreeMap::new(),
    };
    let service = spec.filter(|_| kind == "Service").map(|spec| KubernetesService { ports: ports(spec) });
    Some(KubernetesObject {
        kind: kind.to_owned(),
        namespace: text("namespace").unwrap_or(default_namespace).to_owned(),
        name: text("name").unwrap_or_default().to_owned(),
        labels,
        service,
        file: file.to_owned(),
        line: node.place.line,
    })
}

fn texts(node: Option<&Node>) -> BTreeMap<String, String> {
    let Some(Value::Map(entries)) = node.map(|node| &node.value) else { return BTreeMap::new() };
    entries.iter().filter_map(|(key, value)| Some((key.text.clone(), value.text()?.to_owned()))).collect()
}

/// Istio's port naming: `appProtocol`, else the part of the name before `-`.
fn ports(spec: &Node) -> Vec<KubernetesPort> {
    let Some(Value::List(ports)) = spec.get("ports").map(|ports| &ports.value) else { return Vec::new() };
    let port = |port: &Node| {
        let number = |name| match port.get(name).map(|number| &number.value) {
            Some(Value::Integer(number)) => u16::try_from(*number).ok(),
            Some(_) | None => None,
        };
        let name = port.get("name").and_then(Node::text).unwrap_or_default();
        let protocol =
            port.get("appProtocol").and_then(Node::text).or_else(|| name.split('-').next()).unwrap_or_default();
        let (own, target) = (number("port")?, number("targetPort"));
        let (name, protocol) = (name.to_owned(), protocol.to_owned());
        Some(KubernetesPort { name, number: own, target: target.unwrap_or(own), protocol })
    };
    ports.iter().filter_map(port).collect()
}
