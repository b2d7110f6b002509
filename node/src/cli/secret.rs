//! `skein secret put|list|remove`.

use std::{io::Read as _, path::PathBuf};

use serde_json::Value;

use crate::{
    cli::{
        client,
        context::Context,
        error::{Result, io},
        look::{self, cell},
        output::Table,
    },
    secrets::{Listed, Secret},
};

/// The largest file of a secret, bytes.
const FILE_LIMIT: u64 = 1 << 20;

/// The credentials that documents name (`credentialName`): they stay on this machine.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Keep a certificate with its key, or authorities of clients, at this node; again to renew it
    #[command(
        after_help = "Example: skein secret put httpbin-credential -n istio-system --cert httpbin.crt --key httpbin.key"
    )]
    Put {
        /// Its name, as documents have it; the namespace (-n) is that of the gateway's service
        #[arg(value_name = "NAME")]
        name: String,
        /// Certificate with its chain, PEM
        #[arg(long, value_name = "FILE")]
        cert: Option<PathBuf>,
        /// Its private key, PEM
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
        /// Authorities that clients' certificates must come from, PEM
        #[arg(long, value_name = "FILE")]
        ca: Option<PathBuf>,
        /// Lists of clients' certificates that no longer count, PEM
        #[arg(long, value_name = "FILE")]
        crl: Option<PathBuf>,
    },
    /// List the secrets of this node, and until when their certificates count
    #[command(after_help = "Example: skein secret list")]
    List,
    /// Forget a secret
    #[command(after_help = "Example: skein secret remove httpbin-credential -n istio-system")]
    Remove {
        /// Which one
        #[arg(value_name = "NAME")]
        name: String,
    },
}

/// Runs the command.
pub(super) async fn run(command: Command, ctx: &Context) -> Result<()> {
    let namespace = ctx.globals.namespace().to_owned();
    match command {
        Command::Put { name, cert, key, ca, crl } => {
            let secret = Secret { cert: read(cert)?, key: read(key)?.map(Into::into), ca: read(ca)?, crl: read(crl)? };
            let body = serde_json::json!({"namespace": namespace, "name": name, "secret": secret});
            let put: Value = client::connect_here(ctx).await?.post_json("/v1/local/secrets", &body).await?;
            ctx.output.show(&put, || format!("{namespace}/{name} is kept at this node"))
        }
        Command::List => look::list_here(ctx, "/v1/local/secrets", table).await,
        Command::Remove { name } => {
            let body = serde_json::json!({"namespace": namespace, "name": name});
            let removed: Value = client::connect_here(ctx).await?.post_json("/v1/local/secrets/remove", &body).await?;
            ctx.output.show(&removed, || format!("{namespace}/{name} was removed"))
        }
    }
}

fn read(file: Option<PathBuf>) -> Result<Option<String>> {
    let Some(file) = file else { return Ok(None) };
    let mut text = String::new();
    let opened = std::fs::File::open(&file);
    let read = opened.and_then(|opened| opened.take(FILE_LIMIT).read_to_string(&mut text));
    read.map_err(|error| io("read", &file, &error))?;
    Ok(Some(text))
}

fn table(secrets: &[Listed]) -> Table {
    let mut table = Table::new(&["NAMESPACE", "NAME", "FOR", "UNTIL", "AUTHORITIES"]);
    for secret in secrets {
        table.toned([
            cell(&secret.namespace),
            cell(&secret.name),
            cell(secret.names.join(",")),
            cell(secret.not_after.as_deref().unwrap_or_default()),
            cell(if secret.ca { "yes" } else { "" }),
        ]);
    }
    table
}
