//! Answers about what happened.

use certs::id::NodeId;
use serde::{Deserialize, Serialize};

/// One of `GET /v1/events`, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, RFC 3339, by the clock of the first node that noted it.
    pub time: String,
    /// A stable word: `member_dead`, `policy_applied`, `endpoint_ejected`, ...
    pub kind: String,
    /// Whom or what it concerns: a node, an endpoint, a changeset.
    pub subject: String,
    /// For people.
    pub message: String,
    /// Nodes that noted it within a few seconds.
    pub seen_by: Vec<NodeId>,
    /// Who keeps the notes of those of them that do not answer; empty if all did. It is their word.
    #[serde(default)]
    pub kept_by: Vec<NodeId>,
}
