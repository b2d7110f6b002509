//! `WorkloadEntry`: one endpoint that no node registers.

use crate::decode::At;

/// `WorkloadEntry`.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkloadEntry {}

impl WorkloadEntry {
    pub(crate) fn decode(spec: &At<'_>) -> Option<Self> {
        let fields = spec.fields()?;
        fields.finish();
        Some(Self {})
    }
}
