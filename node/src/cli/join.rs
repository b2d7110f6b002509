//! `skein join`.

use std::{io::Read as _, path::PathBuf};

use certs::join::Token;
use serde_json::json;

use crate::{
    agent::{
        join::{self, Join, Joined},
        state_dir::StateDir,
    },
    cli::{
        context::Context,
        error::{Error, Result, io, usage},
    },
    config::{self, Config, Minimal},
};

/// The longest token that is read, bytes.
const TOKEN_LIMIT: u64 = 64 << 10;

/// Makes this machine a node of a mesh, by a token from `skein invite`. Starts nothing.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: ssh operator-host skein invite web-1 --service shop/cart | sudo skein join -")]
pub struct Args {
    /// - reads the token from standard input
    #[arg(value_name = "-", required_unless_present = "token_file")]
    token: Option<String>,
    /// Read the token from this file
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    token_file: Option<PathBuf>,
}

/// Runs the command.
pub(super) async fn run(args: Args, ctx: &Context) -> Result<()> {
    let text = match (&args.token, &args.token_file) {
        (_, Some(file)) => read(file)?,
        (Some(dash), None) if dash == "-" => stdin()?,
        _ => {
            return Err(usage(
                "a token does not belong into the command line, where every user of this machine sees it",
                "pipe it to `skein join -`, or give --token-file FILE",
            ));
        }
    };
    let (joined, config) = redeem(&text, ctx).await?;
    let result = json!({
        "node": joined.node,
        "trust_domain": joined.trust_domain,
        "address": joined.address.to_string(),
        "config": config.file,
        "data_dir": config.data_dir,
    });
    ctx.output.show(&result, || {
        format!(
            "{} is a node of {}.\n\nconfiguration  {}\nstate          {}\n\nNext: skein run\n",
            joined.node,
            joined.trust_domain,
            config.file.display(),
            config.data_dir.display()
        )
    })
}

/// Redeems a token for the node of this machine's configuration, which is written if there is none.
///
/// # Errors
/// A token that is none, is another node's, or is refused; a configuration that disagrees.
pub(super) async fn redeem(text: &str, ctx: &Context) -> Result<(Joined, Config)> {
    let token: Token = text.trim().parse().map_err(|error: certs::join::TokenError| {
        Error::new("token_invalid", error.to_string()).hint("give what `skein invite` printed, all of it")
    })?;
    let file = ctx.config_file();
    let there = file.exists();
    if there {
        agree(&config::read(&file)?, &token)?;
    }
    let minimal = Minimal { node: token.node.clone(), trust_domain: token.trust_domain.clone(), advertise: None };
    let config = config::ensure(&file, &minimal)?;
    let joined = enrol(&config, &token).await.inspect_err(|_| {
        if !there {
            // Nothing half done: the refusal is the error to report.
            let _ = std::fs::remove_file(&file);
        }
    })?;
    Ok((joined, config))
}

async fn enrol(config: &Config, token: &Token) -> Result<Joined> {
    let state = StateDir::open(&config.data_dir)?;
    let wish = Join { token, listen: config.mesh.listen, advertise: config.mesh.advertise };
    join::join(&state, &wish).await
}

/// Sees that the token is for this machine.
fn agree(config: &Config, token: &Token) -> Result<()> {
    let file = config.file.display();
    if config.trust_domain != token.trust_domain {
        let message = format!("the token is for {}, {file} is for {}", token.trust_domain, config.trust_domain);
        return Err(
            Error::new("wrong_trust_domain", message).hint("invite it into the right mesh, or correct the file")
        );
    }
    if config.node != token.node {
        let message = format!("the token is for node {}, {file} names this one {}", token.node, config.node);
        return Err(Error::new("token_invalid", message)
            .hint(format!("`skein invite {}` makes a token for this node", config.node)));
    }
    Ok(())
}

/// Reads a token from a file.
///
/// # Errors
/// It cannot be read.
pub(super) fn read(file: &std::path::Path) -> Result<String> {
    let mut text = String::new();
    let opened = std::fs::File::open(file).and_then(|opened| opened.take(TOKEN_LIMIT).read_to_string(&mut text));
    opened.map_err(|error| io("read", file, &error))?;
    Ok(text)
}

fn stdin() -> Result<String> {
    let mut text = String::new();
    let read = std::io::stdin().lock().take(TOKEN_LIMIT).read_to_string(&mut text);
    read.map_err(|error| io("read", std::path::Path::new("standard input"), &error))?;
    Ok(text)
}
