//! What tests of several rooms share: a registry that is a table, a mesh with one operator.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use certs::{
    id::{ServiceName, TrustDomain},
    sign::SigningKey,
};

use crate::{
    Problem, Registry, Spec,
    changeset::{Change, Changeset},
    history::{History, State, genesis, signed},
    hosts::{Inventory, Protocol, ServicePort, Workload},
    parse,
};

pub(crate) const NOW: u64 = 1_700_000_000_000;

/// Services with their ports and the labels of their endpoints.
#[derive(Default)]
pub(crate) struct Table(BTreeMap<ServiceName, (Arc<[ServicePort]>, Vec<Labels>)>, Inventory);

type Labels = BTreeMap<String, String>;

impl Table {
    /// Services as `NS/NAME`, HTTP on the given ports.
    pub(crate) fn new(services: &[(&str, &[u16])]) -> Self {
        let mut table = Self::default();
        for (name, ports) in services {
            let port = |number: &u16| ServicePort {
                name: format!("http-{number}"),
                number: *number,
                protocol: Protocol::Http,
            };
            table.0.insert(name.parse().unwrap(), (ports.iter().map(port).collect(), Vec::new()));
        }
        table
    }

    pub(crate) fn labelled(mut self, service: &str, labels: &[(&str, &str)]) -> Self {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        self.0.get_mut(&service.parse::<ServiceName>().unwrap()).unwrap().1.push(labels);
        self
    }

    /// A workload in a namespace, with its labels and its ports.
    pub(crate) fn workload(mut self, namespace: &str, labels: &[(&str, &str)], ports: &[(u16, Protocol)]) -> Self {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let workload = Workload { labels: Arc::new(labels), ports: ports.iter().copied().collect() };
        let workloads = self.1.workloads.get_or_insert_default();
        workloads.entry(namespace.to_owned()).or_default().insert(workload);
        self.1.complete = true;
        self
    }

    /// Every namespace, and every credential.
    pub(crate) fn names(mut self, namespaces: &[&str], credentials: &[&str]) -> Self {
        self.1.namespaces = Some(namespaces.iter().map(|name| (*name).to_owned()).collect());
        self.1.credentials = Some(credentials.iter().map(|name| (*name).to_owned()).collect());
        self
    }
}

impl Registry for Table {
    fn ports(&self, service: &ServiceName) -> Option<Arc<[ServicePort]>> {
        self.0.get(service).map(|(ports, _)| ports.clone())
    }

    fn services(&self) -> Vec<ServiceName> {
        self.0.keys().cloned().collect()
    }

    fn labels_exist(&self, service: &ServiceName, labels: &BTreeMap<String, String>) -> bool {
        let has =
            |endpoint: &BTreeMap<String, String>| labels.iter().all(|(key, value)| endpoint.get(key) == Some(value));
        self.0.get(service).is_some_and(|(_, endpoints)| endpoints.iter().any(has))
    }

    fn endpoints(&self, service: &ServiceName, labels: &BTreeMap<String, String>) -> Option<usize> {
        let has =
            |endpoint: &&BTreeMap<String, String>| labels.iter().all(|(key, value)| endpoint.get(key) == Some(value));
        Some(self.0.get(service)?.1.iter().filter(has).count())
    }

    fn inventory(&self) -> Inventory {
        self.1.clone()
    }
}

/// A history with one operator, who pushes text.
pub(crate) struct Mesh {
    pub(crate) history: History,
    nonce: u8,
}

fn operator() -> &'static SigningKey {
    static KEY: OnceLock<SigningKey> = OnceLock::new();
    KEY.get_or_init(SigningKey::generate)
}

impl Mesh {
    pub(crate) fn new() -> Self {
        let trust_domain = TrustDomain::new("prod.example").unwrap();
        let first = genesis(&trust_domain, &[vec![1]], &[("ann".to_owned(), operator().public(), false)], NOW);
        let mut history = History::new(trust_domain);
        history.insert(&signed(&first, &[operator()]), NOW).unwrap();
        Self { history, nonce: 0 }
    }

    /// Pushes every document of a text, one changeset each, a millisecond apart.
    pub(crate) fn push(&mut self, text: &str) -> Arc<State> {
        self.put(text, None)
    }

    /// As [`Mesh::push`] by somebody who has seen `state` and nothing since: on the other side of a partition.
    pub(crate) fn push_apart(&mut self, text: &str, state: &State) -> Arc<State> {
        self.put(text, Some(state))
    }

    fn put(&mut self, text: &str, seen: Option<&State>) -> Arc<State> {
        let parsed = parse::yaml("test.yaml", text, "default");
        assert!(parsed.is_valid(), "{:#?}", parsed.problems);
        for located in parsed.documents {
            self.nonce += 1;
            let document = located.document.id;
            let replaces = seen.map_or_else(|| self.history.state(NOW).heads(&document), |seen| seen.heads(&document));
            let changeset = Changeset {
                trust_domain: TrustDomain::new("prod.example").unwrap(),
                role_set: 1,
                issued_at: NOW + u64::from(self.nonce),
                message: String::new(),
                confirm_by: None,
                nonce: [self.nonce; 16],
                changes: vec![Change { document, content: Some(located.json), replaces }],
            };
            let bytes = signed(&changeset, &[operator()]);
            if seen.is_none() {
                self.history.check_push(&bytes, NOW).unwrap();
            }
            self.history.insert(&bytes, NOW).unwrap();
        }
        self.history.state(NOW)
    }
}

/// The state of a mesh with these documents.
pub(crate) fn state_of(text: &str) -> Arc<State> {
    Mesh::new().push(text)
}

/// Complaints about a document of this kind, in the namespace `shop`, whose spec begins on line 4.
pub(crate) fn found(kind: &str, spec: &str) -> Vec<Problem> {
    read(kind, spec).problems
}

/// Code and field of each of them.
pub(crate) fn complaints(kind: &str, spec: &str) -> Vec<(&'static str, String)> {
    found(kind, spec).into_iter().map(|problem| (problem.code, problem.field)).collect()
}

/// The content of a valid document.
pub(crate) fn spec_of(kind: &str, spec: &str) -> Spec {
    let mut parsed = read(kind, spec);
    assert!(parsed.is_valid(), "{spec}: {:#?}", parsed.problems);
    parsed.documents.remove(0).document.spec
}

fn read(kind: &str, spec: &str) -> parse::Parsed {
    let group = match kind {
        "AuthorizationPolicy" | "PeerAuthentication" | "RequestAuthentication" => "security",
        "Telemetry" => "telemetry",
        _ => "networking",
    };
    let text = format!(
        "apiVersion: {group}.istio.io/v1\nkind: {kind}\nmetadata: {{name: d, namespace: shop}}\nspec: {spec}\n"
    );
    parse::yaml("f.yaml", &text, "default")
}
