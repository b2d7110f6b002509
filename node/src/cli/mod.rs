//! The command line: one file per command.

pub mod client;
pub mod context;
pub(crate) mod difference;
pub mod directory;
pub mod error;
pub mod grammar;
mod grants;
pub(crate) mod look;
pub mod output;
pub mod passphrase;
pub mod signing;
pub mod value;

mod ca;
mod capture;
mod check;
mod completions;
mod dns;
mod drain;
mod endpoints;
mod events;
mod evict;
mod explain;
mod grant;
mod identity;
mod init;
mod invite;
mod join;
mod leave;
mod limits;
mod man;
mod members;
mod operator;
mod outliers;
mod ping;
mod policy;
mod progress;
mod proof;
mod reference;
mod revoke;
mod routes;
mod run;
mod secret;
mod service;
mod services;
mod sim;
mod status;
mod tap;
mod top;
mod wait;

#[cfg(test)]
mod documented;

use std::{pin::Pin, process::ExitCode};

use clap::FromArgMatches as _;

use self::{
    context::Context,
    error::{Error, Result},
    grammar::{Cli, Command},
    output::Format,
};

/// Runs the command line of this process and gives its exit code.
pub fn main() -> ExitCode {
    main_with(std::env::args_os())
}

/// Runs a command line whose first word is the program's name, and gives its exit code.
pub fn main_with(line: impl IntoIterator<Item = std::ffi::OsString>) -> ExitCode {
    let cli = match parse(line) {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    crate::clock::shift(cli.globals.clock_offset);
    // Every command may hold keys. A system that does not let these be set has set them.
    let _ = nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0);
    let _ = nix::sys::prctl::set_dumpable(false);
    let ctx = Context::new(cli.globals);
    match dispatch(cli.command, &ctx) {
        Ok(code) => code,
        Err(error) => {
            error::report(&error, ctx.output.format);
            ExitCode::from(error.class().exit_code())
        }
    }
}

