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
/// How many nodes or hosts a line names.
const NAMED: usize = 5;
/// Most ports of one sort that are shown.
const PORTS: usize = 4;

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
    let names = |nodes: &[NodeId]| some(nodes.iter().map(ToString::to_string));
    for problem in said.problems.iter().take(SHOWN) {
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
    let all = "`skein status --mesh -o json`";
    more(&mut text, said.problems.len(), SHOWN, "problems", all);
    if said.problems.is_empty() {
        text.push_str("nothing needs attention\n");
    }
    let unheard = |what: &str, nodes: &[NodeId]| {
        if nodes.is_empty() { String::new() } else { format!("; {what}: {}", names(nodes)) }
    };
    let silent =
        unheard("silent", &said.silent) + &unheard("of another version, which cannot answer", &said.other_version);
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
        for row in said.ejected.iter().take(SHOWN) {
            table.row([&row.endpoint, row.node.as_str(), &row.caller, &row.reason, &row.until]);
        }
        let _ = write!(text, "\n{}", ctx.output.render(&table));
        more(&mut text, said.ejected.len(), SHOWN, "ejected", all);
    }
    text
}

/// What is there, and how many more there are than a line names.
fn some(names: impl ExactSizeIterator<Item = String>) -> String {
    let more = names.len().saturating_sub(NAMED);
    let named = names.take(NAMED).collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{named} and {more} more") } else { named }
}

/// How many were left out of what is shown, and what shows them.
fn more(text: &mut String, count: usize, shown: usize, what: &str, all: &str) {
    if count > shown {
        // Writing to a string does not fail.
        let _ = writeln!(text, "and {} more {what}: {all}", count - shown);
    }
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
        let _ = writeln!(text, "{word}: {} [{}]", plain(&problem.message), plain(&problem.code));
        if !problem.hint.is_empty() {
            let _ = writeln!(text, "   hint: {}", plain(&problem.hint));
        }
    }
    let all = "`skein status -o json`";
    more(&mut text, status.problems.len(), SHOWN, "problems", all);
    let state = match status.state {
        Health::Ok => "ok",
        Health::Degraded => "degraded",
        Health::Critical => "critical",
    };
    let lanes: Vec<_> = status.gossip_lanes.iter().map(|(lane, bytes)| format!("{lane} {bytes}")).collect();
    let stale = match &status.policy.stale[..] {
        [] => "the same everywhere".to_owned(),
        stale => format!("not at {}", some(stale.iter().map(ToString::to_string))),
    };
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
    for door in status.gateways.iter().take(PORTS) {
        let hosts = some(door.hosts.iter().map(|host| plain(host)));
        let _ = writeln!(text, "gateway       {} {} as {}: {hosts}", door.listen, door.protocol, door.service);
    }
    more(&mut text, status.gateways.len(), PORTS, "gateway ports", all);
    for port in status.plaintext.iter().take(PORTS) {
        let takes =
            if port.mode == "STRICT" { "refuses all: mutual TLS is required" } else { "callers outside the mesh" };
        let _ = writeln!(text, "plaintext     {} {} port {}: {takes}", port.listen, port.service, port.port);
    }
    more(&mut text, status.plaintext.len(), PORTS, "plaintext ports", all);
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

    #[test]
    fn however_much_there_is_it_fits_a_screen() {
        let many = |of: &dyn Fn(usize) -> serde_json::Value| (0..40).map(of).collect::<Vec<_>>();
        let nodes: Vec<String> = (0..9).map(|node| format!("n-{node}")).collect();
        let problem = |number| {
            let message = format!("m{number}");
            serde_json::json!({"severity": "degraded", "code": "x", "message": message, "hint": "h", "nodes": nodes})
        };
        let hosts = many(&|host| format!("h{host}").into());
        let door = |number| {
            let listen = format!("0.0.0.0:{number}");
            serde_json::json!({"listen": listen, "port": number, "protocol": "http", "service": "istio-system/ingress",
                               "documents": [], "hosts": hosts})
        };
        let port = |number| {
            let listen = format!("10.0.0.1:{number}");
            serde_json::json!({"listen": listen, "service": "shop/web", "port": number, "mode": "PERMISSIVE"})
        };
        let status: Status = serde_json::from_value(serde_json::json!({
            "node": "a", "trust_domain": "t.example", "state": "degraded", "problems": many(&problem),
            "members": {"seen": 2, "expected": 2}, "policy": {"digest": "00", "stale": []},
            "certificates": {"node_ca_begins": "", "node_ca_expires": "", "leaf_expires": "", "enrollers": 3},
            "memory_bytes": 1, "gossip_bytes_per_s": 1, "gossip_lanes": {},
            "gateways": many(&door), "plaintext": many(&port),
        }))
        .unwrap();
        let told = text(&status);
        assert!(told.lines().count() <= 34 && told.lines().all(|line| line.len() < 120), "{told}");
        for word in
            ["and 34 more problems", "h4 and 35 more", "and 36 more gateway ports", "and 36 more plaintext ports"]
        {
            assert!(told.contains(word), "{word}: {told}");
        }
        let ejected = |number| {
            let endpoint = format!("e{number}");
            serde_json::json!({"node": "a", "service": "shop/cart", "endpoint": endpoint, "caller": "shop/web",
                               "reason": "5xx", "until": ""})
        };
        let said: Concerns = serde_json::from_value(serde_json::json!({
            "heard": [], "silent": ["away"], "other_version": ["old"], "problems": many(&problem), "ejected": many(&ejected),
            "certificates": [],
        }))
        .unwrap();
        let matches = crate::cli::grammar::command().try_get_matches_from(["skein", "status", "--mesh"]).unwrap();
        let globals = <crate::cli::grammar::Cli as clap::FromArgMatches>::from_arg_matches(&matches).unwrap().globals;
        let told = concerns(&said, &Context::new(globals));
        assert!(told.lines().count() <= 26, "{told}");
        let unheard = "; silent: away; of another version, which cannot answer: old";
        for word in ["n-4 and 4 more", "and 34 more problems", "and 34 more ejected", unheard] {
            assert!(told.contains(word), "{word}: {told}");
        }
    }
}
