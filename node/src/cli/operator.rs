//! `skein operator list`.

use crate::{
    agent::admin::api::{Key, Mesh},
    cli::{client, context::Context, error::Result, output::Table},
};

/// Who may sign policy.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List the keys of the RoleSet and their roles
    #[command(after_help = "Example: skein operator list")]
    List,
}

/// Runs the command.
pub(super) async fn run(Command::List: Command, ctx: &Context) -> Result<()> {
    let mesh: Mesh = client::connect(ctx).await?.get("/v1/mesh").await?;
    ctx.output.table(&mesh.keys, || table(&mesh.keys))
}

fn table(keys: &[Key]) -> Table {
    let mut table = Table::new(&["NAME", "KEY", "ROLES"]);
    for key in keys {
        let roles = if key.recovery { "RoleSets only".to_owned() } else { key.roles.join(",") };
        table.row([&key.name, &key.public_key, &roles]);
    }
    table
}
