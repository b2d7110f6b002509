//! Names over time, and what endpoints come of documents, names and members.

use std::{collections::HashMap, net::SocketAddr};

use certs::id::ServiceName;
use policy::{
    compile::Compiled,
    hosts::{Protocol, ServicePort},
};

use super::*;
use crate::{
    snapshot::{Endpoint, Foreign, ForeignServices, Instance, Services, StatsTable, Trouble},
    testing,
};

fn compiled(documents: &str) -> Compiled {
    Compiled::build(&testing::state(documents), None)
}

fn entry(name: &str, spec: &str) -> String {
    format!("apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}}}\nspec: {spec}\n---\n")
}

fn facts(answers: &[(&str, &[&str])], own: &[&str]) -> Facts {
    let addresses = |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect();
    let answer = |(name, list): &(&str, &[&str])| {
        (Arc::<str>::from(*name), Answer { addresses: addresses(list), failure: None })
    };
    let listeners: Vec<SocketAddr> = own.iter().map(|text| text.parse().unwrap()).collect();
    let own = OwnPorts { listeners, ..OwnPorts::default() };
    Facts { answers: answers.iter().map(answer).collect::<HashMap<_, _>>(), own }
}

fn folded(documents: &str, services: &Services, facts: &Facts) -> (ForeignServices, Vec<Trouble>) {
    foreign(compiled(documents).entries(), services, facts, &StatsTable::default(), 1)
}

fn keys(foreign: &Foreign) -> Vec<String> {
    foreign.instances.iter().map(|instance| instance.stats().key().to_string()).collect()
}

fn of<'f>(all: &'f ForeignServices, host: &str) -> &'f Foreign {
    all.iter().find(|foreign| &*foreign.service.host == host).expect("the host")
}

const PORTS: &str =
    "ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}, {number: 443, name: tls, protocol: TLS}]";

#[test]
fn endpoints_have_ports_of_their_own() {
    let documents = entry(
        "a",
        &format!(
            "{{hosts: [a.example], {PORTS}, resolution: STATIC, endpoints: [{{address: 10.0.0.2, ports: {{http: 81}}, weight: 3, locality: eu/a, labels: {{v: x}}}}, {{address: '2001:db8::1'}}]}}"
        ),
    );
    let (all, troubles) = folded(&documents, &Services::default(), &facts(&[], &[]));
    let found = of(&all, "a.example");
    assert_eq!(keys(found), ["a.example/10.0.0.2:81,443", "a.example/[2001:db8::1]:8080,443"]);
    let Instance::Outside(first) = &found.instances[0] else { panic!("it has no node") };
    assert_eq!((first.weight, &*first.locality, first.labels["v"].as_str()), (3, "eu/a", "x"));
    assert_eq!([80, 443, 81].map(|port| first.at(port).map(|at| at.port())), [Some(81), Some(443), None]);
    assert!(troubles.is_empty() && found.has_outside());
}

/// Two names of one front end, from one answer of DNS to the next: the subset of neither may become empty.
#[test]
fn an_address_is_an_endpoint_for_each_set_of_labels() {
    let endpoints = "{address: us.example, labels: {v: v1}, weight: 90}, {address: eu.example, labels: {v: v2}, weight: 10}, {address: ap.example, labels: {v: v2}}";
    let documents = entry("a", &format!("{{hosts: [a.example], {PORTS}, resolution: DNS, endpoints: [{endpoints}]}}"));
    let front: &[&str] = &["10.0.0.2"];
    let answers = [("us.example", front), ("eu.example", front), ("ap.example", front)];
    let (all, _) = folded(&documents, &Services::default(), &facts(&answers, &[]));
    let found = of(&all, "a.example");
    let outside = found.instances.iter().map(|instance| match instance {
        Instance::Outside(one) => (one.labels["v"].as_str(), one.weight),
        Instance::Mesh(_) => panic!("it has no node"),
    });
    assert_eq!(outside.collect::<Vec<_>>(), [("v1", 90), ("v2", 1)], "of equal ones the last");
}

