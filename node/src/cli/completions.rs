//! `skein completions SHELL`.

use crate::cli::{context::Context, error::Result, grammar};

/// Prints a shell's completion script.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: skein completions bash > /etc/bash_completion.d/skein")]
pub struct Args {
    /// Which shell.
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

/// Runs the command.
pub(super) fn run(args: &Args, ctx: &Context) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut grammar::command(), "skein", &mut script);
    ctx.output.text(&String::from_utf8_lossy(&script))
}
