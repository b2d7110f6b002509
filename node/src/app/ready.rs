//! The one line on standard output that says where everything listens.

use std::{io::Write, net::SocketAddr};

use policy::route::Called;
use serde_json::{Value, json};

use super::Doors;
use crate::{config::Config, mesh::Mesh, proxy::Bound, snapshot::Captures};

/// The ready line's object.
pub(super) fn line(config: &Config, mesh: &Mesh, doors: &Doors, bound: &Bound, captures: &Captures) -> Value {
    let address = |bound: std::io::Result<SocketAddr>| bound.ok().map(|address| address.to_string());
    let outbound: Vec<_> = bound
        .outbounds
        .iter()
        .map(|(listen, speaker)| json!({"listen": listen.to_string(), "as": speaker.to_string()}))
        .collect();
    let upstream: Vec<_> = bound
        .upstreams
        .iter()
        .map(|(listen, called, port)| {
            let kind = if matches!(called, Called::Service(_)) { "service" } else { "host" };
            json!({"listen": listen.to_string(), kind: called.to_string(), "port": port})
        })
        .collect();
    let plaintext: Vec<_> = bound
        .plaintext
        .iter()
        .map(|one| json!({"listen": one.listen.to_string(), "service": one.service.to_string(), "port": one.port}))
        .collect();
    json!({
        "event": "ready",
        "node": config.node,
        "mesh": mesh.local_addr().to_string(),
        "admin": address(doors.admin.local_addr()),
        "socket": config.admin.socket,
        "metrics": doors.metrics.as_ref().and_then(|metrics| address(metrics.local_addr())),
        "workload": config.workload,
        "dns": doors.dns.as_ref().and_then(|dns| address(dns.local_addr())),
        "capture": captures.listen.first().map(ToString::to_string),
        "capture_inbound": captures.incoming.first().map(ToString::to_string),
        "outbound": outbound,
        "upstream": upstream,
        "plaintext": plaintext,
    })
}

/// Prints it. Nobody reading is no reason to stop.
pub(super) fn print(line: &Value) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}