#[test]
fn a107_names_give_only_addresses_that_they_may_mean() {
    let documents = [
        entry("all", &format!("{{hosts: [all.example], {PORTS}, resolution: DNS}}")),
        entry("one", &format!("{{hosts: [one.example], {PORTS}, resolution: DNS_ROUND_ROBIN}}")),
        entry("rebound", &format!("{{hosts: [rebound.example], {PORTS}, resolution: DNS}}")),
        entry("later", &format!("{{hosts: [later.example], {PORTS}}}")),
        entry(
            "wide",
            &format!("{{hosts: ['*.wide.example'], {PORTS}, resolution: DNS, endpoints: [{{address: all.example}}]}}"),
        ),
    ]
    .concat();
    let answers: &[(&str, &[&str])] = &[
        ("all.example", &["10.0.0.2", "10.0.0.1"]),
        ("one.example", &["10.0.0.9", "10.0.0.8"]),
        ("rebound.example", &["169.254.169.254", "127.0.0.1", "::ffff:127.0.0.1", "10.0.0.3"]),
    ];
    let compiled = compiled(&documents);
    let wanted = names(compiled.entries(), &["shop"].into());
    let all: Vec<String> = wanted.keys().map(ToString::to_string).collect();
    assert_eq!(all, ["all.example", "later.example", "one.example", "rebound.example"]);
    let (all, troubles) = folded(&documents, &Services::default(), &facts(answers, &[]));
    assert_eq!(keys(of(&all, "all.example")), ["all.example/10.0.0.1:8080,443", "all.example/10.0.0.2:8080,443"]);
    assert_eq!(keys(of(&all, "one.example")), ["one.example/10.0.0.9:8080,443"], "the first of the answer");
    assert_eq!(keys(of(&all, "rebound.example")), ["rebound.example/10.0.0.3:8080,443"]);
    assert_eq!(keys(of(&all, "*.wide.example")).len(), 2);
    assert!(of(&all, "later.example").instances.is_empty());
    assert!(troubles.len() >= 2 && troubles.iter().all(|one| one.code == "address_refused"), "{troubles:?}");
}

#[test]
fn of_a_family_to_which_no_way_leads_no_address_is_an_endpoint() {
    let answer = |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
    let both = answer(&["2001:db8::1", "198.51.100.1", "2001:db8::2", "198.51.100.2"]);
    let (ipv4, ipv6) = (answer(&["198.51.100.1", "198.51.100.2"]), answer(&["2001:db8::1", "2001:db8::2"]));
    assert_eq!(reachable(both.clone(), |address| address.is_ipv4()), ipv4);
    assert_eq!(reachable(both.clone(), |address| address.is_ipv6()), ipv6);
    assert_eq!(reachable(both.clone(), |_| true), both, "in the order of the answer");
    assert_eq!(reachable(both.clone(), |_| false), both, "the network is down");
    let second = |address: IpAddr| address == ipv6[1] || address.is_ipv4();
    assert_eq!(reachable(both.clone(), second), both, "a way to one of them will do");
    assert_eq!(reachable(ipv6.clone(), |address| address.is_ipv4()), ipv6, "nothing else remains");
}

#[test]
fn a107_the_nodes_own_ports_are_nobodys_endpoint() {
    let documents = entry(
        "own",
        &format!(
            "{{hosts: [own.example], {PORTS}, resolution: STATIC, endpoints: [{{address: 127.0.0.1}}, {{address: 10.0.0.1}}]}}"
        ),
    );
    let (all, troubles) = folded(&documents, &Services::default(), &facts(&[], &["127.0.0.1:8080"]));
    assert_eq!(keys(of(&all, "own.example")), ["own.example/10.0.0.1:8080,443", "own.example/127.0.0.1:443"]);
    assert!(troubles.len() == 1 && troubles[0].message.contains("127.0.0.1:8080"), "{troubles:?}");
}

