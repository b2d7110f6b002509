//! Ten thousand documents in one process: how long a change takes to compile, and what they cost a request.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use certs::{
    id::{ServiceAccount, ServiceName, TrustDomain},
    sign::SigningKey,
};
use harness::now;
use http::{HeaderMap, Method, Uri};
use policy::{
    Registry,
    changeset::{Change, Changeset},
    compile::Compiled,
    history::{History, genesis, signed},
    hosts::{Protocol, ServicePort},
    parse,
    route::{self, Request, Source},
};

use crate::Figure;

const DOCUMENTS: usize = 10_000;
const FEW: usize = 10;
const CHANGES: usize = 20;
const ROUNDS: usize = 7;
const REQUESTS: usize = 100_000;
const NOW: u64 = 1_800_000_000_000;

pub(crate) fn figures() -> Vec<Figure> {
    let mut mesh = Mesh::of((0..DOCUMENTS).map(|number| document(number, 0)));
    let mut before = mesh.compiled();
    let mut slowest = Duration::ZERO;
    for change in 0..CHANGES {
        let bytes = mesh.change(&[document(change, change + 1)]);
        let started = now();
        mesh.history.insert(&bytes, NOW).expect("an operator's change");
        before = Arc::new(Compiled::build(&mesh.history.state(NOW), Some(&before)));
        slowest = slowest.max(started.elapsed());
    }
    let few = Mesh::of((0..FEW).map(|number| document(number, 0))).compiled();
    // In turn, and the best of each: what else the machine does meets both alike.
    let (mut of_few, mut of_many) = (f64::MAX, f64::MAX);
    for _ in 0..ROUNDS {
        of_few = of_few.min(nanoseconds_a_route(&few, "svc-3.default", "/b"));
        of_many = of_many.min(nanoseconds_a_route(&before, "svc-3.default", "/b"));
    }
    vec![
        Figure::at_most(
            "recompile_10000",
            slowest.as_secs_f64() * 1000.0,
            "ms",
            50.0,
            "one of 10,000 documents changes: insert, fold and compile, the slowest of 20",
        ),
        Figure::at_most(
            "routing_10000_over_10",
            of_many / of_few,
            "times",
            1.2,
            "one request's routing with 10,000 documents over that with 10, the best of 7 rounds each",
        ),
    ]
}

/// A history with one operator.
pub(crate) struct Mesh {
    history: History,
    operator: SigningKey,
    pushes: u64,
}

impl Mesh {
    /// With these documents, pushed five hundred at a time.
    pub(crate) fn of(documents: impl Iterator<Item = String>) -> Self {
        let operator = SigningKey::generate();
        let first = genesis(&trust_domain(), &[vec![1]], &[("ann".to_owned(), operator.public(), false)], NOW);
        let mut history = History::new(trust_domain());
        history.insert(&signed(&first, &[&operator]), NOW).expect("a genesis");
        let mut mesh = Self { history, operator, pushes: 0 };
        let all: Vec<String> = documents.collect();
        for part in all.chunks(500) {
            let bytes = mesh.change(part);
            mesh.history.insert(&bytes, NOW).expect("an operator's push");
        }
        mesh
    }

    /// Its state as the data path reads it.
    pub(crate) fn compiled(&self) -> Arc<Compiled> {
        Arc::new(Compiled::build(&self.history.state(NOW), None))
    }

    /// A signed push of these documents.
    fn change(&mut self, documents: &[String]) -> Vec<u8> {
        self.pushes += 1;
        let parsed = parse::yaml("figures", &documents.join("---\n"), "default");
        assert!(parsed.is_valid(), "{:?}", parsed.problems);
        let state = self.history.state(NOW);
        let changes = parsed.documents.into_iter().map(|located| Change {
            replaces: state.heads(&located.document.id),
            document: located.document.id,
            content: Some(located.json),
        });
        let changeset = Changeset {
            trust_domain: trust_domain(),
            role_set: 1,
            issued_at: NOW + self.pushes,
            message: String::new(),
            confirm_by: None,
            nonce: [0; 16],
            changes: changes.collect(),
        };
        signed(&changeset, &[&self.operator])
    }
}

fn trust_domain() -> TrustDomain {
    TrustDomain::new("prod.example").expect("a name")
}

/// Every second document a VirtualService, the others a DestinationRule for the same host.
fn document(number: usize, version: usize) -> String {
    let service = number / 2;
    if number.is_multiple_of(2) {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: svc-{service}}}\nspec:\n  hosts: [svc-{service}]\n  http:\n  - match: [{{uri: {{prefix: /a}}}}]\n    route: [{{destination: {{host: svc-{service}, subset: v1}}}}]\n  - name: version-{version}\n    route: [{{destination: {{host: svc-{service}, subset: v2}}}}]\n"
        )
    } else {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: svc-{service}}}\nspec: {{host: svc-{service}, subsets: [{{name: v1, labels: {{version: v1}}}}, {{name: v2, labels: {{version: v2, change: c{version}}}}}]}}\n"
        )
    }
}

/// Every service exists.
struct Everything(Arc<[ServicePort]>);

impl Registry for Everything {
    fn ports(&self, _: &ServiceName) -> Option<Arc<[ServicePort]>> {
        Some(Arc::clone(&self.0))
    }

    fn services(&self) -> Vec<ServiceName> {
        Vec::new()
    }

    fn labels_exist(&self, _: &ServiceName, _: &BTreeMap<String, String>) -> bool {
        true
    }
}

/// What one GET of `path` at `authority` costs to route.
pub(crate) fn nanoseconds_a_route(compiled: &Compiled, authority: &str, path: &'static str) -> f64 {
    let port = ServicePort { name: "http".to_owned(), number: 80, protocol: Protocol::Http };
    let registry = Everything(Arc::new([port]));
    let (uri, headers) = (Uri::from_static(path), HeaderMap::new());
    let source = Source {
        namespace: "default".to_owned(),
        labels: BTreeMap::new(),
        account: ServiceAccount::new("default", "web").expect("a name"),
    };
    let request = Request {
        method: &Method::GET,
        uri: &uri,
        authority,
        scheme: "http",
        headers: &headers,
        source: &source,
        fixed: None,
        token: None,
        own_port: None,
    };
    let started = now();
    for _ in 0..REQUESTS {
        let routed = route::route(compiled, &registry, std::hint::black_box(&request)).expect("a route");
        std::hint::black_box(routed);
    }
    started.elapsed().as_secs_f64() * 1e9 / REQUESTS as f64
}
