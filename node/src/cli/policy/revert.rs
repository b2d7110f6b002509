//! `skein policy revert`.

use std::{collections::BTreeMap, time::Duration};

use certs::codec::Millis;
use policy::{
    changeset::{Change, ChangesetId},
    history::{History, Trial},
    parse,
};
use serde_json::{Value, json};

use super::standing::Standing;
use crate::{
    agent::{admin::api::Intent, book::refusal},
    cli::{
        client,
        context::Context,
        error::{Error, Result},
        output::{Format, plain, remark},
        proof,
        signing::{Operator, Sending},
        value,
    },
    clock,
};

/// Changesets that a refusal names.
const NAMED: usize = 10;

/// Takes a changeset back: every document of it becomes what it was before, by a new changeset. Where others have changed a document
/// since, that would go, too: then it is refused unless --over stands.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: skein policy revert 4f1c09 --wait all")]
pub struct Args {
    /// Its id, or as much of it as is unique
    #[arg(value_name = "CHANGESET")]
    changeset: String,
    /// Also take back what was pushed to these documents since
    #[arg(long)]
    over: bool,
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
    let (id, now) = (proof::only(&history, &args.changeset)?, clock::wall());
    let changes = history.revert(&id, now).map_err(|refused| refusal(&refused))?;
    let (standing, changes): (Vec<Change>, Vec<Change>) =
        changes.into_iter().partition(|change| stands(&history, change, now));
    let people = ctx.output.format == Format::Table;
    let lost: Vec<&Change> = changes.iter().filter(|change| !is_its_own(&history, &id, change, now)).collect();
    let lines = later(&history, &id, &lost);
    if !lines.is_empty() && !args.over {
        return Err(refused(&id, &lines));
    }
    lines.iter().filter(|_| people).for_each(|line| remark(&format!("note: taken back, too: {line}")));
    let names = standing.iter().map(|change| &change.document).filter(|_| people);
    names.for_each(|document| remark(&format!("note: {document} is already as it was before {id}")));
    let standing = already(&history, &id, &standing, now);
    let mut sending = Sending { confirm_within: args.confirm_within, ..args.sending };
    if sending.message.is_empty() {
        sending.message = format!("revert {id}");
    }
    if changes.is_empty() {
        return standing.add_to(None, &operator, &mut client, ctx, &sending).await?.show(ctx);
    }
    let replaces = changes.iter().map(|change| change.replaces.iter().map(ToString::to_string).collect()).collect();
    let documents: Vec<Intent> = changes.into_iter().map(intent).collect();
    let mut plan = operator.plan(&mut client, &documents).await?;
    super::push::tell(&plan, ctx);
    // What the old values were computed against is what shall be replaced.
    (plan.live, plan.yielded) = (replaces, Vec::new());
    let pushed = operator.send(&mut client, ctx, documents, &plan, &sending).await?;
    standing.add_to(Some(pushed), &operator, &mut client, ctx, &sending).await?.show(ctx)
}

/// Whether the document is already, and for good, what this change would make of it.
fn stands(history: &History, change: &Change, now: Millis) -> bool {
    let state = history.state(now);
    match (&change.content, state.documents.get(&change.document).map(|live| live.values.as_slice())) {
        (None, None) => true,
        (content, Some([only])) => {
            let lasts = matches!(history.trial(&only.changeset, now), None | Some(Trial::Confirmed));
            let same = match content {
                Some(content) => only.document.is_ok() && parse::same(content, &only.json),
                None => only.json.is_empty(),
            };
            lasts && same
        }
        (Some(_), None) | (_, Some(_)) => false,
    }
}

/// Whether what the changeset itself made of the document holds now, by whatever came since: there is nothing newer to lose.
fn is_its_own(history: &History, id: &ChangesetId, change: &Change, now: Millis) -> bool {
    let own = history.get(id).filter(|entry| entry.whole).and_then(|entry| entry.changeset.change(&change.document));
    own.is_some_and(|own| stands(history, own, now))
}

/// The rows of what stands, and who set it.
fn already(history: &History, id: &ChangesetId, standing: &[Change], now: Millis) -> Standing {
    let state = history.state(now);
    let (mut rows, mut setters) = (Vec::new(), Vec::new());
    for change in standing {
        let document = &change.document;
        let live = state.documents.get(document).and_then(|live| live.values.first());
        let mut row = json!({"kind": document.kind.to_string(), "namespace": document.namespace, "name": document.name,
            "version": live.map_or(0, |value| value.version), "unchanged": true});
        if change.content.is_none() {
            row["deleted"] = Value::Bool(true);
        }
        rows.push(row);
        // Of what is nowhere any more the changeset itself has a say: it ended, and was all that there was.
        setters.push(live.map_or((0, *id), |value| (value.time, value.changeset)));
    }
    Standing::of(rows, setters)
}

/// What was pushed to these documents since, the newest first: a line for each.
fn later(history: &History, id: &ChangesetId, changes: &[&Change]) -> Vec<String> {
    let mut all: BTreeMap<(Millis, ChangesetId), Vec<String>> = BTreeMap::new();
    for change in changes {
        for later in since(history, id, change) {
            let issued = history.get(&later).map_or(0, |entry| entry.changeset.issued_at);
            all.entry((issued, later)).or_default().push(change.document.to_string());
        }
    }
    let line = |((_, later), documents): (&(Millis, ChangesetId), &Vec<String>)| {
        let why = history.get(later).map(|entry| entry.changeset.message.as_str()).unwrap_or_default();
        let why = if why.is_empty() { String::new() } else { format!(" ({})", plain(why).replace('\n', " ")) };
        format!("{later}{why} changed {}", documents.join(", "))
    };
    let mut lines: Vec<String> = all.iter().rev().take(NAMED).map(line).collect();
    if all.len() > NAMED {
        lines.push(format!("and {} before them", all.len() - NAMED));
    }
    lines
}

fn refused(id: &ChangesetId, lines: &[String]) -> Error {
    let message = format!("what {id} changed was changed since, newest first:\n{}", lines.join("\n"));
    Error::new("stale_parent", message)
        .hint("revert the newest first, push what should hold, or take all of them back with --over")
}

/// The changesets between a changeset and what stands now of a document.
fn since(history: &History, id: &ChangesetId, change: &Change) -> Vec<ChangesetId> {
    let replaced = |id: &ChangesetId| {
        let said = history.get(id).and_then(|entry| entry.changeset.change(&change.document));
        said.map(|said| said.replaces.clone()).unwrap_or_default()
    };
    // What it replaced, directly or not, may live again, once it has expired.
    let before = behind(vec![*id], &[], replaced);
    behind(change.replaces.clone(), &before, replaced)
}

/// These, and what they replaced, directly or not, up to what is known already.
fn behind(
    mut open: Vec<ChangesetId>,
    known: &[ChangesetId],
    replaced: impl Fn(&ChangesetId) -> Vec<ChangesetId>,
) -> Vec<ChangesetId> {
    let mut found = Vec::new();
    while let Some(next) = open.pop() {
        if !known.contains(&next) && !found.contains(&next) {
            open.extend(replaced(&next));
            found.push(next);
        }
    }
    found
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
