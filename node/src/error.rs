//! What went wrong, in the one form that agent, admin interface and command line share.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// What went wrong and what to do: `{code, message, hint}`, on the wire as `{error: {..}}`.
/// Codes are stable words of lower case letters and `_`; scripts may rely on them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// One of [`CODES`], or a code of a newer node.
    pub code: Cow<'static, str>,
    /// What happened and where.
    pub message: String,
    /// What to do about it; may be empty.
    #[serde(default)]
    pub hint: String,
}

/// The body of an answer that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Body {
    /// What went wrong.
    pub error: Error,
}

/// How a process ends; also what HTTP status an error has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Unreachable, full disk, address in use, key permissions, not found.
    Failed,
    /// Usage, configuration, invalid document, not joined.
    Usage,
    /// Warnings under `--strict`.
    Warnings,
    /// Not converged in time.
    NotConverged,
    /// Signature, role, stale parent, token, trust domain.
    Refused,
    /// Another process runs as this node: who supervises this one does not start it again.
    Clone,
}

impl Class {
    /// The exit code of the process.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Warnings => 3,
            Self::NotConverged => 4,
            Self::Refused => 5,
            Self::Clone => 6,
        }
    }
}

/// Every code with its class and the HTTP status by which a node answers it.
pub const CODES: &[(&str, Class, u16)] = &[
    ("address_in_use", Class::Failed, 500),
    ("audit_broken", Class::Failed, 500),
    ("clone", Class::Clone, 500),
    ("failed", Class::Failed, 500),
    ("key_permissions", Class::Failed, 500),
    ("missing_reference", Class::Failed, 424),
    ("not_found", Class::Failed, 404),
    ("state_in_use", Class::Failed, 500),
    ("storage_full", Class::Failed, 507),
    ("storage_failed", Class::Failed, 500),
    ("too_large", Class::Failed, 413),
    ("too_many_requests", Class::Failed, 429),
    ("unreachable", Class::Failed, 502),
    ("ambiguous", Class::Usage, 400),
    ("bad_config", Class::Usage, 400),
    ("bad_secret", Class::Usage, 400),
    ("bad_request", Class::Usage, 400),
    ("invalid_document", Class::Usage, 422),
    ("not_initialised", Class::Usage, 503),
    ("not_joined", Class::Usage, 503),
    ("not_supported", Class::Usage, 422),
    ("no_operator", Class::Usage, 403),
    ("no_passphrase", Class::Usage, 403),
    ("no_root", Class::Usage, 403),
    ("usage", Class::Usage, 400),
    // What `check` finds: it is said, and ends with 3 under `--strict`.
    ("certificate_half", Class::Warnings, 400),
    ("few_enrollers", Class::Warnings, 400),
    ("one_operator", Class::Warnings, 400),
    ("root_change", Class::Warnings, 400),
    ("root_key_on_node", Class::Warnings, 400),
    ("warnings", Class::Warnings, 400),
    ("not_acknowledged", Class::NotConverged, 409),
    ("not_converged", Class::NotConverged, 504),
    ("already_exists", Class::Refused, 409),
    ("bad_signature", Class::Refused, 403),
    ("clock_skew", Class::Refused, 403),
    ("confirm_too_late", Class::Refused, 403),
    ("forbidden", Class::Refused, 403),
    ("invalid_reference", Class::Refused, 403),
    ("malformed", Class::Refused, 400),
    ("mesh_full", Class::Refused, 409),
    ("not_an_enroller", Class::Refused, 403),
    ("enroller_needed", Class::Refused, 409),
    ("root_needed", Class::Refused, 409),
    ("not_granted", Class::Refused, 403),
    ("out_of_turn", Class::Refused, 409),
    ("quota_exceeded", Class::Refused, 403),
    ("refused", Class::Refused, 403),
    ("role_missing", Class::Refused, 403),
    ("role_set_invalid", Class::Refused, 403),
    ("role_set_unknown", Class::Refused, 403),
    ("stale_parent", Class::Refused, 409),
    ("threshold_missing", Class::Refused, 403),
    ("token_expired", Class::Refused, 403),
    ("token_invalid", Class::Refused, 403),
    ("token_spent", Class::Refused, 403),
    ("unverified_node", Class::Refused, 403),
    ("wrong_enroller", Class::Refused, 403),
    ("wrong_trust_domain", Class::Refused, 403),
];

impl Error {
    /// An error with a code of [`CODES`] and no hint yet.
    pub fn new(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), hint: String::new() }
    }

    /// The same with what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// How a process ends that met it.
    pub fn class(&self) -> Class {
        self.row().map_or(Class::Failed, |row| row.1)
    }

    /// The HTTP status by which a node answers it.
    pub fn status(&self) -> http::StatusCode {
        self.row()
            .and_then(|row| http::StatusCode::from_u16(row.2).ok())
            .unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn row(&self) -> Option<&'static (&'static str, Class, u16)> {
        CODES.iter().find(|row| row.0 == self.code)
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_have_a_valid_status() {
        for (index, row) in CODES.iter().enumerate() {
            assert!(!CODES[..index].iter().any(|other| other.0 == row.0), "{} twice", row.0);
            assert!(http::StatusCode::from_u16(row.2).is_ok());
        }
    }

    #[test]
    fn exit_codes_are_those_of_the_contract() {
        let exit = |code: &'static str| Error::new(code, "").class().exit_code();
        assert_eq!(exit("unreachable"), 1);
        assert_eq!(exit("not_joined"), 2);
        assert_eq!(exit("warnings"), 3);
        assert_eq!(exit("not_converged"), 4);
        assert_eq!(exit("stale_parent"), 5);
        assert_eq!(exit("clone"), 6);
        assert_eq!(exit("a_code_of_the_future"), 1);
    }

    #[test]
    fn the_shipped_unit_starts_nobody_again_for_whom_waiting_does_not_help() {
        let unit = include_str!("../deploy/systemd/skein.service");
        let line = unit.lines().find_map(|line| line.strip_prefix("RestartPreventExitStatus=")).unwrap();
        let stays: Vec<u8> = line.split(' ').map(|code| code.parse().unwrap()).collect();
        assert_eq!(stays, ["bad_config", "clone"].map(|code| Error::new(code, "").class().exit_code()));
    }

    #[test]
    fn the_body_reads_as_documented() {
        let body = Body { error: Error::new("not_found", "no such node").hint("see `skein members`") };
        assert_eq!(
            serde_json::to_string(&body).unwrap(),
            r#"{"error":{"code":"not_found","message":"no such node","hint":"see `skein members`"}}"#
        );
    }
}
