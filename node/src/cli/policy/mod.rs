//! `skein policy ...`.

mod audit;
mod delete;
mod export;
mod facts;
mod get;
mod lint;
mod list;
mod log;
pub(in crate::cli) mod proposals;
mod push;
mod revert;
mod show;
mod sign;
mod source;

use crate::cli::{context::Context, error::Result};

/// Checks, pushes, reads and takes back policy documents.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Check documents without any node
    Lint(lint::Args),
    /// Sign documents and push them to one node, whichever is near
    #[command(alias = "apply")]
    Push(push::Args),
    /// Print a document as it is in effect
    Get(get::Args),
    /// List the documents in effect
    List(list::Args),
    /// Delete a document
    Delete(delete::Args),
    /// List what was pushed, newest first
    Log(log::Args),
    /// Show one changeset: what it set, what it replaced, who signed it
    Show(show::Args),
    /// Take a changeset back: every document of it becomes what it was before
    Revert(revert::Args),
    /// List the changesets that wait for further signatures
    Proposals(proposals::Args),
    /// Sign a proposal too
    Sign(sign::Args),
    /// The chain of what a node took and refused
    #[command(subcommand)]
    Audit(audit::Command),
    /// Print every document in effect as YAML that `push` accepts
    Export(export::Args),
}

/// Runs the command.
pub(super) async fn run(command: Command, ctx: &Context) -> Result<()> {
    match command {
        Command::Lint(args) => lint::run(&args, ctx),
        Command::Push(args) => push::run(args, ctx).await,
        Command::Get(args) => get::run(args, ctx).await,
        Command::List(args) => list::run(args, ctx).await,
        Command::Delete(args) => delete::run(args, ctx).await,
        Command::Log(args) => log::run(args, ctx).await,
        Command::Show(args) => show::run(args, ctx).await,
        Command::Revert(args) => revert::run(args, ctx).await,
        Command::Proposals(args) => proposals::run(args, ctx).await,
        Command::Sign(args) => sign::run(args, ctx).await,
        Command::Audit(command) => audit::run(command, ctx).await,
        Command::Export(args) => export::run(args, ctx).await,
    }
}
