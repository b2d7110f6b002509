//! The grammar of the command line: commands, their groups in `--help`, mirrors of flags in the environment.

use clap::{Arg, ArgMatches, CommandFactory as _, Parser, Subcommand, parser::ValueSource};

use crate::{
    cli::{
        ca, capture, check, completions, context::Globals, dns, drain, endpoints, events, evict, explain, grant,
        identity, init, invite, join, leave, limits, man, members, operator, outliers, ping, policy, revoke, routes,
        run, secret, service, services, sim, status, tap, top, wait,
    },
    demo,
};

/// A service mesh with nothing to keep alive.
#[derive(Debug, Parser)]
#[command(name = "skein", version, max_term_width = 110)]
pub struct Cli {
    /// Flags that stand anywhere.
    #[command(flatten)]
    pub globals: Globals,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands. Their order here is their order in `--help`; [`GROUPS`] says under which heading.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a demonstration mesh with Istio's Bookinfo on this machine
    #[command(after_help = "Example: skein demo --once")]
    Demo(demo::Args),
    /// Found a mesh: make this machine its first node
    Init(init::Args),
    /// Make this machine a node of a mesh, by a token from `invite`
    Join(join::Args),
    /// Run the node
    Run(run::Args),
    /// Show how the mesh is, problems first
    Status(status::Args),
    /// List the nodes, or say what is known of one
    Members(members::Args),
    /// Ask a node questions: on which path, how long each takes, which are lost
    Ping(ping::Args),
    /// List the services
    Services(services::Args),
    /// List the endpoints of services
    Endpoints(endpoints::Args),
    /// List the rate limits of this node's services
    Limits(limits::Args),
    /// List the endpoints that are left out because they fail
    Outliers(outliers::Args),
    /// Show services by what is asked of them, endpoints and nodes, as they are now
    Top(top::Args),
    /// Show requests as they end, at all nodes
    Tap(tap::Args),
    /// List what happened: joins, deaths, ejections, pushes, renewals
    Events(events::Args),
    /// List the routes that requests take
    Routes(routes::Args),
    /// Say where a request would go, and why
    Explain(explain::Args),
    /// Wait until nodes, endpoints or changesets are there
    Wait(wait::Args),
    /// Look for mistakes on this machine and in the mesh
    Check(check::Args),
    /// Check, push, read and take back policy documents
    #[command(subcommand)]
    Policy(policy::Command),
    /// Let a machine join: print a token for one node
    Invite(invite::Args),
    /// Let a node run further services
    Grant(grant::Args),
    /// Add, remove and show the services of this node
    #[command(subcommand)]
    Service(service::Command),
    /// The credentials of this node's gateways
    #[command(subcommand)]
    Secret(secret::Command),
    /// Send no new requests to this node's services; /readyz is 503, gateways answer on
    Drain(drain::Args),
    /// Retire this node and wipe its state
    Leave(leave::Args),
    /// Shut a node out of the mesh
    Evict(evict::Args),
    /// Take an account or a key out of the mesh
    Revoke(revoke::Args),
    /// Show who may sign policy
    #[command(subcommand)]
    Operator(operator::Command),
    /// The mesh's certificate authority
    #[command(subcommand)]
    Ca(ca::Command),
    /// The identities of this node
    #[command(subcommand)]
    Identity(identity::Command),
    /// Let the kernel bring connections of local processes to this node
    #[command(subcommand)]
    Capture(capture::Command),
    /// Names of services for the applications of this machine
    #[command(subcommand)]
    Dns(dns::Command),
    /// Play what happens to a mesh in virtual time
    #[command(subcommand)]
    Sim(sim::Command),
    /// Print a shell's completion script
    Completions(completions::Args),
    /// Print a manual page
    Man(man::Args),
}

/// Headings of `--help` and the commands under them.
pub const GROUPS: &[(&str, &[&str])] = &[
    ("Start", &["demo", "init", "join", "run"]),
    (
        "Look",
        &[
            "status",
            "members",
            "ping",
            "services",
            "endpoints",
            "outliers",
            "limits",
            "top",
            "tap",
            "events",
            "routes",
            "explain",
            "wait",
            "check",
        ],
    ),
    ("Policy", &["policy"]),
    ("Nodes", &["invite", "grant", "service", "secret", "drain", "leave", "evict", "revoke"]),
    ("Trust", &["operator", "ca", "identity"]),
    ("Rest", &["capture", "dns", "sim", "completions", "man"]),
];

