//! `RateLimit`: how many requests a workload takes.

use crate::{decode::At, parse::Metadata};

/// `RateLimit`.
#[derive(Debug, Clone, PartialEq)]
pub struct RateLimit {}

impl RateLimit {
    pub(crate) fn decode(spec: &At<'_>, _metadata: &Metadata) -> Option<Self> {
        let fields = spec.fields()?;
        fields.finish();
        Some(Self {})
    }
}
