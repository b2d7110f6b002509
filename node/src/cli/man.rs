//! `skein man`.

use crate::cli::{
    context::Context,
    error::{Error, Result},
    grammar, reference,
};

/// Prints the manual page (roff) of skein or of one command.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  skein man policy push | man -l -
  skein man --markdown > cli.md")]
pub struct Args {
    /// The command, word by word [default: skein itself].
    #[arg(value_name = "COMMAND")]
    command: Vec<String>,
    /// Print the reference of all commands in Markdown instead
    #[arg(long, conflicts_with = "command")]
    markdown: bool,
}

/// Runs the command.
pub(super) fn run(args: &Args, ctx: &Context) -> Result<()> {
    if args.markdown {
        return ctx.output.text(&reference::markdown());
    }
    let mut command = grammar::command();
    command.build();
    for word in &args.command {
        let found = command.find_subcommand(word).cloned();
        command = found.ok_or_else(|| {
            Error::new("usage", format!("there is no command `{}`", args.command.join(" ")))
                .hint("`skein --help` lists all")
        })?;
    }
    let name = ["skein"].into_iter().chain(args.command.iter().map(String::as_str)).collect::<Vec<_>>().join("-");
    let mut page = Vec::new();
    clap_mangen::Man::new(command.name(name))
        .render(&mut page)
        .map_err(|error| Error::new("failed", format!("cannot make the manual page: {error}")))?;
    ctx.output.text(&String::from_utf8_lossy(&page))
}