const EXAMPLES: &str = "\
Examples:
  skein demo                                     a mesh on this machine, to look at
  skein init prod.example && skein run           the first node
  skein invite web-1 --service shop/cart         a token for the second
  skein policy push reviews.yaml --node web-1    policy, to any node
  skein members --watch

Exit codes: 0 ok, 1 failed, 2 usage, configuration, document or not joined, 3 warnings under --strict,
  4 not converged in time, 5 refused, 6 another process runs as this node.
An option may be given as SKEIN_SOME_FLAG for --some-flag; a flag counts before the environment, and that before the file. Those by
which two commands mean two things have no such mirror, except of init, join and run: --confirm-within, --dir, --force, --key, --limit,
--list, --role, --service.";

/// The whole grammar, with what derive cannot say.
pub fn command() -> clap::Command {
    let command = mirrored(Cli::command());
    let template = format!(
        "{{about}}\n\n{{usage-heading}} {{usage}}\n\n{}Global options:\n{{options}}\n\n{EXAMPLES}\n",
        grouped(&command)
    );
    command.help_template(template).disable_help_subcommand(true)
}

/// The commands whose answer can go on at every change.
const WATCHED: &[&str] = &[
    "status",
    "members",
    "services",
    "endpoints",
    "outliers",
    "limits",
    "events",
    "routes",
    "policy list",
    "policy log",
    "service list",
    "identity list",
];

/// Refuses `--watch` where it would do nothing.
///
/// # Errors
/// It stands in the line of another command. In the environment it is no mistake.
pub fn refuse_vain_watch(matches: &ArgMatches) -> Result<(), clap::Error> {
    let (mut words, mut deepest) = (Vec::new(), matches);
    while let Some((word, inner)) = deepest.subcommand() {
        words.push(word);
        deepest = inner;
    }
    let words = words.join(" ");
    if deepest.value_source("watch") != Some(ValueSource::CommandLine) || WATCHED.contains(&words.as_str()) {
        return Ok(());
    }
    let message = format!("--watch does nothing for `{words}`; it goes with: {}\n", WATCHED.join(", "));
    Err(clap::Error::raw(clap::error::ErrorKind::ArgumentConflict, message))
}

/// Flags by whose name one command means something other than another: a mirror would mean both. [`OF_MACHINES`] have mirrors of theirs.
const OF_ONE_COMMAND: &[&str] = &["confirm-within", "dir", "force", "key", "limit", "list", "role", "service"];

/// The commands that a container or a unit runs: all that they are told may stand in its environment.
const OF_MACHINES: &[&str] = &["init", "join", "run"];

/// Gives flags their `SKEIN_*` mirrors.
fn mirrored(command: clap::Command) -> clap::Command {
    let first = |command: clap::Command| {
        let all = OF_MACHINES.contains(&command.get_name());
        deeply(command, all)
    };
    own(command, false).mut_subcommands(first)
}

fn deeply(command: clap::Command, all: bool) -> clap::Command {
    own(command, all).mut_subcommands(|sub| deeply(sub, all))
}

fn own(command: clap::Command, all: bool) -> clap::Command {
    command.mut_args(|arg| match mirror(&arg) {
        Some(name) if all || !is_of_one_command(&arg) => arg.env(name).hide_env(true),
        Some(_) | None => arg,
    })
}

fn is_of_one_command(arg: &Arg) -> bool {
    arg.get_long().is_some_and(|long| OF_ONE_COMMAND.contains(&long))
}

/// What to say of variables that name a flag of the command and are not read: it is not in the line, and has no mirror there.
pub fn unread(matches: &ArgMatches, is_set: impl Fn(&str) -> bool) -> Vec<String> {
    let grammar = command();
    let (mut command, mut deepest) = (&grammar, matches);
    while let Some((word, inner)) = deepest.subcommand() {
        let Some(sub) = command.find_subcommand(word) else { break };
        (command, deepest) = (sub, inner);
    }
    let in_line = |arg: &Arg| deepest.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine);
    let unread = command.get_arguments().filter(|arg| arg.get_env().is_none() && !in_line(arg));
    let variable = |arg: &Arg| Some((mirror(arg).filter(|name| is_set(name))?, arg.get_long()?.to_owned()));
    let named = unread.filter_map(variable);
    named
        .map(|(name, flag)| format!("note: {name} is not read: --{flag} means several things; give the flag"))
        .collect()
}

fn mirror(arg: &Arg) -> Option<String> {
    let long = arg.get_long().filter(|long| !matches!(*long, "help" | "version"))?;
    Some(format!("SKEIN_{}", long.to_uppercase().replace('-', "_")))
}

