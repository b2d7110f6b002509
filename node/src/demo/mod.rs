//! The demonstration mesh and its sample application.

mod app;
mod bookinfo;
mod client;
mod cluster;
mod compose;
mod failover;
mod ledger;
mod machine;
mod operator;
mod place;
mod process;
mod report;
mod screen;
mod show;
mod signals;
mod skein;
mod stay;
mod traffic;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

pub use self::app::AppArgs;
pub use self::operator::OperatorArgs;

use self::cluster::Cluster;
use self::ledger::Remains;
use self::place::Place;
use self::report::Report;
use self::screen::{Screen, Style};
use self::show::Show;
use self::signals::Signals;
use crate::clock::monotonic;

/// `--once` is over after this long, whatever happens: it takes 20 s, and several times as much on a busy machine.
const ONCE: Duration = Duration::from_secs(240);

/// What `skein demo` takes.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    /// Ends by itself in under a minute; exit code 0 only if every step held.
    #[arg(long)]
    pub once: bool,
    /// Where the demo keeps its files while it runs [default: a directory of its own under the temporary directory]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Parts that containers without a shell start one by one.
    #[command(subcommand)]
    pub part: Option<Part>,
}

/// Hidden commands for containers without a shell.
#[derive(Debug, clap::Subcommand)]
pub enum Part {
    /// Starts one sample service, beside a node if its command line follows `--`.
    #[command(hide = true)]
    App(AppArgs),
    /// Invites the demo's nodes and pushes its first documents.
    #[command(hide = true)]
    Operator(OperatorArgs),
}

/// Runs `skein demo`; `json` is `-o json`. To be called from the main thread, outside any runtime: it builds its own,
/// and its child processes live as long as this thread.
///
/// # Errors
/// What stopped the demo before it could give a summary; a step that did not hold is exit code 1 instead.
pub fn run(args: Args, json: bool) -> anyhow::Result<ExitCode> {
    match args.part {
        Some(Part::App(part)) => app(part),
        Some(Part::Operator(part)) => operator(&part, json),
        None => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(demonstrate(args, json))
        }
    }
}

/// Runs `skein demo app`: one sample service, and the node beside it.
///
/// # Errors
/// An address in use, an unknown name.
pub fn app(args: AppArgs) -> anyhow::Result<ExitCode> {
    app::run(args)
}

/// Runs `skein demo operator`.
///
/// # Errors
/// A node that cannot be reached or refuses.
pub fn operator(args: &OperatorArgs, json: bool) -> anyhow::Result<ExitCode> {
    operator::run(args, json)
}

/// How the course of a demonstration ended.
enum End {
    /// It ran through, or failed on the way.
    Played(anyhow::Result<()>),
    /// A signal came.
    Interrupted,
}

async fn demonstrate(args: Args, json: bool) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::new()?;
    let screen = Screen::new(json);
    let (place, remains) = Place::take(args.dir.as_deref())?;
    remains.iter().for_each(tell);
    screen.line(&format!(
        " {}  a service mesh with nothing to keep alive   {}",
        screen.paint(Style::Bold, "skein demo"),
        screen.paint(Style::Dim, &place.dir().display().to_string())
    ));
    let mut cluster = Cluster::new(place)?;
    let started = monotonic();
    let mut report = Report::default();
    let mut show = Show { cluster: &mut cluster, screen: &screen, report: &mut report, complaints: Vec::new() };
    let limit = if args.once { ONCE } else { Duration::MAX };
    let course = async {
        show.rise().await?;
        // Who asks for JSON and stays wants a mesh to use, not to watch.
        if json && !args.once { show.push("destination-rule-all.yaml", "details").await } else { show.play().await }
    };
    let end = tokio::select! {
        played = tokio::time::timeout(limit, course) => End::Played(played.unwrap_or_else(|_| {
            Err(anyhow::anyhow!("not through after {} s", limit.as_secs()))
        })),
        _ = signals.next() => End::Interrupted,
    };
    let complaints = std::mem::take(&mut show.complaints);
    let result = match end {
        End::Interrupted => Err(anyhow::anyhow!("interrupted")),
        End::Played(played) => {
            let through = played.is_ok();
            let held = played.and_then(|()| verdict(&complaints));
            report.ok = held.is_ok();
            summary(&screen, &report, started.elapsed());
            if json && args.once {
                screen::line(&serde_json::to_string(&report)?);
            } else if json && through {
                screen::line(&cluster.handle());
            }
            if !args.once && through {
                stay::hints(&cluster, &screen);
                stay::stay(&mut cluster, &screen, &mut signals).await;
            }
            held
        }
    };
    let logs = cluster.end(result.is_err()).await?;
    let gone = logs.map_or_else(|| "all files are removed".into(), |dir| format!("logs are in {}", dir.display()));
    screen.line(&format!("  {}", screen.paint(Style::Dim, &format!("all processes have ended, {gone}"))));
    result.map(|()| ExitCode::SUCCESS)
}

/// An error if anything did not hold.
fn verdict(complaints: &[String]) -> anyhow::Result<()> {
    anyhow::ensure!(complaints.is_empty(), "not every step held: {}", complaints.join("; "));
    Ok(())
}

/// Says what an earlier demonstration left, and that it is gone.
fn tell(remains: &Remains) {
    let still = match remains.running.len() {
        0 => "none still ran".to_owned(),
        count => format!("{count} still ran and were killed ({})", remains.running.join(", ")),
    };
    screen::warn(&format!(
        "A demo that began {} was killed and could not clean up: of its {} processes {still}; removed its files in {}.",
        remains.since,
        remains.processes,
        remains.dir.display()
    ));
}

fn summary(screen: &Screen, report: &Report, took: Duration) {
    screen.chapter("Summary", &format!("{:.1} s", took.as_secs_f64()));
    let requests: u64 = report.steps.iter().map(|step| step.requests).sum();
    let failed: u64 = report.steps.iter().map(|step| step.failed).sum();
    let mut spreads: Vec<_> = report.pushes.iter().map(|push| push.to_all_ms).collect();
    spreads.sort_unstable();
    if let (Some(median), Some(longest)) = (spreads.get(spreads.len() / 2), spreads.last()) {
        let rest = format!("median {median} ms, longest {longest} ms");
        screen.line(&screen.row(true, &format!("{} pushes, each active on all nodes", spreads.len()), &rest));
    }
    if requests > 0 {
        screen.line(&screen.row(failed == 0, &format!("{requests} requests"), &screen.failed(failed)));
    }
    let failover = &report.failover;
    if failover.requests > 0 {
        let rest = format!(
            "{} retried, {}, endpoint out everywhere after {} ms",
            failover.retried,
            screen.failed(failover.failed),
            failover.removed_everywhere_ms
        );
        screen.line(&screen.row(failover.failed == 0, "a node killed under load", &rest));
    }
    if report.ok {
        screen.line(&screen.row(true, "every step held", ""));
    }
}