/// Reads the line; help and usage errors are answered here.
fn parse(line: impl IntoIterator<Item = std::ffi::OsString>) -> std::result::Result<Cli, ExitCode> {
    let line: Vec<_> = line.into_iter().collect();
    let matches = grammar::command().try_get_matches_from(&line);
    let read = matches.and_then(|matches| {
        grammar::refuse_vain_watch(&matches)?;
        grammar::unread(&matches, |name| std::env::var_os(name).is_some()).iter().for_each(|note| output::remark(note));
        Cli::from_arg_matches(&matches)
    });
    read.map_err(|error| {
        if !error.use_stderr() {
            // Help or version; a closed standard output is the reader's choice.
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        let is_unknown = error.kind() == clap::error::ErrorKind::InvalidSubcommand;
        let near = is_unknown.then(|| elsewhere(&line)).filter(|near| !near.is_empty());
        let examples = near.unwrap_or_else(|| examples(&line));
        if asks_for_json(&line) {
            let text = error.render().to_string();
            let (message, hint) = text.split_once("\n\n").unwrap_or((&text, ""));
            let message = message.trim_start_matches("error: ").trim();
            error::report(&error::usage(message, format!("{}\n{examples}", hint.trim()).trim()), Format::Json);
        } else {
            let _ = error.print();
            if !examples.is_empty() {
                output::remark(&format!("\n{examples}"));
            }
        }
        ExitCode::from(error::Class::Usage.exit_code())
    })
}

/// How the command that the line begins with is used; empty if it begins with none.
fn examples(line: &[std::ffi::OsString]) -> String {
    let grammar = grammar::command();
    let mut command = &grammar;
    for word in line.iter().skip(1) {
        command = command.find_subcommand(word).unwrap_or(command);
    }
    let named = command.get_name() != grammar.get_name();
    command.get_after_help().filter(|_| named).map(ToString::to_string).unwrap_or_default()
}

/// Which groups have a command that was written without its group.
fn elsewhere(line: &[std::ffi::OsString]) -> String {
    let grammar = grammar::command();
    let words = || line.iter().skip(1).filter(|word| grammar.find_subcommand(word).is_none());
    let group = |group: &clap::Command, word| {
        group.find_subcommand(word).map(|inner| format!("skein {} {}", group.get_name(), inner.get_name()))
    };
    let found = words().find_map(|word| {
        let found: Vec<String> = grammar.get_subcommands().filter_map(|one| group(one, word)).collect();
        (!found.is_empty()).then_some(found)
    });
    found.map(|found| format!("Did you mean: {}", found.join(", "))).unwrap_or_default()
}

/// Whether a line that could not be read wants its error as JSON.
fn asks_for_json(line: &[std::ffi::OsString]) -> bool {
    let words: Vec<_> = line.iter().filter_map(|word| word.to_str()).collect();
    words.windows(2).any(|pair| matches!(pair, ["-o" | "--output", "json" | "yaml"]))
        || words.iter().any(|word| matches!(*word, "-ojson" | "-oyaml" | "--output=json" | "--output=yaml" | "-o=json"))
        || std::env::var("SKEIN_OUTPUT").is_ok_and(|value| value == "json" || value == "yaml")
}

fn dispatch(command: Command, ctx: &Context) -> Result<ExitCode> {
    match command {
        Command::Demo(args) => return crate::demo::run(args, ctx.output.format == Format::Json).map_err(other),
        Command::Run(args) => return run::run(args, ctx),
        Command::Init(args) => init::run(args, ctx),
        Command::Completions(args) => completions::run(&args, ctx),
        Command::Man(args) => man::run(&args, ctx),
        Command::Sim(command) => sim::run(command, ctx),
        Command::Dns(command) => dns::run(command, ctx),
        Command::Join(args) => block_on(join::run(args, ctx)),
        Command::Status(args) => block_on(status::run(args, ctx)),
        Command::Members(args) => block_on(members::run(args, ctx)),
        Command::Ping(args) => block_on(ping::run(args, ctx)),
        Command::Services(args) => block_on(services::run(args, ctx)),
        Command::Endpoints(args) => block_on(endpoints::run(args, ctx)),
        Command::Limits(args) => block_on(limits::run(args, ctx)),
        Command::Outliers(args) => block_on(outliers::run(args, ctx)),
        Command::Tap(args) => block_on(tap::run(args, ctx)),
        Command::Top(args) => block_on(top::run(args, ctx)),
        Command::Events(args) => block_on(events::run(args, ctx)),
        Command::Routes(args) => block_on(routes::run(args, ctx)),
        Command::Explain(args) => block_on(explain::run(args, ctx)),
        Command::Wait(args) => block_on(wait::run(args, ctx)),
        Command::Check(args) => block_on(check::run(args, ctx)),
        Command::Capture(command) => block_on(capture::run(command, ctx)),
        Command::Policy(command) => block_on(policy::run(command, ctx)),
        Command::Invite(args) => block_on(invite::run(args, ctx)),
        Command::Grant(args) => block_on(grant::run(args, ctx)),
        Command::Secret(command) => block_on(secret::run(command, ctx)),
        Command::Service(command) => block_on(service::run(command, ctx)),
        Command::Drain(args) => block_on(drain::run(args, ctx)),
        Command::Leave(args) => block_on(leave::run(args, ctx)),
        Command::Evict(args) => block_on(evict::run(args, ctx)),
        Command::Revoke(args) => block_on(revoke::run(args, ctx)),
        Command::Operator(command) => block_on(operator::run(command, ctx)),
        Command::Ca(command) => block_on(ca::run(command, ctx)),
        Command::Identity(command) => block_on(identity::run(command, ctx)),
    }
    .map(|()| ExitCode::SUCCESS)
}

/// Runs a command that talks to nodes, on a runtime of one thread. Boxed, as a runtime's code is compiled three times for each future that
/// it is given, with all of that future in it.
fn block_on<'a>(command: impl Future<Output = Result<()>> + 'a) -> Result<()> {
    let command: Pin<Box<dyn Future<Output = Result<()>> + 'a>> = Box::pin(command);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Error::new("failed", format!("cannot start: {error}")))?.block_on(command)
}

/// An error of a room that has no codes of its own.
fn other(error: anyhow::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => error,
        Err(error) => Error::new("failed", format!("{error:#}")),
    }
}

#[cfg(test)]
mod tests {
    use super::elsewhere;

    #[test]
    fn a_command_is_found_in_its_group() {
        let line = |words: &str| words.split(' ').map(Into::into).collect::<Vec<std::ffi::OsString>>();
        assert_eq!(elsewhere(&line("skein apply -f x.yaml")), "Did you mean: skein policy push");
        assert!(elsewhere(&line("skein list")).contains("skein policy list, "));
        assert_eq!(elsewhere(&line("skein nonsense")), "");
    }
}
