//! Who is dialled when, and who is not.

use rand::SeedableRng;

use super::*;

struct Scene {
    dialer: Dialer,
    random: StdRng,
    linked: BTreeSet<NodeId>,
}

fn node(name: &str) -> NodeId {
    NodeId::new(name).expect("valid")
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], port))
}

impl Scene {
    fn new() -> Scene {
        let dialer = Dialer::new(node("m"), &[]);
        Scene { dialer, random: StdRng::seed_from_u64(1), linked: BTreeSet::new() }
    }

    fn tick(&mut self, now: u64) -> Vec<(NodeId, SocketAddr)> {
        let dials = self.dialer.tick(&self.linked, &mut self.random, now);
        dials.into_iter().filter_map(|(node, address)| Some((node?, address))).collect()
    }

    /// Dials of one member within a minute in which every dial fails, or its link ends at once.
    fn dials(&mut self, of: &NodeId, moves: bool, ends: fn(&mut Scene, &NodeId, SocketAddr, u64)) -> usize {
        let mut count = 0;
        for now in (1..60_000).step_by(50) {
            if moves && now % 1_000 == 1 {
                self.dialer.learned(of, &[address(u16::try_from(1_000 + now / 1_000).expect("small"))], now);
            }
            for (dialled, address) in self.tick(now) {
                count += usize::from(dialled == *of);
                ends(self, &dialled, address, now);
            }
        }
        count
    }
}

fn fails(scene: &mut Scene, node: &NodeId, address: SocketAddr, now: u64) {
    scene.dialer.failed(Some(node), address, &mut scene.random, now);
}

fn ends_at_once(scene: &mut Scene, node: &NodeId, address: SocketAddr, now: u64) {
    scene.dialer.linked(node, Some(address), now);
    scene.dialer.unlinked(node, &mut scene.random, now);
}

#[test]
fn who_moves_all_the_time_is_dialled_no_more_often_than_one_that_fails() {
    let (calm, restless) = (node("a"), node("b"));
    let mut scene = Scene::new();
    scene.dialer.learned(&calm, &[address(1)], 1);
    scene.dialer.learned(&restless, &[address(2)], 1);
    let of_calm = scene.dials(&calm, false, fails);
    let mut scene = Scene::new();
    scene.dialer.learned(&restless, &[address(2)], 1);
    let of_restless = scene.dials(&restless, true, fails);
    assert!(of_restless <= of_calm * 3 && of_calm > 5, "{of_restless} and {of_calm}");
}

#[test]
fn who_leaves_and_comes_back_all_the_time_is_dialled_no_more_often_for_it() {
    let restless = node("z");
    let mut scene = Scene::new();
    let (mut dials, mut flying) = (0, 0);
    for now in (1..60_000).step_by(50) {
        scene.dialer.learned(&restless, &[address(u16::try_from(now % 999).expect("small"))], now);
        dials += scene.tick(now).len();
        flying = flying.max(scene.dialer.nodes.values().filter(|target| target.since.is_some()).count());
        scene.dialer.forget(&restless);
    }
    // Nobody ever answers: a few times afresh each half minute, and once for each dial that took too long.
    assert!((1..30).contains(&dials) && flying == 1, "{dials}");
    scene.dialer.tick(&scene.linked, &mut scene.random, 60_000 + AFRESH_MS);
    assert!(scene.dialer.left.is_empty());
}

#[test]
fn the_dead_are_seldom_dialled_where_somebody_else_answers_now() {
    let (dead, heir) = (node("a"), node("z"));
    let mut scene = Scene::new();
    scene.dialer.learned(&dead, &[address(1)], 1);
    scene.dialer.learned(&heir, &[address(1)], 1);
    scene.dialer.judged(&dead, true, 1);
    scene.linked.insert(heir.clone());
    let dials: usize = (1_000..10_000).step_by(50).map(|now| scene.tick(now).len()).sum();
    assert!((1..=2).contains(&dials), "now and then, as that address may be a lie: {dials}");
    scene.linked.clear();
    let dials: Vec<(NodeId, SocketAddr)> = (10_000..20_000).step_by(50).flat_map(|now| scene.tick(now)).collect();
    assert!(dials.iter().any(|(dialled, _)| *dialled == dead));
}

#[test]
fn a_configured_address_that_a_linked_member_calls_its_own_is_dialled_seldom_and_until_it_leads_there() {
    let (seed, owner) = (address(7), node("z"));
    let mut scene = Scene::new();
    scene.dialer.seeds(&[seed], 0);
    scene.dialer.learned(&owner, &[seed], 1);
    scene.linked.insert(owner.clone());
    let minutes = |scene: &mut Scene, begin: u64, ends: fn(&mut Scene, SocketAddr, u64)| {
        let mut dials = 0;
        for now in (begin..begin + 600_000).step_by(50) {
            for (_, dialled) in scene.dialer.tick(&scene.linked, &mut scene.random, now) {
                dials += usize::from(dialled == seed);
                ends(scene, dialled, now);
            }
        }
        dials
    };
    // Nobody is there, or somebody else.
    let dials = minutes(&mut scene, 1, |scene, address, now| {
        scene.dialer.failed(None, address, &mut scene.random, now);
    });
    assert!((4..20).contains(&dials), "{dials} in ten minutes");
    let dials = minutes(&mut scene, 600_001, |scene, address, now| {
        scene.dialer.linked(&node("z"), Some(address), now);
    });
    assert_eq!(dials, 1, "it is what it says");
}

#[test]
fn who_moved_once_is_dialled_there_at_once() {
    let mut scene = Scene::new();
    scene.dialer.learned(&node("z"), &[address(1)], 1);
    assert_eq!(scene.tick(1), [(node("z"), address(1))]);
    scene.dialer.learned(&node("z"), &[address(2)], 40_000);
    assert_eq!(scene.tick(40_000), [(node("z"), address(2))]);
}

#[test]
fn links_that_end_soon_are_dialled_ever_more_rarely_and_those_that_lived_at_once() {
    let peer = node("z");
    let mut scene = Scene::new();
    scene.dialer.learned(&peer, &[address(1)], 1);
    let dials = scene.dials(&peer, false, ends_at_once);
    assert!((5..20).contains(&dials), "{dials}");
    scene.dialer.linked(&peer, None, 100_000);
    scene.dialer.unlinked(&peer, &mut scene.random, 100_000 + STABLE_MS);
    assert_eq!(scene.tick(100_000 + STABLE_MS).len(), 1);
}

#[test]
fn nobody_waits_behind_names_that_do_not_answer() {
    let mut scene = Scene::new();
    // Wanted by somebody here; none but the last ever answers, and each dial takes its time.
    let silent: Vec<NodeId> = (0..200).map(|number| node(&format!("s{number:03}"))).collect();
    let last = node("z");
    for node in silent.iter().chain([&last]) {
        scene.dialer.learned(node, &[address(1)], 1);
    }
    let (mut under_way, mut found) = (Vec::new(), None);
    for now in (1..60_000).step_by(50) {
        silent.iter().chain([&last]).for_each(|node| scene.dialer.demand(node, now));
        for (dialled, address) in scene.tick(now) {
            found = found.or((dialled == last).then_some(now));
            under_way.push((now + 3_000, dialled, address));
        }
        let over: Vec<(u64, NodeId, SocketAddr)>;
        (over, under_way) = under_way.into_iter().partition(|(at, _, _)| *at <= now);
        over.iter().for_each(|(_, node, address)| fails(&mut scene, node, *address, now));
    }
    assert!(found.is_some_and(|found| found < 15_000), "{found:?}");
}
