//! `demo app NAME [-- run ...]`: one sample service, and the node beside it. In a container it is the first process.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};

use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::sync::oneshot;

use super::bookinfo::{self, App, PORT};
use super::signals::Signals;
use super::{compose, process, screen};

/// What `skein demo app NAME -- run ...` takes.
#[derive(Debug, clap::Args)]
pub struct AppArgs {
    /// The sample service: productpage, details, reviews-v1, reviews-v2, reviews-v3 or ratings.
    pub name: String,
    /// Where it listens.
    #[arg(long, value_name = "IP:PORT", default_value_t = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), PORT))]
    pub listen: SocketAddr,
    /// The HTTP proxy port of the node beside it.
    #[arg(long, value_name = "IP:PORT", default_value_t = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15001))]
    pub proxy: SocketAddr,
    /// A directory that all containers share, by which the tokens travel: makes the node a member of the demo's mesh
    /// before it runs.
    #[arg(long, value_name = "DIR")]
    pub shared: Option<PathBuf>,
    /// The node's own command line, without the program's name.
    #[arg(last = true)]
    pub node: Vec<String>,
}

/// Runs the service until a signal comes or the node beside it ends, and gives the node's exit code.
pub(super) fn run(args: AppArgs) -> anyhow::Result<ExitCode> {
    let app: App = args.name.parse().map_err(screen::usage)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(app, args))
}

async fn serve(app: App, args: AppArgs) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::new()?;
    let listener = TcpListener::bind(args.listen).await.with_context(|| format!("cannot listen on {}", args.listen))?;
    if let Some(shared) = &args.shared {
        compose::prepare(app, shared).await?;
    }
    let (stop, stopped) = oneshot::channel::<()>();
    let service = bookinfo::serve(app, listener, args.proxy, async { drop(stopped.await) });
    let life = async {
        let code = if args.node.is_empty() {
            screen::line(&json!({"event": "ready", "app": app.name(), "listen": args.listen}).to_string());
            signals.next().await;
            Ok(ExitCode::SUCCESS)
        } else {
            beside(&args.node, &mut signals).await
        };
        drop(stop);
        code
    };
    let (service, code) = tokio::join!(service, life);
    service.context("the sample service stopped")?;
    code
}

/// Runs the node, hands signals on to it, and waits for its end: it may need the service while it drains.
async fn beside(words: &[String], signals: &mut Signals) -> anyhow::Result<ExitCode> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(words).stdin(Stdio::null()).kill_on_drop(true);
    process::tie(&mut command);
    let mut node = command.spawn().context("cannot start the node")?;
    loop {
        tokio::select! {
            status = node.wait() => {
                let code = status?.code().and_then(|code| u8::try_from(code).ok());
                return Ok(code.map_or(ExitCode::FAILURE, ExitCode::from));
            }
            signal = signals.next() => hand_on(&node, signal),
        }
    }
}

fn hand_on(node: &Child, signal: Signal) {
    if let Some(pid) = node.id().and_then(|pid| i32::try_from(pid).ok()) {
        // It is our child and not yet waited for; one that has just ended needs no signal.
        let _ = kill(Pid::from_raw(pid), signal);
    }
}
