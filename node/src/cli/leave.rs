//! `skein leave`.

use std::{path::Path, time::Duration};

use serde_json::{Value, json};

use crate::{
    agent::{admin::api::Status, state_dir::StateDir},
    cli::{
        client,
        context::Context,
        error::{Error, Result, io, usage},
        grants,
        signing::{Operator, Sending},
        value::Wait,
    },
    clock,
};

/// Time between two looks whether the node has ended.
const PAUSE: Duration = Duration::from_millis(100);

/// Retires this node for good: nobody expects it any more, its process ends, its state is wiped. It takes an operator's key; where that
/// shall not come to this machine, `skein evict NODE` from the operator's does the same but for the state.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: skein leave --operator /media/operator/prod.example")]
pub struct Args {
    /// Also if other nodes were certified here: they are out with it
    #[arg(long)]
    force: bool,
}

/// Runs the command.
pub(super) async fn run(Args { force }: Args, ctx: &Context) -> Result<()> {
    if ctx.globals.node.as_ref().is_some_and(|node| !node.starts_with("unix:")) {
        return Err(usage(
            "`leave` wipes the state of the machine that it runs on",
            "run it there; from elsewhere `skein evict NODE` shuts a node out",
        ));
    }
    let config = ctx.config()?;
    let operator = Operator::load(ctx).map_err(|error| {
        let evict =
            format!("sign with --operator DIR, or run `skein evict {}` where the operator's keys are", config.node);
        if error.code == "no_operator" { error.hint(evict) } else { error }
    })?;
    let mut client = client::connect_here(ctx).await?;
    let status: Status = client.get("/v1/status").await?;
    if status.node != config.node {
        let message = format!("{} is {}, the configuration here is of {}", client.reached(), status.node, config.node);
        return Err(usage(message, "start this machine's node, or name its configuration with --config"));
    }
    let held = grants::fetch_active(&mut client, &operator.known, &status.node).await?;
    if !force {
        grants::refuse_enroller(&mut client, &held.grant).await?;
    }
    let mut grant = held.grant.clone();
    grant.retired = true;
    let message = format!("{} leaves", status.node);
    let sending = Sending { message, wait: Some(Wait::Local), ..Sending::default() };
    // Others hear it first: a retired node is listened to by nobody.
    let retired = match client::connect_elsewhere(&mut client, ctx, &status.node).await? {
        Some(mut other) => grants::put(&operator, &mut other, ctx, (&grant, Some(&held)), &sending).await?,
        None => grants::put(&operator, &mut client, ctx, (&grant, Some(&held)), &sending).await?,
    };
    // The others took their time, and a connection that says nothing is closed.
    let mut client = client::connect_here(ctx).await?;
    let _: Value = client.post("/v1/policy?wait=local", retired.signed).await?;
    let _: Value = client.post("/v1/leave", "").await?;
    drop(client);
    // It answers for a while, then finishes what is under way.
    wipe(&config.data_dir, config.farewell + config.drain + ctx.globals.timeout).await?;
    let result = json!({"node": status.node, "left": true, "wiped": config.data_dir});
    ctx.output.show(&result, || format!("{} left the mesh; {} is wiped", status.node, config.data_dir.display()))
}

/// Empties a state directory once its node has ended.
async fn wipe(data_dir: &Path, patience: Duration) -> Result<()> {
    let deadline = clock::monotonic() + patience;
    let _lock = loop {
        match StateDir::open_to_empty(data_dir) {
            Ok(lock) => break lock,
            Err(error) if error.code == "state_in_use" && clock::monotonic() < deadline => {
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => {
                let hint = format!("end the process, then remove {}", data_dir.display());
                return Err(Error::new(error.code, format!("retired, but not wiped: {}", error.message)).hint(hint));
            }
        }
    };
    let failed = |error: std::io::Error| io("wipe", data_dir, &error);
    for entry in std::fs::read_dir(data_dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let folder = entry.file_type().map_err(failed)?.is_dir();
        let removed = if folder { std::fs::remove_dir_all(entry.path()) } else { std::fs::remove_file(entry.path()) };
        removed.map_err(failed)?;
    }
    Ok(())
}
