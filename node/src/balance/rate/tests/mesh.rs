//! What the mesh lets in, measured against the limit and against what is asked.

use super::*;

const LIMIT: Limit = Limit { requests: 1_000, interval: 1_000, burst: 100 };

/// Rates a second that sum up to `sum`, the largest ten times the least.
fn uneven(count: usize, sum: f64) -> Vec<f64> {
    let last = (count - 1).max(1) as f64;
    let weights: Vec<f64> = (0..count).map(|index| 1.0 + 9.0 * index as f64 / last).collect();
    let total: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / total * sum).collect()
}

/// What is let in above `limit` in the worst span of time, in requests.
#[derive(Default)]
struct Excess {
    level: f64,
    most: f64,
}

impl Excess {
    fn add(&mut self, admitted: u64) {
        self.level = (self.level - f64::from(LIMIT.requests) / 1_000.0).max(0.0) + admitted as f64;
        self.most = self.most.max(self.level);
    }
}

/// Part of what is due that was let in, from two seconds after each of two shifts on, and what was above the limit.
fn run(count: usize, limit: Limit, mode: Mode, asked: f64) -> (f64, f64) {
    let mut mesh = Mesh::new(count, limit, mode);
    let mut rates = uneven(count, asked);
    let (mut admitted, mut excess) = (0, Excess::default());
    for _ in 0..2 {
        // Those with the least demand have the most from now on.
        rates.reverse();
        for millis in 0..6_000 {
            let let_in = mesh.step(&rates, |_, _| true);
            if millis == 2_000 {
                excess.level = 0.0;
            }
            if millis >= 2_000 {
                admitted += let_in;
                excess.add(let_in);
            }
        }
    }
    (admitted as f64 / (8.0 * asked.min(1_000.0)), excess.most)
}

#[test]
fn the_mesh_lets_in_what_it_may_and_no_more() {
    let plain = Limit { burst: LIMIT.requests, ..LIMIT };
    for (mode, counts) in [(Mode::Split, &[1, 3, 10, 30][..]), (Mode::Hard, &[3, 10])] {
        for count in counts {
            for asked in [900.0, 1_100.0, 3_000.0] {
                let (part, most) = run(*count, plain, mode, asked);
                println!("{mode:?}, {count} nodes, {asked}/s: {part:.3} of what is due, {most:.0} at once");
                assert!((0.9..=1.1).contains(&part), "{mode:?}, {count} nodes, {asked}/s: {part}");
                assert!(most <= 1_000.0, "{mode:?}, {count} nodes, {asked}/s: {most}");
            }
        }
    }
}

/// Buckets of a few requests lose some to chance, as one bucket of that size does, but let in no more.
#[test]
fn a_small_burst_is_kept() {
    for count in [3, 30] {
        for asked in [900.0, 3_000.0] {
            let (part, most) = run(count, LIMIT, Mode::Split, asked);
            println!("{count} nodes, {asked}/s: {part:.3} of what is due, {most:.0} at once");
            assert!((0.8..=1.02).contains(&part), "{count} nodes, {asked}/s: {part}");
            assert!(most <= f64::from(LIMIT.burst), "{count} nodes, {asked}/s: {most}");
        }
    }
}

#[test]
fn shares_stay_within_the_whole_while_demand_shifts() {
    let mut mesh = Mesh::new(10, LIMIT, Mode::Split);
    let mut rates = uneven(10, 3_000.0);
    for second in 0..20 {
        if second % 4 == 3 {
            rates.reverse();
        }
        for _ in 0..1_000 {
            mesh.step(&rates, |_, _| true);
            assert!(mesh.sum_of_shares() <= 1.0 + 1e-6, "{}", mesh.sum_of_shares());
        }
    }
    assert!(mesh.sum_of_shares() > 0.9, "{}", mesh.sum_of_shares());
}

#[test]
fn calm_is_cheap() {
    let mut mesh = Mesh::new(3, LIMIT, Mode::Split);
    for _ in 0..3_000 {
        mesh.step(&[3_000.0; 3], |_, _| true);
    }
    let before = mesh.messages;
    for _ in 0..10_000 {
        mesh.step(&[3_000.0; 3], |_, _| true);
    }
    assert!(mesh.messages - before < 60, "{} of 300 windows", mesh.messages - before);
    for _ in 0..5_000 {
        mesh.step(&[0.0; 3], |_, _| true);
    }
    let before = mesh.messages;
    for _ in 0..5_000 {
        mesh.step(&[0.0; 3], |_, _| true);
    }
    assert_eq!(mesh.messages, before);
}

#[test]
fn a_first_request_is_let_in_at_once() {
    let mut mesh = Mesh::new(10, LIMIT, Mode::Split);
    assert!((mesh.sum_of_shares() - 1.0).abs() < 1e-9);
    for node in &mut mesh.nodes {
        assert!(node.gate().admit(1).is_ok());
    }
}

#[test]
fn an_unreachable_node_keeps_its_share_until_it_has_left() {
    let mut mesh = Mesh::new(3, LIMIT, Mode::Split);
    for _ in 0..4_000 {
        mesh.step(&[1_000.0; 3], |_, _| true);
    }
    // Node 0 is cut off; it goes on with what it had, and so do the others.
    for _ in 0..4_000 {
        mesh.step(&[1_000.0; 3], |from, to| from != 0 && to != 0);
    }
    assert!((mesh.sum_of_shares() - 1.0).abs() < 0.1, "{}", mesh.sum_of_shares());
    let rest: Arc<BTreeSet<Key>> = Arc::new(["n01".into(), "n02".into()].into());
    for node in &mut mesh.nodes[1..] {
        node.set_nodes(Arc::clone(&rest), mesh.now);
    }
    for _ in 0..1_000 {
        mesh.step(&[0.0, 1_000.0, 1_000.0], |_, _| true);
    }
    let share: f64 = mesh.nodes[1..].iter().map(MeshLimit::share).sum();
    assert!((0.9..=1.05).contains(&share), "{share}");
}

#[test]
fn a_liar_takes_no_more_than_one_with_the_whole_demand() {
    let nodes = Arc::new(BTreeSet::from(["a".into(), "b".into(), "liar".into()]));
    let mut node = MeshLimit::new("a".into(), LIMIT, Mode::Split, nodes, 0);
    for window in 1..=40u64 {
        for _ in 0..100 {
            let _ = node.gate().admit(window * 100_000);
        }
        node.heard(&"liar".into(), Said { demand: u64::MAX, ..Said::default() }, window * WINDOW_MS);
        node.heard(&"stranger".into(), Said { demand: u64::MAX, ..Said::default() }, window * WINDOW_MS);
        node.close_window(window * WINDOW_MS, true);
    }
    assert!((node.share() - (0.1 / 3.0 + 0.45)).abs() < 0.02, "{}", node.share());
}
