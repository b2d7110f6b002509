//! `skein identity list|show`.

use crate::{
    agent::admin::api::Identity,
    cli::{
        client,
        context::Context,
        error::{Error, Result},
        look,
        output::Table,
    },
};

/// The identities of a node.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List the identities that a node shows, and when they end
    #[command(after_help = "Example: skein identity list")]
    List,
    /// Show one identity with its certificates
    #[command(after_help = "Example: skein identity show spiffe://prod.example/ns/shop/sa/cart")]
    Show {
        /// `spiffe://...` or NS/SA
        #[arg(value_name = "ID")]
        id: String,
    },
}

/// Runs the command.
pub(super) async fn run(command: Command, ctx: &Context) -> Result<()> {
    match command {
        Command::List => look::list_here(ctx, "/v1/identities", table).await,
        Command::Show { id } => show(&id, ctx).await,
    }
}

fn table(identities: &[Identity]) -> Table {
    let mut table = Table::new(&["IDENTITY", "FROM", "UNTIL"]);
    for identity in identities {
        table.row([&identity.id, &identity.not_before, &identity.not_after]);
    }
    table
}

async fn show(id: &str, ctx: &Context) -> Result<()> {
    let identities: Vec<Identity> = client::connect_here(ctx).await?.get("/v1/identities").await?;
    let suffix = id.split_once('/').map(|(namespace, account)| format!("/ns/{namespace}/sa/{account}"));
    let named = |identity: &&Identity| {
        identity.id == id || suffix.as_ref().is_some_and(|suffix| identity.id.ends_with(suffix.as_str()))
    };
    let identity = identities.iter().find(named).ok_or_else(|| {
        Error::new("not_found", format!("this node has no identity {id}")).hint("`skein identity list` shows all")
    })?;
    ctx.output.show(identity, || {
        format!("{}\nfrom {} until {}\n{}", identity.id, identity.not_before, identity.not_after, identity.chain)
    })
}
