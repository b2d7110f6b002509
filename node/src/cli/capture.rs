//! `skein capture on|off|status|confirm`.

use std::{
    fs,
    io::ErrorKind,
    net::SocketAddr,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command as Process, Stdio},
    time::Duration,
};

use serde::Serialize;

use crate::{
    accounts,
    agent::{admin::api, state_dir::CAPTURED},
    capture::{self, Guard, Incoming, LIFE, News, Outgoing, Question, Rules, nft},
    cli::{
        client,
        context::Context,
        error::{Error, Result, io},
        value,
    },
    config::Cidr,
};

/// The longest time that a capture may wait for its confirmation.
const LONGEST: Duration = Duration::from_secs(600);
/// The shortest.
const SHORTEST: Duration = Duration::from_secs(1);

/// Lets the kernel bring TCP connections to this node: outgoing ones of local processes, and those of other machines to its services
/// (nftables; needs root).
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Redirect new connections; taken back by itself unless it is confirmed
    #[command(after_help = "Examples:
  skein capture on --uid 1000 --dry-run
  skein capture on --uid 1000 && curl http://cart.shop.mesh/ && skein capture confirm
  skein capture on --inbound-only && skein capture status")]
    On(On),
    /// Redirect no new connection; those that are redirected go on until they end
    #[command(after_help = "Example: skein capture off")]
    Off {
        /// Break off what is redirected, too
        #[arg(long)]
        now: bool,
    },
    /// Show whether connections are redirected
    #[command(after_help = "Example: skein capture status -o json")]
    Status,
    /// Say that this machine can still be reached: the capture stays while the node runs
    #[command(after_help = "Example: skein capture confirm")]
    Confirm,
    /// Keep a capture in force while the node answers
    #[command(hide = true)]
    Guard {
        #[arg(long)]
        token: u32,
        #[arg(long, value_parser = value::duration)]
        confirm_within: Duration,
        #[arg(long)]
        listen: Vec<SocketAddr>,
        #[arg(long)]
        inbound: bool,
    },
}

/// `skein capture on`.
#[derive(Debug, clap::Args)]
pub struct On {
    /// Also connections of other machines to the ports of this node's services: in plaintext, as PeerAuthentication allows
    #[arg(long)]
    inbound: bool,
    /// Only those; nothing of local processes
    #[arg(long, conflicts_with_all = ["inbound", "uid", "gid"])]
    inbound_only: bool,
    /// Only processes of this user, by name or number [default: everybody but the node's own user]; says nothing of other machines
    #[arg(long, value_name = "USER")]
    uid: Vec<String>,
    /// Only processes of this group, by name or number; says nothing of other machines
    #[arg(long, value_name = "GROUP")]
    gid: Vec<String>,
    /// Leave this port alone, both ways (22 and the mesh's own always are)
    #[arg(long, value_name = "PORT")]
    exclude_port: Vec<u16>,
    /// Leave this network alone: what goes there, and what comes from there
    #[arg(long, value_name = "CIDR", value_parser = Cidr::parse)]
    exclude: Vec<Cidr>,
    /// Take it back after this time unless it was confirmed
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = value::duration)]
    confirm_within: Duration,
    /// Only print the rules
    #[arg(long)]
    dry_run: bool,
}

/// How it is.
#[derive(Debug, Serialize)]
struct Status {
    /// `off`, `unconfirmed`, `on`, or `ending`: no new connection is redirected, and some still go on.
    state: &'static str,
    /// Connections that go on.
    connections: usize,
    /// Connections that were redirected since it was switched on.
    redirected: u64,
    /// Where the node takes those of this machine; empty if it does not answer.
    listen: Vec<SocketAddr>,
    /// Connections of this machine are redirected.
    outbound: bool,
    /// Of connections of other machines.
    inbound: Inbound,
}

/// How it is with connections of other machines.
#[derive(Debug, Serialize)]
struct Inbound {
    /// They are redirected.
    captured: bool,
    /// Those that were since it was switched on; among the others.
    redirected: u64,
    /// The ports of applications that they called, `ADDRESS:PORT`; `*` for each address of the machine.
    targets: Vec<String>,
    /// Where the node takes them.
    listen: Vec<SocketAddr>,
}

/// Runs the command.
pub(super) async fn run(command: Command, ctx: &Context) -> Result<()> {
    match command {
        Command::On(on) => switch_on(on, ctx).await,
        Command::Off { now } => switch_off(now, ctx).await,
        Command::Status => {
            let status = status(ctx).await?;
            ctx.output.show(&status, || told(&status))
        }
        Command::Confirm => confirm(ctx).await,
        Command::Guard { token, confirm_within, listen, inbound } => {
            guard(Guard { token, confirm_within, listen, inbound }, ctx).await;
            Ok(())
        }
    }
}

