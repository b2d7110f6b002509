//! `skein join`.

use std::{io::Read, path::PathBuf};

use certs::{
    id::{NodeId, TrustDomain},
    join::Token,
    sign::Digest,
};
use serde_json::json;
use zeroize::Zeroizing;

use crate::{
    agent::join::{self, Join, Joined},
    cli::{
        ca::offline,
        context::Context,
        error::{Error, Result, io, usage},
        progress,
    },
    config::{self, Config, Minimal},
};

/// The longest token that is read, bytes.
const TOKEN_LIMIT: u64 = 64 << 10;

/// Makes this machine a node of a mesh, by a token from `skein invite`. Starts nothing.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "skein join - | --token-file FILE | --enrolment FILE --genesis HASH",
    after_help = "Examples:
  ssh operator-host skein invite web-1 --service shop/cart | sudo skein join -
  skein join --enrolment web-9.enrolment --genesis HASH    (where no enroller is reached; see `skein ca csr`)"
)]
pub struct Args {
    /// - reads the token from standard input
    #[arg(value_name = "-", required_unless_present_any = ["token_file", "enrolment"])]
    token: Option<String>,
    /// Read the token from this file
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    token_file: Option<PathBuf>,
    /// Take what `skein ca sign` printed for this machine's `skein ca csr`; no connection is made
    #[arg(long, value_name = "FILE", conflicts_with_all = ["token", "token_file"])]
    enrolment: Option<PathBuf>,
    /// The mesh's first RoleSet, as `skein ca sign` said it and `mesh.toml` in the operator directory holds it. Carry it by another way
    /// than the file: who can change that could else make this machine a node of his own mesh
    #[arg(long, value_name = "HASH", requires = "enrolment")]
    genesis: Option<Digest>,
}

/// Runs the command.
pub(super) async fn run(args: Args, ctx: &Context) -> Result<()> {
    let (joined, config) = match (&args.token, &args.token_file, &args.enrolment) {
        (_, _, Some(file)) => offline::take(file, args.genesis, ctx)?,
        (_, Some(file), None) => redeem(&read(file)?, ctx).await?,
        (Some(dash), None, None) if dash == "-" => redeem(&stdin()?, ctx).await?,
        (_, None, None) => {
            return Err(usage(
                "a token does not belong into the command line, where every user of this machine sees it",
                "pipe it to `skein join -`, or give --token-file FILE",
            ));
        }
    };
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
        agree(&config::read(&file)?, &token.node, &token.trust_domain, "the token")?;
    }
    let minimal = Minimal { node: token.node.clone(), trust_domain: token.trust_domain.clone(), advertise: None };
    let config = config::ensure(&file, &minimal)?;
    let joined = enrol(&config, &token, ctx).await.inspect_err(|error| {
        // Who is to give the command instead may not be able to write it.
        if !there && error.code != "key_permissions" {
            // Nothing half done: the refusal is the error to report.
            let _ = std::fs::remove_file(&file);
        }
    })?;
    Ok((joined, config))
}

async fn enrol(config: &Config, token: &Token, ctx: &Context) -> Result<Joined> {
    let state = ctx.state(config, "join --token-file FILE, or join -")?;
    let wish = Join { token, listen: config.mesh.listen, advertise: config.mesh.advertise };
    let what = format!("asking the enroller {} at {}", token.enroller, token.addresses.join(", "));
    progress::of(join::join(&state, &wish), &what).await
}

/// Sees that a token or an enrolment is for this machine.
pub(super) fn agree(config: &Config, node: &NodeId, trust_domain: &TrustDomain, what: &str) -> Result<()> {
    let file = config.file.display();
    if config.trust_domain != *trust_domain {
        let message = format!("{what} is for {trust_domain}, {file} is for {}", config.trust_domain);
        return Err(
            Error::new("wrong_trust_domain", message).hint("invite it into the right mesh, or correct the file")
        );
    }
    if config.node != *node {
        let message = format!("{what} is for node {node}, {file} names this one {}", config.node);
        return Err(Error::new("token_invalid", message)
            .hint(format!("`skein invite {}` makes a token for this node", config.node)));
    }
    Ok(())
}

/// Reads a token from a file.
///
/// # Errors
/// It cannot be read.
pub(super) fn read(file: &std::path::Path) -> Result<Zeroizing<String>> {
    let opened = std::fs::File::open(file).and_then(token);
    opened.map_err(|error| io("read", file, &error))
}

/// A token's text, in a buffer that never moves.
fn token(from: impl Read) -> std::io::Result<Zeroizing<String>> {
    let limit = usize::try_from(TOKEN_LIMIT).unwrap_or_default();
    let mut text = Zeroizing::new(String::with_capacity(limit + 1));
    from.take(TOKEN_LIMIT).read_to_string(&mut text)?;
    Ok(text)
}

/// Reads at most so many bytes of a text file.
///
/// # Errors
/// It cannot be read.
pub(super) fn read_within(file: &std::path::Path, limit: u64) -> Result<String> {
    let mut text = String::new();
    let opened = std::fs::File::open(file).and_then(|opened| opened.take(limit).read_to_string(&mut text));
    opened.map_err(|error| io("read", file, &error))?;
    Ok(text)
}

fn stdin() -> Result<Zeroizing<String>> {
    token(std::io::stdin().lock()).map_err(|error| io("read", std::path::Path::new("standard input"), &error))
}
