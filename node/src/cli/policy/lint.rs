//! `skein policy lint`.

use std::path::PathBuf;

use policy::{Problem, Severity, codes, validate};
use serde::Serialize;

use super::{
    facts,
    source::{self, Source},
};
use crate::cli::{
    context::Context,
    error::{Result, usage},
    output::{Format, Table},
};

/// Checks documents without any node: each by itself, and all together. Fails if a push of one of the files would be refused whatever the
/// mesh and the other files hold, but for objects of Kubernetes, which are facts here. The annotation skein.dev/lint-ignore, e.g.
/// "SKN0203,SKN0305", leaves these warnings out for a document; errors stay, and push refuses what it refuses.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  skein policy lint policies/ --strict
  skein policy lint --list -o json")]
pub struct Args {
    /// Files, folders (recursively *.yaml, *.yml, *.json) or - for standard input
    #[arg(value_name = "FILE|DIR|-", required_unless_present_any = ["filename", "list"])]
    paths: Vec<PathBuf>,
    /// The same, as other tools have it
    #[arg(long, short = 'f', value_name = "FILE|DIR|-")]
    filename: Vec<PathBuf>,
    /// Fail with exit code 3 if there are warnings
    #[arg(long)]
    strict: bool,
    /// Only list the codes: what each means, and which a push refuses unless they are allowed
    #[arg(long, conflicts_with_all = ["paths", "filename", "strict"])]
    list: bool,
}

/// A code of `--list`.
#[derive(Debug, Serialize)]
struct Code {
    code: &'static str,
    about: &'static str,
    /// As a warning it is refused by push, unless `--allow` names it.
    refused: bool,
}

/// One file of the result.
#[derive(Debug, Serialize)]
struct Entry<'a> {
    file: &'a str,
    valid: bool,
    /// A push of the file is refused: for an error, for what is not supported yet or has ended, for objects of Kubernetes.
    refused: bool,
    problems: Vec<&'a Problem>,
}

/// Runs the command.
pub(super) fn run(args: &Args, ctx: &Context) -> Result<()> {
    if args.list {
        return ctx.output.table(&all_codes(), code_table);
    }
    let paths: Vec<_> = args.paths.iter().chain(&args.filename).cloned().collect();
    let mut sources = source::read(&paths, ctx.globals.namespace())?;
    let parsed = || sources.iter().map(|source| &source.parsed);
    if parsed().all(|one| one.documents.is_empty() && one.kubernetes.is_empty() && one.problems.is_empty()) {
        return Err(usage("there is no document in what was named", "name a file that holds policy documents"));
    }
    facts::judge(&mut sources);
    let entries: Vec<_> = sources.iter().map(entry).collect();
    match ctx.output.format {
        Format::Table => ctx.output.lines(&text(&sources))?,
        Format::Json | Format::Yaml => ctx.output.show(&entries, String::new)?,
    }
    let refuses = |problem: &&Problem| problem.refuses();
    let problems = || sources.iter().flat_map(|source| &source.parsed.problems);
    if problems().any(Problem::refuses) {
        return Err(source::invalid(problems().filter(refuses), ctx.output.format, "correct the documents"));
    }
    let warnings = problems().filter(|problem| problem.severity == Severity::Warning).count();
    if args.strict && warnings > 0 {
        return Err(crate::cli::error::Error::new("warnings", format!("{warnings} warnings"))
            .hint("correct the documents, or leave out --strict"));
    }
    Ok(())
}

fn all_codes() -> Vec<Code> {
    let code = |(code, about): &(&'static str, &'static str)| {
        let refused = validate::refuses_push(code, Severity::Warning);
        Code { code, about, refused }
    };
    codes::TABLE.iter().map(code).collect()
}

fn code_table() -> Table {
    let mut table = Table::new(&["CODE", "MEANS", "PUSH"]);
    for one in all_codes() {
        table.row([one.code, one.about, if one.refused { "refuses, unless allowed" } else { "" }]);
    }
    table
}

fn entry(source: &Source) -> Entry<'_> {
    let parsed = &source.parsed;
    Entry {
        file: &source.file,
        valid: parsed.is_valid(),
        refused: is_refused(source),
        problems: parsed.problems.iter().collect(),
    }
}

fn is_refused(source: &Source) -> bool {
    let refuses = |problem: &Problem| problem.refuses() || problem.code == codes::ENDED;
    !source.parsed.kubernetes.is_empty() || source.parsed.problems.iter().any(refuses)
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
    let valid = || sources.iter().filter(|source| source.parsed.is_valid());
    text.push_str(&format!("{} of {} files are valid", valid().count(), sources.len()));
    text.push_str(&match valid().filter(|source| is_refused(source)).count() {
        0 => "\n".to_owned(),
        refused => format!("; push refuses {refused} of them\n"),
    });
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "# Codes of complaints about documents

`skein policy lint`, `plan` and `push` name each complaint by a code that never changes its meaning; `skein policy lint --list` prints this
table, and a test compares them. An error makes a document invalid, whatever its code. A warning does not keep it from being pushed, but
for the codes marked here: these `push` refuses unless `--allow CODE` stands. The annotation `skein.dev/lint-ignore` silences warnings
([KINDS.md](../../policy/KINDS.md#annotations)).

| code | means | push |
|---|---|---|
";

    #[test]
    fn the_page_of_codes_is_the_table() {
        let row = |one: &Code| {
            let refused = if one.refused { "refuses the warning, unless allowed" } else { "" };
            format!("| `{}` | {} | {refused} |\n", one.code, one.about.replace('|', "\\|"))
        };
        let made = format!("{HEAD}{}", all_codes().iter().map(row).collect::<String>());
        let kept = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/codes.md")).unwrap_or_default();
        assert!(kept == made, "write this as node/docs/codes.md:\n{made}");
    }
}
