//! Files of documents: finding them, reading them, and showing where a complaint points.

use std::{
    fmt::Write as _,
    io::Read as _,
    path::{Path, PathBuf},
};

use policy::{
    Problem, Severity, codes,
    parse::{self, Parsed},
};

use crate::cli::{
    error::{Error, Result, io, usage},
    output::{Format, plain},
};

/// The largest file that is read, bytes.
const FILE_LIMIT: u64 = 16 << 20;
/// The most files of one command.
const FILES_LIMIT: usize = 10_000;

/// A file and what it holds.
#[derive(Debug)]
pub(super) struct Source {
    /// As the user named it; `-` is standard input.
    pub(super) file: String,
    /// Its text.
    pub(super) text: String,
    /// What the parser makes of it.
    pub(super) parsed: Parsed,
}

/// Reads files, folders (recursively `*.yaml`, `*.yml`, `*.json`) and standard input (`-`).
pub(super) fn read(paths: &[PathBuf], namespace: &str) -> Result<Vec<Source>> {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            let before = files.len();
            walk(path, &mut files)?;
            if files.len() == before {
                return Err(usage(format!("{} holds no *.yaml, *.yml or *.json", path.display()), "name a file"));
            }
        } else {
            files.push(path.clone());
        }
    }
    files.iter().map(|path| source(path, namespace)).collect()
}

fn source(path: &Path, namespace: &str) -> Result<Source> {
    let file = path.display().to_string();
    let read = if file == "-" { stdin() } else { text(path) };
    let (text, parsed) = match read {
        Ok(text) => {
            let parsed = parse::yaml(&file, &text, namespace);
            (text, parsed)
        }
        // One file that is no text takes no other's complaints.
        Err(error) if error.code == "invalid_document" => (String::new(), unreadable(&file, error)),
        Err(error) => return Err(error),
    };
    Ok(Source { file, text, parsed })
}

fn unreadable(file: &str, error: Error) -> Parsed {
    let problem = Problem {
        code: codes::SYNTAX,
        severity: Severity::Error,
        file: file.to_owned(),
        line: 0,
        column: 0,
        document: None,
        field: String::new(),
        message: error.message,
        hint: error.hint,
        istio_message: None,
    };
    Parsed { problems: vec![problem], ..Parsed::default() }
}

fn stdin() -> Result<String> {
    let mut text = String::new();
    let read = std::io::stdin().lock().take(FILE_LIMIT + 1).read_to_string(&mut text);
    read.map_err(|error| io("read", Path::new("standard input"), &error))?;
    limited("standard input", text)
}

fn text(path: &Path) -> Result<String> {
    let file = std::fs::File::open(path).map_err(|error| io("read", path, &error))?;
    let mut text = String::new();
    let read = file.take(FILE_LIMIT + 1).read_to_string(&mut text);
    read.map_err(|error| {
        if error.kind() == std::io::ErrorKind::InvalidData {
            return Error::new("invalid_document", format!("{} is not UTF-8 text", path.display()))
                .hint("name a YAML or JSON file");
        }
        io("read", path, &error)
    })?;
    limited(&path.display().to_string(), text)
}

fn limited(name: &str, text: String) -> Result<String> {
    if text.len() as u64 <= FILE_LIMIT {
        return Ok(text);
    }
    Err(Error::new("invalid_document", format!("{name} is larger than {} MiB", FILE_LIMIT >> 20)).hint("split it"))
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = std::fs::read_dir(folder).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
    let mut entries = entries.map_err(|error| io("read", folder, &error))?;
    entries.sort_by_key(std::fs::DirEntry::path);
    for entry in entries {
        let path = entry.path();
        let kind = entry.file_type().map_err(|error| io("read", &path, &error))?;
        let wanted = path.extension().is_some_and(|end| ["yaml", "yml", "json"].iter().any(|known| end == *known));
        if kind.is_dir() {
            walk(&path, files)?;
        } else if wanted && path.is_file() {
            files.push(path);
        }
        if files.len() > FILES_LIMIT {
            return Err(usage(format!("{} holds more than {FILES_LIMIT} files", folder.display()), "name fewer"));
        }
    }
    Ok(())
}

/// The one line of a complaint.
pub(super) fn line(problem: &Problem) -> String {
    plain(&problem.to_string()).replace('\n', " ")
}

/// What people are shown of a complaint.
pub(super) struct Shown<'c> {
    /// `error`, `warning` or what else it is.
    pub(super) word: &'c str,
    pub(super) code: &'c str,
    pub(super) message: &'c str,
    /// The file, or what else names the document.
    pub(super) file: &'c str,
    /// From 1; 0 if it has no place.
    pub(super) line: usize,
    pub(super) column: usize,
    pub(super) field: &'c str,
    pub(super) hint: &'c str,
}

