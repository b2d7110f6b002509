//! `skein run`.

use std::{path::Path, path::PathBuf, process::ExitCode, time::Duration};

use crate::{
    agent::state_dir::StateDir,
    cli::{context::Context, error::Result, join, output::remark},
    config,
};

/// Time between two looks for a token file, and between two attempts to reach the enroller.
const PAUSE: Duration = Duration::from_millis(200);

/// Runs the node until it is told to stop: SIGTERM finishes requests first, a second signal ends at once.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: skein run --config /etc/skein/skein.toml")]
pub struct Args {
    /// Join first, by the token in this file, which is waited for; ignored once the node has joined
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// Runs the command.
pub(super) fn run(args: Args, ctx: &Context) -> Result<ExitCode> {
    if let Some(file) = args.token_file.filter(|_| !joined(ctx)) {
        super::block_on(join_by(&file, ctx))?;
    }
    let config = ctx.config()?;
    crate::app::run(config).map(|()| ExitCode::SUCCESS)
}

/// Whether this machine's node has a state of its own.
fn joined(ctx: &Context) -> bool {
    let config = config::read(&ctx.config_file());
    config.is_ok_and(|config| {
        // A state directory that cannot be opened is for `app::run` to complain about.
        config.data_dir.exists()
            && StateDir::open(&config.data_dir).and_then(|dir| dir.owner()).map_or(true, |owner| owner.is_some())
    })
}

/// Waits for the token, and for an enroller that answers.
async fn join_by(file: &Path, ctx: &Context) -> Result<()> {
    let mut told = None;
    loop {
        let waiting = match join::read(file) {
            Ok(text) if text.trim().is_empty() => format!("{} is empty", file.display()),
            Ok(text) => match join::redeem(&text, ctx).await {
                Ok(_) => return Ok(()),
                Err(error) if error.code == "unreachable" => error.message,
                Err(error) => return Err(error),
            },
            Err(_) if !file.exists() => format!("there is no {}", file.display()),
            Err(error) => return Err(error),
        };
        if told.as_ref() != Some(&waiting) {
            remark(&format!("waiting to join: {waiting}"));
            told = Some(waiting);
        }
        tokio::time::sleep(PAUSE).await;
    }
}
