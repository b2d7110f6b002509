//! `skein wait`.

use std::time::Duration;

use serde_json::json;

use super::value::EndpointCount;
use crate::{
    agent::admin::api::{Endpoint, Member, Spread},
    cli::{
        client::{self, Client, segment},
        context::Context,
        error::{Error, Result, usage},
        progress,
    },
    clock,
};

/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// Waits until all of these hold, as one node sees it, at most --timeout; exit code 4 if they do not.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: skein wait --nodes 4 --endpoints default/reviews=3 --timeout 30s")]
pub struct Args {
    /// At least so many nodes are alive
    #[arg(long, value_name = "N")]
    nodes: Vec<usize>,
    /// Exactly so many endpoints of a service are healthy; may be repeated
    #[arg(long, value_name = "NS/NAME=N")]
    endpoints: Vec<EndpointCount>,
    /// Every node alive has this changeset; may be repeated
    #[arg(long, value_name = "CHANGESET")]
    changeset: Vec<String>,
}

/// Runs the command.
pub(super) async fn run(args: Args, ctx: &Context) -> Result<()> {
    if args.nodes.is_empty() && args.endpoints.is_empty() && args.changeset.is_empty() {
        return Err(usage("there is nothing to wait for", "give --nodes, --endpoints or --changeset"));
    }
    let started = clock::monotonic();
    let missing = loop {
        let missing = match look(&args, ctx).await {
            Ok(missing) => missing,
            // A node that is still starting is something to wait for.
            Err(error) if error.code == "unreachable" => vec![error.message],
            Err(error) => return Err(error),
        };
        if missing.is_empty() || started.elapsed() >= ctx.globals.timeout {
            break missing;
        }
        tokio::time::sleep(PAUSE).await;
    };
    let elapsed = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let result = json!({"ok": missing.is_empty(), "missing": missing, "elapsed_ms": elapsed});
    ctx.output
        .show(&result, || if missing.is_empty() { format!("there after {elapsed} ms\n") } else { String::new() })?;
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::new("not_converged", format!("after {:?}: {}", ctx.globals.timeout, missing.join("; ")))
        .hint("`skein status` says what is wrong; wait longer with --timeout"))
}

/// What is still missing; keeps one connection as long as it lasts.
async fn look(args: &Args, ctx: &Context) -> Result<Vec<String>> {
    // Where a node belongs to this machine, it is that one's view which is waited for, also while it starts.
    let own = ctx.globals.node.is_none() && ctx.config_file().exists();
    let mut client = if own { client::connect_here(ctx).await? } else { client::connect(ctx).await? };
    let deadline = clock::monotonic() + ctx.globals.timeout;
    let mut line = progress::Line::here();
    loop {
        let missing = missing(args, &mut client).await?;
        if let Some(line) = &mut line {
            line.show(&missing.join("; "));
        }
        if missing.is_empty() || clock::monotonic() >= deadline {
            return Ok(missing);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn missing(args: &Args, client: &mut Client) -> Result<Vec<String>> {
    let mut missing = Vec::new();
    if let Some(wanted) = args.nodes.iter().max() {
        let members: Vec<Member> = client.get("/v1/members").await?;
        let alive = members.iter().filter(|member| member.state == "alive").count();
        if alive < *wanted {
            missing.push(format!("{alive} of {wanted} nodes are alive"));
        }
    }
    if !args.endpoints.is_empty() {
        let endpoints: Vec<Endpoint> = client.get("/v1/endpoints").await?;
        missing.extend(args.endpoints.iter().filter_map(|wanted| lacking(wanted, &endpoints)));
    }
    for id in &args.changeset {
        let spread: Result<Spread> = client.get(&format!("/v1/policy/changesets/{}/spread", segment(id))).await;
        match spread {
            Ok(spread) if spread.missing.is_empty() => {}
            Ok(spread) => {
                let names: Vec<_> = spread.missing.iter().map(ToString::to_string).collect();
                missing.push(format!("changeset {id} is not yet at {}", names.join(", ")));
            }
            Err(error) if error.code == "not_found" => missing.push(format!("changeset {id} is not here yet")),
            Err(error) => return Err(error),
        }
    }
    Ok(missing)
}

fn lacking(wanted: &EndpointCount, endpoints: &[Endpoint]) -> Option<String> {
    let of = |endpoint: &&Endpoint| {
        endpoint.service == wanted.service.name()
            && endpoint.namespace == wanted.service.namespace()
            && endpoint.health == "healthy"
    };
    let mut ids: Vec<_> = endpoints.iter().filter(of).map(|endpoint| &endpoint.id).collect();
    ids.dedup();
    let found = ids.len();
    (found != wanted.count).then(|| format!("{} has {found} healthy endpoints, not {}", wanted.service, wanted.count))
}