/// A complaint within a document with the line that it points at; what push refuses whatever its severity is an error.
pub(super) fn snippet(problem: &Problem, text: Option<&str>) -> String {
    let word = match problem.severity {
        Severity::Error => "error",
        Severity::Warning if problem.refuses() => "error",
        Severity::Warning => "warning",
        Severity::Info => "note",
    };
    let (code, message, file) = (problem.code, &*problem.message, &*problem.file);
    let (line, column, field, hint) = (problem.line, problem.column, &*problem.field, &*problem.hint);
    framed(&Shown { word, code, message, file, line, column, field, hint }, text)
}

/// A complaint with the line of the text that it points at.
pub(super) fn framed(complaint: &Shown<'_>, text: Option<&str>) -> String {
    let Shown { word, code, message, file, line, column, field, hint } = complaint;
    let mut shown = format!("{word}[{code}]: {}\n  --> {}", plain(message), plain(file).replace('\n', "\\n"));
    // Writing to a string does not fail.
    if *line > 0 {
        let _ = write!(shown, ":{line}:{column}");
    }
    if !field.is_empty() {
        let _ = write!(shown, " ({})", plain(field));
    }
    shown.push('\n');
    if let Some(code) = text.and_then(|text| text.lines().nth(line.checked_sub(1)?)) {
        let number = line.to_string();
        let pad = " ".repeat(number.len());
        let before = column.saturating_sub(1);
        let width = code.chars().skip(before).take_while(|c| c.is_alphanumeric() || "-_.".contains(*c)).count().max(1);
        // A tab is as wide as the terminal likes: shown as one letter, the mark stands under its column.
        let (code, lead) = (plain(&code.replace('\t', "\u{2192}")), " ".repeat(before));
        let _ = writeln!(shown, " {pad} |\n {number} | {code}\n {pad} | {lead}{}", "^".repeat(width));
    }
    if !hint.is_empty() {
        let _ = writeln!(shown, " hint: {}", plain(hint));
    }
    shown
}

/// The error of documents that are not valid, naming each place; to people the snippets have named them.
pub(super) fn invalid<'a>(problems: impl Iterator<Item = &'a Problem>, format: Format, hint: &str) -> Error {
    const SHOWN: usize = 20;
    let mut lines: Vec<String> = problems.map(line).collect();
    if format == Format::Table {
        let plural = if lines.len() == 1 { "" } else { "s" };
        return Error::new("invalid_document", format!("{} error{plural}", lines.len())).hint(hint);
    }
    let more = lines.len().saturating_sub(SHOWN);
    lines.truncate(SHOWN);
    if more > 0 {
        lines.push(format!("and {more} more"));
    }
    Error::new("invalid_document", lines.join("\n")).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem() -> Problem {
        Problem {
            code: "SKN0101",
            severity: Severity::Error,
            document: None,
            file: "a.yaml".into(),
            line: 2,
            column: 3,
            field: "spec.htpp".into(),
            message: "unknown field `htpp`".into(),
            hint: "did you mean `http`?".into(),
            istio_message: None,
        }
    }

    #[test]
    fn a_snippet_points_at_the_word() {
        let shown = snippet(&problem(), Some("spec:\n  htpp: []\n"));
        assert_eq!(
            shown,
            "error[SKN0101]: unknown field `htpp`\n  --> a.yaml:2:3 (spec.htpp)\n   |\n 2 |   htpp: []\n   |   ^^^^\n hint: did you mean `http`?\n"
        );
    }

    #[test]
    fn names_of_files_move_no_cursor_and_begin_no_line() {
        let file = "a\u{1b}[2J\u{9b}2J\nerror[SKN0101]: b.yaml".to_owned();
        let shown = snippet(&Problem { file, ..problem() }, None);
        assert!(!shown.contains(|letter: char| letter.is_control() && letter != '\n'), "{shown:?}");
        assert_eq!(shown.lines().count(), 3, "{shown:?}");
    }

    #[test]
    fn a_mark_stands_under_its_column_behind_tabs() {
        let shown = snippet(&Problem { column: 4, ..problem() }, Some("spec:\n\t\t htpp: []\n"));
        assert!(shown.contains(" 2 | \u{2192}\u{2192} htpp: []\n   |    ^^^^\n"), "{shown}");
    }

    #[test]
    fn what_push_refuses_is_an_error() {
        let unbuilt = Problem { code: codes::NOT_SUPPORTED, severity: Severity::Warning, ..problem() };
        assert!(snippet(&unbuilt, None).starts_with("error[SKN0102]"));
        assert!(snippet(&Problem { code: "SKN0203", ..unbuilt }, None).starts_with("warning[SKN0203]"));
    }

    #[test]
    fn a_snippet_of_a_place_that_is_not_there_has_no_lines() {
        assert!(!snippet(&problem(), Some("one line")).contains('|'));
        assert!(!snippet(&Problem { line: 0, ..problem() }, Some("one line")).contains('|'));
    }

    #[test]
    fn folders_are_read_recursively_and_in_order() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("b")).unwrap();
        for name in ["b/x.yml", "a.yaml", "c.json", "ignored.txt"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let mut files = Vec::new();
        walk(folder.path(), &mut files).unwrap();
        let names: Vec<_> =
            files.iter().map(|file| file.strip_prefix(folder.path()).unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["a.yaml", "b/x.yml", "c.json"]);
    }
}
