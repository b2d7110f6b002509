//! `skein check`.

mod finding;
mod keys;
mod list;
mod machine;
mod mesh;
mod settings;

use std::time::Duration;

use self::{
    finding::{Finding, Verdict},
    list::CHECKS,
    machine::{Disk, Machine},
};
use crate::cli::{
    context::Context,
    error::{Error, Result},
    output::Table,
    value,
};

/// Looks for mistakes on this machine and, as the asked node sees it, in the mesh. Before the machine has joined it looks at what a
/// node will need.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  skein check --strict
  skein check --fail-if-expiring 30d
  skein check --list -o json")]
pub struct Args {
    /// Fail with exit code 3 if there are warnings
    #[arg(long)]
    strict: bool,
    /// Fail if a certificate that people must renew ends within this time: the root, or the asked node's enroller CA, or its node CA whose
    /// renewal is late
    #[arg(long, value_name = "DURATION", value_parser = value::span)]
    fail_if_expiring: Option<Duration>,
    /// Only list the checks: name, what is looked at, what to do
    #[arg(long)]
    list: bool,
}

/// Runs the command.
pub(super) async fn run(args: Args, ctx: &Context) -> Result<()> {
    if args.list {
        return ctx.output.table(&CHECKS, table);
    }
    let mut findings = Vec::new();
    // Of another machine only its node can tell.
    let joined = if ctx.globals.node.is_none() { here(ctx, &mut findings).await } else { true };
    keys::operator(ctx, &mut findings);
    if joined {
        mesh::ask(ctx, args.fail_if_expiring, &mut findings).await;
    }
    findings.sort_by_key(|finding| finding.verdict);
    ctx.output.show(&findings, || findings.iter().map(Finding::text).collect())?;
    let count = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    let (errors, warnings) = (count(Verdict::Error), count(Verdict::Warning));
    match findings.first().filter(|first| first.verdict == Verdict::Error) {
        Some(first) => {
            Err(Error::new(first.code.clone(), format!("{errors} errors: {}", first.message)).hint(&first.hint))
        }
        None if args.strict && warnings > 0 => {
            Err(Error::new("warnings", format!("{warnings} warnings")).hint("mend them, or leave out --strict"))
        }
        None => Ok(()),
    }
}

/// This machine and its node's files. Gives whether a node should answer: one runs here, or nobody knows of one.
async fn here(ctx: &Context, findings: &mut Vec<Finding>) -> bool {
    findings.extend(Machine::here().judge());
    let Some(config) = settings::read(ctx, findings) else { return ctx.operator().is_ok() };
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    findings.extend(settings::judge(&config, cpus, settings::port_range()));
    findings.extend(Disk::under(&config.data_dir).iter().flat_map(Disk::judge));
    let running = keys::state(&config, findings);
    if !running {
        findings.extend(settings::ports(&config));
    }
    findings.extend(settings::ask(&config).await);
    true
}

fn table() -> Table {
    let mut table = Table::new(&["CHECK", "LOOKS AT", "BEFORE JOINING"]);
    for check in CHECKS {
        table.row([check.id, check.about, if check.before { "yes" } else { "" }]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_check_of_the_list_is_provoked_by_a_test_and_no_other_is_made() {
        let mut found = [machine::tests::provoked(), keys::tests::provoked(), mesh::tests::provoked()].concat();
        found.extend(settings::tests::provoked().await);
        // These three are provoked by files, in tests of their own.
        let by_files = ["configuration.present", "configuration.valid", "configuration.private"];
        for check in CHECKS.iter().filter(|check| !by_files.contains(&check.id)) {
            let not_well = found.iter().find(|one| one.id == check.id && one.verdict != Verdict::Ok);
            let finding = not_well.unwrap_or_else(|| panic!("nothing provokes {}", check.id));
            assert!(!finding.code.is_empty(), "{finding:?}");
        }
        for finding in &found {
            assert!(list::known(finding.id).is_some(), "{} is not in the list", finding.id);
        }
    }
}
