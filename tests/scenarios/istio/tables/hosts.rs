//! Hosts that meet, that are within each other, that go first: which VirtualService answers at a gateway's port of its own.

use harness::http;
use serde_json::Value;

use super::{EDGE, Mesh, Seen, Tables, text, texts};
use crate::{
    gateway::{at, opened},
    lint::lint,
};

/// A row with a gateway of its own: what it serves, and VirtualServices that are bound to it.
pub(super) struct Door<'t> {
    table: &'static str,
    row: &'t Value,
    /// Of the gateway.
    hosts: Vec<String>,
    /// Namespace and hosts of each.
    routes: Vec<(String, Vec<String>)>,
    expected: Expected,
}

enum Expected {
    /// Some of these are answered, or none.
    Any(Vec<String>, bool),
    /// Which of them is answered by which VirtualService.
    Each(Vec<(String, Option<usize>)>),
}

/// A host that one in a document means.
fn witness(host: &str) -> String {
    match host.strip_prefix('*') {
        Some("") => "w.w".to_owned(),
        Some(rest) => format!("w{rest}"),
        None => host.to_owned(),
    }
}

const NAMELESS: &str = "no document has a host without a name, which is checked";

/// Rows that are seen at gateways. Those that cannot be are said.
pub(super) fn doors<'t>(tables: &'t Tables, seen: &mut Seen) -> Vec<Door<'t>> {
    let owned = |hosts: &[&str]| hosts.iter().map(|host| (*host).to_owned()).collect::<Vec<_>>();
    let of_default = |hosts: &[&str]| vec![("default".to_owned(), owned(hosts))];
    let mut all = Vec::new();
    for row in tables.rows("host-matches") {
        let pair = [text(row, "a"), text(row, "b")];
        if pair.contains(&"") {
            seen.unseen("host-matches", row, NAMELESS);
            continue;
        }
        // A name without a dot is one of a namespace to a VirtualService. A Gateway takes it with the dot of DNS' root.
        let [a, b] = if pair[1].contains(['.', '*']) { pair } else { [pair[1], pair[0]] };
        let rooted = if a.contains(['.', '*']) { a.to_owned() } else { format!("{a}.") };
        let expected = Expected::Any(vec![witness(a), witness(b)], row["overlap"] == true);
        all.push(Door { table: "host-matches", row, hosts: vec![rooted], routes: of_default(&[b]), expected });
    }
    for row in tables.rows("host-lists-intersection") {
        let (a, b, both) = (texts(row, "a"), texts(row, "b"), texts(row, "intersection"));
        if a.is_empty() || b.is_empty() {
            let refused = is_refused(&document(0, &owned(&a), &of_default(&b)));
            seen.row("host-lists-intersection", row, refused && both.is_empty(), "an empty list of hosts is accepted");
            continue;
        }
        let each = a.iter().chain(&b).map(|host| (witness(host), both.contains(host).then_some(0))).collect();
        let (hosts, routes, expected) = (owned(&a), of_default(&b), Expected::Each(each));
        all.push(Door { table: "host-lists-intersection", row, hosts, routes, expected });
    }
    for row in tables.rows("host-specificity-sort") {
        // A name without a dot would be one of a namespace; each becomes longer by as much.
        let named = |host: &&str| if *host == "*" { "*".to_owned() } else { format!("{host}.example") };
        let (given, wanted): (Vec<String>, Vec<String>) =
            (texts(row, "in").iter().map(named).collect(), texts(row, "want").iter().map(named).collect());
        // Of those in the wanted order that mean a host the first one answers.
        let first = |host: &str| {
            let found = wanted.iter().find(|own| *own == host || *own == "*");
            found.and_then(|found| given.iter().position(|own| own == found))
        };
        let each = given.iter().map(|host| witness(host)).map(|host| (host.clone(), first(&host))).collect();
        let routes = given.iter().map(|host| ("default".to_owned(), vec![host.clone()])).collect();
        let (hosts, expected) = (owned(&["*"]), Expected::Each(each));
        all.push(Door { table: "host-specificity-sort", row, hosts, routes, expected });
    }
    for row in tables.rows("host-more-specific") {
        assert!(text(row, "a").is_empty(), "a row that could be seen: {row}");
        seen.unseen("host-more-specific", row, NAMELESS);
    }
    let nameless = document(0, &owned(&["example.com"]), &of_default(&[""]));
    assert!(is_refused(&nameless) && is_refused(&document(0, &owned(&[""]), &of_default(&["example.com"]))));
    for row in tables.rows("gateway-hosts-for-namespace") {
        let (hosts, namespace, wanted) = (texts(row, "hosts"), text(row, "namespace"), texts(row, "want"));
        let names: Vec<&str> = hosts.iter().map(|host| host.rsplit('/').next().unwrap_or(host)).collect();
        let each = names.iter().map(|host| (witness(host), wanted.contains(host).then_some(0))).collect();
        let routes = vec![(namespace.to_owned(), owned(&names))];
        let (hosts, expected) = (owned(&hosts), Expected::Each(each));
        all.push(Door { table: "gateway-hosts-for-namespace", row, hosts, routes, expected });
    }
    all
}

