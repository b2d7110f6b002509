//! `skein policy sign`.

use policy::{
    changeset::{Approval, ChangesetId, encode},
    history::{Entry, History},
};
use serde_json::{Value, json};

use crate::{
    agent::{admin::api::Pushed, book::refusal},
    cli::{
        client,
        context::Context,
        error::{Error, Result},
        output::{Format, plain, remark, yaml},
        proof,
        signing::{Operator, Sending},
    },
    clock,
};

/// Adds this operator's signature to a proposal: with the last one that is needed it counts, on every node. A RoleSet that counts, or
/// that a rival keeps from counting, may be signed further: that decides for it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: skein policy sign 4f1c09")]
pub struct Args {
    /// Its id, or as much of it as is unique; `skein policy proposals` lists them
    #[arg(value_name = "PROPOSAL")]
    proposal: String,
    #[command(flatten)]
    sending: Sending,
}

/// Runs the command.
pub(super) async fn run(args: Args, ctx: &Context) -> Result<()> {
    let operator = Operator::load(ctx)?;
    let mut client = client::connect(ctx).await?;
    // What is signed is read from what its author signed, not from what a node says of it.
    let history = proof::of_changeset(&mut client, &operator.known, &args.proposal).await;
    let history = history.map_err(|error| match &*error.code {
        "not_found" => error.hint("`skein policy proposals` shows those that wait for signatures"),
        _ => error,
    })?;
    let entry = proposal(&history, &args.proposal)?;
    if entry.signers.contains(&operator.key.public()) {
        return Err(Error::new("already_exists", format!("this operator has signed {} already", entry.id))
            .hint("`skein policy proposals` shows who must still sign"));
    }
    if ctx.output.format == Format::Table {
        remark(&shown(entry)?);
    }
    let packed = Approval::sign(&operator.known.trust_domain, entry.id, &operator.key);
    if args.sending.dry_run {
        let value = json!({"proposal": entry.id.to_string(), "dry_run": true});
        return ctx.output.show(&value, || "nothing was sent (--dry-run)".to_owned());
    }
    let pushed: Pushed = client.post(&args.sending.path(ctx), encode(&packed)).await?;
    let outcome =
        operator.outcome(pushed, ChangesetId(packed.id()), documents(entry), client.reached(), &args.sending)?;
    outcome.approving(&entry.id).show(ctx)
}

/// The one proposal whose id begins so.
fn proposal<'h>(history: &'h History, prefix: &str) -> Result<&'h Entry> {
    let found = history.by_prefix(prefix);
    let [id] = found.as_slice() else {
        return Err(Error::new("ambiguous", format!("{} changesets begin with {prefix}", found.len()))
            .hint("give more of the id; `skein policy proposals -o json` shows it in full"));
    };
    let entry = history.get(id).ok_or_else(|| Error::new("not_found", format!("no changeset {prefix} is here")))?;
    history.check_open(entry, clock::wall()).map_err(|refused| refusal(&refused))?;
    Ok(entry)
}

/// What a signature would stand for.
fn shown(entry: &Entry) -> Result<String> {
    let mut text = format!("signing {}  {}\n", entry.id, plain(&entry.changeset.message));
    for change in &entry.changeset.changes {
        let Some(body) = &change.content else {
            text.push_str(&format!("# deletes {}\n", change.document));
            continue;
        };
        let body = policy::parse::compact(body).unwrap_or_else(|| body.clone());
        let body: Value = serde_json::from_str(&body).unwrap_or(Value::String(body));
        text.push_str(&format!("# sets {}\n{}", change.document, yaml(&body)?));
    }
    Ok(text)
}

fn documents(entry: &Entry) -> Vec<Value> {
    let document = |change: &policy::changeset::Change| {
        let id = &change.document;
        json!({"kind": id.kind.to_string(), "namespace": id.namespace, "name": id.name})
    };
    entry.changeset.changes.iter().map(document).collect()
}
