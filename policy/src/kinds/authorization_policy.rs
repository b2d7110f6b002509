//! `AuthorizationPolicy`: who may do what at a workload.

use crate::{decode::At, parse::Metadata};

/// `AuthorizationPolicy`.
#[derive(Debug, Clone, PartialEq)]
pub struct AuthorizationPolicy {}

impl AuthorizationPolicy {
    pub(crate) fn decode(spec: &At<'_>, _metadata: &Metadata) -> Option<Self> {
        let fields = spec.fields()?;
        fields.finish();
        Some(Self {})
    }
}