async fn switch_on(on: On, ctx: &Context) -> Result<()> {
    if on.confirm_within < SHORTEST || on.confirm_within > LONGEST {
        let message = format!("--confirm-within is {SHORTEST:?} to {LONGEST:?}");
        return Err(Error::new("usage", message).hint("long enough to try whether the machine still answers"));
    }
    let node: api::Capture = client::connect_here(ctx).await?.get("/v1/local/capture").await?;
    if node.leaving {
        return Err(Error::new("failed", "the node does not serve yet, or stops").hint("try again once it is ready"));
    }
    let rules = rules(&on, &node)?;
    let token = rand::random::<u32>();
    let script = rules.script(token, LIFE);
    if on.dry_run {
        return ctx.output.show(&serde_json::json!({"rules": script}), || script.clone());
    }
    let everybodys =
        rules.outgoing.as_ref().is_some_and(|outgoing| outgoing.uids.is_empty() && outgoing.gids.is_empty());
    if node.uid == 0 && everybodys {
        eprintln!(
            "note: the node runs as root, so that no process of root is captured: give the node a user of its own"
        );
    }
    nft::apply(&script)?;
    if let Err(error) = start_guard(token, &on, &node, ctx) {
        drop(nft::remove());
        return Err(Error::new("failed", format!("no guard could be started: {error}")).hint("nothing is captured"));
    }
    let seconds = on.confirm_within.as_secs();
    let status = status(ctx).await?;
    ctx.output.show(&status, || {
        let which = match &rules.incoming {
            None => "new connections are".to_owned(),
            Some(_) if status.inbound.targets.is_empty() => {
                "no application of a service can be reached by other machines yet; its connections will be".to_owned()
            }
            Some(_) => format!(
                "new connections, those of other machines to {} among them, are",
                status.inbound.targets.join(", ")
            ),
        };
        format!("{which} brought to this node; taken back in {seconds} s unless you say `skein capture confirm`")
    })
}

fn rules(on: &On, node: &api::Capture) -> Result<Rules> {
    Ok(Rules {
        outgoing: if on.inbound_only { None } else { Some(outgoing(on, node)?) },
        incoming: if on.inbound || on.inbound_only { Some(incoming(node)?) } else { None },
        spared: node.spared.iter().chain(&on.exclude_port).copied().collect(),
        networks: on.exclude.clone(),
    })
}

fn outgoing(on: &On, node: &api::Capture) -> Result<Outgoing> {
    let port = node.listen.first().map(SocketAddr::port).unwrap_or_default();
    let unknown = |kind: &str, name: &str| {
        Error::new("usage", format!("there is no {kind} `{name}` on this machine"))
            .hint("a name of this machine, or a number")
    };
    let number = |name: &String| name.parse::<u32>().ok();
    let uid = |name: &String| number(name).or_else(|| Some(accounts::user(name)?.uid.as_raw()));
    let gid = |name: &String| number(name).or_else(|| Some(accounts::group(name)?.as_raw()));
    let uids = on.uid.iter().map(|name| uid(name).ok_or_else(|| unknown("user", name)));
    let gids = on.gid.iter().map(|name| gid(name).ok_or_else(|| unknown("group", name)));
    let uids: std::collections::BTreeSet<u32> = uids.collect::<Result<_>>()?;
    if uids.contains(&node.uid) {
        let message = format!("user {} is the node's own: its connections would come back to it", node.uid);
        return Err(Error::new("usage", message).hint("run the node as a user of its own"));
    }
    Ok(Outgoing {
        port,
        ipv6: node.listen.iter().any(SocketAddr::is_ipv6),
        node: node.uid,
        services: node.services.as_deref().and_then(|text| Cidr::parse(text).ok()),
        uids,
        gids: gids.collect::<Result<_>>()?,
    })
}

fn incoming(node: &api::Capture) -> Result<Incoming> {
    let Some(inbound) = &node.inbound else {
        let hint = "write `inbound_port = 15006` into its [capture] and restart it";
        return Err(Error::new("bad_config", "this node takes no connections of other machines").hint(hint));
    };
    if let Some(why) = &inbound.unknown {
        let message = format!("the node cannot tell where applications listen: {why}");
        return Err(
            Error::new("failed", message).hint("let the user that it runs as read it (is /proc mounted there?)")
        );
    }
    Ok(Incoming {
        port: inbound.listen.first().map(SocketAddr::port).unwrap_or_default(),
        ipv6: inbound.listen.iter().any(SocketAddr::is_ipv6),
        targets: inbound.targets.clone(),
    })
}

/// A process of its own, in a group of its own: neither the end of this command nor of its terminal ends it.
fn start_guard(token: u32, on: &On, node: &api::Capture, ctx: &Context) -> std::io::Result<()> {
    let mut guard = Process::new(std::env::current_exe()?);
    if let Some(file) = &ctx.globals.config {
        guard.arg("--config").arg(file);
    }
    guard.args(["capture", "guard", "--token", &token.to_string()]);
    guard.arg("--confirm-within").arg(format!("{}ms", on.confirm_within.as_millis()));
    for address in listens(node) {
        guard.arg("--listen").arg(address.to_string());
    }
    if on.inbound || on.inbound_only {
        guard.arg("--inbound");
    }
    guard.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    guard.spawn().map(drop)
}

