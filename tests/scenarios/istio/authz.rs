//! Istio's documents of `authz`, from outside: each is pushed to a mesh, callers of the identities, from the addresses, with the heads
//! and tokens that its filters look at send requests and connections, and who is let in is whom Istio's filters let in. Dry runs
//! change nothing and are counted as the filters say.

mod ask;
mod callers;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
};

use harness::{
    backend::Backend,
    bytes::Echo,
    cluster::{Cluster, Plan, Service, TRUST_DOMAIN},
    http,
    rbac::{self, ASKING, CASES, Case, Request, Said, requests},
};
use regex::{Captures, Regex};

use self::{
    ask::{Asked, Unmet, present},
    callers::Callers,
};
use crate::skein;

/// Nodes from which is called, and those that are called: requests come to one, connections of bytes to the other.
const NEAR: &str = "near";
const FAR: &str = "far";
const REQUESTS: &str = "requests";
const CONNECTIONS: &str = "connections";

/// What stands for their addresses until they run.
const STAND_INS: [(&str, Ipv4Addr); 4] = [
    (NEAR, Ipv4Addr::new(127, 127, 0, 1)),
    (FAR, Ipv4Addr::new(127, 127, 0, 2)),
    (REQUESTS, Ipv4Addr::new(127, 127, 0, 3)),
    (CONNECTIONS, Ipv4Addr::new(127, 127, 0, 4)),
];

/// Addresses of the corpus that must be those of nodes: rules want the callers to have identities, too, and are called there.
const OF_NODES: [(&str, &str); 3] = [("10.1.0.1", NEAR), ("10.1.1.1", FAR), ("10.10.10.10", REQUESTS)];

/// A port that no document means.
const OTHER_PORT: u16 = 9180;

/// Of what is let in and of what is not, at most so many of each document: requests, and connections.
const MOST: (usize, usize) = (40, 16);

/// A document and what is asked under it.
struct Prepared {
    case: &'static Case,
    documents: String,
    /// As they came, if nodes refuse them for a condition that only Envoy could judge.
    whole: Option<String>,
    asked: Vec<Asked>,
}

fn stand_in(node: &str) -> IpAddr {
    let found = STAND_INS.iter().find(|(known, _)| *known == node);
    found.map_or_else(|| panic!("no node {node}"), |(_, address)| IpAddr::V4(*address))
}

fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("a pattern")
}

/// Names as this mesh can have them, in documents and filters alike: its own trust domain, addresses of loopback, ports for which
/// nobody needs privileges.
fn real(case: &Case, text: &str) -> String {
    let domain = pattern(&format!(r"\b{}\b", regex::escape(case.trust_domains[0])));
    let text = domain.replace_all(text, TRUST_DOMAIN);
    let text = pattern(r#""(\d\d)""#).replace_all(&text, "\"100$1\"");
    let text = pattern(r"destinationPort: (\d\d)\n").replace_all(&text, "destinationPort: 100$1\n");
    let address = pattern(r"\b\d{1,3}\.(\d{1,3})(\.\d{1,3}\.\d{1,3})\b");
    let loopback = |found: &Captures<'_>| match OF_NODES.iter().find(|(known, _)| *known == &found[0]) {
        Some((_, node)) => stand_in(node).to_string(),
        // Below those of the nodes of any test.
        None => format!("127.{}{}", found[1].parse::<u8>().expect("a part of an address") % 64, &found[2]),
    };
    address.replace_all(&text, loopback).into_owned()
}

/// What is asked under a document, and how often something that the filters look at could not be.
fn prepare(root: &Path, case: &'static Case, unmet: &mut Unmet) -> Prepared {
    let given = real(case, &case.text(root));
    let mut filters = case.filters(root, |text| real(case, text));
    let (documents, whole) = match rbac::without_envoy(&given) {
        None => (given, None),
        Some(rest) => {
            filters = filters.into_iter().map(rbac::Filter::without_envoy).collect();
            (rest, Some(given))
        }
    };
    let called = stand_in(if case.is_http() { REQUESTS } else { CONNECTIONS });
    let odd = Request {
        principal: Some(format!("spiffe://{TRUST_DOMAIN}/ns/default/sa/caller")),
        ..Request::odd(stand_in(NEAR), called, OTHER_PORT)
    };
    let wanted = requests(&filters, &odd, TRUST_DOMAIN);
    let of_nobody: Vec<Request> = wanted.iter().map(|one| Request { principal: None, ..one.clone() }).collect();
    let (mut allowed, mut refused) = (Vec::new(), Vec::new());
    for request in wanted.into_iter().chain(of_nobody) {
        let (request, way) = present(request, &odd, case.is_http(), unmet);
        let said = said(case, &filters, &request);
        let of = if said.allowed { &mut allowed } else { &mut refused };
        let asked = Asked { request, way, said };
        if !of.contains(&asked) {
            of.push(asked);
        }
    }
    let most = if case.is_http() { MOST.0 } else { MOST.1 };
    let asked = some_of(allowed, most).chain(some_of(refused, most)).collect();
    Prepared { case, documents, whole, asked }
}

