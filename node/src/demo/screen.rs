//! What people read: plain lines, colours where the terminal has them, and one line that is rewritten while something
//! goes on. With `-o json` it is silent.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};

use crate::error::Error;

/// Cells of a bar.
const BAR: usize = 30;
/// Columns of a line's first part, so that what follows is aligned.
const LABEL: usize = 48;

/// Where lines go.
#[derive(Debug)]
pub(super) struct Screen {
    silent: bool,
    terminal: bool,
    colour: bool,
    /// Whether the last line is one to be rewritten.
    open: Cell<bool>,
}

/// How a piece of text looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    Bold,
    Dim,
    Good,
    Bad,
    Red,
    Blue,
}

/// Writes a line to standard output. A reader that has gone away does not stop the work.
pub(super) fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// Says something on standard error.
pub(super) fn warn(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// A wrong command line.
pub(super) fn usage(message: String) -> anyhow::Error {
    failure("usage", message, "")
}

/// An error with a code and a hint of the command line's.
pub(super) fn failure(code: &'static str, message: String, hint: &str) -> anyhow::Error {
    Error::new(code, message).hint(hint).into()
}

impl Screen {
    /// Standard output, unless it is wanted for JSON.
    pub(super) fn new(silent: bool) -> Self {
        let terminal = !silent && std::io::stdout().is_terminal();
        let colour = terminal
            && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        Self { silent, terminal, colour, open: Cell::new(false) }
    }

    /// A line.
    pub(super) fn line(&self, text: &str) {
        if !self.silent {
            self.close();
            line(text);
        }
    }

    /// The head of a chapter.
    pub(super) fn chapter(&self, title: &str, about: &str) {
        self.line("");
        self.line(&format!(" {}  {}", self.paint(Style::Bold, title), self.paint(Style::Dim, about)));
    }

    /// A line that is about to be rewritten; nothing where lines cannot be.
    pub(super) fn live(&self, text: &str) {
        if self.terminal {
            let mut out = std::io::stdout().lock();
            // A terminal that has gone away does not stop the work.
            let _ = write!(out, "\r\x1b[2K{text}").and_then(|()| out.flush());
            self.open.set(true);
        }
    }

    /// Forgets the line that was being rewritten.
    fn close(&self) {
        if self.open.replace(false) {
            let mut out = std::io::stdout().lock();
            let _ = write!(out, "\r\x1b[2K").and_then(|()| out.flush());
        }
    }

    /// Whether lines can be rewritten.
    pub(super) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Text in a style, where there are colours.
    pub(super) fn paint(&self, style: Style, text: &str) -> String {
        let code = match style {
            Style::Bold => "1",
            Style::Dim => "2",
            Style::Good => "32",
            Style::Bad => "1;31",
            Style::Red => "31",
            Style::Blue => "34",
        };
        if self.colour && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// A tick or a cross.
    pub(super) fn mark(&self, good: bool) -> String {
        if good { self.paint(Style::Good, "✓") } else { self.paint(Style::Bad, "✗") }
    }

    /// A mark, what it is about, and the rest in its column.
    pub(super) fn row(&self, good: bool, label: &str, rest: &str) -> String {
        self.row_with(&self.mark(good), label, rest)
    }

    /// The same while it is not yet known how it ends.
    pub(super) fn open_row(&self, label: &str, rest: &str) -> String {
        self.row_with(&self.paint(Style::Blue, "•"), label, rest)
    }

    fn row_with(&self, mark: &str, label: &str, rest: &str) -> String {
        format!("  {mark} {label:<LABEL$} {rest}")
    }

    /// Who answered: a bar, and shares in percent.
    pub(super) fn split(&self, split: &BTreeMap<String, u64>) -> String {
        let all: u64 = split.values().sum();
        if all == 0 {
            return " ".repeat(BAR);
        }
        let mut bar = String::new();
        let mut shares = Vec::new();
        let (mut seen, mut drawn) = (0, 0);
        for (version, count) in split {
            seen += count;
            let end = usize::try_from(seen * BAR as u64 / all).unwrap_or(BAR);
            let (style, cell) = match version.as_str() {
                "v1" => (Style::Dim, "░"),
                "v2" => (Style::Bold, "▓"),
                _ => (Style::Red, "█"),
            };
            bar.push_str(&self.paint(style, &cell.repeat(end - drawn)));
            drawn = end;
            shares.push(format!("{version} {:>3} %", (count * 100 + all / 2) / all));
        }
        format!("{bar} {:<23}", shares.join("  "))
    }

    /// How many failed, loud if any did.
    pub(super) fn failed(&self, failed: u64) -> String {
        let text = format!("{failed} failed");
        if failed == 0 { self.paint(Style::Good, &text) } else { self.paint(Style::Bad, &text) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_fills_its_bar() {
        let screen = Screen { silent: true, terminal: false, colour: false, open: Cell::new(false) };
        let split = BTreeMap::from([("v1".to_owned(), 50), ("v3".to_owned(), 50)]);
        let text = screen.split(&split);
        assert_eq!(text.chars().filter(|c| *c == '░').count(), 15);
        assert_eq!(text.chars().filter(|c| *c == '█').count(), 15);
        assert!(text.contains("v1  50 %  v3  50 %"), "{text}");
        assert!(screen.split(&BTreeMap::new()).trim().is_empty());
    }
}
