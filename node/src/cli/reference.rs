//! The reference of the command line in Markdown, made of the grammar itself: `node/docs/cli.md`.

use std::{collections::BTreeMap, fmt::Write as _};

use clap::{Arg, Command};

use super::grammar;

const HEAD: &str = "\
# The command line

Made by `skein man --markdown` from the program's own grammar; a test compares them.

Results go to standard output, remarks and errors to standard error. `-o json` is the contract: fields may come, none goes.
Exit codes: 0 ok, 1 failed, 2 usage, configuration, document or not joined, 3 warnings under `--strict`, 4 not converged in time,
5 refused, 6 another process runs as this node. Errors as JSON: `{\"error\": {\"code\", \"message\", \"hint\"}}`, codes are stable.
";

const ENVIRONMENT: &str = "
## Flags in the environment

A flag counts before its variable, and that before the file. A variable that names a flag of the command and is not read is named on standard
error. Not of the program's own are `RUST_LOG` (before `[runtime] log`), `OTEL_*` ([tracing](tracing.md)), `SSL_CERT_FILE` (authorities for HTTPS), `XDG_CONFIG_HOME`,
`XDG_STATE_HOME` and `XDG_RUNTIME_DIR` (where things lie for others than root), and `NO_COLOR`.

";

/// The whole reference.
pub(super) fn markdown() -> String {
    let mut command = grammar::command();
    command.build();
    let mut text = HEAD.to_owned();
    text.push_str("\n## Flags that stand anywhere\n\n");
    arguments(&command, &mut text);
    for group in grammar::GROUPS {
        // Writing to a string does not fail.
        let _ = writeln!(text, "\n## {}\n", group.0);
        for name in group.1 {
            if let Some(found) = command.find_subcommand(name) {
                section(found, &format!("skein {name}"), &mut text);
            }
        }
    }
    environment(&command, &mut text);
    // One empty line parts paragraphs, and none stands at the end.
    while text.contains("\n\n\n") {
        text = text.replace("\n\n\n", "\n\n");
    }
    text.trim_end().to_owned() + "\n"
}

/// The variables by which flags may be given, each with the commands that read it.
fn environment(command: &Command, text: &mut String) {
    let mut read = BTreeMap::new();
    variables(command, "", &mut read);
    text.push_str(ENVIRONMENT);
    for (variable, commands) in read {
        let commands =
            if commands.iter().any(String::is_empty) { "everywhere".to_owned() } else { commands.join(", ") };
        // Writing to a string does not fail.
        let _ = writeln!(text, "- `{variable}`: {commands}");
    }
}

fn variables(command: &Command, path: &str, read: &mut BTreeMap<String, Vec<String>>) {
    let shown = command.get_arguments().filter(|arg| !arg.is_hide_set() && (path.is_empty() || !arg.is_global_set()));
    for variable in shown.filter_map(|arg| Some(arg.get_env()?.to_string_lossy().into_owned())) {
        read.entry(variable).or_default().push(if path.is_empty() { String::new() } else { format!("`{path}`") });
    }
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        variables(sub, format!("{path} {}", sub.get_name()).trim_start(), read);
    }
}

fn section(command: &Command, path: &str, text: &mut String) {
    if command.is_hide_set() {
        return;
    }
    let about = command.get_long_about().or_else(|| command.get_about()).map(ToString::to_string).unwrap_or_default();
    let _ = write!(text, "### {path}\n\n{about}\n\n");
    let below: Vec<&Command> = command.get_subcommands().filter(|sub| !sub.is_hide_set()).collect();
    if below.is_empty() {
        let usage = command.clone().bin_name(path).render_usage().to_string();
        let _ = write!(text, "    {}\n\n", usage.trim_start_matches("Usage: ").replace('\n', "\n    "));
        arguments(command, text);
        if let Some(after) = command.get_after_help() {
            let _ = write!(text, "\n{}\n\n", example(&after.to_string()));
        }
    }
    for sub in below {
        section(sub, &format!("{path} {}", sub.get_name()), text);
    }
}

