//! `skein policy delete`.

use std::time::Duration;

use crate::{
    agent::admin::api::Intent,
    cli::{
        client,
        context::Context,
        error::Result,
        signing::{self, Operator, Sending},
        value,
    },
};

/// Deletes a document; answers as `push` does.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: skein policy delete VirtualService reviews -n shop")]
pub struct Args {
    /// The kind, in any case
    #[arg(value_name = "KIND")]
    kind: String,
    /// The document's name
    #[arg(value_name = "NAME")]
    document: String,
    /// Put it on trial: unless `policy confirm` follows in this time, every node takes it back by itself
    #[arg(long, value_name = "DURATION", value_parser = value::duration)]
    confirm_within: Option<Duration>,
    #[command(flatten)]
    sending: Sending,
}

/// Runs the command.
pub(super) async fn run(args: Args, ctx: &Context) -> Result<()> {
    let id = signing::document(&args.kind, &args.document, ctx.globals.namespace())?;
    let operator = Operator::load(ctx)?;
    let mut client = client::connect(ctx).await?;
    let found = super::get::content(&mut client, &id).await;
    let intents = vec![Intent {
        kind: id.kind.to_string(),
        namespace: id.namespace.clone(),
        name: id.name.clone(),
        content: None,
        file: String::new(),
        line: 0,
    }];
    let plan = operator.plan(&mut client, &intents).await?;
    // Several live values can be settled by a deletion, also where one of them is a deletion that is in effect.
    if !plan.live.iter().any(|values| values.len() > 1) {
        found?;
    }
    let sending = Sending { confirm_within: args.confirm_within, ..args.sending };
    operator.send(&mut client, ctx, intents, &plan, &sending).await?.show(ctx)
}
