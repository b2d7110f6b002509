//! What the files say where somebody listens, so that what cannot be opened is named by table and line.

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    ops::Range,
    path::{Path, PathBuf},
};

use super::error::{ConfigError, Source};

/// Where a file says something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The table and key.
    pub key: String,
}

impl Place {
    pub(super) fn of(source: Source<'_>, span: Range<usize>, key: &str) -> Self {
        let (line, column) = source.position(span.start);
        Self { file: source.file.to_path_buf(), line, column, key: key.to_owned() }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file.display(), self.line, self.column, self.key)
    }
}

/// Every address that the files name to listen at; those with a port of 0 are nobody's yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listeners(BTreeMap<SocketAddr, Place>);

impl Listeners {
    /// Takes an address for a listener.
    ///
    /// # Errors
    /// It is another one's.
    pub(super) fn take(
        &mut self,
        source: Source<'_>,
        span: Range<usize>,
        at: SocketAddr,
        key: &str,
    ) -> Result<(), ConfigError> {
        if at.port() == 0 {
            return Ok(());
        }
        match self.0.insert(at, Place::of(source, span.clone(), key)) {
            None => Ok(()),
            Some(first) => {
                let message = format!("{at} is taken by {} (line {})", first.key, first.line);
                Err(source.at(span, message, "every listener needs an address of its own"))
            }
        }
    }

    /// Where the files name an address; none if it is a default.
    #[must_use]
    pub fn place(&self, at: SocketAddr) -> Option<&Place> {
        self.0.get(&at)
    }

    /// Another listener of the same port whose address takes in this one, or is taken in by it.
    #[must_use]
    pub fn rival(&self, at: SocketAddr) -> Option<(SocketAddr, &Place)> {
        let overlaps = |other: &SocketAddr| {
            *other != at && other.port() == at.port() && (other.ip().is_unspecified() || at.ip().is_unspecified())
        };
        self.0.iter().find(|(other, _)| overlaps(other)).map(|(other, place)| (*other, place))
    }

    /// What listens there, for people: the place in the files, or the key where it is a default of `file`.
    #[must_use]
    pub fn named(&self, at: SocketAddr, file: &Path, key: &str) -> String {
        self.place(at).map_or_else(|| format!("{}: {key} (its default)", file.display()), ToString::to_string)
    }
}
