//! The property: verifier and oracle agree, and the cases are such that every rule counts.

use crate::oracle::{judge, rules};

#[test]
fn verifier_and_oracle_agree() {
    let tally = judge(1, 3_000);
    assert!(tally.mismatches.is_empty(), "{} of {}: {}", tally.mismatches.len(), tally.cases, tally.mismatches[0]);
    assert!(tally.good * 5 > tally.cases, "{} of {} are good", tally.good, tally.cases);
    let idle: Vec<_> = rules().filter(|rule| !tally.alone.contains_key(rule)).collect();
    assert!(idle.is_empty(), "no case broke these and nothing else: {idle:?}\n{:#?}", tally.alone);
}
