//! `skein policy lint`.

use std::path::PathBuf;

use policy::{Problem, Severity};
use serde::Serialize;

use super::{
    facts,
    source::{self, Source},
};
use crate::cli::{
    context::Context,
    error::{Result, usage},
    output::Format,
};

/// Checks documents without any node: each by itself, and all together. The annotation skein.dev/lint-ignore, e.g.
/// "SKN0203,SKN0305", leaves these warnings out for a document; errors stay, and push refuses what it refuses.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: skein policy lint policies/ --strict")]
pub struct Args {
    /// Files, folders (recursively *.yaml, *.yml, *.json) or - for standard input
    #[arg(value_name = "FILE|DIR|-", required = true)]
    paths: Vec<PathBuf>,
    /// Fail with exit code 3 if there are warnings
    #[arg(long)]
    strict: bool,
}

/// One file of the result.
#[derive(Debug, Serialize)]
struct Entry<'a> {
    file: &'a str,
    valid: bool,
    problems: Vec<&'a Problem>,
}

/// Runs the command.
pub(super) fn run(args: &Args, ctx: &Context) -> Result<()> {
    let mut sources = source::read(&args.paths, &ctx.globals.namespace)?;
    let parsed = || sources.iter().map(|source| &source.parsed);
    if parsed().all(|one| one.documents.is_empty() && one.kubernetes.is_empty() && one.problems.is_empty()) {
        return Err(usage("there is no document in what was named", "name a file that holds policy documents"));
    }
    facts::judge(&mut sources);
    let entries: Vec<_> = sources.iter().map(entry).collect();
    match ctx.output.format {
        Format::Table => ctx.output.text(&text(&sources))?,
        Format::Json | Format::Yaml => ctx.output.show(&entries, String::new)?,
    }
    let errors = |problem: &&Problem| problem.severity == Severity::Error;
    let problems = || sources.iter().flat_map(|source| &source.parsed.problems);
    if problems().any(|problem| errors(&problem)) {
        return Err(source::invalid(problems().filter(errors), ctx.output.format, "correct the documents"));
    }
    let warnings = problems().filter(|problem| problem.severity == Severity::Warning).count();
    if args.strict && warnings > 0 {
        return Err(crate::cli::error::Error::new("warnings", format!("{warnings} warnings"))
            .hint("correct the documents, or leave out --strict"));
    }
    Ok(())
}

fn entry(source: &Source) -> Entry<'_> {
    Entry { file: &source.file, valid: source.parsed.is_valid(), problems: source.parsed.problems.iter().collect() }
}

fn text(sources: &[Source]) -> String {
    let mut text = String::new();
    for source in sources {
        for problem in &source.parsed.problems {
            text.push_str(&source::snippet(problem, Some(&source.text)));
            text.push('\n');
        }
    }
    for object in sources.iter().flat_map(|source| &source.parsed.kubernetes) {
        let (file, line, kind) = (&object.file, object.line, &object.kind);
        text.push_str(&format!(
            "note: {file}:{line}: {kind} is Kubernetes' kind: read as a fact, and refused by push\n"
        ));
    }
    let valid = sources.iter().filter(|source| source.parsed.is_valid()).count();
    text.push_str(&format!("{valid} of {} files are valid\n", sources.len()));
    text
}
