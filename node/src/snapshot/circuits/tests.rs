//! Tables and ejections over time.

use certs::id::ServiceName;
use policy::kinds::{LoadBalancer, LocalityLb, OutlierDetection};

use super::*;
use crate::{
    balance::{Ask, Locality, Tried, outlier::Outcome},
    snapshot::StatsTable,
    testing,
};

fn service() -> ServiceName {
    ServiceName::new("shop", "cart").unwrap()
}

fn endpoint(node: &str, stats: &StatsTable) -> Arc<Endpoint> {
    Arc::new(testing::endpoint(node, &service(), stats))
}

fn detecting() -> Arc<ClusterPolicy> {
    let detection = OutlierDetection {
        consecutive_5xx: 2,
        interval: Duration::from_secs(1),
        base_ejection_time: Duration::from_secs(5),
        max_ejection_percent: 100,
        ..OutlierDetection::default()
    };
    Arc::new(ClusterPolicy { outlier_detection: Some(detection), ..ClusterPolicy::default() })
}

struct Mesh {
    circuits: Circuits,
    circuit: Arc<Circuit>,
    members: Vec<Arc<Endpoint>>,
}

impl Mesh {
    fn new() -> Self {
        let (circuits, stats) = (Circuits::default(), StatsTable::default());
        let circuit = circuits.of("shop/web", &service(), "outbound|80||cart".to_owned());
        Self { circuits, circuit, members: ["a", "b"].map(|node| endpoint(node, &stats)).to_vec() }
    }

    fn table(&self, policy: &Arc<ClusterPolicy>, now: Millis) -> Arc<Table> {
        let members: Vec<Instance> = self.members.iter().map(Instance::from).collect();
        self.circuits.table(&self.circuit, &members, policy, &Client::default(), now, 7)
    }

    fn fail(&self, table: &Table, position: usize, now: Millis) {
        let host = &table.balancer.hosts()[position];
        let policy = table.outliers.as_ref().unwrap();
        if let Some(why) = host.tally.as_ref().unwrap().note(Outcome::Status(500), policy, now) {
            self.circuits.tripped(&self.circuit, &host.id, why, now, 7);
        }
    }
}

fn picked(table: &Table, now: Millis) -> Vec<usize> {
    let pick = |random: u64| {
        let random = random.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        table.balancer.pick(&Ask { tried: &Tried::NONE, leave: false, hash: None, random, now })
    };
    let mut all: Vec<usize> = (0..64).filter_map(pick).collect();
    all.sort_unstable();
    all.dedup();
    all
}

#[test]
fn tables_are_shared_until_something_changes() {
    let (mut mesh, policy) = (Mesh::new(), detecting());
    let first = mesh.table(&policy, 1);
    assert!(Arc::ptr_eq(&first, &mesh.table(&policy, 2)));
    // A snapshot that does not concern the cluster.
    mesh.members = mesh.members.iter().map(|endpoint| Arc::new(Endpoint::clone(endpoint))).collect();
    assert!(Arc::ptr_eq(&first, &mesh.table(&policy, 3)));
    let heavy = Endpoint { weight: 2, ..Endpoint::clone(&mesh.members[0]) };
    mesh.members[0] = Arc::new(heavy);
    assert!(!Arc::ptr_eq(&first, &mesh.table(&policy, 3)));
    let other = mesh.table(&Arc::new(ClusterPolicy::default()), 3);
    assert!(!Arc::ptr_eq(&first, &other) && other.outliers.is_none() && other.limits.is_none());
    let again = mesh.circuits.of("shop/web", &service(), "outbound|80||cart".to_owned());
    assert!(Arc::ptr_eq(&again, &mesh.circuit));
    let another = mesh.circuits.of("shop/job", &service(), "outbound|80||cart".to_owned());
    assert!(!Arc::ptr_eq(&another, &mesh.circuit), "each caller has its own");
}

#[test]
fn an_ejection_outlives_snapshots_and_ends_at_a_sweep() {
    let (mut mesh, policy) = (Mesh::new(), detecting());
    let table = mesh.table(&policy, 1);
    let mut changes = mesh.circuits.changes();
    (0..2).for_each(|_| mesh.fail(&table, 0, 10));
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    assert_eq!(picked(&table, 11), [1], "at once, also by the old table");
    assert!(!mesh.circuit.is_current(&table));
    // A new snapshot has new endpoints of the same names.
    mesh.members = mesh.members.iter().map(|endpoint| Arc::new(Endpoint::clone(endpoint))).collect();
    let table = mesh.table(&policy, 12);
    assert_eq!(picked(&table, 13), [1]);
    let standing = mesh.circuits.ejected().remove(0);
    assert_eq!((standing.caller.as_str(), &*standing.ejection.endpoint), ("shop/web", "a/shop/cart"));
    assert_eq!((standing.ejection.until, mesh.circuits.counts()), (5_010, (1, 0)));
    assert_eq!(mesh.circuits.sweep(5_000, 7), Some(6_000));
    assert_eq!(mesh.circuits.ejected().len(), 1);
    mesh.circuits.sweep(6_000, 7);
    assert!(changes.has_changed().unwrap() && mesh.circuits.ejected().is_empty());
    assert_eq!(picked(&mesh.table(&policy, 6_001), 6_001), [0, 1]);
}

#[test]
fn without_the_policy_nobody_is_out() {
    let (mesh, policy) = (Mesh::new(), detecting());
    let table = mesh.table(&policy, 1);
    (0..2).for_each(|_| mesh.fail(&table, 0, 10));
    let plain = mesh.table(&Arc::new(ClusterPolicy::default()), 20);
    assert_eq!(picked(&plain, 21), [0, 1]);
    assert!(mesh.circuits.ejected().is_empty());
}