/// Where the node takes connections, both ways.
fn listens(node: &api::Capture) -> Vec<SocketAddr> {
    node.listen.iter().chain(node.inbound.iter().flat_map(|inbound| &inbound.listen)).copied().collect()
}

/// Guards until the end. Each question is asked anew where the last connection broke, which tells that the node is gone; and where the
/// last question was given up, whose connection ends with it.
async fn guard(guard: Guard, ctx: &Context) {
    // A session of its own: the terminal's end is none of its business. It fails for who leads one already.
    let _ = nix::unistd::setsid();
    let client = &tokio::sync::Mutex::new(None);
    let token = guard.token;
    capture::guard(guard, |question| async move {
        let mut kept = client.lock().await;
        let mut client = match kept.take() {
            Some(client) => client,
            None => client::connect_here(ctx).await?,
        };
        let node: api::Capture = match question {
            Question::News => client.get(&format!("/v1/local/capture?news=true&guard={token}")).await?,
            Question::Alive => client.get("/v1/local/capture?news=true").await?,
            Question::Ended => client.post(&format!("/v1/local/capture/ended?guard={token}"), "").await?,
        };
        *kept = Some(client);
        let known = node.inbound.filter(|inbound| inbound.unknown.is_none());
        Ok::<_, Error>(News { leaving: node.leaving, targets: known.map(|inbound| inbound.targets) })
    })
    .await;
}

async fn switch_off(now: bool, ctx: &Context) -> Result<()> {
    if nft::state()?.present {
        nft::disarm()?;
        let status = status(ctx).await?;
        // With the table goes what the kernel knows of redirected connections.
        if now || status.connections == 0 {
            nft::remove()?;
        }
    }
    match client::connect_here(ctx).await {
        Ok(mut client) => drop(client.post::<api::Capture>("/v1/local/capture/ended", "").await),
        // A node that does not run has it in its state only: else it would complain of this once it is started.
        Err(_) => {
            if let Ok(config) = ctx.config() {
                forget(&config.data_dir.join(CAPTURED))?;
            }
        }
    }
    let status = status(ctx).await?;
    ctx.output.show(&status, || told(&status))
}

fn forget(captured: &Path) -> Result<()> {
    match fs::remove_file(captured) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(io("remove", captured, &error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

async fn confirm(ctx: &Context) -> Result<()> {
    if !nft::state()?.armed {
        return Err(Error::new("not_found", "nothing is captured: it was taken back, or never switched on")
            .hint("`skein capture on` switches it on"));
    }
    nft::confirm()?;
    let status = status(ctx).await?;
    ctx.output.show(&status, || told(&status))
}

async fn status(ctx: &Context) -> Result<Status> {
    let state = nft::state()?;
    let node: Option<api::Capture> = match client::connect_here(ctx).await {
        Ok(mut client) => client.get("/v1/local/capture").await.ok(),
        Err(_) => None,
    };
    let connections = node.as_ref().map_or(0, |node| nft::connections(&listens(node)));
    let state_word = match (state.present, state.armed, state.confirmed) {
        (false, _, _) => "off",
        (true, true, true) => "on",
        (true, true, false) => "unconfirmed",
        (true, false, _) => "ending",
    };
    let (listen, incoming) = node.map_or_else(Default::default, |node| {
        (node.listen, node.inbound.map(|inbound| inbound.listen).unwrap_or_default())
    });
    Ok(Status {
        state: state_word,
        connections,
        redirected: state.outgoing.redirected + state.incoming.redirected,
        listen,
        outbound: state.armed && state.outgoing.ruled,
        inbound: Inbound {
            captured: state.armed && state.incoming.ruled,
            redirected: state.incoming.redirected,
            targets: state.targets,
            listen: incoming,
        },
    })
}

fn told(status: &Status) -> String {
    let Status { state, connections, redirected, .. } = status;
    let ways = match (status.outbound, status.inbound.captured) {
        (true, true) => format!("both ways, from other machines to {}", told_targets(status)),
        (false, true) => format!("only from other machines, to {}", told_targets(status)),
        (_, false) => "from this machine".to_owned(),
    };
    match *state {
        "off" => "nothing is captured".to_owned(),
        "on" => format!("captured {ways}: {redirected} connections so far, {connections} go on"),
        "unconfirmed" => format!(
            "captured {ways}, not confirmed: {redirected} connections so far, {connections} go on; `skein capture confirm`"
        ),
        _ => format!("no new connection is captured; {connections} go on"),
    }
}

fn told_targets(status: &Status) -> String {
    match status.inbound.targets.as_slice() {
        [] => "no port: no application of a service listens where they reach it".to_owned(),
        targets => targets.join(", "),
    }
}
