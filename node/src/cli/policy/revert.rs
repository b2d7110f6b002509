//! `skein policy revert`.

use std::time::Duration;

use policy::changeset::{Change, ChangesetId};

use crate::{
    agent::{admin::api::Intent, book::refusal},
    cli::{
        client,
        context::Context,
        error::Result,
        output::remark,
        proof,
        signing::{Operator, Sending},
        value,
    },
    clock,
};

/// Takes a changeset back: every document of it becomes what it was before, by a new changeset.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: skein policy revert 4f1c09 --wait all")]
pub struct Args {
    /// Its id, or as much of it as is unique
    #[arg(value_name = "CHANGESET")]
    changeset: String,
    /// Put it on trial: unless `policy confirm` follows in this time, every node takes it back by itself
    #[arg(long, value_name = "DURATION", value_parser = value::duration)]
    confirm_within: Option<Duration>,
    #[command(flatten)]
    sending: Sending,
}

/// Runs the command.
pub(super) async fn run(args: Args, ctx: &Context) -> Result<()> {
    let operator = Operator::load(ctx)?;
    let mut client = client::connect(ctx).await?;
    // What the documents were is read from what operators signed: this signature will stand for it.
    let history = proof::of_changeset(&mut client, &operator.known, &args.changeset).await?;
    let id = proof::only(&history, &args.changeset)?;
    let changes = history.revert(&id, clock::wall()).map_err(|refused| refusal(&refused))?;
    for change in &changes {
        let own = history.get(&id).and_then(|entry| entry.changeset.change(&change.document));
        // What it replaced may live again, once it has expired.
        let is_later = |live: &&ChangesetId| **live != id && own.is_none_or(|own| !own.replaces.contains(live));
        for later in change.replaces.iter().filter(is_later) {
            let document = &change.document;
            let (kind, namespace, name) = (document.kind, &document.namespace, &document.name);
            remark(&format!("note: {kind} {namespace}/{name} was changed since by {later}: that is taken back too"));
        }
    }
    let replaces = changes.iter().map(|change| change.replaces.iter().map(ToString::to_string).collect()).collect();
    let documents: Vec<Intent> = changes.into_iter().map(intent).collect();
    let mut plan = operator.plan(&mut client, &documents).await?;
    super::push::tell(&plan, ctx);
    // What the old values were computed against is what shall be replaced.
    (plan.live, plan.yielded) = (replaces, Vec::new());
    let mut sending = Sending { confirm_within: args.confirm_within, ..args.sending };
    if sending.message.is_empty() {
        sending.message = format!("revert {id}");
    }
    operator.send(&mut client, ctx, documents, &plan, &sending).await?.show(ctx)
}

fn intent(change: Change) -> Intent {
    Intent {
        kind: change.document.kind.to_string(),
        namespace: change.document.namespace,
        name: change.document.name,
        content: change.content,
        file: String::new(),
        line: 0,
    }
}
