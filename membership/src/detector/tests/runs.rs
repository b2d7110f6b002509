//! Who leaves, comes back and runs anew, and what a link costs at rest.

use super::*;

#[test]
fn leaving_gives_no_accuser_its_word_back() {
    let (liar, mut detector) = (name(1), Detector::new(name(0), StdRng::seed_from_u64(1)));
    let victim = name(2);
    detector.sparse(true);
    for node in [&liar, &victim] {
        detector.learned(node, 1);
        detector.vouched(node, true, 1);
    }
    for now in [1_000, 2_000, 3_000] {
        accuse(&mut detector, &liar, &[&victim], now);
        detector.vouched(&victim, true, now + 50);
    }
    assert!(detector.ignores(&liar, &victim, 3_100));
    detector.left(&liar);
    detector.learned(&liar, 3_200);
    assert!(detector.ignores(&liar, &victim, 3_300));
    detector.forget(&liar);
    assert!(!detector.ignores(&liar, &victim, 3_300));
}

#[test]
fn nobody_was_wrong_who_doubted_a_run_that_has_ended() {
    let (accuser, mut detector) = (name(1), Detector::new(name(0), StdRng::seed_from_u64(1)));
    detector.sparse(true);
    detector.learned(&accuser, 1);
    for number in 2..2 + 30 {
        let victim = name(number);
        detector.learned(&victim, 1);
        detector.vouched(&victim, true, 1);
        accuse(&mut detector, &accuser, &[&victim], 1_000);
        assert!(detector.is_accused(&victim));
        detector.reran(&victim);
        detector.vouched(&victim, true, 1_050);
        assert_eq!(detector.verdict(&victim), Some(Verdict::Alive));
    }
    assert!(!detector.ignores_all(&accuser, 1_100));
}

#[test]
fn of_two_linked_members_that_watch_others_mostly_one_probes() {
    let member = |number: usize| NodeId::new(&format!("n{number:02}")).expect("valid");
    let all: Vec<NodeId> = (0..12).map(member).collect();
    // Each probes the two that follow it by name.
    let ends = [0, 6];
    let mut pair = ends.map(|own| Detector::new(all[own].clone(), StdRng::seed_from_u64(1)));
    for (own, detector) in ends.iter().zip(&mut pair) {
        all.iter().filter(|node| **node != all[*own]).for_each(|node| drop(detector.linked(node, false, 0)));
    }
    let (mut probes, mut heard, mut silent) = ([0, 0], [0, 0], 0);
    for now in (0..60_000).step_by(50) {
        for end in [0, 1] {
            let other = 1 - end;
            for order in pair[end].tick(now) {
                let Order::Ping { to, nonce } = order else { continue };
                pair[end].heard(&to, now);
                pair[end].acked(&to, nonce, now);
                if to == all[ends[other]] {
                    probes[end] += 1;
                    pair[other].heard(&all[ends[end]], now);
                    heard = [now, now];
                }
            }
            silent = silent.max(now - heard[end]);
        }
    }
    assert!(silent <= 1_050, "{silent}");
    assert!(probes[0] + probes[1] < 100 && probes.iter().all(|count| *count >= 25), "{probes:?}");
}

#[test]
fn a_node_probes_the_two_after_it_and_notices_when_the_two_before_it_do_not() {
    let member = |number: usize| NodeId::new(&format!("n{number}")).expect("valid");
    let mut detector = Detector::new(member(3), StdRng::seed_from_u64(1));
    let others = [1, 2, 4, 5, 6, 7].map(member);
    others.iter().for_each(|node| drop(detector.linked(node, false, 0)));
    let mut probes: BTreeMap<NodeId, Vec<u64>> = BTreeMap::new();
    let dies = 10_000;
    for now in (0..dies + 1_000).step_by(50) {
        let lives = |node: &NodeId| now < dies || *node != others[0];
        if now % 250 == 0 {
            others[..2].iter().filter(|node| lives(node)).for_each(|node| drop(detector.heard(node, now)));
        }
        for order in detector.tick(now) {
            let Order::Ping { to, nonce } = order else { continue };
            probes.entry(to.clone()).or_default().push(now);
            if lives(&to) {
                detector.heard(&to, now);
                detector.acked(&to, nonce, now);
            }
        }
    }
    let count = |node: &NodeId| probes[node].iter().filter(|at| (1_000..dies).contains(at)).count();
    assert_eq!(others[2..4].iter().map(count).collect::<Vec<_>>(), [36, 36], "four a second");
    assert!(others[..2].iter().chain(&others[4..]).all(|node| count(node) <= 13), "{probes:?}");
    let missed = probes[&others[0]].iter().find(|at| **at >= dies).expect("it is looked for");
    assert!(*missed <= dies + 400, "after 330 ms of silence, at the next tick: {missed}");
    assert!(detector.is_busy(), "it is being checked");
    assert_eq!(detector.verdict(&others[1]), Some(Verdict::Alive));
}
