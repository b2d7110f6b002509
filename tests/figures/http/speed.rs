//! Speed beside Envoy, HAProxy and nginx: the goals of requests.

use crate::{
    Figure,
    kit::{
        self,
        Measure::{Added, Itself, Over},
        Row, Run, Stated, most,
    },
};

const CPU: &str = "cpu_us_per_req";
const HAPROXY: Run = ("haproxy", "mesh");

/// The goals.
const ROWS: &[Row] = &[
    most(
        "two_hops_cpu_over_haproxy",
        "mesh",
        Over(CPU, HAPROXY),
        0.70,
        "64 connections, 1 KiB: CPU a request of both nodes over HAProxy's, HTTP/1.1",
    ),
    most(
        "two_hops_cpu_over_envoy_h1",
        "mesh",
        Over(CPU, ("envoy", "mesh")),
        0.35,
        "the same over Envoy's, HTTP/1.1 between its nodes",
    ),
    most(
        "two_hops_cpu_over_envoy_h2",
        "mesh",
        Over(CPU, ("envoy", "mesh-h2")),
        0.45,
        "the same over Envoy's, HTTP/2 between its nodes",
    ),
    Row {
        at_least: true,
        ..most(
            "two_hops_requests_of_direct",
            "mesh",
            Over("rps", ("direct", "hop1")),
            0.36,
            "requests a second over those without a proxy",
        )
    },
    most(
        "one_connection_added_p50",
        "one",
        Added("p50_us", HAPROXY),
        1.0,
        "one connection: what p50 is above direct, over what HAProxy adds",
    ),
    most("rate_2000_p50", "rate2000", Over("p50_us", HAPROXY), 1.0, "2,000 requests a second: p50 over HAProxy's"),
    most("rate_2000_p99", "rate2000", Over("p99_us", HAPROXY), 1.0, "the same: p99"),
    most("rate_5000_p50", "rate5000", Over("p50_us", HAPROXY), 1.0, "5,000 requests a second: p50 over HAProxy's"),
    most("rate_5000_p99", "rate5000", Over("p99_us", HAPROXY), 1.0, "the same: p99"),
    Row {
        scenario: "hop1",
        ..most(
            "one_hop_cpu_over_haproxy",
            "hop1",
            Over(CPU, ("haproxy", "hop1")),
            1.10,
            "one plain hop, caller and application on one node: CPU a request over HAProxy's",
        )
    },
    Row {
        scenario: "idle",
        unit: "KiB",
        ..most(
            "idle_connection",
            "idle",
            Itself("kib_per_conn", 1.0),
            16.0,
            "an idle client connection of 1,000, both nodes, by PSS",
        )
    },
    Row {
        scenario: "idle",
        unit: "MiB",
        ..most(
            "idle_node",
            "idle",
            Itself("rss_idle_kib", 1.0 / 2048.0),
            25.0,
            "resident memory of an idle node, the mean of two",
        )
    },
];

const STATED: &[Stated] = &[
    ("two_hops_cpu", "mesh", ("skein", "mesh"), CPU, "us"),
    ("two_hops_cpu_of_haproxy", "mesh", HAPROXY, CPU, "us"),
    ("two_hops_requests", "mesh", ("skein", "mesh"), "rps", "1/s"),
    ("two_hops_other_cpu", "mesh", ("skein", "mesh"), "other_cpu_pct", "%"),
    ("one_connection_p50", "one", ("skein", "mesh"), "p50_us", "us"),
];

pub(super) fn figures() -> Vec<Figure> {
    kit::figures(ROWS, STATED)
}
