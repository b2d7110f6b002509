//! A limit of the whole mesh: what 3, 10 and 30 nodes let in together, of an uneven demand that shifts.
//!
//! `SKEIN_FIGURES_NODES=3,10` measures these sizes only.

use std::{collections::VecDeque, fmt::Write as _, time::Duration};

use harness::{
    PATIENCE,
    cluster::{Cluster, Plan, Service},
    load::{Load, Tally},
    now,
    process::Skein,
};

use crate::Figure;

/// Requests a second that are let in, and a burst of one second.
const LIMIT: u32 = 200;
/// Requests a second that are asked.
const ASKED: u64 = 400;
/// From this time after a shift on,
const SETTLED: Duration = Duration::from_secs(2);
/// over any such time,
const SPAN: usize = 10;
/// for so long.
const SECONDS: usize = 15;

pub(super) fn figures(skein: &Skein) -> Vec<Figure> {
    let sizes = [
        (3, "limit_error_3_nodes", "limit_excess_3_nodes"),
        (10, "limit_error_10_nodes", "limit_excess_10_nodes"),
        (30, "limit_error_30_nodes", "limit_excess_30_nodes"),
    ];
    let measure = |(count, error, excess)| {
        let (furthest, most) = measured(skein, count);
        [
            Figure::at_most(
                error,
                furthest * 100.0,
                "%",
                10.0,
                "let in over any 10 s, against what is due, from 2 s after a shift",
            ),
            Figure::at_most(
                excess,
                most,
                "requests",
                f64::from(LIMIT),
                "above limit times time over any 10 s: a burst at most",
            ),
        ]
    };
    let wanted = std::env::var("SKEIN_FIGURES_NODES").ok();
    let is_wanted = |count: usize| {
        wanted.as_deref().is_none_or(|wanted| wanted.split(',').any(|one| one.trim() == count.to_string()))
    };
    sizes.into_iter().filter(|(count, ..)| is_wanted(*count)).flat_map(measure).collect()
}

/// How far what is let in is off what is due, and how much it is above the limit.
fn measured(skein: &Skein, count: usize) -> (f64, f64) {
    let name = |index: usize| format!("n{index:02}");
    let plan = |index: usize| {
        let reviews = Service::version("shop/reviews", &format!("v{index}"));
        Plan::with([Service::client("shop/web"), reviews])
    };
    let plans: Vec<(String, Plan)> = (0..count).map(|index| (name(index), plan(index))).collect();
    let plans: Vec<(&str, Plan)> = plans.iter().map(|(name, plan)| (name.as_str(), plan.clone())).collect();
    let cluster = Cluster::start(skein.clone(), &plans);
    cluster.wait_members(PATIENCE * 2);
    cluster.wait_endpoints("shop/reviews", count);
    cluster.push(&name(0), &documents(count), &["--wait", "all"]).expect_code(0);

    let (mut furthest, mut most) = (0.0f64, f64::MIN);
    for path in ["/up", "/down"] {
        let load = Load::start(cluster.node(&name(0)).outbound(), "reviews", path, ASKED);
        std::thread::sleep(SETTLED);
        for (asked, let_in, seconds) in spans(&load) {
            let due = asked.min(f64::from(LIMIT) * seconds);
            furthest = furthest.max((let_in / due - 1.0).abs());
            most = most.max(let_in - f64::from(LIMIT) * seconds);
        }
        load.stop();
    }
    (furthest, most)
}

/// Of every span: what was asked and let in, and its length in seconds.
fn spans(load: &Load) -> Vec<(f64, f64, f64)> {
    #[expect(clippy::cast_precision_loss, reason = "some thousands")]
    let counts = |tally: &Tally| (tally.requests as f64, tally.by_body.values().sum::<u64>() as f64);
    let began = now();
    let mut samples = VecDeque::from([(counts(&load.tally()), 0.0)]);
    let mut spans = Vec::new();
    for second in 1..=SECONDS {
        let due = Duration::from_secs(second as u64);
        std::thread::sleep(due.saturating_sub(began.elapsed()));
        let (newest, at) = (counts(&load.tally()), began.elapsed().as_secs_f64());
        samples.push_back((newest, at));
        if samples.len() > SPAN
            && let Some((oldest, since)) = samples.pop_front()
        {
            spans.push((newest.0 - oldest.0, newest.1 - oldest.1, at - since));
        }
    }
    spans
}

/// The limit, and two ways to spread requests over the nodes: the last is asked ten times as much as the first, or the first as
/// much as the last.
fn documents(count: usize) -> String {
    let weight = |index: usize| 10 + 90 * index / (count - 1);
    let routes = |weight: &dyn Fn(usize) -> usize| {
        (0..count).fold(String::new(), |mut text, index| {
            let _ = write!(text, "{{destination: {{host: reviews, subset: v{index}}}, weight: {}}}, ", weight(index));
            text
        })
    };
    let subsets = (0..count).fold(String::new(), |mut text, index| {
        let _ = write!(text, "{{name: v{index}, labels: {{version: v{index}}}}}, ");
        text
    });
    format!(
        "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: reviews, namespace: shop}}
spec: {{host: reviews, subsets: [{subsets}]}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: reviews, namespace: shop}}
spec:
  hosts: [reviews]
  http:
  - match: [{{uri: {{prefix: /up}}}}]
    route: [{}]
  - route: [{}]
---
apiVersion: skein.dev/v1
kind: RateLimit
metadata: {{name: reviews, namespace: shop}}
spec: {{selector: {{matchLabels: {{app: reviews}}}}, rules: [{{limit: {{requests: {LIMIT}, interval: 1s}}}}]}}
",
        routes(&weight),
        routes(&|index| weight(count - 1 - index)),
    )
}
