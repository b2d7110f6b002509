//! The agent's refusals: the one form that the admin interface shows, made in one line.

pub use super::admin::error::Error;

/// A refusal or failure with one of the stable codes; nothing is half done when it is given.
pub fn fail(code: &'static str, message: impl Into<String>, hint: impl Into<String>) -> Error {
    Error::new(code, message).hint(hint)
}

/// Something that only a defect of this program can cause.
pub fn internal(message: impl std::fmt::Display) -> Error {
    fail("failed", message.to_string(), "this is a defect; please report it with the node's log")
}

impl From<crate::config::ConfigError> for Error {
    fn from(e: crate::config::ConfigError) -> Self {
        fail("bad_config", e.to_string(), e.hint)
    }
}
