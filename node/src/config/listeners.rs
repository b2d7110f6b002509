//! Where somebody listens, and what says so, so that what cannot be opened is named by table and line.

use std::{fmt, net::SocketAddr, ops::Range, path::PathBuf};

use super::error::{ConfigError, Source};

/// Where a file says something, or would if it did not leave it to its default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// Line, from 1; 0 for a default.
    pub line: usize,
    /// Column in characters, from 1; 0 for a default.
    pub column: usize,
    /// The table and key.
    pub key: String,
}

impl Place {
    pub(super) fn of(source: Source<'_>, span: Range<usize>, key: &str) -> Self {
        let (line, column) = source.position(span.start);
        Self { file: source.file.to_path_buf(), line, column, key: key.to_owned() }
    }

    /// Of what the file does not say where it could.
    pub(super) fn default_of(source: Source<'_>, key: &str) -> Self {
        Self { file: source.file.to_path_buf(), line: 0, column: 0, key: key.to_owned() }
    }

    fn is_default(&self) -> bool {
        self.line == 0
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (file, key) = (self.file.display(), &self.key);
        if self.is_default() {
            return write!(f, "{file}: {key} (its default)");
        }
        write!(f, "{file}:{}:{}: {key}", self.line, self.column)
    }
}

/// Every address of the configuration to listen at, defaults among them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listeners(Vec<(SocketAddr, Place)>);

impl Listeners {
    /// Takes an address for a listener; those with a port of 0 may be had by many.
    ///
    /// # Errors
    /// It is another one's.
    pub(super) fn take(&mut self, at: SocketAddr, place: Place) -> Result<(), ConfigError> {
        if let Some(first) = self.place(at).filter(|_| at.port() > 0) {
            return Err(claimed(at, first, &place));
        }
        self.0.push((at, place));
        Ok(())
    }

    /// What says that somebody listens there.
    #[must_use]
    pub fn place(&self, at: SocketAddr) -> Option<&Place> {
        self.0.iter().find(|(known, _)| *known == at).map(|(_, place)| place)
    }

    /// Another listener of the same port whose address takes in this one, or is taken in by it.
    #[must_use]
    pub fn rival(&self, at: SocketAddr) -> Option<(SocketAddr, &Place)> {
        let overlaps = |other: &SocketAddr| {
            *other != at && other.port() == at.port() && (other.ip().is_unspecified() || at.ip().is_unspecified())
        };
        self.0.iter().find(|(other, _)| at.port() > 0 && overlaps(other)).map(|(other, place)| (*other, place))
    }

    /// What listens there, for people: its place, or the keys that may say it.
    #[must_use]
    pub fn named(&self, at: SocketAddr, keys: &str) -> String {
        self.place(at).map_or_else(|| keys.to_owned(), ToString::to_string)
    }
}

/// One address is two listeners'. The complaint points at what the file says: a default cannot be corrected where it stands.
fn claimed(at: SocketAddr, first: &Place, second: &Place) -> ConfigError {
    let (refused, other) = if second.is_default() { (first, second) } else { (second, first) };
    let by = if other.is_default() {
        format!("{} (its default)", other.key)
    } else if other.file == refused.file {
        format!("{} (line {})", other.key, other.line)
    } else {
        other.to_string()
    };
    ConfigError {
        file: refused.file.clone(),
        line: refused.line,
        column: refused.column,
        message: format!("{at} is taken by {by}"),
        hint: "every listener needs an address of its own".to_owned(),
    }
}
