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
    settings::Found,
};
use crate::cli::{
    context::Context,
    error::{Error, Result},
    output::{Format, Table},
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
    /// Fail if a certificate that people must renew ends within this time: the root, the enroller CA of a node that answers, or the asked
    /// node's node CA whose renewal is late. A node that does not answer is a warning: use it with --strict
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
            let plural = if errors == 1 { "" } else { "s" };
            // People have read what and what to do just before.
            let (message, hint) = match ctx.output.format {
                Format::Table => (format!("{errors} error{plural}"), ""),
                Format::Json | Format::Yaml => (format!("{errors} error{plural}: {}", first.message), &*first.hint),
            };
            Err(Error::new(first.code.clone(), message).hint(hint))
        }
        None if args.strict && warnings > 0 => {
            Err(Error::new("warnings", format!("{warnings} warnings")).hint("mend them, or leave out --strict"))
        }
        None => Ok(()),
    }
}

/// This machine and its node's files; before there are any, what a node would have by default. Gives whether a node should answer: one
/// runs here, or nobody knows of one.
async fn here(ctx: &Context, findings: &mut Vec<Finding>) -> bool {
    findings.extend(Machine::here().judge());
    let found = settings::read(ctx, findings);
    if let Some(found) = &found {
        look(found, findings).await;
    }
    matches!(found, Some(Found::File(_))) || ctx.operator().is_ok()
}

async fn look(found: &Found, findings: &mut Vec<Finding>) {
    let config = found.config();
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    findings.extend(settings::judge(config, cpus, settings::port_range()));
    findings.extend(Disk::under(&config.data_dir).iter().flat_map(Disk::judge));
    let running = match found {
        Found::File(config) => keys::state(config, findings),
        Found::Defaults(_) => false,
    };
    if !running {
        findings.extend(settings::ports(config));
    }
    findings.extend(settings::ask(config).await);
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
    async fn before_there_is_a_file_the_defaults_are_judged() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let file = tempfile::tempdir().unwrap().path().join("skein.toml");
        let mut config = crate::config::defaults(&file);
        assert_eq!((config.mesh.listen.to_string().as_str(), config.admin.listen.port()), ("0.0.0.0:15008", 15_000));
        (config.mesh.listen, config.admin.listen) = ("127.0.0.1:0".parse().unwrap(), taken.local_addr().unwrap());
        let mut findings = Vec::new();
        look(&Found::Defaults(config), &mut findings).await;
        let of = |id: &str| findings.iter().find(|one| one.id == id).unwrap_or_else(|| panic!("no {id}"));
        assert_eq!((of("ports.admin").verdict, &*of("ports.admin").code), (Verdict::Error, "address_in_use"));
        assert_eq!(of("ports.mesh").verdict, Verdict::Ok);
        for id in ["disk.space", "disk.inodes", "disk.writable", "disk.lasting", "configuration.socket"] {
            of(id);
        }
        assert!(findings.iter().all(|one| one.check != "state" && one.check != "keys"), "{findings:?}");
    }

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
