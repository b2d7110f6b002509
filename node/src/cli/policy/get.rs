//! `skein policy get`.

use crate::{
    agent::admin::api::Content,
    cli::{
        client::{self, Client, segment},
        context::Context,
        error::Result,
        output::{Format, remark, yaml},
        signing,
    },
};

/// Prints a document as it is in effect, as YAML, or as JSON with -o json.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: skein policy get VirtualService reviews -n shop")]
pub struct Args {
    /// The kind, in any case
    #[arg(value_name = "KIND")]
    kind: String,
    /// The document's name
    #[arg(value_name = "NAME")]
    document: String,
}

/// Runs the command.
pub(super) async fn run(args: Args, ctx: &Context) -> Result<()> {
    let id = signing::document(&args.kind, &args.document, ctx.globals.namespace())?;
    let content = content(&mut client::connect(ctx).await?, &id).await?;
    if let Some(problem) = content.problem.as_ref().filter(|_| ctx.output.format == Format::Table) {
        remark(&format!("warning: {problem}"));
    }
    let text = yaml(&content.document)?;
    ctx.output.show(&content.document, || text)
}

/// Asks for a document.
pub(super) async fn content(client: &mut Client, id: &policy::DocumentId) -> Result<Content> {
    client.get(&format!("/v1/policy/{}/{}/{}", id.kind, segment(&id.namespace), segment(&id.name))).await
}
