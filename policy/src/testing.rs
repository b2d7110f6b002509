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
    Registry, Spec,
    changeset::{Change, Changeset},
    history::{History, State, genesis, signed},
    hosts::{Protocol, ServicePort},
    parse,
};

pub(crate) const NOW: u64 = 1_700_000_000_000;

/// Services with their ports and the labels of their endpoints.
#[derive(Default)]
pub(crate) struct Table(BTreeMap<ServiceName, (Arc<[ServicePort]>, Vec<Labels>)>);

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

/// Code and field of every complaint about a document of this kind with this spec.
pub(crate) fn complaints(kind: &str, spec: &str) -> Vec<(&'static str, String)> {
    let (_, problems) = read(kind, spec);
    problems.into_iter().map(|problem| (problem.code, problem.field)).collect()
}

/// The content of a valid document.
pub(crate) fn spec_of(kind: &str, spec: &str) -> Spec {
    let (documents, problems) = read(kind, spec);
    let document = documents.into_iter().next();
    document.unwrap_or_else(|| panic!("{spec}: {problems:#?}")).document.spec
}

fn read(kind: &str, spec: &str) -> (Vec<parse::Located>, Vec<crate::Problem>) {
    let text = format!(
        "{{apiVersion: networking.istio.io/v1, kind: {kind}, metadata: {{name: d, namespace: shop}}, spec: {spec}}}"
    );
    let parsed = parse::yaml("test.yaml", &text, "default");
    (parsed.documents, parsed.problems)
}
