//! What is wrong with a configuration, and where.

use std::path::{Path, PathBuf};

/// A configuration that was refused: nothing of it is in use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// The file.
    pub file: PathBuf,
    /// Line, from 1; 0 if the complaint is about the whole file.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: String,
}

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        write!(f, ": {}", self.message)
    }
}

/// A file's text with what is needed to point into it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) file: &'a Path,
    pub(super) text: &'a str,
}

impl Source<'_> {
    /// A complaint about the bytes at `span`.
    pub(super) fn at(
        self,
        span: std::ops::Range<usize>,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> ConfigError {
        let (line, column) = self.position(span.start);
        ConfigError { file: self.file.to_path_buf(), line, column, message: message.into(), hint: hint.into() }
    }

    /// Line and column of a byte, from 1.
    pub(super) fn position(self, byte: usize) -> (usize, usize) {
        let before = &self.text[..self.text.floor_char_boundary(byte)];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }

    /// A complaint about the file as such.
    pub(super) fn whole(self, message: impl Into<String>, hint: impl Into<String>) -> ConfigError {
        whole(self.file, message, hint)
    }
}

/// A complaint about `file` as such.
pub(super) fn whole(file: &Path, message: impl Into<String>, hint: impl Into<String>) -> ConfigError {
    ConfigError { file: file.to_path_buf(), line: 0, column: 0, message: message.into(), hint: hint.into() }
}
