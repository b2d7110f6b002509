//! One that was wrong about a member too often is seldom heard about it.

use super::*;

#[test]
fn one_that_was_refuted_by_the_dead_before_they_died_asks_once_more_and_judges() {
    let victim = name(2);
    for ends in [false, true] {
        let mut detector = sparse(8);
        let (mut orders, mut asked, mut dead) = (Vec::new(), Vec::new(), None);
        for now in (0..60_000).step_by(25) {
            // It stands still three times, answers in public what it was asked meanwhile, and dies.
            let silent =
                now >= 25_000 || [1_000, 9_000, 17_000].iter().any(|begin| (*begin..begin + 600).contains(&now));
            if !silent {
                answer(&mut detector, &orders, &victim, now);
            }
            if [1_600, 9_600, 17_600].contains(&now) {
                detector.vouched(&victim, true, now);
            }
            if ends && now == 27_500 {
                detector.unlinked(&victim, false, now);
                detector.refused(&victim, now + 2);
            }
            (3..6).for_each(|number| answer(&mut detector, &orders, &name(number), now));
            orders = detector.tick(now);
            if orders.contains(&Order::Suspicions(Urgency::Now)) && detector.suspicions().contains(&victim) {
                asked.push(now);
            }
            if judged_dead(&orders, &victim) {
                dead = dead.or(Some(now));
            }
        }
        assert_eq!(asked.len(), 4, "{asked:?}");
        let took = dead.and_then(|dead| dead.checked_sub(25_000));
        assert!(took.is_some_and(|took| (2_400..5_000).contains(&took)), "dead after {took:?}, its link ends: {ends}");
    }
}

#[test]
fn those_that_die_together_are_asked_about_together_by_one_who_is_seldom_heard() {
    let victims = [name(2), name(3)];
    let mut detector = sparse(8);
    let (mut orders, mut dead) = (Vec::new(), BTreeMap::new());
    for now in (0..40_000).step_by(25) {
        for (number, victim) in victims.iter().enumerate() {
            let begins = [1_000, 9_000, 17_000].iter().any(|begin| (*begin..begin + 600).contains(&now));
            // The last probe of one was answered a little later.
            if !begins && now < 25_000 + number as u64 * 150 {
                answer(&mut detector, &orders, victim, now);
            }
            if [1_600, 9_600, 17_600].contains(&now) {
                detector.vouched(victim, true, now);
            }
        }
        (4..6).for_each(|number| answer(&mut detector, &orders, &name(number), now));
        orders = detector.tick(now);
        for victim in victims.iter().filter(|victim| judged_dead(&orders, victim)) {
            dead.entry(victim.clone()).or_insert(now);
        }
    }
    assert_eq!(dead.len(), 2, "{dead:?}");
    assert!(dead.values().all(|at| (27_400..30_000).contains(at)), "{dead:?}");
}

#[test]
fn a_link_that_ends_is_no_death_to_one_that_is_seldom_heard_until_a_dial_fails() {
    let victim = name(2);
    for reached in [true, false] {
        let mut detector = sparse(8);
        let (mut orders, mut dials, mut dead) = (Vec::new(), Vec::new(), None);
        for now in (0..40_000).step_by(25) {
            let silent = [1_000, 9_000, 17_000].iter().any(|begin| (*begin..begin + 600).contains(&now));
            if !silent && now < 25_000 {
                answer(&mut detector, &orders, &victim, now);
            }
            if [1_600, 9_600, 17_600].contains(&now) {
                detector.vouched(&victim, true, now);
            }
            match now {
                25_000 => detector.unlinked(&victim, false, now),
                // Three seconds for a dial: past a router that was slow, or in vain.
                28_300 if reached => drop(detector.linked(&victim, true, now)),
                28_300 => detector.refused(&victim, now),
                28_325.. if reached => answer(&mut detector, &orders, &victim, now),
                _ => {}
            }
            (3..6).for_each(|number| answer(&mut detector, &orders, &name(number), now));
            orders = detector.tick(now);
            dials.extend(orders.contains(&Order::Dial(victim.clone())).then_some(now));
            dead = dead.or(judged_dead(&orders, &victim).then_some(now));
        }
        assert_eq!(dead.is_none(), reached, "dead at {dead:?}, dialled at {dials:?}");
        assert_eq!(dials.len(), 1, "{dials:?}");
    }
}
