//! `skein ca bundle`.

use crate::{
    agent::admin::api::Mesh,
    cli::{client, context::Context, error::Result},
};

/// The mesh's certificate authority.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Print the trust bundle: the roots that every node believes, as PEM
    #[command(after_help = "Example: skein ca bundle > bundle.pem")]
    Bundle,
}

/// Runs the command.
pub(super) async fn run(Command::Bundle: Command, ctx: &Context) -> Result<()> {
    let mesh: Mesh = client::connect(ctx).await?.get("/v1/mesh").await?;
    let value = serde_json::json!({"trust_domain": mesh.trust_domain, "bundle": mesh.bundle});
    ctx.output.show(&value, || mesh.bundle.clone())
}
