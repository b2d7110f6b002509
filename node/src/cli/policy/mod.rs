//! `skein policy ...`.

mod audit;
mod confirm;
mod conflicts;
mod delete;
mod diff;
mod export;
mod facts;
mod get;
mod lint;
mod list;
mod log;
mod plan;
pub(in crate::cli) mod proposals;
mod push;
mod revert;
mod schema;
mod show;
mod sign;
mod source;
pub(in crate::cli) mod standing;

use crate::cli::{context::Context, error::Result};

/// Checks, pushes, reads and takes back policy documents.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Check documents without any node
    Lint(lint::Args),
    /// Say what a push would change, without a key
    Plan(plan::Args),
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
    /// Show a changeset, or a document as it is or was
    Show(show::Args),
    /// Show what changed: by a changeset, between two, or in a document
    Diff(diff::Args),
    /// Take a changeset back: every document of it becomes what it was before
    Revert(revert::Args),
    /// Keep a changeset that was pushed with --confirm-within
    Confirm(confirm::Args),
    /// List documents with several live values, and what settles it
    Conflicts(conflicts::Args),
    /// Print the JSON Schema of a kind
    Schema(schema::Args),
    /// List the changesets that wait for further signatures
    Proposals(proposals::Args),
    /// Sign a proposal too
    Sign(sign::Args),
    /// The chain of what a node took and refused
    #[command(subcommand)]
    Audit(audit::Command),
    /// Print the documents in effect as YAML that `push` accepts: all kinds but RoleSet, NodeGrant, Revocation and Confirmation, which are of
    /// operators and nodes
    Export(export::Args),
}

/// Runs the command.
pub(super) async fn run(command: Command, ctx: &Context) -> Result<()> {
    match command {
        Command::Schema(args) => schema::run(&args, ctx),
        Command::Lint(args) => lint::run(&args, ctx),
        Command::Plan(args) => plan::run(args, ctx).await,
        Command::Push(args) => push::run(args, ctx).await,
        Command::Get(args) => get::run(args, ctx).await,
        Command::List(args) => list::run(args, ctx).await,
        Command::Delete(args) => delete::run(args, ctx).await,
        Command::Log(args) => log::run(args, ctx).await,
        Command::Show(args) => show::run(args, ctx).await,
        Command::Diff(args) => diff::run(args, ctx).await,
        Command::Confirm(args) => confirm::run(args, ctx).await,
        Command::Conflicts(args) => conflicts::run(args, ctx).await,
        Command::Revert(args) => revert::run(args, ctx).await,
        Command::Proposals(args) => proposals::run(args, ctx).await,
        Command::Sign(args) => sign::run(args, ctx).await,
        Command::Audit(command) => audit::run(command, ctx).await,
        Command::Export(args) => export::run(args, ctx).await,
    }
}
