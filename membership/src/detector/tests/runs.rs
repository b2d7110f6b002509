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
    // Each watches the four that follow it by name.
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