/// At most so many, from everywhere in the list.
fn some_of(list: Vec<Asked>, most: usize) -> impl Iterator<Item = Asked> {
    let step = list.len().div_ceil(most).max(1);
    list.into_iter().step_by(step)
}

/// What Istio's filters say. About whom Istio would ask an authoriser by a connection, here nobody can be asked: it is refused.
fn said(case: &Case, filters: &[rbac::Filter], request: &Request) -> Said {
    let said = Said::of(filters, request);
    if case.documents != ASKING.documents {
        return said;
    }
    Said { allowed: said.tried == Some(true), tried: None, logged: false }
}

/// The mesh's settings under a case: its other names, a believed proxy before gateways, an authoriser that has a name.
fn settings(case: &Case) -> String {
    format!(
        "apiVersion: skein.dev/v1\nkind: MeshConfig\nmetadata: {{name: default}}\nspec:\n  trustDomainAliases: {:?}\n  defaultConfig: {{gatewayTopology: {{numTrustedProxies: 1}}}}\n  extensionProviders: [{{name: default, envoyExtAuthzHttp: {{service: httpbin.foo.svc.cluster.local, port: {OTHER_PORT}}}}}]\n---\n",
        &case.trust_domains[1..]
    )
}

/// The mesh, with applications at every port that is asked for.
struct Mesh {
    cluster: Cluster,
    callers: Callers,
    backends: Vec<Backend>,
    _echoes: Vec<Echo>,
}

fn start(prepared: &[Prepared]) -> Mesh {
    let callers = Callers::of(prepared.iter().flat_map(|one| &one.asked));
    let [requests, connections] = [REQUESTS, CONNECTIONS].map(|node| callers.ports(stand_in(node)));
    let open = |name: &str, ports: &[u16]| Service {
        labels: [("app", "httpbin"), ("version", "v1")].map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        ports: ports.to_vec(),
        own_ports: true,
        plaintext: true,
        ..Service::version(name, "v1")
    };
    let bytes = Service { protocol: "tcp".to_owned(), ..open("foo/bytes", &connections) };
    let plans = [
        (NEAR, callers.plan(stand_in(NEAR))),
        (FAR, callers.plan(stand_in(FAR))),
        (REQUESTS, Plan::with([open("foo/httpbin", &requests)])),
        (CONNECTIONS, Plan::with([bytes])),
    ];
    let cluster = Cluster::start(skein(), &plans);
    let at = |node: &str, port: &u16| SocketAddr::new(cluster.node(node).ip, *port);
    let backends = requests.iter().map(|port| Backend::start(at(REQUESTS, port), "httpbin").expect("a free port"));
    let backends = backends.collect();
    let echoes = connections.iter().map(|port| Echo::start(at(CONNECTIONS, port), "hello").expect("a free port"));
    let echoes = echoes.collect();
    cluster.wait_members(harness::PATIENCE);
    cluster.wait_endpoints("foo/httpbin", requests.len());
    cluster.wait_endpoints("foo/bytes", connections.len());
    Mesh { cluster, callers, backends, _echoes: echoes }
}

impl Mesh {
    fn push(&self, documents: &str) -> serde_json::Value {
        self.cluster.push(NEAR, documents, &["--wait", "all"]).expect_code(0).json()
    }

    /// Takes back policies; the next push waits for that, too.
    fn take_back(&self, pushed: &serde_json::Value) {
        for document in pushed["documents"].as_array().into_iter().flatten() {
            let field = |field: &str| document[field].as_str().unwrap_or_default();
            if field("kind") == "AuthorizationPolicy" {
                let words = ["policy", "delete", "AuthorizationPolicy", field("name"), "-n", field("namespace")];
                self.cluster.on(NEAR, &words).expect_code(0);
            }
        }
    }

    /// With addresses of nodes that run, in the place of those that stood for them.
    fn placed(&self, text: &str) -> String {
        STAND_INS.iter().fold(text.to_owned(), |text, (node, stands)| {
            text.replace(&stands.to_string(), &self.cluster.node(node).ip.to_string())
        })
    }

