//! Bytes from node to node beside Envoy and HAProxy: bulk in both directions, and connections that live for one request.

use crate::{
    Figure,
    kit::{
        self,
        Measure::{Itself, Over},
        Row, Run, Stated, most,
    },
};

const CPU: &str = "cpu_s_per_gb";
const CONNECTION: &str = "cpu_us_per_conn";
const CHURN: Run = ("skein", "churn-l4");

const ROWS: &[Row] = &[
    bulk(Row {
        at_least: true,
        ..most(
            "tcp_up_of_direct",
            "tcp-up",
            Over("gbit_s", ("direct", "tcp-up")),
            0.45,
            "one stream of bytes from client to server: rate over that without a proxy",
        )
    }),
    bulk(most(
        "tcp_up_cpu_over_envoy",
        "tcp-up",
        Over(CPU, ("envoy", "tcp-up")),
        0.80,
        "the same: CPU a gigabyte of both nodes over Envoy's, which is 1.0 s where the goal is 0.8 s",
    )),
    bulk(Row {
        at_least: true,
        ..most("tcp_down_of_direct", "tcp-down", Over("gbit_s", ("direct", "tcp-down")), 0.45, "the other direction")
    }),
    bulk(most(
        "tcp_down_cpu_over_envoy",
        "tcp-down",
        Over(CPU, ("envoy", "tcp-down")),
        0.80,
        "the same: CPU a gigabyte",
    )),
    Row {
        scenario: "churn-l4",
        unit: "us",
        ..most(
            "new_connection_cpu",
            "churn-l4",
            Itself(CONNECTION, 1.0),
            150.0,
            "a connection of bytes for each request: CPU of both nodes",
        )
    },
    Row {
        scenario: "churn-l4",
        ..most(
            "new_connection_cpu_over_haproxy",
            "churn-l4",
            Over(CONNECTION, ("haproxy", "churn-l4")),
            1.0,
            "the same over HAProxy's, which makes a handshake for each",
        )
    },
];

const STATED: &[Stated] = &[
    ("tcp_up_rate", "tcp-up", ("skein", "tcp-up"), "gbit_s", "Gbit/s"),
    ("tcp_up_cpu", "tcp-up", ("skein", "tcp-up"), CPU, "s/GB"),
    ("tcp_down_rate", "tcp-down", ("skein", "tcp-down"), "gbit_s", "Gbit/s"),
    ("tcp_down_cpu", "tcp-down", ("skein", "tcp-down"), CPU, "s/GB"),
    ("new_connections", "churn-l4", CHURN, "cps", "1/s"),
    ("new_connection_cpu_of_envoy", "churn-l4", ("envoy", "churn-l4"), CONNECTION, "us"),
];

/// Skein runs what the group is called.
const fn bulk(row: Row) -> Row {
    Row { scenario: row.group, ..row }
}

pub(super) fn figures() -> Vec<Figure> {
    kit::figures(ROWS, STATED)
}
