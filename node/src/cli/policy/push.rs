//! `skein policy push`.

use std::path::PathBuf;

use policy::{
    Problem,
    changeset::{MAX_CHANGES, MAX_CHANGESET},
    validate,
};
use serde_json::Value;

use super::source::{self, Source};
use crate::{
    agent::admin::api::{Intent, Plan},
    cli::{
        client,
        context::Context,
        error::{Error, Result, usage},
        output::{Format, remark},
        signing::{Operator, Sending, changeset_id},
    },
};

/// Signs documents with the operator's key and pushes them to one node, whichever is near; every node ends up with
/// them. All files of one command are one changeset: it counts as a whole or not at all.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: skein policy push reviews.yaml --node web-1 --wait all --message 'all to v2'")]
pub struct Args {
    /// Files, folders (recursively *.yaml, *.yml, *.json) or - for standard input
    #[arg(value_name = "FILE|DIR|-", required_unless_present = "filename")]
    paths: Vec<PathBuf>,
    /// The same, as other tools have it
    #[arg(long, short = 'f', value_name = "FILE|DIR|-")]
    filename: Vec<PathBuf>,
    /// Push although a complaint with this code stands against it; may be repeated
    #[arg(long, value_name = "CODE", value_delimiter = ',')]
    allow: Vec<String>,
    /// Only if this changeset set the value that each document has now
    #[arg(long, value_name = "CHANGESET")]
    expect_parent: Option<String>,
    #[command(flatten)]
    sending: Sending,
}

/// Runs the command.
pub(super) async fn run(args: Args, ctx: &Context) -> Result<()> {
    let paths: Vec<_> = args.paths.iter().chain(&args.filename).cloned().collect();
    let sources = source::read(&paths, &ctx.globals.namespace)?;
    let intents = intents(&sources, ctx)?;
    let operator = Operator::load(ctx)?;
    let mut client = client::connect(ctx).await?;
    let mut plan = operator.plan(&mut client, &intents).await?;
    refuse(&plan, &args.allow, ctx)?;
    if let Some(parent) = &args.expect_parent {
        expect(&mut plan, &intents, parent)?;
    }
    let outcome = operator.send(&mut client, ctx, intents, &plan, &args.sending).await?;
    outcome.show(ctx)
}

/// What the files want, if nothing within them is wrong.
fn intents(sources: &[Source], ctx: &Context) -> Result<Vec<Intent>> {
    let errors: Vec<&Problem> =
        sources.iter().flat_map(|source| &source.parsed.problems).filter(|problem| problem.refuses()).collect();
    if ctx.output.format == Format::Table {
        for source in sources {
            source.parsed.problems.iter().for_each(|problem| remark(&source::snippet(problem, Some(&source.text))));
        }
    }
    if !errors.is_empty() {
        return Err(source::invalid(
            errors.into_iter(),
            ctx.output.format,
            "correct the documents; nothing was pushed",
        ));
    }
    if let Some(object) = sources.iter().flat_map(|source| &source.parsed.kubernetes).next() {
        let message = format!("{}:{}: {} is Kubernetes' kind, not policy", object.file, object.line, object.kind);
        return Err(Error::new("invalid_document", message)
            .hint("services are declared in each node's skein.toml; push only Istio's and Skein's documents"));
    }
    let documents: Vec<_> = sources.iter().flat_map(|source| &source.parsed.documents).collect();
    if documents.is_empty() {
        return Err(usage("there is no document in what was named", "name a file that holds policy documents"));
    }
    let size: usize = documents.iter().map(|document| document.json.len()).sum();
    if size > MAX_CHANGESET || documents.len() > MAX_CHANGES {
        let message = format!("{} documents of {size} bytes are too many for one push", documents.len());
        return Err(Error::new("quota_exceeded", message).hint(format!(
            "one push holds {MAX_CHANGES} documents and {} MiB: push them in parts",
            MAX_CHANGESET >> 20
        )));
    }
    for (index, document) in documents.iter().enumerate() {
        if let Some(twin) = documents[..index].iter().find(|other| other.document.id == document.document.id) {
            let message = format!(
                "{}:{}: {} stands twice, first at {}:{}",
                document.file, document.line, document.document.id, twin.file, twin.line
            );
            return Err(Error::new("invalid_document", message).hint("keep one of them"));
        }
    }
    let intent = |located: &&policy::parse::Located| Intent {
        kind: located.document.id.kind.to_string(),
        namespace: located.document.id.namespace.clone(),
        name: located.document.id.name.clone(),
        content: Some(located.json.clone()),
        file: located.file.clone(),
        line: located.line,
    };
    Ok(documents.iter().map(intent).collect())
}

/// Refuses what the node finds wrong between documents, unless its code is allowed; the rest is said.
fn refuse(plan: &Plan, allowed: &[String], ctx: &Context) -> Result<()> {
    let word = |problem: &Value, field: &str| problem[field].as_str().unwrap_or_default().to_owned();
    let mut refused = Vec::new();
    for problem in &plan.problems {
        let (file, code) = (word(problem, "file"), word(problem, "code"));
        let place = format!("{file}:{}:{}", problem["line"], problem["column"]);
        let line = format!("{place}: {code} {}: {}", word(problem, "field"), word(problem, "message"));
        let refusing = [validate::UNKNOWN_HOST, validate::UNKNOWN_SUBSET].contains(&code.as_str());
        if refusing && !allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(&code)) {
            refused.push((code, line));
        } else if ctx.output.format == Format::Table {
            remark(&format!("warning: {line}"));
        }
    }
    let Some((code, _)) = refused.first() else { return Ok(()) };
    let hint = format!(
        "neither the mesh nor this push defines it: correct it, push what defines it too, or allow it with --allow {code}"
    );
    let lines: Vec<_> = refused.iter().map(|(_, line)| line.as_str()).collect();
    Err(Error::new("invalid_document", lines.join("\n")).hint(hint))
}

/// Replaces only what `parent` set.
fn expect(plan: &mut Plan, intents: &[Intent], parent: &str) -> Result<()> {
    let parent = changeset_id(parent)?.to_string();
    for (live, intent) in plan.live.iter_mut().zip(intents) {
        if *live != [parent.clone()] {
            let found =
                if live.is_empty() { "does not exist".to_owned() } else { format!("was set by {}", live.join(", ")) };
            let message = format!("{} {}/{} {found}, not by {parent}", intent.kind, intent.namespace, intent.name);
            return Err(Error::new("stale_parent", message)
                .hint("look at what changed (`skein policy log`), then push on top of it"));
        }
    }
    Ok(())
}
