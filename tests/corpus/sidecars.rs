//! Istio's own Sidecars: the examples of its reference, and the mesh by which it tests scopes of namespaces.

use std::{collections::BTreeMap, sync::Arc};

use certs::{
    id::{ServiceAccount, ServiceName, TrustDomain},
    root::Root,
    sign::SigningKey,
};
use policy::{
    compile::{Compiled, Scope},
    document::ROOT_NAMESPACE,
    history::{History, genesis, signed},
    hosts::{Registry, ServicePort},
    parse,
    route::{Source, called},
};

use crate::corpus;

/// Nobody registers: all services are ServiceEntries.
struct Nobody;

impl Registry for Nobody {
    fn ports(&self, _: &ServiceName) -> Option<Arc<[ServicePort]>> {
        None
    }

    fn services(&self) -> Vec<ServiceName> {
        Vec::new()
    }

    fn labels_exist(&self, _: &ServiceName, _: &BTreeMap<String, String>) -> bool {
        false
    }
}

fn compiled(text: &str) -> Compiled {
    let (mesh, key) = (TrustDomain::new("t.example").unwrap(), SigningKey::generate());
    let root = Root::generate(&mesh, 1).certificate();
    let mut history = History::new(mesh.clone());
    history.insert(&signed(&genesis(&mesh, &[root], &[("ann".into(), key.public(), false)], 1), &[&key]), 1).unwrap();
    let parsed = parse::yaml("f", text, "default");
    let changes = parsed.documents.into_iter().map(|one| (one.document.id.clone(), Some(one.document)));
    Compiled::build(&history.state(1).with(changes.collect(), 2), None)
}

fn reference(name: &str) -> Option<Compiled> {
    let root = corpus()?;
    Some(compiled(&std::fs::read_to_string(root.join("reference").join(name)).unwrap()))
}

fn scope<'c>(compiled: &'c Compiled, app: &str) -> Scope<'c> {
    compiled.scope_of("prod-us1", &BTreeMap::from([("app".to_owned(), app.to_owned())]))
}

#[test]
fn exclusions_of_the_reference() {
    let Some(compiled) = reference("sidecar-02.yaml") else { return };
    let sees = |host: &str, namespace: &str| scope(&compiled, "any").imports(host, namespace);
    assert!(sees("a.prod-us1.svc.cluster.local", "prod-us1") && sees("foo.example.com", "elsewhere"));
    assert!(!sees("a.prod-us2.svc.cluster.local", "prod-us2"));
    assert!(!sees("foo.example.com", "prod-apis") && sees("other.example.com", "prod-apis"));
    assert!(!sees("bar.example.com", "elsewhere"));
}

#[test]
fn a_port_of_the_reference() {
    let Some(compiled) = reference("sidecar-03.yaml") else { return };
    let (own, system) =
        (("a.prod-us1.svc.cluster.local", "prod-us1"), ("b.istio-system.svc.cluster.local", "istio-system"));
    let sees =
        |port: u16, (host, namespace): (&str, &str)| scope(&compiled, "ratings").at(port).imports(host, namespace);
    assert_eq!([sees(9080, own), sees(9080, system), sees(80, own), sees(80, system)], [true, false, false, true]);
    assert!(scope(&compiled, "reviews").sidecar.is_none(), "it selects others");
}

#[test]
fn pools_of_the_reference() {
    let Some(compiled) = reference("sidecar-08.yaml") else { return };
    let scope = scope(&compiled, "productpage");
    let connections = |port| scope.inbound_pool(port).and_then(|pool| pool.tcp.max_connections);
    assert_eq!((connections(80), connections(81)), (Some(100), None));
    assert_eq!(scope.inbound_pool(81).and_then(|pool| pool.http.max_requests), Some(1_024));
}

#[test]
fn a_namespace_sees_its_own_by_the_root_namespaces_word() {
    let Some(root) = corpus() else { return };
    let text = std::fs::read_to_string(root.join("config/networking-sidecar-ns-scope-configs.yaml")).unwrap();
    // There the root namespace has another name.
    let compiled = compiled(&text.replace("namespace: istio-config", &format!("namespace: {ROOT_NAMESPACE}")));
    let sees = |host: &str, namespace: &str| {
        let account = ServiceAccount::new(namespace, "default").unwrap();
        let source = Source { namespace: namespace.to_owned(), labels: BTreeMap::new(), account };
        called(&compiled, &Nobody, &source, (host, None)).is_some()
    };
    for (own, other) in [("ns1", "ns2"), ("ns2", "ns1")] {
        for name in ["http1", "http2", "tcp1"] {
            assert!(sees(&format!("{name}.{own}.svc.cluster.local"), own), "{name} of {own}");
            assert!(!sees(&format!("{name}.{other}.svc.cluster.local"), own), "{name} of {other} from {own}");
        }
    }
    assert!(!sees("http1.ns1.svc.cluster.local", "ns3"));
}
