//! `skein policy log`.

use certs::codec::Millis;

use crate::{
    agent::admin::{api::LogEntry, rfc3339},
    cli::{
        client::segment,
        context::Context,
        error::{Result, usage},
        look,
        output::Table,
        signing, value,
    },
};

/// Lists what was pushed, newest first.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  skein policy log --limit 10
  skein policy log --document VirtualService/reviews -n shop
  skein policy log --author ann --since 24h")]
pub struct Args {
    /// At most so many
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Only what changed this document
    #[arg(long, value_name = "KIND/NAME")]
    document: Option<String>,
    /// Only what this key signed
    #[arg(long, value_name = "NAME")]
    author: Option<String>,
    /// Only what was issued since: a time (RFC 3339) or a duration ago
    #[arg(long, value_name = "TIME", value_parser = value::time)]
    since: Option<Millis>,
}

/// Runs the command.
pub(super) async fn run(args: Args, ctx: &Context) -> Result<()> {
    let document = args.document.map(|word| document(&word, ctx.globals.namespace())).transpose()?;
    let filters = [
        ("limit", args.limit.map(|limit| limit.to_string())),
        ("document", document),
        ("author", args.author),
        ("since", args.since.map(rfc3339)),
    ];
    let filters = filters.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", segment(&value?))));
    let query = filters.collect::<Vec<_>>().join("&");
    let path = if query.is_empty() { "/v1/policy/log".to_owned() } else { format!("/v1/policy/log?{query}") };
    look::list(ctx, &path, table).await
}

/// `KIND/NAME` as a node is asked: with the namespace, and the kind in full.
fn document(word: &str, namespace: &str) -> Result<String> {
    let wrong = || usage(format!("`{word}` is not KIND/NAME"), "write VirtualService/reviews, the namespace with -n");
    let (kind, name) = word.split_once('/').ok_or_else(wrong)?;
    let id = signing::document(kind, name, namespace)?;
    Ok(format!("{}/{}/{}", id.kind, id.namespace, id.name))
}

fn table(entries: &[LogEntry]) -> Table {
    let mut table = Table::new(&["CHANGESET", "TIME", "AUTHORS", "DOCUMENTS", "TRIAL", "MESSAGE"]);
    for entry in entries {
        let documents = match entry.documents.as_slice() {
            [only] => only.clone(),
            [first, rest @ ..] => format!("{first} and {} more", rest.len()),
            [] => String::new(),
        };
        let id = look::short(&entry.changeset).to_owned();
        let trial = entry.trial.clone().unwrap_or_default();
        table.row([id, look::when(&entry.time), entry.authors.join(","), documents, trial, entry.message.clone()]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_named_in_full() {
        assert_eq!(document("vs/reviews", "shop").unwrap(), "VirtualService/shop/reviews");
        assert_eq!(document("rolesets/default", "shop").unwrap(), "RoleSet/istio-system/default");
        assert_eq!(document("vs/shop/reviews", "default").unwrap(), "VirtualService/shop/reviews");
        for wrong in ["reviews", "pod/reviews"] {
            assert_eq!(document(wrong, "shop").unwrap_err().code, "usage");
        }
    }
}
