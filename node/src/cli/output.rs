//! Tables for people, JSON and YAML for programs; colour only on a terminal and without `NO_COLOR`.

use std::io::{IsTerminal, Write};

use serde::Serialize;

use crate::cli::error::{Error, Result};

/// `-o`: tables are for people, JSON is the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// Columns and sentences.
    #[default]
    Table,
    /// JSON, one document; with `--watch` one object a line.
    Json,
    /// The same as YAML.
    Yaml,
}

/// Standard output of a command.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    /// What was asked for.
    pub format: Format,
    color: bool,
}

impl Output {
    /// Standard output in a form; colour by what it is connected to and by `NO_COLOR`.
    pub fn new(format: Format) -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { format, color: !refused && std::io::stdout().is_terminal() }
    }

    /// Prints a result: `value` for programs, what `text` makes of it for people.
    pub fn show<T: Serialize>(&self, value: &T, text: impl FnOnce() -> String) -> Result<()> {
        match self.format {
            Format::Table => self.lines(&text()),
            Format::Json => self.text(&json(value)?),
            Format::Yaml => self.text(&yaml(value)?),
        }
    }

    /// Prints a table for people, `value` for programs.
    pub fn table<T: Serialize>(&self, value: &T, table: impl FnOnce() -> Table) -> Result<()> {
        let color = self.color;
        self.show(value, || table().render(color))
    }

    /// Prints text for people: of what somebody else said in it, no control character counts.
    pub fn lines(&self, text: &str) -> Result<()> {
        self.text(&coloured(text))
    }

    /// Prints text and makes sure that it ends with a line end.
    pub fn text(&self, text: &str) -> Result<()> {
        let mut out = std::io::stdout().lock();
        let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        written(write!(out, "{text}{end}").and_then(|()| out.flush()))
    }

    /// One JSON object a line: what `--watch` prints for programs.
    pub fn json_line<T: Serialize>(&self, value: &T) -> Result<()> {
        let line = serde_json::to_string(value).map_err(|error| unprintable(&error))?;
        self.text(&escaped(&line))
    }

    /// A table as text in this output's colours.
    pub fn render(&self, table: &Table) -> String {
        table.render(self.color)
    }

    /// Clears a terminal before the next picture of `--watch`; on anything else a blank line parts them.
    pub fn next_picture(&self) -> Result<()> {
        self.text(if self.color { "\x1b[2J\x1b[H" } else { "\n" })
    }
}

/// A remark for people, on standard error.
pub fn remark(text: &str) {
    // Nothing can be said if standard error is closed.
    let _ = writeln!(std::io::stderr().lock(), "{}", plain(text));
}

/// A reader that has gone away (`| head`) is no failure worth words; the process ends as if killed by SIGPIPE.
fn written(result: std::io::Result<()>) -> Result<()> {
    match result {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(141),
        Err(error) => Err(Error::new("failed", format!("cannot write to standard output: {error}"))),
        Ok(()) => Ok(()),
    }
}

fn json<T: Serialize>(value: &T) -> Result<String> {
    serde_json::to_string_pretty(value).map(|text| escaped(&text)).map_err(|error| unprintable(&error))
}

/// JSON without control characters that JSON allows, and terminals obey.
pub fn escaped(json: &str) -> String {
    let escape = |c: char| if c.is_control() && c != '\n' { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() };
    if json.chars().any(|c| c.is_control() && c != '\n') { json.chars().map(escape).collect() } else { json.to_owned() }
}

/// A value as YAML.
pub fn yaml<T: Serialize>(value: &T) -> Result<String> {
    serde_saphyr::to_string(value).map_err(|error| unprintable(&error))
}

fn unprintable(error: &dyn std::fmt::Display) -> Error {
    Error::new("failed", format!("the result cannot be printed: {error}"))
}

/// Text from elsewhere without control characters, so that it can neither move the cursor nor forge a line.
pub fn plain(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let escaped = c.is_control() && c != '\n';
            let (kept, escape) = if escaped { (None, Some(c.escape_default())) } else { (Some(c), None) };
            kept.into_iter().chain(escape.into_iter().flatten())
        })
        .collect()
}

/// The same, but for the colours of [`Tone`]s.
fn coloured(text: &str) -> String {
    const COLOURS: [&str; 4] = ["[0m", "[31m", "[32m", "[33m"];
    let mut parts = text.split('\x1b');
    let mut shown = plain(parts.next().unwrap_or_default());
    for part in parts {
        let is_own = COLOURS.iter().any(|colour| part.starts_with(colour));
        shown.push_str(if is_own { "\x1b" } else { "\\u{1b}" });
        shown.push_str(&plain(part));
    }
    shown
}

/// How a cell looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// As it is.
    Plain,
    /// Fine: green.
    Good,
    /// Look at it: yellow.
    Doubt,
    /// Wrong: red.
    Bad,
}

