//! A node that serves reviews is killed under load: what does the client see?

use std::cell::RefCell;
use std::time::Duration;

use tokio::sync::oneshot;

use super::report::{Failover, Step, milliseconds};
use super::screen::Style;
use super::show::{ALL_THREE, Show, amiss, took};
use super::traffic::{RATE, Tally, Traffic};
use super::watch;
use crate::clock::monotonic;

/// Who is killed.
const VICTIM: &str = "reviews-v2";
/// Load before the kill, and after the last node has noticed.
const BEFORE: Duration = Duration::from_millis(1500);
const AFTER: Duration = Duration::from_millis(1500);
/// How long nodes may take to notice, and to take a node back.
const NOTICE: Duration = Duration::from_secs(10);

/// Kills, watches, and brings back.
///
/// # Errors
/// A node does not answer, or the killed one does not come back.
pub(super) async fn play(show: &mut Show<'_>) -> anyhow::Result<()> {
    let what = format!("all three versions answer {RATE} requests a second; {VICTIM} is killed with SIGKILL");
    show.screen.chapter("Failover", &what);
    kill(show).await?;
    bring_back(show).await?;
    show.step("all three versions again", None, ALL_THREE).await
}

async fn kill(show: &mut Show<'_>) -> anyhow::Result<()> {
    let tally = RefCell::new(Tally::default());
    let traffic = Traffic { client: &show.cluster.client, user: None, rate: RATE };
    let (stop, stopped) = oneshot::channel::<()>();
    let load = traffic.run(u64::MAX, async { drop(stopped.await) }, &tally);
    let course = async {
        tokio::time::sleep(BEFORE).await;
        show.cluster.kill(VICTIM);
        let killed = monotonic();
        let others = show.cluster.all_but(VICTIM);
        let removed = watch::until("the endpoint is out", &others, NOTICE, |watcher| async move {
            let endpoints = watcher.endpoints().await?;
            Ok(!endpoints.iter().any(|endpoint| endpoint.node == VICTIM && endpoint.health == "healthy"))
        });
        let removed = removed.await.map(|_| killed.elapsed());
        tokio::time::sleep(AFTER).await;
        drop(stop);
        removed
    };
    let label = format!("kill -9 {VICTIM}");
    let (removed, ()) = show.live(&label, &tally, async { tokio::join!(course, load) }).await;
    let removed = removed?;
    let tally = tally.into_inner();
    let amiss = amiss(&tally, &[]);
    let screen = show.screen;
    screen.line(&screen.row(true, "its endpoint is out, seen from every other node", &took(removed)));
    screen.line(&screen.row(amiss.is_none(), "requests go on", &show.seen(&tally)));
    let slowest = format!("retried by the mesh: {}; the slowest took {} ms", tally.retried, tally.slowest.as_millis());
    screen.line(&format!("    {}", screen.paint(Style::Dim, &slowest)));
    show.complaints.extend(amiss.map(|amiss| format!("failover: {amiss}")));
    show.report.failover = Failover {
        requests: tally.requests,
        failed: tally.failed,
        retried: tally.retried,
        removed_everywhere_ms: milliseconds(removed),
    };
    show.report.steps.push(Step::new("a node of reviews is killed", &tally));
    Ok(())
}

async fn bring_back(show: &mut Show<'_>) -> anyhow::Result<()> {
    let started = monotonic();
    show.cluster.bring_back(VICTIM).await?;
    let all = show.cluster.all();
    let back = watch::until("the endpoint is back", &all, NOTICE, |watcher| async move {
        let endpoints = watcher.endpoints().await?;
        Ok(endpoints.iter().any(|endpoint| endpoint.node == VICTIM && endpoint.health == "healthy"))
    });
    back.await?;
    let back = started.elapsed();
    let screen = show.screen;
    screen.line(&screen.row(true, &format!("{VICTIM} is back, seen from every node"), &took(back)));
    Ok(())
}