#[test]
fn without_resolution_the_place_that_was_dialled_is_the_endpoint() {
    let documents = entry("old", &format!("{{hosts: [old.example], addresses: [10.2.0.0/16], {PORTS}}}"));
    let (all, _) = folded(&documents, &Services::default(), &facts(&[("old.example", &["10.9.9.9"])], &[]));
    let found = of(&all, "old.example");
    assert_eq!(keys(found), ["old.example/10.9.9.9:8080,443"], "of those who name it");
    let at = |port, to: &str| match found.dialled(port, to.parse().unwrap()) {
        Instance::Outside(outside) => (outside.at(port).unwrap().to_string(), outside.stats.key().to_string()),
        Instance::Mesh(_) => panic!("no node serves it"),
    };
    let of = |address: &str| (address.to_owned(), format!("old.example/{address}"));
    assert_eq!(at(443, "10.2.3.4:443"), of("10.2.3.4:443"));
    assert_eq!(at(80, "[::ffff:10.2.3.4]:80"), of("10.2.3.4:8080"), "targetPort");
}

#[test]
fn a_resolver_that_is_down_takes_nothing_away() {
    let documents = entry("a", &format!("{{hosts: [a.example], {PORTS}, resolution: DNS}}"));
    let mut known = facts(&[("a.example", &["10.0.0.1"])], &[]);
    known.answers.get_mut("a.example").unwrap().failure = Some("no answer".to_owned());
    let (all, troubles) = folded(&documents, &Services::default(), &known);
    assert_eq!(keys(of(&all, "a.example")).len(), 1);
    assert!(
        troubles[0].code == "name_unresolved" && troubles[0].message.contains("addresses of before"),
        "{troubles:?}"
    );
}

#[test]
fn selectors_find_workloads_with_and_without_a_node() {
    let documents = entry(
        "db",
        "{hosts: [db.example], location: MESH_INTERNAL, resolution: STATIC, ports: [{number: 80, name: http, protocol: HTTP, targetPort: 9080}], workloadSelector: {labels: {app: db}}}",
    ) + "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: old}\nspec: {address: 10.0.0.1, labels: {app: db}}\n";
    let stats = StatsTable::default();
    let endpoint = |namespace: &str, app: &str, port: u16| {
        let service = ServiceName::new(namespace, app).unwrap();
        Endpoint {
            labels: Arc::new([("app".to_owned(), "db".to_owned())].into()),
            ports: Arc::new([ServicePort { name: "http".to_owned(), number: port, protocol: Protocol::Http }]),
            ..testing::endpoint("a", &service, &stats)
        }
    };
    let services =
        Services::new([endpoint("shop", "db", 9080), endpoint("shop", "other", 80), endpoint("bank", "db", 9080)]);
    let (all, _) = folded(&documents, &services, &facts(&[], &[]));
    let found = of(&all, "db.example");
    assert_eq!(keys(found), ["a/shop/db", "a/shop/other", "db.example/10.0.0.1:9080"]);
    let ports: Vec<Option<u16>> = found.instances.iter().map(|one| found.port_of(one, 80)).collect();
    assert_eq!(ports, [Some(9080), None, Some(9080)], "who has not the port takes nothing");
}

fn wanted(names: &[&str], namespace: &str) -> Names {
    names.iter().map(|name| (Arc::from(*name), [Arc::from(namespace)].into())).collect()
}

#[test]
fn a_namespace_with_many_slow_names_holds_up_nobody_elses() {
    let mut schedule = Schedule::default();
    let many: Vec<String> = (10..90).map(|number| format!("a{number}.slow.example")).collect();
    let many = wanted(&many.iter().map(String::as_str).collect::<Vec<_>>(), "greedy");
    schedule.follow(many.clone(), 1);
    let first = schedule.take_due(1, AT_ONCE);
    assert_eq!(first.len(), AT_ONCE, "who is alone has all places");
    let mut all = many.clone();
    all.extend(wanted(&["x.example", "y.example"], "modest"));
    // Also named by the greedy one.
    all.entry("y.example".into()).or_default().insert("greedy".into());
    schedule.follow(all, 1_000);
    schedule.looked(&first[0], false, 20_000);
    assert_eq!(schedule.take_due(20_000, 1), ["x.example".into()], "the next place is another's");
    assert_eq!(schedule.take_due(20_000, 1), ["y.example".into()], "two against three");
    schedule.looked("x.example", true, 20_000);
    schedule.looked("y.example", true, 20_000);
    // What is due for longest comes first, whatever its name.
    schedule.follow(wanted(&["a", "z"], "modest"), 30_000);
    schedule.looked("z", false, 30_000);
    schedule.looked("a", false, 31_000);
    assert_eq!(schedule.take_due(40_000, 1), ["z".into()]);
}

