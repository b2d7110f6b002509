//! Prints the figures that an issue says must hold: what was measured, its bound, and whether it holds.
//!
//! `cargo run --release -p tests --bin figures -- main|policy|http|identity [rotation]|membership|membership-long|edges|seeing [-o json]`;
//! `SKEIN_FIGURES_SECONDS` says how long `identity` and `identity rotation` keep the load up while the root changes (75 and 600), and how
//! long each loss of `membership-long parted` lasts (3,600).

mod edges;
mod http;
mod identity;
mod kit;
mod main_job;
mod membership;
mod policy;
mod seeing;

use std::{borrow::Cow, time::Duration};

use harness::process::Skein;
use serde::Serialize;

/// One figure.
#[derive(Debug, Serialize)]
struct Figure {
    id: Cow<'static, str>,
    /// None: it could not be measured here, and `how` says what was missing.
    value: Option<f64>,
    unit: &'static str,
    /// None: stated, not judged.
    bound: Option<f64>,
    /// None of what was not measured or is not judged.
    holds: Option<bool>,
    how: Cow<'static, str>,
}

impl Figure {
    /// A value that must not exceed its bound.
    fn at_most(
        id: impl Into<Cow<'static, str>>,
        value: f64,
        unit: &'static str,
        bound: f64,
        how: impl Into<Cow<'static, str>>,
    ) -> Self {
        let holds = Some(value <= bound);
        Self { id: id.into(), value: Some(value), unit, bound: Some(bound), holds, how: how.into() }
    }

    /// A value that must not fall below its bound.
    fn at_least(
        id: impl Into<Cow<'static, str>>,
        value: f64,
        unit: &'static str,
        bound: f64,
        how: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { holds: Some(value >= bound), ..Self::at_most(id, value, unit, bound, how) }
    }

    /// A value that nobody asks for, but that a reader wants.
    fn stated(
        id: impl Into<Cow<'static, str>>,
        value: f64,
        unit: &'static str,
        how: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { id: id.into(), value: Some(value), unit, bound: None, holds: None, how: how.into() }
    }

    /// A figure that could not be measured here: it neither holds nor misses.
    fn not_measured(
        id: impl Into<Cow<'static, str>>,
        unit: &'static str,
        bound: f64,
        because: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { id: id.into(), value: None, unit, bound: Some(bound), holds: None, how: because.into() }
    }

    /// One line of the table.
    fn line(&self) -> String {
        let Self { id, value, unit, bound, holds, how } = self;
        let verdict = match (holds, value) {
            (Some(true), _) => "ok  ",
            (Some(false), _) => "MISS",
            (None, None) => "none",
            (None, Some(_)) => "    ",
        };
        let number = |number: &Option<f64>| match number {
            Some(small) if small.abs() < 10.0 && small.fract() != 0.0 => format!("{small:.2}"),
            Some(number) => format!("{number:.1}"),
            None => "-".to_owned(),
        };
        format!("{verdict} {id:<34} {:>12} {unit:<8} bound {:>8}   {how}", number(value), number(bound))
    }
}

/// What must not happen on any machine, however slow or busy; all else is a matter of time or memory.
const NEVER: [&str; 4] =
    ["verifier_mismatches", "rotation_failed_requests", "listings_not_as_written", "lists_not_compared"];
/// The exit status where one of these did; 1 where anything else misses its bound.
const HAPPENED: u8 = 3;

/// The figures of an issue's rooms. Words after the name some of them, for whoever works on those.
fn rooms(rooms: &[(&str, &dyn Fn() -> Vec<Figure>)]) -> Vec<Figure> {
    let words: Vec<String> = std::env::args().skip(2).collect();
    let named = |name: &str| words.iter().any(|word| word == name);
    let all = !rooms.iter().any(|(name, _)| named(name));
    rooms.iter().filter(|(name, _)| all || named(name)).flat_map(|(_, figures)| figures()).collect()
}

/// How long a figure is to take, where somebody asked for less or more than usual.
fn asked_seconds() -> Option<Duration> {
    std::env::var("SKEIN_FIGURES_SECONDS").ok()?.parse().ok().map(Duration::from_secs)
}

/// The word before which everything is `skein`'s own command line: the figures bring their own node.
const AS_SKEIN: &str = "as-skein";

/// What is measured here has the memory of a node.
#[global_allocator]
static ALLOCATOR: node::allocator::Allocator = node::allocator::Allocator;

/// Names the `skein` that is measured in place of the own node: the one that is shipped is smaller.
const PROGRAM: &str = "SKEIN_FIGURES_PROGRAM";

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "the figures are printed")]
fn main() -> std::process::ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|word| word == AS_SKEIN) {
        return node::cli::main_with(std::iter::once("skein".into()).chain(std::env::args_os().skip(2)));
    }
    let json = words.windows(2).any(|pair| pair == ["-o", "json"]);
    let skein = match std::env::var_os(PROGRAM) {
        Some(program) => Skein::at(std::path::PathBuf::from(program)),
        None => {
            let program = std::env::current_exe().expect("a running program has a path");
            Skein { program, prefix: vec![AS_SKEIN.to_owned()] }
        }
    };
    let figures = match words.first().map(String::as_str) {
        Some("main") => main_job::figures(&skein),
        Some("identity") => identity::figures(&skein, words.get(1).map(String::as_str)),
        Some("policy") => policy::figures(&skein),
        Some("http") => http::figures(&skein),
        Some("membership") => membership::figures(&skein),
        Some("membership-long") => membership::long(&skein),
        Some("edges") => edges::figures(&skein),
        Some("seeing") => seeing::figures(&skein),
        other => {
            eprintln!(
                "figures: which? `main`, `policy`, `http`, `identity`, `membership`, `membership-long`, `edges` and `seeing` are built; {} is not",
                other.unwrap_or("nothing")
            );
            return std::process::ExitCode::from(2);
        }
    };
    if json {
        println!("{}", serde_json::to_string_pretty(&figures).expect("figures are JSON"));
    } else {
        for figure in &figures {
            println!("{}", figure.line());
        }
    }
    let missed: Vec<&str> =
        figures.iter().filter(|figure| figure.holds == Some(false)).map(|figure| &*figure.id).collect();
    match missed.as_slice() {
        [] => std::process::ExitCode::SUCCESS,
        missed if missed.iter().any(|id| NEVER.contains(id)) => std::process::ExitCode::from(HAPPENED),
        _ => std::process::ExitCode::FAILURE,
    }
}
