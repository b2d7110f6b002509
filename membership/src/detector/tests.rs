//! Nobody's word kills, and silence does.

use proptest::prelude::*;
use rand::SeedableRng;

use super::*;

mod runs;
mod seldom;

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

/// A member accuses others beyond all that they have signed.
fn accuse(detector: &mut Detector, from: &NodeId, accused: &[&NodeId], now: u64) -> BTreeSet<NodeId> {
    let unanswered: Vec<NodeId> = accused.iter().copied().cloned().collect();
    detector.accused(from, &unanswered.iter().cloned().collect(), &unanswered, now)
}

fn judged_dead(orders: &[Order], member: &NodeId) -> bool {
    orders.contains(&Order::Judge(member.clone(), Verdict::Dead))
}

/// What somebody does who wants a member dead: by its word, or by what befalls the paths to it.
#[derive(Debug, Clone, Copy)]
enum Lie {
    Accuse,
    AccuseAll,
    TakeBack,
    Deny,
    CallDead,
    /// A data connection fails.
    Fail,
    /// A dial fails, although the link stands.
    Refuse,
}

impl Arbitrary for Lie {
    type Parameters = ();
    type Strategy = prop::sample::Select<Lie>;

    fn arbitrary_with((): ()) -> Self::Strategy {
        use Lie::{Accuse, AccuseAll, CallDead, Deny, Fail, Refuse, TakeBack};
        prop::sample::select(vec![Accuse, AccuseAll, TakeBack, Deny, CallDead, Fail, Refuse])
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn nobody_makes_a_node_dead_to_one_that_it_answers(
        sparse in any::<bool>(),
        lies in proptest::collection::vec((0_u64..20_000, 2_usize..40, any::<Lie>()), 0..400),
    ) {
        let (member, mut detector) = (name(1), Detector::new(name(0), StdRng::seed_from_u64(1)));
        detector.sparse(sparse);
        for number in 1..6 {
            detector.linked(&name(number), true, 1);
        }
        (6..40).for_each(|number| drop(detector.learned(&name(number), 1)));
        let mut orders = Vec::new();
        for now in (0..20_000).step_by(25) {
            for (_, liar, lie) in lies.iter().filter(|(at, _, _)| (now..now + 25).contains(at)) {
                let liar = name(*liar);
                match lie {
                    Lie::Accuse => drop(accuse(&mut detector, &liar, &[&member], now)),
                    Lie::AccuseAll => {
                        let all: Vec<NodeId> = (1..40).map(name).filter(|node| *node != liar).collect();
                        accuse(&mut detector, &liar, &all.iter().collect::<Vec<_>>(), now);
                    }
                    Lie::TakeBack => drop(accuse(&mut detector, &liar, &[], now)),
                    Lie::Deny => drop(detector.answered(&liar, &member, false, now)),
                    Lie::CallDead => drop(detector.differs(&member, false, now)),
                    Lie::Fail => drop(detector.failed(&member, now)),
                    Lie::Refuse => detector.refused(&member, now),
                }
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
                    accuse(&mut detector, &name(*accuser), &[&member], now);
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

/// What a member that answers so long after does to a node's orders.
struct Distant {
    delay: u64,
    sent: std::collections::VecDeque<(u64, u64)>,
}

impl Distant {
    fn answers(&mut self, detector: &mut Detector, orders: &[Order], member: &NodeId, now: u64) {
        let pings = orders.iter().filter_map(|order| {
            let Order::Ping { to, nonce } = order else { return None };
            (to == member).then_some((now + self.delay, *nonce))
        });
        self.sent.extend(pings);
        while let Some((_, nonce)) = self.sent.pop_front_if(|(due, _)| *due <= now) {
            detector.heard(member, now);
            detector.acked(member, nonce, now);
        }
    }
}

#[test]
fn a_long_path_is_no_loss_and_a_longer_one_is_learned() {
    let (member, mut detector) = (name(1), Detector::new(name(0), StdRng::seed_from_u64(1)));
    (1..6).for_each(|number| drop(detector.linked(&name(number), true, 1)));
    let mut far = Distant { delay: 30, sent: [].into() };
    let (mut orders, mut dead) = (Vec::new(), None);
    for now in (0..30_000_u64).step_by(5) {
        if now == 10_000 {
            far.delay = 104;
            let (rtt, loss) = detector.path(&member).expect("linked");
            assert!((20..40).contains(&(rtt / 1_000)) && loss < 0.05, "{rtt} {loss}");
        }
        (2..6).for_each(|number| answer(&mut detector, &orders, &name(number), now));
        if now < 25_000 {
            far.answers(&mut detector, &orders, &member, now);
        }
        if now == 24_900 {
            let (rtt, loss) = detector.path(&member).expect("linked");
            assert!((90..120).contains(&(rtt / 1_000)) && loss < 0.05, "{rtt} {loss}");
        }
        orders = detector.tick(now);
        if judged_dead(&orders, &member) {
            dead.get_or_insert(now);
        }
    }
    let took = dead.and_then(|dead| dead.checked_sub(25_000));
    assert!(took.is_some_and(|took| took <= 1_500), "dead after {took:?}");
}

/// A sparse mesh in which this node is linked with members 2 to 5, and has heard of 1 and of more.
fn sparse(members: usize) -> Detector {
    let mut detector = Detector::new(name(0), StdRng::seed_from_u64(1));
    detector.sparse(true);
    (2..6).for_each(|number| drop(detector.linked(&name(number), true, 1)));
    for number in std::iter::once(1).chain(6..members) {
        detector.learned(&name(number), 1);
        detector.spoken(&name(number), 1);
    }
    detector
}

/// Goes on from `from` to `to`; all linked members answer. Gives what became of `of`.
fn runs(detector: &mut Detector, of: &NodeId, from: u64, to: u64) -> bool {
    let mut orders = Vec::new();
    let mut dead = false;
    for now in (from..to).step_by(25) {
        (2..6).for_each(|number| answer(detector, &orders, &name(number), now));
        orders = detector.tick(now);
        dead |= judged_dead(&orders, of);
    }
    dead
}

#[test]
fn what_one_takes_back_others_still_say() {
    let (liar, victim) = (name(6), name(1));
    let mut detector = sparse(10);
    accuse(&mut detector, &liar, &[&victim], 1_000);
    (7..10).for_each(|honest| drop(accuse(&mut detector, &name(honest), &[&victim], 1_300)));
    accuse(&mut detector, &liar, &[], 1_350);
    assert!(!runs(&mut detector, &victim, 1_350, 1_680), "it has been told for less than it takes to answer");
    assert!(runs(&mut detector, &victim, 1_680, 1_750));
    // Alone it is taken back for good.
    let mut detector = sparse(8);
    accuse(&mut detector, &liar, &[&victim], 1_000);
    accuse(&mut detector, &liar, &[], 1_350);
    assert!(!runs(&mut detector, &victim, 1_350, 5_000) && !detector.is_accused(&victim));
}

#[test]
fn few_accusers_make_this_node_look_and_many_make_it_judge() {
    let victim = name(1);
    let judges = |accusers: usize, refused: bool| {
        let mut detector = sparse(10);
        (6..6 + accusers).for_each(|accuser| drop(accuse(&mut detector, &name(accuser), &[&victim], 1_000)));
        let (mut orders, mut looked) = (Vec::new(), None);
        for now in (1_000..8_000).step_by(25) {
            (2..6).for_each(|number| answer(&mut detector, &orders, &name(number), now));
            if refused && looked.is_some_and(|looked| now > looked) {
                detector.refused(&victim, now);
            }
            orders = detector.tick(now);
            if orders.contains(&Order::Dial(victim.clone())) {
                assert!(looked.replace(now).is_none(), "once");
            }
            assert!(!detector.suspicions().contains(&victim), "it has been asked");
            if judged_dead(&orders, &victim) {
                return (looked.is_some(), now - 1_000);
            }
        }
        panic!("it never judged");
    };
    for (accusers, refused, looks, (least, most)) in
        [(1, false, true, (2_800, 2_900)), (2, true, true, (400, 500)), (3, false, false, (400, 450))]
    {
        let (looked, took) = judges(accusers, refused);
        assert!(looked == looks && (least..=most).contains(&took), "{accusers} accusers: {looked} after {took} ms");
    }
}

#[test]
fn one_that_comes_back_again_and_again_is_left_more_time() {
    let victim = name(1);
    let mut detector = sparse(10);
    let mut took = Vec::new();
    for round in 1..8 {
        let begin = round * 5_000;
        let mut orders = Vec::new();
        let dead = (begin - 1_000..begin + 3_000).step_by(25).find(|now| {
            (2..6).for_each(|number| answer(&mut detector, &orders, &name(number), *now));
            if *now == begin {
                (6..9).for_each(|accuser| drop(accuse(&mut detector, &name(accuser), &[&victim], begin)));
            }
            orders = detector.tick(*now);
            judged_dead(&orders, &victim)
        });
        took.extend(dead.map(|dead| dead - begin));
        (6..9).for_each(|accuser| drop(accuse(&mut detector, &name(accuser), &[], begin + 3_000)));
        detector.vouched(&victim, true, begin + 4_000);
    }
    assert!(
        took.is_sorted() && took[0] <= 425 && took[4..].iter().all(|took| (1_500..=1_700).contains(took)),
        "{took:?}"
    );
}

/// Whom one judges dead that lost its links to some; of members without a link, those below `reached` answer its dials.
fn cut_off(lost: std::ops::Range<usize>, reached: usize) -> BTreeSet<NodeId> {
    let mut detector = sparse(30);
    let (mut orders, mut dead, mut dialled) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    let mut answers: BTreeSet<usize> = (2..6).collect();
    for now in (0..12_000).step_by(25) {
        if now == 1_000 {
            answers.retain(|number| !lost.contains(number));
        }
        answers.iter().for_each(|number| answer(&mut detector, &orders, &name(*number), now));
        if now == 3_500 {
            lost.clone().for_each(|number| detector.unlinked(&name(number), false, now));
        }
        for (number, at) in std::mem::take(&mut dialled) {
            match (at <= now, number < reached) {
                (false, _) => drop(dialled.insert((number, at))),
                (true, true) => {
                    answers.insert(number);
                    detector.linked(&name(number), true, now);
                }
                (true, false) => detector.refused(&name(number), now),
            }
        }
        orders = detector.tick(now);
        for order in &orders {
            match order {
                Order::Dial(node) => {
                    let number = (0..30).find(|number| name(*number) == *node).expect("a member");
                    dialled.insert((number, now + if number < reached { 25 } else { 3_000 }));
                }
                Order::Judge(node, Verdict::Dead) => drop(dead.insert(node.clone())),
                Order::Ping { .. }
                | Order::Ask { .. }
                | Order::Answer { .. }
                | Order::Suspicions { .. }
                | Order::Judge(..) => {}
            }
        }
    }
    dead
}

#[test]
fn one_cut_off_from_all_looks_at_all_and_one_that_lost_half_at_nobody() {
    let strangers = |dead: &BTreeSet<NodeId>| (6..30).filter(|number| dead.contains(&name(*number))).count();
    assert_eq!(strangers(&cut_off(2..6, 0)), 24);
    assert_eq!(strangers(&cut_off(2..4, 0)), 0);
    // Only its links were lost: whoever can be dialled lives.
    let dead = cut_off(2..6, 30);
    assert_eq!(strangers(&dead), 0, "{dead:?}");
}

#[test]
fn one_to_whom_nobody_listens_any_more_takes_no_silence_for_an_answer() {
    let mut detector = sparse(60);
    // It was wrong about many: their links failed, and they answered in public.
    for number in 10..40 {
        detector.refused(&name(number), 1_000);
    }
    assert!(!runs(&mut detector, &name(10), 1_000, 1_300), "asked");
    assert!(detector.suspicions().contains(&name(39)));
    (10..40).for_each(|number| drop(detector.vouched(&name(number), true, 1_350)));
    // Now it is wrong about another, and its question goes nowhere.
    let victim = name(50);
    detector.refused(&victim, 20_000);
    assert!(!runs(&mut detector, &victim, 20_000, 60_000) && !detector.suspicions().contains(&victim));
    assert_eq!(detector.verdict(&victim), Some(Verdict::Alive));
    // If others say so, too, it is dead.
    (6..9).for_each(|accuser| drop(accuse(&mut detector, &name(accuser), &[&victim], 60_000)));
    assert!(runs(&mut detector, &victim, 60_000, 61_000));
}

#[test]
fn who_has_a_reason_of_its_own_says_so_whoever_was_first() {
    let (liar, victim) = (name(6), name(2));
    let mut detector = sparse(8);
    let (mut orders, mut said) = (Vec::new(), None);
    for now in (0..3_000).step_by(25) {
        if now == 1_000 {
            accuse(&mut detector, &liar, &[&victim], now);
        }
        (3..6).for_each(|number| answer(&mut detector, &orders, &name(number), now));
        if now < 1_000 {
            answer(&mut detector, &orders, &victim, now);
        }
        orders = detector.tick(now);
        if orders.contains(&Order::Suspicions(Urgency::Now)) {
            said = said.or(Some(detector.suspicions()));
        }
    }
    assert_eq!(said, Some([victim].into()));
}

#[test]
fn who_was_refuted_about_one_is_heard_about_others() {
    let (accuser, of, other) = (name(6), name(1), name(7));
    let mut detector = sparse(8);
    for now in [1_000, 11_000, 31_000] {
        accuse(&mut detector, &accuser, &[&of], now);
        detector.vouched(&of, true, now + 50);
    }
    assert!(detector.ignores(&accuser, &of, 31_100) && !detector.ignores(&accuser, &other, 31_100));
    assert!(accuse(&mut detector, &accuser, &[&of], 32_000).is_empty());
    assert!(!runs(&mut detector, &of, 32_000, 33_000));
    assert_eq!(accuse(&mut detector, &accuser, &[&other], 33_000), [other.clone()].into());
    assert!(runs(&mut detector, &other, 33_000, 36_000), "it died");
}

#[test]
fn an_accuser_keeps_few_under_check_and_none_once_it_is_ignored() {
    let liar = name(6);
    let mut detector = sparse(300);
    let others: Vec<NodeId> = (7..300).map(name).collect();
    let begun = accuse(&mut detector, &liar, &others.iter().collect::<Vec<_>>(), 1_000);
    assert_eq!(begun.len(), accusations::ACCUSED);
    let again = accuse(&mut detector, &liar, &others.iter().rev().collect::<Vec<_>>(), 1_001);
    assert!(again.is_empty(), "those that stand count");
    // Some answer: the rest is let go before it is too late for them.
    for node in begun.iter().take(24) {
        assert!(detector.is_accused(begun.last().expect("many")));
        detector.vouched(node, true, 1_100);
    }
    assert!(!others.iter().any(|node| detector.is_accused(node)));
    for node in &others {
        assert!(!runs(&mut detector, node, 1_100, 1_150) && detector.verdict(node) == Some(Verdict::Alive));
    }
}

#[test]
fn of_whom_nothing_is_known_any_more_nothing_is_said() {
    let victim = name(2);
    let mut detector = sparse(8);
    let mut orders = Vec::new();
    for now in (0..2_000).step_by(25) {
        (3..6).for_each(|number| answer(&mut detector, &orders, &name(number), now));
        orders = detector.tick(now);
        if detector.suspicions().contains(&victim) {
            assert_eq!(detector.forget(&victim), Some(Order::Suspicions(Urgency::Later)));
            break;
        }
    }
    assert!(detector.suspicions().is_empty() && detector.forget(&victim).is_none());
}

#[test]
fn one_that_was_accused_and_runs_anew_is_asked_anew() {
    let victim = name(1);
    let mut detector = sparse(8);
    detector.refused(&victim, 1_000);
    assert!(!runs(&mut detector, &victim, 1_000, 1_300));
    assert!(detector.suspicions().contains(&victim));
    // The carrier brings that it runs anew.
    assert_eq!(detector.learned(&victim, 1_300), Some(Order::Suspicions(Urgency::Later)));
    assert!(detector.suspicions().is_empty());
    let (mut orders, mut asked) = (Vec::new(), None);
    for now in (1_300..4_000).step_by(25) {
        (2..6).for_each(|number| answer(&mut detector, &orders, &name(number), now));
        orders = detector.tick(now);
        if orders.contains(&Order::Suspicions(Urgency::Now)) {
            asked = asked.or(Some(now));
        }
        if judged_dead(&orders, &victim) {
            assert!(asked.is_some_and(|asked| now >= asked + 400), "asked at {asked:?}, dead at {now}");
            return;
        }
    }
    panic!("it was never judged");
}
