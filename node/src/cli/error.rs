//! How the command line fails: on standard error, with a code and what to do, and with the contract's exit code.

use std::io::Write;

use crate::cli::output::{Format, plain};
pub use crate::error::{Body, Class, Error};

/// What a command gives.
pub type Result<T> = std::result::Result<T, Error>;

/// A wrong command line: what and how to write it.
pub fn usage(message: impl Into<String>, hint: impl Into<String>) -> Error {
    Error::new("usage", message).hint(hint)
}

/// An input or output error on something that has a name.
pub fn io(what: &str, path: &std::path::Path, error: &std::io::Error) -> Error {
    const HINTS: &[(std::io::ErrorKind, &str, &str)] = &[
        (std::io::ErrorKind::PermissionDenied, "failed", "run it as the user who owns the file, or with sudo"),
        (std::io::ErrorKind::NotFound, "failed", "check the path"),
        (std::io::ErrorKind::StorageFull, "storage_full", "make room on the disk"),
    ];
    let known = HINTS.iter().find(|row| row.0 == error.kind());
    let (code, hint) = known.map_or(("failed", ""), |row| (row.1, row.2));
    Error::new(code, format!("cannot {what} {}: {error}", path.display())).hint(hint)
}

/// Writes the error as people or programs read it.
pub fn report(error: &Error, format: Format) {
    let text = match format {
        Format::Json | Format::Yaml => {
            let body = Body { error: error.clone() };
            serde_json::to_string(&body).unwrap_or_default()
        }
        Format::Table => {
            let mut text = format!("error: {} [{}]", plain(&error.message), error.code);
            if !error.hint.is_empty() {
                text.push_str(&format!("\n hint: {}", plain(&error.hint)));
            }
            text
        }
    };
    // Nothing can be said if standard error is closed.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}