/// Rows under a head, columns aligned.
#[derive(Debug, Clone)]
pub struct Table {
    head: Vec<String>,
    rows: Vec<Vec<(String, Tone)>>,
}

impl Table {
    /// A table with these columns.
    pub fn new(head: &[&str]) -> Self {
        Self { head: head.iter().map(|name| (*name).to_owned()).collect(), rows: Vec::new() }
    }

    /// Adds a row of plain cells.
    pub fn row<I: IntoIterator<Item = S>, S: Into<String>>(&mut self, cells: I) {
        self.toned(cells.into_iter().map(|cell| (cell.into(), Tone::Plain)));
    }

    /// Adds a row whose cells have tones.
    pub fn toned(&mut self, cells: impl IntoIterator<Item = (String, Tone)>) {
        let cells = cells.into_iter().map(|(text, tone)| (plain(&text).replace('\n', " "), tone));
        self.rows.push(cells.collect());
    }

    /// Without the columns in which nobody has anything to say; a table without rows says so.
    fn render(&self, color: bool) -> String {
        let says = |column: usize| self.rows.iter().any(|row| row.get(column).is_some_and(|cell| !cell.0.is_empty()));
        let shown: Vec<usize> = (0..self.head.len()).filter(|column| self.rows.is_empty() || says(*column)).collect();
        let widths: Vec<usize> = shown
            .iter()
            .map(|column| {
                let column = *column;
                let cells = self.rows.iter().filter_map(|row| row.get(column));
                let longest = cells.map(|cell| cell.0.chars().count()).max().unwrap_or(0);
                longest.max(self.head[column].chars().count())
            })
            .collect();
        let head: Vec<_> = self.head.iter().map(|name| (name.clone(), Tone::Plain)).collect();
        let kept = |row: &Vec<(String, Tone)>| shown.iter().filter_map(|column| row.get(*column).cloned()).collect();
        let rows: Vec<Vec<(String, Tone)>> = std::iter::once(&head).chain(&self.rows).map(kept).collect();
        let none = if self.rows.is_empty() { "(none)\n" } else { "" };
        rows.iter().map(|row| line(row, &widths, color)).collect::<String>() + none
    }
}

fn line(row: &[(String, Tone)], widths: &[usize], color: bool) -> String {
    let mut text = String::new();
    for ((cell, tone), width) in row.iter().zip(widths) {
        let pad = width.saturating_sub(cell.chars().count());
        let code = match tone {
            Tone::Plain => None,
            Tone::Good => Some("32"),
            Tone::Doubt => Some("33"),
            Tone::Bad => Some("31"),
        };
        match code.filter(|_| color) {
            Some(code) => text.push_str(&format!("\x1b[{code}m{cell}\x1b[0m")),
            None => text.push_str(cell),
        }
        text.push_str(&" ".repeat(pad + 2));
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(&["NAME", "STATE"]);
        table.row(["a", "alive"]);
        table.row(["a-long-name", "dead"]);
        assert_eq!(table.render(false), "NAME         STATE\na            alive\na-long-name  dead\n");
    }

    #[test]
    fn columns_that_say_nothing_are_left_out() {
        let mut table = Table::new(&["NAME", "REASON", "STATE"]);
        assert_eq!(table.render(false), "NAME  REASON  STATE\n(none)\n");
        table.row(["a", "", "alive"]);
        table.row(["b", "", ""]);
        assert_eq!(table.render(false), "NAME  STATE\na     alive\nb\n");
    }

    #[test]
    fn colour_only_where_asked() {
        let mut table = Table::new(&["S"]);
        table.toned([("dead".to_owned(), Tone::Bad)]);
        assert!(table.render(true).contains("\x1b[31mdead\x1b[0m"));
        assert!(!table.render(false).contains('\x1b'));
    }

    #[test]
    fn control_characters_of_others_are_escaped() {
        let mut table = Table::new(&["MESSAGE"]);
        table.row(["evil\x1b[2J\nforged line"]);
        assert_eq!(table.render(false), "MESSAGE\nevil\\u{1b}[2J forged line\n");
    }

    #[test]
    fn a110_of_what_others_say_only_colours_reach_a_terminal() {
        let mut table = Table::new(&["S"]);
        table.toned([("dead\x1b[2J".to_owned(), Tone::Bad)]);
        let shown = coloured(&(table.render(true) + "title \x1b]0;owned\x07 \u{9b}31m \r over\n"));
        assert_eq!(shown, "S\n\x1b[31mdead\\u{1b}[2J\x1b[0m\ntitle \\u{1b}]0;owned\\u{7} \\u{9b}31m \\r over\n");
        let value = serde_json::json!({"code": "a\u{9b}2J\u{7f}\x1b\n"});
        let text = json(&value).unwrap();
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }

    #[test]
    fn yaml_of_a_list() {
        let text = yaml(&serde_json::json!([{"name": "a", "ports": [1]}])).unwrap();
        assert!(text.starts_with("- name: a\n"), "{text}");
    }
}