fn grouped(command: &clap::Command) -> String {
    let mut text = String::new();
    for (heading, names) in GROUPS {
        text.push_str(&format!("{heading}:\n"));
        for name in *names {
            let about = command.find_subcommand(name).and_then(clap::Command::get_about);
            let about = about.map(ToString::to_string).unwrap_or_default();
            text.push_str(&format!("  {name:<12} {about}\n"));
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::FromArgMatches as _;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        let matches = command().try_get_matches_from(line.split(' '))?;
        Cli::from_arg_matches(&matches)
    }

    #[test]
    fn the_grammar_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn every_command_stands_in_one_group() {
        let command = command();
        let mut grouped: Vec<&str> = GROUPS.iter().flat_map(|group| group.1.iter().copied()).collect();
        let mut present: Vec<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
        grouped.sort_unstable();
        present.sort_unstable();
        assert_eq!(grouped, present);
    }

    #[test]
    fn flags_have_mirrors_where_a_word_means_one_thing() {
        fn check(command: &clap::Command, all: bool) {
            for arg in command.get_arguments().filter(|arg| arg.get_long().is_some()) {
                let long = arg.get_long().unwrap();
                let wanted = !matches!(long, "help" | "version") && (all || !OF_ONE_COMMAND.contains(&long));
                let wanted = wanted.then(|| format!("SKEIN_{}", long.to_uppercase().replace('-', "_")));
                let found = arg.get_env().map(|name| name.to_str().unwrap().to_owned());
                assert_eq!(found, wanted, "--{long} of {}", command.get_name());
            }
            command.get_subcommands().for_each(|sub| check(sub, all));
        }
        let mut command = command();
        command.build();
        for sub in command.get_subcommands() {
            check(sub, OF_MACHINES.contains(&sub.get_name()));
        }
        for long in OF_ONE_COMMAND {
            assert!(EXAMPLES.contains(&format!("--{long}")), "--help names --{long}");
        }
    }

    #[test]
    fn a_variable_that_is_not_read_is_named() {
        let said = |line: &str, set: &str| {
            let matches = command().try_get_matches_from(line.split(' ')).unwrap();
            unread(&matches, |name| name == set)
        };
        let note = "note: SKEIN_DIR is not read: --dir means several things; give the flag";
        assert_eq!(said("skein policy export", "SKEIN_DIR"), [note]);
        assert!(said("skein policy export --dir x", "SKEIN_DIR").is_empty(), "the flag counts");
        assert!(said("skein policy list", "SKEIN_DIR").is_empty(), "it has no such flag");
        assert!(said("skein policy lint a.yaml", "SKEIN_STRICT").is_empty(), "it is read");
        assert!(said("skein init t.example", "SKEIN_SERVICE").is_empty(), "it is read there");
    }

    #[test]
    fn global_flags_stand_anywhere() {
        for line in ["skein -o json members", "skein members -o json", "skein members web-1 --output json"] {
            assert_eq!(parse(line).unwrap().globals.output, crate::cli::output::Format::Json, "{line}");
        }
        let cli = parse("skein policy push a.yaml --node 127.0.0.1:15008 -n shop --timeout 2s").unwrap();
        assert_eq!(cli.globals.node.as_deref(), Some("127.0.0.1:15008"));
        assert_eq!(cli.globals.namespace(), "shop");
        assert_eq!(cli.globals.timeout, std::time::Duration::from_secs(2));
    }

    #[test]
    fn watch_goes_with_commands_that_look() {
        let refused = |line: &str| {
            let matches = command().try_get_matches_from(line.split(' ')).unwrap();
            refuse_vain_watch(&matches).is_err()
        };
        assert!(!refused("skein members --watch") && !refused("skein --watch policy list"));
        assert!(refused("skein policy push a.yaml --watch") && refused("skein --watch run"));
    }

    #[test]
    fn help_shows_groups_and_examples() {
        let help = command().render_help().to_string();
        for word in ["Start:\n", "Look:\n", "Policy:\n", "Nodes:\n", "Trust:\n", "Examples:\n", "--namespace"] {
            assert!(help.contains(word), "{word} is missing in\n{help}");
        }
    }

    #[test]
    fn every_command_has_an_example() {
        fn check(command: &clap::Command) {
            let hidden = command.is_hide_set();
            if command.has_subcommands() && command.get_name() != "demo" {
                command.get_subcommands().for_each(check);
            } else if !hidden {
                let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.starts_with("Example"), "{} has no example", command.get_name());
            }
        }
        check(&command());
    }
}
