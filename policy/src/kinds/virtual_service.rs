//! `VirtualService`: routes that a caller's proxy uses for a host.

use std::collections::BTreeSet;

use super::HttpRoute;

/// `VirtualService`, with host names expanded.
#[derive(Debug, Clone, PartialEq)]
pub struct VirtualService {
    /// Expanded, lower case; a wildcard only as prefix.
    pub hosts: Vec<String>,
    /// In order; the first match wins.
    pub http: Vec<HttpRoute>,
    /// Which callers see it.
    pub export_to: ExportTo,
}

/// `exportTo`, with `.` resolved to the document's own namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ExportTo {
    /// Absent or `*`.
    #[default]
    All,
    /// Callers in these namespaces.
    Namespaces(BTreeSet<String>),
}

impl ExportTo {
    /// True if a caller in `namespace` sees the document.
    pub fn includes(&self, namespace: &str) -> bool {
        match self {
            Self::All => true,
            Self::Namespaces(namespaces) => namespaces.contains(namespace),
        }
    }
}
