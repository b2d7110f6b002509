//! `skein identity list|show|verify`.

use std::{fmt::Write as _, path::PathBuf};

use certs::{
    codec::Millis,
    grant::{Grant, Pattern},
    id::{SpiffeId, TrustDomain},
    root::bundle_from_pem,
    verify::{Authority, Described, Role, describe, judge},
};
use rustls::pki_types::CertificateDer;
use serde_json::json;

use crate::{
    agent::admin::{api::Identity, rfc3339},
    cli::{
        client,
        context::Context,
        error::{Error, Result, io, usage},
        look,
        output::Table,
        value,
    },
    clock,
};

/// The identities of a node.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List the identities that a node shows, those that its applications were given, and when they end
    #[command(after_help = "Example: skein identity list")]
    List,
    /// Show one identity with its certificates, and what its CAs may certify
    #[command(after_help = "Example: skein identity show spiffe://prod.example/ns/shop/sa/cart")]
    Show {
        /// `spiffe://...` or NS/SA
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Judge a chain of certificates as a handshake does, by the roots alone: grants and revocations are a node's to add
    #[command(
        after_help = "Example: skein identity verify chain.pem --bundle bundle.pem --role server --expect spiffe://prod.example/ns/shop/sa/cart"
    )]
    Verify(Verify),
}

/// What is judged, and by what.
#[derive(Debug, clap::Args)]
pub struct Verify {
    /// Leaf, node CA and enroller CA, PEM
    #[arg(value_name = "CHAIN")]
    chain: PathBuf,
    /// The roots that are believed, PEM: what `skein ca bundle` prints
    #[arg(long, value_name = "FILE")]
    bundle: PathBuf,
    /// When [default: now]
    #[arg(long, value_name = "TIME", value_parser = value::time)]
    at: Option<Millis>,
    /// On which side of the connection the chain was shown
    #[arg(long, value_name = "client|server", value_parser = side, default_value = "server")]
    role: Role,
    /// Only this identity will do: `spiffe://...`
    #[arg(long, value_name = "ID")]
    expect: Option<SpiffeId>,
    /// The mesh [default: that of --expect, else that of the chain]
    #[arg(long, value_name = "TRUST_DOMAIN")]
    trust_domain: Option<TrustDomain>,
}

/// Runs the command.
pub(super) async fn run(command: Command, ctx: &Context) -> Result<()> {
    match command {
        Command::List => look::list_here(ctx, "/v1/identities", table).await,
        Command::Show { id } => show(&id, ctx).await,
        Command::Verify(args) => verify(&args, ctx),
    }
}

fn side(word: &str) -> std::result::Result<Role, String> {
    match word {
        "client" => Ok(Role::Client),
        "server" => Ok(Role::Server),
        _ => Err("client or server".to_owned()),
    }
}

fn table(identities: &[Identity]) -> Table {
    let mut table = Table::new(&["IDENTITY", "ENDS", "KEY", "ROOT"]);
    for identity in identities {
        let ends = identity.not_after.parse::<jiff::Timestamp>().map(|at| at.as_millisecond().unsigned_abs());
        let ends = ends.map_or_else(|_| String::new(), |ends| away(ends, clock::wall()));
        let held = identity.uid.map_or_else(|| "this node".to_owned(), |uid| format!("user {uid}"));
        table.row([&identity.id, &ends, &held, &identity.root_state]);
    }
    table
}

async fn show(id: &str, ctx: &Context) -> Result<()> {
    let identities: Vec<Identity> = client::connect_here(ctx).await?.get("/v1/identities").await?;
    let suffix = id.split_once('/').map(|(namespace, account)| format!("/ns/{namespace}/sa/{account}"));
    let named = |identity: &&Identity| {
        identity.id == id || suffix.as_ref().is_some_and(|suffix| identity.id.ends_with(suffix.as_str()))
    };
    let identity = identities.iter().find(named).ok_or_else(|| {
        Error::new("not_found", format!("this node has no identity {id}")).hint("`skein identity list` shows all")
    })?;
    let chain = bundle_from_pem(&identity.chain).ok().and_then(|ders| describe(&ders).ok()).unwrap_or_default();
    let mut value = json!(identity);
    value["certificates"] = chain.iter().map(facts).collect();
    ctx.output.show(&value, || {
        let now = clock::wall();
        let mut text = format!("{}\ncalled {} in TLS\n", identity.id, identity.dns_name);
        chain.iter().for_each(|one| text.push_str(&words(one, now)));
        text.push_str(&in_force(identity.effective.as_ref()));
        if !identity.root.is_empty() {
            let _ = writeln!(text, "{:<12}{} ({})", "root", identity.root, identity.root_state);
        }
        text + "\n" + &identity.chain
    })
}

