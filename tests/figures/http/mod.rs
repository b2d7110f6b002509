//! The figures of HTTP between nodes: Istio's own cases, slow and dying endpoints, restarts, many routes, and speed beside
//! its peers.
//!
//! `SKEIN_FIGURES_REQUESTS` makes the longest load shorter; what is printed says how many requests there were.

mod deaths;
mod endpoints;
mod istio;
mod limits;
mod outliers;
mod rolling;
mod routes;
mod speed;

use harness::{PATIENCE, clients::Outcome, cluster::Cluster, eventually_within, process::Skein};

use crate::{Figure, main_job::healthy_of, rooms};

pub(crate) fn figures(skein: &Skein) -> Vec<Figure> {
    rooms(&[
        ("istio", &istio::figures),
        ("routes", &routes::figures),
        ("endpoints", &|| endpoints::figures(skein)),
        ("deaths", &|| deaths::figures(skein)),
        ("limits", &|| limits::figures(skein)),
        ("rolling", &|| rolling::figures(skein)),
        ("outliers", &|| outliers::figures(skein)),
        ("speed", &speed::figures),
    ])
}

/// GETs are retried, whatever else has no rule of its own but the mesh's.
const ROUTES: &str = "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: cart, namespace: shop}
spec:
  hosts: [cart]
  http:
  - match: [{method: {exact: GET}}]
    retries: {attempts: 5, retryOn: 'reset,connect-failure,refused-stream'}
    route: [{destination: {host: cart}}]
  - route: [{destination: {host: cart}}]
";

/// Waits until these nodes see so many healthy endpoints of `cart`. No process is started for it: the load goes on.
pub(crate) fn wait_seen<'n>(cluster: &Cluster, nodes: impl IntoIterator<Item = &'n str>, count: usize) {
    for name in nodes {
        let admin = cluster.node(name).address("admin");
        eventually_within(&format!("{name} sees {count}"), PATIENCE * 3, || match healthy_of(admin, "cart") {
            seen if seen == count => Ok(()),
            seen => Err(format!("{seen} seen")),
        });
    }
}

/// How many requests the longest load sends.
pub(crate) fn requests(unless_told: u64) -> u64 {
    std::env::var("SKEIN_FIGURES_REQUESTS").ok().and_then(|text| text.parse().ok()).unwrap_or(unless_told)
}

#[expect(clippy::print_stderr, reason = "what failed is worth reading")]
fn words(what: &str, outcome: &Outcome) {
    if outcome.failed > 0 {
        eprintln!("{what}: {} of {} failed: {:#?}", outcome.failed, outcome.requests, outcome.failures);
    }
}
