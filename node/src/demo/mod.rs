//! The demonstration mesh and its sample application.

use std::path::PathBuf;
use std::process::ExitCode;

/// What `skein demo` takes.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    /// Ends by itself in under a minute; exit code 0 only if every step held.
    #[arg(long)]
    pub once: bool,
    /// Where the demo keeps its files while it runs (default: a directory of its own under the temporary directory).
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Parts that containers without a shell start one by one.
    #[command(subcommand)]
    pub part: Option<Part>,
}

/// Hidden commands for containers without a shell.
#[derive(Debug, clap::Subcommand)]
pub enum Part {
    /// Starts one sample service, beside a node if its command line follows `--`.
    #[command(hide = true)]
    App(AppArgs),
    /// Invites the demo's nodes and pushes its first documents.
    #[command(hide = true)]
    Operator(OperatorArgs),
}

/// What `skein demo app NAME -- run ...` takes.
#[derive(Debug, clap::Args)]
pub struct AppArgs {
    /// The sample service: productpage, details, reviews-v1, reviews-v2, reviews-v3 or ratings.
    pub name: String,
    /// The node's own command line, without the program's name.
    #[arg(last = true)]
    pub node: Vec<String>,
}

/// What `skein demo operator --dir DIR` takes.
#[derive(Debug, clap::Args)]
pub struct OperatorArgs {
    /// The directory (a shared volume) with the operator's files, in which the tokens are left.
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
}

/// Runs `skein demo`; `json` is `-o json`. To be called outside any runtime: it builds its own.
///
/// # Errors
/// What stopped the demo before it could give a summary; a step that did not hold is exit code 1 instead.
pub fn run(args: Args, json: bool) -> anyhow::Result<ExitCode> {
    match args.part {
        Some(Part::App(part)) => app(part),
        Some(Part::Operator(part)) => operator(part, json),
        None => todo!(),
    }
}

/// Runs `skein demo app`: one sample service, and the node beside it.
///
/// # Errors
/// An address in use, an unknown name.
pub fn app(_args: AppArgs) -> anyhow::Result<ExitCode> {
    todo!()
}

/// Runs `skein demo operator`.
///
/// # Errors
/// A node that cannot be reached or refuses.
pub fn operator(_args: OperatorArgs, _json: bool) -> anyhow::Result<ExitCode> {
    todo!()
}
