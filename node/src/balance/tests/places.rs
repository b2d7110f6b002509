//! Priorities, failover, distribution and panic.

use super::*;

fn client(locality: &str) -> Client {
    Client { locality: Locality::new(locality), labels: Arc::default(), setting: Arc::default() }
}

fn detecting(locality: LocalityPolicy) -> BalancePolicy {
    BalancePolicy { algorithm: Algorithm::RoundRobin, locality, detects_outliers: true, ..BalancePolicy::default() }
}

fn at(hosts: &[Host], policy: &BalancePolicy, locality: &str) -> BTreeMap<String, u64> {
    percents(&LoadBalancer::new(hosts.to_vec(), policy, &client(locality), 7))
}

fn shares<const N: usize>(shares: [(&str, u64); N]) -> BTreeMap<String, u64> {
    shares.map(|(name, percent)| (name.to_owned(), percent)).into()
}

fn close(found: &BTreeMap<String, u64>, due: &BTreeMap<String, u64>) {
    let alike = found.keys().eq(due.keys()) && found.values().zip(due.values()).all(|(a, b)| a.abs_diff(*b) <= 2);
    assert!(alike, "{found:?} instead of {due:?}");
}

/// The endpoints of Istio's task on failover.
fn helloworld() -> Vec<Host> {
    ["region1/zone1", "region1/zone2", "region2/zone3", "region3/zone4"].map(|place| host(place, place)).to_vec()
}

#[test]
fn failover_goes_through_zone_region_and_the_named_region() {
    let failover = vec![Failover { from: "region1".to_owned(), to: "region2".to_owned() }];
    let policy = detecting(LocalityPolicy { failover, ..LocalityPolicy::default() });
    let mut hosts = helloworld();
    for place in 0..4 {
        let name = hosts[place].id.to_string();
        assert_eq!(at(&hosts, &policy, "region1/zone1"), shares([(&name, 100)]));
        hosts[place].healthy = false;
    }
    let balancer = LoadBalancer::new(hosts, &policy, &client("region1/zone1"), 0);
    assert_eq!(balancer.pick(&ask(1)), None, "no panic unless asked for");
}

#[test]
fn priorities_follow_distance_and_need_outlier_detection() {
    let mut hosts = helloworld();
    hosts.push(host("near", "region1/zone1/rack"));
    let policy = detecting(LocalityPolicy::default());
    assert_eq!(at(&hosts, &policy, "region1/zone1/rack"), shares([("near", 100)]));
    assert_eq!(at(&hosts[..4], &policy, "region1/zone1/rack"), shares([("region1/zone1", 100)]), "gaps close");
    close(&at(&hosts[..4], &policy, "region9"), &helloworld().iter().map(|host| (host.id.to_string(), 25)).collect());
    for all in [
        BalancePolicy { detects_outliers: false, ..policy.clone() },
        detecting(LocalityPolicy { enabled: false, ..LocalityPolicy::default() }),
    ] {
        assert_eq!(at(&hosts, &all, "region1/zone1").len(), 5);
    }
}

#[test]
fn a_failover_that_does_not_concern_the_client_changes_nothing() {
    let failover = vec![Failover { from: "region9".to_owned(), to: "region2".to_owned() }];
    let policy = detecting(LocalityPolicy { failover, ..LocalityPolicy::default() });
    close(&at(&helloworld()[2..], &policy, "region1/zone1"), &shares([("region2/zone3", 50), ("region3/zone4", 50)]));
}

#[test]
fn traffic_spills_over_as_the_first_priority_loses_hosts() {
    let mut hosts: Vec<Host> = (0..10).map(|index| host(&format!("a{index}"), "here")).collect();
    hosts.push(host("z", "there"));
    let policy = detecting(LocalityPolicy::default());
    for (ill, spilled) in [(0, 0), (2, 0), (5, 30), (8, 72), (10, 100)] {
        hosts.iter_mut().take(ill).for_each(|host| host.healthy = false);
        let found = at(&hosts, &policy, "here").remove("z").unwrap_or(0);
        assert!(found.abs_diff(spilled) <= 2, "{ill} ill: {found}");
    }
}

