//! The demonstration stays up for people to try things, until Ctrl-C.

use std::cell::RefCell;
use std::time::Duration;

use super::bookinfo::PORT;
use super::cluster::Cluster;
use super::screen::{Screen, Style};
use super::signals::Signals;
use super::traffic::{Tally, Traffic};

/// Requests a second, so that the line below shows what policy does.
const RATE: u32 = 20;
/// One line's worth of them.
const WINDOW: Duration = Duration::from_secs(2);

/// Says what one may try.
pub(super) fn hints(cluster: &Cluster, screen: &Screen) {
    let machines = cluster.machines();
    let page = &machines[0];
    let program = cluster.skein.program().display();
    let skein = format!("{program} --operator {} --node {}", cluster.skein.operator.display(), machines[1].mesh);
    screen.chapter("Try it", "Ctrl-C ends the demo and removes everything");
    let hint = |what: &str, how: String| {
        screen.line(&format!("    {}", screen.paint(Style::Dim, what)));
        screen.line(&format!("    {how}"));
    };
    hint("the mesh, in a browser: every node has these pages", format!("http://{}/", page.admin));
    hint(
        "its metrics; Prometheus learns of all nodes at any of them",
        format!("curl http://{0}/metrics; curl http://{0}/v1/prometheus-targets", page.metrics),
    );
    hint("the sample's page; sign in as jason there", format!("http://{}/productpage", page.target));
    hint(
        "through the mesh",
        format!("curl -x http://{} http://productpage:{PORT}/api/v1/products/0/reviews", page.outbound),
    );
    hint(
        "one service straight away, as productpage",
        format!("curl -x http://{} http://reviews:{PORT}/reviews/0", page.outbound),
    );
    hint("who is there, asked of another node", format!("{skein} members"));
    hint("where services are", format!("{skein} endpoints"));
    let policy = cluster.policy("virtual-service-reviews-v3.yaml");
    hint("red stars for everybody", format!("{skein} policy push {}", policy.display()));
    hint("who pushed what", format!("{skein} policy log"));
    hint("requests as they end, in a browser, each with what explains it", format!("{skein} tap --page"));
    if let Some(pid) = cluster.pid("reviews-v3") {
        hint("a node dies", format!("kill -9 {pid}"));
    }
    screen.line("");
}

/// Sends a little traffic and shows who answers, until a signal comes.
pub(super) async fn stay(cluster: &mut Cluster, screen: &Screen, signals: &mut Signals) {
    loop {
        let tally = RefCell::new(Tally::default());
        let traffic = Traffic { client: &cluster.client, user: None, rate: RATE };
        let stop = tokio::time::sleep(WINDOW);
        let interrupted = if screen.is_terminal() {
            tokio::select! {
                _ = signals.next() => true,
                () = traffic.run(u64::MAX, stop, &tally) => false,
            }
        } else {
            tokio::select! { _ = signals.next() => true, () = stop => false }
        };
        if interrupted {
            return;
        }
        for end in cluster.ended() {
            screen.line(&screen.row(false, &end, ""));
        }
        let tally = tally.into_inner();
        let rest = format!("{}  {}", screen.split(&tally.split), screen.failed(tally.failed));
        screen.live(&screen.open_row("reviews, as the page gets them now", &rest));
    }
}
