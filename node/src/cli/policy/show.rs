//! `skein policy show`.

use std::fmt::Write as _;

use crate::{
    agent::admin::api::{ChangesetDetail, Content},
    cli::{
        client::{self, Client, segment},
        context::Context,
        error::{Error, Result},
        output::{plain, yaml},
        signing, value,
    },
};

/// Shows one changeset: what it set, what it replaced, who signed it, why. Or a document, as it is or as it was.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  skein policy show 4f1c09
  skein policy show VirtualService reviews -n shop --at 2h
  skein policy show VirtualService reviews -n shop --at 4f1c09 | skein policy push -")]
pub struct Args {
    /// A changeset's id, or as much of it as is unique; or a kind
    #[arg(value_name = "CHANGESET|KIND")]
    first: String,
    /// The document's name, after a kind
    #[arg(value_name = "NAME")]
    document: Option<String>,
    /// The document as it was at a time (RFC 3339, or a duration ago), or as a changeset made it
    #[arg(long, value_name = "TIME|CHANGESET", requires = "document")]
    at: Option<String>,
}

/// Runs the command.
pub(super) async fn run(args: Args, ctx: &Context) -> Result<()> {
    let mut client = client::connect(ctx).await?;
    let Some(name) = &args.document else {
        let path = format!("/v1/policy/changesets/{}", segment(&args.first));
        let detail: ChangesetDetail = client.get(&path).await?;
        let text = changeset(&detail)?;
        return ctx.output.show(&detail, || text);
    };
    let id = signing::document(&args.first, name, ctx.globals.namespace())?;
    let point = match &args.at {
        Some(at) => Point::At(value::moment(at)?),
        None => Point::Now,
    };
    let Some(content) = document_at(&mut client, &id, &point).await? else {
        let then = args.at.map(|at| format!(" at {at}")).unwrap_or_default();
        let hint = format!("`skein policy log --document {}/{} -n {}` shows its life", id.kind, id.name, id.namespace);
        return Err(Error::new("not_found", format!("there is no {id}{then}")).hint(hint));
    };
    let text = document(&content)?;
    ctx.output.show(&content, || text)
}

/// Which value of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Point {
    /// The one in effect.
    Now,
    /// At a time, or as a changeset made it.
    At(String),
    /// As it was before a changeset.
    Before(String),
}

/// A document at some point; none if it did not exist then.
pub(super) async fn document_at(
    client: &mut Client,
    id: &policy::DocumentId,
    point: &Point,
) -> Result<Option<Content>> {
    let query = match point {
        Point::Now => String::new(),
        Point::At(at) => format!("?at={}", segment(at)),
        Point::Before(changeset) => format!("?before={}", segment(changeset)),
    };
    let path = format!("/v1/policy/{}/{}/{}{query}", id.kind, segment(&id.namespace), segment(&id.name));
    match client.get(&path).await {
        // At a point a changeset is what may not be found.
        Err(error) if *point == Point::Now && error.code == "not_found" => Ok(None),
        result => result,
    }
}

/// YAML that `push` accepts, under comments that say where it comes from.
fn document(content: &Content) -> Result<String> {
    let summary = &content.summary;
    let mut text = format!(
        "# version {} of changeset {}\n# pushed by {} at {}\n",
        summary.version,
        summary.changeset,
        plain(&summary.authors.join(", ")),
        summary.time
    );
    let more = content.problem.iter().map(|problem| format!("cannot be applied: {problem}"));
    let more = more.chain(content.conflicts.iter().map(|other| format!("another value is live: {other}")));
    for line in more {
        let _ = writeln!(text, "# {}", plain(&line).replace('\n', " "));
    }
    Ok(text + &yaml(&content.document)?)
}

fn changeset(detail: &ChangesetDetail) -> Result<String> {
    let entry = &detail.entry;
    let mut text = format!(
        "changeset  {}\ntime       {}\nauthors    {}\nrole set   {}\nmessage    {}\n",
        entry.changeset,
        entry.time,
        entry.authors.join(", "),
        detail.role_set,
        plain(&entry.message),
    );
    if let (Some(trial), Some(until)) = (&entry.trial, &entry.confirm_by) {
        // Writing to a string does not fail.
        let _ = writeln!(text, "trial      {trial}, until {until}");
    }
    for change in &detail.changes {
        let word = if change.document.is_some() { "sets" } else { "deletes" };
        let _ = writeln!(text, "\n# {word} {} {}/{}", change.kind, change.namespace, change.name);
        for replaced in &change.replaces {
            let _ = writeln!(text, "# replaces {replaced}");
        }
        if let Some(document) = &change.document {
            text.push_str(&yaml(document)?);
        }
    }
    Ok(text)
}