fn facts(one: &Described) -> serde_json::Value {
    json!({
        "certificate": one.link.to_string(),
        "not_before": rfc3339(one.not_before),
        "not_after": rfc3339(one.not_after),
        "id": one.id.as_ref().map(ToString::to_string),
        "public_key": one.key.to_string(),
        "grant": one.grant.as_ref().map(|grant| json!({
            "node": grant.node,
            "epoch": grant.epoch,
            "accounts": grant.accounts,
            "services": grant.services,
            "enroller": grant.enroller,
        })),
    })
}

/// What operators grant today, as people read it.
fn in_force(grant: Option<&Grant>) -> String {
    let Some(grant) = grant else { return format!("{:<12}nothing: this node is out\n", "in force") };
    let enrols = if grant.enroller { "; it enrols others" } else { "" };
    format!("{:<12}accounts {}; services {}{enrols}\n", "in force", list(&grant.accounts), list(&grant.services))
}

fn list(patterns: &[Pattern]) -> String {
    match patterns {
        [] => "none".to_owned(),
        some => some.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}

/// One certificate as people read it.
fn words(one: &Described, now: Millis) -> String {
    let mut text = format!("{:<12}", one.link.to_string());
    if let Some(grant) = &one.grant {
        let what = if grant.enroller { "certifies nodes" } else { "certifies itself" };
        // Writing to a string does not fail.
        let _ = write!(text, "{} (epoch {}) {what}: ", grant.node, grant.epoch);
        let _ = write!(text, "accounts {}; services {}; ", list(&grant.accounts), list(&grant.services));
    }
    let _ = writeln!(text, "ends {} ({})", away(one.not_after, now), rfc3339(one.not_after));
    let _ = writeln!(text, "{:<12}public key {}", "", one.key);
    text
}

/// How far an end is: `in 47 min`, `9 h ago`.
fn away(end: Millis, now: Millis) -> String {
    let seconds = end.abs_diff(now) / 1000;
    let length = match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    };
    if end >= now { format!("in {length}") } else { format!("{length} ago") }
}

fn verify(args: &Verify, ctx: &Context) -> Result<()> {
    let read = |path: &PathBuf| {
        let text = std::fs::read_to_string(path).map_err(|error| io("read", path, &error))?;
        bundle_from_pem(&text).map_err(|error| usage(format!("{}: {error}", path.display()), "it must be PEM"))
    };
    let (chain, roots) = (read(&args.chain)?, read(&args.bundle)?);
    let (id, reason) = match verdict(args, &chain, roots) {
        Ok(id) => (Some(id), None),
        Err(reason) => (None, Some(reason)),
    };
    let value = json!({"valid": reason.is_none(), "reason": reason, "id": id});
    ctx.output.show(&value, || match (&id, &reason) {
        (Some(id), _) => format!("valid: {id}\n"),
        (None, reason) => format!("not valid: {}\n", reason.as_deref().unwrap_or_default()),
    })?;
    reason.map_or(Ok(()), |reason| Err(Error::new("refused", reason).hint("a handshake would fail with it")))
}

/// The identity, or why there is none.
fn verdict(args: &Verify, chain: &[Vec<u8>], roots: Vec<Vec<u8>>) -> std::result::Result<String, String> {
    let own = || describe(chain.get(..1)?).ok()?.pop()?.id.map(|id| id.trust_domain);
    let expected = || args.expect.as_ref().map(|id| id.trust_domain.clone());
    // A chain whose leaf cannot be read is refused whatever the mesh.
    let mesh = args.trust_domain.clone().or_else(expected).or_else(own);
    let mesh = mesh.or_else(|| TrustDomain::new("unknown").ok()).ok_or("no trust domain")?;
    let chain: Vec<CertificateDer<'_>> = chain.iter().map(|der| der.as_slice().into()).collect();
    let now = args.at.unwrap_or_else(clock::wall);
    let peer = judge(&chain, args.role, args.expect.as_ref(), &Authority::new(mesh, roots), now);
    peer.map(|peer| peer.id.uri()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_in_words() {
        let now = 1_800_000_000_000;
        for (end, wanted) in [
            (now + 30_000, "in 30 s"),
            (now - 30_000, "30 s ago"),
            (now + 47 * 60_000, "in 47 min"),
            (now + 20 * 3_600_000, "in 20 h"),
            (now + 29 * 86_400_000, "in 29 days"),
        ] {
            assert_eq!(away(end, now), wanted);
        }
    }
}
