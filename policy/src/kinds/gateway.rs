//! `Gateway`: listeners of nodes at the edge.

use crate::{decode::At, parse::Metadata};

/// `Gateway`.
#[derive(Debug, Clone, PartialEq)]
pub struct Gateway {}

impl Gateway {
    pub(crate) fn decode(spec: &At<'_>, _metadata: &Metadata) -> Option<Self> {
        let fields = spec.fields()?;
        fields.finish();
        Some(Self {})
    }
}
