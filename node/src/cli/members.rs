//! `skein members [NODE]`.

use std::fmt::Write as _;

use certs::id::NodeId;
use membership::gossip::POOL;

use crate::{
    agent::admin::api::{Member, MemberDetail, Status},
    cli::{
        client,
        context::Context,
        error::Result,
        look::{self, ago, cell, state},
        output::{Format, Table, plain},
    },
};

/// Lists the nodes as one node sees them, or says who says what of one node.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: skein members --watch -o json")]
pub struct Args {
    /// Only this node, with who says what of it, on which path, since when
    #[arg(value_name = "NODE")]
    of: Option<NodeId>,
    /// Also nodes that left more than 1 h ago or are dead for more than 72 h
    #[arg(long)]
    all: bool,
    /// Also ask each node whom it reaches, and in what time
    #[arg(long)]
    reach: bool,
}

/// How the matrix is read.
const LEGEND: &str = "\nA row reaches a column in that time (round trip); empty: not linked; ?: it did not answer; n/a: it was not asked, for \
                      it is not alive, or beyond the 200 nodes that are\n";

/// Runs the command.
pub(super) async fn run(args: Args, ctx: &Context) -> Result<()> {
    match args.of {
        Some(node) => look::show(ctx, &format!("/v1/members/{node}"), |found| detail(found, ctx)).await,
        None => {
            let path = format!("/v1/members?all={}&reach={}", args.all, args.reach);
            let (rows, legend): (fn(&[Member]) -> Table, _) = if args.reach { (matrix, LEGEND) } else { (table, "") };
            let room = match ctx.output.format {
                Format::Table => {
                    // A remark, without which the list is as good.
                    let status = client::connect(ctx).await?.get::<Status>("/v1/status").await;
                    status.map_or_else(|_| String::new(), |status| crowded(status.members.expected))
                }
                Format::Json | Format::Yaml => String::new(),
            };
            let text = |members: &Vec<Member>| ctx.output.render(&rows(members)) + legend + &room;
            look::show(ctx, &path, text).await
        }
    }
}

fn table(members: &[Member]) -> Table {
    let mut table =
        Table::new(&["NAME", "STATE", "SINCE", "ADDRESS", "RTT", "LOCALITY", "VERSION", "POLICY", "ENROLLER"]);
    for member in members {
        let name = if member.own { format!("{} *", member.name) } else { member.name.to_string() };
        table.toned([
            cell(name),
            state(&member.state),
            cell(ago(&member.since)),
            cell(&member.address),
            cell(member.rtt_ms.map(|rtt| format!("{rtt:.1}ms")).unwrap_or_default()),
            cell(&member.locality),
            cell(&member.version),
            cell(member.policy.as_deref().map(look::short).unwrap_or_default()),
            cell(if member.enroller { "yes" } else { "" }),
        ]);
    }
    table
}

/// A word under the list of a mesh that has not much room left; see `mesh_nearly_full`. Those that are listed are others: who was evicted
/// is among them, and who is dead for long is not.
fn crowded(granted: usize) -> String {
    if granted * 5 < POOL * 4 {
        return String::new();
    }
    format!(
        "\n{granted} nodes are granted, and one mesh takes {POOL}: retire or evict nodes that are gone, or part it\n"
    )
}

/// Rows reach columns.
fn matrix(members: &[Member]) -> Table {
    let names: Vec<String> = members.iter().map(|member| member.name.to_string()).collect();
    let mut head = vec!["NAME"];
    head.extend(names.iter().map(String::as_str));
    let mut table = Table::new(&head);
    for member in members {
        let reached = members.iter().map(|other| match &member.reaches {
            _ if other.name == member.name => "-".to_owned(),
            None if member.unasked || member.other_version => "n/a".to_owned(),
            None => "?".to_owned(),
            Some(reaches) => reaches.get(&other.name).map(|rtt| format!("{rtt:.1}ms")).unwrap_or_default(),
        });
        let row: Vec<String> = std::iter::once(member.name.to_string()).chain(reached).collect();
        table.row(row.iter().map(String::as_str));
    }
    table
}

fn detail(detail: &MemberDetail, ctx: &Context) -> String {
    let member = &detail.member;
    let started = detail.started.as_deref().map(|started| format!("{} ago, ", ago(started))).unwrap_or_default();
    let lost = |loss: f64| format!(", {:.1} % of probes lost", loss * 100.0);
    let path = member.rtt_ms.map(|rtt| format!("{rtt:.1} ms{}", member.loss.map(lost).unwrap_or_default()));
    let rows = [
        ("name", member.name.to_string()),
        ("state", format!("{} for {}", member.state, ago(&member.since))),
        ("address", member.address.clone()),
        ("locality", member.locality.clone()),
        ("version", member.version.clone()),
        ("enroller", if member.enroller { "yes".to_owned() } else { String::new() }),
        ("path", path.unwrap_or_default()),
        ("started", format!("{started}generation {} of epoch {}", detail.generation, detail.epoch)),
        ("services", detail.services.join(", ")),
    ];
    let mut text = String::new();
    for (name, value) in rows.iter().filter(|(_, value)| !value.is_empty()) {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name:<10}{}", plain(value));
    }
    let mut table = Table::new(&["WHO", "SAYS", "FOR", "HOW IT COMES HERE"]);
    for report in &detail.reports {
        table.row([report.by.to_string(), report.says.clone(), ago(&report.since), report.path.clone()]);
    }
    text + "\n" + &ctx.output.render(&table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::Output;

    #[test]
    fn who_was_not_asked_is_not_called_silent() {
        let row = |name: &str, reaches: &str| -> Member {
            let text = format!(
                r#"{{"name": "{name}", "state": "alive", "address": "", "locality": "", "version": "", "since": "", "self": false,
                     "rtt_ms": null, "policy": null {reaches}}}"#
            );
            serde_json::from_str(&text).unwrap()
        };
        let rows = [
            row("a", r#", "reaches": {"b": 0.42}"#),
            row("b", ""),
            row("c", r#", "unasked": true"#),
            row("d", r#", "other_version": true"#),
        ];
        let text = Output::new(Format::Table).render(&matrix(&rows));
        let cells: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        let expected = [
            &["NAME", "a", "b", "c", "d"][..],
            &["a", "-", "0.4ms"],
            &["b", "?", "-", "?", "?"],
            &["c", "n/a", "n/a", "-", "n/a"],
            &["d", "n/a", "n/a", "n/a", "-"],
        ];
        assert_eq!(cells, expected, "{text}");
    }

    #[test]
    fn enrollers_are_marked() {
        let row = |name: &str, enroller: &str| -> Member {
            let text = format!(
                r#"{{"name": "{name}", "state": "alive", "address": "", "locality": "", "version": "1", "since": "", "self": false,
                     "rtt_ms": null, "policy": null {enroller}}}"#
            );
            serde_json::from_str(&text).unwrap()
        };
        // The second is told by an older node.
        let text = Output::new(Format::Table).render(&table(&[row("a", r#", "enroller": true"#), row("b", "")]));
        let marked: Vec<bool> = text.lines().skip(1).map(|line| line.trim_end().ends_with("yes")).collect();
        assert!(text.contains("ENROLLER") && marked == [true, false], "{text}");
    }

    #[test]
    fn the_list_warns_from_four_fifths_of_what_one_mesh_takes() {
        assert_eq!(crowded(POOL / 5 * 4 - 1), "");
        assert!(crowded(POOL / 5 * 4).contains("800 nodes"), "{}", crowded(POOL));
    }
}
