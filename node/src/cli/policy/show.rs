//! `skein policy show`.

use std::fmt::Write as _;

use crate::{
    agent::admin::api::ChangesetDetail,
    cli::{
        client::{self, segment},
        context::Context,
        error::Result,
        output::{plain, yaml},
    },
};

/// Shows one changeset: what it set, what it replaced, who signed it, why.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: skein policy show 4f1c09")]
pub struct Args {
    /// Its id, or as much of it as is unique
    #[arg(value_name = "CHANGESET")]
    changeset: String,
}

/// Runs the command.
pub(super) async fn run(args: Args, ctx: &Context) -> Result<()> {
    let path = format!("/v1/policy/changesets/{}", segment(&args.changeset));
    let detail: ChangesetDetail = client::connect(ctx).await?.get(&path).await?;
    let text = text(&detail)?;
    ctx.output.show(&detail, || text)
}

fn text(detail: &ChangesetDetail) -> Result<String> {
    let entry = &detail.entry;
    let mut text = format!(
        "changeset  {}\ntime       {}\nauthors    {}\nrole set   {}\nmessage    {}\n",
        entry.changeset,
        entry.time,
        entry.authors.join(", "),
        detail.role_set,
        plain(&entry.message),
    );
    for change in &detail.changes {
        let word = if change.document.is_some() { "sets" } else { "deletes" };
        // Writing to a string does not fail.
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
