//! `skein policy diff`.

use std::collections::BTreeSet;

use policy::DocumentId;
use serde::Serialize;
use serde_json::Value;

use super::show::{Point, document_at};
use crate::{
    agent::admin::api::{Change, ChangesetDetail, Content, LogEntry},
    cli::{
        client::{self, Client, segment},
        context::Context,
        difference,
        error::{Error, Result, usage},
        look,
        output::{plain, yaml},
        signing, value,
    },
};

/// Shows what changed: by one changeset, between two, or in one document between two points of its life.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  skein policy diff 4f1c09                                what the changeset changed
  skein policy diff 4f1c09 77ab20                         what differs in their documents after each of them
  skein policy diff VirtualService reviews -n shop        the last change of a document
  skein policy diff VirtualService reviews 2h             the document two hours ago, and now
  skein policy diff VirtualService reviews 4f1c09 77ab20  the document after each of them")]
pub struct Args {
    /// CHANGESET [CHANGESET], or KIND NAME [FROM [TO]]; FROM and TO are changesets, times (RFC 3339) or durations ago
    #[arg(value_name = "WHAT", num_args = 1..=4, required = true)]
    words: Vec<String>,
}

/// How one document differs.
#[derive(Debug, Serialize)]
pub(super) struct Difference {
    kind: String,
    namespace: String,
    name: String,
    /// `set`, `changed`, `deleted` or `unchanged`.
    pub(super) change: &'static str,
    before: Option<Value>,
    after: Option<Value>,
    /// Unified, of the YAML; empty if nothing changed.
    diff: String,
}

impl Difference {
    /// Compares two contents of a document.
    pub(super) fn new(
        id: &DocumentId,
        names: (&str, &str),
        before: Option<Value>,
        after: Option<Value>,
    ) -> Result<Self> {
        let text = |document: &Option<Value>| document.as_ref().map_or_else(|| Ok(String::new()), yaml);
        let (old, new) = (text(&before)?, text(&after)?);
        let change = match (&before, &after) {
            (None, Some(_)) => "set",
            (Some(_), None) => "deleted",
            (Some(before), Some(after)) if before != after => "changed",
            (Some(_), Some(_)) | (None, None) => "unchanged",
        };
        let name = |exists: bool, point: &str| if exists { format!("{id} {point}") } else { "/dev/null".to_owned() };
        let names = (name(before.is_some(), names.0), name(after.is_some(), names.1));
        // Another order of fields is no change.
        let differs = before != after;
        let diff = if differs { difference::unified((&names.0, &names.1), &old, &new) } else { String::new() };
        let DocumentId { kind, namespace, name } = id.clone();
        Ok(Self { kind: kind.to_string(), namespace, name, change, before, after, diff })
    }

    /// For people: one line, and what differs.
    pub(super) fn text(&self) -> String {
        format!("{} {} {}/{}\n{}", self.change, self.kind, self.namespace, self.name, plain(&self.diff))
    }
}

/// Runs the command.
pub(super) async fn run(args: Args, ctx: &Context) -> Result<()> {
    let mut client = client::connect(ctx).await?;
    let words: Vec<&str> = args.words.iter().map(String::as_str).collect();
    let differences = match words.as_slice() {
        [kind, rest @ ..] if signing::kind(kind).is_ok() => {
            let [name, points @ ..] = rest else {
                return Err(usage("the document's name is missing", "write KIND NAME"));
            };
            let id = signing::document(kind, name, ctx.globals.namespace())?;
            vec![of_document(&mut client, &id, points).await?]
        }
        [changeset] => of_changeset(&mut client, changeset).await?,
        [one, other] => between(&mut client, one, other).await?,
        _ => return Err(usage("more than two words begin with a kind", "write KIND NAME [FROM [TO]]")),
    };
    let text = |differences: &[Difference]| differences.iter().map(Difference::text).collect::<String>();
    ctx.output.show(&differences, || text(&differences))
}