#[test]
fn labels_rank_by_how_many_agree_from_the_first_on() {
    let labelled = |name: &str, labels: &[(&str, &str)]| {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Host { labels: Arc::new(labels), ..host(name, "eu/a") }
    };
    let mut hosts = vec![
        labelled("both", &[("rack", "1"), ("version", "v2")]),
        labelled("rack", &[("rack", "1"), ("version", "v1")]),
        labelled("version", &[("rack", "2"), ("version", "v2")]),
        labelled("neither", &[]),
    ];
    let failover_priority = vec!["rack".to_owned(), "version=v2".to_owned()];
    let policy = detecting(LocalityPolicy { failover_priority, ..LocalityPolicy::default() });
    let labels = BTreeMap::from([("rack".to_owned(), "1".to_owned()), ("version".to_owned(), "v9".to_owned())]);
    let client = Client { locality: Locality::default(), labels: Arc::new(labels), setting: Arc::default() };
    let build = |hosts: &[Host]| percents(&LoadBalancer::new(hosts.to_vec(), &policy, &client, 0));
    assert_eq!(build(&hosts), shares([("both", 100)]));
    hosts[0].healthy = false;
    assert_eq!(build(&hosts), shares([("rack", 100)]));
    hosts[1].healthy = false;
    close(&build(&hosts), &shares([("neither", 50), ("version", 50)]));
}

#[test]
fn topology_names_are_labels_and_another_network_comes_last() {
    let on = |name: &str, network: &str, zone: &str| {
        let labels = BTreeMap::from([("topology.istio.io/network".to_owned(), network.to_owned())]);
        Host { labels: Arc::new(labels), ..host(name, zone) }
    };
    let keys = ["topology.istio.io/network", "topology.kubernetes.io/region", "topology.kubernetes.io/zone"];
    let failover_priority = keys.map(str::to_owned).to_vec();
    let policy = detecting(LocalityPolicy { failover_priority, ..LocalityPolicy::default() });
    let mut hosts = vec![
        on("1", "n1", "eu/a"),
        on("2", "n1", "eu/b"),
        on("3", "n1", "us/a"),
        on("4", "n2", "eu/a"),
        on("5", "n2", "us/a"),
    ];
    let labels = BTreeMap::from([("topology.istio.io/network".to_owned(), "n1".to_owned())]);
    let client = Client { locality: Locality::new("eu/a"), labels: Arc::new(labels), setting: Arc::default() };
    for next in 0..5 {
        let balancer = LoadBalancer::new(hosts.clone(), &policy, &client, 0);
        assert_eq!(percents(&balancer), shares([(&(next + 1).to_string(), 100)]));
        hosts[next].healthy = false;
    }
}

#[test]
fn distribute_gives_each_pattern_its_percentage() {
    let entry = |from: &str, to: &[(&str, u32)]| Distribute {
        from: from.to_owned(),
        to: to.iter().map(|(pattern, percent)| ((*pattern).to_owned(), *percent)).collect(),
    };
    let distribute = vec![
        entry("region1/zone1/*", &[("region1/zone1", 70), ("region1/zone2/*", 20), ("region2/*", 10)]),
        entry("region1/*", &[("region3/*", 100)]),
    ];
    let locality = LocalityPolicy { distribute, enabled: false, ..LocalityPolicy::default() };
    let mut hosts = helloworld();
    hosts.push(Host { weight: 3, ..host("heavy", "region2/zone9") });
    // It works without outlier detection.
    let policy = BalancePolicy { locality, ..policy(Algorithm::Random) };
    let near = shares([("heavy", 7), ("region1/zone1", 70), ("region1/zone2", 20), ("region2/zone3", 3)]);
    close(&at(&hosts, &policy, "region1/zone1"), &near);
    assert_eq!(at(&hosts, &policy, "region1/zone2"), shares([("region3/zone4", 100)]), "the first that fits");
    assert_eq!(at(&hosts, &policy, "region7").len(), 5, "no entry, no distribution");
    // Rings have no groups: the same shares are in their places.
    let ring = BalancePolicy { algorithm: Algorithm::RingHash { minimum_size: 8_192 }, ..policy.clone() };
    close(&at(&hosts, &ring, "region1/zone1"), &near);
    // A place without a healthy host leaves its share to the others.
    hosts[0].healthy = false;
    close(&at(&hosts, &policy, "region1/zone1"), &shares([("heavy", 25), ("region1/zone2", 67), ("region2/zone3", 8)]));
    close(&at(&hosts, &ring, "region1/zone1"), &shares([("heavy", 25), ("region1/zone2", 67), ("region2/zone3", 8)]));
}