#[test]
fn the_meshs_localities_count_where_no_rule_says_anything_of_them() {
    let mut mesh = Mesh::new();
    for (member, locality) in mesh.members.iter_mut().zip(["eu/a", "us/a"]) {
        *member = Arc::new(Endpoint { locality: locality.into(), ..Endpoint::clone(member) });
    }
    let setting = |text: &str| {
        let text = format!(
            "apiVersion: skein.dev/v1\nkind: MeshConfig\nmetadata: {{name: default}}\nspec: {{localityLbSetting: {text}}}\n"
        );
        let mut parsed = policy::parse::yaml("f.yaml", &text, "default");
        let policy::Spec::MeshConfig(config) = parsed.documents.remove(0).document.spec else { panic!("another kind") };
        Arc::clone(&config.locality)
    };
    let members: Vec<Instance> = mesh.members.iter().map(Instance::from).collect();
    let ruled = |text: &str, policy: &Arc<ClusterPolicy>| {
        let client = Client { locality: Locality::new("eu/a"), setting: setting(text), ..Client::default() };
        picked(&mesh.circuits.table(&mesh.circuit, &members, policy, &client, 1, 7), 2)
    };
    let plain = Arc::new(ClusterPolicy::default());
    assert_eq!(ruled("{}", &plain), [0, 1], "nothing fails over without outlier detection");
    assert_eq!(ruled("{}", &detecting()), [0], "near before far");
    assert_eq!(ruled("{enabled: false}", &detecting()), [0, 1]);
    let away = "{distribute: [{from: 'eu/*', to: {'us/*': 100}}]}";
    assert_eq!((ruled(away, &plain), ruled(away, &detecting())), (vec![1], vec![1]));
    // A rule that says anything of localities is asked alone.
    let own = LoadBalancer { locality: Some(LocalityLb::default()), ..LoadBalancer::default() };
    let own = ClusterPolicy { load_balancer: own, ..ClusterPolicy::clone(&detecting()) };
    assert_eq!(ruled(away, &Arc::new(own)), [0]);
}

#[test]
fn what_nobody_uses_is_forgotten() {
    let Mesh { circuits, circuit, .. } = Mesh::new();
    circuits.sweep(10_000_000, 7);
    assert_eq!(circuits.all().len(), 1, "somebody holds it");
    drop(circuit);
    circuits.sweep(10_000_000, 7);
    assert_eq!(circuits.all().len(), 0);
}

/// Somebody takes up a circuit after the sweep has let it go and before the sweep has ended its cluster.
#[test]
fn who_returns_while_it_is_forgotten_is_judged_again() {
    let (mut mesh, policy) = (Mesh::new(), detecting());
    let key = Key::clone(&mesh.circuit.key);
    drop(mesh.table(&policy, 1));
    mesh.circuits.by_key.clear();
    mesh.circuit = mesh.circuits.of("shop/web", &service(), "outbound|80||cart".to_owned());
    let table = mesh.table(&policy, 2);
    mesh.circuits.end(&key);
    assert!(!mesh.circuit.is_current(&table), "its tables are of a cluster that is no more");
    let table = mesh.table(&policy, 3);
    (0..2).for_each(|_| mesh.fail(&table, 0, 10));
    assert_eq!(mesh.circuits.ejected().len(), 1);
}

#[test]
fn without_sharing_nothing_is_told_or_heard() {
    let (circuits, mut outlets) = Circuits::new();
    let (stats, policy) = (StatsTable::default(), detecting());
    let circuit = circuits.of("shop/web", &service(), "outbound|80||cart".to_owned());
    let mesh = Mesh { circuits, circuit, members: vec![endpoint("a", &stats)] };
    drop(mesh.table(&policy, 1));
    let report = |now| mesh.circuits.reported(&"n9".into(), &[("a/shop/cart".into(), 3)], now, 0);
    mesh.circuits.erred(&Instance::from(&mesh.members[0]), 1);
    mesh.circuits.erred(&Instance::from(&mesh.members[0]), 1);
    assert!(outlets.suspects.try_recv().is_ok() && outlets.suspects.try_recv().is_err(), "once");
    report(10);
    mesh.circuits.sweep(10, 0);
    assert_eq!(outlets.probes.try_recv().as_deref(), Ok("a/shop/cart"));
    mesh.circuits.share(false, 3);
    mesh.circuits.probed("a/shop/cart".into(), false, 11, 0);
    report(20);
    mesh.members[0].stats.unwatch();
    mesh.circuits.erred(&Instance::from(&mesh.members[0]), 1);
    mesh.circuits.sweep(5_000, 0);
    assert!(outlets.suspects.try_recv().is_err() && outlets.probes.try_recv().is_err());
    mesh.circuits.share(true, 3);
    report(6_000);
    mesh.circuits.erred(&Instance::from(&mesh.members[0]), 1);
    mesh.circuits.sweep(6_500, 0);
    assert!(outlets.suspects.try_recv().is_ok() && outlets.probes.try_recv().is_ok());
}

#[test]
fn what_callers_dialled_leaves_the_clusters_own_table_alone() {
    let mesh = Mesh::new();
    let policy = detecting();
    let own = mesh.table(&policy, 1);
    let dialled: Vec<Instance> = [endpoint("x", &StatsTable::default())].iter().map(Instance::from).collect();
    let apart = Circuits::table_apart(&mesh.circuit, &dialled, &policy, &Client::default(), 2, 7);
    assert_eq!((picked(&apart, 2), apart.outliers.is_none()), (vec![0], true), "there is no other");
    assert!(mesh.circuit.is_current(&apart) && Arc::ptr_eq(&own, &mesh.table(&policy, 3)));
}
