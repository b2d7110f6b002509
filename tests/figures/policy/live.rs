//! Policy that changes while real nodes serve requests.

use std::time::Duration;

use harness::{
    PATIENCE,
    cluster::{Cluster, Plan, Service},
    eventually_within, http,
    load::Load,
    now,
    process::Skein,
};

use crate::Figure;

const VERSIONS: [&str; 3] = ["v1", "v2", "v3"];
const RATE: u64 = 200;
const DOCUMENTS: usize = 10_000;
const A_PUSH: usize = 1_000;
const PUSHES: usize = 20;
const TRIAL: &str = "4s";

/// A client and the versions of a service, each on a node of its own.
fn cluster(skein: &Skein, more: &[&str]) -> Cluster {
    let mut plans = vec![("web".to_owned(), Plan::with([Service::client("shop/web")]))];
    for version in VERSIONS {
        plans.push((format!("reviews-{version}"), Plan::with([Service::version("shop/reviews", version)])));
    }
    plans.extend(more.iter().map(|name| ((*name).to_owned(), Plan::default())));
    let plans: Vec<(&str, Plan)> = plans.iter().map(|(name, plan)| (name.as_str(), plan.clone())).collect();
    let cluster = Cluster::start(skein.clone(), &plans);
    cluster.wait_members(PATIENCE);
    cluster.wait_endpoints("shop/reviews", VERSIONS.len());
    cluster
}

fn rule(subsets: &[(String, &str)]) -> String {
    let subsets: Vec<String> =
        subsets.iter().map(|(name, version)| format!("{{name: {name}, labels: {{version: {version}}}}}")).collect();
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: reviews, namespace: shop}}\nspec: {{host: reviews, subsets: [{}]}}\n",
        subsets.join(", ")
    )
}

fn route(rule: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: reviews, namespace: shop}}\nspec:\n  hosts: [reviews]\n  http:\n  - {rule}\n"
    )
}

fn to(subset: &str) -> String {
    route(&format!("route: [{{destination: {{host: reviews, subset: {subset}}}}}]"))
}

/// A hundred pushes that add a subset, send all to it, and take the old one away; then a push that locks everybody out, on trial.
pub(crate) fn subsets(skein: &Skein) -> Vec<Figure> {
    let cluster = cluster(skein, &[]);
    let names: Vec<String> = cluster.running().iter().map(|name| (*name).to_owned()).collect();
    let subset = |cycle: usize| (format!("s{cycle}"), VERSIONS[cycle % VERSIONS.len()]);
    let mut pushes = 0;
    let mut push = |text: &str| {
        pushes += 1;
        cluster.push(&names[pushes % names.len()], text, &["--wait", "all"]).expect_code(0);
        pushes
    };
    push(&format!("{}---\n{}", rule(&[subset(0)]), to("s0")));
    let load = Load::start(cluster.node("web").outbound(), "reviews", "/reviews/0", RATE);
    let mut cycle = 0;
    while push(&rule(&[subset(cycle), subset(cycle + 1)])) < 100 {
        cycle += 1;
        push(&to(&subset(cycle).0));
        push(&rule(&[subset(cycle)]));
    }
    let tally = load.stop();
    assert!(tally.requests > RATE, "the load ran: {tally:?}");
    let mut figures = vec![Figure::at_most(
        "subset_pushes_failed",
        tally.failed as f64,
        "requests",
        0.0,
        "100 pushes that add, rename and remove subsets with their VirtualService under 200 GET/s, failures seen by the client",
    )];
    figures.push(trial(&cluster));
    figures
}

/// From the end of a trial that aborts every request until every caller is served again.
fn trial(cluster: &Cluster) -> Figure {
    let before = now();
    let lockout = route("{directResponse: {status: 418}}");
    cluster.push("reviews-v1", &lockout, &["--confirm-within", TRIAL, "--wait", "all"]).expect_code(0);
    let outbound = cluster.node("web").outbound();
    assert_eq!(http::get(outbound, "reviews", "/").expect("an answer").status, 418, "the push is in effect");
    let took = eventually_within("the push took itself back", PATIENCE, || match http::get(outbound, "reviews", "/") {
        Ok(answer) if answer.status == 200 => Ok(before.elapsed()),
        other => Err(format!("{other:?}")),
    });
    let late = took.saturating_sub(Duration::from_secs(4));
    Figure::at_most(
        "trial_reverted_late",
        late.as_secs_f64() * 1000.0,
        "ms",
        2000.0,
        "a push that answers everybody 418, with --confirm-within 4s: from its end until callers are served again",
    )
}

fn many_documents(first: usize) -> String {
    let one = |number: usize| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: host-{number}, namespace: shop}}\nspec:\n  hosts: [host-{number}.example.com]\n  http:\n  - match: [{{uri: {{prefix: /api}}}}]\n    directResponse: {{status: 204}}\n  - directResponse: {{status: 404}}\n"
        )
    };
    (first..first + A_PUSH).map(one).collect::<Vec<_>>().join("---\n")
}

/// Five nodes hold ten thousand documents: how soon a push is active on all, and what they weigh.
pub(crate) fn many(skein: &Skein) -> Vec<Figure> {
    let cluster = cluster(skein, &["spare"]);
    let resident = || cluster.running().iter().map(|name| cluster.node(name).resident()).max().unwrap_or(u64::MAX);
    let empty = resident();
    for first in (0..DOCUMENTS).step_by(A_PUSH) {
        cluster
            .push("web", &many_documents(first), &["--wait", "all", "--timeout", "60s", "--allow", "SKN0307"])
            .expect_code(0);
    }
    let names: Vec<String> = cluster.running().iter().map(|name| (*name).to_owned()).collect();
    let slowest = (0..PUSHES).map(|number| {
        let text = route(&format!("{{directResponse: {{status: {}}}}}", 200 + number));
        let pushed = cluster.push(&names[number % names.len()], &text, &["--wait", "all"]).expect_code(0).json();
        assert_eq!(pushed["applied"].as_array().map(Vec::len), Some(names.len()), "{pushed}");
        pushed["elapsed_ms"].as_f64().expect("a number")
    });
    let slowest = slowest.fold(0.0, f64::max);
    let full = resident();
    vec![
        Figure::at_most(
            "push_with_10000_worst",
            slowest,
            "ms",
            1000.0,
            "20 pushes in turn to five nodes that hold 10,000 documents, elapsed_ms until all applied, the slowest",
        ),
        Figure::at_most(
            "resident_with_10000",
            (full - empty.min(full)) as f64 / 1048576.0,
            "MiB",
            160.0,
            "what 10,000 documents add to the largest VmRSS of five nodes: stated, not asked for",
        ),
    ]
}
