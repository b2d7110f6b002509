//! `skein policy schema`.

use crate::cli::{
    context::Context,
    error::Result,
    output::{Format, yaml},
    signing,
};

/// Prints the JSON Schema (2020-12) of a kind, as this version reads it: for editors and other tools.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: skein policy schema VirtualService > virtualservice.schema.json")]
pub struct Args {
    /// The kind, in any case
    #[arg(value_name = "KIND")]
    kind: String,
}

/// Runs the command.
pub(super) fn run(args: &Args, ctx: &Context) -> Result<()> {
    let schema = policy::schema::of(signing::kind(&args.kind)?);
    match ctx.output.format {
        Format::Yaml => ctx.output.text(&yaml(&schema)?),
        Format::Table | Format::Json => ctx.output.text(&format!("{schema:#}")),
    }
}
