//! Nobody's word kills, and silence does.

use proptest::prelude::*;
use rand::SeedableRng;

use super::*;

fn name(number: usize) -> NodeId {
    NodeId::new(&format!("n{number}")).expect("valid")
}

/// What a member that answers does to a node's orders, `delay` later.
fn answer(detector: &mut Detector, orders: &[Order], member: &NodeId, now: u64) {
    for order in orders {
        if let Order::Ping { to, nonce } = order
            && to == member
        {
            detector.heard(member, now);
            detector.acked(member, *nonce, now);
        }
    }
}

fn judged_dead(orders: &[Order], member: &NodeId) -> bool {
    orders.contains(&Order::Judge(member.clone(), Verdict::Dead))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn nobody_makes_a_node_dead_to_one_that_it_answers(
        sparse in any::<bool>(),
        accusations in proptest::collection::vec((0_u64..20_000, 2_usize..40), 0..300),
        denials in proptest::collection::vec((0_u64..20_000, 2_usize..40), 0..100),
    ) {
        let (member, mut detector) = (name(1), Detector::new(name(0), StdRng::seed_from_u64(1)));
        detector.sparse(sparse);
        for number in 1..6 {
            detector.linked(&name(number), true, 1);
        }
        let mut orders = Vec::new();
        for now in (0..20_000).step_by(25) {
            let due = |at: &u64| (now..now + 25).contains(at);
            for (_, accuser) in accusations.iter().filter(|(at, _)| due(at)) {
                detector.accused(&name(*accuser), &member, now);
            }
            for (_, relay) in denials.iter().filter(|(at, _)| due(at)) {
                detector.answered(&name(*relay), &member, false, now);
            }
            for number in 1..6 {
                answer(&mut detector, &orders, &name(number), now);
            }
            orders = detector.tick(now);
            prop_assert!(!judged_dead(&orders, &member), "at {now}");
        }
    }

    #[test]
    fn without_a_link_a_signature_in_time_refutes_any_number(
        accusers in proptest::collection::vec(2_usize..40, 1..40),
        refutes_after in 0_u64..400,
    ) {
        let (member, mut detector) = (name(1), Detector::new(name(0), StdRng::seed_from_u64(1)));
        detector.sparse(true);
        (2..6).for_each(|number| drop(detector.linked(&name(number), true, 1)));
        detector.learned(&member, 1);
        detector.spoken(&member, 1);
        prop_assert_eq!(detector.verdict(&member), Some(Verdict::Alive));
        let mut orders = Vec::new();
        for now in (0..3_000).step_by(25) {
            if now == 1_000 {
                for accuser in &accusers {
                    detector.accused(&name(*accuser), &member, now);
                }
            }
            if (now..now + 25).contains(&(1_000 + refutes_after)) {
                detector.vouched(&member, true, now);
            }
            (2..6).for_each(|number| answer(&mut detector, &orders, &name(number), now));
            orders = detector.tick(now);
            prop_assert!(!judged_dead(&orders, &member), "at {now}");
        }
    }
}

#[test]
fn who_answers_nobody_is_dead_within_a_second() {
    for sparse in [false, true] {
        let (member, mut detector) = (name(1), Detector::new(name(0), StdRng::seed_from_u64(1)));
        detector.sparse(sparse);
        (1..6).for_each(|number| drop(detector.linked(&name(number), true, 1)));
        let (mut orders, mut dead) = (Vec::new(), None);
        for now in (0..5_000).step_by(25) {
            (2..6).for_each(|number| answer(&mut detector, &orders, &name(number), now));
            if now < 1_000 {
                answer(&mut detector, &orders, &member, now);
            }
            orders = detector.tick(now);
            if judged_dead(&orders, &member) {
                dead.get_or_insert(now - 1_000);
            }
        }
        assert!(dead.is_some_and(|took| took <= 1_000), "{dead:?}, sparse {sparse}");
    }
}
