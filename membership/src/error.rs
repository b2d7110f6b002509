//! Why a record or a message was not taken.

use certs::id::NodeId;

use crate::record::Section;

/// Why bytes are not a record that may be believed, or a body not one that may be published. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The bytes are no record, message or body of a known version.
    #[error("malformed: {0}")]
    Malformed(String),
    /// More bytes than a record may have.
    #[error("{what} takes {size} bytes, more than the {limit} that fit")]
    TooLarge {
        /// What is too large.
        what: String,
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// More parts than a section may be split into.
    #[error("{what} needs {parts} records of a node, {limit} are allowed: register fewer services or shorter labels")]
    TooMany {
        /// What has too many parts.
        what: &'static str,
        /// How many it would take.
        parts: usize,
        /// The limit.
        limit: usize,
    },
    /// A field breaks its rule.
    #[error("{field}: {rule}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// The rule.
        rule: &'static str,
    },
    /// The record was signed for another mesh.
    #[error("record of another trust domain")]
    TrustDomain,
    /// The signature does not hold under the node's record key.
    #[error("signature of {node}'s section {section} does not hold")]
    Signature {
        /// The node that it claims to speak of.
        node: NodeId,
        /// The section.
        section: Section,
    },
    /// The certificate chain of an identity does not hold.
    #[error("identity of {node}: {why}")]
    Identity {
        /// The node that it claims to speak of.
        node: NodeId,
        /// What the verifier says.
        why: String,
    },
    /// The key signed two records under one number.
    #[error("{0} contradicted itself and is quarantined until it is invited anew")]
    Quarantined(NodeId),
    /// The generation lies further ahead than any honest node's.
    #[error("generation of {0} lies in the future")]
    Generation(NodeId),
}
