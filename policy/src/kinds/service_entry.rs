//! `ServiceEntry`: services outside the registry, and the static registry.

use crate::{decode::At, parse::Metadata};

/// `ServiceEntry`.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceEntry {}

impl ServiceEntry {
    pub(crate) fn decode(spec: &At<'_>, _metadata: &Metadata) -> Option<Self> {
        let fields = spec.fields()?;
        fields.finish();
        Some(Self {})
    }
}
