//! `skein policy conflicts`.

use std::fmt::Write as _;

use crate::{
    agent::admin::api::{Conflict, ConflictValue},
    cli::{client, context::Context, error::Result, look, output::plain},
};

/// Lists what waits to be settled: documents with several live values, RoleSets with several successors, documents that
/// this build cannot read; who pushed them, what is in effect, and the command that settles it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: skein policy conflicts")]
pub struct Args {}

/// Runs the command.
pub(super) async fn run(Args {}: Args, ctx: &Context) -> Result<()> {
    let conflicts: Vec<Conflict> = client::connect(ctx).await?.get("/v1/policy/conflicts").await?;
    ctx.output.show(&conflicts, || text(&conflicts))
}

fn text(conflicts: &[Conflict]) -> String {
    if conflicts.is_empty() {
        return "nothing to settle\n".to_owned();
    }
    conflicts.iter().map(one).collect::<Vec<_>>().join("\n")
}

fn one(conflict: &Conflict) -> String {
    let what = match conflict.conflict.as_str() {
        "values" => format!("has {} live values", conflict.values.len()),
        "role_sets" => format!("has {} successors, none of which counts", conflict.values.len()),
        _ => "cannot be read by this build".to_owned(),
    };
    let mut text = format!("{} {}/{} {what}\n", conflict.kind, conflict.namespace, conflict.name);
    for value in &conflict.values {
        text.push_str(&line(value));
    }
    if let (None, Some(id)) = (conflict.values.iter().find(|value| value.in_effect), &conflict.in_effect) {
        // Writing to a string does not fail.
        let _ = writeln!(text, "  in effect instead: {}", look::short(id));
    }
    for command in &conflict.settle {
        let _ = writeln!(text, "  settle it: {command}");
    }
    text
}

fn line(value: &ConflictValue) -> String {
    let mark = if value.in_effect { "in effect" } else { "" };
    let deletes = if value.deleted { " deletes it" } else { "" };
    let message = plain(&value.message).replace('\n', " ");
    let (id, authors) = (look::short(&value.changeset), value.authors.join(", "));
    let problem = value.problem.as_ref().map(|problem| format!(" ({})", plain(problem))).unwrap_or_default();
    let line = format!("  {id}  {}  {authors}  {mark:<9} {message}{deletes}{problem}", value.time);
    format!("{}\n", line.trim_end())
}