#[test]
fn names_that_no_caller_here_may_see_are_not_looked_up() {
    let documents = [
        entry("all", &format!("{{hosts: [all.example], {PORTS}, resolution: DNS}}")),
        entry("own", &format!("{{hosts: [own.example], {PORTS}, resolution: DNS, exportTo: [.]}}")),
    ];
    let compiled = compiled(&documents.concat());
    let of = |callers: &[&str]| names(compiled.entries(), &callers.iter().copied().collect());
    assert_eq!((of(&["shop"]).len(), of(&["bank", "shop"]).len(), of(&[]).len()), (2, 2, 0));
    assert!(of(&["bank"]).contains_key("all.example") && of(&["bank"]).len() == 1);
}

#[test]
fn names_are_looked_up_again_and_again() {
    let mut schedule = Schedule::default();
    assert_eq!(schedule.pause(5), None);
    schedule.follow(wanted(&["a", "b"], "shop"), 10);
    assert_eq!(schedule.pause(10), Some(0));
    assert_eq!(
        (schedule.take_due(10, 1).len(), schedule.take_due(10, 9).len(), schedule.take_due(10, 9).len()),
        (1, 1, 0)
    );
    assert!(!schedule.looked("a", true, 10), "that it resolves is no news");
    assert!(schedule.looked("b", false, 10));
    assert_eq!((schedule.pause(10), schedule.take_due(10 + RETRY, 9).len()), (Some(RETRY), 1));
    assert!(!schedule.looked("b", false, 10 + RETRY));
    assert_eq!(schedule.pause(10 + RETRY), Some(2 * RETRY));
    for _ in 0..40 {
        schedule.looked("b", false, 20);
    }
    assert_eq!(schedule.pause(20), Some(REFRESH - 10), "of a, which is next");
    assert!(schedule.looked("b", true, 30));
    schedule.follow(wanted(&["b"], "shop"), 40);
    assert_eq!(schedule.pause(40), Some(REFRESH - 10));
    assert!(!schedule.looked("a", true, 40), "it is not wanted any more");
}

#[test]
fn answers_are_addresses_without_repetition() {
    let found = |list: &[&str]| {
        answered(Ok(list.iter().map(|text| text.parse().unwrap()).collect()))
            .map(|addresses| addresses.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    assert_eq!(found(&["10.0.0.2", "10.0.0.1", "::ffff:10.0.0.2"]).unwrap(), ["10.0.0.2", "10.0.0.1"]);
    assert!(found(&[]).unwrap_err().contains("no address"));
    assert!(answered(Err(io::Error::other("SERVFAIL"))).unwrap_err().contains("SERVFAIL"));
}

#[test]
fn names_are_looked_up_while_the_disk_is_busy_and_keep_nobody_from_it() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build().unwrap();
    let (done, busy) = std::sync::mpsc::sync_channel::<()>(1);
    runtime.block_on(async {
        let disk = crate::tasks::Tasks::new().blocking(move || busy.recv().is_ok());
        let patience = Duration::from_secs(20);
        let asked = tokio::time::timeout(patience, asked::look_up("app.localhost".into()));
        assert!(!asked.await.expect("a name of a request").unwrap().is_empty());
        let named = tokio::time::timeout(patience, look_up("localhost".into()));
        assert!(!named.await.expect("a name of a document").unwrap().is_empty());
        let node = tokio::time::timeout(patience, crate::agent::resolver::NODES.host_and_port("localhost:15008"));
        assert!(!node.await.expect("a name of a node").unwrap().is_empty());
        done.send(()).unwrap();
        assert!(disk.await.unwrap());
    });
}
