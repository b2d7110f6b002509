//! `skein status`.

use std::fmt::Write as _;

use crate::{
    agent::admin::api::{Concerns, Health, Status},
    cli::{
        context::Context,
        error::Result,
        look,
        output::{Table, plain},
    },
    clock,
};
use certs::id::NodeId;

/// Most problems that are shown: they and the rest fit a screen. The worst come first.
const SHOWN: usize = 6;
/// How many nodes a line names.
const NAMED: usize = 5;

/// Shows how the mesh is, problems first.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  skein status --node web-1 -o json
  skein status --mesh")]
pub struct Args {
    /// What needs attention at every node that answers, not at one
    #[arg(long)]
    mesh: bool,
}

/// Runs the command.
pub(super) async fn run(args: Args, ctx: &Context) -> Result<()> {
    if args.mesh {
        return look::show(ctx, "/v1/concerns", |said| concerns(said, ctx)).await;
    }
    look::show(ctx, "/v1/status", text).await
}

/// What needs attention anywhere, for people.
fn concerns(said: &Concerns, ctx: &Context) -> String {
    let mut text = String::new();
    let names = |nodes: &[NodeId]| {
        let named: Vec<_> = nodes.iter().take(NAMED).map(ToString::to_string).collect();
        let more = nodes.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!("{}{more}", named.join(", "))
    };
    for problem in &said.problems {
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{}: at {}: {} [{}]",
            word(problem.severity),
            names(&problem.nodes),
            plain(&problem.message),
            plain(&problem.code)
        );
        if !problem.hint.is_empty() {
            let _ = writeln!(text, "   hint: {}", plain(&problem.hint));
        }
    }
    if said.problems.is_empty() {
        text.push_str("nothing needs attention\n");
    }
    let silent = if said.silent.is_empty() { String::new() } else { format!("; silent: {}", names(&said.silent)) };
    let unasked = match said.unasked {
        0 => String::new(),
        unasked => format!("; not asked, of a mesh this large: {unasked}"),
    };
    let _ = writeln!(text, "\nheard         {} nodes{silent}{unasked}", said.heard.len());
    if let Some(first) = said.certificates.first() {
        let enroller = first.enroller_ca_expires.as_deref().filter(|ends| *ends < first.node_ca_expires.as_str());
        let (what, when) = enroller.map_or(("node CA", first.node_ca_expires.as_str()), |ends| ("enroller CA", ends));
        let _ = writeln!(text, "certificates  the first to end is the {what} of {}: {}", first.node, ends(when));
    }
    if !said.ejected.is_empty() {
        let mut table = Table::new(&["EJECTED", "AT", "CALLER", "WHY", "UNTIL"]);
        for row in &said.ejected {
            table.row([&row.endpoint, row.node.as_str(), &row.caller, &row.reason, &row.until]);
        }
        let _ = write!(text, "\n{}", ctx.output.render(&table));
    }
    text
}

fn word(severity: Health) -> &'static str {
    match severity {
        Health::Critical => "critical",
        Health::Degraded | Health::Ok => "warning",
    }
}

/// A status for people.
pub(super) fn text(status: &Status) -> String {
    let mut text = String::new();
    for problem in status.problems.iter().take(SHOWN) {
        let word = word(problem.severity);
        // Writing to a string does not fail.
        let _ = writeln!(text, "{word}: {} [{}]", plain(&problem.message), problem.code);
        if !problem.hint.is_empty() {
            let _ = writeln!(text, "   hint: {}", plain(&problem.hint));
        }
    }
    if status.problems.len() > SHOWN {
        let _ = writeln!(text, "and {} more problems: `skein status -o json`\n", status.problems.len() - SHOWN);
    }
    let state = match status.state {
        Health::Ok => "ok",
        Health::Degraded => "degraded",
        Health::Critical => "critical",
    };
    let lanes: Vec<_> = status.gossip_lanes.iter().map(|(lane, bytes)| format!("{lane} {bytes}")).collect();
    let stale: Vec<_> = status.policy.stale.iter().take(NAMED).map(ToString::to_string).collect();
    let more = status.policy.stale.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let stale =
        if stale.is_empty() { "the same everywhere".to_owned() } else { format!("not at {}{more}", stale.join(", ")) };
    let waiting = match status.connections.waiting {
        0 => String::new(),
        waiting => format!(", {waiting} wait for room"),
    };
    let _ = write!(
        text,
        "node          {} of {}\n\
         state         {state}\n\
         members       {} of {} seen\n\
         policy        {} ({stale})\n\
         certificates  node CA ends {}, leaf {}; enrollers alive: {}\n\
         connections   {} over QUIC, {} over TCP; requests under way: {}{waiting}\n\
         memory        {:.1} MiB\n\
         gossip        {} B/s ({})\n",
        status.node,
        status.trust_domain,
        status.members.seen,
        status.members.expected,
        look::short(&status.policy.digest),
        ends(&status.certificates.node_ca_expires),
        ends(&status.certificates.leaf_expires),
        status.certificates.enrollers,
        status.connections.quic,
        status.connections.tcp,
        status.connections.requests,
        status.memory_bytes as f64 / f64::from(1 << 20),
        status.gossip_bytes_per_s,
        lanes.join(", "),
    );
    for door in &status.gateways {
        let hosts = door.hosts.iter().map(|host| plain(host)).collect::<Vec<_>>().join(", ");
        let _ = writeln!(text, "gateway       {} {} as {}: {hosts}", door.listen, door.protocol, door.service);
    }
    for port in &status.plaintext {
        let takes =
            if port.mode == "STRICT" { "refuses all: mutual TLS is required" } else { "callers outside the mesh" };
        let _ = writeln!(text, "plaintext     {} {} port {}: {takes}", port.listen, port.service, port.port);
    }
    if status.root.phase != "steady" && !status.root.phase.is_empty() {
        let settled =
            if status.root.settled { "nothing of this node rests on the old one" } else { "this node is on the way" };
        let _ = writeln!(text, "root          {}: {settled}; `skein ca rotate status` shows all", status.root.phase);
    }
    // What a second does not show is no news.
    if let Some(drift) = status.clock.drift_ms.filter(|drift| drift.unsigned_abs() >= 500) {
        let seconds = drift as f64 / 1_000.0;
        let _ = writeln!(text, "clock         {seconds:+.1} s beside the median of its peers ({})", status.clock.peers);
    }
    if status.clock_offset_ms != 0 {
        let hours = status.clock_offset_ms as f64 / 3_600_000.0;
        let _ = writeln!(text, "clock         {hours:+.2} h beside the machine's (--clock-offset)");
    }
    text
}

/// `in 29d`, or that it has ended.
fn ends(time: &str) -> String {
    let Ok(then) = time.parse::<jiff::Timestamp>() else { return "at a time not known".to_owned() };
    match u64::try_from(then.as_millisecond()).unwrap_or(0).checked_sub(clock::wall()) {
        Some(left) => format!("in {}", look::span(left)),
        None => format!("ended at {}", look::when(time)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_said_as_people_say_them() {
        assert_eq!(ends("1970-01-01T00:00:00Z"), "ended at 1970-01-01 00:00:00Z");
        assert!(ends("2400-01-01T00:00:00Z").starts_with("in 1"), "{}", ends("2400-01-01T00:00:00Z"));
        assert_eq!(ends(""), "at a time not known");
    }
}
