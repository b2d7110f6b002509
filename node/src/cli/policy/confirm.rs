//! `skein policy confirm`.

use policy::{
    changeset::{ChangesetId, confirmation},
    history::{History, Trial},
};

use crate::{
    agent::admin::rfc3339,
    cli::{
        client,
        context::Context,
        error::{Error, Result},
        proof,
        signing::{Operator, Sending, intent},
    },
    clock,
};

/// Ends the trial of a changeset that was pushed with --confirm-within: it counts for ever.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: skein policy confirm 4f1c09 --wait all")]
pub struct Args {
    /// Its id, or as much of it as is unique
    #[arg(value_name = "CHANGESET")]
    changeset: String,
    #[command(flatten)]
    sending: Sending,
}

/// Runs the command.
pub(super) async fn run(args: Args, ctx: &Context) -> Result<()> {
    let operator = Operator::load(ctx)?;
    let mut client = client::connect(ctx).await?;
    // What is confirmed is read from what operators signed: this signature will stand for it.
    let history = proof::of_changeset(&mut client, &operator.known, &args.changeset).await?;
    let id = proof::only(&history, &args.changeset)?;
    if on_trial(&history, &id)? == Trial::Confirmed {
        let result = serde_json::json!({"changeset": id.to_string(), "confirmed": true, "elapsed_ms": 0});
        return ctx.output.show(&result, || format!("{id} was confirmed already\n"));
    }
    let change = confirmation(&id);
    let content = change.content.expect("a confirmation sets a document");
    let intents = vec![intent((change.document, content))];
    let plan = operator.plan(&mut client, &intents).await?;
    let mut sending = args.sending;
    if sending.message.is_empty() {
        sending.message = format!("confirm {id}");
    }
    operator.send(&mut client, ctx, intents, &plan, &sending).await?.show(ctx)
}

/// How the trial stands, if it can still be confirmed.
fn on_trial(history: &History, id: &ChangesetId) -> Result<Trial> {
    match history.trial(id, clock::wall()) {
        Some(trial @ (Trial::Open(_) | Trial::Confirmed)) => Ok(trial),
        Some(Trial::Over(until)) => {
            let message = format!("the trial of {id} ended at {}: nodes took it back", rfc3339(until));
            let hint = format!("push it again: `skein policy show {id}` shows what it set");
            Err(Error::new("confirm_too_late", message).hint(hint))
        }
        None => Err(Error::new("usage", format!("{id} is not on trial: it counts without confirmation"))
            .hint("`skein policy log` shows which are; push with --confirm-within")),
    }
}