fn port(place: usize) -> u16 {
    21_000 + u16::try_from(place).expect("few rows")
}

/// A Gateway and what is bound to it; each VirtualService answers with its place.
fn document(place: usize, hosts: &[String], routes: &[(String, Vec<String>)]) -> String {
    let port = port(place);
    let gateway = format!(
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: door-{place}, namespace: doors}}\nspec: {{selector: {{istio: ingressgateway}}, servers: [{{port: {{number: {port}, name: http, protocol: HTTP}}, hosts: {hosts:?}}}]}}\n---\n"
    );
    let route = |(number, (namespace, hosts)): (usize, &(String, Vec<String>))| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: route-{place}-{number}, namespace: {namespace}}}\nspec: {{hosts: {hosts:?}, gateways: [doors/door-{place}], http: [{{directResponse: {{status: 200, body: {{string: '{number}'}}}}}}]}}\n---\n"
        )
    };
    std::iter::once(gateway).chain(routes.iter().enumerate().map(route)).collect()
}

/// What is pushed for them.
pub(super) fn documents(doors: &[Door<'_>]) -> String {
    doors.iter().enumerate().map(|(place, door)| document(place, &door.hosts, &door.routes)).collect()
}

/// Asks at every port.
pub(super) fn check(mesh: &Mesh, doors: &[Door<'_>], seen: &mut Seen) {
    for (place, door) in doors.iter().enumerate() {
        opened(&mesh.cluster, port(place));
        let answered = |host: &String| {
            let answer = http::get(at(&mesh.cluster, port(place)), host, "/").expect("an answer");
            match answer.status {
                200 => Some(answer.text().parse::<usize>().expect("the place of one")),
                404 => None,
                _ => panic!("{} {}: {host}: {answer:?} of {EDGE}", door.table, door.row),
            }
        };
        let found: Vec<(String, Option<usize>)> = match &door.expected {
            Expected::Any(hosts, _) => hosts.iter().map(|host| (host.clone(), answered(host))).collect(),
            Expected::Each(each) => each.iter().map(|(host, _)| (host.clone(), answered(host))).collect(),
        };
        let is_right = match &door.expected {
            Expected::Any(_, wanted) => found.iter().any(|(_, by)| by.is_some()) == *wanted,
            Expected::Each(each) => found == *each,
        };
        seen.row(door.table, door.row, is_right, &format!("answered: {found:?}"));
    }
}

/// What a VirtualService's routes may ask for lies within its hosts: others are refused.
pub(super) fn check_subsets(tables: &Tables, seen: &mut Seen) {
    for row in tables.rows("host-subset-of") {
        let (a, of) = (text(row, "a"), text(row, "of"));
        let refused = is_refused(&format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: subset, namespace: default}}\nspec: {{hosts: ['{of}'], gateways: [doors/door], tls: [{{match: [{{port: 443, sniHosts: ['{a}']}}], route: [{{destination: {{host: b.default.svc.cluster.local}}}}]}}]}}\n"
        ));
        seen.row("host-subset-of", row, refused != (row["subset"] == true), &format!("refused: {refused}"));
    }
}

/// True if a file of these documents is none that a mesh takes.
fn is_refused(documents: &str) -> bool {
    let folder = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(folder.path().join("a.yaml"), documents).expect("a file");
    let said = lint(folder.path(), &["-o", "json"]);
    assert!([0, 2].contains(&said.code), "{said:?}");
    said.code == 2
}