    /// A node's counters of what policies did.
    fn counted(&self, node: &str) -> Counted {
        let admin = self.cluster.node(node).address("admin");
        let metrics = http::get(admin, "localhost", "/metrics").expect("metrics").text();
        let value = |name: &str| {
            let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.and_then(|number| number.parse().ok()).unwrap_or(0)
        };
        Counted {
            denied: value("skein_authorization_denied_total"),
            would_allow: value("skein_authorization_dry_run_total{result=\"allowed\"}"),
            would_deny: value("skein_authorization_dry_run_total{result=\"denied\"}"),
            audited: value("skein_authorization_audited_total"),
        }
    }

    /// Asks everything under a document, and gives what differs from Istio's filters.
    fn check(&self, one: &Prepared) -> Vec<String> {
        let node = if one.case.is_http() { REQUESTS } else { CONNECTIONS };
        if let Some(whole) = &one.whole {
            let refused = self.cluster.push(NEAR, &self.placed(whole), &[]);
            assert!(refused.code == 2 && refused.err.contains("experimental.envoy.filters"), "{refused:?}");
        }
        let pushed = self.push(&self.placed(&(settings(one.case) + &one.documents)));
        self.backends.iter().for_each(Backend::forget);
        let before = self.counted(node);
        let (mut wrong, mut due) = (Vec::new(), Counted::default());
        for asked in &one.asked {
            let let_in = self.ask(asked, one.case.is_http());
            if let_in.as_ref() != Ok(&asked.said.allowed) {
                wrong.push(format!("{}: {let_in:?}, Istio's filters: {:?}: {asked:?}", one.case.documents, asked.said));
            }
            due.add(&asked.said);
        }
        let arrived: usize = self.backends.iter().map(|backend| backend.arrivals().len()).sum();
        let allowed = one.asked.iter().filter(|asked| asked.said.allowed).count();
        if one.case.is_http() && arrived != allowed {
            wrong.push(format!("{}: {arrived} requests arrived, {allowed} were let in", one.case.documents));
        }
        let counted = self.counted(node).since(&before);
        if counted != due {
            wrong.push(format!("{}: counted {counted:?}, due {due:?}", one.case.documents));
        }
        if due.would_deny > 0 && !self.cluster.log(node).contains("on trial") {
            wrong.push(format!("{}: nothing is logged of what a policy on trial would deny", one.case.documents));
        }
        self.take_back(&pushed);
        wrong
    }
}

/// What policies did.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counted {
    denied: usize,
    would_allow: usize,
    would_deny: usize,
    audited: usize,
}

impl Counted {
    fn add(&mut self, said: &Said) {
        self.denied += usize::from(!said.allowed);
        self.would_allow += usize::from(said.tried == Some(true));
        self.would_deny += usize::from(said.tried == Some(false));
        self.audited += usize::from(said.logged);
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            denied: self.denied - before.denied,
            would_allow: self.would_allow - before.would_allow,
            would_deny: self.would_deny - before.would_deny,
            audited: self.audited - before.audited,
        }
    }
}

#[test]
#[ignore = "one run in ten fails before it begins: a plaintext port refuses; why is not known yet"]
fn whom_istios_filters_let_in_is_let_in() {
    let Some(files) = super::files("authz") else { return };
    let root = harness::corpus::root().expect("its files were found");
    assert_eq!(rbac::unlisted(&root), Vec::<String>::new());
    let mut unmet = Unmet::new();
    let prepared: Vec<Prepared> = CASES.iter().chain([&ASKING]).map(|case| prepare(&root, case, &mut unmet)).collect();
    let mesh = start(&prepared);
    mesh.push(&mesh.placed(&(settings(&CASES[0]) + &mesh.callers.documents())));
    mesh.callers.wait_doors(&mesh.cluster);
    // Without a policy everybody is let in: what refuses below is a policy.
    for one in &prepared {
        let refused = one.asked.iter().find(|asked| mesh.ask(asked, one.case.is_http()) != Ok(true));
        assert!(
            refused.is_none(),
            "{}: {refused:?}: {:?}\n{}",
            one.case.documents,
            refused.map(|asked| mesh.ask(asked, one.case.is_http())),
            mesh.cluster.log(if one.case.is_http() { REQUESTS } else { CONNECTIONS })
        );
    }
    let mut wrong = Vec::new();
    for one in &prepared {
        wrong.extend(mesh.check(one));
        if one.whole.is_some() {
            println!("authz {}: without the condition on a filter of Envoy's, refused by name", one.case.documents);
        }
        let allowed = one.asked.iter().filter(|asked| asked.said.allowed).count();
        println!("authz {}: {allowed} let in, {} refused", one.case.documents, one.asked.len() - allowed);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for (reason, count) in unmet {
        println!("authz: {count} times something cannot be presented here, {reason}");
    }
    let asked: usize = prepared.iter().map(|one| one.asked.len()).sum();
    let documents = files.keys().filter(|name| name.ends_with("-in")).count();
    println!("{documents} of Istio's documents of authz ran, {asked} requests and connections");
}
