//! `Sidecar`: what a caller may see, and how its own ports are reached.

use crate::{decode::At, parse::Metadata};

/// `Sidecar`.
#[derive(Debug, Clone, PartialEq)]
pub struct Sidecar {}

impl Sidecar {
    pub(crate) fn decode(spec: &At<'_>, _metadata: &Metadata) -> Option<Self> {
        let fields = spec.fields()?;
        fields.finish();
        Some(Self {})
    }
}
