//! `WorkloadGroup`: what endpoints of a kind have in common.

use crate::decode::At;

/// `WorkloadGroup`.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkloadGroup {}

impl WorkloadGroup {
    pub(crate) fn decode(spec: &At<'_>) -> Option<Self> {
        let fields = spec.fields()?;
        fields.finish();
        Some(Self {})
    }
}
