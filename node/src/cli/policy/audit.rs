//! `skein policy audit ...`.

use std::path::{Path, PathBuf};

use certs::{codec::Millis, id::NodeId};
use serde_json::json;

use crate::{
    agent::{
        admin::{
            api::{Audit, HeardHead},
            rfc3339,
        },
        state_dir::STORE,
        store::{AuditEntry, AuditHead, Broken, Store},
    },
    cli::{
        client,
        context::Context,
        error::{Error, Result},
        look,
        output::Table,
    },
};

/// The chain of what a node took and refused.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Follow the chain from its first entry and name the first one that was changed
    Verify(Verify),
    /// List what the node took and refused, newest first
    Log(Log),
}

/// Follows the chain from its first entry: each must be what the next one was linked to, and the last what was noted.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: skein policy audit verify --witness web-2")]
pub struct Verify {
    /// Read the store of a node that does not run, instead of asking one that does
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Compare with what this node heard of the chain's end: finds one that was written anew; may be repeated
    #[arg(long, value_name = "NODE")]
    witness: Vec<String>,
}

/// Lists the chain.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: skein policy audit log --refused --limit 20")]
pub struct Log {
    /// Read the store of a node that does not run, instead of asking one that does
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Only what was refused
    #[arg(long)]
    refused: bool,
    /// At most so many
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

/// A chain as it was read.
struct Chain {
    /// Whose; unknown where a store was read.
    node: Option<NodeId>,
    entries: Vec<AuditEntry>,
    /// Where reading ended early.
    broken: Option<Broken>,
    noted: AuditHead,
}

/// Runs the command.
pub(super) async fn run(command: Command, ctx: &Context) -> Result<()> {
    match command {
        Command::Verify(args) => verify(args, ctx).await,
        Command::Log(args) => log(args, ctx).await,
    }
}

async fn verify(args: Verify, ctx: &Context) -> Result<()> {
    let chain = chain(args.data_dir.as_deref(), ctx).await?;
    let mut noted = vec![chain.noted];
    for witness in &args.witness {
        noted.push(heard(witness, &chain, ctx).await?);
    }
    // An entry that cannot be read is found only after all before it were followed.
    let followed = AuditHead::verify(chain.entries.iter(), if chain.broken.is_some() { &[] } else { &noted });
    let head = match (followed, chain.broken) {
        (Ok(head), None) => head,
        (Err(broken), _) | (Ok(_), Some(broken)) => {
            let message = format!("the audit chain does not hold: {broken}");
            return Err(Error::new("audit_broken", message).hint(
                "the store was changed by something else than skein: compare with another node's `skein policy log`",
            ));
        }
    };
    let value = json!({
        "valid": true, "entries": head.count, "head": head.digest, "node": chain.node, "witnesses": args.witness,
    });
    ctx.output.show(&value, || format!("the audit chain holds: {} entries, head {}", head.count, head.digest))
}

async fn log(args: Log, ctx: &Context) -> Result<()> {
    let chain = chain(args.data_dir.as_deref(), ctx).await?;
    let numbered = chain.entries.iter().enumerate().rev().filter(|(_, entry)| !args.refused || entry.refused.is_some());
    let rows: Vec<_> = numbered.take(args.limit.unwrap_or(usize::MAX)).collect();
    let value: Vec<_> = rows
        .iter()
        .map(|(position, entry)| {
            json!({
                "entry": position, "time": rfc3339(entry.at), "subject": entry.subject, "from": entry.from,
                "accepted": entry.refused.is_none(), "reason": entry.refused,
            })
        })
        .collect();
    ctx.output.table(&value, || table(&rows))
}

fn table(rows: &[(usize, &AuditEntry)]) -> Table {
    let mut table = Table::new(&["ENTRY", "TIME", "SUBJECT", "FROM", "JUDGEMENT"]);
    for (position, entry) in rows {
        let judgement = entry.refused.clone().unwrap_or_else(|| "accepted".to_owned());
        let subject = entry.subject.to_string();
        let at: Millis = entry.at;
        table.row([
            position.to_string(),
            look::when(&rfc3339(at)),
            look::short(&subject).to_owned(),
            entry.from.clone(),
            judgement,
        ]);
    }
    table
}

async fn chain(data_dir: Option<&Path>, ctx: &Context) -> Result<Chain> {
    if let Some(dir) = data_dir {
        let (entries, broken, noted) = Store::audit_at(&dir.join(STORE)).map_err(|error| match &*error.code {
            "storage_failed" => error.hint("if its node runs, leave --data-dir out and ask it"),
            _ => error,
        })?;
        return Ok(Chain { node: None, entries, broken, noted });
    }
    let mut client = client::connect_here(ctx).await?;
    let mut entries = Vec::new();
    loop {
        let part: Audit = client.get(&format!("/v1/policy/audit?from={}", entries.len())).await?;
        let ended = part.entries.is_empty();
        entries.extend(part.entries);
        if ended {
            return Ok(Chain { node: Some(part.node), entries, broken: None, noted: part.noted });
        }
    }
}

/// The end of the chain as another node heard it.
async fn heard(witness: &str, chain: &Chain, ctx: &Context) -> Result<AuditHead> {
    let Some(node) = &chain.node else {
        return Err(Error::new("usage", "a store does not say whose it is").hint("ask the node: leave --data-dir out"));
    };
    let mut elsewhere = ctx.clone();
    elsewhere.globals.node = Some(witness.to_owned());
    let heads: Vec<HeardHead> = client::connect(&elsewhere).await?.get("/v1/policy/audit/heads").await?;
    let own = heads.into_iter().find(|head| head.node == *node);
    own.map(|head| AuditHead { count: head.count, digest: head.digest }).ok_or_else(|| {
        Error::new("not_found", format!("{witness} has heard nothing of {node}")).hint("ask another node")
    })
}
