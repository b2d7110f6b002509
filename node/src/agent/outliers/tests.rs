//! What reports of liars and of honest nodes cause at one node: its real task, circuits and checks.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU16, AtomicUsize, Ordering::Relaxed},
};

use certs::id::{NodeId, ServiceAccount, ServiceName};
use membership::{engine::Event, statement::Statement};
use policy::{kinds::OutlierDetection, route::ClusterPolicy};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::{
    agent::{event::Events, members::Input},
    balance::{Ask, Client, Tried, outlier::Outcome},
    config::{Check, Port, Probe, Protocol, Service},
    snapshot::{Circuit, Endpoint, Instance, Services, Snapshot, StatsTable, Table},
    testing,
};

/// The application behind the one endpoint that is beside the node: it answers its check.
struct Application {
    target: std::net::SocketAddr,
    status: Arc<AtomicU16>,
    checks: Arc<AtomicUsize>,
}

impl Application {
    async fn start(tasks: &Tasks) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap();
        let (status, checks) = (Arc::new(AtomicU16::new(200)), Arc::new(AtomicUsize::new(0)));
        let (answer, count) = (status.clone(), checks.clone());
        tasks.detach("application", async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 512]).await;
                count.fetch_add(1, Relaxed);
                let head = format!("HTTP/1.1 {} x\r\ncontent-length: 0\r\n\r\n", answer.load(Relaxed));
                let _ = stream.write_all(head.as_bytes()).await;
            }
        });
        Self { target, status, checks }
    }
}

/// A node `n0` that calls `shop/cart` on itself, `n1` and `n2`, and runs the one on itself.
struct Node {
    circuits: Arc<Circuits>,
    circuit: Arc<Circuit>,
    members: Vec<Arc<Endpoint>>,
    policy: Arc<ClusterPolicy>,
    hearing: Hearing,
    application: Application,
    /// What it says, from the engine's queue.
    said: tokio::sync::mpsc::Receiver<crate::agent::members::Input>,
    tasks: Tasks,
}

fn service() -> ServiceName {
    ServiceName::new("shop", "cart").unwrap()
}

fn endpoint(node: &str, stats: &StatsTable) -> Endpoint {
    Endpoint { local: node == "n0", ..testing::endpoint(node, &service(), stats) }
}

/// Endpoints of `shop/cart` may be outliers.
const RULE: &str = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: cart, namespace: shop}\n\
                    spec: {host: '*.shop.svc.cluster.local', subsets: [{name: v1, labels: {version: v1}, trafficPolicy: \
                    {outlierDetection: {}}}]}\n";

fn own_service(tasks: &Tasks, members: &Members, target: std::net::SocketAddr) -> Arc<Local> {
    let node = NodeId::new("n0").unwrap();
    let local = Local::new(node, members.clone(), Arc::new(Events::default()), tasks.clone());
    let port = Port { name: "http".into(), number: 80, protocol: Protocol::Http, target, plaintext: None };
    let check = Check {
        probe: Probe::Http("/health".into()),
        target,
        protocol: Protocol::Http,
        interval: Duration::from_secs(3_600),
        rise: 1,
        fall: 1,
        delay: Duration::ZERO,
        timeout: None,
    };
    local.serve_for_test(Service {
        name: service(),
        instance: None,
        account: ServiceAccount::new("shop", "cart").unwrap(),
        labels: BTreeMap::new(),
        ports: vec![port],
        check: Some(check),
        outbound: None,
        uids: Vec::new(),
        group: None,
        weight: 1,
    });
    local
}

impl Node {
    async fn new() -> Self {
        Self::under(RULE).await
    }