/// Arguments and flags of a command; the global ones stand at the head alone.
fn arguments(command: &Command, text: &mut String) {
    let is_root = command.get_name() == "skein";
    let shown = command.get_arguments().filter(|arg| {
        !arg.is_hide_set() && !matches!(arg.get_id().as_str(), "help" | "version") && (is_root || !arg.is_global_set())
    });
    for arg in shown {
        let help = arg.get_long_help().or_else(|| arg.get_help()).map(ToString::to_string).unwrap_or_default();
        let default = default(arg).map(|value| format!(" [default: {value}]")).unwrap_or_default();
        let _ = writeln!(text, "- `{}`: {}{default}", name(arg), help.replace('\n', " ").trim_end_matches('.'));
    }
}

fn name(arg: &Arg) -> String {
    let values: Vec<String> = arg.get_value_names().unwrap_or_default().iter().map(ToString::to_string).collect();
    let values = values.join(" ");
    let takes = arg.get_action().takes_values();
    match (arg.get_long(), arg.get_short()) {
        (None, None) => values,
        (long, short) => {
            let names = [short.map(|short| format!("-{short}")), long.map(|long| format!("--{long}"))];
            let names = names.into_iter().flatten().collect::<Vec<_>>().join(", ");
            if takes { format!("{names} {values}") } else { names }
        }
    }
}

fn default(arg: &Arg) -> Option<String> {
    let values = arg.get_default_values();
    let shown = !values.is_empty() && arg.get_action().takes_values() && !arg.is_hide_default_value_set();
    shown.then(|| values.iter().map(|value| value.to_string_lossy()).collect::<Vec<_>>().join(" "))
}

/// `Example: ...` and `Examples:` with their lines as code.
fn example(text: &str) -> String {
    match text.split_once('\n') {
        None => match text.split_once(": ") {
            Some((_, line)) => format!("Example:\n\n    {line}"),
            None => text.to_owned(),
        },
        Some((head, lines)) => {
            let lines: Vec<String> = lines.lines().map(|line| format!("    {}", line.trim_start())).collect();
            format!("{head}\n\n{}", lines.join("\n"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_in_the_docs_is_that_of_the_grammar() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/cli.md");
        let kept = std::fs::read_to_string(file).unwrap_or_default();
        let made = markdown();
        let differs = kept.lines().zip(made.lines()).find(|(kept, made)| kept != made);
        assert!(kept == made, "run `skein man --markdown > node/docs/cli.md`; the first difference: {differs:?}");
    }

    #[test]
    fn of_every_command_it_is_written_what_it_prints_as_json() {
        let json = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/json.md")).unwrap();
        let made = markdown();
        let headings = |text: &str| -> std::collections::BTreeSet<String> {
            text.lines().filter_map(|line| line.strip_prefix("### skein ")).map(str::to_owned).collect()
        };
        let (commands, written) = (headings(&made), headings(&json));
        let text = |command: &&String| {
            json.lines().any(|line| line.contains("is text") && line.contains(&format!("`skein {command}`")))
        };
        // Those that only group others print nothing.
        let groups = |command: &&String| commands.iter().any(|other| other.starts_with(&format!("{command} ")));
        let missing: Vec<_> =
            commands.difference(&written).filter(|command| !groups(command) && !text(command)).collect();
        assert!(missing.is_empty(), "node/docs/json.md says nothing of {missing:?}");
        assert_eq!(written.difference(&commands).collect::<Vec<_>>(), [""; 0]);
    }

    #[test]
    fn every_command_and_its_flags_are_there() {
        let text = markdown();
        for word in [
            "### skein policy push",
            "--confirm-within",
            "### skein events",
            "`-o, --output table|json|yaml`",
            "skein check --strict",
        ] {
            assert!(text.contains(word), "{word} is missing");
        }
        assert!(!text.contains("clock-offset"), "hidden flags stay hidden");
    }
}
