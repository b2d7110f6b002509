//! Istio's tables, from outside: which documents are taken, which route answers a host, how often an application is asked, who is
//! let in, which endpoint is left out. Rows that nobody outside can see are printed with the reason.

mod hosts;
mod judged;
mod names;
mod outliers;
mod retries;

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use harness::{
    backend::Backend,
    cluster::{Cluster, Plan, Service},
    obedient::{Obedient, Resetting},
};
use serde_json::Value;

use crate::{gateway::ingress, skein};

/// Every table, and whose rows it are.
const TABLES: [&str; 12] = [
    "authz-path-is-template",
    "authz-string-match",
    "gateway-hosts-for-namespace",
    "host-lists-intersection",
    "host-matches",
    "host-more-specific",
    "host-specificity-sort",
    "host-subset-of",
    "labels-valid",
    "outlier",
    "retry-on",
    "trust-domain-valid",
];

/// The rows of all tables.
struct Tables(BTreeMap<&'static str, Vec<Value>>);

impl Tables {
    fn read(files: &BTreeMap<String, PathBuf>) -> Self {
        assert_eq!(files.keys().map(String::as_str).collect::<Vec<_>>(), TABLES, "each table has its room, in order");
        let rows = |name| serde_json::from_str(&super::text(&files[name])).expect(name);
        Self(TABLES.map(|name| (name, rows(name))).into())
    }

    fn rows(&self, name: &str) -> &[Value] {
        &self.0[name]
    }
}

fn text<'v>(row: &'v Value, name: &str) -> &'v str {
    row[name].as_str().unwrap_or_else(|| panic!("no {name} in {row}"))
}

fn texts<'v>(row: &'v Value, name: &str) -> Vec<&'v str> {
    row[name].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// What was seen of tables.
#[derive(Default)]
struct Seen {
    rows: usize,
    /// Rows that cannot be, and why.
    unseen: Vec<(String, &'static str)>,
    wrong: Vec<String>,
}

impl Seen {
    /// A row and what was found of it.
    fn row(&mut self, table: &str, row: &Value, is_right: bool, found: &str) {
        self.rows += 1;
        if !is_right {
            self.wrong.push(format!("{table} {row}: {found}"));
        }
    }

    fn unseen(&mut self, table: &str, row: &Value, because: &'static str) {
        self.unseen.push((format!("{table} {row}"), because));
    }
}

/// The nodes: a gateway with the callers beside it, and everything that is called.
const EDGE: &str = "edge";
const SERVERS: &str = "servers";

/// The mesh, and applications of its own kind.
struct Mesh {
    cluster: Cluster,
    /// Behind `default/b` and the services whose endpoints fail.
    obedient: Obedient,
    /// Behind `default/h2`.
    resetting: Resetting,
    unreachable: retries::HalfClosed,
}

fn start(tables: &Tables) -> Mesh {
    const INTERNAL_ERROR: u32 = 2;
    let obedient = Obedient::start().expect("a free port");
    let resetting = Resetting::start(INTERNAL_ERROR).expect("a free port");
    let led = |name: &str, target| Service { name: name.to_owned(), target: Some(target), ..Service::default() };
    let h2 = Service { protocol: "http2".to_owned(), ..led("default/h2", resetting.address) };
    let open = Service { plaintext: true, ..Service::version("default/judged", "v1") };
    let failing = outliers::services(tables);
    let servers = [open, led("default/b", obedient.address), h2]
        .into_iter()
        .chain(failing.iter().map(|name| led(name, obedient.address)));
    let (callers, upstreams) = judged::callers(tables);
    let edge = Plan { extra: upstreams, ..Plan::with([ingress()].into_iter().chain(callers)) };
    let cluster = Cluster::start(skein(), &[(EDGE, edge), (SERVERS, Plan::with(servers))]);
    cluster.wait_members(harness::PATIENCE);
    let called = ["default/judged", "default/b", "default/h2"].into_iter().chain(failing.iter().map(String::as_str));
    called.for_each(|service| cluster.wait_endpoints(service, 1));
    Mesh { cluster, obedient, resetting, unreachable: retries::HalfClosed::start() }
}

impl Mesh {
    fn outbound(&self) -> SocketAddr {
        self.cluster.node(EDGE).outbound()
    }

    /// The application behind `default/judged`.
    fn judged(&self) -> &Backend {
        &self.cluster.node(SERVERS).backends[0]
    }
}

#[test]
fn what_istios_tables_say_is_seen_from_outside() {
    let Some(files) = super::files("tables") else { return };
    let tables = Tables::read(&files);
    let mesh = start(&tables);
    let mut seen = Seen::default();
    let doors = hosts::doors(&tables, &mut seen);
    let documents = [
        hosts::documents(&doors),
        retries::documents(&tables, &mesh.unreachable),
        judged::documents(&tables),
        outliers::documents(&tables),
    ];
    mesh.cluster.push(EDGE, &documents.concat(), &["--wait", "all"]).expect_code(0);
    hosts::check(&mesh, &doors, &mut seen);
    hosts::check_subsets(&tables, &mut seen);
    retries::check(&mesh, &tables, &mut seen);
    judged::check(&mesh, &tables, &mut seen);
    outliers::check(&mesh, &tables, &mut seen);
    names::check(&mesh, &tables, &mut seen);
    assert!(seen.wrong.is_empty(), "{}", seen.wrong.join("\n"));
    for (row, because) in &seen.unseen {
        println!("tables {row}: not seen, {because}");
    }
    let all: usize = TABLES.iter().map(|name| tables.rows(name).len()).sum();
    assert_eq!(seen.rows + seen.unseen.len(), all, "each row is seen or has its reason");
    println!("{} rows of Istio's tables ran, {} cannot be seen from outside", seen.rows, seen.unseen.len());
}
