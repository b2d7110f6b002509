//! `RequestAuthentication`: whose tokens a workload believes.

use crate::{decode::At, parse::Metadata};

/// `RequestAuthentication`.
#[derive(Debug, Clone, PartialEq)]
pub struct RequestAuthentication {}

impl RequestAuthentication {
    pub(crate) fn decode(spec: &At<'_>, _metadata: &Metadata) -> Option<Self> {
        let fields = spec.fields()?;
        fields.finish();
        Some(Self {})
    }
}
