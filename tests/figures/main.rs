//! Prints the figures that an issue says must hold: what was measured, its bound, and whether it holds.
//!
//! `cargo run --release -p tests --bin figures -- main|policy|identity [-o json]`

mod identity;
mod main_job;
mod policy;

use harness::process::Skein;
use serde::Serialize;

/// One figure.
#[derive(Debug, Serialize)]
struct Figure {
    id: &'static str,
    value: f64,
    unit: &'static str,
    bound: f64,
    holds: bool,
    how: &'static str,
}

impl Figure {
    /// A value that must not exceed its bound.
    fn at_most(id: &'static str, value: f64, unit: &'static str, bound: f64, how: &'static str) -> Self {
        Self { id, value, unit, bound, holds: value <= bound, how }
    }
}

/// The word before which everything is `skein`'s own command line: the figures bring their own node.
const AS_SKEIN: &str = "as-skein";

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "the figures are printed")]
fn main() -> std::process::ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|word| word == AS_SKEIN) {
        return node::cli::main_with(std::iter::once("skein".into()).chain(std::env::args_os().skip(2)));
    }
    let json = words.windows(2).any(|pair| pair == ["-o", "json"]);
    let program = std::env::current_exe().expect("a running program has a path");
    let skein = Skein { program, prefix: vec![AS_SKEIN.to_owned()] };
    let figures = match words.first().map(String::as_str) {
        Some("main") => main_job::figures(&skein),
        Some("identity") => identity::figures(),
        Some("policy") => policy::figures(&skein),
        other => {
            eprintln!(
                "figures: which? `main`, `policy` and `identity` are built; {} is not",
                other.unwrap_or("nothing")
            );
            return std::process::ExitCode::from(2);
        }
    };
    if json {
        println!("{}", serde_json::to_string_pretty(&figures).expect("figures are JSON"));
    } else {
        for figure in &figures {
            let Figure { id, value, unit, bound, holds, how } = figure;
            println!(
                "{} {id:<28} {value:>10.1} {unit:<8} bound {bound:>8.1}   {how}",
                if *holds { "ok  " } else { "MISS" }
            );
        }
    }
    if figures.iter().all(|figure| figure.holds) {
        std::process::ExitCode::SUCCESS
    } else {
        std::process::ExitCode::FAILURE
    }
}
