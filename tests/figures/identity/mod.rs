//! The figures of identity: verifier and oracle over a hundred thousand cases, what our handshakes cost beside plain rustls, and
//! requests that fail while the root changes.

#[path = "../../../certs/tests/all/oracle/mod.rs"]
#[expect(clippy::unwrap_used, reason = "the oracle is a test of the crate that it judges")]
mod oracle;
mod rotation;
mod tls;

use harness::process::Skein;

use crate::Figure;

/// Of each seed.
const CASES: usize = 25_000;
const SEEDS: [u64; 4] = [1, 2, 3, 4];

/// How long the change of the root takes beside the other figures, and alone; seconds.
const SHORT: u64 = 75;
const LONG: u64 = 600;

/// All, or with the word `rotation` the change of the root alone and for long.
pub(crate) fn figures(skein: &Skein, alone: Option<&str>) -> Vec<Figure> {
    let asked = crate::asked_seconds().map(|time| time.as_secs());
    if alone == Some("rotation") {
        return rotation::figures(skein, asked.unwrap_or(LONG));
    }
    let mut all = verifier();
    all.extend(tls::figures());
    all.extend(rotation::figures(skein, asked.unwrap_or(SHORT)));
    all
}

#[expect(clippy::print_stderr, reason = "a mismatch is worth nothing without its case")]
fn verifier() -> Vec<Figure> {
    let tallies: Vec<_> = SEEDS.iter().map(|seed| oracle::judge(*seed, CASES)).collect();
    let mismatches: Vec<_> = tallies.iter().flat_map(|tally| &tally.mismatches).collect();
    if let Some(first) = mismatches.first() {
        eprintln!("{first}");
    }
    let idle = oracle::rules().filter(|rule| tallies.iter().all(|tally| !tally.alone.contains_key(rule))).count();
    let all: usize = tallies.iter().map(|tally| tally.cases).sum();
    let good: usize = tallies.iter().map(|tally| tally.good).sum();
    vec![
        Figure::at_most(
            "verifier_mismatches",
            mismatches.len() as f64,
            "cases",
            0.0,
            "100,000 generated chains on which verifier and oracle differ",
        ),
        Figure::at_most("oracle_rules_idle", idle as f64, "rules", 0.0, "rules that no case broke alone"),
        Figure::at_most(
            "oracle_cases_bad",
            (all - good) as f64 * 100.0 / all as f64,
            "%",
            80.0,
            "of the cases that are bad: the rest are good and must pass",
        ),
    ]
}