/// What a changeset changed.
async fn of_changeset(client: &mut Client, prefix: &str) -> Result<Vec<Difference>> {
    let detail = detail(client, prefix).await?;
    let id = &detail.entry.changeset;
    let mut differences = Vec::new();
    for document in documents(&detail)? {
        let (before, after) = (Point::Before(id.clone()), Point::At(id.clone()));
        let after = content(client, &document, &after).await?;
        let before = content(client, &document, &before).await?;
        differences.push(Difference::new(&document, ("before", look::short(id)), before, after)?);
    }
    Ok(differences)
}

/// What differs after one and after the other, in every document of which either speaks.
async fn between(client: &mut Client, one: &str, other: &str) -> Result<Vec<Difference>> {
    let (one, other) = (detail(client, one).await?, detail(client, other).await?);
    let both: BTreeSet<DocumentId> = documents(&one)?.into_iter().chain(documents(&other)?).collect();
    let (one, other) = (one.entry.changeset, other.entry.changeset);
    let mut differences = Vec::new();
    for document in both {
        let before = content(client, &document, &Point::At(one.clone())).await?;
        let after = content(client, &document, &Point::At(other.clone())).await?;
        differences.push(Difference::new(&document, (look::short(&one), look::short(&other)), before, after)?);
    }
    Ok(differences)
}

/// A document between two points; without any, its last change.
async fn of_document(client: &mut Client, id: &DocumentId, points: &[&str]) -> Result<Difference> {
    let (from, to) = match points {
        [] => {
            let document = segment(&format!("{}/{}/{}", id.kind, id.namespace, id.name));
            let last: Vec<LogEntry> = client.get(&format!("/v1/policy/log?limit=1&document={document}")).await?;
            let Some(last) = last.into_iter().next() else {
                return Err(Error::new("not_found", format!("there never was a {id}"))
                    .hint("`skein policy list` shows all; the namespace is given with -n"));
            };
            (Point::Before(last.changeset.clone()), Point::At(last.changeset))
        }
        [from] => (Point::At(value::moment(from)?), Point::Now),
        [from, to, ..] => (Point::At(value::moment(from)?), Point::At(value::moment(to)?)),
    };
    let before = content(client, id, &from).await?;
    let after = content(client, id, &to).await?;
    Difference::new(id, (&name(&from), &name(&to)), before, after)
}

fn name(point: &Point) -> String {
    match point {
        Point::Now => "now".to_owned(),
        Point::Before(changeset) => format!("before {}", look::short(changeset)),
        Point::At(word) if word.contains(':') => word.clone(),
        Point::At(changeset) => look::short(changeset).to_owned(),
    }
}

async fn content(client: &mut Client, id: &DocumentId, point: &Point) -> Result<Option<Value>> {
    Ok(document_at(client, id, point).await?.map(|Content { document, .. }| document))
}

async fn detail(client: &mut Client, prefix: &str) -> Result<ChangesetDetail> {
    client.get(&format!("/v1/policy/changesets/{}", segment(prefix))).await
}

fn documents(detail: &ChangesetDetail) -> Result<Vec<DocumentId>> {
    let id = |change: &Change| Ok(DocumentId::new(signing::kind(&change.kind)?, &change.namespace, &change.name));
    detail.changes.iter().map(id).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_difference_has_a_word() {
        let id = DocumentId::new(policy::Kind::VirtualService, "shop", "cart");
        let (one, other) = (json!({"spec": {"a": 1}}), json!({"spec": {"a": 2}}));
        let made = |before: Option<&Value>, after: Option<&Value>| {
            Difference::new(&id, ("then", "now"), before.cloned(), after.cloned()).unwrap()
        };
        assert_eq!(made(None, Some(&one)).change, "set");
        assert_eq!(made(Some(&one), None).change, "deleted");
        assert_eq!(made(Some(&one), Some(&one)).change, "unchanged");
        let changed = made(Some(&one), Some(&other));
        assert_eq!(changed.change, "changed");
        let head =
            "changed VirtualService shop/cart\n--- VirtualService shop/cart then\n+++ VirtualService shop/cart now\n";
        assert!(changed.text().starts_with(head), "{}", changed.text());
        assert!(changed.diff.contains("-  a: 1\n+  a: 2\n"), "{}", changed.diff);
    }
}
