//! What the documentation tells people to type, and what messages do, is of the grammar.

use std::{fs, path::Path};

use clap::error::ErrorKind;

use super::grammar;

/// A command as it is written somewhere.
#[derive(Debug, PartialEq)]
struct Written {
    words: Vec<String>,
    /// It stands in a sentence, where its name alone may be meant.
    is_mention: bool,
}

/// The commands of a page: lines of code, and code within sentences.
fn of_page(text: &str) -> Vec<Written> {
    let (mut found, mut fenced) = (Vec::new(), false);
    for line in text.lines() {
        if line.starts_with("```") {
            fenced = !fenced;
        } else if fenced || line.starts_with("    ") {
            found.extend(commands(line, false));
        } else {
            found.extend(mentions(line));
        }
    }
    found
}

/// Code within a sentence.
fn mentions(line: &str) -> Vec<Written> {
    let code = line.split('`').skip(1).step_by(2).filter(|code| code.starts_with("skein "));
    code.flat_map(|code| commands(code, true)).collect()
}

fn commands(line: &str, is_mention: bool) -> Vec<Written> {
    let known = grammar::command();
    let begins = line.match_indices("skein ").map(|(at, _)| at);
    let begins =
        begins.filter(|at| !line[..*at].ends_with(|before: char| before.is_alphanumeric() || "/-_.".contains(before)));
    let mut found = Vec::new();
    for at in begins {
        let words = words(&line[at..]);
        let Some(second) = words.get(1) else { continue };
        let before = line[..at].trim();
        // After a prompt or another command, as at the beginning of a line.
        let begins = before.is_empty() || ["$", "sudo", "&&", "|", ";"].iter().any(|word| before.ends_with(word));
        let is_named = begins && second.starts_with(|first: char| first.is_ascii_lowercase());
        // A remark speaks of commands as a sentence does.
        let is_mention = is_mention || before.starts_with("# ") || before.contains(" # ") || before.ends_with('#');
        if is_named || known.find_subcommand(second).is_some() {
            found.push(Written { words, is_mention });
        }
    }
    found
}

/// The words of one command, up to what ends it in a shell or in a remark.
fn words(text: &str) -> Vec<String> {
    let (mut words, mut word, mut quote, mut is_quoted) = (Vec::new(), String::new(), None, false);
    for character in text.chars().chain([' ']) {
        match (quote, character) {
            (Some(open), end) if open == end => quote = None,
            (Some(_), inner) => word.push(inner),
            (None, open @ ('\'' | '"')) => (quote, is_quoted) = (Some(open), true),
            (None, ';' | '|' | '&' | '>' | '#' | '(' | ')' | ',' | '`') => break,
            // After a gap comes what it is for.
            (None, ' ') if word.is_empty() && !is_quoted && !words.is_empty() => break,
            (None, ' ') => {
                if is_quoted || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                is_quoted = false;
            }
            (None, other) => word.push(other),
        }
    }
    // A quote that nothing closes is of what stands around the command.
    if !word.trim().is_empty() {
        words.push(word.trim().to_owned());
    }
    words
}

/// Something that can be given in the place of what stands for it.
fn filled(word: &str) -> String {
    let word = word.trim_matches(['[', ']']);
    let is_placeholder = |one: char| one.is_ascii_uppercase() || "/=:_".contains(one);
    let stands_for = word.len() > 1 && word.chars().all(is_placeholder);
    match word {
        "HASH" => "0".repeat(64),
        "KIND" => "VirtualService".to_owned(),
        "DURATION" => "5m".to_owned(),
        "HOST:PORT" => "10.0.0.5:15008".to_owned(),
        "ID" | "CHANGESET" => "4f1c09".to_owned(),
        _ if stands_for => word.to_lowercase(),
        _ => word.to_owned(),
    }
}

/// Why it cannot be typed.
fn fault(written: &Written) -> Option<String> {
    let words: Vec<String> = written.words.iter().filter(|word| *word != "...").map(|word| filled(word)).collect();
    if words[1] == "join" && words.get(2).is_some_and(|token| !token.starts_with('-')) {
        return Some("a token does not belong into the command line".to_owned());
    }
    let error = grammar::command().try_get_matches_from(&words).err()?;
    // A sentence names a command or a flag, and leaves out or fills in what else belongs to it.
    let incomplete = [
        ErrorKind::MissingRequiredArgument,
        ErrorKind::MissingSubcommand,
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand,
        ErrorKind::InvalidValue,
        ErrorKind::ValueValidation,
    ];
    let is_fine = error.kind() == ErrorKind::DisplayHelp || written.is_mention && incomplete.contains(&error.kind());
    (!is_fine).then(|| error.to_string().lines().next().unwrap_or_default().to_owned())
}

#[test]
fn commands_are_found_where_people_write_them() {
    let page = "Text with `skein join` and `skein.toml`.\n\n    web-1$  skein run\n    a && skein ping NODE; b | sudo skein join -  # or skein status\n\
                \n    install skein /usr/bin/skein\n    skein explain http://a/ -H 'b: c'\n";
    let found = of_page(page);
    let all: Vec<Vec<&str>> = found.iter().map(|one| one.words.iter().map(String::as_str).collect()).collect();
    let wanted: [&[&str]; 6] = [
        &["skein", "join"],
        &["skein", "run"],
        &["skein", "ping", "NODE"],
        &["skein", "join", "-"],
        &["skein", "status"],
        &["skein", "explain", "http://a/", "-H", "b: c"],
    ];
    assert_eq!(all, wanted);
    let is_wrong = |line: &str| fault(&commands(line, false)[0]).is_some();
    assert!(is_wrong("skein join TOKEN") && is_wrong("skein statsu") && is_wrong("skein check --strickt"));
    assert!(is_wrong("skein ping") && !is_wrong("skein ping NODE") && !is_wrong("skein join --token-file FILE"));
}

#[test]
fn what_the_documentation_tells_to_type_is_of_the_grammar() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages = vec![here.join("../README.md"), here.join("../policy/KINDS.md")];
    pages.extend(fs::read_dir(here.join("docs")).unwrap().map(|entry| entry.unwrap().path()));
    // Its usage lines are the grammar itself.
    pages.retain(|page| page.extension().is_some_and(|end| end == "md") && !page.ends_with("cli.md"));
    let (mut count, mut faults) = (0, Vec::new());
    for page in pages {
        for written in of_page(&fs::read_to_string(&page).unwrap()) {
            count += 1;
            faults.extend(fault(&written).map(|why| format!("{}: {}: {why}", page.display(), written.words.join(" "))));
        }
    }
    assert!(count > 100, "{count} commands were found");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn what_messages_tell_to_type_is_of_the_grammar() {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    let (mut count, mut faults) = (0, Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") && !path.ends_with("documented.rs") {
                for mut written in fs::read_to_string(&path).unwrap().lines().flat_map(mentions) {
                    // What a message fills in.
                    for word in written.words.iter_mut().filter(|word| word.contains(['{', '}', '\\'])) {
                        "x".clone_into(word);
                    }
                    if written.words[1] == "x" {
                        continue;
                    }
                    count += 1;
                    faults.extend(
                        fault(&written).map(|why| format!("{}: {}: {why}", path.display(), written.words.join(" "))),
                    );
                }
            }
        }
    }
    assert!(count > 100, "{count} commands were found");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