#[test]
fn a_wide_pattern_behind_narrow_ones_is_the_rest() {
    let to = vec![("eu/a/*".to_owned(), 80), ("*".to_owned(), 20)];
    let locality =
        LocalityPolicy { distribute: vec![Distribute { from: "*".to_owned(), to }], ..LocalityPolicy::default() };
    let mut hosts = vec![host("near", "eu/a"), host("next", "eu/b"), host("far", "us/a"), host("too", "eu/a/rack")];
    let ring = Algorithm::RingHash { minimum_size: 8_192 };
    for algorithm in [Algorithm::LeastRequest, Algorithm::Random, ring] {
        let policy = BalancePolicy { locality: locality.clone(), ..policy(algorithm) };
        close(&at(&hosts, &policy, "eu/a"), &shares([("far", 10), ("near", 40), ("next", 10), ("too", 40)]));
    }
    // Whose place has lost all its hosts does not count as the rest.
    hosts[0].healthy = false;
    hosts[3].healthy = false;
    for algorithm in [Algorithm::Random, ring] {
        let policy = BalancePolicy { locality: locality.clone(), ..policy(algorithm) };
        close(&at(&hosts, &policy, "eu/a"), &shares([("far", 50), ("next", 50)]));
    }
}

#[test]
fn panic_uses_everybody_where_outliers_are_detected() {
    let mut hosts = weighted(&[1; 4]);
    for host in hosts.iter_mut().take(3) {
        host.healthy = false;
        host.load.set_out(true);
    }
    let policy = BalancePolicy { min_health_percent: 50, ..detecting(LocalityPolicy::default()) };
    let balancer = build(&hosts, &policy);
    assert!(balancer.panics());
    assert_eq!(percents(&balancer).len(), 4);
    for calm in [
        BalancePolicy { min_health_percent: 0, ..policy.clone() },
        BalancePolicy { detects_outliers: false, ..policy.clone() },
        BalancePolicy { min_health_percent: 25, ..policy.clone() },
    ] {
        let balancer = build(&hosts, &calm);
        assert!(!balancer.panics());
        assert_eq!(percents(&balancer).len(), 1);
    }
}

#[test]
fn a_retry_leaves_its_place_only_where_asked_or_nobody_is_in() {
    let hosts = vec![host("a", "here"), host("b", "there")];
    let policy = detecting(LocalityPolicy {
        distribute: vec![Distribute {
            from: "*".to_owned(),
            to: vec![("here".to_owned(), 99), ("there".to_owned(), 1)],
        }],
        ..LocalityPolicy::default()
    });
    let balancer = build(&hosts, &policy);
    let mut tried = Tried::default();
    tried.add(0);
    let chosen =
        |leave| (0..200).filter(|n| balancer.pick(&Ask { tried: &tried, leave, ..ask(*n) }) == Some(0)).count();
    assert!(chosen(false) > 150);
    assert_eq!(chosen(true), 0);
    hosts[0].load.set_out(true);
    assert_eq!(chosen(false), 0, "who is out is worse than any other place");
}
