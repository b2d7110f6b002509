//! Why a changeset is not kept.

use crate::changeset::ChangesetId;

/// Stable word for a refusal; what `error.code` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the word says it; each refusal bears a message")]
pub enum Code {
    Malformed,
    WrongBodies,
    BadSignature,
    WrongTrustDomain,
    RoleMissing,
    ThresholdMissing,
    RoleSetUnknown,
    RoleSetInvalid,
    InvalidDocument,
    InvalidReference,
    StaleParent,
    ClockSkew,
    ConfirmTooLate,
    QuotaExceeded,
    NotFound,
    NotSupported,
    NotInitialised,
    MissingReference,
}

impl Code {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::WrongBodies => "wrong_bodies",
            Self::BadSignature => "bad_signature",
            Self::WrongTrustDomain => "wrong_trust_domain",
            Self::RoleMissing => "role_missing",
            Self::ThresholdMissing => "threshold_missing",
            Self::RoleSetUnknown => "role_set_unknown",
            Self::RoleSetInvalid => "role_set_invalid",
            Self::InvalidDocument => "invalid_document",
            Self::InvalidReference => "invalid_reference",
            Self::StaleParent => "stale_parent",
            Self::ClockSkew => "clock_skew",
            Self::ConfirmTooLate => "confirm_too_late",
            Self::QuotaExceeded => "quota_exceeded",
            Self::NotFound => "not_found",
            Self::NotSupported => "not_supported",
            Self::NotInitialised => "not_initialised",
            Self::MissingReference => "missing_reference",
        }
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a changeset is not kept. The history did not change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It refers to changesets that are not here: fetch these first, then offer it again.
    #[error("it refers to {} changesets that are not here", .0.len())]
    Missing(Vec<ChangesetId>),
    /// It breaks a rule.
    #[error("{message}")]
    Because {
        /// Which.
        code: Code,
        /// What is wrong.
        message: String,
        /// What to do about it; may be empty.
        hint: String,
    },
}

impl Refused {
    /// The stable word.
    pub fn code(&self) -> Code {
        match self {
            Self::Missing(_) => Code::MissingReference,
            Self::Because { code, .. } => *code,
        }
    }

    /// What to do about it; may be empty.
    pub fn hint(&self) -> &str {
        match self {
            Self::Missing(_) => "",
            Self::Because { hint, .. } => hint,
        }
    }

    /// True if the same bytes may be kept later, when others arrived.
    pub fn may_pass_later(&self) -> bool {
        matches!(
            self.code(),
            Code::MissingReference | Code::RoleSetUnknown | Code::NotInitialised | Code::QuotaExceeded
        )
    }

    /// True if every copy of the same changeset is refused whatever arrives, a new RoleSet apart. An id does not cover signatures
    /// and bodies: whoever spoils them must not spoil the changeset.
    pub fn is_final(&self) -> bool {
        !self.may_pass_later() && !matches!(self.code(), Code::BadSignature | Code::WrongBodies)
    }

    pub(crate) fn because(code: Code, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Because { code, message: message.into(), hint: hint.into() }
    }
}
