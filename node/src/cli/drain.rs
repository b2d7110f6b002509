//! `skein drain`.

use serde_json::{Value, json};

use crate::cli::{client, context::Context, error::Result};

/// Tells all nodes to send this node's services no new requests; those under way go on. /readyz answers 503 meanwhile, and gateways
/// answer on, but close each connection with its answer. It lasts until --undo or the end of the process: a node that starts takes
/// requests.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: skein drain && systemctl restart app && skein drain --undo")]
pub struct Args {
    /// Take requests again; a drain ends with the process, too: a node that starts takes requests
    #[arg(long)]
    undo: bool,
}

/// Runs the command.
pub(super) async fn run(args: Args, ctx: &Context) -> Result<()> {
    let answer: Value = client::connect_here(ctx).await?.post_json("/v1/drain", &json!({"drain": !args.undo})).await?;
    let who = ctx.globals.node.as_deref().unwrap_or("this node");
    let what = if args.undo { "takes requests again" } else { "takes no new requests" };
    ctx.output.show(&answer, || format!("{who} {what}"))
}
