//! `demo operator --dir DIR`: the operator of the containers. Invites every machine but the founder, leaves the tokens
//! where the machines wait for them, and pushes the DestinationRules.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::Deserialize;

use super::bookinfo::App;
use super::compose;
use super::machine::{FOUNDER, Machine};
use super::place::private_dir;
use super::screen::{Screen, Style};
use super::skein::Skein;
use crate::clock::monotonic;

/// What `skein demo operator --dir DIR` takes.
#[derive(Debug, clap::Args)]
pub struct OperatorArgs {
    /// The directory that all containers share.
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
}

/// How long the containers may take to come up.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks.
const STEP: Duration = Duration::from_millis(200);

const DESTINATION_RULES: &str = include_str!("policies/destination-rule-all.yaml");

#[derive(Debug, Deserialize)]
struct Member {
    name: String,
    state: String,
}

#[derive(Debug, Deserialize)]
struct Listed {
    kind: String,
}

pub(super) fn run(args: &OperatorArgs, json: bool) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(work(&args.dir, &Screen::new(json)))
}

async fn work(shared: &Path, screen: &Screen) -> anyhow::Result<ExitCode> {
    let founder = founder(shared).await?;
    let skein = Skein::new(compose::operator_dir(shared))?;
    let members = known(&skein, &founder).await?;
    private_dir(&shared.join("tokens"))?;
    for app in App::ALL.into_iter().filter(|app| *app != FOUNDER) {
        if members.iter().any(|member| member.name == app.name()) {
            continue;
        }
        // Where its container is does not matter: only name and service are granted.
        let machine = Machine::in_container(app, std::net::Ipv4Addr::UNSPECIFIED.into());
        let invitation = skein.invite(&machine, &founder).await?;
        compose::write(&compose::token_file(shared, app), &invitation.token)?;
        screen.line(&screen.row(true, &format!("{} is invited", app.name()), ""));
    }
    let seen = all_alive(&skein, &founder).await?;
    screen.line(&screen.row(true, &format!("{seen} machines are one mesh"), ""));
    for app in App::ALL {
        // Spent; one that is not there needs no removal.
        let _ = std::fs::remove_file(compose::token_file(shared, app));
    }
    let documents: Vec<Listed> = skein.json(&["policy", "list", "--node", &founder]).await?;
    if !documents.iter().any(|document| document.kind == "DestinationRule") {
        let file = shared.join("destination-rule-all.yaml");
        compose::write(&file, DESTINATION_RULES)?;
        let pushed = skein.push(&file, &founder).await?;
        screen.line(&screen.row(true, &format!("{} DestinationRules are pushed", pushed.documents.len()), ""));
    }
    screen.line(&screen.paint(Style::Dim, "  there is no VirtualService: all three versions of reviews answer"));
    Ok(ExitCode::SUCCESS)
}

/// Where the founder is, once it has founded the mesh.
async fn founder(shared: &Path) -> anyhow::Result<String> {
    let file = compose::founder_file(shared);
    let started = monotonic();
    while started.elapsed() < PATIENCE {
        if let Ok(address) = std::fs::read_to_string(&file) {
            return Ok(address.trim().to_owned());
        }
        tokio::time::sleep(STEP).await;
    }
    bail!("no mesh was founded within {} s: {} is not there", PATIENCE.as_secs(), file.display())
}

/// The founder's members, as soon as it answers.
async fn known(skein: &Skein, founder: &str) -> anyhow::Result<Vec<Member>> {
    let started = monotonic();
    loop {
        match skein.json(&["members", "--all", "--node", founder]).await {
            Ok(members) => return Ok(members),
            Err(error) if started.elapsed() > PATIENCE => return Err(error).context("the founder does not answer"),
            Err(_) => tokio::time::sleep(STEP).await,
        }
    }
}

async fn all_alive(skein: &Skein, founder: &str) -> anyhow::Result<usize> {
    let started = monotonic();
    loop {
        let members = known(skein, founder).await?;
        let alive = members.iter().filter(|member| member.state == "alive").count();
        if alive == App::ALL.len() {
            return Ok(alive);
        }
        if started.elapsed() > PATIENCE {
            bail!("after {} s only {alive} of {} machines are there", PATIENCE.as_secs(), App::ALL.len());
        }
        tokio::time::sleep(STEP).await;
    }
}