    async fn under(rule: &str) -> Self {
        let tasks = Tasks::new();
        let application = Application::start(&tasks).await;
        let (members, said) = Members::channel();
        let (stats, hearing) = (StatsTable::default(), Hearing::default());
        let snapshot = testing::snapshot(rule, Services::new(["n0", "n1", "n2"].map(|node| endpoint(node, &stats))));
        let endpoints = snapshot.services.get(&service()).unwrap().endpoints.to_vec();
        let (circuits, outlets) = Circuits::new();
        let circuits = Arc::new(circuits);
        let circuit = circuits.of("shop/web", &service(), "outbound|80||cart".to_owned());
        let sharing = Sharing {
            circuits: circuits.clone(),
            outlets,
            hearing: hearing.clone(),
            links: Links::default(),
            current: Current::new(snapshot),
            local: own_service(&tasks, &members, application.target),
            members,
            tasks: tasks.clone(),
        };
        tasks.detach("sharing", sharing.run());
        let sweeping = circuits.clone();
        tasks.detach("sweeps", async move {
            loop {
                sweeping.sweep(clock::uptime(), rand::random());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        let detection = OutlierDetection { max_ejection_percent: 100, ..OutlierDetection::default() };
        let policy = ClusterPolicy { outlier_detection: Some(detection), ..ClusterPolicy::default() };
        let policy = Arc::new(policy);
        let node = Self { circuits, circuit, members: endpoints, policy, hearing, application, said, tasks };
        drop(node.table());
        node
    }

    fn table(&self) -> Arc<Table> {
        let now = clock::uptime();
        let members: Vec<Instance> = self.members.iter().map(Instance::from).collect();
        self.circuits.table(&self.circuit, &members, &self.policy, &Client::default(), now, 7)
    }

    /// One attempt at the endpoint of node `index`, as the data path makes it.
    fn attempt(&self, index: usize, status: u16) {
        let (table, now, member) = (self.table(), clock::uptime(), &self.members[index]);
        let host = &table.balancer.hosts()[index];
        let policy = table.outliers.as_ref().unwrap();
        drop(member.stats.begin());
        if policy.is_error(Outcome::Status(status)) {
            self.circuits.erred(&Instance::from(member), 10);
        }
        if let Some(why) = host.tally.as_ref().unwrap().note(Outcome::Status(status), policy, now) {
            self.circuits.tripped(&self.circuit, &host.id, why, now, 7);
        }
    }

    fn report(&self, reporter: &str, of: &str, failures: u32) {
        let (node, service) = (NodeId::new(of).unwrap(), service());
        let record = OutlierRecord { node, service, instance: None, failures, requests: failures, latency_us: 1 };
        self.hearing.heard(NodeId::new(reporter).unwrap(), Statement::Outliers(vec![vec![record].into()]));
    }

    fn is_out(&self, index: usize) -> bool {
        let key = self.members[index].stats.key();
        self.circuits.ejected().iter().any(|standing| standing.ejection.endpoint == *key)
    }

    /// Checks that were made for others: the first is the node's own.
    fn probes(&self) -> usize {
        self.application.checks.load(Relaxed).saturating_sub(1)
    }

    /// Waits until the node's own first check is over.
    async fn settled(&self) {
        self.until("its own check", || self.application.checks.load(Relaxed) > 0).await;
    }

    async fn until(&self, what: &str, done: impl Fn() -> bool) {
        let waited = async {
            while !done() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), waited).await.unwrap_or_else(|_| panic!("{what}: not in time"));
    }

    /// What share of choices goes to an endpoint.
    fn share(&self, index: usize) -> usize {
        let table = self.table();
        let pick = |number: u64| {
            let random = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            table.balancer.pick(&Ask { tried: &Tried::NONE, leave: false, hash: None, random, now: clock::uptime() })
        };
        (0..300).filter_map(pick).filter(|picked| *picked == index).count()
    }

    /// The next statement that it wants to make.
    async fn says(&mut self) -> Vec<OutlierRecord> {
        loop {
            let input = tokio::time::timeout(Duration::from_secs(30), self.said.recv()).await.unwrap().unwrap();
            let Input::Event(Event::Publish(said)) = input else { continue };
            let outliers =
                said.into_iter().find_map(|body| if let Body::Outliers(said) = body { Some(said) } else { None });
            if let Some(outliers) = outliers {
                return outliers;
            }
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

/// B1 and B5: one liar, two, and all but one report a healthy endpoint all the time. It keeps its share, no request of it
/// fails, and its owner is asked no more often for many than for one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a96_a99_liars_take_nothing_from_a_healthy_endpoint_and_probes_stay_bounded() {
    let case = async |liars: u32| {
        let node = Node::new().await;
        node.settled().await;
        let (before, began) = (node.share(0), clock::uptime());
        for round in 0..60 {
            for liar in 0..liars {
                node.report(&format!("liar{liar}"), "n0", 1_000);
            }
            node.attempt(0, 200);
            // An error now and then is no row.
            node.attempt(0, if round % 10 == 0 { 500 } else { 200 });
            tokio::time::sleep(Duration::from_millis(25)).await;
            assert!(!node.is_out(0), "{liars} liars");
        }
        node.until("a probe", || node.probes() > 0).await;
        // One at once, and then ever fewer: pauses of 1, 2, 4 .. s; and one more that this clock does not see.
        let seconds = (clock::uptime() - began) / 1_000;
        let most = 2 + (seconds + 1).ilog2() as usize;
        assert!(node.probes() <= most, "{} probes in {seconds} s for {liars} liars", node.probes());
        assert_eq!(node.share(0), before);
    };
    tokio::join!(case(1), case(2), case(99));
}

/// B2: praise counts for nothing, whoever gives it and however well the check passes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a97_praise_keeps_no_endpoint_that_answers_nothing() {
    for liars in [1, 2, 99] {
        let node = Node::new().await;
        node.settled().await;
        let mut failed = 0;
        while !node.is_out(0) {
            (0..liars).for_each(|liar| node.report(&format!("liar{liar}"), "n0", 0));
            tokio::time::sleep(Duration::from_millis(5)).await;
            node.attempt(0, 503);
            failed += 1;
            assert!(failed <= 5, "the policy's own count ejects it");
        }
        assert_eq!((failed, node.probes()), (5, 0), "praise is no reason to look");
    }
}

/// B3: who has heard of a dead endpoint loses one request to it, if the owner's check fails, too; else two.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a98_an_honest_report_among_liars_spares_requests() {
    for (check, most) in [(503, 1), (200, 2)] {
        let node = Node::new().await;
        node.settled().await;
        node.application.status.store(check, Relaxed);
        node.report("honest", "n0", 1);
        // Liars accuse others meanwhile, and one that is not there.
        for liar in 0..20 {
            node.report(&format!("liar{liar}"), "n1", 7);
            node.report(&format!("liar{liar}x"), "nowhere", 7);
        }
        node.until("a probe", || node.probes() == 1).await;
        if check == 503 {
            let key = node.members[0].stats.key();
            node.until("the answer counts", || node.circuits.found_failing(key)).await;
        } else {
            // The answer is on its way, and says nothing.
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        for _ in 0..most {
            assert!(!node.is_out(0));
            node.attempt(0, 500);
        }
        assert!(node.is_out(0), "after {most}");
        assert!(node.circuits.ejected()[0].witnesses.contains(&Key::from("honest")));
        // The others' owners are not linked: they say nothing, and an attempt decides.
        node.attempt(1, 200);
        assert!(!node.is_out(1) && !node.is_out(2));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_are_told_at_once_and_only_where_they_are_watched() {
    let mut node = Node::new().await;
    node.attempt(1, 200);
    node.attempt(1, 500);
    let said = node.says().await;
    assert_eq!((said.len(), said[0].node.as_str(), said[0].failures), (1, "n1", 1));
    node.attempt(2, 500);
    assert_eq!(node.says().await.len(), 2);
}

/// Without `outlierDetection` reports of a service are nothing: no probe, no alert.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_what_nobody_detects_nothing_is_heard() {
    let node = Node::under(&RULE.replace("{outlierDetection: {}}", "{loadBalancer: {simple: RANDOM}}")).await;
    node.settled().await;
    node.report("honest", "n0", 3);
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(node.probes(), 0);
    (0..4).for_each(|_| node.attempt(0, 500));
    assert!(!node.is_out(0), "the policy's own count");
}

/// A statement may hold two thousand records; what follows on the first that an honest member may tell is not looked at.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_one_statement_no_more_is_looked_at_than_an_honest_member_tells() {
    for (before, probes) in [(LISTED, 0), (LISTED - 1, 1)] {
        let node = Node::new().await;
        node.settled().await;
        let record = |of: &str| {
            let node = NodeId::new(of).unwrap();
            OutlierRecord { node, service: service(), instance: None, failures: 1, requests: 1, latency_us: 1 }
        };
        let mut records = vec![record("nowhere"); before];
        records.push(record("n0"));
        let parts = records.chunks(40).map(Arc::from).collect();
        node.hearing.heard(NodeId::new("talker").unwrap(), Statement::Outliers(parts));
        if probes > 0 {
            node.until("a probe", || node.probes() > 0).await;
        }
        tokio::time::sleep(Duration::from_millis(400)).await;
        assert_eq!(node.probes(), probes);
    }
}

/// What is known of a service is kept while services come and go, and forgotten with the documents that it follows from.
#[test]
fn which_services_are_covered_follows_documents_and_services() {
    let (stats, mut detection) = (StatsTable::default(), Detection::default());
    let (covered, other) = (service(), ServiceName::new("bank", "cart").unwrap());
    let mut snapshot = testing::snapshot(RULE, Services::default());
    for services in [Services::new([endpoint("n0", &stats)]), Services::new([])] {
        snapshot.services = Arc::new(services);
        detection.follow(&snapshot);
        assert!(detection.covers(&covered) && !detection.covers(&other));
    }
    let services = Arc::new(Services::new([endpoint("n0", &stats)]));
    for (namespace, covers) in [("shop", true), ("bank", false), ("shop", true)] {
        let next = testing::snapshot(&RULE.replace("*.shop", &format!("*.{namespace}")), Services::default());
        detection.follow(&Snapshot { services: services.clone(), ..next });
        assert_eq!((detection.covers(&covered), detection.covers(&other)), (covers, !covers));
    }
}

/// Links end for many reasons; a burst of them must not look like a burst of failing endpoints.
#[test]
fn only_an_owner_that_is_linked_and_silent_speaks_against_its_endpoint() {
    assert_eq!(unanswered(&LinkError::Timeout(PATIENCE)), Looked::Failing);
    for error in [LinkError::Closed("by the peer".into()), LinkError::Refused, LinkError::Full, LinkError::TooLong(1)] {
        assert_eq!(unanswered(&error), Looked::Unknown, "{error}");
    }
}

/// One check for all who ask within a second, and a word for what is not there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_checks_once_for_all_who_ask() {
    let tasks = Tasks::new();
    let application = Application::start(&tasks).await;
    let (members, _said) = Members::channel();
    let local = own_service(&tasks, &members, application.target);
    while application.checks.load(Relaxed) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let name = service();
    let looks = futures_util::future::join_all((0..200).map(|_| local.look(&name, None)));
    assert_eq!(looks.await, vec![Looked::Well; 200]);
    assert_eq!(application.checks.load(Relaxed), 2, "its own and one for all others");
    assert_eq!(local.look(&name, Some("other")).await, Looked::Unknown);
    assert_eq!(local.look(&ServiceName::new("shop", "other").unwrap(), None).await, Looked::Unknown);
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    application.status.store(500, Relaxed);
    assert_eq!(local.look(&name, None).await, Looked::Failing);
    tasks.stop();
}
